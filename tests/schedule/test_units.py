"""The shipped units as systemd itself judges them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "contrib" / "systemd"
SERVICES = ("rbuild.service", "rbuild@.service")
TIMERS = ("rbuild.timer", "rbuild@.timer")
# Root that may write its home and keeps its capabilities can hardly come below 5.
EXPOSURE = 6.0


def analyze(*arguments: str, **env: str) -> str:
    """What systemd-analyze says; it must succeed."""
    tool = shutil.which("systemd-analyze")
    assert tool, "this test needs systemd-analyze on PATH; tests/run sets it up"
    base = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, env=base | env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def lines(name: str) -> list[str]:
    """A unit's lines without its comments."""
    text = (UNITS / name).read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_all_units_are_known_here() -> None:
    assert {path.name for path in UNITS.iterdir()} == {*SERVICES, *TIMERS}


@pytest.mark.parametrize("name", SERVICES + TIMERS)
@pytest.mark.parametrize("manager", ["--system", "--user"])
def test_verify_is_clean(name: str, manager: str, tmp_path: Path) -> None:
    env = {"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)}
    assert analyze("verify", manager, str(UNITS / name), **env) == ""


@pytest.mark.parametrize("name", SERVICES)
def test_exposure(name: str) -> None:
    said = analyze("security", "--offline=true", "--no-pager", str(UNITS / name))
    overall = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert overall, said
    print(name, overall[1])
    assert float(overall[1]) <= EXPOSURE


@pytest.mark.parametrize("name", TIMERS)
def test_three_at_night_and_catching_up(name: str) -> None:
    assert "Persistent=true" in lines(name)
    (calendar,) = (line.split("=", 1)[1] for line in lines(name) if line.startswith("OnCal"))
    said = analyze("calendar", "--base-time=2026-06-01 12:00:00 UTC", calendar)
    assert re.search(r"Next elapse: \w+ 2026-06-02 03:00:00 UTC", said)


@pytest.mark.parametrize(("plain", "template"), [SERVICES, TIMERS])
def test_the_template_differs_in_its_project_alone(plain: str, template: str) -> None:
    def rest(name: str) -> list[str]:
        return [line for line in lines(name) if not line.startswith(("Description", "ExecStart"))]

    assert rest(plain) == rest(template)


@pytest.mark.parametrize("name", SERVICES)
def test_what_stays_open(name: str) -> None:
    settings: Mapping[str, str] = dict(line.split("=", 1) for line in lines(name) if "=" in line)
    closing = ("ProtectHome", "PrivateTmp", "PrivateNetwork", "PrivateUsers", "IPAddressDeny")
    assert not settings.keys() & {*closing, "InaccessiblePaths", "TemporaryFileSystem"}
