"""Runs rbuild's real command in a process that kills itself, as `kill -9` would.

    struck.py WHEN ARGUMENT…      with rbuild's own arguments

WHEN is `start:N` or `end:N` (as the N-th step of the update and its way back begins or ends,
however it ends), `after:SECONDS` (since the process began), or `list:FILE` (never: one line a
step goes to FILE, as JSON: its text, and whether it failed).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Arm the strike and become rbuild."""
    when, *arguments = sys.argv[1:]
    kind, _, value = when.partition(":")
    if kind == "after":
        threading.Thread(target=strike_after, args=(float(value),), daemon=True).start()
    elif kind == "list":
        list_steps(Path(value))
    else:
        strike_at(int(value), at_end={"start": False, "end": True}[kind])
    # This folder is none that rbuild's imports should be looked for in.
    del sys.path[0]
    sys.argv = ["rbuild", *arguments]
    from rbuild.cli import main as rbuild

    rbuild(prog_name="rbuild")


def strike() -> None:
    """The end: nothing is flushed, nothing is unwound."""
    os.kill(os.getpid(), signal.SIGKILL)


def strike_after(seconds: float) -> None:
    """Strike at a moment, wherever rbuild is then."""
    time.sleep(seconds)
    strike()


def strike_at(number: int, *, at_end: bool) -> None:
    """Strike at a boundary of the step with this number, counted from 1."""
    from rbuild.updates import steps

    real, count = steps.run, 0

    def run(step: Any, work: Any) -> None:
        nonlocal count
        count += 1
        if count == number and not at_end:
            strike()
        try:
            real(step, work)
        finally:
            if count == number:
                strike()

    steps.run = run


def list_steps(path: Path) -> None:
    """Write down each step as it ends."""
    from rbuild.updates import steps

    real = steps.run

    def run(step: Any, work: Any) -> None:
        failed = True
        try:
            real(step, work)
            failed = False
        finally:
            with path.open("a") as file:
                file.write(json.dumps([str(step), failed]) + "\n")

    steps.run = run


if __name__ == "__main__":
    main()
