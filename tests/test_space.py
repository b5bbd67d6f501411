"""Room for an update: where it is measured, what counts as too little, how it is said."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbuild.docker.engine import EngineInfo
from rbuild.errors import SpaceError
from rbuild.updates import space


def info(root: Path | str, *, here: bool = True, containerd: bool = False) -> EngineInfo:
    return EngineInfo("26", 0.0, containerd, "linux/amd64", here=here, root=str(root))


# Where


def test_the_engine_s_own_folder(tmp_path: Path) -> None:
    (tmp_path / "containerd").mkdir()
    assert space.place(info(tmp_path)) == str(tmp_path)


def test_with_the_containerd_store_it_is_containerd_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, own = tmp_path / "machine", tmp_path / "docker" / "containerd"
    (tmp_path / "docker").mkdir()
    monkeypatch.setattr(space, "_CONTAINERD", str(machine))
    engine = info(tmp_path / "docker", containerd=True)
    assert space.place(engine) == str(tmp_path / "docker")
    machine.mkdir()
    assert space.place(engine) == str(machine)
    own.mkdir()
    assert space.place(engine) == str(own)


@pytest.mark.parametrize("why", ["elsewhere", "silent", "no such folder"])
def test_an_engine_whose_disk_is_not_ours_to_see(tmp_path: Path, why: str) -> None:
    engine = info(
        {"silent": "", "no such folder": tmp_path / "gone"}.get(why, tmp_path),
        here=why != "elsewhere",
    )
    assert space.place(engine) == ""
    assert space.free(engine) is None


# How much


def test_what_is_free_is_what_the_file_system_says(tmp_path: Path) -> None:
    found = space.free(info(tmp_path))
    told = os.statvfs(tmp_path)
    assert found is not None
    # Others write at the same time.
    assert abs(found - told.f_bavail * told.f_frsize) < 1 << 30


@pytest.mark.parametrize("blocks", [0, 100])
def test_a_file_system_without_a_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int
) -> None:
    told = SimpleNamespace(f_blocks=blocks, f_bavail=3, f_bfree=5, f_frsize=512, f_bsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda _: told)
    assert space.free(info(tmp_path)) == (1536 if blocks else None)


def test_one_that_cannot_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "statvfs", fail)
    assert space.free(info(tmp_path)) is None


@pytest.mark.parametrize(
    ("before", "after", "took"),
    [(1000, 400, 600), (400, 1000, 0), (5, 5, 0), (None, 4, 0), (4, None, 0), (None, None, 0)],
)
def test_what_an_update_took(before: int | None, after: int | None, took: int) -> None:
    assert space.taken(before, after) == took


# Enough?


@pytest.mark.parametrize(
    ("available", "last"),
    [(125, 100), (10**12, 100), (None, 10**12), (0, 0)],
)
def test_there_is_room(available: int | None, last: int) -> None:
    space.check(available, last, "/x")


@pytest.mark.parametrize(("available", "last"), [(124, 100), (0, 1), (10**9, 10**9)])
def test_there_is_no_room(available: int, last: int) -> None:
    with pytest.raises(SpaceError) as caught:
        space.check(available, last, "/x")
    assert caught.value.exit_code == 1


def test_what_is_said_of_it() -> None:
    with pytest.raises(SpaceError) as caught:
        space.check(1_900_000_000, 1_600_000_000, "/var/lib/docker")
    assert caught.value.message == (
        "too little space where the engine stores images (/var/lib/docker): 1.9 GB free; "
        "the last update took 1.6 GB, and with a quarter to spare that makes 2 GB"
    )
    for word in ("docker system df", "prune", "--force-rebuild"):
        assert word in caught.value.hint


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1536, "1.54 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (123_456_789, "123 MB"),
        (4_096_000_000, "4.1 GB"),
        (2_500_000_000_000, "2.5 TB"),
        (1234 * 10**12, "1,234 TB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert space.human(size) == text


@given(st.integers(0, 10**18))
def test_a_size_is_told_to_a_hundredth(size: int) -> None:
    number, unit = space.human(size).split()
    power = ["B", "kB", "MB", "GB", "TB"].index(unit)
    assert float(number.replace(",", "")) * 1000**power == pytest.approx(size, rel=0.01)
