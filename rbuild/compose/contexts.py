"""A project's build contexts: which there are, and what of them has changed since an update.

A record has each context's signature; what it held, file by file, lies beside the record in a
file of its own, which is read only where a signature differs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from rbuild.compose import context
from rbuild.compose.context import Context
from rbuild.compose.fingerprint import dockerfile_of, is_local_context
from rbuild.state import record
from rbuild.state.record import Record

_FILE = "contexts.json"
Contents = dict[str, list[Any]]


@dataclass(frozen=True, slots=True)
class Seen:
    """The build contexts as they are now."""

    entries: Mapping[str, list[str]]
    """As a record keeps them: name → signature, folder, Dockerfile, and what is not looked at."""
    contents: Mapping[str, Contents]
    """By name, what each holds; those that could be told by their signature are as they were."""
    changed: tuple[str, ...] = ()
    """What changed since the last good update, for a person."""
    services: frozenset[str] = frozenset()
    """Services whose contexts changed."""

    @property
    def digest(self) -> str:
        """Of what all of them hold, whenever it was written."""
        held = {
            name: [[path, entry[0], entry[-1]] for path, entry in sorted(one.items())]
            for name, one in self.contents.items()
        }
        return blake2b(json.dumps(held, sort_keys=True).encode(), digest_size=16).hexdigest()


def of(rendered: Mapping[str, Any], unbuilt: Collection[str] = ()) -> dict[str, Context]:
    """The contexts of a rendered configuration that are folders here; not of `unbuilt` services.

    By service; a context with a name of its own (`additional_contexts`) goes by SERVICE:NAME. Not
    looked at are `.git`, which every fetch changes, and what the project's services mount from
    there: that is data, not what is built.
    """
    found: dict[str, Context] = {}
    mounts = [
        mount["source"]
        for service in (rendered.get("services") or {}).values()
        for mount in service.get("volumes") or ()
        if mount.get("type") == "bind" and mount.get("source")
    ]

    def place(root: str, dockerfile: str = "") -> Context:
        below = (os.path.relpath(one, root) for one in mounts if one.startswith(root + os.sep))
        return Context(root, dockerfile, tuple(sorted({".git", *below})))

    for service, one in (rendered.get("services") or {}).items():
        build = one.get("build")
        if not build or service in unbuilt:
            continue
        if is_local_context(build.get("context", "")):
            found[service] = place(build["context"], dockerfile_of(build))
        for name, folder in (build.get("additional_contexts") or {}).items():
            if is_local_context(str(folder)):
                found[f"{service}:{name}"] = place(str(folder))
    return found


def look(
    rendered: Mapping[str, Any],
    known: Record | None,
    folder: str,
    key: str,
    unbuilt: Collection[str] = (),
) -> Seen:
    """Compare the contexts with those of the last good update; `folder` is the state folder.

    `unbuilt` are services that are not built. Raises InputError for an ignore file that can't be
    understood.
    """
    there = of(rendered, unbuilt)
    # Signatures come before what they stand for is read: a change in between shows next time.
    entries = {
        name: [context.signature(one, key), one.root, one.dockerfile, *one.leave]
        for name, one in there.items()
    }
    before = known.contexts if known else {}
    old = _read(folder, before) if before else {}
    contents: dict[str, Contents] = {}
    changed: list[str] = []
    services: set[str] = set()
    for name, one in there.items():
        same = before.get(name) == entries[name]
        if same and name in old:
            contents[name] = old[name]
            continue
        contents[name] = context.contents(one, key, old.get(name, {}))
        if same or name not in before:
            continue
        # Where it is lost what was there, the signature alone must do.
        found = context.changes(old[name], contents[name]) if name in old else ["what it holds"]
        if found:
            changed.append(f"context of {name}: {', '.join(found)}")
            services.add(name.partition(":")[0])
    return Seen(entries, contents, tuple(changed), frozenset(services))


def remember(folder: str, known: Record, seen: Seen) -> None:
    """Let a record know these contexts; what they hold goes to disk first. Raises StateError."""
    if known.contexts != seen.entries:
        held = {
            name: {"signature": one[0], "contents": seen.contents[name]}
            for name, one in seen.entries.items()
        }
        record.write_private(os.path.join(folder, _FILE), json.dumps(held))
    known.contexts = {name: list(one) for name, one in seen.entries.items()}


def is_new(known: Record) -> bool:
    """Whether a context looks different, at first sight, from what a record has of it.

    Raises InputError.
    """
    return any(
        context.signature(Context(root, dockerfile, tuple(leave)), known.key) != was
        for was, root, dockerfile, *leave in known.contexts.values()
    )


def _read(folder: str, entries: Mapping[str, list[str]]) -> dict[str, Contents]:
    """What the contexts held, where that is what the record means; a run may have been killed
    between the two."""
    try:
        with open(os.path.join(folder, _FILE), encoding="utf-8") as file:
            data = json.load(file)
        return {
            name: one["contents"]
            for name, one in data.items()
            if name in entries
            and one["signature"] == entries[name][0]
            and all(map(_is_entry, one["contents"].values()))
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 5 and isinstance(entry[4], str)
