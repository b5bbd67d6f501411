"""Env files as Compose reads them.

https://docs.docker.com/compose/how-tos/environment-variables/variable-interpolation/
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Assignment:
    """One assignment in an env file."""

    name: str
    value: str | None
    """None: a bare name, which takes the value that the environment has."""
    reads: bool
    """Whether variables in the value are replaced."""
    line: int


_SKIPPED = re.compile(r"(?:\s+|#[^\n]*)*")
_KEY = re.compile(r"(?:export[^\S\n]+)?([\w.\-\[\]]+)[^\S\n]*(?:([=:])[^\S\n]*|\n|\Z)")
_QUOTED = re.compile(r"""(['"])((?:\\.|(?!\1)[^\\])*)\1""", re.DOTALL)
_UNQUOTED = re.compile(r"[^\n]*")
_ESCAPE = re.compile(r"""\\(["$\\abcfnrtv])""")
_ESCAPED = {"$": "$$", "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def assignments(text: str) -> list[Assignment]:
    """The assignments of an env file, up to the first that Compose would refuse the file for."""
    found: list[Assignment] = []
    at, line, counted = 0, 1, 0
    while True:
        skipped = _SKIPPED.match(text, at)
        at = skipped.end() if skipped else at
        key = _KEY.match(text, at)
        if key is None:
            return found
        line += text.count("\n", counted, at)
        counted = at
        at = key.end()
        if not key[2]:
            found.append(Assignment(key[1], None, False, line))
        elif text[at : at + 1] in ("'", '"'):
            quoted = _QUOTED.match(text, at)
            if quoted is None:
                return found
            value = quoted[2].replace("\\'", "'")
            if quoted[1] == '"':
                value = _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), quoted[2])
            found.append(Assignment(key[1], value, quoted[1] == '"', line))
            at = quoted.end()
        else:
            rest = _UNQUOTED.match(text, at)
            value = rest[0] if rest else ""
            at += len(value)
            found.append(Assignment(key[1], value.split(" #", 1)[0].rstrip(), True, line))
