"""What has moved under a project: records held against what registries and projects have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbuild.decisions.moves import (
    BASE,
    IMAGE,
    UNSURE,
    WATCH,
    Made,
    Moves,
    Sighting,
    Waits,
    asked,
    compare,
    held,
    in_registries,
    is_unknown,
    several,
    told,
    waiting_line,
    wanted,
)
from rbuild.settings import Given, Settings, resolve

NOW = 1_800_000_000.0
DEBIAN = "docker.io/library/debian:12"
REDIS = "docker.io/library/redis:7"
APP = "docker.io/library/app:latest"
OLD, NEW, OTHER = "sha256:old", "sha256:new", "sha256:other"
RESTS = {BASE: {DEBIAN: ["id-debian", OLD]}, IMAGE: {REDIS: ["id-redis", OLD]}, WATCH: {}}


def settings(check: str = "base,image", **more: Any) -> Settings:
    values = {"check": tuple(check.split(",")) if check else (), **more}
    return resolve({name.replace("_", "-"): Given(one, "flag") for name, one in values.items()})


def look(
    sightings: Mapping[str, Sighting],
    rests: Any = None,
    makers: Mapping[str, Made] | None = None,
    **more: Any,
) -> Moves:
    return compare(
        RESTS if rests is None else rests, settings(**more), sightings, makers or {}, NOW
    )


def seen(digest: str, ago: float = 0.0) -> Sighting:
    return Sighting(digest, NOW - ago, NOW)


FAILED = Sighting(OLD, NOW - 5, NOW, "timed out")


# What matters


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"check": ""}, []),
        ({"check": "git,context", "watch": ("x",)}, []),
        ({"check": "base"}, [(BASE, DEBIAN)]),
        ({"check": "image", "watch": ("x",)}, [(IMAGE, REDIS)]),
        ({"check": "base,image"}, [(BASE, DEBIAN), (IMAGE, REDIS)]),
        (
            {"check": "base", "watch": ("x", "docker.io/library/x:latest")},
            [(BASE, DEBIAN), (WATCH, "docker.io/library/x:latest")],
        ),
        ({"ignore": ("debian",)}, [(IMAGE, REDIS)]),
        ({"ignore": ("debian:12", "redis:6")}, [(IMAGE, REDIS)]),
        # Who says that an image is to be watched means it.
        (
            {"check": "base", "watch": ("debian:12",), "ignore": ("debian",)},
            [(WATCH, DEBIAN)],
        ),
        ({"check": "base", "watch": ("x@sha256:0f",)}, [(BASE, DEBIAN)]),
    ],
)
def test_the_images_whose_moves_matter(more: Any, expected: list[tuple[str, str]]) -> None:
    assert wanted(RESTS, settings(**more)) == expected


def test_a_pinned_reference_never_moves() -> None:
    pinned = f"docker.io/library/debian:12@{OLD}"
    rests = {BASE: {pinned: ["id", OLD]}, IMAGE: {pinned: ["id", OLD]}}
    assert wanted(rests, settings()) == asked(rests, settings(), {}) == []
    found = look({pinned: seen(NEW)}, rests, {pinned: Made(NEW, "maker")})
    assert found.reasons == found.waits == ()
    assert found.moved == frozenset()


def test_each_image_is_asked_for_once() -> None:
    rests = {BASE: {DEBIAN: ["id", OLD]}, IMAGE: {DEBIAN: ["id", OLD]}}
    assert asked(rests, settings(watch=("debian:12",)), {}) == [DEBIAN]


def test_what_no_registry_gave_is_not_asked_for() -> None:
    rests = {BASE: {DEBIAN: ["id", OLD], REDIS: ["id"]}, IMAGE: {APP: ["id", OLD]}}
    assert asked(rests, settings(), {APP: Made("id", "maker")}) == [DEBIAN]
    # What is watched is asked for before it was ever seen.
    assert asked({}, settings(watch=("x",)), {}) == ["docker.io/library/x:latest"]


# What moved


def test_nothing_has_moved() -> None:
    found = look({DEBIAN: seen(OLD), REDIS: seen(OLD)})
    assert found == Moves(digests={DEBIAN: OLD, REDIS: OLD})


def test_a_reason_names_the_image_and_both_digests() -> None:
    found = look({DEBIAN: seen(NEW), REDIS: seen(OTHER)})
    assert found.reasons == (
        ("base-moved", "debian:12: sha256:old → sha256:new"),
        ("image-moved", "redis:7: sha256:old → sha256:other"),
    )
    assert found.moved == {DEBIAN, REDIS}
    assert found.digests == {DEBIAN: NEW, REDIS: OTHER}
    assert found.waits == ()


def test_what_is_base_and_image_has_both_reasons() -> None:
    rests = {BASE: {DEBIAN: ["id", OLD]}, IMAGE: {DEBIAN: ["id", OLD]}}
    assert [one.kind for one in look({DEBIAN: seen(NEW)}, rests).reasons] == [
        "base-moved", "image-moved"
    ]  # fmt: skip


def test_an_image_of_another_registry_is_named_in_full() -> None:
    name = "ghcr.io/me/app:1"
    rests = {BASE: {name: ["id", OLD]}}
    (reason,) = look({name: seen(NEW)}, rests, check="base").reasons
    assert reason.detail == "ghcr.io/me/app:1: sha256:old → sha256:new"


def test_any_digest_under_which_it_is_known_is_no_move() -> None:
    """A list of platforms and one of its images may both be known; so may the ID."""
    rests = {BASE: {DEBIAN: ["id", OLD, OTHER]}}
    for digest in (OLD, OTHER, "id"):
        assert look({DEBIAN: seen(digest)}, rests, check="base").reasons == ()


def test_a_check_that_is_off_finds_nothing() -> None:
    assert [one.kind for one in look({DEBIAN: seen(NEW), REDIS: seen(NEW)}, check="image").reasons
            ] == ["image-moved"]  # fmt: skip


def test_what_was_not_asked_for_has_not_moved() -> None:
    assert look({}) == Moves()


def test_a_watched_image_that_moves() -> None:
    name = "docker.io/library/x:latest"
    rests = {**RESTS, WATCH: {name: ["", OLD]}}
    sightings = {DEBIAN: seen(OLD), REDIS: seen(OLD), name: seen(NEW)}
    found = look(sightings, rests, watch=("x",))
    assert found.reasons == (("base-moved", "x:latest: sha256:old → sha256:new"),)
    assert found.moved == {name}
    # Of what was never seen it is not known whether it moved.
    found = look(sightings, RESTS, watch=("x",))
    assert (found.reasons, found.unknown) == ((), True)


# What other projects build


def test_an_image_that_another_project_builds() -> None:
    rests = {BASE: {APP: ["id-1"]}, IMAGE: {}}
    found = look({}, rests, {APP: Made("id-2", "maker")})
    assert found.reasons == (
        ("dependency-updated", "app:latest, built by maker: id-1 → id-2"),
    )  # fmt: skip
    assert (found.moved, found.digests) == ({APP}, {APP: "id-2"})
    assert look({}, rests, {APP: Made("id-1", "maker")}).reasons == ()


def test_what_a_project_builds_counts_more_than_a_registry() -> None:
    rests = {IMAGE: {APP: ["id-1", OLD]}}
    made = {APP: Made("id-1", "maker")}
    assert look({APP: seen(NEW)}, rests, made).reasons == ()
    assert look({APP: FAILED}, rests, made).unchecked == {}


def test_what_is_built_here_is_not_waited_for() -> None:
    rests = {IMAGE: {APP: ["id-1", OLD]}}
    found = look({}, rests, {APP: Made("id-2", "maker")}, min_age=7 * 86400)
    assert [one.kind for one in found.reasons] == ["dependency-updated"]
    assert found.waits == ()


# What cannot be asked


def test_what_cannot_be_asked_has_neither_moved_nor_stayed() -> None:
    found = look({DEBIAN: FAILED, REDIS: seen(NEW)})
    assert [one.kind for one in found.reasons] == ["image-moved"]
    assert found.unchecked == {DEBIAN: "timed out"}
    assert DEBIAN not in found.digests
    assert DEBIAN not in found.moved
    # Not even where it had moved before.
    assert look({DEBIAN: Sighting(NEW, 0.0, NOW, "timed out")}).reasons == ()


def test_what_cannot_be_asked_is_told_by_its_cause() -> None:
    assert told({}) == []
    assert told({DEBIAN: "timed out", REDIS: "timed out", "r.example/a:1": "denied"}) == [
        "not checked: debian:12 and 1 more: timed out",
        "not checked: r.example/a:1: denied",
    ]
    assert several(["a", "b", "c"]) == "a and 2 more"


# What is too young


@pytest.mark.parametrize(
    ("ago", "min_age", "waits"),
    [(0, 0, False), (0, 1, True), (59, 60, True), (60, 60, False), (61, 60, False)],
)
def test_a_new_digest_waits_until_it_is_old_enough(ago: int, min_age: int, waits: bool) -> None:
    found = look({DEBIAN: seen(NEW, ago), REDIS: seen(OLD, 0)}, min_age=min_age)
    assert bool(found.waits) == waits
    assert bool(found.reasons) != waits
    assert (DEBIAN in found.moved) != waits
    # What waits must not count as something new that is worth a try.
    assert (DEBIAN in found.digests) != waits
    if waits:
        since = NOW - ago
        assert found.waits == (Waits(DEBIAN, NEW, since, since + min_age),)


def test_a_known_digest_waits_for_nothing() -> None:
    """However lately it was first seen: a memory that was lost makes nothing new."""
    assert look({DEBIAN: seen(OLD), REDIS: seen(OLD)}, min_age=86400).waits == ()


def test_what_waits_is_told_with_its_times() -> None:
    one = Waits(DEBIAN, NEW, NOW - 7200, NOW + 86400)
    assert str(one) == "debian:12 sha256:new"
    assert waiting_line(one, NOW) == "debian:12 sha256:new: seen for 2 h, taken in 1 d"


# Records that know nothing yet


@pytest.mark.parametrize(
    ("rests", "more", "unknown"),
    [
        ({}, {"check": ""}, False),
        ({}, {"check": "git,context", "watch": ("x",)}, False),
        ({}, {"check": "base"}, True),
        ({}, {"check": "image"}, True),
        ({BASE: {}}, {"check": "base"}, False),
        ({BASE: {}}, {"check": "base,image"}, True),
        ({BASE: {}, IMAGE: {}}, {}, False),
        ({BASE: {}, IMAGE: {}}, {"watch": ("x",)}, True),
        ({BASE: {}, IMAGE: {}, WATCH: {"docker.io/library/x:latest": ["", OLD]}},
         {"watch": ("x",)}, False),
        # What is watched is a matter of bases.
        ({IMAGE: {}}, {"check": "image", "watch": ("x",)}, False),
    ],
)  # fmt: skip
def test_whether_there_is_something_to_compare_with(rests: Any, more: Any, unknown: bool) -> None:
    assert is_unknown(rests, settings(**more)) == unknown
    assert look({}, rests, **more).unknown == unknown


# What an update must not take


@pytest.mark.parametrize(
    ("sighting", "expected"),
    [
        (None, {}),
        (seen(OLD), {}),
        (seen(NEW, 59), {DEBIAN: OLD}),
        (seen(NEW, 60), {}),
        # Nobody knows how old is what a pull would give, whatever was seen last.
        (Sighting(OLD, 0.0, NOW, "timed out"), {DEBIAN: OLD}),
        (Sighting(NEW, 0.0, NOW, "timed out"), {DEBIAN: OLD}),
        (Sighting("", 0.0, NOW, "timed out"), {DEBIAN: OLD}),
    ],
)
def test_what_is_held_back(sighting: Sighting | None, expected: dict[str, str]) -> None:
    sightings = {DEBIAN: sighting} if sighting else {}
    assert held(RESTS, [DEBIAN], sightings, 60, NOW) == expected


def test_what_no_registry_is_known_to_have_is_not_held_back_by_silence() -> None:
    unsure = {BASE: {DEBIAN: ["id-debian", OLD, UNSURE]}}
    assert held(unsure, [DEBIAN], {DEBIAN: FAILED}, 60, NOW) == {}
    assert held(unsure, [DEBIAN], {DEBIAN: seen(NEW)}, 60, NOW) == {DEBIAN: OLD}


def test_what_the_project_never_rested_on_is_taken_as_it_is() -> None:
    assert held(RESTS, [APP], {APP: seen(NEW)}, 60, NOW) == {}
    assert held({BASE: {APP: ["id"]}}, [APP], {APP: seen(NEW)}, 60, NOW) == {}
    # Nor is what nobody asks for.
    assert held(RESTS, [], {DEBIAN: seen(NEW)}, 60, NOW) == {}


names = st.sampled_from([DEBIAN, REDIS, APP, "r.example/x:1"])
digests = st.sampled_from([OLD, NEW, OTHER])
rests = st.fixed_dictionaries(
    {
        kind: st.dictionaries(
            names, st.lists(digests, min_size=1, max_size=3).map(lambda d: ["i", *d])
        )
        for kind in (BASE, IMAGE)
    }
)
sightings = st.dictionaries(
    names,
    st.builds(
        Sighting,
        digests,
        st.floats(NOW - 100, NOW),
        st.just(NOW),
        st.sampled_from(["", "", "timed out"]),
    ),
)


@given(rests, sightings, st.integers(0, 100))
def test_each_image_asked_for_is_moved_or_waits_or_unchecked_or_as_it_was(
    rests: Any, sightings: dict[str, Sighting], min_age: int
) -> None:
    options = settings(min_age=min_age)
    found = compare(rests, options, sightings, {}, NOW)
    waits = {one.reference for one in found.waits}
    own = {name for kind in rests.values() for name in kind}
    assert waits | found.digests.keys() | found.unchecked.keys() == own & sightings.keys()
    assert not waits & found.unchecked.keys()
    assert not found.digests.keys() & found.unchecked.keys()
    assert found.moved <= found.digests.keys()
    assert bool(found.reasons) == bool(found.moved)
    for name in found.moved:
        assert any(sightings[name].digest not in kind.get(name, [name]) for kind in rests.values())
    for one in found.waits:
        assert NOW < one.until == sightings[one.reference].since + min_age
    # What waits is held back from an update for another reason as well.
    once = {name for name in waits if sum(name in kind for kind in rests.values()) == 1}
    assert once <= held(rests, own, sightings, min_age, NOW).keys()


# What no registry is known to have


UNSURE_RESTS = {BASE: {DEBIAN: ["id-debian", OLD, UNSURE]}, IMAGE: {REDIS: ["id-redis", OLD]}}


def test_what_may_have_come_from_a_registry_is_asked_for() -> None:
    assert asked(UNSURE_RESTS, settings(), {}) == [DEBIAN, REDIS]
    assert in_registries(UNSURE_RESTS) == {DEBIAN: False, REDIS: True}
    assert in_registries({BASE: {APP: ["id"]}}) == {}
    found = look({DEBIAN: seen(NEW)}, UNSURE_RESTS)
    assert found.reasons == (("base-moved", f"debian:12: {OLD} → {NEW}"),)
    assert look({DEBIAN: seen(OLD)}, UNSURE_RESTS) == Moves(digests={DEBIAN: OLD})


def test_no_answer_is_as_good_as_a_no_there() -> None:
    found = look({DEBIAN: FAILED, REDIS: FAILED}, UNSURE_RESTS)
    assert found.unchecked == {REDIS: "timed out"}
    assert found.unasked == {DEBIAN: "in no registry, as far as is known: timed out"}


def test_it_is_known_which_images_nobody_asks_for() -> None:
    pinned = "docker.io/library/debian@sha256:0f"
    rests = {BASE: {DEBIAN: ["id-debian"], pinned: ["id", "sha256:0f"], APP: ["id-app"]},
             IMAGE: {REDIS: ["id-redis", OLD]}}  # fmt: skip
    found = look({}, rests, {APP: Made("id-app", "other")}, ignore=("redis",))
    assert {name: why.removeprefix("not asked for: ") for name, why in found.unasked.items()} == {
        DEBIAN: "exists only on this machine", pinned: "pinned by its digest",
        APP: "built here by other", REDIS: "ignored",
    }  # fmt: skip
    # What is not checked at all needs no saying.
    assert look({}, rests, check="git").unasked == {}
