"""The way back: for whom, under which names, with what; and what is told of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rbuild.compose.configuration import Service
from rbuild.compose.project import Target
from rbuild.docker.engine import Container, Image
from rbuild.rollbacks.rollback import Back, commands, data_at_risk, plan, what_runs
from rbuild.state.generation import UP, Generation, Kept
from rbuild.updates.health import Expectation
from rbuild.updates.step import Drop, Gate, Restore, Start, Step, Up

STAMP = "20261101T030000Z"
TARGET = Target("/srv/site", ("/state/kept.json",), (), "site")
NOW = 1_000_000.0


def tag(service: str) -> str:
    return f"rbuild/site/{service}:{STAMP}"


def kept(service: str, *up: str, **more: Any) -> Kept:
    return Kept(f"old-{service}", tag(service), service, up=up, **more)


def made_of(*services: Kept, **names: str) -> Generation:
    named = {one.reference: one.image for one in services} | names
    return Generation(STAMP, {one.reference: one for one in services}, named)


def box(service: str, id: str, state: str = "running", image: str = "", **more: Any) -> Container:
    image = image or f"new-{service}"
    return Container(id, f"site-{id}", service, image, service, state, **more)


def service(name: str, **more: Any) -> Service:
    return Service(name, name, restart="always", **more)


# What is here after an update: all kept images under our tags, the names on the new ones.
def here(*names: str, **more: str) -> dict[str, Image]:
    found = {tag(one): Image(f"old-{one}") for one in names}
    found |= {f"old-{one}": Image(f"old-{one}") for one in names}
    return found | {one: Image(f"new-{one}") for one in names} | {
        name: Image(image) for name, image in more.items()
    }  # fmt: skip


def back(
    generation: Generation,
    now: Sequence[Container],
    images: Mapping[str, Image] | None = None,
    *,
    services: Sequence[Service] = (),
    made: Sequence[str] | None = None,
    stay: Sequence[str] = (),
) -> Back:
    known = {name: service(name) for name in generation.services}
    return plan(
        generation,
        known | {one.name: one for one in services},
        now,
        here(*generation.services) if images is None else images,
        target=TARGET,
        made=[*known] if made is None else made,
        stay=stay,
    )


def ups(found: Back) -> list[Up]:
    return [one for one in found.steps if isinstance(one, Up)]


def names(found: Back) -> dict[str, str]:
    return {name: image for one in found.steps if isinstance(one, Restore)
            for name, image in one.names}  # fmt: skip


def dropped(found: Back) -> set[str]:
    return {box.id for one in found.steps if isinstance(one, Drop) for box in one.containers}


def awaited(found: Back) -> list[Expectation]:
    (gate,) = [one for one in found.steps if isinstance(one, Gate)]
    return list(gate.expectations)


# Who is brought up again


WEB_DB = made_of(kept("web", "web-1"), kept("db", "db-1"))


def test_only_what_was_made_anew_is_brought_up() -> None:
    now = [box("web", "web-2"), box("db", "db-1", image="old-db")]
    found = back(WEB_DB, now)
    assert found.moving == ("web",)
    assert found.lost == ()
    (up,) = ups(found)
    assert up.services == ("web",)
    assert up.options == ("--no-deps", "--", "web")
    assert up.target == TARGET
    # All of it is judged again: what is intact may have lost what it needs.
    assert [one.service for one in awaited(found)] == ["web", "db"]


def test_what_mounts_an_image_is_made_anew_by_force() -> None:
    generation = made_of(kept("web", "a"), kept("db", "b"))
    now = [box("web", "c"), box("db", "b", image="old-db")]

    def brought_up(way: Back) -> tuple[str, ...]:
        (step,) = [one for one in way.steps if isinstance(one, Up)]
        return step.options

    plain = brought_up(back(generation, now, here("web", "db")))
    assert "--force-recreate" not in plain
    mounting = service("web", mounts=("data",))
    images = here("web", "db", data="new-data") | {"old-data": Image("old-data")}
    generation = replace(generation, names={**generation.names, "data": "old-data"})
    way = back(generation, now, images, services=[mounting])
    assert brought_up(way) == ("--force-recreate", *plain)
    assert any(("data", "old-data") in one.names for one in way.steps if isinstance(one, Restore))


def test_where_nothing_was_touched_nothing_is_brought_up() -> None:
    now = [box("web", "web-1", image="old-web"), box("db", "db-1", image="old-db")]
    found = back(WEB_DB, now)
    assert (found.moving, ups(found), dropped(found)) == ((), [], set())


@pytest.mark.parametrize(
    "now",
    [
        [],
        [box("web", "web-1", "exited", "old-web")],
        [box("web", "web-1", "created", "old-web")],
        [box("web", "web-1", "dead", "old-web")],
        # Half of a recreate: the old one runs, and one to take its place is there.
        [box("web", "web-1", image="old-web"), box("web", "web-2", "created", replaces="web-1")],
        [box("web", "web-1", image="old-web"), box("web", "web-2")],
        [box("web", "web-2", "restarting")],
    ],
)
def test_a_service_that_is_not_as_it_was(now: list[Container]) -> None:
    assert back(made_of(kept("web", "web-1")), now).moving == ("web",)


@pytest.mark.parametrize("state", UP)
def test_a_container_that_is_at_work_is_intact(state: str) -> None:
    assert back(made_of(kept("web", "web-1")), [box("web", "web-1", state)]).moving == ()


def test_one_of_two_that_is_gone_moves_the_service() -> None:
    generation = made_of(kept("web", "web-1", "web-2"))
    found = back(generation, [box("web", "web-1", image="old-web")])
    assert found.moving == ("web",)
    # As many as there were, whatever the file says.
    assert ups(found)[0].options == ("--scale=web=2", "--no-deps", "--", "web")
    assert awaited(found)[0].count == 2


def test_one_that_had_ended_beside_one_that_ran_stays() -> None:
    generation = made_of(kept("web", "web-1", rest=("web-2",)))
    now = [box("web", "web-1", image="old-web"), box("web", "web-2", "exited", "old-web")]
    assert back(generation, now).moving == ()


def test_a_one_off_is_nobody_s() -> None:
    now = [box("web", "web-1", image="old-web"), box("web", "run-1", oneoff=True)]
    found = back(made_of(kept("web", "web-1")), now)
    assert (found.moving, dropped(found)) == ((), set())


@pytest.mark.parametrize("why", ["manual", "paused", "stopped"])
def test_what_updates_leave_alone_the_way_back_leaves_alone(why: str) -> None:
    generation = made_of(kept("web", "web-1"), kept("db", "db-1", left=why))
    found = back(generation, [box("web", "web-2")])
    assert found.moving == ("web",)
    assert [one.service for one in awaited(found)] == ["web"]


def test_what_had_ended_is_not_run_again() -> None:
    """Not a migration, whatever became of its container."""
    generation = made_of(kept("web", "web-1"), kept("migrate", rest=("m-1",)))
    for now in ([box("web", "web-2")], [box("web", "web-2"), box("migrate", "m-2", "exited")]):
        found = back(generation, now)
        assert found.moving == ("web",)
        assert dropped(found) == set()
        assert [one.service for one in awaited(found)] == ["web"]


def test_leftovers_of_a_recreate_are_cleared_even_if_nothing_moves() -> None:
    half = box("web", "web-2", "created", replaces="web-1")
    generation = made_of(kept("web", "web-1", left="manual"), kept("db", "db-1"))
    now = [box("web", "web-1", image="old-web"), half, box("db", "db-1", image="old-db")]
    found = back(generation, now)
    assert found.moving == ()
    (up,) = ups(found)
    assert (up.services, up.leftovers) == ((), (half,))


# What the update made


def test_what_came_with_the_update_goes() -> None:
    now = [box("web", "web-2"), box("cache", "cache-1"), box("late", "late-1", "created")]
    found = back(made_of(kept("web", "web-1")), now, made=["web", "cache", "late"])
    assert dropped(found) == {"cache-1", "late-1"}


def test_what_was_there_or_is_not_the_update_s_stays() -> None:
    generation = made_of(kept("web", "web-1"), kept("migrate", rest=("m-1",)))
    now = [
        box("web", "web-2"),
        box("orphan", "orphan-1"),
        box("migrate", "m-1", "exited"),
        box("cache", "cache-1"),
    ]
    assert dropped(back(generation, now, made=["web", "migrate"])) == set()


def test_a_one_shot_that_is_still_at_it_is_ended_and_one_that_has_ended_stays() -> None:
    generation = made_of(kept("web", "web-1"), kept("migrate", rest=("m-1",)))
    at_it = back(generation, [box("web", "web-2"), box("migrate", "m-2")])
    assert dropped(at_it) == {"m-2"}
    over = back(generation, [box("web", "web-2"), box("migrate", "m-2", "exited", exit_code=1)])
    assert dropped(over) == set()


# Names and images


def test_names_go_back_to_what_ran() -> None:
    generation = made_of(kept("web", "web-1"), kept("db", "db-1"), extra="old-extra")
    now = [box("web", "web-2"), box("db", "db-1", image="old-db")]
    images = here("web", "db") | {"old-extra": Image("old-extra"), "extra": Image("new-extra")}
    assert names(back(generation, now, images)) == {
        "web": tag("web"), "db": tag("db"), "extra": "old-extra"
    }  # fmt: skip


def test_a_name_that_means_it_still_is_left() -> None:
    images = here("web") | {"web": Image("old-web")}
    assert names(back(made_of(kept("web", "web-1")), [box("web", "web-2")], images)) == {}


def test_a_name_goes_back_to_what_its_containers_ran_not_to_what_it_meant() -> None:
    """Somebody had built by hand, and not brought it up."""
    generation = replace(made_of(kept("web", "web-1")), names={"web": "built-by-hand"})
    images = here("web") | {"built-by-hand": Image("built-by-hand")}
    found = back(generation, [box("web", "web-2")], images)
    assert names(found) == {"web": tag("web")}
    # Of one that stays as it is, the name means what it meant.
    intact = back(generation, [box("web", "web-1", image="old-web")], images)
    assert names(intact) == {"web": "built-by-hand"}


def test_an_image_whose_tag_is_gone_is_found_by_its_id() -> None:
    images = {"old-web": Image("old-web"), "web": Image("new-web")}
    found = back(made_of(kept("web", "web-1")), [box("web", "web-2")], images)
    assert found.moving == ("web",)
    assert names(found) == {"web": "old-web"}


def test_a_tag_that_means_something_else_is_not_it() -> None:
    images = {tag("web"): Image("other"), "web": Image("new-web")}
    found = back(made_of(kept("web", "web-1")), [box("web", "web-2")], images)
    assert (found.moving, found.lost, names(found)) == ((), ("web",), {})


def test_what_is_lost_is_told_and_the_rest_goes_back() -> None:
    images = here("db") | {"web": Image("new-web")}
    now = [box("web", "web-2"), box("db", "db-2")]
    found = back(WEB_DB, now, images)
    assert (found.moving, found.lost) == (("db",), ("web",))
    assert [one.options for one in ups(found)] == [("--no-deps", "--", "db")]
    # It is known to be down: the gate is for the others.
    assert [one.service for one in awaited(found)] == ["db"]


def test_a_service_of_which_no_configuration_is_known_is_lost() -> None:
    found = plan(WEB_DB, {"db": service("db")}, [], here("web", "db"), target=TARGET, made=[])
    assert (found.moving, found.lost) == (("db",), ("web",))


def test_what_was_failing_may_fail_again() -> None:
    generation = made_of(kept("web", "web-1", failing=True), kept("db", "db-1"))
    found = back(generation, [])
    assert {one.service: one.was_failing for one in awaited(found)} == {"web": True, "db": False}


# Those that stay new


def test_what_stays_new_keeps_container_and_name() -> None:
    now = [box("web", "web-2"), box("db", "db-2")]
    found = back(WEB_DB, now, stay=["db"])
    assert found.moving == ("web",)
    assert "db" not in names(found)
    assert dropped(found) == set()
    # But it has to run.
    assert [one.service for one in awaited(found)] == ["web", "db"]


def started(found: Back) -> list[str]:
    return [box.id for one in found.steps if isinstance(one, Start) for box in one.containers]


def test_what_stays_new_is_started_where_nobody_has() -> None:
    now = [box("web", "web-1", image="old-web"), box("db", "db-2", "created")]
    found = back(WEB_DB, now, stay=["db"])
    assert (found.moving, ups(found), started(found)) == ((), [], ["db-2"])
    assert "db" not in names(found)
    assert [one.count for one in awaited(found)] == [1, 1]


def test_what_was_stopped_before_there_was_a_new_one_is_started_as_it_was() -> None:
    old = box("db", "a" * 64, "exited")
    generation = made_of(kept("web", "web-1"), kept("db", old.id))
    new = box("db", "db-2", "created", replaces=old.id[:12])
    now = [box("web", "web-1", image="old-web"), old, new]
    found = back(generation, now, stay=["db"])
    assert started(found) == [old.id]
    assert [one.leftovers for one in ups(found)] == [(new,)]
    # Its new container goes on where the old one is gone.
    found = back(generation, [now[0], new], stay=["db"])
    assert started(found) == [new.id]


@pytest.mark.parametrize("old", ["running", "exited"])
def test_what_has_run_on_its_new_image_is_left_to_the_gate(old: str) -> None:
    """Its data may be new."""
    generation = made_of(kept("web", "web-1"), kept("db", "db-1", "db-3"))
    now = [box("web", "web-1"), box("db", "db-2", "exited"), box("db", "db-3", old)]
    found = back(generation, now, stay=["db"])
    assert (ups(found), started(found)) == ([], [])
    assert [one.service for one in awaited(found)] == ["web", "db"]


def test_what_the_update_had_not_come_to_is_not_started() -> None:
    now = [box("web", "web-1"), box("db", "db-1", "exited")]
    assert started(back(WEB_DB, now, made=["web"], stay=["db"])) == []


# Namespaces


def test_who_lives_in_another_s_network_moves_with_it() -> None:
    generation = made_of(
        kept("vpn", "v-1"), kept("web", "w-1"), kept("log", "l-1"), kept("db", "d-1")
    )
    shares = [service("web", shares=("vpn",)), service("log", shares=("web",))]
    now = [
        box("vpn", "v-2"),
        box("web", "w-1", image="old-web"),
        box("log", "l-1", image="old-log"),
        box("db", "d-1", image="old-db"),
    ]
    found = back(generation, now, services=shares)
    assert found.moving == ("vpn", "web", "log")
    # Compose would take their containers for those that are wanted.
    assert ups(found)[0].options == ("--force-recreate", "--no-deps", "--", "vpn", "web", "log")
    assert dropped(found) == set()
    # Nobody moves with one who only lives with others.
    alone = [box("vpn", "v-1", image="old-vpn"), box("web", "w-2"), *now[2:]]
    assert back(generation, alone, services=shares).moving == ("web", "log")
    # Where nobody lives with others, nothing is made anew that need not be.
    assert "--force-recreate" not in ups(back(generation, now))[0].options


def test_a_member_whose_image_is_lost_is_not_dropped() -> None:
    generation = made_of(kept("vpn", "v-1"), kept("web", "w-1"))
    now = [box("vpn", "v-2"), box("web", "w-1", image="old-web")]
    images = here("vpn") | {"web": Image("new-web")}
    found = back(generation, now, images, services=[service("web", shares=("vpn",))])
    assert (found.moving, found.lost, dropped(found)) == (("vpn",), ("web",), set())


# In any case

STATES = ("created", "running", "paused", "restarting", "exited", "dead")
SERVICES = ("a", "b", "c")


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    """A generation, what is there now, and what is here of its images."""
    services = {}
    for name in draw(st.lists(st.sampled_from(SERVICES), unique=True)):
        ids = [f"{name}{number}" for number in range(draw(st.integers(0, 2)))]
        split = draw(st.integers(0, len(ids)))
        services[name] = Kept(
            f"old-{name}", tag(name), name, up=tuple(ids[:split]), rest=tuple(ids[split:]),
            left=draw(st.sampled_from(["", "", "manual", "stopped"])),
            failing=draw(st.booleans()),
        )  # fmt: skip
    all_ids = [one for kept in services.values() for one in (*kept.up, *kept.rest)]
    now = [
        box(id[0], id, draw(st.sampled_from(STATES)),
            f"old-{id[0]}" if id in all_ids else f"new-{id[0]}",
            oneoff=draw(st.sampled_from([False, False, False, True])) and id not in all_ids,
            replaces=draw(st.sampled_from(["", "", "x"])) if id not in all_ids else "")
        for id in draw(st.lists(
            st.sampled_from([f"{name}{n}" for name in (*SERVICES, "x") for n in range(4)]),
            unique=True,
        ))
    ]  # fmt: skip
    known = draw(st.lists(st.sampled_from(SERVICES), unique=True))
    shares = st.sampled_from([(), (), ("a",), ("b",), ("c",)])
    return {
        "generation": Generation(STAMP, services, {n: f"old-{n}" for n in services}),
        "containers": now,
        "services": {n: Service(n, n, restart="always", scale=draw(st.integers(1, 2)),
                                shares=draw(shares)) for n in known},
        "images": {
            name: one
            for name, one in here(*SERVICES).items()
            if draw(st.sampled_from([True, True, True, False]))
        },
        "made": draw(st.lists(st.sampled_from((*SERVICES, "x")), unique=True)),
        "stay": draw(st.lists(st.sampled_from(SERVICES), unique=True, max_size=1)),
    }  # fmt: skip


@given(cases())
@hypothesis_settings(deadline=None, max_examples=200)
def test_in_any_case(case: dict[str, Any]) -> None:
    generation: Generation = case["generation"]
    services, images, stay = case["services"], case["images"], case["stay"]
    found = plan(target=TARGET, **case)
    own = [one for one in case["containers"] if not one.oneoff]

    def touched(name: str) -> bool:
        ids = {one.id: one.state for one in own if one.service == name}
        if name not in case["made"]:
            # What the update did not bring up is only brought back where it is gone.
            return any(one not in {box.id for box in own} for one in generation.services[name].up)
        return any(ids.get(one) not in UP for one in generation.services[name].up) or any(
            id not in generation.containers for id in ids
        )

    for name in (*found.moving, *found.lost):
        # Never what had ended, was left alone or is to stay; never what is intact, unless it
        # lives in the namespace of one that moves.
        assert generation.services[name].up
        assert not generation.services[name].left
        assert name not in stay
        given = services.get(name)
        assert touched(name) or {*given.shares} & {*found.moving, *found.lost}
    for name, one in generation.services.items():
        if one.up and not one.left and name not in stay and touched(name):
            assert (name in found.moving) != (name in found.lost)
    assert not {*found.moving} & {*found.lost}
    for name in found.moving:
        # Under the name that `up` will take stands the image that ran.
        means = names(found).get(services[name].image, services[name].image)
        assert images[means].id == generation.services[name].image
    for name, source in names(found).items():
        assert source in images
        assert name not in {services[one].image for one in stay if one in services}
    gone = dropped(found)
    for one in case["containers"]:
        if one.id in gone:
            assert one.id not in generation.containers
            assert not one.oneoff
            assert one.service in case["made"]
            assert one.service not in stay
    kinds = [type(one) for one in found.steps]
    assert kinds == [kind for kind in (Restore, Drop, Up, Start, Gate) if kind in kinds]
    for up in ups(found):
        assert up.services == found.moving
        assert {"--no-deps", *found.moving} <= {*up.options}
        assert {*up.options} <= {"--no-deps", "--", "--force-recreate", *found.moving} | {
            f"--scale={name}={len(generation.services[name].up)}" for name in found.moving
        }
    ids = {one.id: one for one in own}
    for id in started(found):
        # Only of what stays new, and what never ran, or ran before there was anything new.
        assert ids[id].service in stay
        assert ids[id].state == "created" or not any(
            one.id not in generation.containers and one.state != "created" and not one.replaces
            for one in own
            if one.service == ids[id].service
        )
    assert {one.service: one.count for one in awaited(found)} == {
        name: max(1, sum(box.service == name for box in own)) if name in stay else len(one.up)
        for name, one in generation.services.items()
        if one.up and not one.left and name in {*case["made"], *found.moving, *stay} - {*found.lost}
    }


# What is told


def test_what_no_way_back_undoes() -> None:
    generation = made_of(kept("web", "web-1"), kept("migrate", rest=("m-1",)), kept("db", "db-1"))
    data = ("site_data",)
    now = [
        box("web", "web-2", started=5),
        box("migrate", "m-2", "exited", started=5),
        box("job", "job-1", "exited", started=5, exit_code=0),
        box("db", "db-2", started=5, volumes=data),
        # Of these, nothing is at risk.
        box("cache", "cache-1", "created", volumes=data),
        box("old", "db-1", started=1, volumes=data),
        box("web", "once", started=5, volumes=data, oneoff=True),
    ]
    assert data_at_risk(generation, now) == [
        "migrate: ran once with the new image, and is not undone",
        "job: ran once with the new image, and is not undone",
        "db: its new image may have written to site_data, which is not taken back",
    ]


def test_what_runs_and_what_does_not() -> None:
    now = [
        box("web", "web-1", started=1),
        box("db", "db-1", "exited"),
        box("job", "job-1", "created"),
        box("web", "web-2", "exited"),
        box("once", "once-1", oneoff=True),
    ]
    assert what_runs(now, NOW) == "running now: web; not running: db (exited), job (created)"
    assert what_runs([], NOW) == "running now: nothing"
    assert what_runs(now[:1], NOW) == "running now: web"


def test_what_runs_for_a_moment_between_two_crashes_does_not_run() -> None:
    looping = box("web", "web-1", started=NOW - 2, restarts=4)
    sick = box("db", "db-1", started=1, health="unhealthy")
    assert what_runs([looping, sick], NOW) == (
        "running now: nothing; not running: web (restarting), db (unhealthy)"
    )
    # One that has run for long since is well.
    assert what_runs([looping], NOW + 3600) == "running now: web"


def test_what_a_person_would_type() -> None:
    steps: list[Step] = [
        Restore((("web", tag("web")),)),
        Drop((box("cache", "cache-1"),)),
        Up(("web",), ("--scale=web=2", "--no-deps", "--", "web"), target=TARGET),
        Gate((), {}),
    ]
    assert commands(steps) == [
        f"docker tag {tag('web')} web",
        "docker rm -f site-cache-1",
        "cd /srv/site && docker compose -f /state/kept.json -p site --project-directory "
        "/srv/site up -d --no-build --pull never --scale=web=2 --no-deps -- web",
    ]


def test_what_a_person_would_type_where_the_files_say_the_same() -> None:
    target = Target("/srv/my site", (), ("/srv/my site/compose.yml",))
    assert commands([Up(("web",), ("--no-deps", "--", "web"), target=target)]) == [
        "cd '/srv/my site' && docker compose up -d --no-build --pull never --no-deps -- web"
    ]
    assert commands([Up((), ("--no-deps",), target=target)]) == []
