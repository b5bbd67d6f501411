"""What an update leaves over, and what of it may go: only ours, only what nothing uses."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from rbuild.docker.engine import Engine, Image
from rbuild.docker.reference import generations, pattern, qualified
from rbuild.errors import EngineError


def expired(tags: Iterable[str], project: str, keep: Collection[str]) -> list[str]:
    """Those of a project's kept tags that belong to no generation to `keep`."""
    found = generations(tags, project).items()
    return [tag for stamp, own in found if stamp not in keep for tag in own]


def unused(images: Iterable[Image], used: Collection[str]) -> list[str]:
    """IDs of the images that have no name left and that no container uses."""
    return [one.id for one in images if not one.tags and one.id not in used]


def tidy(engine: Engine, project: str, keep: Collection[str], tracked: Sequence[str]) -> list[str]:
    """Remove what earlier updates of this project left: generations, nameless images.

    `keep` are the generations to keep, by stamp; `tracked` are IDs of images that our builds
    made and our pulls replaced. Those that are still there afterwards are given back, for the
    next time.
    """
    own = engine.list_images(reference=pattern(project))
    for tag in expired((tag for image in own for tag in image.tags), project, keep):
        engine.remove_image(tag)
    # By ID, and asked for anew: untagging may have removed some and bared others.
    known = engine.images(tracked) if tracked else {}
    label = f"com.docker.compose.project={project}"
    # Labels are handed down: one that bears ours and that we don't know is built upon it by
    # somebody else.
    built = [
        one
        for one in engine.list_images(label=label, dangling=True)
        if "rbuild.project" not in (one.labels or {})
    ]
    used = engine.used_images() if built or known else frozenset()
    gone = dict.fromkeys(unused([*built, *known.values()], used))
    stay = [image for image in gone if not engine.remove_image(image)]
    if stay:
        # An engine that has gone away refuses everything: then nothing is cleaned up.
        engine.check()
    return [one.id for one in known.values() if one.tags or one.id in used or one.id in stay]


def removable(
    engine: Engine, project: str, builds: Collection[str], tracked: Collection[str]
) -> list[str]:
    """Names (or IDs) of the images that rbuild built for a project and no container uses.

    `builds` are the qualified names that the project gives what it builds, `tracked` the IDs
    that its record knows. Other names stay, whatever labels their images have come by.
    """
    built = engine.list_images(label=f"rbuild.project={project}")
    kept = engine.list_images(reference=pattern(project))
    used = engine.used_images()
    found: dict[str, None] = {}
    for image in built:
        if image.id not in used:
            found.update((tag, None) for tag in image.tags if qualified(tag) in builds)
            if not image.tags and image.id in tracked:
                found[image.id] = None
    for image in kept:
        if image.id not in used:
            own = generations(image.tags, project).values()
            found.update((tag, None) for tags in own for tag in tags)
    return list(found)


def remove_leftovers(engine: Engine, project: str) -> None:
    """Remove containers that an interrupted recreate left beside the ones they were to replace."""
    containers = engine.containers(project)
    existing = {one.id[:12] for one in containers}
    for one in containers:
        if one.replaces in existing and one.state == "created":
            try:
                engine.remove_container(one.id)
            except EngineError:
                continue
