"""Sites on engines, gone after the test; what a killed test run left is cleared first."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from .engines import Engine, clear_remains, machine_engine
from .projects import MakeSite, Site, new_site


@pytest.fixture(scope="session", autouse=True)
def _engine_is_there() -> None:
    """These tests need what tests/run sets up; without it they fail, they don't skip."""
    for name in ("RBUILD_REGISTRY", "RBUILD_BASE"):
        if not os.environ.get(name):
            pytest.exit(f"{name} is not set: run the tests with tests/run", returncode=3)
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.exit("no docker compose: run the tests with tests/run", returncode=3)
    clear_remains()


@pytest.fixture
def engine() -> Engine:
    """The machine's engine."""
    return machine_engine()


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[MakeSite]:
    """Makes sites that are gone after the test: `make_site(engine, services, **more)`."""
    made: list[Site] = []

    def make(engine: Engine, services: Mapping[str, str | None], **more: Any) -> Site:
        made.append(new_site(engine, tmp_path, services, **more))
        return made[-1]

    yield make
    for one in made:
        one.remove()
