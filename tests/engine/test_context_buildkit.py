"""Contexts are shown to a real BuildKit: what COPY . / finds must be what we say is in them.

One tree and many ignore files: each beside a Dockerfile of its own outside of the tree, a few
dozen of them built at once, each into a folder of its own.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from rbuild.compose.context import Context, contents
from rbuild.errors import InputError

pytestmark = pytest.mark.versions

KEY = "11" * 16
DOCKERFILE = "FROM scratch\nCOPY . /\n"
FILES = (
    "Dockerfile", "README.md", "a", "ab", "b/a", "b/b/a", "b/c.md", "c/a/b/a", "c/a/x.txt",
    "c/keep", "docs/a.md", "docs/b/c.md", "docs/d.txt", "node_modules/x/README.md",
    "node_modules/x/y.js",
    "src/app.py", "src/app.pyc", "src/lib/a.pyo", "src/lib/b.log", ".env", ".env.local",
    "#x", "!x", " y", "[z", "]", "[]", "[x]", "^]", "a-b", "axb", "1", "d", "*", "?",
    "a\\b", "a^b", "é", "{z}.$",
    "\a", "AB", "new\nline/a", "e/f/g/h/i",
)  # fmt: skip

SHAPES = [
    # Plain
    "", "a", "b", "b/a", "/b/b", "b/", "./b/../c/a//b", "../a", ".", "/", "*", "*/a", "*/*", "é",
    # Lines
    "# a\n\n \t\na", " #x", "#x", "\ufeffa\nb", "a\r\nb\r\n", "\u3000a\x85", "/ y", "a # b",
    # Wildcards
    "*.md", "**/*.md", "**/a", "**/b/a", "**", "***", "b/**", "b**", "**a", "c/**/a", "c**/a", "?",
    "a?b", "??", "c/*/b", "**/**", "**/*.py[co]", "**/b*/*", "e/**/i", "n**a", "**/l*", "new?line",
    # Classes
    "[ab]", "[a-c]", "[^a]", "b[^x]a", "[!a]x", "[[:digit:]]", "[[:^alpha:]]", "[[]z", "[\\]]",
    "[*]", "[?x]", "[a*b]c", "]", "**/[^a].md", "[x-z]", "a[\\-x]b", "a[[:punct:]x]b",
    # Escapes
    "\\*", "\\#x", "\\!x", "\\a", "\\d", "\\D", "a\\\\b", "\\x41\\102", "\\{z}.\\$", "{z}.$*",
    "a^b", "a^b*", "a\\^b", "\\[]", "\\bab\\b", "\\w", "[\\dx]", "[\\W]", "a*\\", "1*[a-]b",
    # Exceptions
    "*\n!b", "*\n!b/b", "b\n!b/b/a", "*\n!README.md\n!src", "**/*.md\n!README.md", "*\n!**/*.md",
    "*.md\n!README.md\n*.md", "!a\na", "*\n! a", "*\n!/a", "*\n!./c/../a/", "*\n/!a", "*\n!!x",
    "node_modules\n!**/README.md", "*\n!src/*.py", "**\n!src/**\n**/*.pyc", "c\n!c/a/*\n!c/keep",
    "*\n!e/f/g/h", "e\n!e/f/g/*\n!e/f/g/h/i", "docs\n!docs/**/*.md\ndocs/a.md",
    ".env*\n!.env.local", "*\n!*/\n!*.md", "docs/*\n!docs/b", "**/b\n!c/**/b", "*\n![ab]",
    "*\n!\\a",
    "src\n!src/[^/]*.py",
    # What decides nothing on a folder doesn't reach what is below.
    "**/*.md\n!docs", "b/b\n!b", "docs\n!docs/d.txt\ndocs", "c\n!c\n**/b", "**/a\n!c\n!b\n**/b",
    # It is tried only where it matters.
    "!\\q\na", "*\n[b-a]", "a\n!a\n*\n\\pL",
]  # fmt: skip

REFUSED = [
    "!", "!/", "[a-]", "*[^]", "a\\", "a" * 65536, "a\n[b-a]", "**/\\q", "[*[]", "*\n!\\1",
]  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(DOCKERFILE)
    (root / "empty").mkdir()
    (root / "docs/link").symlink_to("../nowhere")
    return root


def paths(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def ours(root: Path, dockerfile: Path) -> list[str]:
    return sorted(contents(Context(str(root), str(dockerfile)), KEY))


def build(root: Path, dockerfiles: Mapping[Path, Path]) -> None:
    """Build each of the Dockerfiles into its folder; all must succeed."""
    done = bake(root, dockerfiles)
    assert done.returncode == 0, done.stderr


def bake(root: Path, dockerfiles: Mapping[Path, Path]) -> subprocess.CompletedProcess[str]:
    """The same, for those that may fail."""
    plan = {
        f"n{number}": {
            "context": str(root),
            "dockerfile": str(dockerfile),
            "output": [f"type=local,dest={into}"],
        }
        for number, (dockerfile, into) in enumerate(dockerfiles.items())
    }
    file = root.parent / "bake.json"
    file.write_text(json.dumps({"group": {"default": {"targets": [*plan]}}, "target": plan}))
    return subprocess.run(
        ["docker", "buildx", "bake", "--progress=plain", f"--file={file}"],
        cwd=root.parent,
        capture_output=True,
        text=True,
    )


def test_what_buildkit_copies(tree: Path, tmp_path: Path) -> None:
    places = {}
    for number, text in enumerate(SHAPES):
        dockerfile = tmp_path / "files" / f"n{number}"
        dockerfile.parent.mkdir(exist_ok=True)
        dockerfile.write_text(DOCKERFILE)
        dockerfile.with_name(f"n{number}.dockerignore").write_text(text)
        places[dockerfile] = tmp_path / "out" / f"n{number}"
    # More of them at once are no quicker, and the engine has lost some of two hundred.
    several = list(places.items())
    for start in range(0, len(several), 24):
        build(tree, dict(several[start : start + 24]))
    wrong = {}
    for text, (dockerfile, into) in zip(SHAPES, places.items(), strict=True):
        told, truth = ours(tree, dockerfile), paths(into)
        if told != truth:
            wrong[text] = f"ours: {told}\nBuildKit's: {truth}"
    assert not wrong


@pytest.mark.parametrize("text", REFUSED, ids=[repr(text[:10]) for text in REFUSED])
def test_what_buildkit_refuses(tree: Path, tmp_path: Path, text: str) -> None:
    (tree / ".dockerignore").write_text(text)
    done = subprocess.run(
        ["docker", "buildx", "build", f"--output=type=local,dest={tmp_path}/out", str(tree)],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "pattern" in done.stderr or "dockerignore" in done.stderr, done.stderr
    with pytest.raises(InputError, match=r"\.dockerignore line \d: "):
        ours(tree, tree / "Dockerfile")


def empty_own(root: Path) -> None:
    (root / "Dockerfile.dockerignore").touch()


def folder_as_own(root: Path) -> None:
    (root / "Dockerfile.dockerignore").mkdir()


def dangling_own(root: Path) -> None:
    (root / "Dockerfile.dockerignore").symlink_to("nowhere")


def dockerfile_excluded(root: Path) -> None:
    (root / ".dockerignore").write_text("Dockerfile*\n.dockerignore\n")


def linked(target: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        (root.parent / "outside").write_text("b\n")
        (root / "sub").mkdir()
        (root / "sub/ignore").write_text("a\n")
        (root / ".dockerignore").unlink()
        (root / ".dockerignore").symlink_to(target)

    return make


def special_files(root: Path) -> None:
    os.mkfifo(root / "pipe")
    os.link(root / "README.md", root / "hard")
    (root / "README.md").chmod(0o4711)
    (root / "empty").chmod(0o1770)


@pytest.mark.parametrize(
    "make",
    [
        empty_own, folder_as_own, dangling_own, dockerfile_excluded, special_files,
        linked("../outside"), linked("sub/ignore"), linked("/sub/ignore"), linked("../sub/ignore"),
        linked(".dockerignore"),
    ],
)  # fmt: skip
def test_which_files_count(tree: Path, tmp_path: Path, make: Callable[[Path], None]) -> None:
    (tree / ".dockerignore").write_text("*.md\n!README.md\n")
    make(tree)
    build(tree, {tree / "Dockerfile": tmp_path / "out"})
    found = contents(Context(str(tree), str(tree / "Dockerfile")), KEY)
    assert sorted(found) == paths(tmp_path / "out")
    for name, entry in found.items():
        assert entry[0] == (tmp_path / "out" / name).lstat().st_mode, name


def test_a_name_that_is_no_text_counts(tree: Path, tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tree) + b"/\xff")).touch()
    found = ours(tree, tree / "Dockerfile")
    assert "\udcff" in found
    done = bake(tree, {tree / "Dockerfile": tmp_path / "out"})
    # A newer BuildKit takes no such names.
    assert "invalid UTF-8" in done.stderr if done.returncode else found == paths(tmp_path / "out")


def test_a_socket_is_only_a_name(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
    build(tree, {tree / "Dockerfile": tmp_path / "out"})
    # Here is all that we leave out of what BuildKit sends.
    assert set(paths(tmp_path / "out")) - set(ours(tree, tree / "Dockerfile")) == {"socket"}
    assert (tmp_path / "out/socket").stat().st_size == 0
