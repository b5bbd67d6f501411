"""The way back to a generation: which steps, and what to tell. Pure, from plain values."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rbuild.compose.configuration import Service
from rbuild.compose.project import Target
from rbuild.docker.engine import Container, Image
from rbuild.state.generation import UP, Generation, Kept
from rbuild.updates.health import Expectation, was_failing
from rbuild.updates.step import Drop, Gate, Restore, Start, Step, Up


@dataclass(frozen=True, slots=True)
class Back:
    """How to get back to a generation."""

    steps: tuple[Step, ...]
    moving: tuple[str, ...]
    """Services that are brought up again."""
    lost: tuple[str, ...]
    """Those whose kept image is gone, or of whose configuration nothing is known."""
    judged: tuple[str, ...] = ()
    """Those that must be well in the end."""


def plan(
    generation: Generation,
    services: Mapping[str, Service],
    containers: Sequence[Container],
    images: Mapping[str, Image],
    *,
    target: Target,
    made: Collection[str],
    stay: Collection[str] = (),
    leave: Collection[str] = (),
    force: bool = False,
) -> Back:
    """The way from what is there now back to `generation`.

    `services` are those of the kept configuration, `images` what is here of the kept IDs, tags
    and names, `target` where Compose reads the kept configuration, `made` the services that
    the update brought up, `stay` those that keep their new image, `leave` those that are not
    looked at. Only services whose containers
    are no longer those that ran are brought up; what had ended is not run again. `force` makes
    their containers anew though Compose sees no difference: what they mount is another file.
    """
    now = [one for one in containers if not one.oneoff]
    moving = [
        name
        for name, kept in generation.services.items()
        if kept.up
        and not kept.left
        and name not in {*stay, *leave}
        and not (_intact if name in made else _there)(name, generation, now)
    ]
    members = _members(moving, generation, services, {*stay, *leave})
    moving += members
    lost = [
        name for name in moving if name not in services or not _source(name, generation, images)
    ]
    moving = [name for name in moving if name not in lost]

    steps: list[Step] = []
    names = _names(generation, services, images, moving, {*stay, *leave})
    if names:
        steps.append(Restore(tuple(names.items())))
    drop = [
        one
        for one in now
        if one.service in made and one.service not in {*stay, *leave} and _is_extra(one, generation)
    ]
    if drop:
        steps.append(Drop(tuple(drop)))
    counts = {name: len(generation.services[name].up) for name in moving}
    scales = [
        f"--scale={name}={count}" for name, count in counts.items() if services[name].scale != count
    ]
    leftovers = tuple(one for one in now if one.replaces and one not in drop)
    # Compose sees neither that a namespace is gone under a container nor that an image that it
    # mounts is another one.
    mounts = any(services[name].mounts for name in moving)
    forced = ["--force-recreate"] if members or force or mounts else []
    if moving or leftovers:
        steps.append(
            Up(
                services=tuple(moving),
                options=(*scales, *forced, "--no-deps", "--", *moving),
                leftovers=leftovers,
                target=target,
            )
        )
    staying = {name: _standing(name, now) for name in stay if name not in leave}
    idle = [
        one
        for name, boxes in staying.items()
        for one in _idle(boxes, generation.services.get(name), generation)
        if name in made
    ]
    if idle:
        steps.append(Start(tuple(idle)))
    judged = [
        name
        for name, kept in generation.services.items()
        if kept.up
        and not kept.left
        and name not in leave
        and name not in lost
        and name in {*made, *moving, *stay}
    ]
    there = {name: len(boxes) for name, boxes in staying.items()}
    expectations = (_expectation(name, generation, services, there) for name in judged)
    steps.append(Gate(tuple(expectations), {one.id: one.restarts for one in now}))
    return Back(tuple(steps), tuple(moving), tuple(lost), tuple(judged))


def data_at_risk(generation: Generation, containers: Iterable[Container]) -> list[str]:
    """What of an update no way back undoes: one-shots that ran, volumes that it may have written.

    `containers` are those that are there before the way back.
    """
    found = []
    for one in containers:
        if one.oneoff or not one.started or one.id in generation.containers:
            continue
        if one.state == "exited" and one.exit_code == 0:
            found.append(f"{one.service}: ran once with the new image, and is not undone")
        elif one.volumes:
            found.append(
                f"{one.service}: its new image may have written to {', '.join(one.volumes)}, "
                "which is not taken back"
            )
    return list(dict.fromkeys(found))


def what_runs(containers: Iterable[Container], now: float, expected: Iterable[str] = ()) -> str:
    """What a person must know first: what of the project runs, and what doesn't.

    `now` is on the engine's clock: what runs for a moment between two crashes doesn't run.
    `expected` are services that should have a container.
    """
    own = [one for one in containers if not one.oneoff]
    running = dict.fromkeys(
        one.service for one in own if one.state == "running" and not was_failing([one], now)
    )
    down = dict.fromkeys(
        f"{one.service} ({_state(one)})" for one in own if one.service not in running
    )
    there = {one.service for one in own}
    down |= dict.fromkeys(f"{name} (gone)" for name in expected if name not in there)
    parts = [f"running now: {', '.join(running) or 'nothing'}"]
    if down:
        parts.append(f"not running: {', '.join(down)}")
    return "; ".join(parts)


def _state(container: Container) -> str:
    if container.state != "running":
        return container.state
    return container.health if container.health == "unhealthy" else "restarting"


def commands(steps: Iterable[Step]) -> list[str]:
    """What a person would type for the same way back."""
    lines = []
    for step in steps:
        match step:
            case Restore():
                lines += [f"docker tag {image} {name}" for name, image in step.names]
            case Drop():
                lines += [f"docker rm -f {one.name}" for one in step.containers]
            case Start():
                lines += [f"docker start {one.id[:12]}" for one in step.containers]
            case Up() if step.target and step.services:
                target = step.target
                options = [option for file in target.files for option in ("-f", file)]
                if target.name:
                    options += ["-p", target.name, "--project-directory", target.folder]
                words = ["docker", "compose", *options, "up", "-d", "--no-build", "--pull",
                         "never", *step.options]  # fmt: skip
                lines.append(f"cd {shlex.quote(target.folder)} && {shlex.join(words)}")
    return lines


def _intact(name: str, generation: Generation, now: Iterable[Container]) -> bool:
    kept = generation.services[name]
    own = [one for one in now if one.service == name]
    return set(kept.up) <= {one.id for one in own if one.state in UP} and not any(
        one.id not in generation.containers for one in own
    )


def _standing(name: str, now: Sequence[Container]) -> list[Container]:
    """A service's containers, without those that a broken-off recreate was about to put there."""
    here = {one.id[:12] for one in now}
    return [one for one in now if one.service == name and one.replaces not in here]


def _idle(boxes: Sequence[Container], kept: Kept | None, generation: Generation) -> list[Container]:
    """Containers of a service that keeps its new image which wait to be started.

    A new one that has run by itself is left: so is the old one then, for its data may be new.
    """
    if kept is None or not kept.up or kept.left:
        return []
    new = [one for one in boxes if one.id not in generation.containers]
    found = [one for one in new if one.state == "created"]
    if all(one in found for one in new):
        found += [one for one in boxes if one.id in kept.up and one.state not in UP]
    return found


def _there(name: str, generation: Generation, now: Iterable[Container]) -> bool:
    return set(generation.services[name].up) <= {one.id for one in now}


def _members(
    moving: Sequence[str],
    generation: Generation,
    services: Mapping[str, Service],
    stay: Collection[str],
) -> list[str]:
    """Services that live in the namespaces of those that move: theirs are about to go."""
    found: list[str] = []
    while True:
        more = [
            name
            for name, kept in generation.services.items()
            if kept.up and not kept.left and name not in stay
            and name not in moving and name not in found
            and name in services and {*services[name].shares} & {*moving, *found}
        ]  # fmt: skip
        if not more:
            return found
        found += more


def _source(name: str, generation: Generation, images: Mapping[str, Image]) -> str:
    """Under which name or ID a service's kept image is still here."""
    kept = generation.services[name]
    if kept.tag in images and images[kept.tag].id == kept.image:
        return kept.tag
    return kept.image if kept.image in images else ""


def _names(
    generation: Generation,
    services: Mapping[str, Service],
    images: Mapping[str, Image],
    moving: Collection[str],
    stay: Collection[str],
) -> dict[str, str]:
    """Image name → what it is to mean again, where it means something else now."""
    found: dict[str, str] = {}
    newer = {services[name].image for name in stay if name in services}
    newer |= {generation.services[name].reference for name in stay if name in generation.services}
    by_id = {one.image: one.tag for one in generation.services.values()
             if _means(one.tag, images) == one.image}  # fmt: skip
    for name, image in generation.names.items():
        source = by_id.get(image, image)
        if name not in newer and source in images and _means(name, images) != image:
            found[name] = source
    for service in moving:
        kept = generation.services[service]
        name = services[service].image
        found.pop(name, None)
        if _means(name, images) != kept.image:
            found[name] = _source(service, generation, images)
    return found


def _means(name: str, images: Mapping[str, Image]) -> str:
    return images[name].id if name in images else ""


def _is_extra(container: Container, generation: Generation) -> bool:
    """Whether it came with the update, for a service that had nothing at work."""
    kept = generation.services.get(container.service)
    if container.id in generation.containers or container.replaces:
        return False
    return kept is None or (not kept.up and not kept.left and container.state in (*UP, "created"))


def _expectation(
    name: str,
    generation: Generation,
    services: Mapping[str, Service],
    there: Mapping[str, int],
) -> Expectation:
    """What a service must come to; `there` counts the containers of those that stay new."""
    kept = generation.services[name]
    restart = services[name].restart if name in services else "always"
    return Expectation(
        service=name,
        count=max(1, there[name]) if name in there else len(kept.up),
        may_end=restart in ("no", "on-failure") or restart.startswith("on-failure:"),
        was_failing=kept.failing,
    )
