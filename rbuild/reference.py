"""Image references: when two spellings mean one image, and tags of rbuild's own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

_FIT = re.compile(r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*")
_OWN = re.compile(r"rbuild/[^/]+/[^/:]+:([0-9]{8}T[0-9]{6}Z)")


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


def kept(project: str, service: str, stamp: str) -> str:
    """The tag under which rbuild keeps the image that a service ran before an update.

    `stamp` names the generation. A name that doesn't fit a repository is made to fit, with a
    digest so that no two services share one.
    """
    return f"rbuild/{_fit(project)}/{_fit(service)}:{stamp}"


def generations(tags: Iterable[str]) -> dict[str, list[str]]:
    """rbuild's own tags by generation, newest first; all other tags are passed over."""
    found: dict[str, list[str]] = {}
    for tag in tags:
        match = _OWN.fullmatch(tag)
        if match:
            found.setdefault(match[1], []).append(tag)
    return dict(sorted(found.items(), reverse=True))


def pattern(project: str) -> str:
    """A filter that lists the images kept for a project."""
    return f"rbuild/{_fit(project)}/*:*"


def _fit(name: str) -> str:
    if _FIT.fullmatch(name):
        return name
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "x"
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
