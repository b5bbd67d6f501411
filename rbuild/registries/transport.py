"""The way to registries: TLS and whom it trusts, proxies, connections, redirects, and time."""

from __future__ import annotations

import http.client
import ipaddress
import os
import re
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from email.message import Message
from typing import NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

from rbuild import __version__
from rbuild.errors import RbuildError

REDIRECTS = 5
_AGENT = f"rbuild/{__version__}"
LARGEST = 1 << 20
"""Bytes that are read of an answer."""


class Problem(Exception):
    """Why there is no digest; its text is one line without secrets.

    `dead`: nothing else will be answered there either. `until`: seconds since the epoch before
    which the registry is not to be asked.
    """

    def __init__(self, text: str, *, dead: bool = False, until: float = 0.0) -> None:
        super().__init__(text)
        self.dead, self.until = dead, until


class Reply(NamedTuple):
    """What was answered."""

    status: int
    headers: Message
    body: bytes


class Line(NamedTuple):
    """Where a connection goes."""

    scheme: str
    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Docker's own rule (dockerd, "Insecure registries"): never by a proxy, never strict."""
        return bool(re.fullmatch(r"localhost|::1|127(\.[0-9]{1,3}){3}", self.host))


def line_of(url: str) -> Line:
    """Where a URL leads. Raises Problem, ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Problem("the registry sends us to what is no http address")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return Line(parts.scheme, parts.hostname, port)


class Network:
    """What all connections share: settings, as `Registries` takes them, and what is got once."""

    def __init__(
        self,
        environ: Mapping[str, str],
        insecure: Callable[[], Collection[str]],
        certificates: Sequence[str] | None,
    ) -> None:
        self._environ = environ
        home = environ.get("XDG_CONFIG_HOME") or f"{environ.get('HOME', '')}/.config"
        # The system's, and those of rootless Docker.
        docker = ("/etc/docker/certs.d", f"{home}/docker/certs.d")
        self._certificates = docker if certificates is None else certificates
        self._ask_insecure = insecure
        self._insecure: Collection[str] | None = None
        self._context: ssl.SSLContext | None = None
        self._lock = threading.Lock()

    def is_insecure(self, registry: str, host: str) -> bool:
        """Whether the engine takes a registry, which is on that host, to be insecure."""
        with self._lock:
            if self._insecure is None:
                try:
                    self._insecure = self._ask_insecure()
                except RbuildError:
                    # Not to know is to be strict.
                    self._insecure = frozenset()
        return registry in self._insecure or _is_within(host, self._insecure)

    def context(self, registry: str, *, verify: bool) -> ssl.SSLContext:
        """How TLS is spoken with a registry. Raises Problem: a certificate is unusable."""
        folders = [os.path.join(root, registry) for root in self._certificates]
        own = [folder for folder in folders if os.path.isdir(folder)]
        if not verify:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        elif own:
            context = _verifying()
        else:
            with self._lock:
                # A tenth of a second: it reads all CAs of the system.
                context = self._context = self._context or _verifying()
        path = ""
        try:
            for path in [f"{one}/{name}" for one in own for name in sorted(os.listdir(one))]:
                stem, kind = os.path.splitext(path)
                if kind == ".crt" and verify:
                    context.load_verify_locations(path)
                elif kind == ".cert":
                    # A password of nothing: nobody is there to be asked for one.
                    context.load_cert_chain(path, f"{stem}.key", password="")
        except OSError as error:
            raise Problem(f"{path or own[-1]} can't be used: {_said(error)}", dead=True) from None
        return context

    def proxy(self, line: Line) -> tuple[str, int, dict[str, str]] | None:
        """The proxy on the way there: its address and headers. Raises Problem."""
        value = self._environ.get("https_proxy") or self._environ.get("HTTPS_PROXY")
        without = self._environ.get("no_proxy") or self._environ.get("NO_PROXY") or ""
        if not value or line.scheme == "http" or line.is_loopback or _is_direct(line, without):
            return None
        try:
            parts = urlsplit(value if "://" in value else f"http://{value}")
            if parts.scheme != "http" or not parts.hostname:
                raise ValueError
            address = parts.hostname, parts.port or 80
        except ValueError:
            raise Problem("HTTPS_PROXY is no http://HOST:PORT", dead=True) from None
        told = basic(unquote(parts.username or ""), unquote(parts.password or ""))
        return *address, {"Proxy-Authorization": told} if parts.username else {}


class Way:
    """How a registry is spoken to, once that was found out: its URL, and whom TLS trusts."""

    def __init__(self) -> None:
        self.base = ""
        self.context: ssl.SSLContext | None = None


class Transport:
    """A thread's connections to a registry and to where that sends us, and the time they have."""

    def __init__(self, registry: str, way: Way, network: Network, timeout: float) -> None:
        self.until = float("inf")
        """When the present exchange has to be over, by the monotonic clock."""
        self.way = way
        self._registry = registry
        self._network = network
        self._timeout = timeout
        self._idle: dict[Line, http.client.HTTPConnection] = {}

    def begin(self) -> None:
        """The clock of an exchange starts."""
        self.until = time.monotonic() + self._timeout

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done here is not the registry's, and has a deadline of its own."""
        self.until = float("inf")
        try:
            yield
        finally:
            self.begin()

    def overdue(self, where: str = "") -> Problem:
        """That there was no answer in time."""
        return Problem(f"no answer within {self._timeout:g} s{where}", dead=True)

    def reach(self) -> None:
        """Find out how the registry is spoken to: https, https with anybody, plain http."""
        address = "registry-1.docker.io" if self._registry == "docker.io" else self._registry
        line = line_of(f"https://{address}")
        self.way.context = self._network.context(self._registry, verify=not line.is_loopback)
        while not self.way.base:
            self.begin()
            try:
                self._idle[line] = self._connect(line)
                self.way.base = f"{line.scheme}://{address}"
            except OSError as error:
                with self.paused():
                    is_lax = line.is_loopback or (
                        not isinstance(error, socket.gaierror)
                        and self._network.is_insecure(self._registry, line.host)
                    )
                if line.scheme == "http" or not is_lax:
                    raise self._unreached(line, error) from None
                if isinstance(error, ssl.SSLCertVerificationError):
                    self.way.context = self._network.context(self._registry, verify=False)
                else:
                    line = line_of(f"http://{address}")

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Reply:
        """The answer, after redirects (but for POST). Authorization stays where it was meant for.

        Raises Problem, or whatever a parser does.
        """
        for _ in range(REDIRECTS + 1):
            self.begin()
            reply = self._exchange(method, url, headers, body)
            if reply.status not in (301, 302, 303, 307, 308) or method == "POST":
                return reply
            target = urljoin(url, str(reply.headers.get("Location") or ""))
            here, there = line_of(url), line_of(target)
            if here.scheme == "https" and there.scheme == "http":
                raise Problem(f"redirected to {there.host} by plain http: not followed")
            if here != there:
                headers = {name: one for name, one in headers.items() if name != "Authorization"}
            url = target
        raise Problem(f"redirected more than {REDIRECTS} times")

    def close(self) -> None:
        """Close what is kept for the next request."""
        for wire in self._idle.values():
            wire.close()

    def _left(self) -> float:
        # What is as good as over ends in a TimeoutError like all the others.
        return max(0.001, self.until - time.monotonic())

    def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> Reply:
        line, parts = line_of(url), urlsplit(url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        wire = idle = self._idle.pop(line, None)
        kept = False
        try:
            wire = wire or self._connect(line)
            wire.sock.settimeout(self._left())
            wire.request(method, path, body, {"User-Agent": _AGENT, **headers})
            response = wire.getresponse()
            text = response.read(LARGEST)
            # Without a socket: the other end said that it will close.
            kept = bool(wire.sock) and response.isclosed()
        except OSError as error:
            if not wire or isinstance(error, TimeoutError):
                raise self._unreached(line, error) from None
            if idle:
                # The other end may close what was idle at any moment: once more, anew.
                return self._exchange(method, url, headers, body)
            raise Problem(f"{line.host}:{line.port} hung up without an answer") from None
        finally:
            if wire and kept:
                self._idle[line] = wire
            elif wire:
                wire.close()
        return Reply(response.status, response.headers, text)

    def _connect(self, line: Line) -> http.client.HTTPConnection:
        """A new connection, ready for a request. Raises OSError, Problem."""
        wire: http.client.HTTPConnection
        proxy, left = self._network.proxy(line), self._left()
        if line.scheme == "http":
            wire = http.client.HTTPConnection(line.host, line.port, timeout=left)
        else:
            host, port = proxy[:2] if proxy else line[1:]
            wire = http.client.HTTPSConnection(host, port, timeout=left, context=self.way.context)
            if proxy:
                wire.set_tunnel(line.host, line.port, proxy[2])
        wire.connect()
        return wire

    def _unreached(self, line: Line, error: OSError) -> Problem:
        """Why there is no connection, or no answer in time, in words."""
        proxy = self._network.proxy(line)
        where = f"{line.host}:{line.port}"
        where += f" through the proxy {proxy[0]}:{proxy[1]}" if proxy else ""
        if isinstance(error, TimeoutError):
            own = not self.way.base or line == line_of(self.way.base)
            return self.overdue("" if own else f" from {where}")
        text = f"{where}: {_said(error)}"
        if isinstance(error, ssl.SSLCertVerificationError):
            text = (
                f"the certificate of {where} can't be verified: {one_line(error.verify_message)} "
                f"(its CA belongs into /etc/docker/certs.d/{self._registry})"
            )
        elif isinstance(error, ssl.SSLError):
            text = f"no TLS with {text} (plain http is only for the engine's insecure-registries)"
        return Problem(text, dead=True)


def basic(username: str, password: str) -> str:
    """What the Basic scheme wants to be told."""
    return f"Basic {b64encode(f'{username}:{password}'.encode()).decode()}"


def one_line(text: str) -> str:
    """A text of somebody else's, fit for a Problem."""
    return "".join(one if one.isprintable() else " " for one in text)[:300]


def _verifying() -> ssl.SSLContext:
    """As strict as Docker: Python 3.13 also refuses CAs without extensions that Go does without."""
    context = ssl.create_default_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _said(error: OSError) -> str:
    """What an error says, whoever wrote it: a proxy's words are in there."""
    reason = getattr(error, "reason", "")
    return one_line(reason.replace("_", " ").lower() if reason else error.strerror or str(error))


def _is_within(host: str, words: Collection[str]) -> bool:
    """Whether a host has an address in one of the networks among these words."""
    with suppress(OSError, ValueError):
        networks = [ipaddress.ip_network(one, strict=False) for one in words if "/" in one]
        found = socket.getaddrinfo(host, None) if networks else []
        addresses = {ipaddress.ip_address(str(one[4][0]).partition("%")[0]) for one in found}
        return any(address in network for address in addresses for network in networks)
    return False


def _is_direct(line: Line, no_proxy: str) -> bool:
    """Whether NO_PROXY names a host (https://pkg.go.dev/golang.org/x/net/http/httpproxy)."""
    words = no_proxy.lower().replace(" ", "").split(",")
    for word in words:
        name, _, only = word.removeprefix("*").partition(":")
        named = f".{line.host}".endswith(f".{name.removeprefix('.')}") if name else "*" in word
        if named and only in ("", str(line.port)):
            return True
    return bool(re.fullmatch(r"[0-9.]+|.*:.*", line.host)) and _is_within(line.host, words)
