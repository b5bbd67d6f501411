"""Nothing is due: what a run costs, as ratios within this run.

One project beside `python -c "import click, json"` (wall, peak memory), and a thousand
projects of four input files each, in one call, beside one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from rbuild.compose import fingerprint, inputs
from rbuild.compose.project import locate
from rbuild.state import record
from rbuild.state.record import Record, Store, stamp

ROUNDS = 21
PROJECTS = 1000


def main() -> None:
    """Print the ratios."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        store = Store(str(root / "state"))
        folders = [
            make_fresh(root / "projects" / f"p{number}", store) for number in range(PROJECTS)
        ]
        environ = {**os.environ, "RBUILD_STATE_DIR": store.root}
        rbuild = shutil.which("rbuild") or sys.exit("rbuild is not installed: use tests/bench/run")
        bare = [sys.executable, "-c", "import click, json"]
        one, many = [rbuild, folders[0]], [rbuild, *folders]
        walls: dict[str, list[float]] = {"bare": [], "one": [], "many": []}
        for _ in range(ROUNDS):
            for name, argv in (("bare", bare), ("one", one), ("many", many)):
                walls[name].append(wall(argv, environ))
        peaks = {name: [peak(argv, environ)] for name, argv in (("bare", bare), ("one", one))}
    report("nothing due, one project / bare click and json, wall", walls["one"], walls["bare"], 1.3)
    report("nothing due, one project / bare, peak memory", peaks["one"], peaks["bare"], 1.3)
    report(f"nothing due, {PROJECTS} projects / one, wall", walls["many"], walls["one"], 4.0)


def make_fresh(folder: Path, store: Store) -> str:
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
    names = [one.name for one in found.variables]
    view = fingerprint.signature(paths, names, os.environ, key) | {"settings": {}}
    known = Record(folder.name, project.home, stamp(time.time()), key=key)
    known.views = {project.spelling: view}
    state = store.path(folder.name, project.home)
    store.make(state)
    record.write(state, known)
    return str(folder)


def wall(argv: list[str], environ: dict[str, str]) -> float:
    """Wall seconds of one command, which must be silent."""
    begun = time.perf_counter()
    done = subprocess.run(argv, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    seconds = time.perf_counter() - begun
    if done.returncode or done.stdout:
        sys.exit(f"{argv[:2]} was not silent: {done.returncode} {done.stdout[:500]!r}")
    return seconds


# A child's account begins with the memory of the process that it was forked from: a small one.
LAUNCHER = """
import os, sys
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
print(os.wait4(child, 0)[2].ru_maxrss)
"""


def peak(argv: list[str], environ: dict[str, str]) -> float:
    """Peak MiB of one silent command, by the system's own account."""
    launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, *argv]
    done = subprocess.run(launcher, env=environ, capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


def report(what: str, ours: list[float], theirs: list[float], goal: float) -> None:
    """Print one ratio of medians, with the figures behind it."""
    ratio = median(ours) / median(theirs)
    figures = f"{median(ours):.3f} / {median(theirs):.3f}"
    print(f"{what}: {ratio:.2f}  ({figures}; goal: at most {goal})", flush=True)


if __name__ == "__main__":
    main()
