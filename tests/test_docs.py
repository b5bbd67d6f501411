"""The README says what there is: options, variables, keys, reasons, outcomes, exit codes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rbuild.cli import main
from rbuild.configuration import SERVICE_KEYS
from rbuild.settings import OPTIONS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def flags() -> set[str]:
    """Every long option of the command."""
    found = {one for parameter in main.params for one in parameter.opts if one.startswith("--")}
    return found | {"--help"}


def test_every_option_has_its_row_and_no_other() -> None:
    rows = {one for row in re.findall(r"^\| (`-.*?) \|", README, re.M)
            for one in re.findall(r"--[a-z-]+", row)}  # fmt: skip
    assert rows == flags()


@pytest.mark.parametrize("parameter", [one for one in main.params if one.envvar])
def test_every_variable_is_named(parameter: object) -> None:
    assert f"`{parameter.envvar}`" in README  # type: ignore[attr-defined]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda one: one.name)
def test_every_setting_is_named_with_its_variables(option: object) -> None:
    assert f"`{option.name}`" in README  # type: ignore[attr-defined]
    assert all(f"`{one}`" in README for one in option.environment)  # type: ignore[attr-defined]


@pytest.mark.parametrize("key", SERVICE_KEYS)
def test_every_key_of_a_service_is_explained(key: str) -> None:
    assert re.search(rf"^\| `{key}: ", README, re.M)


@pytest.mark.parametrize("word", ["forced", "new", "expired", "changed", "interrupted"])
def test_every_reason_has_its_row(word: str) -> None:
    assert re.search(rf"^\| `{word}` \|", README, re.M)


def test_files_that_are_named_are_there() -> None:
    named = set(
        re.findall(r"(?<![\w/.~])(?:contrib|tests|rbuild(?=/\w+\.py)|\.ci)/[\w./@*-]+[\w*]", README)
    )
    assert named
    assert [one for one in sorted(named) if not list(ROOT.glob(one))] == []
