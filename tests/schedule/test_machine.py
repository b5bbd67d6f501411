"""The shipped files for real: timers that fire in a booted systemd, a job that cron starts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rbuild.state.record import stamp

if TYPE_CHECKING:
    from conftest import Entry, Machine, Site

CRONTAB = Path(__file__).parents[2] / "contrib" / "cron" / "rbuild"
ENVIRONMENT = "/etc/rbuild/environment"
INFO, WARNING, ERROR = 6, 4, 3
# In place of three at night, within a random half hour; all else is as shipped.
SOON = """\
[Timer]
OnCalendar=
OnCalendar=*:*:0/3
RandomizedDelaySec=0
AccuracySec=100ms
"""

# Cron starts jobs on the full minute: it waits while the other tests run.
pytestmark = pytest.mark.usefixtures("cron_job")


@pytest.fixture(scope="module")
def cron_job(cron_machine: Machine) -> tuple[Site, str]:
    """A project, handed to cron with the shipped crontab; the journal's end before that."""
    site = cron_machine.project("cron")
    cron_machine.list_projects(site)
    # A mailer that puts each mail into the journal.
    cron_machine.write("/usr/sbin/sendmail", "#!/bin/sh\nexec logger -t mail\n")
    cron_machine.run("chmod", "755", "/usr/sbin/sendmail")
    shipped = CRONTAB.read_text()
    every_minute = shipped.replace("\n*/30 *", "\n* *")
    assert every_minute != shipped
    cursor = cron_machine.cursor()
    cron_machine.write("/etc/cron.d/rbuild", every_minute)
    return site, cursor


@pytest.fixture
def configure(machine: Machine) -> Iterator[Callable[[str, str], None]]:
    """Writes files of the machine that are gone after the test."""
    written = []

    def write(path: str, text: str) -> None:
        written.append(path)
        machine.write(path, text)
        machine.run("systemctl", "daemon-reload")

    yield write
    machine.run("rm", "-f", *written)
    machine.run("systemctl", "daemon-reload")


def age(machine: Machine, site: Site, hours: float) -> None:
    """Make the last update that much older than now."""
    (path,) = machine.run(
        "sh", "-c", f"ls /var/lib/rbuild/projects/{site.name}-*/record.json"
    ).split()
    record = json.loads(machine.run("cat", path))
    record["built"] = stamp(time.time() - hours * 3600)
    machine.write(path, json.dumps(record))


def fire(machine: Machine, timer: str, folder: str, user: str = "root") -> str:
    """Start a timer that fires soon; the journal's end before that."""
    manager = [] if user == "root" else ["--user"]
    generic = timer if "@" not in timer else "rbuild@.timer"
    machine.write(f"{folder}/{generic}.d/soon.conf", SOON, user)
    machine.run("systemctl", *manager, "daemon-reload", user=user)
    cursor = machine.cursor()
    machine.run("systemctl", *manager, "enable", "--now", timer, user=user)
    return cursor


def test_the_timer_updates_and_then_is_silent(machine: Machine) -> None:
    site = machine.project("site")
    machine.list_projects(site)
    cursor = fire(machine, "rbuild.timer", "/etc/systemd/system")
    first = machine.run_of("rbuild.service", cursor)
    second = machine.run_of("rbuild.service", first.cursor)
    machine.run("systemctl", "disable", "--now", "rbuild.timer")

    ((priority, line),) = first.said
    assert priority == INFO
    assert line.startswith(f"{site.name}: updated web in ")
    assert "(new: " in line
    assert site.home() == "/root"
    assert second.said == []
    # By hand one sees the same record, in a folder that is nobody else's.
    path = "/root/.local/bin/rbuild"
    assert "fresh until" in machine.run(path, "-v", str(site.folder))
    assert machine.run("stat", "-c", "%a", "/var/lib/rbuild").strip() == "700"


def test_the_period_is_less_than_a_day_and_is_the_projects_own_if_it_has_one(
    machine: Machine,
) -> None:
    site = machine.project("period")
    machine.list_projects(site)

    def start() -> list[tuple[int, str]]:
        cursor = machine.cursor()
        machine.run("systemctl", "start", "rbuild.service")
        return machine.run_of("rbuild.service", cursor).said

    start()
    age(machine, site, 21)
    ((_, line),) = start()
    assert "last updated 21 h ago, build period 20 h" in line

    compose = (site.folder / "compose.yml").read_text()
    site.write("compose.yml", compose.replace("settle", "build-period: 7d, settle"))
    age(machine, site, 21)
    assert start() == []
    age(machine, site, 24 * 7)
    ((_, line),) = start()
    assert "build period 7 d" in line


PROBE = """\
import errno, os, socket
open("/home/ada/of-ada").read()
for folder in ("/root/.docker", "/root/.cache", "/tmp", "/var/tmp", "/var/lib/rbuild"):
    os.makedirs(folder, exist_ok=True)
    open(folder + "/probe", "w").close()
socket.socket(socket.AF_UNIX).connect("/tmp/agent.sock")
socket.socket(socket.AF_INET)
for folder in ("/etc", "/usr/local", "/srv", "/opt", "/var/lib", "/proc/sys/vm"):
    try:
        open(folder + "/probe", "w").close()
    except OSError as error:
        assert error.errno in (errno.EROFS, errno.EACCES, errno.ENOENT), (folder, error)
    else:
        raise AssertionError(folder)
print("as it should be")
"""


def test_hardening_leaves_open_what_docker_needs(
    machine: Machine, configure: Callable[[str, str], None]
) -> None:
    # In place of rbuild: a file that only ada may read, an agent's socket of hers, ~/.docker.
    machine.write("/opt/probe.py", PROBE)
    machine.write("/home/ada/of-ada", "", "ada")
    machine.run("chmod", "600", "/home/ada/of-ada")
    socket = ["ListenStream=/tmp/agent.sock", "SocketUser=ada", "SocketMode=0600"]
    options = [f"--socket-property={one}" for one in socket]
    machine.run("systemd-run", "--unit=agent", *options, "/bin/true")
    configure(
        "/run/systemd/system/rbuild.service.d/probe.conf",
        "[Service]\nExecStart=\nExecStart=/usr/bin/python3 /opt/probe.py\n",
    )
    cursor = machine.cursor()
    machine.run("systemctl", "start", "--no-block", "rbuild.service")
    assert machine.run_of("rbuild.service", cursor).said == [(INFO, "as it should be")]


def test_a_failure_is_told_with_its_priority(machine: Machine) -> None:
    site = machine.project("broken")
    site.write("Dockerfile", (site.folder / "Dockerfile").read_text() + "RUN exit 7\n")
    machine.list_projects(site)
    cursor = machine.cursor()
    machine.run("systemctl", "start", "--no-block", "rbuild.service")
    failed = machine.run_of("rbuild.service", cursor, end="failed")
    said = failed.said
    assert said
    assert {priority for priority, _ in said} <= {ERROR, WARNING}
    assert said[0][1].startswith(f"{site.name}: ")
    assert not any("\033" in line or line.startswith("<") for _, line in said)
    # Told once: what is known to fail waits for its time, and that is no failure of the unit.
    machine.run("systemctl", "start", "rbuild.service")
    assert machine.run_of("rbuild.service", failed.cursor).said == []


def test_stop_ends_a_build_cleanly(machine: Machine, configure: Callable[[str, str], None]) -> None:
    site = machine.project("slow")
    site.write("Dockerfile", (site.folder / "Dockerfile").read_text() + "RUN sleep 1234\n")
    machine.list_projects(site)
    configure(ENVIRONMENT, "RBUILD_VERBOSE=1\n")
    cursor = machine.cursor()
    machine.run("systemctl", "start", "--no-block", "rbuild.service")

    def builds(entry: Entry) -> bool:
        return entry.get("MESSAGE") == f"{site.name}: build web without cache"

    entries = machine.follow(cursor, builds, 60)
    assert entries[-1]["PRIORITY"] == str(INFO)
    begun = time.monotonic()
    machine.run("systemctl", "stop", "rbuild.service")
    assert time.monotonic() - begun < 30
    machine.run_of("rbuild.service", cursor, end="stopped")
    state = machine.run("systemctl", "show", "-P", "ActiveState", "rbuild.service")
    assert state.strip() == "inactive"


@pytest.mark.parametrize("folder", ["wiki", "a b-c ${HOME} %h é"])
def test_a_template_for_one_project(machine: Machine, folder: str) -> None:
    site = machine.project(folder)
    machine.list_projects()
    path = str(site.folder)
    timer = machine.run("systemd-escape", "--path", "--template=rbuild@.timer", path).strip()
    service = timer.replace(".timer", ".service")
    cursor = fire(machine, timer, "/etc/systemd/system")
    first = machine.run_of(service, cursor)
    second = machine.run_of(service, first.cursor)
    machine.run("systemctl", "disable", "--now", timer)

    ((priority, line),) = first.said
    assert priority == INFO
    assert line.startswith(f"{site.name}: updated web in ")
    assert site.home() == "/root"
    assert second.said == []


def test_a_user_has_timers_too(machine: Machine) -> None:
    site = machine.project("ada")
    home = "/home/ada"
    listed = json.dumps({"projects": [str(site.folder)]})
    machine.write(f"{home}/.config/rbuild/rbuild.yml", listed, "ada")
    cursor = fire(machine, "rbuild.timer", f"{home}/.config/systemd/user", "ada")
    first = machine.run_of("rbuild.service", cursor)
    second = machine.run_of("rbuild.service", first.cursor)
    machine.run("systemctl", "--user", "disable", "--now", "rbuild.timer", user="ada")

    ((priority, line),) = first.said
    assert priority == INFO
    assert line.startswith(f"{site.name}: updated web in ")
    assert site.home() == home
    assert second.said == []
    # The folder that rbuild takes by hand, whatever systemd's version says of STATE_DIRECTORY.
    machine.run("test", "-d", f"{home}/.local/state/rbuild/projects")
    by_hand = machine.run(f"{home}/.local/bin/rbuild", "-v", str(site.folder), user="ada")
    assert "fresh until" in by_hand


def test_cron_starts_the_job(cron_machine: Machine, cron_job: tuple[Site, str]) -> None:
    site, cursor = cron_job

    def told(entry: Entry) -> bool:
        # The end of a session may be that of Debian's own job, at 17 minutes past each hour.
        return entry.get("SYSLOG_IDENTIFIER") == "mail" and str(entry.get("MESSAGE")).startswith(
            site.name
        )

    entries = cron_machine.follow(cursor, told, 100)
    mail = [one["MESSAGE"] for one in entries if one.get("SYSLOG_IDENTIFIER") == "mail"]
    assert "To: root" in mail
    body = [line for line in mail if line.startswith(site.name)]
    assert len(body) == 1, mail
    assert body[0].startswith(f"{site.name}: updated web in ")
    assert site.home() == "/root"
