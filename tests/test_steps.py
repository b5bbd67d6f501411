"""Steps on a fake engine and a fake clock: what they ask for, and what their failures say."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rbuild.compose.externals import External
from rbuild.compose.project import Target
from rbuild.docker.engine import Container, Healthcheck, Image, Port
from rbuild.docker.reference import qualified
from rbuild.errors import (
    AbsentError,
    Deferred,
    EngineError,
    HookError,
    PullError,
    UpError,
)
from rbuild.process import Log
from rbuild.updates import gate, steps
from rbuild.updates.health import Expectation
from rbuild.updates.step import (
    Build,
    Drop,
    Find,
    Free,
    Gate,
    Hook,
    Keep,
    Pull,
    Require,
    Restore,
    Up,
    Watch,
)
from rbuild.updates.steps import is_taken, put_back, run

from .fakes import TARGET, Clock, Fake, box, work


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(steps, "time", clock)
    return clock


# Build, pull, require


def test_a_build() -> None:
    engine = Fake()
    engine.found = {"p-a": Image("new-a"), "p-b": Image("new-b")}
    job = work(
        engine,
        {"a": {"build": {"context": "/a"}}, "b": {"build": {"context": "/b"}}},
        build_timeout=7,
    )
    run(Build(("a", "b"), pull=True), job)
    assert job.made == ["new-a", "new-b"]
    assert engine.asked == [("build", TARGET, "/state/labels.json", ("a", "b"), True, 7)]


def test_a_pull_that_moves_a_name_notes_what_it_superseded() -> None:
    engine = Fake(found={"x": Image("old")})
    engine.pulls = lambda: engine.found.update(x=Image("new"))
    job = work(engine, build_timeout=9)
    run(Pull("x", "linux/arm64", "base of web"), job)
    assert engine.asked == [("pull", "x", "linux/arm64", 9)]
    assert job.superseded == ["old"]


@pytest.mark.parametrize(
    ("new", "superseded"),
    [("newer", ["between", "old"]), ("old", ["between"]), ("between", ["old"])],
)
def test_a_pull_after_one_of_a_run_that_was_killed(new: str, superseded: list[str]) -> None:
    """Nobody else knows of what that one has brought."""
    engine = Fake(found={"x": Image("between")})
    engine.pulls = lambda: engine.found.update(x=Image(new))
    job = work(engine)
    job.names = {"x": "old"}
    run(Pull("x", "", "image of a service"), job)
    assert job.superseded == superseded
    assert job.pulled == [new]


@pytest.mark.parametrize("before", [{}, {"x": Image("same")}])
def test_a_pull_that_moves_nothing(before: dict[str, Image]) -> None:
    engine = Fake(found=dict(before))
    engine.pulls = lambda: engine.found.update(x=Image("same"))
    job = work(engine)
    run(Pull("x", "", "base of web"), job)
    assert job.superseded == []


def raising(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_a_pull_that_fails_says_what_it_was_for() -> None:
    engine = Fake(pulls=raising(PullError("x: cannot be pulled", hint="h", detail="d")))
    with pytest.raises(PullError) as caught:
        run(Pull("x", "", "base of web"), work(engine))
    error = caught.value
    assert error.message == "x: cannot be pulled (base of web)"
    assert (error.hint, error.detail) == ("h", "d")


OWN, HUBS = "r.example/x", "me/x"


@pytest.mark.parametrize(
    ("known", "name", "answer", "told"),
    [
        # Never asked for, and here: what no registry has is used as it is.
        (None, OWN, "absent", "note"), (None, HUBS, "absent", "note"),
        (None, OWN, "denied", "warning"), (None, HUBS, "denied", "note"),
        (None, OWN, "silent", ""), (None, HUBS, "silent", "note"),
        (None, OWN, "", ""), (None, HUBS, "", ""),
        # The engine knows of repositories, not of tags.
        (True, OWN, "absent", "note"), (True, HUBS, "absent", "note"),
        (True, OWN, "denied", ""), (True, HUBS, "silent", ""), (True, HUBS, "", ""),
        (False, OWN, "absent", "note"), (False, OWN, "denied", "note"),
        (False, OWN, "silent", "note"), (False, HUBS, "silent", "note"), (False, OWN, "", ""),
    ],
)  # fmt: skip
def test_an_image_that_may_be_only_here(
    known: bool | None, name: str, answer: str, told: str
) -> None:
    job = work(Fake(found={name: Image("i")}, pulls=raising(PullError("no", answer=answer))))
    pull = Pull(name, "", "base of web", known=known)
    if told:
        run(pull, job)
        (line,) = job.notes if told == "note" else job.warnings
        assert line.startswith(f"{name}: not pulled, used as it is here: ")
        assert job.notes + job.warnings == [line]
        assert job.answers == {qualified(name): False}
    else:
        with pytest.raises(PullError):
            run(pull, job)
        assert job.answers == {}


@pytest.mark.parametrize("known", [True, None])
def test_what_is_not_here_or_has_just_moved_must_be_pulled(known: bool | None) -> None:
    failing = raising(PullError("no", answer="absent"))
    with pytest.raises(PullError):
        run(Pull("x", "", "base of web", known=known), work(Fake(pulls=failing)))
    with pytest.raises(PullError):
        run(Pull("x", "", "base of web", known=known, moved=True),
            work(Fake(found={"x": Image("i")}, pulls=failing)))  # fmt: skip


@pytest.mark.parametrize("here", [Image("i"), None])
def test_a_tag_that_is_gone_from_its_registry(here: Image | None) -> None:
    gone = raising(PullError("no", answer="absent"))
    job = work(Fake(found={"x": here} if here else {}, pulls=gone))
    pull = Pull("x", "", "base of web", known=True, had=True)
    if here:
        run(pull, job)
    else:
        with pytest.raises(PullError):
            run(pull, job)
    assert (job.vanished, job.notes, job.answers) == ({"x": True} if here else {}, [], {})
    job.engine.pulls = lambda: None  # type: ignore[attr-defined]
    run(pull, job)
    assert job.vanished == {"x": False}


def test_an_image_that_is_not_here() -> None:
    job = work(Fake(found={"x": Image("i")}))
    run(Require((("web", "x"),)), job)
    with pytest.raises(EngineError, match="service db: its image y is not here"):
        run(Require((("web", "x"), ("db", "y"))), job)


# Keep and put back

KEPT = "rbuild/p/web:20261121T030000Z"


def test_what_runs_is_tagged() -> None:
    engine = Fake(found={"p-web": Image("sha256:1")})
    job = work(engine)
    run(Keep((("sha256:1", KEPT), ("sha256:gone", "rbuild/p/db:20261121T030000Z")), ()), job)
    assert engine.asked == [("tag", "sha256:1", KEPT)]
    assert job.kept == [KEPT]


def test_what_an_earlier_try_kept_stays() -> None:
    engine = Fake(found={"p-web": Image("sha256:2"), KEPT: Image("sha256:1")})
    job = work(engine)
    run(Keep((("sha256:2", KEPT),), ()), job)
    assert engine.asked == []
    assert job.kept == []


def test_names_go_back_and_our_tags_go() -> None:
    engine = Fake(found={"moved": Image("new"), "same": Image("old-2"), "first": Image("new-4")})
    names = (("moved", "old-1"), ("same", "old-2"), ("gone", "old-3"), ("first", ""), ("none", ""))
    problems, bared = put_back(Keep((), names), [KEPT], engine)  # type: ignore[arg-type]
    assert (problems, bared) == ([], ["new", "new-4"])
    assert engine.asked == [
        ("tag", "old-1", "moved"), ("tag", "old-3", "gone"), ("untag", "first"), ("untag", KEPT)
    ]  # fmt: skip


def test_a_name_that_another_project_counts_on_by_now_stays() -> None:
    engine = Fake(found={"postgres:16": Image("new")}, used={"new"})
    assert put_back(Keep((), (("postgres:16", "old"),)), [], engine) == ([], [])  # type: ignore[arg-type]
    assert engine.asked == []


def test_what_cannot_be_put_back_is_told_and_the_rest_still_is() -> None:
    engine = Fake(untaggable="one")
    names = (("one", "old-1"), ("two", "old-2"))
    problems, _ = put_back(Keep((), names), [KEPT], engine)  # type: ignore[arg-type]
    assert problems == ["cannot be tagged"]
    assert engine.asked == [("tag", "old-2", "two"), ("untag", KEPT)]


# What is mounted


def test_where_a_mounted_image_has_moved_containers_are_made_anew() -> None:
    engine = Fake(found={"x": Image("x"), "data": Image("new"), "same": Image("same")})
    engine.shown = lambda: [box(service="a"), box(service="b")]
    job = work(engine, {"a": {}, "b": {}, "c": {}})
    run(Require((("a", "x"), ("a", "data"), ("b", "same"))), job)
    assert job.required == {"x": "x", "data": "new", "same": "same"}
    mounted = (("a", "data", "old"), ("b", "same", "same"), ("c", "data", "old"))
    options = ("--scale=a=2", "--scale=b=2")
    run(Up(("a", "b", "c"), options, mounted=mounted), job)
    made, brought_up = [options for kind, _, options, _ in engine.asked if kind == "up"]
    assert made == ("--no-start", "--force-recreate", "--scale=a=2", "--", "a")
    assert brought_up == options
    # Where nothing has moved, Compose decides.
    engine.asked.clear()
    run(Up(("a", "b"), (), mounted=mounted[1:]), job)
    assert [one[2] for one in engine.asked if one[0] == "up"] == [()]


# Ports


def test_a_port_that_another_container_holds() -> None:
    engine = Fake(holders={80: ["mine", "theirs"], 81: ["mine"]})
    run(Free((("web", Port(81)),), own=("mine",)), work(engine))
    with pytest.raises(EngineError, match="service web: port 80 is taken already, by container th"):
        run(Free((("web", Port(81)), ("web", Port(80))), own=("mine",)), work(engine))


@pytest.mark.parametrize("address", ["", "127.0.0.1", "0.0.0.0", "::1", "::"])
def test_a_port_that_a_program_holds(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as server:
        server.bind((address, 0))
        number = server.getsockname()[1]
        port = Port(number, address)
        # Bound, but nobody listens: as good as taken for the engine's own bind.
        server.listen()
        assert is_taken(port)
        job = work(Fake())
        run(Free((("web", port),)), job)  # a remote engine's ports are its own
        job.engine_here = True
        with pytest.raises(EngineError, match="by a program on this machine"):
            run(Free((("web", port),)), job)
        # What the project itself holds, `up` takes over.
        run(Free((("web", port),), held=(Port(number),)), job)
    assert not is_taken(port)


def test_a_udp_port() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        number = server.getsockname()[1]
        assert is_taken(Port(number, "127.0.0.1", "udp"))
        assert not is_taken(Port(number, "127.0.0.1", "tcp"))
        assert not is_taken(Port(number, "127.0.0.1", "sctp"))


# What others make

FRONT = External("network", "proxy", ("web", "db"), "networks.front")
VPN = External("running container", "vpn", ("web",), "services.web.network_mode")


def test_what_is_missing_is_named_with_what_to_do() -> None:
    run(Find((FRONT, VPN)), work(Fake()))
    with pytest.raises(AbsentError) as caught:
        run(Find((FRONT, VPN)), work(Fake(missing={FRONT.thing, VPN.thing})))
    error = caught.value
    assert error.message == "services web, db: network proxy (networks.front) is not there"
    assert error.detail == "service web: container vpn (services.web.network_mode) does not run"
    assert "`docker network create proxy; docker start vpn`" in error.hint
    assert error.things == (FRONT.thing, VPN.thing)


# Up


def test_up_gets_its_options_and_its_limit(clock: Clock) -> None:
    engine = Fake()
    job = work(engine, up_timeout_period=30)
    run(Up(("web",), ("--scale=web=2",)), job)
    assert engine.asked == [("up", TARGET, ("--scale=web=2",), 30)]
    assert job.touched
    assert (job.deadline, job.limit) == (clock.now + 30, 30)


SLOW = Healthcheck(start_period=100, interval=10, timeout=5, retries=2)


@pytest.mark.parametrize(
    ("flags", "file", "image", "limit"),
    [
        ({}, {}, None, 60),
        # The old container's time to stop, 10 s by default, comes before all.
        ({}, {}, SLOW, 140),
        (
            {},
            {"healthcheck": {"start_period": "90s", "interval": "1s", "timeout": "1s"}},
            None,
            106,
        ),
        ({}, {"stop_grace_period": "1m15s"}, None, 75),
        ({}, {"healthcheck": {"disable": True}}, SLOW, 60),
        # What somebody set is not stretched, but a healthy service can always meet it.
        ({"up_timeout_period": 60}, {}, SLOW, 60),
        ({"up_timeout_period": 1}, {}, SLOW, 5 + steps.SPARE),
        ({"up_timeout_period": 1, "settle_period": 20}, {}, None, 20 + steps.SPARE),
        ({"settle_period": 100}, {}, None, 100 + steps.SPARE),
    ],
)
def test_the_time_limit(flags: Any, file: Any, image: Healthcheck | None, limit: float) -> None:
    engine = Fake(found={"p-web": Image("i", healthcheck=image)})
    job = work(engine, {"web": file}, **flags)
    run(Up(("web",), ()), job)
    assert job.limit == limit
    assert engine.asked[-1][-1] == limit


def test_a_failing_up_that_changed_nothing_has_touched_nothing() -> None:
    engine = Fake(shown=lambda: [box()], ups=raising(UpError("`up` failed", detail="no network")))
    job = work(engine)
    with pytest.raises(UpError) as caught:
        run(Up(("web",), ()), job)
    assert not job.touched
    assert caught.value.hint == ""
    # What a service uses that is left alone, Compose may look for as well.
    job.configuration = replace(job.configuration, uses=(FRONT,))
    engine.missing = {FRONT.thing}
    with pytest.raises(AbsentError):
        run(Up(("web",), ()), job)


SHARED = {
    "web": {}, "app": {"network_mode": "service:web", "depends_on": {"web": None}},
    "aside": {"network_mode": "service:web", "depends_on": {"web": None}},
}  # fmt: skip


def member(service: str, owner: str, **more: Any) -> Container:
    return box(service=service, started=1, namespaces=(("network", owner),), **more)


def ups(engine: Fake) -> list[tuple[str, ...]]:
    """The options of each `up`."""
    return [one[2] for one in engine.asked if one[0] == "up"]


def test_what_up_has_cut_off_is_made_anew(clock: Clock) -> None:
    boxes = [box(id="old"), member("app", "old"), member("aside", "old")]
    engine = Fake(found={"p-aside": Image("sha256:1")}, shown=lambda: boxes)

    def mended() -> None:
        # The other can't be helped; that ends as well.
        boxes[1] = member("app", "new", id="app-2")

    def up() -> None:
        boxes[0] = box(id="new")
        engine.ups = mended

    engine.ups = up
    options = ("--scale=app=1", "--no-deps", "--", "web", "app")
    run(Up(("web", "app"), options), work(engine, SHARED))
    assert ups(engine) == [
        options,
        ("--scale=app=1", "--force-recreate", "--no-deps", "--", "app", "aside"),
        ("--force-recreate", "--no-deps", "--", "aside"),
    ]


def test_what_is_left_alone_gets_no_other_image_for_it(clock: Clock) -> None:
    engine = Fake(found={"p-aside": Image("sha256:2")})
    boxes = [box(), member("aside", "old"), member("app", "p-web-1-id")]
    engine.shown = lambda: boxes
    run(Up(("web",), ()), work(engine, SHARED))
    assert ups(engine) == [()]
    boxes[1] = member("aside", "old", state="paused")
    engine.found = {"p-aside": Image("sha256:1")}
    run(Up(("web",), ()), work(engine, SHARED))
    assert ups(engine) == [(), ()]


def test_who_lives_in_a_foreign_container(clock: Clock) -> None:
    services = {"web": {"pid": "container:other"}}
    boxes = [box(state="exited", started=5, namespaces=(("pid", "other-id"),))]
    engine = Fake(shown=lambda: boxes)
    engine.ups = lambda: boxes.__setitem__(
        0, box(id="web-2", started=7, namespaces=(("pid", "other-2"),))
    )
    engine.elsewhere = [box(name="other", id="other-2", started=6)]
    run(Up(("web",), ()), work(engine, services))
    # It can't be started as it is.
    assert ups(engine) == [("--no-start", "--force-recreate", "--", "web"), ()]


def test_a_failing_up_that_has_told_something_to_stop_has_touched(clock: Clock) -> None:
    """What is about to end still shows as running."""
    engine = Fake(shown=lambda: [box()], ups=raising(UpError("`up` failed")))
    engine.told_to_stop = frozenset({"p-web-1-id"})
    job = work(engine)
    job.clock_ahead = 50.0
    begun = clock.time()
    with pytest.raises(UpError):
        run(Up(("web",), ()), job)
    assert job.touched
    # Since `up` began, by the engine's clock.
    assert job.since == begun + 50
    assert ("stopping", begun + 50) in engine.asked


def test_an_up_that_was_cut_off_says_what_may_come_yet() -> None:
    looks = iter([[box()]])
    engine = Fake(ups=raising(UpError("`up` did not end within 60 s", timed_out=True)))
    engine.shown = lambda: next(looks, [box("exited", exit_code=137)])
    with pytest.raises(UpError) as caught:
        run(Up(("web",), ()), work(engine))
    assert caught.value.hint == "what Compose had asked to stop may stop yet"


def test_up_has_touched_what_was_cleared_for_it() -> None:
    heir = box("created", name="0123_p-web-1", replaces="gone")
    engine = Fake(shown=lambda: [heir], ups=raising(UpError("`up` failed")))
    job = work(engine)
    with pytest.raises(UpError):
        run(Up(("web",), (), leftovers=(heir,)), job)
    assert job.touched


def test_an_up_of_nothing_only_clears() -> None:
    old = box()
    beside = box("created", name="p-web-1-id_p-web-1", replaces=old.id[:12])
    engine = Fake(shown=lambda: [old, beside])
    run(Up((), ("--no-deps",), (beside,)), work(engine))
    assert engine.asked == [("remove", beside.id)]


def test_a_way_back_is_brought_up_from_its_own_files() -> None:
    engine, target = Fake(), Target("/p", ("/state/kept.json",), (), "p")
    step = Up(("web",), ("--no-deps", "--", "web"), target=target)
    run(step, work(engine))
    assert engine.asked[-1][:3] == ("up", target, ("--no-deps", "--", "web"))
    assert str(step) == "bring up web as they were"


NEWER = (("p-db", "sha256:db"),)


@pytest.mark.parametrize(
    ("image", "options"),
    [
        ("sha256:db", ("plain",)),
        ("sha256:db-2", ("--no-deps", "--", "web")),
        ("", ("--no-deps", "--", "web")),
    ],
)
def test_up_keeps_apart_from_what_is_left_if_its_image_has_moved(
    image: str, options: tuple[str, ...]
) -> None:
    engine = Fake(found={"p-db": Image(image)} if image else {})
    run(Up(("web",), ("plain",), apart=("--no-deps", "--", "web"), beside=NEWER), work(engine))
    assert engine.asked[-1][2] == options


def test_what_waits_for_a_service_that_was_failing_is_left_to_the_gate() -> None:
    boxes = [box(service="db", health="unhealthy"), box("created", "web")]
    engine = Fake(ups=raising(UpError("`up` failed", detail="x\ndb is unhealthy")))
    looks = iter([[box()]])
    engine.shown = lambda: next(looks, boxes)
    job = work(engine, {"web": {}, "db": {}})
    run(Up(("web", "db"), (), failing=("db", "web")), job)
    assert job.warnings == ["`up` failed: db is unhealthy"]
    looks = iter([[box()]])
    with pytest.raises(UpError):
        run(Up(("web", "db"), (), failing=("web",)), job)


def test_a_failing_up_shows_what_fell() -> None:
    boxes = [
        box("exited", exit_code=3),
        box(service="db", health="unhealthy", healthcheck_output="refused"),
        box("exited", "job"),
        box("exited", "manual", exit_code=1),
        box("created", "late"),
    ]
    engine = Fake(ups=raising(UpError("`up` failed", detail="dependency")))
    looks = iter([[box()]])
    engine.shown = lambda: next(looks, boxes)
    job = work(engine, {name: {} for name in ("web", "db", "job", "late", "manual")})
    with pytest.raises(UpError) as caught:
        run(Up(("web", "db", "job", "late"), ()), job)
    error = caught.value
    assert job.touched
    assert error.message == "`up` failed"
    assert error.detail.splitlines() == [
        "dependency",
        "web: exited with code 3",
        "  p-web-1 | first of p-web-1-id",
        "  p-web-1 | last of p-web-1-id",
        "db: is unhealthy",
        "  healthcheck said: refused",
        "  p-db-1 | first of p-db-1-id",
        "  p-db-1 | last of p-db-1-id",
    ]
    assert error.hint == ""


def test_leftovers_are_cleared_before_up() -> None:
    old = box()
    beside = box("created", name="p-web-1-id_p-web-1", replaces=old.id[:12])
    heir = box("created", name="0123_p-db-1", replaces="gone")
    engine = Fake(shown=lambda: [old, beside, heir])
    run(Up(("web",), (), (beside, heir)), work(engine))
    assert [one[0] for one in engine.asked] == ["remove", "rename", "up"]
    assert engine.asked[0] == ("remove", beside.id)
    assert engine.asked[1] == ("rename", heir.id, "p-db-1")


# The way back


def test_kept_images_get_their_names_back() -> None:
    engine = Fake()
    run(Restore((("p-web", KEPT), ("postgres:16", "sha256:5"))), work(engine))
    assert engine.asked == [("tag", KEPT, "p-web"), ("tag", "sha256:5", "postgres:16")]


def test_what_the_update_made_is_removed() -> None:
    engine = Fake()
    step = Drop((box(), box(service="cache")))
    run(step, work(engine))
    assert engine.asked == [("remove", "p-web-1-id"), ("remove", "p-cache-1-id")]
    assert str(step) == "remove what the update made anew: p-web-1, p-cache-1"


# Gate and watch, by which step they are


def test_the_gate_and_the_watch_are_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(gate, "wait", lambda step, work: seen.append(step))
    monkeypatch.setattr(gate, "watch", lambda step, work: seen.append(step))
    wanted = [Gate((Expectation("web"),), {}), Watch((Expectation("web"),), 30)]
    for step in wanted:
        run(step, work(Fake()))
    assert seen == wanted
    assert str(wanted[1]) == "watch them for 30 s"


# Hooks


def hook(command: str, tmp_path: Path, **flags: int) -> str:
    """The log of a run of a before-update hook in a shell."""
    job = work(Fake(), **flags)
    job.log = Log(str(tmp_path / "log"))
    job.environ = {"RBUILD_PROJECT": "p"}
    job.target = Target(str(tmp_path), ())
    try:
        run(Hook("before-update", ("/bin/sh", "-c", command)), job)
    finally:
        job.log.close()
    return (tmp_path / "log").read_text()


def test_a_hook_is_run_in_the_project_s_folder_and_told_of_it(tmp_path: Path) -> None:
    written = hook('pwd; echo "$RBUILD_PROJECT"', tmp_path)
    assert written.splitlines()[1:] == [str(tmp_path), "p"]


def test_a_hook_that_fails_or_defers_or_takes_too_long(tmp_path: Path) -> None:
    with pytest.raises(HookError, match="before-update failed with exit code 3"):
        hook("exit 3", tmp_path)
    with pytest.raises(Deferred):
        hook("exit 75", tmp_path)
    with pytest.raises(HookError, match="took longer than 0 s"):
        hook("sleep 60", tmp_path, hook_timeout=0)


# Containers that Compose would leave

CHAIN: dict[str, Any] = {
    "db": {},
    "web": {"depends_on": {"db": {}}},
    "api": {"depends_on": {"web": {"restart": True}}},
    "more": {"depends_on": {"web": {}}},
}


@pytest.mark.parametrize(
    ("options", "anew"),
    [
        ((), ("--no-start", "--force-recreate", "--", "web", "api")),
        (
            ("--scale=db=2", "--scale=web=3", "--scale=more=2"),
            ("--no-start", "--force-recreate", "--scale=db=2", "--scale=web=3", "--", "web", "api"),
        ),
        (
            ("--scale=db=2", "--scale=web=3", "--no-deps", "--", *CHAIN),
            ("--no-start", "--force-recreate", "--no-deps", "--scale=web=3", "--", "web", "api"),
        ),
    ],
)
def test_containers_are_made_anew_before_up_starts_them(
    clock: Clock, options: tuple[str, ...], anew: tuple[str, ...]
) -> None:
    engine = Fake(shown=lambda: [box(service=name) for name in CHAIN])
    job = work(engine, CHAIN, up_timeout_period=60)
    run(Up(tuple(CHAIN), options, recreate=("web",)), job)
    assert [one[2] for one in engine.asked] == [anew, options]


@pytest.mark.parametrize("services", [[], ["db"]])
def test_nothing_is_made_anew_that_isnt_there(clock: Clock, services: list[str]) -> None:
    engine = Fake(shown=lambda: [box(service=name) for name in services])
    job = work(engine, CHAIN, up_timeout_period=60)
    run(Up(tuple(CHAIN), (), recreate=("web",)), job)
    assert [one[2] for one in engine.asked] == [()]


def test_what_compose_makes_anew_for_its_image_is_left_to_it(clock: Clock) -> None:
    engine = Fake(found={"web": Image("sha256:2")}, shown=lambda: [box(), box(service="db")])
    services = {**CHAIN, "web": {"image": "web", **CHAIN["web"]}}
    job = work(engine, services, up_timeout_period=60)
    run(Require((("web", "web"),)), job)
    run(Up(tuple(CHAIN), (), recreate=("web",)), job)
    assert [one[2] for one in engine.asked] == [()]
