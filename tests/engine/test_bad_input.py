"""Bad input, one test an item: one clear error, the right exit code, and nothing else happens.

`refused` runs the real command on a project that was updated well before, and holds containers,
images and the record against what they were.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from rbuild.docker.whales import Whales
from rbuild.errors import EngineError
from rbuild.process import Stop

from .conftest import Project, Ran, clean_up, run
from .keeping import next_compose, record_of, restored, standing, state_of
from .registries import served

COMPOSE = """\
services:
  web:
    build: .
    init: true
    environment:
      GREETING: hello
x-rbuild:
  settle-period: 1
"""
DOCKERFILE = "FROM $BASE\nCMD httpd -f -h /\n"
# Root without the right to pass over a file's mode; as good as another user, wherever Python is.
MORTAL = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()


def make(folder: Path, state: Path) -> Project:
    """A small project that is up to date; the folder's name is the project's."""
    folder.mkdir(parents=True)
    env = {"RBUILD_STATE_DIR": str(state), "XDG_CONFIG_HOME": str(state / "no-configuration")}
    project = Project(folder, folder.name, os.environ["RBUILD_BASE"], env)
    project.write("compose.yml", COMPOSE)
    project.write("Dockerfile", DOCKERFILE)
    ran = project.rbuild(".")
    assert ran.code == 0, ran.err
    return project


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    top = tmp_path_factory.mktemp("good")
    name = f"bad{os.urandom(4).hex()}"
    yield make(top / name, top / "state")
    clean_up(name)


@pytest.fixture
def good(_made: Project) -> Iterator[Project]:
    """A project that was updated well and is fresh; what a test does to its files is undone."""
    with restored(_made.folder, state_of(_made)):
        yield Project(_made.folder, _made.name, _made.base, dict(_made.env))


@pytest.fixture(params=["present", "next"])
def plugin(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment for the Compose that is there, and for a newer one."""
    return {} if request.param == "present" else next_compose(tmp_path / "docker")


def rbuild(project: Project, *arguments: str, through: Sequence[str] = (), **env: str) -> Ran:
    """Run the real command, started by another if `through` says so."""
    done = subprocess.run(
        [*through, sys.executable, "-m", "rbuild", *arguments],
        cwd=project.folder,
        env={**os.environ, **project.env, **env},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)


def refused(
    project: Project,
    *arguments: str,
    code: int = 1,
    remembered: bool = False,
    through: Sequence[str] = (),
    **env: str,
) -> str:
    """What is said of bad input; it must have changed nothing.

    `remembered`: an update was begun, so the record tells of its failure, and is else the same.
    """
    before = standing(project)
    ran = rbuild(project, *arguments, through=through, **env)
    assert (ran.code, ran.out) == (code, ""), ran
    after = standing(project)
    if remembered:
        (known,) = map(json.loads, before.pop("records").values())
        (now,) = map(json.loads, after.pop("records").values())
        assert now == {**known, "failed": now["failed"]}
        assert now["failed"]["kind"] == "untouched"
        assert now["failed"]["message"] in ran.err
    assert after == before
    assert "an error in rbuild itself" not in ran.err
    assert len(ran.err.splitlines()) < 60, "more than a screen"
    return ran.err


def says(text: str, *parts: str) -> None:
    for part in parts:
        assert part in text, f"{part!r} is not in:\n{text}"


# The project's files


def test_a_file_that_is_not_there(good: Project) -> None:
    err = refused(good, "/srv/nowhere/compose.yml")
    assert err == "/srv/nowhere/compose.yml: no such file or folder\n  check the path\n"


def test_one_of_several_files_that_is_not_there(good: Project) -> None:
    err = refused(good, "compose.yml:more.yml")
    says(err, f"compose.yml:more.yml: {good.folder}/more.yml: no such file", "check the path")


def test_a_link_to_nothing(good: Project) -> None:
    (good.folder / "link.yml").symlink_to("/srv/nowhere")
    says(refused(good, "link.yml"), "link.yml: is a link to nothing")


def test_an_empty_argument_is_not_the_current_folder(good: Project) -> None:
    says(refused(good, "--force-rebuild", ""), "empty PROJECT", "name a compose file or a folder")


def test_a_folder_without_compose_file_is_never_its_parents_project(good: Project) -> None:
    (good.folder / "sub").mkdir()
    err = refused(good, "--force-rebuild", "sub")
    says(err, f"{good.folder}/sub: no compose file in this folder\n", "looked for compose.yaml")


def test_no_project_at_all(good: Project) -> None:
    (good.folder / "sub").mkdir()
    before = standing(good)
    ran = good.rbuild(cwd=good.folder / "sub")
    assert (ran.code, ran.out) == (2, "")
    says(ran.err, "no project: no compose file in", "/sub", "rbuild.yml", "rbuild --help")
    assert standing(good) == before


def test_broken_yaml(good: Project) -> None:
    good.write("compose.yml", "services:\n  web:\n    image: [a\n  x: 1\n")
    assert refused(good, ".").startswith(f"{good.folder}/compose.yml:4:4: ")


def test_a_compose_file_that_is_no_text(good: Project) -> None:
    (good.folder / "compose.yml").write_bytes(b"services:\n  web: \xff\xfe\n")
    says(refused(good, "."), f"{good.folder}/compose.yml:2:8: not readable as text")


def test_a_compose_file_that_this_user_may_not_read(good: Project) -> None:
    path = good.folder / "compose.yml"
    path.chmod(0)
    try:
        err = refused(good, "--force-rebuild", ".", through=MORTAL)
    finally:
        path.chmod(0o644)
    says(err, f"{path}: Permission denied")


@pytest.mark.parametrize("spelling", [".", "compose.yml"])
def test_a_file_that_compose_refuses(good: Project, plugin: dict[str, str], spelling: str) -> None:
    good.edit("compose.yml", "init: true", "inot: true")
    err = refused(good, spelling, **plugin)
    where = good.folder if spelling == "." else good.folder / spelling
    assert err.startswith(f"{where}: Compose refuses this project\n    ")
    says(err, "inot", "`docker compose config` shows the same")


def test_a_required_variable_that_is_not_set(good: Project, plugin: dict[str, str]) -> None:
    good.edit("compose.yml", "hello", "${GREETING:?say how to greet}")
    err = refused(good, ".", **plugin)
    says(err, f"{good.folder}: Compose refuses this project", "GREETING", "say how to greet")


# Settings


def test_a_bad_duration_as_a_flag(good: Project) -> None:
    err = refused(good, "--build-period", "7 days", ".", code=2)
    says(err, "--build-period", "'7 days' is no duration: give seconds, or a number with s, m, h")


@pytest.mark.parametrize("variable", ["BUILD_PERIOD", "BUILD_TTL", "RBUILD_UP_TIMEOUT_PERIOD"])
def test_a_bad_duration_in_the_environment(good: Project, variable: str) -> None:
    err = refused(good, ".", code=2, **{variable: "-5m"})
    says(err, f"rbuild: {variable} in the environment: '-5m' is no duration: give seconds")


def test_a_bad_number_in_the_environment(good: Project) -> None:
    says(refused(good, ".", code=2, RBUILD_KEEP_IMAGES="few"), "RBUILD_KEEP_IMAGES", "'few' is no")
    says(refused(good, ".", code=2, RBUILD_JOBS="0"), "RBUILD_JOBS in the environment", "1<=x<=64")


def test_a_bad_duration_in_the_compose_file(good: Project) -> None:
    good.edit("compose.yml", "settle-period: 1", "build-period: weekly")
    err = refused(good, ".")
    says(err, f"{good.folder}/compose.yml:8: build-period: 'weekly' is no duration: give seconds")
    assert err.startswith(str(good.folder)), "the place comes first, and once"


def test_a_bad_duration_in_rbuild_yml(good: Project, tmp_path: Path) -> None:
    config = tmp_path / "rbuild.yml"
    config.write_text("projects: []\ndefaults:\n  build-period: 1 day\n")
    err = refused(good, "--config", str(config), ".", code=2)
    says(err, f"rbuild: {config}:3: build-period: '1 day' is no duration: give seconds")


def test_an_unknown_key_in_x_rbuild(good: Project) -> None:
    good.edit("compose.yml", "settle-period: 1", "build-perod: 7d")
    err = refused(good, "compose.yml")
    assert err == (
        f"{good.folder}/compose.yml:8: unknown key 'build-perod'\n  did you mean build-period?\n"
    )


def test_x_rbuild_that_is_no_mapping(good: Project) -> None:
    good.edit("compose.yml", "x-rbuild:\n  settle-period: 1", "x-rbuild: 7d")
    says(refused(good, "."), f"{good.folder}/compose.yml:7: x-rbuild: expected a mapping")


def test_a_runs_option_in_x_rbuild(good: Project) -> None:
    good.edit("compose.yml", "settle-period: 1", "jobs: 3")
    says(refused(good, "."), "compose.yml:8: jobs belongs to a run", "give it as --jobs")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("updat: manual", "unknown key 'updat'\n  did you mean update?"),
        ("update: never", "update: 'never' is neither auto nor manual"),
        ("one-shot: maybe", "one-shot: 'maybe' is neither true nor false"),
        ("build-period: 7d", "build-period is a setting of the project, not of a service"),
    ],
)
def test_a_wrong_x_rbuild_in_a_service(good: Project, line: str, complaint: str) -> None:
    good.edit("compose.yml", "    init: true\n", f"    x-rbuild:\n      {line}\n")
    says(refused(good, "."), f"{good.folder}/compose.yml:5: {complaint}")


def test_x_rbuild_in_a_service_is_read(good: Project, plugin: dict[str, str]) -> None:
    good.edit("compose.yml", "    init: true\n", "    x-rbuild: {update: by-hand}\n")
    says(refused(good, ".", **plugin), f"{good.folder}/compose.yml:4: update: 'by-hand' is neither")
    good.edit("compose.yml", "by-hand", "manual")
    ran = rbuild(good, "-n", "--json", "--force-rebuild", ".", **plugin)
    (one,) = ran.document["projects"]
    assert not any("build" in step or "bring up" in step for step in one["steps"])


def test_an_unknown_key_in_rbuild_yml(good: Project, tmp_path: Path) -> None:
    config = tmp_path / "rbuild.yml"
    config.write_text("# servers\nproject: [/srv/site]\n")
    err = refused(good, "--config", str(config), ".", code=2)
    says(err, f"rbuild: {config}:2: unknown key 'project'", "did you mean projects?")
    config.write_text("defaults:\n  keep-image: 2\n")
    err = refused(good, "--config", str(config), ".", code=2)
    says(err, f"rbuild: {config}:2: unknown key 'keep-image'", "did you mean keep-images?")


def test_a_configuration_file_that_is_not_there(good: Project) -> None:
    err = refused(good, "--config", "/srv/nowhere.yml", ".", code=2)
    says(err, "/srv/nowhere.yml: no such configuration file")


def test_broken_yaml_in_rbuild_yml(good: Project, tmp_path: Path) -> None:
    config = tmp_path / "rbuild.yml"
    config.write_text("projects: [\n")
    says(refused(good, "--config", str(config), ".", code=2), f"rbuild: {config}:2:1: ")


def test_options_that_exclude_each_other(good: Project) -> None:
    err = refused(good, "--remove-images", "--force-rebuild", ".", code=2)
    says(err, "--remove-images and --force-rebuild exclude each other")


@pytest.mark.parametrize("flag", ["--force-rebuild", "--remove-images"])
def test_the_whole_list_needs_all(good: Project, tmp_path: Path, flag: str) -> None:
    config = tmp_path / "rbuild.yml"
    config.write_text(f"projects: [{good.folder}]\n")
    elsewhere = Project(tmp_path, good.name, good.base, good.env)
    err = refused(elsewhere, "--config", str(config), flag, code=2)
    says(err, f"{flag} on all projects of {config} needs --all", "name the project")
    ran = rbuild(elsewhere, "--config", str(config), flag, "--all", "-n")
    assert ran.code == 0, ran.err


# The state folder and the record


def test_a_state_folder_that_cannot_be_written(good: Project) -> None:
    state = state_of(good)
    folders = [state, *(path for path in state.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o500)
    try:
        err = refused(good, "--force-rebuild", ".", through=MORTAL)
    finally:
        for path in folders:
            path.chmod(0o700)
    says(err, str(state), "cannot keep state here: Permission denied", "--state-dir")
    says(err, "no container was touched: what ran before runs on")
    assert "whole output" not in err, "there is no log to look into"


def test_a_new_state_folder_that_cannot_be_made(good: Project, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    state = tmp_path / "locked" / "rbuild"
    err = refused(good, ".", through=MORTAL, RBUILD_STATE_DIR=str(state))
    says(err, f"{state}/projects/", "cannot keep state here: Permission denied", "--state-dir")


def test_a_file_in_place_of_the_state_folder(good: Project, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    err = refused(good, ".", code=2, RBUILD_STATE_DIR=str(tmp_path / "state"))
    says(err, "RBUILD_STATE_DIR in the environment", f"{tmp_path}/state", "is a file")
    (tmp_path / "under").mkdir()
    (tmp_path / "under" / "projects").write_text("")
    err = refused(good, ".", RBUILD_STATE_DIR=str(tmp_path / "under"))
    says(err, f"{tmp_path}/under/projects: cannot keep state here: Not a directory")


@pytest.fixture
def small(good: Project) -> Iterator[Path]:
    """The good project's state folder on a disk of 64 KiB."""
    state = state_of(good)
    aside = state.with_name("aside")
    shutil.copytree(state, aside)
    run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "rbuild-test", str(state)])
    try:
        shutil.copytree(aside, state, dirs_exist_ok=True)
        yield state
    finally:
        run(["umount", str(state)])
        shutil.rmtree(aside)


def fill(state: Path) -> None:
    with open(state / "filler", "ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def test_a_full_state_folder(good: Project, small: Path) -> None:
    fill(small)
    err = refused(good, "--force-rebuild", ".")
    says(err, str(small), "cannot keep state here: No space left on device", "free some space")
    says(err, "no container was touched: what ran before runs on")


def damage(path: Path, how: str) -> bytes:
    content = path.read_bytes()
    data = json.loads(content)
    wrong: dict[str, bytes] = {
        "cut short": content[: len(content) // 2],
        "garbage": os.urandom(200),
        "another document": b'["a", "list"]',
        "a wrong type": json.dumps({**data, "views": []}).encode(),
        "a wrong time": json.dumps({**data, "built": "yesterday"}).encode(),
    }
    path.write_bytes(wrong[how])
    return wrong[how]


@pytest.mark.parametrize(
    "how", ["cut short", "garbage", "another document", "a wrong type", "a wrong time"]
)
def test_a_damaged_record_is_made_again(good: Project, how: str) -> None:
    path = record_of(good)
    content = damage(path, how)
    before = standing(good)
    ran = good.rbuild(".")
    assert (ran.code, ran.out) == (0, "")
    says(ran.err, f"warning: {path}: ", "set aside as ", "made again from the images' labels")
    after = standing(good)
    assert after["containers"] == before["containers"]
    (aside,) = path.parent.glob("record.json.damaged-*")
    assert aside.read_bytes() == content
    again = good.rbuild(".")
    assert (again.code, again.out, again.err) == (0, "", "")


def test_a_damaged_record_stays_where_it_is_while_the_engine_is_down(good: Project) -> None:
    damage(record_of(good), "garbage")
    says(refused(good, ".", DOCKER_HOST="unix:///nonexistent"), "the Docker engine does not answer")


def test_a_record_of_a_newer_rbuild(good: Project) -> None:
    path = record_of(good)
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 99}))
    err = refused(good, "--force-rebuild", ".")
    says(err, f"{path}: written by a newer rbuild (version 99", "upgrade rbuild, or move the file")


# Docker


def test_no_docker_command(good: Project, tmp_path: Path) -> None:
    err = refused(good, "--force-rebuild", ".", PATH=str(tmp_path))
    says(err, f"{good.folder}: no docker command on PATH ({tmp_path})", "install Docker's CLI")
    says(err, "under cron, set PATH in the crontab")


def compose_plugin(**env: str) -> Path:
    form = '{{range .ClientInfo.Plugins}}{{if eq .Name "compose"}}{{.Path}}{{end}}{{end}}'
    return Path(run(["docker", "info", "--format", form], env=env).strip())


def test_no_compose_plugin(good: Project, tmp_path: Path) -> None:
    hide = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"')
    err = refused(
        good,
        "--force-rebuild",
        ".",
        through=(*hide, str(compose_plugin(DOCKER_CONFIG=str(tmp_path)).parent)),
        DOCKER_CONFIG=str(tmp_path),
    )
    says(err, "docker has no compose plugin", "install Compose 2.20.0 or newer")
    assert len(err.splitlines()) < 5, "docker's help is of no help"


@pytest.mark.parametrize("broken", [False, True], ids=["that works", "that refuses the file"])
def test_a_compose_plugin_that_is_too_old(good: Project, tmp_path: Path, broken: bool) -> None:
    fake = tmp_path / "cli-plugins" / "docker-compose"
    fake.parent.mkdir()
    fake.write_text(
        f"""\
#!/bin/sh
case "$*" in
*version*) echo 2.5.0 ;;
*config*) {"echo unknown keyword >&2; exit 15" if broken else f'exec {compose_plugin()} "$@"'} ;;
*) exec {compose_plugin()} "$@" ;;
esac
"""
    )
    fake.chmod(0o755)
    err = refused(good, "--force-rebuild", ".", DOCKER_CONFIG=str(tmp_path))
    says(err, "Compose 2.5.0 is too old", "rbuild needs 2.20.0 or newer")


def test_a_compose_plugin_that_talks_nonsense(good: Project, tmp_path: Path) -> None:
    fake = tmp_path / "cli-plugins" / "docker-compose"
    fake.parent.mkdir()
    fake.write_text(
        '#!/bin/sh\ncase "$*" in\n*config*) echo hello ;;\n'
        f'*) exec {compose_plugin()} "$@" ;;\nesac\n'
    )
    fake.chmod(0o755)
    err = refused(good, "--force-rebuild", ".", DOCKER_CONFIG=str(tmp_path))
    says(err, f"{good.folder}: `docker compose config --format json` gave no JSON", "hello")


def test_an_engine_that_is_down(good: Project) -> None:
    err = refused(good, "--force-rebuild", ".", DOCKER_HOST="unix:///nonexistent")
    says(err, f"{good.name}: the Docker engine does not answer", "unix:///nonexistent")
    says(err, "docker info", "DOCKER_HOST", "forced: ")
    assert "runs on" not in err, "who knows what runs"


def test_a_docker_context_that_is_not_there(good: Project) -> None:
    err = refused(good, "--force-rebuild", ".", DOCKER_CONTEXT="nosuch")
    says(err, "the Docker engine can't be asked", 'context "nosuch"', "DOCKER_CONTEXT")


def test_an_engine_that_denies_permission(good: Project, tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        path.chmod(0)
        err = refused(good, "--force-rebuild", ".", through=MORTAL, DOCKER_HOST=f"unix://{path}")
    says(err, "the Docker engine denies this user", str(path), "member of the docker group")


def test_remove_images_without_an_engine(good: Project) -> None:
    err = refused(good, "--remove-images", ".", DOCKER_HOST="unix:///nonexistent")
    says(err, "the Docker engine does not answer", "docker info")


class Odd(BaseHTTPRequestHandler):
    """Answers every question of an engine's with the same body."""

    body = b""

    def do_GET(self) -> None:
        body = b"OK" if self.path.endswith("/_ping") else self.body
        self.send_response(200)
        for name, value in (("Api-Version", "1.45"), ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "EOF"),
        (b"<html>welcome</html>", "invalid character '<'"),
        (b"[]", "cannot unmarshal array"),
        (b"{}", "`docker info` gives a strange answer"),
        (b"null", "`docker info` gives a strange answer"),
    ],
)
def test_what_answers_and_is_no_engine(good: Project, body: bytes, complaint: str) -> None:
    with served(type("Answer", (Odd,), {"body": body})) as address:
        err = refused(good, "--force-rebuild", ".", DOCKER_HOST=f"tcp://{address}")
    assert "does not answer" not in err
    says(err, complaint, "DOCKER_HOST")


@pytest.mark.parametrize("answer", ["", "[{}]", "[null]", "<html>welcome</html>", "{}"])
def test_a_docker_command_that_talks_nonsense(good: Project, tmp_path: Path, answer: str) -> None:
    fake = tmp_path / "docker"
    fake.write_text(
        f"""#!/bin/sh
case "$*" in *"image inspect"*) echo '{answer}'; exit 0 ;; esac
exec {shutil.which("docker")} "$@"
"""
    )
    fake.chmod(0o755)
    err = refused(good, "--force-rebuild", ".", PATH=f"{tmp_path}:{os.environ['PATH']}")
    says(err, f"{good.name}: `docker image inspect` gives a strange answer", answer)


def test_a_question_that_an_engine_refuses(good: Project) -> None:
    """An engine that lives is not said to be down."""
    with pytest.raises(EngineError) as error:
        Whales(Stop())._inspect("image", ["No/Name:"], dict)
    assert error.value.message == "`docker image inspect` failed"
    says(error.value.detail, "invalid reference format")


# Names of images


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("image: ghcr.io/MyOrg/app",
         "services.db.image: 'ghcr.io/MyOrg/app' is not a valid image name (capital letters)"),
        ("image: 'base:'", "services.db.image: 'base:' is not a valid image name (its tag is"),
        ("image: http://host/app", "services.db.image: 'http://host/app' is not a valid image"),
        ("image: ${NOWHERE}-app:1", "variable NOWHERE is not set: services.db.image: '-app:1' is"),
        ("image: ${NOWHERE}/app:1", "variable NOWHERE is not set: services.db.image: '/app:1' is"),
        ("build: {context: ., tags: [Db]}", "services.db.build.tags: 'Db' is not a valid image"),
    ],
)  # fmt: skip
def test_a_name_that_no_image_can_have(good: Project, text: str, complaint: str) -> None:
    good.edit("compose.yml", "x-rbuild", f"  db:\n    {text}\nx-rbuild")
    err = refused(good, ".")
    assert err.startswith(f"{good.folder}/compose.yml:8: {complaint}")
    assert "engine" not in err
    assert refused(good, ".", code=75) == ""
    status = rbuild(good, "status")
    assert status.code == 1
    says(status.out, complaint)
    # Plain Compose takes it where it is not used.
    good.edit("compose.yml", text, f"{text}\n    profiles: [never]")
    ran = rbuild(good, "-n", ".")
    assert (ran.code, ran.err) == (0, "")


def test_a_service_whose_image_would_have_an_impossible_name(
    good: Project, plugin: dict[str, str]
) -> None:
    good.edit("compose.yml", "x-rbuild", "  My.App: {build: .}\nx-rbuild")
    err = refused(good, ".", **plugin)
    says(err, f"{good.folder}/compose.yml:7: services.My.App: its image would be named ")
    says(err, f"'{good.name}-My.App', which is not a valid image name (capital letters)")
    assert refused(good, ".", code=75, **plugin) == ""


def test_a_base_whose_name_no_image_can_have(good: Project) -> None:
    good.write("Dockerfile", "FROM $BASE AS one\nFROM Debian:12\n")
    err = refused(good, ".")
    says(err, f"{good.folder}/Dockerfile line 2: Debian:12 is neither a stage nor an image's name")
    says(err, "(capital letters)")
    assert refused(good, ".", code=75) == ""
    good.write("Dockerfile", "FROM base\n")
    context = "\n      context: .\n      additional_contexts: {base: 'docker-image://Debian:12'}"
    good.edit("compose.yml", "build: .", f"build:{context}")
    says(refused(good, "."), "services.web.build.additional_contexts.base: 'Debian:12' is not a")


# Builds, bases, ports


def test_a_build_that_fails(good: Project, plugin: dict[str, str]) -> None:
    good.edit("Dockerfile", "CMD", "RUN echo the well is dry; exit 3\nCMD")
    err = refused(good, ".", remembered=True, **plugin)
    says(err, f"{good.name}: the build of web failed\n", "the well is dry", "exit code: 3")
    says(err, "no container was touched: what ran before runs on")
    says(err, f"changed: {good.folder}/Dockerfile")
    (log,) = [line.split(": ", 1)[1] for line in err.splitlines() if "whole output" in line]
    says(Path(log).read_text(), "the well is dry", "--no-cache")


def test_a_base_that_does_not_exist(good: Project) -> None:
    registry = os.environ["RBUILD_REGISTRY"]
    good.write("Dockerfile", f"FROM {registry}/rbuild/nosuch:7\n")
    err = refused(good, ".", remembered=True)
    says(err, f"{registry}/rbuild/nosuch:7: cannot be pulled (base of web)\n")
    assert "unknown" in err or "not found" in err
    says(err, "check its name, the way to the registry, and `docker login`")


def test_a_registry_that_cannot_be_reached(good: Project) -> None:
    good.write("Dockerfile", "FROM 127.0.0.1:1/x:1\n")
    err = refused(good, ".", remembered=True)
    says(err, "127.0.0.1:1/x:1: cannot be pulled (base of web)", "connection refused")
    says(err, "the way to the registry", "no container was touched: what ran before runs on")


def test_an_image_of_a_service_that_does_not_exist(good: Project) -> None:
    good.write(
        "compose.yml", COMPOSE.replace("x-rbuild", "  db: {image: 127.0.0.1:1/db}\nx-rbuild")
    )
    err = refused(good, ".", remembered=True)
    says(err, "127.0.0.1:1/db: cannot be pulled (image of a service)")


@pytest.mark.parametrize("address", ["127.0.0.1", ""], ids=["one address", "all addresses"])
def test_a_port_that_a_program_has(good: Project, plugin: dict[str, str], address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = f"{address}:{other.getsockname()[1]}".lstrip(":")
        good.edit("compose.yml", "init: true", f'init: true\n    ports: ["{port}:80"]')
        err = refused(good, ".", remembered=True, **plugin)
    says(err, f"{good.name}: service web: port {port} is taken already, by a program on this")
    says(err, "`ss -lntup` shows which; stop it, or publish another port")
    says(err, "no container was touched: what ran before runs on")


def test_a_port_that_a_container_has(good: Project) -> None:
    holder = f"{good.name}-holder"
    argv = ["docker", "run", "--detach", "--rm", "--name", holder, "--publish", "127.0.0.1::80"]
    run([*argv, good.base, "sleep", "60"])
    try:
        port = run(["docker", "port", holder, "80/tcp"]).split(":")[-1].strip()
        # Only a fixed port is one that an engine can be asked for.
        run(["docker", "rm", "--force", holder])
        argv[-1] = f"127.0.0.1:{port}:80"
        run([*argv, good.base, "sleep", "60"])
        good.edit("compose.yml", "init: true", f'init: true\n    ports: ["{port}:80"]')
        err = refused(good, ".", remembered=True)
    finally:
        run(["docker", "rm", "--force", holder])
    says(err, f"service web: port {port} is taken already, by container {holder}", "stop that")


@pytest.mark.parametrize(
    ("dockerfile", "complaint"),
    [
        (None, "the Dockerfile of service web: No such file or directory"),
        ("", "no FROM in it"),
        # Never to be shown to an engine: 26.1 dies of it.
        ("ARG VERSION=1\n", "no FROM in it"),
        ("RUN true\nFROM $BASE\n", "RUN comes before the first FROM"),
        ("FROM\n", "FROM"),
    ],
    ids=["missing", "empty", "only arguments", "no FROM first", "FROM nothing"],
)
def test_a_dockerfile_that_is_none(good: Project, dockerfile: str | None, complaint: str) -> None:
    if dockerfile is None:
        (good.folder / "Dockerfile").unlink()
    else:
        good.write("Dockerfile", dockerfile)
    err = refused(good, "-n", ".")
    if dockerfile is None:
        assert refused(good, ".") == err
    path = good.folder / "Dockerfile"
    assert err.startswith(str(path)), "the place comes first"
    says(err, complaint)
    assert err.splitlines()[0].count("Dockerfile") <= 2, "its path, and what it is"


def test_an_instruction_that_docker_does_not_know(good: Project) -> None:
    good.edit("Dockerfile", "CMD", "COMMAND")
    says(refused(good, ".", remembered=True), "the build of web failed", "COMMAND")


def test_builds_that_rest_on_each_other(good: Project) -> None:
    name = good.name
    good.write(
        "compose.yml",
        f"""\
services:
  a: {{image: {name}-a, build: {{context: ., dockerfile_inline: "FROM {name}-b"}}}}
  b: {{image: {name}-b, build: {{context: ., dockerfile_inline: "FROM {name}-a"}}}}
""",
    )
    err = refused(good, ".")
    says(err, "the builds of a, b rest on each other in a circle", "FROM lines")


# Several projects, and who is who


def test_one_bad_project_does_not_stop_the_others(good: Project, tmp_path: Path) -> None:
    other = tmp_path / "broken"
    other.mkdir()
    (other / "compose.yml").write_text("services: [\n")
    before = standing(good)
    arguments = ("/srv/nowhere", str(other), str(good.folder), str(tmp_path))
    ran = rbuild(good, "--json", "-n", "--force-rebuild", *arguments)
    assert ran.code == ran.document["exit_code"] == 1
    outcomes = {one["path"]: one["outcome"] for one in ran.document["projects"]}
    assert outcomes == dict(zip(arguments, ["failed", "failed", "planned", "failed"], strict=True))
    says(ran.err, "/srv/nowhere: no such", f"{other}/compose.yml:2:1: ", f"{tmp_path}: no compose")
    assert standing(good) == before


def test_a_project_named_twice_is_worked_once(good: Project) -> None:
    spellings = (".", str(good.folder), "compose.yml", "./compose.yml", f"../{good.name}/")
    ran = rbuild(good, "--json", "-n", "--force-rebuild", *spellings)
    assert [one["name"] for one in ran.document["projects"]] == [good.name]


def test_another_stack_that_shares_the_name(good: Project, tmp_path: Path) -> None:
    folder = tmp_path / good.name
    shutil.copytree(good.folder, folder)
    err = refused(good, str(folder))
    says(err, f"another stack uses the Compose project name {good.name!r}")
    says(err, f"{good.name}-web-1", f"{good.folder}/compose.yml", "give one of them a name")


def test_two_unrelated_files_in_one_folder(good: Project) -> None:
    good.write("other.yml", f"services:\n  other: {{image: {good.base}}}\n")
    err = refused(good, "other.yml")
    says(err, f"{good.folder}/compose.yml make up the Compose project {good.name!r} already")
    says(err, "join the files with ':'", "give each a `name:`")


# Input that only looks bad


def test_names_in_any_script_and_odd_characters(good: Project, plugin: dict[str, str]) -> None:
    name = f"{good.name}odd"
    folder = good.folder / "Русский 中文: a b"
    text = COMPOSE.replace("hello", "\"héllo 'мир' $$HOME ${WHO:-世界}\"")
    odd = Project(folder, name, good.base, good.env)
    odd.write("файл.yml", f"name: {name}\n{text}")
    odd.write("more: files.yml", "services:\n  web:\n    volumes: ['./страница.html:/p.html:ro']\n")
    odd.write("Dockerfile", DOCKERFILE + 'COPY ["страница.html", "/"]\n')
    odd.write("страница.html", "день\n")
    spelling = "файл.yml:more: files.yml"
    try:
        # ':' joins, so a path that holds one can't be joined; as an argument of its own it can.
        says(rbuild(odd, spelling, **plugin).err, "more: no such file or folder")
        first = rbuild(odd, str(folder / "файл.yml"), **plugin)
        assert first.code == 0, first.err
        assert first.out.startswith(f"{name}: updated web ")
        again = rbuild(odd, "файл.yml", **plugin)
        assert (again.code, again.out, again.err) == (0, "", "")
        (web,) = odd.containers().values()
        assert "GREETING=héllo 'мир' $HOME 世界" in web["Config"]["Env"]
        status = rbuild(odd, "status", "файл.yml", **plugin)
        says(status.out, f"{name}  {folder}/файл.yml", "running")
    finally:
        clean_up(name)


def test_a_folder_whose_name_gives_no_project_name(good: Project, plugin: dict[str, str]) -> None:
    folder = good.folder / "中文"
    folder.mkdir()
    shutil.copy(good.folder / "compose.yml", folder)
    shutil.copy(good.folder / "Dockerfile", folder)
    err = refused(good, str(folder), **plugin)
    says(err, f"{folder}: Compose refuses this project", "project name")


def test_a_path_with_a_colon_is_one_path(good: Project) -> None:
    folder = good.folder / "a:b c"
    folder.mkdir()
    (folder / "compose.yml").write_text(f"name: {good.name}colon\n{COMPOSE}")
    (folder / "Dockerfile").write_text(f"FROM {good.base}\n")
    for spelling in ("a:b c", "a:b c/compose.yml", str(folder)):
        ran = rbuild(good, "--json", "-n", spelling)
        assert ran.code == 0, ran.err
        (one,) = ran.document["projects"]
        assert one["name"] == f"{good.name}colon"
        assert one["path"].startswith(str(folder))


def test_two_files_joined_by_a_colon(good: Project) -> None:
    good.write("second.yml", f"services:\n  second: {{image: {good.base}}}\n")
    ran = rbuild(good, "--json", "-n", "compose.yml:second.yml")
    assert ran.code == 0, ran.err
    (one,) = ran.document["projects"]
    assert one["path"] == f"{good.folder}/compose.yml:{good.folder}/second.yml"
    assert any("bring up" in step and "second" in step for step in one["steps"])


def test_a_folder_reached_by_a_link_is_the_same_project(good: Project, tmp_path: Path) -> None:
    link = tmp_path / good.name
    link.symlink_to(good.folder)
    before = standing(good)
    ran = rbuild(good, str(link))
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    after = standing(good)
    assert after["containers"] == before["containers"]
    assert after["records"].keys() == before["records"].keys()
