"""Projects that are git checkouts: forward with their upstream, back when that fails."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ..faults.published import publish as put
from .conftest import Project
from .tools import inside, own_tags, state_folder

GIT = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
}


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env={**os.environ, **GIT}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


Push = Callable[..., str]


@pytest.fixture
def push(tmp_path: Path) -> Push:
    """Commits files upstream: `push(page="two\\n")`; gives the commit."""
    upstream = tmp_path / "upstream"
    upstream.mkdir()
    git(upstream, "init", "-q", "-b", "main")

    def change(**files: str) -> str:
        for name, text in files.items():
            (upstream / name.replace("_", ".")).write_text(text)
        git(upstream, "add", ".")
        git(upstream, "commit", "-q", "-m", f"change {' '.join(files)}")
        return git(upstream, "rev-parse", "HEAD")

    return change


@pytest.fixture
def clone(project: Project, push: Push, tmp_path: Path) -> Project:
    """A project that was cloned and is up; its configuration file is mounted."""
    push(
        compose_yml="""\
services:
  web:
    build: .
    init: true
    stop_grace_period: 1s
    volumes: ["./conf:/conf:ro"]
x-rbuild: {settle-period: 1, check: [git]}
""",
        Dockerfile=f"FROM {project.base}\nCOPY page /page\nCMD sleep 1000\n",
        page="one\n",
        conf="one\n",
    )
    git(tmp_path, "clone", "-q", "upstream", str(project.folder))
    assert project.rbuild().code == 0
    return project


def head(project: Project) -> str:
    return git(project.folder, "rev-parse", "HEAD")


def shown(project: Project) -> tuple[str, str]:
    """What is in the running image, and what is mounted there."""
    name = f"{project.name}-web-1"
    return inside(name, "cat", "/page"), inside(name, "cat", "/conf")


def test_forward_with_the_upstream(clone: Project, push: Push) -> None:
    ran = clone.rbuild()
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    old = head(clone)
    new = push(page="two\n")
    ran = clone.rbuild("-n")
    assert "source-moved" in ran.out
    assert "fast-forward" in ran.out
    assert head(clone) == old
    ran = clone.rbuild("--json")
    (one,) = ran.document["projects"]
    assert [each["kind"] for each in one["reasons"]] == ["source-moved"]
    assert f"{old} → {new} (change page)" in one["reasons"][0]["detail"]
    assert head(clone) == new
    assert shown(clone) == ("two", "one")
    assert clone.rbuild().out == ""
    # A person's own `git pull` is a move as well.
    push(page="three\n")
    git(clone.folder, "pull", "-q", "--ff-only")
    assert clone.rbuild().code == 0
    assert shown(clone) == ("three", "one")


def test_a_rollback_restores_the_commit_first(clone: Project, push: Push) -> None:
    old = head(clone)
    push(page="bad\n", conf="bad\n", Dockerfile=f"FROM {clone.base}\nCMD exit 7\n")
    ran = clone.rbuild()
    assert ran.code == 3
    assert head(clone) == old
    # With the files that it had, for they are mounted.
    assert shown(clone) == ("one", "one")
    before = clone.containers()
    ran = clone.rbuild()
    assert (ran.code, ran.err, head(clone)) == (75, "", old)
    ran = clone.rbuild("-n")
    assert (ran.code, ran.out) == (75, "")
    assert clone.rbuild("status").code == 1
    # What fails is the newer commit: the old one is still kept up to date.
    ran = clone.rbuild("--build-period", "0")
    assert ran.code == 0
    assert head(clone) == old
    assert clone.containers().keys() == before.keys()
    assert clone.rbuild().code == 75
    new = push(page="three\n", Dockerfile=f"FROM {clone.base}\nCOPY page /page\nCMD sleep 1000\n")
    assert clone.rbuild().code == 0
    assert (head(clone), shown(clone)) == (new, ("three", "bad"))
    assert clone.rbuild("status").code == 0


def test_switched_on_while_the_upstream_is_ahead(clone: Project, push: Push) -> None:
    clone.edit("compose.yml", ", check: [git]", "")
    assert clone.rbuild().code == 0
    git(clone.folder, "checkout", "-q", "compose.yml")
    new = push(page="two\n")
    ran = clone.rbuild()
    assert (ran.code, head(clone)) == (0, new)
    assert "source-moved" in ran.out
    assert shown(clone) == ("two", "one")
    ran = clone.rbuild()
    assert (ran.code, ran.out, ran.err) == (0, "", "")


def test_two_failures_wait_side_by_side(clone: Project, push: Push) -> None:
    """What the checkout is at fails as well as what its upstream has: two outages, no more."""
    bad = put(f"{clone.name}/base", "1", {"/v": "one"})
    new = f"FROM {bad}\nCOPY page /page\nCMD test -e /v && sleep 1000\n"
    old = push(Dockerfile=new)
    assert clone.rbuild().code == 0
    put(f"{clone.name}/base", "1", {"/v": "bad", "/bin/test": "#!/bin/false\n"})
    push(page="bad\n", Dockerfile=new.replace("CMD", "CMD false &&"))
    check = ("--check", "git,base")
    codes = [clone.rbuild(*check).code for _ in range(5)]
    assert codes[0] == 3
    assert sorted(codes[1:])[-3:] == [75, 75, 75], codes
    assert head(clone) == old
    assert shown(clone) == ("one", "one")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"Dockerfile": "FROM $BASE\nRUN false\n"}, "the build of web failed"),
        ({"compose_yml": "services: {\n"}, "compose.yml:"),
        ({"Dockerfile": "FRM x\n"}, "Dockerfile"),
    ],
)
def test_what_fails_before_it_touches_anything_goes_back_too(
    clone: Project, push: Push, files: dict[str, str], said: str
) -> None:
    old, before = head(clone), clone.containers()
    push(**{name: text.replace("$BASE", clone.base) for name, text in files.items()})
    ran = clone.rbuild()
    assert ran.code == 1
    assert said in ran.err
    assert "source-moved" in ran.err
    assert (head(clone), git(clone.folder, "status", "--porcelain")) == (old, "")
    assert clone.containers().keys() == before.keys()
    ran = clone.rbuild()
    assert (ran.code, ran.err, head(clone)) == (75, "", old)
    new = push(
        compose_yml=(clone.folder / "compose.yml").read_text(),
        Dockerfile=(clone.folder / "Dockerfile").read_text(), page="two\n",
    )  # fmt: skip
    assert clone.rbuild().code == 0
    assert (head(clone), shown(clone)) == (new, ("two", "one"))
    assert own_tags(clone)


def test_dirty_diverged_and_unreachable(clone: Project, push: Push, tmp_path: Path) -> None:
    old = head(clone)
    clone.write("page", "mine\n")
    assert clone.rbuild().code == 0
    push(page="two\n")
    # A dry run promises nothing that a run refuses.
    ran = clone.rbuild("-n")
    assert (ran.code, ran.out) == (1, "")
    assert "tracked files were changed here: page" in ran.err
    ran = clone.rbuild()
    assert ran.code == 1
    assert "page" in ran.err
    assert "stash" in ran.err
    assert (head(clone), (clone.folder / "page").read_text()) == (old, "mine\n")
    # It is told once, and keeps nobody from security updates.
    ran = clone.rbuild()
    assert (ran.code, ran.err) == (75, "")
    ran = clone.rbuild("--build-period", "0")
    assert ran.code == 0
    assert "(expired: " in ran.out
    assert head(clone) == old
    git(clone.folder, "commit", "-qam", "mine")
    before = clone.containers().keys()
    ran = clone.rbuild()
    assert ran.code == 1
    assert "diverged" in ran.err
    assert clone.containers().keys() == before
    git(clone.folder, "reset", "-q", "--hard", old)
    (tmp_path / "upstream").rename(tmp_path / "elsewhere")
    ran = clone.rbuild()
    assert ran.code == 75
    assert "warning: not checked: git:" in ran.err
    assert clone.rbuild().err == ""
    # It is no reason to leave out what is due.
    assert clone.rbuild("--force-rebuild").code == 0
    (tmp_path / "elsewhere").rename(tmp_path / "upstream")
    ran = clone.rbuild()
    assert ran.code == 0
    assert "checked again: git" in ran.err
    assert shown(clone) == ("two", "one")


def test_by_hand_the_checkout_goes_back_as_well(clone: Project, push: Push) -> None:
    old = head(clone)
    push(page="two\n", conf="two\n")
    assert clone.rbuild().code == 0
    ran = clone.rbuild("rollback")
    assert ran.code == 0, ran.err
    assert (head(clone), shown(clone)) == (old, ("one", "one"))
    assert clone.rbuild().code == 75
    new = push(page="three\n")
    assert clone.rbuild().code == 0
    assert (head(clone), shown(clone)) == (new, ("three", "two"))
    assert (state_folder(clone) / "record.json").exists()


def test_a_context_that_changed(clone: Project) -> None:
    check = ("--check", "context")
    clone.write(".dockerignore", "conf\n*.md\n")
    assert clone.rbuild().code == 0
    # What it is now is learnt.
    assert clone.rbuild(*check).out == ""
    clone.write("readme.md", "not in it\n")
    (clone.folder / "page").touch()
    assert clone.rbuild(*check).out == ""
    clone.write("page", "mine\n")
    ran = clone.rbuild(*check)
    assert ran.code == 0
    assert "(changed: context of web: page)" in ran.out
    assert shown(clone)[0] == "mine"
    ran = clone.rbuild(*check)
    assert (ran.code, ran.out, ran.err) == (0, "", "")


STRUCK = Path(__file__).parents[1] / "faults" / "struck.py"
BUILD, GATE = 3, 6


def strike(clone: Project, step: int) -> None:
    """A run that kills itself as that step begins."""
    done = subprocess.run(
        [sys.executable, str(STRUCK), f"start:{step}"],
        cwd=clone.folder, env={**os.environ, **clone.env}, capture_output=True,
    )  # fmt: skip
    assert done.returncode == -9


@pytest.mark.parametrize("step", [BUILD, GATE])
def test_killed_after_it_went_forward(clone: Project, push: Push, step: int) -> None:
    old = head(clone)
    new = push(page="two\n")
    strike(clone, step)
    assert head(clone) == new
    assert clone.rbuild().code == 0
    assert (head(clone), shown(clone)) == (new, ("two", "one"))
    assert clone.rbuild().out == ""
    # Another that is killed, and fails then: all the way back.
    push(Dockerfile=f"FROM {clone.base}\nCOPY page /page\nCMD exit 7\n", conf="bad\n")
    strike(clone, step)
    assert head(clone) not in (old, new)
    ran = clone.rbuild()
    assert ran.code == 3
    assert (head(clone), shown(clone)) == (new, ("two", "one"))
    ran = clone.rbuild()
    assert (ran.code, ran.err, head(clone)) == (75, "", new)
