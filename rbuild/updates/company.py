"""Containers of others that live in the namespaces of a project's containers.

An update makes those anew, and containers that share their network, pid or ipc namespace are cut
off: the engine says nothing, and neither does Compose. What recorded projects have there is
recreated, from their own files and with the images that they run; of the rest, a person is told.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rbuild.compose import externals
from rbuild.compose.loading import Loaded, load
from rbuild.compose.project import Project, Target
from rbuild.docker.engine import STOP_GRACE, Container, Engine
from rbuild.errors import EngineError, ProjectError, RbuildError
from rbuild.process import Stop
from rbuild.state import generation, lock, record
from rbuild.state.generation import RUNNING, Generation
from rbuild.state.record import Record
from rbuild.updates import namespaces
from rbuild.updates.scene import Scene

# How often one looks again: what is recreated may have company of its own.
MOST_LOOKS = 5


@dataclass(frozen=True, slots=True)
class _CutOff:
    """A container that has lost a namespace."""

    container: Container
    shared: str
    """What it shared: `vpn's network and pid`."""
    may_restart: bool
    """Whether the owner is still there, so that a restart brings it back."""


@dataclass
class _Company:
    """What is known of others around a project's own containers."""

    scene: Scene
    own: Sequence[Container]
    since: float
    owners: dict[str, str]
    """ID of a container, there or gone, in whose namespaces others may live → its service."""
    records: Mapping[str, tuple[str, Record]]
    """By Compose's name for the project: state folder and record."""
    done: set[str] = field(default_factory=set)
    """IDs of containers that have been seen to, or told of."""


def reconnect(
    scene: Scene, before: Generation | None, own: Sequence[Container], since: float
) -> None:
    """See to the containers that this run has cut off from a namespace.

    `before` is what ran when it began, `own` are the project's containers now, `since` is when the
    first of them was touched, on the engine's clock. Whatever goes wrong is a warning.
    """
    if before is None:
        return
    services = before.services.items()
    owners = {one: name for name, kept in services for one in (*kept.up, *kept.rest)}
    now = {one.id: one for one in own}
    if all(one in now and now[one].started <= since for one in owners):
        return
    owners |= {one.id: one.service for one in own}
    try:
        records = {known.name: (folder, known) for folder, known in record.living(scene.run.store)}
        company = _Company(scene, own, since, owners, records)
        for _ in range(MOST_LOOKS):
            if not _see_to(_cut_off(company), company):
                return
    except RbuildError as error:
        scene.outcome.warnings += (
            f"who shares its containers' namespaces could not be looked at: {error.message}",
        )


def _cut_off(company: _Company) -> list[_CutOff]:
    """The containers that are cut off and not yet seen to."""
    engine = company.scene.calm_engine()
    others = engine.others([one.id for one in company.own])
    everyone = {one.id: one for one in (*company.own, *others)}
    found = []
    for one in everyone.values():
        if one.id in company.done or not namespaces.has_suffered(one, company.since):
            continue
        lost = namespaces.lost(one, everyone)
        shared = [
            f"{service}'s {kind}"
            for owner, kind in lost.items()
            if (service := company.owners.get(owner) or _meant(one, company))
        ]
        if shared:
            found.append(_CutOff(one, " and ".join(shared), lost.keys() <= everyone.keys()))
    return found


def _meant(one: Container, company: _Company) -> str:
    """The own service that another project's container was to share namespaces with, where it was
    cut off by somebody else before; empty if there is none."""
    if one.project not in company.records:
        return ""
    folder, _ = company.records[one.project]
    running, _ = generation.read_configuration(os.path.join(folder, RUNNING))
    service = (running or {}).get("services", {}).get(one.service) or {}
    modes = {service.get(mode) for mode in externals.MODES}
    return next((own.service for own in company.own if f"container:{own.name}" in modes), "")


def _see_to(cut_off: Sequence[_CutOff], company: _Company) -> bool:
    """Recreate what may be, and tell of the rest; whether anything was recreated."""
    scene = company.scene
    company.done.update(one.container.id for one in cut_off)
    projects: dict[str, list[_CutOff]] = {}
    for one in cut_off:
        name = one.container.project
        is_recorded = name in company.records and name != scene.name
        if is_recorded and not one.container.oneoff and one.container.state != "paused":
            projects.setdefault(name, []).append(one)
        else:
            _warn(scene, one)
    recreated = False
    for name, theirs in projects.items():
        services = list(dict.fromkeys(one.container.service for one in theirs))
        scene.tell(f"recreate {', '.join(services)} of project {name}")
        try:
            _recreate(name, services, company)
        except RbuildError as error:
            for one in theirs:
                _warn(scene, one, error)
            continue
        recreated = True
        for one in theirs:
            news = f"recreated {one.container.name} of project {name}, which shares {one.shared}"
            scene.outcome.notes += (news,)
            scene.outcome.news += (news,)
    return recreated


def _recreate(name: str, services: Sequence[str], company: _Company) -> None:
    """Recreate services of another project. Raises RbuildError."""
    folder, known = company.records[name]
    scene = company.scene
    with _held(known, scene) as held:
        engine = scene.means.connect(Stop(), scene.log, held)
        # Another run may have worked it meanwhile.
        fresh = record.read(folder)
        if fresh is None or (fresh.underway or {}).get("touched"):
            raise ProjectError("its own last update is not settled (`rbuild status`)")
        before = engine.containers(name)
        loaded = _as_it_runs(fresh, folder, services, before, scene)
        uses = [one for one in loaded.configuration.uses if {*one.services} & {*services}]
        if absent := engine.absent([one.thing for one in uses]):
            # What it has would be gone, and nothing come of it.
            names = ", ".join(one.removeprefix("running ") for one in absent)
            raise EngineError(f"{names}: not there, or not running")
        options = _options(loaded, services, before, engine)
        settings = scene.run.settings(loaded.own_settings)
        grace = max((one.stop_grace for one in before), default=STOP_GRACE)
        company.owners.update((one.id, one.service) for one in before if one.service in services)
        engine.up(loaded.target, options, timeout=settings.up_timeout_period + grace)
        after = engine.containers(name)
        for service in services:
            own = [one for one in after if one.service == service]
            fresh.services[service]["containers"] = sorted(one.id for one in own)
        record.write(folder, fresh)
    down = [one for one in after if one.service in services and one.state != "running"]
    if down:
        raise EngineError(f"{', '.join(one.name for one in down)}: {down[0].state} after that")


@contextmanager
def _held(known: Record, scene: Scene) -> Iterator[Sequence[int]]:
    """The lock of another project, which may be in the very folder whose lock is held."""
    if known.home == scene.project.home:
        yield scene.held
        return
    with lock.hold(known.home, environ=scene.run.environ) as descriptor:
        yield (descriptor,)


def _as_it_runs(
    known: Record,
    folder: str,
    services: Collection[str],
    containers: Sequence[Container],
    scene: Scene,
) -> Loaded:
    """A project's files, as long as they say of these services what runs. Raises RbuildError."""
    engine = scene.calm_engine()
    refused: RbuildError = ProjectError("its files may say something else than what runs")
    for spelling in reversed(known.views):
        place, *files = spelling.split("\n")
        target = Target(place, tuple(files))
        project = Project(":".join(files) or place, target, known.home)
        try:
            loaded = load(project, engine, scene.run.store, scene.run.environ)
        except RbuildError as error:
            refused = error
            continue
        if loaded.folder == folder and not loaded.changed and _say_the_same(loaded, services):
            _require_images(loaded, services, containers, engine)
            return loaded
    raise refused


def _say_the_same(loaded: Loaded, services: Collection[str]) -> bool:
    """Whether the files say of services what they said when these were last brought up."""
    past = loaded.record.services if loaded.record else {}
    return all(
        one in loaded.shapes and past.get(one, {}).get("shape") == loaded.shapes[one]
        for one in services
    )


def _require_images(
    loaded: Loaded, services: Collection[str], containers: Sequence[Container], engine: Engine
) -> None:
    """Raise EngineError where a service's image is not the one that it runs."""
    names = {one: loaded.configuration.services[one].image for one in services}
    images = engine.images(list(names.values()))
    for one in containers:
        name = names.get(one.service)
        if name and (name not in images or images[name].id != one.image):
            raise EngineError(f"{name} is another image by now than the one that it runs")


def _options(
    loaded: Loaded, services: Sequence[str], containers: Sequence[Container], engine: Engine
) -> list[str]:
    """How `up` is to be called so that it recreates these services and touches no other."""
    own = loaded.configuration.services
    counts = {name: sum(one.service == name for one in containers) for name in services}
    scales = [
        f"--scale={name}={count}" for name, count in counts.items() if own[name].scale != count
    ]
    behind = list(services)
    for name in behind:
        behind += [one for one in own[name].depends_on or () if one not in behind and one in own]
    behind = behind[len(services) :]
    there = [one for one in containers if one.service in behind]
    images = engine.images([own[name].image for name in behind]) if behind else {}
    stands = {one.service for one in there} == {*behind} and all(
        one.state == "running"
        and own[one.service].image in images
        and images[own[one.service].image].id == one.image
        for one in there
    )
    # Only where it must be: Compose 2.26 makes anew, at the next plain `up`, what was made so.
    return [*scales, "--force-recreate", *([] if stands else ["--no-deps"]), "--", *services]


def _warn(scene: Scene, one: _CutOff, error: RbuildError | None = None) -> None:
    container = one.container
    whose = f" of project {container.project}" if container.project not in ("", scene.name) else ""
    why = ""
    if error:
        last = (error.detail.strip().splitlines() or [""])[-1]
        why = f" (not recreated: {error.message}{': ' if last else ''}{last})"
    scene.outcome.warnings += (
        f"{container.name}{whose} is cut off, for it shared {one.shared}, which is not the same "
        f"any more{why}: {_advice(one)}",
    )


def _advice(one: _CutOff) -> str:
    """What a person is to type."""
    container = one.container
    if one.may_restart:
        return f"docker restart {container.name}"
    if container.oneoff or not container.service:
        return "remove it, and run it anew"
    files = (part for file in container.config_files for part in ("-f", file))
    words = ["docker", "compose", "-p", container.project, *files, "up", "-d", "--force-recreate",
             container.service]  # fmt: skip
    where = f"cd {shlex.quote(container.folder)} && " if container.folder else ""
    return f"{where}{shlex.join(words)}"
