"""What a run leaves that was cut off at the engine, and how the next runs put it right."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count

import pytest

from .barrier import REMOVE, RENAME, START, STOP, UNTAG, cut_off
from .conftest import MakeSite
from .engines import PrivateEngine, machine_engine, private_engine, processes_of
from .projects import Site, new_site

# What a container serves comes from its environment: a change there makes every one anew.
SERVING = """\
FROM $BASE
CMD mkdir -p /www && case "$SAYS" in *bad) exit 7;; esac && echo "$SAYS" >/www/index.html && \\
    exec httpd -f -p 80 -h /www
"""
STANDING = """\
  {name}:
    image: $BASE
    command: [sleep, "100000"]
    init: true
    restart: unless-stopped
    stop_grace_period: 1s
    environment: {{SAYS: "$VERSION"}}
    x-rbuild: {{update: {update}}}
"""
STOOD = {"manual": "manual", "stopped": "auto", "paused": "auto"}
versions = (f"v{number}" for number in count(1))


def serving(make: MakeSite, *arguments: object, more: str = "") -> Site:
    """A site that says its version, not yet up."""
    services = {name: f'environment: {{SAYS: "{name} $VERSION"}}' for name in ("web", "api")}
    site: Site = make(*arguments, services, settings="{settle-period: 0}", more=more)
    for name in services:
        site.write(f"{name}/Dockerfile", SERVING)
    return site


def change(site: Site, version: str = "") -> dict[str, str | None]:
    """Let the next update bring another version up: gives what it answers."""
    version = version or next(versions)
    site.write(".env", f"VERSION={version}\n")
    return {"web": f"web {version}", "api": f"api {version}"}


def update(site: Site) -> dict[str, str | None]:
    """Bring a new version up, and give what it answers."""
    new = change(site)
    ran = site.rbuild()
    assert ran.code == 0, ran.err
    assert site.answers_soon(new) == new
    return new


def stood(site: Site) -> dict[str, tuple[str, str, str]]:
    """What must not change: the services that a person has stopped, paused or marked."""
    return {
        name: seen
        for name, seen in site.starts().items()
        if any(name == f"{site.name}-{one}-1" for one in STOOD)
    }


def is_in_order(site: Site, answers: dict[str, str | None]) -> None:
    """All answer, nothing is left over, and another run finds nothing to do."""
    assert site.answers_soon(answers) == answers
    assert site.leftovers() == []
    assert site.record()["underway"] is None
    generations = {tag.rpartition(":")[2] for tag in site.tags()} - {"latest"}
    assert len(generations) <= 1
    again = site.rbuild()
    assert (again.code, again.out, again.err) == (0, "", "")


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Look again and again until something is so."""
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    more = "".join(STANDING.format(name=one, update=how) for one, how in STOOD.items())
    site = serving(new_site, machine_engine(), tmp_path_factory.mktemp("cut"), more=more)
    update(site)
    site.compose("stop", "stopped")
    site.compose("pause", "paused")
    yield site
    site.remove()


@pytest.fixture
def site(_made: Site) -> Iterator[Site]:
    """A site that is up and fresh, with services beside that are to be left alone."""
    compose = (_made.folder / "compose.yml").read_text()
    before = stood(_made)
    assert sorted(state for _, _, state in before.values()) == ["exited", "paused", "running"]
    yield _made
    assert stood(_made) == before
    # For the next test, where this one has failed.
    _made.write("compose.yml", compose)
    _made.write("web/Dockerfile", SERVING)
    _made.rbuild()


# ---------------------------------------------------------------- at every request of `up`


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        pytest.param(STOP, r"[0-9a-f]{12}_\S+", id="stop"),
        pytest.param(REMOVE, r"[0-9a-f]{12}_\S+", id="remove"),
        pytest.param(RENAME, r"[0-9a-f]{12}_\S+", id="rename"),
        pytest.param(START, r"\S+", id="start"),
    ],
)
def test_the_next_run_goes_forward_where_nothing_has_changed(
    site: Site, asked: str, left: str
) -> None:
    new = change(site)
    cut_off(site, asked)
    assert re.fullmatch(left, min(site.leftovers(), default=""))

    ran = site.rbuild()

    assert ran.code == 0, ran.err
    assert "interrupted: the run of " in ran.out
    is_in_order(site, new)


# ---------------------------------------------------------------- changed meanwhile


def test_a_file_that_is_broken_meanwhile_keeps_no_service_down(site: Site) -> None:
    old = site.answers()
    new = change(site)
    cut_off(site, START, START)
    assert site.answers() != old
    good = (site.folder / "compose.yml").read_text()
    site.write("compose.yml", "services: {web: [\n")

    ran = site.rbuild()

    # By the record and the engine alone: nothing else tells any more what ran.
    assert ran.code == 1, ran.err
    assert "compose.yml:2:1: " in ran.err
    assert "what ran before runs again" in ran.err
    assert site.answers_soon(old) == old
    assert site.leftovers() == []
    before = site.starts()
    # Told already.
    assert site.rbuild().code == 75
    assert site.starts() == before
    site.write("compose.yml", good)
    ran = site.rbuild()
    assert ran.code == 0, ran.err
    is_in_order(site, new)


def test_a_change_that_does_not_build_comes_after_the_way_back(site: Site) -> None:
    old = site.answers()
    change(site)
    cut_off(site, STOP)
    good = (site.folder / "web/Dockerfile").read_text()
    site.write("web/Dockerfile", "FROM $BASE\nRUN echo broken here; false\n")

    ran = site.rbuild()

    assert ran.code == 1, ran.err
    assert "broken here" in ran.err
    assert "what ran before runs again" in ran.err
    assert site.answers_soon(old) == old
    assert site.leftovers() == []
    (site.folder / "web/Dockerfile").write_text(good)
    is_in_order(site, update(site))


def test_a_person_brought_it_up_meanwhile(site: Site) -> None:
    new = change(site)
    cut_off(site, RENAME)
    # The first one stumbles over what was left, and says so.
    for _ in range(2):
        site.compose("up", "-d", "web", "api", check=False)
    assert site.answers_soon(new) == new

    ran = site.rbuild()

    assert ran.code == 0, ran.err
    is_in_order(site, new)


# ---------------------------------------------------------------- elsewhere than in an update's up


def test_cut_off_on_the_way_back(site: Site) -> None:
    old = site.answers()
    change(site, "bad")
    # Two containers are started by the update; the next is one of the way back.
    cut_off(site, START, START, START, options=["--settle-period=1"])
    assert site.answers() != old

    ran = site.rbuild("--settle-period=1")

    assert ran.code == 3, ran.err
    assert site.answers_soon(old) == old
    assert site.leftovers() == []
    # What is known to be bad is not tried again at once.
    before = site.starts()
    again = site.rbuild("--settle-period=1")
    assert (again.code, again.out, again.err) == (75, "", "")
    assert site.starts() == before
    is_in_order(site, update(site))


def test_cut_off_in_the_prune(site: Site) -> None:
    new = change(site)
    cut_off(site, UNTAG, options=["--keep-images=0"])
    assert site.answers_soon(new) == new
    before = site.starts()

    ran = site.rbuild("--keep-images=0")

    assert ran.code == 0, ran.err
    assert site.starts() == before
    assert site.tags() == {f"{site.name}-{name}:latest" for name in new}
    is_in_order(site, new)


ONE_SHOT = """\
  job:
    image: $BASE
    command: |-
      sh -c "echo $VERSION >>/log/begun
      while ! test -e /log/go; do sleep 0.1; done
      echo $VERSION >>/log/ended"
    volumes: ["./log:/log"]
"""


def test_a_one_shot_that_was_cut_off_runs_again(make_site: MakeSite) -> None:
    site = serving(make_site, machine_engine(), more=ONE_SHOT)
    awaits = "  web:\n    depends_on: {job: {condition: service_completed_successfully}}\n"
    site.edit("compose.yml", "  web:\n", awaits)
    go = site.write("log/go", "")
    begun, ended = site.folder / "log/begun", site.folder / "log/ended"
    change(site, "one")
    ran = site.rbuild()
    assert ran.code == 0, ran.err
    new = change(site, "two")
    go.unlink()
    # Compose has started it, and looks whether it has ended.
    cut_off(site, START, r"GET \S*/containers/")
    wait_until(lambda: begun.read_text() == "one\ntwo\n", "the job runs")
    (job,) = [one["Id"] for one in site.containers() if one["Name"].endswith("-job-1")]
    site.engine.run("docker", "kill", job)
    go.touch()

    ran = site.rbuild()

    assert ran.code == 0, ran.err
    assert begun.read_text() == "one\ntwo\ntwo\n"
    assert ended.read_text() == "one\ntwo\n"
    is_in_order(site, new)


def crash(engine: PrivateEngine) -> None:
    """What a power cut does to an engine and to all containers."""
    engine.kill()
    while found := processes_of(engine.home):
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def test_the_machine_went_down_in_the_middle(make_site: MakeSite) -> None:
    with private_engine() as engine:
        site = serving(make_site, engine)
        update(site)
        new = change(site)
        cut_off(site, START)
        crash(engine)
        engine.start()
        assert site.answers() == {"web": None, "api": None}

        ran = site.rbuild()

        assert ran.code == 0, ran.err
        is_in_order(site, new)
        site.remove()
