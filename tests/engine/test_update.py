"""What an update does, and what it leaves alone: real projects, engine and registry."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from ..faults.engines import containerd_store
from .conftest import Project, Ran, run, run_rbuild
from .tools import (
    BUILD,
    PULL,
    Gateway,
    ids,
    image_id,
    inside,
    known_bad,
    last_run,
    log,
    make_image,
    new_project,
    own_tags,
    publish,
    record,
    starts,
    state_folder,
    wait_until,
)

SETTLE = "x-rbuild: {settle-period: 0}\n"
IDLE = "CMD exec sleep 1000\n"


def plain_up_changes_nothing(project: Project, *before: str) -> None:
    """After a good update, `docker compose up -d` by hand recreates nothing."""
    was = starts(project)
    project.compose(*before, "up", "-d")
    assert starts(project) == was


# ---------------------------------------------------------------- bases and builds


@pytest.mark.versions
def test_bases_are_refreshed_once_and_builds_follow_from(project: Project, own: str) -> None:
    name = project.name
    for reference in ("base", "tools", "extra", "unused"):
        publish(f"{own}/{reference}:1", "old")
    local = f"{name}-here:1"
    make_image(local, "FROM $BASE\nLABEL here=1\n")
    project.write(
        "compose.yml",
        f"""\
x-idle: &idle {{init: true}}
services:
  # Neither the file's order nor the alphabet's will do: only FROM tells.
  aaa:
    <<: *idle
    build: {{context: ., dockerfile_inline: "FROM {name}-mid\\nRUN test -f /from-zzz\\n"}}
  mmm:
    <<: *idle
    image: {name}-mid
    build:
      context: .
      dockerfile_inline: |
        FROM {own}/tools:1 AS helper
        FROM {name}-core
        COPY --from=helper /version /tools-version
  worker: {{<<: *idle, image: {name}-core, scale: 2}}
  zzz:
    <<: *idle
    image: {name}-core
    build: &core {{context: ., target: final, args: {{FLAVOUR: base}}}}
  zzz-again: {{<<: *idle, image: {name}-core, build: *core}}
  extended:
    <<: *idle
    build:
      context: .
      additional_contexts: {{extra: "docker-image://{own}/extra:1"}}
      dockerfile_inline: |
        FROM {local}
        COPY --from=extra /version /extra-version
        RUN --mount=from={own}/tools:1,target=/t cp /t/version /tools-version
        CMD exec sleep 1000
{SETTLE}""",
    )
    project.write(
        "Dockerfile",
        f"""\
ARG FLAVOUR=none
FROM {own}/$FLAVOUR:1 AS final
RUN touch /from-zzz
{IDLE}
FROM {own}/unused:1 AS later
""",
    )
    for reference in ("base", "tools", "extra", "unused"):
        publish(f"{own}/{reference}:1", "new")

    ran = project.rbuild("--json")

    assert ran.code == 0, ran.err
    (one,) = ran.document["projects"]
    text = last_run(project)
    pulled = [f"{own}/{x}:1" for x in ("base", "extra", "tools")]
    # Of an image that is only here, this store can't tell that: a registry is asked, in vain.
    pulled += [local] if containerd_store() else []
    assert sorted(PULL.findall(text)) == sorted(pulled)
    assert set(one["bases"]) == {
        f"{own}/tools:1", f"{own}/base:1", f"docker.io/library/{local}", f"{own}/extra:1"
    }  # fmt: skip
    why = "not pulled, used as it is here" if containerd_store() else "exists only on this machine"
    assert any(note.startswith(f"{local}: {why}") for note in one["notes"])
    builds = [line.split() for line in BUILD.findall(text)]
    assert builds == [["extended", "zzz"], ["mmm"], ["aaa"]]
    assert "--pull never" in text
    assert "build --no-cache --pull" not in text
    where = {
        "aaa-1": "version tools-version", "mmm-1": "version tools-version",
        "worker-2": "version", "zzz-again-1": "version", "extended-1": "extra-version tools-version"
    }  # fmt: skip
    for container, files in where.items():
        found = inside(f"{name}-{container}", "cat", *(f"/{file}" for file in files.split()))
        assert set(found.split()) == {"new"}, container
    plain_up_changes_nothing(project)


def test_an_image_that_another_project_builds_is_not_pulled(
    project: Project, tmp_path: Path, state_dir: Path
) -> None:
    project.write("compose.yml", f"services: {{app: {{init: true, build: .}}}}\n{SETTLE}")
    project.write("Dockerfile", f"FROM $BASE\n{IDLE}")
    image = f"{project.name}-app"
    with new_project(tmp_path, state_dir) as other:
        other.write(
            "compose.yml",
            f"""\
services:
  user: {{init: true, image: {image}, pull_policy: always}}
  builder: {{init: true, build: {{context: ., dockerfile_inline: FROM {image}}}}}
{SETTLE}""",
        )
        assert project.rbuild().code == 0

        ran = other.rbuild("--json")

        assert ran.code == 0, ran.err
        assert f"{image}: built by another project here, not pulled" in str(ran.document)
        assert PULL.findall(log(other)) == []


def test_a_name_given_here_to_a_pulled_image_is_not_pulled(project: Project) -> None:
    # The image came from a registry, the name did not: there it may be a stranger's.
    name = f"{project.name}-renamed"
    run(["docker", "tag", project.base, name])
    project.write(
        "compose.yml",
        f"services: {{app: {{init: true, image: {name}, command: sleep 1000}}}}\n{SETTLE}",
    )
    ran = project.rbuild("-v")
    assert ran.code == 0, ran.err
    assert f"note: {name}: exists only on this machine, not pulled" in ran.out


def test_a_registry_that_cannot_be_reached_fails_the_update_untouched(
    project: Project, own: str
) -> None:
    gateway = Gateway()
    base = f"{gateway.address}/{project.name}/base:1"
    publish(f"{own}/base:1", "one")
    project.write("compose.yml", f"services: {{web: {{init: true, build: .}}}}\n{SETTLE}")
    project.write("Dockerfile", f"FROM {base}\n{IDLE}")
    try:
        assert project.rbuild().code == 0
        before, known = (starts(project), project.images()), record(project)
        gateway.close()

        ran = project.rbuild("--force-rebuild")

        assert ran.code == 1
        assert f"{base}: cannot be pulled (base of web)" in ran.err
        assert "no container was touched: what ran before runs on" in ran.err
        assert (starts(project), project.images()) == before
        assert "cannot be pulled" in known_bad(project, known, "untouched")["message"]
        assert own_tags(project) == set()
        plain_up_changes_nothing(project)
    finally:
        run(["docker", "rmi", base])


def test_a_platform_counts_and_the_engines_own_is_not_named(project: Project) -> None:
    project.write(
        "compose.yml",
        """\
services:
  far: {platform: linux/s390x, build: {context: ., dockerfile_inline: FROM $BASE}}
  near: {platform: linux/amd64, build: {context: ., dockerfile_inline: FROM $BASE}}
  image: {platform: linux/s390x, image: $BASE}
""",
    )
    ran = project.rbuild("--dry-run")
    assert ran.code == 0, ran.err
    pulls = [line.split(". ", 1)[1] for line in ran.out.splitlines() if ". pull" in line]
    assert pulls == [
        f"pull {project.base} for linux/s390x (base of far)",
        f"pull {project.base} (base of near)",
    ]


def test_a_file_of_another_project_with_the_same_size_and_time_is_not_taken(
    project: Project, tmp_path: Path, state_dir: Path
) -> None:
    # As from an archive, or from one `git clone`: BuildKit knows a context by `web` alone.
    with new_project(tmp_path, state_dir) as other:
        for one in (project, other):
            one.write("compose.yml", f"services: {{web: {{init: true, build: ./web}}}}\n{SETTLE}")
            one.write("web/Dockerfile", f"FROM $BASE\nCOPY page /page\n{IDLE}")
            os.utime(one.write("web/page", f"page of {one.name}\n"), (1, 1))

            ran = one.rbuild()

            assert ran.code == 0, ran.err
            assert one.compose("exec", "web", "cat", "/page") == f"page of {one.name}\n"


def test_a_git_context_is_built_with_pull_and_its_bases_are_unknown(
    project: Project, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "Dockerfile").write_text(f"FROM {project.base}\n{IDLE}")
    git = ["git", "-C", str(source), "-c", "user.name=t", "-c", "user.email=t@localhost"]
    run(["git", "init", "-q", "-b", "main", str(source)])
    run([*git, "add", "."])
    run([*git, "commit", "-q", "-m", "one"])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    daemon = subprocess.Popen(
        ["git", "daemon", "--listen=127.0.0.1", f"--port={port}", "--export-all",
         f"--base-path={tmp_path}", "--reuseaddr"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        project.write(
            "compose.yml",
            "services: {web: {init: true, "
            f"build: 'git://127.0.0.1:{port}/source/.git#main'}}}}\n{SETTLE}",
        )
        address = ("127.0.0.1", port)
        wait_until(lambda: socket.socket().connect_ex(address) == 0, "git daemon")
        ran = project.rbuild("--json")
    finally:
        daemon.terminate()
        daemon.wait()
    assert ran.code == 0, ran.err
    assert "web: its build context is no folder here, bases unknown" in str(ran.document)
    assert "build --no-cache --pull -- web" in log(project)
    plain_up_changes_nothing(project)


# ---------------------------------------------------------------- services with only an image


@pytest.mark.versions
def test_pull_policies(project: Project, own: str) -> None:
    services = ("plain", "always", "missing", "never", "still")
    for service in services:
        publish(f"{own}/{service}:1", "old", IDLE)
    project.write(
        "compose.yml",
        f"""\
services:
  plain: {{init: true, image: "{own}/plain:1"}}
  always: {{init: true, image: "{own}/always:1", pull_policy: always}}
  missing: {{init: true, image: "{own}/missing:1", pull_policy: missing}}
  never: {{init: true, image: "{own}/never:1", pull_policy: never}}
  still: {{init: true, image: "{own}/still:1"}}
{SETTLE}""",
    )
    # `missing` is pulled where it is missing.
    run(["docker", "rmi", f"{own}/missing:1"])
    assert project.rbuild().code == 0
    assert f"{own}/missing:1" in PULL.findall(last_run(project))
    before = starts(project)
    for service in services[:-1]:
        publish(f"{own}/{service}:1", "new", IDLE)

    ran = project.rbuild("--force-rebuild")

    assert ran.code == 0, ran.err
    pulled = PULL.findall(last_run(project))
    assert sorted(pulled) == [f"{own}/{service}:1" for service in ("always", "plain", "still")]
    same = [name for name, one in starts(project).items() if one == before[name]]
    assert sorted(same) == [f"{project.name}-{x}-1" for x in ("missing", "never", "still")]
    for service in ("plain", "always"):
        assert inside(f"{project.name}-{service}-1", "cat", "/version") == "new"
    plain_up_changes_nothing(project)


@pytest.mark.versions
def test_an_image_that_is_not_here_and_may_not_be_pulled_fails_untouched(
    project: Project, own: str
) -> None:
    tool = f"{own}/tool:1"
    publish(tool, "one", IDLE)
    project.write(
        "compose.yml",
        f"""\
services:
  web: {{init: true, build: .}}
  tool: {{init: true, image: "{tool}"}}
{SETTLE}""",
    )
    project.write("Dockerfile", f"FROM $BASE\n{IDLE}")
    assert project.rbuild().code == 0
    before = starts(project)
    second = publish(tool, "two", IDLE)
    good = (project.folder / "compose.yml").read_text()
    project.edit(
        "compose.yml", "services:", "services:\n  db: {image: nowhere, pull_policy: never}"
    )

    ran = project.rbuild()

    assert ran.code == 1
    assert "service db: its image nowhere is not here" in ran.err
    assert starts(project) == before
    assert own_tags(project) == set()
    # What was pulled by then has lost its name again, and goes when it is superseded.
    plain_up_changes_nothing(project, "-f", str(project.write("good.yml", good)))
    # With the containerd store, it is gone at once.
    assert image_id(second) in (second, "")
    publish(tool, "three", IDLE)
    project.write("compose.yml", good)
    ran = project.rbuild("--force-rebuild")
    assert ran.code == 0, ran.err
    assert inside(f"{project.name}-tool-1", "cat", "/version") == "three"
    assert image_id(second) == ""


# ---------------------------------------------------------------- the user's own files


@pytest.mark.versions
@pytest.mark.parametrize("layout", ["folder with override and include", ".env", "file"])
def test_a_plain_up_after_an_update_recreates_nothing(project: Project, layout: str) -> None:
    project.write("Dockerfile", f"FROM $BASE\n{IDLE}")
    web = "services: {web: {init: true, build: ., environment: {A: $$B}}}\n"
    override = f"services: {{web: {{labels: {{two: '2'}}}}}}\n{SETTLE}"
    arguments, before, cwd = ["."], [], project.folder
    if layout == ".env":
        project.write("base.yml", web)
        project.write("more.yml", override)
        project.write(".env", "COMPOSE_FILE=base.yml:more.yml\n")
    elif layout == "file":
        project.write("compose.yml", web)
        project.edit("compose.yml", web, web + SETTLE)
        # Named by itself, the file has no override.
        project.write("compose.override.yml", "services: {web: {image: nowhere}}\n")
        file = str(project.folder / "compose.yml")
        arguments, before, cwd = [file], ["-f", file], project.folder.parent
    else:
        project.write("compose.yml", f"include: [sub/compose.yml]\n{web}")
        project.write("compose.override.yml", override)
        project.write(
            "sub/compose.yml", "services: {side: {init: true, image: $BASE, command: sleep 1000}}\n"
        )

    ran = project.rbuild(*arguments, cwd=cwd)

    assert ran.code == 0, ran.err
    assert len(ids(project)) == (2 if "include" in layout else 1)
    plain_up_changes_nothing(project, *before)


# ---------------------------------------------------------------- builds that fail


def test_failing_builds_leave_no_trace(project: Project) -> None:
    project.write(
        "compose.yml",
        f"""\
services:
  good: {{init: true, build: .}}
  later: {{init: true, build: {{context: ., dockerfile_inline: "FROM {project.name}-good"}}}}
{SETTLE}""",
    )
    project.write("Dockerfile", f"FROM $BASE\nRUN date +%N > /when\n{IDLE}")
    assert project.rbuild().code == 0
    before = starts(project), project.images(), image_id(f"{project.name}-good")
    kept = record(project)
    project.edit("compose.yml", '-good"', '-good\\nRUN echo it broke here && exit 7"')

    for tries, flags in enumerate(((), ("--force-rebuild",)), 1):
        ran = project.rbuild(*flags)
        assert ran.code == 1
        assert "the build of later failed" in ran.err
        assert "it broke here" in ran.err
        assert f"it was due: {'forced' if flags else 'changed'}: " in ran.err
        # From here on it is known, and waits for its time in silence.
        assert known_bad(project, kept, "untouched")["tries"] == tries
        assert project.rbuild() == Ran(75, "", "")

    # `good` was built each time.
    assert (starts(project), project.images(), image_id(f"{project.name}-good")) == before
    assert own_tags(project) == set()
    project.edit("compose.yml", "\\nRUN echo it broke here && exit 7", "")
    plain_up_changes_nothing(project)
    # Back to what it was: fresh.
    ran = project.rbuild("-v")
    assert ran.code == 0
    assert "fresh until" in ran.out
    assert record(project)["failed"] is None


# ---------------------------------------------------------------- what a person set


@pytest.fixture(scope="module")
def _crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    top = tmp_path_factory.mktemp("crowd")
    with new_project(top, top / "state") as project:
        project.write("Dockerfile", f"FROM $BASE\nRUN date +%N > /when\n{IDLE}")
        project.write("compose.yml", CROWD)
        ran = project.rbuild()
        assert ran.code == 0, ran.err
        # Manual ones too are started by the first run.
        assert len(ids(project)) == 5
        yield project


@pytest.fixture
def crowd(_crowd: Project) -> Project:
    """A project that is up: some services under a person's hand, all as the file says."""
    _crowd.write("compose.yml", CROWD)
    _crowd.compose("up", "-d", "--remove-orphans")
    return _crowd


CROWD = f"""\
services:
  db: {{init: true, build: ., x-rbuild: {{update: manual}}}}
  cache: {{init: true, image: $BASE, command: sleep 1000, x-rbuild: {{update: manual}}}}
  web: {{init: true, build: ., depends_on: [db, cache]}}
  lazy: {{init: true, build: ., restart: unless-stopped}}
  many: {{init: true, image: $BASE, command: sleep 1000, restart: always, scale: 1}}
{SETTLE}"""


def of(project: Project, *services: str) -> dict[str, tuple[str, str, str]]:
    """How the containers of some services stand."""
    wanted = re.compile(rf"{project.name}-({'|'.join(services)})-\d+")
    return {name: one for name, one in starts(project).items() if wanted.fullmatch(name)}


def test_manual_services_are_left_alone(crowd: Project) -> None:
    before, image = starts(crowd), image_id(f"{crowd.name}-db")
    crowd.edit("compose.yml", "db: {", "db: {environment: {NEW: '1'}, ")
    crowd.edit("compose.yml", "cache: {", "cache: {environment: {NEW: '1'}, ")

    ran = crowd.rbuild("--json")

    assert ran.code == 0, ran.err
    assert of(crowd, "db", "cache") == {n: before[n] for n in of(crowd, "db", "cache")}
    assert image_id(f"{crowd.name}-db") == image
    assert of(crowd, "web") != {n: before[n] for n in of(crowd, "web")}
    builds = " ".join(BUILD.findall(last_run(crowd)))
    assert "web" in builds
    assert "db" not in builds
    states = {one["name"]: one["state"] for one in ran.document["projects"][0]["services"]}
    assert states == {
        "db": "manual", "cache": "manual", "web": "running", "lazy": "running", "many": "running"
    }  # fmt: skip


@pytest.mark.versions
def test_stopped_ones_stay_stopped_and_a_scale_stays(crowd: Project) -> None:
    crowd.compose("up", "-d", "--no-recreate", "--scale", "many=2")
    crowd.compose("stop", "-t", "0", "lazy")
    stopped, image = of(crowd, "lazy"), image_id(f"{crowd.name}-lazy")

    ran = crowd.rbuild("--force-rebuild")

    assert ran.code == 0, ran.err
    assert of(crowd, "lazy") == stopped
    # Built it was.
    assert image_id(f"{crowd.name}-lazy") != image
    assert len(of(crowd, "many")) == 2

    crowd.edit("compose.yml", "scale: 1", "scale: 3")
    assert crowd.rbuild().code == 0
    assert len(of(crowd, "many")) == 3
    assert of(crowd, "lazy") == stopped


def test_a_stopped_project_stays_stopped(crowd: Project) -> None:
    crowd.edit("compose.yml", "depends_on:", "restart: always, depends_on:")
    crowd.compose("up", "-d")
    crowd.compose("stop", "-t", "0")
    before, image = starts(crowd), image_id(f"{crowd.name}-web")

    ran = crowd.rbuild("--force-rebuild")

    assert ran.code == 0, ran.err
    assert starts(crowd) == before
    assert image_id(f"{crowd.name}-web") != image


def test_a_project_that_was_taken_down_comes_up(crowd: Project) -> None:
    crowd.compose("down", "-t", "0")
    image = image_id(f"{crowd.name}-db")

    ran = crowd.rbuild("--force-rebuild")

    assert ran.code == 0, ran.err
    assert {one[2] for one in starts(crowd).values()} == {"running"}
    assert len(ids(crowd)) == 5
    # Of the manual one, from the image that it had.
    assert crowd.container("db")["Image"] == image


def test_orphans_of_its_own_go_and_profiles_stay(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    project.write(
        "compose.yml",
        f"""\
services:
  old: {{init: true, image: $BASE, command: sleep 1000, ports: ["127.0.0.1:{port}:80"]}}
  debug: {{init: true, image: $BASE, command: sleep 1000, profiles: [debug]}}
{SETTLE}""",
    )
    project.compose("--profile", "debug", "up", "-d")
    before = of(project, "debug")
    project.edit("compose.yml", "old:", "new:")

    ran = project.rbuild()

    assert ran.code == 0, ran.err
    assert sorted(ids(project)) == [f"{project.name}-debug-1", f"{project.name}-new-1"]
    assert of(project, "debug") == before


def test_company_in_the_same_folder_stays_and_a_stack_elsewhere_is_an_error(
    project: Project, tmp_path: Path
) -> None:
    service = "{init: true, image: $BASE, command: sleep 1000}"
    project.write("compose.yml", f"services: {{web: {service}}}\n{SETTLE}")
    project.write("tools.yml", f"services: {{tool: {service}}}\n")
    project.compose("-f", "tools.yml", "up", "-d")
    company = of(project, "tool")

    ran = project.rbuild("-v")

    assert ran.code == 0, ran.err
    assert of(project, "tool") == company
    assert f"tool: made from {project.folder}/tools.yml, left alone" in ran.out
    # An own orphan is no reason to remove the company, nor the company one to keep the orphan.
    project.edit("compose.yml", "{web:", "{site:")
    ran = project.rbuild("-v")
    assert ran.code == 0, ran.err
    assert f"not removed: {project.name}-tool-1" in ran.out
    assert of(project, "tool") == company
    assert f"{project.name}-web-1" not in ids(project)

    elsewhere = Project(tmp_path / "x" / project.name, project.name, project.base)
    elsewhere.write("compose.yml", f"services: {{other: {service}}}\n{SETTLE}")
    before = starts(project)
    ran = elsewhere.rbuild()
    assert ran.code == 1
    assert f"another stack uses the Compose project name '{project.name}'" in ran.err
    assert f"{project.folder}/compose.yml" in ran.err
    assert starts(project) == before
    # Where its files are gone, nobody else brings them up: they are orphans, and stay.
    shutil.rmtree(project.folder)
    ran = elsewhere.rbuild()
    assert ran.code == 0, ran.err
    assert of(project, "tool", "site") == {n: before[n] for n in of(project, "tool", "site")}


# ---------------------------------------------------------------- the run as a whole

PROJECT_KEYS = {
    "name", "path", "outcome", "reasons", "services", "bases", "started", "seconds", "due", "log",
    "steps", "notes", "warnings", "removed", "touched", "standing", "generation", "retry",
    "unchecked", "waits", "error",
}  # fmt: skip


def test_two_projects_at_a_time_in_one_document(
    project: Project, tmp_path: Path, state_dir: Path
) -> None:
    with new_project(tmp_path, state_dir) as other:
        for one in (project, other):
            one.write("compose.yml", f"services: {{web: {{init: true, build: .}}}}\n{SETTLE}")
            one.write("Dockerfile", f"FROM $BASE\nRUN sleep 2\n{IDLE}")
        folders = [str(one.folder) for one in (project, other)]

        ran = run_rbuild("--jobs", "2", "--json", *folders, cwd=tmp_path)

        assert ran.code == 0, ran.err
        assert ran.err == ""
        document = ran.document
        assert set(document) == {"version", "exit_code", "projects"}
        assert (document["version"], document["exit_code"]) == (1, 0)
        assert {one["path"] for one in document["projects"]} == set(folders)
        for one in document["projects"]:
            assert set(one) == PROJECT_KEYS
            assert one["outcome"] == "updated"
            assert [set(reason) for reason in one["reasons"]] == [{"kind", "detail"}]
            assert [set(service) for service in one["services"]] == [
                {"name", "state", "image", "image_id", "changed"}
            ]
            assert one["bases"] == [project.base]
            # Nothing ran before that could have been kept.
            assert (one["generation"], one["retry"]) == (None, None)
            for when in (one["started"], one["due"]):
                assert when.endswith("Z")
                datetime.fromisoformat(when)
        # Each began before the other had ended.
        began = [(state_folder(one) / "logs").stat().st_ctime for one in (project, other)]
        ended = [datetime.fromisoformat(record(one)["finished"]) for one in (project, other)]
        assert max(began) < min(one.timestamp() for one in ended)

        # An error has keys of its own; the good project is worked all the same.
        other.write("Dockerfile", "FROM $BASE\nRUN false\n")
        ran = run_rbuild("--json", *folders, cwd=tmp_path)
        assert ran.code == 1
        fresh, failed = sorted(ran.document["projects"], key=lambda one: one["outcome"] != "fresh")
        assert (fresh["outcome"], failed["outcome"]) == ("fresh", "failed")
        assert set(failed) == set(fresh) == PROJECT_KEYS
        assert set(failed["error"]) == {"message", "detail", "hint"}
        assert ran.document["exit_code"] == 1
        assert fresh["retry"] is None
        assert failed["retry"] == record(other)["failed"]["next"]


def test_how_much_is_said_and_who_may_read_it(site: Project, state_dir: Path) -> None:
    old = os.umask(0)
    try:
        ran = site.rbuild("-v")
    finally:
        os.umask(old)
    assert ran.code == 0
    steps = [line.removeprefix(f"{site.name}: ") for line in ran.err.splitlines()]
    assert steps[0] == "keep the images that run now (0)"
    assert "build web without cache" in steps
    assert steps[-1] == "prune"
    assert re.fullmatch(
        rf"{site.name}: updated web in \d+ s \(new: no record of an earlier update\)\n", ran.out
    )

    for path in [state_dir, *state_dir.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path

    assert site.rbuild() == site.rbuild("-q")
    ran = site.rbuild("-q", "--force-rebuild")
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    ran = site.rbuild("-v")
    assert "fresh until" in ran.out


QUESTIONS = {
    "compose config", "compose version", "info --format", "container ls", "image ls",
    "image inspect", "container inspect", "compose --file",
}  # fmt: skip


def test_a_dry_run_changes_nothing(site: Project, state_dir: Path, tmp_path: Path) -> None:
    ran = site.rbuild("--dry-run")
    assert ran.code == 0
    assert "would be updated (new: " in ran.out
    assert not state_dir.exists()
    assert site.rbuild().code == 0
    site.write("page", "two\n")
    site.write("Dockerfile", "FROM $BASE\nCOPY page /www/index.html\nCMD exec httpd -f -h /www\n")
    # A docker that tells what it was asked.
    asked = tmp_path / "asked"
    real = shutil.which("docker")
    spy = tmp_path / "bin" / "docker"
    spy.parent.mkdir()
    spy.write_text(f'#!/bin/sh\necho "$*" >>{asked}\nexec {real} "$@"\n')
    spy.chmod(0o755)

    def everything() -> object:
        files = {
            str(path): (path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
            for path in [*state_dir.rglob("*"), *site.folder.rglob("*")]
        }
        return files, starts(site), site.images(), own_tags(site)

    before = everything()
    path = f"{spy.parent}:{os.environ['PATH']}"
    ran = site.rbuild("--dry-run", "--json", PATH=path)
    assert ran.code == 0
    (one,) = ran.document["projects"]
    assert set(one) == PROJECT_KEYS
    assert one["outcome"] == "planned"
    assert [reason["kind"] for reason in one["reasons"]] == ["changed"]
    assert one["steps"] == [
        "keep the images that run now (1)",
        f"pull {site.base} (base of web)",
        "build web without cache",
        "make sure that every image is here",
        "bring up web",
        "wait until they are healthy",
    ]
    assert everything() == before
    calls = [line.split() for line in asked.read_text().splitlines()]
    for words in calls:
        assert " ".join(words[:2]) in QUESTIONS
        assert words[:2] != ["compose", "--file"] or "config" in words
    # The plain form tells the same.
    ran = site.rbuild("-n")
    for step in one["steps"]:
        assert step in ran.out
