"""What an update writes down before, while and after it works: for the next run to read."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from typing import Any

from rbuild import record
from rbuild.engine import Container
from rbuild.errors import RbuildError, StateError
from rbuild.loading import Loaded, remember_view
from rbuild.plan import Gate, Keep, Plan, Step, Up
from rbuild.record import Record, Store, stamp
from rbuild.reference import qualified
from rbuild.steps import Work

MOST_LOGS = 10


class Underway:
    """The note in a record that an update is at work, and how far it is."""

    def __init__(self, loaded: Loaded, known: Record | None, made: Plan, started: float) -> None:
        self._loaded = loaded
        self._known = known
        self._started = started
        self._earlier = tracked_before(known)
        self._note: dict[str, Any] = {
            "since": stamp(started),
            "generation": kept_as(known, started),
            # Also by an earlier run that was interrupted: the last good update is before that.
            "touched": bool(known and known.underway and known.underway.get("touched")),
            "stopped": [name for name, why in made.left.items() if why == "stopped"],
            "scales": dict(made.scales),
            "names": dict(one for step in made.steps if isinstance(step, Keep)
                          for one in step.names),
            "failing": [one.service for step in made.steps if isinstance(step, Gate)
                        for one in step.expectations if one.was_failing],
        }  # fmt: skip

    def enter(self, step: Step, *, certain: bool, tracked: Sequence[str] = ()) -> None:
        """Write down that `step` comes now, and the images that are ours to remove one day.

        `certain`: without that note, the step must not be taken (StateError). Once containers
        are touched, going on is safer than stopping, note or no note.
        """
        self._note["step"] = str(step)
        self._note["superseded"] = list(dict.fromkeys([*self._earlier, *tracked]))
        self._note["touched"] |= isinstance(step, Up) or not certain
        interrupted = _blank(self._loaded) if self._known is None else self._known
        try:
            record.write(self._loaded.folder, _with_note(interrupted, self._note))
        except StateError:
            if certain:
                raise

    def leave(self) -> None:
        """Put the record back as it was before the update."""
        try:
            if self._known is not None:
                record.write(self._loaded.folder, self._known)
            else:
                os.unlink(os.path.join(self._loaded.folder, "record.json"))
        except (StateError, OSError):
            return

    def note_failure(self, error: BaseException, log: str) -> None:
        """Remember a failure for `rbuild status`, beside the record."""
        message = error.message if isinstance(error, RbuildError) else repr(error)
        failure = {"when": stamp(time.time()), "message": message, "log": log}
        try:
            record.write_private(self._failure_path, json.dumps(failure))
        except StateError:
            return

    def forget_failure(self) -> None:
        """The update succeeded."""
        try:
            os.unlink(self._failure_path)
        except OSError:
            return

    @property
    def _failure_path(self) -> str:
        return os.path.join(self._loaded.folder, "failure.json")


def updated(loaded: Loaded, known: Record | None, made: Plan, work: Work, started: float) -> Record:
    """The record of a project that was just updated well."""
    after = Record(
        name=loaded.configuration.name,
        home=loaded.project.home,
        built=stamp(started),
        finished=stamp(time.time()),
        files=real_files(loaded),
        key=loaded.key,
        digests=dict(loaded.digests),
        provided=list(loaded.provided),
        # Another spelling may mean other files: it is fresh only if nothing differs.
        views=dict(known.views) if known and known.digests == loaded.digests else {},
        services=_services(loaded, known, made, work),
        builds=sorted(map(qualified, loaded.configuration.built_images)),
        bases=list(made.bases),
        local=list(made.local),
        superseded=list(dict.fromkeys([*tracked_before(known), *tracked(work)])),
    )
    remember_view(after, loaded)
    return after


def real_files(loaded: Loaded) -> list[str]:
    """A project's compose files, links resolved."""
    return [os.path.realpath(path) for path in loaded.inputs.main_files]


def tracked_before(known: Record | None) -> list[str]:
    """IDs of images that earlier runs, interrupted ones too, have made or replaced."""
    if known is None:
        return []
    return [*known.superseded, *((known.underway or {}).get("superseded") or ())]


def tracked(work: Work) -> list[str]:
    """IDs of images that this run has made or replaced."""
    return list(dict.fromkeys([*work.superseded, *work.made]))


def kept_as(known: Record | None, started: float) -> str:
    """The generation that a run keeps: that of the last good update, whoever found it first.

    After an update that failed on containers, what runs is not what anybody wants back.
    """
    before = (known.underway if known else None) or {}
    return (before.get("touched") and before.get("generation")) or generation(started)


def generation(started: float) -> str:
    """The name of a generation that is new in the run that started then; fit for a tag."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(started))


def write_labels(loaded: Loaded, started: float) -> str:
    """A compose file that labels what is built, to lay over the user's; its path.

    From the labels, a lost record can be made again.
    """
    labels = {"rbuild.project": loaded.configuration.name, "rbuild.built": stamp(started)}
    services = {
        name: {"build": {"labels": labels}}
        for name, one in loaded.configuration.services.items()
        if one.build
    }
    path = os.path.join(loaded.folder, "labels.json")
    record.write_private(path, json.dumps({"services": services}))
    return path


def new_log(loaded: Loaded, started: float) -> str:
    """Where this update's log goes."""
    return os.path.join(loaded.folder, "logs", f"{generation(started)}.log")


def make_room_for_log(path: str) -> None:
    """Make the folder of logs, and keep the newest few. Raises StateError."""
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        for name in sorted(os.listdir(folder))[: -(MOST_LOGS - 1)]:
            os.unlink(os.path.join(folder, name))
    except OSError as error:
        raise record.unusable(folder, error) from None


def made_elsewhere(store: Store, own: str, files: Sequence[str]) -> frozenset[str]:
    """Qualified names of the images that the other recorded projects build.

    A project whose files are gone, or are the `files` of this one (it was renamed), builds none.
    """
    names: set[str] = set()
    for folder in store.all():
        if folder == own:
            continue
        try:
            known = record.read(folder)
        except RbuildError:
            continue
        if known and known.files != files and any(map(os.path.exists, known.files)):
            names.update(known.builds)
    return frozenset(names)


def _services(
    loaded: Loaded, known: Record | None, made: Plan, work: Work
) -> dict[str, dict[str, Any]]:
    found = {}
    past = known.services if known else {}
    for name, service in loaded.configuration.services.items():
        own = [one for one in work.containers if one.service == name and not one.oneoff]
        ended = [one.exit_code for one in own if one.state == "exited"]
        found[name] = {
            "reference": service.image,
            "image": own[0].image if own else "",
            "scale": service.scale,
            # What a person stopped has not ended by itself.
            "ended": max(ended)
            if ended and len(ended) == len(own) and name not in made.left
            else None,
            "state": _state(own),
            "containers": sorted(one.id for one in own),
            # What was left alone still has the shape it had.
            "shape": past.get(name, {}).get("shape", "")
            if name in made.left
            else loaded.shapes[name],
        }
    return found


def _state(own: list[Container]) -> str:
    if not own:
        return "absent"
    if all(one.state == "exited" for one in own):
        return "ended"
    return "running"


def _blank(loaded: Loaded) -> Record:
    return Record(name=loaded.configuration.name, home=loaded.project.home)


def _with_note(known: Record, note: dict[str, Any]) -> Record:
    return Record(**{**vars(known), "underway": dict(note)})
