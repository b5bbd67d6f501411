"""Who we are to a registry: logins given by the user, else what Docker's own are.

How Docker keeps them: https://docs.docker.com/reference/cli/docker/login/ and, for what that
page leaves open (spellings of keys, which of several counts), docker/cli's `cli/config`. How a
helper is spoken to: https://github.com/docker/docker-credential-helpers. A login kept in a
file is only encoded, so it is for the one who wrote it to keep that file private.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from rbuild.errors import RbuildError
from rbuild.state.record import write_private

HELPER_TIMEOUT = 20.0
"""Seconds that a credential helper may take: one that waits for a person waits in vain."""
_HUB = "docker.io"
_HUB_KEY = "https://index.docker.io/v1/"
_NOT_FOUND = "credentials not found"
_TOKEN = "<token>"
# The longest known, identity tokens, have a few thousand bytes.
_LONGEST = 1 << 16


class CredentialError(RbuildError):
    """Credentials can't be read: a file, Docker's configuration or a helper is wrong."""


class Login(NamedTuple):
    """A login that the user gave to us. The file holds the password, or an access token."""

    username: str
    password_file: str


class Credential(NamedTuple):
    """What a registry may be told. Its repr shows no secret.

    Either username and password, or an identity token (which buys access tokens), or a
    registry token (which is an access token).
    """

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def __repr__(self) -> str:
        return f"Credential({self.username!r}, …)"


def find(
    registry: str, environ: Mapping[str, str], login: Login | None = None
) -> Credential | None:
    """The credential for a registry; None if there is none.

    `registry` is `host[:port]` as `reference.qualified` spells it, `login` the user's own for
    it, which wins over Docker's. Files are read, and a helper is run, at each call. Raises
    CredentialError.
    """
    if login:
        return Credential(login.username, _password(login))
    folder = _folder(environ)
    config = _read(os.path.join(folder, "config.json"))
    key = _key(registry)
    helper = _table(config, "credHelpers", folder).get(key, config.get("credsStore"))
    if helper:
        return _ask(str(helper), key, environ)
    entry = _entry(_table(config, "auths", folder), key)
    found = Credential(
        *_user(entry, key, folder),
        str(entry.get("identitytoken") or ""),
        str(entry.get("registrytoken") or ""),
    )
    return found if any(found) else None


@contextmanager
def docker_config(
    logins: Mapping[str, Login], environ: Mapping[str, str], folder: str
) -> Iterator[str]:
    """A DOCKER_CONFIG for the docker CLI: the user's own, and these logins by registry.

    `folder` is made, private, and removed at the end; what a killed run left there is removed
    first. Everything in the user's folder but config.json is linked to, so plugins, contexts
    and builders are the same. Raises CredentialError, StateError.
    """
    home = _folder(environ)
    config = _read(os.path.join(home, "config.json"))
    auths = dict(_table(config, "auths", home))
    helpers = dict(_table(config, "credHelpers", home))
    for registry, login in logins.items():
        key = _key(registry)
        auths[key] = {"auth": _encoded(login.username, _password(login))}
        # Without it a credsStore would be asked, and the file not looked at.
        helpers[key] = ""
    import json

    text = json.dumps({**config, "auths": auths, "credHelpers": helpers})
    try:
        _lay_out(folder, home)
        write_private(os.path.join(folder, "config.json"), text)
        yield folder
    finally:
        # What cannot be removed now is private, and removed by the next run.
        with suppress(OSError):
            remove(folder)


def _lay_out(folder: str, home: str) -> None:
    """Make a private folder with links to all in Docker's but its configuration."""
    try:
        remove(folder)
        os.mkdir(folder, 0o700)
        for name in os.listdir(home) if os.path.isdir(home) else ():
            if name != "config.json":
                os.symlink(os.path.join(os.path.abspath(home), name), os.path.join(folder, name))
    except OSError as error:
        raise CredentialError(
            f"{folder}: {error.strerror}", hint="pulls with registry-auth need this folder"
        ) from None


def remove(folder: str) -> None:
    """Remove what `docker_config` makes, or what a killed run has left of it."""
    import shutil

    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return


def _key(registry: str) -> str:
    """What a registry goes by in Docker's configuration."""
    return _HUB_KEY if registry == _HUB else registry


def _folder(environ: Mapping[str, str]) -> str:
    """Docker's configuration folder; like Docker, we ask the system where HOME isn't set."""
    if environ.get("DOCKER_CONFIG"):
        return environ["DOCKER_CONFIG"]
    home = environ.get("HOME")
    if not home:
        import pwd

        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            home = "/"
    return os.path.join(home, ".docker")


def _read(path: str) -> dict[str, Any]:
    """Docker's configuration; empty if there is none."""
    import json

    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise CredentialError(
            f"{path}: {error.strerror}", hint="DOCKER_CONFIG and HOME say where it is looked for"
        ) from None
    except (ValueError, RecursionError) as error:
        # A decoding error's own text quotes what it could not decode.
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise _broken(path, f"this is no JSON{where}") from None
    if not isinstance(config, dict):
        raise _broken(path, "this is no JSON object")
    return config


def _broken(path: str, what: str) -> CredentialError:
    return CredentialError(f"{path}: {what}", hint="`docker login` writes it anew")


def _table(config: dict[str, Any], name: str, folder: str) -> dict[str, Any]:
    found = config.get(name) or {}
    if not isinstance(found, dict):
        raise _broken(os.path.join(folder, "config.json"), f"`{name}` is no object")
    return found


def _entry(auths: dict[str, Any], key: str) -> dict[str, Any]:
    """The entry under exactly this key, else under one that names the same host."""
    for spelling, entry in [(key, auths.get(key)), *auths.items()]:
        if isinstance(entry, dict) and (spelling == key or _host(spelling) == key):
            return entry
    return {}


def _host(key: str) -> str:
    """`https://reg.example:5000/v1/` → `reg.example:5000`."""
    scheme, separator, rest = key.partition("://")
    return (rest if separator else scheme).partition("/")[0]


def _user(entry: dict[str, Any], key: str, folder: str) -> tuple[str, str]:
    """The name and password in an entry."""
    encoded = entry.get("auth")
    if not encoded:
        return str(entry.get("username") or ""), str(entry.get("password") or "")
    import base64

    try:
        text = base64.b64decode("".join(str(encoded).split()), validate=True).decode()
        username, colon, password = text.partition(":")
        if not colon or not username:
            raise ValueError
    except ValueError:
        path = os.path.join(folder, "config.json")
        raise _broken(path, f"`auth` of {key} is no name and password in base64") from None
    return username, password.strip("\0")


def _encoded(username: str, password: str) -> str:
    import base64

    return base64.b64encode(f"{username}:{password}".encode()).decode()


def _password(login: Login) -> str:
    """What the user's file holds, without the newline that editors put at its end."""
    path = login.password_file
    hint = f"it has to hold the password of {login.username}, readable for the user that rbuild \
runs as"
    try:
        with open(path, "rb") as file:
            text = file.read(_LONGEST + 1)
        password = text.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise CredentialError(f"{path}: {error.strerror}", hint=hint) from None
    except ValueError:
        raise CredentialError(f"{path}: this is no UTF-8 text", hint=hint) from None
    if not password or len(text) > _LONGEST:
        what = "this is too long for a password" if password else "there is no password in it"
        raise CredentialError(f"{path}: {what}", hint=hint)
    return password


def _ask(helper: str, key: str, environ: Mapping[str, str]) -> Credential | None:
    """What a credential helper of Docker's knows."""
    import json

    program = f"docker-credential-{helper}"
    code, output, complaint = _run(program, key, environ)
    if code:
        if _NOT_FOUND in output:
            return None
        # By the protocol a helper that fails says why on its standard output.
        said = "" if output.lstrip().startswith("{") else output
        lines = (said.strip() or complaint.strip()).splitlines()
        raise CredentialError(
            f"{program} failed ({code}) for {key}" + (f": {lines[-1][:200]}" if lines else ""),
            hint=f"try: echo {key} | {program} get",
        )
    try:
        answer = json.loads(output)
        username, secret = answer["Username"], answer["Secret"]
        if not (isinstance(username, str) and isinstance(secret, str)):
            raise TypeError
    except (ValueError, LookupError, TypeError, RecursionError):
        raise CredentialError(
            f"{program} gave no credentials for {key} that could be understood",
            hint=f"try: echo {key} | {program} get",
        ) from None
    if username == _TOKEN:
        return Credential(identity_token=secret) if secret else None
    return Credential(username, secret) if username or secret else None


def _run(program: str, key: str, environ: Mapping[str, str]) -> tuple[int, str, str]:
    """Run a helper's `get` to its end or deadline; its code and what it wrote.

    Not through `process.run`, which has no standard input. Files in memory, not pipes: an
    agent that a helper leaves running may hold them open for as long as it likes.
    """
    import signal
    import subprocess

    from rbuild.process import signal_group

    files = [os.memfd_create("helper") for _ in range(3)]
    try:
        os.write(files[0], key.encode())
        os.lseek(files[0], 0, os.SEEK_SET)
        child = subprocess.Popen(
            [program, "get"],
            stdin=files[0],
            stdout=files[1],
            stderr=files[2],
            env=dict(environ),
            start_new_session=True,
        )
        try:
            child.wait(HELPER_TIMEOUT)
        except BaseException:
            signal_group(child.pid, signal.SIGKILL)
            child.wait()
            raise
        output, complaint = (
            os.pread(one, _LONGEST, 0).decode(errors="replace") for one in files[1:]
        )
    except subprocess.TimeoutExpired:
        raise CredentialError(
            f"{program} gave no answer for {key} within {HELPER_TIMEOUT:g} s",
            hint="it may be waiting for somebody to unlock its store: use registry-auth, or log "
            "in without a helper",
        ) from None
    except OSError as error:
        raise CredentialError(
            f"{program}: {error.strerror}",
            hint="Docker's config.json names this credential helper; it must be on the PATH",
        ) from None
    finally:
        for one in files:
            os.close(one)
    return child.returncode, output, complaint
