"""yamlfile: data as Compose reads it, lines, and clear errors."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rbuild.compose import yamlfile
from rbuild.errors import InputError


@pytest.fixture(params=["CSafeLoader", "SafeLoader"], autouse=True)
def _loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamlfile, "_Loader", getattr(yaml, request.param))


def read(tmp_path: Path, text: str | bytes) -> list[yamlfile.Document]:
    path = tmp_path / "f.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return yamlfile.load(str(path))


def data(tmp_path: Path, text: str | bytes) -> Any:
    [document] = read(tmp_path, text)
    return document.data


def complaint(tmp_path: Path, text: str | bytes) -> str:
    with pytest.raises(InputError) as caught:
        read(tmp_path, text)
    return caught.value.message.replace(str(tmp_path) + "/", "")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("22:22", "22:22"),
        ("2001-01-01", "2001-01-01"),
        ("2001-01-01 10:00:00", "2001-01-01 10:00:00"),
        ("12", 12),
        ("-3", -3),
        ("010", "010"),
        ("1_000", "1_000"),
        ("1.5", 1.5),
        ("1e3", "1e3"),
        ("3.", 3.0),
        (".5", 0.5),
        (".", "."),
        ("9" * 40, "9" * 40),
        ("~", None),
        ("", None),
        ("'12'", "12"),
        ('"true"', "true"),
        ("!!str 12", "12"),
        ("!mine 12", "12"),
        ("=", "="),
        ("$A", "$A"),
    ],
)
def test_scalars_are_those_of_compose(tmp_path: Path, text: str, value: object) -> None:
    found = data(tmp_path, f"a: {text}\n")["a"]
    assert found == value
    assert type(found) is type(value)


def test_keys_are_the_text_in_the_file(tmp_path: Path) -> None:
    assert data(tmp_path, "1: a\nyes: b\n2001-01-01: c\n~: d\n") == {
        "1": "a", "yes": "b", "2001-01-01": "c", "~": "d",
    }  # fmt: skip


def test_composes_tags(tmp_path: Path) -> None:
    text = """
a: !reset [1, 2]
b: !override {c: d}
e: [1, !reset 2, 3]
f: !reset null
g: !own [x]
"""
    assert data(tmp_path, text) == {"b": {"c": "d"}, "e": [1, 3], "g": ["x"]}
    [document] = read(tmp_path, text)
    assert [value for value, _ in document.strings()] == ["d", "x"]
    assert document.line("e", 1) == 4


def test_merge_keys(tmp_path: Path) -> None:
    text = """
one: &one {a: 1, b: 1}
two: &two {<<: *one, b: 2, c: 2}
list: {<<: [*two, *one, {d: 3}], a: own}
quoted: {"<<": {a: 1}}
"""
    found = data(tmp_path, text)
    assert found["two"] == {"a": 1, "b": 2, "c": 2}
    assert found["list"] == {"a": "own", "b": 2, "c": 2, "d": 3}
    assert found["quoted"] == {"<<": {"a": 1}}
    [document] = read(tmp_path, text)
    assert document.line("list", "a") == 4
    assert document.line("list", "b") == 3
    assert document.line("two", "a") == 2


def test_line_of_a_key_that_several_merges_have_is_the_stronger_ones(tmp_path: Path) -> None:
    text = """
one: &one {k: 1}
two: &two {<<: *one}
three: &three {k: 3}
all: {<<: [*two, *three]}
"""
    [document] = read(tmp_path, text)
    assert document.data["all"] == {"k": 1}  # type: ignore[call-overload,index]
    assert document.line("all", "k") == 2


def test_documents(tmp_path: Path) -> None:
    assert [found.data for found in read(tmp_path, "a: 1\n---\nb: 2\n---\n")] == [
        {"a": 1},
        {"b": 2},
        None,
    ]
    assert read(tmp_path, "a: 1\n---\nb: 2\n")[1].line("b") == 3


def test_of_anchors_of_one_name_the_last_counts(tmp_path: Path) -> None:
    text = """
a: &x {k: 1}
b: *x
c: &x {k: 2}
d: {<<: *x}
--- # in another document too
e: [*x]
"""
    first, second = read(tmp_path, text)
    assert first.data == {"a": {"k": 1}, "b": {"k": 1}, "c": {"k": 2}, "d": {"k": 2}}
    assert second.data == {"e": [{"k": 2}]}
    assert first.line("d", "k") == 4


@pytest.mark.parametrize("text", ["", "# only this\n"])
def test_empty_file(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == []


@pytest.mark.parametrize(
    "raw", [b"\xef\xbb\xbfa: b\n", "a: b\n".encode("utf-16"), b"a: b\r\n", b"a: b"]
)
def test_encodings(tmp_path: Path, raw: bytes) -> None:
    assert data(tmp_path, raw) == {"a": "b"}


def test_lines_of_settings(tmp_path: Path) -> None:
    [document] = read(
        tmp_path,
        "x-rbuild:\n  build-period: 7d\n\nservices:\n  web:\n    x-rbuild:\n      update: manual\n",
    )
    assert document.line("x-rbuild") == 1
    assert document.line("x-rbuild", "build-period") == 2
    assert document.line("services", "web", "x-rbuild", "update") == 7
    assert document.line("services", "web", "absent", "deeper") == 5
    assert document.line() == 1
    assert document.line("absent") == 1


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("a: b\nc: [1,\n", "f.yaml:3:1", "expected"),
        ("a: 'x\n", "f.yaml:2:1", "end of stream"),
        ("a: b\n  c: d\n", "f.yaml:2:4", "mapping values"),
        ("a: *gone\n", "f.yaml:1:4", "undefined alias"),
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", "f.yaml:4:3", "key 'b' was already given on line 2"),
        ("a: &a\n  b: [*a]\n", "f.yaml:2:7", "contains itself"),
        ("a: &x [1]\nb: &x {<<: *x}\n", "f.yaml:2:12", "contains itself"),
        ("a: *late\nb: &late 1\n", "f.yaml:1:4", "undefined alias 'late'"),
        ("a: {<<: [1]}\n", "f.yaml:1:9", "mapping"),
        ("? [a]\n: b\n", "f.yaml:1:3", "key"),
        (b"a: 1\nb: x\xff\n", "f.yaml:2:5", "not readable as text"),
        (b"a: 1\nb: \x00\n", "f.yaml:2:4", "not readable as text"),
    ],
)
def test_what_is_no_yaml(tmp_path: Path, text: str | bytes, place: str, what: str) -> None:
    found = complaint(tmp_path, text)
    assert found.startswith(place + ": ")
    assert what in found


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name, what in (
        ("gone", "No such file"),
        (".", "Is a directory"),
        ("file/x", "Not a directory"),
    ):
        with pytest.raises(InputError, match=what) as caught:
            yamlfile.load(str(tmp_path / name))
        assert caught.value.message.startswith(str(tmp_path / name))


def test_deep_nesting_is_refused_and_moderate_is_not(tmp_path: Path) -> None:
    # PyYAML's libyaml of 2026 has a limit of its own, which it may meet first.
    assert re.search("nested deeper|nesting depth", complaint(tmp_path, "[" * 200_000))
    depth = yamlfile.MAX_DEPTH
    assert "nested deeper" in complaint(tmp_path, "- " * (depth + 1) + "x")
    assert data(tmp_path, "[" * depth + "]" * depth)
    assert json.dumps(data(tmp_path, "- " * depth + "x"))


@pytest.mark.parametrize("each", ["[{0}]", "{{<<: [{0}]}}", "{{x: [{0}]}}"])
def test_alias_bombs_cost_no_more_than_their_size(tmp_path: Path, each: str) -> None:
    lines = ["a0: &a0 {k: $X}"]
    for level in range(1, 40):
        aliases = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} {each.format(aliases)}")
    started = time.monotonic()
    [document] = read(tmp_path, "\n".join(lines))
    assert list(document.strings()) == [("$X", 1)]
    assert document.line("a39", "nothing") == 40
    assert time.monotonic() - started < 5


TEXT = st.text(st.characters(categories=["L", "N", "P", "S"], include_characters=" \n"), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)


def test_json_is_read_as_it_is_with_the_line_of_each_key(tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("json")

    @given(st.dictionaries(TEXT, VALUES, max_size=4))
    def check(value: dict[str, object]) -> None:
        text = json.dumps(value, ensure_ascii=False, indent=1)
        [document] = read(folder, text)
        assert document.data == value
        lines = text.split("\n")
        seen: list[int] = []
        strings: list[str] = []

        def visit(part: object, keys: tuple[str | int, ...]) -> None:
            if isinstance(part, str):
                strings.append(part)
            pairs: Any = part.items() if isinstance(part, dict) else []
            if isinstance(part, list):
                pairs = enumerate(part)
            for key, item in pairs:
                line = document.line(*keys, key)
                seen.append(line)
                if isinstance(key, str):
                    assert (
                        lines[line - 1]
                        .strip()
                        .startswith(json.dumps(key, ensure_ascii=False) + ":")
                    )
                visit(item, (*keys, key))

        visit(value, ())
        assert seen == sorted(seen)
        assert [string for string, _ in document.strings()] == strings

    check()
