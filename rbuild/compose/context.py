"""What a build context looks like to BuildKit, on two levels.

The signature is cheap: names and what `stat` says of them, in one walk that stays out of excluded
folders. The contents are exact, and files are read only where their `stat` isn't the known one.

What is excluded is not in it, not even the Dockerfile and the ignore file: BuildKit reads those
apart from the context, and COPY doesn't see them there. Owners, times and extended attributes
don't count: COPY gives files to root, and BuildKit's own cache disregards times. Not seen from
here: a build that copies only part of its context changes only with that part.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

try:
    # As in `record`: without OpenSSL.
    from _blake2 import blake2b
except ImportError:  # pragma: no cover - an interpreter without the built-in module
    from hashlib import blake2b

from rbuild.compose.ignore import Ignore
from rbuild.errors import InputError

_IGNORE = ".dockerignore"
_CHUNK = 1 << 18
_MOST_LINKS = 40
_MOST_SHOWN = 5
_NOTHING: Mapping[str, list[Any]] = MappingProxyType({})
# The place of a context's own folder, where that can't be read.
_ROOT = "."


class Context(NamedTuple):
    """A build context: a folder on this machine."""

    root: str
    """Absolute."""
    dockerfile: str = ""
    """Absolute path of the Dockerfile, which may lie elsewhere; empty if it is inline."""
    leave: tuple[str, ...] = ()
    """Paths in it that are not looked at, nor what is below them."""


def signature(context: Context, key: str) -> str:
    """A digest that differs if anything in the context may have changed; hexadecimal.

    It is over each path with its type and mode, of files also size, mtime and inode, of links
    the target, and over the ignore file. `key`: hexadecimal, as in `keyed_digest`. Raises
    InputError for an ignore file that BuildKit refuses or that can't be read.
    """
    path, text = _ignore_file(context)
    digest = blake2b(key=bytes.fromhex(key), digest_size=16)
    digest.update(b"%d\0%s" % (len(text), text))
    for name, info, what in _walk(context, Ignore(text, path)):
        if info is None:
            seen = what
        elif stat.S_ISREG(info.st_mode):
            seen = f"{info.st_mode} {info.st_size} {info.st_mtime_ns} {info.st_ino}"
        else:
            seen = f"{info.st_mode} {what}"
        digest.update(f"{name}\0{seen}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def contents(
    context: Context, key: str, known: Mapping[str, list[Any]] = _NOTHING
) -> dict[str, list[Any]]:
    """Path in the context → [mode, size, mtime in ns, inode, digest], as plain JSON values.

    A file whose size, mtime and inode are those of `known` isn't read again. Only files have
    size, mtime and inode; links have the digest of their target, folders none. What can't be
    read has `unreadable: ` and why in its place. Names that are no UTF-8 are as `os.fsdecode`
    gives them. `key` and what is raised: as in `signature`.
    """
    path, text = _ignore_file(context)
    found: dict[str, list[Any]] = {}
    for name, info, what in _walk(context, Ignore(text, path)):
        digest: str | None = what
        if info is None:
            found[name] = [0, 0, 0, 0, digest]
            continue
        seen = [0, 0, 0]
        if stat.S_ISREG(info.st_mode):
            seen = [info.st_size, info.st_mtime_ns, info.st_ino]
            was = known.get(name)
            if was and was[1:4] == seen and stat.S_ISREG(was[0]) and not _is_problem(was[4]):
                digest = was[4]
            else:
                digest = _content(os.path.join(context.root, name), key)
        elif what and not stat.S_ISDIR(info.st_mode):
            digest = _digest(key, [what.encode("utf-8", "surrogateescape")])
        if digest is not None:
            found[name] = [info.st_mode, *seen, digest]
    return dict(sorted(found.items()))


def changes(old: Mapping[str, list[Any]], new: Mapping[str, list[Any]]) -> list[str]:
    """What a person should read about the difference of two `contents`; empty if there is none.

    Modes, digests and types count, times and inodes don't. Of a folder that came or went only
    the folder is named. At most six lines, the last of which may be `and 12 more`.
    """
    found = []
    for name in sorted(old.keys() | new.keys()):
        was, now = old.get(name), new.get(name)
        above = name.rpartition("/")[0]
        if was and now:
            if was[4] != now[4] or stat.S_IFMT(was[0]) != stat.S_IFMT(now[0]):
                found.append(_readable(name))
            elif was[0] != now[0]:
                found.append(f"{_readable(name)} has mode {stat.S_IMODE(now[0]):04o}")
        elif was and (above not in old or above in new):
            found.append(f"{_readable(name)} disappeared")
        elif now and (above not in new or above in old):
            found.append(f"{_readable(name)} appeared")
    if len(found) > _MOST_SHOWN + 1:
        found[_MOST_SHOWN:] = [f"and {len(found) - _MOST_SHOWN} more"]
    return found


_Found = tuple[str, os.stat_result | None, str]


def _walk(context: Context, ignore: Ignore) -> Iterator[_Found]:
    """(path, stat, what else there is to it) of what BuildKit sends, always in the same order.

    What else: the target of a link, the number of a device, why a folder can't be listed; where
    there is no stat, why not.

    Without sockets: they become empty files there, and come and go with what listens on them.
    An excluded folder is there if something below it is (fsutil, filter.go).
    """
    root = context.root
    hidden: dict[str, os.stat_result] = {}
    todo: list[tuple[str, os.stat_result | None]] = [("", None)]
    while todo:
        folder, own = todo.pop()
        problem = ""
        try:
            with os.scandir(os.path.join(root, folder)) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            entries = []
            problem = f"unreadable: {error.strerror}"
            if folder and isinstance(error, (FileNotFoundError, NotADirectoryError)):
                continue
        if not folder and problem:
            yield _ROOT, None, problem
        elif folder and folder not in hidden:
            yield folder, own, problem
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if name in context.leave:
                continue
            excluded = ignore.excludes(name)
            info = None
            what = ""
            try:
                is_folder = entry.is_dir(follow_symlinks=False)
                if excluded and (not is_folder or ignore.prunes(name)):
                    continue
                info = entry.stat(follow_symlinks=False)
                if stat.S_ISLNK(info.st_mode):
                    what = os.readlink(entry.path)
                elif info.st_rdev:
                    what = str(info.st_rdev)
            except FileNotFoundError:
                continue
            except OSError as error:
                if excluded:
                    continue
                is_folder = False
                info = None
                what = f"unreadable: {error.strerror}"
            if excluded:
                assert info is not None
                hidden[name] = info
            elif info and stat.S_ISSOCK(info.st_mode):
                continue
            else:
                above = folder
                while above in hidden:
                    yield above, hidden.pop(above), ""
                    above = above.rpartition("/")[0]
            if is_folder:
                todo.append((name, info))
            else:
                yield name, info, what


def _content(path: str, key: str) -> str | None:
    """A digest of a file's content, None if the file is gone."""
    try:
        file = _open(path)
        if file is None:
            return None
        with file:
            return _digest(key, iter(lambda: file.read(_CHUNK), b""))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return f"unreadable: {error.strerror}"


def _digest(key: str, parts: Iterable[bytes]) -> str:
    digest = blake2b(key=bytes.fromhex(key), digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _is_problem(digest: str) -> bool:
    return digest.startswith("unreadable: ")


def _readable(name: str) -> str:
    """A name as it can be shown in one line on any terminal."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode()
        for one in name
    )


def _ignore_file(context: Context) -> tuple[str, bytes]:
    """Path and content of the ignore file that counts; both empty if there is none."""
    places = [os.path.join(context.root, _IGNORE)]
    if context.dockerfile:
        places.insert(0, context.dockerfile + _IGNORE)
    for path in places:
        try:
            text = _within(*os.path.split(path))
        except OSError as error:
            raise InputError(
                f"{path}: {error.strerror}", hint="let this user read it, or remove it"
            ) from None
        if text is not None:
            return path, text
    return "", b""


def _within(folder: str, name: str) -> bytes | None:
    """The content of a file, None if there is none. Links don't lead out of `folder`.

    BuildKit takes links as if `folder` were "/" (fsutil, followlinks.go).
    """
    todo = [name]
    done: list[str] = []
    links = 0
    while todo:
        part = todo.pop()
        if part == "..":
            done = done[:-1]
            continue
        path = os.path.join(folder, *done, part)
        if part in ("", "."):
            continue
        if os.path.islink(path):
            links += 1
            if links > _MOST_LINKS:
                return None
            target = os.readlink(path)
            if target.startswith("/"):
                done = []
            todo.extend(reversed(target.split("/")))
        else:
            done.append(part)
    try:
        file = _open(os.path.join(folder, *done))
    except (FileNotFoundError, NotADirectoryError):
        return None
    if file is None:
        return None
    with file:
        return file.read()


def _open(path: str) -> io.FileIO | None:
    """The regular file at `path`, None if it is something else. Raises OSError."""
    # Not even a pipe or a link that took a file's place a moment ago is waited for or followed.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return io.FileIO(descriptor)
    os.close(descriptor)
    return None
