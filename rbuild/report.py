"""What came of a run, rendered once: text for a person, JSON for a program, an exit code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rbuild.decisions.staleness import Reason, span
from rbuild.errors import RbuildError
from rbuild.state.record import stamp
from rbuild.text import clean, shortened, visible, visible_lines

if TYPE_CHECKING:
    from rbuild.decisions.moves import Waits

# Worst first: what a person must hear of before anything else.
SEVERITY = (4, 3, 1, 75, 0)
# How many services that an update has not changed are named.
MOST_UNCHANGED = 5
SCREEN = 40
"""Lines that a failure may take."""
# Of it, for what is quoted at least, and for warnings at most.
_LEAST_QUOTED = 10
_MOST_WARNINGS = 10
# Characters of a line of our own, which names files and has commands to type.
_LONGEST = 8000
# Of an image; of a commit, SHA-1 or SHA-256.
_DIGEST = re.compile(r"(sha256:[0-9a-f]{12})[0-9a-f]{52}\b")
_COMMIT = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{28}(?:[0-9a-f]{24})?\b")


@dataclass(eq=False, repr=False)
class Outcome:
    """What came of one project in this run."""

    name: str
    path: str
    outcome: str
    """fresh, planned, updated, failed, rolled-back, needs-a-person, deferred or removed."""
    reasons: tuple[Reason, ...] = ()
    services: list[dict[str, Any]] = field(default_factory=list)
    built: tuple[str, ...] = ()
    """Services whose image is new, and whose containers are not."""
    gone: tuple[str, ...] = ()
    """Services that the files no longer have, and whose containers are removed."""
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
    unchecked: tuple[str, ...] = ()
    """What could not be asked whether it has moved, and why."""
    waits: tuple[Waits, ...] = ()
    """New digests that are too young to be taken."""
    news: tuple[str, ...] = ()
    """What is told once on stderr and is no warning."""

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
            lines.append(f"{one.name}: {_updated(one)}")
        elif one.outcome == "rolled-back" and one.error is None and not quiet:
            lines.append(f"{one.name}: rolled back to {one.generation} in {span(one.seconds)}")
        elif one.outcome == "planned" and one.reasons and not quiet:
            lines.append(f"{one.name}: would be updated ({_reasons(one)})")
            lines += [f"  {number}. {step}" for number, step in enumerate(one.steps, 1)]
        elif one.outcome == "planned" and not quiet:
            lines += [f"{one.name}: would {step}" for step in one.steps]
            lines += [] if one.steps else [f"{one.name}: nothing to remove"]
        elif one.outcome == "removed" and not quiet:
            lines += [f"{one.name}: removed {image}" for image in one.removed]
        elif one.outcome == "fresh" and verbose:
            lines.append(f"{one.name}: fresh until {stamp(one.due)[:16]}Z; --force-rebuild updates "
                         "it now")  # fmt: skip
        elif one.outcome == "deferred" and verbose:
            lines += [f"{one.name}: {text}" for text in one.unchecked]
            lines += [_named(one, one.error.message)] if one.error else []
        if verbose or one.outcome == "planned":
            untold = [note for note in one.notes if note not in one.news]
            lines += [f"{one.name}: note: {short_digests(note)}" for note in untold]
    return [visible(line, _LONGEST) for line in lines]


def problems(one: Outcome, terminal: bool) -> list[tuple[int, str]]:
    """Lines for stderr, each with its syslog priority; those of a failure fit on one screen.

    A deferred project is told to a terminal.
    """
    lines = _asides(one, terminal)
    error = one.error
    if error is not None and (one.outcome != "deferred" or terminal):
        priority = 5 if one.outcome == "deferred" else 3
        lines.append((priority, visible(_named(one, error.message), _LONGEST)))
        end = _end(one, error)
        room = max(_LEAST_QUOTED, SCREEN - len(lines) - len(end))
        whole = "the log has them" if one.log else "--json has them"
        quoted = shortened(visible_lines(error.detail), room, whole)
        lines += [(3, text) for text in (*(f"    {line}" for line in quoted), *end)]
    return lines


def _asides(one: Outcome, terminal: bool) -> list[tuple[int, str]]:
    """What is told whether or not something failed."""
    warnings = [visible(text) for text in one.warnings]
    if len(warnings) > _MOST_WARNINGS:
        rest = len(warnings) - _MOST_WARNINGS + 1
        warnings[_MOST_WARNINGS - 1 :] = [f"… and {rest} warnings more: --json has them"]
    name = visible(one.name)
    lines = [(4, f"{name}: warning: {text}") for text in warnings]
    lines += [(5, f"{name}: {visible(text)}") for text in one.news]
    if terminal:
        untold = [text for text in one.unchecked if text not in one.warnings]
        lines += [(5, f"{name}: {visible(text)}") for text in untold]
    return lines


def _end(one: Outcome, error: RbuildError) -> list[str]:
    """What is said of a failure behind what is quoted: what to do, and how things stand."""
    texts = [text for text in (error.hint, one.standing) if text]
    if one.reasons:
        texts.append(f"it was due: {_reasons(one)}")
    if one.retry and one.outcome != "deferred":
        texts.append(
            f"tried again when an input changes, or after {stamp(one.retry)[:16]}Z; "
            "--force-rebuild tries it now"
        )
    if one.log:
        texts.append(f"whole output: {one.log}")
    return [f"  {line}" for text in texts for line in visible_lines(text, _LONGEST)]


def error_lines(error: RbuildError) -> list[str]:
    """An error that is no project's, for a person."""
    quoted = shortened(visible_lines(error.detail), SCREEN - 2, "")
    hint = visible_lines(error.hint, _LONGEST)
    return [
        f"rbuild: {visible(error.message, _LONGEST)}",
        *(f"    {line}" for line in quoted),
        *(f"  {line}" for line in hint),
    ]


def document(outcomes: Sequence[Outcome], code: int) -> dict[str, Any]:
    """The JSON document of a run; its keys are a contract."""
    projects = [clean(_project(one)) for one in outcomes]
    return {"version": 1, "exit_code": code, "projects": projects}


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
        "unchecked": list(one.unchecked),
        "waits": waiting(one.waits),
        "error": error and {"message": error.message, "detail": error.detail, "hint": error.hint},
    }


def waiting(waits: Iterable[Waits]) -> list[dict[str, str]]:
    """New digests that are too young to be taken, as JSON."""
    return [
        {
            "image": one.reference,
            "digest": one.digest,
            "since": stamp(one.since),
            "until": stamp(one.until),
        }
        for one in waits
    ]


def _named(one: Outcome, message: str) -> str:
    """The message, with the project's name before it unless it begins with its path already."""
    if message.startswith((f"{one.name}:", f"{one.path}:", f"{one.path}/")):
        return message
    return f"{one.name}: {message}"


def _reasons(one: Outcome) -> str:
    return "; ".join(f"{kind}: {short_digests(detail)}" for kind, detail in one.reasons)


def short_digests(text: str) -> str:
    """As Docker shows digests to a person, and git commits: twelve digits of each."""
    return _COMMIT.sub(r"\1", _DIGEST.sub(r"\1", text))


def _updated(one: Outcome) -> str:
    """What an update has changed, and what it has not."""
    changed = [service["name"] for service in one.services if service["changed"]]
    rest = [service for service in one.services if not service["changed"]]
    ended = [service["name"] for service in rest if service["state"] == "ended"]
    same = [service["name"] for service in rest if service["state"] not in ("ended", "absent")]
    parts = []
    if one.built:
        parts.append(f"built {', '.join(one.built)}")
    if one.gone:
        parts.append(f"removed {', '.join(one.gone)}")
    if ended:
        parts.append(f"{', '.join(ended)} ran again")
    if changed:
        parts.insert(0, f"updated {', '.join(changed)}")
        parts += [f"{_some(same)} unchanged"] if same else []
    elif not one.built and not one.gone:
        parts.insert(0, "checked, nothing new")
    first, *more = parts
    return "; ".join([f"{first} in {span(one.seconds)} ({_reasons(one)})", *more])


def _some(names: Sequence[str]) -> str:
    if len(names) > MOST_UNCHANGED:
        return f"{len(names)} others"
    return ", ".join(names)
