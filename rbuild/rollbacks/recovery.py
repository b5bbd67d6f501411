"""Makes a record again from what the engine shows, where the one on disk is damaged."""

from __future__ import annotations

import os

from rbuild.compose.loading import Loaded, remember_view
from rbuild.decisions.glance import Run
from rbuild.docker.engine import Engine
from rbuild.docker.reference import qualified
from rbuild.report import Outcome
from rbuild.state import record
from rbuild.state.record import Record, stamp


def recover(
    loaded: Loaded, run: Run, engine: Engine, outcome: Outcome
) -> tuple[Record | None, tuple[str, ...]]:
    """Set the damaged record aside and give one made from image labels, and what has changed.

    The labels tell when the running images were built; an input that was written since counts
    as changed. Without such images there is no record: the project is new.
    """
    engine.check()
    name = loaded.configuration.name
    running = {one.image for one in engine.containers(name) if not one.oneoff}
    labelled = engine.list_images(label=f"rbuild.project={name}")
    # Only now: an engine that doesn't answer must not cost the project its record.
    aside = "" if run.dry_run else record.set_aside(loaded.folder, run.started)
    warning = f"{loaded.damaged}" + (f"; set aside as {aside}" if aside else "")
    stamps = [(one.labels or {}).get("rbuild.built", "") for one in labelled if one.id in running]
    known = Record(
        name=name,
        home=loaded.project.home,
        built=min(filter(None, stamps), default=""),
        files=[os.path.realpath(path) for path in loaded.inputs.main_files],
        key=loaded.key,
        digests=dict(loaded.digests),
        provided=list(loaded.provided),
        builds=sorted(map(qualified, loaded.configuration.built_images)),
    )
    try:
        built = known.built_at
    except ValueError:
        built = 0.0
    if not built:
        outcome.warnings += (f"{warning}; no image tells of an earlier update",)
        return None, ()
    remember_view(known, loaded)
    outcome.warnings += (f"{warning}; made again from the images' labels: built {stamp(built)}",)
    since = [
        path
        for path, look in loaded.view["paths"].items()
        if isinstance(look, list) and look[1] > built * 1e9
    ]
    return known, tuple(since)
