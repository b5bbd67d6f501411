"""What a build context looks like: what counts, what doesn't, and what is never looked at."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rbuild.compose.context import Context, changes, contents, signature
from rbuild.errors import InputError

KEY = "11" * 16


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    write(folder / "Dockerfile", "FROM scratch\nCOPY . /\n")
    write(folder / "src/app.py", "print()\n")
    write(folder / "src/lib/util.py", "")
    write(folder / "README.md", "read me\n")
    (folder / "empty").mkdir()
    (folder / "link").symlink_to("src/app.py")
    return folder


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def sign(root: Path, dockerfile: str = "") -> str:
    return signature(Context(str(root), dockerfile), KEY)


def look(
    root: Path, dockerfile: str = "", known: dict[str, list[Any]] | None = None
) -> dict[str, list[Any]]:
    """The contents, as they come back from a record."""
    found = contents(Context(str(root), dockerfile), KEY, known or {})
    back: dict[str, list[Any]] = json.loads(json.dumps(found))
    assert back == found
    assert list(back) == sorted(back)
    return back


def test_everything_is_in_it(root: Path) -> None:
    assert list(look(root)) == [
        "Dockerfile", "README.md", "empty", "link", "src", "src/app.py", "src/lib",
        "src/lib/util.py",
    ]  # fmt: skip


def test_an_entry(root: Path) -> None:
    found = look(root)
    info = (root / "src/app.py").stat()
    file = found["src/app.py"]
    assert file[:4] == [info.st_mode, info.st_size, info.st_mtime_ns, info.st_ino]
    assert len(bytes.fromhex(file[4])) == 16
    assert found["empty"] == [(root / "empty").stat().st_mode, 0, 0, 0, ""]
    assert found["link"][:4] == [(root / "link").lstat().st_mode, 0, 0, 0]


def test_nothing_changed(root: Path) -> None:
    assert sign(root) == sign(root)
    assert changes(look(root), look(root)) == []


def test_the_key_counts(root: Path) -> None:
    other = "22" * 16
    assert signature(Context(str(root)), other) != sign(root)
    assert contents(Context(str(root)), other)["README.md"][4] != look(root)["README.md"][4]


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: os.utime(root / "README.md", ns=(1, 1)), []),
        (lambda root: replace(root / "README.md"), []),
        (lambda root: write(root / "README.md", "read it\n"), ["README.md"]),
        (lambda root: (root / "README.md").chmod(0o755), ["README.md has mode 0755"]),
        (lambda root: (root / "src").chmod(0o2755), ["src has mode 2755"]),
        (lambda root: (root / "README.md").unlink(), ["README.md disappeared"]),
        (lambda root: write(root / "src/new.py", ""), ["src/new.py appeared"]),
        (lambda root: (root / "new").mkdir(), ["new appeared"]),
        (lambda root: write(root / "new/a/b", ""), ["new appeared"]),
        (lambda root: (root / "empty").rmdir(), ["empty disappeared"]),
        (lambda root: (root / "src/lib").rename(root / "lib"),
         ["lib appeared", "src/lib disappeared"]),
        (lambda root: ((root / "link").unlink(), (root / "link").symlink_to("src")), ["link"]),
        (lambda root: ((root / "link").unlink(), write(root / "link", "src/app.py")), ["link"]),
        (lambda root: ((root / "empty").rmdir(), write(root / "empty", "")), ["empty"]),
        (lambda root: os.mkfifo(root / "pipe"), ["pipe appeared"]),
        (lambda root: write(root / ".dockerignore", "*.md\n"),
         [".dockerignore appeared", "README.md disappeared"]),
    ],
)  # fmt: skip
def test_a_change(root: Path, change: Callable[[Path], object], said: list[str]) -> None:
    signed, before = sign(root), look(root)
    change(root)
    assert sign(root) != signed
    after = look(root, known=before)
    assert after == look(root)
    assert changes(before, after) == said


def test_a_folders_time_is_nothing(root: Path) -> None:
    signed, before = sign(root), look(root)
    os.utime(root / "src", ns=(1, 1))
    write(root / "src/x", "")
    (root / "src/x").unlink()
    assert (sign(root), look(root)) == (signed, before)


def test_a_hard_link_is_a_file(root: Path) -> None:
    os.link(root / "README.md", root / "twin")
    found = look(root)
    assert found["twin"] == found["README.md"]


def test_a_sparse_file_and_an_empty_one(root: Path) -> None:
    with open(root / "sparse", "wb") as file:
        file.truncate(3 << 20)
    found = look(root)
    assert found["sparse"][1] == 3 << 20
    assert found["sparse"][4] != found["src/lib/util.py"][4]


# What is read


def test_only_what_differs_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = look(root)
    os.utime(root / "README.md", ns=(1, 1))
    opened: list[str] = []
    real = os.open

    def spy(path: str, *rest: Any) -> int:
        opened.append(os.path.relpath(path, root))
        return real(path, *rest)

    monkeypatch.setattr(os, "open", spy)
    contents(Context(str(root)), KEY, known)
    assert sorted(opened) == [".dockerignore", "README.md"]
    opened.clear()
    sign(root)
    assert opened == [".dockerignore"]


def test_what_could_not_be_read_is_tried_again(root: Path) -> None:
    known = look(root)
    right = known["README.md"][4]
    known["README.md"][4] = "unreadable: Permission denied"
    assert look(root, known=known)["README.md"][4] == right


def test_a_known_link_is_no_file(root: Path) -> None:
    known = look(root)
    known["README.md"][0] = known["link"][0]
    known["README.md"][4] = "of a link"
    assert look(root, known=known) == look(root)


def test_excluded_folders_are_not_entered(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root / ".dockerignore", "node_modules\n.git\n*.d\n!src/*.py\n!keep.d/x\n")
    for name in ("node_modules/a/b", ".git/objects/x", "other.d/x", "keep.d/x", "keep.d/y/z"):
        write(root / name, "")
    entered: list[str] = []
    real = os.scandir

    def spy(path: str) -> Any:
        entered.append(os.path.relpath(path, root))
        return real(path)

    monkeypatch.setattr(os, "scandir", spy)
    sign(root)
    assert sorted(entered) == [".", "empty", "keep.d", "src", "src/lib"]


def test_pipes_sockets_and_what_is_excluded_are_not_opened(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(root / "pipe")
    os.mkfifo(root / "excluded")
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
    write(root / ".dockerignore", "excluded\n")
    sign(root)
    found = look(root)
    assert found["pipe"] == [(root / "pipe").stat().st_mode, 0, 0, 0, ""]
    assert not {"socket", "excluded"} & found.keys()


def denied(
    monkeypatch: pytest.MonkeyPatch, name: str, what: str, error: type[OSError], number: int
) -> None:
    """os.`name` fails for paths that end in `what`."""
    real = getattr(os, name)

    def fails(path: Any, *rest: Any) -> Any:
        if os.fspath(path).endswith(what):
            raise error(number, os.strerror(number), path)
        return real(path, *rest)

    monkeypatch.setattr(os, name, fails)


@pytest.mark.parametrize(
    ("name", "what", "where"),
    [("open", "/README.md", "README.md"), ("scandir", "/src", "src"), ("readlink", "k", "link")],
)
def test_what_cannot_be_read_says_why(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str, what: str, where: str
) -> None:
    before = look(root)
    denied(monkeypatch, name, what, PermissionError, 13)
    after = look(root)
    assert after[where][4] == "unreadable: Permission denied"
    assert where in changes(before, after)
    assert sign(root) == sign(root)


@pytest.mark.parametrize(
    ("name", "what", "where"),
    [("open", "/README.md", "README.md"), ("scandir", "/src", "src"), ("readlink", "k", "link")],
)
def test_what_vanishes_is_not_there(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str, what: str, where: str
) -> None:
    denied(monkeypatch, name, what, FileNotFoundError, 2)
    found = look(root)
    assert where not in found
    assert "Dockerfile" in found
    sign(root)


@pytest.mark.parametrize("become", [os.mkfifo, os.mkdir, lambda path: os.symlink("/", path)])
def test_a_file_that_becomes_something_else(
    root: Path, monkeypatch: pytest.MonkeyPatch, become: Callable[[str], None]
) -> None:
    real = os.open

    def late(path: str, *rest: Any) -> int:
        if path.endswith("README.md"):
            os.unlink(path)
            become(path)
        return real(path, *rest)

    monkeypatch.setattr(os, "open", late)
    digest = look(root).get("README.md", [0, 0, 0, 0, "unreadable"])[4]
    assert digest.startswith("unreadable")


def test_an_excluded_folder_that_cannot_be_entered(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root / ".dockerignore", "src\n!src/app.py\n")
    denied(monkeypatch, "scandir", "/src", PermissionError, 13)
    assert "src" not in look(root)


def test_no_folder(tmp_path: Path) -> None:
    assert look(tmp_path / "none") == {".": [0, 0, 0, 0, "unreadable: No such file or directory"]}
    signed = sign(tmp_path / "none")
    (tmp_path / "none").mkdir()
    assert look(tmp_path / "none") == {}
    assert sign(tmp_path / "none") != signed


def test_a_link_to_the_folder(root: Path) -> None:
    link = root.with_name("link")
    link.symlink_to(root)
    write(root / ".dockerignore", "*.md\n")
    assert look(link) == look(root)
    assert "README.md" not in look(link)


def test_names_of_all_sorts(root: Path) -> None:
    before = look(root)
    for name in (b"a\xffb", "é".encode(), b"new\nline", b" ", b"\x1b[31m"):
        with open(os.path.join(os.fsencode(root), name), "wb"):
            pass
    os.symlink(b"\xff", os.path.join(os.fsencode(root), b"dangling"))
    after = look(root)
    sign(root)
    said = changes(before, after)
    assert said == [
        "\\x1b[31m appeared", "  appeared", "a\\udcffb appeared", "dangling appeared",
        "new\\nline appeared", "é appeared",
    ]  # fmt: skip
    "\n".join(said).encode()


# The ignore file


def test_what_is_excluded_does_not_count(root: Path) -> None:
    write(root / ".dockerignore", "**/*.md\nDockerfile*\n.dockerignore\nsrc/lib\n")
    signed, before = sign(root), look(root)
    assert list(before) == ["empty", "link", "src", "src/app.py"]
    write(root / "README.md", "other")
    write(root / "Dockerfile", "FROM scratch\n")
    write(root / "src/lib/x", "")
    assert (sign(root), look(root)) == (signed, before)


def test_a_folder_is_there_for_what_comes_back_in_it(root: Path) -> None:
    write(root / ".dockerignore", "*\n!src/lib/util.py\n!empty/x\n")
    assert list(look(root)) == ["src", "src/lib", "src/lib/util.py"]
    write(root / ".dockerignore", "*\n!src\nsrc/app.py\n")
    assert list(look(root)) == ["src", "src/lib", "src/lib/util.py"]


def test_the_ignore_file_counts_by_itself(root: Path) -> None:
    write(root / ".dockerignore", ".dockerignore\n")
    signed, before = sign(root), look(root)
    write(root / ".dockerignore", ".dockerignore\n# the same\n")
    assert sign(root) != signed
    assert look(root) == before


def test_the_dockerfiles_own_ignore_file_wins(root: Path, tmp_path: Path) -> None:
    write(root / ".dockerignore", "*.md\n")
    for dockerfile in (root / "Dockerfile", tmp_path / "elsewhere/web"):
        own = dockerfile.with_name(dockerfile.name + ".dockerignore")
        assert "README.md" not in look(root, str(dockerfile))
        signed = sign(root, str(dockerfile))
        write(own, "")
        assert "README.md" in look(root, str(dockerfile))
        assert sign(root, str(dockerfile)) != signed
        write(own, "src")
        assert "src" not in look(root, str(dockerfile))
        own.unlink()
        own.mkdir()
        assert "README.md" not in look(root, str(dockerfile))


@pytest.mark.parametrize(
    ("target", "counts"),
    [("sub/ignore", True), ("/sub/ignore", True), ("../../sub/ignore", True), ("via", True),
     ("folder/ignore", True), ("sub/./../sub//ignore", True), ("../ignore", False),
     (".dockerignore", False), ("nowhere", False), ("sub", False), ("pipe", False)],
)  # fmt: skip
def test_a_linked_ignore_file_stays_inside(
    root: Path, tmp_path: Path, target: str, counts: bool
) -> None:
    write(root / "sub/ignore", "*.md\n")
    write(tmp_path / "ignore", "*.md\n")
    (root / "via").symlink_to("/sub/ignore")
    (root / "folder").symlink_to("sub")
    os.mkfifo(root / "pipe")
    (root / ".dockerignore").symlink_to(target)
    assert ("README.md" not in look(root)) == counts


@pytest.mark.parametrize("ask", [signature, contents])
def test_a_wrong_ignore_file(root: Path, ask: Callable[[Context, str], object]) -> None:
    write(root / ".dockerignore", "a\n[\n")
    with pytest.raises(InputError, match=r"/app/\.dockerignore line 2: "):
        ask(Context(str(root)), KEY)


def test_an_ignore_file_that_cannot_be_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    denied(monkeypatch, "open", ".dockerignore", PermissionError, 13)
    with pytest.raises(InputError, match=r"\.dockerignore: Permission denied") as caught:
        sign(root)
    assert caught.value.hint


# What a person reads


def test_many_changes() -> None:
    old: dict[str, list[Any]] = {}
    new = {f"f{number:02}": [0o100644, 0, 0, 0, ""] for number in range(17)}
    said = changes(old, new)
    assert said == [*(f"f{number:02} appeared" for number in range(5)), "and 12 more"]
    six = dict(list(new.items())[:6])
    assert len(changes(six, {})) == 6


def test_a_file_that_becomes_a_folder() -> None:
    old = {"a": [0o100644, 0, 0, 0, "x"]}
    new = {"a": [0o040755, 0, 0, 0, ""], "a/b": [0o100644, 0, 0, 0, ""]}
    assert changes(old, new) == ["a", "a/b appeared"]
    assert changes(new, old) == ["a", "a/b disappeared"]
