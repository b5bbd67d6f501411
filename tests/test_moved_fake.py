"""The pass where images move: what is updated for them, what waits, and what is left alone."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rbuild.decisions.glance import Run, glance
from rbuild.decisions.lookout import Lookout
from rbuild.decisions.moves import BASE, IMAGE, WATCH
from rbuild.docker.reference import qualified
from rbuild.errors import EngineError
from rbuild.process import Stop
from rbuild.registries import registry
from rbuild.report import Outcome
from rbuild.rollbacks import rescue
from rbuild.sources import source as git_source
from rbuild.state import checks, record
from rbuild.state.checks import Checks
from rbuild.state.record import Record

from .world import DAY, Clock, Fake, Hub, Site, fail_at, new_site

DEBIAN, POSTGRES = "docker.io/library/debian:12", "docker.io/library/postgres:16"
APP = "docker.io/library/app:1"
HOUR = 3600


class Moving(Site):
    """A project whose registries are asked, on an engine that is a value."""

    def __init__(self, root: Path, clock: Clock) -> None:
        super().__init__(root, clock)
        self.hub = Hub()
        self.flags["check"] = ("base", "image")
        self.lookout = self.look

    def look(self, run: Run) -> Lookout:
        for name, digest in self.world.registry.items():
            self.hub.digests[qualified(name)] = digest
        return Lookout(run, Stop())

    def moves(self, name: str = "debian:12", to: str = "b") -> str:
        """A newer image is published; its digest."""
        kind = name.partition(":")[0]
        self.world.registry[name] = f"sha256:{kind}-{to}"
        return self.world.registry[name]

    def at_first_sight(self) -> str:
        """What comes of a run before anything is started: an outcome, or a closer look."""
        run = self.prepare(0)
        fresh = glance(self.project, run)
        if fresh is None:
            return "closer look"
        outcomes, _ = self.look(run).sort([fresh], [])
        return outcomes[0].outcome if outcomes else "closer look"

    def stays_fresh(self) -> None:
        assert self.at_first_sight() == "fresh"
        outcome = self.run()
        assert (outcome.outcome, outcome.warnings, outcome.news) == ("fresh", (), ())

    def stays_after_one_look(self) -> None:
        """It is fresh, once it was looked at."""
        assert self.run().outcome == "fresh"
        self.stays_fresh()

    def write(self, name: str, text: str) -> None:
        """A person changes a file that is no input but part of a build context."""
        self.edit(name, text)

    def boxes(self, *services: str) -> dict[str, str]:
        """IDs of containers by name, of all services or these."""
        return {
            one.name: one.id for one in self.world.boxes if not services or one.service in services
        }

    def other(self, makes: dict[str, str]) -> None:
        """Another recorded project that has built these images by now."""
        folder = self.folder.parent / "other"
        folder.mkdir(exist_ok=True)
        (folder / "compose.yml").touch()
        known = Record("other", str(folder), files=[str(folder / "compose.yml")],
                       builds=[*makes], makes=makes)  # fmt: skip
        state = self.store.path("other", str(folder))
        self.store.make(state)
        record.write(state, known)
        for name, identity in makes.items():
            self.world.labels[identity] = {}
            self.world.put(name.removeprefix("docker.io/library/"), identity)


def kinds(outcome: Outcome) -> list[str]:
    return [one.kind for one in outcome.reasons]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Moving]:
    """A project that was never updated, on a clock that runs ahead at the test's word."""
    with new_site(tmp_path, Moving) as found, pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "Registries", lambda *a, **more: found.hub.open(*a, **more))
        yield found


@pytest.fixture
def updated(site: Moving) -> Moving:
    """A project that was updated twice, and is fresh."""
    assert site.run().outcome == "updated"
    assert site.run(forced=True).outcome == "updated"
    return site


@pytest.fixture
def limited(updated: Moving) -> Moving:
    """The same, of which only what is concerned is updated where something has moved."""
    updated.flags["update"] = "moved"
    return updated


# What moves is taken


def test_what_an_update_was_made_on_is_remembered(updated: Moving) -> None:
    debian, postgres = (updated.world.names[name] for name in ("debian:12", "postgres:16"))
    known = updated.known()
    assert known.rests == {
        BASE: {DEBIAN: [debian, debian]}, IMAGE: {POSTGRES: [postgres, postgres]}, WATCH: {}
    }  # fmt: skip
    assert known.makes == {
        f"docker.io/library/site-{name}:latest": updated.world.names[f"site-{name}"]
        for name in ("base", "web", "migrate")
    }
    updated.stays_fresh()


@pytest.mark.parametrize(
    ("name", "kind"), [("debian:12", "base-moved"), ("postgres:16", "image-moved")]
)
def test_a_move_is_an_update_of_all(updated: Moving, name: str, kind: str) -> None:
    old, before = updated.world.registry[name], updated.boxes()
    new = updated.moves(name)
    assert updated.at_first_sight() == "closer look"
    outcome = updated.run()
    assert outcome.outcome == "updated"
    assert outcome.reasons == ((kind, f"{name}: {old} → {new}"),)
    assert updated.world.names[name] == new
    assert not set(before.values()) & set(updated.boxes("base", "web", "migrate").values())
    assert updated.known().built_at == pytest.approx(updated.started, abs=0.01)
    updated.is_sound()
    updated.stays_fresh()


def test_two_moves_are_one_update(updated: Moving) -> None:
    updated.moves("debian:12")
    updated.moves("postgres:16")
    outcome = updated.run()
    assert kinds(outcome) == ["base-moved", "image-moved"]
    updated.stays_fresh()


def test_a_tag_that_moves_back_has_moved(updated: Moving) -> None:
    old = updated.world.registry["debian:12"]
    updated.moves()
    assert updated.run().outcome == "updated"
    updated.world.registry["debian:12"] = old
    assert kinds(updated.run()) == ["base-moved"]
    updated.stays_fresh()


def test_what_is_not_checked_does_not_matter(updated: Moving) -> None:
    updated.moves("debian:12")
    updated.flags["check"] = ("image",)
    updated.stays_fresh()
    updated.flags["check"] = ()
    updated.hub.asked = []
    updated.stays_fresh()
    assert updated.hub.asked == []


def test_a_dry_run_says_what_moved_and_changes_nothing(updated: Moving) -> None:
    updated.moves()
    before = updated.save()
    outcome = updated.run(dry_run=True)
    assert (outcome.outcome, kinds(outcome)) == ("planned", ["base-moved"])
    assert any(one.startswith("pull debian:12") for one in outcome.steps)
    assert updated.save().files == before.files
    assert updated.run().outcome == "updated"


def test_a_watched_image_that_moves(site: Moving) -> None:
    site.flags["watch"] = ("redis:7",)
    site.world.registry["redis:7"] = "sha256:redis-a"
    assert site.run().outcome == "updated"
    assert site.known().rests[WATCH] == {"docker.io/library/redis:7": ["", "sha256:redis-a"]}
    site.stays_fresh()
    site.moves("redis:7")
    outcome = site.run()
    assert outcome.outcome == "updated"
    assert outcome.reasons == (("base-moved", "redis:7: sha256:redis-a → sha256:redis-b"),)
    assert "redis:7" not in site.world.names
    site.stays_fresh()


def test_what_is_watched_from_now_on_is_learned_without_an_update(updated: Moving) -> None:
    updated.flags["watch"] = ("redis:7",)
    updated.world.registry["redis:7"] = "sha256:redis-a"
    assert updated.at_first_sight() == "closer look"
    updated.stays_after_one_look()
    updated.moves("redis:7")
    assert kinds(updated.run()) == ["base-moved"]


# What others build


@pytest.fixture
def dependent(site: Moving) -> Moving:
    """A project one of whose services runs what another project builds; updated, and fresh."""
    site.world.config["services"]["db"]["image"] = "app:1"
    site.other({APP: "sha256:app-1"})
    assert site.run().outcome == "updated"
    return site


def test_what_another_project_builds_anew(dependent: Moving) -> None:
    assert dependent.known().rests[IMAGE] == {APP: ["sha256:app-1"]}
    dependent.stays_fresh()
    assert APP not in dependent.hub.names
    dependent.other({APP: "sha256:app-2"})
    outcome = dependent.run()
    assert outcome.outcome == "updated"
    assert outcome.reasons == (
        ("dependency-updated", "app:1, built by other: sha256:app-1 → sha256:app-2"),
    )
    assert set(dependent.world.running()["db"]) == {"sha256:app-2"}
    dependent.stays_fresh()


def test_what_another_project_builds_anew_limited(dependent: Moving) -> None:
    dependent.flags["update"] = "moved"
    before = dependent.boxes("base", "web", "migrate")
    dependent.other({APP: "sha256:app-2"})
    assert dependent.run().outcome == "updated"
    assert dependent.boxes("base", "web", "migrate") == before
    assert set(dependent.world.running()["db"]) == {"sha256:app-2"}


def test_what_was_built_by_hand_is_no_move_for_ever(dependent: Moving) -> None:
    """Of that, the other's record knows nothing until its next update."""
    dependent.world.labels["sha256:by-hand"] = {}
    dependent.world.put("app:1", "sha256:by-hand")
    assert dependent.run(forced=True).outcome == "updated"
    assert set(dependent.world.running()["db"]) == {"sha256:by-hand"}
    dependent.stays_fresh()
    dependent.other({APP: "sha256:app-2"})
    assert kinds(dependent.run()) == ["dependency-updated"]
    dependent.stays_fresh()


def test_what_was_built_by_hand_is_asked_of_no_registry_once_the_other_is_gone(
    dependent: Moving,
) -> None:
    dependent.world.labels["sha256:by-hand"] = {}
    dependent.world.put("app:1", "sha256:by-hand")
    assert dependent.run(forced=True).outcome == "updated"
    (dependent.folder.parent / "other" / "compose.yml").unlink()
    dependent.stays_fresh()
    assert APP not in dependent.hub.names


def test_what_another_project_builds_may_be_watched(site: Moving) -> None:
    site.flags["watch"] = ("app:1",)
    site.other({APP: "sha256:app-1"})
    assert site.run().outcome == "updated"
    site.stays_fresh()
    site.other({APP: "sha256:app-2"})
    assert kinds(site.run()) == ["dependency-updated"]
    site.stays_fresh()


# Limited to what is concerned


def test_a_limited_update_for_an_image(limited: Moving) -> None:
    before, known = limited.boxes(), limited.known()
    new = limited.moves("postgres:16")
    outcome = limited.run()
    assert (outcome.outcome, kinds(outcome), outcome.warnings) == ("updated", ["image-moved"], ())
    states = {one["name"]: one["state"] for one in outcome.services}
    assert states == {
        "base": "unmoved", "web": "unmoved", "migrate": "unmoved", "db": "running"
    }  # fmt: skip
    after = limited.boxes()
    assert {name for name in after if after[name] != before[name]} == {"site-db-1"}
    assert set(limited.world.running()["db"]) == {new}
    now = limited.known()
    assert now.built == known.built
    assert now.rests == {**known.rests, IMAGE: {POSTGRES: [new, new]}}
    assert (now.bases, now.makes, now.builds) == (known.bases, known.makes, known.builds)
    limited.is_sound()
    limited.stays_fresh()


def test_a_limited_update_for_a_base(limited: Moving) -> None:
    before, known = limited.boxes(), limited.known()
    new = limited.moves("debian:12")
    outcome = limited.run()
    assert outcome.outcome == "updated"
    after = limited.boxes()
    assert {name for name in after if after[name] == before[name]} == {"site-db-1"}
    now = limited.known()
    assert now.rests == {**known.rests, BASE: {DEBIAN: [new, new]}}
    assert now.built == known.built
    assert now.makes != known.makes
    assert outcome.due == pytest.approx(known.built_at + DAY - 60)
    limited.is_sound()
    limited.stays_fresh()


def test_a_rollback_over_a_full_update_takes_what_a_limited_one_had_left(limited: Moving) -> None:
    limited.flags["keep-images"] = 3
    before = limited.world.running()
    limited.moves("debian:12")
    generation = limited.run().generation
    limited.moves("postgres:16")
    assert limited.run(forced=True).outcome == "updated"
    assert limited.world.running()["db"] != before["db"]
    assert limited.roll_back(to=generation).outcome == "rolled-back"
    assert limited.world.running() == before


def test_a_limited_update_does_not_put_off_the_next_full_one(limited: Moving) -> None:
    limited.moves("postgres:16")
    limited.run(after=DAY / 2)
    outcome = limited.run(after=DAY / 2)
    assert (outcome.outcome, kinds(outcome)) == ("updated", ["expired"])
    assert {one["state"] for one in outcome.services} == {"running", "ended"}


def test_a_one_shot_that_a_limited_update_left_alone_may_still_end(limited: Moving) -> None:
    limited.moves("postgres:16")
    assert limited.run().outcome == "updated"
    assert limited.known().services["migrate"]["ended"] == 0
    assert limited.run(forced=True).outcome == "updated"


def test_a_limited_update_pulls_nothing_for_the_others(limited: Moving) -> None:
    """What nobody checks has moved as well; a plain `up` must not bring it up by surprise."""
    limited.flags["check"] = ("base",)
    runs = limited.world.names["postgres:16"]
    limited.moves("debian:12")
    limited.moves("postgres:16")
    db = limited.boxes("db")
    assert limited.run().outcome == "updated"
    assert limited.boxes("db") == db
    assert limited.world.names["postgres:16"] == runs


@pytest.mark.parametrize("why", ["changed", "expired", "forced"])
def test_any_other_reason_makes_it_an_update_of_all(limited: Moving, why: str) -> None:
    before = limited.boxes("base", "web")
    limited.moves("postgres:16")
    if why == "changed":
        limited.edit("Dockerfile", "FROM site-base\nRUN true\n")
    outcome = limited.run(after=DAY if why == "expired" else 1000, forced=why == "forced")
    assert set(kinds(outcome)) == {why, "image-moved"}
    assert outcome.outcome == "updated"
    assert not set(before.values()) & set(limited.boxes("base", "web").values())
    assert limited.known().built_at == pytest.approx(limited.started, abs=0.01)


def test_a_limited_update_brings_up_what_was_taken_down(limited: Moving) -> None:
    for one in limited.world.boxes:
        if one.service == "web":
            limited.world.remove(one.id)
    limited.moves("postgres:16")
    assert limited.run().outcome == "updated"
    limited.is_whole()


def test_a_limited_update_leaves_what_a_person_stopped(limited: Moving) -> None:
    db = next(one for one in limited.world.boxes if one.service == "db")
    limited.world.change(db, state="exited", exit_code=143)
    limited.moves("debian:12")
    outcome = limited.run()
    states = {one["name"]: one["state"] for one in outcome.services}
    assert (outcome.outcome, states["db"]) == ("updated", "stopped")
    assert limited.boxes("db") == {db.name: db.id}


def test_a_limited_update_that_fails_is_rolled_back(limited: Moving) -> None:
    limited.world.breaks = {"web"}
    limited.moves("debian:12")
    running, before, db = limited.world.running(), limited.known(), limited.boxes("db")
    assert limited.run().outcome == "rolled-back"
    assert limited.world.running() == running
    assert limited.boxes("db") == db
    now = limited.known()
    assert (now.built, now.rests, now.makes) == (before.built, before.rests, before.makes)
    limited.is_whole()


def renewed(site: Moving, before: dict[str, str]) -> bool:
    """Whether every service has a new image since."""
    return not set(before.values()) & set(site.known().makes.values())


@pytest.mark.parametrize("name", ["debian:12", "postgres:16"])
def test_an_engine_error_at_any_call_of_a_limited_update(limited: Moving, name: str) -> None:
    limited.moves(name)
    names = limited.calls()
    start, old, before = limited.save(), limited.world.running(), limited.known()
    seen = set()
    for number, call in enumerate(names, 1):
        where = f"call {number}: {call}"
        limited.load(start)
        outcome = limited.run(fail_at(number, EngineError(where)))
        seen.add(outcome.outcome)
        limited.runs_whole(where)
        if outcome.outcome != "updated":
            assert limited.world.running() == old, where
            limited.is_kept_whole(where)
            known = limited.known()
            assert (known.rests, known.makes) == (before.rests, before.makes), where
            assert limited.run(after=DAY + HOUR).outcome == "updated", where
        else:
            assert limited.known().built == before.built, where
            # Nothing but the cleaning up was left.
            assert limited.run().outcome == "fresh", where
        limited.ends_fresh(where)
        limited.stays_fresh()
    assert seen == {"updated", "failed", "rolled-back"}


@pytest.mark.parametrize("name", ["debian:12", "postgres:16"])
def test_a_limited_update_killed_at_any_moment(limited: Moving, name: str) -> None:
    new = limited.moves(name)
    before = limited.known()
    seen = set()
    for saved in limited.moments():
        limited.load(saved)
        outcome = limited.run()
        assert outcome.outcome in ("updated", "fresh"), saved.where
        seen.update(kinds(outcome))
        limited.is_sound(saved.where)
        assert limited.world.names[name] == new, saved.where
        limited.ends_fresh(saved.where)
        limited.stays_fresh()
    assert "interrupted" in seen
    assert before.rests != limited.known().rests


@pytest.mark.parametrize("name", ["debian:12", "postgres:16"])
def test_what_a_killed_limited_update_left_alone_is_no_younger(limited: Moving, name: str) -> None:
    """Whoever brings it to its end has built no more than it had."""
    limited.moves(name)
    before, db = limited.known(), limited.boxes("db")
    for saved in limited.moments():
        limited.load(saved)
        limited.run()
        known = limited.known()
        if known.built != before.built:
            assert not set(before.makes.values()) & set(known.makes.values()), saved.where
            pulled = limited.boxes("db") != db or name == "debian:12"
            assert pulled, saved.where


def test_a_base_that_moves_while_others_work_is_found(updated: Moving) -> None:
    """Another project pulls it between this one's build and its end."""
    pulls: list[str] = []

    def strike(call: int, name: str) -> None:
        if name == "pull":
            pulls.append(name)
            if len(pulls) == 2:
                new = updated.moves("debian:12")
                updated.world.labels[new] = {}
                updated.world.put("debian:12", new)

    assert updated.run(strike, forced=True).outcome == "updated"
    assert len(pulls) == 2
    assert kinds(updated.run()) == ["base-moved"]
    updated.stays_fresh()


@pytest.mark.parametrize("extent", ["all", "moved"])
def test_a_base_that_moves_between_a_kill_and_its_mending_is_found(
    updated: Moving, extent: str
) -> None:
    """Another project has pulled it meanwhile: what runs was built on the one before."""
    updated.flags["update"] = extent
    updated.moves("postgres:16")
    killed = next(one for one in updated.moments() if one.where.endswith("up: rename"))
    updated.load(killed)
    new = updated.moves("debian:12")
    updated.world.labels[new] = {}
    updated.world.put("debian:12", new)
    outcome = updated.run()
    assert (outcome.outcome, kinds(outcome)[0]) == ("updated", "interrupted")
    assert kinds(updated.run()) == ["base-moved"]
    updated.stays_fresh()


# An update that fails


@pytest.fixture
def bad(updated: Moving) -> Moving:
    """A project whose base has moved to what breaks its web."""
    updated.world.breaks = {"web"}
    updated.moves(to="bad")
    return updated


def test_a_move_that_fails_waits(bad: Moving) -> None:
    before = bad.world.running()
    first = bad.run()
    assert (first.outcome, kinds(first)) == ("rolled-back", ["base-moved"])
    for _ in range(3):
        assert bad.at_first_sight() == "closer look"
        outcome = bad.run()
        assert (outcome.outcome, outcome.exit_code, outcome.retry) == ("deferred", 75, first.retry)
        assert bad.world.running() == before
        assert outcome.error
        assert "web: not healthy" in outcome.error.message
    assert bad.run(after=DAY).outcome == "rolled-back"
    bad.is_whole()


def test_yet_another_digest_is_tried_at_once(bad: Moving) -> None:
    assert bad.run().outcome == "rolled-back"
    assert bad.run(after=60).outcome == "deferred"
    bad.moves(to="worse")
    assert bad.run(after=60).outcome == "rolled-back"
    assert bad.run(after=60).outcome == "deferred"
    bad.moves(to="good")
    bad.world.breaks.clear()
    assert bad.run(after=60).outcome == "updated"
    bad.is_sound()
    bad.stays_fresh()


def test_a_tag_that_goes_back_to_what_runs_is_fresh_and_forgets_the_failure(
    bad: Moving,
) -> None:
    good = bad.known().rests[BASE][DEBIAN][0]
    assert bad.run().outcome == "rolled-back"
    bad.world.registry["debian:12"] = good
    assert bad.run().outcome == "fresh"
    assert bad.known().failed is None
    bad.stays_fresh()


def test_another_image_that_moves_does_not_end_the_wait_for_ever(bad: Moving) -> None:
    """It is a new try, and then both wait."""
    assert bad.run().outcome == "rolled-back"
    bad.moves("postgres:16")
    outcome = bad.run(after=60)
    assert outcome.outcome in ("rolled-back", "deferred")
    assert bad.run(after=60).outcome == "deferred"


def test_a_failure_is_not_forgotten_while_the_registry_cannot_be_asked(bad: Moving) -> None:
    """Else it would be tried again, with its outage, as soon as the registry is back."""
    first = bad.run()
    before = bad.world.running()
    bad.hub.errors[DEBIAN] = "timed out"
    assert bad.run(after=60).outcome == "deferred"
    bad.hub.errors.clear()
    outcome = bad.run(after=60)
    assert (outcome.outcome, outcome.retry) == ("deferred", first.retry)
    assert bad.world.running() == before


def test_a_pull_that_fails_is_tried_again_in_an_hour(updated: Moving) -> None:
    updated.moves()

    def strike(call: int, name: str) -> None:
        if name == "pull":
            raise EngineError("too many requests")

    first = updated.run(strike)
    assert (first.outcome, first.touched) == ("failed", False)
    assert first.retry == pytest.approx(time.time() + HOUR, abs=5)
    assert updated.run().outcome == "deferred"
    assert updated.run(after=HOUR).outcome == "updated"
    updated.stays_fresh()


def test_what_a_person_went_back_from_waits_for_yet_another_digest(updated: Moving) -> None:
    updated.moves(to="odd")
    assert updated.run().outcome == "updated"
    assert updated.roll_back().outcome == "rolled-back"
    ran = updated.world.running()
    for _ in range(2):
        assert updated.run(after=2 * DAY).outcome == "deferred"
    assert updated.world.running() == ran
    updated.moves(to="good")
    assert updated.run().outcome == "updated"
    updated.stays_fresh()


# Too young


def test_a_young_digest_waits(updated: Moving) -> None:
    updated.flags["min-age"] = 6 * HOUR
    new = updated.moves()
    outcome = updated.run()
    assert (outcome.outcome, outcome.exit_code) == ("fresh", 0)
    assert [(one.reference, one.digest) for one in outcome.waits] == [(DEBIAN, new)]
    assert updated.at_first_sight() == "fresh"
    assert updated.run(after=5 * HOUR).outcome == "fresh"
    outcome = updated.run(after=HOUR)
    assert (outcome.outcome, kinds(outcome), outcome.waits) == ("updated", ["base-moved"], ())
    assert updated.world.names["debian:12"] == new
    updated.is_sound()
    updated.stays_fresh()


def test_a_young_digest_is_held_back_from_an_update_for_another_reason(updated: Moving) -> None:
    updated.flags["min-age"] = 6 * HOUR
    old, before = updated.world.names["debian:12"], updated.known().rests
    new = updated.moves()
    fresh = updated.moves("postgres:16")
    updated.run()
    updated.clock.sleep(7 * HOUR)
    third = updated.moves("debian:12", to="c")
    updated.edit("Dockerfile", "FROM site-base\nRUN true\n")
    outcome = updated.run()
    assert (outcome.outcome, set(kinds(outcome))) == ("updated", {"changed", "image-moved"})
    assert "debian:12: a newer one waits, or could not be asked for; not pulled" in outcome.notes
    # What is old enough is taken, and what is not, not.
    assert updated.world.names["debian:12"] == old
    assert updated.world.names["postgres:16"] == fresh
    assert updated.known().rests[BASE] == before[BASE]
    updated.is_sound()
    assert updated.run().outcome == "fresh"
    outcome = updated.run(after=6 * HOUR)
    assert kinds(outcome) == ["base-moved"]
    assert updated.world.names["debian:12"] == third != new
    updated.stays_fresh()


def test_what_a_registry_has_a_moment_later_is_not_taken(updated: Moving) -> None:
    """What is pulled is what was seen for long enough, and nothing else."""
    updated.flags["min-age"] = HOUR
    old_enough = updated.moves()
    updated.run()

    def strike(call: int, name: str) -> None:
        if name == "pull":
            updated.moves(to="younger")

    outcome = updated.run(strike, after=HOUR)
    assert outcome.outcome == "updated"
    assert updated.world.names["debian:12"] == old_enough
    assert updated.known().rests[BASE][DEBIAN][0] == old_enough


def test_a_first_update_waits_for_nothing(site: Moving) -> None:
    site.flags["min-age"] = 7 * DAY
    assert site.run().outcome == "updated"
    assert site.world.names["debian:12"] == site.world.registry["debian:12"]
    site.stays_fresh()


def test_an_update_holds_back_what_cannot_be_asked(updated: Moving) -> None:
    """Nobody knows how old it is."""
    updated.flags["min-age"] = HOUR
    old = updated.world.names["debian:12"]
    updated.moves()
    updated.hub.errors[DEBIAN] = "timed out"
    assert updated.run(forced=True).outcome == "updated"
    assert updated.world.names["debian:12"] == old


# Records that know nothing yet


def test_a_record_of_version_2_learns_what_it_rests_on_without_an_update(updated: Moving) -> None:
    path = updated.state / "record.json"
    rests = updated.known().rests
    plain = {"version": 2, **{k: v for k, v in updated.record().items() if k not in (
        "version", "rests", "makes", "contexts", "commit", "forwarded")}}  # fmt: skip
    path.write_text(json.dumps(plain))
    assert updated.at_first_sight() == "closer look"
    updated.run(dry_run=True)
    assert json.loads(path.read_text()) == plain
    before = updated.boxes(), dict(updated.world.names)
    updated.stays_after_one_look()
    assert (updated.boxes(), updated.world.names) == before
    assert updated.known().rests == rests
    updated.moves()
    assert kinds(updated.run()) == ["base-moved"]


def test_a_move_before_the_first_look_is_found(updated: Moving) -> None:
    """What is on the engine is what the project was built on, whatever the registry has."""
    known = updated.known()
    known.rests = {}
    record.write(str(updated.state), known)
    updated.moves()
    assert updated.run().outcome == "fresh"
    assert kinds(updated.run()) == ["base-moved"]


# What cannot be asked


def test_a_registry_that_cannot_be_asked_defers_and_is_told_once(updated: Moving) -> None:
    before = updated.boxes()
    updated.hub.errors[DEBIAN] = "timed out"
    first = updated.run()
    assert (first.outcome, first.exit_code, first.error) == ("deferred", 75, None)
    assert first.warnings == ("not checked: debian:12: timed out",)
    assert (updated.at_first_sight(), updated.run().warnings) == ("deferred", ())
    updated.moves()
    assert updated.run().outcome == "deferred"
    assert updated.boxes() == before
    updated.hub.errors.clear()
    outcome = updated.run()
    assert (outcome.outcome, kinds(outcome)) == ("updated", ["base-moved"])
    assert outcome.news == ("checked again: debian:12",)
    updated.stays_fresh()


def test_what_else_is_due_still_happens(updated: Moving) -> None:
    updated.hub.errors[DEBIAN] = "timed out"
    outcome = updated.run(after=DAY)
    assert (outcome.outcome, outcome.exit_code, kinds(outcome)) == ("updated", 0, ["expired"])
    assert outcome.warnings == ("not checked: debian:12: timed out",)
    assert outcome.unchecked == outcome.warnings
    updated.moves("postgres:16")
    outcome = updated.run()
    assert (outcome.outcome, kinds(outcome)) == ("updated", ["image-moved"])
    assert updated.at_first_sight() == "deferred"


# Build contexts


@pytest.fixture
def source(site: Moving) -> Moving:
    """A project whose build contexts are looked at; updated, and fresh."""
    site.flags["check"] = ("context",)
    site.write("app.py", "1")
    assert site.run().outcome == "updated"
    return site


def test_a_changed_context_is_an_update(source: Moving) -> None:
    source.stays_fresh()
    source.write("app.py", "2")
    assert source.at_first_sight() == "closer look"
    outcome = source.run()
    assert (outcome.outcome, kinds(outcome)) == ("updated", ["changed"])
    assert "context of web: app.py" in outcome.reasons[0].detail
    source.is_sound()
    source.stays_fresh()
    assert source.hub.asked == []


def test_a_touched_context_is_none(source: Moving) -> None:
    source.write("app.py", "1")
    source.stays_after_one_look()


def test_a_changed_context_limits_an_update_as_well(source: Moving) -> None:
    source.flags["update"] = "moved"
    db, built = source.boxes("db"), source.known().built
    source.moves("postgres:16")
    source.write("app.py", "2")
    assert source.run().outcome == "updated"
    assert (source.boxes("db"), source.known().built) == (db, built)
    source.stays_fresh()


def test_a_context_is_learned_without_an_update(updated: Moving) -> None:
    updated.flags["check"] = ("context",)
    assert updated.at_first_sight() == "closer look"
    updated.stays_after_one_look()
    updated.write("app.py", "1")
    assert kinds(updated.run()) == ["changed"]


def test_a_context_that_failed_waits_until_it_is_mended(source: Moving) -> None:
    source.world.breaks = {"web"}
    source.write("app.py", "bad")
    assert source.run().outcome == "rolled-back"
    assert source.run().outcome == "deferred"
    source.world.breaks.clear()
    source.write("app.py", "good")
    assert source.run(after=60).outcome == "updated"
    source.stays_fresh()


def test_what_is_torn_does_not_wait_for_an_ignore_file_to_be_mended(source: Moving) -> None:
    before = source.world.running()
    source.write("app.py", "2")
    killed = next(one for one in source.moments() if one.where.endswith("up: rename"))
    source.load(killed)
    assert source.world.running() != before
    # Something that BuildKit refuses.
    source.write(".dockerignore", "a[\n")
    outcome = source.run()
    assert outcome.outcome == "failed"
    assert ".dockerignore" in str(outcome.error)
    assert source.world.running() == before
    source.write(".dockerignore", "")
    assert source.run().outcome == "updated"
    source.stays_fresh()


# Projects whose images are only built


def test_a_project_that_is_only_built_and_pushed(site: Moving) -> None:
    site.flags.update(up=False, push=True)
    site.world.config["services"]["web"]["image"] = "site-web"
    outcome = site.run()
    assert (outcome.outcome, outcome.warnings) == ("updated", ())
    assert site.world.boxes == []
    assert site.world.pushed == {"site-web": site.world.names["site-web"]}
    assert "postgres:16" not in site.world.names
    site.stays_fresh()
    site.moves("postgres:16")
    site.stays_fresh()
    site.moves("debian:12")
    assert kinds(site.run()) == ["base-moved"]
    assert site.world.pushed == {"site-web": site.world.names["site-web"]}
    site.stays_fresh()


def test_a_push_that_fails_fails_the_update(site: Moving) -> None:
    site.flags.update(up=False, push=True)
    site.world.config["services"]["web"]["image"] = "site-web"
    assert site.run().outcome == "updated"
    makes, pushed = site.known().makes, dict(site.world.pushed)
    site.moves()

    def strike(call: int, name: str) -> None:
        if name == "push":
            raise EngineError("denied")

    outcome = site.run(strike)
    assert (outcome.outcome, outcome.touched) == ("failed", False)
    assert (site.known().makes, site.world.pushed) == (makes, pushed)
    assert site.run().outcome == "deferred"
    assert site.run(forced=True).outcome == "updated"
    assert site.world.pushed != pushed


def test_what_is_only_built_has_its_names_back_after_a_failure(site: Moving) -> None:
    """Though no container holds the old images, and what has lost its last name is gone."""
    site.flags["up"] = False
    assert site.run().outcome == "updated"
    names = site.world.own_names()
    site.moves()
    built: list[str] = []

    def strike(call: int, name: str) -> None:
        if name == "build":
            built.append(name)
            if len(built) == 2:
                raise EngineError("no space left on device")

    outcome = site.run(strike)
    assert (outcome.outcome, outcome.warnings) == ("failed", ())
    assert site.world.own_names() == names


def test_what_is_brought_up_is_not_pushed(updated: Moving) -> None:
    updated.flags["push"] = True
    before = updated.save()
    outcome = updated.run(forced=True)
    assert (outcome.outcome, outcome.exit_code) == ("failed", 1)
    assert outcome.error
    assert "push" in outcome.error.message
    after = dict(updated.save().files)
    # What it was told is remembered, and nothing else.
    assert b"push" in after.pop("checks.json")
    assert after == before.files


# A project that is a git checkout


def git(folder: Path, *arguments: str) -> str:
    name = (
        "-c",
        "user.name=Ada",
        "-c",
        "user.email=ada@example.org",
        "-c",
        "init.defaultBranch=main",
    )
    done = subprocess.run(
        ("git", *name, *arguments), cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


class Desk:
    """A person's own clone, from which the upstream of the server's checkout is moved."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def push(self, **files: str) -> str:
        """Commit these files and push them; gives the commit."""
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        git(self.folder, "add", "--all")
        git(self.folder, "commit", "--quiet", "--allow-empty", "-m", "Next")
        git(self.folder, "push", "--quiet", "origin", "HEAD:main")
        return git(self.folder, "rev-parse", "HEAD")


@pytest.fixture
def desk(updated: Moving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """The updated project is a checkout now, and follows its upstream."""
    # Whatever git is set to on this machine.
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    top = tmp_path / "git"
    top.mkdir()
    git(updated.folder, "init", "--quiet")
    git(updated.folder, "add", "--all")
    git(updated.folder, "commit", "--quiet", "-m", "First")
    git(top, "clone", "--quiet", "--bare", str(updated.folder), "up.git")
    git(updated.folder, "remote", "add", "origin", str(top / "up.git"))
    git(updated.folder, "fetch", "--quiet")
    git(updated.folder, "branch", "--quiet", "-u", "origin/main")
    git(top, "clone", "--quiet", "up.git", "desk")
    updated.flags["check"] = ("git",)
    assert updated.run().outcome == "fresh"
    return Desk(top / "desk")


def head(site: Moving) -> str:
    return git(site.folder, "rev-parse", "HEAD")


def test_a_commit_is_taken(updated: Moving, desk: Desk) -> None:
    new = desk.push(app="1")
    outcome = updated.run()
    assert (outcome.outcome, kinds(outcome), head(updated)) == ("updated", ["source-moved"], new)
    assert f"to {new[:12]}" in Path(outcome.log).read_text()
    assert updated.run().outcome == "fresh"


def told_once_and_no_obstacle(site: Moving, why: str) -> None:
    """What only git refuses is told once, and keeps no update from its time."""
    old = head(site)
    first = site.run()
    assert (first.outcome, first.exit_code) == ("failed", 1)
    assert first.error
    assert why in first.error.message + first.error.detail
    logs = sorted((site.state / "logs").iterdir())
    for _ in range(12):
        outcome = site.run()
        assert (outcome.exit_code, outcome.warnings) == (75, ())
    assert sorted((site.state / "logs").iterdir()) == logs
    outcome = site.run(after=DAY)
    assert (outcome.outcome, kinds(outcome)) == ("updated", ["expired"])
    assert head(site) == old


def test_a_file_that_git_was_told_not_to_look_at(updated: Moving, desk: Desk) -> None:
    desk.push(app="1")
    assert updated.run().outcome == "updated"
    git(updated.folder, "update-index", "--skip-worktree", "app")
    (updated.folder / "app").write_text("mine")
    assert updated.run().outcome == "fresh"
    desk.push(app="2")
    told_once_and_no_obstacle(updated, "cannot be fast-forwarded")


def test_a_file_where_a_folder_is_to_come(updated: Moving, desk: Desk) -> None:
    (updated.folder / "data").write_text("a person's")
    desk.push(**{"data/x": "1"})
    told_once_and_no_obstacle(updated, "cannot be fast-forwarded")
    (updated.folder / "data").unlink()
    outcome = updated.run()
    assert (outcome.outcome, outcome.news) == ("updated", ("checked again: git",))


def test_a_checkout_of_somebody_else(
    updated: Moving, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = git_source.head

    def dubious(*_: object, **__: object) -> str:
        raise git_source.SourceError("git finds no checkout here that it may read")

    monkeypatch.setattr(git_source, "head", dubious)
    first = updated.run()
    assert (first.exit_code, first.error and first.error.message) == (
        1, "git finds no checkout here that it may read",
    )  # fmt: skip
    assert updated.run().exit_code == 75
    assert updated.run(after=DAY).outcome == "updated"
    monkeypatch.setattr(git_source, "head", real)
    assert updated.run().news == ("checked again: git",)


def test_half_a_commit_is_never_built(
    updated: Moving, desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    for folder, smudge in (
        (updated.folder, f"test ! -e {broken} && cat"), (desk.folder, "cat")
    ):  # fmt: skip
        git(folder, "config", "filter.big.clean", "cat")
        git(folder, "config", "filter.big.smudge", smudge)
        git(folder, "config", "filter.big.required", "true")
    desk.push(**{".gitattributes": "*.bin filter=big\n", "a": "1\n", "d.bin": "1\n", "z": "1\n"})
    assert updated.run().outcome == "updated"
    new = desk.push(**{"a": "2\n", "d.bin": "2\n", "z": "2\n"})
    # As with git-lfs, whose server is gone in the midst of it.
    broken.touch()
    first = updated.run(after=DAY)
    assert first.exit_code == 1
    assert first.error
    assert "a move that was cut off cannot be mended" in first.error.message
    assert [updated.run(after=60).exit_code for _ in range(2)] == [75, 75]
    broken.unlink()
    assert updated.run(after=60).outcome == "updated"
    assert (head(updated), git(updated.folder, "status", "--porcelain")) == (new, "")


def test_what_is_told_is_forgotten_only_by_a_project_that_is_fresh(
    updated: Moving, desk: Desk, tmp_path: Path
) -> None:
    """At first sight it may seem so, and the closer look then finds the same as before."""
    told = Checks(wrong="no", wrong_told=time.time())
    checks.write(str(updated.state), told)
    desk.push(app="1")
    assert updated.at_first_sight() == "closer look"
    assert checks.read(str(updated.state)).wrong == "no"
    updated.run()
    checks.write(str(updated.state), told)
    assert updated.at_first_sight() == "fresh"
    assert checks.read(str(updated.state)).wrong == ""


def renames(site: Moving, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose takes the project's name from a file of the checkout."""
    real = Fake.render

    def render(self: Fake, target: Any, **more: Any) -> tuple[Any, str]:
        config, complaints = real(self, target, **more)
        file = site.folder / "name"
        return {**config, "name": file.read_text() if file.exists() else "site"}, complaints

    monkeypatch.setattr(Fake, "render", render)


def test_a_commit_that_renames_the_project_waits_for_a_person(
    updated: Moving, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    renames(updated, monkeypatch)
    old, before = head(updated), updated.boxes()
    new = desk.push(name="shop")
    first = updated.run()
    assert first.exit_code == 1
    assert first.error
    assert "makes the Compose project 'site' 'shop'" in first.error.message
    assert (head(updated), updated.known().forwarded) == (old, "")
    assert updated.run(after=60).exit_code == 75
    # Whoever pulls by hand is not undone.
    git(updated.folder, "pull", "--quiet", "--ff-only")
    rescue.finish_move(updated.project, updated.prepare(60), ())
    assert head(updated) == new
    assert updated.boxes() == before


def test_a_commit_that_cannot_be_pushed_is_taken_back(
    updated: Moving, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Fake.render

    def render(self: Fake, target: Any, **more: Any) -> tuple[Any, str]:
        config, complaints = real(self, target, **more)
        pushes = (updated.folder / "pushes").exists()
        return {**config, "x-rbuild": {"push": True} if pushes else {}}, complaints

    monkeypatch.setattr(Fake, "render", render)
    old = head(updated)
    desk.push(pushes="1")
    first = updated.run()
    assert first.error
    assert "push: true, but the project is also brought up" in first.error.message
    assert head(updated) == old
    assert updated.run(after=60).exit_code == 75
    assert updated.world.pushed == {}


def test_status_shows_what_waits_after_an_update_as_well(updated: Moving) -> None:
    updated.flags["min-age"] = 3 * DAY
    updated.moves("debian:12")

    def waits() -> list[str]:
        run = updated.prepare(1)
        settings = run.settings({})
        found = Lookout(run, Stop()).recall(updated.known(), settings, str(updated.state))
        return [one.reference for one in found.waits]

    updated.run()
    assert waits() == [DEBIAN]
    updated.run(forced=True)
    updated.run()
    assert waits() == [DEBIAN]
