"""Engines to break: the machine's own, and private ones that a test may kill and fill up.

A private engine is a dockerd in a network namespace of its own, beside the machine's. What it is
made of is under ROOT, in a folder that a lock marks as in use: what a killed test run left is
found by its free lock, and cleared.
"""

from __future__ import annotations

import ctypes
import fcntl
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

ROOT = Path("/run/rbuild-tests")
NAMESPACES = Path("/var/run/netns")
CLONE_NEWNET = 0x40000000


class Engine:
    """The machine's own engine."""

    def __init__(self, **env: str) -> None:
        self.env = env

    def run(self, *argv: str, check: bool = True, **more: Any) -> str:
        """What a command prints that talks to this engine; with `check` it must succeed."""
        env = {**os.environ, **more.pop("env", {}), **self.env}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, **more)
        assert done.returncode == 0 or not check, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    @property
    def runs(self) -> bool:
        """Whether there is an engine to talk to."""
        return True

    def inspect(self, *names: str) -> list[dict[str, Any]]:
        """What `docker inspect` says of containers or images, all of which exist."""
        return json.loads(self.run("docker", "inspect", *names)) if names else []

    def socket(self) -> socket.socket:
        """A TCP socket from which the ports of this engine are on 127.0.0.1."""
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM)

    def fetch(self, port: int, timeout: float = 1.0) -> str | None:
        """The body of GET / on a published port, stripped; None for anything but a 200."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        connection.sock = self.socket()
        try:
            connection.sock.settimeout(timeout)
            connection.sock.connect(("127.0.0.1", port))
            connection.request("GET", "/", headers={"Connection": "close"})
            answer = connection.getresponse()
            body = answer.read().decode(errors="replace").strip()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return body if answer.status == 200 else None


def machine_engine() -> Engine:
    """The engine that tests/run found or set up."""
    return Engine()


class PrivateEngine(Engine):
    """A dockerd of the tests' own, in a network namespace; it has the base image, nothing else."""

    def __init__(self, home: Path, data: Path) -> None:
        super().__init__(DOCKER_HOST=f"unix://{home}/docker.sock")
        self.home = home
        self.data = data
        self._dockerd: subprocess.Popen[bytes] | None = None

    @property
    def runs(self) -> bool:
        """Whether dockerd is alive."""
        return self._dockerd is not None and self._dockerd.poll() is None

    @property
    def pid(self) -> int:
        """The process of dockerd."""
        assert self._dockerd
        return self._dockerd.pid

    def socket(self) -> socket.socket:
        """A TCP socket in the namespace of this engine; where it is used doesn't matter."""
        return in_namespace(self.home.name, super().socket)

    def start(self) -> None:
        """Start dockerd, after a kill too, and wait until it answers."""
        # Numbers that may be another process's by now; a new dockerd would believe them.
        for left in ("docker.pid", "exec/containerd/containerd.pid"):
            with suppress(FileNotFoundError, ValueError):
                pid = int((self.home / left).read_text())
                if pid not in processes_of(self.home):
                    (self.home / left).unlink()
        self._dockerd = start_daemon(self.home)
        deadline = time.monotonic() + 60
        while not self._answers():
            if self._dockerd.poll() is not None or time.monotonic() > deadline:
                end = (self.home / "log").read_text(errors="replace")[-2000:]
                raise AssertionError(f"the private engine does not come up:\n{end}")
            time.sleep(0.05)

    def kill(self) -> None:
        """`kill -9` dockerd alone; returns when it is gone."""
        assert self._dockerd
        self._dockerd.kill()
        self._dockerd.wait()

    def stop(self) -> None:
        """End whatever belongs to this engine; nothing of it is left, its data neither."""
        clear(self.home)
        if self._dockerd:
            self._dockerd.wait()

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("docker", timeout=5)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.sock.settimeout(5)
            connection.sock.connect(str(self.home / "docker.sock"))
            connection.request("GET", "/_ping")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@contextmanager
def private_engine(
    *, containerd: bool | None = None, data: Path | None = None
) -> Iterator[PrivateEngine]:
    """A private engine, gone at the end, of the dockerd that is first on PATH.

    `containerd` chooses the containerd image store, or not; else it is as on the machine's engine.
    Its data goes to a new folder, or to `data`, which must exist and is emptied at the end.
    The registry of the tests answers in its namespace as it does outside.
    """
    with new_home() as home:
        if data is None:
            data = Path(tempfile.mkdtemp(prefix=f"{home.name}-", dir="/var/tmp"))
        (home / "data").symlink_to(data)
        engine = PrivateEngine(home, data)
        relay = None
        try:
            configure(home, data, containerd_store() if containerd is None else containerd)
            subprocess.run(["ip", "netns", "add", home.name], check=True)
            subprocess.run(["ip", "-n", home.name, "link", "set", "lo", "up"], check=True)
            relay = Relay(home.name, os.environ["RBUILD_REGISTRY"])
            engine.start()
            load(engine, os.environ["RBUILD_BASE"])
            yield engine
        finally:
            if relay:
                relay.close()
            engine.stop()
            if data.name.startswith(home.name):
                data.rmdir()


@contextmanager
def new_home() -> Iterator[Path]:
    """A folder for a private engine, marked as in use for as long as this process lives."""
    ROOT.mkdir(exist_ok=True)
    with locked(ROOT / "lock"):
        home = ROOT / f"rbt{uuid.uuid4().hex[:8]}"
        home.mkdir()
        mark = hold(home / "lock")
    assert mark
    try:
        yield home
    finally:
        with locked(ROOT / "lock"):
            shutil.rmtree(home)
            mark.close()


def clear_remains() -> None:
    """Remove what test runs left that were killed."""
    ROOT.mkdir(exist_ok=True)
    with locked(ROOT / "lock"):
        for home in ROOT.glob("rbt*"):
            mark = hold(home / "lock")
            if mark:
                data = home / "data"
                own = data.is_symlink() and data.readlink().name.startswith(home.name)
                folder = data.readlink() if own else None
                clear(home)
                if folder:
                    folder.rmdir()
                shutil.rmtree(home)
                mark.close()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for the lock of a file, and hold it."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def hold(path: Path) -> IO[str] | None:
    """Take the lock of a file for as long as what is returned stays open; None if it is held."""
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def configure(home: Path, data: Path, containerd: bool) -> None:
    """Write the configuration of a private dockerd."""
    settings: dict[str, Any] = {
        "data-root": str(data),
        "exec-root": str(home / "exec"),
        "pidfile": str(home / "docker.pid"),
        "hosts": [f"unix://{home}/docker.sock"],
        # Both together make every process of a container findable, also when its dockerd is dead.
        "cgroup-parent": f"/{home.name}",
        "exec-opts": ["native.cgroupdriver=cgroupfs"],
    }
    if containerd:
        settings["features"] = {"containerd-snapshotter": True}
    else:
        settings["storage-driver"] = "overlay2"
    # `init: true` needs a docker-init; Debian calls it tini-static.
    init = shutil.which("docker-init") or shutil.which("tini-static")
    if init:
        settings["init-path"] = init
    (home / "daemon.json").write_text(json.dumps(settings))


def containerd_store() -> bool:
    """Whether the machine's engine has the containerd image store."""
    told = machine_engine().run("docker", "info", "--format", "{{json .DriverStatus}}")
    return "io.containerd.snapshotter" in told


def start_daemon(home: Path) -> subprocess.Popen[bytes]:
    """Start dockerd in the namespace of its home; it outlives signals that are meant for us."""
    dockerd = shutil.which("dockerd")
    assert dockerd, "no dockerd in PATH: run the tests with tests/run"
    with (home / "log").open("ab") as log:
        return subprocess.Popen(
            # nsenter turns into dockerd. `ip netns exec` would hide the cgroups from it.
            ["nsenter", f"--net={NAMESPACES / home.name}",
             dockerd, "--config-file", str(home / "daemon.json")],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def load(engine: Engine, image: str) -> None:
    """Carry an image of the machine's engine over to another."""
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as save:
        engine.run("docker", "load", "-q", stdin=save.stdout)
    assert save.returncode == 0


def processes_of(home: Path) -> set[int]:
    """Processes of a private engine: those that name its home, and those in its cgroup."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if f"{home}/".encode() in file.read_bytes():
                found.add(int(file.parent.name))
    for folder in cgroups_of(home):
        for file in folder.rglob("cgroup.procs"):
            with suppress(OSError):
                found.update(int(one) for one in file.read_text().split())
    return found - {os.getpid(), 0}


def cgroups_of(home: Path) -> list[Path]:
    """The cgroup of a private engine, in each hierarchy where there are several."""
    root = Path("/sys/fs/cgroup")
    return [one for one in (root / home.name, *root.glob(f"*/{home.name}")) if one.is_dir()]


def clear(home: Path) -> None:
    """End the processes of a private engine, undo its mounts and its namespace, empty its data."""
    deadline = time.monotonic() + 30
    # Again and again: what dies may start something else, and a mount or a cgroup is busy until
    # the last one in it is gone.
    while found := processes_of(home):
        assert time.monotonic() < deadline, f"processes of {home.name} do not end: {found}"
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    data = (home / "data").readlink() if (home / "data").is_symlink() else None
    for place in mounts_below(home, *([data] if data else [])):
        subprocess.run(["umount", "-l", place], check=True)
    if (NAMESPACES / home.name).exists():
        subprocess.run(["ip", "netns", "delete", home.name], check=True)
    for top in cgroups_of(home):
        for folder in sorted([top, *(one for one in top.rglob("*") if one.is_dir())], reverse=True):
            folder.rmdir()
    for one in data.iterdir() if data and data.is_dir() else ():
        shutil.rmtree(one) if one.is_dir() and not one.is_symlink() else one.unlink()


def mounts_below(*folders: Path) -> list[str]:
    """Where something is mounted below folders, and dockerd's mounts of a folder on itself."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        _, _, _, root, place, *_ = line.split()
        place = place.encode().decode("unicode_escape")
        for folder in folders:
            if place.startswith(f"{folder}/") or (place == str(folder) and root != "/"):
                found.append(place)
    return found[::-1]


class Relay:
    """A way from inside a namespace to the registry outside, at the same address."""

    def __init__(self, namespace: str, address: str) -> None:
        host, _, port = address.partition(":")
        self._target = (host, int(port))
        self._listener = in_namespace(namespace, lambda: socket.create_server(self._target))
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        # Without it, a thread in accept() keeps the port open.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
            except OSError:
                return
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=carry, args=(source, target), daemon=True).start()


def carry(source: socket.socket, target: socket.socket) -> None:
    """Copy what one end says to the other, until either has enough."""
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def in_namespace(name: str, make: Callable[[], socket.socket]) -> socket.socket:
    """A socket that is made inside a network namespace; it stays there wherever it is used."""
    made: list[socket.socket | BaseException] = []

    def work() -> None:
        try:
            with (NAMESPACES / name).open() as file:
                if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            made.append(make())
        except BaseException as error:
            made.append(error)

    # A namespace is a thread's own: this one goes there, and ends there.
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if isinstance(made[0], BaseException):
        raise made[0]
    return made[0]
