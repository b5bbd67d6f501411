"""What `docker inspect` and `docker events` say, as plain values."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from rbuild.docker.inspected import LABEL, answer, container, ends, image, signals


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


NAMES = {"Id": "i", "RepoTags": ["r.example/x:1", "y:1"],
         "RepoDigests": ["r.example/x@sha256:0", "y@sha256:0"]}  # fmt: skip
PULLED = {"Identity": {"Pull": [{"Repository": "docker.io/library/y"}]}}


@pytest.mark.parametrize(
    ("data", "containerd", "known"),
    [
        ({}, False, [True, True, False]),
        # Every name has a digest there; labels are inherited, and dates tell nothing.
        ({}, True, [None, None, None]),
        ({"Config": {"Labels": {f"{LABEL}project": "site"}}}, True, [None, None, None]),
        (PULLED, True, [None, True, None]),
        # What was built may have been pushed since.
        ({"Identity": {"Build": [{"Ref": "abc"}]}}, True, [None, None, None]),
    ],
)
def test_whether_an_image_came_from_a_registry(
    data: dict[str, Any], containerd: bool, known: list[bool | None]
) -> None:
    found = image({**NAMES, **data}, containerd_store=containerd)
    assert [found.is_from_registry(name) for name in ("r.example/x:2", "y", "z")] == known


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("manifest unknown", "absent"),
        ("manifest for r.example/x:1 not found: manifest unknown: manifest unknown", "absent"),
        ('failed to resolve reference "r.example/x:1": r.example/x:1: not found', "absent"),
        ("pull access denied for x, repository does not exist or may require 'docker login': "
         "denied: requested access to the resource is denied", "denied"),
        ('Head "http://r.example/v2/x/manifests/1": no basic auth credentials', "denied"),
        ("unauthorized: authentication required", "denied"),
        ('failed to resolve reference "r.example/x:1": pull access denied, repository does not '
         "exist or may require authorization: authorization failed: no basic auth credentials",
         "denied"),
        ("unexpected status from HEAD request to http://r.example/v2/x/manifests/1: "
         "401 Unauthorized", "denied"),
        ('Get "https://registry-1.docker.io/v2/": dial tcp: lookup registry-1.docker.io on '
         "10.0.0.53:53: no such host", "silent"),
        ('failed to do request: Head "https://r.example/v2/x/manifests/1": dial tcp 127.0.0.1:443: '
         "connect: connection refused", "silent"),
        ("toomanyrequests: You have reached your pull rate limit", ""),
        ("failed to register layer: permission denied", ""),
        ("1: Pulling from x\nno matching manifest for linux/amd64", ""),
        ("1: Pulling from x\nGet https://cdn.example: dial tcp: no such host", ""),
        ('exec: "docker-credential-x": executable file not found in $PATH', ""),
        ("no match for platform in manifest: not found", ""),
        ("failed open: content at https://r/v2/x/blobs/sha256:0f not found: not found", ""),
        ("error parsing HTTP 404 response body: invalid character '<'", ""),
    ],
)  # fmt: skip
def test_what_a_failed_pull_says(text: str, expected: str) -> None:
    assert answer(f"Error response from daemon: {text}\n") == expected
