"""What can go wrong, each with the exit code it leads to and what a person can do about it."""

from __future__ import annotations


class RbuildError(Exception):
    """Base of every error that rbuild reports to a person.

    `message` says what is wrong and where; `hint` says what to do (may be empty);
    `detail` holds lines quoted from elsewhere (a build's last output, Compose's complaint).
    `exit_code` is the process's exit code when this error decides it.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail = detail


class UsageError(RbuildError):
    """The command line, environment or configuration file is wrong: no project was worked."""

    exit_code = 2


class ProjectError(RbuildError):
    """One project's files or settings are wrong; nothing of it was touched."""


class InputError(ProjectError):
    """A file that a project consists of cannot be read or understood."""


class StateError(RbuildError):
    """The state folder or a record in it cannot be read or written."""


class EngineError(RbuildError):
    """Docker, Compose or the engine is missing, too old, unreachable, or refused a command."""


class BuildError(EngineError):
    """A build failed; what ran before still runs."""


class PullError(EngineError):
    """An image could not be pulled; what ran before still runs.

    `answer` is what that says of the image: `absent` (its registry doesn't have it), `denied`
    (doesn't have it, or not for us), `silent` (no registry could be reached), else empty.
    """

    def __init__(self, message: str, *, hint: str = "", detail: str = "", answer: str = "") -> None:
        super().__init__(message, hint=hint, detail=detail)
        self.answer = answer


class PushError(EngineError):
    """An image could not be pushed."""


class AbsentError(EngineError):
    """Something of somebody else's that services need is not there; nothing was touched."""

    def __init__(
        self, message: str, *, hint: str = "", detail: str = "", things: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message, hint=hint, detail=detail)
        self.things = things
        """What it is, as `Engine.absent` takes it."""


class UpError(EngineError):
    """`up` failed or did not end in time; containers may have been touched."""

    def __init__(
        self, message: str, *, hint: str = "", detail: str = "", timed_out: bool = False
    ) -> None:
        super().__init__(message, hint=hint, detail=detail)
        self.timed_out = timed_out


class GateError(RbuildError):
    """Services came up and were not judged healthy."""


class RolledBack(RbuildError):
    """An update failed, and what ran before runs again."""

    exit_code = 3


class NeedsPerson(RbuildError):
    """An update failed, and what ran before could not be brought back."""

    exit_code = 4


class HookError(RbuildError):
    """A hook failed, took too long or could not be started."""


class SpaceError(RbuildError):
    """Too little space where the engine stores images; nothing was touched."""


class Deferred(RbuildError):
    """Not now, and no failure: said on a terminal, silent elsewhere."""

    exit_code = 75


class Busy(Deferred):
    """Another run holds the project's lock."""


class Interrupted(RbuildError):
    """A signal asked us to stop; `signum` is that signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"interrupted by signal {signum}")
        self.signum = signum
        self.exit_code = 128 + signum


class CutOff(RbuildError):
    """An earlier run was cut off: killed, or its engine went away."""


class InternalError(RbuildError):
    """rbuild itself is wrong."""
