"""Git on one checkout, without a terminal: it never asks, and no secret stands in what it says.

A repository's own hooks don't run: one that deploys after a merge would touch what runs before
rbuild has built anything, and rbuild has hooks of its own. Git's other programs (filters,
credential helpers, ssh commands) run as a person's would.

Paths are text: those that are no UTF-8 are found nowhere, and git itself refuses them then.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import unquote

from rbuild import process
from rbuild.errors import EngineError, RbuildError
from rbuild.process import Log, Result, Stop

# Of a git command that stays on this machine, in seconds.
_LOCAL = 1800.0
NAMED = 5
_DETAIL_LINES = 15
ID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")

# git-config(1), githooks(5)
_OPTIONS = (
    "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false",
    "-c", "credential.interactive=false", "-c", "gc.auto=0", "-c", "maintenance.auto=false",
    "-c", "merge.autoStash=false", "-c", "submodule.recurse=false",
)  # fmt: skip
# What of git's variables (git(1)) is the machine's or the person's, not of one repository.
_KEPT = (
    "GIT_ALLOW_PROTOCOL", "GIT_CEILING_DIRECTORIES", "GIT_CONFIG_",
    "GIT_DISCOVERY_ACROSS_FILESYSTEM", "GIT_EXEC_PATH", "GIT_HTTP_", "GIT_PROTOCOL_FROM_USER",
    "GIT_PROXY_", "GIT_SSH", "GIT_SSL_",
)  # fmt: skip
# An empty GIT_ASKPASS keeps git from core.askPass and SSH_ASKPASS as well.
_NEVER_ASK = {
    "GIT_ASKPASS": "",
    "GIT_CONFIG_PARAMETERS": "",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
    "SSH_ASKPASS_REQUIRE": "never",
}


class SourceError(RbuildError):
    """A checkout can't be asked, moved forward or moved back; it is as it was."""


class HalfMoved(SourceError):
    """A move of rbuild's was cut off and can't be mended: the files are of two commits."""


class Unreachable(SourceError):
    """The remote can't be asked now: network, access or time. Not the checkout's fault."""


class Change(NamedTuple):
    """A path that two commits differ in, and its modes there: empty where it is absent."""

    path: str
    before: str
    after: str


class Git:
    """How git is asked about the checkout that `folder` lies in, and told to change it.

    `top` is the checkout's, `folder` its git folder, `common` the one that it shares with other
    worktrees. `hold` are descriptors of locks that a git which writes files inherits. All methods
    raise SourceError and Interrupted.
    """

    def __init__(
        self, folder: str, stop: Stop, log: Log | None = None, hold: Sequence[int] = ()
    ) -> None:
        self.stop = stop
        self.log = log
        self.hold = tuple(hold)
        self.top = os.path.abspath(folder)
        self._config: dict[str, str] = {}
        self._secrets: tuple[str, ...] = ()
        result = self.run("rev-parse", "--show-toplevel", "--absolute-git-dir", "--git-common-dir")
        if result.code:
            words = self.words(result)
            raise SourceError(
                f"{self.top}: git finds no checkout here that it may read, nor above",
                hint="let git of the user that rbuild runs as read it: the command is above"
                if "safe.directory" in words
                else "clone the project with git, or leave the check of its source out",
                detail=words,
            )
        top, self.folder, common = result.output.splitlines()
        self.common = os.path.join(self.top, common)
        self.top = top

    def run(
        self,
        *arguments: str,
        timeout: float = _LOCAL,
        environ: Mapping[str, str] | None = None,
        raw: Log | None = None,
        hold: Sequence[int] = (),
        logged: bool = False,
    ) -> Result:
        """Run git at the checkout's top, whatever comes of it but a missing git or a signal.

        `raw` gets its output as it comes; if `logged`, the log what was run and what git said.
        """
        log = self.log if logged else None
        if log:
            log.line(f"$ {self.masked(self.typed(*arguments))}")
        ours = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("GIT_") or name.startswith(_KEPT)
        }
        try:
            result = process.run(
                ("git", *_OPTIONS, "-C", self.top, *arguments),
                stop=self.stop,
                timeout=timeout,
                log=raw,
                env={**ours, **_NEVER_ASK, **(environ or {})},
                pass_fds=hold,
            )
        except EngineError as error:
            raise SourceError(
                f"{self.top}: git cannot be started: {error.message}",
                hint="install git, or set PATH so that it is found",
            ) from None
        if log and (words := self.words(result)):
            log.line(words)
        return result

    def say(self, *arguments: str, **environ: str) -> str:
        """What git answers."""
        result = self.run(*arguments, environ=environ)
        self._check(result, f"`git {arguments[0]}` failed")
        return result.output

    def fields(self, *arguments: str, **environ: str) -> list[str]:
        """What git answers to a question with `-z`."""
        return [one for one in self.say(*arguments, **environ).split("\0") if one]

    def change(self, *arguments: str, why: str) -> None:
        """Let git change the checkout. `why` is said if it doesn't."""
        self._check(self.run(*arguments, hold=self.hold, logged=True), why)

    def _check(self, result: Result, why: str) -> None:
        if result.timed_out:
            why += f": git took longer than {_LOCAL:g} s"
        if result.code:
            raise SourceError(f"{self.top}: {why}", detail=self.words(result))

    def typed(self, *arguments: str) -> str:
        """A git command as a person types it."""
        return shlex.join(("git", "-C", self.top, *arguments))

    def words(self, result: Result) -> str:
        """What git said, fit for a person: no credentials, no control characters."""
        text = result.tail.strip() or result.output.strip()
        lines = [plain(line) for line in re.split(r"[\r\n]+", self.masked(text))]
        return "\n".join([line for line in lines if line.strip()][-_DETAIL_LINES:])

    def masked(self, text: str) -> str:
        """Text without the credentials of git's settings, and those of any URL."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return re.sub(r"(\b[a-zA-Z][\w+.-]*://)[^/\s'\"]*@", r"\1***@", text)

    def config(self) -> dict[str, str]:
        """Git's settings, all files together, a setting's last value; names as git folds them."""
        if not self._config:
            secrets: set[str] = set()
            for entry in self.fields("config", "--list", "-z"):
                name, _, value = entry.partition("\n")
                self._config[name] = value
                secrets |= _secrets(name, value)
            # The longest first: one may be part of another.
            self._secrets = tuple(sorted(secrets, key=len, reverse=True))
        return self._config

    def head(self) -> str:
        """The commit that is checked out."""
        result = self.run("rev-parse", "--verify", "HEAD^{commit}")
        if result.code:
            raise SourceError(
                f"{self.top}: git can't read the commit that is checked out, if there is one yet",
                hint=f"check a branch out; `{self.typed('fsck')}` says if something is damaged",
            )
        return result.output.strip()

    def ref(self) -> str:
        """The current branch as `refs/heads/…`; empty if HEAD is detached."""
        return self.run("symbolic-ref", "--quiet", "HEAD").output.strip()

    def is_ancestor(self, old: str, new: str, **environ: str) -> bool:
        """Whether `old` is in the history of `new`, as far as that is known here."""
        return self.run("merge-base", "--is-ancestor", old, new, environ=environ).code == 0

    def changes(self, before: str, after: str) -> list[Change]:
        """What two commits differ in (git-diff-tree(1), RAW OUTPUT FORMAT)."""
        fields = self.fields("diff-tree", "-r", "-z", "--no-renames", before, after)
        found = []
        for modes, path in zip(fields[::2], fields[1::2], strict=True):
            old, new, *_ = modes.removeprefix(":").replace("000000", "").split(" ")
            found.append(Change(path, old, new))
        return found

    def locate(self, path: str) -> str:
        """The full path of what is there in the checkout, empty for nothing or beyond a link."""
        full = os.path.join(self.top, path)
        above = os.path.dirname(full)
        return full if os.path.lexists(full) and os.path.realpath(above) == above else ""


def plain(text: str) -> str:
    """Text without control and other invisible characters."""
    return "".join(one for one in text if one.isprintable())


def some(paths: Sequence[str]) -> str:
    """A few paths by name, and how many more there are."""
    named = ", ".join(map(plain, paths[:NAMED]))
    more = len(paths) - NAMED
    return f"{named} and {more} more" if more > 0 else named


def _secrets(name: str, value: str) -> set[str]:
    """The credentials in one of git's settings, as they are and as they are decoded."""
    found = set()
    for user, password in re.findall(r"https?://([^/\s:]*):?([^/\s]*)@", f"{name} {value}"):
        # A token may stand as the user, alone or before a word that only fills the place.
        found |= {user} if password in ("", "x-oauth-basic") else {password}
    if name.endswith(".extraheader"):
        found.add(value.rpartition(" ")[2])
    both = found | {unquote(one) for one in found}
    # A short one would hit words; in a URL it is masked by its place.
    return {one for one in both if len(one) >= 6}
