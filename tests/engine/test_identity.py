"""One set of files is one Compose project: never a second one beside the first on the same data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Project, clean_up, run
from .tools import inside, starts

COMPOSE = """\
services:
  web:
    image: $BASE
    init: true
    command: sh -c 'echo started >>/data/log; sleep 1000'
    volumes: ['./data:/data']
x-rbuild: {settle-period: 0}
"""


@pytest.fixture
def data(project: Project) -> Iterator[Project]:
    """A project without a `name:`, that writes to a folder beside its file."""
    project.write("compose.yml", COMPOSE)
    yield project
    clean_up(f"{project.name}prod")


def of_another_name(project: Project) -> dict[str, str]:
    return {"COMPOSE_PROJECT_NAME": f"{project.name}prod"}


def projects_of(project: Project) -> set[str]:
    """The Compose projects that have containers made from these files."""
    label = f"label=com.docker.compose.project.working_dir={project.folder}"
    form = '{{.Label "com.docker.compose.project"}}'
    return set(run(["docker", "ps", "-a", "--filter", label, "--format", form]).split())


def is_refused(project: Project, *arguments: str, other: str = "", **env: str) -> None:
    """The run is an error that names both projects, and nothing is touched."""
    before = starts(project), projects_of(project), (project.folder / "data/log").read_text()
    ran = project.rbuild(*arguments, **env)
    assert ran.code == 1, ran.err
    name = env.get("COMPOSE_PROJECT_NAME", project.name)
    other = other or f"{project.name}prod"
    assert f"already make up the Compose project {other!r}, and now {name!r}" in ran.err
    assert f"docker compose -p {other} down" in ran.err
    assert before == (
        starts(project), projects_of(project), (project.folder / "data/log").read_text()
    )  # fmt: skip


def test_a_name_from_the_environment_that_cron_lacks(data: Project) -> None:
    assert data.rbuild(**of_another_name(data)).code == 0
    is_refused(data)
    # It is told once, and known to `status`.
    ran = data.rbuild()
    assert (ran.code, ran.out, ran.err) == (75, "", "")
    is_refused(data, "--force-rebuild")
    ran = data.rbuild(**of_another_name(data))
    assert (ran.code, ran.out, ran.err) == (0, "", "")


def test_a_stack_that_a_person_brought_up_under_another_name(data: Project) -> None:
    data.compose("-p", f"{data.name}prod", "up", "-d")
    is_refused(data)
    is_refused(data, "-n")


@pytest.mark.parametrize("how", [".env", "name:"])
def test_a_name_that_changes_in_the_files(data: Project, how: str) -> None:
    assert data.rbuild().code == 0
    if how == ".env":
        data.write(".env", f"COMPOSE_PROJECT_NAME={data.name}prod\n")
    else:
        data.write("compose.yml", f"name: {data.name}prod\n{COMPOSE}")
    before = starts(data)
    ran = data.rbuild()
    assert ran.code == 1
    assert (
        f"already make up the Compose project {data.name!r}, and now '{data.name}prod'" in ran.err
    )
    assert starts(data) == before
    assert projects_of(data) == {data.name}


def test_what_is_down_is_renamed_by_a_person_only(data: Project) -> None:
    assert data.rbuild(**of_another_name(data)).code == 0
    data.compose("-p", f"{data.name}prod", "down")
    ran = data.rbuild()
    assert ran.code == 1
    assert "they were last updated as that" in ran.err
    assert data.containers() == {}
    assert data.rbuild("--force-rebuild").code == 0
    assert data.rbuild().code == 0
    assert data.rbuild().out == ""


def test_an_override_more_is_the_same_project(data: Project) -> None:
    data.write("more.yml", "services: {web: {labels: {a: b}}}\n")
    files = ("-f", "compose.yml", "-f", "more.yml")
    data.compose("-p", f"{data.name}prod", *files, "up", "-d")
    is_refused(data)


def test_files_that_share_one_are_two_projects_unless_they_share_data(data: Project) -> None:
    for name in ("one", "two"):
        data.write(f"{name}.yml", f"services: {{{name}: {{image: $BASE, command: sleep 1000}}}}\n")
    data.write("base.yml", "services: {}\nx-rbuild: {settle-period: 0}\n")
    other = of_another_name(data)
    assert data.rbuild("base.yml:one.yml").code == 0
    ran = data.rbuild("base.yml:two.yml", **other)
    assert ran.code == 0, ran.err
    assert data.rbuild("base.yml:one.yml").out == ""
    for name in ("one", "two"):
        data.write(
            f"{name}.yml",
            f"services: {{{name}: {{image: $BASE, command: sleep 1000, volumes: ['.:/w']}}}}\n",
        )
    assert data.rbuild("base.yml:one.yml").code == 0
    ran = data.rbuild("base.yml:two.yml", **other)
    assert ran.code == 1
    assert "already make up the Compose project" in ran.err


def test_a_one_off_of_another_name_is_no_second_project(data: Project) -> None:
    data.compose("-p", f"{data.name}prod", "run", "-d", "--rm", "web", "sleep", "1000")
    assert data.rbuild().code == 0


@pytest.fixture
def releases(project: Project) -> Project:
    """Releases in folders of their own, and a link to the current one."""
    for name, answer in (("r1", "one"), ("r2", "two")):
        project.write(
            f"{name}/compose.yml",
            f"name: {project.name}\nservices:\n"
            "  web:\n    image: $BASE\n    init: true\n    command: httpd -f -h /www\n"
            "    volumes: ['./www:/www:ro']\n"
            "    healthcheck: {test: [CMD, wget, -qO, /dev/null, 'http://127.0.0.1/'],\n"
            "                  interval: 1s, retries: 3}\n"
            "x-rbuild: {settle-period: 0}\n",
        )
        project.write(f"{name}/www/index.html", f"{answer}\n")
    point_to(project, "r1")
    return project


def point_to(project: Project, name: str) -> None:
    (project.folder / "new").symlink_to(name)
    os.replace(project.folder / "new", project.folder / "current")


def page(project: Project) -> str:
    return inside(f"{project.name}-web-1", "wget", "-qO-", "http://127.0.0.1/")


def test_releases_behind_a_link_are_one_project(releases: Project, state_dir: Path) -> None:
    current = str(releases.folder / "current")
    assert releases.rbuild(current).code == 0
    point_to(releases, "r2")
    assert releases.rbuild(current).code == 0
    assert page(releases) == "two"
    ran = releases.rbuild(current)
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    assert len([one for one in (state_dir / "projects").iterdir() if not one.is_symlink()]) == 1
    ran = releases.rbuild("status", "--json", current)
    assert [one["problem"] for one in ran.document["projects"]] == [None]


def test_a_broken_release_is_rolled_back_to_the_one_before(releases: Project) -> None:
    current = str(releases.folder / "current")
    assert releases.rbuild(current).code == 0
    releases.edit("r2/compose.yml", "httpd -f -h /www", "no-such-program")
    point_to(releases, "r2")
    ran = releases.rbuild(current)
    assert ran.code == 3, ran.err
    # With what the release before mounted, though the link leads elsewhere.
    assert page(releases) == "one"
    assert releases.rbuild(current).code == 75
    point_to(releases, "r1")
    assert releases.rbuild(current).code == 0
    assert page(releases) == "one"
    releases.edit("r2/compose.yml", "no-such-program", "httpd -f -h /www")
    point_to(releases, "r2")
    assert releases.rbuild(current).code == 0
    assert page(releases) == "two"


def test_a_release_that_takes_all_down_leaves_the_one_before_due(releases: Project) -> None:
    current = str(releases.folder / "current")
    assert releases.rbuild(current).code == 0
    for container in releases.containers():
        run(["docker", "rm", "-f", container])
    releases.edit("r2/compose.yml", "httpd -f -h /www", "no-such-program")
    point_to(releases, "r2")
    assert releases.rbuild(current).code == 4
    point_to(releases, "r1")
    ran = releases.rbuild(current)
    assert ran.code == 0, ran.err
    assert page(releases) == "one"


def test_a_compose_file_behind_a_link(project: Project) -> None:
    for name in ("a", "b"):
        project.write(f"{name}.yml", COMPOSE.replace("./data", f"./{name}"))
    link = project.folder / "now.yml"
    link.symlink_to("a.yml")
    assert project.rbuild(str(link)).code == 0
    link.unlink()
    link.symlink_to("b.yml")
    ran = project.rbuild(str(link))
    assert ran.code == 0, ran.err
    assert (project.folder / "b/log").exists()
