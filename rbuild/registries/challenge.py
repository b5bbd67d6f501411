"""What a registry wants to be told of who asks: WWW-Authenticate (RFC 9110, 11.6.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

# A scheme, or a parameter. Unquoted values are taken with characters that should have been quoted.
_PART = re.compile(
    r"""[\s,]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)"""
    r"""(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+)))?(?=[\s,]|$)"""
)


class Challenge(NamedTuple):
    """What a registry wants to be told: the scheme in lower case, and its parameters."""

    scheme: str
    parameters: dict[str, str]


def challenges(headers: Iterable[str]) -> list[Challenge]:
    """The challenges of WWW-Authenticate headers, as far as they make sense."""
    found: list[Challenge] = []
    for header in headers:
        at, current = 0, None
        while match := _PART.match(header, at):
            at, (name, quoted, plain) = match.end(), match.groups()
            if quoted is None and plain is None:
                current = Challenge(name.lower(), {})
                found.append(current)
            elif current:
                value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                current.parameters.setdefault(name.lower(), value)
    return found
