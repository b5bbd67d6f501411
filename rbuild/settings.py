"""The settings of a run: what there is, where each value came from, and which source wins.

Named tuples, not data classes: making one costs a fifth, and every run makes these.

Order: flag > environment > `x-rbuild` in the compose file > `defaults` in rbuild.yml >
RBUILD_DEFAULT_* in the environment > built-in.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rbuild.errors import RbuildError, UsageError

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
_LISTS = ("watch", "ignore")
_SWITCHES = ("up", "push")
_MAPPINGS = ("hooks", "git", "registry-auth")
FILE_KEYS = (*BY_NAME, *_LISTS, *_SWITCHES, *_MAPPINGS)
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


def from_mapping(
    mapping: Any, where: str, lines: Mapping[str, int], error: type[RbuildError]
) -> dict[str, Given]:
    """What an `x-rbuild:` or `defaults:` mapping sets.

    `where` is the file, `lines` what `key_lines` gave. Raises `error` naming file, line and key.
    """
    if mapping is None:
        return {}
    if not isinstance(mapping, dict):
        raise error(f"{where}: expected a mapping of settings, not {mapping!r}")
    found = {}
    for key, value in mapping.items():
        place = f"{where}:{lines[key]}" if key in lines else where
        if key in _MAPPINGS:
            found.update(_mapping(key, value, place, where, lines, error))
            continue
        if key not in FILE_KEYS:
            raise unknown_key(key, place, FILE_KEYS, error)
        try:
            found[key] = Given(_value(key, value), place)
        except BadValue as bad:
            raise error(f"{place}: {key}: {bad}") from None
    return found


def _value(key: str, value: Any) -> Any:
    """What a file's plain value means. Raises BadValue."""
    if value is None:
        raise BadValue("no value is given")
    if key in _LISTS:
        return _images(value)
    if key == "check" and isinstance(value, list):
        value = ",".join(map(str, value)) or "none"
    # YAML has made numbers and booleans of what a flag takes as text.
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return switch(text) if key in _SWITCHES else BY_NAME[key].parse(text)


def _images(value: Any) -> tuple[str, ...]:
    """A list of image names."""
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list):
        raise BadValue("expected a list of images")
    for one in entries:
        if not isinstance(one, str) or not re.fullmatch(r"[\w.:/@\[\]-]+", one):
            raise BadValue(f"{_as_yaml(one)} is no image's name")
    return tuple(dict.fromkeys(entries))


def key_lines(mapping: Any, line: Callable[..., int]) -> dict[str, int]:
    """The line of each key of a mapping of settings, and of each hook as `hooks.NAME`.

    `line` gives the line of the key that a path from the mapping leads to.
    """
    if not isinstance(mapping, dict):
        return {}
    lines = {key: line(key) for key in mapping}
    for key in _MAPPINGS:
        inner = mapping.get(key)
        for name in inner if isinstance(inner, dict) else ():
            lines[f"{key}.{name}"] = line(key, name)
    return lines


def _mapping(
    kind: str,
    data: Any,
    place: str,
    where: str,
    lines: Mapping[str, int],
    error: type[RbuildError],
) -> dict[str, Given]:
    """What `hooks`, `git` or `registry-auth` hold, each entry by its own name."""
    names: tuple[str, ...] = {"hooks": HOOKS, "git": GIT_KEYS}.get(kind, ())
    takes = ", ".join(names) or f"registries, each with {' and '.join(LOGIN_KEYS)}"
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise error(
            f"{place}: {kind}: expected a mapping{' of hooks' * (kind == 'hooks')}, not {data!r}",
            hint=f"the hooks are {takes}" if kind == "hooks" else f"it takes {takes}",
        )
    found = {}
    for name, value in data.items():
        key = f"{kind}.{name}"
        here = f"{where}:{lines[key]}" if key in lines else place
        if names and name not in names:
            raise unknown_key(name, here, names, error)
        try:
            match kind:
                case "hooks":
                    found[key] = Given(command(value), here)
                case "git":
                    found[key] = Given(_git(name, value), here)
                case _:
                    found[key] = Given(_login(name, value, os.path.dirname(where)), here)
        except BadValue as bad:
            raise error(f"{here}: {key}: {bad}") from None
    return found


def _git(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value or value.startswith("-") or not value.isprintable():
        raise BadValue(f"{_as_yaml(value)} is no name")
    if name == "pull" and value != "ff-only":
        raise BadValue(f"{value!r}: only ff-only is known: a checkout is fast-forwarded, or left")
    return value


def _login(registry: Any, value: Any, folder: str) -> tuple[str, str]:
    """A registry's user name and password file; the file's path is relative to `folder`."""
    if not isinstance(registry, str) or not re.fullmatch(r"[\w.-]+(:[0-9]+)?|\[[\w:]+\](:[0-9]+)?",
                                                         registry):  # fmt: skip
        raise BadValue(f"{registry!r} is no registry: give its host, with its port if it has one")
    if not isinstance(value, dict) or set(value) != set(LOGIN_KEYS):
        raise BadValue(f"expected {' and '.join(LOGIN_KEYS)}, and nothing else")
    for key in LOGIN_KEYS:
        if not isinstance(value[key], str) or not value[key].strip():
            raise BadValue(f"{key}: {_as_yaml(value[key])} is no text")
    if registry != registry.lower() or registry == "index.docker.io":
        right = "docker.io" if registry == "index.docker.io" else registry.lower()
        raise BadValue(f"images of it are known as {right}/…: name it so")
    path = os.path.expanduser(value["password-file"])
    return value["username"], os.path.normpath(os.path.join(folder, path))


def command(value: Any) -> tuple[str, ...]:
    """What is to be run for a hook: a text is the shell's, a list a program and its arguments.

    Raises BadValue.
    """
    if isinstance(value, str):
        argv = ["/bin/sh", "-c", value]
        empty = not value.strip()
    elif isinstance(value, list):
        argv = value
        for number, word in enumerate(argv, 1):
            if not isinstance(word, str):
                raise BadValue(
                    f"item {number} of the command is {_as_yaml(word)}, not text: put it in "
                    "quotes (YAML may have changed what you wrote, as it does 0755)"
                )
        empty = not argv or not argv[0].strip()
    else:
        raise BadValue(
            "no command is given"
            if value is None
            else f"{_as_yaml(value)} is no command: give a text for the shell, or a list of texts"
        )
    if empty:
        raise BadValue("the command is empty")
    if any("\0" in word for word in argv):
        raise BadValue("a command cannot hold a NUL character")
    return tuple(argv)


def _as_yaml(value: Any) -> str:
    if value is None:
        return "nothing"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def unknown_key(
    key: object, place: str, valid: Mapping[str, object] | tuple[str, ...], error: type[RbuildError]
) -> RbuildError:
    """The error for a key that means nothing at `place`, with the nearest name that would."""
    if key in RUN_OPTIONS:
        return error(f"{place}: {key} belongs to a run, not to a file: give it as --{key}")
    import difflib

    near = difflib.get_close_matches(str(key), list(valid), n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(valid)}"
    return error(f"{place}: unknown key {str(key)!r}", hint=hint)


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
    if name in _SWITCHES:
        return type(value) is bool
    kind, _, key = name.partition(".")
    if kind == "git":
        return key in GIT_KEYS and type(value) is str
    texts = type(value) is list and all(type(word) is str for word in value)
    if name in _LISTS:
        return texts
    if kind == "registry-auth":
        return texts and len(value) == 2
    return name in _HOOK_KEYS.values() and texts and len(value) > 0
