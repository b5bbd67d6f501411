"""What goes and what stays: only ours, only what nothing uses."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import pytest

from rbuild.docker.engine import Container, Image
from rbuild.errors import EngineError
from rbuild.updates.prune import expired, removable, remove_leftovers, tidy, unused

OLD, MID, NEW = "20260101T000000Z", "20260601T000000Z", "20261101T000000Z"


class Store:
    """An engine's images and containers, as far as a prune looks at them."""

    def __init__(self) -> None:
        self.found: dict[str, Image] = {}
        self.used: set[str] = set()
        self.boxes: list[Container] = []
        self.removed: list[str] = []
        self.stuck: set[str] = set()

    def add(self, id: str, *tags: str, used: bool = False, **labels: str) -> None:
        spelled = {name.replace("__", "."): value for name, value in labels.items()}
        self.found[id] = Image(id, tags, labels=spelled)
        if used:
            self.used.add(id)

    def list_images(
        self, *, label: str = "", reference: str = "", dangling: bool = False
    ) -> list[Image]:
        name, _, value = label.partition("=")
        return [
            one
            for one in self.found.values()
            if (not label or (one.labels or {}).get(name) == value)
            and (not reference or any(fnmatchcase(tag, reference) for tag in one.tags))
            and not (dangling and one.tags)
        ]

    def images(self, references: Sequence[str]) -> dict[str, Image]:
        return {one: self.found[one] for one in references if one in self.found}

    def used_images(self) -> frozenset[str]:
        return frozenset(self.used)

    def remove_image(self, reference: str) -> bool:
        self.removed.append(reference)
        if reference in self.found:
            assert reference not in self.used, "an image in use"
            del self.found[reference]
            return True
        for id, one in list(self.found.items()):
            if reference in one.tags:
                tags = tuple(tag for tag in one.tags if tag != reference)
                self.found[id] = Image(id, tags, labels=one.labels)
                # As the engine does it: untagging the last name removes what nothing uses.
                if not tags and id not in self.used:
                    del self.found[id]
                return True
        return False

    def containers(self, project: str) -> list[Container]:
        return self.boxes

    def remove_container(self, container: str) -> None:
        if container in self.stuck:
            raise EngineError("stuck")
        self.removed.append(container)


@pytest.fixture
def store() -> Store:
    return Store()


PROJECT = {"com__docker__compose__project": "p"}
OURS = {"rbuild__project": "p"}


def tag(service: str, stamp: str, project: str = "p") -> str:
    return f"rbuild/{project}/{service}:{stamp}"


@pytest.mark.parametrize(
    ("keep", "gone"),
    [
        ([], [tag("web", NEW), tag("db", NEW), tag("web", MID), tag("web", OLD)]),
        ([NEW], [tag("web", MID), tag("web", OLD)]),
        ([NEW, MID], [tag("web", OLD)]),
        # Not the newest, but those that are named: a way back may need an older one.
        ([OLD], [tag("web", NEW), tag("db", NEW), tag("web", MID)]),
        ([OLD, MID, NEW, ""], []),
        (["20200101T000000Z"], [tag("web", NEW), tag("db", NEW), tag("web", MID), tag("web", OLD)]),
    ],
)
def test_generations_other_than_those_to_keep(keep: list[str], gone: list[str]) -> None:
    tags = [tag("web", OLD), tag("web", NEW), "p-web:latest", tag("db", NEW), tag("web", MID)]
    assert sorted(expired(tags, "p", keep)) == sorted(gone)


def test_unused() -> None:
    images = [Image("a"), Image("b"), Image("c", ("name",))]
    assert unused(images, {"b"}) == ["a"]


def test_a_prune_after_an_update(store: Store) -> None:
    store.add("now", "p-web:latest", used=True, **PROJECT)
    store.add("before", tag("web", NEW), **PROJECT)
    store.add("older", tag("web", MID), **PROJECT)
    store.add("dangling", **PROJECT)
    store.add("dangling-in-use", used=True, **PROJECT)
    store.add("stranger")
    store.add("strangers", com__docker__compose__project="q")
    store.add("named", "by-a-person", **PROJECT)
    assert tidy(store, "p", [NEW], []) == []  # type: ignore[arg-type]
    assert set(store.found) == {
        "now", "before", "dangling-in-use", "stranger", "strangers", "named"
    }  # fmt: skip


def test_an_image_that_two_projects_keep(store: Store) -> None:
    store.add("postgres", "postgres:16", tag("db", OLD), tag("db", MID), tag("db", NEW, "q"))
    tidy(store, "p", [MID], [])  # type: ignore[arg-type]
    assert store.found["postgres"].tags == ("postgres:16", tag("db", MID), tag("db", NEW, "q"))


def test_a_project_whose_name_begins_like_ours(store: Store) -> None:
    store.add("a", tag("web", OLD, "p-2"))
    store.add("b", tag("web", OLD, "pp"))
    tidy(store, "p", [], [])  # type: ignore[arg-type]
    assert store.removed == []


def test_what_pulls_superseded_goes_when_nothing_uses_it(store: Store) -> None:
    store.add("free")
    store.add("in-use", used=True)
    store.add("named", "postgres:15")
    store.add("kept", tag("db", NEW))
    superseded = ["free", "in-use", "named", "kept", "gone"]
    assert tidy(store, "p", [NEW], superseded) == ["in-use", "named", "kept"]  # type: ignore[arg-type]
    assert set(store.found) == {"in-use", "named", "kept"}


def test_what_was_kept_and_superseded_goes_with_its_generation(store: Store) -> None:
    store.add("old-postgres", tag("db", OLD), used=True)
    store.add("new-postgres", tag("db", NEW))
    assert tidy(store, "p", [NEW], ["old-postgres"]) == ["old-postgres"]  # type: ignore[arg-type]
    store.used.clear()
    assert tidy(store, "p", [NEW], ["old-postgres"]) == []  # type: ignore[arg-type]
    assert set(store.found) == {"new-postgres"}


def test_what_can_be_removed_on_demand(store: Store) -> None:
    store.add("in-use", "p-web:latest", used=True, **OURS)
    store.add("built", "p-job:latest", **OURS)
    store.add("nameless", **OURS)
    store.add("kept", "redis:7", tag("cache", OLD), tag("cache", NEW, "q"))
    store.add("kept-built", tag("web", OLD), **OURS)
    store.add("strangers", "q-web", rbuild__project="q")
    store.add("pulled", "postgres:16")
    # Built by others upon ours: labels are handed down.
    store.add("child", "theirs:latest", **OURS)
    store.add("nameless-child", **OURS)
    store.add("named-twice", "p-web:latest", "backup:web", **OURS)
    builds = {"docker.io/library/p-job:latest", "docker.io/library/p-web:latest"}
    found = removable(store, "p", builds, ["nameless"])  # type: ignore[arg-type]
    wanted = ["p-job:latest", "p-web:latest", "nameless", tag("cache", OLD), tag("web", OLD)]
    assert sorted(found) == sorted(wanted)


def box(id: str, state: str = "created", replaces: str = "") -> Container:
    return Container(id, id, "web", "i", "web", state, replaces=replaces)


def test_leftovers_of_a_recreate(store: Store) -> None:
    store.boxes = [
        box("a" * 20, "running"),
        box("left-over", replaces="a" * 12),
        box("stuck", replaces="a" * 12),
        box("left-over-2", replaces="a" * 12),
        # The one it was to replace is gone: it may be the last that has the data.
        box("heir", replaces="b" * 12),
        box("at work", "running", replaces="a" * 12),
        box("new"),
    ]
    store.stuck = {"stuck"}
    remove_leftovers(store, "p")  # type: ignore[arg-type]
    assert store.removed == ["left-over", "left-over-2"]
