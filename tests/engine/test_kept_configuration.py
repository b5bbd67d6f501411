"""What Compose renders, kept, is read again by Compose: every key of a service in its schema.

A container that is made from the kept configuration has the hash of one made from the files.
`schema/keys.txt` has the keys of a service in the Compose specification (compose-spec.json, June
2026), `schema/compose.yml` a service for each, `schema/newer.yml` what came after Compose 2.26.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rbuild.compose import yamlfile
from rbuild.compose.project import Target
from rbuild.docker.whales import Whales
from rbuild.process import Stop
from rbuild.state import generation

from .keeping import next_compose

SCHEMA = Path(__file__).parent / "schema"
FILES = ("compose.yml", "newer.yml")
# An env file's own line counts in a hash and is not rendered; in Compose 2.26's, so does a
# dependency on a service that is not there.
HASHED_OTHERWISE = {"env_file", "depends_on_optional"}


def test_the_table_has_every_key_of_the_schema() -> None:
    keys: set[str] = set()
    for name in FILES:
        (document,) = yamlfile.load(str(SCHEMA / name))
        assert isinstance(document.data, dict)
        services: Any = document.data["services"]
        keys.update(key for service in services.values() for key in service)
    assert keys - {"x-any"} == {*(SCHEMA / "keys.txt").read_text().split()}


@pytest.mark.parametrize(
    ("writer", "reader"), [("present", "present"), ("next", "next"), ("present", "next")]
)
def test_what_is_kept_is_read_again(
    writer: str, reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = FILES if writer == "next" else FILES[:1]
    target = make_project(tmp_path / "table", files)
    environments = {"present": {}, "next": next_compose(tmp_path / "docker")}
    use_compose(monkeypatch, environments[writer])
    rendered, _ = Whales(Stop()).render(target)
    from_files = Whales(Stop()).hashes(target)
    path = str(tmp_path / "kept.json")
    generation.write_configuration(path, rendered)
    assert generation.read_configuration(path)[0] == generation.readable(rendered)

    use_compose(monkeypatch, environments[reader])
    kept = Target(target.folder, (path,), (), "table")
    again, _ = Whales(Stop()).render(kept)
    assert again["services"].keys() == rendered["services"].keys()
    print(f"{len(again['services'])} services of Compose {writer} read by {reader}")
    if reader != writer:
        # Another Compose writes modes and defaults in another way.
        return
    found = {name: differences(rendered, again, name) for name in rendered["services"]}
    assert {name: keys for name, keys in found.items() if keys} == {}
    for kind in ("networks", "volumes", "configs"):
        assert again[kind] == rendered[kind]
    from_kept = Whales(Stop()).hashes(kept)
    assert {one for one in from_files if from_files[one] != from_kept[one]} <= HASHED_OTHERWISE


def make_project(folder: Path, files: tuple[str, ...]) -> Target:
    folder.mkdir()
    for name in files:
        text = (SCHEMA / name).read_text().replace("$BASE", os.environ["RBUILD_BASE"])
        (folder / name).write_text(text)
    for name in ("c.txt", "s.txt", "f.conf", "a.env", "l.env"):
        (folder / name).write_text("A=b\n")
    return Target(str(folder), tuple(str(folder / name) for name in files))


def use_compose(monkeypatch: pytest.MonkeyPatch, env: Mapping[str, str]) -> None:
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    monkeypatch.setenv("COMPOSE_PROFILES", "p")
    for name, value in env.items():
        monkeypatch.setenv(name, value)


def differences(
    rendered: Mapping[str, Any], again: Mapping[str, Any], name: str
) -> dict[str, tuple[Any, Any]]:
    """What of a service reads otherwise, its build aside."""
    old, new = (generation.readable(one)["services"][name] for one in (rendered, again))
    return {
        key: (old.get(key), new.get(key))
        for key in sorted((old.keys() | new.keys()) - {"build"})
        if (old.get(key) or None) != (new.get(key) or None)
    }
