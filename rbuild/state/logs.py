"""Where the output of a project's updates is kept: one file a run, the newest few."""

from __future__ import annotations

import os

from rbuild.state import record
from rbuild.state.generation import name_of

MOST = 10


def path(folder: str, started: float) -> str:
    """Where the log of a run that started then goes, in a project's state folder."""
    return os.path.join(folder, "logs", f"{name_of(started)}.log")


def make_room(log: str) -> None:
    """Make the folder of logs, and keep the newest few. Raises StateError."""
    folder = os.path.dirname(log)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        for name in sorted(os.listdir(folder))[: -(MOST - 1)]:
            os.unlink(os.path.join(folder, name))
    except OSError as error:
        raise record.unusable(folder, error) from None
