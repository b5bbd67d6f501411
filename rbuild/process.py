"""Commands with a deadline, each in a process group of its own, ended cleanly on a signal."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType

from rbuild.errors import EngineError, Interrupted

# Compose cancels a build within a second of TERM; a container it waits for may take its
# stop timeout, 10 s by default.
GRACE = 15.0
# A daemonised grandchild may hold the pipe open for ever.
DRAIN = 1.0
TAIL_LINES = 40
# Bytes of one line that are kept: what has no line ends must not fill the memory, or a report.
LONGEST_LINE = 2000


class Stop:
    """A person's or the system's wish that this run ends: it reaches every running command."""

    def __init__(self) -> None:
        self.signum = 0
        self.since = 0.0
        self._groups: set[int] = set()

    def install(self) -> None:
        """Take over SIGINT, SIGTERM and SIGHUP. To be called in the main thread.

        One that is ignored stays so: `nohup` means it.
        """
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(signum) != signal.SIG_IGN:
                signal.signal(signum, self.request)

    def request(self, signum: int, frame: FrameType | None = None) -> None:
        """Ask for the end, as a signal handler does. Further signals change nothing."""
        if self.signum:
            return
        self.signum, self.since = signum, time.monotonic()
        for group in list(self._groups):
            signal_group(group, signal.SIGTERM)

    def check(self) -> None:
        """Raise Interrupted if the end was asked for."""
        if self.signum:
            raise Interrupted(self.signum)

    def watch(self, group: int) -> None:
        """Let a running process group know when the end is asked for."""
        self._groups.add(group)
        if self.signum:
            signal_group(group, signal.SIGTERM)

    def forget(self, group: int) -> None:
        """The group has ended."""
        self._groups.discard(group)


class Log:
    """The file that keeps an update's whole output, and somebody who may watch it grow.

    A write that fails (a full disk) loses log lines, never the command that wrote them.
    """

    def __init__(self, path: str = "", watch: Callable[[str], None] | None = None) -> None:
        self.path = path
        self._watch = watch
        self._file: int | None = None

    def line(self, text: str) -> None:
        """Add a line of our own, which nobody watches for."""
        self._append(f"{text}\n".encode())

    def write(self, data: bytes) -> None:
        """Add output as it came."""
        if self._watch and (text := data.decode(errors="replace").strip()):
            self._watch(text.splitlines()[-1])
        self._append(data)

    def _append(self, data: bytes) -> None:
        if not self.path:
            return
        try:
            if self._file is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                self._file = os.open(self.path, flags, 0o600)
            os.write(self._file, data)
        except OSError:
            return

    def close(self) -> None:
        """Nothing more comes."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended. `output` is its stdout if captured, `tail` its last lines."""

    code: int
    output: str
    tail: str
    timed_out: bool


def signal_group(group: int, signum: int) -> None:
    """Send a signal to a process group that may be gone."""
    try:
        os.killpg(group, signum)
    except (ProcessLookupError, PermissionError):
        return


def run(
    argv: Sequence[str],
    *,
    stop: Stop,
    timeout: float,
    log: Log | None = None,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Result:
    """Run a command to its end, its deadline (`timeout`, in seconds) or a signal.

    With a log, both streams go there as they come; without, stdout is captured and stderr
    makes the tail. A command that overstays is ended with TERM, then KILL, its whole group.
    Raises Interrupted, EngineError if the command can't be started.
    """
    stop.check()
    if log:
        log.line(f"$ {' '.join(argv)}")
    try:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if log else subprocess.PIPE,
            cwd=cwd,
            env=env,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
    except OSError as error:
        raise EngineError(f"{argv[0]}: {error.strerror}") from None
    stop.watch(child.pid)
    try:
        captured, tail, timed_out = _attend(child, stop, time.monotonic() + timeout, log)
    except BaseException:
        # What is wrong with us must not leave it at work on its own.
        _end(child)
        raise
    finally:
        stop.forget(child.pid)
        for stream in (child.stdout, child.stderr):
            if stream:
                stream.close()
    stop.check()
    return Result(child.returncode, captured.decode(errors="replace"), tail, timed_out)


class _Tail:
    """The last lines of an output; of a long one, its beginning and its end."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque(maxlen=TAIL_LINES)
        self._line = b""
        self._left_out = 0

    def add(self, data: bytes) -> None:
        """More output."""
        first, *others = data.split(b"\n")
        self._lengthen(first)
        for other in others:
            self._lines.append(self._whole())
            self._line, self._left_out = b"", 0
            self._lengthen(other)

    def text(self) -> str:
        """All of it, a last line without an end included."""
        lines = [*self._lines, *([self._whole()] if self._line else [])][-TAIL_LINES:]
        return "\n".join(line.decode(errors="replace").rstrip("\r") for line in lines)

    def _lengthen(self, data: bytes) -> None:
        line = self._line + data
        half = LONGEST_LINE // 2
        if len(line) > LONGEST_LINE:
            self._left_out += len(line) - LONGEST_LINE
            line = line[:half] + line[-half:]
        self._line = line

    def _whole(self) -> bytes:
        if not self._left_out:
            return self._line
        half = LONGEST_LINE // 2
        told = f" … ({self._left_out} bytes left out) … ".encode()
        return self._line[:half] + told + self._line[half:]


def _attend(
    child: subprocess.Popen[bytes], stop: Stop, deadline: float, log: Log | None
) -> tuple[bytes, str, bool]:
    """Read what the child writes until it is gone; end it when its time is up."""
    assert child.stdout
    captured = bytearray()
    tail = _Tail()
    streams = {one.fileno(): one for one in (child.stdout, child.stderr) if one}
    poll = select.poll()
    for descriptor in streams:
        poll.register(descriptor, select.POLLIN)
    quoted = child.stderr.fileno() if child.stderr else child.stdout.fileno()
    asked_at = gone_at = 0.0
    while streams:
        # A tenth of a second only bounds how late a deadline is noticed; output and the
        # usual end (end of file) wake us at once.
        for descriptor, _ in poll.poll(100):
            data = os.read(descriptor, 1 << 16)
            if not data:
                poll.unregister(descriptor)
                del streams[descriptor]
                continue
            if log:
                log.write(data)
            elif descriptor == child.stdout.fileno():
                captured += data
            if descriptor == quoted:
                tail.add(data)
        now = time.monotonic()
        if child.poll() is not None:
            gone_at = gone_at or now
            if now - gone_at > DRAIN:
                break
        elif now > deadline and not asked_at:
            asked_at = now
            signal_group(child.pid, signal.SIGTERM)
        elif now - (asked_at or stop.since or now) > GRACE:
            signal_group(child.pid, signal.SIGKILL)
    asked_at = _reap(child, stop, deadline, asked_at)
    if asked_at or stop.signum:
        # Whatever of the group outlived its leader.
        signal_group(child.pid, signal.SIGKILL)
    return bytes(captured), tail.text(), bool(asked_at)


def _end(child: subprocess.Popen[bytes]) -> None:
    signal_group(child.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        child.wait(timeout=GRACE)
    signal_group(child.pid, signal.SIGKILL)
    child.wait()


def _reap(child: subprocess.Popen[bytes], stop: Stop, deadline: float, asked_at: float) -> float:
    """Wait for a child that has closed its output; gives when it was asked to end, 0 for never."""
    while True:
        try:
            child.wait(timeout=0.5)
            return asked_at
        except subprocess.TimeoutExpired:
            now = time.monotonic()
            if now > deadline and not asked_at:
                asked_at = now
                signal_group(child.pid, signal.SIGTERM)
            elif now - (asked_at or stop.since or now) > GRACE:
                signal_group(child.pid, signal.SIGKILL)
