"""What was told, as one file in the state folder remembers it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rbuild.state import checks
from rbuild.state.checks import Checks
from rbuild.state.record import CHECKS

NOW = 1_800_000_000.0
HOUR = 3600


def test_what_was_told_is_known_by_its_key(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert not checks.was_told(folder, "", NOW, HOUR)
    checks.tell(folder, "these words", "a", NOW)
    assert checks.was_told(folder, "a", NOW + HOUR - 1, HOUR)
    assert not checks.was_told(folder, "b", NOW, HOUR)
    assert not checks.was_told(folder, "a", NOW + HOUR, HOUR)
    assert not checks.was_told(folder, "a", NOW - 1, HOUR), "a clock that was set back"
    assert checks.read(folder).wrong == "these words"
    checks.clear(folder)
    assert not checks.was_told(folder, "a", NOW, HOUR)


def test_a_tag_that_is_gone_is_news_once(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert checks.vanish(folder, {}) == []
    assert checks.vanish(folder, {"a": False}) == []
    assert not (tmp_path / CHECKS).exists()
    assert checks.vanish(folder, {"a": True, "b": True, "c": False}) == ["a", "b"]
    # Of what was not asked for, nothing is known.
    assert checks.vanish(folder, {"a": True}) == []
    assert checks.read(folder).vanished == ("a", "b")
    assert checks.vanish(folder, {"a": False, "b": True}) == []
    assert checks.vanish(folder, {"a": True, "b": True}) == ["a"]


def test_all_is_forgotten_together(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    checks.tell(str(folder), "no", "a", NOW)
    checks.forget(str(folder))
    assert not folder.exists()
    folder.mkdir()
    checks.tell(str(folder), "no", "a", NOW)
    (folder / "record.json").touch()
    checks.forget(str(folder))
    assert [one.name for one in folder.iterdir()] == ["record.json"]
    checks.forget(str(folder))


@pytest.mark.parametrize(
    "part", [{"wrong": 1}, {"wrong_key": None}, {"vanished": "a"}, {"vanished": [1]}, {"told": []}]
)
def test_what_makes_no_sense_is_not_remembered(tmp_path: Path, part: dict[str, Any]) -> None:
    (tmp_path / CHECKS).write_text(json.dumps({"wrong": "a", "vanished": ["b"], **part}))
    assert checks.read(str(tmp_path)) == Checks()
