"""Compose's two renderings of a project: what its YAML says, in the form that its JSON has.

Compose 2.26 to 2.40 can't make JSON of a `build: {ssh: [ID=PATH]}`, and can of YAML. All that keeps
or compares configurations has the JSON form; one that came as YAML must not look like a change.
"""

from __future__ import annotations

import json
import re
from typing import Any

from rbuild.compose import yamlfile

# Maps whose keys are the user's own, with plain values; `x-` means nothing special there.
_FREE = {
    "additional_contexts", "annotations", "args", "aux_addresses", "driver_opts", "environment",
    "labels", "options", "storage_opt", "sysctls",
}  # fmt: skip
# Maps from names that the user gives to what Compose knows.
_NAMED = {
    "configs", "depends_on", "models", "networks", "secrets", "services", "ulimits", "volumes",
}  # fmt: skip

_OURS = "x-rbuild"
# A key at the top with all that is below it, as Compose indents it.
_JSON_EXTENSION = re.compile(r'^  "x-(?!rbuild":).*?(?=^  "|^\})', re.DOTALL | re.MULTILINE)
_LAST_COMMA = re.compile(r",?\s*\}\s*\Z")
_YAML_EXTENSION = re.compile(r"^\"?x-(?!rbuild\"?:).*\n(?: .*\n|\n)*", re.MULTILINE)


def from_json(text: str) -> dict[str, Any] | None:
    """The configuration that `docker compose config --format json` gave; None if it is none.

    The top's `x-` keys are left out, all but `x-rbuild`: nothing comes of them.
    """
    try:
        try:
            found = json.loads(text)
        except RecursionError:
            # Nothing else can be nested so deep.
            found = json.loads(_LAST_COMMA.sub(r"\n}", _JSON_EXTENSION.sub("", text)))
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    return {key: value for key, value in found.items() if not _is_extension(key)}


def from_yaml(text: str, where: str) -> dict[str, Any]:
    """The configuration that `docker compose config --format yaml` gave, as from JSON.

    `where` names it in errors. Raises InputError for what is not YAML.
    """
    found: dict[str, Any] = {
        key: value if key == _OURS else _without_extensions(key, value)
        for key, value in _read(text, where).items()
    }
    for service in (found.get("services") or {}).values():
        _add_what_json_has(service)
    for network in (found.get("networks") or {}).values():
        network.setdefault("ipam", {})
    return found


def service_extensions(text: str, where: str) -> dict[str, dict[str, Any]]:
    """The `x-` keys of each service, from the same text: JSON leaves them out."""
    services = _read(text, where).get("services") or {}
    return {
        name: {key: value for key, value in service.items() if key.startswith("x-")}
        for name, service in services.items()
    }


def settle_ssh(rendered: dict[str, Any]) -> None:
    """Let the SSH keys of builds be as one writes them, in one order.

    Compose renders them as `ID: PATH`, which it doesn't read itself, and in any order.
    """
    for service in (rendered.get("services") or {}).values():
        build = service.get("build") or {}
        if build.get("ssh"):
            build["ssh"] = sorted(one.replace(": ", "=", 1) for one in build["ssh"])


def _read(text: str, where: str) -> dict[str, Any]:
    (document,) = yamlfile.read(_YAML_EXTENSION.sub("", text).encode(), where, numbers=True)
    assert isinstance(document.data, dict)
    return document.data


def _is_extension(key: str) -> bool:
    return key.startswith("x-") and key != _OURS


def _without_extensions(key: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_without_extensions("", one) for one in value]
    if not isinstance(value, dict) or key in _FREE:
        return value
    if key in _NAMED:
        return {name: _without_extensions("", one) for name, one in value.items()}
    return {
        name: _without_extensions(name, one)
        for name, one in value.items()
        if not name.startswith("x-")
    }


def _add_what_json_has(service: dict[str, Any]) -> None:
    """Empty values that only JSON spells out, and names as they are in Compose's own code."""
    service.setdefault("command", None)
    service.setdefault("entrypoint", None)
    if deploy := service.get("deploy"):
        deploy.setdefault("placement", {})
        deploy.setdefault("resources", {})
    for watch in (service.get("develop") or {}).get("watch") or ():
        watch.setdefault("exec", {"command": None})
    limits = service.get("blkio_config") or {}
    for name, devices in limits.items():
        if isinstance(devices, list):
            limits[name] = [
                {key.capitalize(): value for key, value in one.items()} for one in devices
            ]
