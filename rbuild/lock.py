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
from collections.abc import Iterator
from contextlib import contextmanager

from rbuild.errors import Busy, StateError


@contextmanager
def hold(home: str) -> Iterator[int]:
    """Hold the lock of the project folder `home`; gives the descriptor to hand to children.

    Raises Busy if another run has it, naming that run where /proc tells.
    """
    try:
        descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StateError(
            f"{home}: cannot be locked: {error.strerror}", hint="rbuild must be able to read it"
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
            raise Busy(f"another run is at work on {home}" + holder) from None
        yield descriptor
    finally:
        os.close(descriptor)


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
