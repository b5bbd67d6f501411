"""The gate on a fake engine and a fake clock: when it opens, when not, and what it says then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from rbuild.docker.engine import Container
from rbuild.errors import GateError, Interrupted
from rbuild.updates import gate
from rbuild.updates.gate import evidence
from rbuild.updates.health import Expectation, Finding
from rbuild.updates.step import Gate, Watch
from rbuild.updates.steps import Work, run

from .fakes import Clock, Fake, box, work


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(gate, "time", clock)
    return clock


def wait(job: Work, clock: Clock, *expected: Expectation, limit: float = 20) -> float:
    """Seconds until the gate opened."""
    begun = clock.now
    job.limit, job.deadline = limit, begun + limit
    run(Gate(expected or (Expectation("web"),), {}), job)
    return clock.now - begun


def starting(clock: Clock, **more: Any) -> Container:
    return box(started=clock.time(), **more)


def test_the_gate_waits_until_a_service_has_settled(clock: Clock) -> None:
    one = starting(clock)
    assert 5 <= wait(work(Fake(shown=lambda: [one])), clock) <= 5 + gate.POLL


@pytest.mark.parametrize("ahead", [3600.0, -3600.0])
def test_the_gate_goes_by_the_engine_s_clock(clock: Clock, ahead: float) -> None:
    one = box(started=clock.time() + ahead)
    job = work(Fake(shown=lambda: [one]))
    job.clock_ahead = ahead
    assert 5 <= wait(job, clock) <= 5 + gate.POLL


def test_the_gate_fails_at_once_where_waiting_is_in_vain(clock: Clock) -> None:
    boxes = [box("exited", exit_code=3), box(service="db", started=1)]
    job = work(Fake(shown=lambda: boxes))
    begun = clock.now
    with pytest.raises(GateError) as caught:
        wait(job, clock, Expectation("web"), Expectation("db"))
    assert clock.now == begun
    error = caught.value
    assert error.message == "web: not healthy"
    assert error.detail.splitlines() == [
        "web: exited with code 3",
        "  p-web-1 | first of p-web-1-id",
        "  p-web-1 | last of p-web-1-id",
    ]


def test_the_gate_does_not_wait_for_ever(clock: Clock) -> None:
    job = work(Fake(shown=lambda: [box(started=1, health="starting", healthcheck_output="no")]))
    begun = clock.now
    with pytest.raises(GateError) as caught:
        wait(job, clock, limit=20)
    assert 20 <= clock.now - begun <= 20 + 2 * gate.POLL
    assert caught.value.message == "web: not healthy within 20 s"
    assert "its healthcheck has not passed yet" in caught.value.detail
    assert "healthcheck said: no" in caught.value.detail


def test_the_gate_looks_once_even_if_up_took_all_the_time(clock: Clock) -> None:
    job = work(Fake(shown=lambda: [box(started=1)]))
    assert wait(job, clock, limit=-1) == 0


def test_a_service_that_never_comes(clock: Clock) -> None:
    job = work(Fake())
    with pytest.raises(GateError) as caught:
        wait(job, clock)
    assert "web: 0 of 1 containers are there" in caught.value.detail


def test_what_was_failing_and_still_fails_is_a_warning(clock: Clock) -> None:
    boxes = [box("exited", exit_code=3), box(service="db", started=1)]
    job = work(Fake(shown=lambda: boxes))
    wait(job, clock, Expectation("web", was_failing=True), Expectation("db"))
    assert job.warnings == [
        "web: exited with code 3; it was failing before the update as well"
    ]  # fmt: skip


def test_what_was_failing_is_given_its_time_to_recover(clock: Clock) -> None:
    boxes = [box(started=1, health="starting")]
    job = work(Fake(shown=lambda: boxes))
    # Its settling time, and not the whole time limit.
    assert 5 <= wait(job, clock, Expectation("web", was_failing=True)) < 6
    assert len(job.warnings) == 1
    boxes[:] = [box(started=1, health="healthy")]
    job = work(Fake(shown=lambda: boxes))
    assert wait(job, clock, Expectation("web", was_failing=True)) == 0
    assert job.warnings == []


def test_the_gate_excuses_nobody_else(clock: Clock) -> None:
    boxes = [box("exited", exit_code=3), box("dead", "db")]
    job = work(Fake(shown=lambda: boxes))
    with pytest.raises(GateError) as caught:
        wait(job, clock, Expectation("web", was_failing=True), Expectation("db"))
    assert caught.value.message == "db: not healthy"


def test_a_signal_ends_the_wait(clock: Clock) -> None:
    job = work(Fake())

    def shown() -> list[Container]:
        job.stop.request(15)
        return []

    job.engine.shown = shown  # type: ignore[attr-defined]
    with pytest.raises(Interrupted):
        wait(job, clock)


# The watch after it


def watch(job: Work, shown: Sequence[Container], *services: str, failing: str = "") -> None:
    """Watch services for 10 s that were as `shown` when the gate opened."""
    job.containers = list(shown)
    expected = (*(Expectation(one) for one in services or ("web",)),)
    if failing:
        expected += (Expectation(failing, was_failing=True),)
    run(Watch(expected, 10), job)


def later(clock: Clock, after: float, first: Container, then: Container) -> Callable[[], Any]:
    """What is shown: one container, and `after` some seconds another."""
    begun = clock.now
    return lambda: [first if clock.now - begun < after else then]


def test_the_watch_takes_its_time_and_no_more(clock: Clock) -> None:
    begun = clock.now
    well = box(started=1, health="healthy")
    watch(work(Fake(shown=lambda: [well])), [well])
    assert clock.now - begun == 10


WELL = box(started=1, health="healthy")


@pytest.mark.parametrize(
    ("worse", "why"),
    [
        (replace(WELL, restarts=1), "restarted"),
        (replace(WELL, state="restarting"), "restarted"),
        (replace(WELL, health="unhealthy"), "is unhealthy"),
        (replace(WELL, state="exited", exit_code=3), "exited with code 3"),
        (replace(WELL, state="dead"), "is dead"),
        (replace(WELL, state="paused"), "is paused"),
    ],
)
def test_what_gets_worse_under_watch_fails(clock: Clock, worse: Container, why: str) -> None:
    begun = clock.now
    with pytest.raises(GateError) as caught:
        watch(work(Fake(shown=later(clock, 4, WELL, worse))), [WELL])
    # As soon as it shows, with the log of what fell.
    assert 4 <= clock.now - begun <= 4 + 2 * gate.WATCH_POLL
    error = caught.value
    assert error.message == f"web: failed {clock.now - begun:.0f} s after it was healthy"
    assert error.detail.splitlines() == [
        f"web: {why}",
        "  p-web-1 | first of p-web-1-id",
        "  p-web-1 | last of p-web-1-id",
    ]


@pytest.mark.parametrize(
    "still_well",
    [
        replace(WELL, health="starting"),
        replace(WELL, state="exited", exit_code=0),
        replace(WELL, exit_code=3),
    ],
)
def test_what_does_not_get_worse_under_watch(clock: Clock, still_well: Container) -> None:
    watch(work(Fake(shown=later(clock, 4, WELL, still_well))), [WELL])


def test_a_failure_in_the_last_moment_of_the_watch(clock: Clock) -> None:
    with pytest.raises(GateError):
        watch(work(Fake(shown=later(clock, 9.9, WELL, replace(WELL, restarts=1)))), [WELL])


def test_restarts_of_before_the_watch_do_not_count(clock: Clock) -> None:
    restarted = replace(WELL, restarts=2)
    watch(work(Fake(shown=lambda: [restarted])), [restarted])


def test_many_failures_share_the_room(clock: Clock) -> None:
    """Each says why; the more there are, the less of each log."""
    names = [f"s{number}" for number in range(12)]
    found = [Finding(name, "exited with code 3", box("exited", name)) for name in names]
    engine = Fake()
    engine.logs = lambda container, lines: "\n".join(map(str, range(lines)))  # type: ignore[method-assign]
    assert len(evidence(found[:1], engine).splitlines()) == 13  # type: ignore[arg-type]
    lines = evidence(found, engine).splitlines()  # type: ignore[arg-type]
    assert len(lines) == 12 * 2
    assert [line for line in lines if "|" not in line] == [
        f"{n}: exited with code 3" for n in names
    ]


def test_what_a_container_wrote_can_forge_nothing(clock: Clock) -> None:
    one = box("exited", "web", healthcheck_output="no\n\x1b[31mweb: is fine\x07")
    engine = Fake()
    engine.logs = lambda container, lines: "a\x1b]0;t\x07b\rweb: is fine\0"  # type: ignore[method-assign]
    assert evidence([Finding("web", "is unhealthy", one)], engine).splitlines() == [  # type: ignore[arg-type]
        "web: is unhealthy",
        "  healthcheck said: no web: is fine\\x07",
        "  p-web-1 | ab",
        "  p-web-1 | web: is fine\\x00",
    ]


def test_the_watch_is_for_those_that_were_healthy(clock: Clock) -> None:
    """Neither what was failing before nor what is left alone can fail an update."""
    boxes = [WELL, box("dead", "old"), box("dead", "manual")]
    before = [WELL, box(service="old"), box(service="manual")]
    job = work(Fake(shown=lambda: boxes))
    watch(job, before, "web", failing="old")
    with pytest.raises(GateError, match="manual: failed"):
        watch(job, before, "web", "manual", failing="old")


def test_a_signal_ends_the_watch(clock: Clock) -> None:
    job = work(Fake())

    def shown() -> list[Container]:
        job.stop.request(15)
        return [WELL]

    job.engine.shown = shown  # type: ignore[attr-defined]
    with pytest.raises(Interrupted):
        watch(job, [WELL])
