"""A project's git checkout in a run: forward to its upstream before an update, back if that fails.

A record's `forwarded` is the commit that a run has gone forward from. It is written down before
the files move, and stands there until the update is done or undone.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rbuild.compose.loading import Loaded
from rbuild.decisions.lookout import GIT, GIT_TIMEOUT, source_of, words
from rbuild.decisions.staleness import Reason
from rbuild.errors import ProjectError, RbuildError, StateError
from rbuild.process import Log
from rbuild.sources import source
from rbuild.state import failure, record
from rbuild.state.record import Record
from rbuild.updates.scene import Scene


def is_on(scene: Scene) -> bool:
    """Whether the project's checkout is looked at."""
    return "git" in scene.settings.check


def look(scene: Scene) -> None:
    """Where the checkout is, and where it was before a run that was cut off.

    One that can't be read is noted in the scene.
    """
    place = source_of(scene.project, scene.settings)
    try:
        scene.commit = source.head(place, stop=scene.means.stop)
    except source.SourceError as error:
        _block(scene, error)
    scene.forwarded = scene.known.forwarded if scene.known else ""


def advance(scene: Scene, load: Callable[[], Loaded]) -> None:
    """Fast-forward the checkout if its upstream is ahead, and read the project anew.

    An upstream that has failed already waits for its time. A checkout that can't be moved, or
    asked, is noted in the scene. Raises HalfMoved, and what is wrong with the project as it is
    there.
    """
    if scene.blocked:
        return
    run, known = scene.run, scene.known
    held = known.held if known else None
    place = source_of(scene.project, scene.settings)
    stop = scene.means.stop
    try:
        if run.dry_run:
            ahead = source.ahead(place, stop=stop, timeout=GIT_TIMEOUT, may_move=True)
            if ahead and not run.forced and not scene.is_there_now(held):
                scene.held_back = failure.holds_back(held, ahead, scene.now)
            if ahead and not scene.held_back:
                scene.more.append(Reason("source-moved", f"{scene.commit} → {ahead}"))
            return
        # Most of the time there is nothing new, and nothing worth a log.
        move = source.fetch(
            place,
            stop=stop,
            timeout=GIT_TIMEOUT,
            transfer=scene.settings.build_timeout,
            log=Log(),
        )
    except source.HalfMoved:
        raise
    except source.SourceError as error:
        _block(scene, error)
        return
    if move and not run.forced and not scene.is_there_now(held):
        scene.held_back = failure.holds_back(held, move.new, scene.now)
    if not move or scene.held_back:
        return
    if known:
        known.forwarded = known.forwarded or move.old
        record.write(scene.folder, known)
    scene.forwarded = scene.forwarded or move.old
    try:
        # What git refuses here it refuses at each run: no log, lest that push out others.
        source.forward(place, move, stop=stop, log=Log(), hold=scene.held)
    except source.HalfMoved:
        # Nothing is built from that; the next run tries to mend it first.
        raise
    except RbuildError as error:
        # It is where it was: nothing is to be restored.
        if known and known.forwarded == move.old:
            known.forwarded = ""
            record.write(scene.folder, known)
        scene.forwarded = ""
        if isinstance(error, source.SourceError):
            _block(scene, error)
            return
        raise
    scene.open_log()
    scene.tell(f"fast-forwarded {move.old[:12]} to {move.new[:12]}")
    scene.commit = move.new
    scene.subject = next(iter(move.subjects), "")
    scene.outcome.reasons = (Reason("source-moved", f"{move.old} → {move.new}"),)
    loaded = load()
    if loaded.folder != scene.folder:
        raise ProjectError(
            f"the new commit makes the Compose project {scene.name!r} "
            f"{loaded.configuration.name!r}",
            hint=f"take {scene.name} down and the commit up by hand, or give it its `name:` back",
        )
    scene.take(loaded)


def _block(scene: Scene, error: source.SourceError) -> None:
    scene.unchecked[GIT] = words(error)
    if not isinstance(error, source.Unreachable):
        scene.blocked = error


def reasons(scene: Scene) -> tuple[Reason, ...]:
    """Why the project is due as far as its checkout tells."""
    last = scene.known.commit if scene.known else ""
    if not last or last == scene.commit:
        # Not known, or not where the checkout was when it went forward just now.
        last = scene.forwarded
    if not last or not scene.commit or last == scene.commit or scene.blocked:
        # What a person has half done there is no reason, and keeps nothing else from being one.
        return ()
    subject = f" ({scene.subject})" if scene.subject else ""
    return (Reason("source-moved", f"{last} → {scene.commit}{subject}"),)


def restore(scene: Scene, base: Record | None) -> None:
    """Put the checkout back to where it was before this update; `base` is to be written then.

    What can't be put back is a warning: what runs comes first.
    """
    before = scene.forwarded or (base.forwarded if base else "")
    if not before:
        return
    scene.tell(f"put the checkout back to {before[:12]}")
    try:
        source.restore(
            source_of(scene.project, scene.settings), before, log=scene.log, hold=scene.held
        )
        scene.restored = True
    except RbuildError as error:
        hint = f" ({error.hint})" if error.hint else ""
        scene.outcome.warnings += (f"the checkout stays where it is: {error.message}{hint}",)
    scene.forwarded = ""
    if base:
        base.forwarded = ""


def go_back(scene: Scene, commit: str) -> str:
    """Put the checkout where a kept generation was made from, because a person goes back to it.

    Gives the commit that is left; empty where nothing was moved.
    """
    if not commit or not is_on(scene):
        return ""
    try:
        left = source.head(source_of(scene.project, scene.settings), stop=scene.means.stop)
    except source.SourceError:
        return ""
    if left == commit:
        return ""
    scene.forwarded = commit
    restore(scene, None)
    return left if scene.restored else ""


def fail(scene: Scene, error: RbuildError) -> None:
    """Something came up between the fast-forward and the first step: back.

    What is wrong with the project as it is there is remembered.
    """
    if isinstance(error, source.HalfMoved):
        return
    if not scene.forwarded or scene.begun:
        return
    tried, known, before = scene.commit, scene.known, scene.forwarded
    restore(scene, known)
    if scene.restored:
        scene.outcome.standing = (
            f"the checkout is back at {before[:12]}, no container was touched: "
            "what ran before runs on"
        )
    if known is None:
        return
    if isinstance(error, ProjectError):
        known.held = failure.failed(
            known.held,
            inputs="",
            bases={},
            commit=tried,
            kind=failure.UNTOUCHED,
            message=error.message,
            log=scene.log.path,
            now=time.time(),
            build_period=scene.settings.build_period,
        )
        scene.outcome.retry = failure.next_try(known.held)
    try:
        record.write(scene.folder, known)
    except StateError:
        return
