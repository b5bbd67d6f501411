"""Networks and volumes whose options changed in the files: Compose may leave them as they are.

Compose 2.26 takes a network or volume of the right name as it is, without a word; 2.40 makes the
network anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rbuild.docker.engine import Engine

_OPTIONS = {
    "network": ("driver", "driver_opts", "internal", "attachable", "enable_ipv6", "ipam", "labels"),
    "volume": ("driver", "driver_opts", "labels"),
}
_DRIVERS = {"network": "bridge", "volume": "local"}
_WAY_OUT = {
    "network": "`docker compose down` and `docker compose up -d` apply what the file says",
    "volume": "only a new volume would have what the file says, and none of its data",
}


def unapplied(before: Mapping[str, Any], now: Mapping[str, Any], engine: Engine) -> list[str]:
    """Warnings, after `up`: what the configuration `now` says and the engine has not.

    Only of what has changed since the configuration `before`, else nobody is asked. Raises
    EngineError.
    """
    warnings = []
    for kind in _OPTIONS:
        old, new = before.get(f"{kind}s") or {}, now.get(f"{kind}s") or {}
        for key in new.keys() & old.keys():
            wanted, earlier = _options(kind, new[key]), _options(kind, old[key])
            changed = [option for option in wanted if wanted[option] != earlier[option]]
            name = (new[key] or {}).get("name", key)
            is_same = name == (old[key] or {}).get("name", key)
            if not changed or not is_same or (new[key] or {}).get("external"):
                continue
            there = engine.resource(kind, name)
            kept = [
                option
                for option in changed
                if there is not None
                and not _has(there.get(option), wanted[option], earlier[option])
            ]
            if kept:
                warnings.append(f"{kind} {key} keeps its old {', '.join(kept)}: {_WAY_OUT[kind]}")
    return sorted(warnings)


def _options(kind: str, definition: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a definition says; what it leaves out, or says no to, is None."""
    found = {option: (definition or {}).get(option) or None for option in _OPTIONS[kind]}
    return {**found, "driver": found["driver"] or _DRIVERS[kind]}


def _has(there: Any, wanted: Any, before: Any) -> bool:
    """Whether the engine has what is `wanted`; where that is nothing, whether the old is gone."""
    if not wanted:
        return not _within(before, there)
    gone = {}
    if isinstance(wanted, dict) and isinstance(before, dict):
        gone = {name: value for name, value in before.items() if name not in wanted}
    return _within(wanted, there) and not (gone and _within(gone, there))


def _within(part: Any, whole: Any) -> bool:
    """Whether a value is part of another, which may say more."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            _within(value, whole.get(name)) for name, value in part.items()
        )
    if isinstance(part, list):
        return isinstance(whole, list) and all(
            any(_within(item, candidate) for candidate in whole) for item in part
        )
    return part == whole or str(part) == str(whole)
