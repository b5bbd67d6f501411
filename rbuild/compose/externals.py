"""What a project uses and doesn't make itself: networks, volumes and containers of others.

Pure, from what `docker compose config --format json` gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

NETWORK, VOLUME, CONTAINER = "network", "volume", "container"
RUNNING = "running container"
# Of services whose namespaces may be a container's: `service:NAME`, `container:NAME`.
MODES = ("network_mode", "pid", "ipc")
# Networks that are always there, and no name at all.
_BUILT_IN = ("", "bridge", "default", "host", "none")
# A scale may be any number.
_MOST = 100


class External(NamedTuple):
    """One thing of somebody else's, and who uses it."""

    kind: str
    """NETWORK, VOLUME, CONTAINER, or RUNNING where it is not enough that it is there."""
    name: str
    """As the engine knows it."""
    services: tuple[str, ...]
    key: str
    """Where the compose file says so."""

    @property
    def thing(self) -> str:
        """Kind and name, as `Engine.absent` takes them."""
        return f"{self.kind} {self.name}"


def uses(rendered: Mapping[str, Any]) -> tuple[External, ...]:
    """What the active services use of others, each thing once. What no service uses, Compose
    doesn't ask for either."""
    own = makes(rendered)
    found: dict[tuple[str, str], External] = {}
    for service, data in _services(rendered):
        for kind, name, key in _used(rendered, service, data):
            if f"{kind.removeprefix('running ')} {name}" in own:
                continue
            one = found.setdefault((kind, name), External(kind, name, (), key))
            if service not in one.services:
                found[kind, name] = one._replace(services=(*one.services, service))
    return tuple(found.values())


def makes(rendered: Mapping[str, Any]) -> frozenset[str]:
    """The networks, volumes and containers that a project makes, each as `network NAME`."""
    found = {
        f"{kind} {(one or {}).get('name') or key}"
        for kind in (NETWORK, VOLUME)
        for key, one in (rendered.get(f"{kind}s") or {}).items()
        if not (one or {}).get("external")
    }
    return frozenset(found | {f"{CONTAINER} {name}" for name in owners(rendered)})


def owners(rendered: Mapping[str, Any]) -> dict[str, str]:
    """The names of a project's containers, as far as its files tell them: name → service."""
    found = {}
    for service, data in _services(rendered):
        if data.get("container_name"):
            found[data["container_name"]] = service
            continue
        for number in range(1, min(scale(data), _MOST) + 1):
            # With COMPOSE_COMPATIBILITY, underscores.
            for mark in "-_":
                found[f"{rendered.get('name', '')}{mark}{service}{mark}{number}"] = service
    return found


def scale(service: Mapping[str, Any]) -> int:
    """How many containers the files give a service."""
    replicas = (service.get("deploy") or {}).get("replicas")
    return int(service.get("scale", replicas if replicas is not None else 1))


def _services(rendered: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, data in (rendered.get("services") or {}).items():
        yield name, data or {}


def _used(
    rendered: Mapping[str, Any], service: str, data: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    """(kind, name, where the files say so) of whatever a service uses of others."""
    networks, volumes = rendered.get("networks") or {}, rendered.get("volumes") or {}
    for key in data.get("networks") or ():
        one = networks.get(key) or {}
        if one.get("external"):
            yield NETWORK, one.get("name") or key, f"networks.{key}"
    for mount in data.get("volumes") or ():
        key = mount.get("source", "") if mount.get("type") == "volume" else ""
        one = volumes.get(key) or {}
        if one.get("external"):
            yield VOLUME, one.get("name") or key, f"volumes.{key}"
    if not scale(data):
        # Compose looks for the above all the same, and makes nothing that would need the rest.
        return
    for mode in MODES:
        value = data.get(mode) or ""
        if value.startswith("container:"):
            yield RUNNING, value.removeprefix("container:"), f"services.{service}.{mode}"
        elif mode == "network_mode" and ":" not in value and value not in _BUILT_IN:
            yield NETWORK, value, f"services.{service}.{mode}"
    for source in data.get("volumes_from") or ():
        if source.startswith("container:"):
            yield CONTAINER, source.split(":")[1], f"services.{service}.volumes_from"
