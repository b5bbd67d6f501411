"""Who has lost a namespace that it lives in."""

from __future__ import annotations

from typing import Any

import pytest

from rbuild.docker.engine import Container
from rbuild.docker.inspected import container
from rbuild.updates.namespaces import has_suffered, lost

from .fakes import box

NET, PID = ("network", "vpn-id"), ("pid", "vpn-id")


def vpn(started: float) -> Container:
    return box(service="vpn", name="vpn", started=started)


@pytest.mark.parametrize(
    ("one", "owner", "found"),
    [
        (box(started=5), None, {}),
        (box(started=5, namespaces=(NET,)), vpn(4), {}),
        (box(started=5, namespaces=(NET,)), None, {"vpn-id": "network"}),
        (box(started=5, namespaces=(NET, PID)), None, {"vpn-id": "network and pid"}),
        # Started again, it has others.
        (box(started=5, namespaces=(NET,)), vpn(6), {"vpn-id": "network"}),
        (box("paused", started=5, namespaces=(NET,)), vpn(6), {"vpn-id": "network"}),
        # What doesn't run joins anew when it starts, as long as there is something to join.
        (box("exited", started=5, namespaces=(PID,)), vpn(6), {}),
        (box("restarting", started=5, namespaces=(PID,)), vpn(6), {}),
        (box("exited", started=5, namespaces=(PID,)), None, {"vpn-id": "pid"}),
    ],
)
def test_what_is_lost(one: Container, owner: Container | None, found: dict[str, str]) -> None:
    assert lost(one, {owner.id: owner} if owner else {}) == found


@pytest.mark.parametrize(
    ("one", "suffers"),
    [
        (box(), True),
        (box("paused"), True),
        (box("restarting"), True),
        (box("created"), False),
        (box("exited", exit_code=137, finished=10), True),
        (box("exited", exit_code=137, finished=9), False),
        (box("exited", exit_code=0, finished=11), False),
    ],
)
def test_who_misses_it(one: Container, suffers: bool) -> None:
    assert has_suffered(one, 10) is suffers


def test_namespaces_as_inspect_shows_them() -> None:
    data: dict[str, Any] = {
        "Id": "a", "Name": "/x", "Image": "i", "State": {"Status": "running"},
        "Config": {"Image": "i", "Labels": None},
        "HostConfig": {"NetworkMode": "container:b", "PidMode": "", "IpcMode": "container:c"},
    }  # fmt: skip
    assert container(data).namespaces == (("network", "b"), ("ipc", "c"))
    data["HostConfig"] = {"NetworkMode": "p_default", "PidMode": "host", "IpcMode": "private"}
    assert container(data).namespaces == ()
