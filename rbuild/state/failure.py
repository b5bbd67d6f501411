"""A failed update is not tried again at every tick: pure, over the record's `failed`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rbuild.state.record import stamp

# Seconds until the first retry of a failure that touched no container; doubled each time.
FIRST_RETRY = 3600
# Kinds of failure: containers were not touched; were touched (an outage each time, so it waits
# a whole build period); a person went back by hand (waits for another input, without limit).
UNTOUCHED, TOUCHED, LEFT = "untouched", "touched", "left"


class Waiting(NamedTuple):
    """Why a stale project is not updated now, and until when (epoch seconds; 0: no limit)."""

    message: str
    until: float
    kind: str


def failed(
    before: Mapping[str, Any] | None,
    *,
    inputs: str,
    bases: Mapping[str, str],
    digests: Mapping[str, Sequence[str]] | None = None,
    commit: str = "",
    kind: str,
    message: str,
    log: str,
    now: float,
    build_period: int,
    absent: Sequence[str] = (),
) -> dict[str, Any]:
    """What a record keeps of a failure; `before` is what it kept until now.

    `inputs` is the digest of what was tried, `bases` what base images meant by then (name → ID),
    `digests` under what they and other images are known elsewhere (qualified name → digests),
    `commit` what the project's checkout was fast-forwarded to for it, `now` is in epoch seconds,
    `build_period` in seconds, `absent` is what was not there that somebody else makes.
    """
    again = (
        bool(before)
        and before is not None
        and before.get("inputs") == inputs
        and before.get("commit", "") == commit
    )
    tries = int(before["tries"]) + 1 if again and before else 1
    wait = build_period
    if kind == UNTOUCHED:
        # Doubled at most so often that a number of tries from a file can do no harm.
        wait = min(build_period, FIRST_RETRY * 2 ** min(tries - 1, 16))
    return {
        "inputs": inputs,
        "bases": dict(bases),
        "digests": {name: list(one) for name, one in (digests or {}).items()},
        "commit": commit,
        "kind": kind,
        "tries": tries,
        "when": stamp(now),
        "next": "" if kind == LEFT else stamp(now + wait),
        "message": message,
        "log": log,
        **({"absent": [*absent]} if absent else {}),
    }


def waiting(
    known: Mapping[str, Any] | None,
    *,
    inputs: str,
    bases: Mapping[str, str],
    digests: Mapping[str, str] | None = None,
    commit: str = "",
    now: float,
) -> Waiting | None:
    """Whether the same update failed and its time has not come; None if it may be tried.

    `bases` may be only those that are here: one that is gone has moved. `digests` is what
    registries have now, of images that were asked for, `commit` where the project's checkout is.
    """
    if not known or known["inputs"] != inputs:
        return None
    if commit and known.get("commit") not in (None, "", commit):
        return None
    tried = known.get("digests", {})
    if any(name in tried and one not in tried[name] for name, one in (digests or {}).items()):
        return None
    if known["kind"] == LEFT:
        return Waiting(known["message"], 0.0, LEFT)
    if known["bases"] != dict(bases):
        return None
    return _until(known, now)


def holds_back(known: Mapping[str, Any] | None, commit: str, now: float) -> Waiting | None:
    """Whether an update to this commit failed, and its time has not come."""
    if not known or not commit or known.get("commit") != commit:
        return None
    if known["kind"] == LEFT:
        return Waiting(known["message"], 0.0, LEFT)
    return _until(known, now)


def _until(known: Mapping[str, Any], now: float) -> Waiting | None:
    until = next_try(known)
    # A clock that was set back must not keep an update out for years.
    if now >= until or moment(known["when"]) > now + 60:
        return None
    return Waiting(known["message"], until, known["kind"])


def next_try(known: Mapping[str, Any]) -> float:
    """When a failed update is next tried by itself, in epoch seconds; 0 for never."""
    return moment(known["next"]) if known["next"] else 0.0


def moment(text: str) -> float:
    """Epoch seconds of a record's time. Raises ValueError."""
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()
