"""What builds rest on, from rendered configurations and Dockerfiles given as plain values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pytest

from rbuild.compose.bases import Bases, Need, concerned, find, require_compose
from rbuild.compose.configuration import parse
from rbuild.errors import InputError, ProjectError

HOST = "linux/amd64"


def found(
    services: Mapping[str, Any], files: Mapping[str, str] | None = None, leave: Collection[str] = ()
) -> Bases:
    """`services` in short: a string is a Dockerfile's text, a mapping is as Compose renders it."""
    contents = {path: text.encode() for path, text in (files or {}).items()}
    full: dict[str, Any] = {}
    for name, short in services.items():
        if isinstance(short, str):
            contents[f"/p/{name}/Dockerfile"] = short.encode()
            short = {"build": {"context": f"/p/{name}"}}
        full[name] = short

    def read(path: str) -> bytes:
        if path not in contents:
            raise FileNotFoundError(2, "No such file or directory", path)
        return contents[path]

    return find(parse({"name": "p", "services": full}, "/p"), read, HOST, leave)


def needs(bases: Bases) -> dict[str, tuple[str, ...]]:
    assert all(need.platform == "" for need in bases.needs)
    return {need.reference: need.services for need in bases.needs}


def inline(text: str, **more: Any) -> dict[str, Any]:
    return {"build": {"context": "/p", "dockerfile_inline": text, **more}}


def test_nothing_to_build() -> None:
    assert found({"db": {"image": "postgres"}}) == Bases((), (), ())


def test_a_base_is_needed_once_however_many_use_it() -> None:
    bases = found({"a": "FROM x", "b": "FROM x\nCOPY --from=y /a /a", "c": "FROM scratch"})
    assert needs(bases) == {"x": ("a", "b"), "y": ("b",)}
    assert bases.order == (("a", "b", "c"),)


def test_spellings_of_one_base_are_told_apart_by_the_pull_not_here() -> None:
    assert set(needs(found({"a": "FROM x\nCOPY --from=x:latest / /"}))) == {"x", "x:latest"}


def test_a_dockerfile_outside_its_context() -> None:
    service = {"build": {"context": "/p/a", "dockerfile": "/elsewhere/F"}}
    assert needs(found({"a": service}, {"/elsewhere/F": "FROM x"})) == {"x": ("a",)}


def test_arguments_targets_and_inline() -> None:
    text = "ARG V=1\nFROM x:$V AS one\nFROM y:$V AS two\nFROM z"
    assert needs(found({"a": inline(text, target="two", args={"V": 7})})) == {"y:7": ("a",)}
    assert needs(found({"a": inline(text, target="one", args={"V": None})})) == {"x:1": ("a",)}


# Services that rest on services


@pytest.mark.parametrize("reference", ["p-base", "p-base:latest", "docker.io/library/p-base"])
def test_a_sibling_s_image_is_built_first_and_never_pulled(reference: str) -> None:
    bases = found({"web": f"FROM {reference}", "base": "FROM x"})
    assert needs(bases) == {"x": ("base",)}
    assert bases.order == (("base",), ("web",))


def test_a_chain_and_a_diamond() -> None:
    bases = found(
        {
            "top": "FROM p-left\nCOPY --from=p-right / /",
            "right": "FROM p-base",
            "left": "FROM p-base",
            "base": "FROM x",
            "alone": "FROM x",
        }
    )
    assert bases.order == (("base", "alone"), ("right", "left"), ("top",))


def test_a_sibling_of_another_tag_is_an_image_like_any() -> None:
    bases = found({"web": "FROM p-base:1", "base": "FROM x"})
    assert set(needs(bases)) == {"p-base:1", "x"}
    assert bases.order == (("web", "base"),)


def test_a_service_that_rests_on_its_own_image() -> None:
    bases = found({"web": "FROM p-web"})
    assert bases == Bases((), (("web",),), (), {"web": frozenset()})


def test_a_circle_is_refused() -> None:
    with pytest.raises(ProjectError, match="builds of a, b rest on each other in a circle"):
        found({"c": "FROM x", "a": "FROM p-b", "b": "FROM p-a"})


TWIN = {"image": "app", "build": {"context": "/p/a"}}


def test_twins_are_built_once() -> None:
    bases = found({"web": TWIN, "worker": TWIN, "next": "FROM app"}, {"/p/a/Dockerfile": "FROM x"})
    assert needs(bases) == {"x": ("web",)}
    assert bases.order == (("web",), ("next",))


def test_two_builds_of_one_image_are_both_built() -> None:
    other = {"image": "app", "build": {"context": "/p/a", "target": "two"}}
    files = {"/p/a/Dockerfile": "FROM x AS one\nFROM y AS two"}
    bases = found({"web": TWIN, "other": other, "next": "FROM app"}, files)
    assert bases.order == (("web", "other"), ("next",))


def test_a_service_s_image_as_a_context() -> None:
    web = inline("FROM start", additional_contexts={"start": "service:base"})
    bases = found({"web": web, "base": "FROM x"})
    assert needs(bases) == {"x": ("base",)}
    assert bases.order == (("base",), ("web",))


def test_a_twin_s_image_as_a_context() -> None:
    web = inline("FROM start", additional_contexts={"start": "service:worker"})
    services = {"next": web, "web": TWIN, "worker": TWIN}
    assert found(services, {"/p/a/Dockerfile": "FROM x"}).order == (("web",), ("next",))


# What is left alone


def test_what_is_left_alone_is_not_built_and_its_image_not_pulled() -> None:
    bases = found({"web": "FROM p-base", "base": "FROM x"}, leave=["base"])
    assert bases == Bases((), (("web",),), (), {"web": frozenset({"base"})})


def test_a_twin_of_what_is_left_alone_is_built() -> None:
    bases = found({"web": TWIN, "worker": TWIN}, {"/p/a/Dockerfile": "FROM x"}, leave=["web"])
    assert bases.order == (("worker",),)


# What is not read here


@pytest.mark.parametrize(
    "context", ["https://example.org/x.git#main", "git@example.org:x.git", "https://x/y.tar.gz"]
)
def test_a_context_elsewhere_has_unknown_bases(context: str) -> None:
    bases = found({"far": {"build": {"context": context}}, "near": "FROM p-far"})
    rests_on = {"far": frozenset(), "near": frozenset({"far"})}
    assert bases == Bases((), (("far",), ("near",)), ("far",), rests_on)


def test_additional_contexts() -> None:
    contexts = {
        "alpine": "docker-image://registry.example/alpine:9",
        "files": "/p/files",
        "far": "https://example.org/x.git",
        "unused": "docker-image://never",
    }
    text = "FROM alpine\nCOPY --from=files / /\nCOPY --from=far / /\nCOPY --from=other / /"
    bases = found({"a": inline(text, additional_contexts=contexts)})
    assert set(needs(bases)) == {"registry.example/alpine:9", "other"}


# Platforms


@pytest.mark.parametrize(
    ("service", "platform"),
    [
        ({}, ""),
        ({"platform": "linux/arm64"}, "linux/arm64"),
        ({"platform": HOST}, ""),
    ],
)
def test_the_platform_of_a_service(service: dict[str, str], platform: str) -> None:
    bases = found({"a": inline("FROM x") | service})
    assert bases.needs == (Need("x", platform, ("a",)),)


@pytest.mark.parametrize(
    ("platforms", "platform"),
    [([], ""), (["linux/arm64"], "linux/arm64"), (["linux/arm64", HOST], "")],
)
def test_platforms_of_a_build(platforms: list[str], platform: str) -> None:
    bases = found({"a": inline("FROM x", platforms=platforms)})
    assert bases.needs == (Need("x", platform, ("a",)),)


def test_platforms_of_stages() -> None:
    text = "FROM --platform=$BUILDPLATFORM x AS tool\nFROM y\nCOPY --from=tool / /"
    bases = found({"a": inline(text) | {"platform": "linux/arm64"}})
    assert {(need.reference, need.platform) for need in bases.needs} == {
        ("x", ""),
        ("y", "linux/arm64"),
    }


# What cannot be read


def test_a_dockerfile_that_is_not_there() -> None:
    with pytest.raises(InputError) as caught:
        found({"web": {"build": {"context": "/p/web", "dockerfile": "F"}}})
    message = "/p/web/F: the Dockerfile of service web: No such file or directory"
    assert caught.value.message == message
    assert caught.value.hint


def test_a_broken_dockerfile_is_named_with_its_line() -> None:
    with pytest.raises(InputError, match=r"^/p/web/Dockerfile line 2: "):
        found({"web": "FROM x\nFROM"})
    with pytest.raises(InputError, match=r"^dockerfile_inline of service a line 2: "):
        found({"a": inline("FROM x\nFROM")})


# Whom a move concerns


X = "docker.io/library/x:latest"
FILES = {"/p/a/Dockerfile": "FROM x"}
SERVICES = {
    "top": "FROM p-web",
    "web": "FROM p-base\nCOPY --from=y / /",
    "base": "FROM x",
    "beside": "FROM z",
    "pure": {"image": "x"},
    "db": {"image": "postgres:16"},
    "again": {"image": "p-web"},
    "far": {"build": {"context": "https://example.org/x.git"}},
}


def touched(services: Mapping[str, Any], *moved: str, changed: Collection[str] = ()) -> set[str]:
    contents = {path: text.encode() for path, text in FILES.items()}
    full = {}
    for name, short in services.items():
        if isinstance(short, str):
            contents[f"/p/{name}/Dockerfile"] = short.encode()
            short = {"build": {"context": f"/p/{name}"}}
        full[name] = short
    configuration = parse({"name": "p", "services": full}, "/p")
    bases = find(configuration, contents.__getitem__, HOST)
    return {*concerned(configuration, bases, moved, changed, ["docker.io/library/w:latest"])}


def test_who_lives_with_what_moves_and_who_is_restarted_with_it_comes_along() -> None:
    """A container whose network is gone has none, and can't even be started again."""
    services = {
        "vpn": {"image": "vpn"},
        "app": {"image": "app", "network_mode": "service:vpn"},
        "beside": {"image": "beside", "pid": "service:app"},
        "after": {"image": "after", "depends_on": {"vpn": {"restart": True}}},
        "other": {"image": "other", "depends_on": {"vpn": {"condition": "service_started"}}},
    }
    found = touched(services, "docker.io/library/vpn:latest")
    assert found == {"vpn", "app", "beside", "after"}


def test_where_nothing_moved_nobody_is_concerned() -> None:
    assert touched(SERVICES) == set()


@pytest.mark.parametrize(
    ("moved", "expected"),
    [
        # All that rest on it, at first or third hand, and what runs it or them.
        (X, {"base", "web", "top", "pure", "again"}),
        ("docker.io/library/y:latest", {"web", "top", "again"}),
        ("docker.io/library/z:latest", {"beside"}),
        ("docker.io/library/postgres:16", {"db"}),
        # What nothing here rests on is watched for the sake of all that is built.
        ("docker.io/library/w:latest", {"base", "web", "top", "beside", "far", "again"}),
    ],
)
def test_whom_a_move_concerns(moved: str, expected: set[str]) -> None:
    assert touched(SERVICES, moved) == expected


def test_whom_two_moves_concern() -> None:
    two = ("docker.io/library/z:latest", "docker.io/library/postgres:16")
    assert touched(SERVICES, *two) == {"beside", "db"}


def test_whom_a_change_of_a_context_concerns() -> None:
    assert touched(SERVICES, changed=["web"]) == {"web", "top", "again"}
    z = "docker.io/library/z:latest"
    assert touched(SERVICES, z, changed=["top"]) == {"top", "beside"}


def test_twins_are_concerned_together() -> None:
    services = {"web": TWIN, "worker": TWIN, "next": "FROM app"}
    assert touched(services, X) == {"web", "worker", "next"}


@pytest.mark.parametrize("image", ["app", "app:latest", "docker.io/library/app", "app:1"])
def test_whoever_runs_what_is_built_is_concerned_however_it_is_spelled(image: str) -> None:
    build = {"context": "/p/a", "tags": ["app:1"]}
    services = {"web": {"image": "app", "build": build}, "worker": {"image": image}}
    assert touched(services, X) == {"web", "worker"}


@pytest.mark.parametrize(
    ("version", "leave", "refused"),
    [
        ("2.26.1-4", (), True),
        ("v2.32.4", (), True),
        ("2.33.0", (), False),
        ("2.40.3+ds1-3", (), False),
        ("5.0.0", (), False),
        ("2.26.1", ("web",), False),
        ("", (), False),
    ],
)
def test_contexts_of_services_need_a_compose_that_knows_them(
    version: str, leave: tuple[str, ...], refused: bool
) -> None:
    contexts = {"core": "service:core", "other": "docker-image://x"}
    services = {"web": inline("FROM core", additional_contexts=contexts), "core": inline("FROM x")}
    configuration = parse({"name": "p", "services": services}, "/p")
    if not refused:
        require_compose(configuration, version, leave)
        return
    with pytest.raises(ProjectError, match="additional_contexts"):
        require_compose(configuration, version, leave)


def test_who_mounts_what_has_moved_is_concerned() -> None:
    mount = {"type": "image", "target": "/data"}
    services = {
        "a": {"image": "x", "volumes": [{**mount, "source": "data:1"}]},
        "b": {**inline("FROM y"), "volumes": [{**mount, "source": "data:1"}]},
        "c": {"image": "x", "volumes": [{**mount, "source": "p-d"}]},
        "d": inline("FROM z"),
    }
    configuration = parse({"name": "p", "services": services}, "/p")
    bases = find(configuration, lambda path: b"", HOST)

    def moved(name: str) -> set[str]:
        return set(concerned(configuration, bases, [name]))

    assert moved("docker.io/library/data:1") == {"a", "b"}
    # What is built upon something that has moved, and mounted.
    assert moved("docker.io/library/z:latest") == {"c", "d"}
