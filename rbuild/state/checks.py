"""What a person was told that is wrong with a project or can't be checked, and what git has said.

One file in the project's state folder. Nothing depends on it for good: where it is lost or can't
be written, something is asked once more, or told once more.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace

from rbuild.errors import RbuildError
from rbuild.state.record import CHECKS, write_private


@dataclass(frozen=True)
class Checks:
    """As far as they have been remembered."""

    told: Mapping[str, str] = field(default_factory=dict)
    """What could not be checked (an image's qualified name, or "git") → why, as it was told."""
    git_asked: float = 0.0
    """Epoch seconds."""
    git_error: str = ""
    """Why the git remote did not answer then; empty if it did."""
    wrong: str = ""
    """What was wrong with the project before there was an update, as it was told."""
    wrong_told: float = 0.0
    """When, in epoch seconds."""
    wrong_key: str = ""
    """What it is known by: words may vary (see `told`)."""
    vanished: Sequence[str] = ()
    """Images whose tags are gone from their registries, as it was told."""


def read(folder: str) -> Checks:
    """What is remembered in the state folder of a project; nothing where that can't be read."""
    try:
        with open(os.path.join(folder, CHECKS), encoding="utf-8") as file:
            data = json.load(file)
        found = Checks(**{one.name: data[one.name] for one in fields(Checks) if one.name in data})
    except (OSError, ValueError, TypeError, RecursionError):
        return Checks()
    sound = (
        isinstance(found.told, dict)
        and all(isinstance(one, str) for one in found.told.values())
        and isinstance(found.git_asked, float)
        and isinstance(found.wrong_told, float)
        and isinstance(found.git_error, str)
        and isinstance(found.wrong, str)
        and isinstance(found.wrong_key, str)
        and isinstance(found.vanished, list | tuple)
        and all(isinstance(one, str) for one in found.vanished)
    )
    return replace(found, vanished=tuple(found.vanished)) if sound else Checks()


def write(folder: str, checks: Checks) -> None:
    """Remember it, if it can be written."""
    try:
        write_private(os.path.join(folder, CHECKS), json.dumps(asdict(checks)))
    except RbuildError:
        return


def was_told(folder: str, key: str, now: float, period: int) -> bool:
    """Whether the same was wrong with the project, and was told within `period` seconds."""
    before = read(folder)
    return bool(before.wrong) and before.wrong_key == key and 0 <= now - before.wrong_told < period


def tell(folder: str, wrong: str, key: str, now: float) -> None:
    """Remember that this is wrong with the project, and told now (epoch seconds).

    It is known by `key` from now on.
    """
    write(folder, replace(read(folder), wrong=wrong, wrong_key=key, wrong_told=now))


def clear(folder: str) -> None:
    """Nothing is wrong with the project any more."""
    before = read(folder)
    if before.wrong:
        write(folder, replace(before, wrong=""))


def vanish(folder: str, found: Mapping[str, bool]) -> list[str]:
    """Remember whose tags are gone from their registries, and whose (False) are not.

    Gives those of which that is news.
    """
    if not found:
        return []
    before = read(folder)
    gone = [name for name, is_gone in found.items() if is_gone]
    now = [*(one for one in before.vanished if one not in found), *gone]
    if sorted(now) != sorted(before.vanished):
        write(folder, replace(before, vanished=now))
    return [name for name in gone if name not in before.vanished]


def forget(folder: str) -> None:
    """Nothing is to be remembered; a folder that held nothing else goes as well."""
    with suppress(OSError):
        os.unlink(os.path.join(folder, CHECKS))
        os.rmdir(folder)
