"""What has moved under a project since it was last updated: pure, over plain values.

A record's `rests` has, by kind (`base`: builds rest on it; `image`: a service runs it as it was
pulled; `watch`: somebody wants to know), for each image's qualified name a list: its ID, then the
digests under which registries know it. Without one, it is an image that no registry gave. What
another project said by then that it had built under that name stands there with `made:` before it.
UNSURE stands there where no registry is known to have the image, though it may have come from one:
it is asked for, and no answer is as good as a no.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from rbuild.decisions.staleness import Reason, span
from rbuild.docker.reference import familiar, is_listed, qualified
from rbuild.settings import Settings

BASE, IMAGE, WATCH = "base", "image", "watch"
STARTED = "started"
MOVED = ("base-moved", "image-moved", "dependency-updated", STARTED)
"""Kinds of reasons that concern only some of a project's services."""
MADE = "made:"
UNSURE = "unsure"
Rests = Mapping[str, Mapping[str, list[str]]]


class Sighting(NamedTuple):
    """What a registry said of a tag: its digest and since when it is seen, or why it said none."""

    digest: str = ""
    since: float = 0.0
    """Epoch seconds at which this digest was first seen here."""
    asked: float = 0.0
    """Epoch seconds at which it was last asked for."""
    error: str = ""
    got: float = 0.0
    """Epoch seconds at which it was last asked for with a GET in vain."""


class Made(NamedTuple):
    """An image that a project on this host builds."""

    id: str
    project: str


class Waits(NamedTuple):
    """A new digest that is not old enough to be taken."""

    reference: str
    digest: str
    since: float
    until: float
    """Epoch seconds at which it may be taken, if it has not moved again."""

    def __str__(self) -> str:
        return f"{familiar(self.reference)} {self.digest}"


class Moves(NamedTuple):
    """What is known of the images that a project rests on."""

    reasons: tuple[Reason, ...] = ()
    moved: frozenset[str] = frozenset()
    """Qualified names of those that moved."""
    digests: Mapping[str, str] = {}
    """What registries and other projects have now, without what waits: name → digest or ID."""
    waits: tuple[Waits, ...] = ()
    unchecked: Mapping[str, str] = {}
    """Name → why it could not be asked for."""
    unknown: bool = False
    """Whether it is not known yet on what the project was updated."""
    unasked: Mapping[str, str] = {}
    """Name → why no move of it would be seen, for good."""


def wanted(rests: Rests, settings: Settings) -> list[tuple[str, str]]:
    """(kind, qualified name) of all images whose moves matter to a project with these settings.

    What is pinned by its digest never moves.
    """
    found: dict[tuple[str, str], None] = {}
    for kind in (BASE, IMAGE):
        if kind in settings.check:
            found.update(((kind, name), None) for name in rests.get(kind, ()))
    if BASE in settings.check:
        found.update(((WATCH, qualified(name)), None) for name in settings.watch)
    return [
        (kind, name)
        for kind, name in found
        if "@" not in name and (kind == WATCH or not is_listed(name, settings.ignore))
    ]


def asked(rests: Rests, settings: Settings, makers: Mapping[str, Made]) -> list[str]:
    """Those of which a registry knows: not those built here, nor those no registry gave."""
    return list(
        dict.fromkeys(
            name
            for kind, name in wanted(rests, settings)
            if name not in makers and (name not in rests.get(kind, {}) or given(rests[kind][name]))
        )
    )


def given(known: Sequence[str]) -> list[str]:
    """The digests under which registries know an image, of what a record has of it."""
    return [one for one in known[1:] if one != UNSURE and not one.startswith(MADE)]


def in_registries(rests: Rests) -> dict[str, bool]:
    """The images that registries were asked for by then, and whether one had them."""
    return {
        name: UNSURE not in known
        for kind in (BASE, IMAGE)
        for name, known in rests.get(kind, {}).items()
        if given(known)
    }


def _why_unasked(rests: Rests, settings: Settings, makers: Mapping[str, Made]) -> dict[str, str]:
    """Images whose moves would matter, if they were asked for, and why they aren't."""
    found: dict[str, str] = {}
    for kind in (BASE, IMAGE):
        for name, known in rests.get(kind, {}).items() if kind in settings.check else ():
            if "@" in name:
                found[name] = "not asked for: pinned by its digest"
            elif is_listed(name, settings.ignore):
                found[name] = "not asked for: ignored"
            elif name in makers:
                found[name] = f"not asked for: built here by {makers[name].project}"
            elif not given(known):
                found[name] = "not asked for: exists only on this machine"
    return found


def compare(
    rests: Rests,
    settings: Settings,
    sightings: Mapping[str, Sighting],
    makers: Mapping[str, Made],
    now: float,
) -> Moves:
    """Hold what an update was made on against what there is now.

    `sightings` are by qualified name, `makers` the images that other projects here build, `now`
    is in epoch seconds.
    """
    reasons: dict[Reason, None] = {}
    moved: set[str] = set()
    digests: dict[str, str] = {}
    waits: dict[str, Waits] = {}
    unchecked: dict[str, str] = {}
    unasked = _why_unasked(rests, settings, makers)
    unknown = is_unknown(rests, settings)
    for kind, name in wanted(rests, settings):
        known = rests.get(kind, {}).get(name)
        made = makers.get(name)
        seen = Sighting(made.id) if made else sightings.get(name)
        if seen is None:
            continue
        if seen.error:
            if known is not None and UNSURE in known:
                unasked[name] = f"in no registry, as far as is known: {seen.error}"
            else:
                unchecked[name] = seen.error
            continue
        if known is not None and seen.digest not in known and not made:
            until = seen.since + settings.min_age
            if now < until:
                waits[name] = Waits(name, seen.digest, seen.since, until)
                continue
        digests[name] = seen.digest
        if known is None or seen.digest in known or (made and MADE + made.id in known):
            continue
        moved.add(name)
        old = known[0] if made else (given(known) or known)[0]
        text = f"{old} → {seen.digest}"
        if made:
            detail = f"{familiar(name)}, built by {made.project}: {text}"
            reasons[Reason("dependency-updated", detail)] = None
        else:
            word = "image-moved" if kind == IMAGE else "base-moved"
            reasons[Reason(word, f"{familiar(name)}: {text}")] = None
    return Moves(
        tuple(reasons),
        frozenset(moved),
        digests,
        tuple(waits.values()),
        unchecked,
        unknown,
        unasked,
    )


def is_unknown(rests: Rests, settings: Settings) -> bool:
    """Whether a check is on for which a record has nothing to compare with yet."""
    if any(kind in settings.check and kind not in rests for kind in (BASE, IMAGE)):
        return True
    watched = rests.get(WATCH, {})
    return BASE in settings.check and any(qualified(one) not in watched for one in settings.watch)


def held(
    rests: Rests,
    names: Iterable[str],
    sightings: Mapping[str, Sighting],
    min_age: int,
    now: float,
) -> dict[str, str]:
    """Images that an update must not take anew, each with the digest to stay on.

    Of `names` (qualified) those whose new digest is younger than `min_age` seconds, or whose
    registry can't be asked. What the project never rested on is taken as it is.
    """
    found = {}
    for name in names:
        known = next((one[name] for one in rests.values() if name in one), None)
        seen = sightings.get(name)
        if known is None or not given(known) or seen is None:
            continue
        if seen.error and UNSURE in known:
            continue
        if seen.error or (seen.digest not in known and now < seen.since + min_age):
            found[name] = given(known)[0]
    return found


def told(unchecked: Mapping[str, str]) -> list[str]:
    """A line for each way in which images could not be checked."""
    by_error: dict[str, list[str]] = {}
    for name, error in unchecked.items():
        by_error.setdefault(error, []).append(familiar(name))
    return [f"{told_of(several(names))}{error}" for error, names in by_error.items()]


def told_of(what: str) -> str:
    """How a line begins that tells why something is not checked."""
    return f"not checked: {what}: "


def several(names: list[str]) -> str:
    """`a`, or `a and 2 more`."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def waiting_line(one: Waits, now: float) -> str:
    """What a person reads of a digest that waits."""
    return f"{one}: seen for {span(now - one.since)}, taken in {span(one.until - now)}"
