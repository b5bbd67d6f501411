"""Which mounted files are data, no configuration: by their place, their content or their past.

What a container writes itself, and what only grows, is nobody's wish for an update.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from rbuild.state.record import keyed_digest_of

# A single file that is mounted may be data. Text of this size may be configuration.
LARGEST = 1 << 20
_PIECE = 1 << 16
GROWS, WRITTEN, NATURE = "grows", "written", "nature"
"""Why a file is data: for what it has done, or for what it is."""
HOW = {GROWS: "only grows", WRITTEN: "is written by what runs"}
# How many updates in a row a file may cause that looks as if nobody had edited it. A person who
# edits in place looks the same.
MOST_UPDATES = {GROWS: 1, WRITTEN: 3}
_LOG = re.compile(r"\.log(?:[.-][0-9][\w.-]*)?\Z", re.IGNORECASE)


class Look(NamedTuple):
    """A regular file at one time."""

    size: int
    inode: int
    digest: str


class Changed(NamedTuple):
    """A mounted file whose content is no longer that of the last good update."""

    name: str
    """Its path as records spell it."""
    path: str
    now: Look
    before: Look | None
    """How it was by then, where that is known."""
    writable: bool
    """Whether containers may write it."""
    replaceable: bool = False
    """Whether they may put another one in its place."""


def pieces(path: str, most: int | None = None) -> Iterator[bytes]:
    """A file's content (the first `most` bytes) in pieces that fit into memory.

    A pipe or a device has none, and nobody waits for it. Raises OSError.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        return
    # It may have become a pipe since.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file:
        while piece := file.read(_PIECE if most is None else min(_PIECE, most)):
            yield piece
            most = None if most is None else most - len(piece)


def is_file(path: str) -> bool:
    """Whether it is a regular file, or a link to such."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def is_configuration(path: str, targets: Iterable[str], *, read_only: bool) -> bool:
    """Whether a file that is mounted at `targets` may be configuration: small text, and no log."""
    real = os.path.realpath(path)
    if _LOG.search(real) or any(
        place.startswith("/var/log/") or _LOG.search(place) for place in (real, path, *targets)
    ):
        return False
    # What the kernel makes up has no size, and another content at each look.
    if real.startswith(("/proc/", "/sys/")) or not is_file(path):
        return False
    try:
        if os.stat(path).st_size > LARGEST:
            return False
        return not any(b"\0" in piece for piece in pieces(path, LARGEST))
    except OSError:
        return read_only


def weigh(
    changed: Iterable[Changed], suspects: Mapping[str, Mapping[str, Any]], key: str
) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Which changed files are data from now on, and why; and which may be (`Record.suspects`).

    `suspects` are those of the look before this one. Where containers can't have put a file in
    another's place (`mv`, `sed -i`, git, most editors), a person or the world has, who may edit it
    as often as they like.
    """
    data: dict[str, str] = {}
    found: dict[str, dict[str, Any]] = {}
    for file in changed:
        known = suspects.get(file.name)
        if known and known["digest"] == file.now.digest:
            # As it was when that was tried.
            found[file.name] = dict(known)
            continue
        before = Look(known["size"], known["inode"], known["digest"]) if known else file.before
        why = _why(file, before, key) if before else ""
        times = known["times"] if known else 0
        if why and times >= MOST_UPDATES[why]:
            data[file.name] = why
        elif why:
            found[file.name] = {"times": times + 1, **file.now._asdict()}
    return data, found


def _why(file: Changed, before: Look, key: str) -> str:
    is_same = file.now.inode == before.inode
    if is_same and file.now.size > before.size and _begins_with(file.path, before, key):
        return GROWS
    return WRITTEN if file.replaceable or (is_same and file.writable) else ""


def _begins_with(path: str, before: Look, key: str) -> bool:
    try:
        return keyed_digest_of(key, pieces(path, before.size)) == before.digest
    except OSError:
        return False


def told(name: str, why: str) -> str:
    """What a person should know of a file that has become data."""
    return (
        f"{name} {HOW[why]}: it counts as data from now on, and its changes cause no update "
        "(until its mount in the compose file changes)"
    )
