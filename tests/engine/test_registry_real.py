"""Digests asked of real registries, and pulls by the real docker with logins of our own."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from rbuild.docker.whales import Whales
from rbuild.process import Stop
from rbuild.registries.credentials import Login, docker_config
from rbuild.registries.registry import Answer, Question, Registries

from .conftest import run
from .registries import (
    BASIC,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    IDENTITY,
    OCI_INDEX,
    OCI_MANIFEST,
    PASSWORD,
    USER,
    Registry,
    Tokens,
    private_registry,
    registry,
    token_registry,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registries")


@pytest.fixture(scope="module")
def public(place: Path) -> Iterator[Registry]:
    with registry(place / "public") as found:
        yield found


@pytest.fixture(scope="module")
def private(place: Path) -> Iterator[Registry]:
    with private_registry(place / "private") as found:
        yield found


@pytest.fixture(scope="module")
def by_token(place: Path) -> Iterator[tuple[Registry, Tokens]]:
    with token_registry(place / "tokens") as found:
        yield found


@pytest.fixture
def repository() -> str:
    """A name that no other test has."""
    return f"t{uuid.uuid4().hex[:10]}/web"


@pytest.fixture
def login(tmp_path: Path) -> Login:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    return Login(USER, str(tmp_path / "password"))


@pytest.fixture
def nobody(tmp_path: Path) -> dict[str, str]:
    """An environment with no Docker configuration."""
    return {"DOCKER_CONFIG": str(tmp_path / "none"), "PATH": os.environ["PATH"]}


def one(registries: Registries, reference: str, login: Login | None = None) -> Answer:
    question = Question(reference, login)
    return registries.ask([question])[question]


# Digests


@pytest.mark.parametrize("kind", [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST])
def test_the_digest_is_the_one_that_a_pull_leaves(
    public: Registry, repository: str, nobody: dict[str, str], kind: str
) -> None:
    if kind in (OCI_INDEX, DOCKER_LIST):
        made = public.put_index(repository, "1", kind=kind)
    else:
        made = public.put_image(repository, "1", kind=kind)
    reference = f"{public.address}/{repository}:1"
    before = len(public.manifests_asked())
    assert one(Registries(nobody), reference) == Answer(made)
    assert public.manifests_asked()[before:] == [("HEAD", 200)]
    run(["docker", "pull", "-q", reference])
    try:
        (image,) = json.loads(run(["docker", "image", "inspect", reference]))
        assert image["RepoDigests"] == [f"{public.address}/{repository}@{made}"]
    finally:
        run(["docker", "rmi", reference])


def test_a_tag_that_moves_and_one_that_is_not_there(
    public: Registry, repository: str, nobody: dict[str, str]
) -> None:
    reference = f"{public.address}/{repository}"
    first, second = (public.put_image(repository, "1", text=text) for text in ("one", "two"))
    assert first != second
    registries = Registries(nobody)
    answers = registries.ask(Question(f"{reference}{one}") for one in (":1", f"@{first}", ":2"))
    assert list(answers.values()) == [
        Answer(second), Answer(first), Answer(error="404: no such image or tag"),
    ]  # fmt: skip


def test_a_hundred_images(public: Registry, repository: str, nobody: dict[str, str]) -> None:
    """As many requests, each a HEAD, however often they are asked for."""
    made = {f"{public.address}/{repository}:{n}": public.put_image(repository, str(n), text=str(n))
            for n in range(100)}  # fmt: skip
    questions = [Question(reference) for reference in made]
    before = len(public.asked())
    answers = Registries(nobody).ask([*questions, *questions])
    assert {question.reference: answer.digest for question, answer in answers.items()} == made
    asked = public.asked()[before:]
    assert sorted(path for _, path, _ in asked) == sorted(
        f"/v2/{repository}/manifests/{n}" for n in range(100)
    )
    assert {method for method, _, _ in asked} == {"HEAD"}


# Who asks


def test_a_registry_with_a_password(
    private: Registry, repository: str, nobody: dict[str, str], login: Login, tmp_path: Path
) -> None:
    made = private.put_image(repository, "1")
    reference = f"{private.address}/{repository}:1"
    registries = Registries(nobody)
    assert one(registries, reference, login) == Answer(made)
    assert one(registries, reference).error == (
        f"401 Unauthorized: no credentials for {private.address} (docker login, or registry-auth)"
    )
    assert ("GET", 200) not in private.manifests_asked()


def test_docker_s_own_login(private: Registry, repository: str, nobody: dict[str, str]) -> None:
    made = private.put_image(repository, "1")
    log_in = ["docker", "login", "-u", USER, "--password-stdin", private.address]
    environ = {**os.environ, **nobody}
    subprocess.run(log_in, input=PASSWORD.encode(), env=environ, check=True, capture_output=True)
    assert one(Registries(nobody), f"{private.address}/{repository}:1") == Answer(made)


def test_a_wrong_password_is_given_once(
    private: Registry, repository: str, nobody: dict[str, str], tmp_path: Path
) -> None:
    private.put_image(repository, "1")
    (tmp_path / "wrong").write_text("Swordfish\n")
    wrong = Login(USER, str(tmp_path / "wrong"))
    before = len(private.manifests_asked())
    questions = [Question(f"{private.address}/{repository}:{n}", wrong) for n in range(30)]
    answers = Registries(nobody).ask(questions)
    (error,) = {answer.error for answer in answers.values()}
    assert error == (
        f"401 Unauthorized: {private.address} refuses the credentials it is given "
        "(docker login, or registry-auth)"
    )
    # The first one's without a password, and once more with it.
    assert private.manifests_asked()[before:] == [("HEAD", 401)] * 2


def test_a_registry_with_tokens(
    by_token: tuple[Registry, Tokens], repository: str, nobody: dict[str, str], login: Login
) -> None:
    place, server = by_token
    place.headers["Authorization"] = f"Bearer {whole(server, repository, f'open/{repository}')}"
    secret = place.put_image(repository, "1")
    for tag in "123":
        shared = place.put_image(f"open/{repository}", tag)
    asked, sent = len(server.asked), len(place.asked())
    registries = Registries(nobody)
    assert one(registries, f"{place.address}/{repository}:1", login) == Answer(secret)
    assert one(registries, f"{place.address}/open/{repository}:1") == Answer(shared)
    assert one(registries, f"{place.address}/open/{repository}:2") == Answer(shared)
    assert one(registries, f"{place.address}/open/{repository}:3", login) == Answer(shared)
    # Each token was got once, and what is wanted asked for only once.
    mine, open_ = f"repository:{repository}:pull", f"repository:open/{repository}:pull"
    assert server.asked[asked:] == [
        ("GET", USER, [mine]), ("GET", "", [open_]), ("GET", USER, [open_]),
    ]  # fmt: skip
    assert [(method, status) for method, _, status in place.asked()[sent:]] == [
        ("HEAD", 401), ("HEAD", 200), ("HEAD", 200), ("HEAD", 200), ("HEAD", 200),
    ]  # fmt: skip
    error = one(registries, f"{place.address}/{repository}:1").error
    assert error.startswith("401 Unauthorized: no such image, or no credentials for 127.0.0.1:")


def test_an_identity_token(
    by_token: tuple[Registry, Tokens], repository: str, nobody: dict[str, str]
) -> None:
    place, server = by_token
    place.headers["Authorization"] = f"Bearer {whole(server, repository)}"
    made = place.put_image(repository, "1")
    folder = Path(nobody["DOCKER_CONFIG"])
    folder.mkdir()
    config = {"auths": {place.address: {"identitytoken": IDENTITY}}}
    (folder / "config.json").write_text(json.dumps(config))
    assert one(Registries(nobody), f"{place.address}/{repository}:1") == Answer(made)
    assert server.asked[-1] == ("POST", USER, [f"repository:{repository}:pull"])


def test_a_wrong_password_for_a_token(
    by_token: tuple[Registry, Tokens], repository: str, nobody: dict[str, str], tmp_path: Path
) -> None:
    place, server = by_token
    (tmp_path / "wrong").write_text("Swordfish")
    wrong = Login(USER, str(tmp_path / "wrong"))
    asked = len(server.asked)
    questions = [Question(f"{place.address}/{repository}{n}:1", wrong) for n in range(30)]
    answers = Registries(nobody).ask(questions)
    assert all("refuses the credentials" in answer.error for answer in answers.values())
    assert len(server.asked) == asked + 1


def whole(server: Tokens, *repositories: str) -> str:
    return server.token(USER, [f"repository:{name}:pull,push" for name in repositories])


# Docker with logins of our own

# Claims to know everybody, and nobody's password.
HELPER = """\
#!/bin/sh
read -r host
echo "$1 $host" >>"$(dirname "$0")/asked"
printf '{"Username": "eve", "Secret": "wrong"}'
"""
PLUGIN = """\
#!/bin/sh
if [ "$1" = docker-cli-plugin-metadata ]; then
    echo '{"SchemaVersion": "0.1.0", "Vendor": "tests", "Version": "1"}'
else
    echo plugged in
fi
"""


@pytest.fixture
def user(tmp_path: Path) -> dict[str, str]:
    """The environment of somebody with a credential store that is wrong, and a plugin."""
    folder = tmp_path / "docker"
    for path, text in {
        "bin/docker-credential-fake": HELPER,
        "docker/cli-plugins/docker-plugged": PLUGIN,
    }.items():
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
        (tmp_path / path).chmod(0o755)
    config = {"credsStore": "fake", "credHelpers": {"other.example": "other"}, "x": 1}
    (folder / "config.json").write_text(json.dumps(config))
    return {**os.environ, "DOCKER_CONFIG": str(folder),
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}  # fmt: skip


def docker(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], env=environ, capture_output=True, text=True)


def test_the_engine_tells_which_registries_it_takes_to_be_insecure() -> None:
    found = Whales(Stop()).insecure_registries()
    assert "127.0.0.0/8" in found
    assert "docker.io" not in found


def test_docker_works_with_a_login_of_ours(
    private: Registry, repository: str, user: dict[str, str], login: Login, tmp_path: Path
) -> None:
    private.put_image(repository, "1", architecture="amd64")
    reference = f"{private.address}/{repository}:1"
    without = docker(user, "pull", "-q", reference)
    assert without.returncode
    assert private.address in (tmp_path / "bin" / "asked").read_text()
    (tmp_path / "bin" / "asked").unlink()

    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM {reference}\nLABEL x=y\n")
    built = f"{private.address}/{repository}:2"
    folder = str(tmp_path / "made")
    try:
        with docker_config({private.address: login}, user, folder) as ours:
            assert ours == folder
            environ = {**user, "DOCKER_CONFIG": ours}
            for arguments in (
                ("pull", "-q", reference),
                ("rmi", reference),
                # Not here any more: the build has to fetch it.
                ("build", "-q", "--no-cache", "--pull", "-t", built, str(context)),
                ("push", "-q", built),
            ):
                done = docker(environ, *arguments)
                assert done.returncode == 0, done.stderr
            assert docker(environ, "plugged").stdout == "plugged in\n"
            assert not (tmp_path / "bin" / "asked").exists()
    finally:
        docker(user, "rmi", "-f", reference, built)
    assert not os.path.exists(folder)


def test_the_made_configuration_is_private(
    private: Registry, user: dict[str, str], login: Login, tmp_path: Path
) -> None:
    folder = tmp_path / "made"
    with docker_config({private.address: login}, user, str(folder)):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "config.json").stat().st_mode) == 0o600
        made = json.loads((folder / "config.json").read_text())
        assert made == {
            "credsStore": "fake",
            "credHelpers": {"other.example": "other", private.address: ""},
            "x": 1,
            "auths": {private.address: {"auth": BASIC.removeprefix("Basic ")}},
        }
