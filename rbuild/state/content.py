"""Copies of the small files that containers mount, as they were when the containers were made.

A project's state folder has them under `content/`, each once, named by its digest, mode and owner;
so a generation's mounted files, configs and secrets can be what they were.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from contextlib import suppress
from hashlib import blake2b

from rbuild.state.record import unusable

_PIECE = 1 << 16


def keep(folder: str, path: str) -> str:
    """Keep what a file holds now, in a project's state folder; the copy's name.

    Empty where `path` is no regular file that can be read. Raises StateError.
    """
    source = _open(path)
    if source is None:
        return ""
    home = os.path.join(folder, "content")
    new = os.path.join(home, f"{os.getpid()}.new")
    try:
        try:
            os.makedirs(home, mode=0o700, exist_ok=True)
            info = os.fstat(source)
            digest = blake2b(digest_size=16)
            target = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with open(target, "wb") as copy:
                while piece := os.read(source, _PIECE):
                    digest.update(piece)
                    copy.write(piece)
                copy.flush()
                # Containers read it as they read the file itself, whoever they run as.
                with suppress(PermissionError):
                    os.fchown(copy.fileno(), info.st_uid, info.st_gid)
                os.fchmod(copy.fileno(), stat.S_IMODE(info.st_mode))
                os.fsync(copy.fileno())
            name = f"{digest.hexdigest()}-{_access(info)}"
            os.replace(new, os.path.join(home, name))
        except OSError as error:
            with suppress(OSError):
                os.unlink(new)
            raise unusable(home, error) from None
    finally:
        os.close(source)
    return name


def path_of(folder: str, name: str) -> str:
    """Where a copy of this name is kept."""
    return os.path.join(folder, "content", name)


def is_same(path: str, name: str) -> bool:
    """Whether a file holds now what the copy of this name holds."""
    source = _open(path)
    if source is None:
        return False
    digest = blake2b(digest_size=16)
    try:
        while piece := os.read(source, _PIECE):
            digest.update(piece)
    except OSError:
        return False
    finally:
        os.close(source)
    return digest.hexdigest() == name.partition("-")[0]


def keep_only(folder: str, names: Collection[str]) -> None:
    """Remove all other copies, and half-written ones."""
    home = os.path.join(folder, "content")
    try:
        for name in os.listdir(home):
            if name not in names:
                os.unlink(os.path.join(home, name))
    except OSError:
        return


def _access(info: os.stat_result) -> str:
    return f"{stat.S_IMODE(info.st_mode):o}-{info.st_uid}-{info.st_gid}"


def _open(path: str) -> int | None:
    """A descriptor of a regular file; a pipe or a device is not waited for."""
    try:
        found = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    if stat.S_ISREG(os.fstat(found).st_mode):
        return found
    os.close(found)
    return None
