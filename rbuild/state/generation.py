"""What ran before an update, kept so that it can run again: one generation a file.

Beside a project's record lie `generations/STAMP.json` (which image each service ran, in which
containers) and `generations/STAMP.compose.json` (the rendered configuration that they were
started from; private, for it may hold secrets). The images themselves bear tags of ours.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from typing import Any

from rbuild.docker.engine import Container, Engine
from rbuild.state import record

RUNNING = "running.compose.json"
# States in which a container does its work.
UP = ("running", "restarting", "paused")
# What of a record describes the update that made what runs.
AS_BUILT = (
    "built", "finished", "home", "files", "digests", "provided", "services", "bases", "builds",
    "rests", "makes", "commit", "content",
)  # fmt: skip
_STAMP = re.compile(r"[0-9]{8}T[0-9]{6}Z")


@dataclass(frozen=True, slots=True)
class Kept:
    """One service as it was found before an update."""

    image: str
    """ID of the image that its containers run."""
    tag: str
    """Ours on that image."""
    reference: str
    """The image name that the containers were made from."""
    up: tuple[str, ...] = ()
    """IDs of its containers that were at work."""
    rest: tuple[str, ...] = ()
    """IDs of those that had ended, or had been stopped."""
    left: str = ""
    """Why updates leave it alone, if they do: `manual`, `paused` or `stopped`."""
    failing: bool = False


@dataclass(frozen=True, slots=True)
class Generation:
    """A project as it ran at one time."""

    stamp: str
    services: Mapping[str, Kept]
    names: Mapping[str, str]
    """What image names meant: name → image ID."""
    past: Mapping[str, Any] = field(default_factory=dict)
    """What the record knew of it: its parts `AS_BUILT`; empty if no update of ours made it."""
    configured: tuple[str, ...] = ()
    """Services whose configuration is kept."""
    home: str = ""
    """The project's folder by then, links resolved; empty if that isn't known."""
    content: Mapping[str, str] = field(default_factory=dict)
    """Mounted files, configs and secrets: path → copy of what they held (see `content`)."""
    proven: str = ""
    """Digest of the kept configuration, and the Compose that has read it."""

    @property
    def containers(self) -> frozenset[str]:
        """IDs of all containers that there were."""
        return frozenset(
            one for kept in self.services.values() for one in (*kept.up, *kept.rest)
        )  # fmt: skip

    @property
    def ran(self) -> bool:
        """Whether anything of it was at work."""
        return any(kept.up for kept in self.services.values())


def name_of(started: float) -> str:
    """The name of a generation that is new in the run that started then; fit for a tag."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(started))


def path(folder: str, stamp: str) -> str:
    """Where a generation is kept in a project's state folder."""
    return os.path.join(folder, "generations", f"{stamp}.json")


def configuration_path(folder: str, stamp: str) -> str:
    """Where the configuration of a generation is kept."""
    return os.path.join(folder, "generations", f"{stamp}.compose.json")


def rollback_path(folder: str, stamp: str) -> str:
    """Where that configuration is with paths as they were, while a rollback uses it."""
    return os.path.join(folder, "generations", f"{stamp}.rollback.json")


def write(folder: str, one: Generation, configuration: Mapping[str, Any] | None) -> None:
    """Keep a generation, its configuration first. Raises StateError."""
    home = os.path.join(folder, "generations")
    try:
        os.makedirs(home, mode=0o700, exist_ok=True)
    except OSError as error:
        raise record.unusable(home, error) from None
    if configuration is not None:
        write_configuration(configuration_path(folder, one.stamp), configuration)
    record.write_private(path(folder, one.stamp), json.dumps(asdict(one), indent=1))


def read(folder: str, stamp: str) -> Generation | None:
    """A generation; None if it isn't there or can't be understood."""
    try:
        with open(path(folder, stamp), encoding="utf-8") as file:
            data = json.load(file)
        services = {
            str(name): Kept(**{**one, "up": tuple(one["up"]), "rest": tuple(one["rest"])})
            for name, one in data.pop("services").items()
        }
        data["configured"] = tuple(data["configured"])
        return Generation(services=services, **data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def stamps(folder: str) -> list[str]:
    """The generations that are kept, newest first."""
    try:
        names = os.listdir(os.path.join(folder, "generations"))
    except OSError:
        return []
    found = (name.removesuffix(".json") for name in names if name.endswith(".json"))
    return sorted((one for one in found if _STAMP.fullmatch(one)), reverse=True)


def keep_only(folder: str, keep: Collection[str]) -> None:
    """Forget all other generations, and half-written files. Their tags are untagged elsewhere."""
    home = os.path.join(folder, "generations")
    try:
        for name in os.listdir(home):
            if name.partition(".")[0] not in keep or name.endswith(".new"):
                os.unlink(os.path.join(home, name))
    except OSError:
        return


def readable(rendered: Mapping[str, Any]) -> dict[str, Any]:
    """A rendered configuration in a form that Compose reads again, with the same hash.

    Without what only a build needs. Compose writes some things in a way that it does not accept
    itself (seen with 2.26 and 2.40): dependencies on services of inactive profiles,
    `memswap_limit: -1`, the keys of devices under `blkio_config`.
    """
    services = rendered.get("services") or {}
    found = {name: _service(one, services) for name, one in services.items()}
    return {**rendered, "services": found}


def _service(service: Mapping[str, Any], services: Collection[str]) -> dict[str, Any]:
    found = dict(service)
    if found.get("build"):
        found["build"] = {"context": "."}
    if found.get("memswap_limit") == "-1":
        found["memswap_limit"] = -1
    if found.get("depends_on"):
        found["depends_on"] = {
            name: how
            for name, how in found["depends_on"].items()
            if name in services or (how or {}).get("required", True)
        }
    if found.get("blkio_config"):
        found["blkio_config"] = {
            name: [{key.lower(): one for key, one in device.items()} for device in value]
            if isinstance(value, list)
            else value
            for name, value in found["blkio_config"].items()
        }
    return found


def write_configuration(where: str, rendered: Mapping[str, Any]) -> str:
    """Write a rendered configuration so that Compose can read it again; its digest.

    Raises StateError.
    """
    text = _text(rendered)
    record.write_private(where, text)
    return _digest(text)


def read_configuration(where: str) -> tuple[dict[str, Any] | None, str]:
    """A configuration that was written, `$` not doubled, and its digest; None if there is none."""
    try:
        with open(where, encoding="utf-8") as file:
            text = file.read()
        data = json.loads(text)
    except (OSError, ValueError):
        return None, ""
    if not isinstance(data, dict) or not isinstance(data.get("services"), dict):
        return None, ""
    found = _dollars(data, "$$", "$")
    assert isinstance(found, dict)
    return found, _digest(text)


def digest(rendered: Mapping[str, Any]) -> str:
    """What `write_configuration` would give, without writing."""
    return _digest(_text(rendered))


def merge(sources: Sequence[tuple[Mapping[str, Any], Collection[str]]]) -> dict[str, Any] | None:
    """One configuration of services from several: each with the services that it is to give.

    What else there is (networks, volumes, services that others only depend on) comes from all of
    them, the first one winning.
    """
    merged: dict[str, Any] = {}
    given: dict[str, Any] = {}
    for configuration, services in sources:
        if not services:
            continue
        for key, value in configuration.items():
            if isinstance(value, dict):
                merged[key] = {**value, **merged.get(key, {})}
            else:
                merged.setdefault(key, value)
        for name in services:
            given.setdefault(name, configuration["services"][name])
    if merged:
        merged["services"] = {**merged["services"], **given}
    return merged or None


def lacking(one: Generation, engine: Engine) -> list[str]:
    """Services of a generation that can't be brought back, for their images are gone.

    An image is there by its ID or by our tag; others of that project may keep it.
    """
    up = {name: kept for name, kept in one.services.items() if kept.up and not kept.left}
    here = engine.images([kept.image for kept in up.values()])
    rest = {name: kept for name, kept in up.items() if kept.image not in here}
    tagged = engine.images([kept.tag for kept in rest.values()]) if rest else {}
    return [name for name, kept in rest.items() if kept.tag not in tagged]


def ours(containers: Iterable[Container], folder: str, files: Sequence[str]) -> list[Container]:
    """Containers, those that a way back made from a kept configuration named as by `files`.

    Such a file is told by the name of the project's state folder, wherever that lies: two
    users' rbuilds have folders of the same name.
    """
    return [
        replace(one, config_files=tuple(files)) if is_ours(one, folder) else one
        for one in containers
    ]


def is_ours(container: Container, folder: str) -> bool:
    """Whether a rollback of the project with this state folder has made a container."""
    mark = os.path.join(os.path.basename(folder), "generations") + os.sep
    return any(os.sep + mark in path for path in container.config_files)


def _text(rendered: Mapping[str, Any]) -> str:
    return json.dumps(_dollars(readable(rendered), "$", "$$"), indent=1)


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _dollars(value: Any, old: str, new: str) -> Any:
    """Compose reads variables in values, so `$` is doubled there; in keys it reads none."""
    if isinstance(value, dict):
        return {name: _dollars(one, old, new) for name, one in value.items()}
    if isinstance(value, list):
        return [_dollars(one, old, new) for one in value]
    return value.replace(old, new) if isinstance(value, str) else value


def forget(folder: str, stamp: str) -> None:
    """Remove one generation's files; its configurations last, for the other names them."""
    for make_path in (path, configuration_path, rollback_path):
        try:
            os.unlink(make_path(folder, stamp))
        except OSError:
            continue


def scratch(folder: str, rendered: Mapping[str, Any]) -> str:
    """A file that holds a configuration for a moment; its path. Raises StateError."""
    where = os.path.join(folder, "scratch.compose.json")
    write_configuration(where, rendered)
    return where


def remove_scratch(folder: str) -> None:
    """It is no longer needed."""
    try:
        os.unlink(os.path.join(folder, "scratch.compose.json"))
    except OSError:
        return
