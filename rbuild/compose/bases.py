"""What a project's builds rest on: external images to refresh, and the order to build in."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from rbuild.compose import dockerfile
from rbuild.compose.configuration import Configuration, Service
from rbuild.compose.fingerprint import dockerfile_of, is_local_context
from rbuild.docker.reference import problem, qualified
from rbuild.errors import InputError, ProjectError

# From which version Compose builds from what another service builds.
_SERVICE_CONTEXTS = (2, 33, 0)


@dataclass(frozen=True, slots=True)
class Need:
    """An external image that builds rest on; `platform` is empty for the engine's own."""

    reference: str
    platform: str
    services: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bases:
    """What the builds of a project need."""

    needs: tuple[Need, ...]
    order: tuple[tuple[str, ...], ...]
    """Services to build, in groups: a group rests only on images and on earlier groups."""
    unknown: tuple[str, ...]
    """Services whose context is no folder here, so that their bases can't be read."""
    rests_on: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Service → the services of this project whose images its build rests on."""


def find(
    configuration: Configuration,
    read: Callable[[str], bytes],
    platform: str,
    leave: Collection[str] = (),
) -> Bases:
    """Read the Dockerfiles of the services that are to be built, all but those to `leave`.

    `read` gives a file's content or raises OSError; `platform` is the engine's own. Raises
    InputError for a Dockerfile that is missing or broken, ProjectError for builds that rest
    on each other in a circle.
    """
    buildable = {one.name: one for one in configuration.services.values() if one.build}
    # What is left alone is still made here: it must not be pulled.
    makers: dict[str, list[str]] = {}
    for service in buildable.values():
        for name in (service.image, *service.tags):
            makers.setdefault(qualified(name), []).append(service.name)
    wanted: dict[str, Service] = {}
    for name, service in buildable.items():
        # Services that share an image and its build would build it twice, the last one winning.
        own = (service.image, service.build)
        if name not in leave and own not in ((one.image, one.build) for one in wanted.values()):
            wanted[name] = service

    needs: dict[tuple[str, str], list[str]] = {}
    rests_on: dict[str, set[str]] = {name: set() for name in wanted}
    unknown = []
    for name, service in wanted.items():
        assert service.build is not None
        if not is_local_context(service.build.get("context", "")):
            unknown.append(name)
            continue
        for reference, where in _references(service, service.build, read, platform):
            if reference.startswith("service:"):
                other = configuration.services.get(reference.removeprefix("service:"))
                rests_on[name].update(makers.get(qualified(other.image), ()) if other else ())
            elif qualified(reference) in makers:
                rests_on[name].update(makers[qualified(reference)])
            else:
                users = needs.setdefault((reference, where), [])
                if name not in users:
                    users.append(name)
    others = {name: frozenset(deps - {name}) for name, deps in rests_on.items()}
    return Bases(
        needs=tuple(Need(one, where, tuple(users)) for (one, where), users in needs.items()),
        order=_order({name: deps & wanted.keys() for name, deps in others.items()}),
        rests_on=others,
        unknown=tuple(unknown),
    )


def require_compose(
    configuration: Configuration, version: str, leave: Collection[str] = ()
) -> None:
    """Raise ProjectError for a build that takes files from another service's, where Compose can't.

    `version` is Compose's, empty if it isn't known; services to `leave` are not built.
    """
    numbers = tuple(map(int, re.findall(r"\d+", version)[:3]))
    if not numbers or numbers >= _SERVICE_CONTEXTS:
        return
    for service in configuration.services.values():
        contexts = (service.build or {}).get("additional_contexts") or {}
        for key, source in contexts.items():
            if str(source).startswith("service:") and service.name not in leave:
                raise ProjectError(
                    f"services.{service.name}.build.additional_contexts.{key}: "
                    f"Compose {version} can't build from {source}",
                    hint="Compose 2.33 and newer can; or name its image, and write "
                    "docker-image://NAME",
                )


def concerned(
    configuration: Configuration,
    bases: Bases,
    moved: Collection[str],
    changed: Collection[str] = (),
    watched: Collection[str] = (),
) -> frozenset[str]:
    """The services that are concerned where images have moved: those that rest on one or run
    one, those that build upon or run what these build, and those that live in the namespaces
    of these or are restarted with them.

    `bases` is of all services, `moved` has qualified names, `changed` services that are concerned
    by themselves. An image that is only `watched` concerns all that is built.
    """
    services = configuration.services
    found = {*changed}
    for need in bases.needs:
        if qualified(need.reference) in moved:
            found.update(need.services)
    for service in services.values():
        runs = () if service.build else (service.image,)
        if not {*map(qualified, (*runs, *service.mounts))}.isdisjoint(moved) or (
            service.build and not {*watched}.isdisjoint(moved)
        ):
            found.add(service.name)
    while True:
        made = {
            qualified(image)
            for name in found
            if services[name].build
            for image in (services[name].image, *services[name].tags)
        }
        more = {
            one.name
            for one in services.values()
            if one.name not in found
            and (
                not made.isdisjoint(map(qualified, (one.image, *one.mounts)))
                or bases.rests_on.get(one.name, frozenset()) & found
                or {*one.shares, *one.restarts_with} & found
            )
        }
        if not more:
            return frozenset(found)
        found |= more


def _references(
    service: Service, build: Mapping[str, Any], read: Callable[[str], bytes], platform: str
) -> list[tuple[str, str]]:
    """(reference, platform) of every image that one build refers to."""
    contexts = {key: str(value) for key, value in (build.get("additional_contexts") or {}).items()}
    own_platform = _platform(service, build)
    text: str | bytes
    path = dockerfile_of(build)
    if path:
        try:
            text = read(path)
        except OSError as error:
            hint = "create it, or say under `build:` in the compose file where it is"
            if service.is_named and service.pull_policy != "build":
                # It was built here before.
                hint += (
                    f"; to have it from a registry, drop `build:`, `docker pull {service.image}`"
                )
            raise InputError(
                f"{path}: the Dockerfile of service {service.name}: {error.strerror}", hint=hint
            ) from None
    else:
        path = f"dockerfile_inline of service {service.name}"
        text = build.get("dockerfile_inline", "")
    arguments = {
        key: str(value) for key, value in (build.get("args") or {}).items() if value is not None
    }
    try:
        found = dockerfile.images(
            text,
            target=build.get("target") or "",
            args=arguments,
            contexts=tuple(contexts),
            platform=own_platform or platform,
            build_platform=platform,
        )
    except InputError as error:
        # There it has no other name than Dockerfile.
        what = error.message.removeprefix("Dockerfile")
        raise InputError(path + what, hint=error.hint) from None
    references = [(one.reference, one.platform or own_platform) for one in found.images]
    for name in found.contexts:
        source = contexts.get(name, "")
        if source.startswith("docker-image://"):
            image = source.removeprefix("docker-image://")
            if wrong := problem(image):
                raise ProjectError(
                    f"services.{service.name}.build.additional_contexts.{name}: {image!r} is not "
                    f"a valid image name ({wrong})"
                )
            references.append((image, own_platform))
        elif source.startswith("service:"):
            references.append((source, ""))
    # The engine's own platform is the default of a pull; naming it would fetch twice.
    return [(name, "" if where == platform else where) for name, where in references]


def _platform(service: Service, build: Mapping[str, Any]) -> str:
    platforms: list[str] = build.get("platforms") or []
    return service.platform or (platforms[0] if len(platforms) == 1 else "")


def _order(rests_on: Mapping[str, frozenset[str]]) -> tuple[tuple[str, ...], ...]:
    groups: list[tuple[str, ...]] = []
    done: set[str] = set()
    while len(done) < len(rests_on):
        ready = tuple(name for name, deps in rests_on.items() if name not in done and deps <= done)
        if not ready:
            circle = ", ".join(name for name in rests_on if name not in done)
            raise ProjectError(
                f"the builds of {circle} rest on each other in a circle",
                hint="look at the FROM lines of their Dockerfiles",
            )
        groups.append(ready)
        done.update(ready)
    return tuple(groups)
