"""What is wrong with a project: told once, whatever its words, and known to status."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .conftest import Project, Ran
from .keeping import next_compose
from .tools import state_folder

# Of three mistakes, Compose names another at each try; its warnings come in any order.
LOST = """\
services:
  a: {image: "$BASE", command: "$ONE $TWO $THREE", networks: [x]}
  b: {image: "$BASE", networks: [y]}
  c: {image: "$BASE", networks: [z]}
"""


@pytest.fixture(params=["present", "next"])
def plugin(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment for the Compose that is there, and for a newer one."""
    return {} if request.param == "present" else next_compose(tmp_path / "docker")


def is_told(ran: Ran) -> str:
    """What is said of a project that is refused."""
    assert (ran.code, ran.out) == (1, ""), ran
    assert ran.err
    return ran.err


def is_silent(ran: Ran) -> None:
    """It was said before."""
    assert (ran.code, ran.out, ran.err) == (75, "", "")


def test_a_refusal_in_other_words_is_the_same(project: Project, plugin: dict[str, str]) -> None:
    """Of a project that no update has ever made."""
    project.write("compose.yml", LOST)
    err = is_told(project.rbuild(**plugin))
    assert err.startswith(f"{project.folder}: Compose refuses this project\n")
    assert "refers to undefined network" in err
    for _ in range(10):
        is_silent(project.rbuild(**plugin))
    status = project.rbuild("status", **plugin)
    assert status.code == 1
    assert "could not work on it: " in status.out
    assert "refers to undefined network" in status.out
    assert project.rbuild("status", "--json", **plugin).document["projects"][0]["problem"]
    # A dry run and whoever insists are answered; so is another variable's value.
    is_told(project.rbuild("-n", **plugin))
    is_told(project.rbuild("--force-rebuild", **plugin))
    is_silent(project.rbuild(**plugin))
    is_told(project.rbuild(ONE="1", **plugin))
    # An edit that mends not all of it.
    project.edit("compose.yml", ", networks: [x]", "")
    is_told(project.rbuild(**plugin))
    is_silent(project.rbuild(**plugin))
    # Told anew once its period is over.
    is_told(project.rbuild("--build-period", "0", **plugin))


def test_what_was_refused_is_forgotten_once_it_is_mended(project: Project) -> None:
    project.write("compose.yml", LOST)
    is_told(project.rbuild())
    good = "services:\n  a: {image: $BASE, command: sleep 99, init: true}\n"
    project.write("compose.yml", good + "x-rbuild: {settle-period: 1}\n")
    ran = project.rbuild()
    assert (ran.code, ran.err) == (0, "")
    assert project.rbuild("status").code == 0
    assert [one.name for one in state_folder(project).parent.iterdir()] == [
        state_folder(project).name
    ]
    # The same mistake again is told again, and remembered with what is known of the project.
    text = (project.folder / "compose.yml").read_text()
    project.write("compose.yml", LOST)
    is_told(project.rbuild())
    for _ in range(5):
        is_silent(project.rbuild())
    status = project.rbuild("status")
    assert (status.code, "refers to undefined network" in status.out) == (1, True)
    project.write("compose.yml", text)
    ran = project.rbuild()
    assert (ran.code, ran.err) == (0, "")
    assert project.rbuild("status").code == 0


def test_projects_in_a_circle_are_told_once(project: Project) -> None:
    folders = [project.folder / "one", project.folder / "two"]
    for folder, other in zip(folders, reversed(folders), strict=True):
        project.write(
            f"{folder.name}/compose.yml",
            f"name: {project.name}{folder.name}\nservices:\n  web:\n"
            f"    image: {project.name}-{folder.name}\n"
            f'    build: {{context: ., dockerfile_inline: "FROM {project.name}-{other.name}"}}\n',
        )
    arguments = [str(folder) for folder in folders]
    assert is_told(project.rbuild(*arguments)).count("in a circle") == 2
    is_silent(project.rbuild(*arguments))
    status = project.rbuild("status", *arguments)
    assert (status.code, status.out.count("in a circle")) == (1, 2)


def test_an_entry_of_rbuild_yml_that_is_gone_is_told_once(project: Project, tmp_path: Path) -> None:
    project.write(
        "compose.yml",
        "services:\n  a: {image: $BASE, command: sleep 99, init: true}\n"
        "x-rbuild: {settle-period: 1}\n",
    )
    config = tmp_path / "rbuild.yml"
    gone = tmp_path / "gone"
    config.write_text(f"projects: [{project.folder}, {gone}, {tmp_path}/none*/compose.yml]\n")

    def rbuild(*arguments: str) -> Ran:
        return project.rbuild("--config", str(config), *arguments, cwd=tmp_path)

    first = rbuild()
    assert first.code == 1
    assert f"{gone}: no such file or folder\n" in first.err
    warning = f"rbuild: warning: {config}: {tmp_path}/none*/compose.yml matches nothing\n"
    assert warning in first.err
    for _ in range(2):
        is_silent(rbuild())
    again = rbuild("-n")
    assert again.code == 1
    assert warning in again.err
    status = project.rbuild("status", "--config", str(config), cwd=tmp_path)
    assert status.code == 1
    assert f"{gone}: no such file or folder" in status.out
    assert rbuild("--build-period", "0").err == first.err
    # Back, and worked; gone again, it is told again.
    shutil.copytree(project.folder, gone)
    (gone / "compose.yml").write_text("services: [\n")
    assert "compose.yml:2:1: " in is_told(rbuild())
    shutil.rmtree(gone)
    assert f"{gone}: no such file or folder\n" in is_told(rbuild())
    # Who types is answered each time.
    for _ in range(2):
        assert is_told(project.rbuild(str(gone))).startswith(f"{gone}: no such file or folder\n")
