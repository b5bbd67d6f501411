"""A failed update waits for its next try: how long, and what ends the wait."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbuild.state import failure
from rbuild.state.failure import LEFT, TOUCHED, UNTOUCHED, Waiting, holds_back, next_try, waiting
from rbuild.state.record import stamp

NOW = 1_800_000_000.0
HOUR, DAY = 3600, 86400
BASES = {"debian:12": "sha256:1"}


def failed(before: Any = None, kind: str = UNTOUCHED, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "inputs": "aa", "bases": BASES, "message": "why", "log": "/log", "now": NOW,
        "build_period": DAY,
    } | more  # fmt: skip
    return failure.failed(before, kind=kind, **given)


def wait(known: Any, now: float, inputs: str = "aa", bases: Any = BASES) -> Waiting | None:
    return waiting(known, inputs=inputs, bases=bases, now=now)


def test_what_is_kept_of_a_failure() -> None:
    assert failed() == {
        "inputs": "aa", "bases": BASES, "digests": {}, "commit": "", "kind": "untouched",
        "tries": 1, "when": stamp(NOW), "next": stamp(NOW + HOUR), "message": "why", "log": "/log",
    }  # fmt: skip


def test_what_touched_nothing_waits_an_hour_and_doubles_up_to_the_build_period() -> None:
    known, spans = None, []
    for _ in range(8):
        known = failed(known)
        spans.append(next_try(known) - NOW)
    assert spans == [one * HOUR for one in (1, 2, 4, 8, 16, 24, 24, 24)]
    assert known
    assert known["tries"] == 8


@pytest.mark.parametrize("period", [0, 60, HOUR])
def test_no_wait_is_longer_than_the_build_period(period: int) -> None:
    assert next_try(failed(build_period=period)) == NOW + period


def test_what_touched_containers_waits_a_whole_build_period() -> None:
    """Each try is an outage."""
    first = failed(kind=TOUCHED)
    assert next_try(first) == NOW + DAY
    assert next_try(failed(first, kind=TOUCHED)) == NOW + DAY


def test_what_a_person_left_waits_for_ever() -> None:
    known = failed(kind=LEFT)
    assert (known["next"], next_try(known)) == ("", 0.0)
    assert wait(known, NOW + 100 * 365 * DAY) == Waiting("why", 0.0, LEFT)
    # Not even a base that moves ends that; an input does.
    assert wait(known, NOW, bases={"debian:12": "sha256:2"})
    assert wait(known, NOW, inputs="bb") is None


def test_other_inputs_begin_anew() -> None:
    known = failed(failed(failed()))
    assert known["tries"] == 3
    assert failed(known, inputs="bb")["tries"] == 1
    assert next_try(failed(known, inputs="bb")) == NOW + HOUR


@pytest.mark.parametrize("kind", [UNTOUCHED, TOUCHED])
def test_it_waits_until_its_time_has_come(kind: str) -> None:
    known = failed(kind=kind)
    until = next_try(known)
    assert wait(known, NOW) == Waiting("why", until, kind)
    assert wait(known, until - 1) == Waiting("why", until, kind)
    assert wait(known, until) is None


@pytest.mark.parametrize("kind", [UNTOUCHED, TOUCHED])
def test_something_new_ends_the_wait(kind: str) -> None:
    known = failed(kind=kind)
    assert wait(known, NOW, inputs="bb") is None
    assert wait(known, NOW, bases={"debian:12": "sha256:2"}) is None
    # One that is gone has moved.
    assert wait(known, NOW, bases={}) is None
    assert wait(known, NOW, bases=dict(BASES)) is not None


def test_nothing_that_failed_is_nothing_to_wait_for() -> None:
    assert wait(None, NOW) is None


@pytest.mark.parametrize("kind", [UNTOUCHED, TOUCHED])
def test_a_clock_that_was_set_back_ends_the_wait(kind: str) -> None:
    known = failed(kind=kind)
    assert wait(known, NOW - 3 * 365 * DAY) is None
    # A second of adjustment is none.
    assert wait(known, NOW - 1) is not None


@given(st.integers(0, 10**9), st.integers(0, 10 * DAY), st.sampled_from([UNTOUCHED, TOUCHED]))
def test_any_number_of_tries_can_be_counted(tries: int, period: int, kind: str) -> None:
    known = failed({**failed(), "tries": tries}, kind=kind, build_period=period)
    assert known["tries"] == tries + 1
    assert NOW <= next_try(known) <= NOW + period


@given(st.floats(0, 4e9), st.integers(0, 10 * DAY))
def test_no_wait_outlasts_its_time(now: float, period: int) -> None:
    known = failed(kind=TOUCHED, now=now, build_period=period)
    assert wait(known, now + period + 1) is None


# What registries have


DEBIAN = "docker.io/library/debian:12"
TRIED = {DEBIAN: ["id", "sha256:a", "sha256:b"]}


def test_what_was_tried_is_kept() -> None:
    known = failed(digests=TRIED, commit="c0ffee")
    assert (known["digests"], known["commit"]) == (TRIED, "c0ffee")


@pytest.mark.parametrize("kind", [UNTOUCHED, TOUCHED, LEFT])
@pytest.mark.parametrize(
    ("digests", "waits"),
    [
        ({}, True),
        ({DEBIAN: "sha256:a"}, True),
        ({DEBIAN: "sha256:b"}, True),
        ({DEBIAN: "id"}, True),
        ({DEBIAN: "sha256:c"}, False),
        # An image that had no part in it says nothing.
        ({"docker.io/library/redis:7": "sha256:c"}, True),
        ({DEBIAN: "sha256:a", "docker.io/library/redis:7": "sha256:c"}, True),
    ],
)
def test_yet_another_digest_is_tried_at_once(
    kind: str, digests: dict[str, str], waits: bool
) -> None:
    """Also after a person has left it: it is in there that the mending may be."""
    known = failed(kind=kind, digests=TRIED)
    found = waiting(known, inputs="aa", bases=BASES, digests=digests, now=NOW)
    assert bool(found) == waits


def test_a_failure_that_an_older_rbuild_wrote_down_waits_all_the_same() -> None:
    known = {key: one for key, one in failed().items() if key not in ("digests", "commit")}
    assert waiting(known, inputs="aa", bases=BASES, digests={DEBIAN: "sha256:c"}, now=NOW)
    assert failed(known)["tries"] == 2
    assert holds_back(known, "c0ffee", NOW) is None


# Commits


def test_another_commit_begins_anew() -> None:
    known = failed(failed(commit="aa"), commit="aa")
    assert known["tries"] == 2
    assert failed(known, commit="bb")["tries"] == 1


@pytest.mark.parametrize("kind", [UNTOUCHED, TOUCHED])
def test_a_commit_that_failed_waits_for_its_time(kind: str) -> None:
    known = failed(kind=kind, commit="aa")
    until = next_try(known)
    assert holds_back(known, "aa", NOW) == Waiting("why", until, kind)
    assert holds_back(known, "aa", until - 1) is not None
    assert holds_back(known, "aa", until) is None
    assert holds_back(known, "bb", NOW) is None


def test_a_commit_that_a_person_left_waits_for_another() -> None:
    known = failed(kind=LEFT, commit="aa")
    assert holds_back(known, "aa", NOW + 400 * DAY) == Waiting("why", 0.0, LEFT)
    assert holds_back(known, "bb", NOW) is None


@pytest.mark.parametrize("known", [None, failed()])
def test_what_failed_without_a_commit_holds_none_back(known: Any) -> None:
    assert holds_back(known, "aa", NOW) is None
    assert holds_back(known, "", NOW) is None


def test_a_clock_that_was_set_back_frees_a_commit() -> None:
    assert holds_back(failed(commit="aa"), "aa", NOW - 3 * 365 * DAY) is None
