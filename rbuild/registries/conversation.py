"""One question's talk with a registry: HEAD, tokens if it wants them, its refusals in words.

Some registries know of a manifest only when it is asked for with GET.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from http.client import responses
from urllib.parse import urlencode, urlsplit

from rbuild.registries.challenge import Challenge, challenges
from rbuild.registries.credentials import Credential, CredentialError, Login, find
from rbuild.registries.transport import (
    LARGEST,
    Problem,
    Reply,
    Transport,
    Way,
    basic,
    line_of,
    one_line,
)

PAUSE = 900.0
"""Seconds for which a registry is left alone that says 429 and not for how long."""
LONGEST_PAUSE = 86400.0
"""What counts of a wish to be left alone for longer."""
MANIFESTS = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        *("oci.image.index.v1", "docker.distribution.manifest.list.v2"),
        *("oci.image.manifest.v1", "docker.distribution.manifest.v2"),
    )
)
GONE = "404: no such image or tag"
"""What is said of a tag that a registry does not have."""
# Not found, method not allowed, not implemented.
_NOT_BY_HEAD = (404, 405, 501)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_SENT_TOKEN = re.compile(r"[\x21-\x7e]+")
_ADVICE = "(docker login, or registry-auth)"


class Place:
    """A registry: what waits for it, and what was learnt of it."""

    def __init__(self, name: str, environ: Mapping[str, str]) -> None:
        self.name = name
        self.environ = environ
        self.waiting: deque[Conversation] = deque()
        self.workers = 0
        self.is_reached = False
        self.dead = ""
        """Why nothing will be answered any more."""
        self.way = Way()
        self.challenge: Challenge | None = None
        self.lock = threading.Lock()
        self.credentials: dict[Login | None, Credential | CredentialError | None] = {}
        self.tokens: dict[tuple[Login | None, str], str] = {}
        self.locks: dict[tuple[Login | None, str], threading.Lock] = {}


class Conversation:
    """One question being asked, by one thread."""

    _transport: Transport

    def __init__(
        self, place: Place, question: tuple[str, Login | None, bool], name: str, tag: str
    ) -> None:
        self.place = place
        self.question = question
        _, self._login, self._may_get = question
        self._path = f"/v2/{name}/manifests/{tag}"
        self._scope = f"repository:{name}:pull"

    def digest(self, transport: Transport) -> str:
        """What the tag means. Raises Problem, or whatever a parser does."""
        self._transport = transport
        if not self.place.way.base:
            transport.reach()
        reply, authorization = self._ask("HEAD")
        if reply.status in _NOT_BY_HEAD and self._may_get:
            reply, authorization = self._ask("GET")
            if reply.status == 200 and not reply.headers.get("Docker-Content-Digest"):
                return _digest_of(reply)
        if reply.status != 200:
            raise self._refusal(reply, authorization)
        digest = str(reply.headers.get("Docker-Content-Digest"))
        if not DIGEST.fullmatch(digest):
            raise Problem("the registry tells no digest (Docker-Content-Digest) when asked by HEAD")
        return digest

    def _ask(self, method: str) -> tuple[Reply, str]:
        """The answer about the manifest, and the authorization that it was asked with."""
        transport = self._transport
        authorization, new = "", False
        if self.place.challenge:
            # What it wanted of an earlier question.
            authorization, new = self._fulfil(self.place.challenge, "")
        # None, one that has expired meanwhile, a new one.
        for _ in range(3):
            headers = {"Accept": MANIFESTS}
            if authorization:
                headers["Authorization"] = authorization
            reply = transport.send(method, self.place.way.base + self._path, headers)
            if reply.status != 401 or new:
                break
            authorization, new = self._wanted(reply, authorization)
        return reply, authorization

    def _refusal(self, reply: Reply, authorization: str) -> Problem:
        registry = self.place.name
        known = reply.status == 401 and self._credential()
        if known and authorization.startswith("Basic "):
            return self._refused()
        why = f"not for what {registry} knows us as" if known else f"no credentials for {registry}"
        texts = {
            401: f"401 Unauthorized: no such image, or {why} {_ADVICE}",
            403: f"403 Forbidden: {registry} doesn't let us see it {_ADVICE}",
            404: GONE,
        }
        return Problem(texts[reply.status]) if reply.status in texts else _by_status(reply)

    # Who we are: the value of an Authorization header, and whether it is new to the registry.

    def _wanted(self, reply: Reply, refused: str) -> tuple[str, bool]:
        """What a registry that said 401 wants."""
        found = challenges(reply.headers.get_all("WWW-Authenticate") or [])
        known = {one.scheme: one for one in reversed(found)}
        challenge = known.get("bearer") or known.get("basic")
        if not challenge:
            raise Problem("401 Unauthorized, and not said how (neither Basic nor Bearer)")
        answer = self._fulfil(challenge, refused)
        if challenge.parameters.pop("scope", "") in ("", self._scope):
            self.place.challenge = challenge
        return answer

    def _fulfil(self, challenge: Challenge, refused: str) -> tuple[str, bool]:
        credential = self._credential()
        if challenge.scheme == "basic":
            if not credential or not credential.username:
                raise Problem(f"401 Unauthorized: no credentials for {self.place.name} {_ADVICE}")
            return basic(credential.username, credential.password), True
        if credential and credential.registry_token:
            return f"Bearer {credential.registry_token}", True
        scope = challenge.parameters.get("scope") or self._scope
        key, tokens = (self._login, scope), self.place.tokens
        # The first to need it gets it, the others wait.
        with self.place.locks.setdefault(key, threading.Lock()):
            if tokens.get(key, "") not in ("", refused):
                return tokens[key], False
            tokens[key] = f"Bearer {self._token(challenge.parameters, scope, credential)}"
            return tokens[key], True

    def _credential(self) -> Credential | None:
        """Ours for this registry, found once: a helper may be slow, a wrong one locked out."""
        known = self.place.credentials
        with self._transport.paused(), self.place.lock:
            if self._login not in known:
                try:
                    known[self._login] = find(self.place.name, self.place.environ, self._login)
                except CredentialError as error:
                    known[self._login] = error
            found = known[self._login]
        if isinstance(found, CredentialError):
            raise Problem(one_line(found.message + (f" ({found.hint})" if found.hint else "")))
        return found

    def _refused(self) -> Problem:
        """The password is wrong. It is not tried again: that locks accounts."""
        text = f"401 Unauthorized: {self.place.name} refuses the credentials it is given {_ADVICE}"
        self.place.credentials[self._login] = CredentialError(text)
        return Problem(text)

    def _token(self, told: Mapping[str, str], scope: str, credential: Credential | None) -> str:
        realm = told.get("realm", "")
        server, own = line_of(realm), line_of(self.place.way.base)
        if credential and (own.scheme, server.scheme) == ("https", "http"):
            raise Problem(
                f"no credentials are sent to {server.host} by plain http, though "
                f"{self.place.name} wants it"
            )
        asked = {"service": told["service"]} if told.get("service") else {}
        if credential and credential.identity_token:
            # https://distribution.github.io/distribution/spec/auth/oauth/
            asked |= {
                "grant_type": "refresh_token",
                "refresh_token": credential.identity_token,
                "client_id": "rbuild",
                "scope": scope,
            }
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            body = urlencode(asked).encode()
            reply = self._transport.send("POST", realm, headers, body)
        else:
            headers = {}
            if credential and credential.username:
                headers["Authorization"] = basic(credential.username, credential.password)
                asked["account"] = credential.username
            query = urlencode({**asked, "scope": scope.split()}, doseq=True)
            url = f"{realm}{'&' if urlsplit(realm).query else '?'}{query}"
            reply = self._transport.send("GET", url, headers)
        # 400: invalid_grant (RFC 6749, 5.2).
        if credential and reply.status in ((400, 401) if credential.identity_token else (401,)):
            raise self._refused()
        if reply.status != 200:
            raise _by_status(reply, f" from {server.host} instead of a token")
        with suppress(ValueError, AttributeError, TypeError, RecursionError):
            answer = json.loads(reply.body)
            token = answer.get("token") or answer.get("access_token")
            if _SENT_TOKEN.fullmatch(token):
                return str(token)
        raise Problem(f"{server.host} gives no token that could be understood")


def stamp(when: float) -> str:
    """RFC 3339, to the minute that follows."""
    return time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime(when + 59.999))


def _digest_of(reply: Reply) -> str:
    """The digest of a manifest that was sent; whatever else was sent is none."""
    kind = str(reply.headers.get("Content-Type", "")).partition(";")[0].strip()
    if kind not in MANIFESTS.split(", ") or len(reply.body) >= LARGEST:
        raise Problem("the registry tells no digest, and sends no manifest")
    import hashlib

    return f"sha256:{hashlib.sha256(reply.body).hexdigest()}"


def _by_status(reply: Reply, where: str = "") -> Problem:
    """The problem that a status tells, and how long it asks us to wait."""
    text = f"{reply.status} {responses.get(reply.status, '')}".strip() + where
    wait = _wait(str(reply.headers.get("Retry-After", "")))
    if wait is None:
        wait = PAUSE if reply.status == 429 else 0.0
    if reply.status not in (429, 503) or not wait:
        return Problem(text)
    until = time.time() + min(wait, LONGEST_PAUSE)
    return Problem(f"{text}: asked again after {stamp(until)}", until=until)


def _wait(text: str) -> float | None:
    """Seconds that a Retry-After asks for: a number of them, or a date (RFC 9110, 10.2.3)."""
    if re.fullmatch(r"\s*[0-9]+\s*", text, re.ASCII):
        return float(text)
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
