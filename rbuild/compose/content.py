"""What of a project Compose doesn't render: the content of files, and which of them are data."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rbuild.compose import data, fingerprint
from rbuild.compose.data import NATURE, Changed, Look
from rbuild.compose.project import Project
from rbuild.state.record import Record


@dataclass(frozen=True, slots=True)
class Seen:
    """A project's content as it is now; paths are spelled as in records, but in the signature."""

    digests: Mapping[str, str]
    """Of its inputs."""
    variables: Collection[str]
    """Those of the inputs that are values of `configs:` and `secrets:`."""
    contents: Mapping[str, Mapping[str, str]]
    """What a service's containers are made from (see `fingerprint.contents`)."""
    signature: Mapping[str, Any]
    """Of the content files, by path."""
    data: Mapping[str, list[str]]
    """Mounted files that are no inputs, as a record has them."""
    suspects: Mapping[str, Mapping[str, Any]]
    """Changed files that may be data, as a record has them."""
    news: tuple[str, ...]
    """What is to be told once: files that count as data from now on."""


def look(
    rendered: Mapping[str, Any],
    project: Project,
    known: Record | None,
    key: str,
    environ: Mapping[str, str],
    before: Mapping[str, Any] | None,
) -> Seen:
    """Look at the content of a project whose configuration is `rendered`.

    `environ` is what Compose takes values from, `before` the view of the last look, if any.
    """
    spelled = {"folder": project.target.folder, "home": project.home}
    mounts = fingerprint.mounts(rendered, key)
    names: dict[str, str] = {path: fingerprint.respelled(path, **spelled) for path in mounts}
    whys = dict(_learned(mounts, names, known))
    files = fingerprint.content_files(rendered, whys)
    # Before the content is read: a change in between shows next time.
    signature = fingerprint.signature(files, (), environ, key)["paths"]
    digests = fingerprint.digests(rendered, files, environ, key=key, **spelled)
    new: dict[str, str] = {}
    suspects: dict[str, dict[str, Any]] = {}
    if known:
        mounted = [(path, names[path]) for path in files if path in mounts]
        changed = [*_changed(rendered, mounted, known, digests, signature, before)]
        new, suspects = data.weigh(changed, known.suspects, key)
        whys |= {path: new[name] for path, name in names.items() if name in new}
    digests = without(digests, new)
    natural = dict.fromkeys(fingerprint.data_files(rendered, files), NATURE)
    return Seen(
        digests=digests,
        variables=[name for name in digests if name.startswith("$")],
        contents=fingerprint.contents(rendered, digests, key=key, **spelled),
        signature=without(signature, whys),
        data={names[path]: [why, mounts[path]] for path, why in {**natural, **whys}.items()},
        suspects=suspects,
        news=tuple(data.told(name, why) for name, why in new.items()),
    )


def writable(rendered: Mapping[str, Any], files: Collection[str], key: str) -> dict[str, Look]:
    """Those of its content `files` that containers may write themselves, as they are now."""
    found = {}
    for path in fingerprint.writable_files(rendered).intersection(files):
        now = fingerprint.signature([path], (), {}, key)["paths"][path]
        if isinstance(now, list):
            found[path] = Look(now[0], now[2], fingerprint.content_digest(path, key))
    return found


def written(before: Mapping[str, Look], now: Mapping[str, Look]) -> list[str]:
    """Files with other content that nobody has put in their place (see `data.weigh`)."""
    return [
        path
        for path, look in before.items()
        if path in now and now[path].inode == look.inode and now[path].digest != look.digest
    ]


def without(mapping: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """A mapping without these keys."""
    return {name: value for name, value in mapping.items() if name not in names}


def _learned(
    mounts: Mapping[str, str], names: Mapping[str, str], known: Record | None
) -> Iterator[tuple[str, str]]:
    """Paths that an earlier run has found to be data, each with why, if still mounted as then."""
    for path, how in mounts.items():
        why, earlier = (known.data if known else {}).get(names[path], (NATURE, ""))
        if why != NATURE and earlier == how:
            yield path, why


def _changed(
    rendered: Mapping[str, Any],
    mounted: Collection[tuple[str, str]],
    known: Record,
    digests: Mapping[str, str],
    signature: Mapping[str, Any],
    before: Mapping[str, Any] | None,
) -> Iterator[Changed]:
    """Those of the `mounted` files (path and name) that are not as at the last good update."""
    views = (before or {}).get("paths", {})
    for path, name in mounted:
        was, now = known.digests.get(name), signature.get(path)
        if was in (None, digests[name]) or not isinstance(now, list):
            continue
        earlier = views.get(path)
        yield Changed(
            name=name,
            path=path,
            now=Look(now[0], now[2], digests[name]),
            before=Look(earlier[0], earlier[2], was) if isinstance(earlier, list) else None,
            writable=fingerprint.is_writable(rendered, path),
            # What is mounted by itself is no place for another file.
            replaceable=fingerprint.is_writable(rendered, os.path.dirname(os.path.realpath(path))),
        )
