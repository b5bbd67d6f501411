"""What rbuild knows of a project: one JSON file a project, versioned, atomic, private.

A state folder holds `projects/NAME-DIGEST/`, where NAME is Compose's name for the project
and DIGEST stands for the project's folder; so the record of any spelling of a path is found
by listing one folder, without asking Compose. A project whose path leads through a link is found
by the path as it is spelled as well, wherever the link points by then (releases behind `current`):
there, `NAME-DIGEST` of the other path is a link to the one folder.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

try:
    # Costs nothing, where hashlib loads all of OpenSSL: 4 MiB on a fresh project's path.
    from _blake2 import blake2b
except ImportError:  # pragma: no cover - an interpreter without the built-in module
    from hashlib import blake2b

from rbuild.errors import RbuildError, StateError

VERSION = 5
# Beside the record: see `checks`.
CHECKS = "checks.json"
_LAST = 253402300799.0


@dataclass(eq=False, repr=False)
class Record:
    """One project's record. Times are RFC 3339 in UTC; absent ones are empty."""

    name: str
    home: str
    built: str = ""
    """When the run that last updated it well was started."""
    finished: str = ""
    files: list[str] = field(default_factory=list)
    """The compose files it was last updated from, links resolved."""
    key: str = ""
    """Hexadecimal; keys the digests below, so that short secrets cannot be guessed from them."""
    digests: dict[str, str] = field(default_factory=dict)
    """What the last good update was made from: input → digest of its content."""
    data: dict[str, list[str]] = field(default_factory=dict)
    """Mounted files that are no inputs: path → why, and a digest of how it is mounted (`data`)."""
    suspects: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Files that alone made the last update due, and may be data: path → `times` (of how many
    updates in a row), and the `size`, `inode` and `digest` that it had by then."""
    provided: list[str] = field(default_factory=list)
    """Variables without a default that the last good update had."""
    views: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By spelling: the signature under which these digests were seen, and `x-rbuild` settings."""
    services: dict[str, dict[str, Any]] = field(default_factory=dict)
    """As of the last good update: reference, image, scale (of the file), ended (exit code), state,
    containers, shape (digest of its configuration), content (digests of what that refers to),
    behind (what of it is old while a person has it stopped: image, configuration or nothing)."""
    builds: list[str] = field(default_factory=list)
    """Names of the images that this project's services build."""
    bases: list[str] = field(default_factory=list)
    rests: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """What the last good update was made on, by kind: qualified name → as `moves` has it."""
    makes: dict[str, str] = field(default_factory=dict)
    """Qualified name of each image that this project's services build → its ID by then."""
    contexts: dict[str, list[str]] = field(default_factory=dict)
    """Build contexts as they were last seen unchanged (see `contexts`)."""
    commit: str = ""
    """The commit of the git checkout that the last good update was made from."""
    forwarded: str = ""
    """The commit that a run has fast-forwarded from: restored if the update fails."""
    superseded: list[str] = field(default_factory=list)
    """IDs of images that our builds made and our pulls replaced, as long as they are there."""
    configuration: str = ""
    """Digest of the rendered configuration, in a file beside, that what runs was started from."""
    content: dict[str, str] = field(default_factory=dict)
    """Mounted files, configs and secrets of what runs: path → copy of what it held (`content`)."""
    taken: int = 0
    """Bytes that the last good update took where the engine stores images."""
    untidy: bool = False
    """Set until what an update left over is removed."""
    failed: dict[str, Any] | None = None
    """The update that failed last, as long as nothing else succeeded (see `failure`)."""
    held: dict[str, Any] | None = None
    """The same of a commit that the checkout was taken back from: it waits apart, for what the
    checkout is at may fail, or be updated well, meanwhile."""
    underway: dict[str, Any] | None = None
    """Set while an update is at work (see `underway`)."""

    @property
    def built_at(self) -> float:
        """`built` in epoch seconds; 0 if the project was never updated."""
        return datetime.fromisoformat(self.built).timestamp() if self.built else 0.0

    @property
    def finished_at(self) -> float:
        """`finished` in epoch seconds; 0 if that isn't known."""
        try:
            return datetime.fromisoformat(self.finished).timestamp() if self.finished else 0.0
        except ValueError:
            return 0.0


def stamp(when: float) -> str:
    """RFC 3339 in UTC, to the millisecond; what lies beyond the year 9999 is its end."""
    text = datetime.fromtimestamp(min(when, _LAST), UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


class Damaged(StateError):
    """A record that can't be understood."""


class Store:
    """The records under one state folder."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._projects = os.path.join(root, "projects")
        self._listing: dict[str, list[str]] | None = None

    def folders(self, *paths: str) -> list[str]:
        """State folders of the projects at these paths; mostly one, none for a new project.

        The paths are spellings of one folder; what the first leads to comes first.
        """
        listing = self._list()
        found = (name for path in dict.fromkeys(paths) for name in listing.get(_digest(path), ()))
        return [os.path.join(self._projects, name) for name in dict.fromkeys(found)]

    def path(self, name: str, *paths: str) -> str:
        """Where the state folder of one project is or will be, of those at these paths."""
        listing = self._list()
        for path in paths:
            for folder in listing.get(_digest(path), ()):
                if folder[:-25] == name:
                    return os.path.join(self._projects, folder)
        return os.path.join(self._projects, f"{name}-{_digest(paths[-1])}")

    def _list(self) -> dict[str, list[str]]:
        """Names of the state folders by the digest of a path that leads there."""
        listing = self._listing
        if listing is None:
            listing = {}
            try:
                with os.scandir(self._projects) as entries:
                    found = {
                        entry.name: os.readlink(entry.path) if entry.is_symlink() else entry.name
                        for entry in entries
                    }
            except FileNotFoundError:
                found = {}
            except OSError as error:
                raise unusable(self._projects, error) from None
            for name in sorted(found):
                listing.setdefault(name[-24:], []).append(found[name])
            # At once: another thread may be here as well.
            self._listing = listing
        return listing

    def unread(self, spelling: str) -> str:
        """Where is remembered what is wrong with a project that no record knows by this spelling.

        No Compose project has an empty name.
        """
        return self.path("", spelling)

    def make(self, path: str) -> None:
        """Make a state folder, private, if it isn't there. Raises StateError."""
        try:
            for part in (self.root, self._projects, path):
                if not os.path.isdir(part):
                    os.makedirs(part, mode=0o700, exist_ok=True)
        except OSError as error:
            raise unusable(path, error) from None
        self._listing = None

    def all(self) -> list[str]:
        """Every state folder there is."""
        try:
            with os.scandir(self._projects) as entries:
                names = sorted(entry.name for entry in entries if not entry.is_symlink())
        except OSError:
            return []
        return [os.path.join(self._projects, name) for name in names]


def at_paths(store: Store, *paths: str) -> Iterator[tuple[str, Record]]:
    """The records of the projects at these paths, each with its state folder.

    Without those that can't be read. Raises StateError if the state folder itself can't.
    """
    for folder in store.folders(*paths):
        try:
            known = read(folder)
        except RbuildError:
            continue
        if known:
            yield folder, known


def known_as(store: Store, paths: Sequence[str], spelling: str) -> Iterator[tuple[str, Record]]:
    """Of these, the ones that this spelling has named so far. Raises StateError."""
    for folder, known in at_paths(store, *paths):
        if spelling in known.views:
            yield folder, known


def living(store: Store) -> list[tuple[str, Record]]:
    """Every record whose project is still there, with its folder, oldest update first.

    Of several of the same files (a project was renamed), only the one updated last.
    """
    found: dict[tuple[str, ...], tuple[str, Record]] = {}
    for folder in store.all():
        try:
            known = read(folder)
        except StateError:
            continue
        if known is None or not any(map(os.path.exists, known.files)):
            continue
        files = tuple(known.files)
        if files not in found or found[files][1].built_at < known.built_at:
            found[files] = (folder, known)
    return sorted(found.values(), key=lambda one: one[1].built_at)


def read(folder: str) -> Record | None:
    """The record in a state folder, None if there is none.

    Raises Damaged, or StateError for one that a newer rbuild wrote or that can't be read.
    """
    path = os.path.join(folder, "record.json")
    try:
        with open(path, "rb") as file:
            text = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}", hint="check the file's owner") from None
    try:
        data = json.loads(text)
        version = data.pop("version")
        # Until version 3: IDs of images of which it was guessed that no registry gave them.
        data.pop("local", None)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise Damaged(f"{path}: not a record of rbuild's") from None
    if isinstance(version, int) and version > VERSION:
        raise StateError(
            f"{path}: written by a newer rbuild (version {version}, this one knows {VERSION})",
            hint="upgrade rbuild, or move the file away to start afresh",
        )
    try:
        # Earlier versions lacked what has a default since.
        record = Record(**data)
        _check(record)
    except (TypeError, ValueError, OverflowError, AttributeError, KeyError):
        raise Damaged(f"{path}: a record with missing or wrong parts") from None
    return record


def write(folder: str, record: Record) -> None:
    """Replace the record: whole or not at all, whatever happens. Raises StateError."""
    write_private(
        os.path.join(folder, "record.json"),
        json.dumps({"version": VERSION, **vars(record)}, indent=1, sort_keys=True),
    )
    _link_paths(folder, record)


def _link_paths(folder: str, record: Record) -> None:
    """Let the folder be found by every path under which the project was worked."""
    projects, own = os.path.split(folder)
    for path in dict.fromkeys([record.home, *(view.partition("\n")[0] for view in record.views)]):
        name = f"{record.name}-{_digest(path)}"
        if name == own:
            continue
        try:
            os.symlink(own, os.path.join(projects, name))
        except FileExistsError:
            # Linked already, or the folder of a project that was worked under this path alone.
            continue
        except OSError as error:
            raise unusable(folder, error) from None


def set_aside(folder: str, now: float) -> str:
    """Move a damaged record out of the way; its new path."""
    path = os.path.join(folder, "record.json")
    aside = f"{path}.damaged-{stamp(now).replace(':', '')}"
    try:
        os.replace(path, aside)
    except OSError as error:
        raise unusable(path, error) from None
    return aside


def write_private(path: str, text: str) -> None:
    """Write a file of mode 0600 atomically and durably. Raises StateError."""
    new = f"{path}.new"
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, path)
        except OSError:
            os.unlink(new)
            raise
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise unusable(path, error) from None


def default_root(environ: Mapping[str, str]) -> str:
    """Where state lives when nobody says otherwise (STATE_DIRECTORY: systemd.exec(5))."""
    for variable in ("RBUILD_STATE_DIR", "STATE_DIRECTORY"):
        # systemd joins several folders with ':'; the first is the unit's own.
        if environ.get(variable):
            value = environ[variable]
            return value.split(":")[0] if variable == "STATE_DIRECTORY" else value
    if os.geteuid() == 0:
        return "/var/lib/rbuild"
    base = environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(base, "rbuild")


def keyed_digest(key: str, content: bytes) -> str:
    """A digest that tells nothing of `content` to one who lacks the key."""
    return keyed_digest_of(key, (content,))


def keyed_digest_of(key: str, pieces: Iterable[bytes]) -> str:
    """The same of content that comes piece by piece."""
    digest = blake2b(key=bytes.fromhex(key), digest_size=16)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _digest(home: str) -> str:
    return blake2b(os.fsencode(home), digest_size=12).hexdigest()


def unusable(path: str, error: OSError) -> StateError:
    """The error for a place where state cannot be kept."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return StateError(
        f"{path}: cannot keep state here: {error.strerror}",
        hint=("free some space" if full else "run as the folder's owner")
        + ", or point --state-dir at a folder that this user can write",
    )


def _check(record: Record) -> None:
    """Raise TypeError or ValueError for a record that the rest of rbuild would stumble over."""
    for name, kind in _KINDS.items():
        if type(getattr(record, name)) not in kind:
            raise TypeError(name)
    _ = record.built_at
    if len(bytes.fromhex(record.key)) > blake2b.MAX_KEY_SIZE:
        raise ValueError("key")
    for names in (record.files, record.provided, record.builds, record.bases,
                  record.superseded):  # fmt: skip
        if not all(type(one) is str for one in names):
            raise TypeError("a list")
    for view in record.views.values():
        if not all(type(view.get(part)) is dict for part in ("paths", "variables", "settings")):
            raise TypeError("views")
    _check_inputs(record)
    numbers = [one.get("scale") for one in record.services.values()]
    numbers += [one.get("ended") or 0 for one in record.services.values()]
    noted = (record.underway or {}).get("rests", {}).values()
    for lists in (record.contexts, *record.rests.values(), *noted):
        if not all(type(one) is list for one in lists.values()):
            raise TypeError("rests")
        if not all(type(text) is str for one in lists.values() for text in one):
            raise TypeError("rests")
    if not all(len(one) >= 3 for one in record.contexts.values()):
        raise ValueError("contexts")
    mounts = [text for one in record.services.values() for text in one.get("mounts", {}).values()]
    ids = (*record.makes.values(), *record.content.values(), *mounts)
    if not all(type(one) is str for one in ids):
        raise TypeError("makes")
    underway = record.underway or {}
    numbers += [*underway.get("scales", {}).values(), underway.get("lost", 0)]
    if not all(type(one) is int for one in numbers):
        raise TypeError("services")
    texts = [underway.get(part, "") for part in _TEXTS]
    texts += [
        one.get(part, "") for one in record.services.values() for part in ("reference", "image")
    ]
    for part in _LISTS:
        texts += underway.get(part, [])
    for part in ("names", "built", "makes"):
        texts += underway.get(part, {}).values()
    if not all(type(one) is str for one in texts):
        raise TypeError("underway")
    if underway.get("touched"):
        _moment(underway["since"])
        _moment(underway.get("up") or underway["since"])
    for failed in (record.failed, record.held):
        if failed is not None:
            _check_failure(failed)


def _check_inputs(record: Record) -> None:
    for known in record.data.values():
        if type(known) is not list or [type(text) for text in known] != [str, str]:
            raise TypeError("data")
    for suspect in record.suspects.values():
        kinds = [type(suspect[part]) for part in ("times", "size", "inode", "digest")]
        if kinds != [int, int, int, str]:
            raise TypeError("suspects")
    for service in record.services.values():
        if type(service.get("content", {})) is not dict:
            raise TypeError("content")


def _check_failure(failed: Mapping[str, Any]) -> None:
    if not all(type(failed[part]) is str for part in _FAILED) or type(failed["tries"]) is not int:
        raise TypeError("failed")
    if not all(type(one) is str for one in failed["bases"].values()):
        raise TypeError("failed")
    for digests in failed.get("digests", {}).values():
        if type(digests) is not list or not all(type(one) is str for one in digests):
            raise TypeError("failed")
    absent = failed.get("absent", [])
    if type(absent) is not list or not all(type(one) is str for one in absent):
        raise TypeError("failed")
    if type(failed.get("commit", "")) is not str:
        raise TypeError("failed")
    _moment(failed["when"])
    if failed["next"]:
        _moment(failed["next"])


def _moment(text: str) -> None:
    """Raise ValueError or OverflowError for what is no moment in time."""
    datetime.fromisoformat(text).timestamp()


_KINDS: dict[str, tuple[type, ...]] = {
    "name": (str,), "home": (str,), "files": (list,), "key": (str,),
    "built": (str,), "finished": (str,),
    "digests": (dict,), "data": (dict,), "suspects": (dict,),
    "provided": (list,), "views": (dict,), "services": (dict,),
    "builds": (list,), "bases": (list,), "superseded": (list,),
    "rests": (dict,), "makes": (dict,), "contexts": (dict,), "commit": (str,), "forwarded": (str,),
    "configuration": (str,), "content": (dict,), "taken": (int,), "untidy": (bool,),
    "failed": (dict, type(None)), "held": (dict, type(None)), "underway": (dict, type(None)),
}  # fmt: skip
_TEXTS = ("since", "step", "generation", "inputs", "error", "going", "commit", "up")
_LISTS = ("stopped", "failing", "superseded", "services", "after", "stay", "leave", "bases")
_FAILED = ("inputs", "kind", "when", "next", "message", "log")
