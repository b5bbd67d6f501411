"""What the engine remembers of containers that were told to stop."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

import pytest

from rbuild.docker.engine import Stopping
from rbuild.docker.whales import Whales
from rbuild.process import Stop

from .conftest import Project, run
from .tools import wait_until

# Ends at none of these: only when its grace is over.
COMPOSE = """\
services:
  deaf:
    image: $BASE
    command: [sh, -c, "trap '' TERM WINCH HUP; while :; do sleep 1; done"]
    stop_signal: SIGWINCH
    stop_grace_period: 20s
"""


@pytest.fixture
def deaf(project: Project) -> tuple[str, Callable[[], Stopping]]:
    """A container's ID, and who is about to end of its project."""
    project.write("compose.yml", COMPOSE)
    since = time.time() - 1
    project.compose("up", "-d")
    box = project.container("deaf")["Id"]
    return box, lambda: Whales(Stop()).stopping(project.name, since)


def test_what_is_told_to_stop_by_its_own_signal(
    deaf: tuple[str, Callable[[], Stopping]],
) -> None:
    box, stopping = deaf
    run(["docker", "kill", "--signal", "HUP", box])
    assert stopping().told == frozenset()
    with subprocess.Popen(["docker", "stop", box], stdout=subprocess.DEVNULL):
        wait_until(lambda: stopping().told == {box}, "the stop is seen")
        run(["docker", "kill", "--signal", "KILL", box])
    assert stopping().told == frozenset()


def test_an_engine_that_has_forgotten_says_so(deaf: tuple[str, Callable[[], Stopping]]) -> None:
    box, stopping = deaf
    assert stopping().whole
    script = 'for i in $(seq 260); do docker kill --signal HUP "$1" >/dev/null; done'
    run(["sh", "-c", script, "sh", box])
    assert not stopping().whole
