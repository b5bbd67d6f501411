"""The order of projects: who builds an image comes before who rests on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rbuild import crew
from rbuild.compose.configuration import Configuration, parse
from rbuild.compose.loading import Loaded
from rbuild.compose.project import Project, locate
from rbuild.decisions import sequence
from rbuild.decisions.glance import Run
from rbuild.decisions.sequence import Node, arrange, of_configuration, of_record, order, waits
from rbuild.errors import ProjectError
from rbuild.process import Stop
from rbuild.report import Outcome
from rbuild.state import generation, record
from rbuild.state.record import Record, Store

APP, BASE = "docker.io/library/app:latest", "docker.io/library/base:latest"


def node(makes: str = "", rests: str = "") -> Node:
    return Node("n", frozenset(makes.split()), frozenset(rests.split()))


# Who waits for whom


def test_who_rests_on_an_image_waits_for_all_that_build_it() -> None:
    nodes = {
        "web": node("w", "a b x"), "one": node("a"), "two": node("b c"), "same": node("a"),
        "other": node("z"),
    }  # fmt: skip
    found = waits(nodes)
    assert set(found.pop("web")) == {"one", "two", "same"}
    assert found == {"one": [], "two": [], "same": [], "other": []}


def test_nobody_waits_for_itself() -> None:
    assert waits({"a": node("x", "x"), "b": node("y", "x")}) == {"a": [], "b": ["a"]}


def test_one_that_builds_two_of_the_images_is_waited_for_once() -> None:
    assert waits({"a": node("", "x y"), "b": node("x y")}) == {"a": ["b"], "b": []}


# The order


@pytest.mark.parametrize(
    ("wait", "order"),
    [
        ({}, []),
        ({"b": [], "a": [], "c": []}, ["b", "a", "c"]),
        ({"a": ["b"], "b": ["c"], "c": []}, ["c", "b", "a"]),
        ({"a": [], "top": ["right", "left"], "left": ["base"], "right": ["base"], "base": []},
         ["a", "base", "right", "left", "top"]),
        ({"a": ["z"], "b": []}, ["z", "a", "b"]),
    ],
)  # fmt: skip
def test_equals_stay_and_makers_come_first(wait: dict[str, list[str]], order: list[str]) -> None:
    assert arrange(wait) == (order, [])


def test_a_circle_is_named_and_the_rest_is_put_in_order() -> None:
    wait = {"a": ["b"], "b": ["c"], "c": ["a"], "on": ["a"], "alone": [], "under": ["alone"]}
    order, circles = arrange(wait)
    assert circles == [["a", "b", "c"]]
    assert set(order) == {"on", "alone", "under"}
    assert order.index("alone") < order.index("under")


def test_two_circles_are_both_named() -> None:
    order, circles = arrange({"a": ["b"], "b": ["a"], "c": ["d"], "d": ["c"], "e": []})
    assert (order, circles) == (["e"], [["a", "b"], ["c", "d"]])


def test_a_chain_may_be_longer_than_the_stack() -> None:
    wait = {number: [number + 1] for number in range(20_000)}
    order, circles = arrange(wait)
    assert order == list(range(20_000, -1, -1))
    assert circles == []
    assert arrange({**wait, 20_000: [0]}) == ([], [list(range(20_001))])


@st.composite
def graphs(draw: st.DrawFn) -> dict[int, list[int]]:
    """For each of some, those it waits for; never itself, and nobody twice."""
    size = draw(st.integers(0, 7))
    keys = draw(st.permutations(range(size)))
    return {
        key: draw(
            st.lists(st.sampled_from([one for one in range(size) if one != key]), unique=True)
            if size > 1
            else st.just([])
        )
        for key in keys
    }


def within_circles(wait: Mapping[int, list[int]]) -> set[int]:
    """All that wait, at last, for themselves."""
    found = set()
    for start in wait:
        reached: set[int] = set()
        todo = [*wait[start]]
        while todo:
            key = todo.pop()
            if key not in reached:
                reached.add(key)
                todo += wait[key]
        if start in reached:
            found.add(start)
    return found


@given(graphs())
@example({0: [1], 1: [0]})
def test_every_maker_comes_first_and_circles_are_found_where_there_are_any(
    wait: dict[int, list[int]],
) -> None:
    order, circles = arrange(wait)
    assert len(order) == len(set(order))
    for key in order:
        for maker in wait[key]:
            assert maker not in order or order.index(maker) < order.index(key)
    assert bool(circles) == bool(within_circles(wait))
    for circle in circles:
        assert len(circle) == len(set(circle)) > 1
        following = [*circle[1:], circle[0]]
        assert all(after in wait[key] for key, after in zip(circle, following, strict=True))
    assert len({frozenset(zip(one, [*one[1:], one[0]], strict=True)) for one in circles}) == len(
        circles
    )
    assert set(wait) - set(order) == {key for circle in circles for key in circle}


@given(graphs())
@example({0: [1, 2], 1: [0], 2: [1]})
def test_whatever_is_in_a_circle_is_in_no_order(wait: dict[int, list[int]]) -> None:
    order, _ = arrange(wait)
    assert set(order) == set(wait) - within_circles(wait)


# What a project makes and rests on


def test_a_project_by_its_record() -> None:
    known = Record(
        "site", "/p", builds=[APP], bases=["docker.io/library/debian:12"],
        services={
            "web": {"reference": "app"}, "next": {"reference": "base:latest"}, "none": {},
        },
    )  # fmt: skip
    found = of_record(known)
    assert (found.name, found.makes) == ("site", {APP})
    assert found.rests == {"docker.io/library/debian:12"}
    assert found.runs == {BASE}


def configuration(services: Mapping[str, Any], name: str = "site") -> Configuration:
    return parse({"name": name, "services": services}, "/p")


def inline(text: str, **more: Any) -> dict[str, Any]:
    return {"build": {"context": "/p", "dockerfile_inline": text}, **more}


def test_a_project_by_its_files() -> None:
    web = inline("FROM debian:12\nCOPY --from=tool / /\nCOPY --from=site-base / /", image="app")
    web["build"]["tags"] = ["app:1"]
    services = {"web": web, "base": inline("FROM scratch"), "db": {"image": "postgres:16"},
                "same": {"image": "app"}, "cloud": {"provider": {}}}  # fmt: skip
    found = of_configuration(configuration(services))
    assert found.name == "site"
    assert {one for one in found.makes if " " not in one} == {
        APP, "docker.io/library/app:1", "docker.io/library/site-base:latest"
    }  # fmt: skip
    assert {"container site-web-1", "container site-db-1"} <= found.makes
    assert found.rests == {
        "docker.io/library/debian:12", "docker.io/library/tool:latest",
    }  # fmt: skip
    assert found.runs == {"docker.io/library/postgres:16"}


@pytest.mark.parametrize("text", ["FROM", "FROM p-b"])
def test_a_project_whose_dockerfile_is_broken_still_makes_its_images(text: str) -> None:
    services = {"web": inline(text, image="app"), "db": {"image": "postgres:16"},
                "a": inline("FROM site-b"), "b": inline("FROM site-a")}  # fmt: skip
    found = of_configuration(configuration(services))
    assert APP in found.makes
    assert (found.rests, found.runs) == (frozenset(), {"docker.io/library/postgres:16"})


def test_who_runs_what_another_builds_comes_after_it_where_that_is_no_circle() -> None:
    """Only builds that rest on each other can't be put in order."""
    a, b = Node("a", frozenset("x"), runs=frozenset("y")), Node("b", frozenset("y"))
    assert order({"a": a, "b": b}) == (["b", "a"], [], {"a": ["b"], "b": []})
    b = b._replace(runs=frozenset("x"))
    assert order({"a": a, "b": b})[:2] == (["a", "b"], [])
    c = Node("c", frozenset("z"), frozenset("z"))
    assert order({"c": c})[1] == []
    d, e = Node("d", frozenset("p"), frozenset("q")), Node("e", frozenset("q"), frozenset("p"))
    keys, circles, _ = order({"a": a, "b": b, "d": d, "e": e})
    assert (keys, [{*one} for one in circles]) == (["a", "b"], [{"d", "e"}])


def uses(makes: str, uses: str, **more: Any) -> Node:
    names = (frozenset(filter(None, text.split(","))) for text in (makes, uses))
    return Node("n", next(names), uses=next(names), **more)


def test_who_uses_what_another_makes_comes_after_it_where_that_is_no_circle() -> None:
    app, proxy = uses("", "network front"), uses("network front,volume data", "")
    assert order({"app": app, "proxy": proxy})[0] == ["proxy", "app"]
    # Either can only be the second: what else they wait for is waited for all the same.
    proxy = uses("network front", "network back", runs=frozenset(["image"]))
    app = uses("network back", "network front,volume data")
    data, maker = uses("volume data", ""), Node("n", frozenset(["image"]))
    found, circles, wait = order({"app": app, "proxy": proxy, "data": data, "maker": maker})
    assert circles == []
    assert wait == {"app": ["data"], "proxy": ["maker"], "data": [], "maker": []}
    assert found.index("data") < found.index("app")
    # An image counts for more than a network.
    one = uses("network one", "", runs=frozenset(["image"]))
    maker = uses("image", "network one")
    assert order({"one": one, "maker": maker})[0] == ["maker", "one"]


@given(graphs(), graphs())
def test_what_is_only_used_makes_no_circle(
    rests: dict[int, list[int]], more: dict[int, list[int]]
) -> None:
    def named(wait: Mapping[int, list[int]], key: int) -> frozenset[str]:
        return frozenset(map(str, wait.get(key, ())))

    keys = {*rests, *more}
    nodes = {
        key: Node("n", frozenset([str(key)]), named(rests, key), uses=named(more, key))
        for key in keys
    }
    found, circles, wait = order(nodes)
    assert circles == order({key: one._replace(uses=frozenset()) for key, one in nodes.items()})[1]
    assert {*found} == keys - {key for circle in circles for key in circle}
    both = {key: [*rests.get(key, ()), *more.get(key, ())] for key in keys}
    for key in {*more} - within_circles(both):
        # Outside of circles, all is kept to.
        assert {*more[key]} <= {*wait[key]}


# Projects and records


class Host:
    """Projects in folders of their own, with records, and what their files would say."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = Store(str(root / "state"))
        self.files: dict[str, Configuration | ProjectError] = {}
        self.read: list[str] = []

    def project(self, name: str) -> Project:
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        (folder / "compose.yml").touch()
        return locate(str(folder), "/")

    def known(self, name: str, makes: str = "", rests: str = "", **more: Any) -> Project:
        """A project with a record under which nothing has changed."""
        project = self.project(name)
        view: dict[str, Any] = {"paths": {}, "variables": {}, "settings": {}}
        one = Record(
            name, project.home, files=[f"{project.home}/compose.yml"], key="00" * 16,
            builds=makes.split(), bases=rests.split(), views={project.spelling: view},
        )  # fmt: skip
        for key, value in more.items():
            setattr(one, key, value)
        folder = self.store.path(name, project.home)
        self.store.make(folder)
        record.write(folder, one)
        return project

    def load(self, project: Project) -> Loaded:
        name = Path(project.home).name
        self.read.append(name)
        found = self.files.get(name, ProjectError("no such file"))
        if isinstance(found, ProjectError):
            raise found
        folder = self.store.path(name, project.home)
        return cast(Loaded, SimpleNamespace(configuration=found, folder=folder))

    def nodes(self, *projects: Project) -> dict[str, Node]:
        run = Run(0.0, {}, {}, {}, {}, self.store)
        return sequence.nodes(projects, run, self.load)

    def folder(self, name: str) -> str:
        return self.store.path(name, str(self.root / name))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_project_is_told_by_its_record_and_others_count_by_their_folder(host: Host) -> None:
    web = host.known("web", rests=APP)
    host.known("maker", makes=APP)
    found = host.nodes(web)
    assert found == {
        web.spelling: Node("web", frozenset(), frozenset([APP])),
        host.folder("maker"): Node("maker", frozenset([APP])),
    }
    assert host.read == []
    assert waits(found)[web.spelling] == [host.folder("maker")]


def test_a_project_that_is_worked_is_told_by_what_runs_as_well(host: Host) -> None:
    app, maker = host.known("app"), host.known("maker")
    host.known("other")
    running = {
        "app": {"services": {"app": {"network_mode": "container:vpn"}}},
        "maker": {"services": {"vpn": {"container_name": "vpn"}}},
        "other": {"services": {"vpn": {"container_name": "vpn"}}},
    }
    for name, one in running.items():
        path = Path(host.folder(name), generation.RUNNING)
        generation.write_configuration(str(path), {"name": name, **one})
    found = host.nodes(app, maker)
    assert found[app.spelling].uses == {"container vpn"}
    assert waits({key: one._replace(rests=one.uses) for key, one in found.items()}) == {
        app.spelling: [maker.spelling], maker.spelling: [], host.folder("other"): []
    }  # fmt: skip
    assert host.read == []


def test_a_project_that_is_new_or_looks_changed_is_read(host: Host) -> None:
    changed = host.known("changed", makes=APP)
    seen: dict[str, Any] = {"paths": {"/absent": [1]}, "variables": {}, "settings": {}}
    host.known("changed", makes=APP, views={changed.spelling: seen})
    new = host.project("new")
    host.files = {
        "changed": configuration({"a": inline("FROM scratch", image="base")}, "changed"),
        "new": configuration({"a": inline("FROM base")}, "new"),
    }
    found = host.nodes(changed, new)
    assert host.read == ["changed", "new"]
    # Not by what its record still says.
    assert {one for one in found[changed.spelling].makes if " " not in one} == {BASE}
    assert host.folder("changed") not in found
    assert waits(found) == {changed.spelling: [], new.spelling: [changed.spelling]}


def test_another_spelling_of_a_project_is_read_and_is_not_its_own_maker(host: Host) -> None:
    host.known("web", makes=APP)
    host.known("other")
    spelled = locate(str(host.root / "web" / "compose.yml"), "/")
    host.files["web"] = configuration({"a": inline("FROM scratch", image="app")}, "web")
    found = host.nodes(spelled)
    assert host.read == ["web"]
    assert set(found) == {spelled.spelling, host.folder("other")}


def test_nobody_is_read_where_there_is_no_other(host: Host) -> None:
    new = host.project("new")
    assert host.nodes(new) == {new.spelling: Node(new.path)}
    assert host.read == []


def test_what_cannot_be_read_waits_for_nobody(host: Host) -> None:
    new = host.project("new")
    host.known("maker", makes=APP)
    host.known("other")
    found = host.nodes(new)
    assert host.read == ["new"]
    assert waits(found)[new.spelling] == []


def test_a_new_project_beside_a_single_other_is_read(host: Host) -> None:
    """The two may rest on each other."""
    new = host.project("new")
    host.known("maker", makes=APP, rests=BASE)
    host.files["new"] = configuration({"a": inline("FROM app", image="base")}, "new")
    _, circles = arrange(waits(host.nodes(new)))
    assert [set(one) for one in circles] == [{new.spelling, host.folder("maker")}]


def test_a_project_that_is_gone_or_whose_record_is_damaged_makes_nothing(host: Host) -> None:
    web = host.known("web", rests=APP)
    host.known("gone", makes=APP, files=["/absent/compose.yml"])
    host.known("odd", makes=APP)
    Path(host.folder("odd"), "record.json").write_bytes(b"garbage")
    assert set(host.nodes(web)) == {web.spelling}


def test_a_record_that_is_damaged_inside_is_read_anew(host: Host) -> None:
    web = host.known("web")
    broken = {"paths": {"/absent": None}, "variables": {"A": None}, "settings": {}}
    host.known("web", views={web.spelling: broken}, key="00")
    host.known("other")
    host.files["web"] = configuration({}, "web")
    assert host.nodes(web)[web.spelling].name == "web"


def test_a_circle_through_a_project_that_is_not_asked_for(host: Host) -> None:
    web = host.known("web", makes=BASE, rests=APP)
    host.known("maker", makes=APP, rests=BASE)
    _, circles = arrange(waits(host.nodes(web)))
    assert [set(one) for one in circles] == [{web.spelling, host.folder("maker")}]


# The crew keeps to it


class Listener:
    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def add(self, one: Outcome) -> None:
        self.outcomes.append(one)

    def tell(self, name: str, text: str, step: bool) -> None:
        """Nobody listens."""


def work(
    host: Host, projects: list[Project], task: Any, *, jobs: int = 1
) -> dict[str, Outcome]:  # fmt: skip
    listener = Listener()
    run = Run(0.0, {}, {}, {}, {}, host.store)
    crew.work(projects, run, listener, jobs=jobs, task=task, stop=Stop())
    return {one.name: one for one in listener.outcomes}


@pytest.mark.parametrize("jobs", [1, 3])
def test_who_builds_is_worked_before_who_rests_on_it(host: Host, jobs: int) -> None:
    top = host.known("top", rests=BASE)
    middle = host.known("middle", makes=BASE, rests=APP)
    maker = host.known("maker", makes=APP)
    begun: list[str] = []
    done: list[str] = []

    def task(project: Project, *more: Any) -> Outcome:
        name = Path(project.home).name
        assert done == begun
        begun.append(name)
        done.append(name)
        return Outcome(name, project.path, "fresh")

    assert len(work(host, [top, middle, maker], task, jobs=jobs)) == 3
    assert begun == ["maker", "middle", "top"]


@pytest.mark.parametrize("jobs", [2, 3])
def test_who_waits_keeps_nobody_else_waiting(host: Host, jobs: int) -> None:
    """Two at a time, too: while `top` waits for `maker`, it keeps no place from `beside`."""
    top = host.known("top", rests=APP)
    maker = host.known("maker", makes=APP)
    beside = host.known("beside")
    begun, done = Event(), Event()

    def task(project: Project, *more: Any) -> Outcome:
        name = Path(project.home).name
        if name == "beside":
            begun.set()
        if name == "maker":
            assert begun.wait(10)
            done.set()
        if name == "top":
            assert done.is_set()
        return Outcome(name, project.path, "fresh")

    found = work(host, [top, maker, beside], task, jobs=jobs)
    assert {one.outcome for one in found.values()} == {"fresh"}


def test_one_folder_is_worked_by_one_at_a_time(host: Host) -> None:
    one, beside = host.known("one"), host.known("beside")
    again = locate(f"{one.home}/compose.yml", "/")
    begun = Event()
    at_work: set[str] = set()

    def task(project: Project, *more: Any) -> Outcome:
        assert project.home not in at_work
        at_work.add(project.home)
        if project is beside:
            begun.set()
        assert begun.wait(10)
        at_work.remove(project.home)
        return Outcome(project.spelling, project.path, "fresh")

    found = work(host, [one, again, beside], task, jobs=2)
    assert [one.outcome for one in found.values()] == ["fresh"] * 3


def test_all_are_worked_though_nobody_can_be_told(host: Host) -> None:
    """As with a pipe that is closed, or a log on a full disk."""
    projects = [host.known(name) for name in "abc"]
    worked = []

    class Deaf(Listener):
        def add(self, one: Outcome) -> None:
            raise OSError("no space left")

    def task(project: Project, *more: Any) -> Outcome:
        worked.append(Path(project.home).name)
        return Outcome(worked[-1], project.path, "fresh")

    with pytest.raises(OSError, match="no space left"):
        crew.work(projects, Run(0.0, {}, {}, {}, {}, host.store), Deaf(), jobs=1, task=task,
                  stop=Stop())  # fmt: skip
    assert worked == ["a", "b", "c"]


def test_who_waits_is_worked_though_the_maker_fails(host: Host) -> None:
    projects = [host.known("top", rests=APP), host.known("maker", makes=APP)]

    def task(project: Project, *more: Any) -> Outcome:
        name = Path(project.home).name
        return Outcome(name, project.path, "fresh" if name == "top" else "failed")

    found = work(host, projects, task, jobs=2)
    assert {name: one.outcome for name, one in found.items()} == {"top": "fresh", "maker": "failed"}


def test_a_circle_is_an_error_that_names_it_and_the_others_are_worked(host: Host) -> None:
    one = host.known("one", makes=APP, rests=BASE)
    two = host.known("two", makes=BASE, rests=APP)
    top = host.known("top", rests=APP)
    worked = []

    def task(project: Project, *more: Any) -> Outcome:
        worked.append(Path(project.home).name)
        return Outcome(worked[-1], project.path, "fresh")

    found = work(host, [one, two, top], task)
    assert worked == ["top"]
    for name in ("one", "two"):
        assert (found[name].outcome, found[name].exit_code) == ("failed", 1)
        error = found[name].error
        assert error
        assert error.message.endswith("in a circle: one → two → one")
        assert error.hint


def test_a_circle_with_a_project_that_is_not_asked_for_names_it_too(host: Host) -> None:
    one = host.known("one", makes=APP, rests=BASE)
    host.known("two", makes=BASE, rests=APP)
    (found,) = work(host, [one], None).values()
    assert found.error
    assert "one → two → one" in found.error.message


def test_two_circles_through_one_project_report_it_once(host: Host) -> None:
    one = host.known("one", makes=APP, rests=f"{BASE} z")
    two, three = host.known("two", makes=BASE, rests=APP), host.known("three", makes="z", rests=APP)
    listener = Listener()
    crew.work([one, two, three], Run(0.0, {}, {}, {}, {}, host.store), listener, jobs=1,
              stop=Stop())  # fmt: skip
    assert sorted(each.name for each in listener.outcomes) == ["one", "three", "two"]
