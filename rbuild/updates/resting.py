"""What a project was updated on: the IDs and digests of its images, for its record."""

from __future__ import annotations

from collections.abc import Mapping

from rbuild.decisions import moves
from rbuild.docker.engine import Engine, Image
from rbuild.docker.reference import qualified, repository
from rbuild.updates.scene import Scene

Found = dict[str, dict[str, list[str]]]


def found(
    rests: Mapping[str, Mapping[str, str]],
    engine: Engine,
    known: Mapping[str, bool],
    makers: Mapping[str, moves.Made],
) -> Found:
    """What these images are now on the engine, as a record keeps it (see `moves`).

    What another project says that it has built under such a name (`makers`, asked for before)
    goes with it: if a person has built something else since, that is no move.

    `rests` has their names as they are spelled, by kind and qualified name; `known` are qualified
    names of which it is known whether a registry has them.
    """
    names = [name for one in rests.values() for name in one.values()]
    here = engine.images(names) if names else {}
    return {
        kind: {
            full: _known_as(here[name], full, makers.get(full), known.get(full))
            for full, name in one.items()
            if name in here
        }
        for kind, one in rests.items()
    }


def accept(rests: Found, old: Mapping[str, Mapping[str, list[str]]], moved: moves.Moves) -> None:
    """Add to `rests` what was the reason of an update that has just succeeded.

    Whatever it has pulled or left alone: the same must not be a reason again. `old` is what was
    known before.
    """
    for name in moved.moved:
        digest = moved.digests[name]
        for kind in old:
            known = rests.get(kind, {}).get(name) or old[kind].get(name)
            if known and digest not in known and moves.MADE + digest not in known:
                rests.setdefault(kind, {})[name] = [*known, digest]


def makers(scene: Scene) -> Mapping[str, moves.Made]:
    """The images that other projects here have built, as their records have it."""
    lookout = scene.means.lookout
    return lookout.makers(scene.folder) if lookout else {}


def complete(old: Mapping[str, Mapping[str, list[str]]], new: Found, scene: Scene) -> Found:
    """What a record is to keep: what is known already, and what was found new.

    With it goes what registries have of the images that are only watched.
    """
    whole: Found = {kind: {**new.get(kind, {}), **one} for kind, one in old.items()}
    for kind, one in new.items():
        whole.setdefault(kind, dict(one))
    return {**whole, moves.WATCH: watched(scene, old.get(moves.WATCH, {}), keep=True)}


def watched(
    scene: Scene, old: Mapping[str, list[str]], *, keep: bool = False
) -> dict[str, list[str]]:
    """The digests of the images that somebody wants to have watched.

    What waits, or can't be asked, or all if `keep`, is as it was.
    """
    settings, lookout = scene.settings, scene.means.lookout
    if not lookout or moves.BASE not in settings.check:
        return {}
    names = [qualified(one) for one in settings.watch]
    made = makers(scene)
    seen = lookout.sight([one for one in names if "@" not in one and one not in made], settings)
    seen |= {name: moves.Sighting(made[name].id) for name in names if name in made}
    waiting = {one.reference for one in scene.moves.waits}
    result = {}
    for name in names:
        one = seen.get(name)
        if name in old and (keep or name in waiting or one is None or one.error):
            result[name] = old[name]
        elif one is None:
            result[name] = ["", name.rpartition("@")[2]]
        elif not one.error:
            result[name] = ["", one.digest]
    return result


def _known_as(image: Image, full: str, made: moves.Made | None, is_known: bool | None) -> list[str]:
    told = [moves.MADE + made.id] if made and made.id != image.id else []
    own = [one for one in image.digests if repository(one) == repository(full)]
    if own and not (image.is_from_registry(full) if is_known is None else is_known):
        told.append(moves.UNSURE)
    return [image.id, *(one.rpartition("@")[2] for one in own), *told]
