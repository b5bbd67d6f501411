"""What an ignore file excludes, by example and by property (a real BuildKit: tests/engine)."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rbuild.compose.ignore import Ignore
from rbuild.errors import InputError

# Ignore file; what it excludes; what it doesn't.
CASES: list[tuple[str, str, str]] = [
    # Where a pattern is anchored, and what is below it
    ("", "", "a b/c"),
    ("a", "a a/b a/b/c", "ab b b/a"),
    ("a/b", "a/b a/b/c", "a a/c b c/a/b"),
    ("b", "b", "a/b"),
    ("A", "A", "a"),
    ("a.b", "a.b", "axb"),
    ("é", "é é/a", "e"),
    # Lines
    ("# a\n\n  \nb", "b", "a #"),
    ("#a", "", "a #a"),
    (" #a", "#a", "a"),
    ("\\#a", "#a", "a"),
    ("a # b", "", "a b"),
    (" a \t\n\tb\r\n", "a b", "c"),
    ("a\r\nb", "a b", "c"),
    ("a\rb", "", "a b"),
    ("\u3000a\xa0\x85", "a", "b"),
    ("\ufeffa\nb", "a b", "c"),
    ("a\n\ufeffb", "a", "b"),
    # Paths are cleaned
    ("/a", "a a/b", "b/a"),
    ("//a", "a", "b"),
    ("a/", "a a/b", "b"),
    ("a//b", "a/b", "a"),
    ("./a", "a", "b"),
    ("./a/../b", "b", "a"),
    ("a/b/..", "a a/b", "b"),
    ("a/.", "a", "b"),
    ("/../a", "a", "b"),
    ("../a", "", "a"),
    (".", "", "a"),
    ("/", "", "a"),
    ("..", "", "a"),
    ("/ a", "a", "b"),
    ("a/..", "", "a"),
    # Wildcards
    ("*", "a a/b", ""),
    ("*.md", "x.md .md", "x.mdx a/x.md"),
    ("*/b", "a/b c/b/d", "b a/c/b"),
    ("a*", "a ab ab/c", "ba"),
    ("*/*", "a/b a/b/c", "a"),
    ("a?", "ab aé", "a abc"),
    ("a?b", "axb", "a/b"),
    ("?", "a a/b", "ab b.c"),
    ("a/*/c", "a/b/c a/b/c/d", "a/c a/b/b/c"),
    # Any depth
    ("**", "a a/b", ""),
    ("**/a", "a b/a b/c/a/d", "ba b/ca"),
    ("**/a/b", "a/b c/a/b", "a c/b"),
    ("**/*.md", "x.md a/b/x.md a/x.md/y", "x.mdx"),
    ("**/*.py[cod]", "x.pyc a/x.pyo", "x.py a/x.pyx"),
    ("a/**", "a/b a/b/c", "a ab"),
    ("a/**/b", "a/b a/c/d/b", "a a/xb"),
    ("a**/b", "ab a/b ax/b", "axb b"),
    ("**a", "a ba c/ba", "ab"),
    ("a**", "a ab ab/c", "ba"),
    ("a/**/**/b", "a/b a/c/b", "a"),
    ("***", "a a/b", ""),
    ("**/**", "a a/b", ""),
    ("**/a*/b", "a/b c/ax/b", "b/b ax/c/b"),
    # Classes
    ("[ab]", "a b", "c"),
    ("[a-c]x", "ax bx cx", "dx"),
    ("[^a]", "b é", "a"),
    ("a[^x]b", "ayb a/b", "axb"),
    ("[!a]", "! a", "b"),
    ("[[:digit:]x]", "1 x", ": d"),
    ("[[:^digit:]]", "a", "1"),
    ("[\\dx]", "1 x", "d"),
    ("[\\W]", "- é", "a _"),
    ("[[]a", "[a", "a"),
    ("[\\]]", "]", "a"),
    ("[a\\-c]", "a - c", "b"),
    ("[*]", "] [] ^[]", "* a"),
    ("[?x]", "[x] ^x]", "? x"),
    ("a]", "a]", "a"),
    ("**/[^a]x", "bx c/bx", "ax c/ax"),
    # Escapes
    ("\\*", "*", "a"),
    ("\\a", "\a", "a"),
    ("\\!a", "!a", "a"),
    ("a\\b", "", "ab a\\b"),
    ("\\d", "1", "d"),
    ("\\D", "d", "1"),
    ("a\\/b", "a/b", "a"),
    ("\\x41\\102", "AB", "x41"),
    ("a\\.b", "a.b", "axb"),
    ("a{b}(c)|$+", "a{b}(c)|$+", "a ab"),
    ("a{b}(c)|$+*", "a{b}(c)|$+", "a ab"),
    ("a^b", "a^b", "ab"),
    ("a^b*", "", "a^b"),
    ("1*\\", "", "1 1\\"),
    # Exceptions
    ("*\n!a", "b b/a", "a a/b"),
    ("*\n!a/b", "a a/c b", "a/b a/b/c"),
    ("a\n!a/b", "a a/c", "a/b a/b/c"),
    ("!a\na", "a", "b"),
    ("*.md\n!a.md\n*.md", "a.md b.md", "c"),
    ("*\n! a", "b", "a"),
    ("*\n!/a", "b", "a"),
    ("*\n!./b/../a/", "b", "a a/c"),
    ("*\n/!a", "b", "a"),
    ("*\n./!a", "b !a", "a"),
    ("*\n!!a", "a", "!a"),
    ("*\n!**/*.md", "a a/b", "x.md a/x.md"),
    ("*\n!a*\na/b", "b a/b", "a ab a/c"),
    ("**\n!**", "", "a a/b"),
    ("a\n!a/b\na/b/c", "a a/b/c", "a/b a/b/d"),
    # A pattern that decides nothing on a folder doesn't reach what is below.
    ("**/*.md\n!a", "a/x.md", "a a/b"),
    ("a/b\n!a", "a/b a/b/c", "a a/c"),
    ("a\n!a/b\na", "a a/c", "a/b"),
    ("a\n!a\n**/b", "a/b", "a a/c"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "excluded", "left"), CASES, ids=[repr(one[0]) for one in CASES])
def test_excludes(text: str, excluded: str, left: str) -> None:
    ignore = Ignore(text)
    assert [one for one in excluded.split(" ") if one and not ignore.excludes(one)] == []
    assert [one for one in left.split(" ") if one and ignore.excludes(one)] == []


def test_names_with_spaces_and_new_lines() -> None:
    assert Ignore("a b").excludes("a b")
    assert Ignore("a?b").excludes("a\nb")
    assert Ignore("**/x*y").excludes("a/x\ny")
    assert not Ignore("**/x*y").excludes("a\nb/xy")
    assert Ignore("**/xy").excludes("a\nb/xy")


def test_bytes_that_are_no_utf_8() -> None:
    name = b"a\xffb".decode("utf-8", "surrogateescape")
    assert Ignore("a?b").excludes(name)
    assert Ignore(b"a\xff*").excludes(name)
    assert Ignore("**/a[\ufffd]b").excludes(name)
    assert not Ignore(b"a\xffb").excludes(name)
    assert not Ignore(b"\xff\xfea\0b\0").excludes("ab")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("!", 1), ("a\n! \n", 2), ("#\n!/", 2), ("[", 1), ("a\n[]", 2), ("[^]", 1), ("[a-]", 1),
        ("[-a]", 1), ("[a-b-c]", 1), ("[]a]", 1), ("a\\", 1), ("a\nb\n![a\\", 3), ("*[", 1),
        ("**/[z", 1), ("a" * 65536, 1), ("a\n" + "b" * 65535 + "\r\n", 2),
    ],
)  # fmt: skip
def test_refuses(text: str, line: int) -> None:
    with pytest.raises(InputError) as caught:
        Ignore(text, "/srv/app/.dockerignore")
    assert caught.value.message.startswith(f"/srv/app/.dockerignore line {line}: ")
    assert caught.value.hint


@pytest.mark.parametrize(
    "pattern",
    ["[b-a]", "\\q", "\\e*", "[\\b]", "[a-\\d]", "[[:x:]]", "\\1", "\\8", "\\xg", "\\é", "a*[",
     "[*[]", "[a-*]", "\\pL", "[\\pL]", "\\Qa", "b*[]"],
)  # fmt: skip
def test_refuses_once_it_is_tried(pattern: str) -> None:
    ignore = Ignore(f"a\n{pattern}\n")
    assert ignore.excludes("a")  # decided before
    with pytest.raises(InputError, match=r"line 2"):
        ignore.excludes("b")
    assert not Ignore(f"!{pattern}").excludes("b")


def test_a_line_may_be_long() -> None:
    assert Ignore("a" * 65535 + "\n").excludes("a" * 65535)


@pytest.mark.parametrize(
    ("text", "pruned", "entered"),
    [
        ("a", "a a/b", "b"),
        ("*\n!a", "b b/a", "a"),
        ("*\n!a/b", "b a/c", "a a/b"),
        ("*\n!a/*.md", "b a/c", "a"),
        ("*\n!a/**", "b", "a a/b"),
        ("*\n!*/b", "a/c", "a c"),
        ("*\n!a?/b", "b", "ab ac"),
        ("a\n!a**", "", "a a/b"),
        ("a\n!**/b", "", "a a/c"),
        ("a\n!a[/x]b", "", "a"),
        ("a\n!b", "a", ""),
        ("node_modules\n!src/**/x.py", "node_modules node_modules/src", "src"),
    ],
)
def test_prunes(text: str, pruned: str, entered: str) -> None:
    ignore = Ignore(text)
    assert [one for one in pruned.split() if not ignore.prunes(one)] == []
    assert [one for one in entered.split() if ignore.prunes(one)] == []


# Properties.

PART = st.sampled_from(["a", "b", "ab", "ba", "*", "**", "?", "a*", "*b", "?b", "[ab]", "[^a]b"])
PATTERN = st.lists(PART, min_size=1, max_size=3).map("/".join)
LINE = st.builds(str.__add__, st.sampled_from(["", "!"]), PATTERN)
TEXT = st.lists(LINE, max_size=5).map("\n".join)
PATH = st.lists(st.sampled_from(["a", "b", "ab", "ba", "c"]), min_size=1, max_size=4).map("/".join)


def plainly(text: str, path: str) -> bool:
    """What is excluded, told pattern by pattern and folder by folder."""
    above: set[int] = set()
    parts = path.split("/")
    excluded = False
    for depth in range(1, len(parts) + 1):
        here = "/".join(parts[:depth])
        excluded = False
        for index, line in enumerate(text.split("\n")):
            readmits = line.startswith("!")
            if index not in above and (readmits == excluded) and matches(line.strip("!"), here):
                above.add(index)
            if index in above:
                excluded = not readmits
    return excluded


def matches(pattern: str, path: str) -> bool:
    """Whether a pattern of the shapes above matches."""
    if pattern in ("**", "**/**"):
        return True
    found = ""
    for part in re.findall(r"^\*\*/|/\*\*$|/\*\*(?=/)|.", pattern):
        found += {
            "**/": "(.*/)?", "/**": "(/.*)?", "*": "[^/]*", "?": "[^/]",
        }.get(part, part)  # fmt: skip
    if pattern.endswith("/**"):
        found = found.removesuffix("(/.*)?") + "/.*"
    return re.fullmatch(found, path) is not None


@given(TEXT, PATH)
@example("**/a\n!b\n**/b", "b/a")
@example("**/**", "a")
def test_is_what_the_rules_say(text: str, path: str) -> None:
    assert Ignore(text).excludes(path) == plainly(text, path)


@given(TEXT, PATH, PATH)
def test_nothing_below_a_pruned_folder_comes_back(text: str, folder: str, below: str) -> None:
    ignore = Ignore(text)
    if ignore.prunes(folder):
        assert ignore.excludes(f"{folder}/{below}")


@given(TEXT, st.lists(PATH, max_size=5))
def test_what_was_asked_before_is_no_matter(text: str, paths: list[str]) -> None:
    ignore = Ignore(text.encode())
    assert [ignore.excludes(one) for one in paths] == [Ignore(text).excludes(one) for one in paths]


@given(st.text(max_size=30), st.text(min_size=1, max_size=10))
def test_any_text_is_read_or_refused(text: str, path: str) -> None:
    with contextlib.suppress(InputError):
        Ignore(text.encode("utf-8", "replace")).excludes(path)


@given(st.text("ab[]^-*?\\!/.d1x:", max_size=8), PATH)
def test_any_pattern_is_tried_or_refused(text: str, path: str) -> None:
    with contextlib.suppress(InputError):
        Ignore(text).excludes(path)
