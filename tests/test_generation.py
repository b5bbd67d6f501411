"""Generations on disk: read as they were written, private, and none from half a file."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rbuild.docker.engine import Container
from rbuild.errors import StateError
from rbuild.state import generation, record
from rbuild.state.generation import Generation, Kept

OLD, MID, NEW = "20260101T000000Z", "20260601T000000Z", "20261101T000000Z"
WHOLE = Generation(
    stamp=MID,
    services={
        "web": Kept("sha256:1", f"rbuild/site/web:{MID}", "site-web", ("a", "b"), ("c",), "", True),
        "db": Kept("sha256:2", f"rbuild/site/db:{MID}", "postgres:16", left="manual"),
    },
    names={"site-web": "sha256:1", "postgres:16": "sha256:2"},
    past={"digests": {"configuration": "aa"}, "built": "2026-06-01T00:00:00.000Z"},
    configured=("web",),
)
CONFIGURATION: dict[str, Any] = {
    "name": "site",
    "services": {"web": {"image": "x", "command": ["sh", "-c", "echo $HOME $$ $${A}"],
                         "environment": {"PRICE": "5$", "N": 5, "YES": True, "NO": None}}},
    "networks": {"default": {"name": "site_default", "x-$y": "$"}},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path)


def keep(folder: str, *stamps: str) -> None:
    for one in stamps:
        generation.write(folder, Generation(one, WHOLE.services, {}), CONFIGURATION)


def found(folder: str) -> list[str]:
    return sorted(os.listdir(os.path.join(folder, "generations")))


# As they were written


def test_what_is_written_is_read(folder: str) -> None:
    generation.write(folder, WHOLE, CONFIGURATION)
    assert generation.read(folder, MID) == WHOLE
    where = generation.configuration_path(folder, MID)
    source, digest = generation.read_configuration(where)
    assert source == CONFIGURATION
    assert digest == generation.digest(CONFIGURATION)
    assert WHOLE.containers == {"a", "b", "c"}
    assert WHOLE.ran
    assert not Generation(MID, {"db": WHOLE.services["db"]}, {}).ran


def test_it_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        generation.write(str(tmp_path), WHOLE, CONFIGURATION)
    finally:
        os.umask(before)
    home = tmp_path / "generations"
    modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in (home, *home.iterdir())}
    assert modes == {"generations": 0o700, f"{MID}.json": 0o600, f"{MID}.compose.json": 0o600}


def test_a_generation_without_a_configuration(folder: str) -> None:
    generation.write(folder, WHOLE, None)
    assert generation.read(folder, MID) == WHOLE
    path = generation.configuration_path(folder, MID)
    assert generation.read_configuration(path) == (None, "")


def test_dollars_are_doubled_on_disk_as_compose_has_it(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    digest = generation.write_configuration(str(path), CONFIGURATION)
    written = json.loads(path.read_text())["services"]["web"]
    assert written["command"][2] == "echo $$HOME $$$$ $$$${A}"
    assert written["environment"] == {"PRICE": "5$$", "N": 5, "YES": True, "NO": None}
    assert digest == generation.digest(CONFIGURATION)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("a$\u00e9 ", max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("a$", max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


service = st.dictionaries(st.text("a$\u00e9", max_size=3), plain, max_size=3)


@given(st.dictionaries(st.text("web$-", max_size=4), service, max_size=3))
@hypothesis_settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_configuration_comes_back_as_it_was(folder: str, services: dict[str, Any]) -> None:
    path = os.path.join(folder, "x.json")
    digest = generation.write_configuration(path, {"services": services})
    assert generation.read_configuration(path) == ({"services": services}, digest)


# What is no generation


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"5", b"{}", b'{"services": 5}', b'{"services": {"web": 5}}',
        b"\xff", b'{"services": {}, "surprise": 1}',
        b'{"services": {"web": {"up": [], "rest": []}}}',
    ],
)  # fmt: skip
def test_what_is_no_generation_is_none(tmp_path: Path, content: bytes) -> None:
    keep(str(tmp_path), MID)
    (tmp_path / "generations" / f"{MID}.json").write_bytes(content)
    assert generation.read(str(tmp_path), MID) is None


@pytest.mark.parametrize("cut", [0, 1, 50, -1])
def test_half_a_file_is_none(tmp_path: Path, cut: int) -> None:
    generation.write(str(tmp_path), WHOLE, CONFIGURATION)
    for name in (f"{MID}.json", f"{MID}.compose.json"):
        path = tmp_path / "generations" / name
        path.write_bytes(path.read_bytes()[:cut])
    assert generation.read(str(tmp_path), MID) is None
    path = generation.configuration_path(str(tmp_path), MID)
    assert generation.read_configuration(path) == (None, "")


@pytest.mark.parametrize("content", ["[]", "5", "{}", '{"services": []}', '{"services": null}'])
def test_what_is_no_configuration(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    assert generation.read_configuration(str(tmp_path / "x.json")) == (None, "")


def test_what_is_not_there(folder: str) -> None:
    assert generation.read(folder, MID) is None
    assert generation.stamps(folder) == []
    generation.keep_only(folder, [])
    generation.forget(folder, MID)


def test_a_full_disk_leaves_no_half_generation(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(folder, OLD)
    real = record.write_private

    fails = ""

    def full(path: str, text: str) -> None:
        if path == fails:
            raise StateError("no space left")
        real(path, text)

    monkeypatch.setattr(record, "write_private", full)
    # Its configuration comes first: what is listed is whole.
    for path in (generation.configuration_path, generation.path):
        fails = path(folder, MID)
        with pytest.raises(StateError):
            generation.write(folder, WHOLE, CONFIGURATION)
        assert generation.stamps(folder) == [OLD]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "generations").write_text("")
    with pytest.raises(StateError, match="cannot keep state here"):
        generation.write(str(tmp_path), WHOLE, None)


# Which there are, and which go


def test_the_newest_comes_first_and_nothing_else_counts(tmp_path: Path) -> None:
    keep(str(tmp_path), MID, OLD, NEW)
    home = tmp_path / "generations"
    for name in ("notes.json", f"{OLD}.txt", "20260101.json", f"{OLD}.json.new", "x.compose.json"):
        (home / name).write_text("{}")
    # Half of one: its configuration alone.
    (home / "20270101T000000Z.compose.json").write_text("{}")
    assert generation.stamps(str(tmp_path)) == [NEW, MID, OLD]


def test_only_those_to_keep_stay(tmp_path: Path) -> None:
    keep(str(tmp_path), OLD, MID, NEW)
    home = tmp_path / "generations"
    (home / f"{NEW}.json.new").write_text("half")
    (home / "20270101T000000Z.compose.json").write_text("{}")
    generation.keep_only(str(tmp_path), [NEW, OLD, ""])
    assert found(str(tmp_path)) == [
        f"{OLD}.compose.json", f"{OLD}.json", f"{NEW}.compose.json", f"{NEW}.json"
    ]  # fmt: skip
    generation.keep_only(str(tmp_path), [])
    assert found(str(tmp_path)) == []


def test_one_is_forgotten_with_its_configuration(folder: str) -> None:
    keep(folder, OLD, NEW)
    generation.forget(folder, OLD)
    assert found(folder) == [f"{NEW}.compose.json", f"{NEW}.json"]


# One configuration of several


def test_each_service_comes_from_where_it_was_started() -> None:
    now = {
        "name": "site",
        "services": {"web": {"image": "web:2"}, "db": {"image": "db:2"}, "new": {"image": "n"}},
        "volumes": {"data": {"name": "now"}, "more": {"name": "more"}},
        "x-rbuild": {"keep-images": 5},
    }
    before = {
        "name": "site-before",
        "services": {"web": {"image": "web:1"}, "db": {"image": "db:1"}},
        "volumes": {"data": {"name": "before"}},
        "networks": {"default": {"name": "net"}},
    }
    assert generation.merge([(before, ["db"]), (now, ["web"]), (now, [])]) == {
        "name": "site-before",
        "services": {"db": {"image": "db:1"}, "web": {"image": "web:2"}, "new": {"image": "n"}},
        "volumes": {"data": {"name": "before"}, "more": {"name": "more"}},
        "networks": {"default": {"name": "net"}},
        "x-rbuild": {"keep-images": 5},
    }
    # Two that give the same: the first one wins.
    both = generation.merge([(before, ["db"]), (now, ["db"])])
    assert both
    assert both["services"]["db"] == {"image": "db:1"}
    # What others depend on is there, though it gives nothing itself.
    assert both["services"]["web"] == {"image": "web:1"}
    assert now["services"] == {"web": {"image": "web:2"}, "db": {"image": "db:2"},
                               "new": {"image": "n"}}  # fmt: skip


def test_of_nothing_comes_nothing() -> None:
    assert generation.merge([]) is None
    assert generation.merge([({"services": {"web": {}}}, [])]) is None


# Whose containers


def test_what_a_way_back_made_counts_as_made_from_the_project_s_files() -> None:
    def made_from(*files: str) -> Container:
        return Container("id", "n", "web", "i", "web", "running", config_files=files)

    folder = "/var/lib/rbuild/projects/site-0123456789"
    boxes = [
        made_from(f"{folder}/generations/{OLD}.compose.json"),
        made_from("/srv/site/compose.yml"),
        # By another user's rbuild, whose state lies elsewhere.
        made_from(f"/home/me/state/projects/site-0123456789/generations/{OLD}.compose.json"),
        # Of another project, or something that only looks like it.
        made_from(f"/var/lib/rbuild/projects/other-0123456789/generations/{OLD}.compose.json"),
        made_from("/srv/site-0123456789/compose.yml"),
        made_from(f"/srv/my-site-0123456789/generations/{OLD}.compose.json"),
        made_from(),
    ]
    files = ["/srv/site/a.yml", "/srv/site/b.yml"]
    changed = [one.config_files == tuple(files) for one in generation.ours(boxes, folder, files)]
    assert changed == [True, False, True, False, False, False, False]


# A file for a moment


def test_a_scratch_file_is_gone_when_it_is_no_longer_needed(tmp_path: Path) -> None:
    path = generation.scratch(str(tmp_path), CONFIGURATION)
    assert generation.read_configuration(path)[0] == CONFIGURATION
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    generation.remove_scratch(str(tmp_path))
    generation.remove_scratch(str(tmp_path))
    assert os.listdir(tmp_path) == []
