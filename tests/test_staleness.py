"""Is a project due, and why: tables over records, clocks and periods."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbuild.decisions.staleness import TOLERANCE, Reason, decide, due_at, span
from rbuild.state.record import Record, stamp

NOW = 1_700_000_000.0
DAY = 86400


def built(ago: float, **more: Any) -> Record:
    return Record("p", "/p", stamp(NOW - ago), **more)


def kinds(record: Record | None, *changed: str, period: int = DAY, forced: bool = False) -> str:
    decision = decide(record, changed, build_period=period, forced=forced, now=NOW)
    assert decision.stale == bool(decision.reasons)
    return " ".join(reason.kind for reason in decision.reasons)


@pytest.mark.parametrize(
    ("ago", "period", "expected"),
    [
        (0, DAY, ""),
        (DAY - 1800, DAY, ""),
        (DAY - TOLERANCE - 1, DAY, ""),
        (DAY - TOLERANCE, DAY, "expired"),
        (DAY, DAY, "expired"),
        (400 * DAY, DAY, "expired"),
        (5, 0, "expired"),
        (0, 0, "expired"),
        # A short period is not eaten up by the tolerance.
        (4, 10, ""),
        (5, 10, "expired"),
        # A clock that was set back a little isn't worth a build; a stamp far ahead is.
        (-TOLERANCE, DAY, ""),
        (-TOLERANCE - 1, DAY, "expired"),
        (-400 * DAY, DAY, "expired"),
    ],
)
def test_age(ago: float, period: int, expected: str) -> None:
    assert kinds(built(ago), period=period) == expected


def test_no_record_is_new() -> None:
    assert kinds(None) == "new"
    assert kinds(Record("p", "/p")) == "new"


def test_changed_inputs_are_named() -> None:
    decision = decide(built(1), ["a", "$B"], build_period=DAY, forced=False, now=NOW)
    assert decision.reasons == (("changed", "a, $B"),)


def test_what_changed_does_not_matter_to_a_new_project() -> None:
    assert kinds(None, "a") == "new"


def test_interrupted_names_when_and_where() -> None:
    underway = {"since": "2026-11-01T03:00:00.000Z", "step": "bring up web"}
    decision = decide(built(1, underway=underway), [], build_period=DAY, forced=False, now=NOW)
    (reason,) = decision.reasons
    assert reason.kind == "interrupted"
    assert "2026-11-01T03:00:00.000Z" in reason.detail
    assert "bring up web" in reason.detail


def test_an_interrupted_first_update() -> None:
    first = Record("p", "/p", underway={"since": "x"})
    assert kinds(first) == "interrupted new"


def test_all_reasons_are_told() -> None:
    record = built(2 * DAY, underway={"since": "x"})
    assert kinds(record, "a", forced=True) == "forced interrupted expired changed"


MOVED = (Reason("base-moved", "debian:12: a → b"), Reason("image-moved", "redis: c → d"))


def test_what_moved_makes_a_fresh_project_stale() -> None:
    decision = decide(built(1), (), MOVED, build_period=DAY, forced=False, now=NOW)
    assert (decision.stale, decision.reasons) == (True, MOVED)
    # Its build period goes on as it did.
    assert decision.due == NOW - 1 + DAY - TOLERANCE


def test_what_moved_is_told_beside_other_reasons() -> None:
    decision = decide(built(2 * DAY), ["a"], MOVED, build_period=DAY, forced=True, now=NOW)
    assert [one.kind for one in decision.reasons] == [
        "forced", "expired", "changed", "base-moved", "image-moved"
    ]  # fmt: skip


def test_what_moved_does_not_matter_to_a_new_project() -> None:
    decision = decide(None, (), MOVED, build_period=DAY, forced=False, now=NOW)
    assert [one.kind for one in decision.reasons] == ["new"]


def test_forced_even_if_fresh() -> None:
    assert kinds(built(1), forced=True) == "forced"


def test_a_fresh_project_is_due_when_its_period_ends() -> None:
    decision = decide(built(100), (), build_period=DAY, forced=False, now=NOW)
    assert decision.due == NOW - 100 + DAY - TOLERANCE


@given(
    ago=st.floats(0, 10 * DAY),
    period=st.integers(0, 10 * DAY),
    later=st.floats(0, DAY),
)
def test_what_is_due_stays_due(ago: float, period: int, later: float) -> None:
    record = built(ago)
    first = decide(record, (), build_period=period, forced=False, now=NOW)
    then = decide(record, (), build_period=period, forced=False, now=NOW + later)
    assert first.due == then.due == due_at(record.built_at, period)
    assert then.stale >= first.stale
    assert first.stale == (first.due <= NOW)


@pytest.mark.parametrize("jitter", [0, 1, 29, 59])
def test_every_half_hour_with_a_period_of_a_day_updates_at_the_same_hour(jitter: int) -> None:
    last, updates = NOW, []
    for run in range(1, 48 * 5 + 1):
        # cron starts the run that updates late, and all others in time.
        now = NOW + run * 1800 + (jitter if not run % 48 else 0)
        decision = decide(
            Record("p", "/p", stamp(last)), (), build_period=DAY, forced=False, now=now
        )
        if decision.stale:
            updates.append(run)
            last = now
    assert updates == [48, 96, 144, 192, 240]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (-5, "0 s"),
        (4, "4 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (2100, "35 min"),
        (3601, "1 h"),
        (86400 + 7200, "1 d 2 h"),
        (86400 + 7200 + 300, "1 d 2 h"),
        (86400 + 300, "1 d"),
    ],
)
def test_span(seconds: float, text: str) -> None:
    assert span(seconds) == text
