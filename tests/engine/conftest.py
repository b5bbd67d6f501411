"""Real projects on a real engine: made in a folder of the test's, gone after it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session", autouse=True)
def _engine_is_there() -> None:
    """These tests need what tests/run sets up; without it they fail, they don't skip."""
    for name in ("RBUILD_REGISTRY", "RBUILD_BASE"):
        if not os.environ.get(name):
            pytest.exit(f"{name} is not set: run the tests with tests/run", returncode=3)
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.exit("no docker compose: run the tests with tests/run", returncode=3)


@dataclass
class Ran:
    """How a run of rbuild ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """What --json printed."""
        return json.loads(self.out)  # type: ignore[no-any-return]


@dataclass
class Project:
    """A Compose project in a folder of its own, with a name that no other test has."""

    folder: Path
    name: str
    base: str
    env: dict[str, str] = field(default_factory=dict)

    def write(self, path: str, text: str) -> Path:
        """Write a file of the project; `$BASE` in it is the base image of the tests."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text.replace("$BASE", self.base))
        return target

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace text in a file of the project."""
        target = self.folder / path
        text = target.read_text()
        assert old in text
        target.write_text(text.replace(old, new))

    def rbuild(self, *arguments: str, cwd: Path | None = None, **env: str) -> Ran:
        """Run the real command in the project's folder."""
        return run_rbuild(*arguments, cwd=cwd or self.folder, env={**self.env, **env})

    def compose(self, *arguments: str) -> str:
        """What `docker compose` in the project's folder prints; it must succeed."""
        return run(["docker", "compose", *arguments], cwd=self.folder, env=self.env)

    def containers(self) -> dict[str, dict[str, Any]]:
        """What `docker inspect` says of each container, by name."""
        label = f"label=com.docker.compose.project={self.name}"
        ids = run(["docker", "ps", "-aq", "--no-trunc", "--filter", label]).split()
        found = json.loads(run(["docker", "inspect", *ids])) if ids else []
        return {one["Name"].lstrip("/"): one for one in found}

    def container(self, service: str, number: int = 1) -> dict[str, Any]:
        """One container of a service."""
        return self.containers()[f"{self.name}-{service}-{number}"]

    def images(self) -> set[str]:
        """IDs of all images that are this project's: named, kept or dangling."""
        found: set[str] = set()
        for wanted in (
            f"label=com.docker.compose.project={self.name}",
            f"reference={self.name}-*",
            f"reference={self.name}_*",
            f"reference=rbuild/{self.name}/*",
        ):
            found.update(run(["docker", "images", "-q", "--no-trunc", "--filter", wanted]).split())
        return found


def run(argv: Sequence[str], cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(
        argv, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


def run_rbuild(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> Ran:
    """Run the real command."""
    done = subprocess.run(
        [sys.executable, "-m", "rbuild", *arguments],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=240,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)


def clean_up(name: str) -> None:
    """Remove whatever a test's project left on the engine."""
    label = f"label=com.docker.compose.project={name}"
    for listing, removal in (
        (["docker", "ps", "-aq"], ["docker", "rm", "-fv"]),
        (["docker", "network", "ls", "-q"], ["docker", "network", "rm"]),
        (["docker", "volume", "ls", "-q"], ["docker", "volume", "rm", "-f"]),
    ):
        found = run([*listing, "--filter", label]).split()
        if found:
            subprocess.run([*removal, *found], capture_output=True)
    # By name where there is one: the ID of an image that is kept may be the base of all tests.
    listing = ["docker", "images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]
    own = f"{os.environ['RBUILD_REGISTRY']}/{name}/*"
    patterns = (f"{name}-*", f"{name}_*", f"rbuild/{name}/*", own)
    for wanted in (label, *(f"reference={one}" for one in patterns)):
        for line in run([*listing, "--filter", wanted]).splitlines():
            tag, identity = line.split()
            subprocess.run(
                ["docker", "rmi", "-f", identity if "<none>" in tag else tag], capture_output=True
            )


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """An empty project; the folder's name is the project's."""
    name = f"t{uuid.uuid4().hex[:10]}"
    folder = tmp_path / name
    folder.mkdir()
    yield Project(folder, name, os.environ["RBUILD_BASE"])
    clean_up(name)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def site(project: Project) -> Project:
    """A project with one service that is built and answers HTTP inside its network."""
    project.write(
        "compose.yml",
        """\
services:
  web:
    build: .
    init: true
    healthcheck:
      test: [CMD, wget, -q, -O, /dev/null, "http://127.0.0.1/"]
      interval: 1s
      timeout: 2s
      retries: 5
x-rbuild:
  settle-period: 1
""",
    )
    project.write("Dockerfile", "FROM $BASE\nCOPY page /www/index.html\nCMD httpd -f -h /www\n")
    project.write("page", "one\n")
    return project


@pytest.fixture
def own(project: Project, registry: str) -> str:
    """The part of the registry that belongs to this test's project."""
    return f"{registry}/{project.name}"


@pytest.fixture
def registry() -> str:
    """Address of the registry that the tests may push to."""
    return os.environ["RBUILD_REGISTRY"]
