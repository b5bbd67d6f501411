"""The health gate at work: looks at containers until `health` has judged them, and says why not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from rbuild.docker.engine import Container, Engine
from rbuild.errors import GateError
from rbuild.process import Stop
from rbuild.settings import Settings
from rbuild.text import visible, visible_lines
from rbuild.updates.health import Finding, Verdict, judge
from rbuild.updates.step import Gate, Watch

# Seconds between two looks; each costs two short commands.
POLL = 0.4
WATCH_POLL = 1.0
# Of a container's log.
LOG_LINES = 12
# For all that aren't well together: why, and the ends of their logs.
EVIDENCE_LINES = 28


class Watched(Protocol):
    """What the gate needs of an update that is at work."""

    engine: Engine
    settings: Settings
    stop: Stop
    clock_ahead: float
    deadline: float
    limit: float
    containers: list[Container]
    warnings: list[str]

    @property
    def name(self) -> str:
        """Compose's name for the project."""


def wait(step: Gate, work: Watched) -> None:
    """Wait until the services are judged healthy. Raises GateError."""
    tolerated = {one.service for one in step.expectations if one.was_failing}
    patience = 0.0
    while True:
        work.stop.check()
        work.containers = work.engine.containers(work.name)
        verdict = judge(
            step.expectations,
            work.containers,
            step.restarts,
            now=time.time() + work.clock_ahead,
            settle=work.settings.settle_period,
        )
        failed = [one for one in verdict.failed if one.service not in tolerated]
        waiting = [one for one in verdict.pending if one.service not in tolerated]
        late = time.monotonic() > work.deadline
        if failed or (late and waiting):
            raise _error(failed or waiting, late and not failed, work)
        # What failed before may have been mended: it gets a moment, not the whole time limit.
        if not waiting and not patience:
            patience = time.monotonic() + work.settings.settle_period
        if not verdict.pending or (not waiting and (late or time.monotonic() > patience)):
            work.warnings += _still_failing(verdict)
            return
        time.sleep(POLL)


def watch(step: Watch, work: Watched) -> None:
    """Look on for a while after the gate. Raises GateError for a restart or a failing health."""
    tolerated = {one.service for one in step.expectations if one.was_failing}
    watched = {one.service for one in step.expectations} - tolerated
    well = {one.id: one for one in work.containers if one.service in watched}
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < step.seconds:
        work.stop.check()
        time.sleep(min(WATCH_POLL, step.seconds - passed))
        work.containers = work.engine.containers(work.name)
        found = [
            Finding(one.service, why, one)
            for one in work.containers
            if one.id in well and (why := _worse(one, well[one.id]))
        ]
        if found:
            names = ", ".join(dict.fromkeys(one.service for one in found))
            raise GateError(
                f"{names}: failed {time.monotonic() - begun:.0f} s after it was healthy",
                detail=evidence(found, work.engine),
            )


def _worse(now: Container, before: Container) -> str:
    """How a container that was well has got worse; empty if it hasn't."""
    if now.restarts > before.restarts or now.state == "restarting":
        return "restarted"
    if now.health == "unhealthy":
        return "is unhealthy"
    if now.state == before.state or (now.state == "exited" and now.exit_code == 0):
        return ""
    return f"is {now.state}" if now.state != "exited" else f"exited with code {now.exit_code}"


def evidence(findings: Sequence[Finding], engine: Engine) -> str:
    """What a person needs to see of services that aren't well: why, and the ends of their logs."""
    room = EVIDENCE_LINES // max(1, len(findings)) - 1
    most = max(1, min(LOG_LINES, room))
    return "\n".join(line for one in findings for line in _evidence(one, engine, most))


def _evidence(finding: Finding, engine: Engine, most: int) -> list[str]:
    lines = [f"{finding.service}: {finding.why}"]
    container = finding.container
    if container:
        if container.healthcheck_output:
            said = " ".join(container.healthcheck_output.split())
            lines.append(f"  healthcheck said: {visible(said)}")
        log = visible_lines(engine.logs(container.id, most))
        lines += [f"  {container.name} | {line}" for line in log[-most:]]
    return lines


def troubled(containers: Sequence[Container], services: Sequence[str]) -> list[Finding]:
    """What of these services is in plain trouble at this moment."""
    return [
        Finding(one.service, _state_of(one), one)
        for one in containers
        if one.service in services
        and (one.health == "unhealthy" or (one.state == "exited" and one.exit_code))
    ]


def _error(findings: list[Finding], late: bool, work: Watched) -> GateError:
    names = ", ".join(one.service for one in findings)
    message = f"{names}: not healthy" + (f" within {work.limit:.0f} s" if late else "")
    return GateError(message, detail=evidence(findings, work.engine))


def _still_failing(verdict: Verdict) -> list[str]:
    return [
        f"{one.service}: {one.why}; it was failing before the update as well"
        for one in (*verdict.failed, *verdict.pending)
    ]


def _state_of(container: Container) -> str:
    if container.health == "unhealthy":
        return "is unhealthy"
    return f"exited with code {container.exit_code}"
