"""Asks the engine what is there and what may be taken, and plans an update from it.

Changes nothing.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rbuild.compose import bases, fingerprint
from rbuild.compose.configuration import Configuration
from rbuild.compose.loading import Loaded
from rbuild.decisions import moves
from rbuild.docker.engine import Container, EngineInfo, Image
from rbuild.docker.reference import is_listed, qualified
from rbuild.errors import ProjectError
from rbuild.state import generation
from rbuild.state.record import Record
from rbuild.updates import keeping, plan
from rbuild.updates.plan import Plan
from rbuild.updates.scene import Scene
from rbuild.updates.underway import kept_as, made_elsewhere, real_files, still_counts

# The engine that mounts images first.
IMAGE_MOUNTS = 28


def prepare(scene: Scene, loaded: Loaded) -> tuple[Plan, str]:
    """Ask the engine what is there, and plan; with the name of the generation that is kept.

    Changes nothing.
    """
    engine, known, run, info = scene.engine, scene.known, scene.run, scene.info
    assert info
    configuration = loaded.configuration
    services = configuration.services
    containers = generation.ours(
        engine.containers(configuration.name), loaded.folder, loaded.inputs.main_files
    )
    interrupted = still_counts(known, containers)
    images = engine.images([name for one in services.values() for name in one.images])
    torn = bool(interrupted.get("touched"))
    # An engine that is killed stops what still runs when it comes back, like a person would.
    unsure = torn or bool(interrupted.get("lost"))
    left = plan.leave_alone(configuration, containers, interrupted.get("stopped") or (), unsure)
    unbuilt = plan.leave_unbuilt(configuration, left, images)
    needs = bases.find(configuration, _read_file, info.platform, unbuilt)
    bases.require_compose(configuration, info.compose, unbuilt)
    _require_mounts(configuration, info)
    limited = _is_limited(scene)
    if limited:
        services_changed = (*(scene.contexts.services if scene.contexts else ()), *scene.awake)
        touched = bases.concerned(
            configuration,
            needs if not unbuilt else bases.find(configuration, _read_file, info.platform),
            scene.moves.moved,
            services_changed,
            [qualified(one) for one in scene.settings.watch],
        )
        unmoved = plan.leave_unmoved(configuration, containers, touched)
        left = {**unmoved, **left}
        # What isn't there at all comes along, from the image that is here if there is one.
        unbuilt += [
            one.name
            for one in configuration.services.values()
            if one.name not in touched and (one.name in unmoved or one.image in images)
        ]
        needs = bases.find(configuration, _read_file, info.platform, unbuilt)
    images |= engine.images([one.reference for one in needs.needs])
    strange = {one.service for one in containers} - services.keys()
    past = known.services if known else {}
    kept = kept_as(interrupted, scene.now)
    held, digests = _cool_down(scene, configuration, needs)
    made = plan.make(
        configuration,
        needs,
        plan.Observed(
            containers,
            images,
            made_elsewhere(run.store, loaded.folder, real_files(loaded)),
            engine.all_services(loaded.target) if strange else None,
            bool(left)
            and plan.stand_as_they_are(
                configuration,
                left,
                containers,
                images,
                engine.hashes(loaded.target),
                _unchanged(loaded, past, containers),
            ),
            is_moved=bool(known and known.built and known.home != loaded.project.home),
            held=held,
            digests=digests,
            mounted=_mounted(configuration, past, containers, images),
            known=_in_registries(scene, digests),
            moved=scene.moves.moved,
            outdated=tuple(_outdated(loaded, known, containers, info.clock_ahead)),
        ),
        left=left,
        stamp=kept,
        scales_before={name: one["scale"] for name, one in past.items()},
        scales_interrupted=interrupted.get("scales") or {} if torn else None,
        names_interrupted={} if torn else interrupted.get("names") or {},
        # What an update of ours has broken is not what was failing anyway.
        failing=interrupted.get("failing") or ()
        if torn
        else keeping.in_trouble(containers, time.time() + info.clock_ahead),
        ended_before={name: one["ended"] for name, one in past.items()},
        compose_files=loaded.inputs.main_files,
        hooks=scene.settings.hooks,
        monitor_period=scene.settings.monitor_period,
        up=scene.settings.up,
        push=scene.settings.push,
    )
    return replace(made, limited=limited), kept


def _in_registries(scene: Scene, seen: Iterable[str]) -> dict[str, bool]:
    """Images of which it is known whether a registry has them: by the record, and by what was
    just `seen` there."""
    known = moves.in_registries(scene.known.rests if scene.known else {})
    makers = scene.means.lookout.makers(scene.folder) if scene.means.lookout else {}
    here = [name for name in (*scene.moves.digests, *seen) if name not in makers]
    return {**known, **dict.fromkeys(here, True)}


def _is_limited(scene: Scene) -> bool:
    """Whether only what moved is updated: that was asked for, and nothing else is the reason."""
    return (
        scene.settings.update == "moved"
        and not scene.changed
        and bool(scene.outcome.reasons)
        and all(one.kind in moves.MOVED or one.kind == "changed" for one in scene.outcome.reasons)
    )


def _cool_down(
    scene: Scene, configuration: Configuration, needs: bases.Bases
) -> tuple[frozenset[str], dict[str, str]]:
    """With `min-age`: the images that must not be taken anew yet, and which digest to take."""
    settings, lookout = scene.settings, scene.means.lookout
    if not settings.min_age or not lookout:
        return frozenset(), {}
    rests = scene.known.rests if scene.known else {}
    names = [qualified(one.reference) for one in needs.needs]
    names += [qualified(name) for one in configuration.services.values()
              for name in plan.pulled(one)]  # fmt: skip
    gone = {name for one in rests.values() for name, known in one.items() if not moves.given(known)}
    gone |= lookout.makers(scene.folder).keys()
    names = [
        one
        for one in dict.fromkeys(names)
        if "@" not in one and one not in gone and not is_listed(one, settings.ignore)
    ]
    seen = lookout.sight(names, settings)
    now = time.time()
    held = moves.held(rests, names, seen, settings.min_age, now)
    digests = {name: one.digest for name, one in seen.items() if not one.error and one.digest}
    stays = {name: seen[name].error for name in held if seen[name].error}
    scene.outcome.warnings += tuple(f"{line}; not taken anew" for line in moves.told(stays))
    return frozenset(held), {**digests, **held}


def _require_mounts(configuration: Configuration, info: EngineInfo) -> None:
    """Raise ProjectError for a service that mounts an image, where the engine can't."""
    number = info.version.partition(".")[0]
    if not number.isdecimal() or int(number) >= IMAGE_MOUNTS:
        return
    for service in configuration.services.values():
        if service.mounts and service.scale:
            raise ProjectError(
                f"services.{service.name}.volumes: engine {info.version} can't mount the image "
                f"{service.mounts[0]}",
                hint=f"engine {IMAGE_MOUNTS} and newer can",
            )


def _mounted(
    configuration: Configuration,
    past: Mapping[str, Mapping[str, Any]],
    containers: Sequence[Container],
    images: Mapping[str, Image],
) -> dict[str, dict[str, str]]:
    """Service → name and ID of the images that its containers mount.

    The engine doesn't tell: the record does, of the containers that it knows. Others mount what the
    names mean, as far as anybody knows.
    """
    found = {}
    for name, service in configuration.services.items():
        own = sorted(one.id for one in containers if one.service == name)
        known = past.get(name, {})
        before = known.get("mounts", {}) if known.get("containers") == own else {}
        now = {image: images[image].id for image in service.mounts if image in images}
        found[name] = {**now, **{one: before[one] for one in service.mounts if one in before}}
    return {name: ids for name, ids in found.items() if ids}


def _unchanged(
    loaded: Loaded, past: Mapping[str, Mapping[str, object]], containers: Sequence[Container]
) -> list[str]:
    """Services whose configuration and containers are those of the last good update."""
    return [
        name
        for name, shape in loaded.shapes.items()
        if past.get(name, {}).get("shape") == shape
        and past[name]["containers"] == sorted(one.id for one in containers if one.service == name)
    ]


def _outdated(
    loaded: Loaded, known: Record | None, containers: Sequence[Container], clock_ahead: float
) -> Iterator[str]:
    """Services whose containers were made from other content than there is now.

    That is what the record tells; of containers that it doesn't know, also a file that was
    written since they were started, unless they may have written it themselves.
    """
    read_only = {
        path: users
        for path, users in fingerprint.content_users(loaded.rendered).items()
        if not fingerprint.is_writable(loaded.rendered, path)
    }
    for name, content in loaded.contents.items():
        past = (known.services if known else {}).get(name, {})
        own = [
            container for container in containers
            if container.service == name and not container.oneoff and not container.replaces
        ]  # fmt: skip
        others = [container for container in own if container.id not in past.get("containers", ())]
        files = [
            path for path, users in read_only.items()
            if name in users and loaded.name_of(path) in content
        ]  # fmt: skip
        since = min((container.started for container in others), default=math.inf) - clock_ahead
        is_other = known is not None and bool(known.built) and _differs(content, past, known)
        if own and (is_other or any(_written(path) > since for path in files)):
            yield name


def _differs(content: Mapping[str, str], past: Mapping[str, Any], known: Record) -> bool:
    """Whether a service's content is not what it was; of older records, as far as they tell."""
    before = {**known.digests, **past.get("content", {})}
    return any(
        before.get(part, "" if part.startswith("/") else digest) != digest
        for part, digest in content.items()
    )


def _written(path: str) -> float:
    """When a file was last written or put in its place, in epoch seconds; 0 if it isn't there."""
    try:
        return os.stat(path).st_ctime
    except OSError:
        return 0.0


def _read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
