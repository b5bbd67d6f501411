"""What a project uses of others, and what it makes that others may use."""

from __future__ import annotations

from typing import Any

import pytest

from rbuild.compose import externals
from rbuild.compose.configuration import parse
from rbuild.compose.externals import CONTAINER, NETWORK, RUNNING, VOLUME, External

FRONT = {"front": {"name": "proxy", "external": True}}


def uses(service: dict[str, Any], **more: Any) -> list[tuple[str, str]]:
    rendered = {"name": "p", "services": {"web": service, "db": {}}, **more}
    return [one[:2] for one in externals.uses(rendered)]


@pytest.mark.parametrize(
    ("service", "more", "found"),
    [
        ({}, {"networks": FRONT, "volumes": {"data": {"external": True}}}, []),
        ({"networks": {"front": None}}, {"networks": FRONT}, [(NETWORK, "proxy")]),
        ({"networks": {"own": None}}, {"networks": {"own": {"name": "p_own"}}}, []),
        ({"networks": {"x": {}}}, {"networks": {"x": {"external": True}}}, [(NETWORK, "x")]),
        # Compose looks for it, whatever the scale.
        ({"networks": {"front": {}}, "scale": 0}, {"networks": FRONT}, [(NETWORK, "proxy")]),
        ({"volumes": [{"type": "volume", "source": "d"}, {"type": "volume", "target": "/x"},
                      {"type": "bind", "source": "d"}]},
         {"volumes": {"d": {"name": "data", "external": True}}}, [(VOLUME, "data")]),
        ({"network_mode": "container:vpn", "pid": "container:vpn", "ipc": "container:other"}, {},
         [(RUNNING, "vpn"), (RUNNING, "other")]),
        ({"network_mode": "container:vpn", "deploy": {"replicas": 0}}, {}, []),
        ({"network_mode": "proxy"}, {}, [(NETWORK, "proxy")]),
        ({"network_mode": "p_own"}, {"networks": {"own": {"name": "p_own"}}}, []),
        ({"network_mode": "host", "pid": "host", "ipc": "shareable"}, {}, []),
        ({"network_mode": "service:db"}, {}, []),
        ({"network_mode": "container:p-db-1"}, {}, []),
        ({"volumes_from": ["db", "container:store:ro"]}, {}, [(CONTAINER, "store")]),
    ],
)  # fmt: skip
def test_what_is_used(
    service: dict[str, Any], more: dict[str, Any], found: list[tuple[str, str]]
) -> None:
    assert uses(service, **more) == found


def test_what_several_services_use_is_told_once() -> None:
    services = {name: {"networks": {"front": None}} for name in ("web", "db")}
    (found,) = externals.uses({"name": "p", "services": services, "networks": FRONT})
    assert found == External(NETWORK, "proxy", ("web", "db"), "networks.front")
    assert found.thing == "network proxy"


def test_what_is_made() -> None:
    rendered = {
        "name": "p",
        "services": {"web": {"scale": 2}, "db": {"container_name": "store"}, "no": {"scale": 0}},
        "networks": {"default": {"name": "p_default"}, **FRONT},
        "volumes": {"data": {"name": "data"}, "odd": None},
    }
    assert externals.makes(rendered) == {
        "network p_default", "volume data", "volume odd", "container store",
        "container p-web-1", "container p-web-2", "container p_web_1", "container p_web_2",
    }  # fmt: skip


def test_an_own_container_is_its_service() -> None:
    services = {
        "vpn": {"container_name": "gate"},
        "app": {"network_mode": "container:gate", "pid": "container:p-db-1", "ipc": "service:vpn"},
        "db": {"pid": "container:p-db-1", "network_mode": "container:other"},
    }
    parsed = parse({"name": "p", "services": services}, "/p")
    assert parsed.services["app"].shares == ("vpn", "db")
    assert parsed.services["db"].shares == ()
    assert [one.name for one in parsed.uses] == ["other"]
