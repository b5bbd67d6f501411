"""What the tests hold a project against: how it stands, and what its files were."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .conftest import Project, run


def next_compose(folder: Path) -> dict[str, str]:
    """The environment in which docker uses the newer Compose; its settings go to `folder`.

    On the newer engine that is the Compose which is used anyway.
    """
    path = os.environ.get("RBUILD_COMPOSE_NEXT")
    assert path, "RBUILD_COMPOSE_NEXT is not set: run the tests with tests/run"
    plugins = folder / "cli-plugins"
    plugins.mkdir(parents=True)
    # Each Compose wants a Buildx of its age.
    for name in ("docker-compose", "docker-buildx"):
        (plugins / name).symlink_to(Path(path).parent / name)
    env = {"DOCKER_CONFIG": str(folder)}
    version = ["version", "--short"]
    assert run(["docker", "compose", *version], env=env) == run([path, *version])
    return env


def state_of(project: Project) -> Path:
    """The project's state folder, as `project.env` has it."""
    return Path(project.env["RBUILD_STATE_DIR"])


def record_of(project: Project) -> Path:
    """The one record in the project's state folder."""
    (path,) = _records(project)
    return path


def _records(project: Project) -> list[Path]:
    """Records, damaged ones too, each under its folder's own name and no other path's."""
    found = state_of(project).glob("projects/*/record.json*")
    return [path for path in found if not path.parent.is_symlink()]


def standing(project: Project) -> dict[str, Any]:
    """What bad input must not change: containers, images (built ones bear a label), records."""
    label = f"label=com.docker.compose.project={project.name}"
    return {
        "containers": {
            name: (one["Id"], one["State"]["StartedAt"], one["State"]["Status"])
            for name, one in project.containers().items()
        },
        "images": set(run(["docker", "images", "-aq", "--no-trunc", "--filter", label]).split()),
        "records": {str(path): path.read_bytes() for path in _records(project)},
    }


@contextmanager
def restored(*tops: Path) -> Iterator[None]:
    """Puts the files below some folders back as they were: content, mtime and, if it can, inode."""
    kept = {path: (path.read_bytes(), path.stat()) for top in tops for path in _files(top)}
    yield
    for top in tops:
        for path in sorted(top.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
                path.rmdir()
            elif path not in kept and (path.is_symlink() or not path.is_dir()):
                path.unlink()
    for path, (content, info) in kept.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def _files(top: Path) -> list[Path]:
    return [path for path in top.rglob("*") if path.is_file() and not path.is_symlink()]
