"""From an argument to a project: what exists is one path, what doesn't is split at colons."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbuild.compose.project import DEFAULT_FILES, has_compose_file, locate, require_compose_file
from rbuild.errors import ProjectError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("services: {}\n")


@pytest.mark.parametrize(
    ("argument", "files"),
    [
        ("compose.yml", ["compose.yml"]),
        ("./compose.yml", ["compose.yml"]),
        ("sub/../compose.yml", ["compose.yml"]),
        ("sub/x.yml", ["sub/x.yml"]),
        ("compose.yml:prod.yml", ["compose.yml", "prod.yml"]),
        ("sub/x.yml:compose.yml", ["sub/x.yml", "compose.yml"]),
        ("compose.yml:", ["compose.yml"]),
        ("a:b.yml", ["a:b.yml"]),
        ("with space/c.yml", ["with space/c.yml"]),
        ("файл.yml", ["файл.yml"]),
        ("x:y/z.yml", ["x:y/z.yml"]),
        ("-n", ["-n"]),
    ],
)
def test_files(tmp_path: Path, argument: str, files: list[str]) -> None:
    touch(tmp_path, "compose.yml", "prod.yml", "sub/x.yml", "a:b.yml", "a", "b.yml")
    touch(tmp_path, "with space/c.yml", "файл.yml", "x:y/z.yml", "-n")
    found = locate(argument, str(tmp_path))
    paths = [str(tmp_path / file) for file in files]
    assert list(found.target.files) == paths
    assert found.target.folder == os.path.dirname(paths[0])
    assert found.path == ":".join(paths)
    assert found.argument == argument


@pytest.mark.parametrize("argument", [".", "", "./", "sub", "sub/", "a:b"])
def test_folders(tmp_path: Path, argument: str) -> None:
    touch(tmp_path, "sub/compose.yml", "a:b/compose.yml")
    if not argument:
        argument = str(tmp_path)
    found = locate(argument, str(tmp_path))
    assert found.target.files == ()
    assert found.target.folder == os.path.normpath(tmp_path / argument)
    assert found.path == found.target.folder


def test_every_spelling_has_the_same_home(tmp_path: Path) -> None:
    touch(tmp_path, "real/compose.yml")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "link.yml").symlink_to("compose.yml")
    spellings = ["real", "real/", "link", "real/compose.yml", "link/compose.yml", "real/link.yml"]
    found = [locate(one, str(tmp_path)) for one in spellings]
    assert {one.home for one in found} == {str(tmp_path / "real")}
    # Compose takes the name from the folder as it was spelled.
    assert found[2].target.folder == str(tmp_path / "link")
    assert len({one.spelling for one in found}) == 5


def test_a_home_of_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "compose.yml")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("~/compose.yml", "/").target.files == (str(tmp_path / "compose.yml"),)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("", "an empty PROJECT argument"),
        (":", "an empty PROJECT argument"),
        ("::", "an empty PROJECT argument"),
        ("nope", "nope: no such file or folder"),
        ("nope.yml:compose.yml", "nope.yml:compose.yml: {root}/nope.yml: no such file"),
        ("compose.yml:nope.yml", "compose.yml:nope.yml: {root}/nope.yml: no such file"),
        ("compose.yml:sub", "compose.yml:sub: {root}/sub: is a folder, not a compose file"),
        ("dangling", "dangling: is a link to nothing"),
        ("compose.yml/x", "compose.yml/x: no such file or folder"),
    ],
)
def test_what_is_not_there(tmp_path: Path, argument: str, message: str) -> None:
    touch(tmp_path, "compose.yml", "sub/compose.yml")
    (tmp_path / "dangling").symlink_to("gone")
    with pytest.raises(ProjectError) as caught:
        locate(argument, str(tmp_path))
    assert message.format(root=tmp_path) in caught.value.message
    assert caught.value.hint


def test_a_folder_that_cannot_be_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    def stat(path: str, **_: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(ProjectError) as caught:
        locate("/hidden/site", "/")
    assert caught.value.message == "/hidden/site: permission denied"
    assert "every folder above" in caught.value.hint


@given(st.text(max_size=40))
def test_any_argument_is_a_project_or_a_clear_error(argument: str) -> None:
    try:
        found = locate(argument, "/proc/self/fdinfo")
    except ProjectError:
        return
    assert os.path.isabs(found.home)


@pytest.mark.parametrize("name", DEFAULT_FILES)
def test_a_folder_with_a_compose_file(tmp_path: Path, name: str) -> None:
    assert not has_compose_file(str(tmp_path), {})
    touch(tmp_path, name)
    assert has_compose_file(str(tmp_path), {})


@pytest.mark.parametrize(
    ("dotenv", "found"),
    [
        ("COMPOSE_FILE=x.yml\n", True),
        ("A=1\n  COMPOSE_FILE=x.yml", True),
        ("export COMPOSE_FILE=x.yml\n", True),
        ("COMPOSE_FILE = x.yml\n", True),
        ("COMPOSE_FILE: x.yml\n", True),
        ("COMPOSE_FILE=\n", False),
        ("COMPOSE_FILES=x\n", False),
        ("#COMPOSE_FILE=x.yml\n", False),
        ("\xff", False),
    ],
)
def test_a_folder_whose_env_file_names_the_files(tmp_path: Path, dotenv: str, found: bool) -> None:
    (tmp_path / ".env").write_bytes(dotenv.encode("latin-1"))
    assert has_compose_file(str(tmp_path), {}) == found


def test_the_environment_may_name_the_files(tmp_path: Path) -> None:
    # A file that lies elsewhere, as for a unit that starts in /, makes no project of this folder.
    assert not has_compose_file(str(tmp_path), {"COMPOSE_FILE": "x.yml"})
    (tmp_path / "x.yml").write_text("services: {}")
    assert has_compose_file(str(tmp_path), {"COMPOSE_FILE": "x.yml:y.yml"})
    assert has_compose_file("/", {"COMPOSE_FILE": str(tmp_path / "x.yml")})
    assert not has_compose_file(str(tmp_path), {"COMPOSE_FILE": ""})


def test_a_parent_folder_s_file_is_not_this_folder_s(tmp_path: Path) -> None:
    touch(tmp_path, "compose.yml")
    (tmp_path / "below").mkdir()
    with pytest.raises(ProjectError, match="below: no compose file in this folder") as caught:
        require_compose_file(locate(str(tmp_path / "below"), "/"), {})
    assert all(name in caught.value.hint for name in DEFAULT_FILES)
    require_compose_file(locate(str(tmp_path / "compose.yml"), "/"), {})
