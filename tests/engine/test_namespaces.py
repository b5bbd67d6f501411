"""Who lives in another container's network, pid or ipc namespace is not cut off by an update."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Project, clean_up, run
from .keeping import next_compose
from .tools import inside, record

SETTLE = "x-rbuild: {settle-period: 0}\n"
BUILT = "FROM $BASE\nRUN date +%s%N >/built\nCMD sleep 1000\n"
IDLE = "image: $BASE, init: true, command: sleep 1000"


@pytest.fixture
def pair(project: Project) -> Iterator[tuple[Project, Project]]:
    """`vpn`, which is built, and `app`, three services of which live in its one container."""
    vpn = Project(project.folder / "vpn", f"{project.name}vpn", project.base, project.env)
    app = Project(project.folder / "app", f"{project.name}app", project.base, project.env)
    vpn.write("Dockerfile", BUILT)
    vpn.write(
        "compose.yml",
        f"name: {vpn.name}\nservices: {{web: {{build: ., init: true, ipc: shareable}}}}\n{SETTLE}",
    )
    where = f"'container:{vpn.name}-web-1'"
    app.write(
        "compose.yml",
        f"""\
name: {app.name}
services:
  net: {{{IDLE}, network_mode: {where}}}
  sub: {{{IDLE}, network_mode: "service:net", depends_on: [beside]}}
  pid: {{image: $BASE, command: sleep 1000, pid: {where}}}
  ipc: {{{IDLE}, ipc: {where}, depends_on: [job]}}
  beside: {{{IDLE}}}
  job: {{image: $BASE, command: "true"}}
{SETTLE}""",
    )
    yield vpn, app
    for name in (app.name, vpn.name):
        clean_up(name)


def ids(project: Project) -> dict[str, str]:
    """The ID of each service's container."""
    return {one["Config"]["Labels"]["com.docker.compose.service"]: one["Id"]
            for one in project.containers().values()}  # fmt: skip


def ways(project: Project) -> dict[str, tuple[str, ...]]:
    """Of each running service, the IDs of the containers in whose namespaces it lives."""
    found = {}
    for one in project.containers().values():
        modes: list[str] = [one["HostConfig"][f"{kind}Mode"] for kind in ("Network", "Pid", "Ipc")]
        owners = tuple(mode.partition(":")[2] for mode in modes if mode.startswith("container:"))
        if owners and one["State"]["Running"]:
            found[one["Config"]["Labels"]["com.docker.compose.service"]] = owners
    return found


def holds(vpn: Project, app: Project) -> bool:
    """Whether all of `app` live where they should."""
    web = ids(vpn)["web"]
    return ways(app) == {
        "net": (web,), "pid": (web,), "ipc": (web,), "sub": (ids(app)["net"],)
    } and all(
        "eth0" in inside(f"{app.name}-{name}-1", "cat", "/proc/net/dev") for name in ("net", "sub")
    )  # fmt: skip


@pytest.mark.parametrize("compose", ["this Compose", "next Compose"])
def test_an_update_reconnects_what_shares_its_namespaces(
    pair: tuple[Project, Project], tmp_path: Path, compose: str
) -> None:
    vpn, app = pair
    if compose == "next Compose":
        vpn.env.update(next_compose(tmp_path / "next"))
    assert vpn.rbuild().code == 0
    assert app.rbuild().code == 0
    assert holds(vpn, app)
    before = ids(app)
    ran = vpn.rbuild("--force-rebuild")
    assert ran.code == 0, ran.err
    assert holds(vpn, app)
    for name in ("net", "pid", "ipc"):
        kind = "network" if name == "net" else name
        assert f"recreated {app.name}-{name}-1 of project {app.name}, which shares web's {kind}\n" \
            in ran.err  # fmt: skip
    after = ids(app)
    assert {name for name in before if before[name] != after[name]} == {"net", "sub", "pid", "ipc"}
    assert record(app)["services"]["net"]["containers"] == [after["net"]]
    assert app.rbuild("--check", "image").out == ""
    # Compose has nothing to add; but what ran behind a finished one-shot, 2.26 makes anew.
    app.compose("up", "-d")
    assert {name: one for name, one in ids(app).items() if name != "ipc"} == {
        name: one for name, one in after.items() if name != "ipc"
    }
    # What fails and is rolled back has cut off as much.
    vpn.write("Dockerfile", BUILT.replace("sleep 1000", "false"))
    ran = vpn.rbuild("--force-rebuild")
    assert ran.code == 3, ran.err
    assert holds(vpn, app)
    # And so has a person who goes back.
    vpn.write("Dockerfile", BUILT)
    assert vpn.rbuild("--force-rebuild").code == 0
    assert vpn.rbuild("rollback").code == 0
    assert holds(vpn, app)


@pytest.mark.parametrize("compose", ["this Compose", "next Compose"])
def test_an_update_of_ones_own_finds_the_way_back_in(
    pair: tuple[Project, Project], tmp_path: Path, compose: str
) -> None:
    vpn, app = pair
    if compose == "next Compose":
        app.env.update(next_compose(tmp_path / "next"))
    assert vpn.rbuild().code == 0
    assert app.rbuild().code == 0
    vpn.compose("up", "-d", "--force-recreate", "-t", "1")
    assert not holds(vpn, app)
    beside = ids(app)["beside"]
    ran = app.rbuild("--force-rebuild")
    assert ran.code == 0, ran.err
    assert holds(vpn, app)
    after = ids(app)
    assert after["beside"] == beside
    app.compose("up", "-d")
    assert ids(app) == after
    # The same container, started again: its namespaces are others.
    run(["docker", "restart", "-t", "1", f"{vpn.name}-web-1"])
    assert app.rbuild("--force-rebuild").code == 0
    assert holds(vpn, app)
    # Where there is nothing to live in, nothing is touched.
    before = ids(app)
    run(["docker", "stop", "-t", "1", f"{vpn.name}-web-1"])
    ran = app.rbuild("--force-rebuild")
    assert ran.code == 1
    assert f"services ipc, net, pid: container {vpn.name}-web-1 (" in ran.err
    assert ") does not run" in ran.err
    assert ids(app) == before


def test_what_cannot_be_reconnected_is_told_with_what_to_type(
    pair: tuple[Project, Project],
) -> None:
    vpn, app = pair
    assert vpn.rbuild().code == 0
    assert app.rbuild().code == 0
    other = Project(app.folder.parent / "other", f"{app.name}x", app.base, app.env)
    other.write("compose.yml", f"name: {other.name}\nservices: {{x: {{{IDLE}, network_mode: "
                f"'container:{vpn.name}-web-1'}}}}\n")  # fmt: skip
    other.compose("up", "-d")
    alone = f"{app.name}alone"
    where = f"container:{vpn.name}-web-1"
    run(["docker", "run", "-d", "--init", "--name", alone, "--network", where, app.base,
         "sleep", "1000"])  # fmt: skip
    app.compose("run", "-d", "net", "sleep", "1000")
    app.compose("pause", "ipc")
    try:
        before, others = ids(app), ids(other)
        descriptor = os.open(app.folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        ran = vpn.rbuild("--force-rebuild")
        os.close(descriptor)
        assert ran.code == 0, ran.err
        assert (ids(app), ids(other)) == (before, others)
        told = [line for line in ran.err.splitlines() if " is cut off, " in line]
        assert len(told) == 6, ran.err
        assert all(line.startswith(f"{vpn.name}: warning: ") for line in told)
        busy = f"(not recreated: another run is at work on {app.folder}"
        assert len([line for line in told if busy in line]) == 2
        (line,) = [line for line in told if f"{alone} is cut off" in line]
        assert "it shared web's network" in line
        assert line.endswith(": remove it, and run it anew")
        # What is to be typed brings it back.
        (line,) = [line for line in told if f"{other.name}-x-1 of project {other.name}" in line]
        subprocess.run(line.partition("any more: ")[2], shell=True, check=True, capture_output=True)
        assert ways(other) == {"x": (ids(vpn)["web"],)}
        # Files that were edited since are not brought up by somebody else's update.
        app.edit("compose.yml", "name:", "# edited\nname:")
        app.edit("compose.yml", "beside: {", "beside: {environment: {A: b}, ")
        ran = vpn.rbuild("--force-rebuild")
        assert ran.code == 0, ran.err
        assert f"{app.name}-pid-1 of project {app.name}" not in ran.err
        assert ids(app) == before
    finally:
        app.compose("unpause", "ipc")
        subprocess.run(["docker", "rm", "-f", alone], capture_output=True)
        clean_up(other.name)


def test_who_lives_in_a_container_of_its_own_project(project: Project) -> None:
    project.write("Dockerfile", BUILT)
    where = f"'container:{project.name}-web-1'"
    text = f"""\
services:
  db: {{image: $BASE, init: true, command: sleep 1000, environment: {{A: b}}}}
  web: {{build: ., init: true, depends_on: {{db: {{condition: service_started, restart: true}}}}}}
  app: {{{IDLE}, network_mode: "service:web"}}
  aside: {{{IDLE}, network_mode: "service:web", x-rbuild: {{update: manual}}}}
  named: {{{IDLE}, network_mode: {where}, pid: {where}}}
{SETTLE}"""
    project.write("compose.yml", text)

    def all_live_in_web() -> bool:
        web = ids(project)["web"]
        return ways(project) == {"app": (web,), "aside": (web,), "named": (web, web)} and all(
            "eth0" in inside(f"{project.name}-{name}-1", "cat", "/proc/net/dev")
            for name in ("app", "aside", "named")
        )

    project.compose("up", "-d", "--build", "web")
    ran = project.rbuild()
    assert ran.code == 0, ran.err
    assert all_live_in_web()
    first = ids(project)["web"]
    ran = project.rbuild("--force-rebuild")
    assert (ran.code, ran.err) == (0, "")
    assert ids(project)["web"] != first
    assert all_live_in_web()


def test_a_restart_of_the_owner_for_the_sake_of_another(project: Project, tmp_path: Path) -> None:
    """Compose 2.26 recreates whatever depends on something new; 2.40 starts it again, and leaves
    who lives in it cut off."""
    project.env.update(next_compose(tmp_path / "next"))
    project.write(
        "compose.yml",
        f"""\
services:
  db: {{image: $BASE, init: true, command: sleep 1000, environment: {{A: b}}}}
  web: {{{IDLE}, depends_on: {{db: {{condition: service_started, restart: true}}}}}}
  app: {{{IDLE}, network_mode: "service:web"}}
{SETTLE}""",
    )
    assert project.rbuild().code == 0
    web = project.container("web")
    project.edit("compose.yml", "A: b", "A: c")
    ran = project.rbuild()
    assert (ran.code, ran.err) == (0, "")
    now = project.container("web")
    assert now["Id"] == web["Id"]
    assert now["State"]["StartedAt"] > web["State"]["StartedAt"]
    assert ways(project) == {"app": (web["Id"],)}
    assert "eth0" in inside(f"{project.name}-app-1", "cat", "/proc/net/dev")
