"""What rbuild asks of Docker: plain values and a Protocol, without Docker.

`whales` implements it; tests put small fakes in its place.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from rbuild.compose.project import Target
from rbuild.docker.reference import repository

# Seconds that a container gets to stop where nothing is said.
STOP_GRACE = 10.0


@dataclass(frozen=True, slots=True)
class Healthcheck:
    """A healthcheck's timing in seconds, as an image or a compose file declares it; 0 = unset."""

    start_period: float = 0
    interval: float = 0
    timeout: float = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Port:
    """A fixed port of the host that a service publishes; `address` is empty for all of them."""

    number: int
    address: str = ""
    protocol: str = "tcp"

    def clashes(self, other: Port) -> bool:
        """Whether only one of the two can be published."""
        everywhere = {"", "0.0.0.0", "::"}
        return (self.number, self.protocol) == (other.number, other.protocol) and (
            self.address == other.address or bool(everywhere & {self.address, other.address})
        )

    def __str__(self) -> str:
        where = f"[{self.address}]" if ":" in self.address else self.address
        port = f"{where}:{self.number}" if where else str(self.number)
        return port if self.protocol == "tcp" else f"{port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a project as the engine shows it; times are the engine's, epoch seconds."""

    id: str
    name: str
    service: str
    image: str
    """ID of the image it runs."""
    reference: str
    """The name it was created from."""
    state: str
    """One of created, running, paused, restarting, removing, exited, dead."""
    health: str = ""
    """starting, healthy or unhealthy; empty without a healthcheck."""
    exit_code: int = 0
    restarts: int = 0
    started: float = 0
    error: str = ""
    restart_policy: str = "no"
    config_files: tuple[str, ...] = ()
    config_hash: str = ""
    """Compose's, of the service's configuration."""
    environment: tuple[str, ...] = ()
    """`NAME=value` of each variable; may hold secrets."""
    oneoff: bool = False
    """Made by `docker compose run`."""
    replaces: str = ""
    """ID of the container that an interrupted or running recreate was to replace."""
    healthcheck_output: str = ""
    ports: tuple[Port, ...] = ()
    """What it publishes as it is running."""
    volumes: tuple[str, ...] = ()
    """Names or folders of what it may write to and what outlives it."""
    stop_grace: float = STOP_GRACE
    """Seconds that it gets to stop."""
    namespaces: tuple[tuple[str, str], ...] = ()
    """(network, pid or ipc; ID of the container in whose it lives)"""
    finished: float = 0
    project: str = ""
    """Compose's name for the project that it is labelled with."""
    folder: str = ""
    """That project's."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image in the engine's store."""

    id: str
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    """`name@sha256:…` of the repositories it was pulled from or pushed to; of all its names, in a
    store that forgets."""
    labels: Mapping[str, str] | None = None
    healthcheck: Healthcheck | None = None
    forgets: bool = False
    """Whether the store keeps no note of registries, as containerd's does."""
    pulls: tuple[str, ...] = ()
    """Repositories that it was pulled from, of which an engine tells in spite of that."""

    def is_from_registry(self, reference: str) -> bool | None:
        """Whether a registry gave it, or got it, under this name; None if the engine can't tell."""
        told = self.pulls if self.forgets else self.digests
        if repository(reference) in map(repository, told):
            return True
        return None if self.forgets else False


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What the engine says of itself."""

    version: str
    clock_ahead: float
    """Seconds that its clock is ahead of ours."""
    containerd_store: bool
    platform: str
    """What it builds and pulls for by default, as images name it: `linux/amd64`."""
    here: bool = False
    """Whether it publishes ports on the very machine that we run on."""
    compose: str = ""
    """The version of Compose that talks to it."""
    root: str = ""
    """The folder on its machine where it keeps what it has; empty if it doesn't tell."""
    swarm: bool = False
    """Whether it is part of a swarm."""


class Member(NamedTuple):
    """A container of any Compose project on the engine, as its labels have it."""

    id: str
    name: str
    project: str
    config_files: tuple[str, ...]
    folder: str
    """Where Compose was started: the older one names files as seen from there."""
    oneoff: bool
    """Made by `docker compose run`."""


class Stopping(NamedTuple):
    """Containers that are about to end, as far as the engine remembers."""

    told: frozenset[str]
    """Their IDs."""
    whole: bool = True
    """False where the engine may have forgotten some."""


class Engine(Protocol):
    """Docker and Compose. What a method can't do, it raises EngineError or one of its kinds for."""

    def check(self) -> EngineInfo:
        """Find the CLI, the Compose plugin and the engine, or say which is missing or too old."""

    def trust(self, info: EngineInfo) -> None:
        """Take what another adapter's `check` has given, in place of asking again."""

    def render(
        self, target: Target, *, service_extensions: bool = False
    ) -> tuple[dict[str, Any], str]:
        """Compose's rendered configuration, `$` not doubled, and its warnings.

        The `x-` keys of services are in it only with `service_extensions`, for that takes
        Compose a second run. Raises InputError if Compose refuses the project.
        """

    def image_names(self, target: Target) -> list[str]:
        """The name of each service's image, in no order; a name that two services have is there
        twice."""

    def all_services(self, target: Target) -> frozenset[str]:
        """The names of all services, those of inactive profiles too."""

    def hashes(self, target: Target) -> dict[str, str]:
        """Compose's hash of each service's configuration, as its containers are labelled."""

    def containers(self, project: str) -> list[Container]:
        """All containers that Compose labels as this project's, in every state.

        But for one-offs (`docker compose run`): they belong to the person that made them.
        """

    def members(self) -> list[Member]:
        """The containers of all Compose projects, in every state."""

    def details(self, containers: Sequence[str]) -> dict[str, dict[str, Any]]:
        """All that `docker inspect` says of the containers of these IDs that exist."""

    def others(self, known: Collection[str]) -> list[Container]:
        """All containers on the engine but these, by ID; one-offs are among them."""

    def find(self, containers: Sequence[str]) -> list[Container]:
        """The containers of these IDs or names, whosever they are; absent ones are left out."""

    def absent(self, things: Sequence[str]) -> list[str]:
        """Which of these are not there, each `network NAME`, `volume NAME`, `container NAME` or
        `running container NAME`. Of networks, nobody can tell in a swarm: none is."""

    def resource(self, kind: str, name: str) -> dict[str, Any] | None:
        """A network or volume (`kind`) in the words of compose files; None if there is none."""

    def publishers(self, port: Port) -> list[str]:
        """Names of the running containers that hold this port."""

    def used_images(self) -> frozenset[str]:
        """IDs of the images that any container on the engine uses."""

    def images(self, references: Sequence[str]) -> dict[str, Image]:
        """The images of these names or IDs; absent ones are left out."""

    def list_images(
        self, *, label: str = "", reference: str = "", dangling: bool = False
    ) -> list[Image]:
        """Images with this label, of this name pattern, or without any tag."""

    def insecure_registries(self) -> frozenset[str]:
        """Registries (`host`, `host:port`) and networks (`10.0.0.0/8`) to which the engine speaks
        plain HTTP if need be."""

    def sign_in(self, config: str) -> None:
        """From now on, pull, build and push with the credentials in this DOCKER_CONFIG."""

    def push(self, reference: str, *, timeout: float) -> None:
        """Push an image; PushError if that fails or takes longer than `timeout` seconds."""

    def pull(self, reference: str, platform: str, *, timeout: float) -> None:
        """Pull an image; PullError if that fails or takes longer than `timeout` seconds."""

    def build(
        self, target: Target, overlay: str, services: Sequence[str], *, pull: bool, timeout: float
    ) -> None:
        """Build services without cache, the compose file `overlay` laid over; BuildError."""

    def up(self, target: Target, options: Sequence[str], *, timeout: float) -> None:
        """`up --detach` with images that are here; UpError if it fails or takes too long."""

    def tag(self, image: str, reference: str) -> None:
        """Give an image another name."""

    def remove_image(self, reference: str) -> bool:
        """Untag or remove an image; False if it's gone already or something uses it."""

    def stop_containers(self, containers: Sequence[str], *, timeout: float) -> None:
        """Stop containers, each within its own time to stop; EngineError if that fails or takes
        longer than `timeout` seconds in all."""

    def remove_container(self, container: str) -> None:
        """Remove a container, running or not; never its volumes."""

    def start_container(self, container: str) -> None:
        """Start a container that was created or has ended."""

    def rename_container(self, container: str, name: str) -> None:
        """Give a container another name."""

    def stopping(self, project: str, since: float) -> Stopping:
        """Containers that were told to stop after `since` (the engine's clock, epoch seconds)
        and still run: they are about to end."""

    def logs(self, container: str, lines: int) -> str:
        """The last lines that a container wrote."""

    def prune_build_cache(self) -> None:
        """Remove the builder's cache."""
