"""One project in one run: what is known of it, and what a pass over it works with."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rbuild.compose import contexts
from rbuild.compose.contexts import Seen
from rbuild.compose.loading import Loaded
from rbuild.compose.project import Project
from rbuild.decisions.glance import Run
from rbuild.decisions.lookout import GIT, Lookout
from rbuild.decisions.moves import Moves
from rbuild.decisions.staleness import Reason
from rbuild.docker.engine import Engine, EngineInfo
from rbuild.errors import InputError, RbuildError
from rbuild.process import Log, Stop
from rbuild.report import Outcome
from rbuild.settings import Settings
from rbuild.state import logs
from rbuild.state.failure import Waiting
from rbuild.state.record import Record, keyed_digest
from rbuild.updates import hook

Connect = Callable[[Stop, Log | None, Sequence[int]], Engine]


@dataclass(frozen=True, slots=True)
class Means:
    """What a pass works with beside its project."""

    connect: Connect
    """Makes an engine that ends with a Stop, writes to a Log and hands on descriptors."""
    stop: Stop
    claim: Callable[[str], bool]
    """Whether a state folder is still free in this run: a project named twice is worked once."""
    tell: Callable[[str, str, bool], None]
    """Takes a project's name, a line about its progress, and whether that is a step of ours."""
    lock_wait: float = 0.0
    """Seconds to wait for a project's lock."""
    lookout: Lookout | None = None
    """What this run has found out about the world; without one, nobody asks."""


def turn(run: Run) -> float:
    """Now, and not before the run began, should the clock have been set back."""
    return max(run.started, time.time())


@dataclass
class Scene:
    """One project in one run."""

    project: Project
    run: Run
    means: Means
    outcome: Outcome
    name: str
    """Compose's, for the project."""
    folder: str
    """Its state folder."""
    known: Record | None
    settings: Settings
    log: Log
    now: float
    """When its turn came, in epoch seconds: since the run began, another one may have worked it."""
    held: Sequence[int] = ()
    """Descriptors of its lock."""
    loaded: Loaded | None = None
    """None for a project that can't be read any more."""
    changed: Sequence[str] = ()
    due_to_suspects: bool = False
    """Whether files that may be data are the only reason."""
    info: EngineInfo | None = None
    """Once the engine has answered."""
    moves: Moves = field(default_factory=Moves)
    """What has moved under it."""
    commit: str = ""
    """The commit of its checkout, where that is looked at."""
    subject: str = ""
    """What the newest commit of a fast-forward says of itself."""
    forwarded: str = ""
    """The commit that the checkout was fast-forwarded from, until the update is done or undone."""
    restored: bool = False
    """Whether the checkout was put back."""
    begun: bool = False
    """Whether the steps of an update have begun: from then on `undo` knows what to do."""
    blocked: RbuildError | None = None
    """Why its checkout can't be moved, until a person has put it right."""
    held_back: Waiting | None = None
    """Why the checkout is not fast-forwarded, though its upstream is ahead."""
    more: list[Reason] = field(default_factory=list)
    """Why it is due beside what its record and files tell."""
    awake: dict[str, Reason] = field(default_factory=dict)
    """Services that run again since an update has left them on something old."""
    unchecked: dict[str, str] = field(default_factory=dict)
    """What else could not be checked, and why."""
    engine: Engine = field(init=False)
    _contexts: Seen | None = None

    def __post_init__(self) -> None:
        self.engine = self.means.connect(self.means.stop, self.log, self.held)

    def take(self, loaded: Loaded) -> None:
        """The project's files have moved: from here on it is what they say now."""
        self.loaded, self.known, self.changed = loaded, loaded.record, loaded.changed
        self._contexts = None
        self.settings = self.run.settings(loaded.own_settings)

    def remember_data(self, known: Record) -> None:
        """Let a record know, after a try, which files are data, and which may be."""
        assert self.loaded
        known.data = dict(self.loaded.data)
        # What came along with another reason is not held against a file.
        less = 0 if self.due_to_suspects else 1
        known.suspects = {
            name: {**one, "times": one["times"] - less}
            for name, one in self.loaded.suspects.items()
            if one["times"] > less
        }
        self.outcome.news += self.loaded.news

    @property
    def clock_ahead(self) -> float:
        """Seconds that the engine's clock is ahead of ours."""
        return self.info.clock_ahead if self.info else 0.0

    @property
    def docker_config(self) -> str:
        """Where Docker's configuration lies while an update needs logins of the project's own."""
        return os.path.join(self.folder, "docker-config")

    @property
    def contexts(self) -> Seen | None:
        """Its build contexts, where they are looked at. Raises InputError."""
        if self.loaded and self._contexts is None and "context" in self.settings.check:
            services = self.loaded.configuration.services
            self._contexts = contexts.look(
                self.loaded.rendered,
                self.known,
                self.folder,
                self.loaded.key,
                [name for name, one in services.items() if one.missing],
            )
        return self._contexts

    @property
    def inputs(self) -> str:
        """Digest of all that an update is made from, hooks of rbuild.yml included."""
        assert self.loaded
        hooks = {name: given.value for name, given in self.settings.hooks.items()}
        parts: list[object] = [self.loaded.inputs_digest, hooks]
        try:
            parts += [self.contexts.digest] if self.contexts else []
        except InputError as error:
            # It is what it is; whoever goes back needs to say so.
            parts.append(error.message)
        whole = json.dumps(parts, sort_keys=True)
        return keyed_digest(self.loaded.key, whole.encode())

    def engine_time(self) -> float:
        """Now, on the engine's clock, in epoch seconds."""
        return time.time() + self.clock_ahead

    def calm_engine(self) -> Engine:
        """An engine that no signal stops: for what must come to its end."""
        engine = self.means.connect(Stop(), self.log, self.held)
        if self.info:
            # How far its clock is off, for one.
            engine.trust(self.info)
        return engine

    def is_there_now(self, failed: Mapping[str, Any] | None) -> bool:
        """Whether an update failed for lack of something of others that is there by now."""
        absent = failed.get("absent", ()) if failed else ()
        return bool(absent) and not self.engine.absent(absent)

    def still_held(self) -> dict[str, Any] | None:
        """The failure of a commit that waits, unless the upstream has gone on."""
        goes_on = self.commit and not self.held_back and GIT not in self.unchecked
        return None if goes_on or self.known is None else self.known.held

    def open_log(self) -> None:
        """Something is about to be done: make room for this run's log. Raises StateError."""
        self.run.store.make(self.folder)
        logs.make_room(self.log.path)
        self.outcome.log = self.log.path

    def tell(self, text: str) -> None:
        """A step begins."""
        self.log.line(f"== {text}")
        self.means.tell(self.name, text, True)

    def hook_variables(self, name: str, *, generation: str, error: str = "") -> dict[str, str]:
        """What a hook finds in its environment."""
        done = name != "before-update"
        return hook.variables(
            name,
            project=self.name,
            folder=self.project.target.folder,
            home=self.project.home,
            reasons=[reason.kind for reason in self.outcome.reasons],
            generation=generation,
            outcome=self.outcome.outcome if done else "",
            error=error,
            log=self.log.path,
            environ=self.run.environ,
        )

    def run_hook(self, name: str, *, generation: str, error: str = "", stop: Stop) -> None:
        """Run a hook after the update; its failure is a warning, and changes nothing."""
        given = self.settings.hooks.get(name)
        if given is None or not isinstance(given.value, tuple):
            return
        self.tell(f"run the {name} hook")
        try:
            hook.run(
                name,
                given.value,
                environ=self.hook_variables(name, generation=generation, error=error),
                folder=self.project.target.folder,
                stop=stop,
                timeout=self.settings.hook_timeout,
                log=self.log,
                hold=self.held,
            )
        except RbuildError as problem:
            last = (problem.detail.strip().splitlines() or [""])[-1]
            self.outcome.warnings += (f"{problem.message}{': ' if last else ''}{last}",)
