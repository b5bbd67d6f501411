"""Image references: when two spellings mean one image, and tags of rbuild's own."""

from __future__ import annotations

import re
from collections.abc import Iterable

_FIT = re.compile(r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*")
_OWN = re.compile(r"rbuild/([^/]+)/[^/:]+:([0-9]{8}T[0-9]{6}Z)")
# Of a part of a name; a whole one has at most 255 characters (distribution's reference grammar).
_LONGEST = 100


def qualified(reference: str) -> str:
    """The full name: `debian` → `docker.io/library/debian:latest`.

    By the rules of distribution's reference grammar: a first part with a dot, a colon or
    `localhost` is a registry.
    """
    name, at, digest = reference.partition("@")
    first, slash, rest = name.partition("/")
    if not slash or not (("." in first) or (":" in first) or first == "localhost"):
        first, rest = "docker.io", name
    if first == "index.docker.io":
        first = "docker.io"
    if first == "docker.io" and "/" not in rest:
        rest = f"library/{rest}"
    if ":" not in rest and not at:
        rest += ":latest"
    return f"{first}/{rest}{at}{digest}"


def repository(reference: str) -> str:
    """The full name without tag and digest: `debian:12` → `docker.io/library/debian`."""
    name = qualified(reference).partition("@")[0]
    path, _, tag = name.rpartition(":")
    return name if "/" in tag else path


def untagged(reference: str) -> str:
    """A name as it is spelled, without its tag and digest."""
    name = reference.partition("@")[0]
    path, colon, tag = name.rpartition(":")
    return path if colon and "/" not in tag else name


def kept(project: str, service: str, stamp: str) -> str:
    """The tag under which rbuild keeps the image that a service ran before an update.

    `stamp` names the generation. A name that doesn't fit a repository is made to fit, with a
    digest so that no two services share one.
    """
    return f"rbuild/{_fit(project)}/{_fit(service)}:{stamp}"


def generations(tags: Iterable[str], project: str) -> dict[str, list[str]]:
    """The tags kept for a project by generation, newest first; all others are passed over.

    Projects that run the same image have tags on it side by side.
    """
    own = _fit(project)
    found: dict[str, list[str]] = {}
    for tag in tags:
        match = _OWN.fullmatch(tag)
        if match and match[1] == own:
            found.setdefault(match[2], []).append(tag)
    return dict(sorted(found.items(), reverse=True))


def pattern(project: str) -> str:
    """A filter that lists the images kept for a project."""
    return f"rbuild/{_fit(project)}/*:*"


def _fit(name: str) -> str:
    if len(name) <= _LONGEST and _FIT.fullmatch(name):
        return name
    import hashlib

    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[: _LONGEST - 9].strip("-") or "x"
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def familiar(reference: str) -> str:
    """The short way to write a full name: `docker.io/library/debian:12` → `debian:12`."""
    return reference.removeprefix("docker.io/").removeprefix("library/")


def registry_of(reference: str) -> str:
    """The registry that a full name belongs to: `docker.io`, `127.0.0.1:5000`."""
    return reference.partition("/")[0]


def is_listed(reference: str, entries: Iterable[str]) -> bool:
    """Whether a full name is one of `entries`: one without tag and digest means every tag."""
    for entry in entries:
        last = entry.rpartition("/")[2]
        if ":" in last or "@" in last:
            if qualified(entry) == reference:
                return True
        elif repository(entry) == repository(reference):
            return True
    return False
