"""inputs.walk against Compose itself: what it opens and looks for, and what its variables do.

Needs the docker command with its Compose plugin, and strace; no engine.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rbuild.compose import inputs, interpolation
from rbuild.compose.inputs import (
    AMBIENT_VARIABLES,
    CHOOSING_VARIABLES,
    COMPOSE_NAMES,
    OVERRIDE_NAMES,
    walk,
)

pytestmark = pytest.mark.versions

OWN = {*AMBIENT_VARIABLES, *CHOOSING_VARIABLES}
TRACED = "openat,open,newfstatat,stat,lstat,statx,access,faccessat,faccessat2"
CALL = re.compile(r'\b(?:%s)\((?:AT_FDCWD, )?"([^"]*)"' % TRACED.replace(",", "|"))  # noqa: UP031
UNSET = re.compile(r'The \\?"(\w+)\\?" variable is not set')


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    for tool in ("docker", "strace"):
        assert shutil.which(tool), f"this test needs {tool} on PATH; tests/run sets it up"
    asked = subprocess.run(["docker", "compose", "version"], capture_output=True, text=True)
    assert asked.returncode == 0, f"this test needs docker's Compose plugin: {asked.stderr}"


def environment(folder: Path, env: Mapping[str, str]) -> dict[str, str]:
    base = {"PATH": os.environ["PATH"], "HOME": "/home/of/nobody", "PWD": str(folder)}
    return {name: value for name, value in (base | dict(env)).items() if value != "(unset)"}


def compose(
    folder: Path, files: Sequence[str] = (), env: Mapping[str, str] | None = None, *before: str
) -> subprocess.CompletedProcess[str]:
    flags = [part for name in files for part in ("-f", name)]
    return subprocess.run(
        [*before, "docker", "compose", *flags, "config", "--format", "json"],
        cwd=folder,
        env=environment(folder, env or {}),
        capture_output=True,
        text=True,
        timeout=60,
    )


def write(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@dataclass(frozen=True)
class Shape:
    """A project in `p/`, started there. `extra`: what walk names though this Compose, with these
    values, doesn't look at it; each entry is explained where it is given."""

    files: Mapping[str, str]
    flags: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    extra: frozenset[str] = frozenset()
    refused: bool = False


A = "services: {a: {image: x}}\n"
SHAPES = {
    "bare": Shape({"p/compose.yaml": A}),
    "last names": Shape(
        {"p/docker-compose.yaml": A, "p/docker-compose.override.yaml": A, "p/.env": "X=1\n"}
    ),
    "all names": Shape(
        {f"p/{name}": A for name in COMPOSE_NAMES + OVERRIDE_NAMES},
    ),
    "flags": Shape(
        {
            "p/sub/one.yml": "services: {a: {image: x, env_file: e.env}}",
            "p/sub/e.env": "A=1",
            "q/two.yml": "services: {a: {env_file: [f.env]}}",
            "p/sub/f.env": "",
            "p/sub/.env": "T=1",
            "p/.env": "no one reads this",
            "p/compose.yaml": A,
        },
        flags=["sub/one.yml", "../q/two.yml"],
    ),
    "COMPOSE_FILE in .env": Shape(
        {
            "p/.env": "COMPOSE_PATH_SEPARATOR=,\nCOMPOSE_FILE=${WHERE:-sub}/one.yml,two.yml",
            "p/sub/one.yml": "services: {a: {image: x, env_file: e.env}}",
            "p/sub/.env": "T=2",
            "p/sub/e.env": "",
            "p/two.yml": A,
            "p/compose.yaml": A,
        }
    ),
    "COMPOSE_FILE in the environment": Shape(
        {"p/one.yml": A, "q/two.yml": A, "p/.env": "T=1", "p/compose.yaml": A},
        env={"COMPOSE_FILE": "one.yml:../q/two.yml"},
    ),
    "COMPOSE_ENV_FILES": Shape(
        {
            "p/compose.yaml": "services: {a: {image: x, env_file: $WHICH.env}}",
            "p/.env": "WHICH=no",
            "p/1.env": "WHICH=ha",
            "q/2.env": "OTHER=1",
            "p/ha.env": "",
        },
        env={"COMPOSE_ENV_FILES": "1.env,../q/2.env"},
    ),
    "no .env wanted": Shape(
        {"p/compose.yaml": A, "p/.env": "A=1"}, env={"COMPOSE_DISABLE_ENV_FILE": "1"}
    ),
    "env files": Shape(
        {
            "p/compose.yaml": """
services:
  a:
    image: x
    env_file:
      - one.env
      - {path: ../q/two.env}
      - {path: three.env, required: false}
      - {path: "${DIR:-deep}/four.env"}
      - ~/five.env
  b: {image: x, env_file: one.env}
""",
            "p/one.env": "A=$B",
            "q/two.env": "",
            "p/deep/four.env": "",
            "home/five.env": "",
        },
        env={"HOME": "{root}/home"},
    ),
    "env file named by the project": Shape(
        {
            "p/compose.yaml": """
name: "My ${N:-pro.ject}"
services: {a: {image: x, env_file: "${COMPOSE_PROJECT_NAME}.env"}}
""",
            "p/myproject.env": "",
        }
    ),
    "extends": Shape(
        {
            "p/compose.yaml": """
services:
  a: {extends: {file: "../q/${F:-b}.yaml", service: b}}
  # No name that the other files have: 2.26 then sees a ring, on some runs and not on others.
  z: {extends: a, env_file: [z.env]}
""",
            "q/b.yaml": """
services:
  b: {extends: {file: deep/c.yaml, service: c}, env_file: b.env}
  unused: {image: x, env_file: absent.env, extends: {file: absent.yaml, service: x}}
""",
            "q/deep/c.yaml": "services: {c: {extends: d, env_file: c.env}, d: {env_file: d.env,"
            " image: x}}",
            "p/z.env": "",
            "q/b.env": "",
            "q/deep/c.env": "",
            "q/deep/d.env": "",
        }
    ),
    "include": Shape(
        {
            "p/compose.yaml": 'include: [../q/i.yaml, {path: "${I:-sub/j.yaml}"}]\n' + A,
            "q/i.yaml": "include: [deep/k.yaml]\nservices: {i: {image: x, env_file: i.env}}",
            "q/i.env": "",
            "q/.env": "K=deep",
            "q/deep/k.yaml": "services: {k: {image: x, env_file: [k.env, $K/no.env]}}",
            "q/deep/k.env": "",
            "q/deep/deep/no.env": "",
            "p/sub/j.yaml": "services: {j: {image: x, extends: {file: e.yaml, service: e}}}",
            "p/sub/e.yaml": "services: {e: {image: x}}",
        }
    ),
    "include, long": Shape(
        {
            "p/compose.yaml": """
include:
  - path: [../q/i.yaml, over.yaml]
    project_directory: ../q/home
    env_file: [i1.env, ../q/i2.env]
  - path: ../r/j.yaml
    project_directory: ../r/home
""",
            "q/i.yaml": "services: {i: {image: x, env_file: i.env}}",
            "p/over.yaml": "services: {i: {env_file: $TWO}}",
            "q/home/i.env": "",
            "q/home/2.env": "",
            "p/i1.env": "ONE=1",
            "q/i2.env": "TWO=2.env",
            "r/j.yaml": "services: {j: {image: x, env_file: j.env}}",
            "r/home/j.env": "",
            "r/home/.env": "",
        },
        # compose-go 2.0 takes a service's paths from beside the file.
        extra=frozenset({"q/i.env", "q/2.env", "r/j.env"}),
    ),
    "label file": Shape(
        {"p/compose.yaml": "services: {a: {image: x, label_file: [l.env]}}", "p/l.env": "A=1"}
    ),
    "documents, anchors, tags": Shape(
        {
            "p/compose.yaml": """\ufeff
x-base: &base {image: x, env_file: base.env}
services: {a: {<<: *base}, b: {<<: *base, env_file: !override [b.env]}}
---
include: [i.yaml]
services: {c: {image: x, environment: !reset [A=1], env_file: [c.env]}}
""",
            "p/base.env": "",
            "p/b.env": "",
            "p/c.env": "",
            "p/i.yaml": "services: {i: {image: x}}",
        }
    ),
    "profiles": Shape(
        {
            "p/compose.yaml": A + "  \n",
            "p/compose.override.yml": """
services:
  on: {image: x, env_file: on.env, profiles: [one]}
  off: {image: x, env_file: off.env, profiles: [two]}
""",
            "p/on.env": "",
            "p/off.env": "",
        },
        env={"COMPOSE_PROFILES": "one"},
        # An inactive service's env file isn't read; naming it is harmless, profiles change.
        extra=frozenset({"p/off.env"}),
    ),
    "missing override flag": Shape(
        {"p/compose.yaml": A}, flags=["compose.yaml", "gone.yaml"], refused=True
    ),
    "missing include": Shape({"p/compose.yaml": "include: [gone.yaml]\n" + A}, refused=True),
    "missing extends": Shape(
        {"p/compose.yaml": "services: {a: {extends: {file: gone.yaml, service: b}}}"},
        refused=True,
    ),
    "missing env file": Shape(
        {"p/compose.yaml": "services: {a: {image: x, env_file: gone.env}}"}, refused=True
    ),
    "include of itself": Shape(
        {"p/compose.yaml": "include: [i.yaml]\n" + A, "p/i.yaml": "include: [compose.yaml]\n"},
        refused=True,
    ),
    "extends in a ring": Shape(
        {
            "p/compose.yaml": "services: {a: {extends: {file: b.yaml, service: b}}}",
            "p/b.yaml": "services: {b: {extends: {file: compose.yaml, service: a}}}",
        },
        refused=True,
    ),
    "no compose file": Shape({"p/.env": "A=1"}, refused=True),
}


@pytest.mark.parametrize("name", SHAPES)
def test_walk_names_what_compose_looks_at(name: str, tmp_path: Path) -> None:
    shape = SHAPES[name]
    write(tmp_path, shape.files)
    env = {key: value.format(root=tmp_path) for key, value in shape.env.items()}
    log = tmp_path / "trace"
    strace = ["strace", "-f", "-qq", "--seccomp-bpf", "-s", "4096", "-e", f"trace={TRACED}"]
    ran = compose(tmp_path / "p", shape.flags, env, *strace, "-o", str(log))
    assert (ran.returncode != 0) == shape.refused, ran.stderr

    looked = {os.path.normpath(tmp_path / "p" / path) for path in CALL.findall(log.read_text())}
    looked = {os.path.relpath(path, tmp_path) for path in looked if Path(path) != tmp_path}
    # Outside the project, and the docker command's own settings in the caller's home.
    looked = {path for path in looked if not path.startswith(("..", "home/."))}
    assert looked, "strace saw nothing"
    found = walk(str(tmp_path / "p"), shape.flags, environment(tmp_path / "p", env))
    named = {os.path.relpath(path, tmp_path) for path in found.paths}

    assert looked - not_decisive(looked, tmp_path, found) <= named
    assert named - looked == shape.extra
    assert set(found.compose_files) <= set(found.paths)


def not_decisive(looked: set[str], root: Path, found: inputs.Inputs) -> set[str]:
    """What Compose looks at that can't change the answer."""
    folders = {path for path in looked if (root / path).is_dir()}
    main = os.path.relpath(found.compose_files[0], root) if found.compose_files else ""
    by_name = main in {f"p/{name}" for name in COMPOSE_NAMES}
    losers: set[str] = set()
    for names in (COMPOSE_NAMES, OVERRIDE_NAMES):
        # The names after the first that exists only cause a warning.
        there = [name for name in names if (root / "p" / name).exists()]
        if there:
            losers.update(f"p/{name}" for name in names[names.index(there[0]) + 1 :])
        if main and not by_name:
            # COMPOSE_FILE in .env: 2.26 looks for the usual names before it has read .env.
            losers.update(f"p/{name}" for name in names)
    # With no file in the folder Compose goes on to its parents; rbuild doesn't want those.
    parents = {name for name in COMPOSE_NAMES + OVERRIDE_NAMES if name in looked}
    # 2.26 looks for .env even where no compose file is, then gives up.
    return folders | losers | parents | {"trace"}


VARIABLES = {
    "p/compose.yaml": """
name: v-${NAME_:-n}
include: [{path: "${PLACE:-i}.yaml"}, {path: j/j.yaml}]
x-note: [$EXTENSION, "$${NOT}", {deeper: {still: "${DEEP}"}}]
services:
  a:
    image: img:${TAG-1}
    command: ["${IF_SET:+yes$INNER_PLUS}", "${FALL:-${BACK:-${LAST}}}", "$$NOT ${MUST:?needed}"]
    environment: [PASSED, "GIVEN=$VALUE", "EMPTY="]
    labels: [NOT_PASSED, "l=${LABEL}"]
    env_file: a.env
    build: {context: ., args: {ARG: null, SET: "1"}}
    extends: {file: e.yaml, service: e}
    secrets: [s]
    volumes: ["~/data:/data"]
  b:
    image: x
    environment: {MAPPED: null, TEXT: "1"}
    build: {context: ., args: [LISTED, ARG2=$VALUE2]}
    deploy: {replicas: "${COUNT:-1}"}
secrets: {s: {file: "./${SECRET}"}}
""",
    "p/i.yaml": "services: {i: {image: i, command: [$INCLUDED]}}",
    "p/j/j.yaml": "services: {j: {image: i, command: [$OF_J_ENV, $COMPOSE_PROJECT_NAME]}}",
    "p/j/.env": "OF_J_ENV=${OF_J_ENV_2}\nOF_J_ENV_3=$OF_J_ENV",
    "p/e.yaml": """
services: {e: {image: e, domainname: $EXTENDED, hostname: "$EXTENDED2"}, f: {image: "$ELSEWHERE"}}
""",
    "p/.env": "VALUE=1\nVALUE2=${DOT_INNER}\nBARE\nB2=$BARE\nDOT3='$NOT'\nVALUE3=$VALUE",
    "p/a.env": "FROM_FILE=${FILE_INNER}\nFILE_BARE\nX='$NOT'\nY=\"$FILE_QUOTED \\$NOT\"\nZ=$Y",
}
SHAPED = {"COUNT": ("2", "3"), "PLACE": ("i", "i2"), "NAME_": ("p", "q"), "HOME": ("/h", "/i"),
          "IF_SET": ("1", "")}  # fmt: skip
"""Variables whose place takes no free text."""
HIDDEN = {
    "ELSEWHERE",  # interpolated in an extended file, in a service that isn't extended
    "BARE",  # only in .env, where nothing uses it
    "LAST",  # behind two defaults that are set
    "BACK",
    "OF_J_ENV_2",  # overridden by OF_J_ENV
    "DOT_INNER",  # overridden by VALUE2
}


def test_every_variable_shows_in_the_output(tmp_path: Path) -> None:
    write(tmp_path, VARIABLES | {"p/i2.yaml": "services: {i: {image: other}}"})
    folder = tmp_path / "p"
    found = walk(str(folder), (), environment(folder, {}))
    names = {variable.name for variable in found.variables} - OWN
    assert {"NOT", "NOT_PASSED", "GIVEN", "SET", "TEXT", "EMPTY"}.isdisjoint(names)

    def rendered(env: Mapping[str, str]) -> str:
        ran = compose(folder, (), env)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    first = {name: SHAPED.get(name, (f"{name.lower()}-1", ""))[0] for name in names}
    base = rendered(first)
    silent = set()
    for name in sorted(names):
        second = SHAPED.get(name, ("", f"{name.lower()}-2"))[1]
        if rendered(first | {name: second}) == base:
            silent.add(name)
    assert silent == HIDDEN
    # The hidden ones show when what hides them is not set.
    uncovered = {"FALL", "VALUE2", "OF_J_ENV", "BACK", "B2"}
    for name, also in (("LAST", uncovered), ("BACK", {"FALL"}), ("OF_J_ENV_2", uncovered),
                       ("DOT_INNER", uncovered)):  # fmt: skip
        env = {key: value for key, value in first.items() if key not in also or key == name}
        assert rendered(env) != rendered(env | {name: "other"}), name


def test_required_variables_are_those_compose_misses(tmp_path: Path) -> None:
    write(tmp_path, VARIABLES)
    folder = tmp_path / "p"
    # Set: what Compose refuses to go without.
    env = {"MUST": "m", "HOME": "/h"}
    ran = compose(folder, (), env)
    assert ran.returncode == 0, ran.stderr
    missed = set(UNSET.findall(ran.stderr))
    found = walk(str(folder), (), environment(folder, env))
    required = {variable.name for variable in found.variables if variable.required}
    # A bare name that is passed on, or that sets a `~`, causes no warning.
    passed_on = {"PASSED", "MAPPED", "ARG", "LISTED", "BARE", "FILE_BARE", "HOME"}
    # Compose's warnings don't tell that a default, `+` or an unextended service hides these.
    not_needed = {"INNER_PLUS", "LAST", "ELSEWHERE"}
    assert required - found.dotenv - passed_on - {"MUST"} == missed - passed_on - not_needed
    assert passed_on | {"MUST"} <= required


def test_interpolation_is_that_of_compose(tmp_path: Path) -> None:
    dice = random.Random(2)
    drawn = ["${U:-{}", "${U:-{}}", "${A:-{}x", '${U:-{"a": [1]}}']
    drawn += [template(dice, 3) for _ in range(400)]
    env = {"A": "a", "B": "", "C": "c c", "A_1": "}{", "longer": "$A"}
    templates = [text for text in drawn if interpolation.expand(text, env) is not None]
    assert len(templates) > 200
    refused = [text for text in drawn if text not in templates]
    alone = ["${", "a ${}", "${1}", "${A:-${ }", "${A B}"]
    assert [interpolation.expand(text, env) for text in alone] == [None] * len(alone)
    for index, text in enumerate(refused[:5] + alone):
        write(tmp_path, {f"r{index}/compose.yaml": json.dumps(
            {"services": {"a": {"image": "x", "labels": [text]}}}
        )})  # fmt: skip
        complaint = "invalid interpolation" if text in alone else "required variable"
        assert complaint in compose(tmp_path / f"r{index}", (), env).stderr, text
    write(tmp_path, {"p/compose.yaml": json.dumps(
        {"services": {"a": {"image": "x", "labels": {f"l{index}": text
                                                     for index, text in enumerate(templates)}}}}
    )})  # fmt: skip
    ran = compose(tmp_path / "p", (), env)
    assert ran.returncode == 0, ran.stderr
    labels = json.loads(ran.stdout)["services"]["a"]["labels"]
    for index, text in enumerate(templates):
        # `config` doubles every `$` again.
        assert labels[f"l{index}"].replace("$$", "$") == interpolation.expand(text, env), text


def template(dice: random.Random, depth: int) -> str:
    parts = []
    for _ in range(dice.randint(1, 3)):
        name = dice.choice(["A", "B", "C", "A_1", "longer", "_unset", "U"])
        kind = dice.randint(0, 5 if depth else 3)
        if kind == 0:
            parts.append(dice.choice(["text", " ", "$$", "$$A", "a-b", "é", ":", "{x}", "\n"]))
        elif kind == 1:
            parts.append(f"${name}" + dice.choice([".", "-", " "]))
        elif kind == 2:
            parts.append(f"${{{name}}}")
        elif kind == 3:
            parts.append(dice.choice(["plain", "10", "/", "$ ", "$1", "$."]))
        else:
            operator = dice.choice(["-", ":-", "+", ":+", "?", ":?"])
            inner = template(dice, depth - 1).replace("\n", "").replace("{x}", "")
            parts.append(f"${{{name}{operator}{inner}}}")
    return "".join(parts)


ENV_FILE = r"""
# a comment
PLAIN=value
  INDENTED =  spaced value   # comment
NO_COMMENT=a#b
export EXPORTED=1
YAML: style
EMPTY=
QUOTED="two words" # comment
SINGLE='raw $PLAIN \n $$'
DOUBLE="a\tb\n\"c\" \\ ${PLAIN:-x}"
KEPT="\$PLAIN"
MULTI="first
second # no comment
third"
AFTER=$MULTI
SINGLE_MULTI='x
y'
ESCAPED='it\'s'
FROM_ENV=${OUTER}-$PLAIN
OUTER=mine
AGAIN=$OUTER
DEFAULT=${UNSET:-d}${UNSET-e}${PLAIN:+f}
JSON={"a": 1}
dotted.name=1
EQUALS=a=b=c
WINDOWS=x
BARE_SET
BARE_UNSET
LAST=end
"""


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_env_files_are_read_as_compose_reads_them(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "p" / "a.env"
    write(tmp_path, {"p/compose.yaml": "services: {a: {image: x, env_file: a.env}}"})
    path.write_bytes(b"\xef\xbb\xbf" + ENV_FILE.replace("\n", ending).encode())
    env = {"OUTER": "outer", "BARE_SET": "b"}
    ran = compose(tmp_path / "p", (), env)
    assert ran.returncode == 0, ran.stderr
    rendered = json.loads(ran.stdout)["services"]["a"]["environment"]
    wanted = {name: value.replace("$$", "$") for name, value in rendered.items()}
    found = inputs._Walk().env_files([str(path)], inputs._Scope((), env))
    assert {name: value.replace("\r\n", "\n") for name, value in wanted.items()} == found


def test_pwd_is_the_folders(tmp_path: Path) -> None:
    # Why walk's caller sets PWD: with the shell's own, it would be one variable more.
    write(tmp_path, {"p/compose.yaml": "services: {a: {image: x, env_file: $PWD/a.env}}"})
    write(tmp_path, {"p/a.env": ""})
    found = walk(str(tmp_path / "p"), (), environment(tmp_path / "p", {}))
    assert str(tmp_path / "p" / "a.env") in found.paths
    assert compose(tmp_path / "p").returncode == 0
