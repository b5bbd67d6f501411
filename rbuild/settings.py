"""The settings of a run: what there is, where each value came from, and which source wins.

Named tuples, not data classes: making one costs a fifth, and every run makes these.

Order: flag > environment > `x-rbuild` in the compose file > `defaults` in rbuild.yml >
RBUILD_DEFAULT_* in the environment > built-in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from rbuild.errors import UsageError

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_LONGEST = 100 * 365 * 86400
_WORDS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off", ""), False),
}


class BadValue(ValueError):
    """A value that a setting does not take; the text says what it takes."""


def duration(text: str) -> int:
    """Seconds of `86400`, `90s`, `30m`, `12h`, `7d` or `1w`. Raises BadValue."""
    match = re.fullmatch(r"([0-9]{1,9})([smhdw]?)", text.strip())
    if not match:
        raise BadValue(f"{text!r} is no duration: give seconds, or a number with s, m, h, d or w")
    seconds = int(match[1]) * _UNITS[match[2]]
    if seconds > _LONGEST:
        raise BadValue(f"{text!r} is longer than a hundred years")
    return seconds


def count(text: str) -> int:
    """A whole number from 0 to 9999. Raises BadValue."""
    if not re.fullmatch(r"[0-9]{1,4}", text.strip()):
        raise BadValue(f"{text!r} is no whole number from 0 to 9999")
    return int(text)


def switch(text: str) -> bool:
    """A yes or no, in the words that YAML and shells use. Raises BadValue."""
    try:
        return _WORDS[text.strip().lower()]
    except KeyError:
        raise BadValue(f"{text!r} is neither true nor false") from None


CHECKS = ("base", "image", "git", "context")
"""What a run may compare with what a project was built from, beside its files."""
EXTENTS = ("all", "moved")


def checks(text: str) -> tuple[str, ...]:
    """Kinds of checks, in the order of CHECKS: `base,git`, or `none`, or `all`. Raises BadValue."""
    words = [word.strip() for word in text.split(",")]
    if words == ["none"]:
        return ()
    if "all" in words:
        return CHECKS
    for word in words:
        if word not in CHECKS:
            raise BadValue(f"{word!r} is no check: give some of {', '.join(CHECKS)}, all or none")
    return tuple(one for one in CHECKS if one in words)


def extent(text: str) -> str:
    """How much of a project is updated where only something it rests on has moved."""
    if text.strip() not in EXTENTS:
        raise BadValue(f"{text!r} is neither {' nor '.join(EXTENTS)}")
    return text.strip()


class Option(NamedTuple):
    """One setting of a project: its name as a flag and key, its kind, default and help."""

    name: str
    parse: Any
    default: int | bool | str | tuple[str, ...]
    help: str
    environment: tuple[str, ...]
    shown_default: str = ""

    @property
    def field(self) -> str:
        """The name as an identifier."""
        return self.name.replace("-", "_")


OPTIONS = (
    Option(
        "build-period",
        duration,
        86400,
        "Update a project when its last update is this old.",
        ("RBUILD_BUILD_PERIOD", "BUILD_PERIOD", "BUILD_TTL"),
        "86400 s = 1 day",
    ),
    Option(
        "up-timeout-period",
        duration,
        60,
        "Time for services to come up and be healthy.",
        ("RBUILD_UP_TIMEOUT_PERIOD", "UP_TIMEOUT_PERIOD"),
        "60 s, longer where healthchecks need it",
    ),
    Option(
        "settle-period",
        duration,
        5,
        "A service must run this long without a restart.",
        ("RBUILD_SETTLE_PERIOD",),
        "5 s",
    ),
    Option(
        "monitor-period",
        duration,
        0,
        "Watch services this long after they are healthy.",
        ("RBUILD_MONITOR_PERIOD",),
        "0 s = off",
    ),
    Option(
        "build-timeout",
        duration,
        3600,
        "Time limit of one build or pull.",
        ("RBUILD_BUILD_TIMEOUT",),
        "1 h",
    ),
    Option(
        "hook-timeout",
        duration,
        600,
        "Time limit of one hook.",
        ("RBUILD_HOOK_TIMEOUT",),
        "10 min",
    ),
    Option(
        "keep-images",
        count,
        1,
        "Earlier generations of a project's images to keep.",
        ("RBUILD_KEEP_IMAGES",),
        "1",
    ),
    Option(
        "prune-image-cache",
        switch,
        False,
        "Prune the build cache after a successful update.",
        ("RBUILD_PRUNE_IMAGE_CACHE",),
        "off",
    ),
    Option(
        "check",
        checks,
        (),
        "Update a project as well when one of these moves: base, image, git, context.",
        ("RBUILD_CHECK",),
        "none",
    ),
    Option(
        "check-period",
        duration,
        0,
        "Ask registries and git remotes this often.",
        ("RBUILD_CHECK_PERIOD",),
        "0 s = at each run",
    ),
    Option(
        "min-age",
        duration,
        0,
        "Take a new image only when a registry has had it this long.",
        ("RBUILD_MIN_AGE",),
        "0 s = at once",
    ),
    Option(
        "update",
        extent,
        "all",
        "Where only bases or images moved: update all services, or those concerned.",
        ("RBUILD_UPDATE",),
        "all",
    ),
)
BY_NAME = {option.name: option for option in OPTIONS}
HOOKS = ("before-update", "after-update", "on-failure")
GIT_KEYS = ("branch", "remote", "pull")
LOGIN_KEYS = ("username", "password-file")
# What stands in files alone: among the given values, what a mapping holds goes by names with a
# dot, as `hooks.NAME`, `git.branch`, `registry-auth.HOST`.
_HOOK_KEYS = {name: f"hooks.{name}" for name in HOOKS}
LISTS = ("watch", "ignore")
SWITCHES = ("up", "push")
MAPPINGS = ("hooks", "git", "registry-auth")
FILE_KEYS = (*BY_NAME, *LISTS, *SWITCHES, *MAPPINGS)
# Options of a run, not of a project: a person who looks for them in a file is told so.
RUN_OPTIONS = ("force-rebuild", "remove-images", "all", "jobs", "lock-wait", "to", "dry-run",
               "json", "verbose", "quiet", "config", "state-dir")  # fmt: skip


class Given(NamedTuple):
    """A value somebody gave, and where: `flag`, `BUILD_TTL`, `/srv/site/compose.yml:3` …"""

    value: int | bool | str | tuple[str, ...]
    """A hook's is its command, ready to be run; a login's its user name and password file."""
    origin: str


class Settings(NamedTuple):
    """The settings that hold for one project. Periods are in seconds."""

    build_period: int
    up_timeout_period: int
    settle_period: int
    monitor_period: int
    build_timeout: int
    hook_timeout: int
    keep_images: int
    prune_image_cache: bool
    check: tuple[str, ...]
    """Of CHECKS, those that are on."""
    check_period: int
    min_age: int
    update: str
    """Of EXTENTS."""
    watch: tuple[str, ...]
    """Images whose move means a rebuild, though no build rests on them; qualified."""
    ignore: tuple[str, ...]
    """Images that are not asked for, as written."""
    up: bool
    """False for a project whose images are only built."""
    push: bool
    git: Mapping[str, str]
    """Of GIT_KEYS, those that are set."""
    logins: Mapping[str, tuple[str, str]]
    """Registry → user name, and the path of the file that holds the password."""
    origins: Mapping[str, str]
    """Where each came from, by option name."""
    hooks: Mapping[str, Given]
    """The hooks that are set, by name, each with the place that set it."""
    from_files: Mapping[str, Given]
    """All that stands in files alone, by name as among the given values, where it is set."""

    @property
    def up_timeout_is_given(self) -> bool:
        """Whether somebody set the time limit of up, so that it must not be stretched."""
        return self.origins["up-timeout-period"] != "built-in"


def resolve(*sources: Mapping[str, Given]) -> Settings:
    """The winning value of each setting; the sources are in order of precedence."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for option in OPTIONS:
        name = option.name
        values[option.field], origins[name] = option.default, "built-in"
        for source in sources:
            given = source.get(name)
            if given is not None:
                values[option.field], origins[name] = given.value, given.origin
                break
    rest: dict[str, Given] = {}
    for source in reversed(sources):
        # Of what stands in files alone; what a mapping holds is taken entry by entry.
        rest.update((key, given) for key, given in source.items() if key not in BY_NAME)
    return Settings(
        **values,
        watch=_of(rest, "watch", ()),
        ignore=_of(rest, "ignore", ()),
        up=_of(rest, "up", True),
        push=_of(rest, "push", False),
        git={key: given.value for key, given in _below(rest, "git").items()},
        logins={key: given.value for key, given in _below(rest, "registry-auth").items()},
        origins=origins,
        hooks=_below(rest, "hooks"),
        from_files=rest,
    )


def _of(given: Mapping[str, Given], key: str, default: Any) -> Any:
    return given[key].value if key in given else default


def _below(given: Mapping[str, Given], mapping: str) -> dict[str, Any]:
    """What a mapping holds, by its own keys."""
    return {
        key.removeprefix(f"{mapping}."): one
        for key, one in given.items()
        if key.startswith(f"{mapping}.")
    }


def defaults_from_environment(environ: Mapping[str, str]) -> dict[str, Given]:
    """What a scheduler sets for projects that nobody has set it for: RBUILD_DEFAULT_BUILD_PERIOD.

    Comes last but for the built-in values: a timer's slack must not outrank `x-rbuild`.
    """
    variables = {option.name: f"RBUILD_DEFAULT_{option.field.upper()}" for option in OPTIONS}
    return _from_variables(environ, {name: (one,) for name, one in variables.items()})


def from_environment(environ: Mapping[str, str]) -> dict[str, Given]:
    """What the environment sets. Raises UsageError that names the variable."""
    return _from_variables(environ, {option.name: option.environment for option in OPTIONS})


def _from_variables(
    environ: Mapping[str, str], variables: Mapping[str, tuple[str, ...]]
) -> dict[str, Given]:
    found = {}
    for option in OPTIONS:
        for variable in variables[option.name]:
            text = environ.get(variable, "")
            if not text:
                continue
            try:
                found[option.name] = Given(option.parse(text), f"environment {variable}")
            except BadValue as error:
                raise UsageError(f"{variable} in the environment: {error}") from None
            break
    return found


def as_json(given: Mapping[str, Given]) -> dict[str, list[Any]]:
    """Given values as plain JSON, for a record or a cache."""
    return {
        name: [list(one.value) if type(one.value) is tuple else one.value, one.origin]
        for name, one in given.items()
    }


def from_json(data: Mapping[str, list[Any]]) -> dict[str, Given]:
    """The inverse of `as_json`; what this version does not know or take is dropped."""
    return {
        name: Given(tuple(pair[0]) if type(pair[0]) is list else pair[0], pair[1])
        for name, pair in data.items()
        if _is_taken(name, pair)
    }


def _is_taken(name: str, pair: Any) -> bool:
    if not isinstance(pair, list) or len(pair) != 2 or type(pair[1]) is not str:
        return False
    value = pair[0]
    if name == "check":
        return type(value) is list and all(one in CHECKS for one in value)
    if name == "update":
        return value in EXTENTS
    if name in BY_NAME:
        return type(value) in (int, bool) and 0 <= value <= _LONGEST
    if name in SWITCHES:
        return type(value) is bool
    kind, _, key = name.partition(".")
    if kind == "git":
        return key in GIT_KEYS and type(value) is str
    texts = type(value) is list and all(type(word) is str for word in value)
    if name in LISTS:
        return texts
    if kind == "registry-auth":
        return texts and len(value) == 2
    return name in _HOOK_KEYS.values() and texts and len(value) > 0
