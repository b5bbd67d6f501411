"""What an update cleans up after itself, and what it must leave: real images, real containers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Project, clean_up, run
from .tools import (
    image_id,
    inside,
    last_run,
    make_image,
    new_project,
    own_tags,
    publish,
    record,
    starts,
    wait_until,
)

BUILT = "FROM $BASE\nRUN date +%N > /when\nCMD exec sleep 1000\n"
SETTLE = "x-rbuild: {settle-period: 0}\n"


def update(project: Project, *arguments: str) -> None:
    ran = project.rbuild("--force-rebuild", *arguments)
    assert ran.code == 0, ran.err
    assert ran.err == ""


def exists(kind: str, name: str) -> bool:
    return not subprocess.run(["docker", kind, "inspect", name], capture_output=True).returncode


@pytest.fixture
def bystanders(project: Project) -> Iterator[list[tuple[str, str]]]:
    """What belongs to nobody or to others, much of it easily taken for the project's."""
    name, other = project.name, f"o{uuid.uuid4().hex[:10]}"
    stamp = "20200101T000000Z"
    labels = f"com.docker.compose.project={other}"
    dangling = make_image("", f"FROM $BASE\nLABEL {labels} n=first\n")
    make_image(f"{other}-web", f"FROM $BASE\nLABEL {labels} n=second\n")
    named = [
        f"{name}-webs",
        f"{name}x-web",
        f"rbuild/{name}/web:mine",
        f"rbuild/{name}x/web:{stamp}",
        f"rbuild/{other}/web:{stamp}",
        f"backup/{name}-web:{stamp}",
    ]
    for tag in named:
        run(["docker", "tag", project.base, tag])
    for thing in (name, other):
        run(["docker", "volume", "create", "--label", labels, f"{thing}-loose"])
        run(["docker", "network", "create", "--label", labels, f"{thing}-loose"])
    run(["docker", "create", "--name", f"{other}-done", "--label", labels, project.base])
    found = [("image", one) for one in (*named, f"{other}-web", dangling, project.base)]
    found += [(kind, f"{one}-loose") for kind in ("volume", "network") for one in (name, other)]
    found.append(("container", f"{other}-done"))
    assert all(exists(*one) for one in found)
    yield found
    clean_up(other)
    subprocess.run(["docker", "rmi", *named], capture_output=True)


def test_many_updates_leave_no_more_than_two(
    project: Project, bystanders: list[tuple[str, str]]
) -> None:
    project.write("Dockerfile", BUILT)
    project.write(
        "compose.yml",
        f"""\
services:
  web: {{init: true, build: ., volumes: [/anonymous, "named:/named"]}}
  once: {{build: ., command: "true"}}
  tool: {{init: true, image: $BASE, command: sleep 1000}}
volumes: {{named: }}
{SETTLE}""",
    )

    def amounts() -> tuple[int, int, int]:
        assert all(exists(*one) for one in bystanders)
        tags = own_tags(project) - {f"rbuild/{project.name}/web:mine"}
        return len(project.images()), len(project.containers()), len(tags)

    for _ in range(2):
        update(project)
    two = amounts()
    # Two built images and the base, each with an earlier generation.
    assert two[1:] == (3, 3)
    mounts = sorted(project.container("web")["Mounts"], key=str)
    for _ in range(3):
        update(project)
    assert amounts() == two
    assert sorted(project.container("web")["Mounts"], key=str) == mounts

    update(project, "--keep-images", "2")
    assert amounts()[1:] == (3, 6)
    update(project, "--keep-images", "2")
    assert amounts()[1:] == (3, 6)
    update(project, "--keep-images", "0")
    assert amounts()[1:] == (3, 0)
    built = {image_id(f"{project.name}-{service}") for service in ("web", "once")}
    assert project.images() - {image_id(project.base)} - {image_id(f"{project.name}-webs")} == built


@pytest.mark.versions
def test_what_a_pull_superseded_goes_once_it_is_unused(project: Project, own: str) -> None:
    for reference in ("base", "tool"):
        publish(f"{own}/{reference}:1", "one", "CMD exec sleep 1000\n")
    project.write(
        "compose.yml",
        f"""\
services:
  web: {{init: true, build: {{context: ., dockerfile_inline: "FROM {own}/base:1"}}}}
  tool: {{init: true, image: "{own}/tool:1"}}
{SETTLE}""",
    )
    update(project, "--keep-images", "0")
    first = {name: image_id(f"{own}/{name}:1") for name in ("base", "tool")}
    # Somebody else uses one of them.
    run(["docker", "create", "--name", f"{project.name}-foreign", first["tool"]])
    for reference in ("base", "tool"):
        publish(f"{own}/{reference}:1", "two", "CMD exec sleep 1000\n")

    update(project, "--keep-images", "0")

    assert not exists("image", first["base"])
    assert exists("image", first["tool"])
    # Beside what is built now, which goes when it is replaced.
    assert record(project)["superseded"] == [first["tool"], image_id(f"{project.name}-web")]
    run(["docker", "rm", f"{project.name}-foreign"])
    update(project, "--keep-images", "0")
    assert not exists("image", first["tool"])
    assert record(project)["superseded"] == [image_id(f"{project.name}-web")]


def test_images_that_two_projects_keep_are_each_ones_own(
    project: Project, tmp_path: Path, state_dir: Path
) -> None:
    with new_project(tmp_path, state_dir) as other:
        for one in (project, other):
            one.write(
                "compose.yml",
                f"services: {{web: {{init: true, image: $BASE, command: sleep 1000}}}}\n{SETTLE}",
            )
            update(one)
            # What runs on as it is is no earlier generation.
            update(one)
            assert own_tags(one) == set()
            one.edit("compose.yml", "1000", "1001")
            update(one)
        kept = own_tags(other)
        assert len(kept) == 1
        update(project, "--keep-images", "0")
        assert own_tags(project) == set()
        assert own_tags(other) == kept
        ran = project.rbuild("--remove-images")
        assert ran.code == 0
        assert own_tags(other) == kept


# ---------------------------------------------------------------- interrupted recreates


@pytest.mark.parametrize("old_is", ["still there", "gone already"])
def test_leftovers_of_a_killed_recreate(project: Project, old_is: str) -> None:
    project.write("Dockerfile", BUILT.replace("exec sleep 1000", "trap '' TERM; sleep 1000"))
    project.write(
        "compose.yml",
        "services: {web: {build: ., volumes: [/data], stop_grace_period: 5s, stop_signal: TERM}}\n"
        + SETTLE,
    )
    assert project.rbuild().code == 0
    name = f"{project.name}-web-1"
    inside(name, "sh", "-c", "echo precious > /data/file")
    old = project.container("web")["Id"]
    update_ = subprocess.Popen(
        [sys.executable, "-m", "rbuild", "--force-rebuild"],
        cwd=project.folder, env={**os.environ, "LEAVES": project.name},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    # The new one is there; Compose waits for the old one, which will not stop.
    leftover = f"{old[:12]}_{name}"
    wait_until(lambda: leftover in project.containers(), "a recreate under way")
    update_.kill()
    update_.communicate()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"LEAVES={project.name}".encode() in (process / "environ").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            continue
    assert set(project.containers()) == {name, leftover}
    if old_is == "gone already":
        run(["docker", "rm", "-f", old])
    wait_until(lambda: project.rbuild("-n").code == 0, "the killed are gone")

    ran = project.rbuild("--json")

    assert ran.code == 0, ran.err
    (one,) = ran.document["projects"]
    assert "interrupted" in [reason["kind"] for reason in one["reasons"]]
    assert set(project.containers()) == {name}
    assert inside(name, "cat", "/data/file") == "precious"
    assert project.container("web")["Image"] == image_id(f"{project.name}-web")
    before = starts(project)
    project.compose("up", "-d")
    assert starts(project) == before


# ---------------------------------------------------------------- asked for


def test_the_build_cache_is_pruned_where_asked(project: Project) -> None:
    project.write("Dockerfile", BUILT)
    project.write("compose.yml", f"services: {{web: {{init: true, build: .}}}}\n{SETTLE}")
    update(project)
    assert "builder prune --force\n" not in last_run(project)
    update(project, "--prune-image-cache")
    assert re.search(r"docker builder prune --force\n(.*\n)*Total:", last_run(project))


@pytest.mark.versions
def test_remove_images(project: Project, bystanders: list[tuple[str, str]]) -> None:
    project.write("Dockerfile", BUILT)
    project.write(
        "compose.yml",
        f"""\
services:
  web: {{init: true, build: .}}
  named: {{init: true, image: {project.name}-named:3, build: .}}
  tool: {{init: true, image: $BASE, command: sleep 1000}}
{SETTLE}""",
    )
    update(project)
    update(project)
    before, kept = starts(project), own_tags(project)
    built = [f"{project.name}-named:3", f"{project.name}-web:latest"]
    # What rbuild keeps, but for the tag that somebody else made.
    kept -= {f"rbuild/{project.name}/web:mine"}
    assert len(kept) == 3

    # What a container uses stays; of the rest, all that is ours goes.
    planned = project.rbuild("--remove-images", "--dry-run")
    assert own_tags(project) >= kept
    ran = project.rbuild("--remove-images")
    assert (ran.code, ran.err) == (0, "")
    gone = {line.partition(": removed ")[2] for line in ran.out.splitlines()}
    unused = {tag for tag in kept if "/tool:" not in tag}
    assert gone == unused
    for tag in unused:
        assert f"remove {tag}" in planned.out
    assert starts(project) == before
    assert all(exists("image", one) for one in built)
    assert project.rbuild().out == ""

    project.compose("down", "-t", "0")
    ran = project.rbuild("--remove-images")
    assert ran.code == 0
    assert not any(exists("image", one) for one in built)
    assert own_tags(project) <= {f"rbuild/{project.name}/web:mine"} | (kept - unused)
    assert all(exists(*one) for one in bystanders)
    # Nothing is left to do.
    assert project.rbuild("--remove-images").out == ""
