"""What plain Compose accepts, rbuild accepts: projects that Compose takes and brings up."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Project, Ran, run
from .keeping import next_compose
from .tools import (
    PULL,
    ids,
    image_id,
    inside,
    last_run,
    log,
    own_tags,
    publish,
    record,
    starts,
)

SETTLE = "x-rbuild: {settle-period: 0}\n"
IDLE = "CMD exec sleep 1000\n"


@pytest.fixture(params=["present", "next"])
def plugin(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment for the Compose that is there, and for a newer one."""
    return {} if request.param == "present" else next_compose(tmp_path / "docker")


def plain_up_changes_nothing(project: Project) -> None:
    """After a good update, `docker compose up -d` by hand recreates nothing."""
    was = starts(project)
    project.compose("up", "-d")
    assert starts(project) == was


# ---------------------------------------------------------------- names as Compose 1 gave them


def write_pair(project: Project) -> None:
    project.write(
        "compose.yml",
        f"""\
services:
  web: {{init: true, build: .}}
  side: {{init: true, build: {{context: ., dockerfile_inline: "FROM {project.name}_web"}}}}
{SETTLE}""",
    )
    project.write("Dockerfile", f"FROM $BASE\nRUN date +%N > /when\n{IDLE}")


@pytest.mark.parametrize(("value", "where"), [("1", "env"), ("true", ".env")])
def test_image_names_are_those_that_compose_gives(project: Project, value: str, where: str) -> None:
    write_pair(project)
    if where == "env":
        project.env["COMPOSE_COMPATIBILITY"] = value
    else:
        project.write(".env", f"COMPOSE_COMPATIBILITY={value}\n")
    ran = project.rbuild()
    assert ran.code == 0, ran.err
    name = project.name
    assert set(ids(project)) == {f"{name}_web_1", f"{name}_side_1"}
    assert not image_id(f"{name}-web")
    plain_up_changes_nothing(project)
    assert project.rbuild().out == ""

    # A build that fails puts them back; one that breaks the service is rolled back.
    before = starts(project), image_id(f"{name}_web"), project.images()
    project.edit("compose.yml", f"{name}_web", f"{name}_web\\nRUN false")
    ran = project.rbuild()
    assert (ran.code, "the build of side failed" in ran.err) == (1, True), ran.err
    assert (starts(project), image_id(f"{name}_web"), project.images()) == before
    project.edit("compose.yml", "RUN false", "CMD false")
    ran = project.rbuild()
    assert ran.code == 3, ran.err
    assert image_id(f"{name}_web") == before[1]
    assert not image_id(f"{name}-web")
    assert {one["State"]["Status"] for one in project.containers().values()} == {"running"}
    project.edit("compose.yml", "\\nCMD false", "")
    assert project.rbuild("-v").code == 0
    plain_up_changes_nothing(project)


def test_another_separator_is_a_change(project: Project) -> None:
    project.write("compose.yml", f"services: {{web: {{init: true, build: .}}}}\n{SETTLE}")
    project.write("Dockerfile", f"FROM $BASE\n{IDLE}")
    # What Compose takes for no.
    assert project.rbuild(COMPOSE_COMPATIBILITY="on").code == 0
    assert set(ids(project)) == {f"{project.name}-web-1"}
    assert project.rbuild("-v").out.count("fresh until") == 1
    project.write(".env", "COMPOSE_COMPATIBILITY=y\n")
    ran = project.rbuild()
    assert ran.code == 0, ran.err
    assert "COMPOSE_COMPATIBILITY" in ran.out
    assert record(project)["services"]["web"]["reference"] == f"{project.name}_web"
    plain_up_changes_nothing(project)


@pytest.mark.parametrize("separator", ["-", "_"])
def test_a_name_that_a_failed_build_gave_for_the_first_time_goes(
    project: Project, own: str, separator: str
) -> None:
    project.env["COMPOSE_COMPATIBILITY"] = str(int(separator == "_"))
    write_pair(project)
    first = f"{project.name}{separator}web"
    project.edit("compose.yml", f"FROM {project.name}_web", f"FROM {first}\\nRUN false")
    project.edit("compose.yml", "build: .", f"build: {{context: ., tags: ['{own}/web:1']}}")

    ran = project.rbuild()

    assert (ran.code, "the build of side failed" in ran.err) == (1, True), ran.err
    assert project.images() == set()
    assert not image_id(f"{own}/web:1")
    assert own_tags(project) == set()
    project.edit("compose.yml", "RUN false", "CMD exec sleep 1000")
    assert project.rbuild().code == 0


# ---------------------------------------------------------------- Dockerfiles


@pytest.mark.parametrize("dockerfile", ["", ", dockerfile: Dockerfile"])
def test_a_lower_case_dockerfile(project: Project, own: str, dockerfile: str) -> None:
    base = f"{own}/base:1"
    publish(base, "one")
    project.write(
        "compose.yml",
        f"services: {{web: {{init: true, build: {{context: .{dockerfile}}}}}}}\n{SETTLE}",
    )
    project.write("dockerfile", f"FROM {base}\nRUN echo 1 > /which\nCOPY . /x\n{IDLE}")
    project.write("dockerfile.dockerignore", "data\n")
    project.write("data", "")
    publish(base, "two")
    ran = project.rbuild()
    assert ran.code == 0, ran.err
    assert PULL.findall(last_run(project)) == [base]
    web = f"{project.name}-web-1"
    assert inside(web, "cat", "/version", "/which") == "two\n1"
    assert "data" not in inside(web, "ls", "/x").split()
    assert "fresh until" in project.rbuild("-v").out
    # What is not sent is no reason.
    project.write("data", "more")
    assert project.rbuild().out == ""

    project.edit("dockerfile", "echo 1", "echo 2")
    ran = project.rbuild()
    assert (ran.code, "dockerfile" in ran.out) == (0, True), ran
    assert inside(web, "cat", "/which") == "2"
    # The other one wins as soon as it is there, and gives way again.
    project.write("Dockerfile", f"FROM $BASE\nRUN echo 3 > /which\n{IDLE}")
    ran = project.rbuild()
    assert (ran.code, "/Dockerfile appeared" in ran.out) == (0, True), ran
    assert inside(web, "cat", "/which") == "3"
    (project.folder / "Dockerfile").unlink()
    ran = project.rbuild()
    assert (ran.code, "/Dockerfile disappeared" in ran.out) == (0, True), ran
    assert inside(web, "cat", "/which") == "2"
    plain_up_changes_nothing(project)


THREE = f"FROM $BASE\\nRUN echo three > /version\\n{IDLE}".replace("\n", "\\n")


@pytest.mark.parametrize(
    "build",
    [
        "context: ./gone",
        f'context: ./gone, dockerfile_inline: "{THREE}"',
        "context: ./sub",
        f'context: ., additional_contexts: {{lib: ./gone}}, dockerfile_inline: "{THREE}"',
    ],
)
def test_what_cannot_be_built_is_pulled(project: Project, own: str, build: str) -> None:
    app = f"{own}/app:1"
    publish(app, "one", IDLE)
    (project.folder / "sub").mkdir()
    project.write(
        "compose.yml",
        f"services: {{web: {{init: true, image: '{app}', build: {{{build}}}}}}}\n{SETTLE}",
    )
    ran = project.rbuild("-v")
    assert ran.code == 0, ran.err
    assert "is missing: not built, its image is taken as it is (`pull_policy: build`" in ran.out
    web = f"{project.name}-web-1"
    assert inside(web, "cat", "/version") == "one"
    plain_up_changes_nothing(project)
    # What lies beside what is missing is no input.
    project.write("sub/data", "")
    assert project.rbuild() == Ran(0, "", "")
    # It is watched like any other.
    publish(app, "two", IDLE)
    ran = project.rbuild("--check", "image")
    assert ran.code == 0, ran.err
    assert inside(web, "cat", "/version") == "two"

    # Once it can be built, it is; then what is lost is no longer taken lightly.
    for folder in ("sub", "gone"):
        project.write(f"{folder}/Dockerfile", THREE.replace("\\n", "\n"))
    ran = project.rbuild("-v")
    assert ran.code == 0, ran.err
    assert "not built" not in ran.out
    assert inside(web, "cat", "/version") == "three"
    plain_up_changes_nothing(project)


def test_what_was_built_here_is_not_pulled_when_its_dockerfile_is_lost(
    project: Project, own: str
) -> None:
    app = f"{own}/app:1"
    publish(app, "theirs", IDLE)
    project.write("Dockerfile", f"FROM $BASE\nRUN echo ours > /version\n{IDLE}")
    project.write(
        "compose.yml",
        f"services: {{web: {{init: true, image: '{app}', build: .}}}}\n{SETTLE}",
    )
    assert project.rbuild().code == 0
    before = starts(project)
    (project.folder / "Dockerfile").unlink()
    ran = project.rbuild()
    assert ran.code == 1
    assert f"{project.folder}/Dockerfile: the Dockerfile of service web: No such file" in ran.err
    assert f"to have it from a registry, drop `build:`, `docker pull {app}`" in ran.err
    assert starts(project) == before
    # Who says so gets it.
    project.edit("compose.yml", ", build: .", "")
    run(["docker", "pull", "-q", app])
    assert project.rbuild().code == 0
    assert inside(f"{project.name}-web-1", "cat", "/version") == "theirs"


@pytest.mark.parametrize("more", [", pull_policy: build", ""])
def test_what_can_neither_be_built_nor_pulled(project: Project, own: str, more: str) -> None:
    project.write(
        "compose.yml",
        f"services: {{web: {{image: '{own}/no:1', build: ./gone{more}}}}}\n{SETTLE}",
    )
    ran = project.rbuild()
    assert ran.code == 1
    gone = f"{project.folder}/gone"
    assert (f"{gone}/Dockerfile: the Dockerfile of service web" in ran.err) == bool(more), ran.err
    if not more:
        assert f"{own}/no:1: cannot be pulled (image of a service)" in ran.err
        assert f"web is not built, for {gone} is missing; check its name" in ran.err


# ---------------------------------------------------------------- no JSON of Compose's


def write_with_keys(project: Project, keys: str) -> None:
    for name in ("key", "other"):
        if not (project.folder / name).exists():
            run(["openssl", "genrsa", "-out", str(project.folder / name), "2048"])
    project.write(
        "compose.yml",
        f"""\
services:
  web:
    init: true
    environment: {{A: "a$$$$b", N: "1e6"}}
    build:
      context: .
      ssh: {keys}
      dockerfile_inline: |
        FROM $BASE
        RUN --mount=type=ssh,id=deploy test -S /run/buildkit/ssh_agent.0
        {IDLE}
  side: {{init: true, image: $BASE, command: sleep 1000}}
{SETTLE}""",
    )


def environments(project: Project) -> dict[str, tuple[list[str], bool]]:
    boxes = project.containers().items()
    return {name: (sorted(one["Config"]["Env"]), one["State"]["Running"]) for name, one in boxes}


@pytest.mark.parametrize("keys", ['["deploy=./key"]', "{deploy: ./key, b: ./other, c: ./key}"])
def test_a_project_of_which_compose_makes_no_json(
    project: Project, plugin: dict[str, str], keys: str
) -> None:
    project.env |= plugin
    write_with_keys(project, keys)
    ran = project.rbuild()
    assert ran.code == 0, ran.err
    plain_up_changes_nothing(project)
    # In whatever order Compose gives the keys.
    for _ in range(4):
        project.edit("compose.yml", "services:", "# touched\nservices:")
        ran = project.rbuild("-v")
        assert "fresh until" in ran.out, ran
    # What is kept is what Compose reads again.
    before = environments(project)
    project.edit("compose.yml", "CMD exec sleep 1000", "CMD false")
    ran = project.rbuild()
    assert ran.code == 3, ran.err
    assert environments(project) == before


# ---------------------------------------------------------------- YAML


def test_an_anchor_that_is_defined_twice(project: Project) -> None:
    project.write(
        "compose.yml",
        f"""\
x-a: &app {{image: $BASE, init: true, command: sleep 1000}}
services:
  a: *app
x-b: &app
  build: {{context: ., dockerfile_inline: "FROM $BASE\\nCMD exec sleep 1000"}}
  init: true
include: [more.yml]
---
services:
  b: {{<<: *app, environment: {{A: "${{A:-1}}"}}}}
{SETTLE}""",
    )
    project.write("more.yml", "services: {c: {image: $BASE, init: true, command: sleep 999}}\n")
    ran = project.rbuild()
    assert ran.code == 0, ran.err
    assert set(ids(project)) == {f"{project.name}-{name}-1" for name in "abc"}
    assert project.rbuild("-v").out.count("note:") == 0
    project.edit("more.yml", "999", "998")
    assert f"changed: {project.folder}/more.yml" in project.rbuild().out
    assert "$A" in project.rbuild("-n", A="2").out


def test_what_only_compose_can_follow_is_asked_of_compose(project: Project, own: str) -> None:
    deep = "[" * 1200 + "]" * 1200
    project.write(
        "compose.yml",
        f"""\
x-deep: {deep}
include: [more.yml]
services:
  a: {{image: $BASE, init: true, command: sleep 1000, environment: {{A: "${{A:-1}}"}}}}
  hand: {{image: $BASE, init: true, command: sleep 1000, x-rbuild: {{update: manual}}}}
{SETTLE}""",
    )
    project.write("more.yml", "services: {c: {image: $BASE, init: true, command: sleep 999}}\n")
    ran = project.rbuild()
    assert ran.code == 0, ran.err
    before = ids(project)
    ran = project.rbuild("-v")
    assert "fresh until" in ran.out
    assert f"{project.folder}/compose.yml:1:1" in ran.out
    assert "; Compose reads it: asked anew at each run" in ran.out
    assert project.rbuild() == Ran(0, "", "")
    # Neither what it includes nor its variables are known, and nothing is missed.
    project.edit("more.yml", "999", "998")
    ran = project.rbuild()
    assert ran.code == 0, ran.err
    assert "changed: " in ran.out
    project.env["A"] = "2"
    ran = project.rbuild()
    assert ran.code == 0, ran.err
    after = ids(project)
    moved = {name.split("-")[1] for name in before if before[name] != after[name]}
    assert moved == {"a", "c"}
    # Once Compose refuses it as well, the place is told.
    project.edit("compose.yml", "image: ", "imago: ")
    ran = project.rbuild()
    assert ran.code == 1
    assert ran.err.startswith(f"{project.folder}/compose.yml:1:1")
    assert "imago" in ran.err
    assert ids(project) == after


# ---------------------------------------------------------------- contexts that are services


def test_a_context_that_is_a_service(project: Project, own: str, plugin: dict[str, str]) -> None:
    base = f"{own}/base:1"
    publish(base, "one")
    project.write(
        "compose.yml",
        f"""\
services:
  web:
    init: true
    build:
      context: .
      additional_contexts: {{core: "service:core"}}
      dockerfile_inline: |
        FROM core
        {IDLE}
  core: {{image: {project.name}-core, scale: 0, build: .}}
{SETTLE}""",
    )
    project.write("Dockerfile", f"FROM {base}\nRUN echo core > /core\n")
    if plugin:
        ran = project.rbuild(**plugin)
        assert ran.code == 0, ran.err
        found = inside(f"{project.name}-web-1", "cat", "/core", "/version")
        assert found.split() == ["core", "one"]
        return
    for flags in (("-n",), ("--force-rebuild",)):
        ran = project.rbuild("--json", *flags)
        assert ran.code == 1
        (one,) = ran.document["projects"]
        where = "services.web.build.additional_contexts.core: Compose 2."
        assert one["error"]["message"].startswith(where)
        assert one["error"]["message"].endswith("can't build from service:core")
        assert one["error"]["hint"].startswith("Compose 2.33 and newer can")
    assert not log(project)
    assert project.images() == set()


# ---------------------------------------------------------------- images that are mounted


@pytest.mark.versions
def test_an_image_that_is_mounted(
    project: Project, own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not made just now: what is pulled a moment after that may look as if it was made here.
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    data = f"{own}/data:1"
    publish(data, "one")
    run(["docker", "rmi", data])
    project.write(
        "compose.yml",
        f"""\
services:
  web:
    init: true
    image: $BASE
    command: sh -c "test ! -e /data/bad && exec sleep 1000"
    volumes: [{{type: image, source: "{data}", target: /data}}]
  side: {{init: true, image: $BASE, command: sleep 1000}}
{SETTLE}""",
    )
    version = run(["docker", "version", "--format", "{{.Server.Version}}"]).strip()
    if int(version.partition(".")[0]) < 28:
        ran = project.rbuild("-n", **next_compose(tmp_path / "docker"))
        assert ran.code == 1
        says = f"services.web.volumes: engine {version} can't mount the image {data}"
        assert says in ran.err
        return
    ran = project.rbuild()
    assert ran.code == 0, ran.err
    assert data in PULL.findall(last_run(project))
    web, side = f"{project.name}-web-1", f"{project.name}-side-1"
    assert inside(web, "cat", "/data/version") == "one"
    plain_up_changes_nothing(project)

    before = ids(project)
    publish(data, "two")
    ran = project.rbuild("--check", "image", "--update", "moved")
    assert (ran.code, "image-moved" in ran.out) == (0, True), ran
    assert inside(web, "cat", "/data/version") == "two"
    assert ids(project)[side] == before[side]
    assert project.rbuild("--check", "image") == Ran(0, "", "")
    plain_up_changes_nothing(project)

    # Compose sees no difference on the way back either.
    publish(data, "three", "RUN touch /bad\n")
    ran = project.rbuild("--check", "image")
    assert ran.code == 3, ran.err
    assert inside(web, "cat", "/data/version") == "two"
    assert image_id(data) != ""
    plain_up_changes_nothing(project)
    publish(data, "four")
    ran = project.rbuild("--check", "image")
    assert ran.code == 0, ran.err
    assert inside(web, "cat", "/data/version") == "four"
    ran = project.rbuild("rollback")
    assert ran.code == 0, ran.err
    assert inside(web, "cat", "/data/version") == "two"
