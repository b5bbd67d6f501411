"""The shipped schedules on a simulated clock: sixty days, sixty updates.

The schedule, the random delay and the build period are read from the shipped files; whether a
run updates is what `staleness.decide` says.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbuild.cli import main
from rbuild.decisions.staleness import decide
from rbuild.settings import defaults_from_environment, from_environment, resolve
from rbuild.state.record import Record, stamp

CONTRIB = Path(__file__).parents[2] / "contrib"
START = datetime(2026, 6, 1, tzinfo=UTC)
DAYS = 60
DAY, HOUR, MINUTE = 86400, 3600, 60
TIMERS = ("rbuild", "rbuild@")
# Hypothesis would draw each of thousands of numbers by itself.
RANDOMS = st.integers(0, 2**32).map(Random)


def simulate(
    starts: Sequence[float], period: int, random: Random, longest: float = 25 * MINUTE
) -> list[float]:
    """When the runs that update a project start, of runs that start then (epoch seconds).

    An update takes a minute to `longest`; a run that starts meanwhile finds the lock held.
    """
    record = None
    updates: list[float] = []
    busy_until = 0.0
    for now in sorted(starts):
        decision = decide(record, (), build_period=period, forced=False, now=now)
        if decision.stale and now >= busy_until:
            updates.append(now)
            busy_until = now + random.uniform(MINUTE, longest)
            record = Record("site", "/srv/site", built=stamp(now))
    return updates


def period_of(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """The build period of a command line that has rbuild somewhere, with that environment."""
    context = main.make_context("rbuild", list(words[words.index("rbuild") + 1 :]))
    flag = context.params["build_period"]
    flags = {"build-period": flag} if flag else {}
    return resolve(
        flags, from_environment(environ), defaults_from_environment(environ)
    ).build_period


# ---------------------------------------------------------------- cron


def crontab() -> tuple[list[str], list[str], dict[str, str]]:
    """The fields, the command's words and the variables of the shipped crontab's one job."""
    variables, jobs = {}, []
    for line in (CONTRIB / "cron" / "rbuild").read_text().splitlines():
        if re.match(r"[A-Z]+=", line):
            name, _, value = line.partition("=")
            variables[name] = value
        elif line and not line.startswith("#"):
            jobs.append(line.split(None, 6))
    (job,) = jobs
    assert job[5] == "root"
    return job[:5], shlex.split(job[6]), variables


def matches(field: str, value: int, least: int) -> bool:
    """Whether a crontab field holds for a value (crontab(5))."""
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        begin = least if span == "*" else int(first)
        end = int(last) if last else (99 if span == "*" or step else begin)
        if begin <= value <= end and (value - begin) % int(step or 1) == 0:
            return True
    return False


def ticks(fields: Sequence[str]) -> Iterator[float]:
    """Every minute of the sixty days for which a crontab line holds."""
    for number in range(DAYS * 24 * 60):
        when = START + timedelta(minutes=number)
        values = (when.minute, when.hour, when.day, when.month, when.isoweekday() % 7)
        if all(map(matches, fields, values, (0, 0, 1, 1, 0))):
            yield when.timestamp()


CRON_FIELDS, CRON_WORDS, CRON_VARIABLES = crontab()
CRON_TICKS = list(ticks(CRON_FIELDS))


def cron_updates(random: Random, jitter: float, offset: int = 0) -> list[float]:
    """The updates by cron, which starts a job up to `jitter` seconds late."""
    starts = [tick + random.uniform(0, jitter) for tick in CRON_TICKS[offset:]]
    return simulate(starts, period_of(CRON_WORDS, CRON_VARIABLES), random)


def test_cron_looks_every_half_hour() -> None:
    assert len(CRON_TICKS) == DAYS * 48
    assert {b - a for a, b in pairwise(CRON_TICKS)} == {HOUR / 2}


def test_cron_has_the_path_and_home_that_cron_lacks() -> None:
    assert {"/usr/local/bin", "/root/.local/bin", "/usr/sbin"} <= {
        *CRON_VARIABLES["PATH"].split(":")
    }
    assert CRON_VARIABLES["HOME"] == "/root"


def test_sixty_days_of_cron() -> None:
    updates = cron_updates(Random(1), jitter=5)
    assert len(updates) == DAYS
    assert len({at // HOUR % 24 for at in updates}) == 1


@given(RANDOMS, st.floats(0, 55), st.integers(0, 47))
def test_any_sixty_days_of_cron(random: Random, jitter: float, offset: int) -> None:
    updates = cron_updates(random, jitter, offset)
    assert len(updates) == DAYS
    assert {at % DAY // (HOUR / 2) for at in updates} == {offset}


# ---------------------------------------------------------------- systemd


def systemd_analyze(*arguments: str) -> str:
    """What systemd-analyze makes of a calendar event or time span."""
    tool = shutil.which("systemd-analyze")
    assert tool, "this test needs systemd-analyze on PATH; tests/run sets it up"
    env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    return subprocess.run(
        [tool, *arguments], capture_output=True, text=True, check=True, env=env
    ).stdout


def settings(unit: str) -> list[tuple[str, str]]:
    """Keys and values of a unit (systemd.syntax(7)); none here goes on over a line's end."""
    text = (CONTRIB / "systemd" / unit).read_text()
    found = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return [(name, value) for name, equals, value in found if equals]


def seconds(span: str) -> float:
    """A time span of systemd's."""
    found = re.search(r"(?:μs|us): (\d+)", systemd_analyze("timespan", span))
    assert found
    return int(found[1]) / 1e6


class Timer:
    """What a shipped timer and its service say."""

    def __init__(self, name: str) -> None:
        timer = dict(settings(f"{name}.timer"))
        base = f"--base-time={START:%Y-%m-%d %H:%M:%S} UTC"
        said = systemd_analyze("calendar", base, f"--iterations={DAYS}", timer["OnCalendar"])
        self.elapses = [
            datetime.strptime(one, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp()
            for one in re.findall(r"(?:elapse|Iter\S+ \S+|Iteration #\d+): \w+ (\S+ \S+) UTC", said)
        ]
        self.delay = seconds(timer["RandomizedDelaySec"])
        self.accuracy = seconds(timer["AccuracySec"])
        self.fixed = timer.get("FixedRandomDelay") == "true"
        service = settings(f"{name}.service")
        environ = dict(
            value.split("=", 1) for key, value in service if key == "Environment"
        )  # fmt: skip
        self.period = period_of(dict(service)["ExecStart"].split(), environ)

    def updates(self, random: Random, period: int, *, fixed: bool) -> list[float]:
        """The updates of a machine; `fixed`: its delay is the same every night.

        The timer fires up to its accuracy later, and rbuild starts some seconds after that.
        """
        own = random.uniform(0, self.delay)
        starts = []
        for elapse in self.elapses:
            delay = own if fixed else random.uniform(0, self.delay)
            late = random.uniform(0, self.accuracy) + random.uniform(0, 5)
            starts.append(elapse + delay + late)
        return simulate(starts, period, random, longest=3 * HOUR)


@pytest.fixture(scope="module", params=TIMERS)
def timer(request: pytest.FixtureRequest) -> Timer:
    """Each shipped timer."""
    return Timer(request.param)


def test_the_timer_elapses_every_night(timer: Timer) -> None:
    assert len(timer.elapses) == DAYS
    assert {one % DAY for one in timer.elapses} == {3 * HOUR}
    assert timer.delay >= MINUTE
    assert timer.delay < DAY - timer.period


def test_sixty_days_of_the_timer(timer: Timer) -> None:
    assert len(timer.updates(Random(1), timer.period, fixed=timer.fixed)) == DAYS


@given(RANDOMS, st.booleans())
def test_any_sixty_days_of_the_timer(timer: Timer, random: Random, fixed: bool) -> None:
    # Also with a delay of its own every night, which a drop-in may ask for.
    assert len(timer.updates(random, timer.period, fixed=fixed)) == DAYS


def test_a_period_of_a_day_would_miss_nights(timer: Timer) -> None:
    assert len(timer.updates(Random(1), DAY, fixed=False)) < DAYS


@given(RANDOMS)
def test_a_period_of_a_week_keeps_to_its_night(timer: Timer, random: Random) -> None:
    assert timer.fixed
    updates = timer.updates(random, 7 * DAY, fixed=timer.fixed)
    assert len(updates) == -(-DAYS // 7)
    assert len({datetime.fromtimestamp(at, UTC).weekday() for at in updates}) == 1
