"""Small Compose projects that serve HTTP, each with a folder, a state folder and ports."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from .engines import ROOT, Engine, hold

MakeSite = Callable[..., "Site"]

DOCKERFILE = """\
FROM $BASE
COPY page /www/index.html
CMD ["httpd", "-f", "-p", "80", "-h", "/www"]
"""
SERVICE = """\
  {name}:
    build: {name}
    init: true
    stop_grace_period: 1s
    ports: ["127.0.0.1:$PORT_{key}:80"]
"""


@dataclass
class Ran:
    """How a run of rbuild ended, and how many seconds it took."""

    code: int
    out: str
    err: str
    seconds: float = 0.0

    @property
    def document(self) -> dict[str, Any]:
        """What --json printed."""
        return json.loads(self.out)  # type: ignore[no-any-return]

    @property
    def silent(self) -> bool:
        """Nothing was printed."""
        return not self.out and not self.err


@dataclass
class Site:
    """A Compose project on an engine; its name is that of its folder."""

    folder: Path
    state: Path
    name: str
    engine: Engine
    ports: dict[str, int] = field(default_factory=dict)
    """Published port by service."""

    @property
    def env(self) -> dict[str, str]:
        """What a command needs so that it sees this site's engine and state, and no other."""
        return {
            "RBUILD_STATE_DIR": str(self.state),
            "XDG_CONFIG_HOME": str(self.state / "no-configuration"),
            **self.engine.env,
        }

    def write(self, path: str, text: str) -> Path:
        """Write a file of the project, with `$BASE` and `$PORT_<SERVICE>` replaced."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(self._filled(text))
        # The kernel's clock for files ticks in milliseconds, and sites are written side by side in
        # folders of the same name: BuildKit would take one's file for another's of the same size.
        now = time.time_ns()
        os.utime(target, ns=(now, now))
        return target

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace text that is in a file of the project."""
        target = self.folder / path
        text = target.read_text()
        old, new = self._filled(old), self._filled(new)
        assert old in text, f"{path} has no {old!r}:\n{text}"
        target.write_text(text.replace(old, new))

    def _filled(self, text: str) -> str:
        def port(match: re.Match[str]) -> str:
            service = match[1].lower().replace("_", "-")
            if service not in self.ports:
                self.ports[service] = free_port()
            return str(self.ports[service])

        text = text.replace("$BASE", os.environ["RBUILD_BASE"])
        return re.sub(r"\$PORT_([A-Z0-9_]+)", port, text)

    def rbuild(self, *arguments: str, timeout: float = 180, **env: str) -> Ran:
        """Run the real command in the project's folder."""
        started = time.monotonic()
        done = subprocess.run(
            self.argv(*arguments),
            cwd=self.folder,
            env={**os.environ, **self.env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
        return Ran(done.returncode, done.stdout, done.stderr, time.monotonic() - started)

    def argv(self, *arguments: str) -> list[str]:
        """The command line of a run of rbuild."""
        return [sys.executable, "-m", "rbuild", *arguments]

    def begin(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """Start the real command in a session of its own; the caller waits for it."""
        # A test run in the background ignores some signals, and would pass that on.
        return subprocess.Popen(
            ["env", "--default-signal=HUP,INT,TERM", *self.argv(*arguments)],
            cwd=self.folder,
            env={**os.environ, **self.env, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def compose(self, *arguments: str, check: bool = True) -> str:
        """What `docker compose` in the project's folder prints."""
        return self.engine.run("docker", "compose", *arguments, check=check, cwd=self.folder)

    def answers(self) -> dict[str, str | None]:
        """What each service says now on its port; None for one that doesn't answer."""
        return {name: self.engine.fetch(port) for name, port in self.ports.items()}

    def answers_soon(
        self, wanted: Mapping[str, str | None], seconds: float = 10
    ) -> dict[str, str | None]:
        """What each service says as soon as it is what is wanted, or when time is up.

        A port that was published anew may take a second to be reached.
        """
        deadline = time.monotonic() + seconds
        while (found := self.answers()) != wanted and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def containers(self) -> list[dict[str, Any]]:
        """What `docker inspect` says of each container, stopped ones too."""
        label = f"label=com.docker.compose.project={self.name}"
        listing = ["docker", "ps", "-aq", "--no-trunc", "--filter", label]
        found = self.engine.run(*listing).split()
        if not found:
            return []
        # One of them may be gone by now; the others are printed even so.
        return json.loads(  # type: ignore[no-any-return]
            self.engine.run("docker", "inspect", *found, check=False) or "[]"
        )

    def starts(self) -> dict[str, tuple[str, str, str]]:
        """Container name → what shows that nothing happened to it: ID, start, state."""
        return {
            one["Name"].lstrip("/"): (one["Id"], one["State"]["StartedAt"], one["State"]["Status"])
            for one in self.containers()
        }

    def tags(self) -> set[str]:
        """The image tags of this project: those that run and those that rbuild keeps."""
        argv = ["docker", "images", "--format", "{{.Repository}}:{{.Tag}}"]
        for pattern in (f"{self.name}-*", f"rbuild/{self.name}/*"):
            argv += ["--filter", f"reference={pattern}"]
        return set(self.engine.run(*argv).split())

    def leftovers(self) -> list[str]:
        """Containers that a recreate left halfway: under another's name, or never started."""
        return [
            one["Name"].lstrip("/")
            for one in self.containers()
            if re.match(r"/[0-9a-f]{12}_", one["Name"]) or one["State"]["Status"] == "created"
        ]

    @property
    def records(self) -> Path:
        """Where rbuild keeps what it knows of this project."""
        (found,) = (self.state / "projects").glob(f"{self.name}-*")
        return found

    def record(self) -> dict[str, Any]:
        """The project's record."""
        return json.loads((self.records / "record.json").read_text())  # type: ignore[no-any-return]

    def log(self) -> str:
        """The newest log; empty if there is none."""
        found = sorted((self.state / "projects").glob(f"{self.name}-*/logs/*.log"))
        return found[-1].read_text(errors="replace") if found else ""

    def remove(self) -> None:
        """Take everything of the project from the engine, and its folders."""
        if self.engine.runs:
            self._remove_from_engine()
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.state, ignore_errors=True)

    def _remove_from_engine(self) -> None:
        label = f"label=com.docker.compose.project={self.name}"
        # An anonymous one that a container took over from another is no longer that to `rm -v`.
        volumes = [
            mount["Name"]
            for one in self.containers()
            for mount in one["Mounts"]
            if mount["Type"] == "volume" and re.fullmatch("[0-9a-f]{64}", mount["Name"])
        ]
        for listing, removal in (
            (["docker", "ps", "-aq"], ["docker", "rm", "-fv"]),
            (["docker", "network", "ls", "-q"], ["docker", "network", "rm"]),
            (["docker", "volume", "ls", "-q"], ["docker", "volume", "rm", "-f"]),
        ):
            found = self.engine.run(*listing, "--filter", label).split()
            if found:
                self.engine.run(*removal, *found, check=False)
        if volumes:
            self.engine.run("docker", "volume", "rm", "-f", *volumes, check=False)
        tags = self.tags()
        if tags:
            self.engine.run("docker", "rmi", "-f", *tags, check=False)
        nameless = ["docker", "images", "-q", "--filter", label, "--filter", "dangling=true"]
        found = self.engine.run(*nameless).split()
        if found:
            self.engine.run("docker", "rmi", "-f", *found, check=False)


def new_site(
    engine: Engine,
    folder: Path,
    services: Mapping[str, str | None],
    *,
    settings: str = "{settle-period: 1}",
    more: str = "",
) -> Site:
    """A site in a new folder below `folder`, not yet up.

    Each service NAME is built from the folder NAME, whose file `page` is `NAME one`, and serves
    it on a port of its own. The value is YAML to add to the service, its lines not indented;
    None makes no such service: only its folder. `settings` is the value of `x-rbuild`, `more`
    YAML at the end of the compose file.
    """
    name = f"t{uuid.uuid4().hex[:10]}"
    site = Site(folder / name, folder / f"{name}-state", name, engine)
    site.folder.mkdir(parents=True)
    lines = [f"x-rbuild: {settings}\nservices:\n"]
    for service, own in services.items():
        site.write(f"{service}/Dockerfile", DOCKERFILE)
        site.write(f"{service}/page", f"{service} one\n")
        if own is not None:
            key = service.upper().replace("-", "_")
            lines.append(SERVICE.format(name=service, key=key))
            lines.append(textwrap.indent(own.strip("\n") + "\n", "    ") if own.strip() else "")
    site.write("compose.yml", "".join(lines) + more)
    return site


_taken: list[IO[str]] = []


def free_port() -> int:
    """A port that nobody listens on, and no other test gets while this process lives.

    Below the range from which the kernel takes ports for connections.
    """
    folder = ROOT / "ports"
    folder.mkdir(parents=True, exist_ok=True)
    for port in random.sample(range(20000, 32000), 200):
        mark = hold(folder / str(port))
        if mark and nobody_listens(port):
            _taken.append(mark)
            return port
        if mark:
            mark.close()
    raise AssertionError("no free port between 20000 and 32000")


def nobody_listens(port: int) -> bool:
    """Whether a server could have this port on any address."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True
