"""rbuild.yml: which projects there are, and defaults for their settings.

What was read is cached in the state folder, keyed by the file's size, mtime and inode, so that
a run with nothing to do needs no YAML.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from rbuild.errors import RbuildError, UsageError
from rbuild.settings import FILE_KEYS, Given, as_json, from_json

_KEYS = ("projects", "defaults")
_CACHE = "config-cache.json"
_FORMAT = 2


class ConfigFile(NamedTuple):
    """What rbuild.yml says. `path` is empty where there is none."""

    path: str
    projects: tuple[str, ...]
    """Absolute paths and globs."""
    defaults: Mapping[str, Given]


def places(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Where rbuild.yml is looked for; the first that exists counts."""
    home = environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return (os.path.join(home, "rbuild", "rbuild.yml"), "/etc/rbuild/rbuild.yml")


def read(
    explicit: str, environ: Mapping[str, str], state: str, *, remember: bool = True
) -> ConfigFile:
    """The configuration file; `explicit` is the one that was asked for, empty to look for one.

    `state` is the state folder; nothing is written there unless it may `remember`. Raises
    UsageError for a file that is missing or wrong.
    """
    for path in (os.path.abspath(explicit),) if explicit else places(environ):
        try:
            info = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from None
        look = [_FORMAT, path, info.st_size, info.st_mtime_ns, info.st_ino]
        found = _cached(look, state)
        if found is None:
            found = _parse(path)
            if remember:
                _write_cache(found, look, state)
        return found
    if explicit:
        raise UsageError(f"{explicit}: no such configuration file")
    return ConfigFile("", (), {})


def expand(config: ConfigFile) -> tuple[list[str], list[str]]:
    """The projects that a configuration file lists, and the globs that match nothing."""
    import glob

    found: dict[str, None] = {}
    empty = []
    for entry in config.projects:
        if os.path.exists(entry) or not glob.has_magic(entry):
            found[entry] = None
            continue
        matches = sorted(glob.glob(entry, recursive=True))
        found.update(dict.fromkeys(matches))
        if not matches:
            empty.append(entry)
    return list(found), empty


def _cached(look: list[Any], state: str) -> ConfigFile | None:
    try:
        with open(os.path.join(state, _CACHE), encoding="utf-8") as file:
            cache = json.load(file)
        projects, defaults = cache["projects"], from_json(cache["defaults"])
        sound = isinstance(projects, list) and all(isinstance(one, str) for one in projects)
        if cache["look"] != look or not sound or len(defaults) != len(cache["defaults"]):
            return None
        return ConfigFile(look[1], tuple(projects), defaults)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _parse(path: str) -> ConfigFile:
    from functools import partial

    from rbuild.compose import yamlfile
    from rbuild.settingsfile import from_mapping, key_lines, unknown_key

    try:
        documents = yamlfile.load(path)
    except RbuildError as error:
        raise UsageError(error.message, hint=error.hint) from None
    if not documents or documents[0].data is None:
        return ConfigFile(path, (), {})
    if len(documents) > 1:
        raise UsageError(f"{path}: more than one YAML document")
    (document,) = documents
    data = document.data
    if not isinstance(data, dict):
        raise UsageError(f"{path}:1: expected a mapping with {' and '.join(_KEYS)}")
    for key in data:
        if key not in _KEYS:
            place = f"{path}:{document.line(key)}"
            if key == "x-rbuild" or key in FILE_KEYS:
                raise UsageError(
                    f"{place}: unknown key {key!r}", hint="settings stand under `defaults:` here"
                )
            raise unknown_key(key, place, _KEYS, UsageError)
    projects = data.get("projects") or []
    if not isinstance(projects, list) or not all(isinstance(one, str) for one in projects):
        raise UsageError(f"{path}:{document.line('projects')}: projects: expected a list of paths")
    defaults = data.get("defaults")
    lines = key_lines(defaults, partial(document.line, "defaults"))
    place = path
    if not isinstance(defaults, dict):
        place = f"{path}:{document.line('defaults')}: defaults"
    return ConfigFile(
        path,
        tuple(_absolute(one, path) for one in projects if isinstance(one, str)),
        from_mapping(defaults, place, lines, UsageError),
    )


def _absolute(entry: str, config_path: str) -> str:
    folder = os.path.dirname(config_path)
    whole = os.path.normpath(os.path.join(folder, os.path.expanduser(entry)))
    if ":" not in entry or os.path.exists(whole):
        return whole
    parts = (os.path.join(folder, os.path.expanduser(part)) for part in entry.split(":") if part)
    return ":".join(map(os.path.normpath, parts))


def _write_cache(config: ConfigFile, look: list[Any], state: str) -> None:
    from rbuild.state.record import write_private

    cache = {"look": look, "projects": config.projects, "defaults": as_json(config.defaults)}
    try:
        os.makedirs(state, mode=0o700, exist_ok=True)
        write_private(os.path.join(state, _CACHE), json.dumps(cache))
    except (OSError, RbuildError):
        # Only speed is lost; a state folder that is needed complains by itself.
        return
