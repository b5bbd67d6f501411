"""A disk that can be full: a small file system of its own, which a test fills and frees.

As a script, `disks.py fill FOLDER` and `disks.py free FOLDER` do it from a command that rbuild
runs. What a killed test run left is found by its free lock, and cleared.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Not below /run: a disk of memory would be full at another time.
DISKS = Path("/var/tmp/rbuild-tests-disks")
FILLER = "filler"


@contextmanager
def small_disk(mib: int) -> Iterator[Path]:
    """Where an ext4 file system of so many MiB is mounted; gone at the end."""
    DISKS.mkdir(exist_ok=True)
    home = DISKS / uuid.uuid4().hex[:8]
    with (DISKS / "guard").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        clear_remains()
        home.mkdir()
        lock = (home / "lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    image, place = home / "image", home / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(mib << 20)
    try:
        # Nothing set aside for root: what is full is full for us too.
        mkfs = ["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", str(image)]
        subprocess.run(mkfs, check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
        yield place
    finally:
        clear(home)
        lock.close()


def clear_remains() -> None:
    """Remove the disks of test runs that were killed; nobody makes one meanwhile."""
    for path in DISKS.glob("*/lock"):
        with path.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            clear(path.parent)


def clear(home: Path) -> None:
    """Unmount a disk, whatever still uses it, and remove it."""
    if (home / "disk").is_mount():
        subprocess.run(["umount", "-l", str(home / "disk")], check=True)
    shutil.rmtree(home)


def fill(place: Path) -> None:
    """Take what is free on a disk, to the last block."""
    with (place / FILLER).open("ab") as file:
        end, piece = file.tell(), 1 << 26
        while piece >= 1024:
            try:
                os.posix_fallocate(file.fileno(), end, piece)
                end += piece
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                piece //= 2


def free(place: Path) -> None:
    """Give it back."""
    (place / FILLER).unlink(missing_ok=True)


def command(action: str, place: Path) -> str:
    """The same for a shell."""
    return f"{sys.executable} {__file__} {action} {place}"


if __name__ == "__main__":
    {"fill": fill, "free": free}[sys.argv[1]](Path(sys.argv[2]))
