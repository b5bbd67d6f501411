"""What is YAML to Compose is YAML to rbuild, and means the same; held against both Composes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rbuild.compose.inputs import walk

from .keeping import next_compose

S = "services: {a: {image: x}}\n"
NOT_FOLLOWED = ("x-a: " + "[" * 1200 + "]" * 1200 + "\n" + S,)
ODDITIES: dict[str, tuple[str | bytes, ...]] = {
    "anchors": (
        "x-a: &a {image: x}\nx-b: &a {image: y}\nservices: {a: *a}\n",
        "services: {a: &a {image: x}, b: &a {image: z}, c: *a}\n",
        "x-a: &a {image: x}\nservices: {a: {<<: *a}, b: &a {image: z}, c: {<<: *a}}\n",
        "x-a: &a 1\nx-b: &a 2\nx-c: *a\n" + S,
        "x-a: &a [1]\nx-b: &a [2, &a 3, *a]\n" + S,
        "x-a: &a {image: x}\n---\nservices: {a: *a}\n",
        "x-a: &a {image: x}\n---\nx-b: &a {image: y}\nservices: {b: *a}\n",
        "x-a: &a.b/c:d {image: x}\nservices: {a: *a.b/c:d }\n",
        "x-a: &a-b_1 {image: x}\nservices: {a: *a-b_1}\n",
        "x-a: &😀 {image: x}\nservices: {a: *😀 }\n",
        "x-a: {&k b: 1, c: *k}\n" + S,
        "x-a: &k foo\nx-b: {*k : 1}\n" + S,
        "x-a: &k foo\nx-b: {*k : 1, *k : 2}\n" + S,
        "x-a: &k\nservices: {a: {image: x, command: *k}}\n",
        "x-a: !!str &a 1\nx-b: &b !!str 1\n" + S,
        "x-a: &a 1\nx-b: !!str *a\n" + S,
        "x-a: &a &b 1\n" + S,
        "x-a: *no\n" + S,
        S + "x-a: &a\n",
    ),
    "merge keys": (
        "services: {a: {<<: , image: x}}\n",
        "x-n: &n\nservices: {a: {<<: *n, image: x}}\n",
        "services: {a: {<<: b, image: x}}\n",
        "services: {a: {<<: [], image: x}}\n",
        "services: {a: {<<: [~], image: x}}\n",
        "services: {a: {<<: {image: x}, init: true}}\n",
        "x-a: &a {image: x}\nservices: {a: {<<: [*a, {init: true, image: y}]}}\n",
        "x-a: &a [{image: x}]\nservices: {a: {<<: *a}}\n",
        "x-a: &a {image: x}\nx-b: &b {init: true}\nservices: {a: {<<: *a, <<: *b}}\n",
        "x-a: &a {image: x}\nservices: {a: {!!merge <<: *a}}\n",
        "x-a: &a {image: x}\nservices: {a: {!!merge foo: *a}}\n",
        'x-a: &a {image: x}\nservices: {a: {image: y, labels: {"<<": z}}}\n',
        "x-a: {<<: 1}\n" + S,
    ),
    "keys": (
        "x-a: 1\nx-a: 2\n" + S,
        "x-a: {b: 1, 'b': 2}\n" + S,
        "? services\n: {a: {image: x}}\n",
        "? [a]\n: b\n" + S,
        "x-a: {{a: b}: c}\n" + S,
        "x-a: {1: b}\n" + S,
        "x-a: {~: b}\n" + S,
        "services: {a: {image: x, environment: {yes: b, on: c}}}\n",
        "services: {a: {image: x, environment: {1: b}}}\n",
        'x-a: {"": 1}\n' + S,
        "x-a: {=: 1}\n" + S,
        "x-" + "a" * 2000 + ": 1\n" + S,
        '"x-a\n b": 1\n' + S,
        "x-a: {a, b: }\n" + S,
        "x-a: [a: 1]\n" + S,
        'x-a: {"a":1, b:2}\n' + S,
    ),
    "tags": (
        "x-a: !!binary aGk=\n" + S,
        "x-a: !!binary '***'\n" + S,
        "x-a: !!set {a, b}\n" + S,
        "x-a: !!set\n  ? a\n  ? b\n" + S,
        "x-a: !!omap [a: 1, b: 2]\n" + S,
        "x-a: !!pairs [a: 1, a: 2]\n" + S,
        'x-a: !!int "3"\n' + S,
        "x-a: !!int foo\n" + S,
        "x-a: !!float 3\n" + S,
        'services: {a: {image: x, init: !!bool "true"}}\n',
        'x-a: !!null ""\n' + S,
        "x-a: !!timestamp 2001-01-01\n" + S,
        "x-a: !!map [1]\n" + S,
        "x-a: !!str {a: 1}\n" + S,
        "x-a: !!python/object:os.system x\n" + S,
        "x-a: !foo bar\n" + S,
        "services: !foo {a: !bar {image: x}}\n",
        "x-a: !<tag:yaml.org,2002:str> 3\n" + S,
        "x-a: ! 12\n" + S,
        "%TAG ! tag:x,2000:\n---\nx-a: !foo 1\n" + S,
        "x-a: !h!foo 1\n" + S,
        "services: {a: {image: x, command: !reset null}}\n",
        "services: {a: {image: x}, b: !reset {image: y}}\n",
        "services: {a: {image: x, command: [a, !reset b]}}\n",
        "x-a: &a !reset [1]\nservices: {a: {image: x, command: *a}}\n",
        "services: {a: {image: x, command: !override [a]}}\n",
        "x-a: &a {init: true}\nservices: {a: {image: x, <<: !reset *a}}\n",
    ),
    "documents": (
        "%YAML 1.1\n---\n" + S,
        "%YAML 1.2\n---\n" + S,
        "%YAML 2.0\n---\n" + S,
        "%FOO bar\n---\n" + S,
        S + "...\n",
        S + "...\ngarbage: [\n",
        S + "...\n---\nx-a: 1\n",
        "x-a: 1\n---\n" + S,
        "---\n---\n" + S,
        S + "---\n",
        S + "---\nfoo\n",
        "# c\n---\n" + S,
        "--- {services: {a: {image: x}}}\n",
        '{"services": {"a": {"image": "x", "command": ["\\u00e9"]}}}',
        '{\n\t"services": {\n\t\t"a": {"image": "x"}\n\t}\n}',
        '{"services": {"a": {"image": "x",},},}',
        "",
    ),
    "tabs": (
        "services:\n  a:\n    image:\tx\n",
        "services:\n\ta: {image: x}\n",
        "services:\n\t\n  a: {image: x}\n",
        "services:\t\n  a: {image: x}\t\n",
        "services:\n  a: {image: x}\t# c\n",
        "services:\n\t# c\n  a: {image: x}\n",
        "services: {\n\ta: {image: x}\n}\n",
        "x-a: |\n  a\n\t\n  b\n" + S,
        "services:\n  a:\n    image: x\n    command:\n    -\ta\n",
        "x-a: a\n\tb\n" + S,
    ),
    "characters": (
        b"\xef\xbb\xbf" + S.encode(),
        b"x-a: a\xef\xbb\xbfb\n" + S.encode(),
        S.encode("utf-16"),
        b"\xfe\xff" + S.encode("utf-16-be"),
        S.encode("utf-16-le"),
        S.encode("utf-32"),
        "x-a: é\n".encode("latin1") + S.encode(),
        "x-a: 😀\nx-😀: \U0010ffff \U000f0000 \ue000\n" + S,
        'x-a: "\\U0001F600 \\x41 \\0 \\e \\N"\n' + S,
        'x-a: "\\ud83d\\ude00"\n' + S,
        'x-a: "\\/"\n' + S,
        *(f"x-a: {one}\n{S}" for one in "\ufffe\uffff\u00a0\u2028\u0085\x7f\x81\0\x07\x0c\x0b"),
        "# a\u2028x-b: c\n" + S,
        "# a\u0085x-b: c\n" + S,
        "# \x1b[0m\n" + S,
        S + "\0",
        S.replace("\n", "\r\n"),
        "services:\r\n  a:\r\n    image: x\r\n    command: |\r\n      a\r\n",
        "x-a: 1\rservices: {a: {image: x}}\r",
        S.rstrip(),
    ),
    "scalars and layout": (
        "services:\n  a:\n    image: x\n    command:\n    - a\n",
        "services:\n  a:\n# c\n    image: x\n",
        "x-a:\n# c\n- a\n# d\n- b\n" + S,
        "   # c\n" + S,
        "x-a: |2-\n   a\n  b\n" + S,
        "x-a: |# c\n  a\n" + S,
        "x-a: |\n  a\n # c\n" + S,
        'x-a: "a\\\n  b"\n' + S,
        'x-a:\n  b: "c\nd"\n' + S,
        "x-a: [http://a.b/c, a?b]\n" + S,
        "x-a: [a, ?c]\n" + S,
        "x-a: @b\n" + S,
        "x-a: %b\n" + S,
        "x-a: .inf\n" + S,
        "x-a: .nan\n" + S,
        "x-a: 99999999999999999999999999\n" + S,
        "x-a: b: c\n" + S,
        "x-a:\n" + "".join(f"{' ' * i}a:\n" for i in range(1, 300)) + S,
        "x-a: " + "{a: " * 700 + "1" + "}" * 700 + "\n" + S,
        *NOT_FOLLOWED,
    ),
}


@pytest.fixture(params=["present", "next"])
def compose(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment of either Compose."""
    return next_compose(tmp_path / "docker") if request.param == "next" else {}


@pytest.mark.parametrize("kind", ODDITIES)
def test_what_compose_accepts_is_followed(
    compose: dict[str, str], kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "compose.yaml"
    argv = ["docker", "compose", "config", "--format", "yaml"]
    accepted = 0
    for text in ODDITIES[kind]:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        done = subprocess.run(argv, cwd=tmp_path, env={**os.environ, **compose},
                              capture_output=True, text=True)  # fmt: skip
        if done.returncode:
            continue
        accepted += 1
        found = walk(str(tmp_path), (), {})
        if text in NOT_FOLLOWED:
            assert {*found.unread} == {str(path)}
            continue
        assert not found.unread, repr(text)
        ours: dict[str, Any] = {}
        for document in found.documents:
            assert isinstance(document.data, dict)
            ours |= document.data.get("services") or {}  # type: ignore[arg-type]
        lines = done.stdout.replace('"', "").splitlines()
        images = [line for line in lines if line.startswith("    image: ")]
        wanted = [f"    image: {ours[name]['image']}" for name in sorted(ours)]
        assert images == wanted, repr(text)
    assert accepted > 2
