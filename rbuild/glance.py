"""Fresh at first sight? A few system calls a project; starts nothing, imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rbuild import fingerprint, record, staleness
from rbuild.errors import RbuildError
from rbuild.project import Project
from rbuild.record import Record, Store
from rbuild.report import Outcome
from rbuild.settings import Given, Settings, from_json, resolve
from rbuild.staleness import Decision


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


def glance(project: Project, run: Run) -> Outcome | None:
    """The outcome of a project that is surely fresh; None if it takes a closer look."""
    if run.forced:
        return None
    for folder in run.store.folders(project.home):
        try:
            known = record.read(folder)
        except RbuildError:
            continue
        view = known.views.get(project.spelling) if known else None
        if known is None or view is None or known.untidy or known.failed:
            continue
        decision = _decide(known, view, run)
        if decision is None or decision.stale:
            # A project that was renamed has left a record behind.
            continue
        return Outcome(known.name, project.path, "fresh", due=decision.due, started=run.started)
    return None


def _decide(known: Record, view: Mapping[str, Any], run: Run) -> Decision | None:
    try:
        if fingerprint.differences(view, run.environ, known.key):
            return None
        period = run.settings(from_json(view["settings"])).build_period
    except (KeyError, TypeError, ValueError, AttributeError):
        # A record whose outside is sound and whose inside isn't: the closer look mends it.
        return None
    return staleness.decide(known, (), build_period=period, forced=False, now=run.started)
