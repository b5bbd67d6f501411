"""One pass over one project: is it due, and if so, update it. Reads top to bottom.

Lock, look, decide; plan; keep what runs, pull, build, up, gate; record; prune. The record is
written before the prune: a failed prune must not cause a rebuild. What fails before a
container is touched is put back as it was.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from rbuild import bases, lock, plan, prune, record, recovery, staleness, steps
from rbuild.engine import Container, Engine, EngineInfo
from rbuild.errors import Busy, EngineError, Interrupted, RbuildError, StateError
from rbuild.glance import Run
from rbuild.health import was_failing
from rbuild.loading import Loaded, load, remember_view
from rbuild.plan import Plan
from rbuild.process import Log, Stop
from rbuild.project import Project
from rbuild.record import Record
from rbuild.report import Outcome
from rbuild.underway import (
    Underway,
    kept_as,
    made_elsewhere,
    make_room_for_log,
    new_log,
    real_files,
    tracked,
    tracked_before,
    updated,
    write_labels,
)

Connect = Callable[[Stop, Log | None, Sequence[int]], Engine]


@dataclass(frozen=True, slots=True)
class Means:
    """What a pass works with beside its project."""

    connect: Connect
    """Makes an engine that ends with a Stop, writes to a Log and hands on descriptors."""
    stop: Stop
    claim: Callable[[str], bool]
    """Whether a state folder is still free in this run: a project named twice is worked once."""
    tell: Callable[[str, str, bool], None]
    """Takes a project's name, a line about its progress, and whether that is a step of ours."""


def refresh(project: Project, run: Run, means: Means) -> Outcome | None:
    """Look at a project in full and update it if it is due.

    Every failure of the project becomes its outcome; None if the project was worked already.
    """
    outcome = Outcome(project.path, project.path, "fresh", started=run.started)
    begun = time.monotonic()
    worked = True
    try:
        with _lock(project, run) as held:
            worked = _pass(project, run, means, outcome, held)
    except RbuildError as error:
        outcome.error = error
        if outcome.outcome != "updated":
            outcome.outcome = "deferred" if isinstance(error, Busy) else "failed"
        if outcome.reasons and not outcome.touched:
            outcome.standing = "no container was touched"
            if outcome.steps or not isinstance(error, EngineError):
                # The engine has answered: it lives, and so does what it runs.
                outcome.standing += ": what ran before runs on"
    if not os.path.exists(outcome.log):
        outcome.log = ""
    outcome.seconds = time.monotonic() - begun
    return outcome if worked else None


def _pass(project: Project, run: Run, means: Means, outcome: Outcome, held: Sequence[int]) -> bool:
    loaded = load(project, means.connect(means.stop, None, ()), run.store, run.environ)
    name = outcome.name = loaded.configuration.name
    outcome.notes = loaded.notes
    if not means.claim(loaded.folder):
        return False
    log = Log(new_log(loaded, run.started), lambda line: means.tell(name, line, False))
    engine = means.connect(means.stop, log, held)
    try:
        known, changed = loaded.record, loaded.changed
        if loaded.damaged:
            known, changed = recovery.recover(loaded, run, engine, outcome)
        settings = run.settings(loaded.own_settings)
        decision = staleness.decide(
            known,
            changed,
            build_period=settings.build_period,
            forced=run.forced,
            now=run.started,
        )
        outcome.reasons, outcome.due = decision.reasons, decision.due
        if known is not None and not decision.stale:
            _learn(known, loaded, run)
            return True

        info = engine.check()
        made = _plan(loaded, known, run, engine, info)
        outcome.notes += made.notes
        outcome.bases = made.bases
        outcome.steps = tuple(map(str, made.steps))
        if run.dry_run:
            outcome.outcome = "planned"
            return True
        run.store.make(loaded.folder)
        make_room_for_log(log.path)
        outcome.log = log.path
        work = steps.Work(
            engine=engine,
            target=loaded.target,
            configuration=loaded.configuration,
            settings=settings,
            overlay=write_labels(loaded, run.started),
            clock_ahead=info.clock_ahead,
            stop=means.stop,
            tell=lambda text: means.tell(name, text, True),
            engine_here=info.here,
            made=list(made.made),
        )
        _update(loaded, known, made, work, run, means, log, outcome)
    finally:
        log.close()
    return True


def _plan(loaded: Loaded, known: Record | None, run: Run, engine: Engine, info: EngineInfo) -> Plan:
    """Ask the engine what is there, and plan. Changes nothing."""
    configuration = loaded.configuration
    services = configuration.services
    interrupted = (known.underway if known else None) or {}
    containers = engine.containers(configuration.name)
    images = engine.images(
        [name for one in services.values() if one.has_image for name in (one.image, *one.tags)]
    )
    torn = bool(interrupted.get("touched"))
    left = plan.leave_alone(configuration, containers, interrupted.get("stopped") or (), torn)
    unbuilt = plan.leave_unbuilt(configuration, left, images)
    needs = bases.find(configuration, _read_file, info.platform, unbuilt)
    images |= engine.images([one.reference for one in needs.needs])
    local = known.local if known else []
    images = {
        name: replace(one, pulled=False) if one.pulled is None and one.id in local else one
        for name, one in images.items()
    }
    strange = {one.service for one in containers} - services.keys()
    past = known.services if known else {}
    return plan.make(
        configuration,
        needs,
        plan.Observed(
            containers,
            images,
            made_elsewhere(run.store, loaded.folder, real_files(loaded)),
            engine.all_services(loaded.target) if strange else None,
            bool(left)
            and plan.stand_as_they_are(
                configuration,
                left,
                containers,
                images,
                engine.hashes(loaded.target),
                _unchanged(loaded, past, containers),
            ),
        ),
        left=left,
        stamp=kept_as(known, run.started),
        scales_before={name: one["scale"] for name, one in past.items()},
        scales_interrupted=interrupted.get("scales") or {} if torn else None,
        names_interrupted={} if torn else interrupted.get("names") or {},
        # What an update of ours has broken is not what was failing anyway.
        failing=interrupted.get("failing") or ()
        if torn
        else [
            one.service
            for one in containers
            if not one.oneoff and was_failing([one], time.time() + info.clock_ahead)
        ],
        ended_before={name: one["ended"] for name, one in past.items()},
        compose_files=loaded.inputs.main_files,
    )


def _unchanged(
    loaded: Loaded, past: Mapping[str, Mapping[str, Any]], containers: Sequence[Container]
) -> list[str]:
    """Services whose configuration and containers are those of the last good update."""
    return [
        name
        for name, shape in loaded.shapes.items()
        if past.get(name, {}).get("shape") == shape
        and past[name]["containers"]
        == sorted(one.id for one in containers if one.service == name and not one.oneoff)
    ]


def _update(
    loaded: Loaded,
    known: Record | None,
    made: Plan,
    work: steps.Work,
    run: Run,
    means: Means,
    log: Log,
    outcome: Outcome,
) -> None:
    """Take the steps; what fails before containers are touched leaves all as it was."""
    name = loaded.configuration.name
    log.line(f"rbuild: {name}: {'; '.join(': '.join(one) for one in outcome.reasons)}")
    underway = Underway(loaded, known, made, run.started)
    try:
        for step in made.steps:
            underway.enter(step, certain=not work.touched, tracked=tracked(work))
            work.tell(str(step))
            log.line(f"== {step}")
            steps.run(step, work)
    except BaseException as error:
        log.line(f"failed: {error}")
        outcome.touched = work.touched
        outcome.warnings += tuple(work.warnings)
        if not work.touched:
            # An engine that no signal stops: this must come to its end.
            calm = means.connect(Stop(), log, ())
            outcome.warnings += tuple(_put_back(made, work, calm, known, name))
            if not isinstance(error, Interrupted):
                underway.leave()
        elif not isinstance(error, Interrupted):
            _drop_failed(work, known, name)
        underway.note_failure(error, log.path)
        raise

    after = updated(loaded, known, made, work, run.started)
    outcome.touched = work.touched
    try:
        record.write(loaded.folder, after)
    except StateError:
        outcome.standing = (
            "the services are updated and healthy, but that could not be written down: "
            "the next run updates them again"
        )
        raise
    underway.forget_failure()
    outcome.outcome = "updated"
    outcome.notes += tuple(work.notes)
    outcome.due = staleness.due_at(after.built_at, work.settings.build_period)
    outcome.services = _services(made, after)
    work.tell("prune")
    try:
        _prune(after, work, name)
        record.write(loaded.folder, after)
    except Interrupted:
        outcome.standing = "the update is done; only cleaning up was cut short"
        raise
    except RbuildError as error:
        work.warnings.append(f"updated, but not all is cleaned up: {error.message}")
    outcome.warnings += tuple(work.warnings)


def _prune(after: Record, work: steps.Work, name: str) -> None:
    engine, settings = work.engine, work.settings
    prune.remove_leftovers(engine, name)
    after.superseded = prune.tidy(engine, name, settings.keep_images, after.superseded)
    if settings.prune_image_cache:
        engine.prune_build_cache()


def _put_back(
    made: Plan, work: steps.Work, engine: Engine, known: Record | None, name: str
) -> list[str]:
    """Undo what was built and pulled; gives what could not be undone."""
    problems = []
    try:
        for step in made.steps:
            if isinstance(step, plan.Keep):
                problems += steps.put_back(step, work.kept, engine)
        # Half of a failed build is left over each time, until the disk is full.
        tracked_ids = [*tracked_before(known), *tracked(work)]
        there = prune.tidy(engine, name, max(1, work.settings.keep_images), tracked_ids)
        if known is not None:
            # What was pulled has lost its name again, but the next try may want it.
            new = [one for one in (*there, *work.pulled) if one not in known.superseded]
            nameless = [one.id for one in engine.images(new).values() if not one.tags]
            known.superseded += dict.fromkeys(nameless)
    except RbuildError as error:
        problems.append(error.message)
    return [f"not put back: {problem}" for problem in problems]


def _drop_failed(work: steps.Work, known: Record | None, name: str) -> None:
    """Each try builds anew: what an earlier one left must not fill the disk."""
    try:
        tracked_ids = [*tracked_before(known), *tracked(work)]
        prune.tidy(work.engine, name, max(1, work.settings.keep_images), tracked_ids)
    except RbuildError as error:
        work.warnings.append(f"not all is cleaned up: {error.message}")


def _learn(known: Record, loaded: Loaded, run: Run) -> None:
    """Nothing changed but how it looks: remember that, so that the next look is short."""
    if not run.dry_run:
        remember_view(known, loaded)
        record.write(loaded.folder, known)


def _services(made: Plan, after: Record) -> list[dict[str, object]]:
    return [
        {"name": name, "state": made.left.get(name, one["state"]), "image": one["reference"],
         "image_id": one["image"]}
        for name, one in after.services.items()
    ]  # fmt: skip


def _read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


@contextmanager
def _lock(project: Project, run: Run) -> Iterator[Sequence[int]]:
    """The project's lock; a dry run changes nothing and asks for none."""
    if run.dry_run:
        yield ()
        return
    with lock.hold(project.home) as descriptor:
        yield (descriptor,)
