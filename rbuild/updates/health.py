"""Are the services healthy? Pure judgement over snapshots of containers.

Compose's own `--wait` takes a crash loop for health, so what counts is said here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rbuild.docker.engine import Container

# A service that loses the race for its database restarts once or twice and then runs; one
# that keeps dying is not worth the rest of the time limit.
MOST_RESTARTS = 3
# Seconds; the engine's longest pause between restarts.
RECENT = 60.0


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a service must come to."""

    service: str
    count: int = 1
    must_end: bool = False
    """A one-shot: only its exit with 0 will do."""
    may_end: bool = False
    """It may be a one-shot: an exit with 0 will do as well."""
    was_failing: bool = False
    """It was failing before the update; if it still is, the update isn't to blame."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one service: why it isn't well (yet), and on which container."""

    service: str
    why: str
    container: Container | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one moment. Healthy when nothing is failed and nothing is pending."""

    failed: tuple[Finding, ...]
    pending: tuple[Finding, ...]
    ended: tuple[str, ...]
    """Services that ended with 0, as they should."""

    @property
    def settled(self) -> bool:
        """Whether waiting longer can't change the judgement for the better."""
        return bool(self.failed) or not self.pending


def judge(
    expectations: Iterable[Expectation],
    containers: Sequence[Container],
    restarts_before: Mapping[str, int],
    *,
    now: float,
    settle: float,
) -> Verdict:
    """Hold the containers of a moment against what is expected of their services.

    `restarts_before` has restart counts by container ID from before the update; `now` is on
    the engine's clock, `settle` in seconds.
    """
    failed: list[Finding] = []
    pending: list[Finding] = []
    ended = []
    for expected in expectations:
        own = [one for one in containers if one.service == expected.service]
        findings = [
            (sort, Finding(expected.service, why, one))
            for one in own
            for sort, why in [_look(one, expected, restarts_before.get(one.id, 0), now, settle)]
        ]
        ended_well = [one for one in own if one.state == "exited" and one.exit_code == 0]
        if len(own) < expected.count:
            missing = f"{len(own)} of {expected.count} containers are there"
            findings.append(("pending", Finding(expected.service, missing)))
        bad = [finding for sort, finding in findings if sort == "failed"]
        waiting = [finding for sort, finding in findings if sort == "pending"]
        failed += bad[:1]
        if not bad:
            pending += waiting[:1]
        if not bad and not waiting and own and len(ended_well) == len(own):
            ended.append(expected.service)
    return Verdict(tuple(failed), tuple(pending), tuple(ended))


def was_failing(containers: Iterable[Container], now: float) -> bool:
    """Whether containers are in trouble, before an update; `now` is on the engine's clock."""
    return any(
        one.health == "unhealthy"
        or one.state in ("created", "restarting", "dead")
        # Between two crashes it runs for a while.
        or (one.state == "running" and one.restarts and now - one.started < RECENT)
        or (one.state == "exited" and one.exit_code != 0 and not stopped_by_hand(one))
        for one in containers
    )


def stopped_by_hand(container: Container) -> bool:
    """Whether a person stopped it: the engine itself would have started it again."""
    return (
        container.state == "exited"
        and container.restart_policy in ("always", "unless-stopped")
        and not container.error
    )


def _look(
    container: Container, expected: Expectation, before: int, now: float, settle: float
) -> tuple[str, str]:
    """One container: `well`, `pending` or `failed`, and why."""
    state, restarts = container.state, container.restarts - before
    if restarts >= MOST_RESTARTS:
        # One that runs again has no exit code.
        last = "" if state == "running" else f", last exit code {container.exit_code}"
        return "failed", f"restarted {restarts} times{last}"
    if state in ("created", "restarting", "removing"):
        return "pending", _with_error(f"is {state}", container)
    if state in ("dead", "paused"):
        return "failed", f"is {state}"
    if state == "exited":
        if container.exit_code == 0 and (expected.must_end or expected.may_end):
            return "well", ""
        return "failed", _with_error(f"exited with code {container.exit_code}", container)
    if expected.must_end:
        return "pending", "is still running, and is awaited to end with 0"
    if container.health == "unhealthy":
        return "failed", "is unhealthy"
    if container.health == "starting":
        return "pending", "its healthcheck has not passed yet"
    if container.started and now - container.started < settle:
        return "pending", f"has not run for {settle:g} s without a restart"
    return "well", ""


def _with_error(text: str, container: Container) -> str:
    return f"{text}: {container.error}" if container.error else text
