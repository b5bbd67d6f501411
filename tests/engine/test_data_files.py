"""No update without a reason: what containers write themselves, and what only grows."""

from __future__ import annotations

import os
import sys

import pytest

from .conftest import Project, run
from .tools import ids, inside, record, starts, wait_until

COMPOSE = """\
services:
  web:
    image: $BASE
    init: true
    command: sleep 999
    volumes: [MOUNTS]
x-rbuild: {settle-period: 0}
"""


def mounted(project: Project, *mounts: str, command: str = "sleep 999") -> Project:
    """Write a project of one service with these mounts, and update it for the first time."""
    text = COMPOSE.replace("MOUNTS", ", ".join(f'"{one}"' for one in mounts))
    project.write("compose.yml", text.replace("sleep 999", command))
    ran = project.rbuild()
    assert ran.code == 0, ran.err
    return project


def append(project: Project, path: str, text: str = "a line\n") -> None:
    with open(project.folder / path, "a") as file:
        file.write(text)


def is_silent(project: Project) -> None:
    ran = project.rbuild()
    assert (ran.code, ran.out, ran.err) == (0, "", "")


def is_updated(project: Project, path: str) -> None:
    ran = project.rbuild()
    assert ran.code == 0, ran.err
    assert "updated web in " in ran.out
    assert f"(changed: {project.folder}/{path})" in ran.out


# By its place


def test_a_log_is_no_input(project: Project) -> None:
    logs = {
        "auth.txt": "/var/log/auth.log:ro",
        "app.log": "/app:ro",
        "app.log.1": "/old",
        "messages": "/x.log",
    }
    for path in logs:
        project.write(path, "first\n")
    mounted(project, *(f"./{path}:{target}" for path, target in logs.items()))
    before = starts(project)
    for _ in range(2):
        for path in logs:
            append(project, path)
        is_silent(project)
    # Rotated.
    (project.folder / "app.log").unlink()
    project.write("app.log", "")
    is_silent(project)
    assert starts(project) == before
    ran = project.rbuild("--force-rebuild")
    assert "checked, nothing new in " in ran.out


def test_what_the_kernel_makes_up_is_no_input(project: Project) -> None:
    mounted(project, "/proc/uptime:/uptime:ro", "/etc/localtime:/etc/localtime:ro")
    is_silent(project)


def test_a_pipe_stops_nobody(project: Project) -> None:
    os.mkfifo(project.folder / "pipe")
    project.write("Dockerfile", "FROM $BASE\n")
    (project.folder / "Dockerfile").rename(project.folder / "real")
    os.mkfifo(project.folder / "Dockerfile.dockerignore")
    mounted(project, "./pipe:/pipe:ro", "./pipe:/other")
    is_silent(project)


def memory(project: Project) -> int:
    """MiB that the largest process of a closer look takes."""
    (project.folder / "compose.yml").touch()
    code = (
        "import resource, subprocess, sys\n"
        "subprocess.run([sys.executable, '-m', 'rbuild'], check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)"
    )
    return int(run([sys.executable, "-c", code], cwd=project.folder, env=project.env))


def test_large_files_are_not_held_in_memory(project: Project) -> None:
    project.write("small", "text\n")
    text = COMPOSE.replace("MOUNTS", '"./data:/data:ro", "./small:/small"')
    project.write("compose.yml", f"{text}    secrets: [s]\nsecrets: {{s: {{file: ./secret}}}}\n"
                  .replace("x-rbuild: {settle-period: 0}\n    secrets", "    secrets"))  # fmt: skip
    for path in ("data", "secret"):
        (project.folder / path).touch()
        os.truncate(project.folder / path, 600 << 20)
    ran = project.rbuild()
    assert ran.code == 0, ran.err
    assert memory(project) < 250
    append(project, "data")
    is_silent(project)
    append(project, "secret")
    assert "secret)" in project.rbuild("-n").out


def test_text_that_outgrows_what_is_configuration(project: Project) -> None:
    project.write("words", "x" * ((1 << 20) - 1))
    mounted(project, "./words:/words:ro")
    append(project, "words", "more than a little\n")
    is_silent(project)
    project.write("words", "small again\n")
    is_silent(project)


# By what it does


def test_what_only_grows_causes_one_update(project: Project) -> None:
    project.write("events", "first\n")
    mounted(project, "./events:/events:ro")
    append(project, "events")
    is_updated(project, "events")
    before = starts(project)
    append(project, "events")
    ran = project.rbuild()
    assert (ran.code, ran.out) == (0, "")
    told = f"{project.folder}/events only grows: it counts as data from now on"
    assert told in ran.err
    for _ in range(2):
        append(project, "events")
        is_silent(project)
    assert starts(project) == before
    status = project.rbuild("status").out
    assert f"data      {project.folder}/events only grows: its changes cause no update" in status
    # Another update changes nothing about that, another mount does.
    assert "checked, nothing new" in project.rbuild("--force-rebuild").out
    append(project, "events")
    is_silent(project)
    project.edit("compose.yml", "/events:ro", "/events/list:ro")
    assert project.rbuild().code == 0
    append(project, "events")
    is_updated(project, "events")


def test_a_person_may_append_now_and_then(project: Project) -> None:
    project.write("app.conf", "first\n")
    mounted(project, "./app.conf:/app.conf")
    for _ in range(3):
        append(project, "app.conf")
        is_updated(project, "app.conf")
        is_silent(project)
        is_silent(project)


def test_a_person_may_edit_as_often_as_they_like(project: Project) -> None:
    project.write("app.conf", "first\n")
    mounted(project, "./app.conf:/app.conf")
    for number in range(5):
        text = (project.folder / "app.conf").read_text()
        project.write("new", f"{text}line {number}\n").replace(project.folder / "app.conf")
        is_updated(project, "app.conf")
        assert inside(f"{project.name}-web-1", "tail", "-n1", "/app.conf") == f"line {number}"


WRITES = "sh -c 'date +%s%N >/app.conf; exec sleep 999'"
WRITES_LATE = """\
sh -c 'while [ ! -e /go/now ]; do sleep 0.1; done; rm /go/now;
      date +%s%N >/app.conf; touch /go/done; exec sleep 999'"""


def test_what_a_container_writes_at_its_start_is_data(project: Project) -> None:
    project.write("app.conf", "first\n")
    project.write("other.conf", "first\n")
    project.write("compose.yml", COMPOSE.replace("MOUNTS", '"./other.conf:/other.conf"'))
    assert project.rbuild().code == 0
    mounted(project, "./app.conf:/app.conf", "./other.conf:/other.conf", command=WRITES)
    is_silent(project)
    assert record(project)["data"][f"{project.folder}/app.conf"][0] == "written"
    # A reason of a person's: the container is made anew, and writes again.
    project.write("new", "second\n").replace(project.folder / "other.conf")
    is_updated(project, "other.conf")
    is_silent(project)
    told = f"data      {project.folder}/app.conf is written by what runs: its changes cause no"
    assert told in project.rbuild("status").out


def test_what_is_written_at_the_start_is_told(project: Project) -> None:
    project.write("app.conf", "first\n")
    text = COMPOSE.replace("MOUNTS", '"./app.conf:/app.conf"').replace("sleep 999", WRITES)
    project.write("compose.yml", text)
    ran = project.rbuild("--json")
    assert ran.code == 0
    (outcome,) = ran.document["projects"]
    told = (
        f"{project.folder}/app.conf is written by what runs: it counts as data from now on, and "
        "its changes cause no update (until its mount in the compose file changes)"
    )
    assert told in outcome["notes"]
    assert told in ran.err


def test_what_a_container_writes_later_ends_after_a_while(project: Project) -> None:
    project.write("app.conf", "first\n")
    (project.folder / "go").mkdir()
    mounted(project, "./app.conf:/app.conf", "./go:/go", command=WRITES_LATE)

    def write_now() -> None:
        (project.folder / "go" / "now").touch()
        wait_until((project.folder / "go" / "done").exists, "the container has written")
        (project.folder / "go" / "done").unlink()

    for _ in range(3):
        write_now()
        is_updated(project, "app.conf")
    write_now()
    ran = project.rbuild()
    assert (ran.code, ran.out) == (0, "")
    assert "app.conf is written by what runs: it counts as data from now on" in ran.err
    is_silent(project)


def test_a_file_that_a_person_changes_during_the_update_is_due(project: Project) -> None:
    hook = "cp two new && mv new app.conf && echo more >>kept.conf"
    project.write("two", "two\n")
    project.write("app.conf", "one\n")
    project.write("kept.conf", "one\n")
    project.write(
        "compose.yml",
        COMPOSE.replace("MOUNTS", '"./app.conf:/app.conf", "./kept.conf:/kept.conf:ro"').replace(
            "{settle-period: 0}", f"{{settle-period: 0, hooks: {{before-update: '{hook}'}}}}"
        ),
    )
    assert project.rbuild().code == 0
    ran = project.rbuild("-n")
    assert "app.conf" in ran.out
    assert "kept.conf" in ran.out
    assert not [one for one in record(project)["data"].values() if one[0] != "nature"]


@pytest.mark.parametrize("before", ["sleep 999", WRITES], ids=["new", "old and new"])
def test_an_update_that_fails_is_not_tried_again_for_what_containers_write(
    project: Project, before: str
) -> None:
    """The way back starts what ran before, which may write as well."""
    project.write("app.conf", "first\n")
    mounted(project, "./app.conf:/app.conf", command=before)
    project.edit("compose.yml", before, WRITES.replace("exec sleep 999", "exit 3"))
    ran = project.rbuild()
    assert ran.code == 3, ran.err
    standing = ids(project)
    for _ in range(2):
        ran = project.rbuild()
        assert (ran.code, ran.err) == (75, "")
        assert ids(project) == standing
