"""The pass on a fake engine: faults that a real one can't be made to show, at every moment."""

from __future__ import annotations

import json
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from rbuild import crew, record, steps
from rbuild.engine import Container, EngineInfo, Image
from rbuild.errors import EngineError, Interrupted, RbuildError, StateError
from rbuild.glance import Run
from rbuild.process import Stop
from rbuild.project import Target, locate
from rbuild.record import Record, Store
from rbuild.refresh import Means, refresh
from rbuild.report import Outcome
from rbuild.settings import Given

CONFIG = {
    "name": "site",
    "services": {
        "base": {"build": {"dockerfile": "base.Dockerfile"}, "restart": "always"},
        "web": {"build": {"dockerfile": "Dockerfile"}, "scale": 2, "restart": "always"},
        "db": {"image": "postgres:16", "restart": "always"},
    },
}
COMPOSE_LABEL = "com.docker.compose.project"


@dataclass
class World:
    """What an engine holds: it outlives runs, and their sudden deaths."""

    folder: str
    names: dict[str, str] = field(default_factory=dict)
    """Image name → ID."""
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    """Of each image by ID: all that there are."""
    boxes: list[Container] = field(default_factory=list)
    registry: dict[str, str] = field(default_factory=dict)
    made: int = 0
    calls: int = 0

    def new(self, kind: str, **labels: str) -> str:
        self.made += 1
        identity = f"sha256:{kind}-{self.made}"
        self.labels[identity] = labels
        return identity

    def put(self, name: str, identity: str) -> None:
        before = self.names.get(name)
        self.names[name] = identity
        if before and before not in self.names.values() and before not in self.used():
            # As the containerd store does it: what has lost its last name is gone at once.
            del self.labels[before]

    def used(self) -> frozenset[str]:
        return frozenset(one.image for one in self.boxes)

    def own_names(self) -> dict[str, str]:
        """All names but that of a base, which may move whatever comes of an update."""
        return {name: one for name, one in self.names.items() if name != "debian:12"}

    def running(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for one in self.boxes:
            if one.state == "running":
                found.setdefault(one.service, []).append(one.image)
        return found


@dataclass
class Fake:
    """An engine over a world. `strike` is told the number and name of every call."""

    world: World
    strike: Callable[[int, str], None]

    def _call(self, name: str) -> None:
        self.world.calls += 1
        self.strike(self.world.calls, name)

    def _image(self, identity: str) -> Image:
        tags = tuple(name for name, one in self.world.names.items() if one == identity)
        digests = tuple(f"{tag}@{identity}" for tag in tags if tag in self.world.registry)
        return Image(identity, tags, digests, self.world.labels[identity],
                     pulled=any(one in self.world.registry for one in tags))  # fmt: skip

    def check(self) -> EngineInfo:
        self._call("check")
        return EngineInfo("1", 0.0, True, "linux/amd64")

    def render(self, target: Target, *, service_extensions: bool = False) -> tuple[Any, str]:
        self._call("render")
        config: Any = json.loads(json.dumps(CONFIG))
        for service in config["services"].values():
            if "build" in service:
                service["build"]["context"] = self.world.folder
        return config, ""

    def hashes(self, target: Target) -> dict[str, str]:
        self._call("hashes")
        return {}

    def all_services(self, target: Target) -> frozenset[str]:
        self._call("all_services")
        return frozenset(CONFIG["services"])

    def containers(self, project: str) -> list[Container]:
        self._call("containers")
        return list(self.world.boxes)

    def publishers(self, port: Any) -> list[str]:
        return []

    def used_images(self) -> frozenset[str]:
        self._call("used_images")
        return self.world.used()

    def images(self, references: Sequence[str]) -> dict[str, Image]:
        self._call("images")
        known = {one: self.world.names.get(one, one) for one in references}
        return {name: self._image(one) for name, one in known.items() if one in self.world.labels}

    def list_images(
        self, *, label: str = "", reference: str = "", dangling: bool = False
    ) -> list[Image]:
        self._call("list_images")
        name, _, value = label.partition("=")
        return [
            one
            for one in map(self._image, self.world.labels)
            if (not label or (one.labels or {}).get(name) == value)
            and (not reference or any(fnmatchcase(tag, reference) for tag in one.tags))
            and not (dangling and one.tags)
        ]

    def pull(self, reference: str, platform: str, *, timeout: float) -> None:
        self._call("pull")
        self.world.labels.setdefault(self.world.registry[reference], {})
        self.world.put(reference, self.world.registry[reference])

    def build(self, target: Target, overlay: str, services: Sequence[str], *, pull: bool,
              timeout: float) -> None:  # fmt: skip
        self._call("build")
        given = json.loads(Path(overlay).read_text())["services"]
        for name in services:
            labels = {COMPOSE_LABEL: "site", **given[name]["build"]["labels"]}
            self.world.put(f"site-{name}", self.world.new(name, **labels))

    def up(self, target: Target, options: Sequence[str], *, timeout: float) -> None:
        scales = {name: one.get("scale", 1) for name, one in CONFIG["services"].items()}  # type: ignore[attr-defined]
        for option in options:
            if option.startswith("--scale="):
                name, _, number = option.removeprefix("--scale=").partition("=")
                scales[name] = int(number)
        named = [option for option in options if not option.startswith("--")]
        for service in named or CONFIG["services"]:
            reference = "postgres:16" if service == "db" else f"site-{service}"
            for number in range(1, scales[service] + 1):
                self._recreate(service, f"site-{service}-{number}", reference)

    def _recreate(self, service: str, name: str, reference: str) -> None:
        image = self.world.names[reference]
        old = next((one for one in self.world.boxes if one.name == name), None)
        if old and old.image == image and old.state == "running":
            return
        new = Container(f"{self.world.new('box')}-{'0' * 12}", name, service, image, reference,
                        "created", restart_policy="always",
                        config_files=(f"{self.world.folder}/compose.yml",))  # fmt: skip
        del self.world.labels[new.id.partition("-0000")[0]]
        self._call("up: stop")
        if old:
            at = self.world.boxes.index(old)
            self.world.boxes[at] = replace(old, state="exited", exit_code=143)
            self._call("up: remove")
            del self.world.boxes[at]
        self._call("up: start")
        self.world.boxes.append(replace(new, state="running", started=1.0))

    def tag(self, image: str, reference: str) -> None:
        self._call("tag")
        if image not in self.world.labels:
            raise EngineError(f"no such image {image}")
        self.world.put(reference, image)

    def remove_image(self, reference: str) -> bool:
        self._call("remove_image")
        identity = self.world.names.pop(reference, reference)
        if identity not in self.world.labels:
            return False
        named = identity in self.world.names.values()
        if not named and identity not in self.world.used():
            del self.world.labels[identity]
        return True

    def remove_container(self, container: str) -> None:
        self._call("remove_container")
        self.world.boxes = [one for one in self.world.boxes if one.id != container]

    def rename_container(self, container: str, name: str) -> None:
        self._call("rename_container")

    def logs(self, container: str, lines: int) -> str:
        return "the container's log"

    def prune_build_cache(self) -> None:
        self._call("prune_build_cache")


def no_strike(number: int, name: str) -> None:
    """Nothing goes wrong."""


class Site:
    """A project, its world, its records, and runs over it."""

    def __init__(self, root: Path) -> None:
        folder = root / "site"
        folder.mkdir()
        (folder / "compose.yml").write_text("services: {}\n")
        (folder / "Dockerfile").write_text("FROM site-base\n")
        (folder / "base.Dockerfile").write_text("FROM debian:12\n")
        for path in folder.iterdir():
            os.utime(path, (1, 1))
        self.world = World(str(folder))
        self.store = Store(str(root / "state"))
        self.project = locate(str(folder), "/")
        self.state = Path(self.store.path("site", self.project.home))
        self.started = time.time() - 10_000
        self.steps: list[str] = []
        self.registry_moves()

    def registry_moves(self) -> None:
        self.world.registry = {
            name: f"sha256:{name}@{self.world.made}" for name in ("debian:12", "postgres:16")
        }

    def prepare(self, **more: Any) -> Run:
        self.started += 1000
        flags = {"keep-images": Given(1, "flag"), "settle-period": Given(0, "flag")}
        return Run(started=self.started, environ={"PATH": "/none"}, flags=flags, environment={},
                   defaults={}, store=self.store, **more)  # fmt: skip

    def run(
        self,
        strike: Callable[[int, str], None] = no_strike,
        *,
        stop: Stop | None = None,
        **more: Any,
    ) -> Outcome:
        self.world.calls = 0
        engine = Fake(self.world, strike)
        means = Means(
            connect=lambda stop, log, held: engine,  # type: ignore[arg-type,return-value]
            stop=stop or Stop(),
            claim=lambda folder: True,
            tell=lambda name, text, step: self.steps.append(text),
        )
        outcome = refresh(self.project, self.prepare(**more), means)
        assert outcome
        return outcome

    def record(self) -> dict[str, Any]:
        return json.loads((self.state / "record.json").read_text())  # type: ignore[no-any-return]

    def told(self) -> dict[str, Any]:
        """The record as far as a failure must not change it: images to prune are added to."""
        return self.record() | {"superseded": []}

    def restore(self, data: dict[str, Any]) -> None:
        (self.state / "record.json").write_text(json.dumps(data))

    def known(self) -> Record:
        known = record.read(str(self.state))
        assert known
        return known

    def kept(self) -> set[str]:
        return {name.rpartition(":")[2] for name in self.world.names if name.startswith("rbuild/")}

    def is_sound(self) -> None:
        """What must hold after every good update."""
        known = self.known()
        assert known.underway is None
        running = self.world.running()
        assert {name: len(found) for name, found in running.items()} == {
            "base": 1, "web": 2, "db": 1
        }  # fmt: skip
        for service, found in running.items():
            name = "postgres:16" if service == "db" else f"site-{service}"
            assert set(found) == {self.world.names[name]}
            assert known.services[service]["image"] == found[0]
        assert len(self.kept()) <= 1
        # Nothing nameless and unused is left over.
        assert set(self.world.labels) == set(self.world.names.values()) | self.world.used()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(steps, "POLL", 0.001)
    return Site(tmp_path)


@pytest.fixture
def updated(site: Site) -> Site:
    """A project that was updated twice, and whose bases have moved since."""
    assert site.run().outcome == "updated"
    assert site.run(forced=True).outcome == "updated"
    site.registry_moves()
    return site


# The good course


def test_a_first_update(site: Site) -> None:
    outcome = site.run()
    assert (outcome.outcome, outcome.error, outcome.warnings) == ("updated", None, ())
    assert [reason.kind for reason in outcome.reasons] == ["new"]
    assert outcome.bases == ("docker.io/library/debian:12",)
    assert {one["name"]: one["state"] for one in outcome.services} == {
        "base": "running", "web": "running", "db": "running"
    }  # fmt: skip
    assert outcome.due == pytest.approx(site.started + 86400 - 60)
    assert Path(outcome.log).exists()
    site.is_sound()
    assert site.run().outcome == "fresh"


def test_what_ran_before_is_kept(updated: Site) -> None:
    before = updated.world.running()
    assert updated.run(forced=True).outcome == "updated"
    updated.is_sound()
    kept = {
        name.split("/")[2].partition(":")[0]: identity
        for name, identity in updated.world.names.items()
        if name.startswith("rbuild/")
    }
    assert kept == {service: found[0] for service, found in before.items()}


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
    before = pickle.dumps(updated.world), updated.record(), os.listdir(updated.state / "logs")
    outcome = updated.run(forced=True, dry_run=True)
    assert outcome.outcome == "planned"
    assert outcome.steps[0] == "keep the images that run now (3)"
    updated.world.calls = 0
    world: World = pickle.loads(before[0])
    world.calls = 0
    assert pickle.dumps(updated.world) == pickle.dumps(world)
    assert (updated.record(), os.listdir(updated.state / "logs")) == before[1:]


# An engine that fails once, at any of its calls


def calls_of(site: Site) -> list[str]:
    """The names of all calls of a forced update, on a copy of the world."""
    names: list[str] = []
    world, files = pickle.dumps(site.world), (site.state / "record.json").read_bytes()
    assert site.run(lambda number, name: names.append(name), forced=True).outcome == "updated"
    site.world = pickle.loads(world)
    (site.state / "record.json").write_bytes(files)
    return names


def fail_at(number: int, error: BaseException) -> Callable[[int, str], None]:
    def strike(call: int, name: str) -> None:
        if call == number:
            raise error

    return strike


def test_an_engine_error_at_any_call(updated: Site) -> None:
    names = calls_of(updated)
    world, before = pickle.dumps(updated.world), updated.told()
    first_up = names.index("up: stop") + 1
    # After the last look of the gate nothing but the prune is left.
    prune = len(names) - names[::-1].index("up: start") + 2
    seen = set()
    for number in range(1, len(names) + 1):
        updated.world = pickle.loads(world)
        updated.restore(before)
        outcome = updated.run(fail_at(number, EngineError(f"call {number}")), forced=True)
        seen.add(outcome.outcome)
        where = f"call {number}: {names[number - 1]}"
        if outcome.outcome == "updated":
            assert number >= prune, where
            assert any(f"call {number}" in one for one in outcome.warnings), where
            assert updated.known().underway is None, where
            assert updated.known().built_at == pytest.approx(updated.started, abs=0.01), where
        elif outcome.touched:
            assert number >= first_up - 3, where
            assert outcome.exit_code == 1, where
            assert outcome.error, where
            after = updated.told()
            assert after["underway"]["touched"], where
            assert after | {"underway": None} == before, where
        else:
            assert outcome.exit_code == 1, where
            original: World = pickle.loads(world)
            assert updated.world.own_names() == original.own_names(), where
            assert updated.world.boxes == original.boxes, where
            assert len(updated.world.labels) == len(original.labels), where
            assert updated.told() == before, where
            assert outcome.warnings == (), where
        # Whatever it was, the next run puts it right.
        assert updated.run(forced=True).outcome == "updated", where
        updated.is_sound()
    assert seen == {"updated", "failed"}


def test_what_is_left_untouched_is_said(updated: Site) -> None:
    names = calls_of(updated)
    outcome = updated.run(fail_at(names.index("build") + 1, EngineError("no")), forced=True)
    assert outcome.standing == "no container was touched: what ran before runs on"
    failure = json.loads((updated.state / "failure.json").read_text())
    assert failure["message"] == "no"
    assert failure["log"] == outcome.log
    assert updated.run(forced=True).outcome == "updated"
    assert not (updated.state / "failure.json").exists()


def test_an_engine_that_stays_dead_is_told_of_once(updated: Site) -> None:
    number = calls_of(updated).index("build") + 1
    before = updated.record()

    def strike(call: int, name: str) -> None:
        if call >= number:
            raise EngineError("the engine is gone")

    outcome = updated.run(strike, forced=True)
    assert outcome.error
    assert outcome.error.message == "the engine is gone"
    assert outcome.warnings == ("not put back: the engine is gone",)
    # What could not be put back is not forgotten, nor is the last good update.
    assert updated.record()["built"] == before["built"]
    assert updated.run(forced=True).outcome == "updated"
    updated.is_sound()


# A run that dies at any of its calls, without another word


def test_a_sudden_death_at_any_call(updated: Site, tmp_path: Path) -> None:
    names = calls_of(updated)
    world, before = pickle.dumps(updated.world), updated.told()
    for number, name in enumerate(names, 1):
        where = f"call {number}: {name}"
        updated.world = pickle.loads(world)
        updated.restore(before)
        die_at(updated, number, tmp_path / "world")
        known = updated.known()
        assert known.built_at <= updated.started + 1000, where
        good = updated.world.running() if not (known.underway or {}).get("touched") else None
        if good:
            assert good == (pickle.loads(world) if known.underway else updated.world).running()
        updated.started += 1000
        outcome = updated.run(forced=True)
        assert (outcome.outcome, outcome.warnings) == ("updated", ()), where
        if known.underway:
            assert "interrupted" in [one.kind for one in outcome.reasons], where
        updated.is_sound()


def die_at(site: Site, number: int, carry: Path) -> None:
    """Let a process of its own run an update that is killed at a call; the world lives on."""

    def strike(call: int, name: str) -> None:
        if call == number:
            carry.write_bytes(pickle.dumps(site.world))
            os._exit(9)

    child = os.fork()
    if not child:
        try:
            site.run(strike, forced=True)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    site.world = pickle.loads(carry.read_bytes())


def test_two_deaths_in_a_row_forget_nothing(updated: Site, tmp_path: Path) -> None:
    """A scale set by hand and a stopped service outlive both."""
    calls_of(updated)
    boxes = updated.world.boxes
    # A person has stopped the database and taken one web away.
    boxes[:] = [
        replace(one, state="exited", exit_code=143) if one.service == "db" else one
        for one in boxes
        if one.name != "site-web-2"
    ]
    good = next(one.image for one in boxes if one.service == "web")
    names: list[str] = []
    world, files = pickle.dumps(updated.world), (updated.state / "record.json").read_bytes()
    updated.run(lambda number, name: names.append(name), forced=True)
    updated.world = pickle.loads(world)
    (updated.state / "record.json").write_bytes(files)
    last_removal = len(names) - names[::-1].index("up: remove")
    # First among the containers, when the old one is gone and no new one there; then at a build.
    die_at(updated, last_removal + 1, tmp_path / "world")
    updated.started += 1000
    die_at(updated, names.index("build") + 1, tmp_path / "world")
    updated.started += 1000
    outcome = updated.run()
    assert outcome.outcome == "updated"
    assert [one.kind for one in outcome.reasons] == ["interrupted"]
    states = {one.name: one.state for one in updated.world.boxes}
    assert states == {"site-base-1": "running", "site-web-1": "running", "site-db-1": "exited"}
    kept = [one for name, one in updated.world.names.items() if name.startswith("rbuild/site/web:")]
    assert kept == [good]


# A state folder that fails


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


# A signal


def test_a_signal_before_containers_are_touched(updated: Site) -> None:
    stop = Stop()
    number = calls_of(updated).index("build") + 1
    names, running = updated.world.own_names(), updated.world.running()

    def strike(call: int, name: str) -> None:
        if call == number:
            stop.request(signal.SIGTERM)
            stop.check()

    outcome = updated.run(strike, stop=stop, forced=True)
    assert isinstance(outcome.error, Interrupted)
    assert outcome.exit_code == 143
    assert (updated.world.own_names(), updated.world.running()) == (names, running)
    after = updated.run()
    assert [one.kind for one in after.reasons] == ["interrupted"]
    assert after.outcome == "updated"
    updated.is_sound()


# A gate that fails


def test_a_failed_gate_says_what_runs_and_is_tried_again(
    updated: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(self: Fake, service: str, name: str, reference: str) -> None:
        real(self, service, name, reference)
        if service == "web":
            last = self.world.boxes.pop()
            self.world.boxes.append(replace(last, state="dead"))

    real = Fake._recreate
    before = updated.told()
    monkeypatch.setattr(Fake, "_recreate", dead)
    outcome = updated.run(forced=True)
    monkeypatch.undo()
    monkeypatch.setattr(steps, "POLL", 0.001)
    assert (outcome.outcome, outcome.exit_code) == ("failed", 1)
    assert outcome.error
    assert outcome.error.message == "web: not healthy"
    assert "running now: base, db; not running: web (dead)" in outcome.error.hint
    assert "the container's log" in outcome.error.detail
    assert updated.told() | {"underway": None} == before
    # What our own update has broken is no excuse for the next.
    monkeypatch.setattr(Fake, "_recreate", dead)
    assert updated.run().outcome == "failed"
    monkeypatch.undo()
    assert updated.run().outcome == "updated"
    updated.is_sound()


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
    crew.work([updated.project, other], run, listener, jobs=1, remove_images=False)
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
    assert updated.run(forced=True).outcome == "updated"


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
    crew.work([updated.project], run, listener, jobs=1, remove_images=False)
    (one,) = listener.outcomes
    assert one.error
    assert "ZeroDivisionError: a bug" in one.error.hint


# Others


def test_a_project_at_work_elsewhere_is_deferred(updated: Site) -> None:
    from rbuild.lock import hold

    with hold(updated.project.home):
        outcome = updated.run(forced=True)
        assert (outcome.outcome, outcome.exit_code) == ("deferred", 75)
        assert updated.world.calls == 0
        assert updated.run(forced=True, dry_run=True).outcome == "planned"


def test_a_project_that_was_worked_already_is_no_outcome(updated: Site) -> None:
    engine = Fake(updated.world, no_strike)
    means = Means(lambda stop, log, held: engine, Stop(), lambda folder: False, lambda *_: None)  # type: ignore[arg-type,return-value]
    assert refresh(updated.project, updated.prepare(forced=True), means) is None


def test_what_was_only_touched_is_not_blamed(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Dockerfile that looks new explains no change of the configuration, linked or not."""
    for name in ("link", "site"):
        if name == "link":
            (tmp_path / name).symlink_to("site")
        site.world.folder = str(tmp_path / name)
        site.project = locate(site.world.folder, "/")
        assert site.run(forced=True).outcome == "updated"
        os.utime(tmp_path / "site" / "Dockerfile")
        services: Any = CONFIG["services"]
        monkeypatch.setitem(services["db"], "hostname", name)
        (reason,) = site.run().reasons
        assert reason == ("changed", "the rendered configuration")
