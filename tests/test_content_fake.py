"""Changed content on a fake engine: it reaches the containers, whatever comes in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rbuild.compose.data import NATURE
from rbuild.errors import UpError
from rbuild.report import Outcome
from rbuild.rollbacks import wayback
from rbuild.state import record
from rbuild.updates import gate, steps

from .world import Clock, Site

FILES = ("db.conf", "web.conf", "motd")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A project that was updated well, whose services have files."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", clock.time)
        for module in (gate, steps, wayback):
            patch.setattr(module, "time", clock)
        patch.setattr(record.os, "fsync", lambda descriptor: None)
        site = Site(tmp_path, clock)
        services = site.world.config["services"]
        for name in ("db", "web"):
            source = str(site.folder / f"{name}.conf")
            services[name]["volumes"] = [{"type": "bind", "source": source, "target": "/conf"}]
        services["cache"] = {"image": "postgres:16", "restart": "always",
                             "configs": [{"source": "motd"}]}  # fmt: skip
        services["after"] = {"image": "postgres:16", "restart": "always",
                             "depends_on": {"db": {"restart": True}}}  # fmt: skip
        site.world.config["configs"] = {"motd": {"file": str(site.folder / "motd")}}
        for path in FILES:
            put(site, path, "one\n")
        assert site.run().outcome == "updated"
        yield site


def put(site: Site, path: str, text: str) -> None:
    """A person puts another file in the place of one."""
    (site.folder / "new").write_text(text)
    (site.folder / "new").replace(site.folder / path)


def write(site: Site, path: str, text: str) -> None:
    """The same file gets another content."""
    (site.folder / path).write_text(text)


def append(site: Site, path: str) -> None:
    with (site.folder / path).open("a") as file:
        file.write("a line\n")


def boxes(site: Site) -> dict[str, str]:
    return {one.id: one.service for one in site.world.boxes}


def made_anew(site: Site, before: dict[str, str]) -> set[str]:
    return {service for one, service in boxes(site).items() if one not in before}


def reached(site: Site, where: str = "") -> None:
    """Every container has what its files say now."""
    for one in site.world.boxes:
        now = site.world.files(site.world.config["services"][one.service])
        assert site.world.content[one.id] == now, (where, one.name)


def changed(outcome: Outcome) -> set[str]:
    return {one["name"] for one in outcome.services if one["changed"]}


def data(site: Site) -> dict[str, str]:
    """The files that have turned out to be data."""
    found = {Path(path).name: one[0] for path, one in site.known().data.items()}
    return {name: why for name, why in found.items() if why != NATURE}


# It reaches the containers


@pytest.mark.parametrize(
    ("path", "services"), [("db.conf", {"db", "after"}), ("motd", {"cache"}), ("web.conf", {"web"})]
)
def test_those_that_use_it_are_made_anew(site: Site, path: str, services: set[str]) -> None:
    """And what is to be restarted with them. What is built is made anew in any case."""
    before = boxes(site)
    put(site, path, "two\n")
    outcome = site.run()
    assert [(one.kind, Path(one.detail).name) for one in outcome.reasons] == [("changed", path)]
    reached(site)
    assert made_anew(site, before) == services | {"base", "web", "migrate"}
    assert changed(outcome) == services | {"base", "web", "migrate"}
    assert site.run().outcome == "fresh"


def test_a_service_that_is_made_anew_for_its_image_is_not_made_anew_twice(site: Site) -> None:
    put(site, "web.conf", "two\n")
    calls = site.calls()
    assert calls.count("up: create") == 4, calls


def test_a_death_at_any_moment_does_not_keep_it_from_them(site: Site) -> None:
    put(site, "db.conf", "two\n")
    put(site, "motd", "two\n")
    before = boxes(site)
    for moment in site.moments(after=60):
        site.load(moment)
        made = made_anew(site, before) & {"db", "cache"}
        left = [one for one in site.world.boxes if one.replaces or one.state != "running"]
        at_work = boxes(site)
        outcome = site.run(after=60)
        assert outcome.error is None, moment.where
        reached(site, moment.where)
        if not left:
            # What the killed run has made is not made once more.
            assert not made & made_anew(site, at_work), moment.where
        assert site.run().outcome == "fresh", moment.where


def test_what_fails_is_tried_with_the_content(site: Site) -> None:
    put(site, "db.conf", "two\n")

    def fails(number: int, name: str) -> None:
        if name == "up: rename":
            raise UpError("`up` failed")

    assert site.run(fails).outcome == "rolled-back"
    outcome = site.run(forced=True)
    assert outcome.outcome == "updated"
    reached(site)
    assert "db" in changed(outcome)


def test_a_paused_service_keeps_its_content_for_now(site: Site) -> None:
    (db,) = [one for one in site.world.boxes if one.service == "db"]
    site.world.change(db, state="paused")
    put(site, "db.conf", "two\n")
    outcome = site.run()
    assert "db: paused, and keeps the content that it was started with" in outcome.notes
    assert db.id in boxes(site)
    site.world.change(db, state="running")
    outcome = site.run()
    assert (outcome.outcome, [reason.kind for reason in outcome.reasons]) == (
        "updated", ["started"]
    )  # fmt: skip
    assert db.id not in boxes(site)
    reached(site)


ACTIONS = st.sampled_from(
    [*FILES, "run", "run", "forced", "killed", "fails", "by hand", "pause", "unpause"]
)


@given(st.lists(ACTIONS, max_size=10))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_was_done_a_good_run_brings_it_to_them(site: Site, actions: list[str]) -> None:
    start = site.save()
    try:
        for number, action in enumerate(actions):
            act(site, action, number)
        act(site, "unpause", 0)
        assert site.run(forced=True).error is None
        reached(site)
        assert site.run().outcome == "fresh"
    finally:
        site.load(start)
        for path in FILES:
            put(site, path, "one\n")
        assert site.run(forced=True).error is None


def act(site: Site, action: str, number: int) -> None:
    if action in FILES:
        put(site, action, f"{number}\n")
    elif action in ("run", "forced"):
        site.run(forced=action == "forced")
    elif action == "killed":
        moments = site.moments()
        site.load(moments[number * 7 % len(moments)])
    elif action == "fails":

        def fails(call: int, name: str) -> None:
            if name == "up: start":
                raise UpError("`up` failed")

        site.run(fails)
    elif action == "by hand":
        for one in [one for one in site.world.boxes if one.service == "cache"]:
            site.world.remove(one.id)
    else:
        old, new = ("running", "paused") if action == "pause" else ("paused", "running")
        for one in site.world.boxes:
            if one.service == "db" and one.state == old:
                site.world.change(one, state=new)


# What containers write


def test_what_is_written_at_the_start_is_data(site: Site) -> None:
    site.world.writes = {"db": str(site.folder / "db.conf")}
    outcome = site.run(forced=True)
    assert site.run().outcome == "fresh", "nothing was started"
    assert data(site) == {}
    put(site, "db.conf", "a person's\n")
    outcome = site.run()
    assert "db" in changed(outcome)
    assert data(site) == {"db.conf": "written"}
    assert "db.conf is written by what runs" in outcome.news[0]
    assert site.run().outcome == "fresh"
    write(site, "db.conf", "anything\n")
    assert site.run().outcome == "fresh"
    assert data(site) == {"db.conf": "written"}
    # As long as it is mounted as it was.
    site.world.config["services"]["db"]["volumes"][0]["target"] = "/elsewhere"
    site.world.writes = {}
    site.edit("compose.yml", "services: {} # another\n")
    assert site.run().outcome == "updated"
    write(site, "db.conf", "anything else\n")
    assert site.run().outcome == "updated"
    reached(site)


def test_an_update_that_fails_for_it_is_not_tried_for_ever(site: Site) -> None:
    """Each try, and each way back, starts what writes it."""
    site.world.writes = {name: str(site.folder / f"{name}.conf") for name in ("db", "web")}
    site.world.breaks = {"web"}
    put(site, "db.conf", "two\n")
    site.edit("Dockerfile", "FROM site-base\nRUN true\n")
    outcomes = [site.run().outcome for _ in range(4)]
    assert outcomes == ["rolled-back", "deferred", "deferred", "deferred"]
    assert data(site) == {"db.conf": "written", "web.conf": "written"}


def test_what_is_written_later_ends_after_a_while(site: Site) -> None:
    for number in range(3):
        write(site, "db.conf", f"{number}\n")
        outcome = site.run()
        assert (outcome.outcome, outcome.news) == ("updated", ())
        reached(site)
    write(site, "db.conf", "once more\n")
    outcome = site.run()
    assert outcome.outcome == "fresh"
    assert len(outcome.news) == 1
    assert outcome.news[0] in outcome.notes
    outcome = site.run()
    assert (outcome.outcome, outcome.news) == ("fresh", ())
    assert data(site) == {"db.conf": "written"}


def test_a_dry_run_learns_nothing(site: Site) -> None:
    append(site, "db.conf")
    site.run()
    append(site, "db.conf")
    for _ in range(2):
        outcome = site.run(dry_run=True)
        assert (outcome.outcome, outcome.news) == ("fresh", ())
        assert data(site) == {}
    assert len(site.run().news) == 1


@pytest.mark.parametrize("between", ["rest", "another reason", "another file"])
def test_what_comes_in_between_counts_for_a_person(site: Site, between: str) -> None:
    for number in range(6):
        write(site, "db.conf", f"{number}\n")
        if between == "another file":
            put(site, "motd", f"{number}\n")
        outcome = site.run(forced=between == "another reason")
        assert outcome.outcome == "updated"
        reached(site)
        if between == "rest":
            assert site.run().outcome == "fresh"
    assert data(site) == {}


def test_what_a_person_mends_in_place_is_tried_as_long_as_there_are_looks_between(
    site: Site,
) -> None:
    site.world.breaks = {"web"}
    for number in range(5):
        write(site, "db.conf", f"{number}\n")
        assert site.run().outcome == "rolled-back"
        assert site.run().outcome == "deferred"
    assert data(site) == {}


def test_growth_is_no_growth_where_the_file_is_another_one(site: Site) -> None:
    for _ in range(4):
        put(site, "db.conf", (site.folder / "db.conf").read_text() + "a line\n")
        assert site.run().outcome == "updated"
    assert data(site) == {}


def test_a_config_is_an_input_however_often_it_grows(site: Site) -> None:
    for _ in range(4):
        append(site, "motd")
        assert site.run().outcome == "updated"
        reached(site)


@pytest.mark.parametrize("change", [write, put])
def test_a_file_in_a_folder_that_another_service_writes(
    site: Site, change: Callable[[Site, str, str], None]
) -> None:
    services: Any = site.world.config["services"]
    services["db"]["volumes"][0]["read_only"] = True
    services["web"]["volumes"] = [
        {"type": "bind", "source": str(site.folder), "target": "/all", "read_only": False}
    ]
    site.world.files = lambda service: {}  # type: ignore[method-assign]
    site.edit("compose.yml", "services: {} # another\n")
    assert site.run().outcome == "updated"
    for number in range(3):
        change(site, "db.conf", f"{number}\n")
        assert site.run().outcome == "updated"
    change(site, "db.conf", "once more\n")
    assert site.run().outcome == "fresh"
    assert data(site) == {"db.conf": "written"}
