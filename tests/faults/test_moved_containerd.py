"""Images that move, with the containerd image store: every image has digests there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .engines import private_engine
from .projects import Site, new_site
from .published import publish

pytestmark = pytest.mark.versions


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A project whose base and image are in the registry, up and well."""
    with private_engine(containerd=True) as engine:
        made = new_site(
            engine, tmp_path_factory.mktemp("moved"), {"web": ""},
            settings="{settle-period: 1, check: [base, image]}",
            more="  side: {image: $SIDE, init: true}\n",
        )  # fmt: skip
        made.edit("compose.yml", "$SIDE", put(made, "side", "one"))
        base = put(made, "base", "one")
        made.edit("web/Dockerfile", os.environ["RBUILD_BASE"], base)
        ran = made.rbuild()
        assert ran.code == 0, ran.err
        yield made
        made.remove()


def put(site: Site, name: str, text: str) -> str:
    return publish(f"{site.name}/{name}", "1", {"/v": text}, Cmd=["sleep", "1000"])


def version(site: Site, service: str) -> str:
    return site.engine.run("docker", "exec", f"{site.name}-{service}-1", "cat", "/v")


def is_silent(site: Site) -> bool:
    return site.rbuild().silent and site.rbuild().code == 0


def test_what_moves_is_followed_and_what_fails_is_rolled_back(site: Site) -> None:
    assert is_silent(site)
    put(site, "base", "two")
    ran = site.rbuild("--update", "moved")
    assert ran.code == 0, ran.err
    assert "base-moved" in ran.out
    assert version(site, "web") == "two"
    assert is_silent(site)
    publish(f"{site.name}/side", "1", {"/v": "bad"}, Cmd=["false"])
    ran = site.rbuild()
    assert ran.code == 3, ran.err
    assert version(site, "side") == "one"
    assert site.rbuild().code == 75
    put(site, "side", "three")
    assert site.rbuild().code == 0
    assert (version(site, "side"), version(site, "web")) == ("three", "two")
    assert is_silent(site)


def test_a_digest_to_stay_on_is_pulled_by_its_name(site: Site) -> None:
    env = {"RBUILD_MIN_AGE": "3d"}
    before = version(site, "web")
    reference = put(site, "base", "young")
    assert site.rbuild(**env).silent
    site.engine.run("docker", "rmi", "-f", reference)
    ran = site.rbuild("--force-rebuild", **env)
    assert ran.code == 0, ran.err
    assert version(site, "web") == before
    memory = Path(site.state, "registries.json")
    data = json.loads(memory.read_text())
    for one in data["seen"].values():
        one[1] -= 4 * 86400
    memory.write_text(json.dumps(data))
    ran = site.rbuild(**env)
    assert ran.code == 0, ran.err
    assert version(site, "web") == "young"
    assert site.rbuild(**env).silent
