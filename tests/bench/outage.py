"""How long a service is down: an update beside plain Compose, and one that is rolled back.

A client asks 100 times a second; what gets no answer counts for a hundredth of a second each.
Plain Compose is `docker compose build --no-cache && docker compose up -d --wait` on the same
project. The rolled-back update builds an image that never serves, and its healthcheck says so;
allowed is twice plain Compose's outage, what passes from `up` to the event of the engine that
decides, and one second. The rounds take turns, so that a slow minute of the machine slows all.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

# Swapping a container takes half a second, give or take a fifth: only many tell two ways apart.
ROUNDS = 15
# Every which round ends with a bad image as well.
BAD_EACH = 3
NAME = "rbuild-bench-outage"
PACE = 0.01
# Seconds after which a question counts as not answered; an answer takes some milliseconds.
PATIENCE = 1.0
COMPOSE = """\
name: {name}
services:
  web:
    build: .
    init: true
    ports: ["127.0.0.1:{port}:80"]
    healthcheck:
      test: [CMD, wget, -q, -O, /dev/null, "http://127.0.0.1/"]
      interval: 1s
      timeout: 2s
      retries: 2
x-rbuild: {{settle-period: 1}}
"""
GOOD = """\
FROM {base}
RUN mkdir -p /www && date +%s%N >/www/index.html
CMD ["httpd", "-f", "-p", "80", "-h", "/www"]
"""
BAD = 'FROM {base}\nRUN date +%s%N >/when\nCMD ["sleep", "100000"]\n'


@dataclass(frozen=True)
class Bench:
    """The project, and where its service answers."""

    folder: Path
    port: int
    base: str

    def dockerfile(self, text: str) -> None:
        """Let the next build make something else."""
        (self.folder / "Dockerfile").write_text(text.format(base=self.base))


def main() -> None:
    """Print the ratios."""
    rbuild = shutil.which("rbuild") or sys.exit("rbuild is not installed: use tests/bench/run")
    force = [rbuild, "-q", "--force-rebuild"]
    plain: list[float] = []
    good: list[float] = []
    bad: list[float] = []
    decided: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["RBUILD_STATE_DIR"] = f"{scratch}/state"
        bench = Bench(Path(scratch) / NAME, free_port(), os.environ["RBUILD_BASE"])
        bench.folder.mkdir()
        (bench.folder / "compose.yml").write_text(COMPOSE.format(name=NAME, port=bench.port))
        bench.dockerfile(GOOD)
        try:
            succeed([rbuild, "-q"], bench)
            for number in range(ROUNDS):
                with client(bench.port) as asked:
                    succeed(["docker", "compose", "build", "--no-cache"], bench)
                    succeed(["docker", "compose", "up", "-d", "--wait"], bench)
                plain.append(asked.down)
                with client(bench.port) as asked:
                    succeed(force, bench)
                good.append(asked.down)
                if number % BAD_EACH:
                    continue
                bench.dockerfile(BAD)
                with client(bench.port) as asked, events() as seen:
                    succeed(force, bench, code=3)
                bad.append(asked.down)
                decided.append(decision(seen))
                bench.dockerfile(GOOD)
        finally:
            take_down(bench, rbuild)
    report(plain, good, bad, decided)


def report(plain: list[float], good: list[float], bad: list[float], decided: list[float]) -> None:
    """Print the ratios of medians, with the seconds behind them."""
    usual = median(plain)
    print(
        f"a good update / plain compose, seconds without an answer: {median(good) / usual:.2f}  "
        f"({median(good):.2f} / {usual:.2f}; goal: at most 1.1)"
    )
    shares = [down / (2 * usual + late + 1) for down, late in zip(bad, decided, strict=True)]
    print(
        f"a bad image, rolled back / what is allowed, seconds without an answer: "
        f"{median(shares):.2f}  ({median(bad):.2f} / 2 * {usual:.2f} + {median(decided):.2f} + 1; "
        "goal: at most 1)",
        flush=True,
    )


# ---------------------------------------------------------------- the client


class Client:
    """Asks at a steady pace, whether the questions before were answered or not."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._over = threading.Event()
        self.asked = self.unanswered = 0

    @property
    def down(self) -> float:
        """Seconds without an answer."""
        return self.unanswered * PACE

    def end(self) -> None:
        """Ask no more; what is asked is waited for."""
        self._over.set()

    async def ask(self) -> None:
        """Until the end."""
        asking: set[asyncio.Task[None]] = set()
        begun = time.monotonic()
        while not self._over.is_set():
            # By the clock, not by pauses: one that was late makes up for it.
            await asyncio.sleep(max(0.0, begun + self.asked * PACE - time.monotonic()))
            self.asked += 1
            task = asyncio.create_task(self._ask_once())
            asking.add(task)
            task.add_done_callback(asking.discard)
        if asking:
            await asyncio.gather(*asking)

    async def _ask_once(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                try:
                    writer.write(b"GET / HTTP/1.0\r\n\r\n")
                    answer = await reader.read(64)
                finally:
                    writer.close()
        except OSError:
            answer = b""
        if b" 200 " not in answer:
            self.unanswered += 1


@contextmanager
def client(port: int) -> Iterator[Client]:
    """One that asks while the block runs, from a thread of its own."""
    one = Client(port)
    thread = threading.Thread(target=asyncio.run, args=(one.ask(),))
    thread.start()
    try:
        yield one
    finally:
        one.end()
        thread.join()


def free_port() -> int:
    """One that nobody listens on, from below those that the system deals out by itself.

    A client that asks while nobody listens would be dealt the port itself one day.
    """
    while True:
        port = random.randrange(20000, 30000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


# ---------------------------------------------------------------- the engine's events


@contextmanager
def events() -> Iterator[list[dict[str, Any]]]:
    """The events of the project's containers while the block runs; complete after it."""
    seen: list[dict[str, Any]] = []
    argv = ["docker", "events", "--format", "{{json .}}", "--filter", "type=container"]
    argv += ["--filter", f"label=com.docker.compose.project={NAME}"]
    # What happens before the engine listens to us is told as well.
    argv += ["--since", f"{time.time():.9f}"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        yield seen
    finally:
        process.terminate()
        told, _ = process.communicate()
    seen += map(json.loads, told.splitlines())


def decision(seen: list[dict[str, Any]]) -> float:
    """Seconds from `up`'s first event to the one that tells that the new container is bad."""
    made = next(one for one in seen if one["Action"] == "create")
    verdicts = ("health_status: unhealthy", "die")
    told = next(one for one in seen if one["id"] == made["id"] and one["Action"] in verdicts)
    return float(told["timeNano"] - made["timeNano"]) / 1e9


# ---------------------------------------------------------------- the rest


def succeed(argv: list[str], bench: Bench, code: int = 0) -> None:
    """Run a command that must end with this code."""
    done = subprocess.run(argv, cwd=bench.folder, capture_output=True, text=True)
    if done.returncode != code:
        sys.exit(f"{argv}: {done.returncode} instead of {code}\n{done.stdout}{done.stderr}")


def take_down(bench: Bench, rbuild: str) -> None:
    """Remove the project and its images."""
    argv = ["docker", "compose", "down", "-t", "1", "--rmi", "local"]
    subprocess.run(argv, cwd=bench.folder, capture_output=True)
    subprocess.run([rbuild, "-q", "--remove-images"], cwd=bench.folder, capture_output=True)


if __name__ == "__main__":
    main()
