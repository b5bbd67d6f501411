"""One run a project: a kernel lock on the project's own folder.

The folder, not a file of ours: so it holds between users, who have state folders of their
own, and leaves nothing behind. The kernel frees it when the last process that holds the
descriptor is gone; commands that rbuild starts inherit it, so that a Compose which outlives
a killed rbuild keeps the next run out (flock(2)).
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from rbuild.errors import Busy, ProjectError, StateError

HOOK_OF = "RBUILD_HOOK_OF"
"""In a hook's environment: the folders whose locks the runs above it hold, one a line."""
_FIRST_PAUSE, _PAUSE = 0.1, 0.25


class Stoppable(Protocol):
    """What tells whether this run is to end, as process.Stop does."""

    def check(self) -> None:
        """Raise Interrupted if so."""


@contextmanager
def hold(
    home: str,
    *,
    wait: float = 0.0,
    stop: Stoppable | None = None,
    environ: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """Hold the lock of the project folder `home`; gives the descriptor to hand to children.

    Waits up to `wait` seconds for it, or until `stop` says that the end is asked for. Raises
    Busy if another run has it still, naming that run where /proc tells. A hook's own run
    (`environ`, else the process's, tells) that asks for what the run above it holds gets
    ProjectError at once.
    """
    try:
        descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _cannot(home, error, "rbuild must be able to read it") from None
    try:
        _acquire(descriptor, home, wait, stop, os.environ if environ is None else environ)
        try:
            yield descriptor
        finally:
            # Closing is not enough: what a hook has left running holds a copy.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _acquire(
    descriptor: int, home: str, wait: float, stop: Stoppable | None, environ: Mapping[str, str]
) -> None:
    deadline = time.monotonic() + wait
    pause = _FIRST_PAUSE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        except OSError as error:
            raise _cannot(home, error, "its file system must know flock(2)") from None
        if is_held_above(home, environ):
            raise ProjectError(
                f"this run was started by a hook of the run that is at work on {home}",
                hint="a hook can't update its own project: call docker or docker compose there",
            )
        left = deadline - time.monotonic()
        if left <= 0:
            waited = f"; waited {wait:g} s for it" if wait else ""
            raise Busy(f"another run is at work on {home}" + _holder(descriptor) + waited)
        if stop:
            stop.check()
        time.sleep(min(pause, left))
        pause = _PAUSE


def is_held_above(home: str, environ: Mapping[str, str]) -> bool:
    """Whether the run that started our hook, or one above it, works or worked on this folder."""
    for path in environ.get(HOOK_OF, "").splitlines():
        try:
            if os.path.samefile(path, home):
                return True
        except OSError:
            continue
    return False


def _cannot(home: str, error: OSError, hint: str) -> StateError:
    return StateError(f"{home}: cannot be locked: {error.strerror}", hint=hint)


def _holder(descriptor: int) -> str:
    """Who holds the lock, by proc(5)'s /proc/locks; empty if that can't be told."""
    inode = os.fstat(descriptor).st_ino
    try:
        with open("/proc/locks", encoding="ascii") as locks:
            fields = [line.split() for line in locks]
        found = [one[4] for one in fields if one[1] == "FLOCK" and one[5].endswith(f":{inode}")]
        process = found[0]
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as stat:
            # After the command's closing bracket; field 22 is the start in clock ticks.
            ticks = int(stat.read().rpartition(")")[2].split()[19])
        with open("/proc/uptime", encoding="ascii") as uptime:
            age = float(uptime.read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    except FileNotFoundError:
        return ": what a killed run had started is still running"
    except (OSError, ValueError, IndexError):
        return ""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() - age))
    return f": process {process}, since {since}"
