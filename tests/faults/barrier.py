"""A way to the engine that stops at a chosen request, so that a run can be cut off right there."""

from __future__ import annotations

import os
import re
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from .engines import Engine
from .projects import Site

# What Compose asks of the engine as it puts a new container in the place of an old one.
STOP = r"POST \S*/containers/\w+/stop"
REMOVE = r"DELETE \S*/containers/\w+"
# By ID, or by name.
RENAME = r"POST \S*/containers/[\w.-]+/rename"
START = r"POST \S*/containers/\w+/start"
UNTAG = r"DELETE \S*/images/"


class Barrier:
    """Hands on what is said to the engine, until the last of `requests` is asked after the others.

    That one and whatever would follow it, on any connection, never get there.
    """

    def __init__(self, engine: Engine, path: Path, requests: Sequence[str]) -> None:
        argv = ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]
        self._engine = engine.run(*argv).strip().removeprefix("unix://")
        self._awaited = [re.compile(one.encode()) for one in requests]
        self._guard = threading.Lock()
        self._ends: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(100)
        self.reached = threading.Event()
        self.host = f"unix://{path}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """End all connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._guard:
            for one in self._ends:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            server.connect(self._engine)
            with self._guard:
                self._ends += [client, server]
            threading.Thread(target=self._ask, args=(client, server), daemon=True).start()
            threading.Thread(target=self._answer, args=(server, client), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        # A client says nothing new before it has its answer: requests begin where reads do.
        with suppress(OSError):
            while data := client.recv(1 << 16):
                with self._guard:
                    if self._awaited and self._awaited[0].match(data):
                        del self._awaited[0]
                if not self._awaited:
                    self.reached.set()
                    return
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)


def cut_off(site: Site, *requests: str, options: Sequence[str] = ()) -> None:
    """`kill -9` a run of rbuild and all that it started, as it asks the engine for something.

    That is the last of `requests`, asked after the others, each in its turn.
    """
    with barrier(site.engine, requests) as there:
        mark, deadline = os.urandom(8).hex(), time.monotonic() + 120
        process = site.begin(*options, DOCKER_HOST=there.host, RBUILD_TEST_MARK=mark)
        try:
            while not there.reached.wait(0.05) and process.poll() is None:
                assert time.monotonic() < deadline, "the run neither comes there nor ends"
        finally:
            kill_family(mark)
            out, err = process.communicate()
    assert there.reached.is_set(), f"the run ended: {process.returncode}\n{out}{err}{site.log()}"


@contextmanager
def barrier(engine: Engine, requests: Sequence[str]) -> Iterator[Barrier]:
    """A barrier that is gone afterwards."""
    # A socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="rbt") as folder:
        one = Barrier(engine, Path(folder) / "engine", requests)
        try:
            yield one
        finally:
            one.close()


def kill_family(mark: str) -> None:
    """`kill -9` all processes with this mark in their environment, until there are none."""
    while found := family(mark):
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def family(mark: str) -> list[int]:
    """The living processes with this mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            living = (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            if living and f"={mark}\0".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found
