"""Waiting for what happens in other processes, and hooks that tell what they were told."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .projects import Site

# Keeps what it was told, then does what the test has laid down for it.
HOOK = """\
#!/bin/sh
mkdir -p told
env -0 >"told/$(date +%s%N)-$1"
echo "hook $1"
if [ -e "do/$1" ]; then . "./do/$1"; fi
"""


BEFORE = "before-update: [./hook, before-update]"
AFTER = """after-update: './hook "$$RBUILD_HOOK"'"""
FAILURE = "on-failure: [./hook, on-failure]"


def add_hooks(site: Site) -> None:
    """Let a site's hooks keep what they are told; `told` gives it."""
    site.write("hook", HOOK).chmod(0o755)
    hooks = f"hooks: {{{BEFORE}, {AFTER}, {FAILURE}}}"
    site.edit("compose.yml", "x-rbuild: {", f"x-rbuild: {{{hooks}, ")


def do(site: Site, hook: str, script: str) -> None:
    """What a hook is to do from now on, beside telling."""
    site.write(f"do/{hook}", f"{script}\n")


def told(site: Site) -> list[dict[str, str]]:
    """The environment of each hook that has run since the last call, in their order."""
    found = []
    for path in sorted((site.folder / "told").glob("*")):
        pairs = (one.partition("=") for one in path.read_text().split("\0") if one)
        found.append({name: value for name, _, value in pairs})
        path.unlink()
    return found


def names(hooks: list[dict[str, str]]) -> list[str]:
    """Which hooks ran."""
    return [one["RBUILD_HOOK"] for one in hooks]


def wait_until(true: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """Look again and again until something is there; its value."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain: {what}"
        time.sleep(0.05)
    return found


def is_locked(folder: Path) -> bool:
    """Whether somebody holds the lock of a project's folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def has_open(pid: int, folder: Path) -> bool:
    """Whether a process has a folder open: it waits for the lock, or it has it."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if link.readlink() == folder:
                return True
    return False


def family(mark: Mapping[str, str]) -> list[int]:
    """The living processes whose environment has this mark, however they are related."""
    (pair,) = (f"{name}={value}".encode() for name, value in mark.items())
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            living = (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            if living and pair in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found
