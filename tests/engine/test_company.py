"""What other people's containers, images and spellings of a project must not suffer from ours."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import Project, clean_up, run
from .keeping import next_compose
from .tools import image_id, inside, make_image, starts

SETTLE = "x-rbuild: {settle-period: 1}\n"
BUILT = "FROM $BASE\nRUN date +%s%N > /built\nCMD sleep 1000\n"


@pytest.fixture(params=["this Compose", "next Compose"])
def either(request: pytest.FixtureRequest, project: Project, tmp_path: Path) -> Project:
    """A project, for each of two versions of Compose."""
    if request.param == "next Compose":
        project.env.update(next_compose(tmp_path / "next"))
    return project


def ids(project: Project) -> dict[str, str]:
    """The ID of each container."""
    return {name: one["Id"] for name, one in project.containers().items()}


def test_a_plain_up_recreates_nothing_beside_a_manual_service(either: Project) -> None:
    either.write("Dockerfile", BUILT)
    either.write("db.env", "WORD=one\n")
    either.write(
        "compose.yml",
        f"""\
services:
  db:
    image: $BASE
    init: true
    command: sleep 1000
    env_file: db.env
    x-rbuild: {{update: manual}}
  web: {{build: ., init: true, depends_on: [db]}}
  job: {{image: $BASE, init: true, command: sleep 1001, depends_on: [db]}}
{SETTLE}""",
    )
    assert either.rbuild().code == 0
    first = ids(either)
    ran = either.rbuild("--force-rebuild")
    assert ran.code == 0, ran.err
    after = ids(either)
    moved = {name for name in first if first[name] != after[name]}
    # Compose 2.26 takes along what depends on nothing new, too; the database it must not touch.
    assert f"{either.name}-web-1" in moved
    assert f"{either.name}-db-1" not in moved
    either.compose("up", "-d")
    assert ids(either) == after

    # What only an env file tells, Compose's hash leaves out: a plain up would take the database.
    either.write("db.env", "WORD=two\n")
    ran = either.rbuild()
    assert ran.code == 0, ran.err
    assert "db.env" in ran.out
    assert ids(either)[f"{either.name}-db-1"] == first[f"{either.name}-db-1"]


def test_images_that_others_built_upon_ours_stay(project: Project) -> None:
    project.write("Dockerfile", BUILT)
    project.write("compose.yml", f"services:\n  web: {{build: ., init: true}}\n{SETTLE}")
    named, other = f"o{project.name}:keep", f"o{project.name}-compose"
    try:
        assert project.rbuild().code == 0
        make_image(named, f"FROM {project.name}-web\nRUN echo theirs > /theirs\n")
        nameless = make_image(other, f"FROM {project.name}-web\nRUN echo nameless > /theirs\n")
        make_image(other, f"FROM {project.name}-web\nRUN echo again > /theirs\n")
        # With the containerd store, the one that has lost its name is gone by now.
        theirs = list(filter(image_id, (named, other, nameless)))
        assert {named, other} <= set(theirs)
        assert project.rbuild("--force-rebuild").code == 0
        project.compose("down", "-t", "1")
        ran = project.rbuild("--remove-images")
        assert ran.code == 0
        assert f"removed {project.name}-web:latest" in ran.out
        assert not image_id(f"{project.name}-web")
        assert all(map(image_id, theirs))
    finally:
        subprocess.run(["docker", "rmi", "-f", named, other], capture_output=True)


def test_another_name_of_a_build_is_not_pulled(project: Project) -> None:
    project.write("Dockerfile", BUILT)
    tag = f"{project.name}-app:v1"
    project.write(
        "compose.yml",
        f"""\
services:
  web: {{build: {{context: ., tags: ["{tag}"]}}, init: true}}
  worker: {{image: "{tag}", init: true}}
{SETTLE}""",
    )
    ran = project.rbuild()
    assert ran.code == 0, ran.err
    assert project.container("worker")["Image"] == image_id(tag) == image_id(f"{project.name}-web")
    before = image_id(tag)
    project.write("Dockerfile", f"{BUILT}RUN exit 3\n")
    assert project.rbuild().code == 1
    assert image_id(tag) == before


def test_a_project_that_is_gone_builds_nothing_any_more(
    project: Project, tmp_path: Path, registry: str
) -> None:
    reference = f"{registry}/{project.name}/app:1"
    gone = Project(tmp_path / f"{project.name}gone", f"{project.name}gone", project.base)
    gone.write("Dockerfile", BUILT)
    gone.write(
        "compose.yml",
        f"services:\n  app: {{build: ., init: true, image: '{reference}'}}\n{SETTLE}",
    )
    project.write(
        "compose.yml", f"services:\n  app: {{init: true, image: '{reference}'}}\n{SETTLE}"
    )
    try:
        assert gone.rbuild().code == 0
        run(["docker", "push", "-q", reference])
        plan = project.rbuild("-n", "--json").document["projects"][0]
        assert not any(step.startswith("pull") for step in plan["steps"])
        assert any("built by another project" in note for note in plan["notes"])
        gone.compose("down", "-t", "1")
        shutil.rmtree(gone.folder)
        plan = project.rbuild("-n", "--json").document["projects"][0]
        assert f"pull {reference} (image of a service)" in plan["steps"]
    finally:
        clean_up(gone.name)
        subprocess.run(["docker", "rmi", "-f", reference], capture_output=True)


def test_a_spelling_is_fresh_only_if_it_means_what_runs(project: Project) -> None:
    project.write(
        "compose.yml",
        f"services:\n  web: {{image: $BASE, init: true, command: sleep 1000}}\n{SETTLE}",
    )
    project.write("compose.override.yml", "services: {web: {environment: {MODE: more}}}\n")
    folder, file = str(project.folder), str(project.folder / "compose.yml")
    assert project.rbuild(folder).code == 0
    ran = project.rbuild(file, "--json").document["projects"][0]
    assert (ran["outcome"], ran["reasons"][0]["kind"]) == ("updated", "changed")
    # The override is not in what runs now.
    ran = project.rbuild(folder, "--json").document["projects"][0]
    assert (ran["outcome"], ran["reasons"][0]["kind"]) == ("updated", "changed")
    assert "MODE=more" in project.container("web")["Config"]["Env"]
    assert project.rbuild(folder).out == ""


def test_a_renamed_project_is_fresh_at_a_glance_and_shown_by_its_name(project: Project) -> None:
    text = f"services:\n  web: {{image: $BASE, init: true, command: sleep 1000}}\n{SETTLE}"
    project.write("compose.yml", text)
    renamed = f"{project.name}x"
    try:
        assert project.rbuild().code == 0
        project.compose("down", "-t", "1")
        project.write("compose.yml", f"name: {renamed}\n{text}")
        # What was down under another name is for a person to rename.
        assert project.rbuild("--force-rebuild").code == 0
        # Without docker on PATH, only a glance can do.
        ran = project.rbuild("-v", PATH="/nonexistent")
        assert ran.code == 0
        assert ran.out.startswith(f"{renamed}: fresh")
        shown = project.rbuild("status").out
        assert shown.startswith(f"{renamed}  ")
        assert "running" in shown
    finally:
        clean_up(renamed)


def test_an_up_that_is_ended_while_it_stops_what_ran_is_rolled_back(project: Project) -> None:
    project.write("Dockerfile", "FROM $BASE\nRUN date +%s%N > /built\nCMD sleep 1000\n")
    project.write(
        "compose.yml",
        """\
services:
  # No init: the shell's sleep ignores TERM and is killed after its time to stop.
  web: {build: ., stop_grace_period: 8s}
x-rbuild: {settle-period: 0}
""",
    )
    assert project.rbuild().code == 0
    image = image_id(f"{project.name}-web")
    ran = project.rbuild("--force-rebuild", "--up-timeout-period", "4")
    assert ran.code == 3
    # The least that it takes is five seconds.
    assert "`up` did not end within 5 s: rolled back" in ran.err
    assert "what ran before runs again (web)" in ran.err
    # Also once the time to stop is over.
    (web,) = project.containers().values()
    assert (web["Image"], web["State"]["Status"]) == (image, "running")
    assert image_id(f"{project.name}-web") == image
    before = ids(project)
    project.compose("up", "-d")
    assert ids(project) == before


def test_a_missing_network_touches_nothing(project: Project) -> None:
    project.write("Dockerfile", BUILT)
    text = f"services:\n  web: {{build: ., init: true}}\n{SETTLE}"
    project.write("compose.yml", text)
    assert project.rbuild().code == 0
    before, image = ids(project), image_id(f"{project.name}-web")
    project.write(
        "compose.yml", text + "networks: {default: {external: true, name: no-such-network}}\n"
    )
    ran = project.rbuild()
    assert ran.code == 1
    assert "no-such-network" in ran.err
    assert "no container was touched" in ran.err
    assert ids(project) == before
    assert image_id(f"{project.name}-web") == image


def test_one_offs_stay_whatever_becomes_of_their_service(either: Project) -> None:
    service = "{image: $BASE, init: true, command: sleep 1000}"
    either.write("compose.yml", f"services: {{web: {service}, db: {service}}}\n{SETTLE}")
    assert either.rbuild().code == 0
    for name in ("web", "db"):
        either.compose("run", "-d", name, "sleep", "1000")
        subprocess.run(["docker", "compose", "run", "-T", name, "sh", "-c", "exit 1"],
                       cwd=either.folder, env={**os.environ, **either.env})  # fmt: skip

    def one_offs() -> dict[str, tuple[str, str, str]]:
        return {name: one for name, one in starts(either).items() if "-run-" in name}

    before = one_offs()
    assert sorted(state for _, _, state in before.values()) == ["exited"] * 2 + ["running"] * 2
    either.edit("compose.yml", "{web:", "{site:")
    either.edit("compose.yml", "db: {image", "db: {environment: {A: b}, image")
    ran = either.rbuild()
    assert ran.code == 0, ran.err
    assert either.container("site")["State"]["Running"]
    assert f"{either.name}-web-1" not in ids(either)
    assert one_offs() == before
    # Nor on the way back.
    either.edit("compose.yml", "{site:", "{shop:")
    either.edit("compose.yml", "command: sleep 1000}, db", "command: no-such-program}, db")
    ran = either.rbuild("-n")
    assert f"remove what the files have no longer ({either.name}-site-1), then bring up" in ran.out
    ran = either.rbuild()
    assert ran.code == 3, ran.err
    assert either.container("site")["State"]["Running"]
    assert f"{either.name}-shop-1" not in ids(either)
    assert one_offs() == before
    # Nor by the clean-up after an update of everything.
    either.edit("compose.yml", "no-such-program", "sleep 1000")
    assert either.rbuild("--force-rebuild").code == 0
    assert one_offs() == before


def test_an_orphan_gets_its_time_to_stop_and_its_volume_stays(project: Project) -> None:
    last = "trap 'echo well >/data/last; exit' TERM; touch /data/first; while :; do sleep 0.1; done"
    project.write(
        "compose.yml",
        f"""\
services:
  old: {{image: $BASE, command: [sh, -c, "{last}"], volumes: ["data:/data"]}}
volumes: {{data: {{}}}}
{SETTLE}""",
    )
    assert project.rbuild().code == 0
    project.write(
        "compose.yml",
        "services:\n  new: {image: $BASE, init: true, command: sleep 1000, "
        f"volumes: ['data:/data']}}\nvolumes: {{data: {{}}}}\n{SETTLE}",
    )
    assert project.rbuild().code == 0
    assert [*ids(project)] == [f"{project.name}-new-1"]
    assert inside(f"{project.name}-new-1", "cat", "/data/last") == "well"


def test_who_uses_a_network_or_volume_comes_after_who_makes_it(project: Project) -> None:
    name, service = project.name, "image: $BASE, init: true, command: sleep 1000"
    names = [f"{name}{one}" for one in "abc"]
    project.write(
        "a/compose.yml",
        f"name: {name}a\nservices: {{a: {{{service}, networks: [front], volumes: ['data:/d']}}}}\n"
        f"networks: {{front: {{name: {name}front}}}}\nvolumes: {{data: {{}}}}\n{SETTLE}",
    )
    project.write(
        "b/compose.yml",
        f"name: {name}b\nservices: {{b: {{{service}, networks: [x], volumes: ['data:/d']}}}}\n"
        f"networks: {{x: {{external: true, name: {name}front}}}}\n"
        f"volumes: {{data: {{external: true, name: {name}a_data}}}}\n{SETTLE}",
    )
    project.write(
        "c/compose.yml",
        f"name: {name}c\nservices: {{c: {{{service}, network_mode: 'container:{name}b-b-1'}}}}\n"
        f"{SETTLE}",
    )
    try:
        ran = project.rbuild(*"cba")
        assert ran.code == 0, ran.err
        assert [line.partition(":")[0] for line in ran.out.splitlines()] == names
        # By their records, too, of projects that were taken down.
        for one in "cba":
            run(["docker", "compose", "--project-directory", one, "down", "-v"], project.folder)
        ran = project.rbuild("--force-rebuild", "--jobs", "3", *"bca")
        assert ran.code == 0, ran.err
        assert [line.partition(":")[0] for line in ran.out.splitlines()] == names
    finally:
        for one in reversed(names):
            clean_up(one)


@pytest.mark.parametrize("kind", ["network", "volume", "mode", "container", "pid"])
def test_what_others_make_is_waited_for_and_not_for_a_time(project: Project, kind: str) -> None:
    thing = f"o{project.name}"
    service, more, make, undo = {
        "network": ("networks: [x]", f"networks: {{x: {{external: true, name: {thing}}}}}",
                    ["network", "create", thing], ["network", "rm", thing]),
        "volume": ("volumes: ['data:/x']", f"volumes: {{data: {{external: true, name: {thing}}}}}",
                   ["volume", "create", thing], ["volume", "rm", thing]),
        "mode": (f"network_mode: {thing}", "", ["network", "create", thing],
                 ["network", "rm", thing]),
        "container": (f"volumes_from: ['container:{thing}']", "",
                      ["create", "--name", thing, project.base], ["rm", "-f", thing]),
        "pid": (f"pid: 'container:{thing}'", "",
                ["run", "-d", "--init", "--name", thing, project.base, "sleep", "1000"],
                ["rm", "-f", thing]),
    }[kind]  # fmt: skip
    plain = "services: {web: {image: $BASE, init: true, command: sleep 1000}}\n"
    project.write("compose.yml", f"{plain}{SETTLE}")
    assert project.rbuild().code == 0
    before = starts(project)
    project.write("compose.yml", f"{plain.replace('1000', f'1000, {service}')}{more}\n{SETTLE}")
    try:
        ran = project.rbuild()
        assert ran.code == 1, ran.err
        what = {"mode": "network", "pid": "container"}.get(kind, kind)
        assert f"service web: {what} {thing} (" in ran.err
        assert "the project that makes it" in ran.err
        assert "no container was touched" in ran.err
        assert starts(project) == before
        assert project.rbuild().code == 75
        run(["docker", *make])
        ran = project.rbuild()
        assert ran.code == 0, ran.err
        assert ids(project) != {name: one for name, (one, *_) in before.items()}
    finally:
        clean_up(project.name)
        subprocess.run(["docker", *undo], capture_output=True)


def test_a_network_that_no_service_uses_is_not_missed(either: Project) -> None:
    either.write(
        "compose.yml",
        "services:\n"
        "  web: {image: $BASE, init: true, command: sleep 1000}\n"
        "  off: {image: $BASE, networks: [y], profiles: [off]}\n"
        "networks: {x: {external: true, name: no-such-network}, y: {external: true}}\n"
        f"volumes: {{x: {{external: true, name: no-such-volume}}}}\n{SETTLE}",
    )
    ran = either.rbuild()
    assert ran.code == 0, ran.err
