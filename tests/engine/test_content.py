"""What is called updated is updated: changed content reaches the containers that use it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Project, clean_up, run
from .keeping import next_compose
from .tools import ids, inside

COMPOSE = """\
services:
  db: {image: $BASE, command: sleep 999, init: true}
  migrate:
    image: $BASE
    command: sh -c "echo ran >>/runs/log"
    volumes: ["./runs:/runs"]
    depends_on: [db]
  web:
    image: $BASE
    command: sleep 999
    init: true
    depends_on:
      db: {condition: service_started}
      migrate: {condition: service_completed_successfully}
    volumes: ["./app.conf:/app.conf:ro", "/anonymous"]
  keys:
    image: $BASE
    command: sleep 999
    init: true
    secrets: [password]
    depends_on: [db]
  says:
    image: $BASE
    command: sleep 999
    init: true
    configs: [motd, inline, variable]
  side: {image: $BASE, command: sleep 999, init: true, network_mode: "service:web"}
configs:
  motd: {file: ./motd}
  inline: {content: "${INLINE:-one}"}
  variable: {environment: VARIABLE}
secrets: {password: {file: ./password}}
x-rbuild: {settle-period: 0}
"""
FILES = {"app.conf": "one\n", "motd": "one\n", "password": "one\n", ".env": "VARIABLE=one\n"}
SHOWN = {
    "app.conf": ("web", "/app.conf"),
    "motd": ("says", "/motd"),
    "password": ("keys", "/run/secrets/password"),
}


@pytest.fixture(scope="module", params=["this Compose", "the next Compose"])
def _made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    top = tmp_path_factory.mktemp("content")
    env = {} if request.param == "this Compose" else next_compose(top / "docker")
    project = Project(top / f"c{os.urandom(4).hex()}", "", os.environ["RBUILD_BASE"], env)
    project.name = project.folder.name
    env["RBUILD_STATE_DIR"] = str(top / "state")
    project.folder.mkdir()
    (project.folder / "runs").mkdir()
    for path, text in {"compose.yml": COMPOSE, **FILES}.items():
        project.write(path, text)
    project.compose("up", "--detach")
    ran = project.rbuild()
    assert (ran.code, ran.err) == (0, "")
    yield project
    clean_up(project.name)


@pytest.fixture
def running(_made: Project) -> Project:
    """A project of pulled images that was updated well."""
    return _made


def put(project: Project, path: str, text: str) -> None:
    """Edit a file as most editors do: another one comes in its place."""
    project.write("new", text).replace(project.folder / path)


def changed(project: Project, before: dict[str, str]) -> set[str]:
    """Services whose containers are others than before."""
    now = ids(project)
    names = {name for name in {**before, **now} if before.get(name) != now.get(name)}
    return {name.removeprefix(f"{project.name}-").rpartition("-")[0] for name in names}


def runs(project: Project) -> int:
    """How often the migration has run."""
    return len((project.folder / "runs" / "log").read_text().splitlines())


def nothing_by_a_plain_up(project: Project) -> None:
    """A plain `up` recreates nothing."""
    before = ids(project)
    project.compose("up", "--detach")
    assert ids(project) == before


def test_the_first_update_of_what_runs_changes_nothing(running: Project) -> None:
    before = ids(running)
    ran = running.rbuild("--force-rebuild")
    assert ran.code == 0, ran.err
    assert ran.out.startswith(f"{running.name}: checked, nothing new in ")
    assert ran.out.endswith("; migrate ran again\n")
    assert ids(running) == before


@pytest.mark.parametrize(
    ("paths", "by_rename"),
    [(["app.conf"], True), (["motd", "password"], True), (["motd", "app.conf"], False)],
    ids=["a mount", "a config and a secret", "in place"],
)
def test_a_changed_file_reaches_those_that_use_it_and_only_them(
    running: Project, paths: list[str], by_rename: bool
) -> None:
    before, ran_before = ids(running), runs(running)
    text = f"changed {by_rename}"
    for path in paths:
        (put if by_rename else Project.write)(running, path, text)
    ran = running.rbuild("--json")
    assert ran.code == 0, ran.err
    (outcome,) = ran.document["projects"]
    assert outcome["warnings"] == []
    (reason,) = outcome["reasons"]
    assert reason["kind"] == "changed"
    assert {*reason["detail"].split(", ")} == {f"{running.folder}/{path}" for path in paths}
    for service, where in (SHOWN[path] for path in paths):
        assert inside(f"{running.name}-{service}-1", "cat", where) == text
    # What lives in another's network goes where that goes.
    services = {SHOWN[path][0] for path in paths}
    expected = services | ({"side"} if "web" in services else set())
    assert changed(running, before) == expected
    assert {one["name"] for one in outcome["services"] if one["changed"]} == expected
    assert runs(running) == ran_before + 1
    nothing_by_a_plain_up(running)


@pytest.mark.parametrize(
    ("path", "text", "where"),
    [(".env", "VARIABLE=two\n", "/variable"), (".env", "VARIABLE=two\nINLINE=two\n", "/inline")],
    ids=["a variable", "inline"],
)
def test_a_changed_value_reaches_those_that_use_it(
    running: Project, path: str, text: str, where: str
) -> None:
    before = ids(running)
    put(running, path, text)
    ran = running.rbuild()
    assert (ran.code, ran.err) == (0, "")
    assert "updated says in " in ran.out
    assert inside(f"{running.name}-says-1", "cat", where) == "two"
    assert changed(running, before) == {"says"}
    nothing_by_a_plain_up(running)
    assert running.rbuild().out == ""


def test_a_paused_service_keeps_its_content_until_it_is_updated(running: Project) -> None:
    keys = f"{running.name}-keys-1"
    run(["docker", "pause", keys])
    put(running, "password", "while it was paused")
    before = ids(running)
    ran = running.rbuild("-v")
    assert ran.code == 0, ran.err
    assert "keys: paused, and keeps the content that it was started with" in ran.out
    assert changed(running, before) == set()
    run(["docker", "unpause", keys])
    ran = running.rbuild("--force-rebuild")
    assert "updated keys in " in ran.out
    assert inside(keys, "cat", "/run/secrets/password") == "while it was paused"
    assert changed(running, before) == {"keys"}


def test_what_was_edited_before_the_first_update(tmp_path: Path, project: Project) -> None:
    project.write(
        "compose.yml",
        "services:\n"
        "  web: {image: $BASE, command: sleep 999, init: true, volumes: ['./a:/a:ro']}\n"
        "  db: {image: $BASE, command: sleep 999, init: true, volumes: ['./b:/b:ro']}\n"
        "x-rbuild: {settle-period: 0}\n",
    )
    project.write("a", "one\n")
    project.write("b", "one\n")
    project.compose("up", "--detach")
    before = ids(project)
    put(project, "a", "two\n")
    # What it was started with is lost.
    assert project.rbuild().code == 1
    assert ids(project) == before
    ran = project.rbuild("--force-rebuild")
    assert ran.code == 0, ran.err
    assert inside(f"{project.name}-web-1", "cat", "/a") == "two"
    assert changed(project, before) == {"web"}


# Networks and volumes of another name

USES = """\
services:
  web: {image: $BASE, command: sleep 999, init: true, volumes: ["data:/data"]}
  db: {image: $BASE, command: sleep 999, init: true}
x-rbuild: {settle-period: 0}
"""


@pytest.fixture(params=[False, True], ids=["this Compose", "the next Compose"])
def applies_networks(request: pytest.FixtureRequest, tmp_path: Path, project: Project) -> bool:
    """Let a project be worked with either Compose; whether that makes changed networks anew."""
    if request.param:
        project.env.update(next_compose(tmp_path / "docker"))
    return not project.compose("version", "--short").startswith("2.26.")


def amended(project: Project, more: str) -> Any:
    project.write("compose.yml", USES + more)
    return project.rbuild()


def test_another_volume_and_network_is_one_that_the_container_has(
    project: Project, applies_networks: bool
) -> None:
    assert amended(project, "volumes: {data: {}}\n").code == 0
    before = ids(project)
    name = f"{project.name}_other"
    ran = amended(project, f"volumes: {{data: {{name: {name}}}}}\n")
    assert ran.code == 0, ran.err
    assert "updated web in " in ran.out
    (mount,) = project.container("web")["Mounts"]
    assert mount["Name"] == name
    assert changed(project, before) == {"web"}
    more = f"volumes: {{data: {{name: {name}}}}}\nnetworks: {{default: {{name: {name}}}}}\n"
    assert amended(project, more).code == 0
    assert list(project.container("db")["NetworkSettings"]["Networks"]) == [name]
    nothing_by_a_plain_up(project)
