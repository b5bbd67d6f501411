"""Services that a person had stopped or paused when an update came.

They stay as they are, on what they were made from. A record has for each what of it is old
(`behind`), an image or a configuration: as soon as it runs again, it is to be updated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rbuild.compose.configuration import Service
from rbuild.compose.loading import Loaded
from rbuild.decisions.moves import STARTED
from rbuild.decisions.staleness import Reason
from rbuild.docker.engine import Container, Engine
from rbuild.errors import EngineError
from rbuild.updates import plan
from rbuild.updates.scene import Scene

IMAGE, CONFIGURATION = "image", "configuration"
LEFT_BY_HAND = ("paused", "stopped")
"""States in which an update leaves a service for a person's sake."""


def behind(
    loaded: Loaded,
    past: Mapping[str, Mapping[str, Any]],
    left: Mapping[str, str],
    containers: Sequence[Container],
    engine: Engine,
) -> dict[str, str]:
    """The services that an update has `left` on something old, and on what.

    `past` has the services as of the update before, `containers` are those after this one. Raises
    EngineError.
    """
    waiting = [name for name, why in left.items() if why in LEFT_BY_HAND]
    if not waiting:
        return {}
    services = loaded.configuration.services
    images = engine.images([services[name].image for name in waiting])
    hashes = engine.hashes(loaded.target)
    found = {}
    for name in waiting:
        service, known = services[name], past.get(name, {})
        own = [one for one in containers if one.service == name and not one.oneoff]
        image = images.get(service.image)
        if image and any(one.image != image.id for one in own):
            found[name] = IMAGE
        elif not _is_as_configured(loaded, service, known, own, hashes):
            found[name] = CONFIGURATION
    return found


def look(scene: Scene) -> None:
    """Find those that run again (`scene.awake`), and those that no longer wait."""
    known = scene.known
    waiting = [name for name in known.services if _behind(known.services, name)] if known else []
    if not known or not waiting or not scene.loaded or not scene.settings.up:
        return
    try:
        containers = scene.engine.containers(scene.name)
    except EngineError:
        # Whatever runs there, a later run sees it.
        return
    left = plan.leave_alone(scene.loaded.configuration, containers)
    there = {container.id for container in containers}
    for name in waiting:
        service = known.services[name]
        what = service["behind"]
        if name not in scene.loaded.configuration.services or left.get(name) == "manual":
            service["behind"] = ""
        elif not there.intersection(service["containers"]):
            # Whoever has made it anew has made it from what there is.
            service["behind"] = ""
        elif name in left:
            scene.outcome.notes += (f"{name} is {left[name]}: {keeps(what)}",)
        else:
            scene.awake[name] = Reason(STARTED, f"{name} runs again, on its old {what}")


def told(services: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines for a person on all services that wait, from the services of a record."""
    return [f"{name}: {keeps(what)}" for name in services if (what := _behind(services, name))]


def keeps(what: str) -> str:
    """What a person should know of a service that has something old."""
    return f"it keeps its old {what}, and is updated once it runs again"


def _behind(services: Mapping[str, Mapping[str, Any]], name: str) -> str:
    what: str = services.get(name, {}).get("behind", "")
    return what


def _is_as_configured(
    loaded: Loaded,
    service: Service,
    known: Mapping[str, Any],
    own: Sequence[Container],
    hashes: Mapping[str, str],
) -> bool:
    """Whether a service's containers were made from what the files say now, as far as is known."""
    name = service.name
    if known.get("shape") and known.get("containers") == sorted(one.id for one in own):
        content = known.get("content", {})
        return (known["shape"], content) == (loaded.shapes[name], loaded.contents[name])
    # With another's container in it, Compose's hash is never that of the files.
    return bool(service.shares) or all(plan.is_made_from(service, one, hashes) for one in own)
