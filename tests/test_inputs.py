"""inputs.walk by example and by property; engine/test_inputs_oracle.py asks Compose itself."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from rbuild.compose import envfile, inputs
from rbuild.compose.inputs import Inputs, walk
from rbuild.compose.interpolation import expand, mentions


def walked(
    root: Path, files: Mapping[str, str], *flags: str, env: Mapping[str, str] | None = None
) -> Inputs:
    """Writes `files` below `root` and walks the project in its `p/`."""
    (root / "p").mkdir(exist_ok=True)
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return walk(str(root / "p"), flags, env or {})


def named(root: Path, found: Inputs) -> list[str]:
    return [os.path.relpath(path, root) for path in found.paths]


def used(found: Inputs) -> dict[str, bool]:
    """Name → required, of the variables that the files use."""
    return {entry.name: entry.required for entry in found.variables if entry.where}


def variables(root: Path, text: str, **files: str) -> dict[str, bool]:
    extra = {f"p/{name.replace('_', '.')}": content for name, content in files.items()}
    return used(walked(root, {"p/compose.yaml": text} | extra))


# Which files


def test_bare_folder_names_all_that_could_appear(tmp_path: Path) -> None:
    found = walked(tmp_path, {"p/compose.yml": "services: {a: {image: x}}"})
    assert found.compose_files == (str(tmp_path / "p/compose.yml"),)
    assert sorted(named(tmp_path, found)) == [
        "p/.env",
        "p/compose.override.yaml",
        "p/compose.override.yml",
        "p/compose.yaml",
        "p/compose.yml",
        "p/docker-compose.override.yaml",
        "p/docker-compose.override.yml",
    ]


def test_folder_without_a_compose_file_ignores_its_parents(tmp_path: Path) -> None:
    found = walked(tmp_path, {"compose.yaml": "services: {}"})
    assert found.compose_files == ()
    assert set(named(tmp_path, found)) == {f"p/{name}" for name in (*inputs.COMPOSE_NAMES, ".env")}


def test_override_of_another_name_belongs_to_any_compose_file(tmp_path: Path) -> None:
    found = walked(
        tmp_path, {"p/compose.yaml": "", "p/docker-compose.override.yml": "x-a: $FROM_OVERRIDE"}
    )
    assert len(found.compose_files) == 2
    assert used(found) == {"FROM_OVERRIDE": True}


def test_flags_turn_the_override_off_and_move_the_env_file(tmp_path: Path) -> None:
    found = walked(
        tmp_path, {"p/s/c.yml": "x-a: $A", "p/s/.env": "A=1", "p/.env": "B=1"}, "s/c.yml", "gone"
    )
    assert named(tmp_path, found) == ["p/s/.env", "p/s/c.yml", "p/gone"]
    assert found.dotenv == {"A"}


def test_compose_file_variable(tmp_path: Path) -> None:
    files = {"p/a.yml": "", "q/b.yml": "", "p/compose.yaml": "", "p/.env": "COMPOSE_FILE=a.yml"}
    found = walked(tmp_path, files)
    assert found.compose_files == (str(tmp_path / "p/a.yml"),)
    found = walked(tmp_path, files, env={"COMPOSE_FILE": "../q/b.yml|a.yml",
                                         "COMPOSE_PATH_SEPARATOR": "|"})  # fmt: skip
    assert found.compose_files == (str(tmp_path / "q/b.yml"), str(tmp_path / "p/a.yml"))
    assert {"p/.env", "q/.env"} <= set(named(tmp_path, found))
    assert walked(tmp_path, files, env={"COMPOSE_FILE": ""}).compose_files == ()


def test_env_files_of_the_environment(tmp_path: Path) -> None:
    files = {"p/compose.yaml": "x-a: $A", "p/.env": "A=1", "p/o.env": "B=1"}
    found = walked(tmp_path, files, env={"COMPOSE_ENV_FILES": "o.env,gone.env"})
    assert found.dotenv == {"B"}
    assert {"p/o.env", "p/gone.env"} <= set(named(tmp_path, found))
    assert "p/.env" not in named(tmp_path, found)
    found = walked(tmp_path, files, env={"COMPOSE_DISABLE_ENV_FILE": "true"})
    assert found.dotenv == frozenset()
    assert "p/.env" not in named(tmp_path, found)


def test_environment_wins_over_env_file_in_paths(tmp_path: Path) -> None:
    files = {"p/compose.yaml": "include: [$A.yaml]", "p/.env": "A=one\nB=${A}"}
    assert "p/one.yaml" in named(tmp_path, walked(tmp_path, files))
    assert "p/two.yaml" in named(tmp_path, walked(tmp_path, files, env={"A": "two"}))


def test_remote_files_are_noted_and_not_walked(tmp_path: Path) -> None:
    remotes = (
        "oci://docker.io/x/y:1",
        "https://github.com/x/y.git#v1:sub",
        "git@github.com:x/y.git",
        "github.com/x/y",
    )
    found = walked(
        tmp_path,
        {
            "p/compose.yaml": f"include: [{', '.join(repr(name) for name in remotes[1:])}]\n"
            f"services: {{a: {{extends: {{file: '{remotes[0]}', service: b}}}}}}",
        },
    )
    assert set(found.remote) == set(remotes)
    assert len(found.paths) == 6


def test_pipes_and_folders_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    os.mkfifo(tmp_path / "p" / "pipe")
    (tmp_path / "p" / ".env").mkdir()
    text = "include: [pipe]\nservices: {a: {image: x, env_file: [pipe, .]}}"
    found = walked(tmp_path, {"p/compose.yaml": text})
    assert "p/pipe" in named(tmp_path, found)


def test_broken_yaml_says_where_wherever_it_is(tmp_path: Path) -> None:
    for text in (
        "include: [bad.yaml]",
        "services: {a: {extends: {file: bad.yaml, service: b}}}",
        "a: 1\nb: [",
    ):
        found = walked(tmp_path, {"p/compose.yaml": text, "p/bad.yaml": "a: 1\nb: ["})
        ((path, what),) = found.unread.items()
        assert re.match(rf"{re.escape(path)}:[23]:\d+: ", what)
        # It is an input all the same.
        assert path in found.paths
        assert path in found.compose_files


def test_what_else_is_there_is_followed_beside_a_broken_file(tmp_path: Path) -> None:
    files = {"p/compose.yaml": "include: [bad.yaml, good.yaml]\nservices: {a: {image: $A}}",
             "p/bad.yaml": "[", "p/good.yaml": "services: {b: {image: $B}}"}  # fmt: skip
    found = walked(tmp_path, files)
    assert {*found.unread} == {str(tmp_path / "p/bad.yaml")}
    assert used(found) == {"A": True, "B": True}
    assert [one.path for one in found.documents] == [
        str(tmp_path / "p/compose.yaml"), str(tmp_path / "p/good.yaml")
    ]  # fmt: skip


def test_include_rings_and_crowds_end(tmp_path: Path) -> None:
    ring = {f"p/{i}.yaml": f"include: [{(i + 1) % 5}.yaml, {i}.yaml]" for i in range(5)}
    found = walked(tmp_path, ring, "0.yaml")
    assert len(found.compose_files) == 5
    # Each file twice: looked at once, not 2 to the 20 times.
    twice = {f"p/{i}.yaml": f"include: [{i + 1}.yaml, {i + 1}.yaml]" for i in range(20)}
    assert len(walked(tmp_path, twice, "0.yaml").compose_files) == 21
    grow = {"p/x.yaml": f"include: [{{path: '{tmp_path}/p/x.yaml', project_directory: d}}]"}
    assert walked(tmp_path, grow, "x.yaml").compose_files == (str(tmp_path / "p/x.yaml"),)
    # Ten files that each include all the others, each time in a new folder: ten factorial ways.
    crowd = {
        f"p/{i}.yaml": "include:\n"
        + "".join(
            f"  - {{path: '{tmp_path}/p/{j}.yaml', project_directory: d{j}}}\n" for j in range(10)
        )
        for i in range(10)
    }
    found = walked(tmp_path, crowd, "0.yaml")
    assert all("more than 1000 includes" in what for what in found.unread.values())
    assert found.unread


def test_endless_extends_are_unread_or_end(tmp_path: Path) -> None:
    services = "".join(f"  s{i}: {{extends: s{i + 1}}}\n" for i in range(2000))
    found = walked(tmp_path, {"p/compose.yaml": f"services:\n{services}"})
    assert ["too deep" in what for what in found.unread.values()] == [True]
    services = "".join(f"  s{i}: {{extends: s{(i + 1) % 9}, env_file: e}}\n" for i in range(9))
    assert "p/e" in named(tmp_path, walked(tmp_path, {"p/compose.yaml": f"services:\n{services}"}))


def test_a_thousand_services_may_share_a_base(tmp_path: Path) -> None:
    services = "".join(f"  s{i}: {{extends: {{file: b.yaml, service: b}}}}\n" for i in range(1500))
    files = {"p/compose.yaml": f"services:\n{services}", "p/b.yaml": "services: {b: {image: $B}}"}
    assert used(walked(tmp_path, files)) == {"B": True}


# Which variables


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("$A ${B}", {"A": True, "B": True}),
        ("${A:-x} ${B-x}", {"A": False, "B": False}),
        ("${A:+x} ${B+x}", {"A": False, "B": False}),
        ("${A:?x} ${B?x}", {"A": True, "B": True}),
        ("${A:-${B}} ${C-${D:-$E}}", dict.fromkeys("ABCDE", False)),
        ("${A:+$B} ${C:?$D}", {"A": False, "B": False, "C": True, "D": False}),
        ("${A:-${B:?why}}", {"A": False, "B": True}),
        ("$$A $${B} $$$C", {"C": True}),
        ("${A:-{}}$B", {"A": False, "B": True}),
        ("$1 $ ${ ${} ${-x} $-", {}),
        ("x$A_1-$B.c", {"A_1": True, "B": True}),
        ("${A:-a\nb}", {"A": False}),
        ("no variables", {}),
    ],
)
def test_mentions(text: str, wanted: dict[str, bool]) -> None:
    assert dict(mentions(text)) == wanted


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$A-${EMPTY}-$GONE", "a--"),
        ("${GONE:-d}${EMPTY:-d}${EMPTY-d}${A:-d}", "dda"),
        ("${GONE+x}${EMPTY+x}${EMPTY:+x}${A:+x}", "xx"),
        ("${A:?no}${EMPTY?no}", "a"),
        ("${EMPTY:?no}", None),
        ("${GONE?no}", None),
        ("${A:-${GONE?no}}", None),
        ("${GONE:-${EMPTY:-$A}}/$$A", "a/$A"),
        ("${GONE:-{}}", "{}"),
        ("${GONE:-{}", "{"),
        ("a $ b$1$", "a $ b$1$"),
        ("${" * 60, None),
        ("${A:-" * 60 + "}" * 60, None),
    ],
)
def test_expand(text: str, value: str | None) -> None:
    assert expand(text, {"A": "a", "EMPTY": ""}) == value


TEMPLATES = st.lists(
    st.sampled_from(["$", "{", "}", "A", "B", "_1", ":-", "-", "+", ":?", "?", "$A", "${B", " "])
).map("".join)


@given(TEMPLATES, st.dictionaries(st.sampled_from(["A", "B", "A_1", "AB"]), st.sampled_from("xy")))
@example("$A_1 ${AB}", {"A_1": "x"})
def test_only_what_is_mentioned_matters(text: str, env: dict[str, str]) -> None:
    names = dict(mentions(text))
    expanded = expand(text, env)
    assert expand(text, {name: env[name] for name in env if name in names}) == expanded
    everything = dict.fromkeys(names, "set")
    for name, required in mentions(text):
        if required:
            # What must be set changes the result once it isn't, if there is one.
            without = {key: value for key, value in everything.items() if key != name}
            whole = expand(text, everything)
            assert whole is None or expand(text, without) != whole


@given(st.text(st.characters(exclude_characters="$")))
def test_text_without_a_dollar_stands_for_itself(text: str) -> None:
    assert expand(text, {}) == text
    assert expand(text.replace("~", "$$"), {}) == text.replace("~", "$")


def test_passed_on_names(tmp_path: Path) -> None:
    assert variables(
        tmp_path,
        """
services:
  a:
    environment: [A, B=1, "$C", "D="]
    build: {args: {E: null, F: "", G: 0}}
    labels: [NO]
  b: {environment: {H: null}, build: {args: [I]}, labels: {NO: null}}
secrets: {s: {environment: J}}
configs: {c: {environment: "${K:-L}"}}
""",
    ) == {
        "A": True, "C": True, "E": True, "H": True, "I": True, "J": True, "K": False, "L": True,
    }  # fmt: skip


def test_env_files_read_and_pass_on(tmp_path: Path) -> None:
    found = walked(
        tmp_path,
        {
            "p/compose.yaml": """
services:
  a: {env_file: [one.env, two.env]}
  b: {env_file: [{path: raw.env, format: raw}]}
  c: {env_file: two.env, label_file: l.env}
""",
            "p/one.env": "A=$B\nC='$NO'\nD=\"\\$NO $E\"\nG=1",
            "p/two.env": "F=${A}${G}\nH",
            "p/raw.env": "I=$NO\nJ",
            "p/l.env": "l=$NO",
        },
    )
    # A and G come from one.env for `a`, yet `c` has only the environment for them.
    assert used(found) == dict.fromkeys(["A", "B", "E", "G", "H", "J"], True)
    places = {entry.name: entry.where for entry in found.variables}
    assert places["E"] == f"{tmp_path}/p/one.env:3"
    assert places["G"] == f"{tmp_path}/p/two.env:1"


def test_a_name_defined_above_in_an_env_file_is_not_required(tmp_path: Path) -> None:
    assert variables(
        tmp_path,
        "services: {a: {env_file: [x.env, y.env]}}",
        x_env="A=1\nB=$A\nD=1",
        y_env="C=$B\nD",
    ) == {"A": False, "B": False, "D": False}


def test_dotenv_reads_variables(tmp_path: Path) -> None:
    found = walked(tmp_path, {"p/compose.yaml": "x-a: $A", "p/.env": "A=$B\nC=$A\nD"})
    assert used(found) == {"A": True, "B": True, "D": True}
    assert found.dotenv == {"A", "C"}
    assert walked(tmp_path, {}, env={"D": "1"}).dotenv == {"A", "C", "D"}


def test_an_includes_env_file_stands_in_for_its_names(tmp_path: Path) -> None:
    files = {
        "p/compose.yaml": "include: [../q/i.yaml]",
        "q/i.yaml": "include: [r/j.yaml]\nx-a: [$A, $B]",
        "q/.env": "A=1",
        "q/r/j.yaml": "x-b: [$A, $C]",
        "q/r/.env": "C=$A$D",
    }
    assert used(walked(tmp_path, files)) == {"A": False, "B": True, "C": False, "D": True}
    files["q/i.yaml"] += "\nservices: {a: {env_file: $A.env}}"
    assert "q/1.env" in named(tmp_path, walked(tmp_path, files))
    assert "q/2.env" in named(tmp_path, walked(tmp_path, files, env={"A": "2"}))
    files["p/compose.yaml"] += "\nx-a: $A"
    assert used(walked(tmp_path, files))["A"] is True


def test_extended_file_binds_only_the_services_chain(tmp_path: Path) -> None:
    found = walked(
        tmp_path,
        {
            "p/compose.yaml": "services: {a: {extends: {file: e.yaml, service: '${S:-b}'}}}",
            "p/e.yaml": """
x-a: $TOP
services: {b: {extends: c, image: $B}, c: {environment: [C]}, d: {image: $D, environment: [E]}}
""",
        },
    )
    assert used(found) == {"S": False, "TOP": False, "B": True, "C": True, "D": False}


def test_home_counts_where_a_path_starts_there(tmp_path: Path) -> None:
    assert variables(tmp_path, "services: {a: {volumes: ['~/a:/b']}}") == {"HOME": True}
    assert variables(tmp_path, "secrets: {a: {file: '${X:-~/s}'}}") == {"X": False, "HOME": True}
    assert variables(tmp_path, "services: {a: {command: ~/run, volumes: ['a~b:/c']}}") == {}
    found = walked(
        tmp_path, {"p/compose.yaml": "services: {a: {env_file: ~/e}}"}, env={"HOME": "/h"}
    )
    assert "/h/e" in found.paths


def test_first_use_that_requires_is_where(tmp_path: Path) -> None:
    found = walked(tmp_path, {"p/compose.yaml": "x-a: ${A:-1}\nx-b: $A\nx-c: $A"})
    [entry] = [entry for entry in found.variables if entry.name == "A"]
    assert (entry.required, entry.where) == (True, f"{tmp_path}/p/compose.yaml:2")


def test_composes_own_variables_are_always_there_and_never_required(tmp_path: Path) -> None:
    found = walked(tmp_path, {"p/compose.yaml": "x-a: [$COMPOSE_PROJECT_NAME]"})
    own = {entry.name for entry in found.variables if not entry.required}
    assert own == {*inputs.AMBIENT_VARIABLES, *inputs.CHOOSING_VARIABLES}
    flagged = walked(tmp_path, {}, "compose.yaml")
    assert {entry.name for entry in flagged.variables} == set(inputs.AMBIENT_VARIABLES)


def test_project_name_in_paths(tmp_path: Path) -> None:
    text = "services: {a: {env_file: $COMPOSE_PROJECT_NAME.env}}"
    files = {"p/compose.yaml": text}
    assert "p/p.env" in named(tmp_path, walked(tmp_path, files))
    files["p/compose.yaml"] = text + "\nname: My-$X.Name"
    assert "p/my-1name.env" in named(tmp_path, walked(tmp_path, files, env={"X": "1"}))
    env = {"COMPOSE_PROJECT_NAME": "own"}
    assert "p/own.env" in named(tmp_path, walked(tmp_path, files, env=env))


# Anything else


KEYS = [
    "services", "include", "extends", "file", "service", "env_file", "path", "environment",
    "build", "args", "secrets", "configs", "label_file", "project_directory", "a", "name", "<<",
]  # fmt: skip
VALUES = st.recursive(
    st.sampled_from([None, 1, True, "a", "$A", "${B?}", "c.yaml", "compose.yaml", "~/x", ".", ""]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=20,
)


def test_no_shape_of_file_is_too_odd(tmp_path_factory: Any) -> None:
    root = tmp_path_factory.mktemp("odd")

    @given(VALUES, VALUES, st.booleans())
    @example({"services": {"a": {"extends": {"file": "c.yaml", "service": "a"}}}}, {}, True)
    def check(first: object, second: object, home: bool) -> None:
        files = {"p/compose.yaml": yaml.safe_dump(first), "p/c.yaml": yaml.safe_dump(second)}
        found = walked(root, files, env={"HOME": "/h"} if home else {})
        assert set(found.compose_files) <= set(found.paths)
        assert all(os.path.isabs(path) for path in found.paths)
        assert len({entry.name for entry in found.variables}) == len(found.variables)

    check()


@given(
    st.text() | st.lists(st.sampled_from([*"AB=: '\"\\\n#$", "export "]), max_size=30).map("".join)
)
def test_any_env_file_is_read_to_an_end(text: str) -> None:
    lines = [setting.line for setting in envfile.assignments(text)]
    assert lines == sorted(lines)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines)


@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]{0,5}", fullmatch=True).filter(
            lambda name: name != "export"
        ),
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="'\\\r")),
        max_size=5,
    )
)
def test_single_quoted_values_are_kept_as_they_are(values: dict[str, str]) -> None:
    text = "".join(f"{name}='{value}'\n" for name, value in values.items())
    found = {setting.name: setting.value for setting in envfile.assignments(text)}
    assert found == values
