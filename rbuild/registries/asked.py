"""What one run asks registries: each image once, all at once, and not before it is due again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from rbuild.decisions.moves import Sighting
from rbuild.decisions.staleness import is_recent
from rbuild.docker.reference import registry_of
from rbuild.registries import sightings
from rbuild.settings import Settings

if TYPE_CHECKING:
    from rbuild.process import Stop
    from rbuild.registries.registry import Registries

_DAY = 86400


class Asked:
    """What a run has asked so far. Threads may share it.

    `root` is the state folder, where answers are remembered for the runs to come, unless this is
    a dry run; `insecure` as for `Registries`.
    """

    def __init__(
        self,
        root: str,
        environ: Mapping[str, str],
        stop: Stop,
        insecure: Callable[[], Collection[str]],
        *,
        dry_run: bool = False,
    ) -> None:
        self._root = root
        self._environ = environ
        self._stop = stop
        self._insecure = insecure
        self._dry_run = dry_run
        self._guard = threading.Lock()
        self._memory: sightings.Memory | None = None
        self._registries: Registries | None = None
        self._seen: dict[str, Sighting] = {}
        self._new: dict[str, Sighting] = {}
        self._late: dict[str, float] = {}

    def ask(self, wanted: Iterable[tuple[str, Settings, float]]) -> None:
        """Ask for images, each with who asks, and the time before which an answer is too old."""
        with self._guard:
            questions: dict[str, tuple[str, Settings, float]] = {}
            now = time.time()
            for name, settings, since in wanted:
                key = _key(name, settings)
                if key in self._new:
                    continue
                if self._memory is None:
                    self._memory = sightings.read(self._root)
                old = self._memory.seen.get(key)
                recent = old and is_recent(old.asked, settings.check_period, now)
                if old and recent and old.asked >= since:
                    self._seen[key] = old
                else:
                    since = max(since, questions[key][2] if key in questions else 0.0)
                    questions[key] = (name, settings, since)
            if questions:
                self._send(questions)

    def sight(self, names: Iterable[str], settings: Settings, since: float) -> dict[str, Sighting]:
        """What registries say of these images, asked for where that is due.

        What was last asked before `since` (epoch seconds) is left out where it can't be asked
        again in this run.
        """
        names = [*names]
        self.ask((name, settings, since) for name in names)
        with self._guard:
            seen = {name: self._seen[_key(name, settings)] for name in names}
        return {name: one for name, one in seen.items() if one.asked >= since}

    def _send(self, wanted: Mapping[str, tuple[str, Settings, float]]) -> None:
        from rbuild.registries.conversation import GONE
        from rbuild.registries.credentials import Login
        from rbuild.registries.registry import Question, Registries

        assert self._memory is not None
        if self._registries is None:
            self._late = dict(self._memory.not_before)
            self._registries = Registries(
                self._environ,
                insecure=self._insecure,
                not_before=self._memory.not_before,
                stop=self._stop,
            )
        questions = {}
        for key, (name, settings, _) in wanted.items():
            login = settings.logins.get(registry_of(name))
            old = self._memory.seen.get(key)
            # A GET counts as a pull: of a tag that is gone, one a day is enough.
            may_get = not (old and old.error and is_recent(old.got, _DAY, time.time()))
            questions[key] = Question(name, Login(*login) if login else None, may_get)
        answers = self._registries.ask(questions.values())
        is_news = self._registries.not_before != self._late
        for key, question in questions.items():
            answer = answers[question]
            old = self._memory.seen.get(key)
            new = sightings.note(old, answer.digest, answer.error, time.time())
            if answer.error == GONE and question.may_get:
                new = new._replace(got=new.asked)
            self._seen[key] = self._new[key] = new
            # An answer that says nothing new is worth no write, if nobody counts by it.
            _, settings, since = wanted[key]
            same = old is not None and new._replace(asked=old.asked) == old
            late = not old or old.asked < since or new.asked - old.asked > _DAY
            is_news |= bool(not same or late or settings.check_period)
        if is_news and not self._dry_run:
            # At once: what another run learns meanwhile must not be overwritten at our end.
            sightings.remember(self._root, self._new, self._registries.not_before)


def recall(
    root: str, names: Iterable[str], settings: Settings, since: float
) -> dict[str, Sighting]:
    """What is remembered of these images from `since` (epoch seconds) on; nobody is asked."""
    memory = sightings.read(root)
    seen = {name: memory.seen.get(_key(name, settings)) for name in names}
    return {name: one for name, one in seen.items() if one and one.asked >= since}


def _key(name: str, settings: Settings) -> str:
    login = settings.logins.get(registry_of(name))
    return sightings.key(name, login[0] if login else "")
