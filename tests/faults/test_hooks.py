"""Hooks around real updates: when they run, what they are told, and what comes of their end."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import MakeSite
from .engines import Engine, machine_engine
from .projects import Ran, Site, new_site
from .watching import AFTER, add_hooks, do, family, is_locked, names, told, wait_until

STAMP = r"\d{8}T\d{6}Z"


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = new_site(machine_engine(), tmp_path_factory.mktemp("hooks"), {"web": ""})
    try:
        add_hooks(site)
        ran = site.rbuild()
        assert ran.code == 0, ran.err
        yield site
    finally:
        site.remove()


@pytest.fixture
def site(_made: Site) -> Iterator[Site]:
    """A site that is up to date and whose hooks tell; the same again after the test."""
    files = {path: (_made.folder / path).read_text() for path in ("compose.yml", "web/Dockerfile")}
    told(_made)
    yield _made
    for path, text in files.items():
        _made.write(path, text)
    for one in (_made.folder / "do").glob("*"):
        one.unlink()
    ran = _made.rbuild("--build-period", "1d")
    if ran.code:
        ran = force(_made)
    assert ran.code == 0, ran.err


def force(site: Site, **env: str) -> Ran:
    return site.rbuild("--force-rebuild", **env)


# When they run, and what they are told


def test_each_runs_once_and_knows_of_the_update(site: Site) -> None:
    folder, name = str(site.folder), site.name
    kept = site.containers()[0]["Image"]
    dry = site.rbuild("-n", "--force-rebuild")
    assert "1. run the before-update hook" in dry.out
    assert told(site) == []
    do(site, "before-update", f"docker image inspect -f '{{{{.Id}}}}' {name}-web >image-before")
    do(site, "after-update", f"docker inspect -f '{{{{.Image}}}}' {name}-web-1 >image-after")

    ran = force(site)

    assert ran.code == 0, ran.err
    before, after = told(site)
    common = {
        "RBUILD_PROJECT": name,
        "RBUILD_PROJECT_FOLDER": folder,
        "RBUILD_REASONS": "forced",
        "RBUILD_ERROR": "",
        "PWD": folder,
    }
    assert (
        before.items() >= {**common, "RBUILD_HOOK": "before-update", "RBUILD_OUTCOME": ""}.items()
    )
    assert after.items() >= {**common, "RBUILD_HOOK": "after-update",
                             "RBUILD_OUTCOME": "updated"}.items()  # fmt: skip
    assert re.fullmatch(STAMP, after["RBUILD_GENERATION"])
    assert before["RBUILD_GENERATION"] == after["RBUILD_GENERATION"]
    assert f"rbuild/{name}/web:{after['RBUILD_GENERATION']}" in site.tags()
    # Nothing is built before the first, and the last sees what runs from now on.
    assert (site.folder / "image-before").read_text().strip() == kept
    assert (
        (site.folder / "image-after").read_text().strip() == site.containers()[0]["Image"] != kept
    )
    # What they print is in the log that they are told of, in its place.
    text = Path(before["RBUILD_LOG"]).read_text()
    assert before["RBUILD_LOG"] == after["RBUILD_LOG"]
    parts = ("\nhook before-update\n", "build --no-cache", "up --detach", "\nhook after-update\n")
    order = [text.index(one) for one in parts]
    assert order == sorted(order)
    # With nothing due, nothing runs.
    assert site.rbuild().silent
    assert told(site) == []


def test_a_failed_update_is_told_when_it_is_undone(site: Site) -> None:
    served = site.answers_soon({"web": "web one"})
    before = site.containers()[0]["Image"]
    good = (site.folder / "web/Dockerfile").read_text()
    do(site, "on-failure", f"docker inspect -f '{{{{.State.Running}}}} {{{{.Image}}}}' "
       f"{site.name}-web-1 >at-failure\n{sys.executable} -m rbuild >inner 2>&1")  # fmt: skip
    site.write(
        "web/Dockerfile", re.sub("CMD .*", 'CMD ["sh", "-c", "echo no such page; exit 7"]', good)
    )

    ran = site.rbuild()

    assert ran.code == 3, ran.err
    first, last = told(site)
    assert first["RBUILD_HOOK"] == "before-update"
    assert last["RBUILD_HOOK"] == "on-failure"
    assert last["RBUILD_OUTCOME"] == "rolled-back"
    assert last["RBUILD_REASONS"] == "changed"
    assert "web" in last["RBUILD_ERROR"]
    assert "no such page" in ran.err
    text = Path(last["RBUILD_LOG"]).read_text()
    assert "\nfailed: web: not healthy" in text
    assert text.endswith("\nhook on-failure\n")
    assert "started by a hook of the run" in (site.folder / "inner").read_text()
    assert (site.folder / "at-failure").read_text().split() == ["true", before]
    assert site.answers_soon(served) == served == {"web": "web one"}
    # A failure is told once.
    again = site.rbuild()
    assert (again.code, again.silent) == (75, True)
    assert told(site) == []
    site.write("web/Dockerfile", good)


# How they end


def test_one_that_fails_before_the_update_stops_it_with_nothing_touched(site: Site) -> None:
    before = site.starts(), site.tags()
    do(site, "before-update", "echo the dump has failed >&2; exit 9")
    do(site, "on-failure", "exit 8")

    ran = force(site)

    assert ran.code == 1
    assert "the hook before-update failed with exit code 9" in ran.err
    assert "    the dump has failed" in ran.err
    assert "what ran before runs on" in ran.err
    assert (site.starts(), site.tags()) == before
    assert "build --no-cache" not in site.log().rpartition("hook before-update")[2]
    first, last = told(site)
    assert (first["RBUILD_HOOK"], last["RBUILD_HOOK"]) == ("before-update", "on-failure")
    assert last["RBUILD_OUTCOME"] == "failed"
    assert "before-update failed with exit code 9" in last["RBUILD_ERROR"]
    # Nor does one that fails after a failure change what came of it.
    (warning,) = (line for line in ran.err.splitlines() if "warning" in line)
    assert "the hook on-failure failed with exit code 8" in warning


def test_75_puts_the_update_off_without_a_word(site: Site) -> None:
    before = site.starts(), site.tags()
    do(site, "before-update", "echo a backup is running; exit 75")
    site.edit("web/Dockerfile", "COPY", "RUN true\nCOPY")

    ran = site.rbuild()
    assert (ran.code, ran.out, ran.err) == (75, "", "")
    assert (site.starts(), site.tags()) == before
    assert names(told(site)) == ["before-update"]

    # That is no failure: every run asks again.
    ran = site.rbuild("--json")
    assert ran.code == 75
    (one,) = ran.document["projects"]
    assert one["outcome"] == "deferred"
    assert "before-update" in one["error"]["message"]
    assert one["error"]["detail"].splitlines()[-1] == "a backup is running"
    assert names(told(site)) == ["before-update"]


def test_one_that_takes_too_long_is_ended(site: Site) -> None:
    before = site.starts()
    mark = {"OF_TEST": os.urandom(8).hex()}
    do(site, "before-update", "sleep 1000 & sleep 1000")

    ran = force(site, RBUILD_HOOK_TIMEOUT="1", **mark)

    assert ran.code == 1
    assert "the hook before-update took longer than 1 s" in ran.err
    assert ran.seconds < 30
    assert family(mark) == []
    assert site.starts() == before


def test_a_signal_ends_one_and_nothing_is_touched(site: Site) -> None:
    before = site.starts(), site.tags()
    mark = {"OF_TEST": os.urandom(8).hex()}
    do(site, "before-update", "echo >begun; sleep 1000")
    at_work = site.begin("--force-rebuild", **mark)
    wait_until((site.folder / "begun").exists, "the hook")

    at_work.send_signal(signal.SIGTERM)
    _, err = at_work.communicate(timeout=30)

    assert at_work.returncode == 143, err
    assert family(mark) == []
    assert (site.starts(), site.tags()) == before


def test_a_good_update_stays_good_whatever_comes_of_its_hooks(site: Site) -> None:
    do(site, "before-update", "setsid sleep 1000 >/dev/null 2>&1 & echo $! >daemon")
    do(site, "after-update", "echo no mail today; exit 75")

    ran = force(site)

    daemon = int((site.folder / "daemon").read_text())
    try:
        os.kill(daemon, 0)
        # What one leaves running does not keep the next run out.
        assert not is_locked(site.folder)
    finally:
        os.kill(daemon, signal.SIGKILL)
    assert ran.code == 0
    assert ran.out.startswith(f"{site.name}: updated web")
    # One that fails is a warning.
    (line,) = ran.err.splitlines()
    assert line.startswith(f"{site.name}: warning: ")
    assert "the hook after-update failed with exit code 75" in line
    assert "no mail today" in site.log()
    assert names(told(site)) == ["before-update", "after-update"]
    assert site.rbuild().silent


# rbuild in a hook


def test_rbuild_in_a_hook_of_its_own_project_is_refused_at_once(site: Site) -> None:
    link = site.folder.parent / "link"
    link.symlink_to(site.folder)
    inner = f"{sys.executable} -m rbuild"
    # Also where nothing is due any more, by another path, and for another task.
    do(site, "before-update",
       f"{inner} --lock-wait 300 . >inner-1 2>&1; echo $? >>inner-1\n"
       f"{inner} --remove-images {link} >inner-2 2>&1; echo $? >>inner-2")  # fmt: skip
    do(site, "after-update", f"{inner} >inner-3 2>&1; echo $? >>inner-3; {inner} status")

    ran = force(site)

    assert ran.code == 0, ran.err
    assert ran.err == ""
    for number in (1, 2, 3):
        text = (site.folder / f"inner-{number}").read_text()
        assert f"started by a hook of the run that is at work on {site.folder}" in text
        assert text.splitlines()[-1] == "1"
    assert names(told(site)) == ["before-update", "after-update"]


# Where they are set


def test_the_project_s_own_come_before_those_of_the_configuration_file(
    site: Site, tmp_path: Path
) -> None:
    config = tmp_path / "rbuild.yml"
    config.write_text(
        "defaults:\n"
        "  hooks:\n"
        "    before-update: echo >default-before\n"
        '    after-update: [sh, -c, "echo $RBUILD_OUTCOME $PWD >default-after"]\n'
    )
    site.edit("compose.yml", f"{AFTER}, ", "")

    ran = site.rbuild("--force-rebuild", "--config", str(config))

    assert ran.code == 0, ran.err
    assert names(told(site)) == ["before-update"]
    assert not (site.folder / "default-before").exists()
    assert (site.folder / "default-after").read_text() == f"updated {site.folder}\n"


@pytest.mark.parametrize(
    ("own", "more", "place"),
    [
        ("{after-update: y}", "\n    on-failure: [chmod, 0755, x]",
         "more.yml:3: hooks.on-failure: item 2 of the command is 493, not text"),
        ("{after-update: y}", "\n    on-failur: x", "more.yml:3: unknown key 'on-failur'"),
        ("", " x", "more.yml:2: hooks: expected a mapping of hooks"),
        # Compose versions differ in how they join these, and none does as one would think.
        ("{after-update: [y]}", "\n    after-update: [x]",
         "more.yml:3: hooks.after-update: $FOLDER/compose.yml:1 has it too"),
    ],
)  # fmt: skip
def test_a_wrong_one_is_told_with_its_place(
    engine: Engine, make_site: MakeSite, own: str, more: str, place: str
) -> None:
    site = make_site(engine, {})
    hooks = f"x-rbuild: {{hooks: {own}}}\n" if own else ""
    site.write("compose.yml", f"{hooks}services: {{web: {{image: $BASE}}}}\n")
    site.write("more.yml", f"x-rbuild:\n  hooks:{more}\n")

    ran = site.rbuild("compose.yml:more.yml")

    assert ran.code == 1
    assert f"{site.folder}/{place.replace('$FOLDER', str(site.folder))}" in ran.err
    assert site.containers() == []
