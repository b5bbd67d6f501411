"""Variables in what Compose reads: `$A`, `${B:-c}`.

https://docs.docker.com/reference/compose-file/interpolation/
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

MAX_NESTING = 50
"""How deep `${A:-${B:-…}}` is followed."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BRACED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:(:?[-+?])(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Placeholder:
    name: str
    operator: str
    """`""`, or one of `-` `+` `?`, each with or without a `:` before it."""
    argument: str


def mentions(text: str) -> Iterator[tuple[str, bool]]:
    """The variables that Compose interpolates in `text`, in order, and whether each must be set.

    Compose reads arguments even where it doesn't need them, so a `?` within one asks as well.

    >>> list(mentions("$A ${B:-${C}} $$D ${E:?why}"))
    [('A', True), ('B', False), ('C', False), ('E', True)]
    """
    return _mentions(text, 0)


def _mentions(text: str, level: int) -> Iterator[tuple[str, bool]]:
    if "$" not in text or level > MAX_NESTING:
        return
    for part in _split(text):
        if isinstance(part, _Placeholder):
            bare = part.operator == "" and level == 0
            yield part.name, bare or part.operator in ("?", ":?")
            yield from _mentions(part.argument, level + 1)


def expand(text: str, env: Mapping[str, str]) -> str | None:
    """`text` with its variables taken from `env`; None where Compose would refuse it."""
    return _expand(text, env, 0)


def _expand(text: str, env: Mapping[str, str], level: int) -> str | None:
    if "$" not in text:
        return text
    if level > MAX_NESTING:
        return None
    out: list[str] = []
    for part in _split(text):
        if part is None:
            return None
        if isinstance(part, str):
            out.append(part)
            continue
        value = env.get(part.name)
        present = bool(value) if part.operator.startswith(":") else value is not None
        # Compose expands the argument first, needed or not: a `?` in it counts in any case.
        argument = _expand(part.argument, env, level + 1)
        kind = part.operator[-1:]
        if argument is None or (kind == "?" and not present):
            return None
        out.append(argument if (kind, present) in (("-", False), ("+", True)) else value or "")
    return "".join(out)


def _split(text: str) -> Iterator[str | _Placeholder | None]:
    """The parts of a template; None for a `${` that Compose refuses."""
    at = 0
    while (dollar := text.find("$", at)) >= 0:
        yield text[at:dollar]
        at = dollar + 1
        if text.startswith("$", at):
            yield "$"
            at += 1
        elif text.startswith("{", at):
            end = _closing_brace(text, at)
            match = _BRACED.fullmatch(text, at + 1, end) if end > 0 else None
            if match:
                yield _Placeholder(match[1], match[2] or "", match[3] or "")
                at = end + 1
            else:
                yield None
        elif match := _NAME.match(text, at):
            yield _Placeholder(match[0], "", "")
            at = match.end()
        else:
            yield "$"
    yield text[at:]


def _closing_brace(text: str, start: int) -> int:
    """The brace that closes the one at `start`; where they don't pair up, the last one, or -1."""
    depth = 0
    for brace in re.finditer(r"[{}]", text[start:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return start + brace.start()
    return text.rfind("}", start)
