"""Something is due: what an update costs beside the same by hand, as ratios within this run.

By hand: the pulls, `docker compose build --no-cache` and `docker compose up -d --wait`. The
settling time is set aside (`--settle-period 0`). And ten stale projects whose builds mostly
wait, four at a time beside one at a time.
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

ROUNDS = 5
COMPOSE = """\
name: {name}
services:
  web:
    build: .
    init: true
    healthcheck: {{test: [CMD, wget, -q, -O, /dev/null, "http://127.0.0.1/"], interval: 1s}}
  worker:
    build: {{context: ., target: worker}}
    init: true
"""
DOCKERFILE = """\
FROM {base} AS worker
RUN sleep {wait} && echo built >/built
CMD sleep 100000
FROM {base}
RUN sleep {wait} && mkdir -p /www && date >/www/index.html
CMD httpd -f -h /www
"""
WAITING = "name: {name}\nservices: {{one: {{build: ., init: true}}}}\n"


def main() -> None:
    """Print the ratios."""
    base = os.environ["RBUILD_BASE"]
    rbuild = shutil.which("rbuild") or sys.exit("rbuild is not installed: use tests/bench/run")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        os.environ["RBUILD_STATE_DIR"] = str(root / "state")
        folder = make(root, "rbuild-bench", COMPOSE, base, 5)
        ours, by_hand = [], []
        try:
            timed([rbuild, "-q"], folder)
            for _ in range(ROUNDS):
                ours.append(timed([rbuild, "-q", "--force-rebuild", "--settle-period=0"], folder))
                by_hand.append(
                    timed(["docker", "pull", "-q", base], folder)
                    + timed(["docker", "compose", "build", "--no-cache"], folder)
                    + timed(["docker", "compose", "up", "-d", "--wait"], folder)
                )
        finally:
            down(folder)
        factor = (median(ours) - 1) / median(by_hand)
        print(
            f"update less one second / by hand, wall: {factor:.2f}  "
            f"({median(ours):.2f} / {median(by_hand):.2f}; goal: at most 1.15)",
            flush=True,
        )
        many = [make(root, f"rbuild-bench-{n}", WAITING, base, 10) for n in range(10)]
        try:
            walls = {
                jobs: timed(
                    [rbuild, "-q", "--force-rebuild", "--settle-period=0", f"--jobs={jobs}", *many],
                    root,
                )
                for jobs in (1, 4)
            }
        finally:
            for one in many:
                down(one)
        print(
            f"ten projects, --jobs 4 / --jobs 1, wall: {walls[4] / walls[1]:.2f}  "
            f"({walls[4]:.1f} / {walls[1]:.1f}; goal: at most 0.4)",
            flush=True,
        )


def make(root: Path, name: str, compose: str, base: str, wait: int) -> Path:
    """A project whose builds take `wait` seconds."""
    folder = root / name
    folder.mkdir()
    (folder / "compose.yml").write_text(compose.format(name=name))
    (folder / "Dockerfile").write_text(DOCKERFILE.format(base=base, wait=wait))
    return folder


def timed(argv: list[str | Path], folder: Path) -> float:
    """Wall seconds of a command that must succeed."""
    begun = time.perf_counter()
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True)
    seconds = time.perf_counter() - begun
    if done.returncode:
        sys.exit(f"{argv}: {done.stdout}{done.stderr}")
    return seconds


def down(folder: Path) -> None:
    """Take a project down, its images too."""
    argv = ["docker", "compose", "down", "-t", "1", "--rmi", "local"]
    subprocess.run(argv, cwd=folder, capture_output=True)
    subprocess.run(["rbuild", "-q", "--remove-images"], cwd=folder, capture_output=True)


if __name__ == "__main__":
    main()
