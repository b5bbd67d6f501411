"""Image references: which there can be, when two mean one image, and tags of rbuild's own."""

from __future__ import annotations

import re
from collections.abc import Iterable

_FIT = re.compile(r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*")
_OWN = re.compile(r"rbuild/([^/]+)/[^/:]+:([0-9]{8}T[0-9]{6}Z)")
HUB = "docker.io"
"""The registry of names that name none."""
# Of a part of a name; a whole one has at most 255 characters (distribution's reference grammar).
_LONGEST = 100
_LONGEST_NAME = 255
# https://pkg.go.dev/github.com/distribution/reference
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")
_IMAGE_ID = re.compile(r"[0-9a-f]{64}")
_ALLOWED = re.compile(r"[\w.:/@+\[\]-]", re.ASCII)


def problem(reference: str) -> str:
    """Why no image can have this name, in few words; empty if one can.

    By distribution's grammar, as Docker's CLI and engine apply it. An image's ID is taken as well.
    """
    if not reference:
        return "it is empty"
    if _IMAGE_ID.fullmatch(reference):
        return ""
    if "://" in reference:
        return f"a URL: leave out {reference.partition('://')[0]}://"
    strange = next((one for one in reference if not _ALLOWED.match(one)), "")
    if strange:
        return "white space" if strange.isspace() else f"the character {strange!r}"
    name, at, digest = reference.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        return "its digest is not sha256: and 64 digits from 0 to f" if digest else "no digest"
    path, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        path, tag = name, "latest"
    if not _TAG.fullmatch(tag):
        return f"its tag {tag!r} is none" if tag else "its tag is empty"
    return _path_problem(path)


def _path_problem(name: str) -> str:
    """The same of a name without tag and digest."""
    if not name:
        return "there is nothing before its tag"
    if name.startswith("-"):
        return "it begins with '-'"
    if not all(name.split("/")):
        return "there is nothing before or after a slash"
    registry, path = _split(name)
    if path != path.lower():
        return "capital letters"
    if len(path) > _LONGEST_NAME:
        return f"longer than {_LONGEST_NAME} characters"
    parts = path.split("/")
    if not _REGISTRY.fullmatch(registry):
        # It may still be the first part of a path, by the grammar.
        parts.insert(0, registry)
    wrong = next((one for one in parts if not _COMPONENT.fullmatch(one)), "")
    return f"{wrong!r} is not letters and digits with one of . _ - between them" if wrong else ""


def _split(name: str) -> tuple[str, str]:
    """The registry and the path of a name, tag and digest included where there are any."""
    first, slash, rest = name.partition("/")
    is_registry = set(first) & set(".:") or first == "localhost" or first != first.lower()
    if not slash or not is_registry:
        first, rest = HUB, name
    if first == "index.docker.io":
        first = HUB
    if first == HUB and "/" not in rest:
        rest = f"library/{rest}"
    return first, rest


def qualified(reference: str) -> str:
    """The full name: `debian` → `docker.io/library/debian:latest`.

    By the rules of distribution's reference grammar: a first part with a dot, a colon or a capital
    letter, or `localhost`, is a registry.
    """
    name, at, digest = reference.partition("@")
    registry, path = _split(name)
    if ":" not in path and not at:
        path += ":latest"
    return f"{registry}/{path}{at}{digest}"


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
    path = reference.removeprefix("docker.io/")
    is_official = path != reference and path.count("/") == 1
    return path.removeprefix("library/") if is_official else path


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
