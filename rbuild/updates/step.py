"""What an update or a way back consists of: steps as plain values, which `--dry-run` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rbuild.compose.externals import External
from rbuild.compose.project import Target
from rbuild.docker.engine import Container, Port
from rbuild.updates.health import Expectation


@dataclass(frozen=True, slots=True)
class Keep:
    """Tag the images that run now, so that they outlive the build, and remember their names."""

    images: tuple[tuple[str, str], ...]
    """(image ID, tag of ours)"""
    names: tuple[tuple[str, str], ...]
    """(image name, image ID before the update, or before one that was killed at its builds; empty
    for a name that the update's builds give for the first time)"""

    def __str__(self) -> str:
        return f"keep the images that run now ({len(self.images)})"


@dataclass(frozen=True, slots=True)
class Pull:
    """Fetch an image."""

    reference: str
    platform: str
    purpose: str
    digest: str = ""
    """The one to take and to give this name, where it must be no other."""
    replaces: str = ""
    """ID of the image that bears the name so far."""
    known: bool | None = None
    """Whether a registry is known to have it; False if none had it when it was last asked for."""
    had: bool = False
    """Whether one had it under this very name when it was last asked for."""
    moved: bool = False
    """Whether it is what the update is for."""

    def __str__(self) -> str:
        where = f" for {self.platform}" if self.platform else ""
        exact = f" at {self.digest}" if self.digest else ""
        return f"pull {self.reference}{exact}{where} ({self.purpose})"


@dataclass(frozen=True, slots=True)
class Build:
    """Build services without cache. `pull` lets BuildKit fetch bases that we can't read."""

    services: tuple[str, ...]
    pull: bool = False

    def __str__(self) -> str:
        return f"build {', '.join(self.services)} without cache" + (
            ", bases pulled by the builder" if self.pull else ""
        )


@dataclass(frozen=True, slots=True)
class Push:
    """Give what was built to the registries that its names belong to."""

    references: tuple[str, ...]

    def __str__(self) -> str:
        return f"push {', '.join(self.references)}"


@dataclass(frozen=True, slots=True)
class Require:
    """All images must be here before a container is touched."""

    images: tuple[tuple[str, str], ...]
    """(service, image name)"""

    def __str__(self) -> str:
        return "make sure that every image is here"


@dataclass(frozen=True, slots=True)
class Free:
    """Ports that will be published anew must be free: `up` notices only halfway through."""

    ports: tuple[tuple[str, Port], ...]
    """(service, port)"""
    own: tuple[str, ...] = ()
    """Names of the project's own containers: what they hold, `up` takes from them."""
    held: tuple[Port, ...] = ()
    """The ports they hold."""

    def __str__(self) -> str:
        return f"make sure that ports are free: {', '.join(str(port) for _, port in self.ports)}"


@dataclass(frozen=True, slots=True)
class Find:
    """What others make must be there: `up` misses some of it only when containers are gone."""

    uses: tuple[External, ...]

    def __str__(self) -> str:
        return f"make sure that what others make is there: {', '.join(o.thing for o in self.uses)}"


@dataclass(frozen=True, slots=True)
class Up:
    """Bring services up."""

    services: tuple[str, ...]
    options: tuple[str, ...]
    leftovers: tuple[Container, ...] = ()
    """What an interrupted recreate left behind: the next `up` would stumble over it."""
    failing: tuple[str, ...] = ()
    """Services that are failing already."""
    orphans: tuple[Container, ...] = ()
    """What is removed first: containers of services that the files have no longer. Not by
    Compose, whose `--remove-orphans` takes one-offs and other people's containers along."""
    apart: tuple[str, ...] = ()
    """Options that keep Compose from services that are left alone. Only where it must be:
    Compose 2.26 hashes dependencies into what it makes, and then makes it again at the next
    plain `up`."""
    beside: tuple[tuple[str, str], ...] = ()
    """(image name, ID): as long as these hold, a plain `up` does not touch what is left alone."""
    mounted: tuple[tuple[str, str, str], ...] = ()
    """(service, image name, ID of the image that its containers mount): where the name means
    another by then, they are made anew, for Compose sees no difference."""
    target: Target | None = None
    """Where the way back takes its configuration from; an update takes the user's own files."""
    recreate: tuple[str, ...] = ()
    """Services whose containers must be new ones afterwards, though Compose sees no difference."""

    def __str__(self) -> str:
        kept = " as they were" if self.target else ""
        names = ", ".join(one.name for one in self.orphans)
        orphans = f"remove what the files have no longer ({names}), then " if names else ""
        anew = f" (recreate {', '.join(self.recreate)})" if self.recreate else ""
        return f"{orphans}bring up {', '.join(self.services)}{kept}{anew}"


@dataclass(frozen=True, slots=True)
class Gate:
    """Wait until the services are judged healthy."""

    expectations: tuple[Expectation, ...]
    restarts: Mapping[str, int]

    def __str__(self) -> str:
        return "wait until they are healthy"


@dataclass(frozen=True, slots=True)
class Hook:
    """Run a command of the user's; `before-update` may put the update off."""

    name: str
    command: tuple[str, ...]

    def __str__(self) -> str:
        return f"run the {self.name} hook"


@dataclass(frozen=True, slots=True)
class Watch:
    """Watch services that are healthy for a while longer."""

    expectations: tuple[Expectation, ...]
    seconds: int

    def __str__(self) -> str:
        return f"watch them for {self.seconds} s"


@dataclass(frozen=True, slots=True)
class Restore:
    """Give images that were kept the names back that they had."""

    names: tuple[tuple[str, str], ...]
    """(image name, our tag or the image's ID)"""

    def __str__(self) -> str:
        return f"give kept images their names back ({len(self.names)})"


@dataclass(frozen=True, slots=True)
class Drop:
    """Remove containers that the update made where there were none."""

    containers: tuple[Container, ...]

    def __str__(self) -> str:
        return f"remove what the update made anew: {', '.join(o.name for o in self.containers)}"


@dataclass(frozen=True, slots=True)
class Start:
    """Start containers as they are."""

    containers: tuple[Container, ...]

    def __str__(self) -> str:
        services = dict.fromkeys(one.service for one in self.containers)
        return f"start {', '.join(services)} as it stands"


Step = (
    Hook
    | Free
    | Find
    | Keep
    | Pull
    | Build
    | Push
    | Require
    | Up
    | Gate
    | Watch
    | Restore
    | Drop
    | Start
)
