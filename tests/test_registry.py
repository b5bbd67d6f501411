"""Asking registries: what real ones can't be made to do, by small servers that do it."""

from __future__ import annotations

import base64
import hashlib
import json
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbuild.errors import EngineError, Interrupted
from rbuild.registries.challenge import Challenge, challenges
from rbuild.registries.conversation import LONGEST_PAUSE, MANIFESTS, PAUSE
from rbuild.registries.credentials import Login
from rbuild.registries.registry import Answer, Question, Registries
from rbuild.registries.transport import Network, line_of

DIGEST = f"sha256:{'0123456789abcdef' * 4}"
OTHER = f"sha256:{'f' * 64}"
PASSWORD = "pass word:1"


class Asked(NamedTuple):
    """A request that a server got."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def authorization(self) -> str:
        return self.headers.get("Authorization", "")


class Reply(NamedTuple):
    """What a server answers."""

    status: int = 200
    headers: Mapping[str, str] = {}
    body: bytes = b""


FOUND = Reply(headers={"Docker-Content-Digest": DIGEST})
Script = Callable[[Asked], Reply | bytes | Iterator[bytes] | None]


class Server(socketserver.ThreadingTCPServer):
    """Answers as a script says: properly, with raw bytes, drop by drop, or (None) not at all."""

    daemon_threads = True
    request_queue_size = 100

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.tls = tls
        self.asked: list[Asked] = []
        self.connections = 0
        # Set at the end: lets go of what hangs.
        self.over = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def handle_error(self, *_: object) -> None:
        """A client that leaves is no error."""


class Handler(BaseHTTPRequestHandler):
    """One connection to a Server."""

    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        if self.server.tls:
            self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def finish(self) -> None:
        super().finish()
        self.request.close()

    def handle(self) -> None:
        self.server.connections += 1
        # A greeting in TLS where none is spoken: answered as Go's servers do.
        if not self.server.tls and self.connection.recv(1, socket.MSG_PEEK) == b"\x16":
            self.connection.recv(1 << 16)
            self.connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")
            return
        super().handle()

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = Asked(self.command, self.path, dict(self.headers.items()), body)
        self.server.asked.append(asked)
        answer = self.server.script(asked)
        if isinstance(answer, Reply):
            self.send_response_only(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else answer.body)
            self.wfile.flush()
            return False
        if answer is None:
            self.server.over.wait()
        else:
            for piece in [answer] if isinstance(answer, bytes) else answer:
                self.wfile.write(piece)
        self.close_connection = True
        return False


Serve = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers, which end with the test."""
    servers: list[tuple[Server, threading.Thread]] = []

    def start(script: Script | Reply | bytes | None, tls: ssl.SSLContext | None = None) -> Server:
        server = Server(script if callable(script) else lambda _: script, tls)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        servers.append((server, thread))
        return server

    yield start
    for server, thread in servers:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def login(tmp_path: Path) -> Login:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    return Login("ada", str(tmp_path / "password"))


BASIC = "Basic " + base64.b64encode(f"ada:{PASSWORD}".encode()).decode()
NOBODY = {"DOCKER_CONFIG": "/nonexistent", "PATH": "/usr/bin:/bin"}


def asker(environ: Mapping[str, str] = NOBODY, **more: Any) -> Registries:
    return Registries(environ, **{"certificates": (), "timeout": 5.0, **more})


def one(registries: Registries, reference: str, login: Login | None = None) -> Answer:
    """The answer to one question: a digest or one line, and no secret."""
    question = Question(reference, login)
    (answer,) = registries.ask([question]).values()
    assert bool(answer.digest) != bool(answer.error)
    assert "\n" not in answer.error
    for secret in (PASSWORD, BASIC.removeprefix("Basic ")):
        assert secret not in answer.error
    return answer


# Challenges

BEARER = Challenge("bearer", {"realm": "https://a/t", "service": "s", "scope": "x:y:pull,push"})


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        (['Bearer realm="https://a/t",service="s",scope="x:y:pull,push"'], [BEARER]),
        (['bearer  Realm = "https://a/t" , SERVICE=s,scope="x:y:pull,push" ,'], [BEARER]),
        (["Bearer realm=https://a/t,service=s"],
         [Challenge("bearer", {"realm": "https://a/t", "service": "s"})]),
        (['Basic realm="a, Bearer b=\\"c\\" \\\\"'],
         [Challenge("basic", {"realm": 'a, Bearer b="c" \\'})]),
        (['Basic realm="a", Bearer realm="b", charset="UTF-8"'],
         [Challenge("basic", {"realm": "a"}),
          Challenge("bearer", {"realm": "b", "charset": "UTF-8"})]),
        (['Basic realm="a"', 'Bearer realm="b"'],
         [Challenge("basic", {"realm": "a"}), Challenge("bearer", {"realm": "b"})]),
        (['Negotiate, NTLM, Basic realm="a"'],
         [Challenge("negotiate", {}), Challenge("ntlm", {}), Challenge("basic", {"realm": "a"})]),
        (['Bearer realm="", realm="late"'], [Challenge("bearer", {"realm": ""})]),
        (["Basic"], [Challenge("basic", {})]),
        ([], []),
        (["", " , ,", '"', "=", "a=b"], []),
        (['Basic realm="never ended'], [Challenge("basic", {})]),
        (['Basic realm="a" @@@ Bearer realm="b"'], [Challenge("basic", {"realm": "a"})]),
    ],
)  # fmt: skip
def test_challenges(headers: list[str], found: list[Challenge]) -> None:
    assert challenges(headers) == found


@given(st.lists(st.text(alphabet=st.sampled_from(list('aB1 ,="\\\t-/é@')))))
def test_no_challenge_is_too_strange(headers: list[str]) -> None:
    assert all(one.scheme == one.scheme.lower() for one in challenges(headers))


@given(st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), st.text(max_size=20)))
def test_what_is_quoted_is_read_back(parameters: dict[str, str]) -> None:
    quoted = (text.replace("\\", r"\\").replace('"', r"\"") for text in parameters.values())
    text = ", ".join(f'{name}="{value}"' for name, value in zip(parameters, quoted, strict=True))
    if not any(c in "".join(parameters.values()) for c in "\n\r"):
        assert challenges([f"Bearer {text}"]) == [Challenge("bearer", parameters)]


# Questions


def test_what_is_sent(serve: Serve) -> None:
    server = serve(FOUND)
    assert one(asker(), f"{server.address}/a/b-c/d:1.2_x") == Answer(DIGEST)
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("HEAD", "/v2/a/b-c/d/manifests/1.2_x")
    assert asked.headers["Accept"] == MANIFESTS
    assert MANIFESTS.count(",") == 3
    assert asked.headers["User-Agent"].startswith("rbuild/")
    assert asked.authorization == ""


def test_a_digest_is_its_own_answer() -> None:
    for reference in (f"x.invalid/a@{DIGEST}", f"x.invalid/a:1@{DIGEST}"):
        assert one(asker(), reference) == Answer(DIGEST)


@pytest.mark.parametrize(
    "reference",
    ["", "a", "a:1", "x.invalid/a", "x.invalid/a@sha256:1", "x.invalid/A:1", "x.invalid/a:1\n",
     "x.invalid/a b:1", "x y/a:1", "x:999999/a:1", "x.invalid/a:1?x", "é/a:1"],
)  # fmt: skip
def test_what_is_no_reference(reference: str) -> None:
    assert one(asker(), reference).error == "this is no full name of an image"


@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".invalid", "127.0.0.1:99999", "127.0.0.1:0"])
def test_hosts_that_cannot_be(host: str) -> None:
    assert one(asker(), f"{host}/a:1").error


def test_many_questions_once_each_on_few_connections(serve: Serve) -> None:
    server = serve(FOUND)
    questions = [Question(f"{server.address}/a:{n}") for n in range(100)]
    registries = asker(at_once=4)
    for _ in range(2):
        answers = registries.ask(iter([*questions, *questions]))
        assert answers == dict.fromkeys(questions, Answer(DIGEST))
    assert len({asked.path for asked in server.asked}) == len(server.asked) == 100
    # One of them said hello in TLS.
    assert server.connections <= 5


def test_a_second_thread_waits_for_the_first_one_s_answer(serve: Serve) -> None:
    arrived, go = threading.Event(), threading.Event()

    def script(_: Asked) -> Reply:
        arrived.set()
        go.wait()
        return FOUND

    server = serve(script)
    registries = asker()
    answers: list[Answer] = []
    threads = [
        threading.Thread(target=lambda: answers.append(one(registries, f"{server.address}/a:1")))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    arrived.wait()
    go.set()
    for thread in threads:
        thread.join()
    assert answers == [Answer(DIGEST)] * 5
    assert len(server.asked) == 1


def test_what_a_registry_refuses(serve: Serve) -> None:
    for status, error in (
        (404, "404: no such image or tag"),
        (403, "403 Forbidden: {} doesn't let us see it (docker login, or registry-auth)"),
        (500, "500 Internal Server Error"),
        (418, "418 I'm a Teapot"),
        (599, "599"),
        (401, "401 Unauthorized, and not said how (neither Basic nor Bearer)"),
    ):
        server = serve(Reply(status))
        assert one(asker(), f"{server.address}/a:1").error == error.format(server.address)


MANIFEST = b'{"schemaVersion": 2}'


@pytest.mark.parametrize("status", [404, 405, 501])
@pytest.mark.parametrize("named", [True, False])
def test_what_only_a_get_finds(serve: Serve, status: int, named: bool) -> None:
    """https://github.com/opencontainers/distribution-spec asks for HEAD; not all know it."""
    headers = {"Content-Type": f"{MANIFESTS.split(', ')[0]}; charset=utf-8"}
    headers |= {"Docker-Content-Digest": DIGEST} if named else {}

    def script(asked: Asked) -> Reply:
        return Reply(status) if asked.method == "HEAD" else Reply(200, headers, MANIFEST)

    server = serve(script)
    digest = DIGEST if named else f"sha256:{hashlib.sha256(MANIFEST).hexdigest()}"
    assert one(asker(), f"{server.address}/a:1") == Answer(digest)
    assert [asked.method for asked in server.asked] == ["HEAD", "GET"]
    assert server.asked[1].headers["Accept"] == MANIFESTS
    question = Question(f"{server.address}/a:2", None, False)
    assert asker().ask([question])[question].error.startswith(str(status))
    assert [asked.method for asked in server.asked[2:]] == ["HEAD"]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(404), "404: no such image or tag"),
        (Reply(429), "429 Too Many Requests: asked again after "),
        (Reply(200, {"Content-Type": "text/html"}, b"<html>"), "sends no manifest"),
        (Reply(200, {}, MANIFEST), "sends no manifest"),
        (Reply(200, {"Content-Type": MANIFESTS.split(", ")[0]}, b" " * (1 << 20)), "no manifest"),
    ],
)
def test_what_a_get_does_not_find_either(serve: Serve, reply: Reply, error: str) -> None:
    server = serve(lambda asked: Reply(404) if asked.method == "HEAD" else reply)
    found = one(asker(), f"{server.address}/a:1")
    assert (found.digest, error in found.error) == ("", True)
    assert [asked.method for asked in server.asked] == ["HEAD", "GET"]


def test_no_digest_is_no_reason_to_pull(serve: Serve) -> None:
    server = serve(Reply(200))
    assert "tells no digest" in one(asker(), f"{server.address}/a:1").error
    assert [asked.method for asked in server.asked] == ["HEAD"]


@pytest.mark.parametrize(
    "digest", ["sha256:1", DIGEST + "0", DIGEST.upper(), "x", "md5:" + "0" * 32]
)
def test_a_digest_that_is_none(serve: Serve, digest: str) -> None:
    server = serve(Reply(headers={"Docker-Content-Digest": digest}))
    assert "tells no digest" in one(asker(), f"{server.address}/a:1").error


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0\1\2\3",
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"220 mail ESMTP\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nDocker-Content-Digest",
        b"HTTP/1.1 200 OK\r\n" + b"x" * 70000 + b": y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nDocker-Content-Digest: \xff\xfe\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 401 No\r\nWWW-Authenticate: \xff\xfe Bearer\r\n\r\n",
        b"HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer realm=\"file:///etc/passwd\"\r\n\r\n",
        b"HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer realm=\"http://[\"\r\n\r\n",
        b"HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer realm=\"http://a:b/\"\r\n\r\n",
        b"HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer\r\n\r\n",
        b"HTTP/1.1 301 Go\r\n\r\n",
        b"HTTP/1.1 301 Go\r\nLocation: file:///etc/passwd\r\n\r\n",
        b"HTTP/1.1 301 Go\r\nLocation: http://[\r\n\r\n",
        b"HTTP/1.1 301 Go\r\nLocation: \xff\r\n\r\n",
        b"HTTP/1.1 429 Slow\r\nRetry-After: \xff\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)  # fmt: skip
def test_garbage_is_an_answer_too(serve: Serve, raw: bytes) -> None:
    server = serve(raw)
    assert one(asker(), f"{server.address}/a:1").error


# Asked too often


def test_too_many_requests(serve: Serve) -> None:
    server = serve(Reply(429, {"Retry-After": "90"}))
    registries = asker()
    questions = [Question(f"{server.address}/a:{n}") for n in range(50)]
    now = time.time()
    first, *others = registries.ask(questions).values()
    assert registries.not_before == {server.address: pytest.approx(now + 90, abs=5)}
    assert first.error.startswith("429 Too Many Requests: asked again after 20")
    assert first.error.endswith("Z")
    assert all(
        answer.error.startswith(f"not asked: {server.address} wants to be left alone until 20")
        for answer in others
    )
    assert len(server.asked) == 1
    # The next run.
    assert one(asker(not_before=registries.not_before), f"{server.address}/b:1").error
    assert len(server.asked) == 1
    server.script = lambda _: FOUND
    again = asker(not_before={server.address: now - 1, "x": now - 1})
    assert again.not_before == {}
    assert one(again, f"{server.address}/a:1") == Answer(DIGEST)


@pytest.mark.parametrize(
    ("status", "header", "seconds"),
    [
        (429, "7", 7),
        (503, " 7 ", 7),
        (429, "Wed, 21 Oct 2015 07:28:00 GMT", None),
        (429, "Wed, 21 Oct 2999 07:28:00 GMT", LONGEST_PAUSE),
        (503, "Wed, 21 Oct", None),
        (429, "0", None),
        (429, "999999999", LONGEST_PAUSE),
        (429, "99999999999999999999", LONGEST_PAUSE),
        (429, "-5", PAUSE),
        (429, "soon", PAUSE),
        (429, "", PAUSE),
        (429, "\u0663", PAUSE),
        (503, "soon", None),
        (503, "", None),
        (500, "7", None),
    ],
)
def test_how_long_to_wait(serve: Serve, status: int, header: str, seconds: float | None) -> None:
    # As bytes that http.server doesn't look at.
    header = header.encode().decode("latin-1")
    script = Reply(status, {"Retry-After": header} if header else {})
    server = serve(script)
    registries = asker()
    error = one(registries, f"{server.address}/a:1").error
    now = time.time()
    if seconds is None:
        assert registries.not_before == {}
        assert "asked again" not in error
    else:
        assert registries.not_before == {server.address: pytest.approx(now + seconds, abs=60)}


# Nothing comes


def test_a_dead_registry_costs_one_timeout_and_holds_nobody(serve: Serve) -> None:
    dead, well = serve(None), serve(FOUND)
    questions = [Question(f"{dead.address}/a:{n}") for n in range(100)]
    fine = [Question(f"{well.address}/a:{n}") for n in range(100)]
    begun = time.monotonic()
    answers = asker(timeout=1.0).ask([*questions, *fine])
    assert time.monotonic() - begun < 4
    assert {answers[one].error for one in questions} == {"no answer within 1 s"}
    assert {answers[one] for one in fine} == {Answer(DIGEST)}
    assert len(dead.asked) == 1


def test_one_that_does_not_even_shake_hands() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        begun = time.monotonic()
        answer = one(asker(timeout=0.4), "127.0.0.1:%d/a:1" % listener.getsockname()[1])  # noqa: UP031
        assert answer.error.startswith("no answer within 0.4 s")
        assert time.monotonic() - begun < 2


def test_one_that_answers_drop_by_drop(serve: Serve) -> None:
    def script(_: Asked) -> Iterator[bytes]:
        while not server.over.wait(0.02):
            yield b"x"

    server = serve(script)
    begun = time.monotonic()
    assert one(asker(timeout=0.4), f"{server.address}/a:1").error == "no answer within 0.4 s"
    assert time.monotonic() - begun < 2


def test_refused_and_unresolvable(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    answers = asker().ask([Question(f"127.0.0.1:{port}/a:{n}") for n in range(3)])
    assert {one.error for one in answers.values()} == {f"127.0.0.1:{port}: Connection refused"}

    def fail(*_: object, **__: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    engine = Engine()
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert one(asker(insecure=engine), "x.invalid/a:1").error == (
        "x.invalid:443: Name or service not known"
    )
    assert engine.asked == 0


def test_a_resolver_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait())
    begun = time.monotonic()
    try:
        answers = asker(timeout=0.3).ask(Question(f"x.invalid/a:{n}") for n in range(100))
    finally:
        over.set()
    assert {one.error for one in answers.values()} == {"no answer within 0.3 s"}
    assert time.monotonic() - begun < 2


def test_a_token_server_that_hangs(serve: Serve) -> None:
    hangs = serve(None)
    place = serve(Reply(401, {"WWW-Authenticate": f'Bearer realm="http://{hangs.address}/t"'}))
    begun = time.monotonic()
    answers = asker(timeout=0.4).ask(Question(f"{place.address}/a:{n}") for n in range(50))
    (error,) = {one.error for one in answers.values()}
    assert error == f"no answer within 0.4 s from {hangs.address}"
    assert time.monotonic() - begun < 3
    assert len(hangs.asked) == 1


def test_a_connection_that_went_stale(serve: Serve) -> None:
    """The server closes each after one answer, and doesn't say so."""

    def script(asked: Asked) -> bytes:
        head = f"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nDocker-Content-Digest: {DIGEST}\r\n\r\n"
        return head.encode()

    server = serve(script)
    answers = asker(at_once=1).ask(Question(f"{server.address}/a:{n}") for n in range(10))
    assert set(answers.values()) == {Answer(DIGEST)}
    assert len(server.asked) == 10


class Ending:
    """Says that the run is to end once it was told so."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def check(self) -> None:
        if self.asked.is_set():
            raise Interrupted(signal.SIGTERM)


def test_the_end_of_the_run_is_noticed(serve: Serve) -> None:
    stop = Ending()

    def script(_: Asked) -> None:
        stop.asked.set()

    server = serve(script)
    begun = time.monotonic()
    with pytest.raises(Interrupted):
        asker(stop=stop, timeout=30.0).ask(Question(f"{server.address}/a:{n}") for n in range(99))
    assert time.monotonic() - begun < 1.5
    assert len(server.asked) == 1


HANGING = """
import sys
from rbuild.errors import Interrupted
from rbuild.process import Stop
from rbuild.registries.registry import Question, Registries
stop = Stop()
stop.install()
try:
    Registries({"DOCKER_CONFIG": "/nonexistent"}, stop=stop).ask([Question(sys.argv[1])])
except Interrupted as error:
    sys.exit(error.exit_code)
"""


def test_a_real_signal_while_a_registry_hangs(serve: Serve) -> None:
    arrived = threading.Event()
    server = serve(lambda _: arrived.set())
    argv = [sys.executable, "-c", HANGING, f"{server.address}/a:1"]
    with subprocess.Popen(argv) as child:
        assert arrived.wait(20)
        begun = time.monotonic()
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 128 + signal.SIGTERM
        assert time.monotonic() - begun < 2


# Redirects


def to(target: str, status: int = 307) -> Reply:
    return Reply(status, {"Location": target})


def test_authorization_stays_with_its_host(serve: Serve, login: Login) -> None:
    def script(asked: Asked) -> Reply:
        if not asked.authorization:
            return Reply(401, {"WWW-Authenticate": "Basic"})
        return to(f"http://{other.address}{asked.path}")

    other = serve(FOUND)
    server = serve(script)
    assert one(asker(), f"{server.address}/a:1", login) == Answer(DIGEST)
    assert [asked.authorization for asked in server.asked] == ["", BASIC]
    assert [(asked.method, asked.authorization) for asked in other.asked] == [("HEAD", "")]
    assert other.asked[0].headers["Accept"] == MANIFESTS


def test_authorization_goes_on_to_the_same_host(serve: Serve, login: Login) -> None:
    def script(asked: Asked) -> Reply:
        if not asked.authorization:
            return Reply(401, {"WWW-Authenticate": "Basic"})
        return FOUND if asked.path.startswith("/new") else to("/new" + asked.path)

    server = serve(script)
    assert one(asker(), f"{server.address}/a:1", login) == Answer(DIGEST)
    assert [asked.authorization for asked in server.asked] == ["", BASIC, BASIC]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_five_redirects_and_no_more(serve: Serve, status: int) -> None:
    def script(asked: Asked) -> Reply:
        steps = asked.path.count("x")
        return FOUND if steps == 5 else to(f"/{'x' * (steps + 1)}", status)

    server = serve(script)
    assert one(asker(), f"{server.address}/a:1") == Answer(DIGEST)
    assert [asked.method for asked in server.asked] == ["HEAD"] * 6
    endless = serve(to("/again", status))
    assert one(asker(), f"{endless.address}/a:1").error == "redirected more than 5 times"
    assert len(endless.asked) == 6


# Tokens


class TokenPlace:
    """A registry and its token server on one port."""

    def __init__(self, serve: Serve, *, scope: str | None = "", tls: Any = None) -> None:
        self.good: set[str] = set()
        self.made = 0
        self.token: Callable[[Asked], Reply | bytes] = self.make
        self.scope = scope
        self.realm = ""
        self.server = serve(self.script, tls)
        self.realm = f"http://{self.server.address}/token?x=1"

    def make(self, _: Asked) -> Reply:
        self.made += 1
        self.good.add(f"Bearer t{self.made}")
        return Reply(body=json.dumps({"token": f"t{self.made}"}).encode())

    def script(self, asked: Asked) -> Reply | bytes:
        if asked.path.startswith("/token"):
            return self.token(asked)
        if asked.authorization in self.good:
            return FOUND
        name = asked.path.removeprefix("/v2/").partition("/manifests/")[0]
        scope = f"repository:{name}:pull" if self.scope == "" else self.scope
        text = f'Bearer realm="{self.realm}",service="a service"'
        text += f',scope="{scope}"' if scope else ""
        return Reply(401, {"WWW-Authenticate": text})

    def query(self, number: int = -1) -> dict[str, list[str]]:
        found = [one for one in self.server.asked if one.path.startswith("/token")]
        return parse_qs(urlsplit(found[number].path).query)

    @property
    def heads(self) -> list[str]:
        return [asked.authorization for asked in self.server.asked if asked.method == "HEAD"]


def test_an_anonymous_token(serve: Serve) -> None:
    place = TokenPlace(serve)
    assert one(asker(), f"{place.server.address}/a/b:1") == Answer(DIGEST)
    assert place.query() == {
        "x": ["1"], "service": ["a service"], "scope": ["repository:a/b:pull"],
    }  # fmt: skip
    assert place.heads == ["", "Bearer t1"]
    assert place.server.asked[1].authorization == ""


def test_a_token_for_ada(serve: Serve, login: Login) -> None:
    place = TokenPlace(serve, scope="repository:a:pull repository:b:pull")
    assert one(asker(), f"{place.server.address}/a:1", login) == Answer(DIGEST)
    assert place.server.asked[1].authorization == BASIC
    assert place.query()["account"] == ["ada"]
    assert place.query()["scope"] == ["repository:a:pull", "repository:b:pull"]


@pytest.mark.parametrize("scope", ["", None])
def test_a_token_a_scope(serve: Serve, scope: str | None) -> None:
    place = TokenPlace(serve, scope=scope)
    questions = [Question(f"{place.server.address}/{name}:{n}") for name in "ab" for n in range(30)]
    assert set(asker().ask(questions).values()) == {Answer(DIGEST)}
    assert place.made == 2
    assert place.heads.count("") == 1
    assert len(place.heads) == 61


def test_a_token_that_has_expired(serve: Serve) -> None:
    place = TokenPlace(serve)
    registries = asker()
    assert one(registries, f"{place.server.address}/a:1") == Answer(DIGEST)
    place.good.clear()
    assert one(registries, f"{place.server.address}/a:2") == Answer(DIGEST)
    assert place.heads == ["", "Bearer t1", "Bearer t1", "Bearer t2"]


def test_a_token_that_opens_nothing(serve: Serve, login: Login) -> None:
    place = TokenPlace(serve)
    place.token = lambda _: Reply(body=b'{"access_token": "useless", "expires_in": 1}')
    assert one(asker(), f"{place.server.address}/a:1").error == (
        f"401 Unauthorized: no such image, or no credentials for {place.server.address} "
        "(docker login, or registry-auth)"
    )
    assert place.heads == ["", "Bearer useless"]
    assert "not for what" in one(asker(), f"{place.server.address}/a:1", login).error


@pytest.mark.parametrize(
    "reply",
    [
        b"", b"garbage", Reply(body=b""), Reply(body=b"x"), Reply(body=b"[]"), Reply(body=b"null"),
        Reply(body=b"{}"), Reply(body=b'{"token": 5}'), Reply(body=b'{"token": "a\\nb: c"}'),
        Reply(body=b'{"token": ""}'), Reply(body=b'{"token": "\\ud800"}'), Reply(body=b"\xff\xfe"),
        Reply(body=b"[" * 100_000), Reply(body=b" " * (2 << 20)), Reply(500), Reply(404),
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        to("file:///etc/passwd"), to("ftp://x/"), to(""), to("/token"),
    ],
)  # fmt: skip
def test_garbage_for_a_token(serve: Serve, reply: Reply | bytes, login: Login) -> None:
    place = TokenPlace(serve)
    place.token = lambda _: reply
    assert one(asker(), f"{place.server.address}/a:1", login).error


def test_too_many_tokens(serve: Serve) -> None:
    place = TokenPlace(serve)
    place.token = lambda _: Reply(429, {"Retry-After": "60"})
    registries = asker()
    error = one(registries, f"{place.server.address}/a:1").error
    assert error.startswith("429 Too Many Requests from 127.0.0.1 instead of a token: asked again")
    assert list(registries.not_before) == [place.server.address]


def test_a_token_s_redirect_takes_no_password_elsewhere(serve: Serve, login: Login) -> None:
    place = TokenPlace(serve)
    other = serve(lambda asked: place.make(asked))
    place.token = lambda _: to(f"http://{other.address}/elsewhere")
    assert one(asker(), f"{place.server.address}/a:1", login) == Answer(DIGEST)
    assert [(asked.path, asked.authorization) for asked in other.asked] == [("/elsewhere", "")]


def docker_login(folder: Path, registry: str, **entry: str) -> dict[str, str]:
    (folder / "config.json").write_text(json.dumps({"auths": {registry: entry}}))
    return {"DOCKER_CONFIG": str(folder)}


def test_an_identity_token_buys_tokens(serve: Serve, tmp_path: Path) -> None:
    place = TokenPlace(serve)
    environ = docker_login(tmp_path, place.server.address, identitytoken="identity&secret")
    assert one(asker(environ), f"{place.server.address}/a:1") == Answer(DIGEST)
    asked = place.server.asked[1]
    assert (asked.method, asked.path, asked.authorization) == ("POST", "/token?x=1", "")
    assert parse_qs(asked.body.decode()) == {
        "grant_type": ["refresh_token"], "refresh_token": ["identity&secret"],
        "client_id": ["rbuild"], "service": ["a service"], "scope": ["repository:a:pull"],
    }  # fmt: skip


def test_an_identity_token_is_not_sent_on(serve: Serve, tmp_path: Path) -> None:
    place, other = TokenPlace(serve), serve(FOUND)
    place.token = lambda _: to(f"http://{other.address}/", 308)
    environ = docker_login(tmp_path, place.server.address, identitytoken="identity-secret")
    error = one(asker(environ), f"{place.server.address}/a:1").error
    assert error == "308 Permanent Redirect from 127.0.0.1 instead of a token"
    assert not other.asked


def test_an_identity_token_that_is_void(serve: Serve, tmp_path: Path) -> None:
    place = TokenPlace(serve)
    place.token = lambda _: Reply(400, body=b'{"error": "invalid_grant"}')
    environ = docker_login(tmp_path, place.server.address, identitytoken="identity-secret")
    answers = asker(environ).ask(Question(f"{place.server.address}/{name}:1") for name in "abcd")
    assert all("refuses the credentials" in answer.error for answer in answers.values())
    assert len([1 for asked in place.server.asked if asked.method == "POST"]) == 1


def test_a_registry_token_is_sent_as_it_is(serve: Serve, tmp_path: Path) -> None:
    place = TokenPlace(serve)
    place.good.add("Bearer ready-made")
    environ = docker_login(tmp_path, place.server.address, registrytoken="ready-made")
    answers = asker(environ).ask(Question(f"{place.server.address}/a:{n}") for n in range(3))
    assert set(answers.values()) == {Answer(DIGEST)}
    assert place.made == 0


def test_basic_is_foreseen(serve: Serve, login: Login) -> None:
    server = serve(
        lambda asked: FOUND if asked.authorization == BASIC
        else Reply(401, {"WWW-Authenticate": 'Negotiate, Basic realm="x"'})
    )  # fmt: skip
    questions = [Question(f"{server.address}/a:{n}", login) for n in range(20)]
    assert set(asker().ask(questions).values()) == {Answer(DIGEST)}
    assert [asked.authorization for asked in server.asked].count("") == 1


def test_credentials_that_cannot_be_read(serve: Serve, tmp_path: Path) -> None:
    """Where none are wanted that is no error; where they are, it is one line."""
    missing = Login("ada", str(tmp_path / "missing"))
    server = serve(FOUND)
    assert one(asker(), f"{server.address}/a:1", missing) == Answer(DIGEST)
    server.script = lambda _: Reply(401, {"WWW-Authenticate": "Basic"})
    error = one(asker(), f"{server.address}/a:1", missing).error
    assert error.startswith(f"{missing.password_file}: No such file or directory (")


# TLS


class Tls(NamedTuple):
    """A certificate for registry.test that vouches for itself."""

    certificate: Path
    key: Path

    @property
    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    folder = tmp_path_factory.mktemp("tls")
    made = Tls(folder / "crt", folder / "key")
    argv = [
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
        *("-keyout", str(made.key), "-out", str(made.certificate), "-subj", "/CN=tests"),
        *("-addext", "subjectAltName=DNS:registry.test,DNS:other.test,DNS:inside.test"),
    ]
    subprocess.run(argv, capture_output=True, check=True)
    return made


def test_certificates_are_judged_as_docker_judges_them() -> None:
    """Python 3.13 alone asks for extensions that a CA made by hand lacks."""
    for registry in ("registry.test", "other.test"):
        context = Network({}, frozenset, ()).context(registry, verify=True)
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert not context.verify_flags & ssl.VERIFY_X509_STRICT


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """registry.test and other.test are this machine, and no loopback by name."""
    known = socket.getaddrinfo

    def find(host: Any, *more: Any, **rest: Any) -> Any:
        here = host in ("registry.test", "other.test")
        return known("127.0.0.1" if here else host, *more, **rest)

    monkeypatch.setattr(socket, "getaddrinfo", find)


class Engine:
    """Tells what it takes to be insecure, and counts how often it was asked."""

    def __init__(self, *insecure: str) -> None:
        self.insecure = insecure
        self.asked = 0

    def __call__(self) -> Collection[str]:
        self.asked += 1
        return self.insecure


def trust(folder: Path, tls: Tls, *registries: str) -> dict[str, Any]:
    """A folder of certificates in which these registries have the one of the tests."""
    for one in registries:
        (folder / "certs.d" / one).mkdir(parents=True)
        (folder / "certs.d" / one / "ca.crt").write_bytes(tls.certificate.read_bytes())
    return {"certificates": (str(folder / "nowhere"), str(folder / "certs.d"))}


@pytest.mark.usefixtures("names")
def test_an_own_certificate_authority(serve: Serve, tls: Tls, tmp_path: Path) -> None:
    server = serve(FOUND, tls.context)
    host = f"registry.test:{server.port}"
    engine = Engine("other.example", "10.0.0.0/8")
    assert one(asker(insecure=engine, **trust(tmp_path, tls, host)), f"{host}/a:1") == Answer(
        DIGEST
    )
    assert engine.asked == 0
    registries = asker(insecure=engine)
    questions = [Question(f"{host}/a:{n}") for n in range(9)]
    (error,) = {answer.error for answer in registries.ask(questions).values()}
    assert error == (
        f"the certificate of {host} can't be verified: self-signed certificate "
        f"(its CA belongs into /etc/docker/certs.d/{host})"
    )
    assert one(registries, f"other.test:{server.port}/a:1").error
    assert engine.asked == 1


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("known_as", ["registry.test:{}", "127.0.0.0/8"])
def test_an_insecure_one_with_a_certificate_nobody_knows(
    serve: Serve, tls: Tls, known_as: str
) -> None:
    server = serve(FOUND, tls.context)
    engine = Engine(known_as.format(server.port))
    questions = [Question(f"registry.test:{server.port}/a:{n}") for n in range(9)]
    assert set(asker(insecure=engine).ask(questions).values()) == {Answer(DIGEST)}
    assert engine.asked == 1


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("known_as", ["registry.test:{}", "127.0.0.1/32"])
def test_an_insecure_one_without_tls(serve: Serve, known_as: str) -> None:
    server = serve(FOUND)
    host = f"registry.test:{server.port}"
    assert one(asker(insecure=Engine(known_as.format(server.port))), f"{host}/a:1").digest
    server.asked.clear()
    for strict in (Engine(), Engine("registry.test", "10.0.0.0/8")):
        error = one(asker(insecure=strict), f"{host}/a:1").error
        assert error.startswith(f"no TLS with {host}: ")
        assert error.endswith("(plain http is only for the engine's insecure-registries)")
    assert not server.asked


@pytest.mark.usefixtures("names")
def test_an_engine_that_does_not_tell(serve: Serve) -> None:
    def fail() -> Collection[str]:
        raise EngineError("no engine")

    server = serve(FOUND)
    assert one(asker(insecure=fail), f"registry.test:{server.port}/a:1").error
    assert not server.asked


def test_loopback_is_insecure(serve: Serve, tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Any:
        raise AssertionError

    monkeypatch.setattr(ssl, "create_default_context", fail)
    for context in (tls.context, None):
        server = serve(FOUND, context)
        for host in ("127.0.0.1", "localhost"):
            assert one(asker(insecure=fail), f"{host}:{server.port}/a:1") == Answer(DIGEST)


@pytest.mark.usefixtures("names")
def test_a_client_certificate(serve: Serve, tls: Tls, tmp_path: Path) -> None:
    context = tls.context
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(tls.certificate)
    server = serve(FOUND, context)
    host = f"registry.test:{server.port}"
    known = trust(tmp_path, tls, host)
    assert one(asker(**known), f"{host}/a:1").error
    (tmp_path / "certs.d" / host / "client.cert").write_bytes(tls.certificate.read_bytes())
    error = one(asker(**known), f"{host}/a:1").error
    assert error.endswith("client.cert can't be used: No such file or directory")
    (tmp_path / "certs.d" / host / "client.key").write_bytes(tls.key.read_bytes())
    assert one(asker(**known), f"{host}/a:1") == Answer(DIGEST)


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("text", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_certificate_that_is_none(tls: Tls, tmp_path: Path, text: str) -> None:
    known = trust(tmp_path, tls, "registry.test")
    (tmp_path / "certs.d" / "registry.test" / "ca.crt").write_text(text)
    assert "ca.crt can't be used: " in one(asker(**known), "registry.test/a:1").error


@pytest.mark.usefixtures("names")
def test_the_system_s_authorities_are_read_once(
    serve: Serve, tls: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    real = ssl.create_default_context

    def make() -> ssl.SSLContext:
        made.append(1)
        return real(cafile=str(tls.certificate))

    monkeypatch.setattr(ssl, "create_default_context", make)
    server = serve(FOUND, tls.context)
    questions = [Question(f"{host}.test:{server.port}/a:1") for host in ("registry", "other")]
    assert set(asker().ask(questions).values()) == {Answer(DIGEST)}
    assert made == [1]


@pytest.mark.usefixtures("names")
def test_no_password_by_plain_http_for_a_registry_with_tls(
    serve: Serve, tls: Tls, tmp_path: Path, login: Login
) -> None:
    place = TokenPlace(serve, tls=tls.context)
    plain = serve(lambda asked: place.make(asked))
    place.realm = f"http://other.test:{plain.port}/"
    host = f"registry.test:{place.server.port}"
    known = trust(tmp_path, tls, host)
    assert one(asker(**known), f"{host}/a:1", login).error == (
        f"no credentials are sent to other.test by plain http, though {host} wants it"
    )
    assert not plain.asked
    assert one(asker(**known), f"{host}/a:1") == Answer(DIGEST)
    # A token server of the registry's own authority, and one that turns to plain http.
    safe = serve(lambda asked: place.make(asked), tls.context)
    place.realm = f"https://other.test:{safe.port}/"
    assert one(asker(**known), f"{host}/a:2", login) == Answer(DIGEST)
    assert safe.asked[0].authorization == BASIC
    safe.script = lambda _: to(f"http://other.test:{plain.port}/")
    asked = len(plain.asked)
    assert "plain http: not followed" in one(asker(**known), f"{host}/a:3", login).error
    assert len(plain.asked) == asked


# Proxies


@pytest.mark.usefixtures("names")
def test_through_a_proxy(serve: Serve, tls: Tls, tmp_path: Path) -> None:
    server = serve(FOUND, tls.context)
    asked: list[bytes] = []

    def carry() -> None:
        client, _ = listener.accept()
        with client, socket.create_connection(("127.0.0.1", server.port)) as target:
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096)
            asked.append(head)
            client.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            back = threading.Thread(target=pump, args=(target, client))
            back.start()
            pump(client, target)
            back.join()

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(4096):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=carry)
        thread.start()
        proxy = f"http://ada:p%40ss@127.0.0.1:{listener.getsockname()[1]}"
        environ = {**NOBODY, "HTTPS_PROXY": proxy, "NO_PROXY": "other.test"}
        # A name that only the proxy knows.
        host = f"inside.test:{server.port}"
        known = trust(tmp_path, tls, host)
        assert one(asker(environ, **known), f"{host}/a:1") == Answer(DIGEST)
        thread.join()
    head = asked[0].decode()
    assert head.startswith(f"CONNECT {host} HTTP/1.")
    assert f"Proxy-Authorization: Basic {base64.b64encode(b'ada:p@ss').decode()}\r\n" in head


@pytest.mark.usefixtures("names")
def test_a_proxy_that_refuses(serve: Serve) -> None:
    proxy = serve(b"HTTP/1.1 407 Proxy\nAuthentication\r\n\r\n")
    environ = {**NOBODY, "https_proxy": f"ada:secret@{proxy.address}"}
    error = one(asker(environ), "docker.io/library/debian:12").error
    assert error.startswith(f"registry-1.docker.io:443 through the proxy {proxy.address}: Tunnel")
    assert "secret" not in error
    assert proxy.asked[0].path == "registry-1.docker.io:443"
    for strange in ("socks5://x:1", "http://", "http://x:y"):
        error = one(asker({**NOBODY, "https_proxy": strange}), "x.test/a:1").error
        assert error == "HTTPS_PROXY is no http://HOST:PORT"


@pytest.mark.parametrize(
    ("host", "without", "direct"),
    [
        ("a.example", "", False), ("a.example", "a.example", True), ("a.example", "*", True),
        ("a.example", "x, .example ", True), ("a.example", "example", True),
        ("a.example", "*.example", True), ("ba.example", "a.example", False),
        ("a.example", "a.example:443", True), ("a.example", "a.example:80", False),
        ("10.1.2.3", "10.0.0.0/8", True), ("11.1.2.3", "10.0.0.0/8,x/y", False),
        ("10.1.2.3", "10.1.2.3", True), ("a.example", ",", False),
    ],
)  # fmt: skip
def test_no_proxy(host: str, without: str, direct: bool) -> None:
    environ = {"HTTPS_PROXY": "proxy:3128", "NO_PROXY": without}
    network = Network(environ, frozenset, ())
    assert (network.proxy(line_of(f"https://{host}")) is None) is direct


# The cost of it


def test_importing_it_is_cheap() -> None:
    heavy = "ssl http.client urllib.request socket email subprocess hashlib concurrent.futures"
    script = (
        f"import sys, rbuild.registries.registry; print(*set(sys.modules) & set({heavy.split()!r}))"
    )
    argv = [sys.executable, "-c", script]
    assert subprocess.run(argv, capture_output=True, text=True).stdout == "\n"
