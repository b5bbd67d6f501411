"""Hooks: what they find, where they run, and what comes of how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rbuild import process
from rbuild.errors import Deferred, HookError, Interrupted
from rbuild.process import Log, Stop
from rbuild.state.lock import HOOK_OF
from rbuild.updates import hook


def sh(text: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", text)


class Stage:
    """Where a test's hooks run."""

    def __init__(self, top: Path) -> None:
        self.folder = top / "site"
        self.folder.mkdir()
        self.log = Log(str(top / "log"))
        self.stop = Stop()

    def run(self, *command: str, name: str = "before-update", timeout: float = 20,
            hold: tuple[int, ...] = (), **environ: str) -> None:  # fmt: skip
        hook.run(name, command, environ=environ, folder=str(self.folder), stop=self.stop,
                 timeout=timeout, log=self.log, hold=hold)  # fmt: skip

    @property
    def logged(self) -> str:
        return Path(self.log.path).read_text()


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


# What it finds


def test_what_a_hook_is_told() -> None:
    assert hook.variables(
        "on-failure",
        project="site",
        folder="/srv/link",
        home="/srv/site",
        reasons=("expired", "changed", "expired"),
        generation="20261123T030000Z",
        outcome="rolled-back",
        error="web: not healthy",
        log="/var/lib/rbuild/x.log",
        environ={},
    ) == {
        "RBUILD_HOOK": "on-failure",
        "RBUILD_PROJECT": "site",
        "RBUILD_PROJECT_FOLDER": "/srv/link",
        "RBUILD_REASONS": "expired,changed",
        "RBUILD_GENERATION": "20261123T030000Z",
        "RBUILD_OUTCOME": "rolled-back",
        "RBUILD_ERROR": "web: not healthy",
        "RBUILD_LOG": "/var/lib/rbuild/x.log",
        HOOK_OF: "/srv/site",
    }


def test_before_an_update_nothing_has_come_of_it() -> None:
    found = hook.variables("before-update", project="s", folder="/s", home="/s", reasons=("new",),
                           environ={})  # fmt: skip
    names = ("RBUILD_GENERATION", "RBUILD_OUTCOME", "RBUILD_ERROR", "RBUILD_LOG")
    assert [found[name] for name in names] == ["", "", "", ""]


@pytest.mark.parametrize(
    ("above", "below"),
    [("/a", "/a\n/b"), ("/a\n/c", "/a\n/c\n/b"), ("/b", "/b"), ("", "/b")],
)
def test_a_hook_within_a_hook_knows_of_both(above: str, below: str) -> None:
    found = hook.variables("before-update", project="b", folder="/b", home="/b", reasons=(),
                           environ={HOOK_OF: above})  # fmt: skip
    assert found[HOOK_OF] == below


def test_any_message_fits_into_an_environment(stage: Stage) -> None:
    found = hook.variables("on-failure", project="s", folder="/s", home="/s", reasons=(),
                           error="no\0" * 100_000, environ={})  # fmt: skip
    stage.run(*sh('test "${RBUILD_ERROR#no??00no}" != "$RBUILD_ERROR"'), **found)


def test_it_runs_in_the_folder_with_our_environment_and_its_own(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_OURS", "ours")
    monkeypatch.setenv("RBUILD_LOG", "of the run above")
    stage.run(*sh('echo "$PWD,$OF_OURS,$RBUILD_LOG"; cat; echo to err >&2'), RBUILD_LOG="l")
    assert f"{stage.folder},ours,l\nto err\n" in stage.logged


def test_a_list_is_no_shell_s(stage: Stage) -> None:
    script = stage.folder / "dump"
    script.write_text('#!/bin/sh\nprintf "<%s>" "$@"\n')
    script.chmod(0o755)
    stage.run("./dump", "a b", "", "$HOME; exit 1", "*")
    assert "<a b><><$HOME; exit 1><*>" in stage.logged


# How it ends


@pytest.mark.parametrize("name", ["before-update", "after-update", "on-failure"])
def test_a_failure_is_told_with_the_end_of_its_output(stage: Stage, name: str) -> None:
    with pytest.raises(HookError) as caught:
        stage.run(*sh("seq 100; echo no such database >&2; exit 3"), name=name)
    error = caught.value
    assert error.exit_code == 1
    assert error.message == f"the hook {name} failed with exit code 3"
    assert error.detail.splitlines()[-2:] == ["100", "no such database"]
    assert len(error.detail.splitlines()) == 15
    assert error.hint == f"its whole output is in {stage.log.path}"
    assert "\n1\n2\n" in stage.logged


def test_one_that_a_signal_ends(stage: Stage) -> None:
    with pytest.raises(HookError, match="the hook before-update was ended by signal 6"):
        stage.run(*sh("kill -ABRT $$"))


def test_75_puts_the_update_off(stage: Stage) -> None:
    with pytest.raises(Deferred) as caught:
        stage.run(*sh("echo a backup is running; exit 75"))
    assert caught.value.exit_code == 75
    assert caught.value.message == "the hook before-update puts the update off (exit code 75)"
    assert caught.value.detail == "a backup is running"


@pytest.mark.parametrize("name", ["after-update", "on-failure"])
def test_after_an_update_75_is_a_failure(stage: Stage, name: str) -> None:
    with pytest.raises(HookError, match=f"{name} failed with exit code 75"):
        stage.run(*sh("exit 75"), name=name)


def test_one_that_overstays_is_ended_with_all_that_it_started(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "GRACE", 0.3)
    begun = time.monotonic()
    with pytest.raises(HookError) as caught:
        stage.run(*sh("trap '' TERM; echo begun; sleep 1000 & echo $! >child; wait; sleep 1000"),
                  timeout=0.5)  # fmt: skip
    assert time.monotonic() - begun < 10
    assert caught.value.message == "the hook before-update took longer than 0.5 s"
    assert caught.value.detail == "begun"
    assert caught.value.hint.startswith("hook-timeout sets")
    assert caught.value.hint.endswith(stage.log.path)
    child = int((stage.folder / "child").read_text())
    assert not Path(f"/proc/{child}/exe").exists()


@pytest.mark.parametrize("command", [("./no-such-program",), ("/",), ("a" * 300_000,)])
def test_one_that_cannot_be_started(stage: Stage, command: tuple[str, ...]) -> None:
    with pytest.raises(HookError, match="the hook before-update cannot be started: ") as caught:
        stage.run(*command)
    assert "a list is a program and its arguments" in caught.value.hint


def test_a_signal_to_us_ends_it(stage: Stage) -> None:
    threading.Timer(0.3, stage.stop.request, (signal.SIGTERM,)).start()
    with pytest.raises(Interrupted) as caught:
        stage.run(*sh("sleep 1000"))
    assert caught.value.exit_code == 143


def test_no_hint_at_a_log_that_is_not_there(stage: Stage) -> None:
    stage.log = Log()
    with pytest.raises(HookError) as caught:
        stage.run("false")
    assert caught.value.hint == ""


# The lock


def test_it_inherits_the_locks_and_nothing_else(stage: Stage) -> None:
    held, other = os.open(stage.folder, os.O_RDONLY), os.open(stage.folder, os.O_RDONLY)
    try:
        stage.run(*sh("ls -l /proc/self/fd >fds"), hold=(held,))
    finally:
        os.close(held)
        os.close(other)
    lines = (stage.folder / "fds").read_text().splitlines()
    assert [line.split()[-3] for line in lines if line.endswith(f" {stage.folder}")] == [str(held)]


def test_a_hook_that_runs_on_the_project_of_its_run_is_refused(stage: Stage) -> None:
    script = """\
import os, sys
from rbuild.state import lock
from rbuild.updates import hook
from rbuild.process import Log, Stop
home, log = sys.argv[1:]
inner = [sys.executable, "-c", "import sys; from rbuild.state.lock import hold;"
         "hold(sys.argv[1], wait=60).__enter__()", home]
with lock.hold(home) as held:
    told = hook.variables("before-update", project="p", folder=home, home=home, reasons=(),
                          environ=os.environ)
    hook.run("before-update", inner, environ=told, folder="/", stop=Stop(), timeout=30,
             log=Log(log), hold=(held,))
"""
    link = stage.folder.parent / "link"
    link.symlink_to(stage.folder)
    done = subprocess.run([sys.executable, "-c", script, str(link), stage.log.path],
                          capture_output=True, text=True, timeout=20)  # fmt: skip
    assert "HookError" in done.stderr
    assert "this run was started by a hook of the run that is at work on" in stage.logged
