"""The pass on a fake engine: faults that a real one can't be made to show, at every moment."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rbuild import crew
from rbuild.compose.project import locate
from rbuild.docker.engine import Container
from rbuild.errors import (
    BuildError,
    EngineError,
    InputError,
    Interrupted,
    RbuildError,
    StateError,
)
from rbuild.process import Stop
from rbuild.refresh import refresh
from rbuild.report import Outcome
from rbuild.state import checks, record
from rbuild.state.record import Record
from rbuild.updates.scene import Scene

from .world import (
    DAY,
    WELL,
    Fake,
    Saved,
    Site,
    World,
    die_from,
    fail_at,
    full_disk,
    new_site,
    no_strike,
)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A project that was never updated, on a clock that runs ahead at the test's word."""
    with new_site(tmp_path, Site) as found:
        yield found


@pytest.fixture
def updated(site: Site) -> Site:
    """A project that was updated twice, and whose bases have moved since."""
    assert site.run().outcome == "updated"
    assert site.run(forced=True).outcome == "updated"
    site.registry_moves()
    return site


@pytest.fixture
def bad(updated: Site) -> Site:
    """The same, and its next update will build a web that doesn't run."""
    updated.world.breaks = {"web"}
    return updated


# The good course


def named_in(text: str) -> set[str]:
    """The words after the last bracket or before it: what a line names, in whatever order."""
    return set(re.findall(r"[a-z]+", text.rpartition("(")[2]))


def unchanged(site: Site, before: Saved) -> bool:
    """Whether the engine holds what it held."""
    then: World = pickle.loads(before.world)
    now: World = pickle.loads(pickle.dumps(site.world))
    then.calls = now.calls = then.made = now.made = 0
    then.broken = now.broken
    return then == now


def test_a_first_update(site: Site) -> None:
    outcome = site.run()
    assert (outcome.outcome, outcome.error, outcome.warnings) == ("updated", None, ())
    assert [reason.kind for reason in outcome.reasons] == ["new"]
    assert outcome.bases == ("docker.io/library/debian:12",)
    assert {one["name"]: one["state"] for one in outcome.services} == {
        "base": "running", "web": "running", "migrate": "ended", "db": "running"
    }  # fmt: skip
    assert outcome.due == pytest.approx(site.started + 86400 - 60)
    assert Path(outcome.log).exists()
    site.is_sound()
    assert site.run().outcome == "fresh"


def test_what_ran_before_is_kept(updated: Site) -> None:
    before = {one.service: one.image for one in updated.world.boxes}
    outcome = updated.run(forced=True)
    assert outcome.outcome == "updated"
    updated.is_sound()
    kept = {
        name.split("/")[2].partition(":")[0]: identity
        for name, identity in updated.world.names.items()
        if name.startswith("rbuild/")
    }
    assert kept == before
    assert [outcome.generation] == updated.stamps() == list(updated.world.kept())


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_as_many_generations_are_kept_as_asked_for(updated: Site, keep: int) -> None:
    updated.flags["keep-images"] = keep
    made = [updated.run(forced=True).generation for _ in range(4)]
    assert updated.stamps() == list(updated.world.kept()) == made[::-1][:keep]


def test_what_keeps_no_generation_is_rolled_back_all_the_same(bad: Site) -> None:
    bad.flags["keep-images"] = 0
    before = bad.world.running()
    assert bad.run(forced=True).outcome == "rolled-back"
    assert bad.world.running() == before


def test_ten_updates_leave_no_more_than_two(updated: Site) -> None:
    for _ in range(2):
        updated.registry_moves()
        assert updated.run(forced=True).outcome == "updated"
    before = len(updated.world.labels), len(updated.world.boxes), len(os.listdir(updated.state))
    for _ in range(10):
        updated.registry_moves()
        assert updated.run(forced=True).outcome == "updated"
    after = len(updated.world.labels), len(updated.world.boxes), len(os.listdir(updated.state))
    assert after == before
    assert len(list((updated.state / "logs").iterdir())) <= 10


def test_a_dry_run_changes_nothing(updated: Site) -> None:
    before, logs = updated.save(), os.listdir(updated.state / "logs")
    outcome = updated.run(forced=True, dry_run=True)
    assert outcome.outcome == "planned"
    assert outcome.steps[0] == "keep the images that run now (4)"
    assert updated.save().files == before.files
    assert os.listdir(updated.state / "logs") == logs
    assert unchanged(updated, before)


def shares(site: Site, service: str, **more: Any) -> Container:
    """Somebody else's container that lives in the network of one of a service's."""
    owner = next(one.id for one in site.world.boxes if one.service == service)
    other = Container("other", "other", "", "x", "x", "running", started=time.time(), **more)
    return replace(other, namespaces=(("network", owner),))


def test_who_is_cut_off_is_told_of(updated: Site) -> None:
    # What the database runs does not move.
    updated.world.registry["postgres:16"] = updated.world.names["postgres:16"]
    updated.world.company = [shares(updated, "db"), replace(shares(updated, "web"), id="web")]
    before = updated.save()
    (warning,) = updated.run(after=DAY, forced=True).warnings
    assert warning.startswith("other is cut off, for it shared web's network")
    assert warning.endswith("remove it, and run it anew")
    # Once: the next update has not cut it off.
    assert updated.run(forced=True).warnings == ()
    # Whatever goes wrong there, the update is done.
    updated.load(before)

    def strike(number: int, name: str) -> None:
        if name == "others":
            raise EngineError("it is busy")

    outcome = updated.run(strike, after=DAY, forced=True)
    assert outcome.outcome == "updated"
    assert "could not be looked at: it is busy" in outcome.warnings[0]


def test_who_is_cut_off_is_told_of_after_a_way_back(bad: Site) -> None:
    bad.world.company = [shares(bad, "web")]
    outcome = bad.run(after=DAY)
    assert outcome.outcome == "rolled-back"
    assert [one for one in outcome.warnings if "it shared web's network" in one]


# An update that fails, and goes back


def test_a_bad_update_is_rolled_back(bad: Site) -> None:
    before, names, built = bad.world.running(), bad.world.own_names(), bad.known().built
    outcome = bad.run(after=DAY)
    assert (outcome.outcome, outcome.exit_code, outcome.touched) == ("rolled-back", 3, True)
    assert outcome.error
    assert outcome.error.message == "web: not healthy: rolled back"
    assert "web: exited with code 3" in outcome.error.detail
    assert "the container's log" in outcome.error.detail
    assert outcome.standing.startswith("what ran before runs again (")
    assert named_in(outcome.standing) == {"base", "web", "db"}
    assert bad.world.running() == before
    assert bad.world.own_names() == names
    assert bad.known().built == built
    failed = bad.known().failed
    assert failed
    assert (failed["kind"], failed["tries"], failed["log"]) == ("touched", 1, outcome.log)
    assert outcome.retry == pytest.approx(time.time() + DAY, abs=5)
    bad.is_whole()
    # What the update left over is cleaned up: nothing of it is there but what ran once.
    left = set(bad.world.labels) - set(bad.world.names.values()) - bad.world.used()
    assert left == set()


def test_what_no_way_back_undoes_is_told(bad: Site) -> None:
    assert bad.run(after=DAY).warnings == (
        "migrate: ran once with the new image, and is not undone",
        "db: its new image may have written to site_data, which is not taken back",
    )


def test_a_known_bad_update_waits_for_its_time(bad: Site) -> None:
    first = bad.run(after=DAY)
    before = bad.save()
    for hour in range(1, 24):
        outcome = bad.run(after=3600 if hour > 1 else 60)
        assert (outcome.outcome, outcome.exit_code) == ("deferred", 75)
        assert (outcome.retry, outcome.warnings) == (first.retry, ())
        assert outcome.error
        assert "web: not healthy" in outcome.error.message
        assert unchanged(bad, before)
    assert bad.run(after=3 * 3600).outcome == "rolled-back"
    failed = bad.known().failed
    assert failed
    assert failed["tries"] == 2


def test_a_known_bad_update_is_tried_at_once_if_asked_for_or_changed(bad: Site) -> None:
    bad.run(after=DAY)
    failed = bad.save()
    assert bad.run(forced=True).outcome == "rolled-back"
    bad.load(failed)
    bad.world.breaks.clear()
    bad.edit("Dockerfile", "FROM site-base\nRUN true\n")
    assert bad.run().outcome == "updated"
    bad.ends_fresh()
    # Nor does it wait if a base moves meanwhile: it is in here that the mending may be.
    bad.load(failed)
    bad.world.breaks.clear()
    bad.registry_moves()
    bad.world.labels[bad.world.registry["debian:12"]] = {}
    bad.world.put("debian:12", bad.world.registry["debian:12"])
    assert bad.run().outcome == "updated"
    bad.ends_fresh()


def test_a_file_that_is_put_back_forgets_the_failure(bad: Site) -> None:
    bad.world.config["services"]["web"]["environment"]["PRICE"] = "$7"
    assert bad.run().outcome == "rolled-back"
    assert bad.run().outcome == "deferred"
    bad.world.config["services"]["web"]["environment"]["PRICE"] = "$5 or $$6"
    assert bad.run().outcome == "fresh"
    assert bad.known().failed is None
    bad.is_whole()


def test_what_failed_for_want_of_anothers_network_is_tried_as_soon_as_that_is_there(
    updated: Site,
) -> None:
    web = updated.world.config["services"]["web"]
    updated.world.config["networks"] = {"front": {"name": "proxy", "external": True}}
    web["networks"] = {"front": None}
    before = updated.save()
    outcome = updated.run()
    assert (outcome.outcome, outcome.touched) == ("failed", False)
    assert outcome.error
    assert outcome.error.message == "service web: network proxy (networks.front) is not there"
    assert unchanged(updated, before)
    assert updated.run().outcome == "deferred"
    updated.world.others = {"network proxy"}
    assert updated.run(dry_run=True).outcome == "planned"
    assert updated.run().outcome == "updated"
    updated.ends_fresh()


def test_a_changed_configuration_is_taken_back_to_the_one_that_ran(bad: Site) -> None:
    """What was kept is told by the containers, which are not made anew in vain."""
    ran = {one.name: one.config_hash for one in bad.world.boxes if one.service != "migrate"}
    db = next(one.id for one in bad.world.boxes if one.service == "db")
    bad.world.registry["postgres:16"] = bad.world.names["postgres:16"]
    services = bad.world.config["services"]
    services["web"] |= {"environment": {"PRICE": "$8"}, "scale": 1}
    services["cache"] = {"image": "postgres:16", "restart": "always"}
    outcome = bad.run()
    assert outcome.outcome == "rolled-back"
    assert {n.name: n.config_hash for n in bad.world.boxes if n.service != "migrate"} == ran
    assert db in {one.id for one in bad.world.boxes}
    bad.is_whole()
    # From here, the next update finds what it needs.
    bad.world.breaks.clear()
    del services["cache"]
    services["web"]["scale"] = 2
    assert bad.run(forced=True).outcome == "updated"
    bad.ends_fresh()


def test_what_failed_twice_is_still_taken_back_to_what_ran(bad: Site) -> None:
    before = bad.world.running()
    for _ in range(3):
        assert bad.run(after=DAY + 60).outcome == "rolled-back"
        bad.registry_moves()
        assert bad.world.running() == before
        bad.is_whole()
    bad.world.breaks.clear()
    assert bad.run(after=DAY + 60).outcome == "updated"
    bad.ends_fresh()


def test_failed_updates_fill_no_disk(bad: Site) -> None:
    def size() -> tuple[int, ...]:
        files = [path for path in bad.state.rglob("*") if path.suffix != ".log"]
        return len(bad.world.labels), len(bad.world.names), len(bad.world.boxes), len(files)

    sizes = []
    for _ in range(5):
        bad.registry_moves()
        bad.run(after=DAY + 60)
        sizes.append(size())
    for size_after in sizes[2:]:
        assert all(a <= b for a, b in zip(size_after, sizes[0], strict=True))


def test_a_first_update_that_fails_is_left_as_it_fell(site: Site) -> None:
    site.world.breaks = {"web"}
    outcome = site.run()
    assert (outcome.outcome, outcome.exit_code) == ("needs-a-person", 4)
    assert outcome.error
    assert "web: exited with code 3" in outcome.error.detail
    assert "nothing ran before" in outcome.error.hint
    assert outcome.standing == (
        "running now: base; not running: web (exited), migrate (exited)"
        if "db" not in site.world.running()
        else "running now: base, db; not running: web (exited), migrate (exited)"
    )
    assert [one.service for one in site.world.boxes] == ["base", "web", "web", "migrate", "db"]
    assert site.run().outcome == "deferred"
    site.world.breaks.clear()
    assert site.run(forced=True).outcome == "updated"
    site.ends_fresh()


def test_what_was_never_updated_but_ran_is_what_it_goes_back_to(updated: Site) -> None:
    """A stack that a person brought up, and that rbuild meets for the first time."""
    for path in updated.state.rglob("*"):
        if path.is_file():
            path.unlink()
    before = updated.world.running()
    updated.world.breaks = {"web"}
    assert updated.run().outcome == "rolled-back"
    assert updated.world.running() == before
    assert updated.run().outcome == "deferred"


def test_services_that_stay_new(bad: Site) -> None:
    """Their data may have been migrated: what is old could not read it."""
    bad.world.config["services"]["db"]["x-rbuild"] = {"rollback": "never"}
    before = bad.world.running()
    assert bad.run(forced=True).outcome == "rolled-back"
    after = bad.world.running()
    assert after.pop("db") == [bad.world.registry["postgres:16"]] != before.pop("db")
    assert after == before


def test_a_service_that_stays_new_and_fails_needs_a_person(bad: Site) -> None:
    bad.world.config["services"]["web"]["x-rbuild"] = {"rollback": "never"}
    outcome = bad.run(forced=True)
    assert (outcome.outcome, outcome.exit_code) == ("needs-a-person", 4)
    assert set(bad.world.running()) == {"base", "db"}


def test_a_scale_set_by_hand_and_what_was_stopped_come_back_so(bad: Site) -> None:
    bad.world.remove(next(one.id for one in bad.world.boxes if one.name == "site-web-2"))
    db = next(one for one in bad.world.boxes if one.service == "db")
    bad.world.change(db, state="exited", exit_code=143)
    before = bad.world.running()
    assert bad.run(after=DAY).outcome == "rolled-back"
    assert bad.world.running() == before
    assert len(before["web"]) == 1
    assert db.id in {one.id for one in bad.world.boxes if one.state == "exited"}


def test_an_image_that_is_gone_needs_a_person(bad: Site) -> None:
    """One that was removed by force while its containers ran on."""
    image = bad.world.running()["web"][0]
    for name in [name for name, one in bad.world.names.items() if one == image]:
        del bad.world.names[name]
    del bad.world.labels[image]
    # There would be nothing to roll back to.
    before = bad.world.running()
    outcome = bad.run(after=DAY)
    assert (outcome.outcome, outcome.exit_code) == ("failed", 1)
    assert outcome.error
    assert outcome.error.detail == "web: its image is gone"
    assert bad.world.running() == before
    outcome = bad.run(forced=True)
    assert (outcome.outcome, outcome.exit_code) == ("needs-a-person", 4)
    assert outcome.error
    assert "the kept image or configuration of web is gone" in outcome.error.message
    # What can go back, does.
    assert set(bad.world.running()) == {"base", "db"}
    up, _, down = outcome.standing.partition("; ")
    assert named_in(up) == {"running", "now", "base", "db"}
    assert "web (exited)" in down


def test_a_way_back_that_fails_says_what_to_type(bad: Site) -> None:
    before = bad.world.running()

    def strike(call: int, name: str) -> None:
        if name == "up: create" and any("back" in one for one in bad.steps):
            raise EngineError("no space left on device")

    outcome = bad.run(strike, after=DAY)
    assert (outcome.outcome, outcome.exit_code) == ("needs-a-person", 4)
    assert outcome.error
    assert "web: not healthy; and the way back failed: `up` failed" in outcome.error.message
    assert "no space left on device" in outcome.error.detail
    assert "docker compose" in outcome.error.hint
    assert "--no-build --pull never" in outcome.error.hint
    up, _, down = outcome.standing.partition("; ")
    assert named_in(up) == {"running", "now", "base", "db"}
    assert "web" in down
    # A person has a look in peace: nothing is tried again by itself.
    left = bad.save()
    assert bad.run().outcome == "deferred"
    assert unchanged(bad, left)
    # What was kept is kept, and goes back once it can.
    assert bad.roll_back().outcome == "rolled-back"
    assert bad.world.running() == before
    bad.load(left)
    bad.world.breaks.clear()
    assert bad.run(after=DAY + 60).outcome == "updated"
    bad.ends_fresh()


# At every call of an update, good or bad: an engine that fails once


def later_on(site: Site, where: str) -> None:
    """Once what is wrong is mended, an update is made, and then nothing is left to do."""
    site.world.breaks.clear()
    assert site.run(forced=True).outcome == "updated", where
    site.ends_fresh(where)


def test_an_engine_error_at_any_call(updated: Site) -> None:
    names = updated.calls(after=DAY)
    start, before, old = updated.save(), updated.told(), updated.world.running()
    seen = set()
    for number, name in enumerate(names, 1):
        where = f"call {number}: {name}"
        updated.load(start)
        outcome = updated.run(fail_at(number, EngineError(where)), after=DAY)
        seen.add(outcome.outcome)
        updated.runs_whole(where)
        if outcome.outcome == "updated":
            # Nothing but the cleaning up was left.
            assert any(where in one for one in outcome.warnings), where
            assert updated.known().underway is None, where
            assert updated.known().built_at == pytest.approx(updated.started, abs=0.01), where
            assert (after := updated.run()).outcome == "fresh", where
            assert after.warnings == (), where
            updated.ends_fresh(where)
            continue
        updated.is_kept_whole(where)
        assert outcome.error, where
        assert where in outcome.error.message + outcome.error.detail, where
        assert updated.world.running() == old, where
        assert updated.world.own_names() == pickle.loads(start.world).own_names(), where
        if not outcome.touched:
            assert outcome.outcome == "failed", where
            assert unchanged_but_for_bases(updated, start), where
            assert updated.told() == before, where
            assert outcome.warnings == (), where
        failed = updated.known().failed
        again = updated.run()
        assert again.outcome == ("deferred" if failed else "updated"), where
        later_on(updated, where)
    assert seen == {"updated", "failed", "rolled-back"}


def unchanged_but_for_bases(site: Site, before: Saved) -> bool:
    then: World = pickle.loads(before.world)
    return site.world.boxes == then.boxes and len(site.world.labels) <= len(then.labels) + 1


def test_an_engine_error_at_any_call_of_a_bad_update(bad: Site) -> None:
    names = bad.calls(after=DAY)
    start, old = bad.save(), bad.world.running()
    seen = set()
    for number, name in enumerate(names, 1):
        where = f"call {number}: {name}"
        if name == "check" and number > 2:
            # An engine that doesn't answer here is gone: that is another test's.
            continue
        bad.load(start)
        outcome = bad.run(fail_at(number, EngineError(where)), after=DAY)
        seen.add(outcome.outcome)
        assert outcome.outcome in ("failed", "rolled-back", "needs-a-person"), where
        if outcome.outcome == "failed" and outcome.touched:
            # What does not answer on the way back is taken for an engine that is gone.
            assert bad.record()["underway"]["touched"], where
            outcome = bad.run()
            assert outcome.outcome == "rolled-back", where
        if outcome.outcome == "needs-a-person":
            bad.known()
            assert set(bad.world.kept()) <= set(bad.stamps()), where
            assert outcome.error, where
            assert "and the way back failed" in outcome.error.message, where
            stuck = bad.save()
            # The way back is still there.
            assert bad.roll_back().outcome == "rolled-back", where
            assert bad.world.running() == old, where
            bad.is_whole(where)
            bad.load(stuck)
        else:
            bad.runs_whole(where)
            assert bad.world.running() == old, where
            if not any("not all is cleaned up" in one for one in outcome.warnings):
                bad.is_kept_whole(where)
        failed = bad.known().failed
        again = bad.run()
        assert again.outcome == ("deferred" if failed else "rolled-back"), where
        later_on(bad, where)
    assert seen == {"failed", "rolled-back"}


# An engine that is dead from any call on


def test_an_engine_that_dies_at_any_call(updated: Site) -> None:
    names = updated.calls(after=DAY)
    start, old = updated.save(), updated.world.running()
    for number, name in enumerate(names, 1):
        where = f"call {number}: {name}"
        updated.load(start)
        outcome = updated.run(die_from(number), after=DAY)
        built = updated.known().built
        if outcome.outcome == "updated":
            assert outcome.warnings, where
        else:
            assert (outcome.outcome, outcome.exit_code) == ("failed", 1), where
            assert updated.known().failed is None, where
            # Nothing that a dead engine has cost is told as a failure of the update.
            assert outcome.retry == 0, where
            assert built < record.stamp(updated.started), where
        after = updated.run()
        if outcome.outcome != "updated":
            assert (after.outcome, after.warnings) == ("updated", ()), where
            if outcome.touched:
                assert not [one for one in updated.steps if one.startswith("build")], where
        updated.is_sound(where)
        assert updated.world.running() != old, where
        updated.ends_fresh(where)


def test_an_engine_that_dies_at_any_call_of_a_bad_update(bad: Site) -> None:
    names = bad.calls(after=DAY)
    start, old = bad.save(), bad.world.running()
    for number, name in enumerate(names, 1):
        where = f"call {number}: {name}"
        bad.load(start)
        outcome = bad.run(die_from(number), after=DAY)
        assert outcome.exit_code in (1, 3), where
        after = bad.run()
        assert after.outcome in ("rolled-back", "deferred"), where
        bad.is_whole(where)
        assert bad.world.running() == old, where
        assert bad.run().outcome == "deferred", where
        if not number % 3:
            later_on(bad, where)


def test_an_update_that_kills_the_engine_each_time_is_no_longer_tried(updated: Site) -> None:
    """Its third death counts as a failure; what ran before runs."""
    old = updated.world.running()

    def strike(call: int, name: str) -> None:
        forward = not (updated.steps and updated.steps[-1].startswith("back"))
        if (name == "up: rename" and forward) or strike_on:
            strike_on.append(True)
            raise EngineError("the engine is gone")

    strike_on: list[bool] = []
    outcomes = []
    for run in range(4):
        outcomes.append(updated.run(strike, after=DAY if not run else 60))
        strike_on.clear()
    assert [one.exit_code for one in outcomes] == [1, 1, 1, 75]
    updated.is_whole()
    assert updated.world.running() == old
    later_on(updated, "")


# A run that is killed at any of its calls, or at any of its writes


def test_a_sudden_death_at_any_moment(updated: Site) -> None:
    old = updated.world.running()
    seen = set()
    for moment in updated.moments(after=DAY):
        updated.load(moment)
        known = updated.known()
        torn = bool((known.underway or {}).get("touched"))
        outcome = updated.run(after=60)
        seen.add((torn, outcome.outcome))
        assert outcome.warnings == (), moment.where
        if known.underway:
            assert "interrupted" in [one.kind for one in outcome.reasons], moment.where
        if torn:
            # It goes forward, with what was built.
            assert not [one for one in updated.steps if one.startswith("build")], moment.where
        assert updated.world.running() != old, moment.where
        updated.ends_fresh(moment.where)
    assert seen == {(True, "updated"), (False, "updated"), (False, "fresh")}


def test_a_sudden_death_at_any_moment_of_a_bad_update(bad: Site) -> None:
    old, names = bad.world.running(), bad.world.own_names()
    seen = set()
    for number, moment in enumerate(bad.moments(after=DAY)):
        bad.load(moment)
        outcome = bad.run(after=60)
        seen.add(outcome.outcome)
        assert outcome.outcome in ("rolled-back", "deferred"), moment.where
        bad.is_whole(moment.where)
        assert bad.world.running() == old, moment.where
        assert bad.world.own_names() == names, moment.where
        left = bad.save()
        assert bad.run(after=60).outcome == "deferred", moment.where
        assert unchanged(bad, left), moment.where
        if not number % 3:
            later_on(bad, moment.where)
    assert seen == {"rolled-back", "deferred"}


def renamed(site: Site) -> list[Container]:
    """Its database has got another name in the files; gives the one-offs that a person made."""
    services = site.world.config["services"]
    services["store"] = services.pop("db")
    (db,) = [one for one in site.world.boxes if one.service == "db"]
    ended = {"state": "exited", "exit_code": 1}
    for number, more in enumerate(({}, ended)):
        once = replace(db, id=f"{number}" * 64, name=f"run-{number}", oneoff=True, **more)
        site.world.boxes += [once, replace(once, id=f"{number}b" * 32, service="web")]
    return [one for one in site.world.boxes if one.oneoff]


def test_what_the_files_have_no_longer_goes_and_one_offs_stay(updated: Site) -> None:
    once = renamed(updated)
    plan = updated.run(after=DAY, dry_run=True)
    assert [one for one in plan.steps if "(site-db-1)" in one]
    for moment in updated.moments(after=DAY):
        updated.load(moment)
        updated.run(after=60)
        running = updated.world.running()
        assert {name: len(found) for name, found in running.items()} == {
            "base": 1, "web": 2, "store": 1
        }, moment.where  # fmt: skip
        left = [one for one in updated.world.boxes if one.service == "db" and not one.oneoff]
        assert not left, moment.where
        assert [one for one in updated.world.boxes if one.oneoff] == once, moment.where


def test_what_the_files_had_no_longer_comes_back(bad: Site) -> None:
    once = renamed(bad)
    for moment in (bad.save("whole"), *bad.moments(after=DAY)):
        bad.load(moment)
        assert bad.run(after=DAY).outcome == "rolled-back", moment.where
        bad.is_whole(moment.where)
        assert [one for one in bad.world.boxes if one.oneoff] == once, moment.where


def test_what_was_stopped_and_could_not_be_removed_runs_again(updated: Site) -> None:
    renamed(updated)

    def strike(number: int, name: str) -> None:
        if name == "remove_container":
            raise EngineError("it is busy")

    outcome = updated.run(strike, after=DAY)
    assert outcome.outcome == "rolled-back"
    assert outcome.standing == "what ran before runs again (db)"
    updated.is_whole()


@pytest.mark.parametrize("name", ["up: rename", "containers"])
def test_a_death_and_another_at_any_moment_of_putting_it_right(bad: Site, name: str) -> None:
    old = bad.world.running()
    first = [one for one in bad.moments(after=DAY) if one.where.endswith(f": {name}")][-1]
    bad.load(first)
    for second in bad.moments(after=60):
        bad.load(second)
        bad.run(after=60)
        bad.is_whole(second.where)
        assert bad.world.running() == old, second.where
        assert bad.run(after=60).outcome == "deferred", second.where


def test_files_that_change_after_a_death_are_not_what_it_goes_on_with(updated: Site) -> None:
    """It goes back first: what is half there is of nobody's files."""
    old = updated.world.running()
    torn = [one for one in updated.moments(after=DAY) if one.where.endswith("up: rename")]
    updated.load(torn[0])
    updated.edit("Dockerfile", "FROM site-base\nRUN true\n")
    updated.world.breaks = {"web"}
    assert updated.run().outcome == "rolled-back"
    assert updated.world.running() == old
    assert any(one.startswith("back: bring up") for one in updated.steps)
    updated.load(torn[0])
    updated.edit("Dockerfile", "FROM site-base\nRUN true\n")
    updated.world.breaks.clear()
    assert updated.run().outcome == "updated"
    updated.ends_fresh()


def test_a_project_that_cannot_be_read_after_a_death_goes_back(updated: Site) -> None:
    old = updated.world.running()
    torn = [one for one in updated.moments(after=DAY) if one.where.endswith("up: rename")]
    text = (updated.folder / "compose.yml").read_text()
    updated.load(torn[0])
    (updated.folder / "compose.yml").write_text("services: [")
    outcome = updated.run()
    assert outcome.exit_code == 1
    assert "what a cut-off run had torn runs again" in outcome.standing
    assert updated.world.running() == old
    updated.is_whole()
    # A dry run changes nothing, not even that.
    updated.load(torn[0])
    assert updated.run(dry_run=True).standing == ""
    assert unchanged(updated, torn[0])
    (updated.folder / "compose.yml").write_text(text)
    assert updated.run().outcome == "updated"
    updated.ends_fresh()


def test_two_deaths_in_a_row_forget_nothing(updated: Site) -> None:
    """A scale set by hand and a stopped service outlive both."""
    # A person has stopped the database and taken one web away.
    updated.world.remove(next(one.id for one in updated.world.boxes if one.name == "site-web-2"))
    db = next(one for one in updated.world.boxes if one.service == "db")
    updated.world.change(db, state="exited", exit_code=143)
    good = updated.world.running()["web"][0]
    # First among the containers, when the old one is gone and no new one there; then at a build.
    moments = updated.moments(forced=True)
    updated.load([one for one in moments if one.where.endswith("up: rename")][-1])
    updated.edit("Dockerfile", "FROM site-base\nRUN true\n")
    moments = updated.moments()
    updated.load(next(one for one in moments if one.where.endswith("build")))
    outcome = updated.run()
    assert outcome.outcome == "updated"
    assert [one.kind for one in outcome.reasons] == ["interrupted", "changed"]
    states = {one.name: one.state for one in updated.world.boxes}
    assert states == {
        "site-base-1": "running", "site-web-1": "running", "site-db-1": "exited",
        "site-migrate-1": "exited",
    }  # fmt: skip
    kept = [one for name, one in updated.world.names.items() if name.startswith("rbuild/site/web:")]
    assert kept == [good]


def build_fails(number: int, name: str) -> None:
    if name == "build":
        raise BuildError("the build failed")


@pytest.mark.parametrize("then", ["a build fails", "the registry goes back"])
def test_no_image_of_a_killed_run_is_left_behind(updated: Site, then: str) -> None:
    """What it has brought loses its name in the next run, and must still be known."""
    updated.world.keeps_nameless = True
    goes_back = then == "the registry goes back"
    before = {name: updated.world.names[name] for name in updated.world.registry}
    for moment in updated.moments(after=DAY):
        updated.load(moment)
        if goes_back:
            updated.world.registry = before
        outcome = updated.run(no_strike if goes_back else build_fails, forced=True)
        assert outcome.outcome == ("updated" if goes_back else "failed"), moment.where
        named_or_used = {*updated.world.names.values(), *updated.world.used()}
        nameless = updated.world.labels.keys() - named_or_used
        assert nameless <= {*updated.known().superseded}, moment.where


@pytest.mark.parametrize(
    ("up", "said"), [(True, "also brought up"), (False, "no image that it builds has a name")]
)
def test_what_cannot_be_pushed_is_an_error_at_the_first_look(
    updated: Site, up: bool, said: str
) -> None:
    updated.flags |= {"up": up, "push": True}
    outcome = updated.run()
    assert outcome.error
    assert said in outcome.error.message
    assert outcome.error.hint
    assert (outcome.exit_code, outcome.reasons) == (1, ())


# A run of a version that knew no generations


def test_a_record_of_version_1_is_gone_on_from(updated: Site) -> None:
    torn = next(one for one in updated.moments(after=DAY) if one.where.endswith("up: rename"))
    for moment in (updated.save(), torn):
        updated.load(moment)
        old = {one: v for one, v in updated.record().items() if one not in NEWER}
        old["underway"] = {k: v for k, v in (old["underway"] or {}).items() if k in KNOWN_BEFORE}
        old["underway"] = old["underway"] or None
        for path in updated.state.rglob("*.json"):
            path.unlink()
        (updated.state / "record.json").write_text(json.dumps({**old, "version": 1}))
        assert updated.run(after=DAY).outcome == "updated"
        updated.ends_fresh()
        # From now on it can go back.
        updated.world.breaks = {"web"}
        before = updated.world.running()
        assert updated.run(after=DAY).outcome == "rolled-back"
        assert updated.world.running() == before
        updated.world.breaks.clear()


NEWER = ("configuration", "taken", "untidy", "failed")
KNOWN_BEFORE = ("since", "step", "generation", "touched", "stopped", "scales", "names", "failing",
                "superseded")  # fmt: skip


# A signal at any call


def without_containers(told: dict[str, Any]) -> dict[str, Any]:
    """A record but for what a way back changes: containers, not what they are made from."""
    services = {name: one | {"containers": ""} for name, one in told["services"].items()}
    return told | {"services": services, "underway": None}


def asks_to_stop(stop: Stop, number: int, signum: int = signal.SIGTERM) -> Callable[..., None]:
    def strike(call: int, name: str) -> None:
        if call == number:
            stop.request(signum)

    return strike


def test_a_signal_at_any_call(updated: Site) -> None:
    names = updated.calls(after=DAY)
    start, before, old = updated.save(), updated.told(), updated.world.running()
    seen = set()
    for number, name in enumerate(names, 1):
        where = f"call {number}: {name}"
        updated.load(start)
        stop = Stop()
        outcome = updated.run(asks_to_stop(stop, number), stop=stop, after=DAY)
        assert isinstance(outcome.error, Interrupted), where
        assert outcome.exit_code == 143, where
        assert outcome.retry == 0, where
        assert updated.known().failed is None, where
        seen.add((outcome.outcome, outcome.touched))
        updated.runs_whole(where)
        if outcome.outcome == "updated":
            assert outcome.standing == "the update is done; only cleaning up was cut short", where
            assert updated.run().outcome == "fresh", where
        else:
            assert updated.world.running() == old, where
            assert updated.world.own_names() == pickle.loads(start.world).own_names(), where
            updated.is_kept_whole(where)
            assert without_containers(updated.told()) == without_containers(before), where
            if outcome.touched:
                assert "what ran before runs again" in outcome.standing, where
            assert updated.run().outcome == "updated", where
        updated.ends_fresh(where)
    assert seen == {("failed", False), ("failed", True), ("updated", True)}


def test_a_signal_at_any_call_of_a_bad_update(bad: Site) -> None:
    """On the way back it changes nothing more."""
    names = bad.calls(after=DAY)
    start, old = bad.save(), bad.world.running()
    codes = set()
    for number, name in enumerate(names, 1):
        where = f"call {number}: {name}"
        bad.load(start)
        stop = Stop()
        outcome = bad.run(asks_to_stop(stop, number, signal.SIGHUP), stop=stop, after=DAY)
        codes.add(outcome.exit_code)
        bad.is_whole(where)
        assert bad.world.running() == old, where
        after = bad.run()
        assert after.outcome == ("deferred" if outcome.exit_code == 3 else "rolled-back"), where
        bad.is_whole(where)
        assert bad.world.running() == old, where
    assert codes == {129, 3}


# A disk that is full, at any write


def test_a_write_that_fails_at_any_time(updated: Site) -> None:
    start, before = updated.save(), updated.told()
    with full_disk(lambda number, path: False) as asked:
        updated.run(after=DAY)
    assert len(asked) > 8
    for number, path in enumerate(asked, 1):
        for fails in (lambda call, _, n=number: call == n, lambda call, _, n=number: call >= n):
            where = f"write {number}: {os.path.basename(path)}"
            updated.load(start)
            with full_disk(fails):
                outcome = updated.run(after=DAY)
            assert outcome.outcome in ("failed", "updated", "rolled-back"), where
            assert outcome.exit_code in (0, 1, 3), where
            running = updated.world.running()
            assert {name: len(found) for name, found in running.items()} == WELL, where
            if not outcome.touched:
                assert updated.told() | {"underway": None} == before, where
                assert running == pickle.loads(start.world).running(), where
            again = updated.run(forced=outcome.exit_code == 3)
            assert again.outcome in ("updated", "fresh", "deferred"), where
            if again.outcome == "deferred":
                later_on(updated, where)
            updated.ends_fresh(where)


def test_a_write_that_fails_at_any_time_of_a_bad_update(bad: Site) -> None:
    start, old = bad.save(), bad.world.running()
    with full_disk(lambda number, path: False) as asked:
        bad.run(after=DAY)
    for number, path in enumerate(asked, 1):
        for fails in (lambda call, _, n=number: call == n, lambda call, _, n=number: call >= n):
            where = f"write {number}: {os.path.basename(path)}"
            bad.load(start)
            with full_disk(fails):
                outcome = bad.run(after=DAY)
            assert outcome.outcome in ("failed", "rolled-back"), where
            assert bad.world.running() == old, where
            assert bad.run().outcome in ("deferred", "rolled-back"), where
            bad.is_whole(where)
            assert bad.world.running() == old, where
            assert bad.run().outcome == "deferred", where
            later_on(bad, where)


# What a state folder that fails costs


def break_write(monkeypatch: pytest.MonkeyPatch, fails: Callable[[Record], bool]) -> None:
    real = record.write

    def write(folder: str, known: Record) -> None:
        if fails(known):
            raise StateError("no space left")
        real(folder, known)

    monkeypatch.setattr(record, "write", write)


def test_a_success_that_cannot_be_written_down(
    updated: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = updated.record()
    break_write(monkeypatch, lambda known: known.underway is None)
    outcome = updated.run(forced=True)
    monkeypatch.undo()
    assert (outcome.outcome, outcome.exit_code) == ("failed", 1)
    assert outcome.touched
    assert "updated and healthy, but that could not be written down" in outcome.standing
    assert updated.record()["built"] == before["built"]
    after = updated.run()
    assert [one.kind for one in after.reasons] == ["interrupted"]
    assert after.outcome == "updated"
    updated.is_sound()


def test_a_step_that_cannot_be_written_down_is_not_taken(
    updated: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, running = updated.told(), updated.world.running()
    names = updated.world.own_names()
    break_write(monkeypatch, lambda known: "bring up" in (known.underway or {}).get("step", ""))
    outcome = updated.run(forced=True)
    monkeypatch.undo()
    assert (outcome.outcome, outcome.exit_code, outcome.touched) == ("failed", 1, False)
    assert (updated.told(), updated.world.running()) == (before, running)
    assert updated.world.own_names() == names


def test_once_containers_are_touched_it_goes_on(
    updated: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_write(monkeypatch, lambda known: "wait until" in (known.underway or {}).get("step", ""))
    assert updated.run(forced=True).outcome == "updated"
    updated.is_sound()


def test_a_record_that_cannot_be_written_after_the_prune_is_a_warning(
    updated: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def fails(known: Record) -> bool:
        written.append(known.underway)
        return written.count(None) > 1

    break_write(monkeypatch, fails)
    outcome = updated.run(forced=True)
    monkeypatch.undo()
    assert outcome.outcome == "updated"
    assert outcome.warnings == ("updated, but not all is cleaned up: no space left",)
    assert updated.run().outcome == "fresh"


# Hooks


def hooked(site: Site, **commands: str) -> Path:
    """Hooks that write down in a file what they are told, then run a command; that file."""
    told = site.folder / "told"
    hooks = {
        name.replace("_", "-"): f'echo "$RBUILD_HOOK $RBUILD_OUTCOME" >>{told}; {command}'
        for name, command in commands.items()
    }
    text = json.dumps({"x-rbuild": {"hooks": hooks}, "services": {}})
    (site.folder / "compose.yml").write_text(text)
    site.world.config["x-rbuild"] = {"hooks": hooks}
    return told


def test_the_hooks_of_a_good_update(updated: Site) -> None:
    told = hooked(updated, before_update="true", after_update="true", on_failure="true")
    assert updated.run(forced=True).outcome == "updated"
    assert told.read_text() == "before-update \nafter-update updated\n"
    updated.ends_fresh()


def test_the_hooks_of_a_bad_update(bad: Site) -> None:
    told = hooked(bad, before_update="true", after_update="true", on_failure="exit 1")
    outcome = bad.run(forced=True)
    assert outcome.outcome == "rolled-back"
    assert told.read_text() == "before-update \non-failure rolled-back\n"
    assert "the hook on-failure failed with exit code 1" in outcome.warnings
    # None of them is run for an update that isn't tried.
    assert bad.run().outcome in ("deferred", "fresh")
    assert len(told.read_text().splitlines()) == 2


def test_a_hook_that_puts_the_update_off(updated: Site) -> None:
    told = hooked(updated, before_update="exit 75", on_failure="true")
    before, start = updated.told(), updated.save()
    outcome = updated.run(after=DAY)
    assert (outcome.outcome, outcome.exit_code, outcome.retry) == ("deferred", 75, 0)
    assert updated.told() == before
    assert unchanged(updated, start)
    # It is no failure, so the next run asks again.
    assert updated.run().outcome == "deferred"
    assert told.read_text() == "before-update \n" * 2


def test_a_hook_that_fails_lets_nothing_be_touched(updated: Site) -> None:
    told = hooked(updated, before_update="echo why; exit 3", on_failure="true")
    start = updated.save()
    outcome = updated.run(after=DAY)
    assert (outcome.outcome, outcome.exit_code, outcome.touched) == ("failed", 1, False)
    assert outcome.error
    assert outcome.error.detail == "why"
    assert unchanged(updated, start)
    assert told.read_text() == "before-update \non-failure failed\n"
    assert outcome.retry == pytest.approx(time.time() + 3600, abs=5)
    assert updated.run().outcome == "deferred"
    assert updated.run(after=3600).outcome == "failed"
    assert len(told.read_text().splitlines()) == 4


def test_a_hook_after_the_update_that_fails_is_a_warning(updated: Site) -> None:
    hooked(updated, after_update="echo why; exit 3")
    outcome = updated.run(forced=True)
    assert (outcome.outcome, outcome.exit_code) == ("updated", 0)
    assert outcome.warnings == ("the hook after-update failed with exit code 3: why",)
    updated.ends_fresh()


def test_an_update_that_is_gone_on_with_runs_no_hook_twice(updated: Site) -> None:
    told = hooked(updated, before_update="true", after_update="true")
    torn = [one for one in updated.moments(forced=True) if one.where.endswith("up: rename")]
    told.unlink()
    updated.load(torn[0])
    assert updated.run().outcome == "updated"
    assert told.read_text() == "after-update updated\n"


# A damaged record


def test_a_damaged_record_is_made_again_from_the_labels(updated: Site) -> None:
    built = updated.known().built
    (updated.state / "record.json").write_bytes(b"garbage")
    outcome = updated.run()
    assert outcome.outcome == "fresh"
    (warning,) = outcome.warnings
    assert "set aside as" in warning
    assert f"built {built}" in warning
    assert updated.known().built == built
    assert len([one for one in os.listdir(updated.state) if "damaged" in one]) == 1
    assert updated.run().warnings == ()


def test_an_engine_that_is_down_costs_no_damaged_record(updated: Site) -> None:
    (updated.state / "record.json").write_bytes(b"garbage")
    outcome = updated.run(fail_at(2, EngineError("down")))
    assert outcome.error
    assert (updated.state / "record.json").read_bytes() == b"garbage"


def test_a_record_of_a_newer_rbuild_is_left_alone(updated: Site) -> None:
    newer = b'{"version": 99}'
    (updated.state / "record.json").write_bytes(newer)
    outcome = updated.run(forced=True)
    assert outcome.exit_code == 1
    assert outcome.error
    assert "newer rbuild" in outcome.error.message
    assert (updated.state / "record.json").read_bytes() == newer


# An error of rbuild's own


class Listener:
    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def add(self, one: Outcome) -> None:
        self.outcomes.append(one)

    def tell(self, name: str, text: str, step: bool) -> None:
        """Nobody listens."""


@pytest.fixture
def signals() -> Iterator[None]:
    """Signal handlers as they were."""
    taken = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {one: signal.getsignal(one) for one in taken}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("at", ["check", "pull", "build", "up: start"])
def test_an_error_in_rbuild_itself(
    updated: Site, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], at: str
) -> None:
    before, names = updated.told(), updated.world.own_names()

    def strike(call: int, name: str) -> None:
        if name == at:
            raise ZeroDivisionError("a bug")

    engine = Fake(updated.world, strike)
    monkeypatch.setattr(crew, "connect", lambda stop, log, held: engine)
    listener = Listener()
    other = locate(str(updated.state), "/")
    run = updated.prepare(forced=True)
    crew.work(
        [updated.project, other],
        run,
        listener,
        jobs=1,
    )
    one, two = listener.outcomes
    assert two.error
    assert "no compose file" in two.error.message
    assert (one.outcome, one.exit_code) == ("failed", 1)
    assert isinstance(one.error, RbuildError)
    assert one.error.message == "an error in rbuild itself"
    assert "please report it" in one.error.hint
    crash = Path(one.error.hint.rpartition(" ")[2])
    assert "ZeroDivisionError: a bug" in crash.read_text()
    assert crash.stat().st_mode & 0o777 == 0o600
    assert capfd.readouterr() == ("", "")
    assert updated.told() | {"underway": None} == before
    if at != "up: start":
        assert updated.world.own_names() == names
    monkeypatch.undo()
    if at == "up: start":
        # It was on its way back.
        assert updated.run().outcome == "rolled-back"
    later_on(updated, "")


class Gone(Listener):
    """Whose terminal has gone."""

    def tell(self, name: str, text: str, step: bool) -> None:
        raise OSError(5, "Input/output error")


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("at", ["", "build", "up: create", "up: start"])
def test_a_terminal_that_goes_away_breaks_nothing_off(
    updated: Site, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    stop = Stop()

    def strike(call: int, name: str) -> None:
        if name == at:
            stop.request(signal.SIGHUP)

    monkeypatch.setattr(crew, "connect", lambda stop, _, __: Fake(updated.world, strike, stop))
    listener = Gone()
    run = updated.prepare(forced=True)
    crew.work([updated.project], run, listener, jobs=1, stop=stop)
    (one,) = listener.outcomes
    assert (one.outcome, one.exit_code) == (("failed", 129) if at else ("updated", 0))
    assert not (updated.known().underway or {}).get("touched")
    later_on(updated, "")


@pytest.mark.usefixtures("signals")
def test_an_error_whose_details_cannot_be_kept(
    updated: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strike(call: int, name: str) -> None:
        raise ZeroDivisionError("a bug")

    engine = Fake(updated.world, strike)
    monkeypatch.setattr(crew, "connect", lambda stop, log, held: engine)
    monkeypatch.setattr(crew, "write_private", lambda path, text: 1 / 0)
    listener = Listener()
    run = updated.prepare(forced=True)
    crew.work(
        [updated.project],
        run,
        listener,
        jobs=1,
    )
    (one,) = listener.outcomes
    assert one.error
    assert "ZeroDivisionError: a bug" in one.error.hint


# Others


def test_a_project_at_work_elsewhere_is_deferred(updated: Site) -> None:
    from rbuild.state.lock import hold

    with hold(updated.project.home):
        outcome = updated.run(forced=True)
        assert (outcome.outcome, outcome.exit_code) == ("deferred", 75)
        assert updated.world.calls == 0
        assert updated.run(forced=True, dry_run=True).outcome == "planned"


def test_a_project_that_was_worked_already_is_no_outcome(updated: Site) -> None:
    means = replace(updated.means(), claim=lambda folder: False)
    assert refresh(updated.project, updated.prepare(forced=True), means) is None


def test_what_was_only_touched_is_not_blamed(site: Site, tmp_path: Path) -> None:
    """A Dockerfile that looks new explains no change of the configuration, linked or not."""
    for name in ("link", "site"):
        if name == "link":
            (tmp_path / name).symlink_to("site")
        site.world.folder = str(tmp_path / name)
        site.project = locate(site.world.folder, "/")
        assert site.run(forced=True).outcome == "updated"
        os.utime(tmp_path / "site" / "Dockerfile")
        site.world.config["services"]["db"]["hostname"] = name
        (reason,) = site.run().reasons
        assert reason == ("changed", "the rendered configuration")


# A run that is at work for long


def worked_late(site: Site, began: float, **more: Any) -> Outcome:
    """A run that began earlier, and now comes to this project."""
    run = site.prepare(0, **more)._replace(started=began)
    site.world.calls = 0
    outcome = refresh(site.project, run, site.means())
    assert outcome
    return outcome


def test_what_another_run_has_updated_meanwhile_is_fresh(updated: Site) -> None:
    updated.clock.sleep(DAY)
    began = time.time()
    assert updated.run(after=1800).outcome == "updated"
    updated.clock.sleep(300)
    assert worked_late(updated, began).outcome == "fresh"


def test_what_has_failed_meanwhile_waits(bad: Site) -> None:
    bad.clock.sleep(DAY)
    began = time.time()
    assert bad.run(after=1800).outcome == "rolled-back"
    bad.clock.sleep(300)
    assert worked_late(bad, began).exit_code == 75
    assert bad.known().failed
    assert bad.known().failed["tries"] == 1


def test_generations_are_in_the_order_in_which_they_were_kept(updated: Site) -> None:
    updated.flags["keep-images"] = 2
    began = time.time()
    first = updated.run(after=1800, forced=True).generation
    updated.clock.sleep(300)
    second = worked_late(updated, began, forced=True).generation
    assert updated.stamps() == [second, first]


# Containers that are about to end


@pytest.mark.parametrize("looks", [0, 1, 1000])
def test_what_is_stopping_does_not_run_though_the_engine_has_forgotten_why(
    updated: Site, looks: int
) -> None:
    old = updated.world.running()
    stops = [at for at, name in enumerate(updated.calls(forced=True), 1) if name == "up: stop"]
    stop = Stop()
    updated.world.forgets_after = looks
    outcome = updated.run(asks_to_stop(stop, stops[-1]), stop=stop, forced=True)
    assert outcome.exit_code == 143
    updated.world.pass_time()
    assert {name: len(one) for name, one in updated.world.running().items()} == {
        name: len(one) for name, one in old.items()
    }
    later_on(updated, "")


def test_what_is_not_stopping_is_not_waited_for_for_ever(updated: Site) -> None:
    old = updated.world.running()
    names = updated.calls(forced=True)
    stop = Stop()
    updated.world.forgets_after = 0
    begun = time.time()
    outcome = updated.run(asks_to_stop(stop, names.index("up: create") + 1), stop=stop, forced=True)
    assert outcome.exit_code == 143
    assert updated.world.running() == old
    assert time.time() - begun - 1000 < 60


# A service that stays on its new image


@pytest.mark.parametrize("how", ["error", "signal"])
@pytest.mark.parametrize("image", ["postgres:16", "postgres:17"])
def test_what_stays_new_runs_whatever_breaks_off(bad: Site, how: str, image: str) -> None:
    bad.world.breaks = set()
    bad.world.registry["postgres:17"] = "sha256:postgres:17"
    bad.world.config["services"]["db"] |= {"x-rbuild": {"rollback": "never"}, "image": image}
    bad.edit("compose.yml", f"services: {{}}\n# {image}\n")
    names = bad.calls(forced=True)
    start = bad.save()
    for number, name in enumerate(names, 1):
        if not name.startswith("up:"):
            continue
        bad.load(start)
        stop = Stop()
        strike = (
            fail_at(number, EngineError("no port"))
            if how == "error"
            else asks_to_stop(stop, number)
        )
        outcome = bad.run(strike, stop=stop, forced=True)
        where = f"call {number}: {name}"
        # What fails before anything is touched is put back.
        assert outcome.exit_code in ((1, 3) if how == "error" else (143,)), where
        assert {key: len(one) for key, one in bad.world.running().items()} == WELL, where


def test_what_stays_new_and_fails_is_not_put_back(updated: Site) -> None:
    """Its data may be the new image's."""
    updated.world.registry["postgres:17"] = "sha256:postgres:17"
    updated.world.broken.add("sha256:postgres:17")
    updated.world.config["services"]["db"] |= {
        "x-rbuild": {"rollback": "never"}, "image": "postgres:17",
    }  # fmt: skip
    updated.edit("compose.yml", "services: {}\n# 17\n")
    assert updated.run(after=60).exit_code == 4
    (db,) = [one for one in updated.world.boxes if one.service == "db"]
    assert (db.image, db.state) == ("sha256:postgres:17", "exited")


# What is torn goes first


def torn(site: Site, where: str = "up: rename") -> Saved:
    """Cut off in `up`, so that a service has no container under its name."""
    return next(one for one in site.moments(after=DAY) if one.where.endswith(where))


def test_what_is_torn_does_not_wait_for_settings_to_be_right(updated: Site) -> None:
    old = updated.world.running()
    updated.load(torn(updated))
    updated.flags["push"] = True
    outcome = updated.run()
    assert outcome.exit_code == 1
    assert outcome.error
    assert "push: true" in outcome.error.message
    assert outcome.standing.startswith("what a cut-off run had torn runs again; ")
    assert updated.world.running() == old


def test_what_is_torn_does_not_wait_for_git(updated: Site) -> None:
    updated.load(torn(updated))
    updated.flags["check"] = ("git",)
    # No checkout at all: that is told when nothing is torn any more.
    assert updated.run().outcome == "updated"
    assert {name: len(one) for name, one in updated.world.running().items()} == WELL


def test_mended_files_are_not_blamed_for_what_an_earlier_run_had_tried(bad: Site) -> None:
    found = [one for one in bad.moments(after=DAY) if one.where.endswith("up: create")]
    for one in found:
        bad.load(one)
        note = bad.known().underway or {}
        if note.get("going") == "back":
            break
    else:
        pytest.fail("never killed on the way back")
    bad.world.breaks.clear()
    bad.edit("Dockerfile", "FROM site-base\nRUN true\n")
    assert bad.run(after=60).outcome == "rolled-back"
    assert bad.run(after=60).outcome == "updated"


def test_an_interruption_is_no_failure_though_the_way_back_fails(updated: Site) -> None:
    names = updated.calls(forced=True)
    number = [at for at, name in enumerate(names, 1) if name == "up: remove"][1]
    stop = Stop()
    full = True

    def strike(call: int, name: str) -> None:
        if call == number:
            stop.request(signal.SIGTERM)
        if full and name == "up: create" and any(one.startswith("back") for one in updated.steps):
            raise EngineError("no space left")

    outcome = updated.run(strike, stop=stop, forced=True)
    assert outcome.exit_code == 4
    assert "the next run tries to go back again" in outcome.warnings
    assert updated.known().failed is None
    assert updated.run(strike).exit_code == 4
    full = False
    updated.run()
    assert {name: len(one) for name, one in updated.world.running().items()} == WELL
    later_on(updated, "")


def test_a_way_back_that_fails_each_time_is_given_up(updated: Site) -> None:
    names = updated.calls(forced=True)
    number = [at for at, name in enumerate(names, 1) if name == "up: remove"][1]
    stop = Stop()

    def strike(call: int, name: str) -> None:
        if call == number:
            stop.request(signal.SIGTERM)
        if name == "up: create" and any(one.startswith("back") for one in updated.steps):
            raise EngineError("no space left")

    updated.run(strike, stop=stop, forced=True)
    codes = [updated.run(strike).exit_code for _ in range(4)]
    assert codes == [4, 4, 75, 75]
    one = updated.run(strike)
    assert one.standing == "an earlier run has left it in need of a person (`rbuild status`)"


def test_a_hook_is_told_of_a_generation_only_while_it_is_kept(bad: Site) -> None:
    told = bad.folder / "told"
    hooks = {"on-failure": f'echo "$RBUILD_OUTCOME $RBUILD_GENERATION." >>{told}'}
    (bad.folder / "compose.yml").write_text(json.dumps({"x-rbuild": {"hooks": hooks}}))
    bad.world.config["x-rbuild"] = {"hooks": hooks}
    outcome = bad.run(forced=True)
    assert outcome.outcome == "rolled-back"
    assert outcome.generation not in bad.stamps()
    assert told.read_text() == "rolled-back .\n"


@pytest.mark.parametrize("text", [None, "FORM site-base\n"])
def test_an_update_that_cannot_be_planned_is_told_once(updated: Site, text: str | None) -> None:
    told = updated.folder / "told"
    hooks = {"on-failure": f'echo "$RBUILD_OUTCOME $RBUILD_ERROR" >>{told}'}
    (updated.folder / "compose.yml").write_text(json.dumps({"x-rbuild": {"hooks": hooks}}))
    updated.world.config["x-rbuild"] = {"hooks": hooks}
    dockerfile = updated.folder / "Dockerfile"
    before = dockerfile.read_text()
    if text is None:
        dockerfile.unlink()
    else:
        dockerfile.write_text(text)
    old = updated.world.running()
    first = updated.run(after=1800)
    assert first.exit_code == 1
    assert first.error
    assert told.read_text() == f"failed {first.error.message}\n"
    assert [updated.run(after=1000).exit_code for _ in range(3)] == [75, 75, 75]
    assert updated.run(forced=True).exit_code == 1
    assert updated.run(after=DAY).exit_code == 1
    assert told.read_text().count("failed") == 3
    assert updated.world.running() == old
    # Mended, it is not waited for; and the same mistake is news again.
    dockerfile.write_text(before + "RUN true\n")
    assert updated.run(after=60).outcome == "updated"
    dockerfile.write_text("FORM site-base\n")
    assert [updated.run(after=60).exit_code for _ in range(2)] == [1, 75]


def test_a_new_project_that_cannot_be_planned_is_told_once(site: Site) -> None:
    (site.folder / "Dockerfile").unlink()
    assert [site.run(after=60).exit_code for _ in range(3)] == [1, 75, 75]
    assert site.run(forced=True).exit_code == 1


def test_a_setting_that_cannot_be_is_told_once(updated: Site) -> None:
    updated.flags["push"] = True
    assert [updated.run(after=60).exit_code for _ in range(3)] == [1, 75, 75]


def test_what_compose_refuses_is_news_by_the_files_and_not_by_its_words(
    updated: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = itertools.cycle(["services.web: no", "services.db: no"])

    def render(self: Fake, target: Any, **_: Any) -> Any:
        raise InputError("Compose refuses this project", detail=next(said))

    updated.edit("compose.yml", "services: {}\n# changed\n")
    monkeypatch.setattr(Fake, "render", render)
    assert [updated.run(after=60).exit_code for _ in range(4)] == [1, 75, 75, 75]
    # Files that are still wrong after an edit are news.
    updated.edit("compose.yml", "services: {}\n# changed again\n")
    assert [updated.run(after=60).exit_code for _ in range(2)] == [1, 75]
    updated.edit(".env", "A=1\n")
    assert [updated.run(after=60).exit_code for _ in range(2)] == [1, 75]


def test_a_new_project_that_cannot_be_read_is_told_once_a_build_period(site: Site) -> None:
    before = broken(site)
    assert [site.run(after=60).exit_code for _ in range(3)] == [1, 75, 75]
    assert site.run(after=60, dry_run=True).exit_code == 1
    assert site.run(after=60, forced=True).exit_code == 1
    mended(site, "services: [ [\n")
    assert [site.run(after=60).exit_code for _ in range(2)] == [1, 75]
    assert site.run(after=DAY).exit_code == 1
    assert len(site.store.all()) == 1
    mended(site, before)
    assert site.run(after=60).outcome == "updated"
    assert [Path(one).name[:5] for one in site.store.all()] == ["site-"]


def test_an_included_file_that_stays_broken_is_news_when_it_is_edited(updated: Site) -> None:
    updated.edit("compose.yml", "include: [other.yml]\n")
    updated.edit("other.yml", "services: [\n")
    assert [updated.run(after=60).exit_code for _ in range(2)] == [1, 75]
    updated.edit("other.yml", "services: [\n# more\n")
    assert [updated.run(after=60).exit_code for _ in range(2)] == [1, 75]


def test_an_engine_that_is_gone_in_between_makes_no_news(updated: Site) -> None:
    (updated.folder / "Dockerfile").unlink()
    assert updated.run(after=60).exit_code == 1

    def gone(call: int, name: str) -> None:
        if name == "check":
            raise EngineError("the engine does not answer")

    assert updated.run(gone, after=60).exit_code == 1
    assert updated.run(after=60).exit_code == 75


def test_a_project_that_cannot_be_read_is_told_once_a_build_period(
    updated: Site,
) -> None:
    compose = updated.folder / "compose.yml"
    before = compose.read_text()
    compose.write_text("services: [\n")
    first = updated.run(after=600)
    assert (first.outcome, first.exit_code) == ("failed", 1)
    assert first.error
    later = [updated.run(after=600) for _ in range(3)]
    assert [one.exit_code for one in later] == [75, 75, 75]
    assert later[0].error
    assert later[0].error.message == first.error.message
    assert updated.run(after=600, forced=True).exit_code == 1
    # Something else is wrong.
    compose.write_text("services:\n  web: [\n")
    assert [updated.run(after=600).exit_code for _ in range(2)] == [1, 75]
    assert [updated.run(after=DAY).exit_code for _ in range(2)] == [1, 1]
    compose.write_text(before)
    assert updated.run(after=600).exit_code == 0
    compose.write_text("services:\n  web: [\n")
    assert updated.run(after=600).exit_code == 1


def test_only_an_up_that_was_broken_off_leaves_something_stopping(bad: Site) -> None:
    """What a verdict ends is not held up by what the engine may have forgotten."""
    names = bad.calls(after=DAY)
    noted: list[bool] = []

    def strike(call: int, name: str) -> None:
        if name == "stopping":
            noted.append((bad.known().underway or {})["stopping"])

    start = bad.save()
    assert bad.run(strike, after=DAY).outcome == "rolled-back"
    assert noted[0] is False
    bad.load(start)
    noted.clear()
    stop = Stop()
    ends = asks_to_stop(stop, names.index("up: create") + 1)

    def both(call: int, name: str) -> None:
        ends(call, name)
        strike(call, name)

    assert bad.run(both, stop=stop, after=DAY).exit_code == 143
    assert noted[0] is True


def test_whoever_asks_for_a_build_gets_one_where_no_way_leads_back(updated: Site) -> None:
    updated.load(torn(updated))
    note = updated.known().underway or {}
    updated.edit("Dockerfile", "FROM site-base\nRUN true\n")
    # `docker image prune -a`
    for one in [one for one in updated.world.names if one.startswith("rbuild/")]:
        updated.world.labels.pop(updated.world.names.pop(one), None)
    assert note["touched"]
    first = updated.run(after=60)
    assert (first.exit_code, "tries to go back again" in str(first.warnings)) == (4, False)
    assert first.error
    outcome = updated.run(after=60, forced=True)
    assert (outcome.outcome, outcome.exit_code) == ("updated", 0)
    assert {name: len(one) for name, one in updated.world.running().items()} == WELL


def test_a_forced_run_builds_where_the_way_back_fails(updated: Site) -> None:
    updated.load(torn(updated))
    updated.edit("Dockerfile", "FROM site-base\nRUN true\n")

    def strike(call: int, name: str) -> None:
        if name == "up: create" and updated.steps[-1].startswith("back"):
            raise EngineError("no space left")

    outcome = updated.run(strike, forced=True)
    assert (outcome.outcome, outcome.exit_code) == ("updated", 0)
    assert "built anew, as asked for" in outcome.warnings[-1]
    assert {name: len(one) for name, one in updated.world.running().items()} == WELL
    later_on(updated, "")


# What is wrong before an update: told, remembered and forgotten


def broken(site: Site) -> str:
    """A person breaks the compose file; gives what stood in it."""
    compose = site.folder / "compose.yml"
    before = compose.read_text()
    compose.write_text("services: [\n")
    return before


def mended(site: Site, text: str) -> None:
    (site.folder / "compose.yml").write_text(text)


def test_the_time_of_a_warning_makes_no_news(
    updated: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def render(self: Fake, target: Any, **_: Any) -> Any:
        warning = f'time="{record.stamp(time.time())}" level=warning msg="version is obsolete"'
        raise InputError("Compose refuses this project", detail=f"{warning}\nno such key")

    updated.edit("compose.yml", "services: {}\n# changed\n")
    monkeypatch.setattr(Fake, "render", render)
    assert [updated.run(after=60).exit_code for _ in range(3)] == [1, 75, 75]


def test_files_that_are_mended_while_a_failure_waits_are_news_when_broken_again(bad: Site) -> None:
    assert bad.run(after=DAY).outcome == "rolled-back"
    before = broken(bad)
    assert [bad.run(after=60).exit_code for _ in range(2)] == [1, 75]
    mended(bad, before)
    assert bad.run(after=60).exit_code == 75
    assert checks.read(str(bad.state)).wrong == ""
    broken(bad)
    assert bad.run(after=60).exit_code == 1


def test_a_record_of_another_name_is_no_memory(updated: Site) -> None:
    """The project was renamed: what it was told under its old name is over."""
    other = Path(updated.store.path("old", str(updated.folder)))
    shutil.copytree(updated.state, other)
    data = json.loads((other / "record.json").read_text())
    (other / "record.json").write_text(
        json.dumps({**data, "name": "old", "built": "2020-01-01T00:00:00.000Z"})
    )
    for _ in range(2):
        before = broken(updated)
        assert [updated.run(after=60).exit_code for _ in range(2)] == [1, 75]
        mended(updated, before)
        assert updated.run(after=60).exit_code == 0


def test_a_service_that_was_down_is_told_of_though_the_error_was(updated: Site) -> None:
    before = broken(updated)
    assert updated.run(after=60).exit_code == 1
    told = checks.read(str(updated.state))
    mended(updated, before)
    updated.load(torn(updated))
    checks.write(str(updated.state), told)
    broken(updated)
    outcome = updated.run(after=60)
    assert (outcome.exit_code, outcome.touched) == (1, True)
    assert outcome.standing.startswith("what a cut-off run had torn runs again; ")
    assert updated.run(after=60).exit_code == 75


def test_a_full_disk_does_not_hide_what_is_wrong(
    updated: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Scene) -> None:
        raise StateError("cannot keep state here: No space left on device")

    monkeypatch.setattr(Scene, "open_log", full)
    hooks = {"on-failure": "true"}
    (updated.folder / "compose.yml").write_text(json.dumps({"x-rbuild": {"hooks": hooks}}))
    updated.world.config["x-rbuild"] = {"hooks": hooks}
    updated.flags["push"] = True
    outcome = updated.run(after=60)
    assert outcome.error
    assert "push: true" in outcome.error.message


def test_a_way_back_that_is_tried_again_waits_for_no_earlier_failure(bad: Site) -> None:
    assert bad.run(after=DAY).outcome == "rolled-back"
    bad.world.breaks.clear()
    bad.edit("Dockerfile", "FROM site-base\nRUN true\n")
    number = bad.calls(after=60).index("up: rename") + 1
    stop = Stop()

    def strike(call: int, name: str) -> None:
        if call == number:
            stop.request(signal.SIGTERM)
        if name.startswith("up: ") and bad.steps[-1].startswith("back"):
            raise EngineError("no space left")

    outcome = bad.run(strike, stop=stop, after=60)
    assert (outcome.exit_code, outcome.retry) == (4, 0.0)
    assert "the next run tries to go back again" in outcome.warnings


def test_what_compose_leaves_on_another_image_is_told(
    updated: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Fake._bring_up

    def leaves_db(fake: Fake, service: str, *more: Any) -> None:
        if service != "db":
            real(fake, service, *more)

    monkeypatch.setattr(Fake, "_bring_up", leaves_db)
    outcome = updated.run(forced=True)
    (line,) = outcome.warnings
    assert line.startswith("db: Compose has left it on another image than its name means now")
    changed = {one["name"] for one in outcome.services if one["changed"]}
    assert changed == {"base", "web", "migrate"}
