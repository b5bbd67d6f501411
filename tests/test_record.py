"""Records on disk: whole or not at all, private, and told apart from what is no record."""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rbuild.errors import StateError
from rbuild.state import record
from rbuild.state.record import VERSION, Damaged, Record, Store, default_root, keyed_digest, stamp

WHOLE: dict[str, Any] = {
    "name": "site", "home": "/srv/site", "built": "2026-11-01T03:00:00.000Z",
    "finished": "2026-11-01T03:01:00.000Z", "files": ["/srv/site/compose.yml"], "key": "00ff",
    "digests": {"configuration": "aa"}, "provided": ["HOME"],
    "data": {"/srv/site/app.log": ["nature", "ee"]},
    "suspects": {"/srv/site/app.conf": {"times": 1, "size": 9, "inode": 7, "digest": "ff"}},
    "views": {"/srv/site": {"paths": {"/srv/site/.env": None, "/srv/site/x": [1, 2, 3]},
                            "variables": {"HOME": "aa", "X": None},
                            "settings": {"build-period": [5, "x"]}}},
    "services": {"web": {"reference": "web", "image": "sha256:1", "scale": 1, "ended": None,
                         "state": "running", "content": {"references": "aa"}}},
    "builds": ["docker.io/library/web:latest"], "bases": [],
    "rests": {"base": {"docker.io/library/debian:12": ["sha256:2", "sha256:d2"]}, "image": {}},
    "makes": {"docker.io/library/web:latest": "sha256:1"},
    "contexts": {"web": ["/srv/site", "/srv/site/Dockerfile", "dd"]},
    "commit": "ab" * 20, "forwarded": "cd" * 20,
    "superseded": [], "configuration": "bb", "content": {"/srv/site/a": "dd-600-0-0"},
    "taken": 5_000_000_000, "untidy": False,
    "failed": {"inputs": "cc", "bases": {"docker.io/library/debian:12": "sha256:2"},
               "digests": {"docker.io/library/debian:12": ["sha256:2"]}, "commit": "",
               "kind": "touched", "tries": 2, "when": "2026-11-02T03:00:00.000Z",
               "next": "2026-11-03T03:00:00.000Z", "message": "m", "log": "/l"},
    "held": {"inputs": "", "bases": {}, "digests": {}, "commit": "ab" * 20, "kind": "untouched",
             "tries": 1, "when": "2026-11-02T03:00:00.000Z", "next": "", "message": "m", "log": ""},
    "underway": {"since": "2026-11-02T03:00:00.000Z", "step": "y",
                 "generation": "20261102T030000Z", "touched": True,
                 "going": "back", "error": "e", "lost": 1, "resumed": True, "inputs": "cc",
                 "built": {"web": "sha256:3"}, "services": ["web"], "after": ["id"],
                 "names": {"web": "sha256:1"}, "stopped": [], "scales": {"web": 2},
                 "failing": [], "superseded": []},
}  # fmt: skip
# Fields that a version brought, which the ones before it did not have.
NEW_IN_5: dict[str, Any] = {"data": {}, "suspects": {}}
NEW_IN_4: dict[str, Any] = {"content": {}}
NEW_IN_3 = {"rests": {}, "makes": {}, "contexts": {}, "commit": "", "forwarded": "", "held": None}
NEW_IN_2 = {"configuration": "", "taken": 0, "untidy": False, "failed": None}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def put(folder: Path, content: bytes) -> None:
    (folder / "record.json").write_bytes(content)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_written_is_read(folder: Path) -> None:
    record.write(str(folder), Record(**WHOLE))
    found = record.read(str(folder))
    assert found
    assert vars(found) == WHOLE
    assert json.loads((folder / "record.json").read_bytes())["version"] == VERSION


def test_every_field_is_covered_above() -> None:
    assert set(WHOLE) == set(vars(Record("", "")))


@pytest.mark.parametrize(
    ("version", "newer"),
    [
        (1, NEW_IN_2 | NEW_IN_3 | NEW_IN_4 | NEW_IN_5),
        (2, NEW_IN_3 | NEW_IN_4 | NEW_IN_5),
        (3, NEW_IN_4 | NEW_IN_5),
        (4, NEW_IN_5),
    ],
)
def test_an_older_record_is_read_and_becomes_one_of_today(
    folder: Path, version: int, newer: dict[str, Any]
) -> None:
    old = {name: value for name, value in WHOLE.items() if name not in newer}
    old["underway"] = {"since": "2026-11-01T03:00:00.000Z", "step": "start", "touched": False,
                       "generation": "20261101T030000Z", "stopped": [], "scales": {},
                       "names": {}, "failing": [], "superseded": []}  # fmt: skip
    # It had what is no more.
    put(folder, json.dumps({"version": version, "local": ["sha256:0"], **old}).encode())
    found = record.read(str(folder))
    assert found
    expected = {**old, **newer}
    assert vars(found) == expected
    record.write(str(folder), found)
    again = record.read(str(folder))
    assert again
    assert vars(again) == expected
    assert json.loads((folder / "record.json").read_bytes())["version"] == VERSION


def test_no_record(folder: Path) -> None:
    assert record.read(str(folder)) is None
    assert record.read(str(folder / "nowhere")) is None


def test_a_record_is_private_whatever_the_umask(folder: Path) -> None:
    before = os.umask(0)
    try:
        record.write(str(folder), Record(**WHOLE))
    finally:
        os.umask(before)
    assert mode(folder / "record.json") == 0o600
    assert os.listdir(folder) == ["record.json"]


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_record(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    record.write(str(folder), Record("old", "/old"))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if call == "write":
        monkeypatch.setattr(record.os, "fsync", lambda _: os.write(_full_disk(), b"x"))
    else:
        monkeypatch.setattr(record.os, call, full)
    with pytest.raises(StateError, match="No space left") as caught:
        record.write(str(folder), Record("new", "/new"))
    monkeypatch.undo()
    assert "free some space" in caught.value.hint
    found = record.read(str(folder))
    assert found
    assert found.name == "old"
    assert os.listdir(folder) == ["record.json"]


def _full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def test_a_crash_before_the_rename_leaves_the_old_record(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record.write(str(folder), Record("old", "/old"))
    seen: list[str] = []

    class Crash(BaseException):
        pass

    def crash(new: str, path: str) -> None:
        seen.append(json.loads(Path(new).read_text())["name"])
        raise Crash

    monkeypatch.setattr(record.os, "replace", crash)
    with pytest.raises(Crash):
        record.write(str(folder), Record("new", "/new"))
    monkeypatch.undo()
    # The new one was complete beside the old one; what it left is overwritten next time.
    assert seen == ["new"]
    found = record.read(str(folder))
    assert found
    assert found.name == "old"
    record.write(str(folder), Record("newer", "/new"))
    assert os.listdir(folder) == ["record.json"]


def test_a_link_in_the_way_is_not_followed(folder: Path) -> None:
    victim = folder / "victim"
    victim.write_text("precious")
    (folder / "record.json.new").symlink_to(victim)
    with pytest.raises(StateError):
        record.write(str(folder), Record(**WHOLE))
    assert victim.read_text() == "precious"


def test_a_folder_that_is_not_there(folder: Path) -> None:
    with pytest.raises(StateError, match="cannot keep state here"):
        record.write(str(folder / "nowhere"), Record(**WHOLE))


def test_a_record_of_a_newer_version_is_refused(folder: Path) -> None:
    put(folder, json.dumps({"version": VERSION + 1, "whatever": 1}).encode())
    with pytest.raises(StateError, match="written by a newer rbuild") as caught:
        record.read(str(folder))
    assert not isinstance(caught.value, Damaged)
    assert "upgrade rbuild" in caught.value.hint


def test_a_record_that_cannot_be_read_is_not_called_damaged(folder: Path) -> None:
    (folder / "record.json").mkdir()
    with pytest.raises(StateError) as caught:
        record.read(str(folder))
    assert not isinstance(caught.value, Damaged)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\0" * 100, b"{", b"[]", b"1", b"null", b"{}", b'"version"', b"\xff\xfe",
        b'{"version": 1}', b"[" * 100_000, b'{"a":' * 100_000,
        b'{"version": 1, "name": "x", "home": "y", "built": "yesterday"}',
        b'{"version": 1, "name": "x", "home": "y", "surprise": 1}',
    ],
)  # fmt: skip
def test_what_is_no_record_is_damaged(folder: Path, content: bytes) -> None:
    put(folder, content)
    with pytest.raises(Damaged, match=r"record\.json"):
        record.read(str(folder))


@pytest.mark.parametrize("cut", [1, 40, 300, -1])
def test_half_a_record_is_damaged(folder: Path, cut: int) -> None:
    record.write(str(folder), Record(**WHOLE))
    put(folder, (folder / "record.json").read_bytes()[:cut])
    with pytest.raises(Damaged):
        record.read(str(folder))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.binary() | values.map(lambda value: json.dumps(value).encode()))
@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_a_record_or_a_state_error(folder: Path, content: bytes) -> None:
    put(folder, content)
    try:
        assert record.read(str(folder)) is None
    except StateError:
        return


@given(name=st.sampled_from([*WHOLE, "version"]), value=values)
@example("built", "0001-01-01T00:00:00")
@example("built", "9999-12-31T23:59:59-23:00")
@example("key", "zz")
@example("key", "0" * 1000)
@example("views", {"/srv/site": 5})
@example("views", {"/srv/site": {"paths": [], "variables": {}, "settings": {}}})
@example("views", {"/srv/site": {"paths": {}, "variables": {}, "settings": {"build-period": 1}}})
@example(
    "views", {"/srv/site": {"paths": {}, "variables": {}, "settings": {"build-period": ["1", ""]}}}
)
@example("services", {"web": None})
@example("services", {"web": {"scale": 1, "content": []}})
@example("data", {"/srv/site/x": "grows"})
@example("data", {"/srv/site/x": ["grows"]})
@example("data", {"/srv/site/x": ["strange", "aa"]})
@example("suspects", {"/srv/site/x": 1})
@example("suspects", {"/srv/site/x": {"times": "1", "size": 1, "inode": 1, "digest": ""}})
@example("services", {"web": {"scale": "many"}})
@example("services", {"web": {"scale": 1, "reference": [5]}})
@example("services", {"web": {"scale": 1, "image": None}})
@example("underway", {"scales": 1, "stopped": 5})
@example("underway", {"names": [], "generation": 5})
@example("underway", {"failing": [1]})
@example("underway", {"built": {"web": 1}})
@example("underway", {"built": ["web"]})
@example("underway", {"lost": "often"})
@example("underway", {"going": 1})
@example("underway", {"since": None, "error": None})
@example("underway", {"touched": True})
@example("underway", {"touched": True, "since": "x"})
@example("underway", {"touched": True, "since": "0001-01-01"})
@example("underway", {"touched": True, "since": "2026-11-01T03:00:00.000Z", "up": "x"})
@example("underway", {"services": 5, "after": [None]})
@example("taken", "much")
@example("untidy", 1)
@example("configuration", None)
@example("failed", {})
@example("failed", {**WHOLE["failed"], "tries": "2"})
@example("failed", {**WHOLE["failed"], "bases": ["x"]})
@example("failed", {**WHOLE["failed"], "bases": {"x": None}})
@example("failed", {**WHOLE["failed"], "next": "tomorrow"})
@example("failed", {**WHOLE["failed"], "when": ""})
@example("failed", {**WHOLE["failed"], "when": "2026-11-02T03:00:00.000Z", "next": "0001-01-01"})
@example("failed", {**WHOLE["failed"], "kind": "left", "next": ""})
@example("failed", {**WHOLE["failed"], "kind": "strange"})
@example("files", [1])
@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_record_with_any_wrong_part_is_damaged_or_can_be_used(
    folder: Path, name: str, value: Any
) -> None:
    put(folder, json.dumps({"version": 1, **WHOLE, name: value}).encode())
    try:
        found = record.read(str(folder))
    except StateError:
        return
    assert found
    use(found)


def use(found: Record) -> None:
    """What the rest of rbuild does with a record that `read` has let pass."""
    from rbuild.compose.fingerprint import changes, differences
    from rbuild.decisions.staleness import decide
    from rbuild.rollbacks import rescue
    from rbuild.settings import from_json, resolve
    from rbuild.state import failure

    stamp(found.built_at)
    for view in found.views.values():
        suspects = differences(view, {"HOME": "/root", "X": ""}, found.key)
        changes(found.digests, {"configuration": "x"}, suspects)
        period = resolve(from_json(view["settings"])).build_period
        decision = decide(found, suspects, build_period=period, forced=False, now=time.time())
        stamp(decision.due)
    for one in found.services.values():
        assert isinstance(one["scale"], int)
        assert isinstance(one.get("reference", ""), str)
        assert isinstance(one.get("image", ""), str)
        assert one["ended"] is None or isinstance(one["ended"], int)
    underway = found.underway or {}
    assert all(isinstance(one, str) for one in underway.get("stopped") or ())
    assert all(isinstance(one, str) for one in underway.get("failing") or ())
    assert all(isinstance(one, int) for one in (underway.get("scales") or {}).values())
    assert all(isinstance(one, str) for one in (underway.get("names") or {}).values())
    assert isinstance(underway.get("generation", ""), str)
    if rescue.is_torn(found):
        failure.moment(underway["since"])
    for name in ("since", "step", "inputs", "error", "going"):
        assert isinstance(underway.get(name, ""), str)
    for name in ("superseded", "services", "after"):
        assert all(isinstance(one, str) for one in underway.get(name) or ())
    assert all(isinstance(one, str) for one in (underway.get("built") or {}).values())
    assert underway.get("lost", 0) < 3 or underway["lost"] >= 3
    assert isinstance(found.taken + 0.25, float)
    if found.failed:
        inputs, bases = found.failed["inputs"], found.failed["bases"]
        failure.waiting(found.failed, inputs=inputs, bases=bases, now=time.time())
        failure.failed(found.failed, inputs=inputs, bases=bases, kind=failure.TOUCHED,
                       message="", log="", now=time.time(), build_period=5)  # fmt: skip
        stamp(failure.next_try(found.failed))
    for names in (found.files, found.builds, found.bases, found.superseded, found.provided):
        assert all(isinstance(one, str) for one in names)


def test_a_damaged_record_is_set_aside(folder: Path) -> None:
    put(folder, b"garbage")
    aside = record.set_aside(str(folder), 1_700_000_000)
    assert Path(aside).read_bytes() == b"garbage"
    assert record.read(str(folder)) is None


# Times


@pytest.mark.parametrize(
    ("when", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_700_000_000.1239, "2023-11-14T22:13:20.123Z"),
        (1e15, "9999-12-31T23:59:59.000Z"),
    ],
)
def test_stamps(when: float, text: str) -> None:
    assert stamp(when) == text


@given(st.integers(0, 4_000_000_000_000))
def test_a_stamp_keeps_the_millisecond(milliseconds: int) -> None:
    when = milliseconds / 1000
    assert abs(Record("", "", stamp(when)).built_at - when) < 0.0011


def test_a_project_never_updated_was_built_at_the_beginning() -> None:
    assert Record("", "").built_at == 0


# The store


def test_a_state_folder_is_found_from_the_project_s_folder_alone(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "state"))
    assert store.folders("/srv/a") == []
    one, two = store.path("a", "/srv/a"), store.path("b", "/srv/b")
    store.make(one)
    store.make(two)
    same_folder = store.path("other-name", "/srv/a")
    store.make(same_folder)
    assert store.folders("/srv/a") == sorted([one, same_folder])
    assert store.folders("/srv/b") == [two]
    assert sorted(store.all()) == sorted([one, two, same_folder])
    assert Store(store.root).folders("/srv/b") == [two]


def test_one_name_in_two_folders_are_two_state_folders() -> None:
    store = Store("/state")
    assert store.path("site", "/a/site") != store.path("site", "/b/site")


def test_state_folders_are_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = Store(str(tmp_path / "deep" / "state"))
        store.make(store.path("a", "/a"))
    finally:
        os.umask(before)
    for path in (tmp_path / "deep/state", tmp_path / "deep/state/projects", Path(store.all()[0])):
        assert mode(path) == 0o700


def test_a_state_folder_that_was_given_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    store = Store(str(tmp_path))
    store.make(store.path("a", "/a"))
    assert mode(tmp_path) == 0o755
    assert mode(tmp_path / "projects") == 0o700


def test_a_file_in_the_state_folder_s_place(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    store = Store(str(tmp_path / "state"))
    with pytest.raises(StateError, match="cannot keep state here"):
        store.make(store.path("a", "/a"))
    with pytest.raises(StateError):
        store.folders("/a")


def test_a_home_that_is_no_text(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    home = os.fsdecode(b"/srv/\xff")
    store.make(store.path("a", home))
    assert store.folders(home) == [store.path("a", home)]


@pytest.mark.parametrize(
    ("environ", "root"),
    [
        ({"RBUILD_STATE_DIR": "/r", "STATE_DIRECTORY": "/s", "XDG_STATE_HOME": "/x"}, "/r"),
        ({"STATE_DIRECTORY": "/s:/t", "XDG_STATE_HOME": "/x"}, "/s"),
        ({"RBUILD_STATE_DIR": "", "XDG_STATE_HOME": "/x"}, "/x/rbuild"),
        ({}, "/home/me/.local/state/rbuild"),
    ],
)
def test_where_state_lives(
    environ: dict[str, str], root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/me")
    assert default_root(environ) == root


def test_where_state_of_root_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_root({"XDG_STATE_HOME": "/x"}) == "/var/lib/rbuild"


def test_a_digest_needs_the_key() -> None:
    assert keyed_digest("00", b"x") == keyed_digest("00", b"x")
    assert keyed_digest("00", b"x") != keyed_digest("01", b"x")
    assert keyed_digest("00", b"x") != keyed_digest("00", b"y")
