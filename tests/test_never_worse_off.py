"""No sequence of what people, files and runs do leaves down what ran before.

On the fake engine, from seeds: edits, broken files and builds, updates, containers that a person
takes down and brings up, renamed services, rollbacks, and runs that are killed at any call.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rbuild.compose.project import Target
from rbuild.process import Stop
from rbuild.report import Outcome
from rbuild.state import generation

from .world import DAY, Fake, Site, new_site, no_strike

SEQUENCES = 40
LENGTH = 14


class Life:
    """A project over some time, and how it came to stand as it does."""

    def __init__(self, site: Site, seed: int) -> None:
        self.site = site
        self.random = random.Random(seed)
        self.story: list[str] = []
        self.edits = 0

    @property
    def config(self) -> dict[str, Any]:
        services: dict[str, Any] = self.site.world.config["services"]
        return services

    def service(self) -> str:
        return self.random.choice([name for name in self.config if name != "migrate"])

    # What a person does

    def edit(self) -> None:
        self.edits += 1
        self.config[self.service()]["environment"] = {"EDIT": str(self.edits)}
        self.touch()

    def break_file(self) -> None:
        self.config[self.service()]["environment"] = {"BROKEN": "yes"}
        self.touch()

    def mend_files(self) -> None:
        for service in self.config.values():
            if "BROKEN" in service.get("environment", {}):
                service["environment"] = {"MENDED": "yes"}
        self.site.world.breaks = set()
        self.touch()

    def break_build(self) -> None:
        self.site.world.breaks = {"web"} & self.config.keys()

    def rename(self) -> None:
        old, new = ("web", "www") if "web" in self.config else ("www", "web")
        self.site.world.config["services"] = {
            new if name == old else name: one for name, one in self.config.items()
        }
        self.site.world.breaks = set()
        self.touch()

    def down_and_up(self) -> None:
        self.site.world.boxes = []
        self.up()

    def up(self) -> None:
        """`docker compose up -d`, of what images are here."""
        engine = Fake(self.site.world, no_strike, Stop())
        for name, one in self.config.items():
            self.site.world.names.setdefault(one.get("image", f"site-{name}"), "sha256:first")
            self.site.world.labels.setdefault("sha256:first", {})
        engine.up(Target(self.site.world.folder), [], timeout=60)

    def restart(self) -> None:
        for box in [one for one in self.site.world.boxes if one.state == "running"]:
            self.site.world.change(box, started=box.started + 1)

    def touch(self) -> None:
        self.site.edit("compose.yml", f"# {self.edits} {len(self.story)}\n")

    # What rbuild does

    def update(self) -> None:
        self.expect(self.running(), self.site.run(after=DAY))

    def roll_back(self) -> None:
        if not self.site.stamps():
            return
        before = self.running()
        wanted = generation.read(str(self.site.state), self.site.stamps()[0])
        assert wanted
        outcome = self.site.roll_back(after=DAY)
        # What came with the update that is undone goes with it.
        self.expect(before & wanted.services.keys() if not outcome.error else before, outcome)

    def update_killed(self) -> None:
        before = self.running()
        if moments := self.site.moments(after=DAY):
            moment = self.random.choice(moments)
            self.story.append(moment.where)
            self.site.load(moment)
        self.expect(before, self.site.run(after=DAY))

    def expect(self, before: set[str], outcome: Outcome) -> None:
        self.story.append(f"→ {outcome.outcome}: {outcome.error}")
        if outcome.outcome == "updated":
            # What the files do not name any more is gone with a good update.
            before &= self.config.keys()
        assert self.running() >= before, "\n".join(self.story)

    def running(self) -> set[str]:
        return {*self.site.world.running()}

    def go_on(self) -> None:
        acts = (
            self.edit, self.break_file, self.mend_files, self.break_build, self.rename,
            self.down_and_up, self.up, self.restart, self.update, self.update, self.roll_back,
            self.update_killed,
        )  # fmt: skip
        act = self.random.choice(acts)
        self.story.append(act.__name__)
        act()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with new_site(tmp_path, Site) as found:
        yield found


@pytest.mark.parametrize("seed", range(SEQUENCES))
def test_what_ran_before_runs(site: Site, seed: int) -> None:
    life = Life(site, seed)
    if seed % 2:
        assert site.run().outcome == "updated"
    else:
        life.up()
    for _ in range(LENGTH):
        life.go_on()
