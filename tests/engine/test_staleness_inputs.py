"""When a project is due, and why: by the real command, input by input.

Almost all of it by dry runs against one project that was updated well once.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from .conftest import Project, Ran, clean_up
from .keeping import next_compose, record_of, restored, standing, state_of

COMPOSE = """\
include: [part/compose.yml]
services:
  web:
    build: .
    init: true
    extends: {file: common.yml, service: common}
    environment:
      GREETING: ${GREETING:-hello}
      MODE: ${MODE}
    env_file:
      - required.env
      - {path: optional.env, required: false}
    configs: [motd]
    secrets: [password]
    volumes:
      - ./read-only.conf:/etc/read-only.conf:ro
      - ./writable.conf:/etc/writable.conf
      - ./data.bin:/data.bin
      - ${HOME}/:/home-of-the-user:ro
  more:
    image: $BASE
    profiles: [more]
configs: {motd: {file: ./motd}}
secrets: {password: {file: ./password}}
x-rbuild:
  settle-period: 1
"""
FILES = {
    "compose.yml": COMPOSE,
    "part/compose.yml": "services: {part: {image: $BASE, command: sleep 999, init: true}}\n",
    "common.yml": "services: {common: {labels: {color: red}}}\n",
    ".env": "MODE=calm\n",
    "required.env": "A=1\n",
    "Dockerfile": "FROM $BASE\nCMD httpd -f -h /\n",
    "motd": "welcome\n",
    "password": "12345\n",
    "read-only.conf": "a\n",
    "writable.conf": "a\n",
    "data.bin": "\0\n",
}


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    top = tmp_path_factory.mktemp("inputs")
    name = f"in{os.urandom(4).hex()}"
    (top / name).mkdir()
    (top / "home").mkdir()
    env = {
        "RBUILD_STATE_DIR": str(top / "state"),
        "XDG_CONFIG_HOME": str(top / "no-configuration"),
        "HOME": str(top / "home"),
    }
    project = Project(top / name, name, os.environ["RBUILD_BASE"], env)
    for path, text in FILES.items():
        project.write(path, text)
    ran = project.rbuild(".")
    assert ran.code == 0, ran.err
    yield project
    clean_up(name)


@pytest.fixture
def fresh(_made: Project) -> Iterator[Project]:
    """A project that was updated well; its files and its record are put back after the test."""
    with restored(_made.folder, state_of(_made)):
        yield Project(_made.folder, _made.name, _made.base, dict(_made.env))


def reasons(project: Project, *arguments: str, **env: str) -> dict[str, str]:
    """Why the project is due, kind by kind, as a dry run tells."""
    return outcome(project, *arguments, **env)[0]


def outcome(project: Project, *arguments: str, **env: str) -> tuple[dict[str, str], dict[str, Any]]:
    ran = project.rbuild("--json", "-n", *(arguments or (".",)), **env)
    assert ran.code == 0, ran.err
    (one,) = ran.document["projects"]
    found = {reason["kind"]: reason["detail"] for reason in one["reasons"]}
    assert one["outcome"] == ("planned" if found else "fresh")
    return found, one


def amend(project: Project, **parts: object) -> None:
    """Change the record."""
    path = record_of(project)
    path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))


def ago(seconds: float) -> str:
    return datetime.fromtimestamp(time.time() - seconds, UTC).isoformat()


def started(project: Project, *arguments: str, **env: str) -> list[str]:
    """The programs that a run starts, itself aside; it must end well, in silence."""
    trace = project.folder.parent / "trace"
    done = subprocess.run(
        ["strace", "-f", "-qq", "-e", "trace=execve", "-e", "signal=none", "-o", str(trace),
         sys.executable, "-m", "rbuild", *arguments],
        cwd=project.folder,
        env={**os.environ, **project.env, **env},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return [line for line in trace.read_text().splitlines() if "execve(" in line][1:]


# Fresh


def test_nothing_changed(fresh: Project) -> None:
    assert reasons(fresh) == {}
    assert started(fresh, ".") == []


@pytest.mark.parametrize("path", ["part/compose.yml", ".env"])
def test_a_touched_or_commented_file_is_no_change_and_is_looked_at_once(
    fresh: Project, path: str
) -> None:
    before = standing(fresh)
    target = fresh.folder / path
    target.write_text(f"# a remark\n{target.read_text()}")
    assert reasons(fresh) == {}
    assert standing(fresh) == before, "a dry run changes nothing"
    assert started(fresh, ".") != [], "the one closer look"
    assert started(fresh, ".") == [], "the record has learned"
    os.utime(target)
    assert reasons(fresh) == {}
    assert standing(fresh)["containers"] == before["containers"]


def replace(path: str, old: str, new: str) -> Callable[[Project], object]:
    return lambda project: project.edit(path, old, new)


def write(path: str, text: str) -> Callable[[Project], object]:
    return lambda project: project.write(path, text)


@pytest.mark.parametrize(
    "change",
    [
        write("data.bin", "\0\1\2"),
        write("read-only.conf", "b\0\n"),
        write("page.html", "not an input: it is in the build context"),
        write("home.txt", ""),
        write("compose.override.yml", "services: {}\n"),
        replace(".env", "calm", "calm\nUNUSED=1"),
        replace("compose.yml", "settle-period: 1", "settle-period: 2\n  keep-images: 3"),
        replace("compose.yml", "x-rbuild", "x-remark: hi\nx-rbuild"),
        replace("compose.yml", "    init: true\n", "    init: true\n    x-remark: hi\n"),
        replace("compose.yml", "[motd]", "\n      - motd"),
        replace("compose.yml", "    profiles: [more]", "    command: x\n    profiles: [more]"),
    ],
    ids=[
        "a writable binary file",
        "a read-only file that is no text any more",
        "a file of the build context",
        "a file beside",
        "an override that says nothing",
        "a variable nobody reads",
        "x-rbuild",
        "x- at the top",
        "x- in a service",
        "another notation",
        "a service of an inactive profile",
    ],
)
def test_what_does_not_shape_the_deployment_is_no_change(
    fresh: Project, change: Callable[[Project], object]
) -> None:
    change(fresh)
    assert reasons(fresh) == {}


def test_an_upgrade_of_compose_is_no_change(fresh: Project, tmp_path: Path) -> None:
    env = next_compose(tmp_path / "docker")
    assert reasons(fresh, **env) == {}
    assert started(fresh, ".", **env) == []


def test_an_upgrade_of_compose_that_comes_with_a_closer_look(
    fresh: Project, tmp_path: Path
) -> None:
    env = next_compose(tmp_path / "docker")
    os.utime(fresh.folder / "compose.yml")
    assert reasons(fresh, **env) == {}


def test_a_variable_set_to_its_default_is_no_change(fresh: Project) -> None:
    assert reasons(fresh, GREETING="hello") == {}


# Changed


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (replace("compose.yml", "hello", "hallo"), "compose.yml"),
        (replace("part/compose.yml", "999", "998"), "part/compose.yml"),
        (replace("common.yml", "red", "blue"), "common.yml"),
        (write("compose.override.yml", "services: {web: {tty: true}}\n"), "compose.override.yml"),
        (replace(".env", "calm", "wild"), ".env"),
        (write("part/.env", "GREETING=hi\n"), None),
        (replace("required.env", "1", "2"), "required.env"),
        (write("optional.env", "B=1\n"), "optional.env"),
        (replace("Dockerfile", "CMD", "ENV A=1\nCMD"), "Dockerfile"),
        (replace("Dockerfile", "CMD", "# a remark\nCMD"), "Dockerfile"),
        (write(".dockerignore", "*.log\n"), ".dockerignore appeared"),
        (write("Dockerfile.dockerignore", ""), "Dockerfile.dockerignore appeared"),
        (write("motd", "hello\n"), "motd"),
        (write("password", "54321\n"), "password"),
        (write("read-only.conf", "b\n"), "read-only.conf"),
        (write("writable.conf", "b\n"), "writable.conf"),
    ],
    ids=[
        "compose file",
        "included file",
        "extended file",
        "override appears",
        ".env",
        "an include's .env that changes nothing",
        "env_file",
        "optional env_file appears",
        "Dockerfile",
        "remark in the Dockerfile",
        ".dockerignore appears",
        "the Dockerfile's own ignore file appears, empty",
        "config",
        "secret",
        "read-only mount",
        "writable mount, text",
    ],
)
def test_a_change_names_its_input(
    fresh: Project, change: Callable[[Project], object], names: str | None
) -> None:
    change(fresh)
    expected = {} if names is None else {"changed": f"{fresh.folder}/{names}"}
    assert reasons(fresh) == expected


def test_an_input_that_disappears(fresh: Project) -> None:
    optional = {
        "compose.override.yml": "services: {web: {tty: true}}\n",
        "optional.env": "B=1\n",
        ".dockerignore": "*.log\n",
    }
    for path, text in optional.items():
        fresh.write(path, text)
    there = fresh.rbuild(".")
    assert there.code == 0, there.err
    assert reasons(fresh) == {}
    for path, text in optional.items():
        (fresh.folder / path).unlink()
        found = reasons(fresh)
        assert list(found) == ["changed"]
        assert f"{fresh.folder}/{path}" in found["changed"]
        fresh.write(path, text)


def test_several_changes_are_all_named(fresh: Project) -> None:
    fresh.write("motd", "hello\n")
    fresh.edit("common.yml", "red", "blue")
    detail = reasons(fresh)["changed"]
    assert detail.split(", ") == [f"{fresh.folder}/common.yml", f"{fresh.folder}/motd"]


def test_a_variables_value(fresh: Project) -> None:
    assert reasons(fresh, GREETING="hi") == {"changed": "$GREETING"}


def test_a_profile_that_is_switched_on(fresh: Project) -> None:
    found, one = outcome(fresh, COMPOSE_PROFILES="more")
    assert found == {"changed": "$COMPOSE_PROFILES"}
    assert any("more" in step for step in one["steps"] if step.startswith("bring up"))


def test_a_required_env_file_that_disappears_is_compose_s_to_refuse(fresh: Project) -> None:
    (fresh.folder / "required.env").unlink()
    before = standing(fresh)
    ran = fresh.rbuild(".")
    assert (ran.code, ran.out) == (1, "")
    assert "required.env" in ran.err
    assert standing(fresh) == before


# A variable that is gone


def without(project: Project, name: str, *arguments: str) -> Ran:
    """A run whose environment lacks one variable, as cron's does."""
    env = {key: value for key, value in {**os.environ, **project.env}.items() if key != name}
    done = subprocess.run(
        [sys.executable, "-m", "rbuild", *arguments],
        cwd=project.folder,
        env=env,
        capture_output=True,
        text=True,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("flags", [(), ("--force-rebuild",), ("-n",)], ids=" ".join)
def test_a_variable_without_default_that_is_lost(fresh: Project, flags: tuple[str, ...]) -> None:
    (fresh.folder / ".env").unlink()
    before = standing(fresh)
    ran = fresh.rbuild(*flags, ".")
    assert (ran.code, ran.out) == (1, "")
    assert f"MODE ({fresh.folder}/compose.yml:9)" in ran.err
    assert "not set now, though the last update had it" in ran.err
    assert "cron's environment is not the shell's" in ran.err
    assert standing(fresh) == before


def test_a_lost_home(fresh: Project) -> None:
    before = standing(fresh)
    ran = without(fresh, "HOME", ".")
    assert (ran.code, ran.out) == (1, "")
    line = COMPOSE[: COMPOSE.index("${HOME}")].count("\n") + 1
    assert f"HOME ({fresh.folder}/compose.yml:{line})" in ran.err
    assert standing(fresh) == before


def test_a_variable_that_comes_from_elsewhere_now_is_no_loss(fresh: Project) -> None:
    (fresh.folder / ".env").unlink()
    assert reasons(fresh, MODE="calm") == {}


def test_a_variable_that_is_given_a_default_may_be_lost(fresh: Project) -> None:
    (fresh.folder / ".env").unlink()
    fresh.edit("compose.yml", "${MODE}", "${MODE:-calm}")
    assert reasons(fresh) == {}


# New, forced, expired, interrupted


def test_without_a_record_it_is_new(fresh: Project, tmp_path: Path) -> None:
    found = reasons(fresh, RBUILD_STATE_DIR=str(tmp_path / "state"))
    assert found == {"new": "no record of an earlier update"}
    assert not (tmp_path / "state").exists(), "a dry run changes nothing"


def test_forced(fresh: Project) -> None:
    assert reasons(fresh, "--force-rebuild", ".") == {"forced": "asked for by --force-rebuild"}


@pytest.mark.parametrize(
    ("age", "due"),
    [
        (0, False),
        (86400 - 600, False),
        (86400 - 30, True),  # within the minute by which cron may be early
        (86400 + 5, True),
        (-30, False),  # a clock that was put back a little
        (-7200, True),
    ],
)
def test_expired(fresh: Project, age: int, due: bool) -> None:
    amend(fresh, built=ago(age))
    assert list(reasons(fresh)) == (["expired"] if due else [])


def test_expired_says_how_old_it_is(fresh: Project) -> None:
    amend(fresh, built=ago(2 * 86400 + 3600))
    assert reasons(fresh) == {"expired": "last updated 2 d 1 h ago, build period 1 d"}
    amend(fresh, built=ago(-7200))
    assert reasons(fresh)["expired"].startswith("the last update's stamp lies ahead: ")


def test_an_update_that_was_interrupted(fresh: Project) -> None:
    amend(fresh, underway={"since": "2026-01-01T03:00:00.000Z", "step": "build web"})
    assert reasons(fresh) == {
        "interrupted": "the run of 2026-01-01T03:00:00.000Z ended during: build web"
    }


def test_all_reasons_are_told(fresh: Project) -> None:
    amend(fresh, built=ago(90000), underway={"since": "yesterday", "step": "up"})
    fresh.write("motd", "hello\n")
    found = reasons(fresh, "--force-rebuild", ".")
    assert list(found) == ["forced", "interrupted", "expired", "changed"]


# Settings, and where they come from


def test_where_a_build_period_comes_from(fresh: Project, tmp_path: Path) -> None:
    def told(*arguments: str, **env: str) -> tuple[int, str]:
        ran = fresh.rbuild("status", "-v", "--json", *arguments, ".", **env)
        assert ran.code == 0, ran.err
        one = ran.document["projects"][0]["settings"]["build-period"]
        return one["value"], one["origin"]

    config = tmp_path / "rbuild.yml"
    config.write_text("defaults:\n  build-period: 2d\n")
    given = ("--config", str(config))
    assert told() == (86400, "built-in")
    assert told(*given) == (2 * 86400, f"{config}:2")
    fresh.edit("compose.yml", "settle-period: 1", "settle-period: 1\n  build-period: 3d")
    assert fresh.rbuild(".").code == 0
    assert told(*given) == (3 * 86400, f"{fresh.folder}/compose.yml:27")
    assert told(*given, BUILD_TTL="4d") == (4 * 86400, "environment BUILD_TTL")
    older = {"BUILD_TTL": "4d", "BUILD_PERIOD": "5d"}
    assert told(*given, **older) == (5 * 86400, "environment BUILD_PERIOD")
    newest = {**older, "RBUILD_BUILD_PERIOD": "6d"}
    assert told(*given, **newest) == (6 * 86400, "environment RBUILD_BUILD_PERIOD")


def test_the_build_period_that_wins_decides(fresh: Project, tmp_path: Path) -> None:
    config = tmp_path / "rbuild.yml"
    config.write_text("defaults:\n  build-period: 30s\n")
    amend(fresh, built=ago(100))
    ladder: list[tuple[tuple[str, ...], dict[str, str], bool]] = [
        ((), {}, False),
        (("--config", str(config)), {}, True),
        (("--config", str(config)), {"BUILD_TTL": "1h"}, False),
        ((), {"BUILD_TTL": "1h", "BUILD_PERIOD": "30"}, True),
        (("--build-period", "1h"), {"BUILD_PERIOD": "30"}, False),
        (("--build-period", "0"), {}, True),
    ]
    for flags, env, due in ladder:
        assert list(reasons(fresh, *flags, ".", **env)) == (["expired"] if due else []), flags
    fresh.edit("compose.yml", "settle-period: 1", "settle-period: 1\n  build-period: 30s")
    assert list(reasons(fresh)) == ["expired"]
    assert reasons(fresh, BUILD_TTL="1h") == {}


# Spellings


def spellings(project: Project, link: Path) -> list[tuple[str, Path]]:
    """Ways to name the project, each with the folder to say it in."""
    link.symlink_to(project.folder)
    return [
        (".", project.folder),
        ("", project.folder),
        ("compose.yml", project.folder),
        (project.name, project.folder.parent),
        (str(link), project.folder.parent),
        (f"{link}/compose.yml", project.folder),
    ]


def test_every_spelling_finds_the_one_record(fresh: Project, tmp_path: Path) -> None:
    before = standing(fresh)
    for spelling, cwd in spellings(fresh, tmp_path / fresh.name):
        for _ in range(2):
            ran = fresh.rbuild(*([spelling] if spelling else []), cwd=cwd, PWD=str(cwd))
            assert (ran.code, ran.out, ran.err) == (0, "", ""), spelling
    after = standing(fresh)
    assert after["containers"] == before["containers"]
    assert after["records"].keys() == before["records"].keys()


def test_every_spelling_meets_the_one_lock(fresh: Project, tmp_path: Path) -> None:
    descriptor = os.open(fresh.folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for spelling, cwd in spellings(fresh, tmp_path / fresh.name):
            arguments = ["--force-rebuild", *([spelling] if spelling else [])]
            ran = fresh.rbuild(*arguments, cwd=cwd)
            assert (ran.code, ran.out, ran.err) == (75, "", ""), spelling
    finally:
        os.close(descriptor)


def test_every_spelling_sees_a_change(fresh: Project, tmp_path: Path) -> None:
    fresh.write("motd", "hello\n")
    for spelling, cwd in spellings(fresh, tmp_path / fresh.name)[2:]:
        ran = fresh.rbuild("--json", "-n", *([spelling] if spelling else []), cwd=cwd)
        (one,) = ran.document["projects"]
        assert [reason["kind"] for reason in one["reasons"]] == ["changed"], spelling
