"""The health gate's judgement: what containers do over time, and when it is called what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from rbuild.docker.engine import Container
from rbuild.updates.health import Expectation, Verdict, judge, stopped_by_hand, was_failing

SETTLE = 5.0


def box(state: str = "running", service: str = "web", **more: Any) -> Container:
    """A container; its id is its name."""
    name = more.pop("name", f"{service}-1")
    return Container(name, name, service, "sha256:1", service, state, **more)


def verdict(
    containers: Sequence[Container],
    *expected: Expectation,
    now: float = 100,
    before: dict[str, int] | None = None,
) -> Verdict:
    wanted = expected or (Expectation("web"),)
    return judge(wanted, containers, before or {}, now=now, settle=SETTLE)


def called(found: Verdict) -> str:
    assert found.settled == (bool(found.failed) or not found.pending)
    return "failed" if found.failed else "pending" if found.pending else "healthy"


RUNNING = box(started=0)
JUST_STARTED = box(started=99)
ONE_SHOT = {"must_end": True}
PERHAPS = {"may_end": True}


@pytest.mark.parametrize(
    ("container", "expected", "called_so"),
    [
        # Plain services
        (RUNNING, {}, "healthy"),
        (JUST_STARTED, {}, "pending"),
        (box(started=95), {}, "healthy"),
        (box(started=95.01), {}, "pending"),
        (box("created"), {}, "pending"),
        (box("created", error="port is taken"), {}, "pending"),
        (box("restarting", exit_code=1, restarts=1), {}, "pending"),
        (box("removing"), {}, "pending"),
        (box("paused"), {}, "failed"),
        (box("dead"), {}, "failed"),
        (box("exited", exit_code=0), {}, "failed"),
        (box("exited", exit_code=3), {}, "failed"),
        # With a healthcheck
        (box(started=0, health="starting"), {}, "pending"),
        (box(started=0, health="healthy"), {}, "healthy"),
        (box(started=99, health="healthy"), {}, "pending"),
        (box(started=0, health="unhealthy"), {}, "failed"),
        # One-shots
        (box("exited", exit_code=0), ONE_SHOT, "healthy"),
        (box("exited", exit_code=1), ONE_SHOT, "failed"),
        (box("created"), ONE_SHOT, "pending"),
        (RUNNING, ONE_SHOT, "pending"),
        (box(started=0, health="healthy"), ONE_SHOT, "pending"),
        (box("exited", exit_code=0), PERHAPS, "healthy"),
        (box("exited", exit_code=1), PERHAPS, "failed"),
        (RUNNING, PERHAPS, "healthy"),
        (JUST_STARTED, PERHAPS, "pending"),
        # Restarts
        (box(started=0, restarts=1), {}, "healthy"),
        (box(started=99, restarts=2), {}, "pending"),
        (box(started=0, restarts=3), {}, "failed"),
        (box("restarting", restarts=3, exit_code=7), {}, "failed"),
        (box("exited", exit_code=0, restarts=2), ONE_SHOT, "healthy"),
    ],
)
def test_one_container_at_one_moment(
    container: Container, expected: dict[str, Any], called_so: str
) -> None:
    assert called(verdict([container], Expectation("web", **expected))) == called_so


@pytest.mark.parametrize(
    ("container", "words"),
    [
        (box("exited", exit_code=3, error="no such file"), "exited with code 3: no such file"),
        (box("created", error="port is taken"), "is created: port is taken"),
        (box("restarting", restarts=3, exit_code=7), "restarted 3 times, last exit code 7"),
        (box(started=0, health="unhealthy"), "is unhealthy"),
        (JUST_STARTED, "has not run for 5 s without a restart"),
    ],
)
def test_what_is_wrong_is_said(container: Container, words: str) -> None:
    found = verdict([container])
    (finding,) = found.failed + found.pending
    assert (finding.service, finding.why, finding.container) == ("web", words, container)


def story(
    *moments: tuple[float, Container | Sequence[Container]], **expected: Any
) -> tuple[float, str]:
    """When the gate would have ended, and how: the first moment that isn't pending."""
    for now, shown in moments:
        found = called(
            verdict(
                [shown] if isinstance(shown, Container) else shown,
                Expectation("web", **expected),
                now=now,
            )
        )
        if found != "pending":
            return now, found
    return moments[-1][0], "pending"


@pytest.mark.parametrize(
    ("moments", "expected", "end"),
    [
        # Started, still there five seconds later.
        ([(0, box("created")), (1, box(started=1)), (5, box(started=1)), (6, box(started=1))],
         {}, (6, "healthy")),
        # `exit 3` a second after its start, no restart policy: Compose's --wait calls it well.
        ([(1, box(started=1)), (2, box("exited", exit_code=3))], {}, (2, "failed")),
        # A crash loop is running each time one looks.
        ([(1, box(started=1)), (3, box(started=3, restarts=1)), (5, box(started=5, restarts=2)),
          (7, box(started=7, restarts=3))], {}, (7, "failed")),
        # No start of it settles.
        ([(t + 1, box(started=t - t % 4 + 1, restarts=t // 4)) for t in range(13)],
         {}, (13, "failed")),
        # It lost the race for its database twice, and then ran.
        ([(1, box(started=1)), (2, box("restarting", restarts=1)), (3, box(started=3, restarts=2)),
          (8, box(started=3, restarts=2))], {}, (8, "healthy")),
        # The healthcheck passes late; the settling time has long gone by.
        ([(1, box(started=1, health="starting")), (30, box(started=1, health="starting")),
          (31, box(started=1, health="healthy"))], {}, (31, "healthy")),
        # It passes at once; the settling time still holds.
        ([(1.5, box(started=1, health="healthy")), (6, box(started=1, health="healthy"))],
         {}, (6, "healthy")),
        # Healthy, then not, before it has settled.
        ([(2, box(started=1, health="healthy")), (4, box(started=1, health="unhealthy"))],
         {}, (4, "failed")),
        # A migration that takes its time.
        ([(1, box(started=1)), (60, box(started=1)), (61, box("exited", started=1))],
         ONE_SHOT, (61, "healthy")),
        ([(1, box(started=1)), (60, box("exited", started=1, exit_code=1))],
         ONE_SHOT, (60, "failed")),
        # The second container of two comes later, and the last one decides.
        ([(1, [box(started=0)]), (6, [box(started=0), box(name="web-2", started=5)]),
          (10, [box(started=0), box(name="web-2", started=5)])], {"count": 2}, (10, "healthy")),
        # Nothing there at all.
        ([(1, []), (60, [])], {}, (60, "pending")),
    ],
)  # fmt: skip
def test_a_story(moments: Any, expected: dict[str, Any], end: tuple[float, str]) -> None:
    assert story(*moments, **expected) == end


def test_the_settling_time_is_on_the_engine_s_clock() -> None:
    # Ours may be an hour behind: `now` comes to us translated, and only it counts.
    assert called(verdict([box(started=3600)], now=3604)) == "pending"
    assert called(verdict([box(started=3600)], now=3605)) == "healthy"


def test_restarts_from_before_the_update_do_not_count() -> None:
    old = box(started=0, restarts=40)
    assert called(verdict([old])) == "failed"
    assert called(verdict([old], before={"web-1": 40})) == "healthy"
    assert called(verdict([replace(old, restarts=43)], before={"web-1": 40})) == "failed"
    # A new container begins at nought.
    assert called(verdict([box(name="web-9", started=0)], before={"web-1": 40})) == "healthy"


def test_a_scaled_service_counts_each_container() -> None:
    two = [RUNNING, box(name="web-2", started=0)]
    wanted = Expectation("web", count=2)
    assert called(verdict(two, wanted)) == "healthy"
    assert called(verdict(two[:1], wanted)) == "pending"
    assert verdict(two[:1], wanted).pending[0].why == "1 of 2 containers are there"
    assert called(verdict([two[0], box("exited", name="web-2", exit_code=1)], wanted)) == "failed"


def test_a_service_scaled_to_nothing_is_well() -> None:
    assert called(verdict([], Expectation("web", count=0))) == "healthy"


def test_one_finding_a_service_and_failures_before_waits() -> None:
    containers = [
        box("created", name="web-1"),
        box("dead", name="web-2"),
        box("dead", name="web-3"),
        box("created", "db"),
        box(service="cache", started=0),
    ]
    found = verdict(containers, *map(Expectation, ("web", "db", "cache")))
    assert [one.container.name for one in found.failed if one.container] == ["web-2"]
    assert [one.service for one in found.pending] == ["db"]


def test_others_are_not_looked_at() -> None:
    assert called(verdict([RUNNING, box("dead", "other")])) == "healthy"


def test_what_ended_well_is_told() -> None:
    done = box("exited", "migrate")
    expected = [Expectation("web"), Expectation("migrate", must_end=True)]
    assert verdict([RUNNING, done], *expected).ended == ("migrate",)
    assert verdict([RUNNING, box("exited", "migrate", exit_code=1)], *expected).ended == ()
    half = [done, box(service="migrate", name="migrate-2", started=0)]
    assert verdict(half, Expectation("migrate", count=2, may_end=True)).ended == ()
    assert verdict([], Expectation("migrate", count=0)).ended == ()


@pytest.mark.parametrize(
    ("container", "bad"),
    [
        (RUNNING, False),
        (box(health="unhealthy"), True),
        (box(health="starting"), False),
        (box("restarting"), True),
        (box("dead"), True),
        (box("exited", exit_code=1), True),
        (box("exited", exit_code=0), False),
        (box("exited", exit_code=137, restart_policy="unless-stopped"), False),
        (box("exited", exit_code=1, restart_policy="on-failure"), True),
        (box("exited", exit_code=127, restart_policy="always", error="no such file"), True),
        # Never started: what it waits for has not come.
        (box("created"), True),
        # Caught between two crashes, and one that came to itself long ago.
        (box(restarts=4, started=90), True),
        (box(restarts=4, started=30), False),
    ],
)
def test_failing_before(container: Container, bad: bool) -> None:
    assert was_failing([RUNNING, container], now=100) == bad
    assert not was_failing([], now=100)


@pytest.mark.parametrize(
    ("container", "by_hand"),
    [
        (box("exited", restart_policy="always"), True),
        (box("exited", restart_policy="unless-stopped", exit_code=143), True),
        (box("exited", restart_policy="no"), False),
        (box("exited", restart_policy="on-failure"), False),
        (box("running", restart_policy="always"), False),
        (box("created", restart_policy="always"), False),
        (box("exited", restart_policy="always", error="port is taken"), False),
    ],
)
def test_stopped_by_hand(container: Container, by_hand: bool) -> None:
    assert stopped_by_hand(container) == by_hand
