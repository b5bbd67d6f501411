"""In which order projects are worked: who builds an image comes before who rests on it, who makes
a network, a volume or a container before who uses it as somebody else's."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple, TypeVar

from rbuild.compose import bases, externals, fingerprint
from rbuild.compose.configuration import Configuration
from rbuild.compose.externals import External
from rbuild.compose.loading import Loaded
from rbuild.compose.project import Project
from rbuild.decisions.glance import Run
from rbuild.docker.reference import qualified
from rbuild.errors import RbuildError
from rbuild.state import generation, record
from rbuild.state.record import Record

Key = TypeVar("Key", bound=Hashable)


class Node(NamedTuple):
    """A project as far as its order matters: qualified names of images that it builds, of those
    that its builds rest on, and of those that it runs as somebody else has built them; the
    networks, volumes and containers that it makes, and those that it uses of others."""

    name: str
    makes: frozenset[str] = frozenset()
    rests: frozenset[str] = frozenset()
    runs: frozenset[str] = frozenset()
    uses: frozenset[str] = frozenset()


def order(nodes: Mapping[Key, Node]) -> tuple[list[Key], list[list[Key]], dict[Key, list[Key]]]:
    """All that can be worked, in order; circles; and for each whom it waits for.

    Only builds that rest on each other make a circle. Who runs what another builds comes after it
    where that is no circle, and so does, where that is none, who uses what another makes.
    """
    wait = waits(nodes)
    _, circles = arrange(wait)
    for also in ("runs", "uses"):
        more = waits({key: one._replace(rests=getattr(one, also)) for key, one in nodes.items()})
        wait = _widened(wait, more)
    return arrange(wait)[0], circles, wait


def _widened(
    wait: Mapping[Key, Sequence[Key]], more: Mapping[Key, Sequence[Key]]
) -> dict[Key, list[Key]]:
    """For each whom it waits for, with those of `more` that don't wait for it in turn."""
    both = {key: list(dict.fromkeys([*others, *more[key]])) for key, others in wait.items()}
    doubtful = {*_left_over(both)}
    behind = {
        one: _all_that_precede(one, both)
        for one in {*chain.from_iterable(more.values())} & doubtful
    }
    return {
        key: [one for one in others if one in wait[key] or key not in behind.get(one, ())]
        for key, others in both.items()
    }


def _all_that_precede(start: Key, wait: Mapping[Key, Sequence[Key]]) -> set[Key]:
    """All that one waits for, at last."""
    found: set[Key] = set()
    todo = [start]
    while todo:
        more = {*wait.get(todo.pop(), ())} - found
        found |= more
        todo += more
    return found


def waits(nodes: Mapping[Key, Node]) -> dict[Key, list[Key]]:
    """For each, those that build what its builds rest on."""
    makers: dict[str, list[Key]] = {}
    for key, node in nodes.items():
        for name in node.makes:
            makers.setdefault(name, []).append(key)
    return {
        key: [
            one
            for one in dict.fromkeys(maker for name in node.rests for maker in makers.get(name, ()))
            if one != key
        ]
        for key, node in nodes.items()
    }


def arrange(wait: Mapping[Key, Sequence[Key]]) -> tuple[list[Key], list[list[Key]]]:
    """All that can be put in order, each after those it waits for; and circles.

    What is in a circle is in no order; what only waits for one is. Of several circles through
    the same keys, as many are told as it takes to name them all.
    """
    circles: list[list[Key]] = []
    stuck: set[Key] = set()
    for key in _left_over(wait):
        circle = [] if key in stuck else _circle(key, wait)
        if circle:
            circles.append(circle)
            stuck.update(circle)
    rest = {
        key: [one for one in others if one not in stuck]
        for key, others in wait.items()
        if key not in stuck
    }
    return _in_order(rest), circles


def _left_over(wait: Mapping[Key, Sequence[Key]]) -> list[Key]:
    """What can't be put in order: all that waits for a circle, or is in one."""
    missing = {key: len({*others} & wait.keys()) for key, others in wait.items()}
    followers: dict[Key, list[Key]] = {}
    for key, others in wait.items():
        for one in {*others} & wait.keys():
            followers.setdefault(one, []).append(key)
    ready = [key for key, number in missing.items() if not number]
    while ready:
        for key in followers.get(ready.pop(), ()):
            missing[key] -= 1
            if not missing[key]:
                ready.append(key)
    return [key for key, number in missing.items() if number]


def _circle(start: Key, wait: Mapping[Key, Sequence[Key]]) -> list[Key]:
    """The shortest way from `start` to itself; empty if there is none."""
    before: dict[Key, Key] = {}
    todo = [start]
    for key in todo:
        for other in wait.get(key, ()):
            if other == start:
                path = [key]
                while path[-1] != start:
                    path.append(before[path[-1]])
                return path[::-1]
            if other not in before:
                before[other] = key
                todo.append(other)
    return []


def _in_order(wait: Mapping[Key, Sequence[Key]]) -> list[Key]:
    """What has no circles, each after those it waits for, else as it is given."""
    order: dict[Key, None] = {}
    for start in wait:
        # By hand: chains may be longer than Python's stack.
        stack = [start]
        while stack:
            waiting = [one for one in wait.get(stack[-1], ()) if one not in order]
            if waiting:
                stack.append(waiting[0])
            else:
                order[stack.pop()] = None
    return list(order)


def nodes(
    projects: Collection[Project], run: Run, load: Callable[[Project], Loaded]
) -> dict[str, Node]:
    """The projects of this call, by spelling, and all that are recorded beside them, by folder.

    A project that is new, or whose files look changed, is read with `load`, unless there is no
    other; what can't be read waits for nobody.
    """
    found: dict[str, Node] = {}
    mine: set[str] = set()
    recorded = run.store.all()
    for project in projects:
        known, folder = _record_of(project, run)
        alone = len(projects) == 1 and {*recorded} <= {folder}
        if known:
            mine.add(folder)
        node = of_record(known) if known else Node(project.path)
        if known and not alone:
            node = _with_externals(node, folder)
        if not alone and (known is None or _looks_changed(known, project, run)):
            try:
                loaded = load(project)
                node = of_configuration(loaded.configuration)
                mine.add(loaded.folder)
            except RbuildError:
                pass
        found[project.spelling] = node
    for folder, other in record.living(run.store):
        if folder not in mine:
            found[folder] = of_record(other)
    return found


def of_record(known: Record) -> Node:
    """A project by its record."""
    makes = frozenset(known.builds)
    images = {qualified(one["reference"]) for one in known.services.values() if "reference" in one}
    images |= {qualified(name) for one in known.services.values() for name in one.get("mounts", ())}
    return Node(known.name, makes, frozenset(known.bases) - makes, frozenset(images) - makes)


def of_configuration(configuration: Configuration) -> Node:
    """A project by its files."""
    makes = frozenset(map(qualified, configuration.built_images))
    images = {qualified(name) for one in configuration.services.values() for name in one.images}
    try:
        # Platforms decide about images, and hardly ever about projects.
        needs = bases.find(configuration, _content, "linux/amd64").needs
    except RbuildError:
        needs = ()
    return Node(
        configuration.name,
        makes | configuration.makes,
        frozenset(qualified(one.reference) for one in needs) - makes,
        frozenset(images) - makes,
        _names(configuration.uses),
    )


def _with_externals(node: Node, folder: str) -> Node:
    """A project by its record, with what the configuration that runs says of networks and the like.

    Only worth it for projects that are worked: of the others, nothing is about to be made.
    """
    running, _ = generation.read_configuration(os.path.join(folder, generation.RUNNING))
    if running is None:
        return node
    makes = node.makes | externals.makes(running)
    return node._replace(makes=makes, uses=_names(externals.uses(running)))


def _names(uses: Iterable[External]) -> frozenset[str]:
    """As those who make them are told."""
    return frozenset(one.thing.removeprefix("running ") for one in uses)


def _record_of(project: Project, run: Run) -> tuple[Record | None, str]:
    for folder, known in record.at_paths(run.store, *project.paths):
        if project.spelling in known.views:
            return known, folder
    return None, ""


def _looks_changed(known: Record, project: Project, run: Run) -> bool:
    try:
        return bool(fingerprint.differences(known.views[project.spelling], run.environ, known.key))
    except (KeyError, TypeError, ValueError, AttributeError):
        return True


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
