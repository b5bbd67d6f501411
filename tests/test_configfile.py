"""rbuild.yml: what it says, where it is found, and the cache that spares a run its YAML."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rbuild.compose import yamlfile
from rbuild.configfile import ConfigFile, expand, places, read
from rbuild.errors import UsageError
from rbuild.settings import Given


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def written(root: Path, text: str) -> str:
    path = root / "rbuild.yml"
    path.write_text(text)
    return str(path)


TEXT = """\
projects:
  - /srv/site/compose.yml
  - wiki
  - ~/app
  - "*/x.yml"
defaults:
  build-period: 7d
  prune-image-cache: true
"""


def test_what_it_says(tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    path = written(tmp_path, TEXT)
    expected = ConfigFile(
        path,
        ("/srv/site/compose.yml", f"{tmp_path}/wiki", "/home/me/app", f"{tmp_path}/*/x.yml"),
        {
            "build-period": Given(604800, f"{path}:7"),
            "prune-image-cache": Given(True, f"{path}:8"),
        },
    )
    assert read(path, {}, str(state)) == expected
    # And again, from the cache.
    assert read(path, {}, str(state)) == expected


HOOKS = """\
defaults:
  hooks:
    before-update: [dump, "0755"]
    on-failure: |
      mail root <"$RBUILD_LOG"
"""


def test_its_hooks(tmp_path: Path, state: Path) -> None:
    path = written(tmp_path, HOOKS)
    expected = {
        "hooks.before-update": Given(("dump", "0755"), f"{path}:3"),
        "hooks.on-failure": Given(("/bin/sh", "-c", 'mail root <"$RBUILD_LOG"\n'), f"{path}:4"),
    }
    assert read(path, {}, str(state)).defaults == expected
    assert fresh_process(path, state) == "0 False"
    assert read(path, {}, str(state)).defaults == expected


def test_a_cache_of_a_version_that_knew_no_hooks_is_not_believed(
    tmp_path: Path, state: Path
) -> None:
    path = written(tmp_path, HOOKS)
    assert len(read(path, {}, str(state)).defaults) == 2
    cache = json.loads(cache_of(state).read_text())
    cache["look"][0] -= 1
    cache_of(state).write_text(json.dumps({**cache, "defaults": {}}))
    assert len(read(path, {}, str(state)).defaults) == 2


@pytest.mark.parametrize("text", ["", "# nothing\n", "projects:\n", "projects: []\ndefaults: {}\n"])
def test_it_may_say_nothing(tmp_path: Path, state: Path, text: str) -> None:
    path = written(tmp_path, text)
    assert read(path, {}, str(state)) == ConfigFile(path, (), {})


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("project: [a]\n", ":1: unknown key 'project'", "did you mean projects?"),
        ("projects: []\ndefaults:\n  build-perod: 1\n", ":3: unknown key 'build-perod'",
         "did you mean build-period?"),
        ("defaults:\n\n  keep-images: few\n", ":3: keep-images: 'few' is no whole number", ""),
        ("defaults: {jobs: 2}\n", ":1: jobs belongs to a run", ""),
        ("defaults:\n  hooks:\n    before-updte: x\n", ":3: unknown key 'before-updte'",
         "did you mean before-update?"),
        ("defaults:\n  hooks:\n    on-failure: [sleep, 5]\n",
         ":3: hooks.on-failure: item 2 of the command is 5, not text", ""),
        ("defaults:\n  hooks: x\n", ":2: hooks: expected a mapping of hooks", "before-update"),
        ("hooks: {}\n", ":1: unknown key 'hooks'", "under `defaults:`"),
        ("projects: []\nx-rbuild: {}\n", ":2: unknown key 'x-rbuild'", "under `defaults:`"),
        ("\ndefaults: [a]\n", ":2: defaults: expected a mapping of settings, not [\"a\"]", ""),
        ("projects: /srv/site\n", ":1: projects: expected a list of paths", ""),
        ("\nprojects: [1]\n", ":2: projects: expected a list of paths", ""),
        ("- a\n", ":1: expected a mapping with projects and defaults", ""),
        ("a: 1\n---\nb: 2\n", ": more than one YAML document", ""),
        ("projects: [a\ndefaults: {}\n", ":2:", ""),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(
    tmp_path: Path, state: Path, text: str, message: str, hint: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        read(path, {}, str(state))
    assert caught.value.message.startswith(path + message)
    assert hint in caught.value.hint
    assert not state.exists()


# Where it is looked for


def test_the_user_s_own_comes_before_the_machine_s(tmp_path: Path, state: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "own")}
    own, machine = places(environ)
    assert own == f"{tmp_path}/own/rbuild/rbuild.yml"
    assert machine == "/etc/rbuild/rbuild.yml"
    os.makedirs(os.path.dirname(own))
    Path(own).write_text("projects: [a]\n")
    assert read("", environ, str(state)).path == own


def test_the_home_of_the_user_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert places({})[0] == "/home/me/.config/rbuild/rbuild.yml"


def test_none_is_needed_unless_it_was_asked_for(tmp_path: Path, state: Path) -> None:
    assert read("", {"XDG_CONFIG_HOME": str(tmp_path)}, str(state)) == ConfigFile("", (), {})
    with pytest.raises(UsageError, match=r"nope\.yml: no such configuration file"):
        read(f"{tmp_path}/nope.yml", {}, str(state))


# Globs


def test_globs_are_expanded_in_order_and_once(tmp_path: Path) -> None:
    for name in ("b", "a", "c*d", "sub/deep"):
        (tmp_path / name).mkdir(parents=True)
    entries = ("c*d", "?", "a", "**/deep", "no such", "nothing*")
    config = ConfigFile("", tuple(str(tmp_path / one) for one in entries), {})
    projects, empty = expand(config)
    found = [os.path.relpath(one, tmp_path) for one in projects]
    assert [os.path.basename(one) for one in empty] == ["nothing*"]
    # A plain path that isn't there stays, to be complained of.
    assert found == ["c*d", "a", "b", "sub/deep", "no such"]


# The cache

FRESH = """
import os, sys
from rbuild.configfile import read
config = read(sys.argv[1], os.environ, sys.argv[2])
print(len(config.projects), "yaml" in sys.modules)
"""


def fresh_process(path: str, state: Path) -> str:
    argv = [sys.executable, "-c", FRESH, path, str(state)]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def test_the_second_run_reads_no_yaml(tmp_path: Path, state: Path) -> None:
    path = written(tmp_path, TEXT)
    assert fresh_process(path, state) == "4 True"
    assert fresh_process(path, state) == "4 False"
    Path(path).write_text(TEXT.replace("  - wiki\n", ""))
    assert fresh_process(path, state) == "3 True"
    assert fresh_process(path, state) == "3 False"


def test_the_cache_is_private(tmp_path: Path, state: Path) -> None:
    read(written(tmp_path, TEXT), {}, str(state))
    (cache,) = state.iterdir()
    assert cache.stat().st_mode & 0o777 == 0o600
    assert state.stat().st_mode & 0o777 == 0o700


def test_another_file_is_not_taken_from_the_cache(tmp_path: Path, state: Path) -> None:
    (tmp_path / "other").mkdir()
    one, two = written(tmp_path, "projects: [a]\n"), written(tmp_path / "other", "projects: [b]\n")
    os.utime(one, ns=(1, 1))
    os.utime(two, ns=(1, 1))
    for path, name in ((one, f"{tmp_path}/a"), (two, f"{tmp_path}/other/b")) * 2:
        assert read(path, {}, str(state)).projects == (name,)


def test_a_replaced_file_of_the_same_size_and_time_is_read(tmp_path: Path, state: Path) -> None:
    path = written(tmp_path, "projects: [a]\n")
    os.utime(path, ns=(1, 1))
    read(path, {}, str(state))
    (tmp_path / "new").write_text("projects: [b]\n")
    os.utime(tmp_path / "new", ns=(1, 1))
    os.replace(tmp_path / "new", path)
    assert read(path, {}, str(state)).projects == (f"{tmp_path}/b",)


def cache_of(state: Path) -> Path:
    return state / "config-cache.json"


values = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(
    values.map(lambda value: ("all", value))
    | st.tuples(st.sampled_from(["look", "projects", "defaults"]), values)
)
@example(("defaults", []))
@example(("defaults", {"build-period": 5}))
@example(("defaults", {"hooks.on-failure": [[], "x"]}))
@example(("projects", {"a": 1}))
@example(("projects", [1]))
@example(("projects", "abc"))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_broken_cache_costs_nothing_but_time(
    tmp_path: Path, state: Path, broken: tuple[str, object]
) -> None:
    part, value = broken
    path = written(tmp_path, "projects: [a]\n")
    os.utime(path, ns=(1, 1))
    read(path, {}, str(state))
    cache = json.loads(cache_of(state).read_text())
    cache_of(state).write_text(json.dumps(value if part == "all" else {**cache, part: value}))
    found = read(path, {}, str(state))
    assert found.path == path
    assert all(isinstance(one, str) for one in found.projects)
    assert found.defaults == {}
    cache_of(state).unlink()


@pytest.mark.parametrize("content", [b"", b"\xff", b"{", b"[" * 100_000])
def test_a_cache_that_is_no_json(tmp_path: Path, state: Path, content: bytes) -> None:
    path = written(tmp_path, TEXT)
    first = read(path, {}, str(state))
    cache_of(state).write_bytes(content)
    assert read(path, {}, str(state)) == first
    json.loads(cache_of(state).read_text())


def test_a_state_folder_that_cannot_be_written_only_costs_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state").write_text("a file")
    path = written(tmp_path, TEXT)
    loads = []
    real = yamlfile.load
    monkeypatch.setattr(yamlfile, "load", lambda path: (loads.append(path), real(path))[1])
    for _ in range(2):
        assert len(read(path, {}, str(tmp_path / "state")).projects) == 4
    assert len(loads) == 2
