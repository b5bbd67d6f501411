"""What tags mean in their registries: the digest of each, asked for with HEAD.

A HEAD of a manifest is no pull (https://docs.docker.com/docker-hub/usage/pulls/); a GET is, so one
is sent only where a HEAD finds nothing, for a few registries know no manifests by HEAD. The
protocol is that of https://github.com/opencontainers/distribution-spec, with tokens as
https://distribution.github.io/distribution/spec/auth/ describes them.

Own, on http.client, because: oras sleeps 131 s in all on any failure, has one token for all
repositories and ignores DOCKER_CONFIG; python-dxf knows no Docker credentials; what docker-py
knows of them is right, but costs 300 ms to import; httpx, urllib3 and requests cost 190 to
300 ms and leave all that is here to do.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rbuild.registries.credentials import Login
from rbuild.state.lock import Stoppable

# The rooms below load TLS and HTTP: that waits until something is asked.
if TYPE_CHECKING:
    from rbuild.registries.conversation import Conversation, Place
    from rbuild.registries.transport import Problem, Transport

_TURN = 0.2
# By then the socket's own timeout has struck, unless the other end sends drop by drop.
_GRACE = 0.3
_REFERENCE = re.compile(
    r"(?P<host>(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?)/(?P<name>[a-z0-9._/-]+)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>.+))?",
    re.ASCII,
)


class Question(NamedTuple):
    """A fully qualified reference, as `reference.qualified` gives it, and who asks."""

    reference: str
    login: Login | None = None
    may_get: bool = True
    """Whether a GET may be sent if a HEAD finds nothing."""


class Answer(NamedTuple):
    """The digest, or in one line without secrets why there is none and what to do."""

    digest: str = ""
    error: str = ""


class Registries:
    """Asks registries, each question once in this object's life, from any thread.

    `environ` tells Docker's configuration and the proxy: https goes through HTTPS_PROXY, but
    for NO_PROXY. `insecure` gives the registries that the engine takes to be insecure, as
    `host[:port]` or networks; it is called once, and only when one could not be reached by
    https as usual. Loopback always is. `not_before` is what an earlier object's attribute of
    that name held. `stop` ends all asking. `timeout`: seconds for a connection, and for each
    answer. `at_once`: how many questions a registry gets at a time. `certificates`: the folders
    in which, by registry, own CAs and client certificates lie; Docker's if None
    (https://docs.docker.com/engine/security/certificates/).
    """

    not_before: dict[str, float]
    """Registry → seconds since the epoch before which it wants not to be asked."""

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        insecure: Callable[[], Collection[str]] = frozenset,
        not_before: Mapping[str, float] | None = None,
        stop: Stoppable | None = None,
        timeout: float = 10.0,
        at_once: int = 16,
        certificates: Sequence[str] | None = None,
    ) -> None:
        from rbuild.registries.conversation import LONGEST_PAUSE
        from rbuild.registries.transport import Network

        now = time.time()
        self.not_before = {
            host: min(when, now + LONGEST_PAUSE)
            for host, when in (not_before or {}).items()
            if when > now
        }
        self._environ = environ
        self._network = Network(environ, insecure, certificates)
        self._stop = stop
        self._timeout = timeout
        self._at_once = at_once
        # Guards all below, and tells those who wait that something was answered.
        self._turn = threading.Condition()
        self._places: dict[str, Place] = {}
        # None: it is on its way.
        self._answers: dict[tuple[str, Login | None, bool], Answer | None] = {}
        self._running: dict[Conversation, Transport] = {}

    def ask(self, questions: Iterable[Question]) -> dict[Question, Answer]:
        """The answers, once they are all there.

        A reference with a digest is its own answer. What a registry does, or doesn't, is an
        answer too, never an exception. Raises Interrupted.
        """
        wanted = list(dict.fromkeys(questions))
        with self._turn:
            for question in wanted:
                if question not in self._answers:
                    self._answers[question] = self._line_up(question)
            for place in self._places.values():
                self._proceed(place)
            while not all(self._answers[question] for question in wanted):
                if self._stop:
                    self._stop.check()
                self._give_up()
                self._turn.wait(_TURN)
            return {one: answer for one in wanted if (answer := self._answers[one])}

    # All of these are called with the lock held, but for _work.

    def _line_up(self, question: Question) -> Answer | None:
        from rbuild.registries.conversation import DIGEST, Conversation, Place

        match = _REFERENCE.fullmatch(question.reference)
        digest = match and match["digest"]
        if digest and DIGEST.fullmatch(digest):
            return Answer(digest)
        if not match or digest or not match["tag"]:
            return Answer(error="this is no full name of an image")
        place = self._places.setdefault(match["host"], Place(match["host"], self._environ))
        place.waiting.append(Conversation(place, question, match["name"], match["tag"]))
        return None

    def _proceed(self, place: Place) -> None:
        """Answer what need not be asked any more, and let there be workers for the rest."""
        from rbuild.registries.conversation import stamp

        error, when = place.dead, self.not_before.get(place.name, 0.0)
        if not error and when > time.time():
            error = f"not asked: {place.name} wants to be left alone until {stamp(when)}"
        while error and place.waiting:
            self._answers[place.waiting.popleft().question] = Answer(error=error)
        # Until the first has come back, the others wait: one that is dead costs one timeout,
        # and how it wants to be spoken to is found out once.
        most = self._at_once if place.is_reached else 1
        for _ in range(min(most - place.workers, len(place.waiting))):
            place.workers += 1
            # Daemons: a registry that hangs doesn't hold up our end.
            threading.Thread(target=self._work, args=[place], name="registry", daemon=True).start()

    def _settle(self, talk: Conversation, digest: str, problem: Problem | None) -> None:
        place = talk.place
        del self._running[talk]
        self._answers[talk.question] = Answer(digest, str(problem or ""))
        place.is_reached = True
        if problem and problem.dead:
            place.dead = str(problem)
        if problem and problem.until:
            self.not_before[place.name] = max(problem.until, self.not_before.get(place.name, 0.0))
        self._proceed(place)
        self._turn.notify_all()

    def _give_up(self) -> None:
        """Don't wait any longer for what is overdue: a resolver, an answer drop by drop."""
        for talk, transport in [*self._running.items()]:
            if time.monotonic() > transport.until + _GRACE:
                talk.place.workers -= 1
                self._settle(talk, "", transport.overdue())

    def _work(self, place: Place) -> None:
        from rbuild.registries.transport import Problem, Transport

        transport = Transport(place.name, place.way, self._network, self._timeout)
        while True:
            with self._turn:
                if not place.waiting:
                    place.workers -= 1
                    break
                talk = place.waiting.popleft()
                transport.begin()
                self._running[talk] = transport
            digest, problem = "", None
            try:
                digest = talk.digest(transport)
            except Exception as error:
                # What is sent can trip parsers in many ways; their messages quote it.
                other = Problem(f"no proper answer ({type(error).__name__})")
                problem = error if isinstance(error, Problem) else other
            with self._turn:
                if talk not in self._running:
                    break
                self._settle(talk, digest, problem)
        transport.close()
