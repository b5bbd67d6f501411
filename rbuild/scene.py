"""One project in one run: what is known of it, and what a pass over it works with."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rbuild import hook
from rbuild.engine import Engine, EngineInfo
from rbuild.errors import RbuildError
from rbuild.glance import Run
from rbuild.loading import Loaded
from rbuild.process import Log, Stop
from rbuild.project import Project
from rbuild.record import Record, keyed_digest
from rbuild.report import Outcome
from rbuild.settings import Settings

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
    held: Sequence[int] = ()
    """Descriptors of its lock."""
    loaded: Loaded | None = None
    """None for a project that can't be read any more."""
    changed: Sequence[str] = ()
    info: EngineInfo | None = None
    """Once the engine has answered."""
    engine: Engine = field(init=False)

    def __post_init__(self) -> None:
        self.engine = self.means.connect(self.means.stop, self.log, self.held)

    @property
    def clock_ahead(self) -> float:
        """Seconds that the engine's clock is ahead of ours."""
        return self.info.clock_ahead if self.info else 0.0

    @property
    def inputs(self) -> str:
        """Digest of all that an update is made from, hooks of rbuild.yml included."""
        assert self.loaded
        hooks = {name: given.value for name, given in self.settings.hooks.items()}
        whole = json.dumps([self.loaded.inputs_digest, hooks], sort_keys=True)
        return keyed_digest(self.loaded.key, whole.encode())

    def engine_time(self) -> float:
        """Now, on the engine's clock, in epoch seconds."""
        return time.time() + self.clock_ahead

    def calm_engine(self) -> Engine:
        """An engine that no signal stops: for what must come to its end."""
        return self.means.connect(Stop(), self.log, self.held)

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
