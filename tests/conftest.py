"""What every test gets: a home, a state folder and a configuration of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SETTINGS = ("BUILD_PERIOD", "BUILD_TTL", "UP_TIMEOUT_PERIOD", "STATE_DIRECTORY", "JOURNAL_STREAM")


# The longest files first, so that no worker is left with one of them at the end.
LONGEST = (
    "test_kill.py", "test_table.py", "test_table_containerd.py", "test_machine.py",
    "test_rollback.py", "test_cut_off.py", "test_disk.py", "test_hooks.py", "test_update.py",
    "test_interrupt.py", "test_bad_input.py", "test_sixty_days.py", "test_together.py",
    "test_refresh_fake.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the longest files first, the others in their order."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else 99)


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
