"""Containers that live in the network, pid or ipc namespace of another one: pure, from values.

The engine knows the other by its ID. Once that is gone, or was started again, its namespace is
no longer the one that they live in, and nothing shows it: they run on, cut off.
"""

from __future__ import annotations

from collections.abc import Mapping

from rbuild.docker.engine import Container

ALIVE = ("running", "paused")


def lost(one: Container, everyone: Mapping[str, Container]) -> dict[str, str]:
    """The namespaces that a container has lost: which ID it was of → which kinds.

    `everyone` has the containers that are there, by ID.
    """
    found: dict[str, str] = {}
    for kind, owner in one.namespaces:
        at = everyone.get(owner)
        # What runs joined after its owner had started.
        if at is None or (one.state in ALIVE and at.started > one.started):
            found[owner] = f"{found[owner]} and {kind}" if owner in found else kind
    return found


def has_suffered(one: Container, since: float) -> bool:
    """Whether it is at work without what it has lost, or came to its end by that since then.

    What had ended, or was stopped, before misses nothing. `since` is on the engine's clock.
    """
    return one.state in (*ALIVE, "restarting") or (
        one.state == "exited" and one.exit_code != 0 and one.finished >= since
    )
