"""Image names that no image can have: refused with their place, before an engine is asked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rbuild.compose.interpolation import mentions
from rbuild.compose.loading import Loaded
from rbuild.compose.yamlfile import Data, Document
from rbuild.docker.reference import problem
from rbuild.errors import ProjectError

_SET_IT = "set it in .env or the environment, or give it a default: ${NAME:-value}"
# What stands for a variable's value; too much of it at worst.
_VARIABLE = re.compile(r"\$\{.*\}|\$\w+")


class _Name(NamedTuple):
    """An image name of the rendered configuration, and the keys that lead to it."""

    keys: tuple[str, ...]
    value: str
    is_given: bool = True
    """False for one that Compose makes of the project's name and the service's."""


class _Told(NamedTuple):
    """What a person reads of a name."""

    message: str
    hint: str


def refuse_invalid(loaded: Loaded, *, up: bool) -> None:
    """Raise ProjectError for a name that an update would use and that no image can have.

    Services of inactive profiles are not in a configuration; with `up` off, images that are only
    run are not used either.
    """
    wrong = [(one, why) for one in _names(loaded, up=up) if (why := problem(one.value))]
    if not wrong:
        return
    told = [_told(loaded, loaded.inputs.documents, name, why) for name, why in wrong]
    # A variable that is not set is what a person has to mend, whatever else it makes wrong.
    told.sort(key=lambda one: one.hint != _SET_IT)
    raise ProjectError(
        told[0].message, detail="\n".join(one.message for one in told[1:]), hint=told[0].hint
    )


def _names(loaded: Loaded, *, up: bool) -> Iterator[_Name]:
    services = loaded.rendered.get("services") or {}
    for service in loaded.configuration.services.values():
        at = ("services", service.name)
        if service.has_image and (service.build or up):
            yield _Name((*at, "image"), service.image, service.is_named)
        for tag in service.tags:
            yield _Name((*at, "build", "tags"), tag)
        for mount in services[service.name].get("volumes") or () if up else ():
            if mount.get("type") == "image":
                yield _Name((*at, "volumes"), str(mount.get("source", "")))


def _told(loaded: Loaded, files: Sequence[Document], name: _Name, why: str) -> _Told:
    if not name.is_given:
        service = ".".join(name.keys[:-1])
        place = _line(files, name.keys[:-1]) or loaded.project.path
        return _Told(
            f"{place}: {service}: its image would be named {name.value!r}, which is not a valid "
            f"image name ({why})",
            "give the service an `image:`, or another name",
        )
    place, text = _find(files, name)
    required = {one.name for one in loaded.inputs.variables if one.required}
    unset = [one for one, _ in mentions(text) if one in required and one not in loaded.provided]
    message = f"{'.'.join(name.keys)}: {name.value!r} is not a valid image name ({why})"
    hint = "only its tag may have capital letters" if why == "capital letters" else ""
    if unset:
        names = ", ".join(dict.fromkeys(unset))
        what = f"variables {names} are" if "," in names else f"variable {names} is"
        message, hint = f"{what} not set: {message}", _SET_IT
    return _Told(f"{place or loaded.project.path}: {message}", hint)


def _find(files: Sequence[Document], name: _Name) -> tuple[str, str]:
    """Where ("file:line") a name may have come from, and what stands there; empty if nowhere."""
    for document in reversed(files):
        found = _at(document.data, name.keys)
        for index, item in enumerate(found if isinstance(found, list) else [found]):
            text = item.get("source") if isinstance(item, dict) else item
            if isinstance(text, str) and _may_be(text, name.value):
                last = [index] if isinstance(found, list) else []
                return f"{document.path}:{document.line(*name.keys, *last)}", text
    return "", ""


def _line(files: Sequence[Document], keys: Sequence[str]) -> str:
    """The first place ("file:line") of a key; empty if there is none."""
    for document in files:
        if _at(document.data, keys) is not None:
            return f"{document.path}:{document.line(*keys)}"
    return ""


def _at(data: Data, keys: Sequence[str]) -> Data:
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def _may_be(text: str, value: str) -> bool:
    """Whether Compose may make `value` of what stands in a file."""
    literals = (re.escape(part.replace("$$", "$")) for part in _VARIABLE.split(text))
    return re.fullmatch(".*".join(literals), value, re.DOTALL) is not None
