"""Services that a person has stopped: left alone, and not forgotten once they run again."""

from __future__ import annotations

import pytest

from ..faults.published import publish
from .conftest import Project, Ran
from .tools import ids, inside, record

SLEEP = ["sleep", "1000"]
COMPOSE = """\
services:
  web: {{image: "{image}", init: true, restart: unless-stopped, environment: {{A: "1"}}}}
  own: {{build: ., init: true, restart: unless-stopped}}
  side: {{image: $BASE, command: sleep 1000, init: true}}
x-rbuild: {{settle-period: 1, check: [base, image]}}
"""


def put(project: Project, name: str, text: str) -> str:
    """Let a tag in the registry mean an image with this text in /v."""
    return publish(f"{project.name}/{name}", "1", {"/v": text}, Cmd=SLEEP)


def version(project: Project, service: str) -> str:
    return inside(f"{project.name}-{service}-1", "cat", "/v")


def behind(project: Project) -> dict[str, str]:
    return {name: one["behind"] for name, one in record(project)["services"].items()}


def kinds(ran: Ran) -> list[str]:
    (found,) = ran.document["projects"]
    return [reason["kind"] for reason in found["reasons"]]


def is_silent(ran: Ran) -> bool:
    return (ran.code, ran.out, ran.err) == (0, "", "")


@pytest.fixture
def site(project: Project) -> Project:
    """A project that runs, two of whose services a person has stopped."""
    project.write("compose.yml", COMPOSE.format(image=put(project, "web", "one")))
    project.write("Dockerfile", f"FROM {put(project, 'base', 'one')}\n")
    assert project.rbuild().code == 0
    project.compose("stop", "-t", "0", "web", "own")
    return project


def test_images_that_moved_while_services_were_stopped(site: Project) -> None:
    before = ids(site)
    put(site, "web", "two")
    put(site, "base", "two")
    ran = site.rbuild()
    assert ran.code == 0
    for name in ("web", "own"):
        line = f"{site.name}: {name} is stopped: it keeps its old image, and is updated once it"
        assert f"{line} runs again\n" in ran.out + ran.err
    assert ids(site) == before
    assert behind(site) == {"web": "image", "own": "image", "side": ""}
    # Told once; whoever asks is told again.
    assert is_silent(site.rbuild())
    status = site.rbuild("status").out
    assert "  stopped   web: it keeps its old image, and is updated once it runs again\n" in status
    assert "note: own is stopped: it keeps its old image" in site.rbuild("-v").out

    site.compose("start", "web")
    assert version(site, "web") == "one"
    ran = site.rbuild("--json", "--update", "moved")
    assert (ran.code, kinds(ran)) == (0, ["started"])
    assert version(site, "web") == "two"
    after = ids(site)
    assert {name for name in after if after[name] == before[name]} == {
        f"{site.name}-own-1", f"{site.name}-side-1"
    }  # fmt: skip
    assert behind(site) == {"web": "", "own": "image", "side": ""}
    assert is_silent(site.rbuild())

    site.compose("start", "own")
    ran = site.rbuild()
    assert f"{site.name}: updated own" in ran.out
    assert "(started: own runs again, on its old image)" in ran.out
    assert version(site, "own") == "two"
    assert is_silent(site.rbuild())
    assert "stopped" not in site.rbuild("status").out


def test_a_later_move_is_seen_while_a_service_is_stopped(site: Project) -> None:
    put(site, "web", "two")
    assert site.rbuild().code == 0
    put(site, "web", "three")
    # What was told already isn't told again.
    ran = site.rbuild()
    assert "image-moved" in ran.out
    assert "is stopped" not in ran.out + ran.err
    site.compose("start", "web")
    assert site.rbuild().code == 0
    assert version(site, "web") == "three"


@pytest.mark.parametrize("how", ["paused", "stopped"])
def test_a_configuration_that_changed(site: Project, how: str) -> None:
    if how == "paused":
        site.compose("start", "web")
        site.compose("pause", "web")
    before = ids(site)
    site.edit("compose.yml", 'A: "1"', 'A: "2"')
    ran = site.rbuild()
    assert f"web is {how}: it keeps its old configuration, and is updated" in ran.out + ran.err
    assert ids(site)[f"{site.name}-web-1"] == before[f"{site.name}-web-1"]
    assert behind(site)["web"] == "configuration"
    site.compose(*(("unpause",) if how == "paused" else ("start",)), "web")
    ran = site.rbuild()
    assert "(started: web runs again, on its old configuration)" in ran.out
    assert "A=2" in site.container("web")["Config"]["Env"]
    assert is_silent(site.rbuild())


def test_who_is_made_anew_by_a_person_waits_no_longer(site: Project) -> None:
    put(site, "web", "two")
    put(site, "base", "two")
    assert site.rbuild().code == 0
    site.compose("up", "-d", "--no-deps", "web")
    site.compose("rm", "-f", "own")
    assert version(site, "web") == "two"
    after = ids(site)
    assert is_silent(site.rbuild())
    assert ids(site) == after
    assert set(behind(site).values()) == {""}
    assert "stopped" not in site.rbuild("status").out


def test_an_update_of_what_was_started_that_fails_goes_on_waiting(site: Project) -> None:
    site.edit("compose.yml", 'A: "1"}', 'A: "1"}, command: "false"')
    ran = site.rbuild()
    assert ran.code == 0
    site.compose("start", "web")
    ran = site.rbuild()
    assert ran.code == 3
    assert "runs again" in ran.err
    assert version(site, "web") == "one"
    assert behind(site)["web"] == "configuration"
    assert site.rbuild().code == 75
    site.edit("compose.yml", ', command: "false"', "")
    assert site.rbuild().code == 0
    assert version(site, "web") == "one"
    assert behind(site)["web"] == ""
    assert is_silent(site.rbuild())


def test_what_was_stopped_under_an_earlier_configuration_comes_back_with_it(site: Project) -> None:
    """The last good update is not what a service was made from that it has left alone."""
    site.edit("compose.yml", 'A: "1"', 'A: "2"')
    assert site.rbuild().code == 0
    site.compose("start", "web")
    site.edit("compose.yml", 'A: "2"}', 'A: "3"}, command: "false"')
    assert site.rbuild().code == 3
    web = site.container("web")
    assert web["State"]["Status"] == "running"
    assert "A=1" in web["Config"]["Env"]
