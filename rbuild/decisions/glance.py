"""Fresh at first sight? A few system calls a project; starts nothing, imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rbuild.compose import fingerprint
from rbuild.compose.project import Project
from rbuild.decisions import staleness
from rbuild.report import Outcome
from rbuild.settings import Given, Settings, from_json, resolve
from rbuild.state import record
from rbuild.state.record import Record, Store


class Run(NamedTuple):
    """What holds for a whole run, for every project of it."""

    started: float
    """Epoch seconds."""
    environ: Mapping[str, str]
    flags: Mapping[str, Given]
    environment: Mapping[str, Given]
    defaults: Mapping[str, Given]
    store: Store
    forced: bool = False
    dry_run: bool = False

    def settings(self, own: Mapping[str, Given]) -> Settings:
        """The settings of a project whose `x-rbuild` sets `own`."""
        return resolve(self.flags, self.environment, own, self.defaults)


class Fresh(NamedTuple):
    """A project that is fresh by its record."""

    outcome: Outcome
    project: Project
    known: Record
    settings: Settings
    folder: str
    """Its state folder."""


def glance(project: Project, run: Run) -> Fresh | None:
    """A project that is surely fresh by its record; None if it takes a closer look."""
    if run.forced:
        return None
    for folder, known in record.at_paths(run.store, *project.paths):
        view = known.views.get(project.spelling)
        if view is None or known.untidy or known.failed or known.held or known.suspects:
            continue
        if any(service.get("behind") for service in known.services.values()):
            # It may have been started since.
            continue
        settings = _unchanged(known, view, run)
        if settings is None:
            continue
        decision = staleness.decide(
            known, (), build_period=settings.build_period, forced=False, now=run.started
        )
        if decision.stale:
            # A project that was renamed has left a record behind.
            continue
        outcome = Outcome(known.name, project.path, "fresh", due=decision.due, started=run.started)
        return Fresh(outcome, project, known, settings, folder)
    return None


def _unchanged(known: Record, view: Mapping[str, Any], run: Run) -> Settings | None:
    """The settings of a project whose inputs look as they did; None if they don't."""
    try:
        if fingerprint.differences(view, run.environ, known.key):
            return None
        return run.settings(from_json(view["settings"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        # A record whose outside is sound and whose inside isn't: the closer look mends it.
        return None
