"""What is wrong with a project is told once, and known to `status` until it is over.

It is known again by what it is of: the project's files and variables as they look, and our own
words for it; not by Compose's, which are others at each try.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from rbuild.compose.fingerprint import dockerfile_of, signature
from rbuild.compose.project import Project
from rbuild.decisions.glance import Run
from rbuild.errors import Deferred, RbuildError, StateError
from rbuild.report import Outcome
from rbuild.settings import Settings, from_json
from rbuild.state import checks, record

if TYPE_CHECKING:
    from rbuild.compose.loading import Loaded


class Subject(NamedTuple):
    """What something may be wrong with, and who remembers that."""

    folder: str
    """The state folder."""
    period: int
    """Seconds after which it is told again."""
    look: str = ""
    """Digest of how it looks."""


def of_unread(project: Project, run: Run) -> Subject:
    """A project that can't be read.

    Its record remembers, if a good update knew it by this spelling; else a folder for that.
    """
    known = record.known_as(run.store, project.paths, project.spelling)
    newest = max(known, key=lambda one: one[1].built_at, default=None)
    folder, settings = run.store.unread(project.spelling), run.settings({})
    if newest:
        folder, view = newest[0], newest[1].views[project.spelling]
        settings = run.settings(from_json(view.get("settings", {})))
    return Subject(folder, settings.build_period, _look(project, run))


def of_loaded(loaded: Loaded, settings: Settings, run: Run) -> Subject:
    """A project that could be read; its Dockerfiles may be wrong as well."""
    builds = (one.build for one in loaded.configuration.services.values())
    dockerfiles = [dockerfile_of(build) for build in builds if build]
    look = _look(loaded.project, run, dockerfiles)
    return Subject(loaded.folder, settings.build_period, look)


def once(subject: Subject, run: Run, error: RbuildError, *, anyway: bool = False) -> bool:
    """Remember what is wrong; gives whether that is new, in a dry run never.

    Raises Deferred for what was told within the period, but for a forced run. It is told
    `anyway` where there is more to be told.
    """
    if run.dry_run:
        return False
    # Not before the run began, should the clock have been set back.
    now = max(run.started, time.time())
    key = _digest(type(error).__name__, error.message, subject.look)
    is_known = checks.was_told(subject.folder, key, now, subject.period)
    if is_known and not (run.forced or anyway):
        raise Deferred(error.message, hint=error.hint, detail=error.detail) from None
    text = "\n".join(filter(None, (error.message, error.detail)))
    with suppress(StateError):
        run.store.make(subject.folder)
        checks.tell(subject.folder, text, key, now)
    return True


def over(folder: str, run: Run) -> None:
    """Nothing is wrong any more with the project of this state folder."""
    if not run.dry_run:
        checks.clear(folder)


def is_read(project: Project, run: Run) -> None:
    """A project can be read, as perhaps it could not before."""
    if not run.dry_run:
        checks.forget(run.store.unread(project.spelling))


def outcome(subject: Subject, name: str, path: str, run: Run, error: RbuildError) -> Outcome:
    """What comes of something that isn't worked at all: deferred where that was told before."""
    found = Outcome(name, path, "failed", started=run.started, error=error)
    try:
        once(subject, run, error)
    except Deferred as told:
        found.outcome, found.error = "deferred", told
    return found


def missing(entry: str, run: Run, error: RbuildError) -> Outcome:
    """What comes of an entry of rbuild.yml that names no project."""
    return outcome(_of_entry(entry, run), entry, entry, run, error)


def is_news(entry: str, run: Run, text: str) -> bool:
    """Whether to say something of an entry of rbuild.yml that is no failure."""
    found = outcome(_of_entry(entry, run), entry, entry, run, RbuildError(text))
    return found.outcome != "deferred"


def _of_entry(entry: str, run: Run) -> Subject:
    return Subject(run.store.unread(entry), run.settings({}).build_period)


def _look(project: Project, run: Run, more: list[str] | None = None) -> str:
    from rbuild.compose import inputs

    target, environ = project.target, {**run.environ, "PWD": project.target.folder}
    found = inputs.walk(target.folder, target.files, environ)
    variables = [one.name for one in found.variables]
    return _digest(signature([*found.paths, *filter(None, more or ())], variables, environ, ""))


def _digest(*parts: object) -> str:
    return record.keyed_digest("", json.dumps(parts, sort_keys=True).encode())
