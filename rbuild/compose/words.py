"""Words of a Dockerfile: quotes, escapes, `$A` and `${B%suffix}`, as BuildKit's frontend has them.

https://docs.docker.com/reference/dockerfile/#environment-replacement
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

SPACE = "\t\n\v\f\r \x85\xa0"
"""What Go calls white space, as far as it turns up in files."""


class WordError(Exception):
    """A word that BuildKit refuses; the text says why."""


@dataclass(slots=True)
class Word:
    """Reads a word as the Dockerfile's shell-like syntax has it.

    Without `env` nothing is substituted: variables stay as they are written. `quotes` keeps
    quotation marks. `raw` below keeps escape characters, which patterns need.
    """

    text: str
    env: Mapping[str, str] | None
    escape: str
    quotes: bool = False
    at: int = 0

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def next(self) -> str:
        char = self.peek()
        self.at += 1
        return char

    def read(self, stop: str, *, raw: bool) -> tuple[str, list[str]]:
        """Read to `stop` (consumed; "" = the end); give the text, and its words."""
        out: list[str] = []
        words = [""]
        while (char := self.peek()) != stop:
            solid = True  # spaces in it don't end a word
            if not char:
                raise WordError(f"{stop} is missing")
            if char == "$":
                piece, solid = self.dollar(), False
            elif char == "'":
                piece = self.single()
            elif char == '"':
                piece = self.double(raw)
            elif self.text.startswith("<<", self.at):
                end = self.at + 2
                while self.text[end : end + 1] in ("\t", "\r", " "):
                    end += 1
                piece, self.at = self.text[self.at : end], end
            elif self.next() == self.escape:
                piece = (char if raw else "") + self.next()
            else:
                piece, solid = char, False
            out.append(piece)
            for part in (piece,) if solid else piece:
                if not solid and part in SPACE:
                    words.append("")
                else:
                    words[-1] += part
        self.at += 1
        return "".join(out), [word for word in words if word]

    def single(self) -> str:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            raise WordError("a single quote is not closed")
        piece = self.text[self.at + 1 : end]
        self.at = end + 1
        return f"'{piece}'" if self.quotes else piece

    def double(self, raw: bool) -> str:
        self.at += 1
        out: list[str] = []
        while (char := self.peek()) != '"':
            if not char:
                raise WordError("a double quote is not closed")
            if char == "$":
                out.append(self.dollar())
                continue
            self.at += 1
            if char == self.escape:
                if raw:
                    out.append(char)
                if self.peek() in ("", '"', "$", self.escape):
                    char = self.next()
            out.append(char)
        self.at += 1
        piece = "".join(out)
        return f'"{piece}"' if self.quotes else piece

    def name(self) -> str:
        start = self.at
        if self.peek() in tuple("@*#?-$!"):
            self.at += 1
        elif self.peek().isdecimal():
            while self.peek().isdecimal():
                self.at += 1
        else:
            while (char := self.peek()) and (char.isalpha() or char.isdecimal() or char == "_"):
                self.at += 1
        return self.text[start : self.at]

    def dollar(self) -> str:
        start = self.at
        self.at += 1
        if self.peek() != "{":
            name = self.name()
            if not name or self.env is None:
                return "$" + name
            return self.env.get(name, "")
        self.at += 1
        if self.peek() in ("", "{", "}", ":"):
            raise WordError("bad substitution")
        name = self.name()
        operator = self.next()
        value = self.env.get(name) if self.env else None
        result = value or ""
        if operator == "/":
            every = self.peek() == "/"
            self.at += every
            pattern = self.read("/", raw=True)[0]
            new = self.read("}", raw=True)[0]
            if self.env is not None:
                result = _replaced(result, pattern, new, every)
        elif operator in tuple(":+-?#%"):
            colon = operator == ":"
            if colon:
                operator = self.next()
            trims = operator in ("#", "%")
            if colon and trims:
                raise WordError(f"unsupported modifier :{operator}")
            word = self.read("}", raw=trims)[0]
            if self.env is not None:
                result = _modified(name, value, operator, word, colon)
        elif operator != "}":
            raise WordError(f"unsupported modifier {operator}" if operator else "} is missing")
        return self.text[start : self.at] if self.env is None else result


def _modified(name: str, value: str | None, operator: str, word: str, colon: bool) -> str:
    """Apply `${name-word}` and its kin; `colon`: an empty value counts as unset."""
    missing = value is None or (colon and not value)
    if operator == "-":
        return word if missing else value or ""
    if operator == "+":
        return "" if missing else word
    if operator == "?":
        if missing:
            raise WordError(f"{name}: {word or 'is not set'}")
        return value or ""
    if operator not in ("#", "%"):
        raise WordError(f"unsupported modifier :{operator}")
    longest = word.startswith(operator)
    pattern = _pattern(word[1:] if longest else word, longest)
    text = value or ""
    if operator == "#":
        match = re.match(pattern, text)
        return text[match.end() :] if match else text
    # The shortest end is the one that starts last.
    starts = range(len(text) + 1) if longest else range(len(text), -1, -1)
    return next((text[:at] for at in starts if re.fullmatch(pattern, text[at:])), text)


def _pattern(glob: str, greedy: bool) -> str:
    """Turn `*` and `?` into a regular expression; the frontend knows no brackets."""
    out = ""
    at = 0
    while at < len(glob):
        char = glob[at]
        at += 1
        if char == "\\":
            char = glob[at : at + 1]
            at += 1
            if char not in tuple("*?\\}/"):
                raise WordError(f"invalid escape \\{char}")
            out += re.escape(char)
        else:
            out += {"*": ".*" if greedy else ".*?", "?": "."}.get(char, re.escape(char))
    return out


def _replaced(text: str, pattern: str, new: str, every: bool) -> str:
    out, done = "", 0
    for match in re.finditer(_pattern(pattern, True), text):
        if match.end() == done != 0:
            continue  # Go takes no empty match right behind another
        out += text[done : match.start()] + new
        done = match.end()
        if not every:
            break
    return out + text[done:]
