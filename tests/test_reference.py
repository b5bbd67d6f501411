"""Image references: full names, and tags of rbuild's own."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rbuild.docker.reference import (
    familiar,
    generations,
    is_listed,
    kept,
    pattern,
    problem,
    qualified,
    registry_of,
    repository,
    untagged,
)

STAMP = "20261121T030000Z"

# The grammar of distribution's reference package (reference.go, and ReferenceRegexp):
# path components, a tag of at most 128 characters, a name of at most 255.
COMPONENT = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
REFERENCE = re.compile(rf"({COMPONENT}(?:/{COMPONENT})*):(\w[\w.-]{{0,127}})", re.ASCII)


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("debian", "docker.io/library/debian:latest"),
        ("debian:12", "docker.io/library/debian:12"),
        ("me/app", "docker.io/me/app:latest"),
        ("docker.io/debian", "docker.io/library/debian:latest"),
        ("docker.io/library/debian:latest", "docker.io/library/debian:latest"),
        ("index.docker.io/debian", "docker.io/library/debian:latest"),
        ("ghcr.io/me/app", "ghcr.io/me/app:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:1", "localhost:5000/app:1"),
        ("127.0.0.1:5000/app", "127.0.0.1:5000/app:latest"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        ("host/app", "docker.io/host/app:latest"),
        ("Host/app", "Host/app:latest"),
        ("app@sha256:0f", "docker.io/library/app@sha256:0f"),
        ("app:1@sha256:0f", "docker.io/library/app:1@sha256:0f"),
        ("r.example/a/b/c:1@sha256:0f", "r.example/a/b/c:1@sha256:0f"),
    ],
)
def test_qualified(short: str, full: str) -> None:
    assert qualified(short) == full
    assert qualified(full) == full


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("debian", "docker.io/library/debian"),
        ("debian:12@sha256:0f", "docker.io/library/debian"),
        ("debian@sha256:0f", "docker.io/library/debian"),
        ("localhost:5000/app@sha256:0f", "localhost:5000/app"),
        ("localhost:5000/app:1", "localhost:5000/app"),
    ],
)
def test_repository(reference: str, name: str) -> None:
    assert repository(reference) == name


@pytest.mark.parametrize(
    ("full", "short"),
    [
        ("docker.io/library/debian:12", "debian:12"),
        ("docker.io/me/app:1", "me/app:1"),
        ("docker.io/library/me/app:1", "library/me/app:1"),
        ("docker.io/library/app:1@sha256:0f", "app:1@sha256:0f"),
        ("ghcr.io/library/app:1", "ghcr.io/library/app:1"),
        ("127.0.0.1:5000/app:1", "127.0.0.1:5000/app:1"),
        ("r.example/docker.io/library/app:1", "r.example/docker.io/library/app:1"),
    ],
)
def test_familiar(full: str, short: str) -> None:
    assert familiar(full) == short
    assert qualified(short) == full


DIGEST = f"sha256:{'0f' * 32}"


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("", "it is empty"),
        ("ghcr.io/MyOrg/app", "capital letters"),
        ("Debian:12", "capital letters"),
        ("base:", "its tag is empty"),
        (":1", "there is nothing before its tag"),
        ("-app:1", "it begins with '-'"),
        ("http://host/app", "a URL: leave out http://"),
        ("docker://debian", "a URL: leave out docker://"),
        ("debian :12", "white space"),
        ("debian\n", "white space"),
        ("$APP", "the character '$'"),
        ("café", "the character 'é'"),
        ("/app", "there is nothing before or after a slash"),
        ("r.example//app", "there is nothing before or after a slash"),
        ("r.example/", "there is nothing before or after a slash"),
        ("app:-1", "its tag '-1' is none"),
        ("app:1:2", "'app:1' is not letters and digits with one of . _ - between them"),
        ("web_", "'web_' is not letters and digits with one of . _ - between them"),
        ("a..b/app", "'a..b' is not letters and digits with one of . _ - between them"),
        ("app@", "no digest"),
        ("app@sha256:0f", "its digest is not sha256: and 64 digits from 0 to f"),
        ("a" * 256, "longer than 255 characters"),
        (f"app:{'1' * 129}", f"its tag '{'1' * 129}' is none"),
    ],
)
def test_why_no_image_can_have_a_name(reference: str, why: str) -> None:
    assert problem(reference) == why


@pytest.mark.parametrize(
    "reference",
    [
        "debian", "debian:12", "MyOrg/app", "localhost:5000/a/b:X", "[::1]:5000/app", "a__b--c.d",
        f"app:1@{DIGEST}", DIGEST, "0f" * 32, "host_a.b/app", f"app:{'1' * 128}", "a" * 247,
    ],
)  # fmt: skip
def test_what_an_image_can_be_named(reference: str) -> None:
    assert problem(reference) == ""


@given(
    project=st.from_regex(r"[a-z0-9]{1,9}", fullmatch=True), service=st.text("aA1._-", min_size=1)
)
def test_a_kept_tag_is_always_one(project: str, service: str) -> None:
    assert problem(kept(project, service, STAMP)) == ""


@pytest.mark.parametrize(
    ("full", "registry"),
    [
        ("docker.io/library/debian:12", "docker.io"),
        ("127.0.0.1:5000/app:1", "127.0.0.1:5000"),
        ("[::1]:5000/a/b@sha256:0f", "[::1]:5000"),
    ],
)
def test_registry_of(full: str, registry: str) -> None:
    assert registry_of(full) == registry


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("debian", "debian"),
        ("debian:12", "debian"),
        ("me/app:1@sha256:0f", "me/app"),
        ("app@sha256:0f", "app"),
        ("localhost:5000/app", "localhost:5000/app"),
        ("localhost:5000/app:1", "localhost:5000/app"),
        ("[::1]:5000/app", "[::1]:5000/app"),
    ],
)
def test_untagged(reference: str, name: str) -> None:
    """As it is spelled: with a digest, it is a reference again."""
    assert untagged(reference) == name
    assert repository(f"{name}@sha256:0f") == repository(reference)


@pytest.mark.parametrize(
    ("entries", "listed"),
    [
        ([], False),
        (["debian"], True),
        (["docker.io/library/debian"], True),
        (["debian:12"], True),
        (["index.docker.io/debian:12"], True),
        (["debian:11"], False),
        (["debian:latest"], False),
        (["debian@sha256:0f"], False),
        (["redis", "debian"], True),
        (["me/debian"], False),
        (["ghcr.io/library/debian"], False),
        (["localhost:5000/debian"], False),
    ],
)
def test_what_is_listed(entries: list[str], listed: bool) -> None:
    assert is_listed("docker.io/library/debian:12", entries) == listed


def test_a_port_is_no_tag() -> None:
    assert is_listed("localhost:5000/app:7", ["localhost:5000/app"])
    assert not is_listed("localhost:5000/app:7", ["localhost:5000/app:8"])


# What Compose allows: schema of the Compose specification, `services` and `name`.
services = st.from_regex(r"[a-zA-Z0-9._-]{1,120}", fullmatch=True)
projects = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,120}", fullmatch=True)


@given(project=projects, service=services)
@example("p" * 120, "s" * 120)
@example("0-", "_")
@example("a", "...")
@example("a__b", "A")
@example("a___b", "a.-b")
def test_a_kept_tag_is_a_reference_and_its_projects_own(project: str, service: str) -> None:
    tag = kept(project, service, STAMP)
    match = REFERENCE.fullmatch(tag)
    assert match
    assert len("docker.io/" + match[1]) <= 255
    assert generations([tag], project) == {STAMP: [tag]}
    name = pattern(project).removesuffix("*:*")
    assert tag.startswith(name)
    assert tag.count("/") == 2


@given(project=projects, names=st.lists(services, unique=True, min_size=2, max_size=6))
@example("p", ["A", "a"])
@example("p", ["a-b", "a_b", "a.b", "a--b"])
@example("p", ["web_", "web-", "web", "-web"])
@example("p", ["x" * 119 + "1", "x" * 119 + "2"])
def test_no_two_services_share_a_kept_tag(project: str, names: list[str]) -> None:
    assert len({kept(project, name, STAMP) for name in names}) == len(names)


def test_a_plain_name_is_kept_as_it_is() -> None:
    assert kept("site", "web-1", STAMP) == f"rbuild/site/web-1:{STAMP}"


def test_generations_are_newest_first_and_nobody_elses() -> None:
    old, new = "20260101T000000Z", "20261231T235959Z"
    tags = [f"rbuild/p/a:{old}", f"rbuild/p/a:{new}", f"rbuild/p/b:{new}"]
    others = ["debian:12", "p-a:latest", "rbuild/p/a:latest", f"rbuild/p:{old}",
              f"x/rbuild/p/a:{old}",
              f"rbuild/other/a:{old}", f"rbuild/p2/a:{old}", f"rbuild/p/a/b:{old}"]  # fmt: skip
    found = generations([*others, *tags], "p")
    assert list(found) == [new, old]
    assert found == {new: tags[1:], old: tags[:1]}
