"""Text of others, as a person gets to see it."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbuild.text import LONGEST, clean, shortened, visible, visible_lines


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain — naïve 中文 👩‍🚀\ttab", "plain — naïve 中文 👩‍🚀\ttab"),
        ("\x1b[1;31mred\x1b[0m \x1b[2K\x1b(Bok", "red ok"),
        ("\x1b]0;a title\x07a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "alink"),
        ("\x1bP1$q\x1b\\\x1b=\x1bc.", "."),
        # What does not end swallows nothing.
        ("\x1b]0;all the rest", "\\x1b]0;all the rest"),
        ("\x1b[31", "\\x1b[31"),
        ("\0\a\b\x7f\x9b31m", "\\x00\\x07\\x08\\x7f\\x9b31m"),
        ("a\n<0>b\r\nc", "a\\n<0>b\\r\\nc"),
        ("left \u202eright\u2066 \u2028", "left \\u202eright\\u2066 \\u2028"),
        ("a byte \udcff, half a character \ud800", "a byte \\xff, half a character \\ud800"),
        ("\U000e0041 tag", "\\ue0041 tag"),
    ],
)
def test_what_is_seen(text: str, seen: str) -> None:
    assert visible(text) == seen


@given(st.text())
def test_nothing_is_left_that_acts_on_a_terminal(text: str) -> None:
    seen = visible(text)
    kinds = {unicodedata.category(one) for one in seen if one != "\t"}
    assert kinds.isdisjoint({"Cc", "Cs", "Zl", "Zp"})
    assert visible(seen, len(seen)) == seen
    assert seen.encode() is not None


@given(st.text(st.characters(exclude_categories=["C", "Z"])))
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert visible(text, len(text)) == text


def test_a_long_line_keeps_its_ends() -> None:
    seen = visible("begin" + "x" * 3_000_000 + "end")
    assert len(seen) < LONGEST + 60
    assert seen.startswith("beginx")
    assert seen.endswith("xend")
    assert f"… ({3_000_008 - LONGEST} characters left out) …" in seen


def test_lines() -> None:
    assert visible_lines("a\x1b[0m\nb\rc\x0bd\r\n") == ["a", "b", "c", "d"]


def test_json_stays_what_it_is() -> None:
    data = {"a": ["x\x1b[31my\n\x07", 1, None, True], "b": {"c": 1.5}, "d": ("\udcff",)}
    assert clean(data) == {"a": ["xy\n\\x07", 1, None, True], "b": {"c": 1.5}, "d": ["\\xff"]}
    assert json.loads(json.dumps(clean(data))) == clean(data)


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 500])
def test_a_screen(count: int) -> None:
    lines = [str(number) for number in range(count)]
    found = shortened(lines, 10, "the log has them")
    assert len(found) == min(count, 10)
    if count <= 10:
        assert found == lines
    else:
        assert found[:2] == ["0", "1"]
        assert found[2] == f"… {count - 9} lines left out: the log has them"
        assert found[-7:] == lines[-7:]
