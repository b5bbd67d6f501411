"""A project's folder as a git checkout: is its upstream ahead, go there, come back.

Several projects may share a checkout, so what changes it holds a lock on the checkout's git folder
beside the project's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from rbuild.errors import Busy, RbuildError
from rbuild.process import Log, Stop
from rbuild.sources import mending, upstream
from rbuild.sources.git import ID, Change, Git, HalfMoved, SourceError, Unreachable, plain, some
from rbuild.sources.mending import Note
from rbuild.state import lock

__all__ = [
    "HalfMoved", "Move", "Source", "SourceError", "Unreachable", "ahead", "fetch", "forward",
    "head", "restore",
]  # fmt: skip

# For another project's run on the same checkout, in seconds.
_WAIT = 300.0
_SUBJECTS = 5
_LONGEST_SUBJECT = 200
_GITLINK = "160000"
_NO_FETCH = {"GIT_NO_LAZY_FETCH": "1"}


class Source(NamedTuple):
    """Where a project's files come from.

    `folder` is the project's, in a checkout or at its top. `remote` is a configured remote's name;
    empty for the upstream's of the current branch, else `origin`. `branch` is the remote's; empty
    for the current branch's upstream, else the branch of the same name.
    """

    folder: str
    remote: str = ""
    branch: str = ""


class Move(NamedTuple):
    """A fast-forward from commit `old` to `new`; the subjects of a few commits, newest first."""

    old: str
    new: str
    subjects: tuple[str, ...]


def head(source: Source, *, stop: Stop) -> str:
    """The full ID of the commit that is checked out. Raises SourceError, Interrupted."""
    return Git(source.folder, stop).head()


def ahead(source: Source, *, stop: Stop, timeout: float, may_move: bool = False) -> str:
    """The remote branch's commit ID if it is not in HEAD's history, else "".

    Asks the remote for no more than that (git-ls-remote(1)), at most `timeout` seconds, and writes
    nothing into the checkout. Raises Unreachable, SourceError, Interrupted; with `may_move` also
    SourceError for a checkout that `fetch` would refuse to move, as far as that can be seen without
    the commits that are only there, and without mending a move that was cut off.
    """
    git = Git(source.folder, stop)
    current = git.head()
    there = upstream.find(git, source.remote, source.branch)
    found = upstream.ask(git, there, timeout)
    # A commit that isn't here can't be history; git must not fetch it to find out.
    if git.is_ancestor(found, current, **_NO_FETCH):
        return ""
    # What a run was cut off in is no person's work: the next run mends it.
    if may_move and not mending.is_underway(git):
        if git.run("cat-file", "-e", f"{found}^{{commit}}", environ=_NO_FETCH).code:
            _refuse_as_it_is(git)
        else:
            _refuse(git, current, found, there.name)
    return found


def fetch(source: Source, *, stop: Stop, timeout: float, transfer: float, log: Log) -> Move | None:
    """Fetch the remote branch; gives the fast-forward to it, None if there is nothing new.

    Changes neither branch nor files, but that a move which was cut off is first undone. The remote
    has `timeout` seconds to answer, and `transfer` seconds to send what is new. Where there is
    something new, raises SourceError for a checkout that can't be moved forward to it, saying why:
    diverged, detached, changed tracked files, untracked files in the way, submodules that would
    have to move. Raises HalfMoved, Unreachable, Busy, Interrupted.
    """
    git = Git(source.folder, stop, log)
    with _locked(git):
        if note := mending.cut_off(git):
            mending.mend(git, note, note.back)
        current = git.head()
        there = upstream.find(git, source.remote, source.branch)
        # A commit that isn't here can't be history; git must not fetch it to find out.
        if git.is_ancestor(upstream.ask(git, there, timeout), current, **_NO_FETCH):
            return None
        new = upstream.fetch(git, there, timeout, transfer)
        if git.is_ancestor(new, current):
            return None
        _refuse(git, current, new, there.name)
        return Move(current, new, _subjects(git, current, new))


def forward(source: Source, move: Move, *, stop: Stop, log: Log, hold: Sequence[int]) -> None:
    """Fast-forward branch and files to `move.new`, which `fetch` has found.

    Ignored files are never overwritten. When git refuses or fails, or a signal comes, the checkout
    is put back before SourceError or Interrupted is raised; HalfMoved where even that fails. `hold`
    are descriptors of locks that git inherits. Raises Busy, StateError.
    """
    git = Git(source.folder, stop, log, hold)
    with _locked(git):
        if git.head() != move.old:
            raise SourceError(
                f"{git.top}: somebody else has moved HEAD", hint="run rbuild again, as it is now"
            )
        _refuse(git, move.old, move.new, move.new[:12])
        note = Note(True, move.old, move.new, git.ref())
        mending.write(git, note)
        try:
            # The words of branch.<name>.mergeOptions must not turn it into something else.
            git.change(
                "merge", "--ff-only", "--commit", "--no-squash", "--no-overwrite-ignore",
                "--no-stat", "--quiet", move.new, why="cannot be fast-forwarded",
            )  # fmt: skip
            mending.write(git, note._replace(underway=False))
        except RbuildError:
            # The way back is gone to its end, whatever signal came.
            again = Git(source.folder, Stop(), log, git.hold)
            mending.mend(again, note, note.back, refused=True)
            raise


def restore(source: Source, commit: str, *, log: Log, hold: Sequence[int]) -> None:
    """Put branch and files back to `commit`, whatever signal came; does nothing if they are there.

    What a killed git has left behind (half of the files, index.lock) is mended. Raises SourceError
    with nothing touched where a person's work would be lost: changed files, untracked files in the
    way, commits that no remote has, another branch. Also if another run keeps the checkout to
    itself for too long: this must not pass for a run that is put off. `hold` are descriptors of
    locks that git inherits. Raises StateError.
    """
    if not ID.fullmatch(commit):
        raise SourceError(f"{plain(commit)} is no commit ID")
    git = Git(source.folder, Stop(), log, hold)
    try:
        with _locked(git):
            _restore(git, commit)
    except Busy as error:
        raise SourceError(
            f"{git.top}: cannot be put back to {commit[:12]}: {error.message}",
            hint=_by_hand(git, commit),
        ) from None


def _restore(git: Git, commit: str) -> None:
    last = mending.read(git)
    if note := mending.cut_off(git):
        mending.mend(git, note, commit if commit == note.other else note.back)
    current = git.head()
    if current == commit:
        return
    if why := _obstacle_back(git, current, commit, last):
        raise SourceError(
            f"{git.top}: cannot be put back to {commit[:12]}: {why}", hint=_by_hand(git, commit)
        )
    note = Note(True, commit, current, git.ref())
    mending.write(git, note)
    try:
        git.change("reset", "--keep", "--quiet", commit, why="cannot be put back")
    except SourceError as error:
        mending.mend(git, note, current, refused=True)
        error.hint = _by_hand(git, commit)
        raise
    mending.drop(git)


@contextmanager
def _locked(git: Git) -> Iterator[None]:
    """Hold the checkout's lock; git inherits it where it writes files."""
    with lock.hold(git.folder, wait=_WAIT, stop=git.stop) as descriptor:
        git.hold += (descriptor,)
        yield


def _subjects(git: Git, old: str, new: str) -> tuple[str, ...]:
    lines = git.fields(
        "log", f"-{_SUBJECTS}", "-z", "--no-show-signature", "--encoding=UTF-8", "--format=%s",
        f"{old}..{new}",
    )  # fmt: skip
    return tuple(plain(line)[:_LONGEST_SUBJECT] for line in lines)


# Reasons not to touch it


def _refuse(git: Git, old: str, new: str, name: str) -> None:
    """Raise SourceError if the checkout at `old` can't or shouldn't be moved to `new`."""
    if git.ref() and not git.is_ancestor(old, new):
        range_ = f"{old}...{new}"
        here, there = git.say("rev-list", "--left-right", "--count", range_).split()
        raise _no(
            git,
            f"HEAD and {name} have diverged (commits only here: {here}, only there: {there})",
            f"`{git.typed('log', '--oneline', '--left-right', range_)}` shows them; "
            f"`{git.typed('rebase', new)}` puts those here on top of those there",
        )
    _refuse_as_it_is(git)
    changes = git.changes(old, new)
    if way := _in_the_way(git, changes):
        why = f"it would overwrite untracked files: {some(way)}"
        raise _no(git, why, "move them out of the way")
    moved = [one.path for one in changes if _GITLINK in (one.before, one.after)]
    in_use = re.compile(r"submodule\.(active|.*\.(active|url))")
    if moved and any(map(in_use.fullmatch, git.config())):
        raise _no(
            git,
            f"it moves submodules, which rbuild doesn't: {some(moved)}",
            f"`{git.typed('pull', '--ff-only', '--recurse-submodules')}`",
        )


def _refuse_as_it_is(git: Git) -> None:
    """Raise SourceError if the checkout shouldn't be moved anywhere."""
    if not git.ref():
        raise _no(git, "HEAD is detached", f"`{git.typed('status')}` says why; check a branch out")
    changed = git.fields(
        "status", "--porcelain=v1", "--no-renames", "--untracked-files=no",
        "--ignore-submodules=untracked", "-z",
    )  # fmt: skip
    if changed:
        raise _no(
            git,
            f"tracked files were changed here: {some([line[3:] for line in changed])}",
            f"commit and push them, or `{git.typed('stash')}`",
        )


def _no(git: Git, why: str, hint: str) -> SourceError:
    return SourceError(f"{git.top}: there is something new, but {why}", hint=hint)


def _obstacle_back(git: Git, current: str, commit: str, last: Note | None) -> str:
    """What of a person's work would be lost on the way back, empty if nothing.

    `last` is what rbuild did here last.
    """
    if git.run("cat-file", "-e", f"{commit}^{{commit}}").code:
        return "the commit is not here any more"
    ref = git.ref()
    if last and last.ref != ref:
        return f"rbuild moved {last.ref or 'HEAD'}, and {ref or 'no branch'} is checked out now"
    # What rbuild has brought is the remote's, also where no remote-tracking branch says so.
    ours = (last.other,) if last else ()
    count = git.say("rev-list", "--count", current, "--not", commit, *ours, "--remotes").strip()
    if count != "0":
        return f"commits made here that no remote has would go ({count})"
    if way := _in_the_way(git, git.changes(current, commit)):
        return f"it would overwrite untracked files: {some(way)}"
    return ""


def _in_the_way(git: Git, changes: Sequence[Change]) -> list[str]:
    """Untracked files, also ignored ones, where a commit brings a file."""
    # A folder is git's to judge: what is tracked in it may go.
    added = {one.path: git.locate(one.path) for one in changes if not one.before}
    return [path for path, full in added.items() if os.path.islink(full) or os.path.isfile(full)]


def _by_hand(git: Git, commit: str) -> str:
    return (
        f"save what you need, as with `{git.typed('stash', '--include-untracked')}` and "
        f"`{git.typed('branch', 'kept')}`, then type `{git.typed('reset', '--keep', commit)}`"
    )
