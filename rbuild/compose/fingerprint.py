"""What a project's inputs look like, on two levels.

The signature is cheap: size, mtime and inode of each input path, or its absence, and the
values of the variables that the compose files read. Equal signatures: nothing changed, and
nothing else is looked at. The digests are exact: Compose's rendered configuration and the
content of files that Compose doesn't read itself.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from rbuild.compose.data import is_configuration, is_file, pieces
from rbuild.state.record import keyed_digest, keyed_digest_of

CONFIGURATION = "configuration"
# In place of the digest of what a build lacks; once it is there, it may be no input any more.
MISSING = "missing"
# Beside the files and variables in a service's contents.
REFERENCES = "references"
_KINDS = ("configs", "secrets")
# What of such a one decides what is in it.
_DEFINED = ("name", "file", "content", "environment", "external")


def signature(
    paths: Iterable[str], variables: Iterable[str], environ: Mapping[str, str], key: str
) -> dict[str, Any]:
    """The signature of these inputs now, as plain JSON values."""
    return {
        "paths": {path: _look(path) for path in paths},
        "variables": {name: _value(name, environ, key) for name in variables},
    }


def differences(seen: Mapping[str, Any], environ: Mapping[str, str], key: str) -> list[str]:
    """The inputs whose signature is no longer what was `seen`; empty if all are equal."""
    changed = [path for path, was in seen["paths"].items() if _look(path) != was]
    changed += [
        f"${name}" for name, was in seen["variables"].items() if _value(name, environ, key) != was
    ]
    return changed


def digests(
    config: Mapping[str, Any],
    files: Iterable[str],
    environ: Mapping[str, str],
    *,
    folder: str,
    home: str,
    key: str,
) -> dict[str, str]:
    """Digest of the rendered configuration and of each content file, by input.

    `config` is what `docker compose config --format json` gives. What doesn't shape a
    deployment (`x-` keys) is left out, and `folder` (as spelled) reads as `home`. `files` are its
    `content_files`, `environ` is what Compose takes the values of `configs:` and `secrets:` from.
    """
    shaped = respelled(_without_extensions(config), folder, home)
    text = json.dumps(shaped, sort_keys=True).encode()
    found = {CONFIGURATION: keyed_digest(key, text)}
    for path in files:
        found[respelled(path, folder, home)] = content_digest(path, key)
    for kind in _KINDS:
        for definition in (config.get(kind) or {}).values():
            if name := definition.get("environment"):
                found[f"${name}"] = _value(name, environ, key) or "absent"
    return found


def shapes(config: Mapping[str, Any], key: str) -> dict[str, str]:
    """A digest of each service's rendered configuration."""
    services = _without_extensions(config).get("services") or {}
    return {
        name: keyed_digest(key, json.dumps(one, sort_keys=True).encode())
        for name, one in services.items()
    }


def contents(
    config: Mapping[str, Any], digests: Mapping[str, str], *, folder: str, home: str, key: str
) -> dict[str, dict[str, str]]:
    """By service: digests of what its containers are made from and Compose's hash leaves out.

    That is the content of files, what its `configs:` and `secrets:` refer to, and the names of
    its networks and volumes. `digests` are those of the project's inputs.
    """
    users = {respelled(path, folder, home): them for path, them in _users(config).items()}
    found: dict[str, dict[str, str]] = {}
    for name, service in (config.get("services") or {}).items():
        refers = {kind: _referred(config, service, kind) for kind in _KINDS}
        mounts = service.get("volumes") or ()
        volumes = [m.get("source", "") for m in mounts if m.get("type") == "volume"]
        parts = {
            **{kind: [[definition.get(part) for part in _DEFINED] for definition in refers[kind]]
               for kind in _KINDS},
            "networks": [_named(config, "networks", key) for key in service.get("networks") or ()],
            "volumes": [_named(config, "volumes", key) for key in volumes],
        }  # fmt: skip
        text = json.dumps(respelled(parts, folder, home), sort_keys=True)
        used = [path for path, services in users.items() if name in services]
        used += [f"${d.get('environment')}" for kind in _KINDS for d in refers[kind]]
        found[name] = {
            REFERENCES: keyed_digest(key, text.encode()),
            **{part: digests[part] for part in used if part in digests},
        }
    return found


def content_files(config: Mapping[str, Any], data: Collection[str] = ()) -> list[str]:
    """Paths of the files that shape a deployment and whose content `compose config` hides.

    Dockerfiles, ignore files, files behind `configs:` and `secrets:`, and single files that
    are mounted, as long as they look like configuration and are none of `data`.
    """
    found: dict[str, None] = {}
    mounted = _mounted(config)
    for service in _services(config):
        build = service.get("build")
        if build and is_local_context(build.get("context", "")):
            for dockerfile in _dockerfiles(build):
                found[dockerfile] = None
                found[dockerfile + ".dockerignore"] = None
                if is_file(dockerfile):
                    # Of what would be taken in its absence, nothing counts.
                    break
            found[os.path.join(build["context"], ".dockerignore")] = None
        found.update((source, None) for source, _ in _binds(service) if source in mounted)
    for kind in _KINDS:
        for definition in (config.get(kind) or {}).values():
            found[definition.get("file", "")] = None
    return [path for path in found if path and path not in data]


def content_users(
    config: Mapping[str, Any], also: Collection[str] = ()
) -> dict[str, frozenset[str]]:
    """The content files that containers have, each with the services whose containers have it.

    Those of `content_files` that are mounted, or that are behind the configs and secrets of a
    service; and those that were such (`also`), whatever they look like now.
    """
    files = {*content_files(config), *also}
    return {path: users for path, users in _users(config).items() if path in files}


def data_files(config: Mapping[str, Any], files: Collection[str]) -> list[str]:
    """Single files that are mounted and none of its content `files`."""
    sources = {source for service in _services(config) for source, _ in _binds(service)}
    return sorted(path for path in sources if path not in files and is_file(path))


def mounts(config: Mapping[str, Any], key: str) -> dict[str, str]:
    """For each path that is mounted, a digest of where and how."""
    found: dict[str, list[Any]] = {}
    for name, service in (config.get("services") or {}).items():
        for source, mount in _binds(service):
            where = [name, mount.get("target", ""), bool(mount.get("read_only"))]
            found.setdefault(source, []).append(where)
    return {
        path: keyed_digest(key, json.dumps(sorted(places)).encode())
        for path, places in found.items()
    }


def writable_files(config: Mapping[str, Any]) -> frozenset[str]:
    """Paths of single files that some service has mounted writable."""
    return frozenset(source for source in _writable(config) if is_file(source))


def is_writable(config: Mapping[str, Any], path: str) -> bool:
    """Whether containers may write to a file or folder: it, or what it lies in, is mounted so."""
    real = os.path.realpath(path)
    tops = [os.path.realpath(source).rstrip("/") for source in _writable(config)]
    return any(real == top or real.startswith(f"{top}/") for top in tops)


def with_host_paths(
    config: Mapping[str, Any], change: Callable[[str, bool], str]
) -> dict[str, Any]:
    """The configuration with other paths for what containers mount from this machine.

    `change` gets a path and whether it is mounted writable.
    """
    services = {
        name: {
            **service,
            "volumes": [
                {**mount, "source": change(mount["source"], not mount.get("read_only"))}
                if mount.get("type") == "bind"
                else mount
                for mount in service["volumes"]
            ],
        }
        if service.get("volumes")
        else service
        for name, service in (config.get("services") or {}).items()
    }
    found = {**config, "services": services}
    for kind in _KINDS:
        if config.get(kind):
            found[kind] = {
                name: {**one, "file": change(one["file"], False)} if one.get("file") else one
                for name, one in config[kind].items()
            }
    return found


def dockerfile_of(build: Mapping[str, Any]) -> str:
    """Path of the Dockerfile that a build takes; empty if it's inline or not a file here."""
    paths = _dockerfiles(build)
    return next(filter(is_file, paths), paths[0] if paths else "")


def _dockerfiles(build: Mapping[str, Any]) -> tuple[str, ...]:
    """Paths of a build's Dockerfile in BuildKit's order, the first that is a file being taken.

    `dockerfile` stands in for `Dockerfile`, whether somebody named that or not.
    """
    if "dockerfile_inline" in build or not is_local_context(build.get("context", "")):
        return ()
    path = os.path.join(build["context"], build.get("dockerfile") or "Dockerfile")
    folder, name = os.path.split(path)
    return (path, os.path.join(folder, "dockerfile")) if name == "Dockerfile" else (path,)


def missing(build: Mapping[str, Any]) -> str:
    """Path of a folder or Dockerfile here that a build needs and that isn't there; empty if all
    are. What can't be looked at is there."""
    folders = [build.get("context", ""), *(build.get("additional_contexts") or {}).values()]
    needed = [folder for folder in map(str, folders) if is_local_context(folder)]
    return next(filter(_is_missing, [*needed, *filter(None, [dockerfile_of(build)])]), "")


def is_local_context(context: str) -> bool:
    """Whether a build's context is a folder on this machine; rendered ones are absolute."""
    return context.startswith("/")


def changes(
    old: Mapping[str, str],
    new: Mapping[str, str],
    suspects: Iterable[str],
    unnoticed: Collection[str] = (),
) -> list[str]:
    """What a person should read about the difference of two sets of digests.

    `suspects` are inputs whose signature changed: they name a changed configuration better
    than the word. `unnoticed` may come and go without a word.
    """
    found = []
    for name in sorted(old.keys() | new.keys()):
        was, now = old.get(name, "absent"), new.get(name, "absent")
        if was == now or name == CONFIGURATION:
            continue
        if name in unnoticed and not (name in old and name in new):
            continue
        if MISSING in (was, now):
            found.append(f"{name} {'appeared' if was == MISSING else 'disappeared'}")
        elif now == "absent":
            found.append(f"{name} disappeared")
        elif was == "absent":
            found.append(f"{name} appeared")
        else:
            found.append(name)
    if old.get(CONFIGURATION) != new.get(CONFIGURATION):
        named = [one for one in suspects if one not in new]
        found = [one for one in named if one not in found] + found
        if not named:
            found.insert(0, "the rendered configuration")
    return found


def _look(path: str) -> list[int] | str | None:
    try:
        info = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return error.strerror
    if stat.S_ISDIR(info.st_mode):
        return "folder"
    return [info.st_size, info.st_mtime_ns, info.st_ino]


def _value(name: str, environ: Mapping[str, str], key: str) -> str | None:
    value = environ.get(name)
    return None if value is None else keyed_digest(key, os.fsencode(value))


def content_digest(path: str, key: str) -> str:
    """Digest of a file's content, or why there is none."""
    try:
        return keyed_digest_of(key, pieces(path))
    except (FileNotFoundError, NotADirectoryError):
        return "absent"
    except OSError as error:
        return f"unreadable: {error.strerror}"


def _binds(service: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The paths that a service has mounted, each with how."""
    for mount in service.get("volumes") or ():
        if mount.get("type") == "bind" and mount.get("source"):
            yield mount["source"], mount


def _is_missing(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _services(config: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    services: Mapping[str, Mapping[str, Any]] = config.get("services") or {}
    return services.values()


def _writable(config: Mapping[str, Any]) -> list[str]:
    """Paths that some service has mounted writable."""
    return [
        source for service in _services(config) for source, mount in _binds(service)
        if not mount.get("read_only")
    ]  # fmt: skip


def _mounted(config: Mapping[str, Any]) -> frozenset[str]:
    """Single files that are mounted and look like configuration."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for service in _services(config):
        for source, mount in _binds(service):
            found.setdefault(source, []).append(mount)
    return frozenset(
        source
        for source, places in found.items()
        if is_configuration(
            source,
            [mount.get("target", "") for mount in places],
            read_only=any(mount.get("read_only") for mount in places),
        )
    )


def _users(config: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """The paths that are mounted or behind `configs:` and `secrets:`, each with its services."""
    users: dict[str, set[str]] = {}
    for name, service in (config.get("services") or {}).items():
        paths = [source for source, _ in _binds(service)]
        for kind in _KINDS:
            paths += [source.get("file", "") for source in _referred(config, service, kind)]
        for path in filter(None, paths):
            users.setdefault(path, set()).add(name)
    return {path: frozenset(services) for path, services in users.items()}


def _referred(
    config: Mapping[str, Any], service: Mapping[str, Any], kind: str
) -> list[Mapping[str, Any]]:
    """The project's `configs:` or `secrets:` that a service refers to."""
    known = config.get(kind) or {}
    names = [reference.get("source", "") for reference in service.get(kind) or ()]
    return [known[name] for name in names if known.get(name)]


def _named(config: Mapping[str, Any], kind: str, name: str) -> str:
    """The name that a network or volume has on the engine."""
    return str(((config.get(kind) or {}).get(name) or {}).get("name", name))


def _without_extensions(config: Mapping[str, Any]) -> dict[str, Any]:
    def strip(mapping: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in mapping.items() if not name.startswith("x-")}

    shaped = strip(config)
    for kind in ("services", "networks", "volumes", "configs", "secrets"):
        named = shaped.get(kind)
        if named:
            shaped[kind] = {name: strip(one) if one else one for name, one in named.items()}
    return shaped


def respelled(value: Any, folder: str, home: str) -> Any:
    """A configuration or path in which what lies in `folder`, as spelled, lies in `home`."""
    if folder == home:
        return value
    if isinstance(value, dict):
        return {name: respelled(one, folder, home) for name, one in value.items()}
    if isinstance(value, list):
        return [respelled(one, folder, home) for one in value]
    if isinstance(value, str) and (value == folder or value.startswith(folder + "/")):
        return home + value[len(folder) :]
    return value
