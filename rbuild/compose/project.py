"""From an argument to a Compose project: which folder, which files.

Nothing here reads a compose file or starts a process: a fresh project passes through.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from rbuild.errors import ProjectError

# The names that Compose looks for in a folder, in its order of preference
# (Compose file specification, "The Compose file").
DEFAULT_FILES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
# A line of an env file that chooses other files.
_CHOICE = re.compile(r"\s*(?:export\s+)?COMPOSE_FILE[^\S\n]*[=:][^\S\n]*[^\s#]")


class Target(NamedTuple):
    """How Compose is pointed at one project: in which folder, with which `-f` files.

    `folder` is kept as it was spelled (made absolute, links not resolved), because Compose
    takes a project's default name from it. No `files` means the folder's own choice, which is
    `chosen` once it is known. A `name` is given only with a kept configuration, whose own folder
    is not the project's.
    """

    folder: str
    files: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()
    name: str = ""


class Project(NamedTuple):
    """A project as it was asked for. `home` is its folder with links resolved."""

    argument: str
    target: Target
    home: str

    @property
    def paths(self) -> tuple[str, str]:
        """Its folder as it is spelled, and with links resolved: by both its record is found."""
        return self.target.folder, self.home

    @property
    def path(self) -> str:
        """Its files, else its folder, for a person."""
        return ":".join(self.target.files) or self.target.folder

    @property
    def spelling(self) -> str:
        """One line that tells this way to name the project's files from others."""
        return "\n".join((self.target.folder, *self.target.files))


def locate(argument: str, cwd: str) -> Project:
    """The project that `argument` names: a folder, a compose file, or files joined by `:`.

    An argument that exists is one path, colons and all; only otherwise is it split.
    Raises ProjectError if a path isn't there.
    """
    if not argument:
        raise ProjectError("an empty PROJECT argument", hint="name a compose file or a folder")
    path = _absolute(argument, cwd)
    if os.path.isdir(path):
        return Project(argument, Target(path), os.path.realpath(path))
    if os.path.exists(path):
        parts = [path]
    else:
        parts = [_absolute(part, cwd) for part in argument.split(":") if part]
        for part in parts:
            if not os.path.isfile(part):
                raise _missing(argument, part)
    if not parts:
        raise ProjectError("an empty PROJECT argument", hint="name a compose file or a folder")
    folder = os.path.dirname(parts[0])
    return Project(argument, Target(folder, tuple(parts)), os.path.realpath(folder))


def has_compose_file(folder: str, environ: Mapping[str, str]) -> bool:
    """Whether `docker compose` run inside `folder` finds files without looking in its parents."""
    separator = environ.get("COMPOSE_PATH_SEPARATOR") or ":"
    chosen = environ.get("COMPOSE_FILE", "").split(separator)[0]
    if chosen and os.path.exists(os.path.join(folder, chosen)):
        return True
    if any(os.path.exists(os.path.join(folder, name)) for name in DEFAULT_FILES):
        return True
    try:
        with open(os.path.join(folder, ".env"), encoding="utf-8", errors="replace") as file:
            return any(_CHOICE.match(line) for line in file)
    except OSError:
        return False


def require_compose_file(project: Project, environ: Mapping[str, str]) -> None:
    """Raise ProjectError for a folder that holds no project.

    Compose itself would go on to the parent folders, up to `/`.
    """
    if not project.target.files and not has_compose_file(project.target.folder, environ):
        raise ProjectError(
            f"{project.target.folder}: no compose file in this folder",
            hint=f"looked for {', '.join(DEFAULT_FILES)}, and COMPOSE_FILE in .env; "
            "name the file itself if it has another name",
        )


def _absolute(path: str, cwd: str) -> str:
    # normpath, not realpath: Compose names a project after its folder as it was spelled.
    return os.path.normpath(os.path.join(cwd, os.path.expanduser(path)))


def _missing(argument: str, part: str) -> ProjectError:
    where = f"{argument}: {part}" if part not in (argument, "") and ":" in argument else argument
    try:
        os.stat(part)
    except PermissionError:
        return ProjectError(
            f"{where}: permission denied",
            hint="every folder above it must be open to the user that rbuild runs as",
        )
    except (OSError, ValueError):
        pass
    kind = "is a folder, not a compose file" if os.path.isdir(part) else "no such file or folder"
    hint = "check the path" if not os.path.isdir(part) else "join files with ':', not folders"
    if os.path.islink(part):
        kind = "is a link to nothing"
    return ProjectError(f"{where}: {kind}", hint=hint)
