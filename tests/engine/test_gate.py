"""The health gate: what counts as up, what as failed, how long it waits, what it reports."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest

from .conftest import Project
from .tools import image_id, make_image, own_tags, record, starts

# Each service's own lines; the rest is the same for all.
HEAD = "x-rbuild: {{settle-period: {settle}}}\nvolumes: {{shared: }}\nservices:\n"
PLAIN = 'web: {image: $BASE, init: true, command: sh -c "echo hello; exec sleep 1000"}'


def write(project: Project, *services: str, settle: int = 1) -> None:
    lines = [f"  {line}" for text in services for line in text.splitlines()]
    project.write("compose.yml", HEAD.format(settle=settle) + "\n".join(lines) + "\n")


CHECK = "healthcheck: {test: [CMD-SHELL, %s], interval: 1s, timeout: 2s, retries: 2}"
FAILURES = {
    "never healthy": (
        'bad: {image: $BASE, init: true, command: sh -c "echo last words; sleep 1000", '
        + CHECK % '"echo so ill; exit 1"'
        + "}",
        r"bad: is unhealthy\n +healthcheck said: so ill\n +\S+-bad-1 \| last words",
    ),
    "exits at once": (
        'bad: {image: $BASE, command: sh -c "echo last words; exit 4"}',
        r"bad: exited with code 4\n +\S+-bad-1 \| last words",
    ),
    "exits with 0, yet is to run": (
        'bad: {image: $BASE, restart: unless-stopped, command: sh -c "echo last words"}',
        r"bad: restarted \d times(?:, last exit code 0)?\n(?: +\S+-bad-1 \| last words\n)+",
    ),
    "exits a second after its start": (
        'bad: {image: $BASE, command: sh -c "sleep 1; echo last words; exit 3"}',
        r"bad: exited with code 3\n +\S+-bad-1 \| last words",
    ),
    "crash loop": (
        'bad: {image: $BASE, restart: always, command: sh -c "echo last words; exit 5"}',
        r"bad: restarted \d times(?:, last exit code 5)?\n(?: +\S+-bad-1 \| last words\n)+",
    ),
    "one-shot": (
        'bad: {image: $BASE, x-rbuild: {one-shot: true}, command: sh -c "echo last words; exit 6"}',
        r"bad: exited with code 6\n +\S+-bad-1 \| last words",
    ),
    "one of three": (
        """\
bad:
  image: $BASE
  scale: 3
  init: true
  volumes: ["shared:/shared"]
  command: sh -c "mkdir /shared/first && echo last words && exit 7; exec sleep 1000"
""",
        r"bad: exited with code 7\n +\S+-bad-\d \| last words",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_is_not_healthy_fails(project: Project, name: str) -> None:
    service, evidence = FAILURES[name]
    write(project, PLAIN, service, settle=3)

    ran = project.rbuild()

    # Nothing ran before: there is no way back.
    assert ran.code == 4
    assert f"{project.name}: bad: not healthy\n" in ran.err
    assert re.search(evidence, ran.err), ran.err
    # What is unhealthy, or started again and again, does not count.
    running = "bad, web|web, bad" if name == "one of three" else "web"
    assert re.search(rf"running now: ({running})(;|\n)", ran.err), ran.err
    assert "whole output: " in ran.err
    # It is no success, and has cost an outage: not at every run.
    known = record(project)
    assert known["built"] == ""
    assert known["failed"]["kind"] == "touched"


@pytest.mark.versions
def test_what_counts_as_healthy(project: Project) -> None:
    image = f"{project.name}-checked"
    make_image(image, "FROM $BASE\nHEALTHCHECK --interval=1s CMD test -f /ready\n")
    write(
        project,
        'migrate: {image: $BASE, command: sh -c "sleep 1; exit 0"}',
        "web: {image: $BASE, init: true, scale: 2, command: sleep 1000, depends_on: "
        "{migrate: {condition: service_completed_successfully}}}",
        "shot: {image: $BASE, command: 'true', x-rbuild: {one-shot: true}}",
        # Nobody says it is one: the first time, its restart policy does.
        "seed: {image: $BASE, command: 'true', restart: on-failure}",
        f'image: {{image: {image}, init: true, command: sh -c "sleep 2; touch /ready; sleep 999"}}',
        # It loses the race for its database once.
        "racer: {image: $BASE, restart: always, init: true, command: "
        'sh -c "if ! test -f /raced; then touch /raced; exit 1; fi; exec sleep 1000"}',
    )
    ran = project.rbuild("--json")

    assert ran.code == 0, ran.err
    (one,) = ran.document["projects"]
    assert {service["name"]: service["state"] for service in one["services"]} == {
        "migrate": "ended", "web": "running", "shot": "ended", "seed": "ended",
        "image": "running", "racer": "running",
    }  # fmt: skip
    # The image's own healthcheck was waited for.
    assert project.container("image")["State"]["Health"]["Status"] == "healthy"
    assert project.container("racer")["RestartCount"] == 1
    assert one["seconds"] > 2
    # What ended with 0 last time may do so again, and nothing else may.
    ended = {name: one["ended"] for name, one in record(project)["services"].items()}
    assert ended == {
        "migrate": 0, "web": None, "shot": 0, "seed": 0, "image": None, "racer": None
    }  # fmt: skip
    project.edit("compose.yml", "sleep 2; touch /ready; sleep 999", "true")
    ran = project.rbuild()
    assert ran.code == 3
    assert "image: not healthy: rolled back" in ran.err
    assert "image: exited with code 0" in ran.err
    assert project.container("image")["State"]["Health"]["Status"] == "healthy"


def test_an_awaited_one_shot_that_fails(project: Project) -> None:
    write(
        project,
        'migrate: {image: $BASE, command: sh -c "echo no such column; exit 9"}',
        "web: {image: $BASE, init: true, command: sleep 1000, depends_on: "
        "{migrate: {condition: service_completed_successfully}}}",
    )
    ran = project.rbuild()

    assert ran.code == 4
    assert "`up` failed" in ran.err
    assert "migrate: exited with code 9" in ran.err
    assert "-migrate-1 | no such column" in ran.err
    assert "running now: nothing; not running: " in ran.err
    for service in ("migrate (exited)", "web (created)"):
        assert service in ran.err


def test_what_failed_before_is_a_warning(project: Project) -> None:
    service = 'sick: {image: $BASE, restart: always, command: sh -c "echo still; exit 5"}'
    write(project, PLAIN, service)
    project.compose("up", "-d")

    ran = project.rbuild("--json")

    assert ran.code == 0, ran.err
    (warning,) = ran.document["projects"][0]["warnings"]
    assert re.fullmatch(
        r"sick: (is restarting|restarted \d times(, last exit code 5)?|has not run for .+); "
        r"it was failing before the update as well",
        warning,
    )
    assert f"warning: {warning}" in ran.err
    # One that was well is judged all the same. The other, which the engine starts ever more
    # rarely, is not waited for until the time limit.
    project.edit("compose.yml", "exec sleep 1000", "exit 3")
    begun = time.monotonic()
    ran = project.rbuild()
    assert time.monotonic() - begun < 60
    assert ran.code == 3
    assert f"{project.name}: web: not healthy: rolled back\n    web: exited with " in ran.err
    assert "what ran before runs again (web)" in ran.err


CHAIN = (
    "db: {image: $BASE, init: true, command: sleep 1000, "
    "healthcheck: {test: 'true', start_period: 40s, interval: 1s, timeout: 4s, retries: 4}}",
    "web: {image: $BASE, init: true, command: sleep 1000, depends_on: [db], "
    "healthcheck: {test: 'true', start_period: 20s, interval: 1s, timeout: 4s, retries: 4}}",
)


def test_healthchecks_stretch_the_time_limit(project: Project) -> None:
    write(project, *CHAIN)
    ran = project.rbuild("-v")
    assert ran.code == 0, ran.err
    # 10 to stop, 40 + 4 (1 + 4), then the same with 20.
    assert "time limit 120 s, for what web and those it waits for may take" in ran.err


def test_a_time_limit_that_is_given_holds_for_up_and_gate(project: Project) -> None:
    ill = 'healthcheck: {test: "false", interval: 1s, start_period: 60s}'
    write(project, f"db: {{image: $BASE, init: true, command: sleep 1000, {ill}}}", PLAIN)
    begun = time.monotonic()
    ran = project.rbuild("--up-timeout-period", "6")
    assert ran.code == 4
    assert "db: not healthy within 6 s" in ran.err
    assert "db: its healthcheck has not passed yet" in ran.err
    assert "time limit" not in ran.err
    assert time.monotonic() - begun < 20

    # Compose itself waits for ever here: the same clock ends it.
    project.compose("down", "-t", "0")
    project.edit("compose.yml", "web: {", "web: {depends_on: {db: {condition: service_healthy}}, ")
    begun = time.monotonic()
    ran = project.rbuild("--up-timeout-period", "6")
    assert ran.code == 4
    assert "`up` did not end within 6 s" in ran.err
    assert "running now: db" in ran.err
    assert time.monotonic() - begun < 20


def test_it_must_run_for_the_settling_time(project: Project) -> None:
    write(project, PLAIN, settle=4)
    ran = project.rbuild("--json")
    assert ran.code == 0
    assert ran.document["projects"][0]["seconds"] > 4
    # Nothing was recreated: it has run long enough already.
    before = starts(project)
    with subprocess.Popen(
        [sys.executable, "-m", "rbuild", "-v", "--force-rebuild"],
        cwd=project.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as again:  # fmt: skip
        assert again.stderr
        said = {line.partition(": ")[2].strip(): time.monotonic() for line in again.stderr}
    assert again.returncode == 0
    assert said["prune"] - said["wait until they are healthy"] < 4
    assert starts(project) == before


def test_failing_gates_leave_what_ran_and_no_other_images(project: Project) -> None:
    project.write("Dockerfile", "FROM $BASE\nRUN date +%N > /when\nCMD exec sleep 1000\n")
    write(project, "web: {build: ., init: true}", settle=0)
    assert project.rbuild().code == 0
    good = project.container("web")["Image"]
    project.write("Dockerfile", "FROM $BASE\nRUN date +%N > /when\nCMD exit 3\n")

    for _ in range(2):
        ran = project.rbuild("--force-rebuild")
        assert ran.code == 3
        assert project.container("web")["Image"] == image_id(f"{project.name}-web") == good
        assert project.container("web")["State"]["Status"] == "running"
        assert own_tags(project) == set()
        assert project.images() == {good}

    project.write("Dockerfile", "FROM $BASE\nRUN date +%N > /now\nCMD exec sleep 1000\n")
    ran = project.rbuild()
    assert ran.code == 0, ran.err
    (tag,) = own_tags(project)
    assert image_id(tag) == good
    assert project.images() == {good, project.container("web")["Image"]}
    assert record(project)["failed"] is None
