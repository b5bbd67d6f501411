"""Hooks: commands of a project's own, run before and after an update and when one fails."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from rbuild import process
from rbuild.errors import Deferred, EngineError, HookError
from rbuild.process import Log, Stop
from rbuild.state.lock import HOOK_OF
from rbuild.text import visible

DEFER = 75
"""The exit code by which `before-update` puts an update off (sysexits.h: EX_TEMPFAIL)."""
_DETAIL_LINES = 15
# Of a text in the environment; the kernel takes 128 KiB.
_LONGEST = 8000


def variables(
    name: str,
    *,
    project: str,
    folder: str,
    home: str,
    reasons: Iterable[str],
    generation: str = "",
    outcome: str = "",
    error: str = "",
    log: str = "",
    environ: Mapping[str, str],
) -> dict[str, str]:
    """What a hook finds in its environment beside ours.

    `project` is Compose's name for it, `folder` where it is as it was spelled, `home` the same
    with links resolved; `reasons` are kinds (`expired`); `generation` is the kept one, `outcome`
    and `error` what came of the update, empty before it. `environ` is our own environment, which
    tells whether we are in a hook ourselves.
    """
    above = environ.get(HOOK_OF, "").splitlines()
    found = {
        "RBUILD_HOOK": name,
        "RBUILD_PROJECT": project,
        "RBUILD_PROJECT_FOLDER": folder,
        "RBUILD_REASONS": ",".join(dict.fromkeys(reasons)),
        "RBUILD_GENERATION": generation,
        "RBUILD_OUTCOME": outcome,
        # Mostly on its way into a mail.
        "RBUILD_ERROR": visible(error, _LONGEST),
        "RBUILD_LOG": log,
        HOOK_OF: "\n".join(dict.fromkeys((*above, home))),
    }
    return {key: text.replace("\0", "") for key, text in found.items()}


def run(
    name: str,
    command: Sequence[str],
    *,
    environ: Mapping[str, str],
    folder: str,
    stop: Stop,
    timeout: float,
    log: Log,
    hold: Sequence[int],
) -> None:
    """Run a hook to its end, in `folder`, its output to the log.

    `environ` is what `variables` gave, `timeout` is in seconds, `hold` are descriptors of locks
    that it inherits. Raises HookError, Deferred where `before-update` asks for that, Interrupted.
    """
    hint = f"its whole output is in {log.path}" if log.path else ""
    try:
        result = process.run(
            command,
            stop=stop,
            timeout=timeout,
            log=log,
            cwd=folder,
            env={**os.environ, **environ},
            pass_fds=hold,
        )
    except EngineError as error:
        raise HookError(
            f"the hook {name} cannot be started: {error.message}",
            hint="a list is a program and its arguments; a text is run by /bin/sh",
        ) from None
    detail = "\n".join(result.tail.strip().splitlines()[-_DETAIL_LINES:])
    if result.timed_out:
        raise HookError(
            f"the hook {name} took longer than {timeout:g} s",
            hint="hook-timeout sets how long it may take" + (f"; {hint}" if hint else ""),
            detail=detail,
        )
    if result.code == DEFER and name == "before-update":
        raise Deferred(f"the hook {name} puts the update off (exit code {DEFER})", detail=detail)
    if result.code:
        how = (
            f"was ended by signal {-result.code}"
            if result.code < 0
            else f"failed with exit code {result.code}"
        )
        raise HookError(f"the hook {name} {how}", hint=hint, detail=detail)
