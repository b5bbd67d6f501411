"""A project's git checkout: what is new upstream, the way there, and the way back."""

from __future__ import annotations

import http.server
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from rbuild.errors import Busy, Interrupted
from rbuild.process import Log, Stop
from rbuild.sources import mending, source
from rbuild.sources.git import Git
from rbuild.sources.source import Move, Source, SourceError, Unreachable
from rbuild.state import lock

TOKEN = "ghp_s3cr3t0123456789"


@pytest.fixture(autouse=True)
def _own_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the machine's settings of git."""
    for name in os.environ:
        if name.startswith(("GIT_", "SSH_")):
            monkeypatch.delenv(name)
    settings = {"init.defaultBranch": "main", "user.name": "Ada", "user.email": "ada@example.org",
                "protocol.file.allow": "always", "advice.detachedHead": "false"}  # fmt: skip
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CONFIG_COUNT", str(len(settings)))
    for number, (name, value) in enumerate(settings.items()):
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{number}", name)
        monkeypatch.setenv(f"GIT_CONFIG_VALUE_{number}", value)


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ("git", *arguments), cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


class Place:
    """An upstream, a server's checkout of it (`site`) and a person's elsewhere (`desk`)."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.upstream, self.site, self.desk = top / "up.git", top / "site", top / "desk"
        self.log = Log(str(top / "log"))
        self.stop = Stop()

    @classmethod
    def made(cls, top: Path, form: str = "sha1") -> Place:
        """A new one, with one commit; `form` is of the commit IDs."""
        place = cls(top)
        git(top, "init", "--quiet", "--bare", f"--object-format={form}", "up.git")
        # A clone of an empty repository need not take on its form.
        git(top, "init", "--quiet", f"--object-format={form}", "desk")
        git(place.desk, "remote", "add", "origin", "../up.git")
        place.push({"compose.yml": "services: {}\n", "gone": "gone\n"}, "First")
        git(top, "clone", "--quiet", "up.git", "site")
        git(place.site, "remote", "set-url", "origin", "../up.git")
        return place

    @property
    def first(self) -> str:
        """The commit that all begins with."""
        return git(self.desk, "rev-list", "--max-parents=0", "HEAD")

    @property
    def source(self) -> Source:
        return Source(str(self.site))

    @property
    def head(self) -> str:
        return git(self.site, "rev-parse", "HEAD")

    @property
    def logged(self) -> str:
        path = Path(self.log.path)
        return path.read_text() if path.exists() else ""

    def push(self, files: dict[str, str | None], subject: str = "Next", *options: str) -> str:
        """Commit these files (None: without them) at the desk and push them; gives the commit."""
        write(self.desk, files)
        git(self.desk, "add", "--all", "--force")
        git(self.desk, "commit", "--quiet", "--allow-empty", "-m", subject)
        git(self.desk, "push", "--quiet", *options, "origin", "HEAD:main")
        return git(self.desk, "rev-parse", "HEAD")

    def ahead(self, timeout: float = 20, **which: str) -> str:
        found = Source(str(self.site), **which)
        return source.ahead(found, stop=self.stop, timeout=timeout)

    def fetch(self, timeout: float = 20, transfer: float = 20, **which: str) -> Move | None:
        found = Source(str(self.site), **which)
        return source.fetch(found, stop=self.stop, timeout=timeout, transfer=transfer, log=self.log)

    def pull(self) -> Move:
        move = self.fetch()
        assert move
        source.forward(self.source, move, stop=self.stop, log=self.log, hold=())
        return move

    def restore(self, commit: str) -> None:
        source.restore(self.source, commit, log=self.log, hold=())

    def refused(self, **which: str) -> SourceError:
        """The error of a fetch that leaves everything as it was."""
        before = snapshot(self.site)
        with pytest.raises(SourceError) as caught:
            self.fetch(**which)
        assert snapshot(self.site) == before
        assert not isinstance(caught.value, Unreachable)
        assert caught.value.exit_code == 1
        return caught.value

    def restore_refused(self, commit: str) -> SourceError:
        before = snapshot(self.site)
        with pytest.raises(SourceError) as caught:
            self.restore(commit)
        assert snapshot(self.site) == before
        return caught.value

    def is_at(self, commit: str) -> bool:
        """Whether branch, index and files are at this commit, and nothing of ours is left."""
        clean = not git(self.site, "status", "--porcelain", "--ignored")
        left = [*self.site.glob(".git/*.lock"), *self.site.glob(".git/rbuild-move.new")]
        note = self.site / ".git" / "rbuild-move"
        assert not left
        assert not (note.exists() and note.read_text().startswith("underway"))
        return (
            self.head == commit and clean and git(self.site, "branch", "--show-current") == "main"
        )


def write(folder: Path, files: dict[str, str | None]) -> None:
    for name, text in files.items():
        path = folder / name
        if text is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def snapshot(folder: Path) -> dict[str, object]:
    """The files of a checkout with their content, its branch and its index."""
    files: dict[str, object] = {
        str(path): path.read_bytes() if path.is_file() else str(path.is_symlink())
        for path in folder.rglob("*")
        if ".git" not in path.relative_to(folder).parts
    }
    for question in (("rev-parse", "HEAD"), ("symbolic-ref", "-q", "HEAD"), ("ls-files", "-s")):
        done = subprocess.run(("git", *question), cwd=folder, capture_output=True, check=False)
        files[question[0]] = done.stdout
    return files


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a place is made once, for all tests to copy."""
    return tmp_path_factory.mktemp("pattern")


@pytest.fixture
def place(tmp_path: Path, pattern: Path) -> Iterator[Place]:
    if not os.listdir(pattern):
        Place.made(pattern)
    shutil.copytree(pattern, tmp_path, symlinks=True, dirs_exist_ok=True)
    place = Place(tmp_path)
    yield place
    place.log.close()


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def everything(error: SourceError) -> str:
    return "\n".join((error.message, error.hint, error.detail, str(error), repr(error)))


# Is it ahead?


def test_head_is_the_full_commit(place: Place) -> None:
    assert source.head(place.source, stop=place.stop) == place.first == place.head


def test_nothing_is_new(place: Place) -> None:
    assert place.ahead() == ""
    assert place.fetch() is None


def test_upstream_is_ahead_and_asking_writes_nothing(place: Place) -> None:
    new = place.push({"compose.yml": "services: {web: {}}\n"})
    before = everything_below(place.site)
    assert place.ahead() == new
    assert everything_below(place.site) == before


def everything_below(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
            for path in folder.rglob("*")}  # fmt: skip


def test_what_stands_in_the_way_is_seen_without_fetching(place: Place) -> None:
    def ask() -> str:
        own = Source(str(place.site))
        return source.ahead(own, stop=place.stop, timeout=20, may_move=True)

    write(place.site, {"compose.yml": "services: {mine: {}}\n"})
    assert ask() == ""
    new = place.push({"a": "1"})
    with pytest.raises(SourceError, match="tracked files were changed here: compose"):
        ask()
    git(place.site, "checkout", "--quiet", "compose.yml")
    assert ask() == new
    git(place.site, "commit", "--quiet", "--allow-empty", "-m", "Local")
    # Whether it has diverged nobody knows who has not fetched.
    assert ask() == new
    git(place.site, "fetch", "--quiet")
    with pytest.raises(SourceError, match="diverged"):
        ask()


def test_what_a_run_was_cut_off_in_does_not_stand_in_the_way(place: Place) -> None:
    new = place.push({"compose.yml": "services: {web: {}}\n"})
    own = Git(str(place.site), place.stop)
    mending.write(own, mending.Note(True, own.head(), new, own.ref()))
    write(place.site, {"compose.yml": "serv"})
    assert source.ahead(place.source, stop=place.stop, timeout=20, may_move=True) == new
    assert mending.is_underway(own)
    # Only until a person has gone on from there.
    git(place.site, "commit", "--quiet", "--all", "-m", "Mine")
    assert not mending.is_underway(own)


def test_a_commit_that_is_not_pushed_is_not_upstream_ahead(place: Place) -> None:
    git(place.site, "commit", "--quiet", "--allow-empty", "-m", "Local")
    assert place.ahead() == ""
    assert place.fetch() is None


def test_a_dirty_checkout_that_is_up_to_date_is_no_error(place: Place) -> None:
    write(place.site, {"compose.yml": "services: {mine: {}}\n"})
    git(place.site, "add", "compose.yml")
    assert place.ahead() == ""
    assert place.fetch() is None


# The way there


@pytest.mark.parametrize("form", ["sha1", "sha256"])
def test_there_and_back(tmp_path: Path, form: str) -> None:
    place = Place.made(tmp_path, form)
    place.push({"new/deep/file": "new\n", "gone": None}, "Second")
    new = place.push({"compose.yml": "services: {web: {}}\n"}, "Third")
    assert len(new) == {"sha1": 40, "sha256": 64}[form]
    move = place.fetch()
    assert move == Move(place.first, new, ("Third", "Second"))
    assert place.is_at(place.first)
    source.forward(place.source, move, stop=place.stop, log=place.log, hold=())
    assert place.is_at(new)
    assert (place.site / "new/deep/file").read_text() == "new\n"
    assert place.ahead() == ""
    assert place.fetch() is None
    place.restore(place.first)
    assert place.is_at(place.first)
    assert not (place.site / "new").exists()
    place.restore(place.first)
    assert place.is_at(place.first)
    place.log.close()


def test_untracked_files_stay(place: Place) -> None:
    place.push({"compose.yml": "services: {web: {}}\n", "data/seed": "s"})
    write(place.site, {".env": "A=1\n", "data/db": "rows\n"})
    place.pull()
    place.restore(place.first)
    assert (place.site / ".env").read_text() == "A=1\n"
    assert (place.site / "data/db").read_text() == "rows\n"
    assert not (place.site / "data/seed").exists()


def test_a_fetch_brings_no_tags_and_leaves_no_refs_of_ours(place: Place) -> None:
    git(place.desk, "tag", "v1")
    git(place.desk, "push", "--quiet", "origin", "v1")
    git(place.site, "update-ref", "refs/remotes/origin/old", "HEAD")
    place.push({"a": "a"})
    place.fetch()
    refs = git(place.site, "for-each-ref", "--format=%(refname)").splitlines()
    assert refs == ["refs/heads/main", "refs/remotes/origin/HEAD", "refs/remotes/origin/main",
                    "refs/remotes/origin/old"]  # fmt: skip


def test_what_git_did_is_logged(place: Place) -> None:
    place.push({"a": "a"})
    place.pull()
    assert f"$ git -C {place.site} fetch" in place.logged
    assert f"$ git -C {place.site} merge --ff-only" in place.logged


def test_subjects_are_a_few_and_plain(place: Place) -> None:
    for number in range(8):
        place.push({"a": str(number)}, f"No {number}\x1b[31m\x07 \u202ered")
    move = place.fetch()
    assert move
    assert move.subjects == tuple(f"No {number}[31m red" for number in (7, 6, 5, 4, 3))


def test_a_project_in_a_folder_of_the_checkout(place: Place) -> None:
    new = place.push({"apps/web/compose.yml": "services: {}\n"})
    place.pull()
    newer = place.push({"apps/web/compose.yml": "services: {web: {}}\n", "other": "o\n"})
    below = Source(str(place.site / "apps/web"))
    assert source.head(below, stop=place.stop) == new
    assert source.ahead(below, stop=place.stop, timeout=20) == newer
    move = source.fetch(below, stop=place.stop, timeout=20, transfer=20, log=place.log)
    assert move
    source.forward(below, move, stop=place.stop, log=place.log, hold=())
    assert place.is_at(newer)
    source.restore(below, new, log=place.log, hold=())
    assert place.is_at(new)


def test_a_folder_that_only_the_new_commit_has_may_go_again(place: Place) -> None:
    place.push({"apps/web/compose.yml": "services: {}\n"})
    place.pull()
    source.restore(Source(str(place.site / "apps/web")), place.first, log=place.log, hold=())
    assert place.is_at(place.first)


def test_names_of_any_text(place: Place) -> None:
    odd = ' "quoted"\ttab\nline ä'
    place.push({odd: "1\n"}, "Odd")
    old = place.pull().new
    place.push({odd: "2\n"}, "Odd again")
    place.pull()
    place.restore(old)
    assert (place.site / odd).read_text() == "1\n"
    place.restore(place.first)
    write(place.site, {odd: "mine\n"})
    assert '"quoted"tabline ä' in place.refused().message


def test_a_shallow_clone_goes_forward(place: Place) -> None:
    place.push({"a": "1"})
    shutil.rmtree(place.site)
    git(place.top, "clone", "--quiet", "--depth=1", f"file://{place.upstream}", "site")
    old = place.head
    place.push({"a": "2"})
    new = place.push({"a": "3"})
    assert place.ahead() == new
    place.pull()
    assert place.is_at(new)
    place.restore(old)
    assert place.is_at(old)


def test_a_linked_worktree(place: Place) -> None:
    git(place.desk, "push", "--quiet", "origin", "HEAD:live")
    git(place.site, "fetch", "--quiet")
    git(place.site, "worktree", "add", "--quiet", "-b", "live", "../live", "origin/live")
    git(place.desk, "commit", "--quiet", "--allow-empty", "-m", "Live")
    git(place.desk, "push", "--quiet", "origin", "HEAD:live")
    live = Source(str(place.top / "live"))
    move = source.fetch(live, stop=place.stop, timeout=20, transfer=20, log=place.log)
    assert move
    source.forward(live, move, stop=place.stop, log=place.log, hold=())
    assert source.head(live, stop=place.stop) == move.new
    source.restore(live, move.old, log=place.log, hold=())
    assert source.head(live, stop=place.stop) == move.old == place.head


# Which branch of which remote


def test_the_upstream_of_the_branch_counts(place: Place) -> None:
    git(place.site, "checkout", "--quiet", "-b", "here", "origin/main")
    git(place.site, "remote", "rename", "origin", "hub.example/x")
    new = place.push({"a": "a"})
    assert place.ahead() == new
    move = place.fetch()
    assert move
    assert move.new == new


def test_without_an_upstream_it_is_origin_s_branch_of_the_same_name(place: Place) -> None:
    git(place.site, "branch", "--unset-upstream")
    new = place.push({"a": "a"})
    assert place.ahead() == new


def test_a_branch_and_a_remote_may_be_named(place: Place) -> None:
    git(place.site, "remote", "add", "second", str(place.upstream))
    new = place.push({"a": "a"})
    git(place.desk, "push", "--quiet", "origin", "HEAD:release/1")
    git(place.desk, "push", "--quiet", "--force", "origin", f"{place.first}:main")
    assert place.ahead() == ""
    assert place.ahead(remote="second", branch="release/1") == new
    move = place.fetch(branch="release/1", remote="second")
    assert move
    source.forward(place.source, move, stop=place.stop, log=place.log, hold=())
    assert place.is_at(new)
    place.restore(place.first)
    assert place.is_at(place.first)


def test_the_other_remote_s_branch_has_our_branch_s_name(place: Place) -> None:
    git(place.site, "checkout", "--quiet", "-b", "here", "origin/main")
    git(place.site, "remote", "add", "second", str(place.upstream))
    assert "has no branch second/here" in place.refused(remote="second").message


def test_a_branch_whose_name_ends_alike_is_another(place: Place) -> None:
    git(place.desk, "push", "--quiet", "origin", "HEAD:refs/odd/refs/heads/live")
    with pytest.raises(SourceError, match="has no branch origin/live"):
        place.ahead(branch="live")


def test_no_such_branch(place: Place) -> None:
    with pytest.raises(SourceError, match="the remote has no branch origin/live") as caught:
        place.ahead(branch="live")
    assert not isinstance(caught.value, Unreachable)
    assert "has no branch origin/live" in place.refused(branch="live").message


@pytest.mark.parametrize("name", ["--upload-pack=touch x", "a\nb", "a\x1b[0m", "\x7f", "a\u202eb"])
def test_names_that_are_none_are_refused(place: Place, name: str) -> None:
    for remote, branch, words in ((name, "", "has no remote"), ("", name, "no name of a branch")):
        error = place.refused(remote=remote, branch=branch)
        assert words in error.message
        assert error.message.isprintable()


@pytest.mark.parametrize("name", ["main:refs/heads/x", "*", "a..b", "a b", "x^", "a.lock", "@{-1}"])
def test_a_branch_is_no_refspec(place: Place, name: str) -> None:
    assert "is no name of a branch" in place.refused(branch=name).message


@pytest.mark.parametrize("name", ["nowhere", ".git", f"https://ada:{TOKEN}@example.org/x"])
def test_a_remote_is_one_that_is_configured(place: Place, name: str) -> None:
    error = place.refused(remote=name)
    assert "it has no remote" in error.message
    assert "its remotes: origin" in error.message
    assert TOKEN not in everything(error)


# What is refused


def test_diverged(place: Place) -> None:
    git(place.site, "commit", "--quiet", "--allow-empty", "-m", "Local")
    place.push({"a": "1"})
    new = place.push({"a": "2"})
    assert place.ahead() == new
    error = place.refused()
    assert "diverged (commits only here: 1, only there: 2)" in error.message
    assert "rebase" in error.hint


def test_a_force_pushed_upstream_has_diverged(place: Place) -> None:
    place.push({"a": "1"})
    place.pull()
    git(place.desk, "commit", "--quiet", "--amend", "-m", "Again")
    git(place.desk, "push", "--quiet", "--force", "origin", "HEAD:main")
    assert place.ahead()
    assert "diverged (commits only here: 1, only there: 1)" in place.refused().message


def test_detached(place: Place) -> None:
    git(place.site, "checkout", "--quiet", "--detach")
    with pytest.raises(SourceError, match="HEAD is detached"):
        place.ahead()
    assert place.fetch(branch="main") is None
    place.push({"a": "1"})
    assert "HEAD is detached" in place.refused(branch="main").message
    assert "HEAD is detached" in place.refused().message


def test_unborn(place: Place) -> None:
    git(place.site, "checkout", "--quiet", "--orphan", "none")
    for ask in (place.ahead, place.fetch):
        with pytest.raises(SourceError, match="if there is one yet"):
            ask()


def test_no_checkout(place: Place) -> None:
    with pytest.raises(SourceError, match="no checkout here") as caught:
        source.head(Source(str(place.top)), stop=place.stop)
    assert not isinstance(caught.value, Unreachable)


def test_a_bare_repository_is_no_checkout(place: Place) -> None:
    with pytest.raises(SourceError, match="no checkout here"):
        source.head(Source(str(place.upstream)), stop=place.stop)


def test_a_folder_that_is_not_there(place: Place) -> None:
    with pytest.raises(SourceError, match="no checkout here") as caught:
        source.head(Source(str(place.top / "none")), stop=place.stop)
    assert "No such file" in caught.value.detail


def test_a_merge_in_progress(place: Place) -> None:
    git(place.site, "checkout", "--quiet", "-b", "side")
    git(place.site, "commit", "--quiet", "--allow-empty", "-m", "Side")
    git(place.site, "checkout", "--quiet", "main")
    git(place.site, "merge", "--quiet", "--no-ff", "--no-commit", "side")
    assert place.fetch() is None
    place.push({"a": "1"})
    move = place.fetch()
    assert move
    before = snapshot(place.site)
    with pytest.raises(SourceError, match="cannot be fast-forwarded") as caught:
        source.forward(place.source, move, stop=place.stop, log=place.log, hold=())
    assert "You have not concluded your merge" in caught.value.detail
    assert snapshot(place.site) == before
    assert (place.site / ".git/MERGE_HEAD").exists()


def test_a_rebase_in_progress(place: Place) -> None:
    write(place.site, {"compose.yml": "mine\n"})
    git(place.site, "commit", "--quiet", "--all", "-m", "Local")
    new = place.push({"compose.yml": "theirs\n"})
    git(place.site, "fetch", "--quiet")
    with pytest.raises(subprocess.CalledProcessError):
        git(place.site, "rebase", "--quiet", new)
    assert "HEAD is detached" in place.refused().message
    place.push({"compose.yml": "theirs again\n"})
    assert "HEAD is detached" in place.refused(branch="main").message


@pytest.mark.parametrize("staged", [False, True])
def test_dirty(place: Place, staged: bool) -> None:
    place.push({f"f{number}": "0" for number in range(7)})
    place.pull()
    place.push({"compose.yml": "services: {web: {}}\n"})
    write(place.site, {f"f{number}": "mine" for number in range(7)})
    if staged:
        git(place.site, "add", "--all")
    error = place.refused()
    assert error.message.endswith("were changed here: f0, f1, f2, f3, f4 and 2 more")
    assert "stash" in error.hint


def test_a_deleted_file_is_a_change(place: Place) -> None:
    place.push({"a": "1"})
    (place.site / "gone").unlink()
    assert "changed here: gone" in place.refused().message


@pytest.mark.parametrize("ignored", [False, True])
def test_an_untracked_file_in_the_way(place: Place, ignored: bool) -> None:
    if ignored:
        (place.site / ".git/info/exclude").write_text(".env\n")
    place.push({".env": "A=theirs\n", "b": "b"})
    write(place.site, {".env": "A=mine\n", "unrelated": "u"})
    error = place.refused()
    assert error.message.endswith("would overwrite untracked files: .env")


def test_a_link_in_the_way(place: Place) -> None:
    place.push({"data": "d"})
    (place.site / "data").symlink_to("/nowhere")
    assert "untracked files: data" in place.refused().message


def test_a_folder_that_becomes_a_file(place: Place) -> None:
    place.push({"conf/a": "a"})
    place.pull()
    shutil.rmtree(place.desk / "conf")
    new = place.push({"conf": "file\n"})
    old = place.pull().old
    assert place.is_at(new)
    place.restore(old)
    assert place.is_at(old)


def test_submodules_that_would_move(place: Place) -> None:
    git(place.top, "init", "--quiet", "--bare", "part.git")
    git(place.top, "clone", "--quiet", "part.git", "part")
    git(place.top / "part", "commit", "--quiet", "--allow-empty", "-m", "Part")
    git(place.top / "part", "push", "--quiet", "origin", "HEAD:main")
    git(place.desk, "submodule", "--quiet", "add", "-b", "main", "../part.git", "part")
    with_part = place.push({"a": "1"})
    place.pull()  # It has none that is initialised, so none goes stale.
    assert place.is_at(with_part)
    git(place.site, "submodule", "--quiet", "update", "--init")
    write(place.site / "part", {"untracked": "u"})
    new = place.push({"a": "2"})
    place.pull()
    assert place.head == new
    git(place.desk / "part", "commit", "--quiet", "--allow-empty", "-m", "Part again")
    place.push({"a": "3"})
    error = place.refused()
    assert "it moves submodules, which rbuild doesn't: part" in error.message
    assert "--recurse-submodules" in error.hint


@pytest.mark.parametrize("what", ["moved", "dirty", "in the way"])
def test_what_changes_between_fetch_and_forward_is_seen(place: Place, what: str) -> None:
    place.push({"a": "1"})
    move = place.fetch()
    assert move
    if what == "moved":
        git(place.site, "commit", "--quiet", "--allow-empty", "-m", "Local")
    else:
        write(place.site, {"gone" if what == "dirty" else "a": "mine"})
    before = snapshot(place.site)
    with pytest.raises(SourceError):
        source.forward(place.source, move, stop=place.stop, log=place.log, hold=())
    assert snapshot(place.site) == before


def test_what_only_git_refuses(place: Place) -> None:
    place.push({"compose.yml": "services: {web: {}}\n", "a": "a"})
    move = place.fetch()
    assert move
    git(place.site, "update-index", "--assume-unchanged", "compose.yml")
    write(place.site, {"compose.yml": "mine\n"})
    before = snapshot(place.site)
    with pytest.raises(SourceError, match="cannot be fast-forwarded") as caught:
        source.forward(place.source, move, stop=place.stop, log=place.log, hold=())
    assert "compose.yml" in caught.value.detail
    assert snapshot(place.site) == before
    assert not (place.site / ".git/rbuild-move").exists()


def test_a_lock_of_somebody_s_git_is_left_alone(place: Place) -> None:
    place.push({"a": "1"})
    move = place.fetch()
    assert move
    held = place.site / ".git/index.lock"
    held.touch()
    with pytest.raises(SourceError, match="cannot be fast-forwarded") as caught:
        source.forward(place.source, move, stop=place.stop, log=place.log, hold=())
    assert "index.lock" in caught.value.detail
    assert held.exists()
    held.unlink()
    assert place.is_at(place.first)
    source.forward(place.source, move, stop=place.stop, log=place.log, hold=())
    held.touch()
    assert "cannot be put back" in place.restore_refused(place.first).message
    assert held.exists()
    held.unlink()
    place.restore(place.first)
    assert place.is_at(place.first)


# Whose git it is


def test_the_caller_s_repository_does_not_leak_in(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old, new = place.first, place.push({"a": "1"})
    other = tmp_path / "other"
    git(tmp_path, "init", "--quiet", "other")
    git(other, "commit", "--quiet", "--allow-empty", "-m", "Other")
    before = everything_below(other)
    with monkeypatch.context() as inner:
        for name, value in {
            "GIT_DIR": str(other / ".git"),
            "GIT_WORK_TREE": str(other),
            "GIT_INDEX_FILE": str(other / ".git/index"),
            "GIT_OBJECT_DIRECTORY": str(other / ".git/objects"),
            "GIT_NAMESPACE": "x",
            "GIT_CONFIG_PARAMETERS": "'remote.origin.url=/nowhere'",
            "GIT_TRACE": "1",
        }.items():
            inner.setenv(name, value)
        assert source.head(place.source, stop=place.stop) == old
        assert place.ahead() == new
        place.pull()
        place.restore(old)
        place.pull()
    assert everything_below(other) == before
    assert place.is_at(new)
    assert "trace" not in place.logged


def test_the_repository_s_hooks_do_not_run(place: Place) -> None:
    for name in ("post-merge", "post-checkout", "reference-transaction", "post-index-change"):
        script(place.site / ".git/hooks" / name, "touch ../hooked; touch hooked")
    new = place.push({"a": "1"})
    place.pull()
    place.restore(place.first)
    for name in os.listdir(place.site / ".git/hooks"):
        (place.site / ".git/hooks" / name).unlink()
    assert not [*place.top.glob("**/hooked")]
    place.pull()
    assert place.is_at(new)


def test_merge_options_of_the_branch_do_not_bend_it(place: Place) -> None:
    git(place.site, "config", "branch.main.mergeOptions", "--squash --no-ff --no-commit --stat")
    new = place.push({"a": "1"})
    place.pull()
    assert place.is_at(new)


def test_no_git(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(place.top / "bin"))
    with pytest.raises(SourceError, match="git cannot be started") as caught:
        place.ahead()
    assert "install git" in caught.value.hint
    assert not isinstance(caught.value, Unreachable)


def test_somebody_else_s_checkout(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    # Git's own tests have it so (GIT_TEST_ASSUME_DIFFERENT_OWNER): chown is root's alone.
    real = shutil.which("git")
    script(place.top / "bin/git", f'GIT_TEST_ASSUME_DIFFERENT_OWNER=1 exec {real} "$@"')
    monkeypatch.setenv("PATH", f"{place.top / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(SourceError, match="no checkout here that it may read") as caught:
        place.ahead()
    assert f"git config --global --add safe.directory {place.site}" in caught.value.detail


# The remote


def test_a_remote_that_is_not_there(place: Place) -> None:
    shutil.rmtree(place.upstream)
    for ask in (place.ahead, place.fetch):
        with pytest.raises(Unreachable) as caught:
            ask()
        assert "cannot ask the remote for origin/main" in caught.value.message
        assert caught.value.detail
    assert place.is_at(place.first)


def test_a_remote_that_answers_is_not_to_blame(place: Place) -> None:
    place.push({"a": "1"})
    (place.site / ".git/refs/worktree").write_text("in the way of a folder")
    error = place.refused()
    assert "cannot fetch origin/main" in error.message
    assert error.detail


def test_a_damaged_checkout(place: Place) -> None:
    shutil.rmtree(place.site / ".git/objects")
    (place.site / ".git/objects").mkdir()
    for call in (place.ahead, place.fetch, lambda: place.restore("0" * 40)):
        error = caught_by(call)
        assert "can't read the commit that is checked out" in error.message
        assert not isinstance(error, Unreachable)


def test_another_run_on_the_same_checkout_is_waited_for(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_WAIT", 0.0)
    place.push({"a": "1"})
    old, move = place.first, place.pull()
    with lock.hold(str(place.site / ".git")):
        assert place.ahead() == ""
        with pytest.raises(Busy):
            place.fetch()
        with pytest.raises(Busy):
            source.forward(place.source, move, stop=place.stop, log=place.log, hold=())
        # Who can't go back has failed, and was not put off.
        assert "another run is at work" in place.restore_refused(old).message


def caught_by(call: Callable[[], object]) -> SourceError:
    with pytest.raises(SourceError) as caught:
        call()
    return caught.value


class Silent:
    """A server that takes connections and says nothing."""

    def __init__(self, on_connect: Callable[[], None] = lambda: None) -> None:
        self.on_connect = on_connect

    def __enter__(self) -> str:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self._accept)
        self.thread.start()
        return f"git://127.0.0.1:{self.listener.getsockname()[1]}/x"

    def _accept(self) -> None:
        open_ = []
        while True:
            connection = self.listener.accept()[0]
            if not connection.recv(1):
                break
            open_.append(connection)
            self.on_connect()
        for one in open_:
            one.close()

    def __exit__(self, *_: object) -> None:
        # A connection without a word is the test's own.
        socket.create_connection(self.listener.getsockname()).close()
        self.thread.join()
        self.listener.close()


@pytest.mark.parametrize("way", ["ahead", "fetch"])
def test_a_silent_remote_is_left_in_time(place: Place, way: str) -> None:
    with Silent() as address:
        git(place.site, "remote", "set-url", "origin", address)
        with pytest.raises(Unreachable, match=r"no answer within 0\.5 s"):
            getattr(place, way)(timeout=0.5)
    assert place.is_at(place.first)


def sends_late(place: Place, seconds: float) -> None:
    """A remote that says at once what it has, and takes its time to send it."""
    sends = script(
        place.top / "sends",
        f"if mkdir {place.top}/asked; then :; else sleep {seconds}; fi 2>/dev/null\n"
        'exec git-upload-pack "$@"',
    )
    git(place.site, "config", "remote.origin.uploadpack", str(sends))


def test_what_is_new_may_take_longer_than_the_answer(place: Place) -> None:
    new = place.push({"a": "1"})
    sends_late(place, 2)
    move = place.fetch(timeout=1)
    assert move
    assert move.new == new


def test_a_transfer_has_an_end(place: Place) -> None:
    place.push({"a": "1"})
    sends_late(place, 1000)
    with pytest.raises(Unreachable, match=r"cannot fetch origin/main: not done within 0\.5 s"):
        place.fetch(transfer=0.5)
    assert place.is_at(place.first)


@pytest.mark.parametrize("way", ["ahead", "fetch"])
def test_a_signal_ends_the_wait_for_a_silent_remote(place: Place, way: str) -> None:
    with Silent(lambda: place.stop.request(signal.SIGTERM)) as address:
        git(place.site, "remote", "set-url", "origin", address)
        with pytest.raises(Interrupted) as caught:
            getattr(place, way)(timeout=60)
    assert caught.value.signum == signal.SIGTERM
    assert place.is_at(place.first)


@contextmanager
def web(status: int) -> Iterator[str]:
    """A web server that always answers with this status and repeats what it was given."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            self.wfile.write(f"the token {TOKEN} is not valid\n".encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("status", [401, 403, 404, 500])
@pytest.mark.parametrize("user", [f"ada:{TOKEN}@", f"{TOKEN}@", f"{TOKEN}:x-oauth-basic@"])
def test_credentials_are_masked(place: Place, status: int, user: str) -> None:
    with web(status) as host:
        git(place.site, "remote", "set-url", "origin", f"http://{user}{host}/x.git")
        for way in (place.ahead, place.fetch):
            error = caught_by(way)
            assert isinstance(error, Unreachable)
            assert host in error.detail
            assert TOKEN not in everything(error)
    assert "$ git" in place.logged
    assert TOKEN not in place.logged


def test_credentials_of_other_settings_are_masked(place: Place) -> None:
    with web(404) as host:
        git(place.site, "config", f"url.http://ada:{TOKEN}@{host}/.insteadOf", "hub:")
        git(place.site, "remote", "set-url", "origin", "hub:x.git")
        assert TOKEN not in everything(caught_by(place.fetch))
        git(place.site, "remote", "set-url", "origin", f"http://{host}/x.git")
        git(place.site, "config", "http.extraHeader", f"Authorization: Bearer {TOKEN}")
        error = caught_by(place.fetch)
    assert "***" in error.detail
    assert TOKEN not in everything(error) + place.logged


def test_nobody_is_asked(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = script(place.top / "ask", f"touch {place.top}/asked; echo x")
    for name in ("GIT_ASKPASS", "SSH_ASKPASS"):
        monkeypatch.setenv(name, str(ask))
    git(place.site, "config", "core.askPass", str(ask))
    with web(401) as host:
        git(place.site, "remote", "set-url", "origin", f"http://{host}/x.git")
        assert "terminal prompts disabled" in caught_by(place.ahead).detail
    assert not (place.top / "asked").exists()


@pytest.mark.parametrize("chosen", ["", "setting", "GIT_SSH", "GIT_SSH_COMMAND"])
def test_ssh_never_asks_unless_one_is_chosen(
    place: Place, monkeypatch: pytest.MonkeyPatch, chosen: str
) -> None:
    seen = place.top / "seen"
    for name in ("ssh", "mine"):
        script(place.top / "bin" / name, f'echo "{name} $*" >>{seen}; exit 255')
    monkeypatch.setenv("PATH", f"{place.top / 'bin'}:{os.environ['PATH']}")
    git(place.site, "remote", "set-url", "origin", "ssh://git@example.org/x.git")
    git(place.site, "config", "ssh.variant", "ssh")
    if chosen == "setting":
        git(place.site, "config", "core.sshCommand", "mine")
    elif chosen:
        monkeypatch.setenv(chosen, "mine")
    assert isinstance(caught_by(place.ahead), Unreachable)
    assert seen.read_text().startswith("mine " if chosen else "ssh -o BatchMode=yes ")


# The way back


def test_back_to_where_it_is_does_nothing(place: Place) -> None:
    write(place.site, {"compose.yml": "mine\n"})
    (place.site / ".git/index.lock").touch()
    before = everything_below(place.site)
    place.restore(place.first)
    assert everything_below(place.site) == before


def test_changes_that_are_not_in_the_way_stay(place: Place) -> None:
    place.push({"compose.yml": "services: {web: {}}\n"})
    place.pull()
    write(place.site, {"gone": "mine\n"})
    place.restore(place.first)
    assert place.head == place.first
    assert (place.site / "gone").read_text() == "mine\n"
    assert (place.site / "compose.yml").read_text() == "services: {}\n"


def test_changes_that_would_be_lost(place: Place) -> None:
    new = place.push({"compose.yml": "services: {web: {}}\n", "a": "a"})
    place.pull()
    write(place.site, {"compose.yml": "mine\n"})
    error = place.restore_refused(place.first)
    assert "compose.yml" in error.detail
    assert f"git -C {place.site} reset --keep {place.first}" in error.hint
    git(place.site, "stash")
    place.restore(place.first)
    assert place.is_at(place.first)
    assert new != place.first


@pytest.mark.parametrize("ignored", [False, True])
def test_untracked_files_that_would_be_lost(place: Place, ignored: bool) -> None:
    place.push({"gone": None, ".gitignore": "gone\n" if ignored else ""})
    place.pull()
    write(place.site, {"gone": "the application's\n"})
    assert "untracked files: gone" in place.restore_refused(place.first).message


def test_commits_that_no_remote_has(place: Place) -> None:
    place.push({"a": "1"})
    place.pull()
    git(place.site, "commit", "--quiet", "--allow-empty", "-m", "Local")
    error = place.restore_refused(place.first)
    assert "commits made here that no remote has would go (1)" in error.message
    assert f"git -C {place.site} branch kept" in error.hint
    git(place.site, "push", "--quiet", "origin", "HEAD:main")
    place.restore(place.first)
    assert place.is_at(place.first)


def test_another_branch(place: Place) -> None:
    place.push({"a": "1"})
    place.pull()
    git(place.site, "checkout", "--quiet", "-b", "side", "--track", "origin/main")
    error = place.restore_refused(place.first)
    assert "rbuild moved refs/heads/main, and refs/heads/side is checked out" in error.message


@pytest.mark.parametrize("commit", ["0" * 40, "main", "--hard", "HEAD~1", ""])
def test_a_commit_that_is_none(place: Place, commit: str) -> None:
    assert "commit" in place.restore_refused(commit).message


# Cut off


SLOW = """\
if [ -e {flag} ]; then
    rm {flag}
    cut -d' ' -f5 /proc/$$/stat >{fifo}
    exec sleep 600
fi
exec cat
"""
RUN = """\
import sys
from rbuild.sources import source
from rbuild.process import Log, Stop
what, folder, old, new, log = sys.argv[1:]
if what == "forward":
    move = source.Move(old, new, ())
    source.forward(source.Source(folder), move, stop=Stop(), log=Log(log), hold=())
else:
    source.restore(source.Source(folder), old, log=Log(log), hold=())
"""


class Slow:
    """A place where git, told to, stops in the midst of writing files, and says so.

    `a-…` are written by then, `z-…` are not, `m.slow` is what it is at.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.flag, self.fifo = place.top / "flag", place.top / "fifo"
        os.mkfifo(self.fifo)
        slow = script(place.top / "slow", SLOW.format(flag=self.flag, fifo=self.fifo))
        git(place.site, "config", "filter.slow.smudge", str(slow))
        git(place.site, "config", "filter.slow.clean", "cat")
        self.old = place.push({
            ".gitattributes": "*.slow filter=slow\n",
            "a-changed": "old\n" * 999, "a-gone": "gone\n",
            "m.slow": "old\n", "z-changed": "old\n", "z-kept": "kept\n",
        })  # fmt: skip
        place.pull()
        self.new = place.push({
            "a-changed": "new\n" * 999, "a-gone": None, "a-new/deep": "new\n", "m.slow": "new\n",
            "z-changed": "new\n", "z-new": "new\n",
        })  # fmt: skip

    def arm(self) -> None:
        self.flag.touch()

    def group(self) -> int:
        """Wait until git is in the midst of it; gives its process group."""
        return int(self.fifo.read_text())

    def kill(self, what: str = "forward") -> None:
        """Start a move, and kill rbuild and git with -9 in the midst of it."""
        place = self.place
        if what == "forward":
            place.fetch()
        self.arm()
        argv = (
            sys.executable,
            "-c",
            RUN,
            what,
            str(place.site),
            self.old,
            self.new,
            place.log.path,
        )
        with subprocess.Popen(argv) as run:
            group = self.group()
            run.kill()
            os.killpg(group, signal.SIGKILL)
            run.wait()
        # Until the last of the group is gone, the checkout's lock is held.
        with lock.hold(str(place.site / ".git"), wait=20):
            assert (place.site / ".git/index.lock").exists()


@pytest.fixture
def slow(place: Place) -> Slow:
    return Slow(place)


def test_a_signal_in_the_midst_of_it(place: Place, slow: Slow) -> None:
    move = place.fetch()
    assert move
    slow.arm()
    seen: list[bool] = []

    def strike() -> None:
        slow.group()
        seen.append((place.site / "a-new/deep").exists())
        place.stop.request(signal.SIGINT)

    with ExitStack() as stack:
        thread = threading.Thread(target=strike)
        thread.start()
        stack.callback(thread.join)
        with pytest.raises(Interrupted):
            source.forward(place.source, move, stop=place.stop, log=place.log, hold=())
    assert seen == [True]
    assert place.is_at(slow.old)


def test_killed_on_the_way_there_then_put_back(place: Place, slow: Slow) -> None:
    slow.kill()
    assert (place.site / "a-changed").read_text().startswith("new")
    assert (place.site / "z-changed").read_text() == "old\n"
    place.restore(slow.old)
    assert place.is_at(slow.old)
    assert not (place.site / "a-new").exists()
    place.restore(slow.old)
    assert place.is_at(slow.old)


def test_killed_on_the_way_there_then_tried_again(place: Place, slow: Slow) -> None:
    slow.kill()
    assert place.ahead() == slow.new
    place.pull()
    assert place.is_at(slow.new)
    place.restore(slow.old)
    assert place.is_at(slow.old)


def test_killed_on_the_way_there_and_to_go_there_all_the_same(place: Place, slow: Slow) -> None:
    slow.kill()
    place.restore(slow.new)
    assert place.is_at(slow.new)


def test_killed_on_the_way_there_and_to_go_further_back(place: Place, slow: Slow) -> None:
    slow.kill()
    place.restore(place.first)
    assert place.is_at(place.first)


def test_killed_on_the_way_back(place: Place, slow: Slow) -> None:
    place.pull()
    slow.kill("restore")
    place.restore(slow.old)
    assert place.is_at(slow.old)


def test_killed_on_the_way_back_then_another_project_fetches(place: Place, slow: Slow) -> None:
    place.pull()
    slow.kill("restore")
    move = place.fetch()
    assert move
    assert (move.old, move.new) == (slow.old, slow.new)
    assert place.is_at(slow.old)


def test_killed_while_mending(place: Place, slow: Slow) -> None:
    slow.kill()
    # Something that makes git write the slow file once more.
    (place.site / "m.slow").unlink(missing_ok=True)
    slow.kill("restore")
    place.restore(slow.old)
    assert place.is_at(slow.old)


@pytest.mark.parametrize("length", [0, 1000])
def test_a_file_that_was_half_written_is_ours(place: Place, slow: Slow, length: int) -> None:
    slow.kill()
    for name in ("a-changed", "a-new/deep"):
        os.truncate(place.site / name, min(length, (place.site / name).stat().st_size))
    place.restore(slow.old)
    assert place.is_at(slow.old)


def test_a_person_s_change_after_the_kill_is_not_lost(place: Place, slow: Slow) -> None:
    slow.kill()
    write(place.site, {"a-changed": "mine\n", "z-new": "mine\n", "z-kept": "mine\n"})
    error = place.restore_refused(slow.old)
    assert error.message.endswith("were changed since: a-changed")
    assert f"git -C {place.site} checkout {slow.old} -- a-changed" in error.hint
    assert place.refused().message == error.message
    # What the hint says.
    (place.site / ".git/index.lock").unlink()
    git(place.site, "checkout", slow.old, "--", "a-changed")
    place.restore(slow.old)
    assert place.head == slow.old
    # It was never rbuild's: not in what it goes back to, or not in what it moves.
    assert (place.site / "z-new").read_text() == "mine\n"
    assert (place.site / "z-kept").read_text() == "mine\n"
    assert git(place.site, "status", "--porcelain").split() == ["M", "z-kept", "??", "z-new"]


def test_a_person_who_has_gone_on_is_left_alone(place: Place, slow: Slow) -> None:
    slow.kill()
    (place.site / ".git/index.lock").unlink()
    git(place.site, "reset", "--quiet", "--hard", slow.new)
    git(place.site, "commit", "--quiet", "--allow-empty", "-m", "Local")
    assert place.fetch() is None
    assert "no remote has" in place.restore_refused(slow.old).message


def test_a_person_s_running_git_is_waited_out(place: Place, slow: Slow) -> None:
    slow.kill()
    with subprocess.Popen(
        ("git", "cat-file", "--batch"),
        cwd=place.site,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as person:
        assert person.stdin
        assert person.stdout
        # Its answer says that it runs, under its own name.
        person.stdin.write(b"HEAD\n")
        person.stdin.flush()
        person.stdout.readline()
        error = place.restore_refused(slow.old)
        assert "another git is or was at work" in error.message
        assert (place.site / ".git/index.lock").exists()
        person.kill()
    place.restore(slow.old)
    assert place.is_at(slow.old)


def test_a_lock_that_is_older_than_our_move_is_left_alone(place: Place, slow: Slow) -> None:
    slow.kill()
    held = place.site / ".git/index.lock"
    os.utime(held, ns=(0, held.with_name("rbuild-move").stat().st_mtime_ns - 1))
    assert "index.lock exists" in place.restore_refused(slow.old).message
    held.unlink()
    place.restore(slow.old)
    assert place.is_at(slow.old)


def test_locks_on_the_branch_are_ours_as_well(place: Place, slow: Slow) -> None:
    slow.kill()
    for name in ("HEAD.lock", "ORIG_HEAD.lock", "refs/heads/main.lock"):
        (place.site / ".git" / name).touch()
    place.restore(slow.old)
    assert place.is_at(slow.old)
    assert not [*(place.site / ".git").rglob("*.lock")]


@pytest.mark.parametrize("stage", ["nothing", "files", "index", "head"])
def test_killed_at_any_moment(place: Place, slow: Slow, stage: str) -> None:
    place.fetch()
    note = f"underway\n{slow.old}\n{slow.new}\nrefs/heads/main\n"
    (place.site / ".git/rbuild-move").write_text(note)
    if stage != "nothing":
        git(place.site, "read-tree", "-m", "-u", slow.old, slow.new)
    if stage == "files":
        git(place.site, "read-tree", slow.old)
    if stage == "head":
        git(place.site, "update-ref", "HEAD", slow.new)
    (place.site / ".git/index.lock").touch()
    place.restore(slow.old)
    assert place.is_at(slow.old)


def test_links_and_modes_are_mended(place: Place, slow: Slow) -> None:
    (place.desk / "a-link").symlink_to("somewhere")
    (place.desk / "a-program").write_text("p")
    old = slow.old = place.push({})
    (place.desk / "a-link").unlink()
    (place.desk / "a-link").symlink_to("elsewhere")
    (place.desk / "a-program").chmod(0o755)
    slow.new = place.push({"m.slow": "newer\n"})
    git(place.site, "pull", "--quiet", "--ff-only")
    git(place.site, "reset", "--quiet", "--hard", old)
    slow.kill()
    assert (place.site / "a-link").readlink() == Path("elsewhere")
    place.restore(old)
    assert place.is_at(old)
    assert (place.site / "a-link").readlink() == Path("somewhere")
    assert not stat.S_IMODE((place.site / "a-program").stat().st_mode) & 0o100


def test_a_damaged_note_says_nothing(place: Place) -> None:
    new = place.push({"a": "1"})
    place.pull()
    (place.site / ".git/rbuild-move").write_bytes(b"underway\n\xff")
    assert place.fetch() is None
    place.restore(place.first)
    assert place.is_at(place.first)
    place.pull()
    assert place.is_at(new)


def test_git_keeps_the_locks_that_it_inherits(place: Place, slow: Slow) -> None:
    move = place.fetch()
    assert move
    slow.arm()
    held: list[bool] = []

    def look() -> None:
        group = slow.group()
        there = {os.path.realpath(path) for path in Path(f"/proc/{group}/fd").iterdir()}
        held.append({str(place.site), str(place.site / ".git")} <= there)
        os.killpg(group, signal.SIGTERM)

    thread = threading.Thread(target=look)
    thread.start()
    with lock.hold(str(place.site)) as descriptor, pytest.raises(SourceError):
        source.forward(place.source, move, stop=place.stop, log=place.log, hold=(descriptor,))
    thread.join()
    assert held == [True]
    assert place.is_at(slow.old)
