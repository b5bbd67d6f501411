"""Plans: what an update would do, from what there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rbuild.compose.bases import Bases, Need
from rbuild.compose.configuration import Configuration, parse
from rbuild.docker.engine import Container, Image, Port
from rbuild.errors import ProjectError
from rbuild.settings import Given
from rbuild.updates import plan
from rbuild.updates.health import Expectation
from rbuild.updates.plan import Observed, Plan
from rbuild.updates.step import Build, Find, Free, Gate, Hook, Keep, Pull, Push, Require, Up

STAMP = "20261121T030000Z"
NOTHING = Bases((), (), ())
BUILT = {"build": {"context": "/p"}}


def configuration(**services: Any) -> Configuration:
    return parse({"name": "p", "services": services}, "/p")


def box(service: str, state: str = "running", **more: Any) -> Container:
    name = more.pop("name", f"p-{service}-1")
    image = more.pop("image", f"sha256:{service}")
    return Container(f"id-{name}", name, service, image, service, state, **more)


def image(name: str, *, digest_of: str | None = None, **more: Any) -> Image:
    digest = f"{name if digest_of is None else digest_of}@sha256:00"
    return Image(f"sha256:{name}", (name,), (digest,) if digest_of != "" else (), **more)


def make(
    services: Mapping[str, Any],
    bases: Bases = NOTHING,
    containers: Sequence[Container] = (),
    images: Mapping[str, Image] | None = None,
    elsewhere: Sequence[str] = (),
    all_services: Sequence[str] | None = None,
    held: Sequence[str] = (),
    digests: Mapping[str, str] | None = None,
    mounted: Mapping[str, Mapping[str, str]] | None = None,
    known: Mapping[str, bool] | None = None,
    moved: Sequence[str] = (),
    **more: Any,
) -> Plan:
    given: dict[str, Any] = {
        "left": {}, "stamp": STAMP, "scales_before": {}, "scales_interrupted": None,
        "names_interrupted": {}, "failing": (), "ended_before": {},
        "compose_files": ["/p/compose.yml"],
    }  # fmt: skip
    observed = Observed(
        containers,
        images or {},
        frozenset(elsewhere),
        None if all_services is None else frozenset(all_services),
        held=frozenset(held),
        digests=digests or {},
        mounted=mounted or {},
        known=known or {},
        moved=frozenset(moved),
    )
    return plan.make(configuration(**services), bases, observed, **{**given, **more})


def only(made: Plan, kind: type[Any]) -> Any:
    (found,) = [step for step in made.steps if isinstance(step, kind)]
    return found


def pulled(made: Plan) -> list[tuple[str, str]]:
    return [(one.reference, one.platform) for one in made.steps if isinstance(one, Pull)]


# The order of things


def test_an_update_in_its_order() -> None:
    bases = Bases(
        (Need("debian:12", "", ("web", "base")),), (("base", "far"), ("web",)), unknown=("far",)
    )
    made = make(
        {
            "web": {**BUILT, "ports": [{"published": "80", "protocol": "tcp"}]},
            "base": BUILT,
            "far": {"build": {"context": "https://x/y.git"}},
            "db": {"image": "postgres:16"},
        },
        bases,
    )
    assert [type(step) for step in made.steps] == [
        Free, Keep, Pull, Build, Build, Build, Pull, Require, Up, Gate,
    ]  # fmt: skip
    assert list(map(str, made.steps)) == [
        "make sure that ports are free: 80",
        "keep the images that run now (0)",
        "pull debian:12 (base of web, base)",
        "build base without cache",
        "build far without cache, bases pulled by the builder",
        "build web without cache",
        "pull postgres:16 (image of a service)",
        "make sure that every image is here",
        "bring up web, base, far, db",
        "wait until they are healthy",
    ]
    assert made.bases == ("docker.io/library/debian:12",)
    assert made.notes == ("far: its build context is no folder here, bases unknown",)
    assert only(made, Up).options == ()
    assert only(made, Require).images[0] == ("web", "p-web")


def test_a_project_of_nothing_only_keeps() -> None:
    assert [type(step) for step in make({}).steps] == [Keep]


# Pulls


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("debian", "debian"),
        ("debian", "docker.io/library/debian:latest"),
        ("debian:latest", "index.docker.io/debian"),
    ],
)
def test_an_image_is_pulled_once_however_it_is_spelled(first: str, second: str) -> None:
    needs = (Need(first, "", ("a",)), Need(second, "", ("b",)))
    made = make({"db": {"image": first}, "cache": {"image": second}}, Bases(needs, (), ()))
    assert pulled(made) == [(first, "")]
    assert len(made.bases) == 1


def test_an_image_is_pulled_once_for_each_platform() -> None:
    needs = (Need("x", "", ("a",)), Need("x", "linux/arm64", ("b",)))
    services = {"c": {"image": "x", "platform": "linux/arm64"}, "d": {"image": "x"}}
    assert pulled(make(services, Bases(needs, (), ()))) == [("x", ""), ("x", "linux/arm64")]


@pytest.mark.parametrize("reference", ["app", "app:latest", "docker.io/library/app"])
def test_what_this_project_builds_is_never_pulled(reference: str) -> None:
    services = {"web": {**BUILT, "image": "app"}, "worker": {"image": reference}}
    made = make(services, Bases((Need(reference, "", ("x",)),), (("web",),), ()))
    assert pulled(made) == []
    assert made.notes == ()


@pytest.mark.parametrize(
    ("found", "elsewhere", "note"),
    [
        (image("app", digest_of=""), (), "app: exists only on this machine, not pulled"),
        # Pulled under another name, and called so here.
        (image("app", digest_of="r.example/app"), (), "app: exists only on this machine"),
        (None, ["docker.io/library/app:latest"], "app: built by another project here"),
        (image("app"), ["docker.io/library/app:latest"], "app: built by another project here"),
        (image("app"), (), ""),
        (image("app", forgets=True), (), ""),
        (None, (), ""),
    ],
)
def test_what_never_came_from_a_registry_is_not_pulled(
    found: Image | None, elsewhere: Sequence[str], note: str
) -> None:
    made = make(
        {"web": {"image": "app"}},
        Bases((Need("app", "", ("x",)),), (), ()),
        images={"app": found} if found else {},
        elsewhere=elsewhere,
    )
    assert pulled(made) == ([] if note else [("app", "")])
    assert len(made.notes) == bool(note)
    assert not note or made.notes[0].startswith(note)


def test_an_image_named_by_its_digest_is_pulled_only_if_absent() -> None:
    name = "x@sha256:00"
    services = {"web": {"image": name}}
    assert pulled(make(services)) == [(name, "")]
    assert pulled(make(services, images={name: image(name, digest_of="x")})) == []


@pytest.mark.parametrize(
    ("policy", "absent", "present"),
    [
        ("", True, True),
        ("always", True, True),
        ("missing", True, False),
        ("if_not_present", True, False),
        ("never", False, False),
        ("build", False, False),
    ],
)
def test_pull_policies(policy: str, absent: bool, present: bool) -> None:
    services = {"db": {"image": "postgres", **({"pull_policy": policy} if policy else {})}}
    assert bool(pulled(make(services))) == absent
    assert bool(pulled(make(services, images={"postgres": image("postgres")}))) == present


MANUAL = {"image": "postgres", "x-rbuild": {"update": "manual"}}


def test_a_manual_service_is_only_pulled_to_be_there_at_all() -> None:
    assert pulled(make({"db": MANUAL})) == [("postgres", "")]
    assert pulled(make({"db": MANUAL}, images={"postgres": image("postgres")})) == []
    assert pulled(make({"db": MANUAL}, left={"db": "manual"})) == []


def test_a_stopped_service_is_pulled() -> None:
    assert pulled(make({"db": {"image": "x"}}, left={"db": "stopped"})) == [("x", "")]


@pytest.mark.parametrize(
    ("here", "record", "known"),
    [
        (image("app"), None, True),
        (image("app", forgets=True), None, None),
        (image("app", forgets=True, pulls=("docker.io/library/app",)), None, True),
        (image("app", forgets=True, pulls=("r.example/app",)), None, None),
        (None, None, None),
        # What is remembered of the name counts more than what is here now.
        (image("app", digest_of=""), True, True),
        (image("app"), False, False),
        (image("app", forgets=True), False, False),
    ],
)
def test_a_pull_knows_whether_a_registry_has_it(
    here: Image | None, record: bool | None, known: bool | None
) -> None:
    asked = {APP: record} if record is not None else {}
    made = make({"web": {"image": "app"}}, images={"app": here} if here else {}, known=asked)
    assert (only(made, Pull).known, only(made, Pull).moved) == (known, False)
    made = make({"web": {"image": "app"}}, known=asked, moved=[APP])
    assert only(made, Pull).moved


APP = "docker.io/library/app:latest"


DEBIAN, POSTGRES = "docker.io/library/debian:12", "docker.io/library/postgres:16"
NEEDS = Bases((Need("debian:12", "", ("web",)),), (("web",),), ())
PAIR: dict[str, Any] = {"web": BUILT, "db": {"image": "postgres:16"}}


def test_what_waits_is_not_pulled() -> None:
    here = {name: image(name) for name in ("debian:12", "postgres:16")}
    made = make(PAIR, NEEDS, images=here, held=[DEBIAN])
    assert pulled(made) == [("postgres:16", "")]
    assert made.notes == ("debian:12: a newer one waits, or could not be asked for; not pulled",)
    # Of two services on it, both stay; an image of a service waits like a base.
    assert pulled(make(PAIR, NEEDS, images=here, held=[DEBIAN, POSTGRES])) == []


def test_what_waits_and_is_gone_is_pulled_as_it_was() -> None:
    made = make(PAIR, NEEDS, held=[DEBIAN], digests={DEBIAN: "sha256:old"})
    assert [(one.reference, one.digest) for one in made.steps if isinstance(one, Pull)] == [
        ("debian:12", "sha256:old"), ("postgres:16", "")
    ]  # fmt: skip
    assert str(made.steps[1]) == "pull debian:12 at sha256:old (base of web)"


def test_what_is_old_enough_is_pulled_by_its_digest() -> None:
    """What a registry has a moment later may be younger."""
    here = {name: image(name) for name in ("debian:12", "postgres:16")}
    made = make(PAIR, NEEDS, images=here, digests={DEBIAN: "sha256:a", POSTGRES: "sha256:b"})
    assert [one.digest for one in made.steps if isinstance(one, Pull)] == ["sha256:a", "sha256:b"]


# Projects whose images are only built, or pushed


def test_without_up_nothing_but_images_is_made() -> None:
    made = make(PAIR, NEEDS, containers=[box("web")], up=False, monitor_period=5)
    assert [type(step) for step in made.steps] == [Keep, Pull, Build]
    assert pulled(made) == [("debian:12", "")]
    assert made.rests == {"base": {DEBIAN: "debian:12"}, "image": {}}


def test_a_hook_comes_before_what_is_only_built() -> None:
    hooks = {"before-update": Given(("dump",), "c")}
    first, second, *_ = make(PAIR, NEEDS, up=False, hooks=hooks).steps
    assert (str(first), type(second)) == ("run the before-update hook", Keep)


def test_what_has_a_name_is_pushed_once_it_is_built() -> None:
    tagged = {"build": {"context": "/p", "tags": ["r.example/base:1", "r.example/web:1"]}}
    twin = {**BUILT, "image": "r.example/web:1"}
    services = {"web": twin, "base": tagged, "plain": BUILT, "db": {"image": "postgres:16"}}
    bases = Bases((), (("base", "plain"), ("web",)), ())
    made = make(services, bases, up=False, push=True)
    assert [type(step) for step in made.steps] == [Keep, Build, Build, Push]
    # Only what somebody gave a name: Compose's own belong to no registry.
    assert only(made, Push).references == ("r.example/base:1", "r.example/web:1")
    assert str(only(made, Push)) == "push r.example/base:1, r.example/web:1"


def test_nothing_is_pushed_where_nothing_was_built_or_nobody_asks() -> None:
    bases = Bases((), (("web",),), ())
    named = {"web": {**BUILT, "image": "r.example/web:1"}}
    for made in (
        make(named, bases, up=False),
        make(named, up=False, push=True),
    ):
        assert not [step for step in made.steps if isinstance(step, Push)]


# What it rests on


def test_what_an_update_rests_on() -> None:
    services = {
        **PAIR,
        "same": {"image": "index.docker.io/postgres:16"},
        "once": {"image": "b", "pull_policy": "missing"},
        "never": {"image": "c", "pull_policy": "never"},
        "hand": {"image": "d", "x-rbuild": {"update": "manual"}},
        "stopped": {"image": "e"},
    }
    made = make(services, NEEDS, left={"stopped": "stopped", "hand": "manual"})
    assert made.rests == {
        "base": {DEBIAN: "debian:12"},
        "image": {POSTGRES: "index.docker.io/postgres:16", "docker.io/library/e:latest": "e"},
    }


# What is left alone


def test_services_under_which_nothing_moved_are_left_if_they_are_there() -> None:
    services = configuration(web=BUILT, db={"image": "x"}, gone={"image": "x"})
    containers = [box("web"), box("db", "exited"), box("other")]
    assert plan.leave_unmoved(services, containers, ["web"]) == {"db": "unmoved"}
    assert plan.leave_unmoved(services, containers, []) == {"web": "unmoved", "db": "unmoved"}


def test_services_under_which_nothing_moved_are_not_touched() -> None:
    made = make(
        PAIR, NEEDS, [box("web"), box("db")], {"postgres:16": image("postgres:16")},
        left={"db": "unmoved"},
    )  # fmt: skip
    assert only(made, Up).services == ("web",)
    assert [one.service for one in only(made, Gate).expectations] == ["web"]
    assert made.left == {"db": "unmoved"}
    assert "image" in made.rests
    assert POSTGRES not in made.rests["image"]


def test_services_under_which_nothing_moved_are_not_pulled() -> None:
    """Their names must go on to mean what they run: a plain `up` would make them anew."""
    here = {"postgres:16": image("postgres:16")}
    made = make(PAIR, NEEDS, [box("web"), box("db")], here, left={"db": "unmoved"})
    assert pulled(made) == [("debian:12", "")]


def left(
    services: Mapping[str, Any], containers: Sequence[Container], *more: Any
) -> dict[str, str]:
    return plan.leave_alone(configuration(**services), containers, *more)


STOPPED = {"restart_policy": "unless-stopped", "exit_code": 143}


@pytest.mark.parametrize(
    ("containers", "expected"),
    [
        ([], {}),
        ([box("web")], {}),
        ([box("web", "exited", **STOPPED)], {"web": "stopped"}),
        ([box("web", "exited", exit_code=1)], {}),
        ([box("web", "exited", **STOPPED), box("web", name="p-web-2")], {}),
        ([box("web", "exited", **STOPPED), box("web", "exited", name="2", **STOPPED)],
         {"web": "stopped"}),
    ],
)  # fmt: skip
def test_what_a_person_stopped(containers: Sequence[Container], expected: dict[str, str]) -> None:
    assert left({"web": {}, "db": {}}, containers) == expected


def test_what_an_interrupted_update_found_stopped_stays_stopped() -> None:
    services: dict[str, Any] = {"web": {}, "db": {}}
    assert left(services, [], ["web"]) == {"web": "stopped"}
    assert left(services, [box("web", "created")], ["web"]) == {"web": "stopped"}
    # Somebody has started it since.
    assert left(services, [box("web")], ["web"]) == {}


def test_what_an_interrupted_update_itself_stopped_does_not_stay_stopped() -> None:
    stopped = [box("web", "exited", **STOPPED), box("db", "exited", **STOPPED)]
    assert left({"web": {}, "db": {}}, stopped, ["db"], True) == {"db": "stopped"}


def test_manual_services_are_left_where_there_is_a_container() -> None:
    services = {"db": MANUAL}
    assert left(services, []) == {}
    assert left(services, [box("db")]) == {"db": "manual"}
    assert left(services, [box("db", "exited", **STOPPED)]) == {"db": "manual"}


def test_manual_services_are_built_only_where_there_is_nothing() -> None:
    services = configuration(db={**BUILT, "x-rbuild": {"update": "manual"}}, web=BUILT)
    assert plan.leave_unbuilt(services, {}, []) == []
    assert plan.leave_unbuilt(services, {}, ["p-db", "p-web"]) == ["db"]
    assert plan.leave_unbuilt(services, {"db": "manual", "web": "stopped"}, []) == ["db"]


def test_services_that_move_are_named_where_others_stay() -> None:
    services: dict[str, Any] = {"web": BUILT, "db": MANUAL, "job": {"image": "j"}}
    made = make(services, containers=[box("db")], left={"db": "manual"})
    up = only(made, Up)
    assert up.services == ("web", "job")
    # Without --no-deps, Compose would start what they depend on.
    assert up.options == ("--no-deps", "--", "web", "job")
    assert [one.service for one in only(made, Gate).expectations] == ["web", "job"]
    assert [name for name, _ in only(made, Require).images] == ["web", "job"]
    assert made.left == {"db": "manual"}


def test_where_all_stay_nothing_is_brought_up() -> None:
    made = make({"web": BUILT}, Bases((), (("web",),), ()), left={"web": "stopped"})
    assert [type(step) for step in made.steps] == [Keep, Build]


# Scales


@pytest.mark.parametrize(
    ("file", "before", "running", "interrupted", "scale"),
    [
        (1, 1, 1, None, None),
        (1, 1, 3, None, 3),
        (3, 3, 1, None, 1),
        (1, None, 3, None, 3),
        # The file's own changed: it wins.
        (2, 1, 3, None, None),
        (2, 1, 1, None, None),
        # Nothing runs: it was taken down.
        (2, 2, 0, None, None),
        # An interrupted update had found it, or not; what is there now tells nothing.
        (1, 1, 1, {"web": 3}, 3),
        (3, 3, 2, {}, None),
        (3, 3, 2, {"web": 3}, None),
        (1, 1, 0, {"web": 2}, 2),
        (2, 1, 0, {"web": 3}, None),
    ],
)
def test_scales(
    file: int, before: int | None, running: int, interrupted: Any, scale: int | None
) -> None:
    made = make(
        {"web": {"scale": file}, "db": {}},
        containers=[box("web", name=f"p-web-{n}") for n in range(running)],
        scales_before={} if before is None else {"web": before},
        scales_interrupted=interrupted,
    )
    assert made.scales == ({} if scale is None else {"web": scale})
    assert only(made, Up).options == (() if scale is None else (f"--scale=web={scale}",))
    assert only(made, Gate).expectations[0].count == (scale or file)


def test_leftovers_are_not_counted() -> None:
    containers = [
        box("web"),
        box("web", "created", name="abc_p-web-1", replaces="abc"),
    ]
    assert make({"web": {}}, containers=containers).scales == {}


# Strangers and orphans

OURS = {"config_files": ("/p/compose.yml", "/p/compose.override.yml")}


def files(root: Path, *names: str) -> list[str]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return [str(root / name) for name in names]


def test_another_stack_of_the_same_name_is_refused(tmp_path: Path) -> None:
    own, theirs = files(tmp_path, "p/compose.yml", "other/p/compose.yml")
    for service in ("web", "theirs"):
        stranger = box(service, config_files=(theirs,))
        with pytest.raises(ProjectError, match="another stack uses the Compose project name 'p'"):
            make({"web": {}}, containers=[stranger], compose_files=[own])


def test_a_stack_whose_files_are_gone_is_no_stranger(tmp_path: Path) -> None:
    (own,) = files(tmp_path, "p/compose.yml")
    moved = box("web", config_files=(f"{tmp_path}/old/compose.yml",))
    make({"web": {}}, containers=[moved], compose_files=[own])


def test_a_link_to_our_file_is_our_file(tmp_path: Path) -> None:
    (own,) = files(tmp_path, "p/compose.yml")
    (tmp_path / "link").symlink_to("p")
    same = box("old", config_files=(f"{tmp_path}/link/compose.yml",))
    made = make({"web": {}}, containers=[same], compose_files=[own], all_services=["web"])
    assert only(made, Up).orphans == (same,)


def test_another_file_of_the_same_folder_may_add_services(tmp_path: Path) -> None:
    own, tools = files(tmp_path, "p/compose.yml", "p/tools.yml")
    container = box("tool", config_files=(tools,))
    made = make({"web": {}}, containers=[container], compose_files=[own], all_services=["web"])
    assert only(made, Up).orphans == ()
    assert made.notes[0] == f"tool: made from {tools}, left alone"
    container = box("web", config_files=(tools,))
    with pytest.raises(ProjectError):
        make({"web": {}}, containers=[container], compose_files=[own])


@pytest.mark.parametrize(
    ("containers", "all_services", "removed"),
    [
        ([], None, ""),
        ([box("web", **OURS)], None, ""),
        ([box("old", **OURS)], ["web"], "old"),
        # A service of an inactive profile is none.
        ([box("tool", **OURS)], ["web", "tool"], ""),
        ([box("tool", **OURS), box("old", **OURS)], ["web", "tool"], "old"),
        ([box("old", config_files=())], ["web"], ""),
        ([box("old", **OURS), box("odd", config_files=("/gone/compose.yml",))], ["web"], "old"),
        # Half of a recreate that was broken off, too.
        ([box("old", name="abc_p-old-1", replaces="abc", **OURS)], ["web"], "old"),
    ],
)
def test_orphans(containers: Any, all_services: Any, removed: str) -> None:
    made = make({"web": {}}, containers=containers, all_services=all_services)
    up = only(made, Up)
    assert [one.service for one in up.orphans] == ([removed] if removed else [])
    assert up.options == up.leftovers == ()


def test_orphans_are_told_of_whether_they_go_or_stay() -> None:
    containers = [box("odd", config_files=()), box("old", **OURS)]
    made = make({"web": {}}, containers=containers, all_services=["web"])
    assert made.notes[0].endswith("not removed: p-odd-1")
    assert "(p-old-1), then bring up web" in str(only(made, Up))


# What is kept


def test_what_runs_is_kept_and_names_are_remembered() -> None:
    containers = [
        box("web"),
        box("db", "exited"),
        box("gone"),
        box("web", "created", name="abc_p-web-1", replaces="abc", image="sha256:new"),
    ]
    images = {"p-web": image("p-web"), "postgres": image("postgres"), "base": image("base")}
    services = {"web": BUILT, "db": {"image": "postgres"}, "new": BUILT}
    keep = only(make(services, containers=containers, images=images), Keep)
    assert keep.images == (
        ("sha256:web", f"rbuild/p/web:{STAMP}"),
        ("sha256:db", f"rbuild/p/db:{STAMP}"),
    )
    names = (("p-web", "sha256:p-web"), ("postgres", "sha256:postgres"), ("p-new", ""))
    assert keep.names == names


def test_of_several_containers_the_one_that_has_run_longest_is_kept() -> None:
    containers = [
        box("web", "exited", name="a", image="sha256:dead", started=1),
        box("web", name="b", image="sha256:young", started=30),
        box("web", name="c", image="sha256:old", started=20),
    ]
    keep = only(make({"web": {}}, containers=containers), Keep)
    assert [found for found, _ in keep.images] == ["sha256:old"]


def test_what_names_meant_before_a_killed_build_is_remembered() -> None:
    services = {"web": BUILT, "db": {"image": "postgres"}}
    images = {"p-web": image("half-built"), "postgres": image("postgres")}
    keep = only(make(services, images=images, names_interrupted={"p-web": "sha256:good"}), Keep)
    assert keep.names == (("p-web", "sha256:good"), ("postgres", "sha256:postgres"))
    # One that the killed build gave for the first time meant nothing.
    keep = only(make(services, images=images, names_interrupted={"p-web": ""}), Keep)
    assert keep.names[0] == ("p-web", "")


# Ports


def test_ports_that_the_project_holds_need_not_be_free() -> None:
    def port(number: str, address: str = "") -> dict[str, str]:
        return {"published": number, "protocol": "tcp", "host_ip": address}

    services = {"web": {"ports": [port("80"), port("443")]}, "db": {"ports": [port("5432")]}}
    containers = [
        box("web", ports=(Port(80),)),
        box("db", "exited", ports=(Port(5432),)),
        box("old", "paused", ports=(Port(443),), **OURS),
    ]
    free = only(make(services, containers=containers), Free)
    assert free.ports == (("db", Port(5432)),)
    assert set(free.own) == {"p-web-1", "p-db-1", "p-old-1"}
    assert free.held == (Port(80), Port(443))
    stays = make(services, containers=containers, left={"db": "stopped"})
    assert not [step for step in stays.steps if isinstance(step, Free)]
    # Nobody takes them from what stays.
    stays = make(services, containers=[*containers[:2], box("odd", ports=(Port(443),))])
    assert only(stays, Free).ports == (("web", Port(443)), ("db", Port(5432)))
    stays = make(services, containers=containers, left={"web": "paused"})
    assert set(only(stays, Free).own) == {"p-db-1", "p-old-1"}


def test_what_others_make_is_looked_for_before_all_but_a_hook_that_may_make_it() -> None:
    services = {
        "web": {"network_mode": "proxy"}, "db": {"network_mode": "proxy", "pid": "container:x"}
    }  # fmt: skip
    made = make(services)
    assert isinstance(made.steps[0], Find)
    assert [(one.thing, one.services) for one in made.steps[0].uses] == [
        ("network proxy", ("web", "db")), ("running container x", ("db",))
    ]  # fmt: skip
    assert str(made.steps[0]).endswith("is there: network proxy, running container x")
    # Not for what is left alone.
    left = make(services, containers=[box("db")], left={"db": "manual"})
    assert [(one.thing, one.services) for one in only(left, Find).uses] == [
        ("network proxy", ("web",))
    ]  # fmt: skip
    services["web"]["ports"] = [{"published": "80"}]  # type: ignore[assignment]
    made = make(services, hooks={"before-update": Given(("dump",), "c")})
    assert [type(step) for step in made.steps[:3]] == [Free, Hook, Find]
    assert not [step for step in make(services, up=False).steps if isinstance(step, Find)]


# What is expected


@pytest.mark.parametrize(
    ("service", "ended", "must", "may"),
    [
        ({}, "unknown", False, True),
        ({"restart": "on-failure"}, "unknown", False, True),
        ({"restart": "on-failure:5"}, "unknown", False, True),
        ({"restart": "always"}, "unknown", False, False),
        ({"restart": "unless-stopped"}, "unknown", False, False),
        # What the last good update saw counts more than the policy.
        ({}, None, False, False),
        ({}, 0, False, True),
        ({"restart": "always"}, 0, False, True),
        ({}, 3, False, False),
        ({"x-rbuild": {"one-shot": True}}, None, True, False),
    ],
)
def test_one_shots(service: dict[str, Any], ended: Any, must: bool, may: bool) -> None:
    before = {} if ended == "unknown" else {"web": ended}
    (expected,) = only(make({"web": service}, ended_before=before), Gate).expectations
    assert expected == Expectation("web", 1, must_end=must, may_end=may)


def test_what_was_failing_and_how_often_it_restarted() -> None:
    containers = [box("web", "restarting", restarts=7), box("db", restarts=2)]
    gate = only(make({"web": {}, "db": {}}, containers=containers, failing=["web"]), Gate)
    assert [one.was_failing for one in gate.expectations] == [True, False]
    assert gate.restarts == {"id-p-web-1": 7, "id-p-db-1": 2}


def test_leftovers_are_handed_to_up() -> None:
    left_over = box("web", "created", name="abc_p-web-1", replaces="abc")
    assert only(make({"web": {}}, containers=[left_over]), Up).leftovers == (left_over,)


# Images that are mounted


DATA = {"type": "image", "source": "data:1", "target": "/data"}


@pytest.mark.parametrize(
    ("service", "here", "fetched"),
    [
        ({}, True, True),
        ({}, False, True),
        ({"pull_policy": "build", **BUILT}, True, True),
        ({"pull_policy": "never"}, True, False),
        ({"pull_policy": "never"}, False, True),
        ({"pull_policy": "missing"}, True, False),
        ({"pull_policy": "missing"}, False, True),
        ({"pull_policy": "daily"}, True, True),
        ({"scale": 0}, False, False),
        ({"x-rbuild": {"update": "manual"}}, True, False),
    ],
)
def test_a_mounted_image_is_pulled(service: Any, here: bool, fetched: bool) -> None:
    images = {"data:1": image("data:1")} if here else {}
    made = make({"web": {"image": "x", **service, "volumes": [DATA, DATA]}}, images=images)
    assert (("data:1", "") in pulled(made)) is fetched
    full = "docker.io/library/data:1"
    policy = service.get("pull_policy", "")
    watched = policy not in ("never", "missing") and "x-rbuild" not in service and fetched
    assert (full in made.rests["image"]) is watched


def test_a_mounted_image_is_required_kept_and_looked_after() -> None:
    images = {"data:1": image("data:1"), "p-other": image("p-other")}
    other = {**DATA, "source": "p-other"}
    made = make(
        {"web": {"image": "x", "volumes": [DATA, other]}, "other": BUILT, "idle": BUILT},
        containers=[box("web")],
        images=images,
        mounted={"web": {"data:1": "sha256:old", "p-other": "sha256:p-other"}, "gone": {"x": "y"}},
    )
    # One that is built here is nobody's to pull.
    assert pulled(made) == [("x", ""), ("data:1", "")]
    assert [step.purpose for step in made.steps if isinstance(step, Pull)][1] == plan.MOUNT
    required = only(made, Require).images
    assert required[:3] == (("web", "x"), ("web", "data:1"), ("web", "p-other"))
    keep = only(made, Keep)
    assert ("data:1", "sha256:data:1") in keep.names
    assert [found for found, _ in keep.images] == ["sha256:web", "sha256:data:1", "sha256:p-other"]
    assert len({tag for _, tag in keep.images}) == 3
    assert only(made, Up).mounted == (
        ("web", "data:1", "sha256:old"), ("web", "p-other", "sha256:p-other")
    )  # fmt: skip
    assert not pulled(make({"web": {"image": "x", "volumes": [DATA]}}, up=False))
