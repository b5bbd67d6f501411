"""A disk that is full, or fills while an update is at work: nothing is lost, and it says so."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import disks
from .conftest import MakeSite
from .engines import Engine, machine_engine, private_engine
from .projects import Ran, Site, new_site

FULL = "No space left on device"
DOCKERFILE = """\
FROM $BASE
RUN mkdir -p /www && echo {text} >/www/index.html
{more}
CMD {command}
"""
SERVE = "httpd -f -p 80 -h /www"
SETTINGS = "{settle-period: 0}"


def let_it_say(site: Site, text: str, *, command: str = SERVE, more: str = "") -> None:
    """Let the next build of the service `web` serve a text; `more` are lines of its Dockerfile."""
    site.write("web/Dockerfile", DOCKERFILE.format(text=text, command=command, more=more))


def with_docker(folder: Path, step: str, action: str) -> str:
    """A PATH whose `docker` runs a shell command before a step of Compose's."""
    folder.mkdir()
    real = f'exec "{shutil.which("docker")}" "$@"'
    script = f'#!/bin/sh\ncase " $* " in *" {step} "*) {action};; esac\n{real}\n'
    (folder / "docker").write_text(script)
    (folder / "docker").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def next_run_is_good(site: Site, text: str) -> None:
    """With space again, an update comes to its end, and the run after it finds nothing to do."""
    ran = site.rbuild()
    assert ran.code == 0, ran.err
    wanted = {name: text if name == "web" else f"{name} one" for name in site.ports}
    assert site.answers_soon(wanted) == wanted
    assert site.leftovers() == []
    assert site.record()["underway"] is None
    again = site.rbuild()
    assert (again.code, again.out, again.err) == (0, "", "")


def means(site: Site) -> dict[str, str]:
    """Image name → ID, of what the services' names mean."""
    names = [f"{site.name}-{service}" for service in site.ports]
    return {name: site.engine.inspect(name)[0]["Id"] for name in names}


# ---------------------------------------------------------------- the state folder


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    """A disk for state folders."""
    with disks.small_disk(16) as place:
        yield place


@pytest.fixture(scope="module")
def _kept_on_disk(disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("full")
    site = new_site(machine_engine(), folder, {"web": "", "api": ""}, settings=SETTINGS)
    site.state = disk / "state"
    let_it_say(site, "web one")
    ran = site.rbuild()
    assert ran.code == 0, ran.err
    yield site
    disks.free(disk)
    site.remove()


@pytest.fixture
def site(_kept_on_disk: Site, disk: Path) -> Iterator[Site]:
    """A site that is up and fresh, whose state folder is on the disk that fills."""
    yield _kept_on_disk
    disks.free(disk)


def says_what_is_full(ran: Ran, disk: Path) -> None:
    assert f"{disk}/state/projects/" in ran.err
    assert FULL in ran.err
    assert "free some space, or point --state-dir at" in ran.err


def test_a_full_state_folder_stops_an_update_before_it_touches_anything(
    site: Site, disk: Path
) -> None:
    before = site.starts(), site.tags(), site.answers()
    known = (site.records / "record.json").read_bytes()
    disks.fill(disk)

    assert site.rbuild().silent  # It needs no space to see that nothing is due.
    let_it_say(site, "web full at the start")
    ran = site.rbuild("--json")

    assert ran.code == 1
    says_what_is_full(ran, disk)
    (outcome,) = ran.document["projects"]
    assert outcome["outcome"] == "failed"
    assert outcome["touched"] is False
    assert (site.starts(), site.tags(), site.answers()) == before
    assert (site.records / "record.json").read_bytes() == known
    assert sorted(site.records.glob("*.new")) == []
    status = site.rbuild("status")
    assert site.name in status.out, status.err
    disks.free(disk)
    next_run_is_good(site, "web full at the start")


def test_a_state_folder_that_cannot_be_made(
    make_site: MakeSite, engine: Engine, disk: Path
) -> None:
    site = make_site(engine, {"web": ""}, settings=SETTINGS)
    site.state = disk / "new"
    disks.fill(disk)
    try:
        ran = site.rbuild()
        assert ran.code == 1
        assert f"{disk}/new" in ran.err
        assert FULL in ran.err
        assert (site.containers(), site.tags()) == ([], set())
    finally:
        disks.free(disk)


@pytest.mark.parametrize("step", ["before-update", "build"])
def test_a_state_folder_that_fills_before_up(
    site: Site, disk: Path, tmp_path: Path, step: str
) -> None:
    before = site.starts(), site.tags(), site.answers()
    let_it_say(site, f"web full at {step}")
    path = os.environ["PATH"]
    compose = (site.folder / "compose.yml").read_text()
    if step == "build":
        path = with_docker(tmp_path / "bin", "build --no-cache", disks.command("fill", disk))
    else:
        hook = f"{{before-update: {disks.command('fill', disk)}}}"
        site.edit("compose.yml", "{settle-period: 0}", f"{{settle-period: 0, hooks: {hook}}}")

    ran = site.rbuild(PATH=path)

    site.write("compose.yml", compose)
    assert ran.code == 1
    says_what_is_full(ran, disk)
    assert "no container was touched: what ran before runs on" in ran.err
    assert (site.starts(), site.tags(), site.answers()) == before
    assert site.record()["services"].keys() == {"web", "api"}
    disks.free(disk)
    next_run_is_good(site, f"web full at {step}")


def test_a_state_folder_that_fills_once_containers_are_touched(
    site: Site, disk: Path, tmp_path: Path
) -> None:
    text = "web full at up"
    let_it_say(site, text)
    fill = disks.command("fill", disk)

    ran = site.rbuild(PATH=with_docker(tmp_path / "bin", "up --detach", fill))

    # Going on is safer than stopping halfway; what cannot be written down is done again.
    assert ran.code == 1
    says_what_is_full(ran, disk)
    assert "the services are updated and healthy" in ran.err
    wanted = {"web": text, "api": "api one"}
    assert site.answers_soon(wanted) == wanted
    assert site.record()["underway"]["touched"] is True
    disks.free(disk)
    next_run_is_good(site, text)


def test_a_way_back_needs_no_space_in_the_state_folder(
    site: Site, disk: Path, tmp_path: Path
) -> None:
    before = site.answers()
    let_it_say(site, "web never says this", command="false")
    fill = disks.command("fill", disk)

    ran = site.rbuild(PATH=with_docker(tmp_path / "bin", "up --detach", fill))

    assert ran.code == 3, ran.err
    assert "exited with code 1" in ran.err
    assert site.answers_soon(before) == before
    assert site.leftovers() == []
    assert site.record()["services"].keys() == {"web", "api"}
    disks.free(disk)
    let_it_say(site, "web mended")
    next_run_is_good(site, "web mended")


# ---------------------------------------------------------------- the engine's store


@pytest.fixture(scope="module", params=["overlay2", "containerd"])
def store(request: pytest.FixtureRequest) -> Iterator[tuple[Path, Site]]:
    """A disk with an engine's whole store on it, and a site that is up there."""
    with disks.small_disk(160) as place:
        data = place / "engine"
        data.mkdir()
        folder = Path(request.getfixturevalue("tmp_path_factory").mktemp("store"))
        with private_engine(containerd=request.param == "containerd", data=data) as engine:
            site = new_site(engine, folder, {"web": ""}, settings=SETTINGS)
            let_it_say(site, "web one")
            ran = site.rbuild()
            assert ran.code == 0, ran.err
            yield place, site
            disks.free(place)
            site.remove()


def test_a_build_that_fills_the_disk(store: tuple[Path, Site]) -> None:
    _, site = store
    before = site.starts(), site.tags(), site.answers()
    let_it_say(site, "too much", more="RUN dd if=/dev/zero of=/much bs=1M")

    ran = site.rbuild()

    assert ran.code == 1, ran.err
    assert FULL in ran.err
    assert "no container was touched: what ran before runs on" in ran.err
    assert (site.starts(), site.tags(), site.answers()) == before
    let_it_say(site, "web with eight MiB", more="RUN dd if=/dev/urandom of=/e bs=1M count=8")
    next_run_is_good(site, "web with eight MiB")
    # Known for the next time.
    assert 8 << 20 <= site.record()["taken"] < 64 << 20


def test_a_disk_that_is_full_when_containers_are_made(
    store: tuple[Path, Site], tmp_path: Path
) -> None:
    disk, site = store
    before = site.starts(), site.answers(), means(site)
    let_it_say(site, "web has no room")
    fill = disks.command("fill", disk)

    ran = site.rbuild(PATH=with_docker(tmp_path / "bin", "up --detach", fill))

    assert ran.code == 1, ran.err
    assert FULL.lower() in ran.err
    assert "no container was touched: what ran before runs on" in ran.err
    assert (site.starts(), site.answers()) == before[:2]
    disks.free(disk)
    # Too early for another try, but an `up` by hand must not bring up what was built.
    assert site.rbuild().code == 75
    assert means(site) == before[2]
    let_it_say(site, "web has room")
    next_run_is_good(site, "web has room")
    assert len(site.tags()) == 2


def test_an_update_for_which_there_is_too_little_space_is_not_begun(
    store: tuple[Path, Site],
) -> None:
    disk, site = store
    path = site.records / "record.json"
    known = json.loads(path.read_text())
    there = os.statvfs(disk)
    # Enough as it is, too little with a quarter to spare.
    known["taken"] = int(there.f_bavail * there.f_frsize * 0.9)
    path.write_text(json.dumps(known))
    before = site.starts(), site.tags(), site.answers()
    let_it_say(site, "web tried all the same")

    ran = site.rbuild()

    assert ran.code == 1
    assert "too little space where the engine stores images" in ran.err
    assert str(disk) in ran.err
    assert "docker system df" in ran.err
    assert "no container was touched: what ran before runs on" in ran.err
    assert (site.starts(), site.tags(), site.answers()) == before
    assert site.record()["underway"] is None
    ran = site.rbuild("--force-rebuild")
    assert ran.code == 0, ran.err
    wanted = {"web": "web tried all the same"}
    assert site.answers_soon(wanted) == wanted


def test_a_service_that_fills_the_disk_as_it_starts(store: tuple[Path, Site]) -> None:
    disk, site = store
    before = site.answers()
    # To the last block: what the way back needs can only come from this container.
    take = "while fallocate -l $size /$((number += 1)); do :; done"
    command = f"number=0; for size in 9999999 99999 1024; do {take}; done; exit 9"
    let_it_say(site, "web never says this", command=command)

    ran = site.rbuild("--settle-period=3")

    assert ran.code == 3, ran.err
    assert "web: exited with code 9" in ran.err
    assert site.answers_soon(before) == before
    assert site.leftovers() == []
    there = os.statvfs(disk)
    assert there.f_bfree > there.f_blocks / 3
