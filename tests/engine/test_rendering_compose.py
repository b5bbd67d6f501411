"""Compose's YAML, turned into what its JSON says, held against that JSON."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rbuild.compose import rendering
from rbuild.compose.project import Target
from rbuild.docker.whales import Whales
from rbuild.process import Stop

from .keeping import next_compose

FILES = Path(__file__).with_name("renderings")


@pytest.fixture(params=["present", "next"])
def compose(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which Compose `docker compose` is."""
    if request.param == "next":
        monkeypatch.setenv("DOCKER_CONFIG", next_compose(tmp_path / "docker")["DOCKER_CONFIG"])
    return str(request.param)


def config(folder: Path, form: str) -> str:
    argv = ["docker", "compose", "config", "--format", form]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["wide", "extensions", "newer"])
def test_from_yaml_it_is_what_json_says(compose: str, name: str, tmp_path: Path) -> None:
    if name == "newer" and compose == "present":
        return
    shutil.copy(FILES / f"{name}.yaml", tmp_path / "compose.yaml")
    (tmp_path / "e.env").write_text("E=1\n")
    (tmp_path / "labels.env").write_text("L=1\n")
    wanted = rendering.from_json(config(tmp_path, "json"))
    found = rendering.from_yaml(config(tmp_path, "yaml"), "here")
    assert json.dumps(found, sort_keys=True) == json.dumps(wanted, sort_keys=True)


@pytest.mark.parametrize("depth", [300, 1200])
def test_what_is_nested_deep_does_not_matter(compose: str, tmp_path: Path, depth: int) -> None:
    deep = "[" * depth + "]" * depth
    (tmp_path / "compose.yaml").write_text(
        f"name: p\nx-a: {deep}\nx-rbuild: {{keep-images: 2}}\n'x-b': {{a: {deep}}}\n"
        "services:\n  web: {x-own: 1, image: a, environment: {x-a: 1}}\nx-z: [1]\n"
    )
    found, _ = Whales(Stop()).render(Target(str(tmp_path)), service_extensions=True)
    assert found.keys() == {"name", "networks", "services", "x-rbuild"}
    assert found["services"]["web"]["x-own"] == 1
    assert found["x-rbuild"] == {"keep-images": 2}


def test_keys_for_builds_are_rendered(compose: str, tmp_path: Path) -> None:
    def rendered(text: str) -> Any:
        (tmp_path / "compose.yaml").write_text(text)
        return Whales(Stop()).render(Target(str(tmp_path)), service_extensions=True)

    plain = "name: p\nservices:\n  web: {x-own: {a: 1e6}, image: a$$b, build: {context: .%s}}\n"
    config, complaints = rendered(plain % ", ssh: ['deploy=./key', default], args: {A: $UNSET}")
    without, _ = rendered(plain % ", args: {A: ''}")
    keys = config["services"]["web"]["build"].pop("ssh")
    assert keys == ["default", f"deploy={tmp_path}/key"]
    assert config == without
    assert config["services"]["web"]["x-own"] == {"a": 1000000}
    assert config["services"]["web"]["image"] == "a$b"
    assert 'The \\"UNSET\\" variable is not set' in complaints
    # Compose gives them in any order.
    every = plain % ", ssh: {a: x, b: y, c: z, d: ~}"
    assert all(rendered(every) == rendered(every) for _ in range(5))
