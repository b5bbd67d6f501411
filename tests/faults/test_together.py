"""Several runs on one project: one works, the others give way or wait, and none is in between."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress

import pytest

from .conftest import MakeSite
from .engines import Engine, machine_engine
from .projects import Ran, Site, new_site
from .watching import add_hooks, do, family, has_open, is_locked, names, told, wait_until

# Lets the run that is at work stay there until the test says go.
STAY = "echo >begun; while [ ! -e go ]; do sleep 0.05; done"


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = new_site(machine_engine(), tmp_path_factory.mktemp("together"), {"web": ""})
    try:
        add_hooks(site)
        ran = site.rbuild()
        assert ran.code == 0, ran.err
        yield site
    finally:
        site.remove()


@pytest.fixture
def site(_made: Site) -> Iterator[Site]:
    """A site that is due; an update of it stays at its first hook until it may go on."""
    told(_made)
    for path in ("go", "begun"):
        (_made.folder / path).unlink(missing_ok=True)
    do(_made, "before-update", STAY)
    _made.edit("web/Dockerfile", "COPY", "RUN true\nCOPY")
    yield _made
    go(_made)


def go(site: Site) -> None:
    (site.folder / "go").touch()


def ended(process: subprocess.Popen[str], seconds: float = 120) -> Ran:
    out, err = process.communicate(timeout=seconds)
    assert "Traceback" not in out + err, out + err
    return Ran(process.returncode, out, err)


def test_of_ten_at_once_one_works_and_nine_give_way(site: Site) -> None:
    runs = [site.begin("--force-rebuild") for _ in range(10)]
    wait_until(lambda: sum(one.poll() is None for one in runs) == 1, "all but one have ended")
    wait_until((site.folder / "begun").exists, "that one is at work")
    (working,) = (one for one in runs if one.poll() is None)
    given_way = [ended(one) for one in runs if one is not working]
    assert [(one.code, one.silent) for one in given_way] == [(75, True)] * 9
    go(site)

    ran = ended(working)

    assert ran.code == 0, ran.err
    assert names(told(site)) == ["before-update", "after-update"]
    assert len(site.containers()) == 1
    assert len(site.tags()) == 2
    assert site.rbuild().silent


def test_one_that_waits_finds_it_fresh(site: Site) -> None:
    working = site.begin()
    wait_until((site.folder / "begun").exists, "one is at work")
    # One that waits too briefly says for how long, and for whom.
    ran = site.rbuild("--json", "--lock-wait", "1")
    assert ran.code == 75
    (one,) = ran.document["projects"]
    assert one["outcome"] == "deferred"
    message = one["error"]["message"]
    assert re.search(
        rf"at work on {site.folder}: process {working.pid}, since 20.*waited 1 s", message
    )
    # A signal ends the waiting.
    waiting = site.begin("--lock-wait", "10m")
    wait_until(lambda: has_open(waiting.pid, site.folder), "it waits")
    waiting.send_signal(signal.SIGTERM)
    assert ended(waiting, 20).code == 143
    assert names(told(site)) == ["before-update"]
    waiting = site.begin("-v", RBUILD_LOCK_WAIT="10m")
    wait_until(lambda: has_open(waiting.pid, site.folder), "it waits")
    assert waiting.poll() is None
    go(site)

    first, second = ended(working), ended(waiting)

    assert first.code == 0, first.err
    assert first.out.startswith(f"{site.name}: updated web")
    assert second.code == 0, second.err
    assert second.out.startswith(f"{site.name}: fresh until")
    assert names(told(site)) == ["after-update"]


def test_a_hook_that_outlives_a_killed_run_keeps_the_next_one_out(site: Site) -> None:
    mark = {"OF_TEST": os.urandom(8).hex()}
    killed = site.begin(**mark)
    wait_until((site.folder / "begun").exists, "the hook")
    killed.kill()
    ended(killed)
    assert family(mark)

    ran = site.rbuild("--json")

    assert ran.code == 75
    message = ran.document["projects"][0]["error"]["message"]
    assert "what a killed run had started is still running" in message
    assert names(told(site)) == ["before-update"]
    go(site)
    wait_until(lambda: not is_locked(site.folder), "the hook has ended")
    ran = site.rbuild()
    assert ran.code == 0, ran.err
    assert site.answers_soon({"web": "web one"}) == {"web": "web one"}
    assert site.rbuild().silent


def test_an_up_that_outlives_a_killed_run_is_waited_for(
    engine: Engine, make_site: MakeSite
) -> None:
    check = (
        'volumes: ["./flags:/flags"]\n'
        "healthcheck: {test: [CMD, test, -e, /flags/healthy], interval: 1s, retries: 600}"
    )
    site = make_site(engine, {"db": check, "web": "depends_on: {db: {condition: service_healthy}}"})
    flag = site.write("flags/healthy", "")
    ran = site.rbuild()
    assert ran.code == 0, ran.err
    flag.unlink()
    site.edit("web/page", "one", "two")
    mark = {"OF_TEST": os.urandom(8).hex()}
    killed = site.begin("--force-rebuild", "--up-timeout-period", "10m", **mark)
    # From here on Compose has nothing to say: when it does, it finds that nobody listens.
    quiet = re.compile(rf"Container {site.name}-db-1 +Waiting\n\Z")
    wait_until(lambda: quiet.search(site.log()), "up waits for db")
    killed.kill()
    ended(killed)
    orphans = family(mark)
    try:
        assert orphans
        ran = site.rbuild("--json")
        assert ran.code == 75
        message = ran.document["projects"][0]["error"]["message"]
        assert "what a killed run had started is still running" in message
        waiting = site.begin("--lock-wait", "10m", "--json")
        wait_until(lambda: has_open(waiting.pid, site.folder), "it waits")
        assert waiting.poll() is None
        assert family(mark)
        flag.touch()

        ran = ended(waiting)

        assert family(mark) == []
    finally:
        for pid in orphans:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert ran.code == 0, ran.err
    assert site.answers_soon({"db": "db one", "web": "web two"}) == {
        "db": "db one",
        "web": "web two",
    }
    assert site.leftovers() == []
    assert site.rbuild().silent
