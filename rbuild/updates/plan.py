"""What an update will do, as steps: from plain values, but for a look where compose files are."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rbuild.compose.bases import Bases
from rbuild.compose.configuration import Configuration, Service
from rbuild.decisions.moves import BASE
from rbuild.decisions.moves import IMAGE as IMAGE_KIND
from rbuild.docker.engine import Container, Image
from rbuild.docker.reference import kept, qualified
from rbuild.errors import ProjectError
from rbuild.settings import Given
from rbuild.updates.health import Expectation, stopped_by_hand
from rbuild.updates.step import (
    Build,
    Find,
    Free,
    Gate,
    Hook,
    Keep,
    Pull,
    Push,
    Require,
    Step,
    Up,
    Watch,
)

IMAGE = "image of a service"
MOUNT = "image that a service mounts"
# Policies that take what is here.
_KEEPS = ("never", "missing", "if_not_present")
# What is pulled for services, and not for builds.
_FOR_SERVICES = (IMAGE, MOUNT)
# States in which a container has its ports.
HOLDING = ("running", "paused")


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of an update, and what a person should know of it."""

    steps: tuple[Step, ...]
    notes: tuple[str, ...]
    bases: tuple[str, ...]
    """External images that the builds rest on, fully qualified."""
    left: Mapping[str, str]
    """Services that are left as they are: `manual`, `paused`, `stopped` or `unmoved`."""
    scales: Mapping[str, int]
    """Scales set by hand."""
    made: tuple[str, ...] = ()
    """IDs of the images that the names of what is built mean now."""
    limited: bool = False
    """Whether only services are updated under which something has moved."""
    rests: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """What it rests on, by kind (see `moves`): qualified name → the name as it is spelled."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What the engine and our records show before an update."""

    containers: Sequence[Container]
    images: Mapping[str, Image]
    """By the name that was asked for: service images and bases that are here."""
    made_elsewhere: frozenset[str] = frozenset()
    """Qualified names of the images that other recorded projects build."""
    all_services: frozenset[str] | None = None
    """Names of all services, inactive ones too, where that was worth asking."""
    left_stand: bool = False
    """Whether a plain `up` would leave alone, by itself, the services that are to be left."""
    held: frozenset[str] = frozenset()
    """Qualified names of images whose newest digest must not be taken yet."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Qualified name → the digest to take, and no other."""
    is_moved: bool = False
    """Whether the path of the project leads to another folder than at the last good update."""
    mounted: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Service → name and ID of the images that its containers mount, as far as that is known."""
    known: Mapping[str, bool] = field(default_factory=dict)
    """Qualified names of images of which it is known whether a registry has them."""
    moved: frozenset[str] = frozenset()
    """Qualified names of images that registries have anew."""
    outdated: tuple[str, ...] = ()
    """Services whose containers were made from other content (files, `configs:` …) than there is
    now, which Compose doesn't see."""


def leave_alone(
    configuration: Configuration,
    containers: Sequence[Container],
    stopped_before: Collection[str] = (),
    torn: bool = False,
) -> dict[str, str]:
    """Services whose containers an update must not touch, and why.

    `manual` ones, as soon as there is a container to leave (one that was taken down comes up
    again, from the image that is here), `paused` ones, and `stopped` ones: found stopped by hand
    now, or in `stopped_before`, which an interrupted update had found. `torn`: that update may have
    stopped containers itself, so what is stopped now tells nothing.
    """
    left = {}
    for service in configuration.services.values():
        own = [one for one in containers if one.service == service.name]
        if service.manual and own:
            left[service.name] = "manual"
        elif own and all(one.state == "paused" for one in own):
            left[service.name] = "paused"
        elif (own and not torn and all(map(stopped_by_hand, own))) or (
            service.name in stopped_before and not any(one.state in HOLDING for one in own)
        ):
            left[service.name] = "stopped"
    return left


def leave_unbuilt(
    configuration: Configuration, left: Mapping[str, str], images: Collection[str]
) -> list[str]:
    """Services that are not built: manual ones that have a container or an image."""
    return [
        one.name
        for one in configuration.services.values()
        if one.manual and (one.name in left or one.image in images)
    ]


def leave_unmoved(
    configuration: Configuration, containers: Sequence[Container], concerned: Collection[str]
) -> dict[str, str]:
    """Services that a limited update leaves as they are: not `concerned`, and there."""
    there = {one.service for one in containers}
    return {
        name: "unmoved"
        for name in configuration.services
        if name not in concerned and name in there
    }


def stand_as_they_are(
    configuration: Configuration,
    left: Collection[str],
    containers: Sequence[Container],
    images: Mapping[str, Image],
    hashes: Mapping[str, str],
    unchanged: Collection[str],
) -> bool:
    """Whether a plain `up` would leave these services alone by itself.

    `hashes` are Compose's of each service's configuration. `unchanged` are services whose
    configuration and containers are those of the last good update.
    """
    for name in left:
        service = configuration.services[name]
        image = images.get(service.image)
        for one in containers:
            if one.service != name:
                continue
            same = name in unchanged or is_made_from(service, one, hashes)
            if not (same and one.state == "running" and image and one.image == image.id):
                return False
    return True


def is_made_from(service: Service, container: Container, hashes: Mapping[str, str]) -> bool:
    """Whether a container was made from a service's configuration, by Compose's hashes.

    A hash leaves out what env files say, so the environment is compared as well.
    """
    environment = (service.environment or {}).items()
    wanted = {f"{key}={value}" for key, value in environment if value is not None}
    return container.config_hash == hashes.get(service.name) and wanted <= {*container.environment}


def make(
    configuration: Configuration,
    bases: Bases,
    observed: Observed,
    *,
    left: Mapping[str, str],
    stamp: str,
    scales_before: Mapping[str, int],
    scales_interrupted: Mapping[str, int] | None,
    names_interrupted: Mapping[str, str],
    failing: Collection[str],
    ended_before: Mapping[str, int],
    compose_files: Sequence[str],
    hooks: Mapping[str, Given] | None = None,
    monitor_period: int = 0,
    up: bool = True,
    push: bool = False,
) -> Plan:
    """The plan of an update.

    `stamp` names the generation that is kept; `scales_before` has the scales of the compose
    file, `ended_before` the exit codes, as of the last good update; `scales_interrupted` are
    those that an interrupted update had found set by hand, None if the containers still show
    them; `names_interrupted` is what image names meant before one that was killed at its
    builds; `failing` are the services that were in trouble before; `compose_files` are the
    project's own; `monitor_period` is in seconds. Without `up`, images are only built, and pushed
    if `push` says so. Raises ProjectError where another stack has the same name.
    """
    containers = observed.containers
    notes = _refuse_strangers(containers, configuration, compose_files)
    notes += [
        f"{name}: its build context is no folder here, bases unknown" for name in bases.unknown
    ]
    pulls, more = _pulls(configuration, bases, observed, left)
    if not up:
        # What is not started needs no image.
        pulls = [one for one in pulls if one.purpose not in _FOR_SERVICES]
    notes += more

    steps: list[Step] = [
        _keep(configuration, containers, observed.images, stamp, names_interrupted, up=up)
    ]
    steps += [one for one in pulls if one.purpose not in _FOR_SERVICES]
    for group in bases.order:
        remote = tuple(name for name in group if name in bases.unknown)
        local = tuple(name for name in group if name not in bases.unknown)
        steps += [Build(local)] if local else []
        steps += [Build(remote, pull=True)] if remote else []
    steps += [one for one in pulls if one.purpose in _FOR_SERVICES]
    if push:
        steps += _push(configuration, bases)

    notes += [
        f"{name}: {left[name]}, and keeps the content that it was started with"
        for name in observed.outdated
        if name in left
    ]
    by_hand = _scales(configuration, containers, scales_before, scales_interrupted)
    moving = {n: one for n, one in configuration.services.items() if n not in left and up}
    # What is made of nothing, or of no image, is Compose's own business.
    wanted = [
        one for one in moving.values() if one.has_image and by_hand.get(one.name, one.scale) > 0
    ]
    if moving:
        orphans, strange = _orphans(observed, configuration, compose_files)
        if strange:
            names = ", ".join(dict.fromkeys(one.name for one in strange))
            notes.append(f"orphans that are not of this project's files, not removed: {names}")
        uses = [
            one._replace(services=tuple(name for name in one.services if name in moving))
            for one in configuration.uses
            if not moving.keys().isdisjoint(one.services)
        ]
        if uses:
            steps.insert(0, Find(tuple(uses)))
        going = [one for one in containers if one.service in moving or one in orphans]
        free = _free(wanted, going)
        if free.ports:
            # First of all: nobody should wait for a build that leads nowhere.
            steps.insert(0, free)
        leftovers = tuple(one for one in containers if one.replaces and one not in orphans)
        expectations = tuple(
            _expectation(one, by_hand, ended_before, one.name in failing) for one in wanted
        )
        steps += [
            Require(
                tuple((one.name, image) for one in wanted for image in (one.image, *one.mounts))
            ),
            replace(
                _up(configuration, observed, left, by_hand),
                orphans=tuple(orphans),
                leftovers=leftovers,
                failing=tuple(failing),
            ),
            Gate(expectations, {one.id: one.restarts for one in containers}),
        ]
        if monitor_period:
            steps.append(Watch(expectations, monitor_period))
    before = (hooks or {}).get("before-update")
    if before is not None and isinstance(before.value, tuple):
        # Once it is sure that the update can begin.
        steps.insert(1 if isinstance(steps[0], Free) else 0, Hook("before-update", before.value))
    return Plan(
        steps=tuple(steps),
        notes=tuple(notes),
        bases=tuple(dict.fromkeys(qualified(need.reference) for need in bases.needs)),
        left=left,
        scales=by_hand,
        made=tuple(
            one.id for name, one in observed.images.items() if name in configuration.built_images
        ),
        rests={
            BASE: {qualified(one.reference): one.reference for one in bases.needs},
            IMAGE_KIND: {
                qualified(image): image
                for one in configuration.services.values()
                # What a person has stopped goes by the image that was pulled for it, too.
                if up and left.get(one.name) not in ("manual", "unmoved")
                for image in pulled(one)
            },
        },
    )


def pulled(service: Service) -> list[str]:
    """Names of the images that an update pulls for a service though they are here."""
    found = _pulled(service, lambda name: True)
    return [name for name, _ in found]


def _pulled(service: Service, present: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """(name, purpose) of the images that an update pulls for a service."""
    if not service.scale:
        return
    if not service.build and service.has_image and _wants_pull(service, present(service.image)):
        yield service.image, IMAGE
    for name in service.mounts:
        # Compose pulls those that are missing, whatever the policy for the service's own image.
        if not (present(name) and (service.manual or service.pull_policy in _KEEPS)):
            yield name, MOUNT


def _push(configuration: Configuration, bases: Bases) -> list[Step]:
    """Push what is built under a name that somebody gave it."""
    names = [
        name
        for group in bases.order
        for service in (configuration.services[one] for one in group)
        for name in (*((service.image,) if service.is_named else ()), *service.tags)
    ]
    return [Push(tuple(dict.fromkeys(names)))] if names else []


def _up(
    configuration: Configuration,
    observed: Observed,
    left: Collection[str],
    by_hand: Mapping[str, int],
) -> Up:
    """How `up` is called: plainly where that leaves alone what is to be left, else apart."""
    moving = [name for name in configuration.services if name not in left]
    scales = {name: f"--scale={name}={count}" for name, count in by_hand.items()}
    # Compose sees the same paths, and containers would go on with what these led to before.
    forced = ("--force-recreate",) if observed.is_moved else ()
    own = (scales[name] for name in scales if name in moving)
    apart = (*own, *forced, "--no-deps", "--", *moving)
    plainly = not left or (observed.left_stand and not forced)
    names = (configuration.services[name].image for name in left)
    here = ((name, observed.images[name].id) for name in names if name in observed.images)
    return Up(
        services=tuple(moving),
        options=(*scales.values(), *forced) if plainly else apart,
        apart=apart,
        beside=tuple(here) if plainly else (),
        mounted=tuple(
            (name, image, identity)
            for name in moving
            for image, identity in observed.mounted.get(name, {}).items()
        ),
        # Where all are made anew, these are.
        recreate=() if forced else tuple(name for name in observed.outdated if name in moving),
    )


def _free(services: Iterable[Service], containers: Sequence[Container]) -> Free:
    """The ports that these services ask for and that none of the containers, which are those that
    go or are replaced, holds now."""
    held = tuple(port for one in containers if one.state in HOLDING for port in one.ports)
    wanted = ((one.name, port) for one in services for port in one.ports)
    return Free(
        ports=tuple((name, port) for name, port in wanted if port not in held),
        own=tuple(one.name for one in containers),
        held=held,
    )


def _keep(
    configuration: Configuration,
    containers: Sequence[Container],
    images: Mapping[str, Image],
    stamp: str,
    names_before: Mapping[str, str],
    *,
    up: bool,
) -> Keep:
    running: dict[str, str] = {}
    # Of several containers, the one that has run longest shows what an update must not lose.
    for one in sorted(containers, key=lambda one: (one.state not in HOLDING, one.started)):
        if one.service in configuration.services and not one.replaces:
            running.setdefault(one.service, one.image)
    if not up:
        # No container keeps these from being gone with their names.
        for service in configuration.services.values():
            if service.build and service.image in images:
                running.setdefault(service.name, images[service.image].id)
    mounted = {
        kept(configuration.name, f"{name} mounts {image}", stamp): images[image].id
        for name in running
        for image in configuration.services[name].mounts
        if image in images
    }
    in_use = {one.image for one in containers}

    def before(name: str) -> str:
        """What a name meant before an interrupted update, unless a person brought up the new."""
        now = images[name].id if name in images else ""
        return now if now in in_use else names_before.get(name, now)

    return Keep(
        images=(
            *((image, kept(configuration.name, name, stamp)) for name, image in running.items()),
            *((image, tag) for tag, image in mounted.items()),
        ),
        names=tuple(
            (name, before(name))
            for one in configuration.services.values()
            for name in dict.fromkeys((one.image, *one.tags, *one.mounts))
            if name in images or name in configuration.built_images
        ),
    )


def _pulls(
    configuration: Configuration, bases: Bases, observed: Observed, left: Mapping[str, str]
) -> tuple[list[Pull], list[str]]:
    """What to fetch, each image once, and notes on what is not fetched."""
    made_here = {qualified(name) for name in configuration.built_images}
    wanted: dict[tuple[str, str], Pull] = {}
    notes: dict[str, None] = {}

    def want(reference: str, platform: str, purpose: str) -> None:
        image = observed.images.get(reference)
        name = qualified(reference)
        told = image.is_from_registry(reference) if image else None
        if name in made_here:
            return
        if name in observed.made_elsewhere:
            notes[f"{reference}: built by another project here, not pulled"] = None
        elif told is False and not observed.known.get(name):
            notes[f"{reference}: exists only on this machine, not pulled"] = None
        elif image and name in observed.held:
            notes[f"{reference}: a newer one waits, or could not be asked for; not pulled"] = None
        elif not (image and "@" in reference):
            pull = Pull(
                reference, platform, purpose, observed.digests.get(name, ""),
                replaces=image.id if image else "",
                known=observed.known.get(name, told),
                had=observed.known.get(name, False),
                moved=name in observed.moved,
            )  # fmt: skip
            wanted.setdefault((name, platform), pull)

    for need in bases.needs:
        want(need.reference, need.platform, f"base of {', '.join(need.services)}")
    for service in configuration.services.values():
        if left.get(service.name) in ("manual", "unmoved"):
            continue
        for name, purpose in _pulled(service, observed.images.__contains__):
            want(name, service.platform if purpose == IMAGE else "", purpose)
    return list(wanted.values()), list(notes)


def _wants_pull(service: Service, present: bool) -> bool:
    if service.pull_policy in ("never", "build"):
        return False
    if service.pull_policy in ("missing", "if_not_present") or service.manual:
        return not present
    return True


def _scales(
    configuration: Configuration,
    containers: Sequence[Container],
    before: Mapping[str, int],
    interrupted: Mapping[str, int] | None,
) -> dict[str, int]:
    """Services whose number of containers a person set, and that number."""
    by_hand = {}
    for service in configuration.services.values():
        if interrupted is None:
            found = sum(one.service == service.name and not one.replaces for one in containers)
        else:
            # Half of a recreate shows a number that nobody has set.
            found = interrupted.get(service.name, 0)
        unchanged = before.get(service.name, service.scale) == service.scale
        if found and found != service.scale and unchanged:
            by_hand[service.name] = found
    return by_hand


def _expectation(
    service: Service,
    by_hand: Mapping[str, int],
    ended_before: Mapping[str, int],
    failing: bool,
) -> Expectation:
    known = service.name in ended_before
    return Expectation(
        service=service.name,
        count=by_hand.get(service.name, service.scale),
        must_end=service.one_shot,
        may_end=ended_before[service.name] == 0
        if known
        else service.restart in ("no", "on-failure") or service.restart.startswith("on-failure:"),
        was_failing=failing,
    )


def _refuse_strangers(
    containers: Sequence[Container], configuration: Configuration, compose_files: Sequence[str]
) -> list[str]:
    """Raise ProjectError for another stack of the same name; notes on harmless company."""
    own = {os.path.realpath(path) for path in compose_files}
    folders = {os.path.dirname(path) for path in own}
    notes: dict[str, None] = {}
    for one in containers:
        theirs = {os.path.realpath(path) for path in one.config_files}
        if not theirs or theirs & own or not any(os.path.exists(path) for path in theirs):
            continue
        files = ", ".join(one.config_files)
        if one.service in configuration.services or not folders.issuperset(
            map(os.path.dirname, theirs)
        ):
            raise ProjectError(
                f"another stack uses the Compose project name {configuration.name!r}: "
                f"container {one.name} was made from {files}",
                hint="give one of them a name of its own (top-level `name:`, or "
                "COMPOSE_PROJECT_NAME in its .env)",
            )
        notes[f"{one.service}: made from {files}, left alone"] = None
    return list(notes)


def _orphans(
    observed: Observed, configuration: Configuration, compose_files: Sequence[str]
) -> tuple[list[Container], list[Container]]:
    """The containers of services that there are no longer: those that came from this project's
    files, and others."""
    known = observed.all_services or frozenset(configuration.services)
    own = {os.path.realpath(path) for path in compose_files}
    mine: list[Container] = []
    strange: list[Container] = []
    for one in observed.containers:
        if one.service not in known:
            theirs = {os.path.realpath(path) for path in one.config_files}
            (mine if own & theirs else strange).append(one)
    return mine, strange
