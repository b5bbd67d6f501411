"""Settings: which texts they take, which source wins, where each value came from."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbuild import settings, settingsfile
from rbuild.errors import ProjectError, UsageError
from rbuild.settings import (
    CHECKS,
    OPTIONS,
    BadValue,
    Given,
    checks,
    count,
    duration,
    extent,
    resolve,
    switch,
)

DIGEST = f"sha256:{'0f' * 32}"


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
    assert found[:12] == (86400, 60, 5, 0, 3600, 600, 1, False, (), 0, 0, "all")
    assert (found.watch, found.ignore, found.up, found.push) == ((), (), True, False)
    assert (found.git, found.logins) == ({}, {})
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
        ({"RBUILD_CHECK": "image, base"}, "check", ("base", "image"), "RBUILD_CHECK"),
        ({"RBUILD_CHECK_PERIOD": "1h"}, "check-period", 3600, "RBUILD_CHECK_PERIOD"),
        ({"RBUILD_MIN_AGE": "3d"}, "min-age", 259200, "RBUILD_MIN_AGE"),
        ({"RBUILD_UPDATE": "moved"}, "update", "moved", "RBUILD_UPDATE"),
    ],
)
def test_environment(environ: dict[str, str], name: str, value: Any, variable: str) -> None:
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
    found = settingsfile.from_mapping({key: value}, "/p/compose.yml", {key: 4}, ProjectError)
    assert found == {key: Given(expected, "/p/compose.yml:4")}


def test_no_mapping_sets_nothing() -> None:
    assert settingsfile.from_mapping(None, "f", {}, ProjectError) == {}


@pytest.mark.parametrize(
    ("mapping", "message", "hint"),
    [
        ({"build-perod": 1}, "f:3: unknown key 'build-perod'", "did you mean build-period?"),
        ({"zzzzzzz": 1}, "f: unknown key 'zzzzzzz'", "known here: build-period,"),
        ({7: 1}, "f: unknown key '7'", ""),
        ({"build-period": "soon"}, "f: build-period: 'soon' is no duration", ""),
        ({"build-period": None}, "f: build-period: no value is given", ""),
        ({"build-period": True}, "f: build-period: 'true' is no duration", ""),
        ({"build-period": [1]}, "f: build-period: expected one value, not [1]", ""),
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
        settingsfile.from_mapping(mapping, "f", {"build-perod": 3}, ProjectError)
    assert caught.value.message.startswith(message)
    assert hint in caught.value.hint


def test_the_caller_chooses_the_kind_of_error() -> None:
    with pytest.raises(UsageError):
        settingsfile.from_mapping({"nope": 1}, "f", {}, UsageError)


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
    found = settingsfile.from_mapping(mapping, "/p/c.yml", lines, ProjectError)
    assert found == {"hooks.before-update": Given(argv, "/p/c.yml:2")}


@pytest.mark.parametrize("mapping", [{"hooks": None}, {"hooks": {}}])
def test_no_hooks(mapping: Any) -> None:
    assert settingsfile.from_mapping(mapping, "f", {}, ProjectError) == {}


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
        ({"after-update": {"run": "x"}}, "f:3: hooks.after-update: {\"run\": ", ""),
        ({"after-update": ["chmod", 493, "x"]},
         "f:3: hooks.after-update: item 2 of the command is 493, not text: put it in quotes", ""),
        ({"after-update": ["x", False]}, "f:3: hooks.after-update: item 2 of the command is false",
         ""),
        ({"after-update": ["x", None]}, "f:3: hooks.after-update: item 2 of the command is nothing",
         ""),
        ({"after-update": [["x"]]}, "f:3: hooks.after-update: item 1 of the command is [", ""),
        ({"after-update": "a\0b"}, "f:3: hooks.after-update: a command cannot hold a NUL", ""),
    ],
)  # fmt: skip
def test_a_wrong_hook(hooks: Any, message: str, hint: str) -> None:
    lines = {"hooks": 1, "hooks.before-updat": 2, "hooks.after-update": 3}
    with pytest.raises(ProjectError) as caught:
        settingsfile.from_mapping({"hooks": hooks}, "f", lines, ProjectError)
    assert caught.value.message.startswith(message)
    assert hint in caught.value.hint


def test_the_line_of_each_hook() -> None:
    mapping = {"build-period": 1, "hooks": {"before-update": "x", "on-failure": "y"}}
    asked = []

    def line(*keys: str) -> int:
        asked.append(keys)
        return len(asked)

    found = settingsfile.key_lines(mapping, line)
    assert found == {"build-period": 1, "hooks": 2, "hooks.before-update": 3, "hooks.on-failure": 4}
    assert asked == [("build-period",), ("hooks",), ("hooks", "before-update"),
                     ("hooks", "on-failure")]  # fmt: skip
    assert settingsfile.key_lines(["hooks"], line) == settingsfile.key_lines(None, line) == {}
    assert settingsfile.key_lines({"hooks": "x"}, lambda *_: 7) == {"hooks": 7}


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


# Checks, and what is updated for them


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("none", ()),
        ("all", CHECKS),
        (" all ", CHECKS),
        ("base", ("base",)),
        ("image,base", ("base", "image")),
        ("context, git ,base,base", ("base", "git", "context")),
    ],
)
def test_checks(text: str, found: tuple[str, ...]) -> None:
    assert checks(text) == found


@pytest.mark.parametrize("text", ["", ",", "base,", "bases", "base image", "none,git"])
def test_no_checks(text: str) -> None:
    with pytest.raises(BadValue):
        checks(text)


def test_extents() -> None:
    assert (extent("all"), extent(" moved ")) == ("all", "moved")
    for text in ("", "none", "auto", "all,moved"):
        with pytest.raises(BadValue):
            extent(text)


def taken(mapping: Any, lines: Any = None) -> dict[str, Given]:
    return settingsfile.from_mapping(mapping, "/p/c.yml", lines or {}, ProjectError)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("check", "base,image", ("base", "image")),
        ("check", ["image", "base"], ("base", "image")),
        ("check", [], ()),
        ("check", "none", ()),
        ("check", "all", CHECKS),
        ("check-period", "6h", 21600),
        ("min-age", "3d", 259200),
        ("update", "moved", "moved"),
        ("up", False, False),
        ("push", True, True),
        ("push", "yes", True),
        ("watch", "debian:12", ("debian:12",)),
        ("watch", ["debian:12", f"ghcr.io/a/b@{DIGEST}", "debian:12"],
         ("debian:12", f"ghcr.io/a/b@{DIGEST}")),
        ("ignore", [], ()),
        ("ignore", ["localhost:5000/app", "[::1]:5000/app"],
         ("localhost:5000/app", "[::1]:5000/app")),
    ],
)  # fmt: skip
def test_what_a_file_says_of_moves(key: str, value: Any, expected: Any) -> None:
    assert taken({key: value}, {key: 4}) == {key: Given(expected, "/p/c.yml:4")}


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"check": "bases"}, "check: 'bases' is no check: give some of base, image, git, context"),
        ({"check": ["base", 7]}, "check: 7 is no check"),
        ({"check": None}, "check: no value is given"),
        ({"check": True}, "check: 'true' is no check"),
        ({"check": {"base": True}}, "check: "),
        ({"min-age": "soon"}, "min-age: 'soon' is no duration"),
        ({"update": "auto"}, "update: 'auto' is neither all nor moved"),
        ({"up": "maybe"}, "up: 'maybe' is neither true nor false"),
        ({"push": None}, "push: no value is given"),
        ({"watch": 7}, "watch: expected a list of images"),
        ({"watch": {"debian": 12}}, "watch: expected a list of images"),
        ({"watch": [7]}, "watch: 7 is no image's name"),
        ({"watch": ["debian 12"]}, "watch: 'debian 12' is no image's name"),
        ({"ignore": [""]}, "ignore: '' is no image's name"),
        ({"ignore": [None]}, "ignore: nothing is no image's name"),
        ({"watch": ["ghcr.io/Me/app"]},
         "watch: 'ghcr.io/Me/app' is no image's name (capital letters)"),
        ({"ignore": ["debian:"]}, "ignore: 'debian:' is no image's name (its tag is empty)"),
        ({"git": "main"}, "git: expected a mapping, not 'main'"),
        ({"git": {"branch": ""}}, "git.branch: '' is no name"),
        ({"git": {"branch": "--force"}}, "git.branch: '--force' is no name"),
        ({"git": {"remote": 7}}, "git.remote: 7 is no name"),
        ({"git": {"remote": "a\nb"}}, "git.remote: 'a\\nb' is no name"),
        ({"git": {"pull": "rebase"}}, "git.pull: 'rebase': only ff-only is known"),
        ({"git": {"brunch": "main"}}, "unknown key 'brunch'"),
        ({"registry-auth": ["secret"]}, "registry-auth: expected a mapping"),
        ({"registry-auth": {"r/app": {}}}, "registry-auth.r/app: 'r/app' is no registry"),
        ({"registry-auth": {"https://r": {}}}, "registry-auth.https://r: "),
        ({"registry-auth": {7: {}}}, "registry-auth.7: 7 is no registry"),
        ({"registry-auth": {"r": "secret"}},
         "registry-auth.r: expected a mapping of username and password-file"),
        ({"registry-auth": {"r": {"username": "me"}}}, "registry-auth.r: password-file is missing"),
        ({"registry-auth": {"r": {"username": "me", "password": "secret"}}},
         "registry-auth.r: unknown key 'password': it takes username and password-file: a pass"),
        ({"registry-auth": {"r": {"username": 7, "password-file": "f"}}},
         "registry-auth.r: username: 7 is no text"),
        ({"registry-auth": {"r": {"username": "me", "password-file": " "}}},
         "registry-auth.r: password-file: ' ' is no text"),
    ],
)  # fmt: skip
def test_what_a_file_says_wrong_of_moves(mapping: Any, message: str) -> None:
    with pytest.raises(ProjectError) as caught:
        taken(mapping)
    assert caught.value.message.startswith(f"/p/c.yml: {message}")


def test_a_wrong_entry_of_a_mapping_has_its_own_line() -> None:
    with pytest.raises(ProjectError, match=r"^/p/c\.yml:7: git\.branch: "):
        taken({"git": {"remote": "up", "branch": 5}}, {"git": 5, "git.branch": 7})


def test_where_a_project_s_source_is() -> None:
    found = taken({"git": {"remote": "up", "branch": "a/b", "pull": "ff-only"}})
    assert resolve(found).git == {"remote": "up", "branch": "a/b", "pull": "ff-only"}
    assert taken({"git": None}) == taken({"registry-auth": {}}) == {}


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("secret", "/p/secret"),
        ("../secret", "/secret"),
        ("/etc/secret", "/etc/secret"),
        ("~/secret", "/home/ada/secret"),
    ],
)
def test_a_login_s_password_file_is_relative_to_the_file_that_names_it(
    monkeypatch: pytest.MonkeyPatch, written: str, path: str
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    login = {"username": "me", "password-file": written}
    for registry in ("r.example", "r.example:5000", "localhost", "[::1]:5000"):
        assert resolve(taken({"registry-auth": {registry: login}})).logins == {
            registry: ("me", path)
        }


def test_mappings_are_taken_entry_by_entry_and_lists_whole() -> None:
    own = {"git.branch": Given("own", "c"), "watch": Given(("a",), "c"), "up": Given(False, "c"),
           "registry-auth.r": Given(("me", "/f"), "c")}  # fmt: skip
    default = {"git.branch": Given("all", "r"), "git.remote": Given("up", "r"),
               "watch": Given(("b",), "r"), "ignore": Given(("c",), "r"), "up": Given(True, "r"),
               "registry-auth.r": Given(("you", "/g"), "r"),
               "registry-auth.q": Given(("you", "/g"), "r")}  # fmt: skip
    found = resolve({}, {}, own, default)
    assert found.git == {"branch": "own", "remote": "up"}
    assert (found.watch, found.ignore, found.up, found.push) == (("a",), ("c",), False, False)
    assert found.logins == {"r": ("me", "/f"), "q": ("you", "/g")}


def test_what_is_said_of_moves_survives_json() -> None:
    values = {"check": Given(("base", "git"), "c:1"), "update": Given("moved", "c:2"),
              "min-age": Given(5, "c:3"), "watch": Given(("a", "b"), "c:4"),
              "ignore": Given((), "c:5"), "up": Given(False, "c:6"), "push": Given(True, "c:7"),
              "git.branch": Given("main", "c:8"),
              "registry-auth.r.example": Given(("me", "/f"), "c:9")}  # fmt: skip
    data = json.loads(json.dumps(settings.as_json(values)))
    assert settings.from_json(data) == values
    assert resolve(settings.from_json(data)).logins == {"r.example": ("me", "/f")}
    assert settings.from_json(settings.as_json({"check": Given((), "c")})) == {
        "check": Given((), "c")
    }


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("check", ["base", 5, None, ["base", "of-another-version"], [["base"]], [{}]]),
        ("update", ["of-another-version", 5, None, ["all"], {}]),
        ("check-period", ["5", -1, None, [5]]),
        ("watch", ["a", 5, None, [5], [["a"]]]),
        ("ignore", ["a", {}, [None]]),
        ("up", [0, 1, "no", None, [True]]),
        ("push", ["yes", 1]),
        ("git.branch", [5, None, ["main"]]),
        ("git.of-another-version", ["x"]),
        ("registry-auth.r", ["me", ["me"], ["me", "/f", "x"], ["me", 5], None]),
    ],
)
def test_what_a_record_says_that_is_not_understood_is_dropped(name: str, values: Any) -> None:
    for value in values:
        assert settings.from_json({name: [value, "c"]}) == {}, value
