"""Whether a name is asked of a registry: what has come from one is, whenever it came; what is
only here is used as it is, whichever store has it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .engines import Engine, PrivateEngine, machine_engine, private_engine
from .projects import Ran, Site, new_site
from .published import publish

NewProject = Callable[[str], Site]
LABELS = {"com.docker.compose.project": "other", "com.docker.compose.service": "web"}
CHECK = ("--check", "base,image")


@pytest.fixture(scope="module", params=["overlay2", "containerd"])
def store(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine with the one image store, and one with the other."""
    if request.param == "overlay2":
        yield machine_engine()
        return
    with private_engine(containerd=True) as engine:
        yield engine


@pytest.fixture
def project(store: Engine, tmp_path: Path) -> Iterator[NewProject]:
    """Makes a project whose service is built `FROM` an image."""
    made: list[Site] = []

    def make(base: str) -> Site:
        site = new_site(
            store,
            tmp_path,
            {},
            settings="{settle-period: 0}",
            more="  web: {build: ., init: true, stop_grace_period: 0s}\n",
        )
        site.write("Dockerfile", f'FROM {base.replace("$NAME", site.name)}\nCMD ["sleep", "999"]\n')
        made.append(site)
        return site

    yield make
    for one in made:
        names = store.run("docker", "images", "--format", "{{.Repository}}:{{.Tag}}").split()
        own = [name for name in names if f"{one.name}/" in name]
        one.remove()
        if own:
            store.run("docker", "rmi", "-f", *own, check=False)


def build(site: Site, name: str, text: str) -> None:
    """Build an image by hand, with this text in /v."""
    site.write("by-hand/Dockerfile", f"FROM $BASE\nRUN echo {text} >/v\n")
    site.engine.run("docker", "build", "-q", "-t", name, str(site.folder / "by-hand"))


def version(site: Site, service: str = "web") -> str:
    return site.engine.run("docker", "exec", f"{site.name}-{service}-1", "cat", "/v").strip()


def put(site: Site, text: str, **more: object) -> str:
    """Publish a base from elsewhere, with this text in /v; its name."""
    return publish(f"{site.name}/base", "1", {"/v": f"{text}\n"}, **more)


def own_base(site: Site) -> str:
    return f"{os.environ['RBUILD_REGISTRY']}/{site.name}/base:1"


def updates(ran: Ran, reason: str) -> bool:
    assert ran.code == 0, ran.err
    return reason in ran.out and not ran.err


def test_what_was_just_built_and_pushed_is_asked_for(project: NewProject) -> None:
    """A webhook's flow: a push, and at once an update."""
    site = project(f"{os.environ['RBUILD_REGISTRY']}/$NAME/base:1")
    build(site, own_base(site), "one")
    site.engine.run("docker", "push", "-q", own_base(site))
    assert updates(site.rbuild(*CHECK), "new")
    assert site.rbuild(*CHECK).silent
    put(site, "two")
    assert updates(site.rbuild(*CHECK), "base-moved")
    assert version(site) == "two"
    assert site.rbuild(*CHECK).silent


def test_what_was_pulled_by_hand_is_asked_for_whatever_its_labels(project: NewProject) -> None:
    """Those of Compose are inherited, and go to registries with what is pushed."""
    site = project(f"{os.environ['RBUILD_REGISTRY']}/$NAME/base:1")
    put(site, "one", Labels=LABELS)
    site.engine.run("docker", "pull", "-q", own_base(site))
    put(site, "two", Labels=LABELS)
    assert updates(site.rbuild(*CHECK), "new")
    assert version(site) == "two"
    put(site, "three", Labels=LABELS)
    assert updates(site.rbuild(*CHECK), "base-moved")
    assert version(site) == "three"


@pytest.mark.parametrize(
    ("how", "name"), [("tagged", "$NAME/base:1"), ("built", "$REGISTRY/$NAME/base:1")]
)
def test_what_is_only_here_is_used_as_it_is(project: NewProject, name: str, how: str) -> None:
    """Where no registry has it, or none can be reached that might."""
    site = project(name.replace("$REGISTRY", os.environ["RBUILD_REGISTRY"]))
    base = site.folder.joinpath("Dockerfile").read_text().split()[1]
    if how == "built":
        build(site, base, "one")
    else:
        site.engine.run("docker", "tag", os.environ["RBUILD_BASE"], base)
    ran = site.rbuild("-v", *CHECK)
    assert ran.code == 0, ran.err
    assert "warning" not in ran.err
    assert f"{site.name}: note: {base}: " in ran.out
    ran = site.rbuild(*CHECK)
    assert (ran.code, ran.silent) == (0, True), ran.err
    # It is no secret that its moves are not seen.
    assert f"note: {base}: " in site.rbuild("-v", *CHECK).out
    assert f"  unasked   {base}: " in site.rbuild("status", RBUILD_CHECK="base").out
    assert updates(site.rbuild("--force-rebuild"), "forced")


def test_a_service_runs_what_is_only_here(project: NewProject) -> None:
    site = project("$BASE")
    site.write("compose.yml", "services: {web: {image: $NAME/tool:1, init: true}}\n"
               .replace("$NAME", site.name))  # fmt: skip
    site.write("by-hand/Dockerfile", "FROM $BASE\nRUN echo one >/v\nCMD sleep 999\n")
    site.engine.run("docker", "build", "-qt", f"{site.name}/tool:1", str(site.folder / "by-hand"))
    assert updates(site.rbuild(*CHECK), "new")
    assert version(site) == "one"
    assert site.rbuild(*CHECK).silent


def test_what_was_only_here_is_taken_from_the_registry_once_it_has_it(project: NewProject) -> None:
    site = project(f"{os.environ['RBUILD_REGISTRY']}/$NAME/base:1")
    build(site, own_base(site), "one")
    assert updates(site.rbuild(*CHECK), "new")
    site.engine.run("docker", "push", "-q", own_base(site))
    assert site.rbuild(*CHECK).silent
    put(site, "two")
    ran = site.rbuild(*CHECK)
    if not isinstance(site.engine, PrivateEngine):
        # This store had said for sure that it was only here; it is asked again with an update.
        assert ran.silent
        ran = site.rbuild("--force-rebuild", *CHECK)
    assert ran.code == 0, ran.err
    assert version(site) == "two"
    put(site, "three")
    assert updates(site.rbuild(*CHECK), "base-moved")
    assert version(site) == "three"
