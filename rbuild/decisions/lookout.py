"""What one run finds out about the world its projects rest on: registries, other projects, git.

Each image is asked for once a run, whatever the number of projects that rest on it, and all at
once. What was found is remembered for the runs to come (`sightings`); what could not be checked
is told once for a project, and once when that ends.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rbuild.compose.project import Project
from rbuild.decisions import moves
from rbuild.decisions.glance import Fresh, Run
from rbuild.decisions.moves import Made, Moves, Sighting
from rbuild.decisions.staleness import TOLERANCE
from rbuild.docker.reference import familiar, qualified, registry_of
from rbuild.errors import RbuildError
from rbuild.registries import sightings
from rbuild.report import Outcome
from rbuild.settings import Settings
from rbuild.state import record
from rbuild.state.record import Record

if TYPE_CHECKING:
    from rbuild.process import Stop
    from rbuild.registries.registry import Registries
    from rbuild.sources.source import Source

# Seconds for a git remote to answer.
GIT_TIMEOUT = 30.0
_REMOTES_AT_ONCE = 8
_DAY = 86400.0
_FILE = "checks.json"
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
        self._insecure = insecure
        self._guard = threading.RLock()
        self._memory: sightings.Memory | None = None
        self._registries: Registries | None = None
        self._seen: dict[str, Sighting] = {}
        self._new: dict[str, Sighting] = {}
        self._late: dict[str, float] = {}
        self._living: list[tuple[str, Record]] | None = None

    def prefetch(self, projects: Iterable[tuple[Record, Settings, str]]) -> None:
        """Ask at once for all that these projects (with their state folders) rest on."""
        self._ask(
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
        names = [*names]
        self._ask((name, settings, since) for name in names)
        with self._guard:
            seen = {name: self._seen[_key(name, settings)] for name in names}
        return {name: one for name, one in seen.items() if one.asked >= since}

    def recall(self, known: Record, settings: Settings, folder: str) -> Moves:
        """What has moved under a project by what is remembered; nobody is asked.

        What could not be checked when that was last tried goes with it.
        """
        if not settings.check:
            return Moves()
        makers = self.makers(folder)
        memory = sightings.read(self._run.store.root)
        seen = {
            name: memory.seen[key]
            for name in moves.asked(known.rests, settings, makers)
            if (key := _key(name, settings)) in memory.seen
            and memory.seen[key].asked >= known.finished_at
        }
        found = moves.compare(known.rests, settings, seen, makers, time.time())
        told = _read(os.path.join(folder, _FILE)).get("told", {})
        return found._replace(unchecked={**told, **found.unchecked})

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
            for _, known in record.at_home(self._run.store, project.home):
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
        return [one.outcome for one, _ in found.values()], closer

    def _confirm_all(self, fresh: Collection[Fresh]) -> list[tuple[Fresh, Moves | None]]:
        """Each with what `confirm` gives. Git remotes are asked side by side: they may be slow."""
        if sum("git" in one.settings.check for one in fresh) < 2:
            return [(one, self.confirm(one)) for one in fresh]
        from concurrent.futures import ThreadPoolExecutor, wait

        with ThreadPoolExecutor(_REMOTES_AT_ONCE) as pool:
            asked = {one.folder: pool.submit(self.confirm, one) for one in fresh}
            # As in `crew`: a signal may reach another thread than the one that handles it.
            while wait(asked.values(), timeout=0.2).not_done:
                pass
        return [(one, asked[one.folder].result()) for one in fresh]

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
        path = os.path.join(fresh.folder, _FILE)
        before = _read(path)
        place = source_of(fresh.project, fresh.settings)
        if source.head(place, stop=self._stop) != fresh.known.commit:
            return True
        error = ""
        if _is_recent(before.get("git_asked", 0.0), period, time.time()):
            error = before.get("git_error", "")
        else:
            try:
                if source.ahead(place, stop=self._stop, timeout=GIT_TIMEOUT):
                    return True
            except source.Unreachable as problem:
                error = words(problem)
            if period and not self._run.dry_run:
                _write(path, {**before, "git_asked": time.time(), "git_error": error})
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
        path = os.path.join(folder, _FILE)
        before = _read(path)
        known: dict[str, str] = before.get("told", {})
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
            _write(path, {**before, "told": dict(found.unchecked)})
        return new

    # Registries

    def _ask(self, wanted: Iterable[tuple[str, Settings, float]]) -> None:
        with self._guard:
            questions: dict[str, tuple[str, Settings]] = {}
            now = time.time()
            for name, settings, since in wanted:
                key = _key(name, settings)
                if key in self._new:
                    continue
                if self._memory is None:
                    self._memory = sightings.read(self._run.store.root)
                old = self._memory.seen.get(key)
                recent = old and _is_recent(old.asked, settings.check_period, now)
                if old and recent and old.asked >= since:
                    self._seen[key] = old
                else:
                    questions.setdefault(key, (name, settings))
            if questions:
                self._send(questions)

    def _send(self, wanted: Mapping[str, tuple[str, Settings]]) -> None:
        from rbuild.registries.credentials import Login
        from rbuild.registries.registry import Question, Registries

        assert self._memory is not None
        if self._registries is None:
            self._late = dict(self._memory.not_before)
            self._registries = Registries(
                self._run.environ,
                insecure=self._insecure,
                not_before=self._memory.not_before,
                stop=self._stop,
            )
        questions = {}
        for key, (name, settings) in wanted.items():
            login = settings.logins.get(registry_of(name))
            questions[key] = Question(name, Login(*login) if login else None)
        answers = self._registries.ask(questions.values())
        is_news = self._registries.not_before != self._late
        for key, question in questions.items():
            answer = answers[question]
            old = self._memory.seen.get(key)
            new = sightings.note(old, answer.digest, answer.error, time.time())
            self._seen[key] = self._new[key] = new
            # A question that says nothing new is worth no write, if nobody counts by it.
            same = old is not None and new[:2] == old[:2] and new.error == old.error
            counts = wanted[key][1].check_period or not old or new.asked - old.asked > _DAY
            is_news |= bool(not same or counts)
        if is_news and not self._run.dry_run:
            # At once: what another run learns meanwhile must not be overwritten at our end.
            sightings.remember(self._run.store.root, self._new, self._registries.not_before)


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


def _key(name: str, settings: Settings) -> str:
    login = settings.logins.get(registry_of(name))
    return sightings.key(name, login[0] if login else "")


def _is_recent(asked: float, period: int, now: float) -> bool:
    """Whether a question is too young to be asked again; cron may start a little early."""
    return 0 <= now - asked < period - min(TOLERANCE, period / 2)


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


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    sound = (
        isinstance(data, dict)
        and isinstance(data.get("told", {}), dict)
        and all(isinstance(one, str) for one in data.get("told", {}).values())
        and isinstance(data.get("git_asked", 0.0), float)
        and isinstance(data.get("git_error", ""), str)
    )
    return data if sound else {}


def _write(path: str, data: Mapping[str, object]) -> None:
    try:
        record.write_private(path, json.dumps(data))
    except RbuildError:
        # It is told once more, or asked once more.
        return
