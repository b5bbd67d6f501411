"""The harness itself: what breaks here would make the other tests of this folder lie."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from . import engines
from .conftest import MakeSite
from .engines import private_engine


@pytest.mark.parametrize("containerd", [False, True], ids=["overlay2", "containerd"])
def test_a_private_engine_is_killed_started_and_leaves_nothing(
    make_site: MakeSite, containerd: bool
) -> None:
    with private_engine(containerd=containerd) as engine:
        driver = engine.run("docker", "info", "--format", "{{.Driver}}").strip()
        site = make_site(engine, {"web": "restart: always", "api": "restart: always"})
        assert site.rbuild().code == 0
        served = {"web": "web one", "api": "api one"}
        before = site.answers_soon(served)

        engine.kill()
        engine.start()
        after = site.answers_soon(served)
        site.remove()
        home, data = engine.home, engine.data

    assert (driver == "overlay2") is not containerd
    assert before == after == served
    assert not home.exists()
    assert not data.exists()
    assert not engines.processes_of(home)
    assert not engines.cgroups_of(home)
    assert home.name not in subprocess.check_output(["ip", "netns"], text=True)
    mounts = Path("/proc/self/mountinfo").read_text()
    assert str(home) not in mounts
    assert str(data) not in mounts
