"""Two Compose projects made from the same files would write to the same data: only one may be."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rbuild.compose.loading import Loaded
from rbuild.docker.engine import Engine, Member
from rbuild.errors import ProjectError
from rbuild.state import record
from rbuild.updates.scene import Scene


def check(scene: Scene, loaded: Loaded) -> None:
    """Raise ProjectError if another project on the engine, or on record, has these files.

    A name that comes from the environment, `-p`, `.env` or `name:` may be another one than last
    time. Of a project that is only on record, nothing runs: there --force-rebuild goes ahead.
    """
    own = {os.path.realpath(path) for path in loaded.inputs.main_files}
    others = [one for one in scene.engine.members() if one.project != scene.name and not one.oneoff]
    for other in others:
        theirs = _files_of(other, own, loaded.folder)
        if own & theirs and (
            _is_same(own, theirs) or _shares_data(scene.engine, other, loaded.rendered)
        ):
            raise _clash(scene.name, other.project, f"container {other.name} was made from them")
    for _, known in record.at_paths(scene.run.store, *loaded.project.paths):
        is_last = known.built_at > (scene.known.built_at if scene.known else 0.0)
        if known.name != scene.name and is_last and _is_same(own, {*known.files}):
            if scene.run.forced:
                return
            raise _clash(scene.name, known.name, f"they were last updated as that, {known.built}")


def _clash(name: str, other: str, why: str) -> ProjectError:
    return ProjectError(
        f"these files already make up the Compose project {other!r}, and now {name!r}: {why}",
        hint=f"two projects would write to the same data: set COMPOSE_PROJECT_NAME={other} (or "
        f"`name: {other}`) here too; to rename it, first `docker compose -p {other} down`, then "
        "`rbuild --force-rebuild`",
    )


def _files_of(other: Member, own: Collection[str], folder: str) -> set[str]:
    """The compose files that a container was made from, links resolved.

    One that a rollback has brought back names a kept configuration, which lies in a state folder
    whose name ends like ours where the project's path is the same.
    """
    mark = f"{os.path.basename(folder)[-25:]}{os.sep}generations{os.sep}"
    if any(mark in path for path in other.config_files):
        return {*own}
    return {os.path.realpath(os.path.join(other.folder, path)) for path in other.config_files}


def _is_same(own: Collection[str], theirs: Collection[str]) -> bool:
    """Whether two sets of files make up one project, be it with an override more or less."""
    small, large = sorted(({*own}, {*theirs}), key=len)
    return bool(small) and small <= large


def _shares_data(engine: Engine, other: Member, rendered: Mapping[str, Any]) -> bool:
    """Whether a container may write to where this project writes."""
    services = (rendered.get("services") or {}).values()
    mounts = [one for service in services for one in service.get("volumes") or ()]
    named = {key: one["name"] for key, one in (rendered.get("volumes") or {}).items()}
    own = {named.get(one.get("source", ""), "") for one in mounts if one["type"] == "volume"}
    own |= {
        os.path.realpath(one["source"])
        for one in mounts
        if one["type"] == "bind" and not one.get("read_only")
    }
    theirs: Sequence[Mapping[str, Any]] = [
        one
        for data in engine.details([other.id]).values()
        for one in data.get("Mounts") or ()
        if one.get("RW")
    ]
    found = {one.get("Name") or os.path.realpath(one.get("Source") or "/") for one in theirs}
    return bool(found & (own - {""}))
