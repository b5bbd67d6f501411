"""An engine that does as it is told, and a clock that goes when somebody sleeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from rbuild.compose.configuration import parse
from rbuild.compose.project import Target
from rbuild.docker.engine import Container, EngineInfo, Image, Port, Stopping
from rbuild.errors import EngineError
from rbuild.process import Log, Stop
from rbuild.settings import Given, resolve
from rbuild.updates.steps import Work


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


def box(state: str = "running", service: str = "web", **more: Any) -> Container:
    name = more.pop("name", f"p-{service}-1")
    return Container(
        more.pop("id", f"{name}-id"), name, service, "sha256:1", service, state, **more
    )


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
    elsewhere: Sequence[Container] = ()
    missing: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    told_to_stop: frozenset[str] = frozenset()
    remembers: bool = True

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

    def find(self, containers: Sequence[str]) -> list[Container]:
        return [one for one in self.elsewhere if one.id in containers]

    def absent(self, things: Sequence[str]) -> list[str]:
        return [one for one in things if one in self.missing]

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

    def stop_containers(self, containers: Sequence[str], *, timeout: float) -> None:
        self.asked.append(("stop", *containers, timeout))

    def remove_container(self, container: str) -> None:
        self.asked.append(("remove", container))

    def start_container(self, container: str) -> None:
        self.asked.append(("start", container))

    def rename_container(self, container: str, name: str) -> None:
        self.asked.append(("rename", container, name))

    def trust(self, info: EngineInfo) -> None:
        self.asked.append(("trust", info))

    def stopping(self, project: str, since: float) -> Stopping:
        self.asked.append(("stopping", since))
        return Stopping(self.told_to_stop, self.remembers)

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
        log=Log(),
    )
