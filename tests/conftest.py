"""What every test gets: a home, a state folder and a configuration of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SETTINGS = ("BUILD_PERIOD", "BUILD_TTL", "UP_TIMEOUT_PERIOD", "STATE_DIRECTORY", "JOURNAL_STREAM")


@pytest.fixture(autouse=True)
def _own_world(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the machine's own rbuild, nor another test's."""
    world = tmp_path_factory.mktemp("world")
    for name in [*SETTINGS, *os.environ]:
        ours = name.startswith(("RBUILD_", "COMPOSE_")) and name not in GIVEN
        if ours or name in SETTINGS:
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(world / "config"))
    monkeypatch.setenv("RBUILD_STATE_DIR", str(world / "state"))
    monkeypatch.setenv("NO_COLOR", "1")


# What tests/run hands to the tests.
GIVEN = ("RBUILD_REGISTRY", "RBUILD_BASE", "RBUILD_COMPOSE_NEXT")


@pytest.fixture
def state_dir() -> Path:
    """The state folder of this test."""
    return Path(os.environ["RBUILD_STATE_DIR"])
