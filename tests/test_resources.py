"""Networks and volumes: what the files say, and what the engine has."""

from __future__ import annotations

from typing import Any

import pytest

from rbuild.docker.inspected import resource
from rbuild.updates.resources import unapplied

NETWORK: dict[str, Any] = {
    "Driver": "bridge", "Options": {"mtu": "1400", "icc": "true"}, "Internal": True,
    "Attachable": False, "EnableIPv6": False, "Labels": {"com.docker.compose.network": "n"},
    "IPAM": {"Driver": "default", "Options": None,
             "Config": [{"Subnet": "10.1.0.0/24", "Gateway": "10.1.0.1"}]},
}  # fmt: skip
VOLUME: dict[str, Any] = {"Driver": "local", "Options": None, "Labels": {"a": "b"}}


class Fake:
    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def resource(self, kind: str, name: str) -> dict[str, Any] | None:
        self.asked.append((kind, name))
        if name == "gone":
            return None
        return resource(NETWORK if kind == "network" else VOLUME)


def told(kind: str, before: Any, now: Any) -> list[str]:
    files = ({f"{kind}s": {"x": one}} for one in (before, now))
    return unapplied(*files, Fake())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "now", "kept"),
    [
        ({"driver_opts": {"mtu": "1400"}}, {"driver_opts": {"mtu": "9000"}}, "driver_opts"),
        ({"driver_opts": {"mtu": "1400", "icc": "true"}}, {"driver_opts": {"mtu": "1400"}},
         "driver_opts"),
        ({"driver_opts": {"mtu": "1400"}}, {}, "driver_opts"),
        ({"driver_opts": {"mtu": "9000"}}, {}, ""),
        ({}, {"driver_opts": {"mtu": 1400}}, ""),
        ({}, {"internal": True}, ""),
        ({"internal": True}, {}, "internal"),
        ({"internal": True}, {"internal": False}, "internal"),
        ({}, {"attachable": True}, "attachable"),
        ({}, {"driver": "bridge"}, ""),
        ({}, {"driver": "macvlan"}, "driver"),
        ({}, {"ipam": {"config": [{"subnet": "10.1.0.0/24"}]}}, ""),
        ({}, {"ipam": {"config": [{"subnet": "10.2.0.0/24"}]}}, "ipam"),
        ({"ipam": {"config": [{"subnet": "10.1.0.0/24"}]}}, {"ipam": {}}, "ipam"),
        ({}, {"labels": {"a": "b"}, "enable_ipv6": True}, "enable_ipv6, labels"),
        ({"name": "a"}, {"name": "b", "internal": False, "driver": "macvlan"}, ""),
        ({}, {"external": True, "driver": "macvlan"}, ""),
        ({"name": "gone"}, {"name": "gone", "driver": "macvlan"}, ""),
    ],
)  # fmt: skip
def test_networks(before: Any, now: Any, kept: str) -> None:
    way_out = "`docker compose down` and `docker compose up -d` apply what the file says"
    assert told("network", before, now) == (
        [f"network x keeps its old {kept}: {way_out}"] if kept else []
    )


def test_volumes() -> None:
    (line,) = told("volume", {}, {"driver_opts": {"type": "tmpfs"}})
    assert line.startswith("volume x keeps its old driver_opts: only a new volume would have")
    assert told("volume", {"labels": {"a": "b"}}, {"labels": {"a": "c"}})
    assert told("volume", {}, {"labels": {"a": "b"}}) == []
    assert told("volume", None, {"driver": "local"}) == []


def test_nobody_is_asked_where_nothing_changed() -> None:
    engine = Fake()
    same = {"networks": {"x": {"driver": "macvlan"}}, "volumes": {"v": {}}}
    assert unapplied(same, same, engine) == []  # type: ignore[arg-type]
    assert unapplied({}, same, engine) == []  # type: ignore[arg-type]
    assert engine.asked == []
