"""What registries have said, remembered for all projects: one file in the state folder.

It tells how long a digest has been seen (`min-age`), when a registry was last asked
(`check-period`), and until when one does not want to be asked. Nothing depends on it for good:
where it is lost or damaged, registries are asked again, and a new digest's age begins anew.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from rbuild.decisions.moves import Sighting
from rbuild.errors import RbuildError
from rbuild.state.record import write_private

_FILE = "registries.json"
_FORMAT = 1
# Seconds after which what nobody asks for any more is forgotten.
_FORGET = 90 * 86400
# The end of the year 9999.
_LATEST = 253402300799


@dataclass
class Memory:
    """Sightings by key (see `key`), and registries that want to be left alone."""

    seen: dict[str, Sighting] = field(default_factory=dict)
    not_before: dict[str, float] = field(default_factory=dict)
    """Registry → epoch seconds."""


def key(reference: str, user: str = "") -> str:
    """Under which a sighting is kept: what one user may see, another may not."""
    return f"{user} {reference}" if user else reference


def read(root: str) -> Memory:
    """What is remembered in the state folder `root`; nothing where that can't be read."""
    try:
        with open(os.path.join(root, _FILE), encoding="utf-8") as file:
            data = json.load(file)
        if data["format"] != _FORMAT:
            return Memory()
        seen = {
            str(name): Sighting(
                str(one[0]), _time(one[1]), _time(one[2]), str(one[3]), *map(_time, one[4:5])
            )
            for name, one in data["seen"].items()
        }
        return Memory(seen, {str(name): _time(one) for name, one in data["not_before"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return Memory()


def _time(value: float) -> float:
    """Epoch seconds within reason. Raises ValueError or TypeError for what is no such number."""
    if not 0 <= value <= _LATEST:
        raise ValueError(value)
    return float(value)


def note(before: Sighting | None, digest: str, error: str, now: float) -> Sighting:
    """A new sighting: a digest that was seen before keeps its age, also across an error."""
    if error:
        old = before or Sighting()
        return old._replace(asked=now, error=error)
    if before and before.digest == digest and before.since <= now:
        return Sighting(digest, before.since, now)
    return Sighting(digest, now, now)


def remember(root: str, new: Mapping[str, Sighting], not_before: Mapping[str, float]) -> None:
    """Add to what is remembered; where that can't be written, the next run asks again.

    Runs side by side each add what they have seen.
    """
    try:
        os.makedirs(root, mode=0o700, exist_ok=True)
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        whole = read(root)
        for name, one in new.items():
            if name not in whole.seen or whole.seen[name].asked <= one.asked:
                whole.seen[name] = one
        newest = max((one.asked for one in new.values()), default=0.0)
        seen = {name: one for name, one in whole.seen.items() if newest - one.asked < _FORGET}
        late = {**whole.not_before, **not_before}
        data = {
            "format": _FORMAT,
            "seen": seen,
            "not_before": {name: one for name, one in late.items() if one > newest},
        }
        write_private(os.path.join(root, _FILE), json.dumps(data, indent=1, sort_keys=True))
    except (OSError, RbuildError):
        return
    finally:
        os.close(descriptor)
