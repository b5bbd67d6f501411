"""Keeps the running generation before an update, and lets go of old ones after it."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rbuild.compose.loading import Loaded
from rbuild.compose.project import Target
from rbuild.docker.engine import Container, Engine, EngineInfo
from rbuild.docker.reference import kept as kept_tag
from rbuild.errors import InputError
from rbuild.state import content, generation, record
from rbuild.state.generation import AS_BUILT, RUNNING, UP, Generation, Kept
from rbuild.state.record import Record
from rbuild.updates import previous, prune
from rbuild.updates.health import was_failing
from rbuild.updates.scene import Scene


def keep(
    loaded: Loaded,
    known: Record | None,
    containers: Sequence[Container],
    stamp: str,
    *,
    engine: Engine,
    info: EngineInfo,
    names: Mapping[str, str],
    left: Mapping[str, str],
    failing: Collection[str],
) -> tuple[Generation, dict[str, str]]:
    """Write down what is there now as the generation `stamp`, unless it is kept already.

    Nothing is written where nothing is there. With it comes which services could not be brought
    back as they are, and why.

    `names` is what image names mean, `left` says which services updates leave alone, `failing`
    which are in trouble. Raises StateError.
    """
    there = generation.read(loaded.folder, stamp)
    if there:
        return there, {}
    services: dict[str, Kept] = {}
    own = [one for one in containers if not one.oneoff and not one.replaces]
    for name in dict.fromkeys(one.service for one in own):
        boxes = [one for one in own if one.service == name]
        # Of several containers, the one that has run longest shows what must not be lost.
        oldest = min(boxes, key=lambda one: (one.state not in UP, one.started))
        services[name] = Kept(
            image=oldest.image,
            tag=kept_tag(loaded.configuration.name, name, stamp),
            reference=oldest.reference,
            up=tuple(one.id for one in boxes if one.state in UP),
            rest=tuple(one.id for one in boxes if one.state not in UP),
            # What has not moved this time is left alone by this update only.
            left="" if left.get(name) == "unmoved" else left.get(name, ""),
            failing=name in failing,
        )
    if not services:
        return Generation(stamp, {}, {}), {}
    found = previous.find(
        loaded, known, own, engine, clock_ahead=info.clock_ahead, is_here=info.here
    )
    sources = found.sources
    # The rest was started from something else; what the files say now is better than nothing.
    guessed = [one for one in loaded.configuration.services if one not in found.configured]
    sources.append((loaded.rendered, [one for one in guessed if one in services]))
    configuration = generation.merge(sources)
    proof = f"{generation.digest(configuration)} {info.compose}" if configuration else ""
    refusal = ""
    if configuration and proof not in (kept.proven for kept in _generations(loaded.folder)):
        refusal = _prove(loaded, configuration, engine)
    one = Generation(
        stamp=stamp,
        services=services,
        names=dict(names),
        past={part: getattr(known, part) for part in AS_BUILT} if known and known.built else {},
        configured=found.configured,
        home=known.home if known and known.built else loaded.project.home,
        content=found.content,
        proven="" if refusal else proof,
    )
    generation.write(loaded.folder, one, configuration)
    moving = {name for name, kept in services.items() if kept.up and not kept.left}
    missing = {name: why for name, why in found.unknown.items() if name in moving}
    here = engine.images([services[name].image for name in moving])
    missing |= {
        name: "its image is gone" for name in sorted(moving) if services[name].image not in here
    }
    if refusal:
        missing |= dict.fromkeys(sorted(moving), refusal)
    return one, missing


def _generations(folder: str) -> list[Generation]:
    found = (generation.read(folder, stamp) for stamp in generation.stamps(folder))
    return [one for one in found if one]


def _prove(loaded: Loaded, configuration: Mapping[str, Any], engine: Engine) -> str:
    """Have Compose read what is about to be kept; why it can't, empty if it can."""
    path = generation.scratch(loaded.folder, configuration)
    try:
        engine.render(Target(loaded.target.folder, (path,), (), loaded.configuration.name))
    except InputError as error:
        return f"Compose can't read again how it was configured ({error.detail.strip()})"
    finally:
        generation.remove_scratch(loaded.folder)
    return ""


def in_trouble(containers: Sequence[Container], now: float) -> list[str]:
    """Services that are failing, before an update; `now` is on the engine's clock."""
    return [one.service for one in containers if not one.oneoff and was_failing([one], now)]


def let_go(
    folder: str,
    engine: Engine,
    project: str,
    keep: int,
    tracked: Sequence[str],
    *,
    also: str = "",
) -> list[str]:
    """Keep the newest generations and `also` one, remove what else earlier updates left over.

    Gives those IDs of `tracked` images that are still there.
    """
    kept = generation.stamps(folder)
    stamps = [*kept[:keep], *({also} & {*kept})]
    # Tags first: a run that is killed in between finds the files again, and then the tags.
    there = prune.tidy(engine, project, stamps, tracked)
    generation.keep_only(folder, stamps)
    return there


def renew_containers(
    folder: str,
    known: Record,
    kept: Generation,
    moved: Collection[str],
    containers: Sequence[Container],
) -> None:
    """Let a record know the containers that a way back to `kept` has made.

    They count as made from what runs (RUNNING) only where that says the same as what was kept.
    """
    source, _ = generation.read_configuration(generation.configuration_path(folder, kept.stamp))
    running, _ = generation.read_configuration(os.path.join(folder, RUNNING))
    for name, past in known.services.items():
        if name in moved:
            old, new = ((one or {}).get("services", {}).get(name) for one in (running, source))
            own = [one.id for one in containers if one.service == name and not one.oneoff]
            # What waits for a service to run (`behind`) goes on waiting.
            same = new is not None and old == new
            past["containers"] = sorted(own) if same or past.get("behind") else []


def tidy(scene: Scene, after: Record) -> None:
    """Remove what updates have left over, and write down that it is done."""
    prune.remove_leftovers(scene.engine, scene.name)
    containers = scene.engine.containers(scene.name)
    _forget_what_runs(scene, containers)
    keep = scene.settings.keep_images
    after.superseded = let_go(
        scene.folder,
        scene.engine,
        scene.name,
        keep,
        after.superseded,
        # After a clock was set back, the newest is not the one with the latest name.
        also=scene.outcome.generation if keep else "",
    )
    _forget_copies(scene, after, containers)
    if scene.settings.prune_image_cache:
        scene.engine.prune_build_cache()
    after.untidy = False
    record.write(scene.folder, after)


def _forget_copies(scene: Scene, after: Record, containers: Sequence[Container]) -> None:
    """Remove copies of mounted files that no generation needs."""
    if any(generation.is_ours(one, scene.folder) for one in containers):
        # A rollback has made it, and it may mount one of them.
        return
    used = {*after.content.values()}
    for one in _generations(scene.folder):
        used.update(one.content.values())
    content.keep_only(scene.folder, used)


def _forget_what_runs(scene: Scene, containers: Sequence[Container]) -> None:
    """A generation all of whose containers still run is no earlier one (an update that changed
    nothing, a run that was killed): it must not push out one that is."""
    running = {one.id for one in containers if one.state in UP}
    for stamp in generation.stamps(scene.folder):
        one = generation.read(scene.folder, stamp)
        if one and one.ran and all(running.issuperset(kept.up) for kept in one.services.values()):
            generation.forget(scene.folder, stamp)
