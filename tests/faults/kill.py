"""Kills rbuild, or the engine, in the midst of updates: does the next run put all right?

    tests/run --exec python tests/faults/kill.py --moments 100 --engine 10

Prints `survived N of N`, and of each strike that was not: what was wrong, all that was run, and
the command that strikes there again.

A strike is named SCENE/WHEN. WHEN is `start:N` or `end:N` for a boundary of the N-th step, or a
moment as a part (0 to 1) of the time that the run takes, or `never`, to see whether it is the kill
that does harm; `engine-SCENE/PART` kills the engine rather than rbuild. The scenes are in SCENES.
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

if not __package__:
    # As a command it is no part of a package; with this it finds what is beside it all the same.
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    __package__ = "tests.faults"

from rbuild.errors import RbuildError
from rbuild.state import record

from .engines import (
    Engine,
    PrivateEngine,
    clear_remains,
    machine_engine,
    private_engine,
)
from .projects import DOCKERFILE, Ran, Site, new_site
from .published import publish

SCENES = {
    "update": "new content that is good",
    "back": "a new image that ends at once: rbuild goes back",
    "back-config": "a command that is not in its image: `up` fails, rbuild goes back",
    "revert": "new content that is good, but the old is there again when the next run comes",
    "spoil": "new content that is good, but when the next run comes it can't be built any more",
    "forced": "nothing is new, the run is forced; the next one is not",
}
BREAKING = ("back", "back-config")
KEEP_IMAGES = 1
SERVICES = ("web", "app", "side")
# What ran when the engine was killed comes back with it. With `unless-stopped` it would not: as
# it starts, dockerd stops what has lived on, in the way in which a person stops it.
COMMON = "restart: always"
WEB = f"""\
{COMMON}
healthcheck:
  test: [CMD, wget, -q, -O, /dev/null, "http://127.0.0.1/"]
  interval: 10s
  start_period: 20s
  start_interval: 300ms
"""
APP = f"""\
{COMMON}
depends_on: {{web: {{condition: service_healthy}}}}
"""
SIDE = f"""\
  side:
    image: $IMAGE
    init: true
    stop_grace_period: 1s
    ports: ["127.0.0.1:$PORT_SIDE:80"]
    {COMMON}
"""
SERVE = ["httpd", "-f", "-p", "80", "-h", "/www"]
LEFTOVER = re.compile(r"[0-9a-f]{12}_")
STRUCK = Path(__file__).with_name("struck.py")
# Seconds: for a run to end whose engine is gone, and for what a killed run started.
END, ORPHANS = 90.0, 120.0


@dataclass(frozen=True)
class Strike:
    """One kill."""

    scene: str
    when: str
    """`start:N`, `end:N`, a part of the run's time, or `never`."""
    engine: bool = False
    """The engine is killed, not rbuild."""
    step: str = ""
    """What the step says of itself, for the reader."""

    def __str__(self) -> str:
        return f"{'engine-' if self.engine else ''}{self.scene}/{self.when}"

    @property
    def part(self) -> float | None:
        """The moment as a part of the run's time; None for a boundary."""
        return float(self.when) if self.when[0].isdigit() else None


def parse(text: str) -> Strike:
    """A strike from its name."""
    match = re.fullmatch(r"(engine-)?([a-z-]+)/((?:start|end):\d+|\d[\d.]*|never)", text)
    if not match or match[2] not in SCENES or (match[1] and not match[3][0].isdigit()):
        raise argparse.ArgumentTypeError(f"no such strike: {text}")
    return Strike(match[2], match[3], bool(match[1]))


@dataclass
class Result:
    """What came of a strike."""

    strike: Strike
    wrong: list[str] = field(default_factory=list)
    story: list[str] = field(default_factory=list)
    evidence: str = ""
    went_back: bool = False
    """A good update that did not come through: what ran before runs on."""

    def __str__(self) -> str:
        step = f" ({self.strike.step})" if self.strike.step else ""
        lines = [f"{self.strike}{step}: not survived"]
        lines += [f"  wrong: {one}" for one in self.wrong]
        lines += [f"  | {line}" for text in self.story for line in text.splitlines()]
        lines += [f"  more in {self.evidence}"] if self.evidence else []
        lines.append(
            f"  again: tests/run --exec python tests/faults/kill.py --strike {self.strike}"
        )
        return "\n".join(lines)


class NeverStruck(Exception):
    """The run came to its end before the strike; `seconds` is what it took."""

    def __init__(self, seconds: float, ran: Ran) -> None:
        super().__init__(f"the run was over before the strike: {told(ran)}")
        self.seconds = seconds


class Survey:
    """What a run is like that nobody kills: how long, and its steps; shared by all lanes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.steps: dict[str, list[tuple[str, bool]]] = {}
        """By scene: each step and whether it failed."""

    def boundaries(self, scene: str) -> list[Strike]:
        """Strikes at each step's start and end; of a way back, from the failure on."""
        steps = self.steps.get(scene) or self.steps[self.like(scene)]
        failed = [number for number, (_, bad) in enumerate(steps, 1) if bad]
        first = failed[0] if failed and scene in BREAKING else 0
        return [
            Strike(scene, f"{side}:{number}", step=text)
            for number, (text, _) in enumerate(steps, 1)
            for side in ("start", "end")
            if number > first or (number == first and side == "end")
        ]

    def all_made(self, scene: str) -> Strike:
        """A strike when all is built and pulled, and nothing is touched: most is left behind."""
        steps = self.steps.get(scene) or self.steps[self.like(scene)]
        last = [text.startswith("bring up") for text, _ in steps].index(True)
        return Strike(scene, f"end:{last}", step=steps[last - 1][0])

    def expected(self, scene: str) -> float:
        """Seconds that a run takes, as far as is known."""
        return self.seconds.get(scene) or self.seconds.get(self.like(scene)) or 5.0

    @staticmethod
    def like(scene: str) -> str:
        """The scene that is looked at to know what this one is like."""
        return "back" if scene in BREAKING else "update"


class Lane:
    """A project on an engine that is struck again and again, anew after one not survived."""

    def __init__(self, engine: Engine, folder: Path, survey: Survey) -> None:
        self.engine = engine
        self.folder = folder
        self.survey = survey
        self.site: Site | None = None
        self.version = 0
        self.compose = ""
        self.story: list[str] = []
        self.log_from = 0
        """How long the engine's log was before the engine was killed."""

    # ------------------------------------------------------------ the project

    def make_good(self) -> Site:
        """Have the project up and well, at `version`."""
        if self.site is None:
            made = new_site(
                self.engine, self.folder, {"web": WEB, "app": APP}, more=SIDE,
                settings=f"{{settle-period: 1, keep-images: {KEEP_IMAGES}}}",
            )  # fmt: skip
            self.site = made
            self.compose = (made.folder / "compose.yml").read_text()
            self.version = 1
            self.write(1)
            ran = self.rbuild()
            assert ran.code == 0, f"the first update of all: {told(ran)}"
        return self.site

    def write(self, version: int, scene: str = "") -> None:
        """Let the project be of a version, with what breaks it in a scene."""
        site = self.site
        assert site
        bad = {"back": 'CMD ["sh", "-c", "echo no good; exit 7"]\n', "spoil": "RUN false\n"}
        for name, end in (("web", ""), ("app", bad.get(scene, ""))):
            site.write(f"{name}/page", f"{name} {version}\n")
            # A build context is no input that makes a project stale; its Dockerfile is.
            labels = f"LABEL version={version} test={site.name}\n"
            site.write(f"{name}/Dockerfile", f"{DOCKERFILE}{labels}{end}")
        image = publish(
            f"{site.name}/side", "1", {"/www/index.html": f"side {version}\n"},
            Cmd=SERVE, Labels={"test": site.name, "version": str(version)},
        )  # fmt: skip
        config = "    command: [no-such-command]\n" if scene == "back-config" else ""
        site.write("compose.yml", self.compose.replace("$IMAGE", image) + config)
        self.story.append(f"content: version {version}{', broken' if scene else ''}")

    def drop(self) -> None:
        """Take the project from the engine."""
        site, self.site = self.site, None
        if site:
            site.remove()
            labelled = ["docker", "images", "-q", "--filter", f"label=test={site.name}"]
            found = set(self.engine.run(*labelled).split())
            if found:
                self.engine.run("docker", "rmi", "-f", *found, check=False)

    # ------------------------------------------------------------ runs

    def rbuild(self) -> Ran:
        """One run, as a timer starts it."""
        assert self.site
        ran = self.site.rbuild()
        self.story.append(f"rbuild: {told(ran)}")
        return ran

    def next_run(self) -> Ran:
        """Runs until one is not kept out by what a killed run has started."""
        assert self.site
        deadline = time.monotonic() + ORPHANS
        while True:
            free = is_free(self.site.folder)
            ran = self.rbuild()
            if free or ran.code != 75:
                return ran
            assert time.monotonic() < deadline, "what a killed run has started never ends"
            time.sleep(0.5)

    @contextmanager
    def begun(self, when: str, *arguments: str) -> Iterator[Begun]:
        """A run in a process that kills itself then; it has ended when the context is left."""
        assert self.site
        site = self.site
        with tempfile.TemporaryFile("w+") as out:
            process = subprocess.Popen(
                [sys.executable, str(STRUCK), when, *arguments],
                cwd=site.folder, env={**os.environ, **site.env},
                # No pipe: what outlives the run would hold it open.
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
            begun = Begun(process, time.monotonic())
            try:
                yield begun
            finally:
                try:
                    process.wait(timeout=END)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    begun.endless = True
                out.seek(0)
                begun.ran = Ran(process.returncode, out.read(), "", begun.seconds)
                self.story.append(f"struck run, {when} {' '.join(arguments)}: {told(begun.ran)}")

    def look(self, scene: str) -> Result:
        """Run a scene that nobody kills, and write down in the survey what it is like."""
        self.story = []
        site = self.make_good()
        listing = self.folder / f"{site.name}-{scene}"
        self.write(self.version + 1, scene if scene in BREAKING else "")
        with self.begun(f"list:{listing}") as begun:
            pass
        code = 3 if scene in BREAKING else 0
        assert begun.ran.code == code, f"{scene}, with no kill: {told(begun.ran)}"
        self.survey.seconds[scene] = begun.ran.seconds
        self.survey.steps[scene] = [tuple(json.loads(one)) for one in listing.open()]
        self.settle(scene)
        result = Result(Strike(scene, "never"), self.faults(self.version), self.story)
        if result.wrong:
            self.drop()
        return result

    def settle(self, scene: str) -> None:
        """After a run that nobody killed: on to a good state."""
        if scene in BREAKING:
            self.write(self.version)
            ran = self.rbuild()
            assert ran.code == 0, f"{scene}, after no kill, old content: {told(ran)}"
        elif scene != "forced":
            self.version += 1

    # ------------------------------------------------------------ strikes

    def strike(self, one: Strike, evidence: Path | None) -> Result:
        """Strike, let the next run work, and see what is wrong then."""
        self.story = []
        result = Result(one, story=self.story)
        try:
            self.make_good()
            self._strike(one, result)
        except (AssertionError, subprocess.TimeoutExpired, OSError, NeverStruck) as error:
            result.wrong.append(str(error) or repr(error))
        if result.wrong:
            with suppress(AssertionError, OSError):
                if evidence:
                    result.evidence = str(self.secure(one, evidence / str(one).replace("/", "_")))
            with suppress(AssertionError):
                self.drop()
        return result

    def _strike(self, one: Strike, result: Result) -> None:
        scene, old, new = one.scene, self.version, self.version + 1
        forced = ["--force-rebuild"] if scene == "forced" else []
        built = self.built()
        for again in itertools.count(1):
            if not forced:
                self.write(new, scene if scene in BREAKING else "")
            try:
                wrong = self._kill_engine(one, forced) if one.engine else self._kill(one, forced)
                break
            except NeverStruck as missed:
                # It took less time than expected; a boundary is missed only if there is none.
                if one.part is None or again == 4:
                    raise
                self.survey.seconds[scene] = missed.seconds * 0.95
                self.settle(scene)
                built = self.built()
                old, new = self.version, self.version + 1

        if scene == "revert":
            self.write(old)
        elif scene == "spoil":
            self.write(new, scene)
        # It may have been killed when all was done but cleaning up.
        done = scene == "update" or (scene == "spoil" and self.built() != built)
        good = new if done else old
        ran = self.next_run()
        # Where the engine itself can't get a container up again that it was killed in the start
        # of, going back is as good an end as going forward.
        back = one.engine and scene == "update" and ran.code == 3
        result.went_back = back and self.engine_lost_a_task()
        good = old if result.went_back else good
        codes = (
            (3, 75) if scene in BREAKING else (1,) if scene == "spoil" else (3 * result.went_back,)
        )
        if ran.code not in codes:
            wrong.append(f"the next run gave {ran.code}, not one of {codes}")
        wrong += self.faults(good)

        before = self.site.starts() if self.site else {}
        ran = self.rbuild()
        fails = scene in BREAKING or scene == "spoil" or result.went_back
        quiet = 75 if fails else 0
        if ran.code != quiet or not ran.silent:
            wrong.append(f"the third run was not silent with code {quiet}")
        if fails:
            self.write(good)
            ran = self.rbuild()
            if ran.code != 0:
                wrong.append(f"with good content back, a run gave {ran.code}, not 0")
            ran = self.rbuild()
            if ran.code != 0 or not ran.silent:
                wrong.append("with good content back, the second run was not silent with code 0")
        if self.site and self.site.starts() != before:
            wrong.append("what came after the next run touched containers")
        self.version = good
        result.wrong += wrong

    def _kill(self, one: Strike, arguments: Sequence[str]) -> list[str]:
        when = one.when if one.when != "never" else f"list:{os.devnull}"
        if one.part is not None:
            when = f"after:{one.part * self.survey.expected(one.scene):.3f}"
        with self.begun(when, *arguments) as begun:
            pass
        if begun.endless:
            return [f"the run had not ended after {END:g} s"]
        if begun.ran.code != -9 and one.when != "never":
            raise NeverStruck(begun.ran.seconds, begun.ran)
        return []

    def engine_lost_a_task(self) -> bool:
        """Whether the engine says, since it was killed, that it has lost hold of a container."""
        assert isinstance(self.engine, PrivateEngine)
        with (self.engine.home / "log").open("rb") as log:
            log.seek(self.log_from)
            return b"task must be stopped before deletion" in log.read()

    def _kill_engine(self, one: Strike, arguments: Sequence[str]) -> list[str]:
        engine = self.engine
        assert isinstance(engine, PrivateEngine)
        assert one.part is not None
        seconds = one.part * self.survey.expected(one.scene)
        self.log_from = (engine.home / "log").stat().st_size
        killed = False
        try:
            with self.begun(f"list:{os.devnull}", *arguments) as begun:
                try:
                    begun.process.wait(timeout=seconds)
                except subprocess.TimeoutExpired:
                    engine.kill()
                    killed = True
                    self.story.append(f"the engine is killed after {seconds:.3f} s")
        finally:
            if killed:
                self.restart(engine)
        if not killed:
            raise NeverStruck(begun.ran.seconds, begun.ran)
        if begun.endless:
            return [f"the run had not ended {END:g} s after the engine was gone"]
        # Unless it was over but for words: an interruption is what it is.
        fine = (1, 3) if one.scene in BREAKING else (0, 1)
        if begun.ran.code not in fine:
            return [f"the run whose engine died gave {begun.ran.code}, not 1"]
        return []

    def restart(self, engine: PrivateEngine) -> None:
        """Start the engine that was killed, again if it holds a port that no container has.

        Killed between publishing a container's port and starting it, dockerd (26.1 at least)
        takes the port anew when it starts, forgets the container's endpoint, and gives the port
        to nobody until it is started once more. By hand it is the same; rbuild can't mend that.
        """
        for _ in range(3):
            engine.start()
            self.story.append("the engine is started")
            stray = set.intersection(*(stray_ports(engine) for _ in range(3)))
            if not stray:
                return
            self.story.append(f"it holds ports that no container has, and is killed: {stray}")
            engine.kill()
        raise AssertionError("the engine keeps on holding ports that no container has")

    # ------------------------------------------------------------ judgement

    def built(self) -> str:
        """When the last update came to its good end, by the record."""
        assert self.site
        known = record.read(str(self.site.records))
        return known.built if known else ""

    def faults(self, version: int) -> list[str]:
        """What is wrong with the project, which should be whole and of this version."""
        site = self.site
        assert site
        wrong = []
        wanted = {name: f"{name} {version}" for name in SERVICES}
        answers = site.answers_soon(wanted, seconds=10)
        if answers != wanted:
            wrong.append(f"answers: {answers}, not version {version}")
        containers = site.containers()
        states = {one["Name"].lstrip("/"): one["State"]["Status"] for one in containers}
        if sorted(states.values()) != ["running"] * len(SERVICES):
            wrong.append(f"containers: {states}")
        wrong += [f"leftover container: {name}" for name in states if LEFTOVER.match(name)]
        named = self.images(site)
        for one in containers:
            # Else an `up` by hand would replace it.
            name = one["Config"]["Image"]
            means = named.get(name if ":" in name else f"{name}:latest")
            if means != one["Image"]:
                wrong.append(f"the name {name} means {means}, not the {one['Image']} that runs")
        running = {
            one["Config"]["Labels"]["com.docker.compose.service"]: one["Image"]
            for one in containers
        }
        return wrong + self.kept_faults(site, named, running)

    def kept_faults(
        self, site: Site, named: Iterable[str], running: Mapping[str, str]
    ) -> list[str]:
        """What is wrong with what rbuild keeps of a site: tags, generations, record, images."""
        wrong = []
        try:
            known = record.read(str(site.records))
        except (RbuildError, ValueError) as error:
            return [f"the record can't be read: {error}"]
        if known is None:
            return ["there is no record"]
        if known.underway is not None:
            wrong.append(f"the record has a note left: {known.underway}")

        tags = {tag for tag in named if tag.startswith(f"rbuild/{site.name}/")}
        stamps = {tag.rpartition(":")[2] for tag in tags}
        files = {path.name.split(".")[0] for path in site.records.glob("generations/*.json")}
        wrong += [f"leftover tag: {one}" for one in sorted(tags) if one[-16:] not in files]
        if len(stamps) > KEEP_IMAGES:
            wrong.append(f"{len(stamps)} generations are kept: {sorted(stamps)}")
        for stamp in sorted(files):
            path = site.records / "generations" / f"{stamp}.json"
            kept = json.loads(path.read_text())["services"]
            if {name: one["image"] for name, one in kept.items()} == running:
                wrong.append(f"generation {stamp} is what runs now, nothing earlier")
            # Else nothing removes it once it has lost its tag. One that runs still is tracked
            # when it is replaced.
            strays = {one["image"] for one in kept.values()} - set(known.superseded)
            strays -= set(running.values())
            wrong += [
                f"generation {stamp} has an image that is not tracked: {one}" for one in strays
            ]
            there = {tag.split("/")[2].split(":")[0] for tag in tags if tag.endswith(stamp)}
            if there != set(SERVICES):
                wrong.append(f"generation {stamp} has a file, but images only of {sorted(there)}")

        argv = ["docker", "images", "-q", "--no-trunc", "--filter", "dangling=true"]
        nameless = set(self.engine.run(*argv, "--filter", f"label=test={site.name}").split())
        for one in self.engine.inspect(*sorted(nameless - set(known.superseded))):
            labels = one["Config"]["Labels"]
            what = labels.get("com.docker.compose.service")
            if not what and not one["RepoDigests"]:
                # A plain `docker pull` that is killed leaves one as well, once in some hundreds:
                # the engine has given it no name yet, so nobody else can know it.
                continue
            what = what or "the one that is pulled"
            wrong.append(f"leftover image: {one['Id']} ({what}, version {labels['version']})")
        return wrong

    def images(self, site: Site) -> dict[str, str]:
        """What each of a site's image names means to the engine now."""
        form = "{{.Repository}}:{{.Tag}} {{.ID}}"
        argv = ["docker", "images", "--no-trunc", "--format", form]
        # Not of all: with the containerd store (28.5 at least), that fails where another lane
        # removes one meanwhile.
        registry = os.environ["RBUILD_REGISTRY"]
        for pattern in (f"{site.name}-*", f"rbuild/{site.name}/*", f"{registry}/{site.name}/*"):
            argv += ["--filter", f"reference={pattern}"]
        pairs = (line.split() for line in self.engine.run(*argv).splitlines())
        return {name: image for name, image in pairs if "<none>" not in name}

    def secure(self, one: Strike, folder: Path) -> Path:
        """Keep what shows how a strike ended: the state folder, containers, images, the story."""
        site = self.site
        assert site
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(site.state, folder / "state")
        (folder / "story").write_text("\n".join([str(one), *self.story]) + "\n")
        (folder / "containers.json").write_text(json.dumps(site.containers(), indent=1))
        images = self.engine.run("docker", "images", "-a", "--no-trunc", check=False)
        (folder / "images").write_text(images)
        pages = {
            name: self.engine.run(
                "docker", "exec", f"{site.name}-{name}-1", "cat", "/www/index.html", check=False
            )
            for name in SERVICES
        }
        (folder / "pages.json").write_text(json.dumps(pages))
        if isinstance(self.engine, PrivateEngine):
            shutil.copy(self.engine.home / "log", folder / "engine")
        return folder


@dataclass
class Begun:
    """A run at work; `ran` is there when it has ended."""

    process: subprocess.Popen[str] | subprocess.Popen[bytes]
    started: float
    endless: bool = False
    """It had to be killed in the end."""
    ran: Ran = field(default_factory=lambda: Ran(0, "", ""))

    @property
    def seconds(self) -> float:
        """How long ago it was started."""
        return time.monotonic() - self.started


def told(ran: Ran) -> str:
    """How a run ended, with all that it said."""
    said = (ran.out + ran.err).strip().splitlines()
    return f"code {ran.code}" + "".join(f"\n    {line}" for line in said)


def is_free(folder: Path) -> bool:
    """Whether nobody holds the lock of a project's folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def stray_ports(engine: PrivateEngine) -> set[int]:
    """Ports that this engine holds for no container.

    One look may err: a container that ends in a loop holds its ports now and then.
    """
    looping = engine.run("docker", "ps", "-q", "--filter", "status=restarting").split()
    bound = {
        int(port["HostPort"])
        for one in engine.inspect(*looping)
        for ports in one["HostConfig"]["PortBindings"].values()
        for port in ports
    }
    published = re.findall(r":(\d+)->", engine.run("docker", "ps", "--format", "{{.Ports}}"))
    return ports_held(engine) - bound - {int(one) for one in published}


def ports_held(engine: PrivateEngine) -> set[int]:
    """Ports for which this engine has a docker-proxy."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError, ValueError, IndexError):
            argv = file.read_bytes().split(b"\0")
            parent = int((file.parent / "stat").read_text().rpartition(")")[2].split()[1])
            if argv[0].endswith(b"docker-proxy") and parent == engine.pid:
                found.add(int(argv[argv.index(b"-host-port") + 1]))
    return found


# ---------------------------------------------------------------- what is struck, and by whom


def spread(scenes: Sequence[str], count: int, seed: int, engine: bool = False) -> list[Strike]:
    """So many moments, spread evenly but at random; the scenes take turns."""
    chance = random.Random(f"{seed} {engine} {scenes}")
    return [
        Strike(scenes[number % len(scenes)], f"{(number + chance.random()) / count:.4f}", engine)
        for number in range(count)
    ]


def moments(count: int, seed: int, engine: bool = False) -> list[Strike]:
    """So many moments of an update, and a quarter more of the other scenes."""
    others = [scene for scene in SCENES if scene != "update"]
    return spread(["update"], count, seed, engine) + spread(others, count // 4, seed, engine)


class Shared:
    """An iterator that several threads draw from."""

    def __init__(self, items: Iterable[Strike]) -> None:
        self._items = iter(items)
        self._guard = threading.Lock()

    def __iter__(self) -> Iterator[Strike]:
        while True:
            with self._guard:
                try:
                    one = next(self._items)
                except StopIteration:
                    return
            yield one


class Harness:
    """Lanes on the machine's engine, one on a private engine, and what is to be struck there."""

    def __init__(
        self,
        lanes: int = 3,
        evidence: Path | None = None,
        heard: Callable[[Result], None] = lambda _: None,
    ) -> None:
        self._lanes = lanes
        self._evidence = evidence
        self._heard = heard
        self._guard = threading.Lock()
        self._over = threading.Event()
        self._results: list[Result] = []

    def run(
        self, boundaries: Sequence[str], count: int, engine_count: int, seed: int
    ) -> list[Result]:
        """Strike at boundaries of these scenes, and at so many moments; what came of it."""
        late = moments(count, seed)

        def planned(survey: Survey) -> Iterator[Strike]:
            for scene in boundaries:
                yield from survey.boundaries(scene)
            if boundaries:
                yield from (survey.all_made(one) for one in ("revert", "spoil"))
            yield from late

        scenes = [*boundaries, *(one.scene for one in late)]
        scenes += ["update"] if boundaries else []
        engine = moments(engine_count, seed, engine=True)
        own = [one for one in boundaries if one in BREAKING]
        return self._work(scenes, planned, [one.scene for one in engine], engine, own)

    def run_these(self, strikes: Sequence[Strike]) -> list[Result]:
        """Strike just there."""
        rest = [one for one in strikes if not one.engine]
        engine = [one for one in strikes if one.engine]
        return self._work(
            [one.scene for one in rest], lambda _: rest, [one.scene for one in engine], engine
        )

    def run_for(self, seconds: float, seed: int) -> list[Result]:
        """Strike at random moments, rbuild and the engine, until time is over."""
        end = time.monotonic() + seconds
        names = list(SCENES)

        def endless(engine: bool) -> Iterator[Strike]:
            chance = random.Random(f"{seed} {engine}")
            while time.monotonic() < end:
                (scene,) = chance.choices(names, [4] + [1] * (len(names) - 1))
                yield Strike(scene, f"{chance.random():.4f}", engine)

        scenes = ["update", "back"]
        return self._work(scenes, lambda _: endless(False), scenes, endless(True))

    def _work(
        self,
        scenes: Iterable[str],
        planned: Callable[[Survey], Iterable[Strike]],
        engine_scenes: Iterable[str],
        engine: Iterable[Strike],
        own_looks: Iterable[str] = (),
    ) -> list[Result]:
        # Those that are like one another take as long; their steps may differ.
        looks, engine_looks = (
            sorted({*map(Survey.like, some), *more})
            for some, more in ((scenes, own_looks), (engine_scenes, ()))
        )
        top = Path(tempfile.mkdtemp(prefix="rbuild-kill-"))
        survey = Survey()
        queue: Iterator[str] = iter(looks)
        known = threading.Barrier(self._lanes, timeout=END * 4)
        strikes: list[Iterable[Strike]] = []

        def lane() -> None:
            own = Lane(machine_engine(), top, survey)
            try:
                own.make_good()
                while scene := next(queue, None):
                    self._note_control(own.look(scene))
                if known.wait() == 0:
                    strikes.append(Shared(planned(survey)))
                known.wait()
                self._strike(own, strikes[0])
            except BaseException:
                known.abort()
                raise
            finally:
                own.drop()

        def engine_lane() -> None:
            with private_engine() as fallible:
                own = Lane(fallible, top, Survey())
                try:
                    for scene in engine_looks:
                        self._note_control(own.look(scene))
                    self._strike(own, engine)
                finally:
                    own.drop()

        try:
            lanes = [lane] * self._lanes if looks else []
            self._together([*lanes, *([engine_lane] if engine_looks else [])])
        finally:
            shutil.rmtree(top, ignore_errors=True)
        return self._results

    def _strike(self, lane: Lane, strikes: Iterable[Strike]) -> None:
        for one in strikes:
            if self._over.is_set():
                return
            self._add(lane.strike(one, self._evidence))

    def _note_control(self, result: Result) -> None:
        # One that is well is no strike that was survived.
        if result.wrong:
            self._add(result)

    def _add(self, result: Result) -> None:
        with self._guard:
            self._results.append(result)
            self._heard(result)

    def _together(self, jobs: Sequence[Callable[[], None]]) -> None:
        """Do jobs side by side; the first error of any ends the others after their strike."""
        errors: list[BaseException] = []

        def guarded(job: Callable[[], None]) -> None:
            try:
                job()
            except BaseException as error:
                errors.append(error)
                self._over.set()

        threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
        for one in threads:
            one.start()
        try:
            for one in threads:
                one.join()
        except KeyboardInterrupt:
            self._over.set()
            for one in threads:
                one.join()
            raise
        broken = [one for one in errors if not isinstance(one, threading.BrokenBarrierError)]
        if errors:
            raise (broken or errors)[0]


def summary(results: Sequence[Result]) -> str:
    """`survived N of N`, and what the strikes were."""
    good = sum(not one.wrong for one in results)
    kinds = {
        "at boundaries": [one for one in results if one.strike.part is None],
        "at moments of an update": [one for one in results if is_moment(one, "update")],
        "at moments of other runs": [
            one for one in results if one.strike.part is not None and not one.strike.engine
            and one.strike.scene != "update"
        ],
        "of the engine": [one for one in results if one.strike.engine],
    }  # fmt: skip
    kinds["went back"] = [one for one in results if one.went_back]
    parts = ", ".join(f"{len(found)} {kind}" for kind, found in kinds.items() if found)
    return f"survived {good} of {len(results)}" + (f" ({parts})" if parts else "")


def is_moment(one: Result, scene: str) -> bool:
    """Whether rbuild was struck at a moment of this scene."""
    return one.strike.scene == scene and one.strike.part is not None and not one.strike.engine


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description="Kill rbuild, or the engine, during updates.")
    add = parser.add_argument
    add(
        "--moments",
        type=int,
        default=10,
        metavar="N",
        help="moments of an update, and a quarter more of other runs (10)",
    )
    add("--engine", type=int, default=2, metavar="N", help="the same for the engine (2)")
    add(
        "--boundaries",
        default="update,back",
        metavar="SCENES",
        help="scenes of which each step's start and end is struck, or none (update,back)",
    )
    add("--strike", type=parse, action="append", metavar="SCENE/WHEN", help="strike only there")
    add("--minutes", type=float, help="strike at random moments for so long")
    add("--seed", type=int, help="of the moments (1; with --minutes, one that is printed)")
    add("--lanes", type=int, default=3, metavar="N", help="projects struck at once (3)")
    add("--evidence", type=Path, metavar="FOLDER", help="where to keep what shows a failure")
    return parser.parse_args()


def main() -> None:
    """Run what was asked for; exit code 1 if a strike was not survived."""
    given = arguments()
    boundaries = [one for one in given.boundaries.split(",") if one and one != "none"]
    if strange := set(boundaries) - SCENES.keys():
        sys.exit(f"no such scene: {', '.join(strange)}")
    begun, heard = time.monotonic(), 0

    def tell(one: Result) -> None:
        nonlocal heard
        heard += 1
        what = str(one) if one.wrong else f"{one.strike}: survived"
        print(f"{time.monotonic() - begun:.0f} s, {heard}: {what}", flush=True)

    clear_remains()
    harness = Harness(given.lanes, given.evidence and given.evidence.resolve(), tell)
    if given.strike:
        results = harness.run_these(given.strike)
    elif given.minutes:
        seed = random.randrange(10**6) if given.seed is None else given.seed
        print(f"seed {seed}", flush=True)
        results = harness.run_for(given.minutes * 60, seed)
    else:
        results = harness.run(boundaries, given.moments, given.engine, given.seed or 1)
    for one in results:
        if one.wrong:
            print(f"not survived: {one.strike}")
    print(f"{summary(results)}, {time.monotonic() - begun:.0f} s")
    sys.exit(any(one.wrong for one in results) or not results)


if __name__ == "__main__":
    main()
