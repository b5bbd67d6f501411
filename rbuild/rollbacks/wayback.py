"""Goes back to a generation: waits for what is still stopping, brings up what ran, judges it."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from rbuild.compose import fingerprint
from rbuild.compose.configuration import Configuration, Service, parse
from rbuild.compose.project import Target
from rbuild.docker.engine import STOP_GRACE, Container, Engine
from rbuild.errors import EngineError, GateError, RbuildError
from rbuild.process import Stop
from rbuild.rollbacks import rollback
from rbuild.rollbacks.rollback import Back
from rbuild.state import content, generation
from rbuild.state.generation import Generation
from rbuild.updates import steps
from rbuild.updates.scene import Scene
from rbuild.updates.underway import Underway

POLL = 0.3
# Beyond the time to stop: the engine may be slow as well.
SPARE = 20.0


@dataclass(frozen=True, slots=True)
class Way:
    """What came of a way back."""

    moved: tuple[str, ...]
    """Services that were brought up again."""
    problem: RbuildError | None
    """Why what ran before does not run again; None if it does."""
    warnings: tuple[str, ...]
    containers: tuple[Container, ...]
    """What is there now."""
    commands: tuple[str, ...]
    """What a person would type to get there."""
    is_lost: bool = False
    """Whether something is gone that no other try brings back."""
    content: tuple[str, ...] = ()
    """Mounted files that have changed: what was brought up uses what they held."""


def go(scene: Scene, kept: Generation, note: Underway) -> Way:
    """Go back to `kept`, whatever signals come.

    The note has since when containers were touched, the services that the update brought up, and
    those that stay as they are. Raises EngineError only where the engine doesn't answer; what
    else goes wrong is the way's `problem`.
    """
    # What `up` has told to stop.
    since = note.touched_at(scene.clock_ahead)
    engine = scene.calm_engine()
    source, services = _configuration(scene, kept)
    changed = _changed(scene, kept)
    target, used = _target(scene, kept, source, changed, writable=False)
    _await_stops(engine, scene.name, since, services, _replaced(kept, note))
    before = engine.containers(scene.name)
    warnings = rollback.data_at_risk(kept, before)
    work = steps.Work(
        engine=engine,
        target=target,
        configuration=Configuration(scene.name, services),
        settings=scene.settings,
        overlay="",
        clock_ahead=scene.clock_ahead,
        stop=Stop(),
        tell=scene.tell,
        log=scene.log,
        hold=scene.held,
    )
    back = _plan(kept, services, target, note, engine, scene.name, force=bool(used))
    unknown = [name for name in back.moving if name not in kept.configured]
    if unknown:
        warnings.append(
            f"how {', '.join(unknown)} was configured is not known: brought up as the files say now"
        )
    problem = _take(back, work, note, scene)
    moved = back.moving
    if problem is not None and not isinstance(problem, GateError):
        # A broken-off recreate leaves behind what fails the first try and not the next, two
        # services can't swap a port at the first, and what failed may have filled the disk.
        scene.log.line(f"failed, once more: {problem}")
        _make_way(kept, moved, work)
        back = _plan(kept, services, target, note, engine, scene.name, force=bool(used))
        problem = _take(back, work, note, scene)
        moved = tuple(dict.fromkeys([*moved, *back.moving]))
    if problem is not None and {*used} != {*changed}:
        # What a container may write to is its own data, as long as it runs with that.
        scene.log.line(f"failed, once more with what changed files held: {problem}")
        _make_way(kept, moved, work)
        target, used = _target(scene, kept, source, changed, writable=True)
        back = _plan(kept, services, target, note, engine, scene.name, force=True)
        problem = _take(back, work, note, scene)
        moved = tuple(dict.fromkeys([*moved, *back.moving]))
    if problem is None and back.lost:
        # All that could be brought back is back.
        return Way(
            moved,
            EngineError(
                f"the kept image or configuration of {', '.join(back.lost)} is gone",
                hint="mend what failed, and run `rbuild --force-rebuild`",
            ),
            tuple(warnings),
            tuple(engine.containers(scene.name)),
            commands=(),
            is_lost=True,
        )
    now = engine.containers(scene.name)
    return Way(
        moved=moved,
        problem=problem or _check_images(kept, moved, now),
        warnings=(*warnings, *(f"on the way back: {one}" for one in work.warnings)),
        containers=tuple(now),
        commands=tuple(rollback.commands(back.steps)),
        content=used if moved else (),
    )


def _plan(
    kept: Generation,
    services: Mapping[str, Service],
    target: Target,
    note: Underway,
    engine: Engine,
    name: str,
    *,
    force: bool,
) -> Back:
    """Ask the engine what is there now, and plan the way from it."""
    wanted = [
        *kept.names,
        *kept.names.values(),
        *(one for k in kept.services.values() for one in (k.image, k.tag, k.reference)),
        *(one.image for one in services.values()),
    ]
    return rollback.plan(
        kept,
        services,
        engine.containers(name),
        engine.images(list(dict.fromkeys(wanted))),
        target=target,
        made=note.note.get("services") or kept.services,
        stay=note.note.get("stay") or (),
        leave=note.note.get("leave") or (),
        force=force,
    )


def _take(back: Back, work: steps.Work, note: Underway, scene: Scene) -> RbuildError | None:
    try:
        steps.set_time_limit(
            [one for one in back.judged if one in work.configuration.services], work
        )
        for step in back.steps:
            note.enter(step, certain=False)
            scene.tell(f"back: {step}")
            steps.run(step, work)
    except RbuildError as error:
        # An engine that is gone is no failed way back: the next run goes on.
        work.engine.check()
        return error
    return None


def _make_way(kept: Generation, moving: Collection[str], work: steps.Work) -> None:
    """Remove what the update made and what doesn't run.

    Not what has volumes: an anonymous one passes only from container to container.
    """
    for one in work.engine.containers(work.name):
        is_new = one.service in moving and one.id not in kept.containers
        works = one.state in ("running", "paused") and one.health != "unhealthy"
        if is_new and not works and not one.volumes:
            work.engine.remove_container(one.id)


def _check_images(
    kept: Generation, moved: Collection[str], now: list[Container]
) -> RbuildError | None:
    """Whether what was brought up runs what it ran."""
    wrong = [
        name
        for name in moved
        if any(
            one.image != kept.services[name].image
            for one in now
            if one.service == name and not one.oneoff
        )
    ]
    return EngineError(f"{', '.join(wrong)}: not the kept image") if wrong else None


def _replaced(kept: Generation, note: Underway) -> frozenset[str]:
    """IDs of the containers that an `up` which was broken off may have been about to replace."""
    if not note.note.get("stopping", True):
        return frozenset()
    made = note.note.get("services") or kept.services
    return frozenset(
        one for name in made if name in kept.services for one in kept.services[name].up
    )


def _await_stops(
    engine: Engine,
    name: str,
    since: float,
    services: Mapping[str, Service],
    suspects: Collection[str],
) -> None:
    """Wait for containers that were told to stop: they look alive, and are about to end.

    The engine remembers only so many events (healthchecks fill them up): who was seen as told
    once is waited for, and where the first look may come too late, so are all `suspects`, for as
    long as one that was told by now may take.
    """
    grace = max([one.stop_grace for one in services.values()], default=STOP_GRACE)
    begun = time.monotonic()
    told: set[str] = set()
    awaited: dict[str, float] = {}
    while True:
        found = engine.stopping(name, since)
        here = {one.id: one.started for one in engine.containers(name) if one.state == "running"}
        told |= found.told
        for one in told | ({*suspects} if not found.whole else set()):
            if one in here:
                awaited.setdefault(one, here[one])
        # One that was started again since then has ended.
        pending = {one for one, started in awaited.items() if here.get(one) == started}
        spare = SPARE if pending & told else POLL
        if not pending or time.monotonic() - begun > grace + spare:
            return
        time.sleep(POLL)


def _configuration(
    scene: Scene, kept: Generation
) -> tuple[Mapping[str, Any] | None, Mapping[str, Service]]:
    """The kept configuration, and its services."""
    path = generation.configuration_path(scene.folder, kept.stamp)
    source, _ = generation.read_configuration(path)
    if source is not None:
        try:
            return source, parse(source, path, separator=_separator(scene, kept)).services
        except RbuildError:
            source = None
    return None, scene.loaded.configuration.services if scene.loaded else {}


def _separator(scene: Scene, kept: Generation) -> str:
    """What stands in the names of built images: as it is now, else as it was."""
    if scene.loaded:
        return scene.loaded.configuration.separator
    names = {f"{scene.name}_{service}": one for service, one in kept.services.items()}
    return "_" if any(one.reference == name for name, one in names.items()) else "-"


def _changed(scene: Scene, kept: Generation) -> list[str]:
    """Mounted files that no longer hold what they held."""
    return [
        path
        for path, copy in kept.content.items()
        if os.path.exists(content.path_of(scene.folder, copy)) and not content.is_same(path, copy)
    ]


def _target(
    scene: Scene,
    kept: Generation,
    source: Mapping[str, Any] | None,
    changed: Collection[str],
    *,
    writable: bool,
) -> tuple[Target, tuple[str, ...]]:
    """Where Compose reads what was: the project's own files, as long as they say the same.

    With it come those of the `changed` files of which it uses what they held; with `writable`
    also those that a container may write to.
    """
    loaded = scene.loaded
    folder = scene.project.target.folder
    where = generation.configuration_path(scene.folder, kept.stamp)
    if source is None:
        return loaded.target if loaded else Target(folder, (where,), (), scene.name), ()
    used: dict[str, None] = {}
    is_moved = kept.home and os.path.realpath(folder) != kept.home

    def place(path: str, may_write: bool) -> str:
        if path in changed and (writable or not may_write):
            used[path] = None
            return content.path_of(scene.folder, kept.content[path])
        # Behind a link that leads elsewhere by now is another release.
        return fingerprint.respelled(path, folder, kept.home) if is_moved else path

    placed = fingerprint.with_host_paths(source, place)
    if placed == source:
        if loaded and _says(generation.readable(loaded.rendered), source):
            return loaded.target, ()
    else:
        where = generation.rollback_path(scene.folder, kept.stamp)
        generation.write_configuration(where, placed)
    return Target(folder, (where,), (), scene.name), tuple(used)


def _says(rendered: Mapping[str, Any], source: Mapping[str, Any]) -> bool:
    """Whether a configuration says of these services what the other does."""
    for key, value in source.items():
        now = rendered.get(key)
        if isinstance(value, dict) and not key.startswith("x-"):
            if not isinstance(now, dict):
                return False
            if any(now.get(name) != one for name, one in value.items()):
                return False
    return True
