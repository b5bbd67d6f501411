"""Images in the tests' registry, made without any engine: a base and one layer more.

So a tag there can mean something new in a few milliseconds, and no engine has it yet.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import tarfile
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar"


def publish(repository: str, tag: str, files: Mapping[str, str], **config: Any) -> str:
    """Let a tag mean the tests' base with these files and this configuration; its reference.

    The same content gives the same image. `config` is as in an image's own: `Cmd`, `Labels`, …
    """
    registry, _, base = os.environ["RBUILD_BASE"].partition("/")
    base, _, base_tag = base.rpartition(":")
    manifest = json.loads(ask(registry, "GET", f"/v2/{base}/manifests/{base_tag}"))
    image = json.loads(ask(registry, "GET", f"/v2/{base}/blobs/{manifest['config']['digest']}"))
    for layer in manifest["layers"]:
        mount = f"/v2/{repository}/blobs/uploads/?mount={layer['digest']}&from={base}"
        ask(registry, "POST", mount)
    layer = archive(files)
    image["config"] = {**(image.get("config") or {}), **config}
    image["rootfs"]["diff_ids"].append(digest(layer))
    image.pop("history", None)
    manifest["layers"].append(blob(registry, repository, LAYER, layer))
    text = json.dumps(image, sort_keys=True).encode()
    manifest["config"] = blob(registry, repository, manifest["config"]["mediaType"], text)
    body = json.dumps(manifest).encode()
    kind = manifest["mediaType"]
    ask(registry, "PUT", f"/v2/{repository}/manifests/{tag}", body, {"Content-Type": kind})
    return f"{registry}/{repository}:{tag}"


def blob(registry: str, repository: str, kind: str, content: bytes) -> dict[str, Any]:
    """Upload a blob; how a manifest names it."""
    name = digest(content)
    ask(registry, "POST", f"/v2/{repository}/blobs/uploads/", then=(name, content))
    return {"mediaType": kind, "size": len(content), "digest": name}


def ask(
    registry: str,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    then: tuple[str, bytes] | None = None,
) -> bytes:
    """One request; `then` is the digest and content to put where the answer points."""
    connection = http.client.HTTPConnection(registry, timeout=20)
    try:
        connection.request(method, path, body, {"Accept": MANIFEST, **(headers or {})})
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status < 300, f"{method} {path}: {answer.status} {text!r}"
    finally:
        connection.close()
    if then:
        place = urlsplit(answer.headers["Location"])
        query = f"{place.query}&digest={then[0]}" if place.query else f"digest={then[0]}"
        ask(registry, "PUT", f"{place.path}?{query}", then[1])
    return text


def archive(files: Mapping[str, str]) -> bytes:
    """A layer with these files, the same for the same content."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for path, text in files.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = len(text.encode()), 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))
    return whole.getvalue()


def digest(content: bytes) -> str:
    """How a registry calls content."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
