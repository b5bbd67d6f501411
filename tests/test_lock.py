"""One run a project: a lock that lives as long as the last process that holds it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rbuild.errors import Busy, StateError
from rbuild.lock import hold

HOLDER = """
import subprocess, sys
from rbuild.lock import hold
with hold(sys.argv[1]) as descriptor:
    child = None
    if len(sys.argv) > 2:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[descriptor])
    print(child.pid if child else 0, flush=True)
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
