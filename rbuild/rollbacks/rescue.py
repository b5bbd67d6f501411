"""Puts right what a run that was cut off (killed, or its engine gone) has left behind."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from rbuild.compose.project import Project
from rbuild.decisions.glance import Run
from rbuild.docker.engine import Engine
from rbuild.errors import CutOff, RbuildError
from rbuild.process import Log
from rbuild.rollbacks import undo
from rbuild.sources import source
from rbuild.sources.source import Source
from rbuild.state import record
from rbuild.state.record import Record
from rbuild.updates import underway
from rbuild.updates.scene import Scene


def is_torn(known: Record | None) -> bool:
    """Whether a run was cut off after it had begun to touch containers."""
    note = (known.underway if known else None) or {}
    return bool(note.get("touched")) and note.get("going") != "over"


def may_go_on(scene: Scene, engine: Engine) -> bool:
    """Whether the update that was cut off can be brought to its end with what it had built.

    Once: if the same is cut off again, the inputs have changed or a person wants a new build, it
    goes back first.
    """
    assert scene.known
    note = scene.known.underway or {}
    built = note.get("built") or {}
    if (
        scene.run.forced
        or note.get("going")
        or note.get("resumed")
        or not built
        or note.get("inputs") != scene.inputs
        or note.get("lost", 0) >= undo.MOST_LOSSES
    ):
        return False
    here = engine.images(list(built))
    return all(name in here and here[name].id == image for name, image in built.items())


def finish_move(project: Project, run: Run, held: Sequence[int]) -> None:
    """A run that was killed after it had fast-forwarded the checkout, and before it touched
    anything: the checkout goes back, for its files may be half of one commit and half of another.

    What can't be put back, a person has changed since; it stays. `held` are descriptors of locks.
    """
    for folder, known in record.at_paths(run.store, *project.paths):
        if not known.forwarded or is_torn(known):
            continue
        with suppress(RbuildError):
            place = Source(project.target.folder)
            source.restore(place, known.forwarded, log=Log(), hold=held)
            known.forwarded = ""
            record.write(folder, known)


def go_back(scene: Scene) -> None:
    """Back to the generation that the run had kept; the record is then as before that run.

    Raises RolledBack if that run had failed by itself and was cut off on its way back,
    NeedsPerson if what ran before does not run again.
    """
    assert scene.known
    note = underway.go_on(scene.folder, scene.known)
    cut_off = RbuildError(note.note["error"]) if note.note.get("error") else CutOff("cut off")
    note.turn(cut_off, is_failure=not isinstance(cut_off, CutOff))
    try:
        undo.turn_back(scene, note, cut_off)
    except CutOff:
        scene.known = record.read(scene.folder)
