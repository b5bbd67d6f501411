"""The README says what there is: commands, options, variables, keys, reasons, exit codes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rbuild.cli import main
from rbuild.compose.configuration import SERVICE_KEYS
from rbuild.errors import RbuildError
from rbuild.report import SEVERITY, Outcome, document
from rbuild.settings import FILE_KEYS, HOOKS, OPTIONS
from rbuild.state.lock import HOOK_OF
from rbuild.updates.hook import variables

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SOURCE = "\n".join(path.read_text() for path in sorted((ROOT / "rbuild").rglob("*.py")))


def flags() -> set[str]:
    """Every long option of the command."""
    found = {one for parameter in main.params for one in parameter.opts if one.startswith("--")}
    return found | {"--help"}


@pytest.mark.parametrize("command", main.commands)
def test_every_command_is_named(command: str) -> None:
    assert f"`rbuild {command}`" in README or f"rbuild {command} " in README


@pytest.mark.parametrize("command", main.commands)
def test_every_option_of_a_command_is_named(command: str) -> None:
    """In the table, or beside the command's name."""
    own = {one for parameter in main.commands[command].params for one in parameter.opts}
    beside = " ".join(re.findall(rf"`rbuild {command}`[^;.]*", README))
    alone = {one for one in own - flags() if one.startswith("--")}
    assert {one for one in alone if f"`{one}" not in beside} == set()


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


@pytest.mark.parametrize("key", FILE_KEYS)
def test_every_key_of_a_project_has_its_row(key: str) -> None:
    rows = re.findall(r"^\| ((?:`[\w-]+`(?:, )?)+) \| top \|", README, re.M)
    assert f"`{key}`" in " ".join(rows)


@pytest.mark.parametrize("key", SERVICE_KEYS)
def test_every_key_of_a_service_is_explained(key: str) -> None:
    assert re.search(rf"^\| `{key}: ", README, re.M)


@pytest.mark.parametrize("word", ["forced", "new", "expired", "changed", "interrupted"])
def test_every_reason_has_its_row(word: str) -> None:
    assert re.search(rf"^\| `{word}` \|", README, re.M)


OUTCOMES = ["fresh", "planned", "updated", "failed", "rolled-back", "needs-a-person", "deferred",
            "removed"]  # fmt: skip


def test_every_outcome_is_named_and_no_other() -> None:
    said = re.search(r"^`outcome` is ((?:`[a-z-]+`[\s,or]*)+);", README, re.M)
    assert said
    assert re.findall(r"`([a-z-]+)`", said[1]) == OUTCOMES
    # As the code has it.
    assert all(f'"{one}"' in SOURCE for one in OUTCOMES)
    assert re.findall(r'outcome\.outcome = "([a-z-]+)"', SOURCE)
    assert {*re.findall(r'outcome\.outcome = "([a-z-]+)"', SOURCE)} <= {*OUTCOMES}


def test_every_exit_code_has_its_row_and_no_other() -> None:
    rows = re.findall(r"^\| (\d+(?: \+ n)?) \| ", README, re.M)
    assert rows == ["0", "1", "2", "3", "4", "75", "128 + n"]
    codes = {one.exit_code for one in kinds_of(RbuildError)}
    assert {str(one) for one in codes | {*SEVERITY}} == {*rows} - {"128 + n"}


def kinds_of(kind: type[RbuildError]) -> list[type[RbuildError]]:
    return [kind, *(one for sub in kind.__subclasses__() for one in kinds_of(sub))]


def test_the_json_document_is_told_key_by_key() -> None:
    said = re.search(r"^```\n(\{\"version\".*?)^```", README, re.M | re.S)
    assert said
    (project,) = document([Outcome("site", "/srv/site", "fresh")], 0)["projects"]
    whole = re.findall(r'"([a-z_]+)"', re.sub(r"\[\{[^[]*?\}\]", "", said[1].partition("[{")[2]))
    assert whole == list(project)


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_explained(name: str) -> None:
    assert f"`{name}`" in README
    assert re.search(rf"^ +{name}: ", README, re.M)


def test_every_variable_of_a_hook_has_its_row() -> None:
    told = variables("before-update", project="", folder="", home="", reasons=[], environ={})
    rows = re.findall(r"^\| (`RBUILD_.*?) \| ", README, re.M)
    named = {one for row in rows for one in re.findall(r"RBUILD_\w+", row)}
    assert {one for one in told if one != HOOK_OF} == named


def test_files_that_are_named_are_there() -> None:
    named = set(
        re.findall(r"(?<![\w/.~])(?:contrib|tests|rbuild(?=/\w+\.py)|\.ci)/[\w./@*-]+[\w*]", README)
    )
    assert named
    assert [one for one in sorted(named) if not list(ROOT.glob(one))] == []
