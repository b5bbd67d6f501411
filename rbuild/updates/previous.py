"""What runs before an update: from which configuration, and with which mounted files.

An update is begun only if this is known: else there would be nothing to roll back to.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rbuild.compose import fingerprint
from rbuild.compose.data import NATURE
from rbuild.compose.loading import Loaded
from rbuild.compose.project import Target
from rbuild.docker.described import Around, describe
from rbuild.docker.engine import Container, Engine
from rbuild.errors import RbuildError
from rbuild.state import content, generation
from rbuild.state.generation import RUNNING, UP
from rbuild.state.record import Record

NAMESPACES = {"network_mode": "NetworkMode", "pid": "PidMode", "ipc": "IpcMode"}
"""Keys of a service that name another's container → where `docker inspect` shows it."""


@dataclass
class Previous:
    """How the services that have containers would be started again."""

    sources: list[tuple[Mapping[str, Any], list[str]]] = field(default_factory=list)
    """Configurations, and the services that were started from each."""
    content: dict[str, str] = field(default_factory=dict)
    """Path of a mounted file → copy of what it held."""
    unknown: dict[str, str] = field(default_factory=dict)
    """Services that could not be brought back as they are → why."""

    @property
    def configured(self) -> tuple[str, ...]:
        """Services whose configuration is known."""
        return tuple(name for _, given in self.sources for name in given)


def find(
    loaded: Loaded,
    known: Record | None,
    containers: Sequence[Container],
    engine: Engine,
    *,
    clock_ahead: float,
    is_here: bool,
) -> Previous:
    """How these containers were made, from the last good update, the files or themselves.

    `clock_ahead` is how many seconds the engine's clock is ahead of ours; `is_here` says whether
    the engine mounts files of this machine. Changes nothing but copies of files. Raises StateError.
    """
    found = Previous()
    rest = list(dict.fromkeys(one.service for one in containers))
    running, digest = generation.read_configuration(os.path.join(loaded.folder, RUNNING))
    past = known.services if known and digest and digest == known.configuration else {}
    if running is not None:
        given = [
            name
            for name in rest
            # What was left alone may be of an earlier configuration.
            if past.get(name, {}).get("shape")
            and past.get(name, {}).get("containers")
            == sorted(one.id for one in containers if one.service == name)
        ]
        found.sources.append((running, given))
        rest = [name for name in rest if name not in given]
    if rest:
        _find_by_containers(found, loaded, running, containers, rest, engine)
    if is_here:
        _find_content(found, loaded, known, containers, clock_ahead)
    return found


def copies(loaded: Loaded) -> dict[str, str]:
    """Keep what mounted files hold now, as an update is about to use it: path → copy.

    Raises StateError.
    """
    found = {
        path: content.keep(loaded.folder, path)
        for path in fingerprint.content_users(loaded.rendered)
        if loaded.name_of(path) not in loaded.data
    }
    return {path: copy for path, copy in found.items() if copy}


def _find_by_containers(
    found: Previous,
    loaded: Loaded,
    running: Mapping[str, Any] | None,
    containers: Sequence[Container],
    rest: list[str],
    engine: Engine,
) -> None:
    """Of services that somebody else has brought up: by Compose's hash, else as they are shown."""
    details = engine.details([one.id for one in containers if one.service in rest])
    candidates = [loaded.rendered, *([running] if running and running != loaded.rendered else [])]
    for candidate in candidates:
        mine = [name for name in rest if name in (candidate.get("services") or {})]
        hashes = _hashes(candidate, mine, containers, details, loaded, engine) if mine else {}
        given = [
            name
            for name in mine
            if all(
                one.config_hash == hashes.get(name) and _has_environment(one, candidate)
                for one in containers
                if one.service == name
            )
        ]
        found.sources.append((candidate, given))
        rest = [name for name in rest if name not in given]
    services = {one.id: one.service for one in containers}
    for name in rest:
        _describe(found, name, services, candidates[::-1], containers, details, loaded)


def _describe(
    found: Previous,
    name: str,
    services: Mapping[str, str],
    candidates: Sequence[Mapping[str, Any]],
    containers: Sequence[Container],
    details: Mapping[str, Mapping[str, Any]],
    loaded: Loaded,
) -> None:
    boxes = [one for one in containers if one.service == name and one.id in details]
    if not boxes:
        return
    # Of several, the one that has run longest shows what must not be lost.
    oldest = min(boxes, key=lambda one: (one.state not in UP, one.started))
    template = next((one for one in candidates if name in (one.get("services") or {})), {})
    around = Around(
        loaded.configuration.name,
        services,
        _keys(candidates, "networks"),
        _keys(candidates, "volumes"),
    )
    described = describe(details[oldest.id], _copied(template, name), around)
    source = {
        **{kind: template[kind] for kind in ("configs", "secrets") if kind in template},
        "name": loaded.configuration.name,
        "services": {name: described.service},
        "networks": {**described.networks, **_top(candidates, "networks")},
        "volumes": {**described.volumes, **_top(candidates, "volumes")},
    }
    found.sources.append((source, [name]))
    if described.unknown:
        what = ", ".join(described.unknown)
        found.unknown[name] = f"its container has what no compose file can say ({what})"


def _copied(configuration: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A service; of its configs and secrets only those that are copied into its containers."""
    service = dict((configuration.get("services") or {}).get(name) or {})
    for kind in ("configs", "secrets"):
        named = configuration.get(kind) or {}
        entries = service.pop(kind, None) or ()
        copied = [one for one in entries if not (named.get(one["source"]) or {}).get("file")]
        if copied:
            service[kind] = copied
    return service


def _top(candidates: Iterable[Mapping[str, Any]], kind: str) -> dict[str, Any]:
    return {key: one for given in candidates for key, one in (given.get(kind) or {}).items()}


def _keys(candidates: Iterable[Mapping[str, Any]], kind: str) -> dict[str, str]:
    """Name on the engine → key in these configurations."""
    return {(one or {}).get("name", key): key for key, one in _top(candidates, kind).items()}


def _hashes(
    candidate: Mapping[str, Any],
    services: Collection[str],
    containers: Sequence[Container],
    details: Mapping[str, Mapping[str, Any]],
    loaded: Loaded,
    engine: Engine,
) -> Mapping[str, str]:
    """Compose's hashes, as containers of these services bear them if they were made from this.

    Who shares a namespace is hashed with the other's container in its place.
    """
    shared = {
        one.service: {
            key: mode
            for key, name in NAMESPACES.items()
            if (mode := details[one.id]["HostConfig"].get(name) or "").startswith("container:")
        }
        for one in containers
        if one.service in services and one.id in details
    }
    sharing = {name: keys for name, keys in shared.items() if keys}
    found: dict[str, str] = {}
    if candidate is loaded.rendered:
        # The files themselves: what an env file is called counts in a hash as well.
        found = _ask(engine, loaded.target)
        if not sharing:
            return found
    config = {
        **candidate,
        "services": {
            name: {**one, **sharing.get(name, {})} for name, one in candidate["services"].items()
        },
    }
    file = generation.scratch(loaded.folder, config)
    try:
        target = Target(loaded.target.folder, (file,), (), loaded.configuration.name)
        resolved = _ask(engine, target)
    finally:
        generation.remove_scratch(loaded.folder)
    return {**resolved, **{name: one for name, one in found.items() if name not in sharing}}


def _ask(engine: Engine, target: Target) -> dict[str, str]:
    try:
        return engine.hashes(target)
    except RbuildError:
        # Then the containers must tell.
        return {}


def _has_environment(container: Container, configuration: Mapping[str, Any]) -> bool:
    """Whether it has the variables that env files give: these are not in Compose's hash."""
    service = configuration["services"][container.service]
    wanted = (service.get("environment") or {}).items()
    return {f"{key}={value}" for key, value in wanted if value is not None} <= {
        *container.environment
    }


def _find_content(
    found: Previous,
    loaded: Loaded,
    known: Record | None,
    containers: Sequence[Container],
    clock_ahead: float,
) -> None:
    """What the mounted files held when the containers were started, or why that isn't known."""
    data = {**(known.data if known else {}), **loaded.data}
    written = {name for name, (why, _) in data.items() if why != NATURE}
    merged: dict[str, tuple[frozenset[str], bool]] = {}
    for configuration, given in found.sources:
        writable = _writable(configuration)
        also = known.content if known else ()
        for path, users in fingerprint.content_users(configuration, also).items():
            if loaded.name_of(path) in written:
                continue
            if mine := users & {*given}:
                before, was = merged.get(path, (frozenset(), False))
                merged[path] = (before | mine, was or path in writable)
    for path, (users, is_writable) in merged.items():
        boxes = [one for one in containers if one.service in users and one.state in UP]
        if not boxes:
            continue
        started = min(one.started for one in boxes) - clock_ahead
        kept = known.content.get(path, "") if known else ""
        if _changed_at(path) < started or _is_as_recorded(path, loaded, known):
            kept = content.keep(loaded.folder, path)
        elif not (kept and os.path.exists(content.path_of(loaded.folder, kept))):
            # What a container may write itself is as it is.
            kept = content.keep(loaded.folder, path) if is_writable else ""
        if kept:
            found.content[path] = kept
        else:
            why = f"{path} has changed since it was started, so what it was started with is lost"
            found.unknown.update({name: why for name in sorted(users) if name not in found.unknown})


def _writable(configuration: Mapping[str, Any]) -> set[str]:
    return {
        mount.get("source", "")
        for service in configuration["services"].values()
        for mount in service.get("volumes") or ()
        if mount.get("type") == "bind" and not mount.get("read_only")
    }


def _is_as_recorded(path: str, loaded: Loaded, known: Record | None) -> bool:
    """Whether a file holds what it held at the last good update, by the record's digests."""
    if not known:
        return False
    name = loaded.name_of(path)
    return name in known.digests and known.digests[name] == loaded.digests.get(name)


def _changed_at(path: str) -> float:
    """Epoch seconds at which a file was last changed or put in place; infinite if it is gone."""
    try:
        info = os.stat(path)
    except OSError:
        return float("inf")
    # Moved into place, it may be older than its name here.
    return max(info.st_mtime, info.st_ctime)
