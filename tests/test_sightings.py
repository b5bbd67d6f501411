"""What registries have said, across runs: what is kept, for how long, and what survives damage."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rbuild.decisions.moves import Sighting, compare, waiting_line
from rbuild.registries import sightings
from rbuild.registries.sightings import Memory, key, note, read, remember
from rbuild.settings import Given, resolve

NOW = 1_800_000_000.0
DAY = 86400
FILE = "registries.json"


def test_nothing_is_remembered_at_first(tmp_path: Path) -> None:
    assert read(str(tmp_path)) == read(str(tmp_path / "absent")) == Memory()


def test_what_is_remembered_is_read_again(tmp_path: Path) -> None:
    root = tmp_path / "new" / "state"
    new = {"a": Sighting("sha256:1", NOW - 9, NOW), "me b": Sighting("", 0.0, NOW, "timed out")}
    new["gone"] = Sighting("sha256:1", NOW - 9, NOW, "404", NOW - 5)
    remember(str(root), new, {"r.example": NOW + 60})
    assert read(str(root)) == Memory(new, {"r.example": NOW + 60})
    assert os.stat(root).st_mode & 0o777 == 0o700
    assert os.stat(root / FILE).st_mode & 0o777 == 0o600
    assert os.listdir(root) == [FILE]


def test_what_an_older_rbuild_remembered_is_read(tmp_path: Path) -> None:
    old = {"format": 1, "seen": {"a": ["sha256:1", NOW - 9, NOW, ""]}, "not_before": {}}
    (tmp_path / FILE).write_text(json.dumps(old))
    assert read(str(tmp_path)).seen == {"a": Sighting("sha256:1", NOW - 9, NOW)}


def test_runs_add_to_what_others_have_seen(tmp_path: Path) -> None:
    remember(str(tmp_path), {"a": Sighting("1", NOW, NOW)}, {"r": NOW + 60})
    remember(str(tmp_path), {"b": Sighting("2", NOW, NOW + 1)}, {"q": NOW + 90})
    remember(str(tmp_path), {"a": Sighting("3", NOW + 2, NOW + 2)}, {})
    found = read(str(tmp_path))
    assert {name: one.digest for name, one in found.seen.items()} == {"a": "3", "b": "2"}
    assert found.not_before == {"r": NOW + 60, "q": NOW + 90}


def test_runs_side_by_side_lose_nothing(tmp_path: Path) -> None:
    def add(number: int) -> None:
        remember(str(tmp_path), {str(number): Sighting("1", NOW, NOW)}, {})

    threads = [threading.Thread(target=add, args=(number,)) for number in range(20)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert read(str(tmp_path)).seen.keys() == {str(number) for number in range(20)}


def test_what_nobody_asks_for_is_forgotten(tmp_path: Path) -> None:
    remember(str(tmp_path), {"old": Sighting("1", NOW, NOW)}, {})
    remember(str(tmp_path), {"a": Sighting("1", NOW, NOW + 89 * DAY)}, {})
    assert read(str(tmp_path)).seen.keys() == {"old", "a"}
    remember(str(tmp_path), {"b": Sighting("1", NOW, NOW + 91 * DAY)}, {})
    assert read(str(tmp_path)).seen.keys() == {"a", "b"}


def test_a_registry_whose_time_has_come_is_forgotten(tmp_path: Path) -> None:
    remember(str(tmp_path), {"a": Sighting("1", NOW, NOW)}, {"r": NOW + 60})
    remember(str(tmp_path), {"a": Sighting("1", NOW, NOW + 61)}, {})
    assert read(str(tmp_path)).not_before == {}


def test_a_state_folder_that_cannot_be_written_costs_the_memory_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    remember(str(tmp_path / "file" / "below"), {"a": Sighting("1", NOW, NOW)}, {})
    remember(str(tmp_path), {"a": Sighting("1", NOW, NOW)}, {})

    def full(path: str, text: str) -> None:
        from rbuild.state import record

        raise record.unusable(path, OSError(28, "No space left on device"))

    monkeypatch.setattr(sightings, "write_private", full)
    remember(str(tmp_path), {"b": Sighting("1", NOW, NOW)}, {})
    assert read(str(tmp_path)).seen.keys() == {"a"}


# Damage

ONE = ["sha256:1", NOW, NOW, ""]
DAMAGED = [
    b"", b"{", b"null", b"[]", b"7", b'"x"', b"\xff\xfe", b"[" * 100_000,
    *(json.dumps(one).encode() for one in (
        {}, {"format": 1}, {"format": 2, "seen": {"a": ONE}, "not_before": {}},
        {"format": 1, "seen": [], "not_before": {}},
        {"format": 1, "seen": {"a": ONE}, "not_before": []},
        {"format": 1, "seen": {"a": ONE}, "not_before": {"r": "soon"}},
        {"format": 1, "seen": {"a": ONE[:3]}, "not_before": {}},
        {"format": 1, "seen": {"a": None}, "not_before": {}},
        {"format": 1, "seen": {"a": "word"}, "not_before": {}},
        {"format": 1, "seen": {"a": {"x": 1}}, "not_before": {}},
        {"format": 1, "seen": {"a": ["1", [], 0, ""]}, "not_before": {}},
    )),
]  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_memory_is_none_and_made_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert read(str(tmp_path)) == Memory()
    remember(str(tmp_path), {"a": Sighting("1", NOW, NOW)}, {})
    assert read(str(tmp_path)).seen == {"a": Sighting("1", NOW, NOW)}


@pytest.mark.parametrize("number", ["1" + "0" * 400, "1e999", "-1e999", "NaN"])
@pytest.mark.parametrize("place", [1, 2])
def test_numbers_that_are_no_times_do_no_harm(tmp_path: Path, number: str, place: int) -> None:
    one = ['"sha256:1"', str(NOW), str(NOW), '""']
    one[place] = number
    text = f'{{"format": 1, "seen": {{"a": [{", ".join(one)}]}}, "not_before": {{}}}}'
    (tmp_path / FILE).write_text(text)
    options = resolve({"check": Given(("base",), "flag"), "min-age": Given(DAY, "flag")})
    found = compare({"base": {"a": ["id", "sha256:0"]}}, options, read(str(tmp_path)).seen, {}, NOW)
    assert all(waiting_line(wait, NOW) for wait in found.waits)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(st.fixed_dictionaries({"format": st.just(1), "seen": plain, "not_before": plain}) | plain)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_is_read_or_is_no_memory(tmp_path: Path, data: Any) -> None:
    (tmp_path / FILE).write_text(json.dumps(data))
    assert isinstance(read(str(tmp_path)), Memory)


# Keys and ages


def test_what_one_user_may_see_another_may_not() -> None:
    assert len({key("a"), key("a", "me"), key("a", "you"), key("b", "me")}) == 4


def test_a_digest_that_is_new_is_as_old_as_its_first_sight() -> None:
    first = note(None, "1", "", NOW)
    assert first == Sighting("1", NOW, NOW)
    again = note(first, "1", "", NOW + 60)
    assert again == Sighting("1", NOW, NOW + 60)
    assert note(again, "2", "", NOW + 90) == Sighting("2", NOW + 90, NOW + 90)


def test_a_tag_that_goes_back_begins_anew() -> None:
    there = note(note(None, "1", "", NOW), "2", "", NOW + 10)
    assert note(there, "1", "", NOW + 20).since == NOW + 20


def test_an_error_makes_no_digest_younger() -> None:
    first = note(None, "1", "", NOW)
    lost = note(first, "", "timed out", NOW + 60)
    assert lost == Sighting("1", NOW, NOW + 60, "timed out")
    assert note(lost, "1", "", NOW + 90) == Sighting("1", NOW, NOW + 90)
    assert note(lost, "2", "", NOW + 90).since == NOW + 90


def test_an_error_at_first_sight() -> None:
    lost = note(None, "", "timed out", NOW)
    assert (lost.digest, lost.error, lost.asked) == ("", "timed out", NOW)
    assert note(lost, "1", "", NOW + 9) == Sighting("1", NOW + 9, NOW + 9)


def test_a_clock_that_was_set_back_makes_no_digest_wait_for_years() -> None:
    ahead = note(None, "1", "", NOW + 400 * DAY)
    assert note(ahead, "1", "", NOW) == Sighting("1", NOW, NOW)
