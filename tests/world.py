"""A project on an engine that is a plain value: it can be copied, struck at any call, looked at.

It does what Compose and the engine do as far as an update can tell: a recreate in five moves, a
stop that takes its time, names that move, images that vanish with their last name.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from rbuild import byhand
from rbuild.compose.inputs import walk
from rbuild.compose.project import Target, locate
from rbuild.decisions.glance import Run
from rbuild.decisions.lookout import Lookout
from rbuild.docker.engine import Container, EngineInfo, Image, Member, Stopping
from rbuild.docker.reference import familiar, generations
from rbuild.errors import EngineError, InputError, Interrupted, UpError
from rbuild.process import Stop
from rbuild.refresh import refresh
from rbuild.registries.registry import Answer, Question
from rbuild.report import Outcome
from rbuild.rollbacks import wayback
from rbuild.settings import Given
from rbuild.state import generation, record
from rbuild.state.record import Record, Store
from rbuild.updates import gate, steps
from rbuild.updates.scene import Means

CONFIG: dict[str, Any] = {
    "name": "site",
    "services": {
        "base": {"build": {"dockerfile": "base.Dockerfile"}, "restart": "always"},
        "web": {"build": {"dockerfile": "Dockerfile"}, "scale": 2, "restart": "always",
                "environment": {"PRICE": "$5 or $$6"}},
        "migrate": {"build": {"dockerfile": "Dockerfile"}},
        "db": {"image": "postgres:16", "restart": "always"},
    },
    "volumes": {"data": {}},
}  # fmt: skip
# How many containers of each service are at work while all is well.
WELL = {"base": 1, "web": 2, "db": 1}
COMPOSE_LABEL = "com.docker.compose.project"
# No part of a service's configuration, for Compose's hash of it.
NOT_HASHED = ("build", "scale", "depends_on", "x-rbuild")
# How often one must look until a container that was told to stop has stopped.
LOOKS_TO_STOP = 2

Strike = Callable[[int, str], None]
S = TypeVar("S", bound="Site")
DAY = 86400


class Clock:
    """Stands in for `time`; sleeping makes it run ahead of the real one, and takes no time."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self._time, self._monotonic = time.time, time.monotonic

    def time(self) -> float:
        return self._time() + self.ahead

    def monotonic(self) -> float:
        return self._monotonic() + self.ahead

    def sleep(self, seconds: float) -> None:
        self.ahead += seconds


@dataclass
class World:
    """What an engine holds: it outlives runs, and their sudden deaths."""

    folder: str
    config: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(CONFIG))
    """What Compose makes of the project's files."""
    names: dict[str, str] = field(default_factory=dict)
    """Image name → ID."""
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    """Of each image by ID: all that there are."""
    boxes: list[Container] = field(default_factory=list)
    registry: dict[str, str] = field(default_factory=dict)
    pushed: dict[str, str] = field(default_factory=dict)
    breaks: set[str] = field(default_factory=set)
    """Services whose builds make images that don't run."""
    broken: set[str] = field(default_factory=set)
    """IDs of such images."""
    keeps_nameless: bool = False
    """Whether images stay that have lost their last name: as with the older store."""
    told: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Containers that were told to stop: when, and how many looks it still takes."""
    forgets_after: int = 1000
    """Looks at what was told to stop, after which other events have pushed that out."""
    company: list[Container] = field(default_factory=list)
    """Containers of others."""
    others: set[str] = field(default_factory=set)
    """What others have made, as `network NAME` and the like."""
    resources: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Networks and volumes by name, as `Engine.resource` gives them."""
    content: dict[str, dict[str, str]] = field(default_factory=dict)
    """What is in the files that a container was made with: its ID → path → text."""
    writes: dict[str, str] = field(default_factory=dict)
    """A file that each container of a service writes as it starts."""
    made: int = 0
    calls: int = 0

    def new(self, kind: str) -> str:
        self.made += 1
        return f"sha256:{kind}-{self.made}"

    def put(self, name: str, identity: str) -> None:
        before = self.names.get(name)
        self.names[name] = identity
        gone = before and before not in self.names.values() and before not in self.used()
        if before and gone and not self.keeps_nameless:
            # As the containerd store does it: what has lost its last name is gone at once.
            del self.labels[before]

    def used(self) -> frozenset[str]:
        return frozenset(one.image for one in self.boxes)

    def files(self, service: Mapping[str, Any]) -> dict[str, str]:
        """What is in the files that a service has, now."""
        paths = [one["source"] for one in service.get("volumes", ()) if one["type"] == "bind"]
        for kind in ("configs", "secrets"):
            paths += [self.config[kind][one["source"]]["file"] for one in service.get(kind, ())]
        return {path: Path(path).read_text() for path in paths}

    def find(self, reference: str) -> str:
        """The ID that a name means, however it is spelled; an ID means itself."""
        name = reference if reference in self.names else familiar(reference)
        return self.names.get(name, reference.rpartition("@")[2])

    def own_names(self) -> dict[str, str]:
        """All names but that of a base, which may move whatever comes of an update."""
        return {name: one for name, one in self.names.items() if name != "debian:12"}

    def running(self) -> dict[str, list[str]]:
        """The images that run, by service, without one-offs."""
        found: dict[str, list[str]] = {}
        for one in self.boxes:
            if one.state == "running" and not one.replaces and not one.oneoff:
                found.setdefault(one.service, []).append(one.image)
        return found

    def kept(self) -> dict[str, list[str]]:
        """Our tags, by generation."""
        return generations(self.names, "site")

    def change(self, box: Container, **changes: Any) -> Container:
        at = next(i for i, one in enumerate(self.boxes) if one.id == box.id)
        self.boxes[at] = replace(self.boxes[at], **changes)
        return self.boxes[at]

    def remove(self, identity: str) -> None:
        self.told.pop(identity, None)
        self.boxes = [one for one in self.boxes if one.id != identity]

    def stopped(self, identity: str) -> None:
        """A container that was told to stop has stopped."""
        del self.told[identity]
        for one in self.boxes:
            if one.id == identity:
                self.change(one, state="exited", exit_code=143)

    def pass_time(self) -> None:
        """Whatever was told to stop has stopped."""
        for identity in list(self.told):
            self.stopped(identity)


@dataclass
class Fake:
    """An engine over a world. `strike` is told the number and name of every call."""

    world: World
    strike: Strike
    stop: Stop = field(default_factory=Stop)

    def _call(self, name: str) -> None:
        self.world.calls += 1
        self.strike(self.world.calls, name)
        self.stop.check()

    def _image(self, identity: str) -> Image:
        tags = tuple(name for name, one in self.world.names.items() if one == identity)
        digests = tuple(f"{tag}@{identity}" for tag in tags if tag in self.world.registry)
        return Image(identity, tags, digests, self.world.labels[identity])

    def check(self) -> EngineInfo:
        self._call("check")
        return EngineInfo("1", 0.0, True, "linux/amd64")

    def render(self, target: Target, *, service_extensions: bool = False) -> tuple[Any, str]:
        self._call("render")
        for what in walk(target.folder, target.files or target.chosen, {}).unread.values():
            raise InputError(f"{what}: refused, as Compose does")
        config: Any = copy.deepcopy(self.world.config)
        for service in config["services"].values():
            if "build" in service:
                service["build"]["context"] = self.world.folder
        return config, ""

    def _services(self, target: Target) -> dict[str, Any]:
        """Of the configuration that Compose would read."""
        files = [one for one in target.files if one.endswith(".json")]
        if not files:
            return dict(self.world.config["services"])
        assert target.name == "site", "a kept configuration would be named after its folder"
        read, _ = generation.read_configuration(files[0])
        assert read is not None, f"no configuration in {files[0]}"
        return dict(read["services"])

    def hashes(self, target: Target) -> dict[str, str]:
        self._call("hashes")
        return {name: hashed(one) for name, one in self._services(target).items()}

    def all_services(self, target: Target) -> frozenset[str]:
        self._call("all_services")
        return frozenset(self.world.config["services"])

    def containers(self, project: str) -> list[Container]:
        self._call("containers")
        return [one for one in self.world.boxes if not one.oneoff]

    def members(self) -> list[Member]:
        self._call("members")
        return [
            Member(one.id, one.name, "site", one.config_files, self.world.folder, one.oneoff)
            for one in self.world.boxes
        ]

    def details(self, containers: Sequence[str]) -> dict[str, dict[str, Any]]:
        self._call("details")
        return {one.id: shown(one) for one in self.world.boxes if one.id in containers}

    def others(self, known: Collection[str]) -> list[Container]:
        self._call("others")
        boxes = [*self.world.boxes, *self.world.company]
        return [one for one in boxes if one.id not in known]

    def find(self, containers: Sequence[str]) -> list[Container]:
        self._call("find")
        boxes = [*self.world.boxes, *self.world.company]
        return [one for one in boxes if one.id in containers]

    def absent(self, things: Sequence[str]) -> list[str]:
        self._call("absent")
        return [one for one in things if one not in self.world.others]

    def resource(self, kind: str, name: str) -> dict[str, Any] | None:
        self._call("resource")
        return self.world.resources.get(name)

    def publishers(self, port: Any) -> list[str]:
        return []

    def used_images(self) -> frozenset[str]:
        self._call("used_images")
        return self.world.used()

    def images(self, references: Sequence[str]) -> dict[str, Image]:
        self._call("images")
        known = {one: self.world.find(one) for one in references}
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
        name, exact, digest = reference.partition("@")
        if exact:
            self.world.labels.setdefault(digest, {})
            return
        self.world.labels.setdefault(self.world.registry[name], {})
        self.world.put(name, self.world.registry[name])

    def push(self, reference: str, *, timeout: float) -> None:
        self._call("push")
        self.world.pushed[reference] = self.world.find(reference)

    def sign_in(self, config: str) -> None:
        """Nobody asks who we are."""

    def insecure_registries(self) -> frozenset[str]:
        return frozenset()

    def build(self, target: Target, overlay: str, services: Sequence[str], *, pull: bool,
              timeout: float) -> None:  # fmt: skip
        self._call("build")
        given = json.loads(Path(overlay).read_text())["services"]
        for name in services:
            identity = self.world.new(name)
            self.world.labels[identity] = {COMPOSE_LABEL: "site", **given[name]["build"]["labels"]}
            if name in self.world.breaks:
                self.world.broken.add(identity)
            self.world.put(f"site-{name}", identity)

    def up(self, target: Target, options: Sequence[str], *, timeout: float) -> None:
        services = self._services(target)
        scales = {name: one.get("scale", 1) for name, one in services.items()}
        for option in options:
            if option.startswith("--scale="):
                name, _, number = option.removeprefix("--scale=").partition("=")
                scales[name] = int(number)
        assert "--remove-orphans" not in options, "Compose would take one-offs along"
        named = [option for option in options if not option.startswith("--")]
        starts = "--no-start" not in options
        anew = "--force-recreate" in options
        apart = anew or "--no-deps" in options
        assert not named or apart, "Compose would touch what they need"
        try:
            for service in named or services:
                self._bring_up(service, services[service], scales[service], target, starts, anew)
        except UpError:
            raise
        except EngineError as error:
            raise UpError("`up` failed", detail=error.message) from None

    def _bring_up(
        self, service: str, config: Any, scale: int, target: Target, starts: bool, anew: bool
    ) -> None:
        world = self.world
        image = world.names.get(config.get("image", f"site-{service}"), "")
        if not image:
            raise UpError("`up` failed", detail=f"no image for {service}")
        kept = [one for one in target.files if one.endswith(".json")]
        plan = Container(
            "", "", service, image, config.get("image", f"site-{service}"), "created",
            restart_policy=config.get("restart", "no"), config_hash=hashed(config),
            config_files=tuple(kept) or (f"{world.folder}/compose.yml",),
            volumes=("site_data",) if service == "db" else (),
        )  # fmt: skip
        if any(one.replaces for one in world.boxes if one.service == service):
            raise UpError("`up` failed", detail="a container of that name is there already")
        own = [one for one in world.boxes if one.service == service and not one.oneoff]
        wanted = [f"site-{service}-{number}" for number in range(1, scale + 1)]
        for one in own:
            if one.name not in wanted:
                self._stop_and_remove(one)
        for name in wanted:
            old = next((one for one in own if one.name == name), None)
            if old and not anew and (old.image, old.config_hash) == (image, plan.config_hash):
                if old.state != "running" and starts:
                    self._start(old)
                continue
            self._call("up: create")
            world.made += 1
            new = replace(plan, id=f"{world.made:012d}" + "f" * 52, name=name)
            if old:
                new = replace(new, name=f"{old.id[:12]}_{name}", replaces=old.id[:12])
            world.boxes.append(new)
            world.content[new.id] = world.files(config)
            if old:
                self._stop_and_remove(old)
                self._call("up: rename")
                new = world.change(new, name=name, replaces="")
            if starts:
                self._start(new)

    def _stop_and_remove(self, box: Container) -> None:
        self._stop("up: stop", box)
        self._call("up: remove")
        self.world.remove(box.id)

    def _stop(self, name: str, *boxes: Container) -> None:
        running = [one.id for one in boxes if one.state == "running"]
        # The engine has heard it, whether or not the answer comes through.
        self.world.told.update((one, (time.time(), LOOKS_TO_STOP)) for one in running)
        if running:
            self._call(name)
        for one in running:
            self.world.stopped(one)

    def stop_containers(self, containers: Sequence[str], *, timeout: float) -> None:
        self._stop("stop_containers", *(one for one in self.world.boxes if one.id in containers))

    def _start(self, box: Container) -> None:
        self._call("up: start")
        now = time.time()
        if path := self.world.writes.get(box.service):
            Path(path).write_text(f"written by {box.id} at {now}\n")
        if box.image in self.world.broken or '"BROKEN"' in box.config_hash:
            self.world.change(box, state="exited", exit_code=3, started=now)
        elif box.service == "migrate":
            self.world.change(box, state="exited", exit_code=0, started=now)
        else:
            self.world.change(box, state="running", exit_code=0, started=now)

    def tag(self, image: str, reference: str) -> None:
        self._call("tag")
        image = self.world.find(image)
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
        self.world.remove(container)

    def start_container(self, container: str) -> None:
        self._call("start_container")
        self._start(next(one for one in self.world.boxes if one.id == container))

    def rename_container(self, container: str, name: str) -> None:
        self._call("rename_container")
        box = next(one for one in self.world.boxes if one.id == container)
        assert not any(one.name == name for one in self.world.boxes)
        self.world.change(box, name=name, replaces="")

    def trust(self, info: EngineInfo) -> None:
        """It is the same engine."""

    def stopping(self, project: str, since: float) -> Stopping:
        self._call("stopping")
        found = frozenset(one for one, (when, _) in self.world.told.items() if when >= since)
        for one in found:
            when, looks = self.world.told[one]
            self.world.told[one] = (when, looks - 1)
            if not looks:
                self.world.stopped(one)
        self.world.forgets_after -= 1
        if self.world.forgets_after < 0:
            return Stopping(frozenset(), whole=False)
        return Stopping(found & self.world.told.keys())

    def logs(self, container: str, lines: int) -> str:
        return "the container's log"

    def prune_build_cache(self) -> None:
        self._call("prune_build_cache")


def hashed(service: Mapping[str, Any]) -> str:
    """Compose's hash of a service's configuration."""
    return json.dumps({k: v for k, v in service.items() if k not in NOT_HASHED}, sort_keys=True)


def shown(box: Container) -> dict[str, Any]:
    """What `docker inspect` says of a container: its hash is what it was made from."""
    given = json.loads(box.config_hash).get("environment") or {}
    env = [f"{key}={value}" for key, value in given.items()]
    return {
        "Id": box.id,
        "Name": f"/{box.name}",
        "Config": {
            "Image": box.reference,
            "Env": env,
            "Labels": {"com.docker.compose.service": box.service},
        },
        "HostConfig": {
            "NetworkMode": "site_default",
            "RestartPolicy": {"Name": box.restart_policy},
        },
    }


def no_strike(number: int, name: str) -> None:
    """Nothing goes wrong."""


def fail_at(number: int, error: BaseException) -> Strike:
    """One call fails."""

    def strike(call: int, name: str) -> None:
        if call == number:
            raise error

    return strike


def die_from(number: int) -> Strike:
    """The engine is gone from one call on."""

    def strike(call: int, name: str) -> None:
        if call >= number:
            raise EngineError("the engine is gone")

    return strike


@dataclass
class Hub:
    """All registries: what they say of images by full name, and what they were asked."""

    digests: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    asked: list[Question] = field(default_factory=list)
    late: dict[str, float] = field(default_factory=dict)
    """Registries that want to be left alone."""
    not_before: dict[str, float] = field(default_factory=dict)

    def open(self, environ: Mapping[str, str], *, not_before: Mapping[str, float],
             **more: Any) -> Hub:  # fmt: skip
        """In place of `registry.Registries`."""
        self.not_before = {**not_before, **self.late}
        return self

    def ask(self, questions: Iterable[Question]) -> dict[Question, Answer]:
        wanted = [*questions]
        self.asked += wanted
        return {one: self._answer(one.reference) for one in wanted}

    def _answer(self, name: str) -> Answer:
        if name in self.errors:
            return Answer(error=self.errors[name])
        if name not in self.digests:
            return Answer(error="no such image")
        return Answer(self.digests[name])

    @property
    def names(self) -> list[str]:
        """What was asked for, sorted."""
        return sorted(one.reference for one in self.asked)


@dataclass
class Saved:
    """A world and a state folder at one moment."""

    world: bytes
    files: dict[str, bytes]
    ahead: float
    where: str = ""


class Site:
    """A project, its world, its records, and runs over it."""

    def __init__(self, root: Path, clock: Clock) -> None:
        folder = root / "site"
        folder.mkdir()
        (folder / "compose.yml").write_text("services: {}\n")
        (folder / "Dockerfile").write_text("FROM site-base\n")
        (folder / "base.Dockerfile").write_text("FROM debian:12\n")
        for path in folder.iterdir():
            os.utime(path, (1, 1))
        self.folder = folder
        self.world = World(str(folder))
        self.store = Store(str(root / "state"))
        self.project = locate(str(folder), "/")
        self.state = Path(self.store.path("site", self.project.home))
        self.clock = clock
        self.started = 0.0
        self.flags: dict[str, Any] = {"keep-images": 1, "settle-period": 0, "build-period": DAY}
        self.steps: list[str] = []
        self.lookout: Callable[[Run], Lookout] | None = None
        self.registry_moves()

    def registry_moves(self) -> None:
        """Newer images are published."""
        self.world.registry = {
            name: f"sha256:{name}-{self.world.made}" for name in ("debian:12", "postgres:16")
        }

    # Runs

    def prepare(self, after: float = 1000, **more: Any) -> Run:
        self.clock.sleep(after)
        self.world.pass_time()
        self.started = time.time()
        flags = {name: Given(value, "flag") for name, value in self.flags.items()}
        return Run(started=self.started, environ={"PATH": "/none"}, flags=flags, environment={},
                   defaults={}, store=self.store, **more)  # fmt: skip

    def means(self, strike: Strike = no_strike, stop: Stop | None = None) -> Means:
        return Means(
            connect=lambda stop, log, held: Fake(self.world, strike, stop),  # type: ignore[arg-type,return-value]
            stop=stop or Stop(),
            claim=lambda folder: True,
            tell=lambda name, text, step: self.steps.append(text),
        )

    def run(
        self,
        strike: Strike = no_strike,
        *,
        stop: Stop | None = None,
        after: float = 1000,
        task: Callable[..., Outcome | None] = refresh,
        **more: Any,
    ) -> Outcome:
        """A run `after` some seconds; by default of a refresh."""
        run = self.prepare(after, **more)
        self.world.calls = 0
        self.steps = []
        means = self.means(strike, stop)
        lookout = self.lookout(run) if self.lookout else None
        outcome = task(self.project, run, replace(means, lookout=lookout))
        assert outcome
        if not isinstance(outcome.error, Interrupted):
            bad = outcome.error or outcome.outcome == "deferred"
            code = CODES[outcome.outcome] if bad else 0
            assert outcome.exit_code == code, outcome.outcome
        return outcome

    def roll_back(self, strike: Strike = no_strike, *, to: str = "", **more: Any) -> Outcome:
        return self.run(strike, task=partial(byhand.roll_back, to=to), **more)

    # What there is

    def record(self) -> dict[str, Any]:
        return json.loads((self.state / "record.json").read_text())  # type: ignore[no-any-return]

    def told(self) -> dict[str, Any]:
        """The record as far as a failure must not change it.

        Images to prune are added to; what failed is kept; whether all is tidy may differ.
        """
        return self.record() | {"superseded": [], "failed": None, "untidy": False}

    def known(self) -> Record:
        known = record.read(str(self.state))
        assert known
        return known

    def stamps(self) -> list[str]:
        """The generations that are kept in files."""
        return generation.stamps(str(self.state))

    def calls(self, **more: Any) -> list[str]:
        """The names of all calls of a run, which is then undone."""
        names: list[str] = []
        before = self.save()
        self.run(lambda number, name: names.append(name), **more)
        self.load(before)
        return names

    def moments(self, **more: Any) -> list[Saved]:
        """What a run would leave if it were killed at any call or at any write; it is undone."""
        found: list[Saved] = []
        before = self.save()

        def put(new: str, path: str) -> None:
            found.append(self.save(f"killed at the write of {os.path.basename(path)}"))
            real(new, path)

        real = os.replace
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(record.os, "replace", put)
            self.run(
                lambda number, name: found.append(self.save(f"killed at call {number}: {name}")),
                **more,
            )
        self.load(before)
        return found

    def edit(self, name: str, text: str) -> None:
        """A person changes a file."""
        path = self.folder / name
        path.write_text(text)
        self.clock.sleep(1)
        os.utime(path, (time.time(), time.time()))

    def save(self, where: str = "") -> Saved:
        files = [path for path in self.state.rglob("*") if path.is_file() and path.suffix != ".log"]
        found = {str(path.relative_to(self.state)): path.read_bytes() for path in files}
        return Saved(pickle.dumps(self.world), found, self.clock.ahead, where)

    def load(self, saved: Saved) -> None:
        self.world, self.clock.ahead = pickle.loads(saved.world), saved.ahead
        for path in self.state.rglob("*"):
            if path.is_file() and str(path.relative_to(self.state)) not in saved.files:
                path.unlink()
        for name, content in saved.files.items():
            path = self.state / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)

    # What must hold

    def is_whole(self, where: str = "") -> None:
        """All runs, and all that is kept is kept whole."""
        self.runs_whole(where)
        self.is_kept_whole(where)

    def runs_whole(self, where: str = "") -> None:
        """No service is down, none runs two versions at once."""
        running = self.world.running()
        assert {name: len(found) for name, found in running.items()} == WELL, where
        assert all(len(set(found)) == 1 for found in running.values()), where
        assert not [one.name for one in self.world.boxes if one.replaces], where
        assert not self.world.told, where

    def is_kept_whole(self, where: str = "") -> None:
        """Every tag has its generation, and every generation its tags, as far as they name any."""
        self.known()
        assert set(self.world.kept()) <= set(self.stamps()), where
        for stamp in self.stamps():
            one = generation.read(str(self.state), stamp)
            assert one, where
            for name, kept in one.services.items():
                assert self.world.names.get(kept.tag) == kept.image, (where, stamp, name)
            source, _ = generation.read_configuration(
                generation.configuration_path(str(self.state), stamp)
            )
            assert source is not None, where
            assert {name for name, k in one.services.items() if k.up} <= source["services"].keys()

    def is_sound(self, where: str = "") -> None:
        """What must hold after every good update."""
        self.is_whole(where)
        known = self.known()
        assert known.underway is None, where
        assert known.failed is None, where
        assert not known.untidy, where
        for service, found in self.world.running().items():
            name = "postgres:16" if service == "db" else f"site-{service}"
            assert set(found) == {self.world.names[name]}, where
            assert known.services[service]["image"] == found[0], where
        assert len(self.world.kept()) <= 1, where
        # Nothing nameless and unused is left over.
        left = set(self.world.labels) - set(self.world.names.values()) - self.world.used()
        assert not left, where
        names = {path.name for path in self.state.iterdir()}
        assert not {name for name in names if "scratch" in name or name.endswith(".new")}, where

    def ends_fresh(self, where: str = "") -> None:
        """After a good later run all is sound, and there is nothing more to do."""
        self.is_sound(where)
        outcome = self.run()
        assert (outcome.outcome, outcome.warnings) == ("fresh", ()), where


@contextmanager
def new_site(root: Path, make: Callable[[Path, Clock], S]) -> Iterator[S]:
    """A project that was never updated, on a clock that runs ahead at the test's word."""
    clock = Clock()
    # Not the test's own patch: that may be undone before this one.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", clock.time)
        for module in (gate, steps, wayback):
            patch.setattr(module, "time", clock)
        # What is struck here is rbuild; a disk that loses power is another test's.
        patch.setattr(record.os, "fsync", lambda descriptor: None)
        yield make(root, clock)


# The exit code of each outcome that is no good one.
CODES = {"failed": 1, "rolled-back": 3, "needs-a-person": 4, "deferred": 75}


@contextmanager
def full_disk(fails: Callable[[int, str], bool]) -> Iterator[list[str]]:
    """Let writes fail, told by their number and path; gives the paths that were asked for."""
    asked: list[str] = []
    real = record.write_private

    def write_private(path: str, text: str) -> None:
        asked.append(path)
        if fails(len(asked), path):
            raise record.unusable(path, OSError(28, "No space left on device"))
        real(path, text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "write_private", write_private)
        yield asked
