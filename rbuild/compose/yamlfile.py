"""YAML files as plain data, with the line of every key: what Compose takes, and nothing executed.

Scalars follow Compose's reader (go-yaml 3), not YAML 1.1: `yes`, `1:30` and `2001-01-01` are text.
So are numbers that aren't plain decimals (`0x1F`, `010`, `1e3`): nothing of ours needs their value.
The file's events are turned into nodes and data here, so that aliases stay shared (a "billion
laughs" file costs no more than its own size) and every problem can name its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import yaml
from yaml.reader import ReaderError

from rbuild.errors import InputError

try:
    from yaml import CSafeLoader as _Loader
except ImportError:  # PyYAML without libyaml: the same results, slower
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

Data: TypeAlias = "bool | int | float | str | list[Data] | dict[str, Data] | None"

MAX_DEPTH = 800
"""Levels of nesting that are read; what is to be done with the data may recurse."""

_MERGE = "tag:yaml.org,2002:merge"
_TEXT = "tag:yaml.org,2002:str"
_STANDARD = "tag:yaml.org,2002:"
_PLAIN = _STANDARD
"""Of a scalar whose looks decide what it is."""
_NULLS = {"", "~", "null", "Null", "NULL"}
_BOOLS = {
    word: value
    for value, words in ((True, "true True TRUE"), (False, "false False FALSE"))
    for word in words.split()
}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,18})", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)", re.ASCII)
_GO = re.compile(r"-?[0-9](?:\.[0-9]+)?e[-+][0-9]+|[0-9]{20}", re.ASCII)
"""A large or small number as Go writes it."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a YAML file. `data` is None for an empty one; its containers may be shared
    where the file uses aliases, so read them and don't change them."""

    path: str
    data: Data
    _root: yaml.Node = field(repr=False, compare=False)

    def line(self, *keys: str | int) -> int:
        """The line, from 1, of the key (or list item) that `keys` lead to, merged keys included;
        of the nearest one above it where the file has no such key."""
        node, line = self._root, _line(self._root)
        for key in keys:
            found = _child(node, key)
            if found is None:
                break
            mark, node = found
            line = _line(mark)
        return line

    def strings(self, *keys: str | int) -> Iterator[tuple[str, int]]:
        """Every string value (no keys) below `keys`, with its line; each place in the file once,
        however many aliases lead there. Nothing where there is no such key."""
        node = self._root
        for key in keys:
            found = _child(node, key)
            if found is None:
                return
            node = found[1]
        seen: set[int] = set()
        waiting = [node]
        while waiting:
            node = waiting.pop()
            if id(node) in seen or node.tag == "!reset":
                continue
            seen.add(id(node))
            if isinstance(node, yaml.ScalarNode):
                if isinstance(_scalar(node), str):
                    yield node.value, _line(node)
            elif isinstance(node, yaml.MappingNode):
                waiting += [value for _, value in reversed(node.value)]
            elif isinstance(node, yaml.SequenceNode):
                waiting += reversed(node.value)


def load(path: str) -> list[Document]:
    """The documents of the YAML file `path`, in order; an empty file has none.

    Of Compose's tags, `!reset` drops the value together with its key and `!override` changes
    nothing; unknown tags are ignored. Keys are the text in the file, whatever they look like. Of
    several anchors of one name the last before an alias counts, in another document too.
    Raises InputError ("file:line:column: what") where the file can't be read, isn't YAML, gives a
    key twice (an error in Compose too), contains itself, or is nested deeper than MAX_DEPTH.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    return read(raw, path)


def read(raw: bytes, path: str, *, numbers: bool = False) -> list[Document]:
    """The documents in `raw`, as `load` reads them; errors say that they are at `path`.

    With `numbers`, those that Compose writes as `1e+06`, and very long ones, are no text.
    """
    try:
        return _Reader(path, numbers).documents(yaml.parse(raw, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        what = ", ".join(text for text in (error.problem, error.context) if text)
        raise _error(path, error.problem_mark or error.context_mark, what) from error
    except ReaderError as error:
        raise InputError(_undecodable(path, raw, error)) from error


class _Reader:
    """Turns the events of a file into nodes and data, from the inside out.

    PyYAML's own composer knows nothing of anchors that are defined twice or in another document.
    """

    def __init__(self, path: str, numbers: bool) -> None:
        self.path = path
        self.numbers = numbers
        self.anchors: dict[str, yaml.Node] = {}
        self.data: dict[int, Data] = {}
        """By node; one that isn't here yet is still open."""

    def documents(self, events: Iterable[yaml.Event]) -> list[Document]:
        """All documents."""
        found: list[Document] = []
        open_nodes: list[yaml.CollectionNode] = []
        for event in events:
            if isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append(self._open(event))
                if len(open_nodes) > MAX_DEPTH:
                    what = f"nested deeper than {MAX_DEPTH} levels"
                    raise _error(self.path, event.start_mark, what)
                continue
            if isinstance(event, yaml.ScalarEvent):
                node: yaml.Node = self._leaf(event)
            elif isinstance(event, yaml.AliasEvent):
                node = self._target(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                node = self._close(open_nodes.pop())
            else:
                continue
            if open_nodes:
                open_nodes[-1].value.append(node)
            else:
                found.append(Document(self.path, self.data[id(node)], node))
        return found

    def _open(self, event: yaml.CollectionStartEvent) -> yaml.CollectionNode:
        is_map = isinstance(event, yaml.MappingStartEvent)
        kind = yaml.MappingNode if is_map else yaml.SequenceNode
        mark: Any = event.start_mark
        node = kind(event.tag or "", [], mark)
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def _leaf(self, event: yaml.ScalarEvent) -> yaml.ScalarNode:
        tag, mark = event.tag, cast(Any, event.start_mark)
        if tag in (None, "!"):
            is_plain = event.implicit[0]
            tag = (_MERGE if event.value == "<<" else _PLAIN) if is_plain else _TEXT
        node = yaml.ScalarNode(tag, event.value, mark, style=event.style)
        self.data[id(node)] = None if tag == "!reset" else self._value(node)
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def _value(self, node: yaml.ScalarNode) -> Data:
        value = _scalar(node)
        if self.numbers and not node.style and isinstance(value, str) and _GO.fullmatch(value):
            number = int(value) if value.isdecimal() else float(value)
            # As Go's JSON has it.
            return int(number) if abs(number) < 1e21 and number == int(number) else number
        return value

    def _target(self, event: yaml.AliasEvent) -> yaml.Node:
        node = self.anchors.get(event.anchor or "")
        if node is None:
            raise _error(self.path, event.start_mark, f"undefined alias {event.anchor!r}")
        if id(node) not in self.data:
            raise _error(self.path, event.start_mark, "the value contains itself")
        return node

    def _close(self, node: yaml.CollectionNode) -> yaml.CollectionNode:
        if isinstance(node, yaml.MappingNode):
            node.value = list(zip(node.value[::2], node.value[1::2], strict=True))
            data: Data = self._mapping(node)
        else:
            data = [self.data[id(item)] for item in node.value if item.tag != "!reset"]
        self.data[id(node)] = None if node.tag == "!reset" else data
        return node

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Data]:
        lines: dict[str, int] = {}
        own: dict[str, Data] = {}
        merged: dict[str, Data] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _error(self.path, key.start_mark, "a key must be a plain value")
            if key.value in lines:
                what = f"key {key.value!r} was already given on line {lines[key.value]}"
                raise _error(self.path, key.start_mark, what)
            lines[key.value] = _line(key)
            if key.tag == _MERGE:
                for source in _sources(value):
                    part = self.data[id(source)]
                    if not isinstance(part, dict):
                        what = "'<<' takes a mapping or a list of mappings"
                        raise _error(self.path, value.start_mark, what)
                    merged = part | merged
            elif value.tag != "!reset":
                own[key.value] = self.data[id(value)]
        return merged | own


def _sources(node: yaml.Node) -> list[yaml.Node]:
    """The mappings that a merge key takes from, the strongest first."""
    return list(node.value) if isinstance(node, yaml.SequenceNode) else [node]


def _child(node: yaml.Node, key: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    """The node that marks the place of `key` within `node`, and the value there."""
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int):
        items = [item for item in node.value if item.tag != "!reset"]
        return (items[key], items[key]) if 0 <= key < len(items) else None
    # Own keys before merged ones, as _Builder has it; `seen` keeps repeated aliases cheap.
    waiting, seen = [node], set[int]()
    while waiting:
        node = waiting.pop(0)
        if id(node) in seen or not isinstance(node, yaml.MappingNode):
            continue
        seen.add(id(node))
        merged: list[yaml.Node] = []
        for name, value in node.value:
            if name.tag == _MERGE:
                merged += _sources(value)
            elif name.value == key and value.tag != "!reset":
                return name, value
        waiting = merged + waiting
    return None


def _scalar(node: yaml.ScalarNode) -> bool | int | float | str | None:
    """The value of a scalar. Quoted, tagged `!!str` or with a tag we don't know: text."""
    text: str = node.value
    if node.style or node.tag == _TEXT or not node.tag.startswith(_STANDARD):
        return text
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _error(path: str, mark: Any, what: str) -> InputError:
    if mark is None:
        return InputError(f"{path}: {what}")
    return InputError(f"{path}:{mark.line + 1}:{mark.column + 1}: {what}")


def _undecodable(path: str, raw: bytes, error: ReaderError) -> str:
    # libyaml counts the position in bytes, pure Python in bytes or characters: near enough.
    before = raw[: error.position]
    line = before.count(b"\n") + 1
    column = error.position - (before.rfind(b"\n") + 1) + 1
    return f"{path}:{line}:{column}: not readable as text: {error.reason}"
