"""What inputs look like: signatures notice everything, digests only what counts."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest

from rbuild.compose.fingerprint import (
    changes,
    content_files,
    content_users,
    contents,
    data_files,
    differences,
    digests,
    dockerfile_of,
    missing,
    signature,
)

KEY = "11" * 16
DOCKERFILE = ("Dockerfile", "Dockerfile.dockerignore")
LOWER = ("dockerfile", "dockerfile.dockerignore")


def look(paths: list[Path], variables: dict[str, str | None] | None = None) -> dict[str, Any]:
    """A signature, as it comes back from a record."""
    environ = {name: value for name, value in (variables or {}).items() if value is not None}
    found = signature(map(str, paths), variables or {}, environ, KEY)
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


# The signature


def test_nothing_changed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    names = ["a", "folder", "absent", "a/below-a-file", "dangling"]
    seen = look([tmp_path / name for name in names], {"X": "1", "EMPTY": "", "UNSET": None})
    assert differences(seen, {"X": "1", "EMPTY": ""}, KEY) == []


def _replace(path: Path) -> None:
    info = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"x" * info.st_size)
    os.utime(other, ns=(info.st_atime_ns, info.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("a", lambda path: path.write_text("longer")),
        ("a", lambda path: os.utime(path, ns=(1, 1))),
        ("a", lambda path: os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))),
        ("a", Path.unlink),
        ("a", _replace),
        ("absent", Path.touch),
        ("absent", Path.mkdir),
        ("dangling", lambda path: (path.parent / "target").touch()),
        ("link", lambda path: (path.parent / "a").write_text("longer")),
    ],
)  # fmt: skip
def test_a_change_of_a_path_shows(tmp_path: Path, name: str, change: Any) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "dangling").symlink_to("target")
    seen = look([tmp_path / "steady", tmp_path / name])
    change(tmp_path / name)
    assert differences(seen, {}, KEY) == [str(tmp_path / name)]


def test_a_folder_s_content_is_not_its_signature(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    seen = look([tmp_path / "folder"])
    (tmp_path / "folder" / "file").touch()
    assert differences(seen, {}, KEY) == []


@pytest.mark.parametrize(
    ("before", "now"), [("1", "2"), ("1", None), (None, "1"), ("", None), (None, "")]
)
def test_a_change_of_a_variable_shows(before: str | None, now: str | None) -> None:
    seen = look([], {"X": before, "Y": "same"})
    environ = {"Y": "same"} | ({} if now is None else {"X": now})
    assert differences(seen, environ, KEY) == ["$X"]


def test_values_are_not_kept() -> None:
    assert "hunter2" not in json.dumps(look([], {"PASSWORD": "hunter2"}))


def test_a_value_that_is_no_text() -> None:
    value = os.fsdecode(b"\xff")
    seen = look([], {"X": value})
    assert differences(seen, {"X": value}, KEY) == []


# Digests


def project(folder: str = "/srv/site", **services: Any) -> dict[str, Any]:
    return {
        "name": "site",
        "services": {"web": {"image": "a", "environment": {"A": "1"}}, **services},
        "networks": {"default": {"name": "site_default"}},
    }


def made(config: dict[str, Any], folder: str = "/srv/site", home: str = "/srv/site") -> Any:
    files = content_files(config)
    return digests(config, files, {"X": "1"}, folder=folder, home=home, key=KEY)


def test_what_shapes_no_deployment_is_left_out() -> None:
    config = project()
    same = copy.deepcopy(config)
    same["x-rbuild"] = {"build-period": "7d"}
    same["services"]["web"]["x-rbuild"] = {"update": "manual"}
    same["networks"]["default"]["x-note"] = "hello"
    same["services"] = dict(reversed(same["services"].items()))
    same["volumes"] = {}
    config["volumes"] = {}
    assert made(same) == made(config)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["services"]["web"].update(image="b"),
        lambda c: c["services"]["web"]["environment"].update({"x-in-a-value": "counts"}),
        lambda c: c["services"].update(more={"image": "x"}),
        lambda c: c["networks"]["default"].update(name="other"),
        lambda c: c.update(name="other"),
    ],
)
def test_what_shapes_a_deployment_counts(change: Any) -> None:
    config = project()
    change(config)
    assert changes(made(project()), made(config), []) == ["the rendered configuration"]


def test_a_link_to_the_folder_is_no_change(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "Dockerfile").write_text("FROM x")
    (tmp_path / "link").symlink_to("real")

    def rendered(name: str, source: str) -> dict[str, str]:
        folder = str(tmp_path / name)
        build = {"context": folder, "dockerfile": "Dockerfile"}
        volumes = [{"type": "bind", "source": folder + source}]
        config = project(app={"build": build, "volumes": volumes})
        return made(config, folder, str(tmp_path / "real"))  # type: ignore[no-any-return]

    for source in ("", "/data"):
        assert rendered("link", source) == rendered("real", source)
    # A folder whose name only begins like it is another one.
    link, real = rendered("link", "-other"), rendered("real", "-other")
    assert changes(link, real, []) == ["the rendered configuration"]


def app(tmp_path: Path, **build: Any) -> dict[str, Any]:
    return {"name": "p", "services": {"app": {"build": {"context": str(tmp_path), **build}}}}


@pytest.mark.parametrize(
    ("build", "files"),
    [
        ({}, [*DOCKERFILE, *LOWER, ".dockerignore"]),
        ({"dockerfile": "Dockerfile"}, [*DOCKERFILE, *LOWER, ".dockerignore"]),
        ({"dockerfile": "DockerFile"}, ["DockerFile", "DockerFile.dockerignore", ".dockerignore"]),
        ({"dockerfile": "d/F"}, ["d/F", "d/F.dockerignore", ".dockerignore"]),
        ({"dockerfile": "/abs/F"}, ["/abs/F", "/abs/F.dockerignore", ".dockerignore"]),
        ({"dockerfile_inline": "FROM x"}, [".dockerignore"]),
    ],
)
def test_files_of_a_build(tmp_path: Path, build: Any, files: list[str]) -> None:
    assert content_files(app(tmp_path, **build)) == [str(tmp_path / name) for name in files]


@pytest.mark.parametrize(
    ("there", "build", "taken", "count"),
    [
        (["Dockerfile"], {}, "Dockerfile", DOCKERFILE),
        (["Dockerfile", "dockerfile"], {}, "Dockerfile", DOCKERFILE),
        (["dockerfile"], {}, "dockerfile", [*DOCKERFILE, *LOWER]),
        (["dockerfile"], {"dockerfile": "Dockerfile"}, "dockerfile", [*DOCKERFILE, *LOWER]),
        (["Dockerfile/", "dockerfile"], {}, "dockerfile", [*DOCKERFILE, *LOWER]),
        ([], {}, "Dockerfile", [*DOCKERFILE, *LOWER]),
        (["dockerfile"], {"dockerfile": "DOCKERFILE"}, "DOCKERFILE",
         ["DOCKERFILE", "DOCKERFILE.dockerignore"]),
        (["sub/", "sub/dockerfile"], {"dockerfile": "sub/Dockerfile"}, "sub/dockerfile",
         [f"sub/{one}" for one in (*DOCKERFILE, *LOWER)]),
    ],
)  # fmt: skip
def test_a_lower_case_dockerfile_stands_in(
    tmp_path: Path, there: list[str], build: Any, taken: str, count: list[str]
) -> None:
    for name in there:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
    config = app(tmp_path, **build)
    assert dockerfile_of(config["services"]["app"]["build"]) == str(tmp_path / taken)
    assert content_files(config) == [str(tmp_path / one) for one in (*count, ".dockerignore")]


@pytest.mark.parametrize(
    ("build", "what"),
    [
        ({}, ""),
        ({"dockerfile": "other"}, "other"),
        ({"dockerfile": "Dockerfile/below"}, "Dockerfile/below"),
        ({"dockerfile": "link"}, "link"),
        ({"context": "gone"}, "gone"),
        ({"context": "gone", "dockerfile_inline": "FROM x"}, "gone"),
        ({"dockerfile_inline": "FROM x"}, ""),
        ({"additional_contexts": {"a": "sub", "b": "gone", "c": "docker-image://x"}}, "gone"),
    ],
)
def test_what_a_build_lacks(tmp_path: Path, build: Any, what: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "Dockerfile").touch()
    (tmp_path / "link").symlink_to("nowhere")
    contexts = {
        name: one if ":" in one else str(tmp_path / one)
        for name, one in build.get("additional_contexts", {}).items()
    }
    context = str(tmp_path / build.get("context", ""))
    found = missing({**build, "context": context, "additional_contexts": contexts})
    assert found == (str(tmp_path / what) if what else "")


def test_a_context_elsewhere_is_not_missing() -> None:
    assert missing({"context": "https://x/y.git"}) == ""


@pytest.mark.parametrize("context", ["https://x/y.git", "git@host:x", ""])
def test_a_context_elsewhere_has_no_files(context: str) -> None:
    assert content_files({"services": {"app": {"build": {"context": context}}}}) == []


def test_files_of_configs_secrets_and_mounts(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("x")
    (tmp_path / "data").write_bytes(b"SQLite\0")
    (tmp_path / "big").write_bytes(b"x" * ((1 << 20) + 1))
    (tmp_path / "folder").mkdir()
    mounts = [
        {"type": "bind", "source": str(tmp_path / name), **more}
        for name in ("text", "data", "big", "folder", "absent")
        for more in ({}, {"read_only": True})
    ]
    mounts += [{"type": "volume", "source": "text"}, {"type": "tmpfs"}]
    config = {
        "services": {"web": {"image": "x", "volumes": mounts}},
        "configs": {"c": {"file": "/c"}, "inline": {"content": "x"}},
        "secrets": {"s": {"file": "/s"}, "env": {"environment": "X"}},
    }
    # What is large or no text is data, whoever may write it.
    text = str(tmp_path / "text")
    assert content_files(config) == [text, "/c", "/s"]
    assert data_files(config, [text]) == [str(tmp_path / "big"), str(tmp_path / "data")]
    assert content_files(config, [text]) == ["/c", "/s"]


def using(tmp_path: Path, **more: Any) -> dict[str, Any]:
    (tmp_path / "a").write_text("one")
    (tmp_path / "c").write_text("one")
    mount = {"type": "bind", "source": str(tmp_path / "a"), "target": "/a"}
    return {
        "services": {
            "web": {"volumes": [mount], "configs": [{"source": "c"}], "networks": {"n": None}},
            "db": {"volumes": [mount, {"type": "volume", "source": "v"}]},
            "none": {"build": {"context": str(tmp_path), "secrets": [{"source": "s"}]}},
            "vars": {"secrets": [{"source": "s"}]},
        },
        "configs": {"c": {"file": str(tmp_path / "c")}},
        "secrets": {"s": {"environment": "X"}},
        "networks": {"n": {"name": "p_n"}},
        "volumes": {"v": {"name": "p_v"}},
        **more,
    }


def test_the_services_that_use_a_file(tmp_path: Path) -> None:
    assert content_users(using(tmp_path)) == {
        str(tmp_path / "a"): {"web", "db"}, str(tmp_path / "c"): {"web"}
    }  # fmt: skip
    config = using(tmp_path)
    (tmp_path / "a").unlink()
    assert content_users(config) == {str(tmp_path / "c"): {"web"}}
    assert content_users(config, [str(tmp_path / "a")]).keys() == {
        str(tmp_path / "a"), str(tmp_path / "c")
    }  # fmt: skip


def own(config: dict[str, Any], value: str = "1") -> dict[str, dict[str, str]]:
    where = {"folder": "/srv/site", "home": "/srv/site", "key": KEY}
    now = digests(config, content_files(config), {"X": value}, **where)
    return contents(config, now, **where)


@pytest.mark.parametrize(
    ("change", "services"),
    [
        (lambda c, top: (top / "a").write_text("two"), {"web", "db"}),
        (lambda c, top: (top / "c").write_text("two"), {"web"}),
        (lambda c, top: c["configs"].update(c={"content": "x"}), {"web"}),
        (lambda c, top: c["networks"].update(n={"name": "other"}), {"web"}),
        (lambda c, top: c["networks"]["n"].update(driver="macvlan"), set()),
        (lambda c, top: c["volumes"].update(v={"name": "other"}), {"db"}),
        (lambda c, top: c["volumes"]["v"].update({"driver_opts": {"a": "b"}}), set()),
        (lambda c, top: c["secrets"].update(s={"environment": "Y"}), {"vars"}),
        (lambda c, top: c["services"]["web"].update(image="x"), set()),
    ],
)
def test_what_a_service_is_made_from_beside_its_configuration(
    tmp_path: Path, change: Any, services: set[str]
) -> None:
    config = using(tmp_path)
    before = own(config)
    assert own(config) == before
    change(config, tmp_path)
    now = own(config)
    assert {name for name in before if now[name] != before[name]} == services


def test_a_value_that_secrets_take_from_the_environment(tmp_path: Path) -> None:
    config = using(tmp_path)
    before, now = own(config), own(config, "2")
    assert {name for name in before if now[name] != before[name]} == {"vars"}
    assert changes(made(config), {**made(config), "$X": "other"}, []) == ["$X"]
    # A record of an older rbuild has none.
    assert changes({}, {"$X": "other"}, [], ["$X"]) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ({"/d": "1"}, {}, []),
        ({}, {"/d": "1"}, []),
        ({"/d": "1"}, {"/d": "2"}, ["/d"]),
        ({"/e": "1"}, {}, ["/e disappeared"]),
    ],
)
def test_data_comes_and_goes(old: dict[str, str], new: dict[str, str], told: list[str]) -> None:
    assert changes(old, new, [], ["/d"]) == told


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("FROM a", "FROM a", []),
        ("FROM a", "FROM b", ["{}"]),
        (None, "FROM a", ["{} appeared"]),
        ("FROM a", None, ["{} disappeared"]),
        (None, None, []),
    ],
)
def test_content_counts(
    tmp_path: Path, before: str | None, after: str | None, told: list[str]
) -> None:
    dockerfile = tmp_path / "Dockerfile"
    found = []
    for text in (before, after):
        dockerfile.unlink(missing_ok=True)
        if text is not None:
            dockerfile.write_text(text)
        found.append(made(app(tmp_path)))
    # The signature has changed in any case.
    assert changes(*found, suspects=[str(dockerfile)]) == [one.format(dockerfile) for one in told]


@pytest.mark.parametrize(
    ("old", "new", "suspects", "told"),
    [
        ({}, {}, ["/p/compose.yml"], []),
        ({"configuration": "1"}, {"configuration": "1"}, ["/p/compose.yml", "$X"], []),
        ({"configuration": "1"}, {"configuration": "2"}, ["/p/.env", "$X"], ["/p/.env", "$X"]),
        ({"configuration": "1"}, {"configuration": "2"}, [], ["the rendered configuration"]),
        # A Dockerfile that was only touched explains no changed configuration.
        (
            {"configuration": "1", "/p/Dockerfile": "a"},
            {"configuration": "2", "/p/Dockerfile": "a"},
            ["/p/Dockerfile"],
            ["the rendered configuration"],
        ),
        (
            {"configuration": "1", "/p/Dockerfile": "a"},
            {"configuration": "2", "/p/Dockerfile": "b"},
            ["/p/.env", "/p/Dockerfile"],
            ["/p/.env", "/p/Dockerfile"],
        ),
        # An ignore file that is now looked for, and isn't there, is no change.
        ({}, {"/p/.dockerignore": "absent"}, [], []),
        ({"/p/.dockerignore": "absent"}, {}, [], []),
        ({"/p/a": "1"}, {}, [], ["/p/a disappeared"]),
    ],
)
def test_changes(
    old: dict[str, str], new: dict[str, str], suspects: list[str], told: list[str]
) -> None:
    assert changes(old, new, suspects) == told


def test_secrets_are_not_kept(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("hunter2")
    config = project(db={"environment": {"PASSWORD": "hunter2"}})
    config["secrets"] = {"s": {"file": str(tmp_path / "s")}}
    assert "hunter2" not in json.dumps(made(config))
