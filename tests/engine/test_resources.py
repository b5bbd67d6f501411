"""Networks and volumes whose options Compose does not apply."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .conftest import Project
from .keeping import next_compose
from .tools import ids

USES = """\
services:
  web: {image: $BASE, command: sleep 999, init: true, volumes: ["data:/data"]}
  db: {image: $BASE, command: sleep 999, init: true}
x-rbuild: {settle-period: 0}
"""


@pytest.fixture(params=[False, True], ids=["this Compose", "the next Compose"])
def applies_networks(request: pytest.FixtureRequest, tmp_path: Path, project: Project) -> bool:
    """Let a project be worked with either Compose; whether that makes changed networks anew."""
    if request.param:
        project.env.update(next_compose(tmp_path / "docker"))
    return not project.compose("version", "--short").startswith("2.26.")


def amended(project: Project, more: str) -> Any:
    project.write("compose.yml", USES + more)
    return project.rbuild()


def test_options_that_compose_does_not_apply_are_told(
    project: Project, applies_networks: bool
) -> None:
    plain = "volumes: {data: {}}\nnetworks: {default: {}}\n"
    assert amended(project, plain).code == 0
    before = ids(project)
    opts = "driver_opts: {com.docker.network.bridge.enable_icc: 'false'}"
    ran = amended(project, f"volumes: {{data: {{}}}}\nnetworks: {{default: {{{opts}}}}}\n")
    assert ran.code == 0
    keeps = "warning: network default keeps its old driver_opts: `docker compose down` and"
    assert (keeps in ran.err) is not applies_networks
    assert ("updated db, web in" in ran.out) is applies_networks, (
        "the newer one makes the network anew"
    )
    assert ("checked, nothing new in" in ran.out) is not applies_networks
    # What is taken back needs no warning.
    assert amended(project, plain).err == ""
    ran = amended(project, "volumes: {data: {labels: {a: b}}}\nnetworks: {default: {}}\n")
    assert "warning: volume data keeps its old labels: only a new volume" in ran.err
    assert "checked, nothing new in" in ran.out
    assert ids(project) == before
