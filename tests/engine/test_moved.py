"""Images that move in a real registry: what is updated for them, what waits, what is not asked."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..faults.published import publish as put
from .conftest import Project, Ran
from .registries import (
    PASSWORD,
    USER,
    Front,
    Registry,
    front,
    private_registry,
    registry,
)
from .tools import ids, inside, log, new_project, record

SLEEP = ["sleep", "1000"]


@pytest.fixture
def moving(project: Project) -> Project:
    """A project with a base, an image of its own, and a service that rests on neither."""
    name = project.name
    project.write(
        "compose.yml",
        f"""\
services:
  web: {{build: ., init: true}}
  upon: {{build: {{dockerfile_inline: "FROM {name}-web\\nRUN date >/d\\n"}}, init: true}}
  side: {{image: "{put_image(project, "side", "one")}", init: true}}
  still: {{build: {{dockerfile_inline: "FROM $BASE\\nCMD sleep 1000\\n"}}, init: true}}
x-rbuild: {{settle-period: 1, check: [base, image]}}
""",
    )
    project.write("Dockerfile", f"FROM {put_image(project, 'base', 'one')}\n")
    assert project.rbuild().code == 0
    return project


def put_image(project: Project, name: str, text: str) -> str:
    """Let a tag in the registry mean an image with this text in /v."""
    return put(f"{project.name}/{name}", "1", {"/v": text}, Cmd=SLEEP)


def version(project: Project, service: str = "web") -> str:
    return inside(f"{project.name}-{service}-1", "cat", "/v")


def reasons(ran: object) -> list[tuple[str, str]]:
    (one,) = ran.document["projects"]  # type: ignore[attr-defined]
    return [(each["kind"], each["detail"]) for each in one["reasons"]]


def age(state_dir: Path, seconds: float) -> None:
    """Let all that registries were seen to have be older than it is."""
    path = state_dir / "registries.json"
    memory = json.loads(path.read_text())
    for one in memory["seen"].values():
        one[1] -= seconds
    path.write_text(json.dumps(memory))


def test_a_base_that_moved(moving: Project) -> None:
    before = ids(moving)
    assert moving.rbuild().code == 0
    assert ids(moving) == before
    reference = put_image(moving, "base", "two")
    (old,) = record(moving)["rests"]["base"][reference][1:]
    dry = moving.rbuild("-n")
    assert "base-moved" in dry.out
    assert ids(moving) == before
    ran = moving.rbuild("--json")
    assert ran.code == 0
    ((kind, detail),) = reasons(ran)
    assert kind == "base-moved"
    (new,) = record(moving)["rests"]["base"][reference][1:]
    assert detail == f"{reference}: {old} → {new}"
    assert version(moving) == version(moving, "upon") == "two"
    ran = moving.rbuild()
    assert (ran.code, ran.out, ran.err) == (0, "", "")


def test_only_what_moved_is_updated_where_that_is_asked_for(moving: Project) -> None:
    before, known = ids(moving), record(moving)
    put_image(moving, "base", "two")
    ran = moving.rbuild("--update", "moved")
    assert ran.code == 0
    assert ran.out.startswith(f"{moving.name}: updated upon, web in ")
    after = ids(moving)
    same = {name for name, one in after.items() if before[name] == one}
    assert same == {f"{moving.name}-{name}-1" for name in ("side", "still")}
    assert version(moving) == version(moving, "upon") == "two"
    assert "still" not in log(moving).partition("build ")[2].splitlines()[0]
    # What was not updated is as old as it was: its time comes when it would have come.
    assert record(moving)["built"] == known["built"]
    assert record(moving)["bases"] == known["bases"]

    put_image(moving, "side", "two")
    ran = moving.rbuild("--json", "--update", "moved")
    assert [kind for kind, _ in reasons(ran)] == ["image-moved"]
    assert version(moving, "side") == "two"
    changed = {name for name, one in ids(moving).items() if after[name] != one}
    assert changed == {f"{moving.name}-side-1"}
    assert moving.rbuild().code == 0
    # A plain `up` of a person's finds nothing to do.
    before = ids(moving)
    moving.compose("up", "-d")
    assert ids(moving) == before


def test_what_is_ignored_pinned_or_watched(moving: Project) -> None:
    watched = put_image(moving, "watched", "one")
    base = put_image(moving, "base", "one")
    moving.edit(
        "compose.yml", "check: [base, image]",
        f"check: [base, image], watch: ['{watched}'], ignore: ['{base.rpartition(':')[0]}']",
    )  # fmt: skip
    # What it is now is learnt, and is no reason.
    assert moving.rbuild().out == ""
    put_image(moving, "base", "two")
    assert moving.rbuild().out == ""
    put_image(moving, "watched", "two")
    ran = moving.rbuild("--json")
    assert [kind for kind, _ in reasons(ran)] == ["base-moved"]
    assert version(moving) == "two"
    digest = record(moving)["rests"]["base"][base][1]
    moving.write("Dockerfile", f"FROM {base}@{digest}\n")
    moving.edit("compose.yml", f", ignore: ['{base.rpartition(':')[0]}']", "")
    assert moving.rbuild().code == 0
    put_image(moving, "base", "three")
    assert moving.rbuild().out == ""


def test_a_new_digest_waits_until_it_is_old_enough(moving: Project, state_dir: Path) -> None:
    env = {"RBUILD_MIN_AGE": "3d"}
    assert moving.rbuild(**env).code == 0
    reference = put_image(moving, "base", "two")
    ran = moving.rbuild("--json", **env)
    (one,) = ran.document["projects"]
    assert (one["outcome"], [each["image"] for each in one["waits"]]) == ("fresh", [reference])
    status = moving.rbuild("status", **env)
    assert f"waits     {reference} sha256:" in status.out
    # Whatever else is due builds on what there was, be it here or gone.
    subprocess.run(["docker", "rmi", "-f", reference], check=True, capture_output=True)
    assert moving.rbuild("--force-rebuild", **env).code == 0
    assert version(moving) == "one"
    age(state_dir, 4 * 86400)
    ran = moving.rbuild("--json", **env)
    assert [kind for kind, _ in reasons(ran)] == ["base-moved"]
    assert version(moving) == "two"
    assert moving.rbuild(**env).code == 0


def test_a_failed_update_is_tried_again_when_there_is_yet_another(moving: Project) -> None:
    put(f"{moving.name}/base", "1", {"/v": "bad"}, Cmd=["false"])
    ran = moving.rbuild()
    assert ran.code == 3
    assert "base-moved" in ran.err
    assert version(moving) == "one"
    ran = moving.rbuild()
    assert (ran.code, ran.err) == (75, "")
    put_image(moving, "base", "three")
    ran = moving.rbuild("--json")
    assert ran.code == 0
    assert version(moving) == "three"


def test_asked_with_head_and_no_more_than_needed(project: Project, tmp_path: Path) -> None:
    folder = tmp_path / "registry"
    with registry(folder) as own:
        reference = copy(project, own)
        project.write("compose.yml", "services: {web: {build: ., init: true}}\n")
        project.write("Dockerfile", f"FROM {reference}\nCMD sleep 1000\n")
        assert project.rbuild("--settle-period", "0").code == 0
        before = len(own.manifests_asked())
        assert project.rbuild("--check", "base").code == 0
        assert [method for method, _ in own.manifests_asked()[before:]] == ["HEAD"]
        assert project.rbuild("--check", "base", "--check-period", "1h").code == 0
        assert len(own.manifests_asked()) == before + 1


def copy(project: Project, own: Registry, **more: str) -> str:
    """A small base image in a registry of the test's own; its reference."""
    reference = f"{own.address}/{project.name}/base:1"
    commands = [
        ["docker", "tag", project.base, reference],
        ["docker", "push", "-q", reference],
        ["docker", "rmi", reference],
    ]
    for command in commands:
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, **more})
    return reference


def test_a_registry_that_is_gone_is_told_once(project: Project, tmp_path: Path) -> None:
    folder = tmp_path / "registry"
    with registry(folder) as own:
        reference = copy(project, own)
        project.write(
            "compose.yml",
            "services: {web: {build: ., init: true}}\n"
            "x-rbuild: {settle-period: 0, check: [base]}\n",
        )
        project.write("Dockerfile", f"FROM {reference}\nCMD sleep 1000\n")
        assert project.rbuild().code == 0
        assert project.rbuild().code == 0
    ran = project.rbuild()
    assert (ran.code, ran.out) == (75, "")
    (line,) = ran.err.splitlines()
    assert line.startswith(f"{project.name}: warning: not checked: {reference}: ")
    ran = project.rbuild("--json")
    assert (ran.code, ran.err) == (75, "")
    (one,) = ran.document["projects"]
    assert (one["outcome"], one["reasons"]) == ("deferred", [])
    assert len(one["unchecked"]) == 1
    # What is due for another reason is not kept from its update by that.
    project.edit("compose.yml", "init: true", "init: true, environment: {A: b}")
    project.write("Dockerfile", "FROM $BASE\nCMD sleep 1000\n")
    ran = project.rbuild()
    assert ran.code == 0
    assert "changed" in ran.out
    # It is no longer asked for, which is no sign that it answers.
    assert "checked again" not in project.rbuild().err + ran.err


@dataclass
class Pair:
    """Two projects worked in one call: `fronted` rests on what comes through `front`."""

    fronted: Project
    other: Project
    front: Front

    def __call__(self, *arguments: str) -> Ran:
        folders = [str(one.folder) for one in (self.fronted, self.other)]
        return self.fronted.rbuild(*arguments, *folders)

    def publish(self, text: str) -> None:
        """Let the bases of both move."""
        for one in (self.fronted, self.other):
            put_image(one, "base", text)

    def versions(self) -> list[str]:
        return [version(one) for one in (self.fronted, self.other)]


@pytest.fixture
def pair(project: Project, registry: str, tmp_path: Path, state_dir: Path) -> Iterator[Pair]:
    with new_project(tmp_path, state_dir) as other, front(registry) as before:
        both = Pair(project, other, before)
        both.publish("one")
        for one, address in ((project, before.address), (other, registry)):
            one.write(
                "compose.yml",
                "services: {web: {build: ., init: true}}\n"
                "x-rbuild: {settle-period: 0, check: [base]}\n",
            )
            one.write("Dockerfile", f"FROM {address}/{one.name}/base:1\n")
        ran = both()
        assert ran.code == 0, ran.err
        assert both.versions() == ["one", "one"]
        yield both


def test_a_registry_that_hangs_holds_up_nothing_else(pair: Pair) -> None:
    pair.front.hangs = True
    pair.publish("two")
    ran = pair("--jobs", "2")
    assert ran.code == 75
    assert [line for line in ran.out.splitlines() if "updated" in line] == ran.out.splitlines()
    assert pair.versions() == ["one", "two"]
    (line,) = ran.err.splitlines()
    assert line.startswith(f"{pair.fronted.name}: warning: not checked: ")
    assert "no answer within 10 s" in line

    # It is told once; and once when it is over, with what had moved meanwhile.
    ran = pair()
    assert (ran.code, ran.out, ran.err) == (75, "", "")
    pair.front.hangs = False
    ran = pair()
    assert (ran.code, pair.versions()) == (0, ["two", "two"])
    assert "checked again" in ran.out + ran.err
    ran = pair()
    assert (ran.code, ran.out, ran.err) == (0, "", "")


def test_a_registry_that_says_too_many_requests_is_left_alone(pair: Pair, state_dir: Path) -> None:
    pair.front.refuses = {"Retry-After": "3600"}
    pair.publish("two")
    before = len(pair.front.asked)
    ran = pair()
    assert (ran.code, pair.versions()) == (75, ["one", "two"])
    (line,) = ran.err.splitlines()
    assert "429 Too Many Requests: asked again after " in line
    assert pair.front.asked[before:].count("HEAD") == 1

    # Not asked again until its time has come, also by a run that it would answer.
    pair.front.refuses = None
    asked = len(pair.front.asked)
    ran = pair()
    assert (ran.code, ran.out, ran.err) == (75, "", "")
    assert len(pair.front.asked) == asked
    memory = json.loads((state_dir / "registries.json").read_text())
    assert 3500 < memory["not_before"][pair.front.address] - time.time() < 3600
    memory["not_before"][pair.front.address] -= 3600
    (state_dir / "registries.json").write_text(json.dumps(memory))
    ran = pair()
    assert (ran.code, pair.versions()) == (0, ["two", "two"])


def test_a_registry_that_knows_no_manifest_by_head(pair: Pair) -> None:
    pair.front.is_blind = True
    before = len(pair.front.asked)
    ran = pair()
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    assert pair.front.asked[before:] == ["HEAD", "GET"]
    pair.publish("two")
    ran = pair()
    assert (ran.code, ran.err, pair.versions()) == (0, "", ["two", "two"])
    assert ran.out.count("base-moved") == 2


def test_a_tag_that_is_gone_is_asked_for_by_get_once_a_day(pair: Pair, state_dir: Path) -> None:
    pair.front.gone.add("1")
    before = len(pair.front.asked)
    ran = pair()
    assert (ran.code, ran.out) == (75, "")
    (line,) = ran.err.splitlines()
    assert line.startswith(f"{pair.fronted.name}: warning: not checked: {pair.front.address}/")
    assert line.endswith(": 404: no such image or tag")
    for _ in range(2):
        ran = pair()
        assert (ran.code, ran.out, ran.err) == (75, "", "")
    assert pair.front.asked[before:] == ["HEAD", "GET", "HEAD", "HEAD"]
    memory = json.loads((state_dir / "registries.json").read_text())
    for one in memory["seen"].values():
        one[4] -= 86400
    (state_dir / "registries.json").write_text(json.dumps(memory))
    assert pair().code == 75
    assert pair.front.asked[before + 4 :] == ["HEAD", "GET"]
    pair.front.gone.clear()
    ran = pair()
    assert (ran.code, "checked again" in ran.err) == (0, True)


def test_a_private_registry_with_a_login_of_its_own(project: Project, tmp_path: Path) -> None:
    """Docker was never logged in; the secret goes nowhere."""
    folder = tmp_path / "registry"
    with private_registry(folder) as own:
        image = f"{own.address}/p/base:1"
        own.put_image("p/base", "1", text="one")
        project.write("password", PASSWORD + "\n")
        project.write(
            "compose.yml",
            f"""\
services: {{only: {{build: {{dockerfile_inline: "FROM {image}\\nLABEL a=b\\n"}}}}}}
x-rbuild:
  up: false
  check: [base]
  registry-auth: {{"{own.address}": {{username: {USER}, password-file: password}}}}
""",
        )
        ran = project.rbuild("-v")
        assert ran.code == 0, ran.err
        assert project.rbuild().out == ""
        own.put_image("p/base", "1", text="two")
        ran = project.rbuild()
        assert ran.code == 0, ran.err
        assert "base-moved" in ran.out
        state = Path(os.environ["RBUILD_STATE_DIR"])
        secret = PASSWORD.encode()
        told = [path for path in state.rglob("*") if path.is_file() and secret in path.read_bytes()]
        assert told == []
        assert list(state.rglob("docker-config")) == []
        project.write("password", "wrong\n")
        ran = project.rbuild()
        assert ran.code == 75
        assert "401" in ran.err
        assert "wrong" not in ran.err


def test_an_index_that_moves_for_another_platform_only(project: Project, tmp_path: Path) -> None:
    """The digest is the index's; what is pulled stays the same image, and that is no loop."""
    with registry(tmp_path / "registry") as own:
        own.put_index("p/base", "1", text="one")
        reference = f"{own.address}/p/base:1"
        project.write(
            "compose.yml",
            f"services: {{only: {{build: {{dockerfile_inline: 'FROM {reference}'}}}}}}\n"
            "x-rbuild: {up: false, check: [base]}\n",
        )
        assert project.rbuild().code == 0
        assert project.rbuild().out == ""
        own.put_index("p/base", "1", text="one", others={"arm64": "two"})
        ran = project.rbuild("--json")
        assert [kind for kind, _ in reasons(ran)] == ["base-moved"]
        for _ in range(2):
            ran = project.rbuild()
            assert (ran.code, ran.out, ran.err) == (0, "", "")


def test_what_an_update_took_is_no_move_whatever_was_asked_before(moving: Project) -> None:
    env = {"RBUILD_CHECK_PERIOD": "1d"}
    assert moving.rbuild(**env).code == 0
    put_image(moving, "side", "two")
    assert moving.rbuild("--force-rebuild", **env).code == 0
    assert version(moving, "side") == "two"
    ran = moving.rbuild(**env)
    assert (ran.code, ran.out, ran.err) == (0, "", "")


def test_what_an_update_leaves_alone_is_a_reason_once(moving: Project) -> None:
    """A paused service, and one of which nothing is to run."""
    none = put_image(moving, "none", "one")
    moving.edit("compose.yml", "  still:", f"  none: {{image: '{none}', scale: 0}}\n  still:")
    assert moving.rbuild().code == 0
    moving.compose("pause", "side")
    for name in ("side", "none"):
        put_image(moving, name, "two")
    codes = [moving.rbuild("--update", "moved", "--json") for _ in range(3)]
    assert [one.code for one in codes] == [0, 0, 0]
    assert [one.document["projects"][0]["outcome"] for one in codes[1:]] == ["fresh", "fresh"]
    moving.compose("unpause", "side")


def test_a_base_that_is_not_there_yet_is_taken_when_it_is(project: Project) -> None:
    """Whoever runs a project before the one that it builds upon need not wait for an hour."""
    project.write(
        "compose.yml",
        f"services: {{only: {{build: {{dockerfile_inline: 'FROM {project.name}/later'}}}}}}\n"
        "x-rbuild: {up: false}\n",
    )
    assert project.rbuild().code == 1
    assert project.rbuild().code == 75
    ran = project.rbuild("-v")
    assert "is tried again not before" in ran.out
    subprocess.run(["docker", "tag", project.base, f"{project.name}/later"], check=True)
    try:
        ran = project.rbuild()
        assert ran.code == 0, ran.err
    finally:
        subprocess.run(["docker", "rmi", f"{project.name}/later"], check=True)
