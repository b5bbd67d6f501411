"""What one run finds out for all its projects: how often it asks, what it remembers and tells."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rbuild.compose.project import Project, locate
from rbuild.decisions.glance import Fresh, Run
from rbuild.decisions.lookout import Lookout, source_of
from rbuild.decisions.moves import BASE, IMAGE, WATCH, Moves
from rbuild.errors import Interrupted, RbuildError
from rbuild.process import Stop
from rbuild.registries import registry
from rbuild.registries.credentials import Login
from rbuild.report import Outcome
from rbuild.settings import Given, Settings, resolve
from rbuild.sources import source
from rbuild.state import record
from rbuild.state.record import Record, Store

from .world import Clock, Hub

DEBIAN, REDIS = "docker.io/library/debian:12", "docker.io/library/redis:7"
APP, TOOL = "docker.io/library/app:latest", "docker.io/library/tool:latest"
OLD, NEW = "sha256:old", "sha256:new"
HOUR = 3600


def settings(**more: Any) -> Settings:
    values = {"check": ("base", "image"), **more}
    return resolve({name.replace("_", "-"): Given(one, "c") for name, one in values.items()})


class Host:
    """Recorded projects, registries, and runs over them."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self.root, self.clock = root, clock
        self.state = root / "state"
        self.store = Store(str(self.state))
        self.hub = Hub({DEBIAN: OLD, REDIS: OLD})

    def lookout(self, *, dry_run: bool = False) -> Lookout:
        """That of a new run."""
        run = Run(time.time(), {}, {}, {}, {}, self.store, dry_run=dry_run)
        self.hub.asked = []
        return Lookout(run, Stop())

    def project(self, name: str, rests: Any = None, **more: Any) -> Fresh:
        """A recorded project that rests on `rests`; `more` are parts of its record, or settings."""
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        (folder / "compose.yml").touch()
        parts = {key: more.pop(key) for key in [*more] if key in vars(Record("", ""))}
        known = Record(
            name, str(folder), files=[str(folder / "compose.yml")], key="00" * 16,
            rests={BASE: {}, IMAGE: {}, WATCH: {}, **({BASE: {DEBIAN: ["id", OLD]}} if rests is None
                                                      else rests)},
        )  # fmt: skip
        for key, value in parts.items():
            setattr(known, key, value)
        state = self.store.path(name, known.home)
        self.store.make(state)
        record.write(state, known)
        return self.fresh(locate(str(folder), "/"), known, settings(**more))

    def fresh(self, project: Project, known: Record, options: Settings) -> Fresh:
        outcome = Outcome(known.name, project.path, "fresh")
        return Fresh(outcome, project, known, options, self.store.path(known.name, known.home))

    def look(self, *projects: Fresh, dry_run: bool = False) -> tuple[list[Outcome], list[Project]]:
        """A whole run, as far as the lookout goes."""
        lookout = self.lookout(dry_run=dry_run)
        anew = [
            one._replace(outcome=Outcome(one.known.name, one.project.path, "fresh"))
            for one in projects
        ]
        return lookout.sort(anew, [])

    def files(self) -> dict[str, bytes]:
        return {str(one): one.read_bytes() for one in self.state.rglob("*") if one.is_file()}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", clock.time)
        found = Host(tmp_path, clock)
        patch.setattr(registry, "Registries", lambda *a, **more: found.hub.open(*a, **more))
        yield found


def only(outcomes: list[Outcome]) -> Outcome:
    (one,) = outcomes
    return one


# How often it asks


def test_fifty_projects_on_ten_bases_are_ten_questions(host: Host) -> None:
    names = [f"docker.io/library/base:{number}" for number in range(10)]
    host.hub.digests = dict.fromkeys(names, OLD)
    projects = [
        host.project(f"p{number}", {BASE: {names[number % 10]: ["id", OLD]}})
        for number in range(50)
    ]
    outcomes, closer = host.look(*projects)
    assert len(host.hub.asked) == 10
    assert host.hub.names == sorted(names)
    assert [one.outcome for one in outcomes] == ["fresh"] * 50
    assert closer == []


def test_all_are_asked_at_once(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that takes its time is waited for once, not once a project."""
    asked = []
    real = host.hub.ask
    monkeypatch.setattr(host.hub, "ask", lambda some: (asked.append(1), real(some))[1])
    host.look(host.project("a"), host.project("b", {IMAGE: {REDIS: ["id", OLD]}}))
    assert len(asked) == 1
    assert host.hub.names == [DEBIAN, REDIS]


def test_what_a_pass_asks_again_in_the_same_run_is_not_asked_again(host: Host) -> None:
    one, two = host.project("a"), host.project("b")
    lookout = host.lookout()
    lookout.prefetch([(one.known, one.settings, one.folder)])
    for each in (one, two):
        assert lookout.moves(each.known, each.settings, each.folder).digests == {DEBIAN: OLD}
    assert lookout.sight([DEBIAN], one.settings)[DEBIAN].digest == OLD
    assert host.hub.names == [DEBIAN]


def test_two_logins_ask_twice(host: Host) -> None:
    """What one may see, another may not."""
    name = "r.example/app:1"
    host.hub.digests[name] = OLD
    rests = {IMAGE: {name: ["id", OLD]}}
    login = {"registry-auth.r.example": ("me", "/etc/me")}
    other = {"registry-auth.r.example": ("you", "/etc/you")}
    mine = [host.project("a", rests, **login), host.project("b", rests, **login)]
    host.look(*mine, host.project("c", rests, **other), host.project("d", rests))
    assert {one.login for one in host.hub.asked} == {
        Login("me", "/etc/me"), Login("you", "/etc/you"), None
    }  # fmt: skip
    assert len(host.hub.asked) == 3
    # A login is for its own registry alone.
    host.look(host.project("e", **login))
    assert [one.login for one in host.hub.asked] == [None]


@pytest.mark.parametrize("check", [(), ("git",), ("context",)])
def test_nobody_asks_where_nobody_wants_to_know(host: Host, check: tuple[str, ...]) -> None:
    one = host.project("a", check=check)
    lookout = host.lookout()
    lookout.prefetch([(one.known, one.settings, one.folder)])
    assert lookout.moves(one.known, one.settings, one.folder) == Moves()
    assert lookout.moves(None, settings(), one.folder) == Moves()
    assert host.hub.asked == []
    assert not (host.state / "registries.json").exists()


def test_what_is_built_here_is_not_asked_for(host: Host) -> None:
    host.project("maker", makes={APP: "id-2"})
    outcomes, closer = host.look(host.project("a", {BASE: {APP: ["id-2", OLD]}}))
    assert (only(outcomes).outcome, closer, host.hub.asked) == ("fresh", [], [])


# What it finds


def test_a_project_under_which_something_moved_takes_a_closer_look(host: Host) -> None:
    still = host.project("still", {IMAGE: {REDIS: ["id", OLD]}})
    moved = host.project("moved")
    host.hub.digests[DEBIAN] = NEW
    outcomes, closer = host.look(still, moved)
    assert [one.name for one in outcomes] == ["still"]
    assert closer == [moved.project]
    lookout = host.lookout()
    (reason,) = lookout.moves(moved.known, moved.settings, moved.folder).reasons
    assert reason == ("base-moved", f"debian:12: {OLD} → {NEW}")


def test_a_project_of_which_nothing_is_known_takes_a_closer_look(host: Host) -> None:
    one = host.project("a", rests={})
    one.known.rests = {}
    assert host.look(one) == ([], [one.project])
    assert host.hub.asked == []


def test_a_project_whose_checkout_is_on_its_way_takes_a_closer_look(host: Host) -> None:
    one = host.project("a", forwarded="0" * 40)
    assert host.look(one) == ([], [one.project])


def test_what_another_project_has_built_anew(host: Host) -> None:
    host.project("maker", makes={APP: "id-1"})
    one = host.project("a", {BASE: {APP: ["id-1"]}})
    lookout = host.lookout()
    assert lookout.moves(one.known, one.settings, one.folder).reasons == ()
    host.project("maker", makes={APP: "id-2"})
    # One run sees one state of them, until it hears of an update.
    assert lookout.moves(one.known, one.settings, one.folder).reasons == ()
    lookout.forget_makers()
    (reason,) = lookout.moves(one.known, one.settings, one.folder).reasons
    assert reason == ("dependency-updated", "app:latest, built by maker: id-1 → id-2")


def test_a_project_is_no_other_to_itself(host: Host) -> None:
    one = host.project("a", {BASE: {DEBIAN: ["id", OLD]}}, makes={DEBIAN: "mine"})
    assert [one.outcome for one in host.look(one)[0]] == ["fresh"]
    assert host.hub.names == [DEBIAN]


def test_a_project_that_is_gone_or_damaged_builds_nothing(host: Host) -> None:
    gone = host.project("gone", makes={APP: "id-2"})
    os.unlink(gone.known.files[0])
    odd = host.project("odd", makes={APP: "id-2"})
    Path(odd.folder, "record.json").write_bytes(b"garbage")
    one = host.project("a", {BASE: {APP: ["id-1"]}})
    assert [one.outcome for one in host.look(one)[0]] == ["fresh"]


def test_who_rests_on_what_is_built_anew_takes_a_closer_look_as_well(host: Host) -> None:
    """Also at third hand; and whoever is in no need of it does not."""
    host.hub.digests[DEBIAN] = NEW
    top = host.project("top", {IMAGE: {TOOL: ["id"]}})
    middle = host.project("middle", {BASE: {APP: ["id"]}}, builds=[TOOL], makes={TOOL: "id"})
    maker = host.project("maker", builds=[APP], makes={APP: "id"})
    beside = host.project("beside", {IMAGE: {REDIS: ["id", OLD]}})
    careless = host.project("careless", {IMAGE: {TOOL: ["id"]}}, ignore=("tool",))
    outcomes, closer = host.look(top, middle, maker, beside, careless)
    assert {one.name for one in outcomes} == {"beside", "careless"}
    assert {Path(one.home).name for one in closer} == {"maker", "middle", "top"}
    lookout = host.lookout()
    host.hub.digests[DEBIAN] = OLD
    outcomes, closer = lookout.sort([middle, beside], [maker.project])
    assert [one.name for one in outcomes] == ["beside"]
    assert closer == [maker.project, middle.project]


def test_two_spellings_of_one_project_are_one_outcome(host: Host) -> None:
    one = host.project("a")
    other = locate(one.known.files[0], "/")
    again = host.fresh(other, one.known, one.settings)
    assert len(host.look(one, again)[0]) == 1
    host.hub.errors[DEBIAN] = "timed out"
    found = only(host.look(one, again)[0])
    assert found.outcome == "deferred"
    assert found.warnings == ("not checked: debian:12: timed out",)


# What it cannot ask


def test_a_project_that_could_not_be_checked_is_deferred_and_told_once(host: Host) -> None:
    one = host.project("a")
    told = "not checked: debian:12: timed out"
    assert only(host.look(one)[0]).exit_code == 0
    host.hub.errors[DEBIAN] = "timed out"
    first = only(host.look(one)[0])
    assert (first.outcome, first.exit_code) == ("deferred", 75)
    assert (first.warnings, first.unchecked, first.news) == ((told,), (told,), ())
    for error in ("timed out", "timed out", "refused"):
        host.hub.errors[DEBIAN] = error
        again = only(host.look(one)[0])
        assert (again.outcome, again.exit_code) == ("deferred", 75)
        assert (again.warnings, again.news) == ((), ())
        assert again.unchecked == (f"not checked: debian:12: {error}",)
    del host.hub.errors[DEBIAN]
    after = only(host.look(one)[0])
    assert (after.outcome, after.exit_code, after.warnings) == ("fresh", 0, ())
    assert after.news == ("checked again: debian:12",)
    assert only(host.look(one)[0]).news == ()
    # And once more from the beginning.
    host.hub.errors[DEBIAN] = "timed out"
    assert only(host.look(one)[0]).warnings == (told,)


def test_each_image_has_its_own_end(host: Host) -> None:
    one = host.project("a", {BASE: {DEBIAN: ["id", OLD]}, IMAGE: {REDIS: ["id", OLD]}})
    host.hub.errors = dict.fromkeys((DEBIAN, REDIS), "timed out")
    assert only(host.look(one)[0]).warnings == (
        "not checked: debian:12 and 1 more: timed out",
    )  # fmt: skip
    del host.hub.errors[REDIS]
    after = only(host.look(one)[0])
    assert (after.outcome, after.news, after.warnings) == (
        "deferred", ("checked again: redis:7",), ()
    )  # fmt: skip


def test_each_project_is_told_for_itself(host: Host) -> None:
    host.hub.errors[DEBIAN] = "timed out"
    first = only(host.look(host.project("a"))[0])
    assert only(host.look(host.project("b"))[0]).warnings == first.warnings != ()


def test_what_moved_is_found_beside_what_cannot_be_asked(host: Host) -> None:
    one = host.project("a", {BASE: {DEBIAN: ["id", OLD]}, IMAGE: {REDIS: ["id", OLD]}})
    host.hub.errors[DEBIAN] = "timed out"
    host.hub.digests[REDIS] = NEW
    assert host.look(one) == ([], [one.project])
    lookout = host.lookout()
    found = lookout.moves(one.known, one.settings, one.folder)
    assert [reason.kind for reason in found.reasons] == ["image-moved"]
    outcome = Outcome("a", "/a", "updated")
    lookout.tell(outcome, found, one.folder)
    assert (outcome.outcome, outcome.exit_code) == ("updated", 0)
    assert outcome.warnings == ("not checked: debian:12: timed out",)


def test_what_is_told_of_a_project_that_then_takes_a_closer_look_is_not_lost(host: Host) -> None:
    """It is fresh by itself, but rests on what another of this run builds anew."""
    maker = host.project("maker", {}, builds=[APP], makes={APP: "id"})
    one = host.project("a", {BASE: {DEBIAN: ["id", OLD], APP: ["id"]}})
    host.hub.errors[DEBIAN] = "timed out"
    lookout = host.lookout()
    assert lookout.sort([one], [maker.project])[0] == []
    outcome = Outcome("a", one.project.path, "fresh")
    found = lookout.moves(one.known, one.settings, one.folder)
    lookout.tell(outcome, found, one.folder)
    assert outcome.warnings == ("not checked: debian:12: timed out",)


def test_what_waits_is_told_at_each_run(host: Host) -> None:
    one = host.project("a", min_age=7 * 86400)
    host.look(one)
    host.hub.digests[DEBIAN] = NEW
    for _ in range(2):
        outcome = only(host.look(one)[0])
        assert (outcome.outcome, outcome.exit_code) == ("fresh", 0)
        assert outcome.warnings == ()
        assert [(each.reference, each.digest) for each in outcome.waits] == [(DEBIAN, NEW)]
        (note,) = outcome.notes
        assert note.startswith(f"waits: debian:12 {NEW}: seen for ")
    host.clock.sleep(7 * 86400 + 1)
    assert host.look(one) == ([], [one.project])


def test_a_digest_that_moves_again_waits_anew(host: Host) -> None:
    one = host.project("a", min_age=HOUR)
    for digest in ("sha256:2", "sha256:3", "sha256:4"):
        host.hub.digests[DEBIAN] = digest
        outcome = only(host.look(one)[0])
        assert [each.digest for each in outcome.waits] == [digest]
        host.clock.sleep(HOUR - 10)
    assert only(host.look(one)[0]).waits
    host.clock.sleep(20)
    assert host.look(one) == ([], [one.project])


# What it remembers


def test_a_question_holds_for_the_check_period(host: Host) -> None:
    one = host.project("a", check_period=HOUR)
    host.look(one)
    assert host.hub.names == [DEBIAN]
    host.hub.digests[DEBIAN] = NEW
    # cron may start a little early.
    for after, asked in ((HOUR - 120, []), (50, []), (15, [DEBIAN])):
        host.clock.sleep(after)
        _, closer = host.look(one)
        assert host.hub.names == asked
        assert closer == ([one.project] if asked else [])


def test_an_error_holds_for_the_check_period_too(host: Host) -> None:
    one = host.project("a", check_period=HOUR)
    host.hub.errors[DEBIAN] = "timed out"
    host.look(one)
    del host.hub.errors[DEBIAN]
    host.clock.sleep(HOUR / 2)
    outcome = only(host.look(one)[0])
    assert (outcome.outcome, outcome.warnings, host.hub.asked) == ("deferred", (), [])
    host.clock.sleep(HOUR / 2)
    outcome = only(host.look(one)[0])
    assert (outcome.outcome, outcome.news) == ("fresh", ("checked again: debian:12",))


def test_without_a_check_period_each_run_asks(host: Host) -> None:
    one = host.project("a")
    for _ in range(3):
        host.look(one)
        assert host.hub.names == [DEBIAN]


@pytest.mark.parametrize("order", [(0, HOUR), (HOUR, 0)])
def test_the_shortest_check_period_of_a_run_counts(host: Host, order: tuple[int, int]) -> None:
    projects = [host.project(f"p{period}", check_period=period) for period in order]
    host.look(*projects)
    host.hub.digests[DEBIAN] = NEW
    host.clock.sleep(HOUR / 2)
    _, closer = host.look(*projects)
    assert host.hub.names == [DEBIAN]
    assert locate(str(host.root / "p0"), "/") in closer


def test_a_clock_that_was_set_back_ends_the_check_period(host: Host) -> None:
    one = host.project("a", check_period=HOUR)
    host.look(one)
    host.clock.sleep(-86400)
    host.look(one)
    assert host.hub.names == [DEBIAN]


def test_what_one_user_was_told_is_not_told_another(host: Host) -> None:
    name = "r.example/app:1"
    host.hub.digests[name] = OLD
    rests = {IMAGE: {name: ["id", OLD]}}
    login = {"registry-auth.r.example": ("me", "/etc/me")}
    host.look(host.project("a", rests, check_period=HOUR, **login))
    for more, asked in ((login, []), ({}, [name])):
        host.look(host.project("b", rests, check_period=HOUR, **more))
        assert host.hub.names == asked


def test_a_registry_that_wants_to_be_left_alone_is_left_alone_by_the_next_run(host: Host) -> None:
    one = host.project("a")
    until = time.time() + HOUR
    host.hub.late = {"docker.io": until}
    host.look(one)
    host.hub.late = {}
    host.look(one)
    assert host.hub.not_before == {"docker.io": until}


def test_a_run_that_finds_nothing_new_writes_nothing(host: Host) -> None:
    one = host.project("a")
    host.look(one)
    before = host.files()
    host.look(one)
    assert host.files() == before
    # But what is asked for is not forgotten.
    host.clock.sleep(2 * 86400)
    host.look(one)
    assert host.files() != before


def test_a_dry_run_writes_nothing(host: Host) -> None:
    one = host.project("a", check_period=HOUR)
    before = host.files()
    host.hub.errors[DEBIAN] = "timed out"
    outcome = only(host.look(one, dry_run=True)[0])
    assert (outcome.outcome, len(outcome.warnings)) == ("deferred", 1)
    del host.hub.errors[DEBIAN]
    host.hub.late = {"docker.io": time.time() + HOUR}
    assert only(host.look(one, dry_run=True)[0]).outcome == "fresh"
    assert host.files() == before
    # Nor does it take the telling away from the run to come.
    host.hub.errors[DEBIAN] = "timed out"
    assert len(only(host.look(one)[0]).warnings) == 1


# Damage

DAMAGED = [b"", b"{", b"null", b"[]", b'"x"', b"\xff", b"[" * 100_000, b'{"told": 5}',
           b'{"told": {"a": 5}}', b'{"git_asked": "x"}', b'{"format": 1, "seen": 5}']  # fmt: skip


@pytest.mark.parametrize("name", ["registries.json", "checks.json"])
@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_files_cost_no_more_than_a_question(
    host: Host, name: str, content: bytes
) -> None:  # fmt: skip
    one = host.project("a", check_period=HOUR)
    path = Path(one.folder if name == "checks.json" else host.state) / name
    host.hub.errors[DEBIAN] = "timed out"
    host.look(one)
    before = json.loads(path.read_text())
    path.write_bytes(content)
    outcome = only(host.look(one)[0])
    assert outcome.outcome == "deferred"
    assert len(outcome.warnings) == (name == "checks.json")
    assert host.hub.names == ([DEBIAN] if name == "registries.json" else [])
    # And is whole again.
    assert json.loads(path.read_text()).keys() >= before.keys()
    assert only(host.look(one)[0]).warnings == ()


def test_a_state_folder_that_cannot_be_written_is_no_failure(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = host.project("a")
    host.hub.errors[DEBIAN] = "timed out"

    def full(path: str, text: str) -> None:
        raise record.unusable(path, OSError(28, "No space left on device"))

    with monkeypatch.context() as patch:
        patch.setattr("rbuild.state.checks.write_private", full)
        patch.setattr("rbuild.registries.sightings.write_private", full)
        for _ in range(2):
            assert len(only(host.look(one)[0]).warnings) == 1


# Git


@pytest.fixture
def git(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What git says: `head`, what is `ahead` (or an error), and whether it was `asked`."""
    said: dict[str, Any] = {"head": "aa", "ahead": "", "asked": 0}

    def ahead(place: Any, **more: Any) -> Any:
        said["asked"] += 1
        if "together" in said:
            said["together"].wait()
        if isinstance(said["ahead"], RbuildError):
            raise said["ahead"]
        return said["ahead"]

    monkeypatch.setattr(source, "head", lambda place, **more: said["head"])
    monkeypatch.setattr(source, "ahead", ahead)
    return said


def test_a_checkout_that_is_up_to_date_or_not(host: Host, git: dict[str, Any]) -> None:
    one = host.project("a", check=("git",), commit="aa")
    assert [each.outcome for each in host.look(one)[0]] == ["fresh"]
    git["ahead"] = "bb"
    assert host.look(one) == ([], [one.project])
    git.update(ahead="", head="cc")
    assert host.look(one) == ([], [one.project])
    git["ahead"] = source.SourceError("no checkout")
    assert host.look(one) == ([], [one.project])
    assert host.hub.asked == []


def test_a_remote_that_cannot_be_asked_defers(host: Host, git: dict[str, Any]) -> None:
    one = host.project("a", check=("git",), commit="aa")
    git["ahead"] = source.Unreachable("no route")
    first, second = (only(host.look(one)[0]) for _ in range(2))
    assert (first.outcome, first.warnings) == ("deferred", ("not checked: git: no route",))
    assert (second.outcome, second.warnings) == ("deferred", ())
    git["ahead"] = ""
    assert only(host.look(one)[0]).news == ("checked again: git",)


def test_remotes_are_asked_side_by_side(host: Host, git: dict[str, Any]) -> None:
    projects = [host.project(name, check=("git",), commit="aa") for name in "abc"]
    # Broken unless all three wait for the others.
    git["together"] = threading.Barrier(3, timeout=20)
    found, closer = host.look(*projects)
    assert ([one.name for one in found], closer) == (["a", "b", "c"], [])
    assert git["asked"] == 3


def test_a_signal_ends_the_asking_of_remotes(host: Host, git: dict[str, Any]) -> None:
    projects = [host.project(f"p{number}", check=("git",), commit="aa") for number in range(20)]
    stop = Stop()

    def ahead(place: Any, **more: Any) -> str:
        git["asked"] += 1
        stop.request(signal.SIGTERM)
        stop.check()
        return ""

    lookout = Lookout(Run(time.time(), {}, {}, {}, {}, host.store), stop)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "head", lambda place, **more: (stop.check(), "aa")[1])
        patch.setattr(source, "ahead", ahead)
        with pytest.raises(Interrupted):
            lookout.sort(projects, [])
    # Those that had begun by then, and no more.
    assert git["asked"] <= 8


def test_a_remote_is_asked_once_a_check_period(host: Host, git: dict[str, Any]) -> None:
    one = host.project("a", check=("git",), commit="aa", check_period=HOUR)
    for after, asked in ((0, 1), (HOUR / 2, 1), (HOUR / 2, 2)):
        host.clock.sleep(after)
        assert [each.outcome for each in host.look(one)[0]] == ["fresh"]
        assert git["asked"] == asked
    host.clock.sleep(HOUR)
    before = host.files()
    host.look(one, dry_run=True)
    assert (git["asked"], host.files()) == (3, before)


def test_an_upstream_that_is_ahead_is_so_at_the_next_run_too(
    host: Host, git: dict[str, Any]
) -> None:
    """The closer look may have been put off: a lock, a signal."""
    one = host.project("a", check=("git",), commit="aa", check_period=HOUR)
    git["ahead"] = "bb"
    for _ in range(2):
        assert host.look(one) == ([], [one.project])


def test_an_error_of_a_remote_holds_for_the_check_period_too(
    host: Host, git: dict[str, Any]
) -> None:
    one = host.project("a", check=("git",), commit="aa", check_period=HOUR)
    git["ahead"] = source.Unreachable("no route")
    for _ in range(2):
        assert only(host.look(one)[0]).outcome == "deferred"
    assert git["asked"] == 1


@pytest.mark.parametrize("error", [5, None, ["x"], {}])
def test_a_damaged_error_of_a_remote_costs_no_run(
    host: Host, git: dict[str, Any], error: Any
) -> None:
    one = host.project("a", check=("git",), commit="aa", check_period=HOUR)
    text = json.dumps({"git_asked": time.time(), "git_error": error})
    Path(one.folder, "checks.json").write_text(text)
    assert only(host.look(one)[0]).outcome == "fresh"
    assert git["asked"] == 1


def test_where_a_project_s_source_is(host: Host) -> None:
    one = host.project("a", **{"git.branch": "main", "git.remote": "up"})
    assert source_of(one.project, one.settings) == (str(host.root / "a"), "up", "main")
    assert source_of(one.project, settings()) == (str(host.root / "a"), "", "")
