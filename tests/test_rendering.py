"""What Compose renders as YAML, as its JSON has it; engine/ holds it against the real ones."""

from __future__ import annotations

from typing import Any

import pytest

from rbuild.compose.rendering import from_json, from_yaml, service_extensions, settle_ssh

TEXT = """\
name: p
services:
  x-web:
    build: {context: /p, x-b: 1, args: {x-a: "1"}}
    deploy: {replicas: 2, x-d: 1}
    blkio_config: {weight: 3, device_read_bps: [{path: /dev/x, rate: "3"}]}
    develop: {watch: [{path: /p, action: rebuild}]}
    networks: {x-net: {priority: 3, x-n: 1}}
    x-own: {a: 1}
networks: {x-net: {name: p_x-net, x-n: 1}}
x-top: {x-a: 1}
x-rbuild: {x-a: 1}
"""


def test_extensions_and_what_yaml_leaves_out() -> None:
    assert from_yaml(TEXT, "p") == {
        "name": "p",
        "services": {
            "x-web": {
                "build": {"context": "/p", "args": {"x-a": "1"}},
                "deploy": {"replicas": 2, "placement": {}, "resources": {}},
                "blkio_config": {
                    "weight": 3, "device_read_bps": [{"Path": "/dev/x", "Rate": "3"}]
                },
                "develop": {
                    "watch": [{"path": "/p", "action": "rebuild", "exec": {"command": None}}]
                },
                "networks": {"x-net": {"priority": 3}},
                "command": None,
                "entrypoint": None,
            }
        },
        "networks": {"x-net": {"name": "p_x-net", "ipam": {}}},
        "x-rbuild": {"x-a": 1},
    }  # fmt: skip
    assert service_extensions(TEXT, "p") == {"x-web": {"x-own": {"a": 1}}}


def test_extensions_at_the_top_are_left_out_at_any_depth() -> None:
    deep = "[\n    " * 100_000 + "]" * 100_000
    parts = ['"name": "p"', '"services": {\n    "x-w": {}\n  }', f'"x-a": {deep}',
             '"x-rbuild": {\n    "x-b": 1\n  }', '"x-c": [\n    1\n  ]']  # fmt: skip
    for order in (parts, parts[::-1], [*parts[:3], parts[4], parts[3]]):
        found = from_json("{\n  " + ",\n  ".join(order) + "\n}\n")
        assert found == {"name": "p", "services": {"x-w": {}}, "x-rbuild": {"x-b": 1}}
    text = 'name: p\nx-a:\n  - |\n    a\n\n    b\n"x-b": 1\nx-rbuild: 2\nservices: {}\nx-d: 1\n'
    assert from_yaml(text, "p") == {"name": "p", "x-rbuild": 2, "services": {}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e+06", 1000000), ("-1.5e+06", -1500000), ("1.234567895e+08", 123456789.5),
        ("1e-07", 1e-07), ("1e+20", 10**20), ("1e+21", 1e21), ("0.5", 0.5), ("-0", 0),
        ("18446744073709551615", 18446744073709551615), ('"1e+06"', "1e+06"),
        ("2001-01-01T00:00:00Z", "2001-01-01T00:00:00Z"), ("1e6", "1e6"),
    ],
)  # fmt: skip
def test_numbers_as_go_writes_them(text: str, value: Any) -> None:
    found = from_yaml(f"x-rbuild: {text}\n", "p")["x-rbuild"]
    assert (found, type(found)) == (value, type(value))


def test_ssh_keys_are_as_one_writes_them_and_in_order() -> None:
    rendered = {"services": {
        "a": {"build": {"ssh": ["z: /k: 2", "default", "b: /k"]}}, "b": {"build": None}, "c": {},
    }}  # fmt: skip
    settle_ssh(rendered)
    assert rendered["services"]["a"] == {"build": {"ssh": ["b=/k", "default", "z=/k: 2"]}}
    settle_ssh({"name": "p"})
