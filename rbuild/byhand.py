"""`rbuild rollback`: goes back, because a person says so, to a generation that was kept."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

from rbuild.compose.loading import load
from rbuild.compose.project import Project
from rbuild.decisions.glance import Run
from rbuild.decisions.moves import MADE
from rbuild.docker.engine import Container
from rbuild.errors import Deferred, Interrupted, NeedsPerson, ProjectError, RbuildError, RolledBack
from rbuild.process import Log
from rbuild.report import Outcome
from rbuild.rollbacks import rescue, rollback, wayback
from rbuild.state import failure, generation, lock, logs, record
from rbuild.state.generation import AS_BUILT, RUNNING, UP, Generation
from rbuild.state.record import Record, stamp
from rbuild.updates import checkout, company, keeping, underway
from rbuild.updates.plan import leave_alone
from rbuild.updates.scene import Means, Scene, turn


def roll_back(
    project: Project, run: Run, means: Means, *, to: str = "", force: bool = False
) -> Outcome | None:
    """Bring a project back to the generation `to`, or the newest one that is kept.

    A generation in which services did not run that run now is refused, unless `force` is set.
    What is left is known bad: no timer brings it back until an input changes. Every failure
    becomes the outcome; None if the project was worked already.
    """
    outcome = Outcome(project.path, project.path, "rolled-back", started=run.started)
    begun = time.monotonic()
    try:
        with lock.hold(
            project.home, wait=means.lock_wait, stop=means.stop, environ=run.environ
        ) as held:
            loaded = load(project, means.connect(means.stop, None, ()), run.store, run.environ)
            outcome.name, outcome.notes = loaded.configuration.name, loaded.notes
            if not means.claim(loaded.folder):
                return None
            now = turn(run)
            scene = Scene(
                project=project, run=run, means=means, outcome=outcome, name=outcome.name,
                folder=loaded.folder, known=loaded.record,
                settings=run.settings(loaded.own_settings),
                log=Log(logs.path(loaded.folder, now),
                        lambda line: means.tell(outcome.name, line, False)),
                now=now, held=(held,), loaded=loaded,
            )  # fmt: skip
            try:
                _go(scene, to, force=force)
            finally:
                scene.log.close()
    except RbuildError as error:
        outcome.error = error
        if isinstance(error, Deferred):
            outcome.outcome = "deferred"
        elif isinstance(error, NeedsPerson):
            outcome.outcome = "needs-a-person"
        elif not isinstance(error, RolledBack):
            outcome.outcome = "failed"
            if not outcome.touched:
                outcome.standing = "no container was touched: what ran before runs on"
    if not os.path.exists(outcome.log):
        outcome.log = ""
    outcome.seconds = time.monotonic() - begun
    return outcome


def _go(scene: Scene, to: str, *, force: bool) -> None:
    assert scene.loaded
    loaded, known = scene.loaded, scene.known
    if known is None:
        raise ProjectError(
            f"{scene.project.path}: rbuild has no record of an update that could be undone"
        )
    scene.info = scene.engine.check()
    if rescue.is_torn(known):
        raise ProjectError(
            "a run was cut off here: `rbuild` puts that right first",
            hint="then roll back, if it's still needed",
        )
    wanted = _choose(scene, to)
    containers = generation.ours(
        scene.engine.containers(scene.name), scene.folder, loaded.inputs.main_files
    )
    if not force:
        _refuse_to_stop(wanted, containers)
    scene.open_log()
    scene.log.line(f"rbuild: {scene.name}: rollback to {wanted.stamp}, asked for by a person")
    note = underway.go_on(
        scene.folder, Record(**{**vars(known), "underway": _note(scene, known, containers)})
    )
    try:
        note.rewrite()
        here = _keep(scene, known, containers)
        scene.means.stop.check()
    except RbuildError:
        generation.forget(scene.folder, note.note["generation"])
        record.write(scene.folder, known)
        raise
    scene.outcome.touched = True
    scene.outcome.generation = wanted.stamp
    if note.note["stay"]:
        scene.outcome.warnings += (
            f"{', '.join(note.note['stay'])}: stays on its image (`rollback: never`)",
        )
    # Before anything is brought up: files of the checkout may be mounted.
    left = checkout.go_back(scene, str(wanted.past.get("commit", "")))
    way = wayback.go(scene, wanted, note)
    scene.outcome.warnings += way.warnings
    if left:
        with suppress(RbuildError):
            engine = scene.means.connect(scene.means.stop, None, ())
            scene.loaded = load(scene.project, engine, scene.run.store, scene.run.environ)
    if way.problem is None:
        company.reconnect(scene, here, way.containers, note.touched_at(scene.clock_ahead))
        _arrive(scene, wanted, here, way, left)
    else:
        checkout.go_back(scene, left)
        _return(scene, here, note, way.problem)


def _choose(scene: Scene, to: str) -> Generation:
    """The generation to go back to, all of whose images are here. Raises ProjectError."""
    stamps = generation.stamps(scene.folder)
    if to and to not in stamps:
        kept = ", ".join(stamps) or "none"
        raise ProjectError(
            f"no generation {to} is kept; there is: {kept}", hint="--keep-images says how many"
        )
    broken: list[str] = []
    for name in [to] if to else stamps:
        found = generation.read(scene.folder, name)
        gone = generation.lacking(found, scene.engine) if found else []
        if found and not gone:
            scene.outcome.warnings += tuple(f"passed over: {one}" for one in broken)
            return found
        if found:
            broken.append(f"generation {name}: the kept image of {', '.join(gone)} is gone")
    if broken:
        raise ProjectError(
            broken[0],
            detail="\n".join(broken[1:]),
            hint="nothing was touched; `rbuild status` lists the generations that are whole",
        )
    raise ProjectError(
        "no generation is kept that one could go back to",
        hint="the first one is kept by the first update of what runs; --keep-images says how many",
    )


def _refuse_to_stop(wanted: Generation, containers: Sequence[Container]) -> None:
    """Raise ProjectError where a rollback would end services that run, and start nothing for them.

    What came with a later update goes with it.
    """
    stops = {one.service for one in containers if one.state in UP and not one.oneoff}
    if wanted.ran:
        down = (name for name, kept in wanted.services.items() if not kept.up and not kept.left)
        stops &= {*down}
    if stops:
        names = ", ".join(sorted(stops))
        raise ProjectError(
            f"{f'{names} did not run' if wanted.ran else 'nothing ran'} in generation "
            f"{wanted.stamp}: a rollback to it would stop {names}",
            hint="--to GENERATION takes another one, --force this one all the same",
        )


def _keep(scene: Scene, known: Record, containers: Sequence[Container]) -> Generation:
    """Keep what runs now, for the case that the way back fails, or is itself to be undone."""
    assert scene.loaded
    services = scene.loaded.configuration.services
    names = [name for one in services.values() for name in one.images]
    images = scene.engine.images(names)
    assert scene.info
    one, missing = keeping.keep(
        scene.loaded,
        known,
        containers,
        generation.name_of(scene.now),
        engine=scene.engine,
        info=scene.info,
        names={name: image.id for name, image in images.items()},
        left={},
        failing=keeping.in_trouble(containers, scene.engine_time()),
    )
    scene.outcome.warnings += tuple(
        f"if the rollback fails, {name} can't be brought back as it runs now: {why}"
        for name, why in missing.items()
    )
    here = scene.engine.images([kept.image for kept in one.services.values()])
    for kept in one.services.values():
        if kept.image in here:
            scene.engine.tag(kept.image, kept.tag)
    return one


def _note(scene: Scene, known: Record, containers: Sequence[Container]) -> dict[str, Any]:
    assert scene.loaded
    services = scene.loaded.configuration.services
    return {
        "since": stamp(scene.run.started),
        "step": "rollback",
        "generation": generation.name_of(scene.now),
        "touched": True,
        "stopping": False,
        "going": "back",
        "by_hand": True,
        "error": "",
        "lost": 0,
        "inputs": scene.inputs,
        # What somebody else has started beside it is not of the update that is left.
        "services": list(known.services),
        "stay": [name for name, one in services.items() if one.stays_new],
        "leave": list(leave_alone(scene.loaded.configuration, containers)),
    }


def _arrive(
    scene: Scene, wanted: Generation, here: Generation, way: wayback.Way, commit: str
) -> None:
    """Write down what runs now, and that what was left is not to be tried again by itself.

    `commit` is what the checkout was at, if it was moved.
    """
    assert scene.known
    path = generation.configuration_path(scene.folder, wanted.stamp)
    configuration, _ = generation.read_configuration(path)
    before = scene.known.failed or {}
    as_built = {part: wanted.past[part] for part in AS_BUILT if part in wanted.past}
    after = Record(**{**vars(scene.known), **as_built, "underway": None})
    if configuration is not None:
        running = os.path.join(scene.folder, RUNNING)
        after.configuration = generation.write_configuration(running, configuration)
    if as_built:
        after.views = {}
    keeping.renew_containers(scene.folder, after, wanted, wanted.services, way.containers)
    # Of several ways back in a row, the first one left what the files say.
    left = before["left"] if before.get("kind") == failure.LEFT else here.stamp
    after.failed = None
    if wanted.stamp != left:
        after.failed = failure.failed(
            None,
            inputs=scene.inputs,
            bases={},
            digests=_left_digests(here),
            kind=failure.LEFT,
            message=f"left by hand on {stamp(scene.run.started)[:16]}Z for {wanted.stamp}",
            log=scene.log.path,
            now=time.time(),
            build_period=scene.settings.build_period,
        )
        after.failed["left"] = left
        if commit:
            after.held = {**after.failed, "commit": commit}
    after.untidy = True
    record.write(scene.folder, after)
    # What runs again is no earlier generation; what was left is one.
    generation.forget(scene.folder, wanted.stamp)
    keep = max(1, scene.settings.keep_images)
    try:
        after.superseded = keeping.let_go(
            scene.folder, scene.engine, scene.name, keep, after.superseded, also=here.stamp
        )
        after.untidy = False
        record.write(scene.folder, after)
    except Interrupted:
        raise
    except RbuildError as error:
        scene.outcome.warnings += (f"not all is cleaned up: {error.message}",)


def _left_digests(here: Generation) -> dict[str, list[str]]:
    """What was left rests on: only something newer is worth a try."""
    rests = here.past.get("rests") or {}
    return {
        name: [text.removeprefix(MADE) for text in one]
        for kind in rests.values()
        for name, one in kind.items()
    }


def _return(
    scene: Scene, here: Generation, note: underway.Underway, problem: RbuildError
) -> NoReturn:
    """The generation does not run as it should: forward again to what ran until now."""
    way = wayback.go(scene, here, note)
    company.reconnect(scene, here, way.containers, note.touched_at(scene.clock_ahead))
    up = [name for name, one in here.services.items() if one.up]
    scene.outcome.standing = rollback.what_runs(way.containers, scene.engine_time(), up)
    if way.problem is None:
        keeping.renew_containers(scene.folder, note.base, here, way.moved, way.containers)
        if note.leave(note.base.failed):
            generation.forget(scene.folder, here.stamp)
        raise RolledBack(
            f"{problem.message}: what ran until now runs again",
            detail=problem.detail,
            hint=problem.hint,
        )
    failed = failure.failed(
        None, inputs=scene.inputs, bases={}, kind=failure.TOUCHED, message=problem.message,
        log=scene.log.path, now=time.time(), build_period=scene.settings.build_period,
    )  # fmt: skip
    note.end_in_need(failed, way.containers)
    typed = "".join(f"\n    {line}" for line in way.commands)
    raise NeedsPerson(
        f"{problem.message}; and what ran until now could not be brought up again: "
        f"{way.problem.message}",
        detail="\n".join(filter(None, (problem.detail, way.problem.detail))),
        hint=f"type:{typed}" if typed else "",
    )
