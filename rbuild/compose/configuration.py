"""A project's rendered configuration as plain values: what of it an update needs to know."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rbuild.compose import externals
from rbuild.compose.externals import External
from rbuild.docker.engine import STOP_GRACE, Healthcheck, Port
from rbuild.errors import ProjectError
from rbuild.settings import FILE_KEYS, BadValue, switch
from rbuild.settingsfile import as_flag, as_yaml, unknown_key

_PART = re.compile(r"([0-9.]+)(h|ms|us|µs|ns|m|s)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
SERVICE_KEYS = ("update", "one-shot", "rollback")


@dataclass(frozen=True, slots=True)
class Service:
    """One service of a project, as Compose renders it."""

    name: str
    image: str
    """The name of the image it runs; Compose's default name for one that is only built."""
    build: Mapping[str, Any] | None = None
    pull_policy: str = ""
    platform: str = ""
    scale: int = 1
    restart: str = "no"
    depends_on: Mapping[str, str] | None = None
    """Service → condition."""
    healthcheck: Healthcheck | None = None
    """Timing that the compose file sets; what it leaves unset comes from the image."""
    healthcheck_disabled: bool = False
    manual: bool = False
    one_shot: bool = False
    """Somebody says or awaits that it ends with 0."""
    ports: tuple[Port, ...] = ()
    stop_grace: float = STOP_GRACE
    """Seconds that its containers get to stop."""
    tags: tuple[str, ...] = ()
    """Further names that its build gives the image."""
    has_image: bool = True
    """False for what a provider runs (Compose 2.36), which is no container."""
    environment: Mapping[str, str | None] | None = None
    stays_new: bool = False
    """A failed update does not take it back to its old image."""
    shares: tuple[str, ...] = ()
    """Services whose containers' namespaces its own containers live in."""
    restarts_with: tuple[str, ...] = ()
    """Services with which it is restarted (`depends_on: {restart: true}`)."""
    is_named: bool = False
    """Whether the compose file gives its image a name."""
    missing: str = ""
    """What its build needs and is not there: it has no `build`, and its image is pulled."""
    mounts: tuple[str, ...] = ()
    """Images whose files its containers have as volumes (Compose 2.33, engine 28)."""

    @property
    def images(self) -> tuple[str, ...]:
        """Names of all images that it runs, builds or mounts."""
        return (*((self.image, *self.tags) if self.has_image else ()), *self.mounts)


@dataclass(frozen=True, slots=True)
class Configuration:
    """A project: its Compose name and its active services in the file's order."""

    name: str
    services: Mapping[str, Service]
    separator: str = "-"
    """What stands between the names of project and service where an image has no other name."""
    uses: tuple[External, ...] = ()
    """What the services use of others' networks, volumes and containers."""
    makes: frozenset[str] = frozenset()
    """The networks, volumes and containers that the project makes (see `externals.makes`)."""

    @property
    def built_images(self) -> frozenset[str]:
        """Names of the images that services of this project build."""
        built = [one for one in self.services.values() if one.build]
        return frozenset(name for one in built for name in (one.image, *one.tags))


def parse(
    config: Mapping[str, Any],
    where: str,
    lines: Mapping[tuple[str, str], str] | None = None,
    separator: str = "-",
) -> Configuration:
    """Read what `docker compose config --format json` gave; `where` names the project.

    `lines` has the place ("file:line") of each key of a service's `x-rbuild`; `separator` is as in
    Configuration.
    Raises ProjectError for a service's `x-rbuild` that can't be understood.
    """
    name = config["name"]
    services = config.get("services") or {}
    awaited = {
        dependency
        for service in services.values()
        for dependency, condition in _depends_on(service).items()
        if condition == "service_completed_successfully"
    }
    owners = externals.owners(config)
    parsed = {
        key: replace(
            _service(
                f"{name}{separator}{key}",
                key,
                value,
                key in awaited,
                _Place(f"{where}: services.{key}", key, lines or {}),
            ),
            shares=_shares(key, value, owners),
        )
        for key, value in services.items()
    }
    return Configuration(
        name, parsed, separator, uses=externals.uses(config), makes=externals.makes(config)
    )


def separator(config: Mapping[str, Any], images: Iterable[str]) -> str:
    """The separator in image names (see Configuration): "-", or "_" as Compose 1 had it.

    `images` has the name of each service's image, as Compose gives them for this configuration.
    """
    services = (config.get("services") or {}).items()
    given = Counter(one["image"] for _, one in services if one.get("image"))
    old = Counter(f"{config['name']}_{name}" for name, one in services if not one.get("image"))
    return "_" if old and Counter(images) - given == old else "-"


def seconds(text: object) -> float:
    """Seconds of a Go duration such as `1m30s`; 0 for none."""
    if not isinstance(text, str):
        return 0.0
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def longest_wait(
    configuration: Configuration, images: Mapping[str, Healthcheck | None]
) -> tuple[float, str]:
    """Seconds that stopping and healthchecks may take along the longest chain of `depends_on`.

    With it comes the chain's end.

    `images` has the healthcheck of each service's image. What neither declares is the
    engine's default: interval and timeout 30 s, 3 retries (Dockerfile reference, HEALTHCHECK).
    """
    waits: dict[str, float] = {}

    def wait(name: str, path: tuple[str, ...]) -> float:
        if name in waits or name in path or name not in configuration.services:
            return waits.get(name, 0.0)
        service = configuration.services[name]
        own = _patience(service, images.get(name))
        before = [wait(one, (*path, name)) for one in service.depends_on or ()]
        waits[name] = own + max(before, default=0.0)
        return waits[name]

    for name in configuration.services:
        wait(name, ())
    longest = max(waits, key=lambda name: waits[name], default="")
    return waits.get(longest, 0.0), longest


def _patience(service: Service, image: Healthcheck | None) -> float:
    own = service.healthcheck
    if service.healthcheck_disabled or (own is None and image is None):
        return service.stop_grace
    own, image = own or Healthcheck(), image or Healthcheck()
    start_period = own.start_period or image.start_period
    interval = own.interval or image.interval or 30.0
    timeout = own.timeout or image.timeout or 30.0
    retries = own.retries or image.retries or 3
    return service.stop_grace + start_period + retries * (interval + timeout)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a service's settings stand, for messages."""

    service: str
    name: str
    lines: Mapping[tuple[str, str], str]

    def of(self, key: str = "") -> str:
        return self.lines.get((self.name, key), f"{self.service}.x-rbuild")


def _service(
    default_image: str, name: str, data: Mapping[str, Any], awaited: bool, place: _Place
) -> Service:
    own = _own_settings(data.get("x-rbuild"), place)
    deploy = data.get("deploy") or {}
    check = data.get("healthcheck") or {}
    disabled = bool(check.get("disable")) or check.get("test") in (["NONE"], "NONE")
    return Service(
        name=name,
        image=data.get("image") or default_image,
        build=data.get("build"),
        pull_policy=data.get("pull_policy", ""),
        platform=data.get("platform", ""),
        scale=externals.scale(data),
        restart=data.get("restart") or _deploy_restart(deploy),
        depends_on=_depends_on(data),
        healthcheck=None
        if disabled or not check
        else Healthcheck(
            start_period=seconds(check.get("start_period")),
            interval=seconds(check.get("interval")),
            timeout=seconds(check.get("timeout")),
            retries=int(check.get("retries") or 0),
        ),
        healthcheck_disabled=disabled,
        manual=own.get("update") == "manual",
        one_shot=bool(own.get("one-shot")) or awaited,
        stop_grace=seconds(data.get("stop_grace_period")) or STOP_GRACE,
        tags=tuple((data.get("build") or {}).get("tags") or ()),
        has_image="provider" not in data,
        environment=data.get("environment"),
        stays_new=own.get("rollback") == "never",
        restarts_with=tuple(
            name
            for name, one in (data.get("depends_on") or {}).items()
            if isinstance(one, dict) and one.get("restart")
        ),
        is_named=bool(data.get("image")),
        mounts=tuple(
            dict.fromkeys(
                str(mount["source"])
                for mount in data.get("volumes") or ()
                if mount.get("type") == "image" and mount.get("source")
            )
        ),
        ports=tuple(
            Port(int(one["published"]), one.get("host_ip", ""), one.get("protocol", "tcp"))
            for one in data.get("ports") or ()
            # A range leaves the choice to the engine.
            if str(one.get("published", "")).isdecimal()
        ),
    )


def _own_settings(data: Any, place: _Place) -> Mapping[str, Any]:
    if data is None:
        return {}
    if not isinstance(data, dict):
        keys = ", ".join(SERVICE_KEYS)
        raise ProjectError(
            f"{place.of()}: x-rbuild: expected a mapping with {keys}, not {as_yaml(data)}"
        )
    for key, value in data.items():
        if key in FILE_KEYS and key not in SERVICE_KEYS:
            raise ProjectError(
                f"{place.of(key)}: {key} is a setting of the project, not of a service",
                hint="move it to the x-rbuild at the top of the file",
            )
        if key not in SERVICE_KEYS:
            raise unknown_key(key, place.of(key), SERVICE_KEYS, ProjectError)
        if key == "update" and value not in ("auto", "manual"):
            raise ProjectError(
                f"{place.of(key)}: update: {as_yaml(value)} is neither auto nor manual"
            )
        if key == "rollback" and value not in ("auto", "never"):
            raise ProjectError(
                f"{place.of(key)}: rollback: {as_yaml(value)} is neither auto nor never"
            )
    if "one-shot" not in data:
        return data
    try:
        return {**data, "one-shot": switch(as_flag(data["one-shot"]))}
    except BadValue as bad:
        raise ProjectError(f"{place.of('one-shot')}: one-shot: {bad}") from None


def _shares(name: str, data: Mapping[str, Any], owners: Mapping[str, str]) -> tuple[str, ...]:
    """The services in whose namespaces a service lives; `owners` are those of containers."""
    found: dict[str, None] = {}
    for mode in externals.MODES:
        kind, _, owner = (data.get(mode) or "").partition(":")
        if kind == "service":
            found[owner] = None
        elif kind == "container" and owner in owners:
            found[owners[owner]] = None
    return tuple(one for one in found if one != name)


def _depends_on(service: Mapping[str, Any]) -> dict[str, str]:
    declared = service.get("depends_on") or {}
    return {name: (value or {}).get("condition", "") for name, value in declared.items()}


def _deploy_restart(deploy: Mapping[str, Any]) -> str:
    condition = (deploy.get("restart_policy") or {}).get("condition", "")
    return {"none": "no", "any": "always"}.get(condition, condition) or "no"
