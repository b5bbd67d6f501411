"""Each Dockerfile here is shown to a real BuildKit: what it asks for must be what we tell.

BuildKit's progress names every image whose metadata it loads (stages that the target doesn't
reach are left alone) and every additional context that it opens. All images are tags of one base,
so nothing is pulled. What newer and older engines read differently is in tests/test_dockerfile.py.
"""

from __future__ import annotations

import json
import os
import platform as machine
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rbuild.compose.dockerfile import Bases, images
from rbuild.errors import InputError

pytestmark = pytest.mark.versions

TAGS = ("rbt/a", "rbt/b", "rbt/c", "rbt/d", "rbt/a:2", "rbt/a:x86", "rbt/a-z", "rbt-lib", "0")
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine.machine(), machine.machine())
HERE = f"linux/{ARCH}"
# With the containerd store, engine 26.1 looks elsewhere now and then for an image that has several
# names; by then it has asked for all.
LOST = "failed to load cache key: failed to do request"


@dataclass(frozen=True)
class Case:
    text: str
    images: str = ""  # what BuildKit must be seen to ask for, short names, sorted
    contexts: str = ""
    target: str = ""
    args: dict[str, str] = field(default_factory=dict)
    given: tuple[str, ...] = ()  # additional contexts: folders
    refused: bool = False


def wrong(text: str, **more: object) -> Case:
    return Case(text, refused=True, **more)  # type: ignore[arg-type]


CASES = {
    "one": Case("FROM rbt/a\n", "rbt/a"),
    "lower-case, tabs, blank lines": Case("\n\t\n  from\trbt/a\t as\tx \n", "rbt/a"),
    "unreached stage": Case("FROM rbt/a AS x\nFROM rbt/b AS y\nFROM x\n", "rbt/a"),
    "target": Case("FROM rbt/a AS x\nFROM rbt/b\n", "rbt/a", target="x"),
    "target in another case": Case("FROM rbt/a AS Xy\nFROM rbt/b\n", "rbt/a", target="xY"),
    "target by number": wrong("FROM rbt/a\nFROM rbt/b\n", target="0"),
    "unknown target": wrong("FROM rbt/a AS x\n", target="y"),
    "the same name twice": Case("FROM rbt/a AS x\nFROM rbt/b AS x\nFROM x\n", "rbt/b"),
    "a stage named as its image": Case("FROM rbt-lib AS rbt-lib\nFROM rbt-lib\n", "rbt-lib"),
    "name in capitals, asked in small": Case("FROM rbt/a AS X\nFROM x\n", "rbt/a"),
    "FROM in capitals is no stage": wrong("FROM rbt/a AS x\nFROM X\n"),
    "COPY in capitals is": Case(
        "FROM rbt/a AS x\nFROM rbt/b\nCOPY --from=X /bin /x\n", "rbt/a rbt/b"
    ),
    "COPY from a number": Case(
        "FROM rbt/a\nFROM rbt/b\nFROM rbt/c\nCOPY --from=0 /bin /x\n", "rbt/a rbt/c"
    ),
    "COPY from +1 and 01": Case(
        "FROM rbt/a\nFROM rbt/b\nFROM rbt/c\nCOPY --from=+1 /bin /x\nCOPY --from=00 /bin /y\n",
        "rbt/a rbt/b rbt/c",
    ),
    "COPY from a number too high": wrong("FROM rbt/a\nCOPY --from=4 /bin /x\n"),
    "COPY from the images counted in": Case(
        "FROM rbt/a\nCOPY --from=rbt/b /bin /x\nCOPY --from=1 /bin /y\n", "rbt/a rbt/b"
    ),
    "COPY from itself": wrong("FROM rbt/a AS x\nCOPY --from=x /bin /y\n"),
    "COPY from a later stage": wrong(
        "FROM rbt/a AS x\nCOPY --from=y /bin /x\nFROM rbt/b AS y\nFROM x\n"
    ),
    "mount from 0 is an image": Case("FROM rbt/a\nRUN --mount=from=0,target=/m true\n", "0 rbt/a"),
    "COPY from an image, flags around": Case(
        "FROM scratch\nCOPY --link --from=rbt/a:2 --chown=1:1 /bin /x\n", "rbt/a:2"
    ),
    "COPY as JSON": Case('FROM scratch\nCOPY --from=rbt/b ["/bin", "/x"]\n', "rbt/b"),
    "COPY from in quotes": Case('FROM scratch\nCOPY --from="rbt/b" /bin /x\n', "rbt/b"),
    "COPY from a variable": wrong("ARG X=rbt/a\nFROM rbt/a\nARG X\nCOPY --from=$X /bin /x\n"),
    "mount from a variable": wrong(
        "ARG X=rbt/a\nFROM rbt/a\nARG X\nRUN --mount=from=$X,target=/m true\n"
    ),
    "such a COPY in an unreached stage": wrong(
        "ARG X=rbt/a\nFROM rbt/a\nCOPY --from=${X} /bin /x\nFROM rbt/b\n"
    ),
    "COPY from scratch": Case("FROM rbt/a\nCOPY --from=scratch . /x\n", "rbt/a"),
    "mounts": Case(
        "FROM rbt/a AS x\nFROM rbt/b\n"
        "RUN --network=none --mount=type=bind,from=X,target=/m,source=/bin "
        "--mount=type=cache,target=/c --mount=target=/n,FROM=rbt/c,rw true\n",
        "rbt/a rbt/b rbt/c",
    ),
    "mounts in quotes": Case(
        'FROM rbt/b\nRUN --mount="type=bind,from=rbt/c,target=/m" '
        '--mount=\\"from=rbt/d\\",target=/n true\n',
        "rbt/b rbt/c rbt/d",
    ),
    "mount and JSON": Case(
        'FROM rbt/b\nRUN --mount=from=rbt/c,target=/m ["true"]\n', "rbt/b rbt/c"
    ),
    "cache mount from an image": Case(
        "FROM rbt/b\nRUN --mount=type=cache,from=rbt/c,source=/bin,target=/m true\n", "rbt/b rbt/c"
    ),
    "no flag after the command": Case(
        "FROM rbt/b\nRUN true --mount=type=bind,from=rbt/c,target=/m\n", "rbt/b"
    ),
    "ARG": Case("ARG V=2\nFROM rbt/a:$V\n", "rbt/a:2"),
    "ARG overridden": Case("ARG V=1\nFROM rbt/a:$V\n", "rbt/a:2", args={"V": "2"}),
    "ARG without default": Case("ARG V\nFROM rbt/a:${V}\n", "rbt/a:2", args={"V": "2"}),
    "ARG not given": wrong("ARG V\nFROM $V\n"),
    "ARG not declared": wrong("FROM rbt/a:$V\n", args={"V": "2"}),
    "ARG of a stage": Case("ARG V=2\nFROM rbt/b\nARG V=x86\nFROM rbt/a:$V\n", "rbt/a:2"),
    "ARG inside a stage only": wrong("FROM rbt/b\nARG V=2\nFROM $V\n"),
    "ARG chained, several at once": Case(
        'ARG N=a T="$N"\nARG T=${T:+2}\nFROM rbt/$N:${T}\n', "rbt/a:2"
    ),
    "ARG in quotes": Case('ARG A=\'rbt/a\' B="$A:2"\nFROM "$B"\n', "rbt/a:2"),
    "single quotes don't expand": wrong("ARG A=a\nFROM rbt/'$A'\n"),
    "escaped dollar": wrong("ARG A=a\nFROM rbt/\\$A\n"),
    ":- and -": Case(
        "ARG E=\nFROM ${E:-rbt/a} AS x\nFROM ${NO-rbt/b}\nCOPY --from=x /bin /x\n", "rbt/a rbt/b"
    ),
    "- of an empty value": wrong("ARG E=\nFROM ${E-rbt/a}\n"),
    ":+ and +": Case(
        "ARG E= F=1\nFROM rbt/a${E:+nothing}${E+:2} AS x\n"
        "FROM rbt/b${NO+no}${NO:+no}\nCOPY --from=x /bin /x\n",
        "rbt/a:2 rbt/b",
    ),
    ":? met": Case("ARG F=rbt/a\nFROM ${F:?}\n", "rbt/a"),
    ":? not met": wrong("FROM ${NO:?say so}\n"),
    "nested": Case('ARG E=\nFROM ${E:-${NO:-"rbt/${NO:-a}"}}\n', "rbt/a"),
    "# and ##": Case(
        "ARG P=x/y/rbt/a\nFROM ${P#*/*/} AS x\nFROM rbt/${P##*/}:2\nCOPY --from=x /bin /x\n",
        "rbt/a rbt/a:2",
    ),
    "% and %%": Case(
        "ARG P=rbt/a-z-y\nFROM ${P%-*} AS x\nFROM ${P%%-*}\nCOPY --from=x /bin /x\n",
        "rbt/a rbt/a-z",
    ),
    "/": Case("ARG P=rbt/b/b\nFROM ${P/b\\/b/b}\n", "rbt/b"),
    "//": Case("ARG P=xrbt/axx\nFROM ${P//x/}\n", "rbt/a"),
    "? in a pattern": Case("ARG P=12rbt/a\nFROM ${P#??}\n", "rbt/a"),
    "escaped star": Case("ARG P=*rbt/a\nFROM ${P#\\*}\n", "rbt/a"),
    "bad substitution": wrong("FROM rbt/a:${:-2}\n"),
    "no closing brace": wrong("FROM rbt/a:${V\n"),
    "unknown modifier": wrong("ARG V=2\nFROM rbt/a:${V^}\n"),
    "a platform's words": Case(
        f"FROM rbt/a:${{TARGETARCH/{ARCH}/x86}} AS x\nFROM rbt/b\nCOPY --from=x /bin /x\n",
        "rbt/a:x86 rbt/b",
    ),
    "a platform's word overridden": Case(
        "FROM rbt/a:$TARGETOS\n", "rbt/a:2", args={"TARGETOS": "2"}
    ),
    "BUILDPLATFORM": Case("FROM --platform=$BUILDPLATFORM rbt/a\n", "rbt/a"),
    "empty platform": wrong("FROM --platform=$NO rbt/a\n"),
    "proxies aren't predefined for FROM": Case(
        "FROM rbt/a${HTTP_PROXY:+:2}\n", "rbt/a", args={"HTTP_PROXY": "x"}
    ),
    "heredocs": Case(
        "FROM rbt/a\nCOPY <<one <<-'two' /x/\nFROM rbt/b\none\n\ttwo \n\tFROM y\n"
        "\t\ttwo\nFROM rbt/c\nCOPY --from=0 /x /x\n",
        "rbt/a rbt/c",
    ),
    "heredoc of RUN": Case(
        'FROM rbt/a\nRUN cat <<"E F" >/x\nFROM rbt/b\nEF\nE F\nRUN <<EOF\n'
        "COPY --from=rbt/c\nEOF\n".replace("COPY", ": COPY"),
        "rbt/a",
    ),
    "heredoc without an end": wrong("FROM rbt/a\nRUN <<EOF\ntrue\n"),
    "no heredoc in JSON": Case('FROM rbt/a\nCOPY --from=rbt/b ["/bin", "/<<x"]\n', "rbt/a rbt/b"),
    "no heredoc in other instructions": Case("FROM rbt/a\nLABEL x=<<EOF\nFROM rbt/b\n", "rbt/b"),
    "here-string": Case("FROM rbt/a AS x\nRUN : || cat <<<EOF || :\nFROM rbt/b\n", "rbt/b"),
    "no heredoc inside a word": Case("FROM rbt/a AS x\nRUN : $((1<<2))\nFROM rbt/b\n", "rbt/b"),
    "no heredoc behind an open quote": Case(
        "FROM rbt/a AS x\nRUN : it's <<EOF\nFROM rbt/b\n", "rbt/b"
    ),
    "heredoc in a default": Case("FROM rbt/a\nRUN exit; : ${X:-a <<E}\nFROM rbt/b\nE}\n", "rbt/a"),
    "single quotes know no escape": Case("ARG A='\\' B=2\nFROM rbt/a:$B\n", "rbt/a:2"),
    "ONBUILD heredoc": Case("FROM rbt/a\nONBUILD COPY <<E /x\nFROM rbt/b\nE\n", "rbt/a"),
    "continuation with comments": Case(
        "FROM \\\n# a comment \\\n\n   # more\n  rbt/a \\ \n AS x\nFROM rbt/b\n\n", "rbt/b"
    ),
    "continuation inside a word": Case("FROM rbt/\\\na\n", "rbt/a"),
    "escaped escape": wrong("FROM rbt/a\\\\\n AS x\n"),
    "comments": Case("# FROM rbt/b\n  # x\nFROM rbt/a\n#RUN \\\nLABEL a=b\n", "rbt/a"),
    "no comment behind an instruction": wrong("FROM rbt/a # base\n"),
    "escape directive": Case(
        "# escape=`\nFROM rbt/a `\n AS x\nFROM rbt/b\nLABEL a=c:\\\n", "rbt/b"
    ),
    "escape too late": wrong("#\n# escape=`\nFROM `\nrbt/a\n"),
    "escape twice": wrong("# escape=`\n# escape=`\nFROM rbt/a\n"),
    "unknown escape": wrong("# escape=x\nFROM rbt/a\n"),
    "check directive": Case("# check=skip=all\nFROM rbt/a\n", "rbt/a"),
    "BOM and CRLF": Case(
        "\ufeffFROM rbt/a AS x\r\nFROM \\\r\n x\r\nCOPY <<E /x\r\nFROM y\r\nE\r\n", "rbt/a"
    ),
    "no new line at the end": Case("FROM rbt/a", "rbt/a"),
    "scratch": Case("FROM scratch\nCOPY <<E /x\nE\n"),
    "nothing": wrong("# nothing\n"),
    # Never shown here: a file with ARG and no FROM (the whole engine 26.1 dies of it), and ${X#}
    # without a pattern (would too, going by its source).
    "RUN before FROM": wrong("RUN true\nFROM rbt/a\n"),
    "FROM without a name": wrong("FROM\n"),
    "FROM with two words": wrong("FROM rbt/a x\n"),
    "bad stage name": wrong("FROM rbt/a AS 1x\n"),
    "bad image name, unreached": wrong("FROM rbt/A!\nFROM rbt/b\n"),
    "tag and host": Case(
        "FROM docker.io/rbt/a:2 AS x\nFROM index.docker.io/library/rbt-lib\n"
        "COPY --from=x /bin /x\n",
        "rbt-lib rbt/a:2",
    ),
    "context for an image": Case(
        "FROM rbt/a\nCOPY --from=rbt/b /f /f\n", "rbt/a", "rbt/b", given=("rbt/b",)
    ),
    "context, name spelt out": Case(
        "FROM docker.io/rbt/a:latest\nCOPY --from=rbt/a:2 /bin /x\n",
        "rbt/a:2",
        "rbt/a",
        given=("rbt/a",),
    ),
    "context of a library image": Case(
        "FROM docker.io/library/rbt-lib:latest\n", "", "rbt-lib", given=("rbt-lib",)
    ),
    "context with a tag": Case(
        "FROM rbt/a:2 AS x\nFROM rbt/a\nCOPY --from=x /f /f\n",
        "rbt/a",
        "rbt/a:2",
        given=("rbt/a:2",),
    ),
    "context for a stage": Case("FROM rbt/a AS x\nRUN false\nFROM x\n", "", "x", given=("x",)),
    "context of a mount": Case(
        "FROM rbt/a\nRUN --mount=from=src,target=/m cat /m/f\n", "rbt/a", "src", given=("src",)
    ),
    "context for a stage, in capitals": Case(
        "FROM rbt/a AS x\nFROM rbt/b\nCOPY --from=X /f /x\n", "rbt/b", "x", given=("x",)
    ),
    "context unused": Case("FROM rbt/a\n", "rbt/a", given=("rbt/b",)),
    "ONBUILD of an own stage": Case(
        "FROM rbt/b AS y\nFROM rbt/a AS x\nCOPY --from=y /bin /y\nONBUILD COPY --from=y /bin /x\n"
        "FROM x\n",
        "rbt/a rbt/b",
    ),
    "ONBUILD is no use by itself": Case(
        "FROM rbt/b AS y\nFROM rbt/a AS x\nONBUILD COPY --from=y /bin /x\n", "rbt/a"
    ),
}


@pytest.fixture(scope="module", autouse=True)
def tags() -> Iterator[None]:
    base = os.environ.get("RBUILD_BASE")
    if not base:
        pytest.fail('RBUILD_BASE is not set: run tests/run, or eval "$(contrib/engine/setup base)"')
    for tag in TAGS:
        subprocess.run(["docker", "tag", base, tag], check=True)
    yield
    # In full: a bare 0 may be how an ID begins.
    names = [tag if ":" in tag else f"{tag}:latest" for tag in TAGS]
    subprocess.run(["docker", "rmi", *names], check=True, capture_output=True)


def short(name: str) -> str:
    return name.removeprefix("docker.io/").removeprefix("library/").removesuffix(":latest")


def buildkit(case: Case, folder: Path) -> tuple[list[str], list[str]] | None:
    """What BuildKit asks for; None: it refused."""
    (folder / "f").touch()
    command = ["docker", "buildx", "build", "--progress=plain", "--output=type=cacheonly", "-f-"]
    if case.target:
        command.append(f"--target={case.target}")
    for name, value in case.args.items():
        command.append(f"--build-arg={name}={value}")
    for name in case.given:
        command.append(f"--build-context={name}={folder}")
    done = subprocess.run([*command, str(folder)], input=case.text.encode(), capture_output=True)
    output = done.stderr.decode()
    if done.returncode and LOST not in output:
        assert case.refused, output
        assert "load build definition" in output, output  # else it was never shown the file
        return None
    loaded = re.findall(r"internal\] load metadata for (\S+)$", output, re.MULTILINE)
    asked = {short(name) for name in loaded}
    opened = set(re.findall(r"\[context (\S+)\] load", output))
    return sorted(asked), sorted(opened)


def ours(case: Case) -> tuple[list[str], list[str]] | None:
    try:
        found: Bases = images(
            case.text, target=case.target, args=case.args, contexts=case.given, platform=HERE
        )
    except InputError:
        return None
    names = {short(base.reference.removeprefix("index.")) for base in found.images}
    return sorted(names), sorted(found.contexts)


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_tells_what_buildkit_asks_for(case: Case, tmp_path: Path) -> None:
    truth = buildkit(case, tmp_path)
    assert truth == (None if case.refused else (case.images.split(), case.contexts.split()))
    assert ours(case) == truth


def test_digest(tmp_path: Path) -> None:
    shown = subprocess.run(
        ["docker", "image", "inspect", os.environ["RBUILD_BASE"]], check=True, capture_output=True
    ).stdout
    digest = json.loads(shown)[0]["RepoDigests"][0]
    for reference in (digest, digest.replace("@", ":1@")):
        case = Case(f"FROM {reference}\n", reference)
        assert buildkit(case, tmp_path) == ours(case) == ([reference], [])
