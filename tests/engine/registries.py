"""Real registries on loopback, each a process of its own: open, with a password, with tokens.

And what fills them: images made by hand, since no engine makes one for two architectures.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import os
import re
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

USER, PASSWORD = "ada", "pass word:1"
IDENTITY = "an-identity-token-of-ada"
# What `htpasswd -nbB -C 5 USER PASSWORD` says.
_HASH = "ada:$2y$05$KgI6JJgSjhcAz5NlaDYvt.Jbzr.J9SB8pAcrVxg95dF4BnWvntlP2"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_LAYERS = {
    OCI_MANIFEST: "application/vnd.oci.image.layer.v1.tar",
    DOCKER_MANIFEST: "application/vnd.docker.image.rootfs.diff.tar",
}
_CONFIGS = {
    OCI_MANIFEST: "application/vnd.oci.image.config.v1+json",
    DOCKER_MANIFEST: "application/vnd.docker.container.image.v1+json",
}
# Read now: a test sees no variables of rbuild's.
_PREFIX = os.environ.get("RBUILD_ENGINE_PREFIX") or "/opt/rbuild-engine"
_LISTENING = re.compile(rb"listening on (127\.0\.0\.1:[0-9]+)")
_ACCESS = re.compile(r'(\S+) \[[^]]*\] "([A-Z]+) (\S+) HTTP/[0-9.]+" ([0-9]{3}) ')


@dataclass
class Registry:
    """A registry that runs. `headers` are what its own requests are sent with."""

    address: str
    log: Path
    headers: dict[str, str] = field(default_factory=dict)

    def asked(self) -> list[tuple[str, str, int]]:
        """What anybody asked so far, in order: method, path, status.

        A request is logged before it is answered.
        """
        found = _ACCESS.findall(self.log.read_text())
        return [(method, path, int(status)) for _, method, path, status in found]

    def manifests_asked(self) -> list[tuple[str, int]]:
        """Method and status of what was asked of manifests."""
        return [(method, status) for method, path, status in self.asked() if "/manifests/" in path]

    def send(
        self, method: str, path: str, body: bytes | None = None, kind: str = ""
    ) -> tuple[bytes, http.client.HTTPResponse]:
        """One request, which must succeed."""
        connection = http.client.HTTPConnection(self.address, timeout=20)
        try:
            headers = {**self.headers, **({"Content-Type": kind} if kind else {})}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        assert answer.status < 300, f"{method} {path}: {answer.status} {text!r}"
        return text, answer

    def put_blob(self, repository: str, content: bytes) -> str:
        """Upload a blob; its digest."""
        _, answer = self.send("POST", f"/v2/{repository}/blobs/uploads/")
        place = urlsplit(answer.headers["Location"])
        query = "&".join(filter(None, (place.query, f"digest={digest(content)}")))
        self.send("PUT", f"{place.path}?{query}", content, "application/octet-stream")
        return digest(content)

    def put_manifest(self, repository: str, tag: str, manifest: Mapping[str, Any]) -> bytes:
        """Let a tag mean this manifest; its bytes."""
        body = json.dumps(manifest).encode()
        name = tag or digest(body)
        self.send("PUT", f"/v2/{repository}/manifests/{name}", body, manifest["mediaType"])
        return body

    def put_image(
        self,
        repository: str,
        tag: str = "",
        *,
        text: str = "",
        kind: str = OCI_MANIFEST,
        architecture: str = "amd64",
    ) -> str:
        """Let a tag mean an image with one small file, its `text`; the manifest's digest."""
        return digest(self._put_image(repository, tag, text, kind, architecture))

    def put_index(
        self,
        repository: str,
        tag: str,
        *,
        text: str = "",
        kind: str = OCI_INDEX,
        architectures: Sequence[str] = ("amd64", "arm64"),
        others: Mapping[str, str] | None = None,
    ) -> str:
        """Let a tag mean such an image for each architecture; the index' digest.

        `others` has texts of their own for some architectures.
        """
        inner = OCI_MANIFEST if kind == OCI_INDEX else DOCKER_MANIFEST
        manifests = []
        for one in architectures:
            body = self._put_image(
                repository, "", f"{(others or {}).get(one, text)}{one}", inner, one
            )
            manifests.append(
                {
                    "mediaType": inner,
                    "size": len(body),
                    "digest": digest(body),
                    "platform": {"architecture": one, "os": "linux"},
                }
            )
        index = {"schemaVersion": 2, "mediaType": kind, "manifests": manifests}
        return digest(self.put_manifest(repository, tag, index))

    def _put_image(
        self, repository: str, tag: str, text: str, kind: str, architecture: str
    ) -> bytes:
        layer = _archive(text)
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/none"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
        }
        manifest: dict[str, Any] = {"schemaVersion": 2, "mediaType": kind}
        for key, form, content in (
            ("config", _CONFIGS[kind], json.dumps(config).encode()),
            ("layer", _LAYERS[kind], layer),
        ):
            name = self.put_blob(repository, content)
            entry = {"mediaType": form, "size": len(content), "digest": name}
            manifest |= {"config": entry} if key == "config" else {"layers": [entry]}
        return self.put_manifest(repository, tag, manifest)


@contextmanager
def registry(folder: Path, auth: Mapping[str, Any] | None = None) -> Iterator[Registry]:
    """A registry that keeps all in `folder`, which is made, and ends with the block."""
    folder.mkdir(parents=True)
    config: dict[str, Any] = {
        "version": "0.1",
        "storage": {
            "filesystem": {"rootdirectory": str(folder / "store")},
            "delete": {"enabled": True},
        },
        "http": {"addr": "127.0.0.1:0", "secret": "the same for all"},
    }
    if auth:
        config["auth"] = auth
    # YAML reads JSON.
    (folder / "config.yml").write_text(json.dumps(config))
    log = folder / "access.log"
    with (
        log.open("wb") as access,
        subprocess.Popen(
            [_program(), "serve", str(folder / "config.yml")],
            stdin=subprocess.DEVNULL,
            stdout=access,
            stderr=subprocess.PIPE,
        ) as child,
    ):
        assert child.stderr
        said = []
        try:
            for line in child.stderr:
                said.append(line)
                if match := _LISTENING.search(line):
                    break
            else:
                raise AssertionError(b"".join(said).decode())
            # It would stop when nobody reads what it says.
            reader = threading.Thread(target=child.stderr.read)
            reader.start()
            yield Registry(match[1].decode(), log)
            child.terminate()
            reader.join()
        finally:
            child.kill()


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address at which requests are handled so, as long as the block lasts."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listener:
        listener.daemon_threads = True
        thread = threading.Thread(target=listener.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield "127.0.0.1:%d" % listener.server_port  # noqa: UP031
        finally:
            listener.shutdown()
            thread.join()


class Front:
    """Stands before a registry, and passes on what it is asked, or does something else."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.asked: list[str] = []
        """The methods of all that was asked here."""
        self.hangs = False
        """It takes what it is asked, and never answers."""
        self.refuses: Mapping[str, str] | None = None
        """It answers 429 Too Many Requests, with these headers."""
        self.is_blind = False
        """Asked by HEAD it knows no manifest."""
        self.gone: set[str] = set()
        """Tags that it does not have any more."""
        self._over = threading.Event()

    def end(self) -> None:
        """Let go of whoever hangs."""
        self._over.set()

    def wait(self) -> None:
        """Until the end of all."""
        self._over.wait()


@contextmanager
def front(registry: str) -> Iterator[Front]:
    """A front of the registry at this address, on a port of its own; it knows no uploads."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # To one that begins with TLS too: it knows by these letters to go on without.
        default_request_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def _answer(self) -> None:
            found.asked.append(self.command)
            if found.hangs:
                self.close_connection = True
                found.wait()
            elif "/manifests/" in self.path and self.path.rpartition("/")[2] in found.gone:
                unknown = (
                    b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}'
                )
                size = {"Content-Type": "application/json", "Content-Length": str(len(unknown))}
                self._send(404, size, b"" if self.command == "HEAD" else unknown)
            elif found.is_blind and self.command == "HEAD":
                self._send(404, {"Content-Length": "0"}, b"")
            elif found.refuses is not None:
                self._send(429, {**found.refuses, "Content-Length": "0"}, b"")
            else:
                connection = http.client.HTTPConnection(registry, timeout=20)
                connection.putrequest(self.command, self.path, True, True)
                # Some, as Accept, are there more than once.
                for name, value in self.headers.items():
                    connection.putheader(name, value)
                connection.endheaders()
                answer = connection.getresponse()
                self._send(answer.status, answer.headers, answer.read())
                connection.close()

        def _send(self, status: int, headers: Mapping[str, str] | Message, body: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with served(Handler) as address:
        found = Front(address)
        try:
            yield found
        finally:
            found.end()


@contextmanager
def private_registry(folder: Path) -> Iterator[Registry]:
    """A registry that only USER may read, with PASSWORD (auth: htpasswd)."""
    folder.mkdir(parents=True)
    (folder / "htpasswd").write_text(f"{_HASH}\n")
    auth = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
    with registry(folder / "registry", auth) as found:
        found.headers["Authorization"] = BASIC
        yield found


@contextmanager
def token_registry(folder: Path) -> Iterator[tuple[Registry, Tokens]]:
    """A registry that wants a token (auth: token), and the server that gives tokens."""
    folder.mkdir(parents=True)
    with tokens(folder) as server:
        auth = {
            "token": {
                "realm": f"http://{server.address}/token",
                "service": server.service,
                "issuer": server.issuer,
                "rootcertbundle": str(folder / "tokens.crt"),
            }
        }
        with registry(folder / "registry", auth) as found:
            yield found, server


class Tokens:
    """A token server: anybody may pull `open/…`, USER may do anything.

    https://distribution.github.io/distribution/spec/auth/token/ and …/oauth/
    """

    service, issuer = "tests.registry", "tests.tokens"

    def __init__(self, folder: Path, address: str) -> None:
        self.address = address
        # What was asked for: method, who, scopes.
        self.asked: list[tuple[str, str, list[str]]] = []
        self.seconds = 300
        self._folder = folder
        self._lock = threading.Lock()

    def answer(self, method: str, authorization: str, form: dict[str, list[str]]) -> dict[str, Any]:
        """The token that a request gets; empty if it gets none."""
        identity = form.get("refresh_token", [""])[0]
        who = USER if authorization == BASIC or identity == IDENTITY else ""
        scopes = [one for text in form.get("scope", []) for one in text.split()]
        with self._lock:
            self.asked.append((method, who, scopes))
        if (authorization or identity) and not who:
            return {}
        name = "token" if method == "GET" else "access_token"
        return {name: self.token(who, scopes), "expires_in": self.seconds}

    def token(self, who: str, scopes: Sequence[str]) -> str:
        """A signed token for what `who` may do of these scopes."""
        access = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            allowed = [
                one for one in actions.split(",") if who or (name[:5], one) == ("open/", "pull")
            ]
            access.append({"type": kind, "name": name, "actions": allowed})
        now = int(time.time())
        pem = (self._folder / "tokens.crt").read_text()
        certificate = "".join(line for line in pem.splitlines() if "-----" not in line)
        claims = {
            "iss": self.issuer,
            "sub": who,
            "aud": self.service,
            "nbf": now - 30,
            "iat": now - 30,
            "exp": now + self.seconds,
            "jti": os.urandom(8).hex(),
            "access": access,
        }
        signed = ".".join(
            _url64(json.dumps(part).encode())
            for part in ({"typ": "JWT", "alg": "RS256", "x5c": [certificate]}, claims)
        )
        argv = ["openssl", "dgst", "-sha256", "-sign", str(self._folder / "tokens.key")]
        done = subprocess.run(argv, input=signed.encode(), capture_output=True, check=True)
        return f"{signed}.{_url64(done.stdout)}"


@contextmanager
def tokens(folder: Path) -> Iterator[Tokens]:
    """A token server on a port of its own, with a key of its own in `folder`."""
    make_certificate(folder / "tokens.crt", folder / "tokens.key", "DNS:tokens.test")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer("GET", urlsplit(self.path).query)

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            self._answer("POST", self.rfile.read(length).decode())

        def _answer(self, method: str, form: str) -> None:
            authorization = self.headers["Authorization"] or ""
            found = server.answer(method, authorization, parse_qs(form))
            body = json.dumps(found or {"error": "invalid_grant"}).encode()
            self.send_response(200 if found else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with served(Handler) as address:
        server = Tokens(folder, address)
        yield server


def make_certificate(path: Path, key: Path, names: str) -> None:
    """A key and a certificate that vouches for itself, for names as in `DNS:x,IP:127.0.0.1`."""
    argv = [
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
        *("-keyout", str(key), "-out", str(path)),
        *("-subj", "/CN=rbuild tests", "-addext", f"subjectAltName={names}"),
    ]
    subprocess.run(argv, capture_output=True, check=True)


def digest(content: bytes) -> str:
    """How a registry calls content."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _program() -> str:
    """docker-registry, where contrib/engine/setup unpacks it."""
    found = f"{_PREFIX}-registry/usr/bin/docker-registry"
    assert os.access(found, os.X_OK), f"{found} is missing: run the tests with tests/run"
    return found


def _archive(text: str) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        entry = tarfile.TarInfo("text")
        entry.size = len(text.encode())
        tar.addfile(entry, io.BytesIO(text.encode()))
    return whole.getvalue()


def _url64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
