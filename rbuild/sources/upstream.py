"""The branch of a remote that a checkout follows: which one it is, what it has, fetch it."""

from __future__ import annotations

import os
from typing import NamedTuple

from rbuild.process import Result
from rbuild.sources.git import ID, Git, SourceError, Unreachable, plain

# Ours alone, and of this worktree alone (git-worktree(1), REFS): a person's own fetch at the same
# moment writes FETCH_HEAD.
_FETCHED = "refs/worktree/rbuild"


class Upstream(NamedTuple):
    """A configured remote, and a branch there as `refs/heads/…`."""

    remote: str
    ref: str

    @property
    def name(self) -> str:
        return f"{self.remote}/{self.ref.removeprefix('refs/heads/')}"


def find(git: Git, remote: str, branch: str) -> Upstream:
    """Which branch of which remote it is; `remote` and `branch` may be empty, as in a Source.

    Raises SourceError for names that are none, a remote that isn't configured, a detached HEAD.
    """
    config, ref = git.config(), git.ref()
    if not (ref or branch):
        raise SourceError(
            f"{git.top}: HEAD is detached, so no branch is upstream",
            hint=f"check a branch out: `{git.typed('checkout', 'BRANCH')}`",
        )
    current = ref.removeprefix("refs/heads/")
    own = config.get(f"branch.{current}.remote", "")
    remote = remote or own or "origin"
    remotes = git.say("remote").splitlines()
    if remote not in (*remotes, "."):
        raise SourceError(
            git.masked(f"{git.top}: it has no remote {remote!r}; its remotes: ")
            + (", ".join(remotes) or "none"),
            hint="name a remote that `git remote` lists; an address goes into one of them",
        )
    merge = config.get(f"branch.{current}.merge", "") if remote == own else ""
    wanted = f"refs/heads/{branch}" if branch else merge or ref
    if not branch.isprintable() or git.run("check-ref-format", wanted).code:
        raise SourceError(f"{git.top}: {plain(branch or wanted)!r} is no name of a branch")
    return Upstream(remote, wanted)


def ask(git: Git, there: Upstream, timeout: float) -> str:
    """The branch's commit ID. Raises Unreachable, SourceError if the remote has no such branch."""
    arguments = ("ls-remote", "--quiet", there.remote, there.ref)
    result = git.run(*arguments, timeout=timeout, environ=_environment(git), logged=True)
    if result.code:
        raise _unreachable(git, there, result, timeout)
    for line in result.output.splitlines():
        commit, _, ref = line.partition("\t")
        # A pattern matches the end of a name (git-ls-remote(1)).
        if ref == there.ref and ID.fullmatch(commit):
            return commit
    raise SourceError(
        f"{git.top}: the remote has no branch {there.name}",
        hint=f"`{git.typed('ls-remote', '--heads', there.remote)}` lists those it has",
    )


def fetch(git: Git, there: Upstream, timeout: float, transfer: float) -> str:
    """Fetch the branch, within `transfer` seconds; gives its commit ID. Raises as `ask` does."""
    # The lock is not handed on: a credential helper's daemon would keep it.
    result = git.run(
        "fetch", "--quiet", "--no-tags", "--no-prune", "--no-recurse-submodules",
        there.remote, f"+{there.ref}:{_FETCHED}",
        timeout=transfer, environ={**_environment(git), **_impatience(git)}, logged=True,
    )  # fmt: skip
    if result.timed_out:
        raise Unreachable(
            f"{git.top}: cannot fetch {there.name}: not done within {transfer:g} s",
            hint=f"`{git.typed('fetch', there.remote)}` by hand, or a longer build-timeout",
            detail=git.words(result),
        )
    if result.code:
        # Whose fault? A remote that answers is there.
        ask(git, there, timeout)
        raise SourceError(
            f"{git.top}: cannot fetch {there.name}",
            hint=f"try `{git.typed('fetch', there.remote)}` as the user that rbuild runs as",
            detail=git.words(result),
        )
    new = git.say("rev-parse", "--verify", f"{_FETCHED}^{{commit}}").strip()
    git.run("update-ref", "-d", _FETCHED)
    return new


def _environment(git: Git) -> dict[str, str]:
    """Let ssh not ask, unless somebody has chosen how it is called."""
    chosen = {"GIT_SSH", "GIT_SSH_COMMAND"} & set(os.environ)
    if chosen or git.config().get("core.sshcommand"):
        return {}
    return {"GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ServerAliveInterval=20"}


def _impatience(git: Git) -> dict[str, str]:
    """Let a transfer that stands still for a minute end (git-config(1), http.lowSpeedLimit).

    Unless somebody has chosen how slow it may be.
    """
    if "http.lowspeedlimit" in git.config() or "GIT_HTTP_LOW_SPEED_LIMIT" in os.environ:
        return {}
    return {"GIT_HTTP_LOW_SPEED_LIMIT": "100", "GIT_HTTP_LOW_SPEED_TIME": "60"}


def _unreachable(git: Git, there: Upstream, result: Result, timeout: float) -> Unreachable:
    why = f"no answer within {timeout:g} s" if result.timed_out else "git failed"
    return Unreachable(
        f"{git.top}: cannot ask the remote for {there.name}: {why}",
        hint=f"try `{git.typed('ls-remote', there.remote)}` as the user that rbuild runs as; "
        "git must get in without asking: a key without passphrase, or a credential helper",
        detail=git.words(result),
    )
