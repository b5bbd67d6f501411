"""What a record keeps of the images that an update was made on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rbuild.decisions.moves import BASE, IMAGE, UNSURE, WATCH, Made, Moves, Sighting, Waits
from rbuild.docker.engine import Engine, Image
from rbuild.settings import Given, Settings, resolve
from rbuild.updates import resting
from rbuild.updates.scene import Scene

from .fakes import Fake

DEBIAN = "docker.io/library/debian:12"
X, Y = "docker.io/library/x:latest", "docker.io/library/y:latest"


class Lookout:
    """Tells what it is told to tell, and what it was asked."""

    def __init__(
        self, seen: Mapping[str, Sighting] | None = None, made: Mapping[str, Made] | None = None
    ) -> None:
        self.seen, self.made = seen or {}, made or {}
        self.asked: list[str] = []

    def sight(self, names: Iterable[str], settings: Settings) -> dict[str, Sighting]:
        names = [*names]
        self.asked += names
        return {name: self.seen[name] for name in names}

    def makers(self, folder: str) -> Mapping[str, Made]:
        assert folder == "/state"
        return self.made


def scene(
    seen: Mapping[str, Sighting] | None = None,
    watch: tuple[str, ...] = ("x", "y"),
    check: tuple[str, ...] = ("base",),
    waits: Iterable[str] = (),
    made: Mapping[str, Made] | None = None,
) -> tuple[Scene, Lookout]:
    lookout = Lookout(seen, made)
    one = SimpleNamespace(
        settings=resolve({"watch": Given(watch, "c"), "check": Given(check, "c")}),
        means=SimpleNamespace(lookout=lookout),
        moves=Moves(waits=tuple(Waits(name, "sha256:new", 0.0, 1.0) for name in waits)),
        folder="/state",
    )
    return cast(Scene, one), lookout


def found(image: Image | None, known: Mapping[str, bool] | None = None, **more: Any) -> Any:
    engine = cast(Engine, Fake(found={"debian:12": image} if image else {}))
    makers = resting.makers(scene(**more)[0])
    return resting.found({BASE: {DEBIAN: "debian:12"}, IMAGE: {}}, engine, known or {}, makers)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image("id", digests=("debian@sha256:1",)), ["id", "sha256:1"]),
        (
            Image("id", digests=("debian@sha256:1", "docker.io/library/debian@sha256:2")),
            ["id", "sha256:1", "sha256:2"],
        ),
        # Known to a registry under another name only: no registry gave it under this one.
        (Image("id", digests=("r.example/debian@sha256:1",)), ["id"]),
        # The containerd store gives a digest to what was built here as well.
        (Image("id", digests=("debian@sha256:1",), forgets=True), ["id", "sha256:1", UNSURE]),
        (
            Image(
                "id",
                digests=("debian@sha256:1",),
                forgets=True,
                pulls=("docker.io/library/debian",),
            ),
            ["id", "sha256:1"],
        ),
    ],
)
def test_an_image_is_kept_by_its_id_and_the_digests_of_its_registry(
    image: Image, expected: list[str]
) -> None:
    assert found(image) == {BASE: {DEBIAN: expected}, IMAGE: {}}


def test_what_is_not_here_is_not_kept() -> None:
    """Of a base that BuildKit alone has, nothing is known; nor is anything asked in vain."""
    assert found(None) == {BASE: {}, IMAGE: {}}
    assert resting.found({BASE: {}}, cast(Engine, None), {}, {}) == {BASE: {}}


@pytest.mark.parametrize("forgets", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_what_registries_were_asked_counts_more_than_what_the_engine_tells(
    known: bool, forgets: bool
) -> None:
    image = Image("id", digests=("debian@sha256:1",), forgets=forgets)
    doubt = [] if known else [UNSURE]
    assert found(image, {DEBIAN: known}) == {BASE: {DEBIAN: ["id", "sha256:1", *doubt]}, IMAGE: {}}
    assert found(Image("id"), {DEBIAN: known}) == {BASE: {DEBIAN: ["id"]}, IMAGE: {}}


def test_what_another_project_says_it_has_built_goes_with_it() -> None:
    """A person may have built something else since: the record's word is no move then."""
    made = {DEBIAN: Made("id-other", "other")}
    assert found(Image("id"), made=made) == {
        BASE: {DEBIAN: ["id", "made:id-other"]}, IMAGE: {}
    }  # fmt: skip
    assert found(Image("id-other"), made=made) == {
        BASE: {DEBIAN: ["id-other"]}, IMAGE: {}
    }  # fmt: skip
    there, _ = scene()
    cast(Any, there).means.lookout = None
    assert resting.makers(there) == {}


SEEN = {X: Sighting("sha256:1"), Y: Sighting("sha256:2")}


def test_what_is_watched_is_kept_as_registries_have_it() -> None:
    there, lookout = scene(SEEN)
    assert resting.watched(there, {}) == {X: ["", "sha256:1"], Y: ["", "sha256:2"]}
    assert lookout.asked == [X, Y]


def test_what_is_watched_no_more_is_forgotten() -> None:
    assert resting.watched(scene(SEEN, watch=("x",))[0], {Y: ["", "sha256:0"]}).keys() == {X}


@pytest.mark.parametrize("check", [(), ("image", "git", "context")])
def test_nothing_is_watched_where_bases_are_not_checked(check: tuple[str, ...]) -> None:
    there, lookout = scene(SEEN, check=check)
    assert (resting.watched(there, {}), lookout.asked) == ({}, [])


def test_where_nobody_looks_nothing_is_watched() -> None:
    there, _ = scene(SEEN)
    cast(Any, there).means.lookout = None
    assert resting.watched(there, {}) == {}


def test_what_is_pinned_is_watched_without_a_question() -> None:
    there, lookout = scene({}, watch=("x@sha256:0f",))
    assert resting.watched(there, {}) == {"docker.io/library/x@sha256:0f": ["", "sha256:0f"]}
    assert lookout.asked == []


def test_what_waits_or_cannot_be_asked_stays_as_it_was() -> None:
    """Else it would never be seen to move."""
    old = {X: ["", "sha256:0"], Y: ["", "sha256:0"]}
    failed = {X: Sighting("sha256:1"), Y: Sighting("sha256:2", error="timed out")}
    assert resting.watched(scene(failed, waits=[X])[0], old) == old
    # An error with nothing before leaves it unknown.
    assert resting.watched(scene(failed)[0], {}) == {X: ["", "sha256:1"]}


def test_a_record_that_knew_nothing_is_completed() -> None:
    new = {BASE: {DEBIAN: ["id", "sha256:1"]}, IMAGE: {}}
    assert resting.complete({}, new, scene(SEEN)[0]) == {
        **new, WATCH: {X: ["", "sha256:1"], Y: ["", "sha256:2"]}
    }  # fmt: skip


def test_what_a_record_knows_is_what_the_update_was_made_on() -> None:
    """What is on the engine by now may be newer."""
    old = {BASE: {DEBIAN: ["old", "sha256:0"]}, WATCH: {X: ["", "sha256:0"]}}
    new = {BASE: {DEBIAN: ["id", "sha256:1"], X: ["id", "sha256:1"]}, IMAGE: {X: ["id"]}}
    assert resting.complete(old, new, scene(SEEN)[0]) == {
        BASE: {DEBIAN: ["old", "sha256:0"], X: ["id", "sha256:1"]},
        IMAGE: {X: ["id"]},
        WATCH: {X: ["", "sha256:0"], Y: ["", "sha256:2"]},
    }
    assert old == {BASE: {DEBIAN: ["old", "sha256:0"]}, WATCH: {X: ["", "sha256:0"]}}
