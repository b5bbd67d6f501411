"""Which mounted files are data: by place, by content, and by what they do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from rbuild.compose.data import (
    GROWS,
    LARGEST,
    WRITTEN,
    Changed,
    Look,
    is_configuration,
    pieces,
    weigh,
)
from rbuild.compose.fingerprint import is_writable, writable_files
from rbuild.state.record import keyed_digest

KEY = "11" * 16


# What it is


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("auth.log", "/x"), ("auth.log.1", "/x"), ("AUTH.LOG", "/x"), ("a.log-20261101", "/x"),
        ("a.log.2.old", "/x"), ("a", "/var/log/messages"), ("a", "/logs/x.log"),
    ],
)  # fmt: skip
def test_logs(tmp_path: Path, name: str, target: str) -> None:
    (tmp_path / name).write_text("text\n")
    assert not is_configuration(str(tmp_path / name), ["/other", target], read_only=True)


@pytest.mark.parametrize(
    ("name", "target"),
    [("log.conf", "/x"), ("catalog", "/x"), ("a.logrotate", "/x"), ("a.log.conf", "/x"),
     ("a", "/var/logs/x")],
)  # fmt: skip
def test_no_logs(tmp_path: Path, name: str, target: str) -> None:
    (tmp_path / name).write_text("text\n")
    assert is_configuration(str(tmp_path / name), [target], read_only=False)


def test_a_log_by_another_name(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("text\n")
    (tmp_path / "a").symlink_to("a.log")
    assert not is_configuration(str(tmp_path / "a"), ["/x"], read_only=True)


@pytest.mark.parametrize("path", ["/proc/uptime", "/proc/self/status", "/sys/kernel/uevent_seqnum"])
def test_what_the_kernel_makes_up(path: str) -> None:
    assert not is_configuration(path, ["/x"], read_only=True)


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize(
    ("content", "is_text"),
    [(b"", True), (b"x" * LARGEST, True), (b"x" * (LARGEST + 1), False),
     (b"x" * (LARGEST - 1) + b"\0", False)],
)  # fmt: skip
def test_bounds(tmp_path: Path, content: bytes, is_text: bool, read_only: bool) -> None:
    (tmp_path / "a").write_bytes(content)
    assert is_configuration(str(tmp_path / "a"), ["/x"], read_only=read_only) is is_text


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder", "absent"):
        assert not is_configuration(str(tmp_path / name), ["/x"], read_only=True)
    assert list(pieces(str(tmp_path / "pipe"))) == []
    assert list(pieces("/dev/zero")) == []
    with pytest.raises(IsADirectoryError):
        list(pieces(str(tmp_path / "folder")))


def test_a_file_is_read_in_pieces(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(256)) * 1000)
    found = list(pieces(str(tmp_path / "a")))
    assert b"".join(found) == bytes(range(256)) * 1000
    assert max(map(len, found)) <= 1 << 16
    assert b"".join(pieces(str(tmp_path / "a"), 70_000)) == (bytes(range(256)) * 1000)[:70_000]


# Who may write it


def test_who_may_write(tmp_path: Path) -> None:
    for name in ("own", "read", "folder/inside", "beside"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to("folder/inside")
    mounts = [
        {"type": "bind", "source": str(tmp_path / "own"), "target": "/own"},
        {"type": "bind", "source": str(tmp_path / "read"), "target": "/read", "read_only": True},
        {"type": "bind", "source": str(tmp_path / "folder"), "target": "/folder"},
        {"type": "volume", "source": "beside", "target": "/b"},
    ]
    config: dict[str, Any] = {"services": {"web": {"volumes": mounts}, "db": {}}}
    assert writable_files(config) == {str(tmp_path / "own")}
    found = {
        name: is_writable(config, str(tmp_path / name))
        for name in ("own", "read", "folder/inside", "link", "beside", "folder-not")
    }
    assert [name for name, may in found.items() if may] == ["own", "folder/inside", "link"]
    everything = {"type": "bind", "source": "/", "target": "/host"}
    assert is_writable({"services": {"web": {"volumes": [everything]}}}, "/any/file")


# What it does


def seen(path: Path, text: str | None = None) -> Look:
    """A file as it is now, its text written in place if there is one."""
    if text is not None:
        path.write_text(text)
    info = path.stat()
    return Look(info.st_size, info.st_ino, keyed_digest(KEY, path.read_bytes()))


def changed(path: Path, now: Look, before: Look | None, *, writable: bool) -> Changed:
    return Changed("name", str(path), now, before, writable)


@pytest.mark.parametrize(
    ("text", "writable", "why"),
    [
        ("one\ntwo\n", False, GROWS),
        ("one\ntwo\n", True, GROWS),
        ("another\n", False, ""),
        ("another\n", True, WRITTEN),
        ("", False, ""),
        ("", True, WRITTEN),
    ],
)
def test_what_may_be_data(tmp_path: Path, text: str, writable: bool, why: str) -> None:
    path = tmp_path / "a"
    before = seen(path, "one\n")
    now = seen(path, text)
    file = changed(path, now, before, writable=writable)
    data, suspects = weigh([file], {}, KEY)
    assert data == {}
    assert suspects == ({"name": {"times": 1, **now._asdict()}} if why else {})
    # It was tried as it is: that is not held against it.
    assert weigh([file], suspects, KEY) == ({}, suspects)
    # One that nobody has seen before tells nothing.
    assert weigh([changed(path, now, None, writable=writable)], {}, KEY) == ({}, {})
    most = {GROWS: 1, WRITTEN: 3}
    known = {"name": {"times": most[why] if why else 9, **before._asdict()}}
    assert weigh([file], known, KEY) == ({"name": why} if why else {}, {})


def test_a_file_in_the_place_of_another_is_no_data(tmp_path: Path) -> None:
    path = tmp_path / "a"
    before = seen(path, "one\n")
    (tmp_path / "new").write_text("one\ntwo\n")
    (tmp_path / "new").replace(path)
    known = {"name": {"times": 9, **before._asdict()}}
    file = changed(path, seen(path), before, writable=True)
    assert weigh([file], known, KEY) == ({}, {})
    # Unless containers may have put it there.
    assert weigh([file._replace(replaceable=True)], known, KEY) == ({"name": WRITTEN}, {})
