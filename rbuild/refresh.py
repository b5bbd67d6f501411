"""One pass over one project: is it due, and if so, update it. Reads top to bottom.

Lock, look; put right what a run that was cut off has left; decide; plan; then `attempt` takes
the steps (keep what runs, pull, build, up, gate, record, prune), and `undo` undoes what fails.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import NoReturn

from rbuild import attempt, told
from rbuild.compose import contexts, imagenames
from rbuild.compose.loading import Loaded, load, remember_view
from rbuild.compose.project import Project
from rbuild.decisions import moves, staleness
from rbuild.decisions.glance import Run
from rbuild.decisions.lookout import GIT
from rbuild.errors import (
    Deferred,
    EngineError,
    Interrupted,
    NeedsPerson,
    ProjectError,
    RbuildError,
    RolledBack,
    StateError,
)
from rbuild.process import Log, Stop
from rbuild.registries import credentials
from rbuild.report import Outcome
from rbuild.rollbacks import recovery, rescue
from rbuild.settings import from_json
from rbuild.sources.git import HalfMoved
from rbuild.state import checks, failure, generation, lock, logs, record
from rbuild.state.record import Record
from rbuild.updates import checkout, identity, keeping, planning, resting, stopped
from rbuild.updates.scene import Means, Scene, turn
from rbuild.updates.step import Gate, Require, Up, Watch


def refresh(project: Project, run: Run, means: Means) -> Outcome | None:
    """Look at a project in full and update it if it is due.

    Every failure of the project becomes its outcome; None if the project was worked already.
    """
    outcome = Outcome(project.path, project.path, "fresh", started=run.started)
    begun = time.monotonic()
    worked = True
    try:
        with _lock(project, run, means) as held:
            worked = _pass(project, run, means, outcome, held)
    except RbuildError as error:
        outcome.error = error
        if outcome.outcome != "updated":
            outcome.outcome = _outcome_of(error)
        if outcome.reasons and not outcome.touched and not outcome.standing:
            outcome.standing = "no container was touched"
            if outcome.steps or not isinstance(error, EngineError):
                # The engine has answered: it lives, and so does what it runs.
                outcome.standing += ": what ran before runs on"
    if not os.path.exists(outcome.log):
        outcome.log = ""
    outcome.seconds = time.monotonic() - begun
    return outcome if worked else None


def _pass(project: Project, run: Run, means: Means, outcome: Outcome, held: Sequence[int]) -> bool:
    if not run.dry_run:
        rescue.finish_move(project, run, held)
    try:
        loaded = _load(project, run, means)
    except RbuildError as error:
        _rescue_unread(project, run, means, outcome, held)
        if isinstance(error, ProjectError):
            told.once(told.of_unread(project, run), run, error, anyway=outcome.touched)
        raise
    told.is_read(project, run)
    outcome.name, outcome.notes = loaded.configuration.name, loaded.notes
    if not means.claim(loaded.folder):
        return False
    now = turn(run)
    scene = Scene(
        project=project, run=run, means=means, outcome=outcome,
        name=outcome.name, folder=loaded.folder,
        known=loaded.record, settings=run.settings(loaded.own_settings),
        log=Log(logs.path(loaded.folder, now),
                lambda line: means.tell(outcome.name, line, False)),
        now=now, held=held, loaded=loaded, changed=loaded.changed,
    )  # fmt: skip
    if not run.dry_run and os.path.lexists(scene.docker_config):
        # A killed run has left a password there.
        credentials.remove(scene.docker_config)
    try:
        _work(scene, loaded)
        told.over(scene.folder, run)
    except RbuildError as error:
        _tell_early(scene, error)
        raise
    finally:
        scene.log.close()
    return True


def _tell_early(scene: Scene, error: RbuildError) -> None:
    """What has failed before there was an update: told once, and by how the project stands."""
    outcome, run, settings = scene.outcome, scene.run, scene.settings
    note = (scene.known.underway if scene.known else None) or {}
    if note.get("touched") and not outcome.touched and not outcome.standing:
        outcome.standing = (
            "an earlier run has left it in need of a person (`rbuild status`)"
            if note.get("going") == "over"
            else "an earlier run was cut off here, which is not put right yet"
        )
    if scene.begun:
        told.over(scene.folder, run)
    # Where the checkout was put back, the new commit waits by itself.
    elif isinstance(error, ProjectError | HalfMoved) and not scene.restored:
        assert scene.loaded
        subject = told.of_loaded(scene.loaded, settings, run)
        is_news = told.once(subject, run, error, anyway=outcome.touched)
        if is_news and "on-failure" in settings.hooks:
            outcome.outcome = "failed"
            with suppress(StateError):
                scene.open_log()
            scene.run_hook("on-failure", generation="", error=error.message, stop=Stop())


def _load(project: Project, run: Run, means: Means) -> Loaded:
    return load(project, means.connect(means.stop, None, ()), run.store, run.environ)


def _work(scene: Scene, loaded: Loaded) -> None:
    run, outcome = scene.run, scene.outcome
    if loaded.damaged:
        scene.known, scene.changed = recovery.recover(loaded, run, scene.engine, outcome)
    resumes = False
    if rescue.is_torn(scene.known) and not run.dry_run:
        scene.info = scene.engine.check()
        scene.open_log()
        resumes = rescue.may_go_on(scene, scene.engine)
        outcome.reasons = _decide(scene, looks_into_contexts=False).reasons
        if not resumes:
            _go_back(scene)
    try:
        _go_on(scene, resumes)
    except Interrupted:
        raise
    except RbuildError:
        if resumes and not scene.begun:
            # It can't be brought to its end after all.
            _back_to_what_ran(scene)
        raise


def _go_back(scene: Scene) -> None:
    """What a cut-off run has torn goes back. If it can't, whoever asks for a build gets one."""
    try:
        rescue.go_back(scene)
    except NeedsPerson as error:
        if not scene.run.forced:
            raise
        scene.outcome.warnings += (f"{error.message}: built anew, as asked for",)
        scene.known = record.read(scene.folder)


def _go_on(scene: Scene, resumes: bool) -> None:
    """With nothing torn, or with an update that `resumes` where it was cut off."""
    reload = partial(_load, scene.project, scene.run, scene.means)
    if scene.restored:
        scene.take(reload())
    _refuse_wrong(scene)
    if checkout.is_on(scene):
        try:
            checkout.look(scene)
            if not resumes:
                checkout.advance(scene, reload)
                _refuse_wrong(scene)
            _decide_and_update(scene, resumes)
        except RbuildError as error:
            checkout.fail(scene, error)
            raise
    else:
        _decide_and_update(scene, resumes)


def _back_to_what_ran(scene: Scene) -> None:
    """What a cut-off run has torn goes back, though something else is to be told."""
    scene.info = scene.engine.check()
    rescue.go_back(scene)
    scene.outcome.standing = f"what a cut-off run had torn runs again; {scene.outcome.standing}"


def _refuse_wrong(scene: Scene) -> None:
    """Raise ProjectError for what no update can be made of."""
    assert scene.loaded
    imagenames.refuse_invalid(scene.loaded, up=scene.settings.up)
    _refuse_push(scene)


def _refuse_push(scene: Scene) -> None:
    """Raise ProjectError if there is to be pushed what can't be."""
    if not scene.settings.push:
        return
    assert scene.loaded
    where = f"{scene.settings.from_files['push'].origin}: push: true, but"
    if scene.settings.up:
        raise ProjectError(
            f"{where} the project is also brought up",
            hint="only what is just built is pushed: set up: false, or leave push out",
        )
    services = scene.loaded.configuration.services.values()
    if not any(one.build and (one.is_named or one.tags) for one in services):
        raise ProjectError(
            f"{where} no image that it builds has a name of its own",
            hint="give services image: or build: {tags: …} with the registry, or leave push out",
        )


def _decide_and_update(scene: Scene, resumes: bool) -> None:
    run, outcome, loaded = scene.run, scene.outcome, scene.loaded
    assert loaded
    # What is torn does not wait for registries.
    new = () if resumes else _look_around(scene)
    if not resumes:
        stopped.look(scene)
    decision = _decide(scene)
    outcome.reasons, outcome.due = decision.reasons, decision.due
    _finish_cleaning(scene)
    if not resumes:
        if scene.blocked and GIT in new and not decision.stale:
            mine = tuple(one for one in outcome.warnings if not one.startswith(moves.told_of(GIT)))
            outcome.warnings = mine
            raise scene.blocked
        _respect_failure(scene, loaded, stale=decision.stale)
        if scene.known is not None and not decision.stale:
            _learn(scene.known, scene, loaded)
            return

    scene.info = scene.info or scene.engine.check()
    if scene.settings.up and not resumes:
        identity.check(scene, loaded)
    made, kept = planning.prepare(scene, loaded)
    if resumes:
        assert scene.known
        last = tuple(
            _only_old(step, scene, kept) if isinstance(step, Up) else step
            for step in made.steps
            if isinstance(step, Require | Up | Gate | Watch)
        )
        limited = bool((scene.known.underway or {}).get("limited"))
        made = replace(made, steps=last, limited=limited)
    outcome.notes += made.notes
    outcome.bases = made.bases
    outcome.steps = tuple(map(str, made.steps))
    if run.dry_run:
        if scene.more:
            outcome.steps = ("fast-forward the checkout, and plan anew", *outcome.steps)
        outcome.outcome = "planned"
        return
    scene.open_log()
    scene.log.line(f"rbuild: {scene.name}: {'; '.join(': '.join(one) for one in outcome.reasons)}")
    attempt.take(scene, loaded, made, kept, resumed=resumes)


def _only_old(up: Up, scene: Scene, kept: str) -> Up:
    """What the run that was cut off has made anew already is not made anew again."""
    if not up.recreate:
        return up
    before = generation.read(scene.folder, kept)
    old = before.containers if before else frozenset()
    containers = scene.engine.containers(scene.name)
    stay = {container.service for container in containers if container.id in old}
    return replace(up, recreate=tuple(name for name in up.recreate if name in stay))


def _look_around(scene: Scene) -> Collection[str]:
    """What has moved under the project, and what could not be asked; gives what of that is new."""
    lookout = scene.means.lookout
    if lookout is None:
        return ()
    scene.moves = lookout.moves(scene.known, scene.settings, scene.folder)
    unchecked = {**scene.moves.unchecked, **scene.unchecked}
    scene.moves = scene.moves._replace(unchecked=unchecked)
    if scene.known is None and not unchecked:
        return ()
    asked = checkout.is_on(scene) and not scene.run.dry_run
    return lookout.tell(scene.outcome, scene.moves, scene.folder, git=asked)


def _decide(scene: Scene, *, looks_into_contexts: bool = True) -> staleness.Decision:
    """Whether it is due. Build contexts may be unreadable; what is torn must not wait for that."""
    contexts_changed: tuple[str, ...] = ()
    if looks_into_contexts and scene.contexts:
        contexts_changed = scene.contexts.changed
    decision = staleness.decide(
        scene.known,
        (*scene.changed, *contexts_changed),
        (*checkout.reasons(scene), *scene.more, *scene.moves.reasons, *scene.awake.values()),
        build_period=scene.settings.build_period,
        forced=scene.run.forced,
        now=scene.now,
    )
    kinds = [reason.kind for reason in decision.reasons]
    assert scene.loaded
    scene.due_to_suspects = (
        kinds == ["changed"] and not contexts_changed and scene.loaded.only_suspects
    )
    return decision


def _respect_failure(scene: Scene, loaded: Loaded, *, stale: bool) -> None:
    """Raise Deferred for an update that failed before and whose time has not come."""
    failed = scene.known.failed if scene.known else None
    if scene.held_back and not stale:
        _put_off(scene, scene.held_back)
    if not failed or scene.run.forced:
        return
    if not stale and failed["kind"] != failure.LEFT:
        # The files are again what runs.
        return
    if scene.is_there_now(failed):
        return
    bases_now = scene.engine.images(list(failed["bases"])) if failed["bases"] else {}
    waits = failure.waiting(
        failed,
        inputs=scene.inputs,
        bases={name: bases_now[name].id if name in bases_now else "" for name in failed["bases"]},
        digests=scene.moves.digests,
        commit=scene.commit,
        now=scene.now,
    )
    if waits:
        _put_off(scene, waits)


def _put_off(scene: Scene, waits: failure.Waiting) -> NoReturn:
    if not scene.run.dry_run:
        # It is what was tried: nothing was wrong before that.
        checks.clear(scene.folder)
        if scene.known and scene.known.suspects:
            # They have rested for once.
            scene.known.suspects = {}
            with suppress(StateError):
                record.write(scene.folder, scene.known)
    scene.outcome.retry = waits.until
    until = f"not before {record.stamp(waits.until)[:16]}Z" if waits.until else "not by itself"
    raise Deferred(
        f"the last update failed, and is tried again {until}: {waits.message}"
        if waits.kind != failure.LEFT
        else f"{waits.message}: not updated until an input changes",
        hint="--force-rebuild tries it now",
    )


def _learn(known: Record, scene: Scene, loaded: Loaded) -> None:
    """Nothing is due: remember how it looks, so that the next look is short."""
    if scene.run.dry_run:
        return
    remember_view(known, loaded)
    # The same, but for what has become data, or is none any more.
    known.digests = dict(loaded.digests)
    scene.remember_data(known)
    if not scene.moves.unchecked:
        # What failed, or was left by hand, is no longer what the files say.
        known.failed = None
    if scene.contexts:
        contexts.remember(scene.folder, known, scene.contexts)
    if scene.commit and not known.commit:
        known.commit = scene.commit
    known.held = scene.still_held()
    if scene.moves.unknown:
        scene.info = scene.info or scene.engine.check()
        made, _ = planning.prepare(scene, loaded)
        known.rests = resting.complete(
            known.rests, resting.found(made.rests, scene.engine, {}, resting.makers(scene)), scene
        )
    record.write(scene.folder, known)


def _finish_cleaning(scene: Scene) -> None:
    """A run before was cut off while it cleaned up."""
    known = scene.known
    if known is None or not known.untidy or known.underway or scene.run.dry_run:
        return
    try:
        scene.info = scene.info or scene.engine.check()
        keeping.tidy(scene, known)
    except EngineError:
        # Nothing hangs on it today; the next run tries again.
        return


def _rescue_unread(
    project: Project, run: Run, means: Means, outcome: Outcome, held: Sequence[int]
) -> None:
    """What a cut-off run has left of a project that can't be read any more goes back.

    By its record alone: whoever is half way through editing a file sleeps as well.
    """
    if run.dry_run:
        return
    for folder, known in record.known_as(run.store, project.paths, project.spelling):
        if not rescue.is_torn(known) or not means.claim(folder):
            continue
        view = known.views[project.spelling]
        outcome.name = known.name
        now = turn(run)
        scene = Scene(
            project=project, run=run, means=means, outcome=outcome, name=known.name,
            folder=folder, known=known, settings=run.settings(from_json(view.get("settings", {}))),
            log=Log(logs.path(folder, now)), now=now, held=held,
        )  # fmt: skip
        try:
            scene.open_log()
            _back_to_what_ran(scene)
        finally:
            scene.log.close()


def _outcome_of(error: RbuildError) -> str:
    match error:
        case Deferred():
            return "deferred"
        case RolledBack():
            return "rolled-back"
        case NeedsPerson():
            return "needs-a-person"
    return "failed"


@contextmanager
def _lock(project: Project, run: Run, means: Means) -> Iterator[Sequence[int]]:
    """The project's lock; a dry run changes nothing and asks for none."""
    if run.dry_run:
        yield ()
        return
    with lock.hold(
        project.home, wait=means.lock_wait, stop=means.stop, environ=run.environ
    ) as descriptor:
        yield (descriptor,)
