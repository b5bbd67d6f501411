"""One run a project: a lock that lives as long as the last process that holds it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rbuild.errors import Busy, Interrupted, ProjectError, StateError
from rbuild.process import Stop
from rbuild.state.lock import HOOK_OF, hold

HOLDER = """
import subprocess, sys
from rbuild.state.lock import hold
with hold(sys.argv[1]) as descriptor:
    child = None
    if len(sys.argv) > 2:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[descriptor])
    print(child.pid if child else 0, flush=True)
    sys.stdin.readline()
sys.stdin.read()
"""


@contextmanager
def holder(home: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another process that holds the lock, and the pid of its child."""
    argv = [sys.executable, "-c", HOLDER, str(home), *more]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as one:
        assert one.stdout
        yield one, int(one.stdout.readline())
        if one.stdin:
            one.stdin.close()


def wait_until(condition: Callable[[], object]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("in vain")


def is_free(home: Path) -> bool:
    try:
        with hold(str(home)):
            return True
    except Busy:
        return False


def test_a_lock_leaves_nothing_behind(tmp_path: Path) -> None:
    before = os.stat(tmp_path).st_mtime_ns
    with hold(str(tmp_path)) as descriptor:
        assert os.fstat(descriptor).st_ino == os.stat(tmp_path).st_ino
        assert not os.get_inheritable(descriptor)
    assert os.listdir(tmp_path) == []
    assert os.stat(tmp_path).st_mtime_ns == before
    assert is_free(tmp_path)


def test_a_second_run_is_told_who_holds_it(tmp_path: Path) -> None:
    with holder(tmp_path) as (process, _):
        with pytest.raises(Busy) as caught, hold(str(tmp_path)):
            raise AssertionError
        assert caught.value.exit_code == 75
        assert f"another run is at work on {tmp_path}: process {process.pid}, since 2" in str(
            caught.value
        )
        assert time.strftime("%Y-%m-%d") in str(caught.value)
    assert is_free(tmp_path)


def test_the_same_process_cannot_hold_it_twice(tmp_path: Path) -> None:
    with hold(str(tmp_path)):
        assert not is_free(tmp_path)
    assert is_free(tmp_path)


def test_two_folders_are_two_locks(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with hold(str(tmp_path)):
        assert is_free(tmp_path / "other")


def test_an_error_inside_frees_it(tmp_path: Path) -> None:
    with pytest.raises(KeyError), hold(str(tmp_path)):
        raise KeyError
    assert is_free(tmp_path)


def test_a_child_holds_it_after_the_run_was_killed(tmp_path: Path) -> None:
    with holder(tmp_path, "with a child") as (process, child):
        try:
            process.kill()
            process.wait()
            with pytest.raises(Busy, match="what a killed run had started is still running"):
                hold(str(tmp_path)).__enter__()
        finally:
            os.kill(child, signal.SIGKILL)
    wait_until(lambda: is_free(tmp_path))


def test_a_killed_run_without_children_frees_it(tmp_path: Path) -> None:
    with holder(tmp_path) as (process, _):
        process.kill()
        process.wait()
        assert is_free(tmp_path)


def test_a_lock_of_somebody_else_s_kind_counts_too(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    assert not is_free(tmp_path)
    os.close(descriptor)
    assert is_free(tmp_path)


@pytest.mark.parametrize("what", ["gone", "a file"])
def test_no_folder(tmp_path: Path, what: str) -> None:
    home = tmp_path / what
    if what == "a file":
        home.touch()
    with pytest.raises(StateError, match="cannot be locked"):
        hold(str(home)).__enter__()


def test_a_read_only_folder_can_be_locked(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    assert is_free(tmp_path)


def test_what_is_left_running_does_not_hold_it_once_the_run_is_over(tmp_path: Path) -> None:
    with holder(tmp_path, "with a child") as (process, child):
        try:
            assert not is_free(tmp_path)
            assert process.stdin
            process.stdin.write("leave\n")
            process.stdin.flush()
            wait_until(lambda: is_free(tmp_path))
            assert process.poll() is None
            os.kill(child, 0)
        finally:
            os.kill(child, signal.SIGKILL)


def test_an_error_frees_it_from_what_is_left_running_too(tmp_path: Path) -> None:
    copies = []

    def fail() -> None:
        with hold(str(tmp_path)) as descriptor:
            copies.append(os.dup(descriptor))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert is_free(tmp_path)
    os.close(copies[0])


# Waiting for it


def test_it_is_had_as_soon_as_the_other_is_done(tmp_path: Path) -> None:
    with holder(tmp_path) as (process, _):
        assert process.stdin
        threading.Timer(0.3, process.stdin.close).start()
        begun = time.monotonic()
        with hold(str(tmp_path), wait=60):
            assert 0.2 < time.monotonic() - begun < 10
            assert not is_free(tmp_path)
    assert is_free(tmp_path)


def test_waiting_in_vain_tells_how_long_and_for_whom(tmp_path: Path) -> None:
    with holder(tmp_path) as (process, _):
        begun = time.monotonic()
        with pytest.raises(Busy) as caught, hold(str(tmp_path), wait=0.5):
            raise AssertionError
        assert 0.5 <= time.monotonic() - begun < 5
    assert f"at work on {tmp_path}: process {process.pid}, since 2" in caught.value.message
    assert caught.value.message.endswith("; waited 0.5 s for it")


def test_nobody_says_to_have_waited_who_has_not(tmp_path: Path) -> None:
    with hold(str(tmp_path)), pytest.raises(Busy) as caught, hold(str(tmp_path)):
        raise AssertionError
    assert "waited" not in caught.value.message


def test_waiting_costs_next_to_nothing(tmp_path: Path) -> None:
    with holder(tmp_path):
        before = time.process_time()
        with pytest.raises(Busy), hold(str(tmp_path), wait=1):
            raise AssertionError
        assert time.process_time() - before < 0.1


def test_a_signal_ends_the_waiting(tmp_path: Path) -> None:
    stop = Stop()
    with hold(str(tmp_path)):
        threading.Timer(0.2, stop.request, (signal.SIGTERM,)).start()
        begun = time.monotonic()
        with pytest.raises(Interrupted) as caught, hold(str(tmp_path), wait=60, stop=stop):
            raise AssertionError
        assert caught.value.exit_code == 143
        assert time.monotonic() - begun < 10
    assert is_free(tmp_path)


# In a hook


@pytest.mark.parametrize("wait", [0, 60])
def test_a_hook_s_run_is_refused_at_once(tmp_path: Path, wait: float) -> None:
    environ = {HOOK_OF: f"/nowhere\n{tmp_path}"}
    begun = time.monotonic()
    with hold(str(tmp_path)), pytest.raises(ProjectError) as caught:
        hold(str(tmp_path), wait=wait, environ=environ).__enter__()
    assert time.monotonic() - begun < 10
    assert caught.value.exit_code == 1
    assert caught.value.message == (
        f"this run was started by a hook of the run that is at work on {tmp_path}"
    )
    assert is_free(tmp_path)


def test_a_hook_is_known_by_the_environment_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOOK_OF, str(tmp_path))
    with hold(str(tmp_path)), pytest.raises(ProjectError):
        hold(str(tmp_path)).__enter__()


def test_a_hook_may_run_other_projects(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with hold(str(tmp_path)), hold(str(other), environ={HOOK_OF: str(tmp_path)}):
        assert not is_free(other)
    with holder(other), pytest.raises(Busy):
        hold(str(other), environ={HOOK_OF: str(tmp_path)}).__enter__()


def test_what_a_hook_left_running_may_run_rbuild_once_the_run_is_over(tmp_path: Path) -> None:
    with hold(str(tmp_path), environ={HOOK_OF: str(tmp_path)}):
        assert not is_free(tmp_path)
