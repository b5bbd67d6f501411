"""Commands under a deadline: real processes, ended with all that they started."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rbuild import process
from rbuild.errors import EngineError, Interrupted
from rbuild.process import Log, Result, Stop, run


def sh(script: str, *arguments: str, timeout: float = 20, stop: Stop | None = None,
       log: Log | None = None, **more: Any) -> Result:  # fmt: skip
    argv = ["/bin/sh", "-c", script, "sh", *arguments]
    return run(argv, stop=stop or Stop(), timeout=timeout, log=log, **more)


def wait_until(condition: Callable[[], object]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("in vain")


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def pids(path: Path, count: int) -> list[int]:
    """What a script wrote of its processes, once they are all there."""
    wait_until(lambda: path.exists() and len(path.read_text().split()) == count)
    return [int(one) for one in path.read_text().split()]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that don't listen are killed at once."""
    monkeypatch.setattr(process, "GRACE", 0.3)


# Output and exit codes


def test_captured_output_and_the_tail_of_errors() -> None:
    found = sh("echo out; echo err >&2; echo more; exit 3")
    assert found == Result(3, "out\nmore\n", "err", timed_out=False)


def test_a_signal_s_code() -> None:
    assert sh("kill -KILL $$").code == -9


def test_the_tail_has_the_last_lines_and_an_unended_one() -> None:
    found = sh("seq 1 1000 >&2; printf last >&2")
    assert found.tail.splitlines() == [*map(str, range(962, 1001)), "last"]


def test_a_line_without_end_keeps_its_ends() -> None:
    script = "printf begin; head -c 3000000 /dev/zero | tr '\\0' x; echo end; echo last"
    tail = sh(f"{{ {script}; }} >&2").tail
    line, last = tail.splitlines()
    assert (line[:6], line[-4:], last) == ("beginx", "xend", "last")
    assert f" … ({3_000_008 - process.LONGEST_LINE} bytes left out) … " in line
    assert len(line) < process.LONGEST_LINE + 50


def test_much_output_on_both_streams() -> None:
    found = sh("head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2")
    assert len(found.output) == 3_000_000


def test_output_that_is_no_text() -> None:
    found = sh(r"printf '\377x'; printf 'a\r\n\377\n' >&2")
    assert (found.output, found.tail) == ("�x", "a\n�")


def test_a_log_takes_both_streams_in_order(tmp_path: Path) -> None:
    seen: list[str] = []
    log = Log(str(tmp_path / "log"), seen.append)
    log.line("begin")
    found = sh("echo out; echo err >&2; exit 1", log=log)
    log.close()
    begin, command, *rest = (tmp_path / "log").read_text().splitlines()
    assert (begin, rest) == ("begin", ["out", "err"])
    assert command.startswith("$ /bin/sh -c")
    assert (found.output, found.tail) == ("", "out\nerr")
    assert seen[-1] == "err"
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("place", ["/dev/full", "{}/no/such/folder/log", "{}"])
def test_a_log_that_cannot_be_written_fails_no_command(tmp_path: Path, place: str) -> None:
    log = Log(place.format(tmp_path))
    found = sh("seq 1 10000; echo done", log=log)
    log.close()
    assert (found.code, found.tail.splitlines()[-1]) == (0, "done")


def test_a_watcher_that_fails_leaves_no_command_behind(tmp_path: Path) -> None:
    def watch(line: str) -> None:
        raise ValueError(line)

    pid = tmp_path / "pid"
    with pytest.raises(ValueError, match="hello"):
        sh(f"echo $$ > {pid}; echo hello; exec sleep 1000", log=Log("", watch))
    assert not Path("/proc", pid.read_text().strip()).exists()


def test_a_command_that_is_not_there() -> None:
    with pytest.raises(EngineError, match="no-such-command: No such file"):
        run(["/no-such-command"], stop=Stop(), timeout=5)


def test_the_command_s_world(tmp_path: Path) -> None:
    read, write = os.pipe()
    script = f'pwd; echo "$X"; cat; echo handed on > /dev/fd/{write}'
    found = sh(script, cwd=str(tmp_path), env={"X": "1", "PATH": os.environ["PATH"]},
               pass_fds=[write])  # fmt: skip
    # cat ends: there is nothing on standard input.
    assert found.output == f"{tmp_path}\n1\n"
    assert os.read(read, 100) == b"handed on\n"
    os.close(read)
    os.close(write)


def test_no_other_descriptor_is_handed_on() -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    assert sh(f"echo leak > /dev/fd/{write}").code
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)


# Deadlines

FAMILY = 'echo $$ > "$1.new"; sleep 60 & echo $! >> "$1.new"; mv "$1.new" "$1"; wait'


def test_a_deadline_ends_the_whole_family(tmp_path: Path) -> None:
    begun = time.monotonic()
    found = sh(FAMILY, str(tmp_path / "pids"), timeout=0.3)
    assert found.timed_out
    assert found.code == -signal.SIGTERM
    assert time.monotonic() - begun < 5
    for pid in pids(tmp_path / "pids", 2):
        wait_until(lambda pid=pid: not alive(pid))


def test_a_command_may_clean_up_when_its_time_is_up(tmp_path: Path) -> None:
    script = 'trap "echo cleaned up; exit 7" TERM; while :; do sleep 0.05; done'
    found = sh(script, timeout=0.3)
    assert (found.timed_out, found.code, found.output) == (True, 7, "cleaned up\n")


@pytest.mark.usefixtures("soon")
def test_a_command_that_ignores_the_request_is_killed() -> None:
    found = sh('trap "" TERM; while :; do sleep 0.05; done', timeout=0.2)
    assert found.timed_out
    assert found.code == -signal.SIGKILL


@pytest.mark.usefixtures("soon")
def test_a_grandchild_that_ignores_the_request_is_killed(tmp_path: Path) -> None:
    script = 'sh -c \'trap "" TERM; echo $$ > "$0"; while :; do sleep 0.05; done\' "$1" & wait'
    found = sh(script, str(tmp_path / "pids"), timeout=0.5)
    assert found.timed_out
    (pid,) = pids(tmp_path / "pids", 1)
    wait_until(lambda: not alive(pid))


@pytest.mark.usefixtures("soon")
def test_a_command_that_has_closed_its_output_still_has_a_deadline() -> None:
    begun = time.monotonic()
    found = sh("exec >&- 2>&-; exec sleep 60", timeout=0.2)
    assert found.code
    assert found.timed_out
    assert time.monotonic() - begun < 10


def test_a_command_that_has_closed_its_output_is_waited_for(tmp_path: Path) -> None:
    done = tmp_path / "done"
    found = sh('exec >&- 2>&-; sleep 0.7; echo x > "$1"; exit 4', str(done))
    assert (found.code, found.timed_out, done.exists()) == (4, False, True)


DAEMON = """
import os, sys, time
if os.fork():
    os._exit(0)
os.setsid()
with open(sys.argv[1], "w") as file:
    file.write(str(os.getpid()))
time.sleep(60)
"""


def test_a_daemon_that_holds_the_output_does_not_hold_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "DRAIN", 0.2)
    begun = time.monotonic()
    argv = [sys.executable, "-c", DAEMON, str(tmp_path / "pids")]
    found = run(argv, stop=Stop(), timeout=30)
    assert (found.code, found.timed_out) == (0, False)
    assert time.monotonic() - begun < 10
    (pid,) = pids(tmp_path / "pids", 1)
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)


def test_output_written_just_before_the_end_is_not_lost() -> None:
    for _ in range(20):
        assert sh("echo $(seq 1 100)").output.endswith(" 100\n")


# The wish to stop


def interrupted(script: str, arguments: Sequence[str], ready: Path, stop: Stop, count: int) -> int:
    """Runs a script, asks for the end when it is ready; the signal that Interrupted names."""

    def ask() -> None:
        pids(ready, count)
        stop.request(signal.SIGTERM)

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        with pytest.raises(Interrupted) as caught:
            sh(script, *arguments, stop=stop)
    finally:
        asker.join()
    return caught.value.signum


def test_a_stop_ends_the_whole_family(tmp_path: Path) -> None:
    ready = tmp_path / "pids"
    stop = Stop()
    assert interrupted(FAMILY, [str(ready)], ready, stop, 2) == signal.SIGTERM
    for pid in pids(ready, 2):
        wait_until(lambda pid=pid: not alive(pid))
    with pytest.raises(Interrupted):
        stop.check()


@pytest.mark.usefixtures("soon")
def test_a_stop_kills_what_does_not_listen(tmp_path: Path) -> None:
    ready = tmp_path / "pids"
    script = 'trap "" TERM; echo $$ > "$1"; while :; do sleep 0.05; done'
    assert interrupted(script, [str(ready)], ready, Stop(), 1) == signal.SIGTERM
    (pid,) = pids(ready, 1)
    assert not alive(pid)


def test_nothing_is_started_after_a_stop(tmp_path: Path) -> None:
    stop = Stop()
    stop.request(signal.SIGINT)
    stop.request(signal.SIGTERM)
    with pytest.raises(Interrupted) as caught:
        sh('touch "$1"', str(tmp_path / "started"), stop=stop)
    assert (caught.value.signum, caught.value.exit_code) == (signal.SIGINT, 130)
    assert not (tmp_path / "started").exists()


def test_a_stop_in_the_moment_of_a_start_reaches_the_child() -> None:
    stop = Stop()
    stop.signum = signal.SIGTERM
    stop.check = lambda: None  # type: ignore[method-assign]
    begun = time.monotonic()
    assert sh("sleep 60", stop=stop).code == -signal.SIGTERM
    assert time.monotonic() - begun < 10


SIGNALLED = """
import signal
import sys
from rbuild.errors import Interrupted
from rbuild.process import Stop, run
# Under nohup, or in the background of a shell, the tests have them ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
stop = Stop()
stop.install()
try:
    run(["/bin/sh", "-c", sys.argv[1], "sh", sys.argv[2]], stop=stop, timeout=60)
except Interrupted as error:
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_real_signals(tmp_path: Path, signum: signal.Signals) -> None:
    import subprocess

    ready = tmp_path / "pids"
    argv = [sys.executable, "-c", SIGNALLED, FAMILY, str(ready)]
    with subprocess.Popen(argv, start_new_session=True) as child:
        family = pids(ready, 2)
        child.send_signal(signum)
        assert child.wait(timeout=20) == 128 + signum
    for pid in family:
        wait_until(lambda pid=pid: not alive(pid))
