"""What a killed git has left of a move of the checkout: known by a note, and put right.

The note is written into the git folder (`rbuild-move`) before the files move, and says from where
to where: whoever comes after a kill knows which half-written files are rbuild's.
"""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import suppress
from glob import glob
from typing import NamedTuple

from rbuild.process import Log
from rbuild.sources.git import NAMED, Change, Git, HalfMoved, SourceError, some
from rbuild.state.record import write_private

_NOTE = "rbuild-move"
# Paths of one command: 100 of PATH_MAX fit well into what the kernel takes.
_BATCH = 100


class Note(NamedTuple):
    """A move of rbuild's: the way `back`, the `other` end, on which branch."""

    underway: bool
    back: str
    other: str
    ref: str


def read(git: Git) -> Note | None:
    """What rbuild did here last; None if that is not known."""
    path = os.path.join(git.folder, _NOTE)
    try:
        with open(path, encoding="utf-8") as file:
            state, back, other, ref = file.read().split("\n")[:4]
    except (FileNotFoundError, ValueError):
        return None
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from None
    return Note(state == "underway", back, other, ref)


def write(git: Git, note: Note) -> None:
    """Write the note down, durably. Raises StateError."""
    state = "underway" if note.underway else "done"
    text = f"{state}\n{note.back}\n{note.other}\n{note.ref}\n"
    write_private(os.path.join(git.folder, _NOTE), text)


def drop(git: Git) -> None:
    """Nothing is left to be known."""
    with suppress(OSError):
        os.unlink(os.path.join(git.folder, _NOTE))


def cut_off(git: Git) -> Note | None:
    """The move of rbuild's that was cut off here, if a person has not gone on from there."""
    note = read(git)
    if not note or not note.underway:
        return None
    if _is_here(git, note):
        return note
    drop(git)
    return None


def is_underway(git: Git) -> bool:
    """Whether a move of rbuild's is at work here, or was cut off; changes nothing."""
    note = read(git)
    return bool(note and note.underway and _is_here(git, note))


def _is_here(git: Git, note: Note) -> bool:
    """Whether the checkout is still where the move of this note may have left it."""
    return git.head() in (note.back, note.other) and git.ref() == note.ref


def mend(git: Git, note: Note, goal: str, *, refused: bool = False) -> None:
    """Bring a move that was cut off to its end at `goal`, one of the note's two commits.

    A file is rbuild's if it is as in either commit, missing, or the beginning of one; any other
    is a person's. Raises HalfMoved, with nothing touched if one of those would be overwritten;
    where git may have `refused` to move, only if it had begun.
    """
    try:
        _mend(git, note, goal, refused)
    except SourceError as error:
        raise HalfMoved(error.message, hint=error.hint, detail=error.detail) from None


def _mend(git: Git, note: Note, goal: str, refused: bool) -> None:
    start = note.other if goal == note.back else note.back
    changes = git.changes(start, goal)
    unlike_start, unlike_goal = _unlike(git, start), _unlike(git, goal)
    wrong, theirs = [], []
    for one in changes:
        if _is_as(git, one.path, one.after, unlike_goal):
            continue
        if _is_as(git, one.path, one.before, unlike_start) or _is_torn(git, one, start, goal):
            wrong.append(one)
        elif one.after:
            theirs.append(one.path)
    begun = bool(wrong) or git.head() != goal
    if theirs and (begun or not refused):
        again = git.typed("checkout", goal, "--", *theirs[:NAMED])
        raise SourceError(
            f"{git.top}: rbuild was cut off while it moved the checkout, and these files were "
            f"changed since: {some(theirs)}",
            hint=f"copy what you need, then type `{again}` and run rbuild again",
        )
    _sweep(git, note, begun)
    if begun:
        _go(git, wrong, goal)
    drop(git)


def _go(git: Git, wrong: list[Change], goal: str) -> None:
    """Let branch, index and these files be as `goal` has them."""
    why = f"a move that was cut off cannot be mended (to {goal[:12]})"
    # Before the files: these must be rbuild's by the note, whenever this is cut off again.
    git.change("reset", "--mixed", "--quiet", goal, why=why)
    for one in wrong:
        if not one.after and (full := git.locate(one.path)):
            with suppress(OSError):
                os.unlink(full)
                os.removedirs(os.path.dirname(full))
    paths = [one.path for one in wrong if one.after]
    for first in range(0, len(paths), _BATCH):
        batch = paths[first : first + _BATCH]
        git.change("checkout", "--quiet", goal, "--", *batch, why=why)


def _unlike(git: Git, commit: str) -> set[str]:
    """The paths of a commit that the files differ from, as git compares them."""
    with tempfile.TemporaryDirectory(prefix="rbuild-") as folder:
        environ = {"GIT_INDEX_FILE": os.path.join(folder, "index")}
        git.say("read-tree", commit, **environ)
        # Gives 1 where files differ, and compares their content.
        git.run("update-index", "-q", "--refresh", environ=environ)
        differing = git.fields(
            "diff-files", "--name-only", "--no-renames", "--ignore-submodules=all", "-z", **environ
        )
    return set(differing)


def _is_as(git: Git, path: str, mode: str, unlike: set[str]) -> bool:
    """Whether a file is as a commit has it, or absent where that has none."""
    return path not in unlike if mode else not git.locate(path)


class _Content(Log):
    """Output as it came, for content that is no text."""

    def __init__(self) -> None:
        super().__init__()
        self.data = bytearray()

    def write(self, data: bytes) -> None:
        self.data += data


def _is_torn(git: Git, change: Change, start: str, goal: str) -> bool:
    """Whether a file is missing or was cut off while git wrote it."""
    full = git.locate(change.path)
    if not full:
        return True
    if os.path.islink(full) or not os.path.isfile(full):
        return False
    try:
        with open(full, "rb") as file:
            content = file.read()
    except OSError:
        return False
    for commit in (start, goal):
        whole = _Content()
        result = git.run("cat-file", "--filters", f"{commit}:{change.path}", raw=whole)
        if not result.code and whole.data.startswith(content):
            return True
    return False


def _sweep(git: Git, note: Note, begun: bool) -> None:
    """Remove the locks that a killed git of ours has left behind.

    Ours would hold the checkout's lock still if it ran. A person's may run at this moment: only
    what came after the note goes, and only if no git is seen at work. What is older is in the way
    where the move has `begun`.
    """
    since = os.stat(os.path.join(git.folder, _NOTE)).st_mtime_ns
    names = ("index.lock", "HEAD.lock", "ORIG_HEAD.lock", f"{git.common}/{note.ref}.lock")
    for path in (os.path.join(git.folder, name) for name in names):
        try:
            made = os.lstat(path).st_mtime_ns
        except OSError:
            continue
        if made >= since and not _is_git_at_work(git.top, git.common):
            with suppress(OSError):
                os.unlink(path)
        elif made >= since or begun:
            raise SourceError(
                f"{git.top}: rbuild was cut off while it moved the checkout, and another git "
                f"is or was at work there: {path} exists",
                hint="run rbuild again when that git has ended; if none runs, remove the file",
            )


def _is_git_at_work(*folders: str) -> bool:
    """Whether a git runs in one of these folders, by proc(5); one that can't be seen counts."""
    below = tuple(f"{folder}/" for folder in folders)
    for place in glob("/proc/[0-9]*"):
        try:
            with open(f"{place}/comm", "rb") as file:
                is_git = re.match(rb"git\b", file.read())
            if is_git and f"{os.readlink(f'{place}/cwd')}/".startswith(below):
                return True
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError:
            return True
    return False
