"""What `docker inspect` and `docker events` say, as plain values."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from rbuild.docker.inspected import LABEL, container, ends, signals


def event(action: str, box: str = "a", project: str = "site", **more: Any) -> dict[str, Any]:
    about = {f"{LABEL}project": project, **more}
    return {"Type": "container", "Action": action, "Actor": {"ID": box, "Attributes": about}}


def test_signals_since_the_last_start() -> None:
    events = [
        event("kill", "a", signal="15"), event("die", "a"), event("start", "a"),
        event("kill", "b", signal="1"), event("exec_create: true", "b"),
        event("kill", "b", signal="15"),
        event("kill", "c", "other", signal="15"),
        event("kill", "d", signal="15", **{f"{LABEL}oneoff": "True"}),
        {"Type": "image", "Action": "tag", "Actor": {"ID": "a"}},
    ]  # fmt: skip
    assert signals(events, "site") == {"b": {1, 15}}


@pytest.mark.parametrize(
    ("own", "sent", "told"),
    [
        ("", "15", True), ("", "9", True), ("", "1", False), ("", "28", False), ("", "", True),
        ("SIGWINCH", "28", True), ("WINCH", "28", True), ("28", "28", True),
        ("SIGUSR1", "1", False),
        ("RTMIN+3", str(signal.SIGRTMIN + 3), True), ("nonsense", "15", True),
    ],
)  # fmt: skip
def test_which_signal_is_the_end(own: str, sent: str, told: bool) -> None:
    found = signals([event("kill", "a", signal=sent)], "site")
    assert ends({"Config": {"StopSignal": own}}, found["a"]) is told
    assert ends({"Config": {}}, {15})


@pytest.mark.parametrize(("project", "replaces"), [("site", "0123456789ab"), ("0123456789ab", "")])
def test_what_a_recreate_left_is_told_by_its_name(project: str, replaces: str) -> None:
    labels = {f"{LABEL}project": project, f"{LABEL}replace": "x"}
    found = container({
        "Id": "1", "Name": "/0123456789ab_web_1", "Image": "i", "State": {"Status": "created"},
        "Config": {"Image": "i", "Labels": labels}, "HostConfig": {},
    })  # fmt: skip
    assert found.replaces == replaces
