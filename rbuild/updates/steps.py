"""Carries out the steps of a plan on an engine, and undoes those that must be undone."""

from __future__ import annotations

import errno
import shlex
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rbuild.compose.configuration import Configuration, longest_wait
from rbuild.compose.data import Look
from rbuild.compose.externals import NETWORK, RUNNING, VOLUME
from rbuild.compose.project import Target
from rbuild.docker.engine import Container, Engine, Port
from rbuild.docker.reference import HUB, pattern, qualified, registry_of, untagged
from rbuild.errors import AbsentError, EngineError, PullError, UpError
from rbuild.process import Log, Stop
from rbuild.settings import Settings
from rbuild.updates import gate, hook, namespaces
from rbuild.updates.step import (
    Build,
    Drop,
    Find,
    Free,
    Gate,
    Hook,
    Keep,
    Pull,
    Push,
    Require,
    Restore,
    Start,
    Step,
    Up,
    Watch,
)

# Beyond the settling time, so that a short limit can still be met by a healthy service.
SPARE = 5
# Seconds beyond the time to stop that the engine gets for it.
PATIENCE = 60.0
# How often a service is made anew that others may cut off again.
MOST_TIMES = 2
# What a person types for what others make.
_TYPED = {
    NETWORK: "docker network create {}",
    VOLUME: "docker volume create {}",
    RUNNING: "docker start {}",
}


@dataclass
class Work:
    """An update, or a way back, while it is at work, and what came of its steps."""

    engine: Engine
    target: Target
    configuration: Configuration
    settings: Settings
    overlay: str
    """A compose file of ours that labels what is built."""
    clock_ahead: float
    """Seconds that the engine's clock is ahead of ours."""
    stop: Stop
    tell: Callable[[str], None]
    log: Log
    hold: Sequence[int] = ()
    """Descriptors of the project's lock."""
    environ: Mapping[str, str] = field(default_factory=dict)
    """What hooks are told."""
    engine_here: bool = False
    """Whether the engine publishes ports on this machine."""
    names: dict[str, str] = field(default_factory=dict)
    """What image names meant before the update."""
    required: dict[str, str] = field(default_factory=dict)
    """IDs of the images, by name, that were made sure to be here."""
    before: list[Container] = field(default_factory=list)
    """What there was before containers were touched."""
    files: Mapping[str, Look] = field(default_factory=dict)
    """Single files that containers may write, as they were by then."""
    kept: list[str] = field(default_factory=list)
    """Tags of ours that this update has made."""
    superseded: list[str] = field(default_factory=list)
    """IDs of the images that our pulls replaced."""
    pulled: list[str] = field(default_factory=list)
    """IDs of the images that replaced them."""
    made: list[str] = field(default_factory=list)
    """IDs of the images that this project's builds have made, before and now."""
    taken: int | None = None
    """Bytes that builds and pulls took; None where that can't be told."""
    answers: dict[str, bool] = field(default_factory=dict)
    """Qualified names of images that were to be pulled, and whether a registry gave them."""
    vanished: dict[str, bool] = field(default_factory=dict)
    """Names of the images that were to be pulled → whether their tag is gone, so that what is here
    was used."""
    rests: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """What the update was made on, as a record keeps it."""
    makes: dict[str, str] = field(default_factory=dict)
    """Qualified names of the images that the project builds → their IDs."""
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    content: dict[str, str] = field(default_factory=dict)
    """Mounted files, configs and secrets: path → copy of what they hold."""
    touched: bool = False
    """Whether containers may have been touched."""
    deadline: float = 0.0
    """Of up and gate together, on the monotonic clock."""
    limit: float = 0.0
    containers: list[Container] = field(default_factory=list)
    since: float = 0.0
    """When containers were first touched, on the engine's clock in epoch seconds."""

    @property
    def name(self) -> str:
        """Compose's name for the project."""
        return self.configuration.name

    def wanted(self, container: Container) -> str:
        """ID of the image that a container is to run; that which it runs, where nothing is said."""
        service = self.configuration.services.get(container.service)
        return self.required.get(service.image, container.image) if service else container.image


def run(step: Step, work: Work) -> None:
    """Run one step."""
    match step:
        case Free():
            _free(step, work)
        case Find():
            _find(step, work)
        case Keep():
            _keep(step, work)
        case Pull():
            _pull(step, work)
        case Build():
            _build(step, work)
        case Push():
            for reference in step.references:
                work.engine.push(reference, timeout=work.settings.build_timeout)
        case Require():
            _require(step, work)
        case Up():
            _up(step, work)
        case Gate():
            gate.wait(step, work)
        case Watch():
            gate.watch(step, work)
        case Hook():
            hook.run(
                step.name,
                step.command,
                environ=work.environ,
                folder=work.target.folder,
                stop=work.stop,
                timeout=work.settings.hook_timeout,
                log=work.log,
                hold=work.hold,
            )
        case Restore():
            for name, image in step.names:
                work.engine.tag(image, name)
        case Drop():
            for one in step.containers:
                work.engine.remove_container(one.id)
        case Start():
            for one in step.containers:
                work.engine.start_container(one.id)


def put_back(keep: Keep, tags: Sequence[str], engine: Engine) -> tuple[list[str], list[str]]:
    """Undo what was built and pulled, no container having been touched.

    The images' names go back to what they meant before, those that meant nothing go, and so do our
    own `tags`. Gives what could not be undone, and the IDs of the images that have lost a name: a
    run before this one, that was killed, may have brought them.
    """
    problems, bared = [], []
    here = engine.images([name for name, _ in keep.names]) if keep.names else {}
    now = {name: here[name].id if name in here else "" for name, _ in keep.names}
    moved = [(name, image) for name, image in keep.names if now[name] != image]
    # No container of ours runs what is new; another project's may, and counts on the name.
    used = engine.used_images() if moved else frozenset()
    for name, image in moved:
        if now[name] in used:
            continue
        try:
            if image:
                engine.tag(image, name)
            else:
                engine.remove_image(name)
            bared += [now[name]] if now[name] else []
        except EngineError as error:
            problems.append(error.message)
    for tag in tags:
        engine.remove_image(tag)
    return problems, bared


def _free(step: Free, work: Work) -> None:
    for service, port in step.ports:
        holders = [name for name in work.engine.publishers(port) if name not in step.own]
        ours = any(map(port.clashes, step.held))
        if holders or (work.engine_here and not ours and is_taken(port)):
            by = f"by container {', '.join(holders)}" if holders else "by a program on this machine"
            raise EngineError(
                f"service {service}: port {port} is taken already, {by}",
                hint="stop that, or publish another port"
                if holders
                else "`ss -lntup` shows which; stop it, or publish another port",
            )


def _find(step: Find, work: Work) -> None:
    absent = work.engine.absent([one.thing for one in step.uses]) if step.uses else ()
    if not absent:
        return
    lines, typed = [], []
    for one in (one for one in step.uses if one.thing in absent):
        who = f"service{'s' if len(one.services) > 1 else ''} {', '.join(one.services)}"
        state = "does not run" if one.kind == RUNNING else "is not there"
        lines.append(f"{who}: {one.kind.removeprefix('running ')} {one.name} ({one.key}) {state}")
        typed += [_TYPED[one.kind].format(shlex.quote(one.name))] if one.kind in _TYPED else []
    raise AbsentError(
        lines[0],
        detail="\n".join(lines[1:]),
        hint="bring up the project that makes it"
        + (f", or type `{'; '.join(typed)}`" if typed else "")
        + "; the next run tries again as soon as it is there",
        things=tuple(absent),
    )


def is_taken(port: Port) -> bool:
    """Whether a program on this machine listens on the port. What can't be told is no."""
    kind = socket.SOCK_DGRAM if port.protocol == "udp" else socket.SOCK_STREAM
    if port.protocol not in ("tcp", "udp"):
        return False
    addresses = [port.address] if port.address else ["0.0.0.0", "::"]
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            with socket.socket(family, kind) as probe:
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                if kind == socket.SOCK_STREAM:
                    # As the engine does it: a connection that lingers doesn't count.
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address, port.number))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
    return False


def _keep(step: Keep, work: Work) -> None:
    work.names = dict(step.names)
    here = work.engine.images([image for image, _ in step.images])
    own = work.engine.list_images(reference=pattern(work.configuration.name))
    present = {tag for image in own for tag in image.tags}
    for image, tag in step.images:
        # A running container's image may have been removed by force, and an update that failed
        # before may have kept what ran when all was well.
        if image in here and tag not in present:
            work.kept.append(tag)
            work.engine.tag(image, tag)


def _pull(step: Pull, work: Work) -> None:
    before = work.engine.images([step.reference])
    exact = f"{untagged(step.reference)}@{step.digest}" if step.digest else ""
    try:
        work.engine.pull(
            exact or step.reference, step.platform, timeout=work.settings.build_timeout
        )
        if exact:
            work.engine.tag(exact, step.reference)
    except PullError as error:
        if before and _will_do(step, error.answer):
            _do_without(step, error.answer, work)
            return
        message = f"{error.message} ({step.purpose})"
        hint = _unbuilt(step.reference, work) + error.hint
        raise PullError(message, hint=hint, detail=error.detail) from None
    work.answers[qualified(step.reference)] = True
    work.vanished[step.reference] = False
    after = work.engine.images([step.reference])
    old, new = before.get(step.reference), after.get(step.reference)
    # A run that was killed at this pull, or after it, has moved the name already.
    replaced = {work.names.get(step.reference, ""), old.id if old else ""}
    if new and (replaced := replaced - {"", new.id}):
        work.superseded += sorted(replaced)
        work.pulled.append(new.id)


def _will_do(step: Pull, answer: str) -> bool:
    """Whether the image that is here must do, where the pull gave this `answer`.

    A registry's no is final. Its silence is not, and the update fails, unless the name is of no
    registry in particular (`myapp:1`), as that of most of what is made by hand.
    """
    if step.moved or not answer:
        return False
    if answer == "absent" or step.known is False:
        return True
    has_registry = registry_of(qualified(step.reference)) != HUB
    return step.known is None and not (answer == "silent" and has_registry)


def _do_without(step: Pull, answer: str, work: Work) -> None:
    """Say that an image is used as it is, and that no registry is known to have it."""
    if step.had:
        work.vanished[step.reference] = True
        return
    name = qualified(step.reference)
    registry = registry_of(name)
    why = {
        "absent": f"{registry} doesn't have it",
        "denied": f"{registry} doesn't have it, or not for us (`docker login`, registry-auth)",
        "silent": f"{registry} can't be asked for it",
    }[answer]
    # It may be there: once, since by the next time it is known that no registry gave it.
    is_news = answer == "denied" and step.known is None and registry != HUB
    (work.warnings if is_news else work.notes).append(
        f"{step.reference}: not pulled, used as it is here: {why}"
    )
    work.answers[name] = False


def _build(step: Build, work: Work) -> None:
    names = [work.configuration.services[one].image for one in step.services]
    try:
        work.engine.build(
            work.target,
            work.overlay,
            step.services,
            pull=step.pull,
            timeout=work.settings.build_timeout,
        )
    finally:
        if not work.stop.signum:
            work.made += [one.id for one in work.engine.images(names).values()]


def _require(step: Require, work: Work) -> None:
    here = work.engine.images([image for _, image in step.images])
    for service, image in step.images:
        if image not in here:
            raise EngineError(
                f"service {service}: its image {image} is not here",
                hint=_unbuilt(image, work) + "pull or build it, or change its pull_policy",
            )
    work.required = {image: here[image].id for _, image in step.images}


def _unbuilt(image: str, work: Work) -> str:
    """Why an image that could be built is not; ends with `; ` unless it's empty."""
    services = work.configuration.services.values()
    found = [one for one in services if one.image == image and one.missing]
    return "".join(f"{one.name} is not built, for {one.missing} is missing; " for one in found)


def _up(step: Up, work: Work) -> None:
    before = work.before = work.engine.containers(work.name)
    here = work.engine.images([name for name, _ in step.beside]) if step.beside else {}
    moved = any(name not in here or here[name].id != image for name, image in step.beside)
    options = step.apart if moved else step.options
    work.since = work.since or time.time() + work.clock_ahead
    was_touched, work.touched = work.touched, True
    _clear_leftovers(step, work)
    _remove_orphans(step, work)
    set_time_limit(step.services, work)
    if not step.services:
        return
    try:
        _bring_up(step, options, before, work)
    except UpError as error:
        work.containers = work.engine.containers(work.name)
        stopping = work.engine.stopping(work.name, work.since)
        # Compose looks for networks, volumes and the like before it touches a container.
        work.touched = (
            was_touched
            or bool(step.leftovers or step.orphans)
            or _lives(before) != _lives(work.containers)
            or bool(stopping.told)
            or not stopping.whole
        )
        if not work.touched:
            # Compose may look for what services use that are left alone, too.
            _find(Find(work.configuration.uses), work)
        troubled = gate.troubled(work.containers, step.services)
        if troubled and {one.service for one in troubled} <= set(step.failing):
            # What waits for a service that has been failing all along; the gate will tell.
            work.warnings.append(f"{error.message}: {_last_line(error.detail)}")
            return
        parts = [error.detail, gate.evidence(troubled, work.engine)]
        hint = "what Compose had asked to stop may stop yet" if error.timed_out else ""
        raise UpError(error.message, hint=hint, detail="\n".join(filter(None, parts))) from None


def _make_anew(step: Up, before: Sequence[Container], options: Sequence[str], work: Work) -> None:
    """Make new containers where Compose sees no difference, or would fail at starting them.

    That is for other content, for an image that they mount and that has moved, and for a namespace
    that is gone. They are started by `up`, in its order. What depends on them with `restart: true`
    goes along, as it does where Compose sees the difference.
    """
    services = work.configuration.services
    moved = {
        service
        for service, image, identity in step.mounted
        if work.required.get(image, identity) != identity
    }
    own = [container for container in before if not container.oneoff]
    # Where its image is another one, Compose sees the difference.
    same = {container.service for container in own if container.image == work.wanted(container)}
    found = _stuck(step, before, work)
    found += [
        name for name in step.services
        if name in same and name not in found and (name in moved or name in step.recreate)
    ]  # fmt: skip
    for name in found:
        found += [
            dependent for dependent in step.services
            if name in services[dependent].restarts_with and dependent not in found
        ]  # fmt: skip
    if not found:
        return
    alone = ["--no-deps"] if "--no-deps" in options else []
    reached = [*found]
    for name in reached if not alone else ():
        needed = services[name].depends_on or ()
        reached += [other for other in needed if other in services and other not in reached]
    # Compose refuses the scale of a service that this call doesn't reach.
    scales = [
        option for option in options
        if option.startswith("--scale=") and option.split("=")[1] in reached
    ]  # fmt: skip
    work.engine.up(
        step.target or work.target,
        ["--no-start", "--force-recreate", *alone, *scales, "--", *found],
        timeout=work.limit,
    )


def _bring_up(step: Up, options: Sequence[str], before: Sequence[Container], work: Work) -> None:
    """`up`, and again for what it has cut off from the namespace that it lives in."""
    target = step.target or work.target

    def anew(names: Sequence[str]) -> None:
        scales = [one for name in names for one in options if one.startswith(f"--scale={name}=")]
        apart = ["--no-deps"] if "--no-deps" in options else []
        left = max(1.0, work.deadline - time.monotonic())
        work.engine.up(target, [*scales, "--force-recreate", *apart, "--", *names], timeout=left)

    _make_anew(step, before, options, work)
    try:
        work.engine.up(target, list(options), timeout=work.limit)
    except UpError as error:
        # Compose doesn't know who lives in one of the project's own containers by its name.
        services = work.configuration.services
        unknown = [
            name for name, one in services.items() if {*one.shares} - {*(one.depends_on or ())}
        ]
        if error.timed_out or not unknown:
            raise
        now = work.engine.containers(work.name)
        stuck = [name for name in _stuck(step, now, work) if name in unknown]
        if not stuck:
            raise
        anew(stuck)
        work.engine.up(target, list(options), timeout=work.limit)
    times: Counter[str] = Counter()
    while due := [name for name in _due(step, work) if times[name] < MOST_TIMES]:
        anew(due)
        times.update(due)


def _stuck(step: Up, containers: Sequence[Container], work: Work) -> list[str]:
    """Services to be brought up whose containers live in a namespace that is gone."""
    cut_off = dict.fromkeys(one.service for one in _cut_off(containers, work))
    return [name for name in cut_off if name in step.services]


def _due(step: Up, work: Work) -> list[str]:
    """Services that an `up` has cut off; these may be others than it brought up."""
    services = work.configuration.services
    if not any(one.shares for one in services.values()) and not any(
        one.kind == RUNNING for one in work.configuration.uses
    ):
        return []
    due = {
        one.service: one
        for one in _cut_off(work.engine.containers(work.name), work)
        if namespaces.has_suffered(one, work.since) and one.state != "paused"
    }
    aside = [name for name in due if name in services and name not in step.services]
    images = work.engine.images([services[name].image for name in aside]) if aside else {}
    # No way to a new image for what is left alone.
    same = [
        name for name in aside
        if (image := images.get(services[name].image)) and image.id == due[name].image
    ]  # fmt: skip
    return [name for name in due if name in step.services or name in same]


def _cut_off(containers: Sequence[Container], work: Work) -> list[Container]:
    """Those that have lost a namespace that they live in."""
    everyone = {one.id: one for one in containers}
    foreign = sorted({owner for one in containers for _, owner in one.namespaces} - {*everyone})
    if foreign:
        everyone |= {one.id: one for one in work.engine.find(foreign)}
    return [one for one in containers if namespaces.lost(one, everyone)]


def _lives(containers: list[Container]) -> set[tuple[str, str, float]]:
    return {(one.id, one.state, one.started) for one in containers}


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def set_time_limit(services: Sequence[str], work: Work) -> None:
    """Let the time for `up` and gate begin."""
    work.limit = _time_limit(services, work)
    work.deadline = time.monotonic() + work.limit


def _time_limit(names: Sequence[str], work: Work) -> float:
    """Seconds for up and gate: what was set, or as long as the healthchecks may take."""
    given = float(work.settings.up_timeout_period)
    least = float(work.settings.settle_period + SPARE)
    if work.settings.up_timeout_is_given:
        return max(given, least)
    services = [work.configuration.services[name] for name in names]
    images = work.engine.images([one.image for one in services])
    checks = {one.name: images[one.image].healthcheck for one in services if one.image in images}
    wait, service = longest_wait(work.configuration, checks)
    if wait > given:
        work.tell(f"time limit {wait:.0f} s, for what {service} and those it waits for may take")
    return max(given, least, wait)


def _remove_orphans(step: Up, work: Work) -> None:
    """Before others want their ports."""
    if not step.orphans:
        return
    longest = max(one.stop_grace for one in step.orphans)
    work.engine.stop_containers([one.id for one in step.orphans], timeout=longest + PATIENCE)
    for one in step.orphans:
        work.engine.remove_container(one.id)


def _clear_leftovers(step: Up, work: Work) -> None:
    if not step.leftovers:
        return
    existing = {one.id[:12] for one in work.engine.containers(work.configuration.name)}
    for one in step.leftovers:
        if one.replaces in existing:
            work.engine.remove_container(one.id)
        else:
            # The old one is gone already: this one carries on its anonymous volumes.
            work.engine.rename_container(one.id, one.name.partition("_")[2])
