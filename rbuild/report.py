"""What came of a run, rendered once: text for a person, JSON for a program, an exit code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rbuild.errors import RbuildError
from rbuild.record import stamp
from rbuild.staleness import Reason, span

# Worst first: what a person must hear of before anything else.
SEVERITY = (4, 3, 1, 75, 0)
# States of services that an update has left alone.
LEFT = ("manual", "paused", "stopped")


@dataclass(eq=False, repr=False)
class Outcome:
    """What came of one project in this run."""

    name: str
    path: str
    outcome: str
    """fresh, planned, updated, failed, rolled-back, needs-a-person, deferred or removed."""
    reasons: tuple[Reason, ...] = ()
    services: list[dict[str, Any]] = field(default_factory=list)
    bases: tuple[str, ...] = ()
    started: float = 0.0
    seconds: float = 0.0
    log: str = ""
    due: float = 0.0
    steps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    touched: bool = False
    """Whether containers may have been touched."""
    standing: str = ""
    """After a failure: how it leaves the project, in words."""
    error: RbuildError | None = None
    generation: str = ""
    """The kept generation of what ran before the update."""
    retry: float = 0.0
    """When a failed update is next tried by itself, in epoch seconds; 0 for never."""

    @property
    def exit_code(self) -> int:
        """The code that this outcome alone would give the process."""
        if self.error is not None:
            return self.error.exit_code
        return 75 if self.outcome == "deferred" else 0


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """The worst of several outcomes; a signal's code (128 and above) before everything."""
    codes = {one.exit_code for one in outcomes}
    signals = [code for code in codes if code >= 128]
    if signals:
        return max(signals)
    return next((code for code in SEVERITY if code in codes), max(codes, default=0))


def results(outcomes: Sequence[Outcome], verbose: int, quiet: bool) -> list[str]:
    """Lines for stdout."""
    lines = []
    for one in outcomes:
        if one.outcome == "updated" and not quiet:
            lines.append(f"{one.name}: updated {_services(one)}in {span(one.seconds)} "
                         f"({_reasons(one)})")  # fmt: skip
        elif one.outcome == "rolled-back" and one.error is None and not quiet:
            lines.append(f"{one.name}: rolled back to {one.generation} in {span(one.seconds)}")
        elif one.outcome == "planned" and not quiet:
            lines.append(f"{one.name}: would be updated ({_reasons(one)})")
            lines += [f"  {number}. {step}" for number, step in enumerate(one.steps, 1)]
        elif one.outcome == "removed" and not quiet:
            lines += [f"{one.name}: removed {image}" for image in one.removed]
        elif one.outcome == "fresh" and verbose:
            lines.append(f"{one.name}: fresh until {stamp(one.due)[:16]}Z; --force-rebuild updates "
                         "it now")  # fmt: skip
        if verbose or one.outcome == "planned":
            lines += [f"{one.name}: note: {note}" for note in one.notes]
    return lines


def problems(one: Outcome, terminal: bool) -> list[tuple[int, str]]:
    """Lines for stderr, each with its syslog priority. A deferred project is told to a terminal."""
    lines = [(4, f"{one.name}: warning: {warning}") for warning in one.warnings]
    error = one.error
    if error is None or (one.outcome == "deferred" and not terminal):
        return lines
    lines.append((5 if one.outcome == "deferred" else 3, _named(one, error.message)))
    lines += [(3, f"    {line}") for line in error.detail.splitlines()]
    lines += [(3, f"  {text}") for text in (error.hint, one.standing) if text]
    if one.reasons:
        lines.append((3, f"  it was due: {_reasons(one)}"))
    if one.retry and one.outcome != "deferred":
        retry = f"{stamp(one.retry)[:16]}Z"
        lines.append(
            (
                3,
                f"  tried again when an input changes, or after {retry}; "
                "--force-rebuild tries it now",
            )
        )
    if one.log:
        lines.append((3, f"  whole output: {one.log}"))
    return lines


def document(outcomes: Sequence[Outcome], code: int) -> dict[str, Any]:
    """The JSON document of a run; its keys are a contract."""
    return {"version": 1, "exit_code": code, "projects": [_project(one) for one in outcomes]}


def _project(one: Outcome) -> dict[str, Any]:
    error = one.error
    return {
        "name": one.name,
        "path": one.path,
        "outcome": one.outcome,
        "reasons": [reason._asdict() for reason in one.reasons],
        "services": one.services,
        "bases": list(one.bases),
        "started": stamp(one.started),
        "seconds": round(one.seconds, 3),
        "due": stamp(one.due) if one.due else None,
        "log": one.log or None,
        "steps": list(one.steps),
        "notes": list(one.notes),
        "warnings": list(one.warnings),
        "removed": list(one.removed),
        "touched": one.touched,
        "standing": one.standing or None,
        "generation": one.generation or None,
        "retry": stamp(one.retry) if one.retry else None,
        "error": error and {"message": error.message, "detail": error.detail, "hint": error.hint},
    }


def _named(one: Outcome, message: str) -> str:
    """The message, with the project's name before it unless it begins with its path already."""
    if message.startswith((f"{one.name}:", f"{one.path}:", f"{one.path}/")):
        return message
    return f"{one.name}: {message}"


def _reasons(one: Outcome) -> str:
    return "; ".join(f"{reason.kind}: {reason.detail}" for reason in one.reasons)


def _services(one: Outcome) -> str:
    names = [service["name"] for service in one.services if service["state"] not in LEFT]
    return ", ".join(names) + " " if names else ""
