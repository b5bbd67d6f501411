"""What files may say of settings: `x-rbuild` in a compose file, `defaults` in rbuild.yml.

Read strictly: what is wrong is an error that names file, line and key.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from rbuild.docker.reference import problem
from rbuild.errors import RbuildError
from rbuild.settings import (
    BY_NAME,
    CHECKS,
    FILE_KEYS,
    GIT_KEYS,
    HOOKS,
    LISTS,
    LOGIN_KEYS,
    MAPPINGS,
    RUN_OPTIONS,
    SWITCHES,
    BadValue,
    Given,
    switch,
)


def from_mapping(
    mapping: Any, where: str, lines: Mapping[str, int], error: type[RbuildError]
) -> dict[str, Given]:
    """What an `x-rbuild:` or `defaults:` mapping sets.

    `where` is the file, `lines` what `key_lines` gave. Raises `error` naming file, line and key.
    """
    if mapping is None:
        return {}
    if not isinstance(mapping, dict):
        raise error(f"{where}: expected a mapping of settings, not {as_yaml(mapping)}")
    found = {}
    for key, value in mapping.items():
        place = f"{where}:{lines[key]}" if key in lines else where
        if key in MAPPINGS:
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
    if key in LISTS:
        return _images(value)
    if key == "check" and isinstance(value, list):
        for one in value:
            if not isinstance(one, str):
                raise BadValue(f"{as_yaml(one)} is no check: give some of {', '.join(CHECKS)}")
        value = ",".join(value) or "none"
    text = as_flag(value)
    return switch(text) if key in SWITCHES else BY_NAME[key].parse(text)


def as_flag(value: Any) -> str:
    """What a flag takes as text, of which YAML has made a number or a boolean.

    Raises BadValue for what is neither.
    """
    if value is None:
        raise BadValue("no value is given")
    if not isinstance(value, str | int | float):
        raise BadValue(f"expected one value, not {as_yaml(value)}")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _images(value: Any) -> tuple[str, ...]:
    """A list of image names."""
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list):
        raise BadValue("expected a list of images")
    for one in entries:
        if not isinstance(one, str):
            raise BadValue(f"{as_yaml(one)} is no image's name")
        if wrong := problem(one):
            raise BadValue(f"{one!r} is no image's name ({wrong})")
    return tuple(dict.fromkeys(entries))


def key_lines(mapping: Any, line: Callable[..., int]) -> dict[str, int]:
    """The line of each key of a mapping of settings, and of what a mapping in it holds as
    `hooks.NAME`, `git.NAME`, `registry-auth.NAME`.

    `line` gives the line of the key that a path from the mapping leads to.
    """
    if not isinstance(mapping, dict):
        return {}
    lines = {key: line(key) for key in mapping}
    for key in MAPPINGS:
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
        what = "a mapping of hooks" if kind == "hooks" else "a mapping"
        # A login may hold a password.
        value = "" if kind == "registry-auth" else f", not {as_yaml(data)}"
        raise error(
            f"{place}: {kind}: expected {what}{value}",
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
        raise BadValue(f"{as_yaml(value)} is no name")
    if name == "pull" and value != "ff-only":
        raise BadValue(f"{value!r}: only ff-only is known: a checkout is fast-forwarded, or left")
    return value


def _login(registry: Any, value: Any, folder: str) -> tuple[str, str]:
    """A registry's user name and password file; the file's path is relative to `folder`."""
    if not isinstance(registry, str) or not re.fullmatch(r"[\w.-]+(:[0-9]+)?|\[[\w:]+\](:[0-9]+)?",
                                                         registry):  # fmt: skip
        raise BadValue(f"{registry!r} is no registry: give its host, with its port if it has one")
    if not isinstance(value, dict):
        # Without the value, which may be a password.
        raise BadValue(f"expected a mapping of {' and '.join(LOGIN_KEYS)}")
    for key in value:
        if key not in LOGIN_KEYS:
            why = ": a password stands in a file of its own" if key == "password" else ""
            raise BadValue(f"unknown key {key!r}: it takes {' and '.join(LOGIN_KEYS)}{why}")
    for key in LOGIN_KEYS:
        if key not in value:
            raise BadValue(f"{key} is missing")
        if not isinstance(value[key], str) or not value[key].strip():
            raise BadValue(f"{key}: {as_yaml(value[key])} is no text")
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
                    f"item {number} of the command is {as_yaml(word)}, not text: put it in "
                    "quotes (YAML may have changed what you wrote, as it does 0755)"
                )
        empty = not argv or not argv[0].strip()
    else:
        raise BadValue(
            "no command is given"
            if value is None
            else f"{as_yaml(value)} is no command: give a text for the shell, or a list of texts"
        )
    if empty:
        raise BadValue("the command is empty")
    if any("\0" in word for word in argv):
        raise BadValue("a command cannot hold a NUL character")
    return tuple(argv)


def as_yaml(value: Any) -> str:
    """A value as a YAML file may have it, for a message."""
    if value is None:
        return "nothing"
    if isinstance(value, dict | list):
        text = json.dumps(value, default=str, ensure_ascii=False)
        return text if len(text) < 60 else text[:56] + " …"
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
