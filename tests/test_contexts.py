"""A project's build contexts: which there are, and what has changed in them since an update."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rbuild.compose import context
from rbuild.compose.context import Context
from rbuild.compose.contexts import Seen, look, of, remember
from rbuild.errors import InputError, StateError
from rbuild.state import record
from rbuild.state.record import Record

KEY = "00" * 16


class Project:
    """Two services with a context each, and what is remembered of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"
        self.state.mkdir()
        self.services: dict[str, Any] = {}
        self.known = Record("p", str(root), key=KEY)
        for name in ("web", "worker"):
            self.write(name, "Dockerfile", "FROM scratch\nCOPY . /\n")
            self.write(name, "app.py", "print()\n")
            self.services[name] = {"build": {"context": str(root / name)}}

    def write(self, service: str, name: str, text: str) -> None:
        """Change a file, so that its signature shows it."""
        path = self.root / service / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        self.age = getattr(self, "age", 0) + 1
        os.utime(path, (self.age, self.age))

    def look(self) -> Seen:
        return look({"services": self.services}, self.known, str(self.state), KEY)

    def remember(self) -> None:
        """As after a good update."""
        remember(str(self.state), self.known, self.look())

    @property
    def file(self) -> Path:
        return self.state / "contexts.json"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    found = Project(tmp_path)
    found.remember()
    return found


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders whose contents were read."""
    asked: list[str] = []
    real: Callable[..., Any] = context.contents

    def contents(one: Context, *more: Any) -> Any:
        asked.append(os.path.basename(one.root))
        return real(one, *more)

    monkeypatch.setattr(context, "contents", contents)
    return asked


# Which there are


def test_contexts_are_the_folders_that_builds_name() -> None:
    rendered = {
        "services": {
            "web": {
                "build": {"context": "/p/web"},
                "volumes": [
                    {"type": "bind", "source": "/p/web/data"},
                    {"type": "volume", "source": "web"},
                ],
            },
            "far": {"build": {"context": "https://x/y.git"}},
            "other": {"build": {"context": "/p/other", "dockerfile": "/elsewhere/F"}},
            "inline": {
                "build": {
                    "context": "/p/inline",
                    "dockerfile_inline": "FROM x",
                    "additional_contexts": {
                        "files": "/p/files", "x": "docker-image://x", "web": "service:web",
                        "far": "https://x/y.git",
                    },
                }
            },
            "db": {"image": "postgres", "volumes": [{"type": "bind", "source": "/p/web/x/y"}]},
        }
    }  # fmt: skip
    assert of(rendered) == {
        "web": Context("/p/web", "/p/web/Dockerfile", (".git", "data", "x/y")),
        "other": Context("/p/other", "/elsewhere/F", (".git",)),
        "inline": Context("/p/inline", "", (".git",)),
        "inline:files": Context("/p/files", "", (".git",)),
    }
    assert of({}) == of({"services": None}) == {}


# What changed


def test_at_first_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    new = Project(tmp_path)
    seen = new.look()
    assert (seen.changed, seen.services) == ((), set())
    assert set(seen.entries) == set(seen.contents) == {"web", "worker"}
    seen = look({"services": new.services}, None, str(new.state), KEY)
    assert seen.changed == ()


def test_nothing_changed_and_nothing_is_read(project: Project, read: list[str]) -> None:
    seen = project.look()
    assert (seen.changed, read) == ((), [])
    assert seen.entries == project.known.contexts


def test_what_changed_is_named_with_its_service(project: Project, read: list[str]) -> None:
    project.write("web", "app.py", "print(1)\n")
    project.write("web", "lib/new.py", "")
    seen = project.look()
    assert seen.changed == ("context of web: app.py, lib appeared",)
    assert seen.services == {"web"}
    # What looks as it did is not read.
    assert read == ["web"]
    project.remember()
    assert project.look().changed == ()


def test_what_was_only_touched_has_not_changed(project: Project, read: list[str]) -> None:
    project.write("web", "app.py", "print()\n")
    assert project.look().changed == ()
    assert read == ["web"]
    # Once that is remembered, it is not read again.
    project.remember()
    read.clear()
    assert project.look().changed == ()
    assert read == []


def test_what_is_ignored_has_not_changed(project: Project, read: list[str]) -> None:
    project.write("web", ".dockerignore", "data\n")
    project.remember()
    read.clear()
    project.write("web", "data/rows", "1")
    assert (project.look().changed, read) == ((), [])


def test_a_change_goes_by_the_last_good_update_until_there_is_another(project: Project) -> None:
    project.write("web", "app.py", "print(1)\n")
    assert project.look().changed == project.look().changed != ()
    project.write("web", "app.py", "print()\n")
    assert project.look().changed == ()


def test_a_context_of_a_name_concerns_its_service(project: Project) -> None:
    project.write("files", "a", "1")
    project.services["web"]["build"]["additional_contexts"] = {"own": str(project.root / "files")}
    # A context that is new is a change of the configuration, and told as that.
    assert project.look().changed == ()
    project.remember()
    project.write("files", "a", "2")
    seen = project.look()
    assert (seen.changed, seen.services) == (("context of web:own: a",), {"web"})


def test_a_service_that_is_gone_is_forgotten(project: Project) -> None:
    del project.services["worker"]
    project.remember()
    assert set(project.known.contexts) == set(json.loads(project.file.read_text())) == {"web"}


def test_an_ignore_file_that_cannot_be_understood(project: Project) -> None:
    project.write("web", ".dockerignore", "[\n")
    with pytest.raises(InputError):
        project.look()


def test_a_digest_tells_what_all_contexts_hold(project: Project) -> None:
    """A try that failed is told from a mended one, and not from a touched one."""
    before = project.look().digest
    project.write("web", "app.py", "print()\n")
    assert project.look().digest == before
    found = set()
    for text in ("1", "2"):
        project.write("web", "app.py", text)
        found.add(project.look().digest)
    os.chmod(project.root / "web" / "app.py", 0o755)
    found.add(project.look().digest)
    assert len(found | {before}) == 4


# What is remembered


def test_what_is_remembered_is_private_and_written_only_if_it_is_new(project: Project) -> None:
    assert project.file.stat().st_mode & 0o777 == 0o600
    assert "print" not in project.file.read_text()
    before = project.file.stat().st_ino
    project.remember()
    assert project.file.stat().st_ino == before
    project.write("web", "app.py", "print(1)\n")
    project.remember()
    assert project.file.stat().st_ino != before


def test_a_record_knows_nothing_that_is_not_on_disk(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dict(project.known.contexts)
    project.write("web", "app.py", "print(1)\n")

    def full(path: str, text: str) -> None:
        raise record.unusable(path, OSError(28, "No space left on device"))

    monkeypatch.setattr(record, "write_private", full)
    with pytest.raises(StateError):
        project.remember()
    assert project.known.contexts == before


DAMAGED = [None, b"", b"{", b"[]", b"7", b'{"web": 1}', b'{"web": {"app.py": 1}}', b"\xff",
           b"[" * 100_000, b'{"web": {"app.py": [1]}}', b'{"web": {"app.py": []}}']  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_file_that_is_lost_or_damaged_costs_no_run(
    project: Project, content: bytes | None
) -> None:
    project.file.unlink()
    if content is not None:
        project.file.write_bytes(content)
    seen = project.look()
    assert seen.entries == project.known.contexts
    assert set(seen.contents) == {"web", "worker"}
    assert seen.digest
    project.remember()


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_change_is_found_though_what_was_there_is_lost(
    project: Project, content: bytes | None
) -> None:
    """The record's signature tells it alone: never fresh by accident."""
    project.file.unlink()
    if content is not None:
        project.file.write_bytes(content)
    project.write("web", "app.py", "print(1)\n")
    assert project.look().services == {"web"}
