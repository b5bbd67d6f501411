"""What one run finds out about the world its projects rest on: registries, other projects, git.

Each image is asked for once a run, whatever the number of projects that rest on it, and all at
once. What was found is remembered for the runs to come (`sightings`); what could not be checked
is told once for a project, and once when that ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from rbuild.compose.project import Project
from rbuild.decisions import moves
from rbuild.decisions.glance import Fresh, Run
from rbuild.decisions.moves import Made, Moves, Sighting
from rbuild.decisions.staleness import is_recent
from rbuild.docker.reference import familiar, qualified
from rbuild.errors import RbuildError
from rbuild.registries import asked
from rbuild.registries.asked import Asked
from rbuild.report import Outcome
from rbuild.settings import Settings
from rbuild.state import checks, record
from rbuild.state.record import Record

if TYPE_CHECKING:
    from rbuild.process import Stop
    from rbuild.sources.source import Source

# Seconds for a git remote to answer.
GIT_TIMEOUT = 30.0
_REMOTES_AT_ONCE = 8
# In place of an image, where what could not be asked is a git remote.
GIT = "git"


class Lookout:
    """What a run has asked so far. Threads may share it."""

    def __init__(
        self, run: Run, stop: Stop, insecure: Callable[[], Collection[str]] = frozenset
    ) -> None:
        """`insecure` gives the registries to which the engine speaks plain HTTP, if asked."""
        self._run = run
        self._stop = stop
        self._asked = Asked(run.store.root, run.environ, stop, insecure, dry_run=run.dry_run)
        self._guard = threading.Lock()
        self._living: list[tuple[str, Record]] | None = None

    def prefetch(self, projects: Iterable[tuple[Record, Settings, str]]) -> None:
        """Ask at once for all that these projects (with their state folders) rest on."""
        self._asked.ask(
            (name, settings, known.finished_at)
            for known, settings, folder in projects
            for name in moves.asked(known.rests, settings, self.makers(folder))
        )

    def moves(self, known: Record | None, settings: Settings, folder: str) -> Moves:
        """What has moved under a project."""
        if known is None or not {moves.BASE, moves.IMAGE} & {*settings.check}:
            return Moves()
        makers = self.makers(folder)
        names = moves.asked(known.rests, settings, makers)
        seen = self.sight(names, settings, known.finished_at)
        return moves.compare(known.rests, settings, seen, makers, time.time())

    def sight(
        self, names: Iterable[str], settings: Settings, since: float = 0.0
    ) -> dict[str, Sighting]:
        """What registries say of these images, asked for where that is due.

        What was last asked before `since` (epoch seconds), when an update has taken what there
        was, is no evidence: it is left out where it can't be asked again in this run.
        """
        return self._asked.sight(names, settings, since)

    def recall(self, known: Record, settings: Settings, folder: str) -> Moves:
        """What has moved under a project by what is remembered; nobody is asked.

        What could not be checked when that was last tried goes with it.
        """
        if not settings.check:
            return Moves()
        makers = self.makers(folder)
        names = moves.asked(known.rests, settings, makers)
        seen = asked.recall(self._run.store.root, names, settings, known.finished_at)
        found = moves.compare(known.rests, settings, seen, makers, time.time())
        return found._replace(unchecked={**checks.read(folder).told, **found.unchecked})

    def makers(self, folder: str) -> dict[str, Made]:
        """The images that other projects here have built, by qualified name.

        Not of projects that rest on what this one builds: the two would follow each other for ever.
        """
        with self._guard:
            if self._living is None:
                self._living = record.living(self._run.store)
            own = next((known for other, known in self._living if other == folder), None)
            builds = frozenset(own.builds if own else ())
            files = own.files if own else None
            return {
                name: Made(identity, known.name)
                for other, known in self._living
                if other != folder and known.files != files and not builds & _rests_on(known)
                for name, identity in known.makes.items()
            }

    def forget_makers(self) -> None:
        """A project was updated: what it builds may be new."""
        with self._guard:
            self._living = None

    # A project that is fresh by its record

    def sort(
        self, fresh: Iterable[Fresh], unsure: Iterable[Project]
    ) -> tuple[list[Outcome], list[Project]]:
        """Outcomes of the projects that are fresh, and the projects that take a closer look.

        Among these are the ones of `fresh` that rest on what others of this run may build anew.
        """
        fresh, closer = [*fresh], [*unsure]
        self.prefetch((one.known, one.settings, one.folder) for one in fresh)
        built: set[str] = set()
        for project in closer:
            for _, known in record.at_paths(self._run.store, *project.paths):
                built.update(known.builds)
        found: dict[str, tuple[Fresh, Moves]] = {}
        # Two spellings of one project are one project.
        alone: dict[str, Fresh] = {}
        for one in fresh:
            alone.setdefault(one.folder, one)
        for one, confirmed in self._confirm_all(alone.values()):
            if confirmed is None:
                closer.append(one.project)
                built.update(one.known.builds)
            else:
                found[one.folder] = (one, confirmed)
        while following := [
            one
            for one, _ in found.values()
            if built.intersection(name for _, name in moves.wanted(one.known.rests, one.settings))
        ]:
            for one in following:
                del found[one.folder]
                closer.append(one.project)
                built.update(one.known.builds)
        for one, confirmed in found.values():
            self.tell(one.outcome, confirmed, one.folder, git="git" in one.settings.check)
            if not self._run.dry_run:
                checks.clear(one.folder)
        return [one.outcome for one, _ in found.values()], closer

    def _confirm_all(self, fresh: Collection[Fresh]) -> list[tuple[Fresh, Moves | None]]:
        """Each with what `confirm` gives. Git remotes are asked side by side: they may be slow."""
        if sum("git" in one.settings.check for one in fresh) < 2:
            return [(one, self.confirm(one)) for one in fresh]
        from concurrent.futures import ThreadPoolExecutor, wait

        with ThreadPoolExecutor(_REMOTES_AT_ONCE) as pool:
            given = {one.folder: pool.submit(self.confirm, one) for one in fresh}
            # As in `crew`: a signal may reach another thread than the one that handles it.
            while wait(given.values(), timeout=0.2).not_done:
                pass
        return [(one, given[one.folder].result()) for one in fresh]

    def confirm(self, fresh: Fresh) -> Moves | None:
        """What there is to tell of a project under which nothing has moved.

        None if it takes a closer look.
        """
        known, settings = fresh.known, fresh.settings
        if known.forwarded:
            return None
        found = self.moves(known, settings, fresh.folder)
        if found.reasons or found.unknown or _is_context_new(known, settings):
            return None
        unchecked = dict(found.unchecked)
        if "git" in settings.check:
            from rbuild.sources import source

            try:
                if self._is_ahead(fresh):
                    return None
            except source.Unreachable as error:
                unchecked[GIT] = words(error)
            except source.SourceError:
                # The closer look says what is wrong.
                return None
        return found._replace(unchecked=unchecked)

    def _is_ahead(self, fresh: Fresh) -> bool:
        """Whether the checkout has moved, or its upstream is ahead. Raises SourceError.

        A remote that was asked a while ago, and had nothing new or did not answer, is not asked.
        """
        from rbuild.sources import source

        period = fresh.settings.check_period
        before = checks.read(fresh.folder)
        place = source_of(fresh.project, fresh.settings)
        if source.head(place, stop=self._stop) != fresh.known.commit:
            return True
        error = ""
        if is_recent(before.git_asked, period, time.time()):
            error = before.git_error
        else:
            try:
                if source.ahead(place, stop=self._stop, timeout=GIT_TIMEOUT):
                    return True
            except source.Unreachable as problem:
                error = words(problem)
            if period and not self._run.dry_run:
                now = replace(before, git_asked=time.time(), git_error=error)
                checks.write(fresh.folder, now)
        if error:
            raise source.Unreachable(error)
        return False

    def tell(
        self, outcome: Outcome, found: Moves, folder: str, *, git: bool = False
    ) -> Collection[str]:
        """Put into the outcome what waits and what could not be checked; gives what of that is new.

        `git` says whether a git remote was to be asked as well.

        A project that is fresh but for what could not be checked is deferred: nobody knows.
        """
        now = time.time()
        outcome.waits = tuple(found.waits)
        outcome.notes += tuple(f"waits: {moves.waiting_line(one, now)}" for one in found.waits)
        outcome.notes += tuple(f"{familiar(name)}: {why}" for name, why in found.unasked.items())
        before = checks.read(folder)
        known = before.told
        new = {
            name: why
            for name, why in found.unchecked.items()
            # A checkout's words say what a person has to do; those of registries may vary.
            if name not in known or (name == GIT and known[name] != why)
        }
        gone = [name for name in known if name not in found.unchecked]
        # What nobody asks for any more has not answered.
        answered = {
            *found.digests,
            *(one.reference for one in found.waits),
            *([GIT] if git else ()),
        }
        again = [familiar(name) for name in gone if name in answered]
        outcome.unchecked = tuple(moves.told(found.unchecked))
        outcome.warnings += tuple(moves.told(new))
        if again:
            outcome.news += (f"checked again: {moves.several(again)}",)
        if outcome.unchecked and outcome.outcome == "fresh":
            outcome.outcome = "deferred"
        if (new or gone) and not self._run.dry_run:
            checks.write(folder, replace(before, told=found.unchecked))
        return new


def source_of(project: Project, settings: Settings) -> Source:
    """The git checkout that a project's folder is, or lies in."""
    from rbuild.sources.source import Source

    git = settings.git
    return Source(project.target.folder, git.get("remote", ""), git.get("branch", ""))


def words(error: RbuildError) -> str:
    """An error in one line, with the last words of the program that had it."""
    last = (error.detail.strip().splitlines() or [""])[-1]
    return f"{error.message}: {last}" if last else error.message


def _rests_on(known: Record) -> frozenset[str]:
    """Qualified names of all that a project builds upon or runs."""
    images = {qualified(one["reference"]) for one in known.services.values() if "reference" in one}
    return frozenset(images | {*known.bases})


def _is_context_new(known: Record, settings: Settings) -> bool:
    """Whether a build context looks different, at first sight, from what was last seen."""
    if "context" not in settings.check:
        return False
    from rbuild.compose import contexts

    if not known.contexts:
        return bool(known.builds)
    try:
        return contexts.is_new(known)
    except RbuildError:
        # The closer look says what is wrong.
        return True
