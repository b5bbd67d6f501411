"""Steps on a fake engine and a fake clock: what they ask for, and what their failures say."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import pytest

from rbuild import steps
from rbuild.configuration import parse
from rbuild.engine import Container, Healthcheck, Image, Port
from rbuild.errors import (
    EngineError,
    GateError,
    Interrupted,
    NotInRegistry,
    PullError,
    UpError,
)
from rbuild.health import Expectation
from rbuild.plan import Build, Free, Gate, Keep, Pull, Require, Up
from rbuild.process import Stop
from rbuild.project import Target
from rbuild.settings import Given, resolve
from rbuild.steps import Work, is_taken, put_back, run


class Clock:
    """Stands in for `time`; sleeping is what makes it go."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + 1_000_000

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(steps, "time", clock)
    return clock


def box(state: str = "running", service: str = "web", **more: Any) -> Container:
    name = more.pop("name", f"p-{service}-1")
    return Container(f"{name}-id", name, service, "sha256:1", service, state, **more)


@dataclass
class Fake:
    """An engine that does as it is told, and writes down what it was asked for."""

    asked: list[tuple[Any, ...]] = field(default_factory=list)
    found: dict[str, Image] = field(default_factory=dict)
    shown: Callable[[], Sequence[Container]] = lambda: []
    ups: Callable[[], None] = lambda: None
    pulls: Callable[[], None] = lambda: None
    holders: dict[int, list[str]] = field(default_factory=dict)
    untaggable: str = ""
    used: set[str] = field(default_factory=set)

    def used_images(self) -> frozenset[str]:
        return frozenset(self.used)

    def images(self, references: Sequence[str]) -> dict[str, Image]:
        by_id = {one.id: one for one in self.found.values()}
        return {one: known for one in references if (known := self.found.get(one, by_id.get(one)))}

    def list_images(self, *, reference: str) -> list[Image]:
        return [
            replace(one, tags=(name,))
            for name, one in self.found.items()
            if fnmatchcase(name, reference)
        ]

    def containers(self, project: str) -> list[Container]:
        assert project == "p"
        return list(self.shown())

    def publishers(self, port: Port) -> list[str]:
        return self.holders.get(port.number, [])

    def pull(self, reference: str, platform: str, *, timeout: float) -> None:
        self.asked.append(("pull", reference, platform, timeout))
        self.pulls()

    def build(self, target: Target, overlay: str, services: Sequence[str], *, pull: bool,
              timeout: float) -> None:  # fmt: skip
        self.asked.append(("build", target, overlay, tuple(services), pull, timeout))

    def up(self, target: Target, options: Sequence[str], *, timeout: float) -> None:
        self.asked.append(("up", target, tuple(options), timeout))
        self.ups()

    def tag(self, image: str, reference: str) -> None:
        if reference == self.untaggable:
            raise EngineError("cannot be tagged")
        self.asked.append(("tag", image, reference))

    def remove_image(self, reference: str) -> bool:
        self.asked.append(("untag", reference))
        return True

    def remove_container(self, container: str) -> None:
        self.asked.append(("remove", container))

    def rename_container(self, container: str, name: str) -> None:
        self.asked.append(("rename", container, name))

    def logs(self, container: str, lines: int) -> str:
        return f"first of {container}\nlast of {container}\n"


TARGET = Target("/p", ("/p/compose.yml",))


def work(engine: Fake, services: Any = None, **flags: int) -> Work:
    given = {name.replace("_", "-"): Given(value, "flag") for name, value in flags.items()}
    config = parse({"name": "p", "services": services or {"web": {}}}, "/p")
    return Work(
        engine=engine,  # type: ignore[arg-type]
        target=TARGET,
        configuration=config,
        settings=resolve(given),
        overlay="/state/labels.json",
        clock_ahead=0.0,
        stop=Stop(),
        tell=lambda text: None,
    )


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


@pytest.mark.parametrize(
    ("here", "error", "fails"),
    [
        (Image("i", pulled=None), NotInRegistry("no"), False),
        (Image("i", pulled=None), PullError("no answer"), True),
        (Image("i", pulled=True), NotInRegistry("no"), True),
        (None, NotInRegistry("no"), True),
    ],
)
def test_an_image_that_may_be_only_here(here: Image | None, error: PullError, fails: bool) -> None:
    job = work(Fake(found={"x": here} if here else {}, pulls=raising(error)))
    if fails:
        with pytest.raises(PullError):
            run(Pull("x", "", "base of web"), job)
    else:
        run(Pull("x", "", "base of web"), job)
        assert job.notes == ["x: exists only on this machine, not pulled"]


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
    engine = Fake(found={"moved": Image("new"), "same": Image("old-2")})
    names = (("moved", "old-1"), ("same", "old-2"), ("gone", "old-3"))
    assert put_back(Keep((), names), [KEPT], engine) == []  # type: ignore[arg-type]
    assert engine.asked == [("tag", "old-1", "moved"), ("tag", "old-3", "gone"), ("untag", KEPT)]


def test_a_name_that_another_project_counts_on_by_now_stays() -> None:
    engine = Fake(found={"postgres:16": Image("new")}, used={"new"})
    assert put_back(Keep((), (("postgres:16", "old"),)), [], engine) == []  # type: ignore[arg-type]
    assert engine.asked == []


def test_what_cannot_be_put_back_is_told_and_the_rest_still_is() -> None:
    engine = Fake(untaggable="one")
    names = (("one", "old-1"), ("two", "old-2"))
    problems = put_back(Keep((), names), [KEPT], engine)  # type: ignore[arg-type]
    assert problems == ["cannot be tagged"]
    assert engine.asked == [("tag", "old-2", "two"), ("untag", KEPT)]


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
    assert error.hint == (
        "running now: db; not running: web (exited), job (exited), manual (exited), late (created)"
    )


def test_leftovers_are_cleared_before_up() -> None:
    old = box()
    beside = box("created", name="p-web-1-id_p-web-1", replaces=old.id[:12])
    heir = box("created", name="0123_p-db-1", replaces="gone")
    engine = Fake(shown=lambda: [old, beside, heir])
    run(Up(("web",), (), (beside, heir)), work(engine))
    assert [one[0] for one in engine.asked] == ["remove", "rename", "up"]
    assert engine.asked[0] == ("remove", beside.id)
    assert engine.asked[1] == ("rename", heir.id, "p-db-1")


# The gate


def gate(job: Work, clock: Clock, *expected: Expectation, limit: float = 20) -> float:
    """Seconds until the gate opened."""
    begun = clock.now
    job.limit, job.deadline = limit, begun + limit
    run(Gate(expected or (Expectation("web"),), {}), job)
    return clock.now - begun


def starting(clock: Clock, **more: Any) -> Container:
    return box(started=clock.time(), **more)


def test_the_gate_waits_until_a_service_has_settled(clock: Clock) -> None:
    one = starting(clock)
    assert 5 <= gate(work(Fake(shown=lambda: [one])), clock) <= 5 + steps.POLL


@pytest.mark.parametrize("ahead", [3600.0, -3600.0])
def test_the_gate_goes_by_the_engine_s_clock(clock: Clock, ahead: float) -> None:
    one = box(started=clock.time() + ahead)
    job = work(Fake(shown=lambda: [one]))
    job.clock_ahead = ahead
    assert 5 <= gate(job, clock) <= 5 + steps.POLL


def test_the_gate_fails_at_once_where_waiting_is_in_vain(clock: Clock) -> None:
    boxes = [box("exited", exit_code=3), box(service="db", started=1)]
    job = work(Fake(shown=lambda: boxes))
    begun = clock.now
    with pytest.raises(GateError) as caught:
        gate(job, clock, Expectation("web"), Expectation("db"))
    assert clock.now == begun
    error = caught.value
    assert error.message == "web: not healthy"
    assert error.detail.splitlines() == [
        "web: exited with code 3",
        "  p-web-1 | first of p-web-1-id",
        "  p-web-1 | last of p-web-1-id",
    ]
    assert error.hint == "running now: db; not running: web (exited)"


def test_the_gate_does_not_wait_for_ever(clock: Clock) -> None:
    job = work(Fake(shown=lambda: [box(started=1, health="starting", healthcheck_output="no")]))
    begun = clock.now
    with pytest.raises(GateError) as caught:
        gate(job, clock, limit=20)
    assert 20 <= clock.now - begun <= 20 + 2 * steps.POLL
    assert caught.value.message == "web: not healthy within 20 s"
    assert "its healthcheck has not passed yet" in caught.value.detail
    assert "healthcheck said: no" in caught.value.detail


def test_the_gate_looks_once_even_if_up_took_all_the_time(clock: Clock) -> None:
    job = work(Fake(shown=lambda: [box(started=1)]))
    assert gate(job, clock, limit=-1) == 0


def test_a_service_that_never_comes(clock: Clock) -> None:
    job = work(Fake())
    with pytest.raises(GateError) as caught:
        gate(job, clock)
    assert "web: 0 of 1 containers are there" in caught.value.detail
    assert caught.value.hint == "running now: nothing"


def test_what_was_failing_and_still_fails_is_a_warning(clock: Clock) -> None:
    boxes = [box("exited", exit_code=3), box(service="db", started=1)]
    job = work(Fake(shown=lambda: boxes))
    gate(job, clock, Expectation("web", was_failing=True), Expectation("db"))
    assert job.warnings == [
        "web: exited with code 3; it was failing before the update as well"
    ]  # fmt: skip


def test_what_was_failing_is_given_its_time_to_recover(clock: Clock) -> None:
    boxes = [box(started=1, health="starting")]
    job = work(Fake(shown=lambda: boxes))
    assert gate(job, clock, Expectation("web", was_failing=True)) >= 20
    assert len(job.warnings) == 1
    boxes[:] = [box(started=1, health="healthy")]
    job = work(Fake(shown=lambda: boxes))
    assert gate(job, clock, Expectation("web", was_failing=True)) == 0
    assert job.warnings == []


def test_the_gate_excuses_nobody_else(clock: Clock) -> None:
    boxes = [box("exited", exit_code=3), box("dead", "db")]
    job = work(Fake(shown=lambda: boxes))
    with pytest.raises(GateError) as caught:
        gate(job, clock, Expectation("web", was_failing=True), Expectation("db"))
    assert caught.value.message == "db: not healthy"


def test_a_signal_ends_the_wait(clock: Clock) -> None:
    job = work(Fake())

    def shown() -> list[Container]:
        job.stop.request(15)
        return []

    job.engine.shown = shown  # type: ignore[attr-defined]
    with pytest.raises(Interrupted):
        gate(job, clock)
