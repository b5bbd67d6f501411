"""Signals, kill -9 and two runs at once: nothing is orphaned, and the next run puts it right."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from .conftest import Project, Ran
from .tools import (
    Gateway,
    image_id,
    new_project,
    own_tags,
    publish,
    record,
    starts,
    state_folder,
    wait_until,
)

# Two services: one is built by the time that the other waits.
COMPOSE = """\
services:
  first: {init: true, build: .}
  second:
    init: true
    build: {context: ., dockerfile: Second}
x-rbuild: {settle-period: 0}
"""
FIRST = "FROM $BASE\nRUN date +%N > /when\nCMD exec sleep 1000\n"
SECOND = "FROM $NAME-first\nCMD exec sleep 1000\n"


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    top = tmp_path_factory.mktemp("interrupted")
    with new_project(top, top / "state") as project:
        project.write("compose.yml", COMPOSE)
        project.write("Dockerfile", FIRST)
        project.write("Second", SECOND.replace("$NAME", project.name))
        ran = project.rbuild()
        assert ran.code == 0, ran.err
        yield project


@pytest.fixture
def project_up(_made: Project) -> Project:
    """A project that is up to date, whatever the test before has done to it."""
    _made.write("compose.yml", COMPOSE)
    _made.write("Dockerfile", FIRST)
    _made.write("Second", SECOND.replace("$NAME", _made.name))
    ran = _made.rbuild()
    assert ran.code == 0, ran.err
    return _made


class Run:
    """The real command at work, whose children can be told by a mark in their environment."""

    def __init__(self, project: Project, *arguments: str, **env: str) -> None:
        self.mark = f"RBUILD_TEST_MARK={os.urandom(8).hex()}"
        name, _, value = self.mark.partition("=")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rbuild", *arguments],
            cwd=project.folder,
            env={**os.environ, **project.env, name: value, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell that runs the tests in the background has them ignored.
            preexec_fn=heed_signals,
        )

    def end(self, seconds: float = 20) -> tuple[int, str, str]:
        """Wait for the end: exit code, stdout, stderr."""
        out, err = self.process.communicate(timeout=seconds)
        assert "Traceback" not in out + err
        return self.process.returncode, out, err

    def family(self) -> list[int]:
        """The processes that it is or has started, however they are related now."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environ = (folder / "environ").read_bytes()
                living = (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            except OSError:
                continue
            if self.mark.encode() in environ and living:
                found.append(int(folder.name))
        return found


def heed_signals() -> None:
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)


def commands() -> list[str]:
    """The command lines of all processes, those in builds among them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip())
        except OSError:
            continue
    return found


def hang_in_build(project: Project) -> Callable[[], bool]:
    """Let the second service's build wait; gives what tells whether it does."""
    seconds = str(3000 + int.from_bytes(os.urandom(4), "big") % 10**9)
    text = SECOND.replace("$NAME", project.name)
    project.write("Second", text.replace("CMD", f"RUN sleep {seconds}\nCMD"))
    return lambda: f"sleep {seconds}" in commands()


def nothing_left(run_: Run, building: Callable[[], bool]) -> None:
    assert run_.family() == []
    # The engine ends a cancelled job in its own time.
    wait_until(lambda: not building(), "the build is gone", seconds=10)


# ---------------------------------------------------------------- signals


def test_signals_during_a_build(project_up: Project) -> None:
    project = project_up
    image = f"{project.name}-first"
    before = starts(project), project.images(), image_id(image), own_tags(project)
    known = record(project)
    building = hang_in_build(project)
    # Each run after the first finds that the one before it was interrupted as well.
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        at_work = Run(project)
        wait_until(building, "the build")
        assert image_id(image) != before[2]
        begun = time.monotonic()

        at_work.process.send_signal(signum)
        code, out, err = at_work.end()

        assert code == 128 + signum
        assert time.monotonic() - begun < 10
        assert out == ""
        assert f"{project.name}: interrupted by signal {int(signum)}" in err
        assert "no container was touched: what ran before runs on" in err
        nothing_left(at_work, building)
        # Names are put back, so that an `up` by hand changes nothing.
        assert (starts(project), project.images(), image_id(image), own_tags(project)) == before
        # Nobody failed: it is neither known as bad nor put off.
        assert record(project) == {**known, "underway": record(project)["underway"]}
        assert known["failed"] is None
    project.write("Second", SECOND.replace("$NAME", project.name))
    project.compose("up", "-d")
    assert starts(project) == before[0]

    ran = project.rbuild("--json")
    assert ran.code == 0, ran.err
    (reason,) = ran.document["projects"][0]["reasons"]
    assert reason["kind"] == "interrupted"
    assert "ended during: build second without cache" in reason["detail"]
    assert record(project)["underway"] is None
    assert project.rbuild().out == ""


def test_a_signal_during_a_pull(project: Project) -> None:
    gateway = Gateway()
    publish(f"{os.environ['RBUILD_REGISTRY']}/{project.name}/base:1", "one")
    base = f"{gateway.address}/{project.name}/base:1"
    project.write("compose.yml", COMPOSE)
    project.write("Dockerfile", FIRST.replace("$BASE", base))
    project.write("Second", SECOND.replace("$NAME", project.name))
    try:
        assert project.rbuild().code == 0
        before = starts(project), project.images(), record(project)
        gateway.silent = True
        gateway.asked.clear()
        at_work = Run(project, "--force-rebuild")
        assert gateway.asked.wait(20)

        at_work.process.send_signal(signal.SIGINT)
        code, _, err = at_work.end()

        assert code == 130
        assert "interrupted by signal 2" in err
        assert at_work.family() == []
        assert (starts(project), project.images()) == before[:2]
        gateway.silent = False
        ran = project.rbuild("--json")
        assert ran.code == 0, ran.err
        assert "ended during: pull" in ran.document["projects"][0]["reasons"][0]["detail"]
    finally:
        gateway.close()
        for reference in (base, f"{os.environ['RBUILD_REGISTRY']}/{project.name}/base:1"):
            subprocess.run(["docker", "rmi", reference], capture_output=True)


def test_what_is_ignored_stays_ignored(project_up: Project) -> None:
    # As under nohup.
    project = project_up
    building = hang_in_build(project)
    mark = os.urandom(4).hex()
    argv = ["sh", "-c", 'trap "" HUP; exec "$@"', mark, sys.executable, "-m", "rbuild"]
    process = subprocess.Popen(
        argv, cwd=project.folder, env={**os.environ, **project.env}, preexec_fn=heed_signals,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until(building, "the build")
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 143
    assert "interrupted by signal 15" in err


# ---------------------------------------------------------------- kill -9, and two at once


def test_a_killed_run_keeps_others_out_until_its_children_are_gone(
    project_up: Project, tmp_path: Path
) -> None:
    project = project_up
    before = starts(project), image_id(f"{project.name}-first")
    images = project.images(), own_tags(project)
    building = hang_in_build(project)
    at_work = Run(project)
    wait_until(building, "the build")

    # While it runs: silent off a terminal, also for one with a state folder of its own.
    for env in ({}, {"RBUILD_STATE_DIR": str(tmp_path / "other")}):
        ran = project.rbuild("--force-rebuild", **env)
        assert (ran.code, ran.out, ran.err) == (75, "", "")
        ran = project.rbuild("--json", **env)
        assert ran.code == 75
        assert [one["outcome"] for one in ran.document["projects"]] == ["deferred"]
    assert not (tmp_path / "other" / "projects").exists()
    # On a terminal, the holder is named.
    code, text = on_a_terminal(project, "--force-rebuild")
    assert code == 75
    assert f"another run is at work on {project.folder}" in text
    assert f"process {at_work.process.pid}, since 20" in text

    at_work.process.kill()
    at_work.process.communicate()
    orphans = at_work.family()
    assert orphans
    assert building()
    ran = project.rbuild("--force-rebuild")
    assert (ran.code, ran.out, ran.err) == (75, "", "")
    code, text = on_a_terminal(project)
    assert code == 75
    assert "what a killed run had started is still running" in text
    for pid in orphans:
        # One may end as another does.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not at_work.family(), "the orphans are gone")
    wait_until(lambda: not building(), "the build is gone")
    assert starts(project) == before[0]

    # The next one fails: names go back to what they were before the one that was killed.
    project.write("Second", "FROM $BASE\nRUN echo broken here; false\n")
    ran = project.rbuild()
    assert ran.code == 1
    assert "broken here" in ran.err
    assert "it was due: interrupted: the run of " in ran.err
    assert image_id(f"{project.name}-first") == before[1]
    project.write("Second", SECOND.replace("$NAME", project.name))
    project.compose("up", "-d")
    assert starts(project) == before[0]

    # The files are again what runs: the failure is forgotten, and nothing of either run is left.
    assert project.rbuild() == Ran(0, "", "")
    known = record(project)
    assert (known["underway"], known["failed"], known["untidy"]) == (None, None, False)
    assert (project.images(), own_tags(project)) == images
    assert (state_folder(project) / "record.json").stat().st_mode & 0o777 == 0o600


def on_a_terminal(project: Project, *arguments: str) -> tuple[int, str]:
    """Run the real command with a terminal for its streams."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "rbuild", *arguments],
        cwd=project.folder, env={**os.environ, **project.env, "TERM": "xterm"},
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    text = b""
    while select.select([ours], [], [], 60)[0]:
        try:
            data = os.read(ours, 4096)
        except OSError:
            break
        text += data
        if not data:
            break
    os.close(ours)
    return process.wait(), re.sub(r"\x1b\[\d*[A-Za-z]", "", text.decode())
