"""Text of others (logs, complaints, names) on its way to a terminal, the journal, a mail or JSON.

All that a person reads goes through here at the end, so that no container's log and no file's name
can move a cursor, set a title, ring a bell, forge a line or a priority, or bury what matters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

LONGEST = 500
"""Characters of one line of somebody else's."""
# What terminals are told by, whole: colours and the like, titles and links, other strings.
_SEQUENCE = (
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)|\x1b[PX^_][^\x1b\n]*\x1b\\"
    r"|\x1b[ -/]*[0-Z\\^-~]"
)
# Control characters but for the tab, what turns the direction of writing or can't be seen, and
# the halves of characters that stand for bytes which are no text.
_UNSEEN = (
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str, longest: int = LONGEST) -> str:
    """The text as one line without anything that is not to be seen, cut to about `longest`.

    What only tells terminals how to look is dropped, other control characters are spelled out.
    """
    if len(text) > longest:
        end = longest // 4
        text = (
            f"{text[: longest - end]} … ({len(text) - longest} characters left out) … {text[-end:]}"
        )
    return re.sub(_UNSEEN, _spelled, re.sub(_SEQUENCE, "", text))


def visible_lines(text: str, longest: int = LONGEST) -> list[str]:
    """The lines of a text, each as `visible` has it."""
    return [visible(line, longest) for line in text.splitlines()]


def clean(value: Any) -> Any:
    """Plain JSON data whose texts have nothing in them that is not to be seen but line ends."""
    if isinstance(value, str):
        return "\n".join(visible(line, len(line)) for line in value.split("\n"))
    if isinstance(value, dict):
        return {name: clean(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [clean(one) for one in value]
    return value


def shortened(lines: Sequence[str], most: int, whole: str) -> list[str]:
    """At most so many lines: of more, the first and above all the last ones, and how many lack.

    `whole` says where they all are.
    """
    if len(lines) <= most:
        return [*lines]
    first = (most - 1) // 4
    last = most - 1 - first
    left_out = len(lines) - first - last
    return [*lines[:first], f"… {left_out} lines left out: {whole}", *lines[-last:]]


def _spelled(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:
        # A byte of a name that is no text (PEP 383).
        code -= 0xDC00
    if code in (0x0A, 0x0D):
        return "\\n" if code == 0x0A else "\\r"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
