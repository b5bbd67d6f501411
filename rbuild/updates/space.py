"""Is there room for an update? Free space where the engine stores images, and a judgement.

What an update took is how far free space fell from before its build to before `up`: layers,
cache and what was unpacked, whatever the engine calls them.
"""

from __future__ import annotations

import os

from rbuild.docker.engine import EngineInfo
from rbuild.errors import SpaceError

# Of what the last update took, on top: a base image grows.
MARGIN = 0.25
_CONTAINERD = "/var/lib/containerd"


def place(info: EngineInfo) -> str:
    """The folder where the engine stores images; empty where that is not for us to see."""
    if not info.here or not info.root:
        return ""
    # With the containerd store, what counts lies with containerd: the engine's own, which it
    # keeps below its root, or else the machine's.
    stores = (os.path.join(info.root, "containerd"), _CONTAINERD) if info.containerd_store else ()
    return next((one for one in (*stores, info.root) if os.path.isdir(one)), "")


def free(info: EngineInfo) -> int | None:
    """Bytes that are free there; None if that can't be told."""
    folder = place(info)
    try:
        found = os.statvfs(folder) if folder else None
    except OSError:
        return None
    # A file system without a size of its own has none left either.
    return found.f_bavail * found.f_frsize if found and found.f_blocks else None


def taken(before: int | None, after: int | None) -> int:
    """Bytes that an update took, from what was free before its build and before `up`."""
    return 0 if before is None or after is None else max(0, before - after)


def check(available: int | None, last: int, where: str) -> None:
    """Raise SpaceError if `available` bytes are too few after an update that took `last`.

    `where` names the place for the message.
    """
    needed = round(last * (1 + MARGIN))
    if available is not None and available < needed:
        raise SpaceError(
            f"too little space where the engine stores images ({where}): {human(available)} free; "
            f"the last update took {human(last)}, and with a quarter to spare that makes "
            f"{human(needed)}",
            hint="`docker system df` shows what fills it, `docker builder prune` and "
            "`docker image prune` make room; --force-rebuild tries all the same",
        )


def human(size: int) -> str:
    """A number of bytes as a person reads it, in powers of ten as Docker has it: `1.5 GB`."""
    number = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.4g} TB"
