r"""Which files of a build context BuildKit leaves out, by the `.dockerignore`, read as it reads it.

The rules are those that its code has, which go beyond the Dockerfile reference
(docs.docker.com/build/concepts/context/#dockerignore-files): moby/patternmatcher 0.6 (`ignorefile`
and `PatternMatcher.MatchesUsingParentResults`) and the walk in tonistiigi/fsutil (`filter.go`).
What surprises:

- A pattern that has nothing to decide on a folder isn't tried there, and so doesn't reach what is
  below: after `**/*.txt`, `!docs` doesn't bring back docs/a.txt; after `*` it does.
- Wildcards become a regular expression of Go's (RE2): `\d` is a digit, `[^a]` matches "/", and
  `*` or `?` inside of `[...]` ends the class.
- `/!a` is the same as `!a`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from rbuild.errors import InputError

# What Go's unicode.IsSpace says; str.strip() takes more.
_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
# The line and its end must fit in Go's bufio.MaxScanTokenSize.
_LONGEST = (1 << 16) - 1
# What is no UTF-8 in a file's name is U+FFFD to Go's regexp, and so it is in patterns.
_STRAY = re.compile("[\udc80-\udcff]")

# What Go's path/filepath.Match lets pass of a pattern, up to its first star behind something else.
# What is further on it may refuse or not, by its version: that is left for the build to tell.
# `^` is never the first member of a class. (Each step is told by what comes next, so that there is
# nothing to go back for; "*+", which would say so, is wrong in Python up to 3.11.4: gh-106052.)
_MEMBER = r"(?:\\.|[^\\\]\-])"
_VALID = re.compile(
    r"\**(?!\*)"
    rf"(?:\\.|[^\\\[*]|\[(?:\^|(?!\^))(?:{_MEMBER}(?:-{_MEMBER})?)+\])*"
    r"(?:\*|\Z)",
    re.DOTALL,
)
_TOKEN = re.compile(r"\*\*/?|\\.|.", re.DOTALL)
_LITERAL = re.compile(r"[^*?\[\]\\]*")

# Go's named classes, each a row of ranges (regexp/syntax, perl_groups.go).
_NAMED = {
    "alnum": "09AZaz", "alpha": "AZaz", "ascii": "\0\x7f", "blank": "\t\t  ",
    "cntrl": "\0\x1f\x7f\x7f", "digit": "09", "graph": "!~", "lower": "az", "print": " ~",
    "punct": "!/:@[`{~", "space": "\t\r  ", "upper": "AZ", "word": "09AZ__az",
    "xdigit": "09AFaf",
}  # fmt: skip
_PERL = {"d": "09", "s": "\t\n\f\r  ", "w": "09AZ__az"}
_CONTROL = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_CODE = re.compile(r"x([0-9a-fA-F]{2})|(0[0-7]{0,2}|[1-7][0-7]{1,2})")
_CLASS = re.compile(r"\[:(\^?)(.*?):\]", re.DOTALL)
_PLACES = {"A": r"\A", "z": r"\Z", "b": r"(?a:\b)", "B": r"(?a:\B)"}

Ranges = list[tuple[str, str]]


class Ignore:
    """The rules of one ignore file.

    `text` is its content, `path` what messages call it. Raises InputError, with the line, for
    what BuildKit refuses in any context. Patterns that it refuses only once it has to try them
    raise InputError from `excludes` and `prunes`.
    """

    def __init__(self, text: str | bytes, path: str = "") -> None:
        self._path = path or ".dockerignore"
        patterns = list(self._patterns(text))
        self._runs = [
            _Run(readmits, list(run))
            # One that can't be tried is on its own: those before it may decide without it.
            for (readmits, _), run in groupby(patterns, lambda one: (one.readmits, one.wrong))
        ]
        self._reaches = [_Reach.of(one) for one in patterns if one.readmits]
        self._folders: dict[str, list[bool]] = {"": [False] * len(self._runs)}

    def excludes(self, path: str) -> bool:
        """Whether BuildKit leaves out `path`: relative to the context's root, parts joined by "/".

        An excluded folder is in the context all the same if something below it is.
        """
        return self._judge(path, self._matched(path.rpartition("/")[0]))[0]

    def prunes(self, path: str) -> bool:
        """Whether the folder `path` is excluded, and so is whatever may be below it."""
        return self.excludes(path) and not any(one.enters(path) for one in self._reaches)

    def _patterns(self, text: str | bytes) -> Iterator[_Pattern]:
        data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
            if len(raw) > _LONGEST:
                raise self._refused(number, "the line is too long")
            line = _STRAY.sub("\ufffd", raw.decode("utf-8", "surrogateescape"))
            if line.startswith("#"):
                continue
            line = line.strip(_SPACE)
            readmits = line.startswith("!")
            if readmits:
                line = line[1:].strip(_SPACE)
            if line:
                line = _clean(line)
                if line != "/":
                    line = line.removeprefix("/")
            # A second reader takes it from here; to that one the "!" is part of the path.
            line = ("!" + line if readmits else line).strip(_SPACE)
            if not line:
                continue
            line = _clean(line)
            if line == "!":
                raise self._refused(number, '"!" without a pattern')
            pattern = line.removeprefix("!")
            if not _VALID.match(pattern):
                raise self._refused(number, f"{pattern} is no valid pattern")
            yield _Pattern.of(pattern, pattern != line, number)

    def _matched(self, folder: str) -> list[bool]:
        """Which runs have matched the folder or one above it."""
        found = self._folders.get(folder)
        if found is None:
            found = self._judge(folder, self._matched(folder.rpartition("/")[0]))[1]
            self._folders[folder] = found
        return found

    def _judge(self, path: str, above: list[bool]) -> tuple[bool, list[bool]]:
        """Whether `path` is excluded, and which runs have matched it or a folder above it."""
        excluded = False
        matched = above
        for index, run in enumerate(self._runs):
            if not above[index]:
                if run.readmits != excluded:
                    continue
                if run.wrong:
                    raise self._refused(run.line, run.wrong)
                if not run.matches(path):
                    continue
                if matched is above:
                    matched = above.copy()
                matched[index] = True
            excluded = not run.readmits
        return excluded, matched

    def _refused(self, line: int, what: str) -> InputError:
        return InputError(f"{self._path} line {line}: {what}", hint="correct the pattern")


class _Pattern(NamedTuple):
    """One line: what it does to a path that it matches, and which paths those are."""

    readmits: bool
    line: int
    text: str
    kind: str
    """How `value` is to be compared: exact, prefix, suffix, name (the last part), expression."""
    value: str
    wrong: str = ""
    """Why it can't be tried."""

    @classmethod
    def of(cls, text: str, readmits: bool, line: int) -> _Pattern:
        tokens = _TOKEN.findall(text)
        wild = [index for index, token in enumerate(tokens) if token[0] in "*?[]\\"]
        if not wild:
            return cls(readmits, line, text, "exact", text)
        # "**" before or after plain text is compared as text: `**a` matches b/ca, `a**` ab/c.
        if wild == [0] and tokens[0].startswith("**"):
            return cls(readmits, line, text, "suffix", text[2:])
        if wild == [len(tokens) - 1] and tokens[-1] == "**":
            return cls(readmits, line, text, "prefix", text[:-2])
        anywhere = tokens[0].startswith("**")
        try:
            atoms = list(_atoms("".join(_regexp(tokens[anywhere:]))))
        except ValueError as error:
            wrong = f"{text} can't be tried: {error}"
            return cls(readmits, line, text, "expression", "", wrong)
        expression = "".join(atom for atom, _ in atoms)
        if not anywhere:
            return cls(readmits, line, text, "expression", expression)
        if not any(crosses for _, crosses in atoms):
            return cls(readmits, line, text, "name", expression)
        return cls(readmits, line, text, "expression", "(?:.*/)?" + expression)


class _Run:
    """Patterns in a row that all exclude or all readmit: the first match among them decides."""

    def __init__(self, readmits: bool, patterns: list[_Pattern]) -> None:
        def values(kind: str) -> list[str]:
            return [one.value for one in patterns if one.kind == kind]

        self.readmits = readmits
        self.line = patterns[0].line
        self.wrong = patterns[0].wrong
        self._prefixes = tuple(values("prefix"))
        self._suffixes = tuple(values("suffix"))
        self._exact = {*values("exact"), *(one[1:] for one in self._suffixes if one[:1] == "/")}
        self._names = _any_of(values("name"))
        self._expressions = None if self.wrong else _any_of(values("expression"))

    def matches(self, path: str) -> bool:
        if path in self._exact or path.startswith(self._prefixes) or path.endswith(self._suffixes):
            return True
        if not path.isascii():
            path = _STRAY.sub("\ufffd", path)
        if self._names:
            folder, _, name = path.rpartition("/")
            # "." matches no new line.
            if self._names.fullmatch(name) and "\n" not in folder:
                return True
        return self._expressions is not None and self._expressions.fullmatch(path) is not None


class _Reach(NamedTuple):
    """Where a pattern can match: below which folder, and how deep (-1: anywhere)."""

    start: str
    whole: bool
    slashes: int

    @classmethod
    def of(cls, pattern: _Pattern) -> _Reach:
        text = pattern.text
        found = _LITERAL.match(text)
        start = found[0] if found else ""
        bounded = not any(mark in text for mark in ("**", "[", "\\"))
        return cls(start, start == text, text.count("/") if bounded else -1)

    def enters(self, folder: str) -> bool:
        """Whether it can match something below the folder."""
        below = folder + "/"
        if 0 <= self.slashes < below.count("/"):
            return False
        return self.start.startswith(below) or (not self.whole and below.startswith(self.start))


def _clean(path: str) -> str:
    """What Go's path/filepath.Clean makes of a path (os.path.normpath keeps a leading "//")."""
    rooted = path.startswith("/")
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            if parts and parts[-1] != "..":
                parts.pop()
            elif not rooted:
                parts.append(part)
        elif part not in ("", "."):
            parts.append(part)
    return ("/" if rooted else "") + "/".join(parts) or "."


def _regexp(tokens: list[str]) -> Iterator[str]:
    """The regular expression, as BuildKit hands it to Go; it doesn't see where classes are."""
    for index, token in enumerate(tokens):
        if token.startswith("**"):
            yield ".*" if index == len(tokens) - 1 else "(.*/)?"
        elif token == "*":
            yield "[^/]*"
        elif token == "?":
            yield "[^/]"
        elif token == "\\":
            # The last one takes the "$" that BuildKit ends with.
            yield "\\$.*"
        else:
            yield "\\" + token if token in ".+()|{}$" else token


def _atoms(text: str) -> Iterator[tuple[str, bool]]:
    """A regular expression of Go's in Python's words; with each part whether it can match "/".

    Source: the package regexp/syntax, as far as patterns reach it. Raises ValueError where Go
    refuses it.
    """
    at = 0
    while at < len(text):
        one, following = text[at], text[at + 1 : at + 2]
        if one == "[":
            atom, crosses, at = _class(text, at + 1)
            yield atom, crosses
        elif one == "\\" and following in _PLACES:
            yield _PLACES[following], False
            at += 2
        elif one == "\\" and following.lower() in _PERL:
            ranges = _perl(following)
            yield _members(ranges, False), _holds(ranges, "/")
            at += 2
        elif one == "\\":
            if following == "Q":
                raise ValueError("rbuild knows no \\Q")
            literal, at = _character(text, at)
            yield re.escape(literal), literal == "/"
        else:
            # "+{}|$" come escaped; what is here of "*?()." was put there.
            yield (
                {"^": r"\A", "(": "(?:"}.get(one) or (one if one in ").*?" else re.escape(one)),
                (one in "./"),
            )
            at += 1


def _class(text: str, at: int) -> tuple[str, bool, int]:
    """The class whose members begin at `at`, whether it holds "/", and where it ends."""
    negated = text.startswith("^", at)
    at += negated
    ranges: Ranges = []
    first = True
    while first or not text.startswith("]", at):
        first = False
        named = _CLASS.match(text, at)
        if named:
            if named[2] not in _NAMED:
                raise ValueError(f"{named[0]} is no class")
            found = _pairs(_NAMED[named[2]])
            ranges += _others(found) if named[1] else found
            at = named.end()
        elif text[at : at + 1] == "\\" and text[at + 1 : at + 2].lower() in _PERL:
            ranges += _perl(text[at + 1])
            at += 2
        else:
            low, at = _character(text, at)
            high = low
            if text.startswith("-", at) and text[at + 1 : at + 2] not in ("", "]"):
                high, at = _character(text, at + 1)
            if high < low:
                raise ValueError(f"{low}-{high} is no range")
            ranges.append((low, high))
    return _members(ranges, negated), _holds(ranges, "/") != negated, at + 1


def _character(text: str, at: int) -> tuple[str, int]:
    """The character at `at`, escaped or not, and where the next one begins."""
    if at >= len(text):
        raise ValueError("a [ is not closed")
    if text[at] != "\\":
        return text[at], at + 1
    one = text[at + 1 : at + 2]
    if one in ("p", "P"):
        raise ValueError(f"rbuild knows no \\{one}")
    if one in _CONTROL:
        return _CONTROL[one], at + 2
    code = _CODE.match(text, at + 1)
    if code:
        return chr(int(code[1], 16) if code[1] else int(code[2], 8)), code.end()
    if not one.isascii() or one.isalnum() or not one:
        raise ValueError(f"\\{one} has no meaning")
    return one, at + 2


def _perl(letter: str) -> Ranges:
    ranges = _pairs(_PERL[letter.lower()])
    return _others(ranges) if letter.isupper() else ranges


def _pairs(row: str) -> Ranges:
    return list(zip(row[::2], row[1::2], strict=True))


def _others(ranges: Ranges) -> Ranges:
    """The complement of ranges that are in order and apart."""
    edges = [0, *(edge for low, high in ranges for edge in (ord(low) - 1, ord(high) + 1)), 0x10FFFF]
    return [
        (chr(low), chr(high))
        for low, high in zip(edges[::2], edges[1::2], strict=True)
        if low <= high
    ]


def _holds(ranges: Ranges, one: str) -> bool:
    return any(low <= one <= high for low, high in ranges)


def _members(ranges: Ranges, negated: bool) -> str:
    # One character is quicker to try as itself than as a range.
    spelt = (
        _spelt(low) if low == high else f"{_spelt(low)}-{_spelt(high)}" for low, high in ranges
    )
    return f"[{'^' * negated}{''.join(spelt)}]"


def _spelt(one: str) -> str:
    return f"\\U{ord(one):08x}"


def _any_of(expressions: list[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(f"(?:{one})" for one in expressions)) if expressions else None
