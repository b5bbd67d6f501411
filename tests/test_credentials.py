"""Credentials as Docker finds them: shapes of its configuration, helpers, logins of our own."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rbuild.registries import credentials
from rbuild.registries.credentials import Credential, CredentialError, Login, docker_config, find

HUB = "https://index.docker.io/v1/"
SECRET = "s3cret:with colon"


def auth(username: str = "ada", password: str = SECRET) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


ADA = Credential("ada", SECRET)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A home of its own, and the helpers that a test writes."""
    return {"HOME": str(tmp_path), "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}


def configure(environ: Mapping[str, str], config: Any) -> Path:
    """Write Docker's configuration; its path."""
    path = Path(environ.get("DOCKER_CONFIG") or f"{environ['HOME']}/.docker") / "config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    return path


def helper(environ: Mapping[str, str], name: str, script: str) -> Path:
    """A credential helper; gives the file that lists what it was asked."""
    folder = Path(environ["HOME"]) / "bin"
    folder.mkdir(exist_ok=True)
    path = folder / f"docker-credential-{name}"
    asked = folder / f"asked-{name}"
    path.write_text(f'#!/bin/sh\necho "$1 $(cat)" >>"{asked}"\n{script}\n')
    path.chmod(0o755)
    return asked


def wrong(call: Any, *arguments: Any) -> CredentialError:
    """The error of a call, which tells no secret."""
    with pytest.raises(CredentialError) as caught:
        call(*arguments)
    error = caught.value
    assert SECRET not in f"{error.message}{error.hint}{error.detail}"
    assert error.exit_code == 1
    assert error.hint
    return error


# Docker's file


@pytest.mark.parametrize(
    ("registry", "config", "found"),
    [
        ("reg.example", {}, None),
        ("reg.example", {"auths": {"reg.example": auth()}}, ADA),
        ("reg.example", {"auths": {"https://reg.example/v1/": auth()}}, ADA),
        ("reg.example", {"auths": {"https://reg.example": auth()}}, ADA),
        ("reg.example", {"auths": {"http://reg.example/v2": auth()}}, ADA),
        ("reg.example", {"auths": {"reg.example/v2/": auth()}}, ADA),
        ("reg.example:5000", {"auths": {"https://reg.example:5000/v1/": auth()}}, ADA),
        ("reg.example:5000", {"auths": {"reg.example": auth()}}, None),
        ("reg.example", {"auths": {"reg.example:5000": auth()}}, None),
        ("reg.example", {"auths": {"xreg.example": auth(), "reg.example.org": auth()}}, None),
        # The exact key wins, also where it holds nothing.
        ("reg.example", {"auths": {"https://reg.example": auth("x"), "reg.example": auth()}}, ADA),
        ("reg.example", {"auths": {"https://reg.example": auth(), "reg.example": {}}}, None),
        ("docker.io", {"auths": {HUB: auth()}}, ADA),
        ("docker.io", {"auths": {"docker.io": auth(), "index.docker.io": auth()}}, None),
        ("index.docker.io", {"auths": {HUB: auth()}}, ADA),
        ("reg.example", {"auths": {"reg.example": {"username": "ada", "password": SECRET}}}, ADA),
        ("reg.example", {"auths": {"reg.example": {**auth(), "username": "eve"}}}, ADA),
        ("reg.example", {"auths": {"reg.example": {**auth("ada", ""), "identitytoken": "t"}}},
         Credential("ada", "", "t")),
        ("reg.example", {"auths": {"reg.example": {"identitytoken": "t"}}},
         Credential(identity_token="t")),
        ("reg.example", {"auths": {"reg.example": {"registrytoken": "t"}}},
         Credential(registry_token="t")),
        ("reg.example", {"auths": {"reg.example": {"auth": "", "email": "a@b"}}}, None),
        ("reg.example", {"auths": {"reg.example": None}}, None),
        ("reg.example", {"auths": None, "credHelpers": None, "credsStore": ""}, None),
        ("reg.example", {"auths": {"reg.example": auth("ada", f"{SECRET}\0\0")}}, ADA),
        ("reg.example", {"auths": {"reg.example": auth("ada", "")}}, Credential("ada")),
        ("reg.example", {"auths": {"reg.example": auth(), "x": {"auth": "!"}}}, ADA),
        ("reg.example", {"auths": {"reg.example": auth()}, "credHelpers": {"x": "none"}}, ADA),
        ("reg.example", {"auths": {"reg.example": auth()}, "credsStore": "none",
                         "credHelpers": {"reg.example": ""}}, ADA),
    ],
)  # fmt: skip
def test_shapes_of_the_file(
    environ: dict[str, str], registry: str, config: dict[str, Any], found: Credential | None
) -> None:
    configure(environ, config)
    assert find(registry, environ) == found


def test_where_the_file_is(environ: dict[str, str], tmp_path: Path) -> None:
    assert find("reg.example", environ) is None
    configure(environ, {"auths": {"reg.example": auth()}})
    assert find("reg.example", environ) == ADA
    assert find("reg.example", {**environ, "DOCKER_CONFIG": ""}) == ADA
    elsewhere = {**environ, "DOCKER_CONFIG": str(tmp_path / "elsewhere")}
    assert find("reg.example", elsewhere) is None
    configure(elsewhere, {"auths": {"reg.example": auth("eve")}})
    assert find("reg.example", elsewhere) == Credential("eve", SECRET)
    assert find("reg.example", {"DOCKER_CONFIG": f"{tmp_path}/bin/none"}) is None
    assert find("no-such.example", {}) is None


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "this is no JSON (line 1)"),
        ('{"auths":\n{"reg.example": {"auth": "' + SECRET, "this is no JSON (line 2)"),
        ("[]", "this is no JSON object"),
        ("[" * 100_000, "this is no JSON"),
        ('{"auths": ["x"]}', "`auths` is no object"),
        ('{"credHelpers": "x"}', "`credHelpers` is no object"),
        ('{"auths": {"reg.example": {"auth": "!"}}}', "in base64"),
        ('{"auths": {"reg.example": {"auth": "YWRh"}}}', "in base64"),
        ('{"auths": {"reg.example": {"auth": "OmFkYQ=="}}}', "in base64"),
        ('{"auths": {"reg.example": {"auth": "/////w=="}}}', "in base64"),
        ('{"auths": {"reg.example": {"auth": 5}}}', "in base64"),
    ],
)
def test_a_broken_file(environ: dict[str, str], text: str, what: str) -> None:
    path = configure(environ, text)
    error = wrong(find, "reg.example", environ)
    assert error.message.startswith(f"{path}: ")
    assert what in error.message


def test_a_file_that_cannot_be_read(environ: dict[str, str]) -> None:
    path = configure(environ, {})
    path.unlink()
    path.mkdir()
    assert wrong(find, "reg.example", environ).message == f"{path}: Is a directory"


def test_a_file_that_is_no_text(environ: dict[str, str]) -> None:
    configure(environ, {}).write_bytes(b"\xff\xfe{}")
    assert "no JSON" in wrong(find, "reg.example", environ).message


# Helpers

ANSWER = json.dumps({"ServerURL": "x", "Username": "ada", "Secret": SECRET})


@pytest.mark.parametrize("registry", ["reg.example:5000", "docker.io"])
@pytest.mark.parametrize("through", ["credsStore", "credHelpers"])
def test_a_helper(environ: dict[str, str], registry: str, through: str) -> None:
    key = HUB if registry == "docker.io" else registry
    asked = helper(environ, "one", f"cat <<'END'\n{ANSWER}\nEND")
    # An own one wins over the store, and any of them over the file.
    named: Any = {"credsStore": "one"}
    if through == "credHelpers":
        named = {"credsStore": "none", "credHelpers": {key: "one", "other.example": "none"}}
    configure(environ, {"auths": {key: auth("eve")}, **named})
    assert find(registry, environ) == ADA
    assert asked.read_text() == f"get {key}\n"


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ('echo \'{"Username": "<token>", "Secret": "t"}\'', Credential(identity_token="t")),
        ('echo \'{"Username": "", "Secret": ""}\'', None),
        ('echo \'{"Username": "<token>", "Secret": ""}\'', None),
        ("echo 'credentials not found in native keychain'; exit 1", None),
    ],
)
def test_what_a_helper_may_say(
    environ: dict[str, str], script: str, found: Credential | None
) -> None:
    helper(environ, "one", script)
    configure(environ, {"credsStore": "one", "auths": {"reg.example": auth()}})
    assert find("reg.example", environ) == found


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'no key'; exit 3", "docker-credential-one failed (3) for reg.example: no key"),
        ("echo a >&2; echo b >&2; exit 1", "docker-credential-one failed (1) for reg.example: b"),
        ("exit 1", "docker-credential-one failed (1) for reg.example"),
        ("kill -9 $$", "docker-credential-one failed (-9) for reg.example"),
        (f"echo '{ANSWER}'; exit 1", "docker-credential-one failed (1) for reg.example"),
        ("", "docker-credential-one gave no credentials for reg.example that could be understood"),
        (
            f"echo '{SECRET}'",
            "docker-credential-one gave no credentials for reg.example that could",
        ),
        ("echo '[]'", "docker-credential-one gave no credentials for reg.example that could"),
        ('echo \'{"Username": "ada"}\'', "docker-credential-one gave no credentials"),
        ('echo \'{"Username": "ada", "Secret": 5}\'', "docker-credential-one gave no credentials"),
    ],
)
def test_a_helper_that_fails(environ: dict[str, str], script: str, message: str) -> None:
    helper(environ, "one", script)
    configure(environ, {"credsStore": "one"})
    error = wrong(find, "reg.example", environ)
    assert error.message.startswith(message)
    assert error.hint == "try: echo reg.example | docker-credential-one get"


def test_a_helper_that_is_missing(environ: dict[str, str], tmp_path: Path) -> None:
    configure(environ, {"credHelpers": {"reg.example": "gone"}})
    error = wrong(find, "reg.example", environ)
    assert error.message == "docker-credential-gone: No such file or directory"
    assert "PATH" in error.hint
    helper(environ, "gone", "").with_name("docker-credential-gone").chmod(0o644)
    assert "Permission denied" in wrong(find, "reg.example", environ).message


def test_a_helper_that_hangs(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(credentials, "HELPER_TIMEOUT", 0.3)
    helper(environ, "one", 'sleep 60 & echo $! >"$HOME/pid"; wait')
    configure(environ, {"credsStore": "one"})
    begun = time.monotonic()
    error = wrong(find, "reg.example", environ)
    assert time.monotonic() - begun < 5
    assert error.message == "docker-credential-one gave no answer for reg.example within 0.3 s"
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}/stat").exists():
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_agent_that_a_helper_leaves_running(environ: dict[str, str], tmp_path: Path) -> None:
    helper(environ, "one", f"setsid sleep 60 & echo $! >\"$HOME/pid\"\necho '{ANSWER}'")
    configure(environ, {"credsStore": "one"})
    begun = time.monotonic()
    try:
        assert find("reg.example", environ) == ADA
        assert time.monotonic() - begun < 10
    finally:
        os.kill(int((tmp_path / "pid").read_text()), 9)


# Our own


@pytest.mark.parametrize(
    ("content", "password"),
    [
        ("x", "x"), ("x\n", "x"), ("x\r\n", "x"), ("x\n\n", "x\n"), (" x ", " x "), ("é:\n", "é:"),
    ],
)  # fmt: skip
def test_a_login_of_our_own(
    environ: dict[str, str], tmp_path: Path, content: str, password: str
) -> None:
    configure(environ, {"auths": {"reg.example": auth("eve")}, "credsStore": "none"})
    (tmp_path / "password").write_bytes(content.encode())
    login = Login("ada", str(tmp_path / "password"))
    assert find("reg.example", environ, login) == Credential("ada", password)
    # It is read at the time of use.
    (tmp_path / "password").write_text("new")
    assert find("reg.example", environ, login) == Credential("ada", "new")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "No such file or directory"), (b"", "there is no password in it"),
        (b"\n", "there is no password in it"), (b"\xff", "this is no UTF-8 text"),
        (b"x" * 70_000, "this is too long for a password"),
    ],
)  # fmt: skip
def test_a_password_file_that_is_wrong(
    environ: dict[str, str], tmp_path: Path, content: bytes | None, what: str
) -> None:
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    login = Login("ada", str(path))
    error = wrong(find, "reg.example", environ, login)
    assert error.message == f"{path}: {what}"
    assert "ada" in error.hint

    def make() -> None:
        with docker_config({"reg.example": login}, environ, str(tmp_path / "made")):
            raise AssertionError

    assert wrong(make).message == error.message
    assert not (tmp_path / "made").exists()


def test_a_credential_does_not_show_its_secret() -> None:
    for one in (ADA, Credential("ada", "", SECRET), Credential("ada", "", "", SECRET)):
        assert SECRET not in f"{one!r}{one}{[one]}"


# A configuration for docker


@pytest.fixture
def login(tmp_path: Path) -> Login:
    (tmp_path / "password").write_text(f"{SECRET}\n")
    return Login("ada", str(tmp_path / "password"))


def test_a_made_configuration(environ: dict[str, str], tmp_path: Path, login: Login) -> None:
    config = {
        "auths": {"reg.example": auth("eve"), "https://other.example": auth("eve")},
        "credsStore": "one",
        "credHelpers": {"third.example": "two"},
        "currentContext": "far",
    }
    path = configure(environ, config)
    before = path.read_text()
    for name in ("cli-plugins", "contexts", ".hidden"):
        (path.parent / name).mkdir()
    (path.parent / "cli-plugins" / "docker-x").write_text("x")
    folder = tmp_path / "made"
    # What a killed run left there.
    (folder / "contexts").mkdir(parents=True)
    (folder / "contexts" / "old").write_text("old")
    (folder / "linked").symlink_to(path.parent / "contexts")
    old = os.umask(0)
    try:
        with docker_config({"reg.example": login, "docker.io": login}, environ, str(folder)) as it:
            assert it == str(folder)
            assert sorted(os.listdir(folder)) == [
                ".hidden", "cli-plugins", "config.json", "contexts",
            ]  # fmt: skip
            assert (folder / "cli-plugins" / "docker-x").read_text() == "x"
            made = json.loads((folder / "config.json").read_text())
            assert made == {
                **config,
                "auths": {**config["auths"], "reg.example": auth(), HUB: auth()},  # type: ignore[dict-item]
                "credHelpers": {"third.example": "two", "reg.example": "", HUB: ""},
            }
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert stat.S_IMODE((folder / "config.json").stat().st_mode) == 0o600
            ours = {**environ, "DOCKER_CONFIG": it}
            assert find("reg.example", ours) == find("docker.io", ours) == ADA
    finally:
        os.umask(old)
    assert not folder.exists()
    assert path.read_text() == before
    assert (path.parent / "cli-plugins" / "docker-x").exists()


def test_a_made_configuration_out_of_nothing(
    environ: dict[str, str], tmp_path: Path, login: Login
) -> None:
    folder = str(tmp_path / "made")
    with docker_config({"reg.example": login}, environ, folder):
        assert os.listdir(folder) == ["config.json"]

    def fail() -> None:
        with docker_config({"reg.example": login}, environ, folder):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not os.path.exists(folder)


def test_a_relative_docker_config(
    environ: dict[str, str], tmp_path: Path, login: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environ["DOCKER_CONFIG"] = "mine"
    path = configure(environ, {})
    (path.parent / "contexts").mkdir()
    with docker_config({"reg.example": login}, environ, str(tmp_path / "made")):
        assert os.readlink(tmp_path / "made" / "contexts") == str(tmp_path / "mine" / "contexts")


def test_a_made_configuration_that_cannot_be(
    environ: dict[str, str], tmp_path: Path, login: Login
) -> None:
    def make(folder: Path) -> None:
        with docker_config({"reg.example": login}, environ, str(folder)):
            raise AssertionError

    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "x", tmp_path / "none" / "x"):
        assert wrong(make, folder).message.startswith(f"{folder}: ")
    configure(environ, f'{{"auths": "{SECRET}')
    assert "no JSON" in wrong(make, tmp_path / "made").message
    assert not (tmp_path / "made").exists()


def test_importing_it_is_cheap() -> None:
    heavy = "subprocess shutil base64 hashlib tempfile"
    module = "rbuild.registries.credentials"
    script = f"import sys, {module}; print(*set(sys.modules) & set({heavy.split()!r}))"
    argv = [sys.executable, "-c", script]
    assert subprocess.run(argv, capture_output=True, text=True).stdout == "\n"
