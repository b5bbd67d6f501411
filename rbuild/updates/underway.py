"""What a run writes down before, while and after it works: for the next run to read.

A record's `underway` note has:
- `since`, `step` (what is being done), `generation` (what is kept of before), `touched` (whether
  containers may have been), `going` (empty on the way forward, `back` on the way back, `over`
  where it ended by itself in a state that needs a person), `by_hand` (`rbuild rollback` at work);
- `up` (when the first `up` began), `stopping` (whether one has not come to its end, so that what it
  told to stop may be about to);
- `error` (what failed), `lost` (how often the engine went away, or the way back from an
  interruption failed), `resumed` (whether a second run took it up), `after` (the containers that
  there were at its end);
- what is tried: `inputs`, `commit` (of the checkout), `limited` (only what moved), `bases`,
  `built`, `makes` and `rests` (what came of it, and on what), `services` (brought up, or removed
  as orphans), `stay` (not taken back to their old image), `leave` (not looked at);
- what must not be forgotten of before: `names` of images, `stopped` services, `scales` set by
  hand, `failing` services, `superseded` images.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rbuild.compose.loading import Loaded, remember_view
from rbuild.docker.engine import Container
from rbuild.docker.reference import qualified
from rbuild.errors import EngineError, RbuildError, StateError
from rbuild.state import generation, record
from rbuild.state.failure import moment
from rbuild.state.record import Record, Store, stamp
from rbuild.updates import stopped
from rbuild.updates.plan import Plan
from rbuild.updates.step import Gate, Keep, Step, Up
from rbuild.updates.steps import Work


class Underway:
    """The note in a record that a run is at work, and how far it is."""

    def __init__(self, folder: str, known: Record, note: dict[str, Any], *, is_new: bool) -> None:
        self._folder = folder
        self.base = known
        """The record as it was, and is to be again if nothing comes of this."""
        self._is_new = is_new
        self._is_left = False
        self._earlier = tracked_before(known)
        self._note = note

    @property
    def note(self) -> Mapping[str, Any]:
        """What stands in it."""
        return self._note

    def touched_at(self, clock_ahead: float) -> float:
        """When containers may first have been touched, on the engine's clock in epoch seconds; of
        a record from before, when the run began."""
        return moment(self._note.get("up") or self._note["since"]) + clock_ahead

    def enter(self, step: Step, *, certain: bool, tracked: Sequence[str] = ()) -> None:
        """Write down that `step` comes now, and the images that are ours to remove one day.

        `certain`: without that note, the step must not be taken (StateError). Once containers
        are touched, going on is safer than stopping, note or no note.
        """
        self._note["step"] = str(step)
        noted = self._note.get("superseded") or ()
        self._note["superseded"] = list(dict.fromkeys([*self._earlier, *noted, *tracked]))
        self._note["touched"] |= isinstance(step, Up) or not certain
        self._note["stopping"] = isinstance(step, Up)
        if isinstance(step, Up):
            self._note.setdefault("up", stamp(time.time()))
        self._write(certain)

    def has_built(self, images: Mapping[str, str], work: Work) -> None:
        """What image names mean by now, and on what it was made: to disk with the next step."""
        self._note["built"] = dict(images)
        self._note["makes"], self._note["rests"] = dict(work.makes), dict(work.rests)

    def has_tried(self, inputs: str) -> None:
        """The digest of what was tried: to disk with the next step."""
        self._note["inputs"] = inputs

    def turn(self, error: BaseException, *, is_failure: bool) -> None:
        """From here it goes back; `error` is remembered if it `is_failure` and no interruption."""
        self._note["going"] = "back"
        self._note["error"] = _text(error) if is_failure else ""
        self._write(False)

    def rewrite(self) -> None:
        """As it stands: the next run goes on from here."""
        self._write(False)

    def lose_engine(self) -> None:
        """The engine went away: the next run goes on from here."""
        self._note["lost"] = self._note.get("lost", 0) + 1
        self._write(False)

    def try_again(self, most: int) -> bool:
        """The way back failed: the next run goes on from here, unless it has `most` times."""
        self._note["lost"] = self._note.get("lost", 0) + 1
        if self._note["lost"] >= most:
            return False
        self._write(False)
        return True

    def new_images(self) -> list[str]:
        """IDs of the images that the update has changed names to."""
        old = set((self._note.get("names") or {}).values())
        return [one for one in (self._note.get("built") or {}).values() if one not in old]

    def rest_untouched(self, tracked: Sequence[str] = ()) -> None:
        """The same where no container was touched. An earlier update left in need still is."""
        if (self.base.underway or {}).get("touched"):
            self._save(self.base)
        else:
            self.rest(tracked)

    def rest(self, tracked: Sequence[str] = ()) -> bool:
        """All is as it was, and the update is still wanted: the next run begins anew.

        Gives whether that could be written.
        """
        self._note |= {"touched": False, "going": "", "error": "", "resumed": False}
        self._note["superseded"] = list(dict.fromkeys([*self._earlier, *tracked]))
        return self._write(False)

    def clean_up(self, there: Iterable[str]) -> None:
        """What is left over is removed, but for these images."""
        self.base.superseded = list(there)
        if self._is_left:
            self.base.untidy = False
            self._save(self.base)
        else:
            self._earlier, self._note["superseded"] = list(there), list(there)
            self._write(False)

    def give_up(self, failed: dict[str, Any]) -> None:
        """Not to be tried again soon, though all is not put right yet."""
        self.base.failed = failed
        self._write(False)

    def withdraw(self) -> None:
        """The update is put off: as if this run had not been."""
        if not self._is_new:
            self._save(self.base)
            return
        try:
            os.unlink(os.path.join(self._folder, "record.json"))
        except OSError:
            return

    def end_in_need(self, failed: dict[str, Any], containers: Iterable[Container]) -> None:
        """The run ends, and a person has to look: what ran before does not run again."""
        self.base.failed = failed
        self._note |= {"going": "over", "touched": True}
        self._note["after"] = _ids(containers)
        self._write(False)

    def leave(self, failed: dict[str, Any] | None) -> bool:
        """What ran before runs again: the record is as before the update, but for what `failed`.

        Gives whether that could be written.
        """
        self.base.failed = failed
        self.base.underway = None
        self._note["touched"], self._is_left = False, True
        return self._save(self.base)

    def leave_untouched(self, failed: dict[str, Any] | None) -> None:
        """No container was touched. An earlier update that was left in need still is."""
        before = self.base.underway or {}
        self.base.failed = failed
        self.base.underway = before if before.get("touched") else None
        self._save(self.base)

    def _save(self, what: Record) -> bool:
        try:
            record.write(self._folder, what)
        except StateError:
            return False
        return True

    def _write(self, certain: bool) -> bool:
        try:
            record.write(self._folder, Record(**{**vars(self.base), "underway": self._note}))
        except StateError:
            if certain:
                raise
            return False
        return True


def begin(
    loaded: Loaded,
    known: Record | None,
    made: Plan,
    kept: str,
    started: float,
    inputs: str,
    commit: str = "",
) -> Underway:
    """The note of an update that starts now.

    `kept` is the generation of what runs, `inputs` the digest of what is tried, `commit` the one
    that the project's checkout is at.
    """
    before = (known.underway if known else None) or {}
    note: dict[str, Any] = {
        "since": stamp(started),
        "generation": kept,
        # Also by an earlier run that was interrupted: the last good update is before that.
        "touched": bool(before.get("touched")) and before.get("generation") == kept,
        "going": "",
        "lost": before.get("lost", 0),
        "inputs": inputs,
        "commit": commit,
        "limited": made.limited,
        "bases": list(made.bases),
        "stay": [name for name, one in loaded.configuration.services.items() if one.stays_new],
        "services": [name for step in made.steps if isinstance(step, Up)
                     for name in (*step.services, *(one.service for one in step.orphans))],
        "stopped": [name for name, why in made.left.items() if why == "stopped"],
        "scales": dict(made.scales),
        "names": dict(one for step in made.steps if isinstance(step, Keep) for one in step.names),
        "failing": [one.service for step in made.steps if isinstance(step, Gate)
                    for one in step.expectations if one.was_failing],
    }  # fmt: skip
    base = _blank(loaded) if known is None else Record(**vars(known))
    return Underway(loaded.folder, base, note, is_new=known is None)


def go_on(folder: str, known: Record, **changes: Any) -> Underway:
    """The note of a run that was cut off, taken over by this one."""
    note = {"touched": True, **(known.underway or {}), **changes}
    return Underway(folder, Record(**vars(known)), note, is_new=False)


def updated(loaded: Loaded, known: Record | None, made: Plan, work: Work, started: float) -> Record:
    """The record of a project that was just updated well, before it is cleaned up."""
    after = Record(
        name=loaded.configuration.name,
        home=loaded.project.home,
        # What did not move is as old as it was.
        built=known.built if made.limited and known else stamp(started),
        finished=stamp(time.time()),
        files=real_files(loaded),
        key=loaded.key,
        digests=dict(loaded.digests),
        provided=list(loaded.provided),
        # Another spelling may mean other files: it is fresh only if nothing differs.
        views=dict(known.views) if known and known.digests == loaded.digests else {},
        services=_services(loaded, known, made, work),
        builds=sorted(map(qualified, loaded.configuration.built_images)),
        bases=_merged(known.bases, made.bases) if made.limited and known else list(made.bases),
        rests={
            kind: {**(known.rests.get(kind, {}) if made.limited and known else {}), **one}
            for kind, one in work.rests.items()
        },
        makes=dict(work.makes),
        superseded=list(dict.fromkeys([*tracked_before(known), *tracked(work)])),
        configuration=generation.digest(loaded.rendered),
        content={
            path: copy
            for path, copy in work.content.items()
            if loaded.name_of(path) not in loaded.data
        },
        taken=work.taken if work.taken is not None else (known.taken if known else 0),
        untidy=True,
    )
    remember_view(after, loaded)
    return after


def _merged(old: Iterable[str], new: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*old, *new]))


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


def still_counts(known: Record | None, containers: Iterable[Container]) -> Mapping[str, Any]:
    """The note of an earlier run, as far as it tells something of these containers.

    After one that ended in need of a person, it tells nothing once a person has put other
    containers there.
    """
    before = (known.underway if known else None) or {}
    if before.get("going") == "over" and before.get("after") != _ids(containers):
        return {}
    return before


def kept_as(before: Mapping[str, Any], started: float) -> str:
    """The generation that a run keeps: that of the last good update, whoever found it first.

    After an update that failed on containers (`before` is its note), what runs is not what
    anybody wants back.
    """
    earlier: str = before.get("generation", "") if before.get("touched") else ""
    return earlier or generation.name_of(started)


def _ids(containers: Iterable[Container]) -> list[str]:
    return sorted(one.id for one in containers)


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
    try:
        behind = stopped.behind(loaded, past, made.left, work.containers, work.engine)
    except EngineError as error:
        work.warnings.append(
            f"what stopped services run on could not be found out: {error.message}"
        )
        behind = {name: service.get("behind", "") for name, service in past.items()}
    for name, service in loaded.configuration.services.items():
        own = [one for one in work.containers if one.service == name]
        ended = [one.exit_code for one in own if one.state == "exited"]
        found[name] = {
            "reference": service.image,
            "image": own[0].image if own else "",
            "scale": service.scale,
            # What a person stopped has not ended by itself.
            "ended": max(ended)
            if ended and len(ended) == len(own) and name not in made.left
            else past.get(name, {}).get("ended")
            if made.left.get(name) == "unmoved"
            else None,
            "state": _state(own),
            "containers": sorted(one.id for one in own),
            # What was left alone is of another shape, or of none that is known.
            "shape": loaded.shapes[name]
            if name not in made.left or past.get(name, {}).get("shape") == loaded.shapes[name]
            else "",
            # It still has the content that it had, and its mounts.
            "content": past.get(name, {}).get("content", {})
            if name in made.left
            else dict(loaded.contents[name]),
            "behind": past.get(name, {}).get("behind", "")
            if made.left.get(name) == "unmoved"
            else behind.get(name, ""),
            "mounts": past.get(name, {}).get("mounts", {})
            if name in made.left
            else {one: work.required[one] for one in service.mounts if one in work.required},
        }
    return found


def _state(own: list[Container]) -> str:
    if not own:
        return "absent"
    if all(one.state == "exited" for one in own):
        return "ended"
    return "running"


def _blank(loaded: Loaded) -> Record:
    return Record(name=loaded.configuration.name, home=loaded.project.home, key=loaded.key)


def _text(error: BaseException) -> str:
    return error.message if isinstance(error, RbuildError) else repr(error)
