"""Works through the projects that need a closer look, some of them at a time."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Protocol

from rbuild.engine import Engine
from rbuild.errors import InternalError
from rbuild.glance import Run
from rbuild.process import Log, Stop
from rbuild.project import Project
from rbuild.record import stamp, write_private
from rbuild.refresh import refresh
from rbuild.report import Outcome
from rbuild.scene import Means

Task = Callable[[Project, Run, Means], Outcome | None]


class Listener(Protocol):
    """Whoever tells a person."""

    def add(self, one: Outcome) -> None:
        """A project has come to its end."""

    def tell(self, name: str, text: str, step: bool) -> None:
        """A project makes progress."""


def work(
    projects: Sequence[Project],
    run: Run,
    listener: Listener,
    *,
    jobs: int,
    task: Task = refresh,
    lock_wait: float = 0.0,
) -> None:
    """Do a task on each project, `jobs` at a time, whatever comes of any of them.

    `lock_wait`: seconds to wait for a project's lock.

    Projects in one folder share its lock, so they are worked one after another.
    """
    stop = Stop()
    stop.install()
    guard = threading.Lock()
    claimed: set[str] = set()

    def claim(folder: str) -> bool:
        with guard:
            new = folder not in claimed
            claimed.add(folder)
            return new

    def tell(name: str, text: str, step: bool) -> None:
        with guard:
            listener.tell(name, text, step)

    def together(group: Sequence[Project]) -> None:
        for project in group:
            if stop.signum and claimed:
                return
            means = Means(connect, stop, claim, tell, lock_wait)
            outcome = _guarded(task, project, run, means)
            if outcome:
                with guard:
                    listener.add(outcome)

    groups: dict[str, list[Project]] = {}
    for project in projects:
        groups.setdefault(project.home, []).append(project)
    with ThreadPoolExecutor(max_workers=min(jobs, len(groups))) as pool:
        working = [pool.submit(together, group) for group in groups.values()]
        # A signal may reach a worker's thread while it starts a command (it blocks signals for
        # that); then nothing wakes this one, the only one that runs Python's handlers.
        while wait(working, timeout=0.2).not_done:
            pass
        for done in working:
            done.result()


def connect(stop: Stop, log: Log | None, held: Sequence[int]) -> Engine:
    """The engine that the environment points at."""
    from rbuild.whales import Whales

    return Whales(stop, log, held)


def _guarded(task: Task, project: Project, run: Run, means: Means) -> Outcome | None:
    """One project's outcome, even where rbuild itself is wrong."""
    try:
        return task(project, run, means)
    except Exception:
        when = stamp(run.started).replace(":", "")
        path = os.path.join(run.store.root, f"crash-{when}-{os.path.basename(project.home)}.txt")
        trace = traceback.format_exc()
        try:
            write_private(path, trace)
            where = f"the details are in {path}"
        except Exception:
            where = trace.splitlines()[-1]
        error = InternalError("an error in rbuild itself", hint=f"please report it; {where}")
        return Outcome(project.path, project.path, "failed", started=run.started,
                       error=error)  # fmt: skip
