"""Undoes an update that failed: names put back, or all the way back to what ran.

The one place that knows what a failure means: nothing touched (1), rolled back (3), in need of
a person (4), put off (75), interrupted (128 + n, or an engine that went away).
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from rbuild.docker.engine import Engine, Port
from rbuild.errors import (
    AbsentError,
    CutOff,
    Deferred,
    EngineError,
    Interrupted,
    NeedsPerson,
    RbuildError,
    RolledBack,
    StateError,
)
from rbuild.process import Stop
from rbuild.rollbacks import rollback, wayback
from rbuild.state import failure, generation
from rbuild.state.generation import Generation
from rbuild.updates import checkout, company, keeping, steps
from rbuild.updates.plan import Plan
from rbuild.updates.scene import Scene
from rbuild.updates.step import Keep
from rbuild.updates.underway import Underway, tracked, tracked_before

# How often an engine may go away under one update, or the way back from an interruption fail,
# before that counts as the update's failure.
MOST_LOSSES = 3


def undo(
    scene: Scene, made: Plan, work: steps.Work, note: Underway, error: BaseException
) -> NoReturn:
    """Undo what was done, write down what failed, and raise what is to be reported."""
    interrupted = _is_interruption(error)
    if not interrupted and not isinstance(error, Deferred | StateError):
        # What containers write themselves is no other input, which would be tried at once.
        before = note.base.data
        scene.remember_data(note.base)
        # Its digests are those of before, too.
        note.base.data = {**before, **note.base.data}
        note.has_tried(scene.inputs)
    engine = scene.calm_engine()
    try:
        engine.check()
    except RbuildError as gone:
        _lose_engine(scene, note, error, gone)
    if not work.touched:
        tried = scene.commit
        checkout.restore(scene, note.base)
        problems = _put_back(scene, made, work, note, engine)
        scene.outcome.warnings += tuple(f"not put back: {problem}" for problem in problems)
        if interrupted:
            note.rest_untouched(tracked(work))
        elif isinstance(error, Deferred):
            note.withdraw()
        elif isinstance(error, StateError):
            # A full disk says nothing of what was tried, and may not take in what failed.
            note.withdraw()
            _tell_failure(scene, "failed", error, note)
        else:
            failed = _failed(scene, note, engine, error, failure.UNTOUCHED)
            note.leave_untouched(_place(scene, note, failed, tried))
            _tell_failure(scene, "failed", error, note)
        raise error
    note.turn(error, is_failure=not interrupted)
    turn_back(scene, note, error, [*tracked(work), *work.pulled])


def turn_back(
    scene: Scene, note: Underway, error: BaseException, new: Sequence[str] = ()
) -> NoReturn:
    """Go back to the kept generation, write down what came of it, and raise it.

    `new` are IDs of images that the update has made or pulled.
    """
    outcome = scene.outcome
    outcome.touched = True
    interrupted = _is_interruption(error)
    engine = scene.calm_engine()
    kept = generation.read(scene.folder, note.note["generation"])
    images = [*tracked_before(scene.known), *note.new_images(), *new]
    failed = None if interrupted else _failed(scene, note, engine, error, failure.TOUCHED)
    if kept is not None and kept.ran:
        # Before anything is brought up: files of the checkout may be mounted.
        tried = scene.commit or note.note.get("commit", "")
        checkout.restore(scene, note.base)
    else:
        tried = ""
        note.base.forwarded = ""
    remains = _place(scene, note, failed, tried) if failed else None
    told = error if isinstance(error, RbuildError) else RbuildError(repr(error))
    message, detail, hint = told.message, told.detail, told.hint
    if kept is None or not kept.ran:
        containers = engine.containers(scene.name)
        outcome.standing = rollback.what_runs(containers, scene.engine_time())
        if interrupted:
            _end_well(note, images)
            raise error
        assert failed
        note.end_in_need(failed, containers)
        _let_go(scene, engine, images, note)
        problem = NeedsPerson(
            message,
            detail=detail,
            hint=f"{hint + '; ' if hint else ''}nothing ran before that could be brought back: "
            "mend it, then run `rbuild --force-rebuild`",
        )
        _tell_failure(scene, "needs-a-person", problem, note)
        raise problem
    way = _go(scene, kept, note, error)
    company.reconnect(scene, kept, way.containers, note.touched_at(scene.clock_ahead))
    if way.problem and (port := _leaked_port(engine, way.problem)):
        _blame_engine(scene, note, way.problem, port)
    outcome.warnings += way.warnings
    up = [name for name, one in kept.services.items() if one.up]
    outcome.standing = rollback.what_runs(way.containers, scene.engine_time(), up)
    if way.problem is None:
        _came_back(scene, kept, way, note, images, failed=bool(failed), remains=remains)
        if interrupted:
            outcome.standing = f"what ran before runs again; {outcome.standing}"
            raise error
        if way.content:
            mend = f"mend {', '.join(way.content)}: until then, what it held before is used"
            hint = f"{hint}; {mend}" if hint else mend
        back: RbuildError = RolledBack(f"{message}: rolled back", detail=detail, hint=hint)
        outcome.standing = f"what ran before runs again ({', '.join(way.moved) or 'all of it'})"
        if scene.restored:
            outcome.standing += f", and the checkout is where it was; {tried[:12]} waits"
        _tell_failure(scene, "rolled-back", back, note)
        # What is wrong with rbuild itself is to be reported as that.
        raise back if isinstance(error, RbuildError) else error
    # Who finds a torn project and wants a new build doesn't wait for the old one.
    final = way.is_lost or (scene.run.forced and isinstance(error, CutOff))
    again = failed is None and not final and note.try_again(MOST_LOSSES)
    if again:
        # Nothing was found wrong with the update: what stands in the way may pass.
        scene.outcome.warnings += ("the next run tries to go back again",)
    else:
        failed = failed or _failed(scene, note, engine, error, failure.TOUCHED)
        note.end_in_need(failed, way.containers)
    _let_go(scene, engine, images, note)
    typed = "".join(f"\n    {line}" for line in way.commands)
    need = NeedsPerson(
        f"{message}; and the way back failed: {way.problem.message}",
        detail="\n".join(filter(None, (detail, way.problem.detail))),
        hint=f"to bring back what ran before, mend that and type:{typed}"
        if typed
        else way.problem.hint or "what ran before runs, but not as it should",
    )
    _tell_failure(scene, "needs-a-person", need, note)
    if again:
        # What the record still has is an earlier failure's.
        outcome.retry = 0.0
    raise need from None


def _go(scene: Scene, kept: Generation, note: Underway, error: BaseException) -> wayback.Way:
    """Go back; once more where the engine lives and has just not answered a question."""
    try:
        return wayback.go(scene, kept, note)
    except EngineError as problem:
        scene.log.line(f"failed, once more: {problem}")
    try:
        scene.calm_engine().check()
        return wayback.go(scene, kept, note)
    except EngineError as gone:
        _lose_engine(scene, note, error, gone)


def _came_back(
    scene: Scene,
    kept: Generation,
    way: wayback.Way,
    note: Underway,
    images: list[str],
    *,
    failed: bool,
    remains: dict[str, Any] | None,
) -> None:
    """Write down that what ran before runs again, and clean up."""
    keeping.renew_containers(scene.folder, note.base, kept, way.moved, way.containers)
    if not _end_well(note, images, failed=failed, remains=remains):
        # The next run comes here again, and needs all that there is.
        scene.outcome.warnings += ("that could not be written down: the next run looks again",)
        return
    # What runs is no earlier generation, and its images have their names again.
    generation.forget(scene.folder, kept.stamp)
    _let_go(scene, scene.calm_engine(), images, note)


def _end_well(
    note: Underway,
    images: list[str],
    *,
    failed: bool = False,
    remains: dict[str, Any] | None = None,
) -> bool:
    """Nothing is torn any more; gives whether that could be written.

    `remains` is what is to be remembered, if the update `failed`.
    """
    note.base.superseded = list(dict.fromkeys([*note.base.superseded, *images]))
    if failed:
        note.base.untidy = True
        return note.leave(remains)
    if note.note.get("by_hand"):
        # A person's way back, cut off: nothing waits to be tried again.
        return note.leave(note.base.failed)
    return note.rest(images)


def _let_go(scene: Scene, engine: Engine, images: list[str], note: Underway) -> None:
    """Each try builds anew: what an earlier one left must not fill the disk."""
    try:
        keep = max(1, scene.settings.keep_images)
        also = note.note["generation"] if note.note["touched"] else ""
        there = keeping.let_go(scene.folder, engine, scene.name, keep, images, also=also)
        note.clean_up(there)
    except RbuildError as error:
        scene.outcome.warnings += (f"not all is cleaned up: {error.message}",)


def _is_interruption(error: BaseException) -> bool:
    """Whether somebody ended the run, which is no failure of the update."""
    return isinstance(error, Interrupted | CutOff) or not isinstance(error, Exception)


def _lose_engine(
    scene: Scene,
    note: Underway,
    error: BaseException,
    gone: RbuildError,
) -> NoReturn:
    """The engine went away: an interruption, which the next run puts right."""
    note.lose_engine()
    if note.note["lost"] >= MOST_LOSSES:
        # Perhaps it is the update that kills it.
        note.give_up(_failure(scene, note, error, {}, failure.TOUCHED))
    if note.note["touched"]:
        scene.outcome.standing = "what was at work is cut off; the next run puts it right"
    if isinstance(error, Interrupted):
        raise error
    lost = EngineError(
        f"the engine went away during: {note.note.get('step', 'start')}",
        hint=f"once it runs again, the next run goes on from here ({gone.message})",
        detail=error.message if isinstance(error, RbuildError) else repr(error),
    )
    raise lost from None


def _leaked_port(engine: Engine, error: BaseException) -> Port | None:
    """A port that the engine holds for no container.

    Engine 26.1, killed while it starts a container and started again, has been seen to do so;
    no `up` or `down` helps then, only another restart of the engine.
    """
    if not isinstance(error, RbuildError):
        return None
    for number in re.findall(r":(\d+) failed: port is already allocated", error.detail):
        ports = [Port(int(number), protocol=protocol) for protocol in ("tcp", "udp")]
        if not any(map(engine.publishers, ports)):
            return ports[0]
    return None


def _blame_engine(scene: Scene, note: Underway, error: BaseException, port: Port) -> NoReturn:
    """No way leads on until the engine is restarted; the next run tries again."""
    note.rewrite()
    containers = scene.calm_engine().containers(scene.name)
    scene.outcome.standing = rollback.what_runs(containers, scene.engine_time())
    raise EngineError(
        f"the engine holds port {port} for no container",
        hint="restart Docker (`systemctl restart docker`); the next run goes on from here",
        detail=error.detail if isinstance(error, RbuildError) else "",
    ) from None


def _put_back(
    scene: Scene, made: Plan, work: steps.Work, note: Underway, engine: Engine
) -> list[str]:
    """Undo what was built and pulled, no container having been touched; what could not be."""
    problems: list[str] = []
    bared: list[str] = []
    base = note.base
    try:
        for step in made.steps:
            if isinstance(step, Keep):
                more, bared = steps.put_back(step, work.kept, engine)
                problems += more
        if note.note["generation"] == generation.name_of(scene.now):
            generation.forget(scene.folder, note.note["generation"])
        # Half of a failed build is left over each time, until the disk is full.
        tracked_ids = [*tracked_before(scene.known), *tracked(work)]
        keep = max(1, scene.settings.keep_images)
        there = keeping.let_go(scene.folder, engine, scene.name, keep, tracked_ids)
        # What was pulled has lost its name again, but the next try may want it.
        new = [one for one in (*there, *work.pulled, *bared) if one not in base.superseded]
        nameless = [one.id for one in engine.images(new).values() if not one.tags]
        base.superseded = [*base.superseded, *dict.fromkeys(nameless)]
    except RbuildError as error:
        problems.append(error.message)
    return problems


def _place(
    scene: Scene, note: Underway, failed: dict[str, Any], tried: str
) -> dict[str, Any] | None:
    """What a record is to keep as `failed`: not what the checkout was taken back from (`tried`)."""
    if not scene.restored:
        return failed
    note.base.held = {**failed, "commit": tried}
    return note.base.failed


def _failed(
    scene: Scene, note: Underway, engine: Engine, error: BaseException, kind: str
) -> dict[str, Any]:
    """What the record is to keep of a failure."""
    bases = note.note.get("bases") or []
    try:
        here = engine.images(bases) if bases else {}
        answers = True
    except EngineError:
        # What matters now is to get back.
        here, answers = {}, False
    digests = {
        name: [one.id, *(text.rpartition("@")[2] for text in one.digests)]
        for name, one in here.items()
    }
    # One that is not here is noted as well: once it is, there is something new to try.
    found = {name: here[name].id if name in here else "" for name in (bases if answers else ())}
    return _failure(scene, note, error, found, kind, digests)


def _failure(
    scene: Scene,
    note: Underway,
    error: BaseException,
    bases: Mapping[str, str],
    kind: str,
    digests: Mapping[str, list[str]] | None = None,
) -> dict[str, Any]:
    known = scene.known
    # A pull that failed has not taken what the registry has; it was tried all the same.
    tried = {name: list(one) for name, one in (digests or {}).items()}
    for name, one in scene.moves.digests.items():
        tried.setdefault(name, []).append(one)
    gone_forward = bool(scene.forwarded) or scene.restored
    before = (known.held if gone_forward else known.failed) if known else None
    return failure.failed(
        before,
        # What was tried, perhaps by an earlier run: the files may have been mended since.
        inputs=note.note.get("inputs", ""),
        bases=bases,
        digests=tried,
        commit=note.note.get("commit", ""),
        kind=kind,
        message=error.message if isinstance(error, RbuildError) else repr(error),
        log=scene.log.path,
        now=time.time(),
        build_period=scene.settings.build_period,
        absent=error.things if isinstance(error, AbsentError) else (),
    )


def _tell_failure(scene: Scene, outcome: str, error: BaseException, note: Underway) -> None:
    scene.outcome.outcome = outcome
    failed = note.base.held if scene.restored else note.base.failed
    scene.outcome.retry = failure.next_try(failed) if failed else 0.0
    message = error.message if isinstance(error, RbuildError) else repr(error)
    # A hook may offer it to a person: only as long as it is there.
    kept = note.note["generation"]
    kept = kept if generation.read(scene.folder, kept) else ""
    scene.run_hook("on-failure", generation=kept, error=message, stop=Stop())
