"""There is always something to roll back to, or nothing is touched."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Project, Ran, run
from .keeping import next_compose
from .tools import ids, inside, label, starts, state_folder, wait_until

SETTINGS = "x-rbuild: {settle-period: 0}\n"


@pytest.fixture(params=["present", "next"])
def compose(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment for the Compose that is there, and for a newer one."""
    return {} if request.param == "present" else next_compose(tmp_path / "docker")


def break_command(project: Project) -> Ran:
    """An update to a command that isn't there."""
    project.edit("compose.yml", "sleep 1000", "no-such-program")
    return project.rbuild()


def rolled_back(project: Project, ran: Ran) -> None:
    """What ran before runs again, and an update to mended files works."""
    assert ran.code == 3, ran.err
    assert all(one["State"]["Running"] for one in project.containers().values())
    project.edit("compose.yml", "no-such-program", "sleep 1001")
    ran = project.rbuild()
    assert ran.code == 0, ran.err


# A kept configuration is one that Compose reads again.

ODD = {
    "unlimited-swap": "mem_limit: 64m\n    memswap_limit: -1",
    "optional": "depends_on: {debug: {condition: service_started, required: false}}",
    "dollars": "labels: {a$$b: c$$d}",
    "env-file": "env_file: [a.env]",
}


def odd(project: Project, text: str) -> None:
    project.write(
        "compose.yml",
        "services:\n"
        f"  web:\n    image: $BASE\n    init: true\n    command: sleep 1000\n    {text}\n"
        f"  debug: {{image: $BASE, profiles: [debug]}}\n{SETTINGS}",
    )
    project.write("a.env", "A=b\n")


@pytest.mark.parametrize("name", ODD)
def test_what_compose_writes_otherwise_than_it_reads(
    project: Project, compose: dict[str, str], name: str
) -> None:
    project.env.update(compose)
    odd(project, ODD[name])
    assert project.rbuild().code == 0
    rolled_back(project, break_command(project))


@pytest.mark.parametrize("name", ODD)
def test_the_same_after_a_person_has_made_the_containers_anew(project: Project, name: str) -> None:
    odd(project, ODD[name])
    assert project.rbuild().code == 0
    project.compose("down", "-t", "0")
    project.compose("up", "-d")
    rolled_back(project, break_command(project))


def test_label_keys_come_back_as_they_were(project: Project) -> None:
    odd(project, ODD["dollars"])
    assert project.rbuild().code == 0
    web = f"{project.name}-web-1"
    before = label(web, "a$$b")
    assert before == "c$d"
    assert break_command(project).code == 3
    assert label(web, "a$$b") == before
    assert label(web, "a$$$$b") == ""
    project.edit("compose.yml", "no-such-program", "sleep 1000")
    here = ids(project)
    project.compose("up", "-d")
    assert ids(project) == here


def test_a_configuration_that_compose_cannot_read_again_is_not_begun_with(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is known that Compose renders and refuses, by now: this stands for what comes.
    odd(project, "cap_add: [NET_ADMIN]")
    assert project.rbuild().code == 0
    before = starts(project)
    plugins = project.folder / "plugins"
    plugins.mkdir()
    real = run(
        ["docker", "info", "-f", "{{range .ClientInfo.Plugins}}{{.Name}} {{.Path}}\n{{end}}"]
    )
    path = next(line.split()[1] for line in real.splitlines() if line.startswith("compose "))
    fake = plugins / "docker-compose"
    fake.write_text(
        '#!/bin/sh\ncase "$*" in\n'
        '*scratch.compose.json*config*) echo "no such key" >&2; exit 15;;\nesac\n'
        f'exec {path} "$@"\n'
    )
    fake.chmod(0o755)
    config = project.folder / "docker"
    config.mkdir()
    (config / "cli-plugins").symlink_to(plugins)
    project.env["DOCKER_CONFIG"] = str(config)
    ran = break_command(project)
    assert ran.code == 1, ran.err
    assert "could not be rolled back" in ran.err
    assert "no such key" in ran.err
    assert "rbuild --force-rebuild" in ran.err
    assert starts(project) == before


# Content of mounted files.

CHECKED = """\
services:
  web:
    build: .
    init: true
    %s
%s
x-rbuild: {settle-period: 0}
"""
DOCKERFILE = "FROM $BASE\nCMD grep -q ^ok /etc/app.conf && exec sleep 1000\n"
MOUNTS = {
    "read-only": ("volumes: ['./app.conf:/etc/app.conf:ro']", ""),
    "writable": ("volumes: ['./app.conf:/etc/app.conf']", ""),
    "config": (
        "configs: [{source: app, target: /etc/app.conf}]",
        "configs: {app: {file: ./app.conf}}",
    ),
    "secret": (
        "secrets: [{source: app, target: /etc/app.conf}]",
        "secrets: {app: {file: ./app.conf}}",
    ),
}


def checked(project: Project, mount: str) -> None:
    project.write("compose.yml", CHECKED % MOUNTS[mount])
    project.write("Dockerfile", DOCKERFILE)
    project.write("app.conf", "ok one\n")


def in_place(path: Path, text: str) -> None:
    path.write_text(text)


def by_rename(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    # As `cp -p` and rsync have it: older than what it replaces.
    os.utime(new, (1, 1))
    os.replace(new, path)


@pytest.mark.parametrize("edit", [in_place, by_rename])
@pytest.mark.parametrize("mount", MOUNTS)
def test_a_broken_mounted_file_is_taken_back(
    project: Project, mount: str, edit: Callable[[Path, str], None]
) -> None:
    checked(project, mount)
    path = project.folder / "app.conf"
    assert project.rbuild().code == 0
    edit(path, "broken\n")
    ran = project.rbuild("--force-rebuild")
    assert ran.code == 3, ran.err
    assert f"mend {path}" in ran.err
    web = f"{project.name}-web-1"
    assert inside(web, "cat", "/etc/app.conf") == "ok one"
    assert path.read_text() == "broken\n"
    assert project.rbuild().code == 75
    edit(path, "ok two\n")
    assert project.rbuild().code == 0
    assert inside(web, "cat", "/etc/app.conf") == "ok two"


def test_a_kept_file_has_its_mode_and_owner_and_goes_with_its_generation(project: Project) -> None:
    checked(project, "secret")
    path = project.folder / "app.conf"
    os.chown(path, 1234, 4321)
    path.chmod(0o640)
    assert project.rbuild().code == 0
    path.write_text("broken\n")
    assert project.rbuild("--force-rebuild").code == 3
    shown = inside(f"{project.name}-web-1", "stat", "-c", "%a %u %g", "/etc/app.conf")
    assert shown == "640 1234 4321"
    copies = state_folder(project) / "content"
    assert (copies.stat().st_mode & 0o777) == 0o700
    for text in ("ok two\n", "ok three\n", "ok four\n"):
        path.write_text(text)
        assert project.rbuild("--force-rebuild").code == 0
    assert len([*copies.iterdir()]) <= 2


def test_what_a_container_has_written_since_is_not_taken_from_it(project: Project) -> None:
    project.write("compose.yml", CHECKED % MOUNTS["writable"])
    project.write("Dockerfile", DOCKERFILE)
    project.write("app.conf", "ok one\n")
    assert project.rbuild().code == 0
    web = f"{project.name}-web-1"
    inside(web, "sh", "-c", "echo saved >>/etc/app.conf")
    project.edit("Dockerfile", "grep -q", "no-such-program")
    assert project.rbuild("--force-rebuild").code == 3
    assert inside(web, "cat", "/etc/app.conf") == "ok one\nsaved"
    inside(web, "sh", "-c", "echo more >>/etc/app.conf")
    assert (project.folder / "app.conf").read_text() == "ok one\nsaved\nmore\n"


# What somebody else has brought up.

VPN = f"""\
services:
  vpn: {{image: $BASE, init: true, command: sleep 900}}
  app: {{image: $BASE, init: true, command: sleep 1000, %s}}
{SETTINGS}"""


@pytest.mark.parametrize("kind", ["network_mode", "pid", "ipc"])
def test_a_shared_namespace_after_down_and_up_by_a_person(
    project: Project, compose: dict[str, str], kind: str
) -> None:
    project.env.update(compose)
    shareable = "  vpn: {ipc: shareable, " if kind == "ipc" else "  vpn: {"
    project.write("compose.yml", (VPN % f"{kind}: 'service:vpn'").replace("  vpn: {", shareable))
    assert project.rbuild().code == 0
    project.compose("down", "-t", "0")
    project.compose("up", "-d")
    rolled_back(project, break_command(project))


def test_the_first_run_on_a_stack_whose_files_were_edited_since(
    project: Project, compose: dict[str, str]
) -> None:
    project.env.update(compose)
    project.write(
        "compose.yml",
        f"""\
services:
  web:
    image: $BASE
    init: true
    command: sleep 1000
    environment: {{A: 'one $$two'}}
    user: nobody
    working_dir: /tmp
    volumes: ['./data:/data:ro', 'data:/v']
    networks: {{back: {{aliases: [x]}}}}
    cap_drop: [ALL]
    read_only: true
    tmpfs: ['/run:size=1m']
    labels: {{a.b: c}}
    healthcheck: {{test: 'true', interval: 1s}}
    extra_hosts: ['h:10.0.0.1']
networks: {{back: }}
volumes: {{data: }}
{SETTINGS}""",
    )
    (project.folder / "data").mkdir()
    project.compose("up", "-d")
    before = shape(project)
    project.write("compose.yml", f"services: {{web: {{image: $BASE, command: none}}}}\n{SETTINGS}")
    ran = project.rbuild()
    assert ran.code == 3, ran.err
    assert shape(project) == before


def shape(project: Project) -> dict[str, object]:
    """What a person has made of a container."""
    web = project.container("web")
    config, host = web["Config"], web["HostConfig"]
    kept = ("Cmd", "Entrypoint", "User", "WorkingDir", "Healthcheck")
    also = ("CapDrop", "ReadonlyRootfs", "Tmpfs", "ExtraHosts", "RestartPolicy")
    own = {k: v for k, v in config["Labels"].items() if not k.startswith("com.docker.compose.")}
    mounts = [(m["Type"], m.get("Name") or m["Source"], m["Destination"], m["RW"])
              for m in web["Mounts"]]  # fmt: skip
    networks = {
        name: "x" in one["Aliases"] for name, one in web["NetworkSettings"]["Networks"].items()
    }
    return {
        **{key: config.get(key) for key in kept},
        **{key: host[key] for key in also},
        "Env": sorted(config["Env"]),
        "labels": own,
        "mounts": sorted(mounts),
        "networks": networks,
    }


def test_a_first_run_does_not_begin_with_what_it_could_not_roll_back(project: Project) -> None:
    checked(project, "read-only")
    project.compose("up", "-d", "--build")
    web = f"{project.name}-web-1"
    wait_until(lambda: "sleep" in inside(web, "ps"), "it has read its file")
    (project.folder / "app.conf").write_text("broken\n")
    before = starts(project)
    ran = project.rbuild()
    assert ran.code == 1, ran.err
    assert "if the update failed, web could not be rolled back" in ran.err
    assert f"{project.folder}/app.conf has changed since it was started" in ran.err
    assert starts(project) == before
    ran = project.rbuild()
    assert (ran.code, ran.err) == (75, "")
    assert "could not be rolled back" in project.rbuild("status").out
    (project.folder / "app.conf").write_text("ok\n")
    ran = project.rbuild("--force-rebuild")
    assert ran.code == 0, ran.err
    assert "no rollback of web" in ran.err


def test_an_image_that_is_gone_under_its_container(project: Project) -> None:
    project.write("compose.yml", f"services: {{web: {{build: ., init: true}}}}\n{SETTINGS}")
    project.write("Dockerfile", "FROM $BASE\nRUN touch /x\nCMD sleep 1000\n")
    assert project.rbuild().code == 0
    run(["docker", "rmi", "-f", f"{project.name}-web", *kept_tags(project)])
    before = starts(project)
    ran = project.rbuild("--build-period", "0")
    if starts(project) == before:
        # With the older image store, the image is gone though its container runs.
        assert ran.code == 1, ran.err
        assert "web: its image is gone" in ran.err
    ran = project.rbuild("--force-rebuild")
    assert ran.code == 0, ran.err


def kept_tags(project: Project) -> list[str]:
    wanted = f"reference=rbuild/{project.name}/*"
    listing = ["docker", "images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", wanted]
    return run(listing).split()


# By hand.


@pytest.fixture
def stopped(project: Project) -> Project:
    """A project whose kept generation is one in which nothing ran."""
    project.write(
        "compose.yml",
        f"services: {{web: {{image: $BASE, init: true, command: sleep 999}}}}\n{SETTINGS}",
    )
    assert project.rbuild().code == 0
    run(["docker", "kill", f"{project.name}-web-1"])
    project.edit("compose.yml", "999", "1000")
    assert project.rbuild().code == 0
    return project


def test_a_generation_in_which_nothing_ran_is_no_way_back(stopped: Project) -> None:
    before = starts(stopped)
    assert "nothing ran" in stopped.rbuild("status").out
    ran = stopped.rbuild("rollback")
    assert ran.code == 1, ran.err
    assert "nothing ran in generation" in ran.err
    assert "--force" in ran.err
    assert starts(stopped) == before
    ran = stopped.rbuild("rollback", "--force")
    assert ran.code == 0, ran.err
    assert starts(stopped) != before
