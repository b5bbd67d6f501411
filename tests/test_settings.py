"""Settings: which texts they take, which source wins, where each value came from."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbuild import settings
from rbuild.errors import ProjectError, UsageError
from rbuild.settings import OPTIONS, BadValue, Given, count, duration, resolve, switch


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("86400", 86400),
        ("90s", 90),
        ("30m", 1800),
        ("12h", 43200),
        ("7d", 604800),
        ("1w", 604800),
        (" 5m ", 300),
        ("007", 7),
    ],
)
def test_durations(text: str, seconds: int) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", " ", "-5", "-5m", "+5", "1.5h", "1e3", "5 m", "5M", "5min", "1h30m", "m", "٣d", "0x10",
     "1_000", "9999999999", "999999999w", "nan", "5\n6"],
)  # fmt: skip
def test_no_durations(text: str) -> None:
    with pytest.raises(BadValue):
        duration(text)


@given(st.text())
def test_any_text_is_a_duration_or_a_bad_value(text: str) -> None:
    try:
        assert duration(text) >= 0
    except BadValue:
        return


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("1", 1), (" 12 ", 12), ("9999", 9999)])
def test_counts(text: str, number: int) -> None:
    assert count(text) == number


@pytest.mark.parametrize("text", ["", "-1", "1.0", "10000", "one", "٣"])
def test_no_counts(text: str) -> None:
    with pytest.raises(BadValue):
        count(text)


@pytest.mark.parametrize("text", ["1", "true", "TRUE", "yes", "on", " On "])
def test_switched_on(text: str) -> None:
    assert switch(text) is True


@pytest.mark.parametrize("text", ["0", "false", "no", "OFF", ""])
def test_switched_off(text: str) -> None:
    assert switch(text) is False


@pytest.mark.parametrize("text", ["maybe", "2", "y", "enabled"])
def test_no_switches(text: str) -> None:
    with pytest.raises(BadValue):
        switch(text)


def test_defaults() -> None:
    found = resolve()
    assert found[:-2] == (86400, 60, 5, 0, 3600, 600, 1, False)
    assert found.hooks == {}
    assert set(found.origins.values()) == {"built-in"}
    assert set(found.origins) == {option.name for option in OPTIONS}
    assert not found.up_timeout_is_given


@pytest.mark.parametrize("winner", range(4))
def test_the_first_source_that_has_a_value_wins(winner: int) -> None:
    sources: list[dict[str, Given]] = [{} for _ in range(winner)]
    sources += [{"build-period": Given(n, f"source {n}")} for n in range(winner, 4)]
    found = resolve(*sources)
    assert found.build_period == winner
    assert found.origins["build-period"] == f"source {winner}"


def test_a_value_of_nothing_is_still_a_value() -> None:
    first = {"build-period": Given(0, "flag"), "prune-image-cache": Given(False, "flag")}
    second = {"build-period": Given(7, "later"), "prune-image-cache": Given(True, "later")}
    found = resolve(first, second)
    assert (found.build_period, found.prune_image_cache) == (0, False)


def test_a_time_limit_that_was_given_counts_as_given_whatever_its_value() -> None:
    assert resolve({"up-timeout-period": Given(60, "flag")}).up_timeout_is_given


@pytest.mark.parametrize(
    ("environ", "name", "value", "variable"),
    [
        ({"BUILD_PERIOD": "5"}, "build-period", 5, "BUILD_PERIOD"),
        ({"BUILD_TTL": "2h"}, "build-period", 7200, "BUILD_TTL"),
        ({"BUILD_TTL": "1", "BUILD_PERIOD": "2"}, "build-period", 2, "BUILD_PERIOD"),
        (
            {"BUILD_PERIOD": "1", "RBUILD_BUILD_PERIOD": "2"},
            "build-period",
            2,
            "RBUILD_BUILD_PERIOD",
        ),
        ({"RBUILD_BUILD_PERIOD": "", "BUILD_TTL": "3"}, "build-period", 3, "BUILD_TTL"),
        ({"UP_TIMEOUT_PERIOD": "6"}, "up-timeout-period", 6, "UP_TIMEOUT_PERIOD"),
        ({"RBUILD_SETTLE_PERIOD": "1"}, "settle-period", 1, "RBUILD_SETTLE_PERIOD"),
        ({"RBUILD_MONITOR_PERIOD": "2m"}, "monitor-period", 120, "RBUILD_MONITOR_PERIOD"),
        ({"RBUILD_BUILD_TIMEOUT": "1m"}, "build-timeout", 60, "RBUILD_BUILD_TIMEOUT"),
        ({"RBUILD_HOOK_TIMEOUT": "1h"}, "hook-timeout", 3600, "RBUILD_HOOK_TIMEOUT"),
        ({"RBUILD_KEEP_IMAGES": "3"}, "keep-images", 3, "RBUILD_KEEP_IMAGES"),
        ({"RBUILD_PRUNE_IMAGE_CACHE": "on"}, "prune-image-cache", True, "RBUILD_PRUNE_IMAGE_CACHE"),
    ],
)
def test_environment(environ: dict[str, str], name: str, value: int, variable: str) -> None:
    assert settings.from_environment(environ) == {name: Given(value, f"environment {variable}")}


def test_a_bad_value_in_the_environment_names_its_variable() -> None:
    with pytest.raises(UsageError, match="BUILD_TTL in the environment: 'soon' is no duration"):
        settings.from_environment({"BUILD_TTL": "soon"})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("build-period", "7d", 604800),
        ("build-period", 90, 90),
        ("keep-images", 0, 0),
        ("prune-image-cache", True, True),
        ("prune-image-cache", False, False),
        ("prune-image-cache", "yes", True),
    ],
)
def test_a_mapping_from_yaml(key: str, value: Any, expected: int) -> None:
    found = settings.from_mapping({key: value}, "/p/compose.yml", {key: 4}, ProjectError)
    assert found == {key: Given(expected, "/p/compose.yml:4")}


def test_no_mapping_sets_nothing() -> None:
    assert settings.from_mapping(None, "f", {}, ProjectError) == {}


@pytest.mark.parametrize(
    ("mapping", "message", "hint"),
    [
        ({"build-perod": 1}, "f:3: unknown key 'build-perod'", "did you mean build-period?"),
        ({"zzzzzzz": 1}, "f: unknown key 'zzzzzzz'", "known here: build-period,"),
        ({7: 1}, "f: unknown key '7'", ""),
        ({"build-period": "soon"}, "f: build-period: 'soon' is no duration", ""),
        ({"build-period": None}, "f: build-period: no value is given", ""),
        ({"build-period": True}, "f: build-period: 'true' is no duration", ""),
        ({"build-period": [1]}, "f: build-period: '[1]' is no duration", ""),
        ({"keep-images": 1.5}, "f: keep-images: '1.5' is no whole number", ""),
        ({"jobs": 2}, "f: jobs belongs to a run, not to a file: give it as --jobs", ""),
        ({"lock-wait": 2}, "f: lock-wait belongs to a run", ""),
        ({"hook": {}}, "f: unknown key 'hook'", "did you mean hooks?"),
        ({"hooks.before-update": "x"}, "f: unknown key 'hooks.before-update'", ""),
        (["build-period"], "f: expected a mapping of settings", ""),
        ("7d", "f: expected a mapping of settings", ""),
    ],
)
def test_a_wrong_mapping(mapping: Any, message: str, hint: str) -> None:
    with pytest.raises(ProjectError) as caught:
        settings.from_mapping(mapping, "f", {"build-perod": 3}, ProjectError)
    assert caught.value.message.startswith(message)
    assert hint in caught.value.hint


def test_the_caller_chooses_the_kind_of_error() -> None:
    with pytest.raises(UsageError):
        settings.from_mapping({"nope": 1}, "f", {}, UsageError)


# Hooks


COMMANDS = [
    ("pg_dump site | gzip", ("/bin/sh", "-c", "pg_dump site | gzip")),
    ("one\ntwo\n", ("/bin/sh", "-c", "one\ntwo\n")),
    (["dump"], ("dump",)),
    (["dump", "--to", "a b", "", "$x"], ("dump", "--to", "a b", "", "$x")),
    (["chmod", "0755", "x"], ("chmod", "0755", "x")),
]


@pytest.mark.parametrize(("value", "argv"), COMMANDS)
def test_a_hook_s_command(value: Any, argv: tuple[str, ...]) -> None:
    lines = {"hooks": 1, "hooks.before-update": 2}
    mapping = {"hooks": {"before-update": value}}
    found = settings.from_mapping(mapping, "/p/c.yml", lines, ProjectError)
    assert found == {"hooks.before-update": Given(argv, "/p/c.yml:2")}


@pytest.mark.parametrize("mapping", [{"hooks": None}, {"hooks": {}}])
def test_no_hooks(mapping: Any) -> None:
    assert settings.from_mapping(mapping, "f", {}, ProjectError) == {}


@pytest.mark.parametrize(
    ("hooks", "message", "hint"),
    [
        ("dump", "f:1: hooks: expected a mapping of hooks, not 'dump'", "before-update, after-"),
        (["dump"], "f:1: hooks: expected a mapping of hooks", "before-update"),
        ({"before-updat": "x"}, "f:2: unknown key 'before-updat'", "did you mean before-update?"),
        ({"on-error": "x"}, "f:1: unknown key 'on-error'", "on-failure"),
        ({"jobs": "x"}, "f:1: jobs belongs to a run", ""),
        ({"after-update": None}, "f:3: hooks.after-update: no command is given", ""),
        ({"after-update": ""}, "f:3: hooks.after-update: the command is empty", ""),
        ({"after-update": " \n"}, "f:3: hooks.after-update: the command is empty", ""),
        ({"after-update": []}, "f:3: hooks.after-update: the command is empty", ""),
        ({"after-update": ["", "a"]}, "f:3: hooks.after-update: the command is empty", ""),
        ({"after-update": 5}, "f:3: hooks.after-update: 5 is no command: give a text", ""),
        ({"after-update": True}, "f:3: hooks.after-update: true is no command", ""),
        ({"after-update": {"run": "x"}}, "f:3: hooks.after-update: {'run': 'x'} is no command", ""),
        ({"after-update": ["chmod", 493, "x"]},
         "f:3: hooks.after-update: item 2 of the command is 493, not text: put it in quotes", ""),
        ({"after-update": ["x", False]}, "f:3: hooks.after-update: item 2 of the command is false",
         ""),
        ({"after-update": ["x", None]}, "f:3: hooks.after-update: item 2 of the command is nothing",
         ""),
        ({"after-update": [["x"]]}, "f:3: hooks.after-update: item 1 of the command is ['x']", ""),
        ({"after-update": "a\0b"}, "f:3: hooks.after-update: a command cannot hold a NUL", ""),
    ],
)  # fmt: skip
def test_a_wrong_hook(hooks: Any, message: str, hint: str) -> None:
    lines = {"hooks": 1, "hooks.before-updat": 2, "hooks.after-update": 3}
    with pytest.raises(ProjectError) as caught:
        settings.from_mapping({"hooks": hooks}, "f", lines, ProjectError)
    assert caught.value.message.startswith(message)
    assert hint in caught.value.hint


def test_the_line_of_each_hook() -> None:
    mapping = {"build-period": 1, "hooks": {"before-update": "x", "on-failure": "y"}}
    asked = []

    def line(*keys: str) -> int:
        asked.append(keys)
        return len(asked)

    found = settings.key_lines(mapping, line)
    assert found == {"build-period": 1, "hooks": 2, "hooks.before-update": 3, "hooks.on-failure": 4}
    assert asked == [("build-period",), ("hooks",), ("hooks", "before-update"),
                     ("hooks", "on-failure")]  # fmt: skip
    assert settings.key_lines(["hooks"], line) == settings.key_lines(None, line) == {}
    assert settings.key_lines({"hooks": "x"}, lambda *_: 7) == {"hooks": 7}


def test_a_project_s_hook_comes_before_the_default_of_the_same_name() -> None:
    own = {"hooks.before-update": Given(("own",), "c:1")}
    default = {"hooks.before-update": Given(("all",), "r:1"),
               "hooks.on-failure": Given(("mail",), "r:2")}  # fmt: skip
    found = resolve({}, own, default)
    assert found.hooks == {"before-update": Given(("own",), "c:1"),
                           "on-failure": Given(("mail",), "r:2")}  # fmt: skip
    assert set(found.origins) == {option.name for option in OPTIONS}


def test_hooks_survive_json() -> None:
    values = {"hooks.before-update": Given(("/bin/sh", "-c", "a"), "c:1"),
              "hooks.after-update": Given(("a", ""), "c:2"),
              "keep-images": Given(3, "c:3")}  # fmt: skip
    plain = settings.as_json(values)
    assert json.loads(json.dumps(plain)) == plain
    assert settings.from_json(plain) == values
    odd = {"hooks.at-night": [["a"], "c"], "hooks.on-failure": [[], "c"],
           "build-period": [["5"], "c"], "build-timeout": [None, "c"]}  # fmt: skip
    for value in ("a", 5, None, ["a", 5], [["a"]], {"a": 1}):
        assert settings.from_json({**plain, **odd, "hooks.on-failure": [value, "c"]}) == values
    assert settings.from_json({**plain, **odd}) == values


def test_given_values_survive_json() -> None:
    values = {"build-period": Given(5, "a:1"), "prune-image-cache": Given(True, "b")}
    data = json.loads(json.dumps(settings.as_json(values)))
    assert settings.from_json(data) == values
    odd = {"of-another-version": [1, "x"], "keep-images": ["1", "x"], "build-timeout": [-1, "x"],
           "settle-period": [5], "up-timeout-period": 5}  # fmt: skip
    assert settings.from_json({**data, **odd}) == values


def test_a_schedulers_default_comes_last() -> None:
    environ = {"RBUILD_DEFAULT_BUILD_PERIOD": "20h"}
    default = settings.defaults_from_environment(environ)
    own = {"build-period": Given(604800, "compose.yml:3")}
    assert resolve(settings.from_environment(environ), {}, default).build_period == 72000
    assert resolve(settings.from_environment(environ), own, default).build_period == 604800
