"""`--remove-images`: removes what rbuild built for a project, where nothing uses it."""

from __future__ import annotations

import time

from rbuild.compose.loading import load
from rbuild.compose.project import Project
from rbuild.decisions.glance import Run
from rbuild.docker.reference import qualified
from rbuild.errors import Deferred, ProjectError, RbuildError
from rbuild.report import Outcome
from rbuild.state.lock import hold
from rbuild.updates import prune
from rbuild.updates.scene import Means


def remove(project: Project, run: Run, means: Means) -> Outcome | None:
    """Remove a project's unused images; None if the project was worked already."""
    outcome = Outcome(project.path, project.path, "removed", started=run.started)
    begun = time.monotonic()
    try:
        with hold(project.home, wait=means.lock_wait, stop=means.stop, environ=run.environ):
            engine = means.connect(means.stop, None, ())
            loaded = load(project, engine, run.store, run.environ)
            outcome.name = loaded.configuration.name
            if not means.claim(loaded.folder):
                return None
            engine.check()
            known = loaded.record
            if ((known.underway if known else None) or {}).get("touched"):
                raise ProjectError(
                    "an update was cut off or failed here, and its way back needs these images",
                    hint="`rbuild` puts that right first",
                )
            builds = {*map(qualified, loaded.configuration.built_images)}
            builds |= set(known.builds if known else ())
            tracked = known.superseded if known else ()
            found = prune.removable(engine, outcome.name, builds, tracked)
            if run.dry_run:
                outcome.outcome = "planned"
                outcome.steps = tuple(f"remove {image}" for image in found)
            else:
                outcome.removed = tuple(one for one in found if engine.remove_image(one))
    except RbuildError as error:
        outcome.error = error
        outcome.outcome = "deferred" if isinstance(error, Deferred) else "failed"
    outcome.seconds = time.monotonic() - begun
    return outcome
