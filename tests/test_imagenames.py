"""Image names that can't be: which ones an update would use, and where they stand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from rbuild.compose.imagenames import refuse_invalid
from rbuild.compose.loading import load
from rbuild.compose.project import Target, locate
from rbuild.docker.engine import Engine
from rbuild.errors import ProjectError
from rbuild.state.record import Store

BUILD = {"context": "/", "dockerfile_inline": "FROM scratch"}


class Rendering:
    """An engine that renders services as a test says."""

    def __init__(self, services: Mapping[str, Any]) -> None:
        self.services = services

    def render(self, target: Target, *, service_extensions: bool) -> tuple[dict[str, Any], str]:
        return {"name": "p", "services": self.services}, ""


def refused(folder: Path, services: Mapping[str, Any], *, up: bool = True, **files: str) -> str:
    """What is said of a project of these files, of which Compose makes these services."""
    for name, text in {"compose": "services: {}\n", **files}.items():
        (folder / f"{name.replace('_', '.')}.yml").write_text(text)
    engine = cast(Engine, Rendering(services))
    found = load(locate(str(folder), "/"), engine, Store(str(folder / "state")), {})
    try:
        refuse_invalid(found, up=up)
    except ProjectError as error:
        return "\n".join(filter(None, (error.message, error.detail, error.hint)))
    return ""


def test_the_last_file_that_may_have_said_it_is_named(tmp_path: Path) -> None:
    said = refused(
        tmp_path,
        {"web": {"image": "r.example/App:1"}},
        compose="services:\n  web:\n    image: r.example/App:${TAG:-1}\n",
        compose_override="services:\n  web:\n    labels: {a: b}\n",
    )
    assert said.splitlines() == [
        f"{tmp_path}/compose.yml:3: services.web.image: 'r.example/App:1' is not a valid image "
        "name (capital letters)",
        "only its tag may have capital letters",
    ]
    said = refused(
        tmp_path,
        {"web": {"image": "App"}},
        compose_override="services:\n  web:\n    image: App\n",
    )
    assert said.startswith(f"{tmp_path}/compose.override.yml:3: services.web.image: 'App' is not")


def test_without_a_place_the_project_is_named(tmp_path: Path) -> None:
    """What extends something else, or merges it, stands nowhere by that name."""
    said = refused(tmp_path, {"web": {"image": "App"}})
    assert said.startswith(f"{tmp_path}: services.web.image: 'App' is not a valid image name")


def test_a_variable_that_is_not_set_comes_first(tmp_path: Path) -> None:
    said = refused(
        tmp_path,
        {"a": {"image": "App"}, "b": {"image": "-app:1"}, "c": {"image": "/x:"}},
        compose="services:\n  a: {image: App}\n  b: {image: '${PREFIX}-app:1'}\n"
        "  c: {image: '$REGISTRY/x:$TAG'}\n",
    ).splitlines()
    place = f"{tmp_path}/compose.yml"
    assert said == [
        f"{place}:3: variable PREFIX is not set: services.b.image: '-app:1' is not a valid image "
        "name (it begins with '-')",
        f"{place}:4: variables REGISTRY, TAG are not set: services.c.image: '/x:' is not a valid "
        "image name (its tag is empty)",
        f"{place}:2: services.a.image: 'App' is not a valid image name (capital letters)",
        "set it in .env or the environment, or give it a default: ${NAME:-value}",
    ]


def test_a_name_that_compose_makes(tmp_path: Path) -> None:
    said = refused(
        tmp_path,
        {"My.App": {"build": {"context": "/x"}}},
        compose="services:\n\n  My.App: {build: /x}\n",
    )
    assert said.splitlines() == [
        f"{tmp_path}/compose.yml:3: services.My.App: its image would be named 'p-My.App', which "
        "is not a valid image name (capital letters)",
        "give the service an `image:`, or another name",
    ]


@pytest.mark.parametrize(
    ("service", "said"),
    [
        ({"image": "a", "build": {**BUILD, "tags": ["ok", "r.example/B:1"]}},
         ":2: services.web.build.tags: 'r.example/B:1' is not"),
        ({"image": "a", "volumes": [{"type": "image", "source": "example/Data:1", "target": "/d"}]},
         ":2: services.web.volumes: 'example/Data:1' is not"),
    ],
)  # fmt: skip
def test_further_names(tmp_path: Path, service: dict[str, Any], said: str) -> None:
    text = f"services:\n  web: {service}\n"
    found = refused(tmp_path, {"web": service}, compose=text)
    assert found.startswith(f"{tmp_path}/compose.yml{said}")


def test_what_is_not_used_is_not_looked_at(tmp_path: Path) -> None:
    volume = {"type": "volume", "source": "Data", "target": "/d"}
    assert refused(tmp_path, {"a": {"provider": {"type": "x"}}, "b": {"image": "b"}}) == ""
    assert refused(tmp_path, {"a": {"image": "a", "volumes": [volume]}}) == ""
    assert refused(tmp_path, {"a": {"image": "0f" * 32}}) == ""
    assert refused(tmp_path, {"a": {"image": "A"}}, up=False) == ""
    assert refused(tmp_path, {"a": {"image": "A", "build": BUILD}}, up=False)
