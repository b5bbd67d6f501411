"""A run with nothing due: what it must not do, seen from outside, in processes of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rbuild.compose import fingerprint, inputs
from rbuild.compose.project import locate
from rbuild.state import checks, record
from rbuild.state.checks import Checks
from rbuild.state.record import Record, Store, stamp

HEAVY = ("yaml", "python_on_whales", "pydantic", "subprocess", "hashlib", "concurrent.futures",
         "asyncio", "difflib", "rbuild.docker.whales", "rbuild.refresh",
         "rbuild.compose.yamlfile", "rbuild.settingsfile")  # fmt: skip


def make_fresh(folder: Path, store: Store) -> None:
    """A project of four input files with the record of an update just now."""
    folder.mkdir(parents=True)
    (folder / "compose.yml").write_text(
        "services: {web: {build: ., env_file: web.env, image: '${IMAGE:-web}'}}\n"
    )
    (folder / ".env").write_text("IMAGE=web\n")
    (folder / "web.env").write_text("A=1\n")
    (folder / "Dockerfile").write_text("FROM scratch\n")
    project = locate(str(folder), "/")
    found = inputs.walk(str(folder), (), os.environ)
    paths = [*found.paths, str(folder / "Dockerfile"), str(folder / ".dockerignore")]
    key = "00" * 16
    view = fingerprint.signature(paths, [one.name for one in found.variables], os.environ, key)
    known = Record(folder.name, project.home, stamp(time.time()), key=key)
    known.views = {project.spelling: view | {"settings": {"build-period": [3600, "x"]}}}
    state = store.path(folder.name, project.home)
    store.make(state)
    record.write(state, known)


@pytest.fixture
def site(tmp_path: Path, state_dir: Path) -> Path:
    """A fresh project in a world without Docker."""
    make_fresh(tmp_path / "site", Store(str(state_dir)))
    return tmp_path / "site"


def rbuild(*arguments: str, cwd: Path | None = None, before: tuple[str, ...] = ()) -> str:
    """All that a run says, which must end with 0."""
    done = subprocess.run(
        [*before, sys.executable, "-m", "rbuild", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder below, with the times of its last change and of its inode's."""
    found = [folder, *folder.rglob("*")]
    return {
        str(one): (one.stat().st_mtime_ns, one.stat().st_ctime_ns) for one in found
    }  # fmt: skip


def test_silence_and_nothing_is_written(site: Path, state_dir: Path) -> None:
    before = everything(state_dir), everything(site)
    assert rbuild(str(site)) == ""
    assert (everything(state_dir), everything(site)) == before


def test_what_was_wrong_is_forgotten_once_it_is_as_it_was(site: Path, state_dir: Path) -> None:
    (folder,) = Store(str(state_dir)).folders(str(site))
    checks.write(folder, Checks({"git": "no"}, wrong="compose.yml:3: no", wrong_told=time.time()))
    assert rbuild("-n", str(site)) == ""
    assert checks.read(folder).wrong
    assert rbuild(str(site)) == ""
    assert checks.read(folder) == Checks({"git": "no"}, wrong_told=checks.read(folder).wrong_told)


def test_no_process_is_started(site: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    calls = "trace=execve,execveat,fork,vfork,clone,clone3"
    assert rbuild(str(site), before=("strace", "-f", "-o", str(trace), "-e", calls)) == ""
    made = [line for line in trace.read_text().splitlines() if re.search(r"\d+ +\w+\(", line)]
    assert len(made) == 1, made
    assert "execve" in made[0]


IMPORTS = """
import atexit, sys
from rbuild.cli import main
atexit.register(lambda: print(sorted(set(sys.argv.pop().split()) & set(sys.modules))))
heavy = sys.argv.pop()
sys.argv.append(heavy)
main(sys.argv[1:-1], prog_name="rbuild")
"""


def test_nothing_heavy_is_imported(site: Path) -> None:
    argv = [sys.executable, "-c", IMPORTS, str(site), " ".join(HEAVY)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_the_probe_above_sees_an_import(site: Path) -> None:
    argv = [sys.executable, "-c", IMPORTS, str(site), "click"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.stdout == "['click']\n"


def test_without_an_argument_and_as_a_list(site: Path, tmp_path: Path, state_dir: Path) -> None:
    make_fresh(tmp_path / "other", Store(str(state_dir)))
    assert rbuild(cwd=site) == ""
    assert rbuild(str(site), str(tmp_path / "other"), str(site)) == ""


def test_it_can_be_asked(site: Path) -> None:
    line = rbuild("-v", str(site))
    assert line.startswith("site: fresh until 2")
    assert line.count("\n") == 1


@pytest.mark.parametrize("period", ["100y", "99999999d", "5200w"])
def test_a_period_of_ages(site: Path, period: str) -> None:
    argv = [sys.executable, "-m", "rbuild", "--json", "--build-period", period, str(site)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert done.returncode == (0 if period == "5200w" else 2)


def docker_is_asked(site: Path, tmp_path: Path, *arguments: str) -> bool:
    """Whether a run took the closer look: it fails at once, for there is no docker command."""
    path = tmp_path / "empty"
    path.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "rbuild", *arguments, str(site)],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": str(path)},
    )
    assert done.returncode == (1 if done.stderr else 0)
    assert ("no docker command" in done.stderr) == bool(done.stderr)
    return bool(done.stderr)


def test_what_looks_changed_is_looked_at(site: Path, tmp_path: Path) -> None:
    assert not docker_is_asked(site, tmp_path)
    (site / "compose.override.yml").touch()
    assert docker_is_asked(site, tmp_path)


@pytest.mark.parametrize("name", [".env", "web.env", "Dockerfile", "compose.yml"])
def test_a_touched_input_is_looked_at(site: Path, tmp_path: Path, name: str) -> None:
    os.utime(site / name, ns=(1, 1))
    assert docker_is_asked(site, tmp_path)


def test_flags_and_age_count(site: Path, tmp_path: Path) -> None:
    assert docker_is_asked(site, tmp_path, "--force-rebuild")
    assert docker_is_asked(site, tmp_path, "--build-period", "0")
    assert not docker_is_asked(site, tmp_path, "--build-period", "1h")
