"""Projects that build upon each other's images: in which order, and what follows what."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Project, clean_up
from .tools import image_id, inside, record


@pytest.fixture
def chain(project: Project) -> Iterator[Project]:
    """Three projects in folders of one: `b` builds upon `a`, `c` upon `b` and runs."""
    name = project.name
    for one, base in (("a", "$BASE"), ("b", f"{name}/a"), ("c", f"{name}/b")):
        up = "true, settle-period: 0" if one == "c" else "false"
        project.write(
            f"{one}/compose.yml",
            f"name: {name}{one}\n"
            f"services: {{{one}: {{build: ., image: {name}/{one}, init: true}}}}\n"
            f"x-rbuild: {{up: {up}}}\n",
        )
        project.write(
            f"{one}/Dockerfile",
            f"FROM {base}\nRUN cat /proc/sys/kernel/random/uuid >/{one}\nCMD sleep 1000\n",
        )
    yield project
    for one in "abc":
        clean_up(f"{name}{one}")
    images = [f"{name}/{one}" for one in "abc"]
    subprocess.run(["docker", "rmi", "-f", *images], capture_output=True)


def names(out: str) -> str:
    """Which of the three were updated, in order."""
    return "".join(line.partition(":")[0][-1] for line in out.splitlines())


def what_runs(chain: Project) -> list[str]:
    return [inside(f"{chain.name}c-c-1", "cat", f"/{one}") for one in "abc"]


def content(chain: Project, one: str) -> str:
    """What an image's own build has written."""
    argv = ["docker", "run", "--rm", f"{chain.name}/{one}", "cat", f"/{one}"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def holds(chain: Project) -> bool:
    """Whether what runs was built upon the newest of each."""
    return what_runs(chain) == [content(chain, one) for one in "abc"]


@pytest.mark.parametrize(("order", "jobs"), [("cba", "1"), ("bca", "4")])
def test_in_one_call_whatever_the_order(chain: Project, order: str, jobs: str) -> None:
    ran = chain.rbuild("--jobs", jobs, *order)
    assert (ran.code, names(ran.out)) == (0, "abc"), ran.err
    assert holds(chain)
    ran = chain.rbuild("--check", "base,image", *order)
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    before = what_runs(chain)
    assert names(chain.rbuild("--force-rebuild", "a").out) == "a"
    # Those that rest on it are fresh by their records: they are looked at when `a` is done.
    chain.write("a/Dockerfile", (chain.folder / "a/Dockerfile").read_text() + "LABEL x=y\n")
    ran = chain.rbuild("--check", "base,image", "--jobs", jobs, *order)
    assert (ran.code, names(ran.out)) == (0, "abc"), ran.err
    assert f"dependency-updated: {chain.name}/b:latest, built by {chain.name}b: sha256:" in ran.out
    assert holds(chain)
    assert all(one not in before for one in what_runs(chain))


def test_in_separate_calls_in_any_order(chain: Project) -> None:
    assert chain.rbuild(*"abc").code == 0
    old = what_runs(chain)
    assert chain.rbuild("--force-rebuild", "a").code == 0
    check = ("--check", "base,image")
    # What it rests on has not been built anew yet: nothing to do, and no loop begins.
    assert chain.rbuild(*check, "c").out == ""
    assert names(chain.rbuild(*check, "b").out) == "b"
    assert names(chain.rbuild(*check, "c").out) == "c"
    assert holds(chain)
    assert what_runs(chain) != old
    for one in "cba":
        ran = chain.rbuild(*check, one)
        assert (ran.code, ran.out, ran.err) == (0, "", "")


def test_a_circle_is_named_and_the_others_are_worked(chain: Project, tmp_path: Path) -> None:
    assert chain.rbuild(*"abc").code == 0
    chain.edit("a/Dockerfile", "$BASE".replace("$BASE", chain.base), f"{chain.name}/c")
    chain.write(
        "d/compose.yml",
        f"name: {chain.name}d\nservices: {{d: {{build: {{dockerfile_inline: 'FROM $BASE'}}}}}}\n"
        "x-rbuild: {up: false}\n",
    )
    before = image_id(f"{chain.name}/a")
    ran = chain.rbuild("a", "b", "c", "d")
    assert ran.code == 1
    a, b, c = (f"{chain.name}{one}" for one in "abc")
    assert f"{a}: projects build upon each other's images in a circle" in ran.err
    assert f": {a} → {c} → {b} → {a}\n" in ran.err
    assert names(ran.out) == "d"
    # In a call of its own as well; it is told once, unless a person asks.
    ran = chain.rbuild("a")
    assert (ran.code, ran.err) == (75, "")
    assert "in a circle" in chain.rbuild("status", "a").out
    ran = chain.rbuild("--force-rebuild", "a")
    assert ran.code == 1
    assert "in a circle" in ran.err
    assert image_id(f"{chain.name}/a") == before
    clean_up(f"{chain.name}d")


def test_what_is_only_built_is_put_back_when_a_build_fails(chain: Project) -> None:
    assert chain.rbuild("a").code == 0
    before = image_id(f"{chain.name}/a")
    chain.write("a/Dockerfile", "FROM $BASE\nRUN false\n")
    ran = chain.rbuild("a")
    assert ran.code == 1
    assert image_id(f"{chain.name}/a") == before
    assert chain.rbuild("a").code == 75
    chain.write("a/Dockerfile", "FROM $BASE\nRUN true\n")
    assert chain.rbuild("a").code == 0
    assert image_id(f"{chain.name}/a") != before
    own = Project(chain.folder / "a", f"{chain.name}a", chain.base, chain.env)
    assert own.containers() == {}
    assert record(own)["makes"] == {f"docker.io/{chain.name}/a:latest": image_id(f"{chain.name}/a")}


def test_what_is_only_built_is_pushed_where_it_has_a_name(project: Project, own: str) -> None:
    project.write(
        "compose.yml",
        f"services:\n  out: {{build: ., image: '{own}/out:1'}}\n  nameless: {{build: .}}\n"
        "x-rbuild: {up: false, push: true}\n",
    )
    project.write("Dockerfile", "FROM $BASE\nLABEL a=b\n")
    ran = project.rbuild()
    assert ran.code == 0, ran.err
    subprocess.run(["docker", "rmi", "-f", f"{own}/out:1"], check=True, capture_output=True)
    subprocess.run(["docker", "pull", "-q", f"{own}/out:1"], check=True, capture_output=True)
    assert project.containers() == {}
    # A registry that takes nothing: the name means what it meant.
    before = image_id(f"{own}/out:1")
    project.edit(
        "compose.yml", "x-rbuild", "  gone: {build: ., image: '127.0.0.1:1/x:1'}\nx-rbuild"
    )
    ran = project.rbuild()
    assert ran.code == 1
    assert "127.0.0.1:1/x:1: cannot be pushed" in ran.err
    assert image_id(f"{own}/out:1") == before
    subprocess.run(["docker", "rmi", "-f", "127.0.0.1:1/x:1"], capture_output=True)
