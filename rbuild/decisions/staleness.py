"""Whether a project is due, and why: pure functions over plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rbuild.state.record import Record, stamp

# A run every 30 minutes with a period of a day must update at the same hour every day, though
# cron starts it a second earlier or later.
TOLERANCE = 60


class Reason(NamedTuple):
    """Why something is due: a kind that programs match on, and words for a person."""

    kind: str
    detail: str


class Decision(NamedTuple):
    """Stale with its reasons, or fresh until `due` (epoch seconds)."""

    reasons: tuple[Reason, ...]
    due: float

    @property
    def stale(self) -> bool:
        """Whether there is a reason to update."""
        return bool(self.reasons)


def decide(
    record: Record | None,
    changed: Sequence[str],
    moved: Sequence[Reason] = (),
    *,
    build_period: int,
    forced: bool,
    now: float,
) -> Decision:
    """Weigh what is known of a project.

    `changed` names inputs that differ from those of the last good update, `moved` says what has
    moved outside of the project, `build_period` is in seconds, `now` in epoch seconds.
    """
    reasons = []
    due = now
    if forced:
        reasons.append(Reason("forced", "asked for by --force-rebuild"))
    if record is not None and record.underway:
        step = record.underway.get("step", "start")
        since = record.underway.get("since", "an unknown time")
        how = "failed" if record.underway.get("going") == "over" else "ended"
        reasons.append(Reason("interrupted", f"the run of {since} {how} during: {step}"))
    if record is None or not record.built:
        reasons.append(Reason("new", "no record of an earlier update"))
    else:
        built = record.built_at
        due = due_at(built, build_period)
        if built > now + TOLERANCE:
            reasons.append(Reason("expired", f"the last update's stamp lies ahead: {stamp(built)}"))
        elif now >= due:
            age = f"last updated {span(now - built)} ago"
            reasons.append(Reason("expired", f"{age}, build period {span(build_period)}"))
        if changed:
            reasons.append(Reason("changed", ", ".join(changed)))
        reasons += moved
    return Decision(tuple(reasons), due)


def due_at(built: float, build_period: int) -> float:
    """When a project that was built then is next due, in epoch seconds."""
    return built + build_period - min(TOLERANCE, build_period / 2)


def span(seconds: float) -> str:
    """A length of time in the two largest units that matter: `1 d 2 h`, `35 min`, `4 s`."""
    rest = max(0, round(seconds))
    parts = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        number, rest = divmod(rest, size)
        if number:
            parts.append((size, f"{number} {unit}"))
        elif parts:
            break
        if len(parts) == 2:
            break
    return " ".join(text for _, text in parts) or "0 s"


def is_recent(asked: float, period: int, now: float) -> bool:
    """Whether a question asked at `asked` is too young to be asked again.

    `period` is in seconds, the times in epoch seconds. Cron may start a little early.
    """
    return 0 <= now - asked < period - min(TOLERANCE, period / 2)
