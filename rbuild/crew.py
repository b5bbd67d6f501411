"""Works through the projects that need a closer look, some of them at a time."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Protocol

from rbuild import told
from rbuild.compose.loading import load
from rbuild.compose.project import Project
from rbuild.decisions import sequence
from rbuild.decisions.glance import Run
from rbuild.decisions.lookout import Lookout
from rbuild.docker.engine import Engine
from rbuild.errors import InternalError, ProjectError
from rbuild.process import Log, Stop
from rbuild.refresh import refresh
from rbuild.report import Outcome
from rbuild.state.record import stamp, write_private
from rbuild.updates.scene import Means

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
    in_order: bool = True,
    stop: Stop | None = None,
    lookout: Lookout | None = None,
) -> None:
    """Do a task on each project, `jobs` at a time, whatever comes of any of them.

    `lock_wait`: seconds to wait for a project's lock. `stop` is in place already, where it is
    given.

    Projects in one folder share its lock, so they are worked one after another. Who builds an
    image is worked before who rests on it, and those that build upon each other in a circle are
    not, if it is to be done `in_order`.
    """
    if stop is None:
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
        # A terminal that has gone away must not break off an update, let alone its way back.
        with guard, suppress(OSError, ValueError):
            listener.tell(name, text, step)

    def one(project: Project) -> None:
        if stop.signum and claimed:
            return
        means = Means(connect, stop, claim, tell, lock_wait, lookout)
        outcome = _guarded(task, project, run, means)
        if outcome and lookout and outcome.outcome != "fresh":
            lookout.forget_makers()
        if outcome:
            with guard:
                listener.add(outcome)

    todo = list(projects)
    waits: dict[str, list[str]] = {one.spelling: [] for one in projects}
    if in_order:
        todo, waits = _in_order(projects, run, stop, listener)
    if not todo:
        return
    working: dict[Future[None], Project] = {}
    over: list[Future[None]] = []
    with ThreadPoolExecutor(max_workers=min(jobs, len(todo))) as pool:
        while todo or working:
            while len(working) < jobs and (chosen := _next(todo, waits, [*working.values()])):
                todo.remove(chosen)
                working[pool.submit(one, chosen)] = chosen
            # A signal may reach a worker's thread while it starts a command (it blocks signals for
            # that); then nothing wakes this one, the only one that runs Python's handlers.
            for done in wait(working, timeout=0.2, return_when=FIRST_COMPLETED).done:
                del working[done]
                over.append(done)
    # Nobody to listen, or a full disk, is no reason to leave the others unworked.
    for done in over:
        done.result()


def _next(
    todo: Sequence[Project], waits: Mapping[str, Sequence[str]], working: Sequence[Project]
) -> Project | None:
    """The first project that can be worked now, if there is one.

    Not one that waits for another that isn't done, or in whose folder another is worked.
    """
    busy = {one.home for one in working}
    undone = {one.spelling for one in [*todo, *working]}
    for one in todo:
        if one.home not in busy and not undone.intersection(waits[one.spelling]):
            return one
    return None


def _in_order(
    projects: Sequence[Project], run: Run, stop: Stop, listener: Listener
) -> tuple[list[Project], dict[str, list[str]]]:
    """The projects in the order in which they are worked, and for whom each waits.

    Those of a circle are reported, and left out.
    """
    nodes = sequence.nodes(
        projects, run, lambda one: load(one, connect(stop, None, ()), run.store, run.environ)
    )
    order, circles, waits = sequence.order(nodes)
    by_spelling = {project.spelling: project for project in projects}
    for circle in circles:
        names = " → ".join(nodes[key].name for key in [*circle, circle[0]])
        for key in circle:
            if key in by_spelling:
                error = ProjectError(
                    f"projects build upon each other's images in a circle: {names}",
                    hint="look at the FROM lines of their Dockerfiles",
                )
                project = by_spelling[key]
                subject = told.of_unread(project, run)
                listener.add(told.outcome(subject, nodes[key].name, project.path, run, error))
                del by_spelling[key]
    waited = {key: [one for one in waits.get(key, ()) if one in by_spelling] for key in by_spelling}
    return [by_spelling[key] for key in order if key in by_spelling], waited


def connect(stop: Stop, log: Log | None, held: Sequence[int]) -> Engine:
    """The engine that the environment points at."""
    from rbuild.docker.whales import Whales

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
