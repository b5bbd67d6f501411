"""What several engine tests share: images in the registry, a way to it that can break, logs."""

from __future__ import annotations

import json
import os
import re
import selectors
import shutil
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .conftest import Project, clean_up, run

PULL = re.compile(r"^\$ \S*docker pull (?:--platform \S+ )?-- (\S+)$", re.MULTILINE)
BUILD = re.compile(r"^\$ \S*docker compose .*build --no-cache (?:--pull )?-- (.+)$", re.MULTILINE)


@contextmanager
def new_project(folder: Path, state: Path) -> Iterator[Project]:
    """An empty project with a state folder that outlives a single test; gone at the end."""
    name = f"t{uuid.uuid4().hex[:10]}"
    folder = folder / name
    folder.mkdir()
    env = {"RBUILD_STATE_DIR": str(state), "XDG_CONFIG_HOME": str(state / "no-configuration")}
    try:
        yield Project(folder, name, os.environ["RBUILD_BASE"], env)
    finally:
        clean_up(name)
        shutil.rmtree(folder, ignore_errors=True)


def make_image(name: str, dockerfile: str) -> str:
    """Build an image, of no name if that is empty; its ID."""
    argv = ["docker", "build", "-q", *(["-t", name] if name else []), "-"]
    text = dockerfile.replace("$BASE", os.environ["RBUILD_BASE"])
    done = subprocess.run(argv, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def publish(reference: str, version: str, more: str = "") -> str:
    """Let a tag in the registry mean an image of this version; what is here stays. Its ID."""
    before, kept = image_id(reference), f"{reference}-before"
    if before:
        # With the containerd store, an image that loses its last name is gone.
        run(["docker", "tag", before, kept])
    text = f"FROM $BASE\nLABEL test={reference}\nRUN echo {version} > /version\n{more}"
    made = make_image(reference, text)
    run(["docker", "push", "-q", reference])
    if before:
        run(["docker", "tag", kept, reference])
        run(["docker", "rmi", kept])
        if made != before and image_id(made):
            run(["docker", "rmi", "-f", made])
    return made


def image_id(reference: str) -> str:
    """The ID of the image of this name; empty if there is none."""
    argv = ["docker", "image", "inspect", "--format", "{{.Id}}", reference]
    return subprocess.run(argv, capture_output=True, text=True).stdout.strip()


def label(reference: str, name: str) -> str:
    """A label of an image or a container."""
    return run(["docker", "inspect", "--format", f'{{{{index .Config.Labels "{name}"}}}}',
                reference]).strip()  # fmt: skip


def inside(container: str, *command: str) -> str:
    """What a command in a running container prints."""
    return run(["docker", "exec", container, *command]).strip()


def ids(project: Project) -> dict[str, str]:
    """Container name → ID."""
    return {name: one["Id"] for name, one in project.containers().items()}


def starts(project: Project) -> dict[str, tuple[str, str, str]]:
    """Container name → what shows that nothing happened to it."""
    return {
        name: (one["Id"], one["State"]["StartedAt"], one["State"]["Status"])
        for name, one in project.containers().items()
    }


def own_tags(project: Project) -> set[str]:
    """The tags that rbuild keeps for a project."""
    wanted = f"reference=rbuild/{project.name}/*"
    form = "{{.Repository}}:{{.Tag}}"
    return set(run(["docker", "images", "--format", form, "--filter", wanted]).split())


def state_folder(project: Project) -> Path:
    """Where rbuild keeps what it knows of a project."""
    root = Path(project.env.get("RBUILD_STATE_DIR") or os.environ["RBUILD_STATE_DIR"])
    folders = (root / "projects").glob(f"{project.name}-*")
    (found,) = (one for one in folders if not one.is_symlink())
    return found


def record(project: Project) -> dict[str, Any]:
    """The project's record."""
    return json.loads((state_folder(project) / "record.json").read_text())  # type: ignore[no-any-return]


def known_bad(project: Project, before: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """What the record keeps of a failure of this kind; the rest of it must be as `before`."""
    failed = record(project)["failed"]
    assert record(project) == {**before, "failed": failed}
    assert failed["kind"] == kind
    return failed  # type: ignore[no-any-return]


def log(project: Project) -> str:
    """The newest log; empty if there is none yet."""
    root = Path(project.env.get("RBUILD_STATE_DIR") or os.environ["RBUILD_STATE_DIR"])
    found = sorted((root / "projects").glob(f"{project.name}-*/logs/*.log"))
    return found[-1].read_text(errors="replace") if found else ""


def last_run(project: Project) -> str:
    """The part of the newest log that the last run wrote."""
    return log(project).rpartition(f"rbuild: {project.name}: ")[2]


def wait_until(true: Callable[[], Any], what: str, seconds: float = 30) -> Any:
    """Look again and again until something is there; its value."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain: {what}"
        time.sleep(0.05)
    return found


class Gateway:
    """A way to the registry on a port of its own: `open`, `silent` (says nothing) or `closed`."""

    def __init__(self) -> None:
        host, _, port = os.environ["RBUILD_REGISTRY"].partition(":")
        self._registry = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]  # noqa: UP031
        self.silent = False
        self.asked = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """From now on connections are refused."""
        # Without it, a thread in accept() keeps the port open.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.asked.set()
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        if self.silent:
            while client.recv(1 << 16):
                pass
            client.close()
            return
        with client, socket.create_connection(self._registry) as server:
            others = {client: server, server: client}
            with selectors.DefaultSelector() as selector:
                for one in others:
                    selector.register(one, selectors.EVENT_READ)
                while True:
                    for key, _ in selector.select():
                        try:
                            data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                        except OSError:
                            data = b""
                        if not data:
                            return
                        others[key.fileobj].sendall(data)  # type: ignore[index]
