"""What an update leaves over, and what of it may go: only ours, only what nothing uses."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from rbuild.engine import Engine, Image
from rbuild.errors import EngineError
from rbuild.reference import generations, pattern


def expired(tags: Iterable[str], project: str, keep: int) -> list[str]:
    """Those of a project's kept tags that belong to older generations than the `keep` newest."""
    by_age = list(generations(tags, project).values())
    return [tag for generation in by_age[keep:] for tag in generation]


def unused(images: Iterable[Image], used: Collection[str]) -> list[str]:
    """IDs of the images that have no name left and that no container uses."""
    return [one.id for one in images if not one.tags and one.id not in used]


def tidy(engine: Engine, project: str, keep: int, superseded: Sequence[str]) -> list[str]:
    """Remove what earlier updates of this project left: generations, nameless images.

    `superseded` are IDs that our pulls replaced; those still in use are given back, for the
    next time.
    """
    own = engine.list_images(reference=pattern(project))
    for tag in expired((tag for image in own for tag in image.tags), project, keep):
        engine.remove_image(tag)
    # By ID, and asked for anew: untagging may have removed some and bared others.
    pulled = engine.images(superseded) if superseded else {}
    built = engine.list_images(label=f"com.docker.compose.project={project}", dangling=True)
    used = engine.used_images() if built or pulled else frozenset()
    for image in unused([*built, *pulled.values()], used):
        engine.remove_image(image)
    return [one.id for one in pulled.values() if one.tags or one.id in used]


def removable(engine: Engine, project: str) -> list[str]:
    """Names (or IDs) of the images that rbuild built for a project and no container uses."""
    built = engine.list_images(label=f"rbuild.project={project}")
    kept = engine.list_images(reference=pattern(project))
    used = engine.used_images()
    found: dict[str, None] = {}
    for image in (*built, *kept):
        if image.id not in used:
            ours = (image.labels or {}).get("rbuild.project") == project
            own_tags = [tag for tags in generations(image.tags, project).values() for tag in tags]
            found.update(dict.fromkeys((image.tags or (image.id,)) if ours else own_tags))
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
