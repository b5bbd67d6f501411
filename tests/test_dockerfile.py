"""What a Dockerfile rests on, by example and by property (a real BuildKit: tests/engine)."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Mapping

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rbuild.compose.dockerfile import Base, Bases, images
from rbuild.errors import InputError


def names(text: str, **options: object) -> list[str]:
    return [base.reference for base in images(text, **options).images]  # type: ignore[arg-type]


# Examples.


def test_gives_reference_platform_and_line() -> None:
    text = (
        "ARG T=12\n\nFROM --platform=$BUILDPLATFORM \\\n  debian:$T AS x\nFROM scratch\n"
        "COPY --from=x / /\nCOPY --from=127.0.0.1:5000/y / /\n"
    )
    assert images(text, platform="linux/arm64", build_platform="linux/amd64") == Bases(
        images=(Base("debian:12", "linux/amd64", 3), Base("127.0.0.1:5000/y", "", 7)),
        contexts=(),
        frontend="",
    )


def test_bytes_in_any_encoding() -> None:
    assert images(b"\xef\xbb\xbfFROM a\r\n# caf\xe9\r\nLABEL x=\xff\r\n") == images("FROM a\n")


def test_one_image_for_two_platforms_is_two() -> None:
    text = "FROM --platform=linux/arm64 a AS x\nFROM a\nCOPY --from=a / /\nCOPY --from=x / /\n"
    assert images(text).images == (Base("a", "linux/arm64", 1), Base("a", "", 2))


@pytest.mark.parametrize(
    ("platform", "words"),
    [
        ("linux/amd64", "linux/amd64 linux amd64 -"),
        ("linux/arm/v7", "linux/arm/v7 linux arm v7"),
        ("linux/arm", "linux/arm/v7 linux arm v7"),
        ("linux/arm64/v8", "linux/arm64 linux arm64 -"),
        ("Linux/AArch64", "linux/arm64 linux arm64 -"),
        ("x86_64", "linux/amd64 linux amd64 -"),
        ("windows/amd64", "windows/amd64 windows amd64 -"),
    ],
)
@pytest.mark.parametrize("side", ["TARGET", "BUILD"])
def test_platform_arguments(platform: str, words: str, side: str) -> None:
    full, os, arch, variant = words.split()
    text = f"FROM --platform=${side}PLATFORM x/${side}OS/${side}ARCH/${{{side}VARIANT:-none}}\n"
    options = {"platform": platform} if side == "TARGET" else {"build_platform": platform}
    (base,) = images(text, **options).images  # type: ignore[arg-type]
    expected = f"x/{os}/{arch}/{'none' if variant == '-' else variant}"
    assert (base.platform, base.reference) == (full, expected)


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("FROM a AS x\nFROM b\n", {"target": "X"}, "a"),
        ("FROM a AS X\nFROM b\n", {"target": "x"}, "a"),
        ("FROM a AS x\nFROM b AS x\nFROM x\n", {}, "b"),
        ("FROM a AS a\nFROM a\n", {}, "a"),
        ("FROM a\nFROM b\nCOPY --from=0 / /\nRUN --mount=from=0 x\n", {}, "a b 0"),
        ("FROM a\nCOPY --from=b / /\nCOPY --from=1 / /\n", {}, "a b"),
        ("FROM a\nCOPY -- --from=b /\n", {}, "a"),
        ("FROM a\nRUN -- --mount=from=b x\n", {}, "a"),
        ("FROM a\nRUN x --mount=from=b\n", {}, "a"),
        ('FROM a\nRUN --mount=type=bind,\\"from=b\\",target=/x x\n', {}, "a b"),
        ("ARG V=1\nFROM a:$V\n", {"args": {"V": "2"}}, "a:2"),
        ("ARG V\nFROM a:$V\n", {"args": {"V": "2"}}, "a:2"),
        ("ARG V=1 W=$V\nARG V=${W}0\nFROM a:$V\n", {}, "a:10"),
        ("ARG A='\\' B=2\nFROM a:$B\n", {}, "a:2"),
        ("FROM a${V+:1}\n", {"args": {"V": "2"}}, "a"),
        ("FROM a${HTTP_PROXY+:1}\n", {"args": {"HTTP_PROXY": "2"}}, "a"),
        ("FROM a:$TARGETOS\n", {"args": {"TARGETOS": "2"}}, "a:2"),
        ("FROM b\nARG V=1\nFROM a${V+:1}\n", {}, "a"),
        ("FROM a\nADD <<E /x\nFROM b\nE\n", {}, "a"),
        ("FROM a\nRUN <<E\n\tE\nFROM b\nE\n", {}, "a"),
        ("FROM a\nRUN <<-E\n\tE\nFROM b\n", {}, "b"),
        ("FROM a\nRUN ${X:-a <<E}\nFROM b\nE}\n", {}, "a"),
        ('FROM a\nRUN ["x", "<<E"]\nFROM b\n', {}, "b"),
        ("# escape=`\nFROM a AS x\nONBUILD COPY --from=b\\c / /\nFROM x\n", {}, "a bc"),
    ],
)
def test_what_counts(text: str, options: dict[str, object], expected: str) -> None:
    assert names(text, **options) == expected.split()


def test_build_platform_is_the_targets_unless_given() -> None:
    assert names("FROM a:$BUILDARCH\n", platform="linux/arm64") == ["a:arm64"]


def test_target_stage_argument() -> None:
    assert names("FROM a:$TARGETSTAGE\n") == ["a:default"]
    assert names("FROM a:$TARGETSTAGE AS Web\n") == ["a:web"]
    assert names("FROM a:$TARGETSTAGE AS web\nFROM b\n", target="web") == ["a:web"]


def test_an_argument_without_value_is_unset() -> None:
    # BuildKit before 0.17 set it to "", even where it is one of the predefined ones.
    assert names("ARG X\nFROM a${X-:1}\n") == ["a:1"]
    assert names("ARG TARGETARCH\nFROM a:$TARGETARCH\n") == ["a:amd64"]


def test_onbuild_of_an_own_stage_counts_where_it_is_built_upon() -> None:
    # BuildKit before 0.17 refused these; since then they are loaded.
    text = (
        "FROM a AS x\nONBUILD COPY --from=b / /\nONBUILD RUN --mount=from=c,target=/c true\n"
        "ONBUILD COPY <<E /e\nFROM no\nE\nFROM d AS y\nFROM x AS z\nFROM z\n"
    )
    assert images(text).images == (Base("a", "", 1), Base("b", "", 2), Base("c", "", 3))
    assert names(text, target="x") == ["a"]
    assert names(text, target="y") == ["d"]


def test_onbuild_reaches_a_stage_that_nothing_else_does() -> None:
    text = "FROM b AS y\nFROM a AS x\nONBUILD COPY --from=y / /\nFROM x\n"
    assert names(text) == ["b", "a"]


@pytest.mark.parametrize("space", ["", " ", "\t"])
def test_here_document_with_a_space_before_its_name(space: str) -> None:
    # With the space, a here-document since BuildKit 0.22.
    assert names(f"FROM a\nRUN cat <<{space}EOF\nFROM b\nEOF\n") == ["a"]


def test_shifts_are_no_here_documents() -> None:
    assert names("FROM a\nRUN echo $((1 << 2))\nFROM b\n") == ["b"]


@pytest.mark.parametrize(
    ("text", "args", "frontend"),
    [
        ("# syntax=docker/dockerfile:1\nFROM a\n", {}, "docker/dockerfile:1"),
        ("#SYNTAX = r.io/x  and options\r\nFROM a\n", {}, "r.io/x"),
        ("\ufeff# escape=`\n# check=skip=all\n# syntax=s\nFROM a\n", {}, "s"),
        ("#!/usr/bin/env x\n# syntax=s\nFROM a\n", {}, "s"),
        ("#\n# syntax=s\nFROM a\n", {}, ""),
        ("\n# syntax=s\nFROM a\n", {}, ""),
        ("# other=1\n# syntax=s\nFROM a\n", {}, ""),
        ("# syntax=s\nFROM a\n", {"BUILDKIT_SYNTAX": "t x"}, "t"),
        ("# syntax=s\nFROM a\n", {"BUILDKIT_SYNTAX": "dockerfile.v0"}, ""),
    ],
)
def test_frontend(text: str, args: Mapping[str, str], frontend: str) -> None:
    found = images(text, args=args)
    assert found.frontend == frontend
    assert [base.reference for base in found.images] == ["a"]


@pytest.mark.parametrize(
    "text",
    ["# syntax=me/packer\nkind: image\n", "// syntax=me/packer\n{}\n", '{"syntax": "me/packer"}'],
)
def test_another_language(text: str) -> None:
    assert images(text) == Bases((), (), "me/packer")


@pytest.mark.parametrize(
    ("text", "context", "used"),
    [
        ("FROM alpine\n", "alpine", True),
        ("FROM alpine:latest\n", "alpine", True),
        ("FROM docker.io/library/alpine\n", "alpine", True),
        ("FROM index.docker.io/alpine\n", "alpine", True),
        ("FROM library/alpine\n", "alpine", True),
        ("FROM alpine:3\n", "alpine", False),
        ("FROM alpine\n", "alpine:3", False),
        ("FROM docker.io/a/b:3\n", "a/b:3", True),
        ("FROM localhost/alpine\n", "alpine", False),
        ("FROM localhost/alpine\n", "localhost/alpine", True),
        ("FROM r.io:5000/alpine:latest\n", "r.io:5000/alpine", True),
        ("FROM scratch\n", "scratch", False),
        ("FROM a AS scratch\n", "scratch", False),
        ("FROM a AS context\n", "context", False),
        ("FROM context\n", "context", True),
        ("FROM a AS Src\n", "src", True),
        ("FROM a AS x\nCOPY --from=src / /\n", "src", True),
        ("FROM a AS x\nRUN --mount=from=src,target=/s true\nFROM b\n", "src", False),
    ],
)
def test_contexts(text: str, context: str, used: bool) -> None:
    assert images(text, contexts={context}).contexts == ((context,) if used else ())


def test_a_context_in_place_of_a_stage() -> None:
    text = "FROM a AS x\nFROM x AS z\nCOPY --from=y / /\nFROM b AS y\nFROM z\n"
    with pytest.raises(InputError, match="line 2"):  # y comes after z ...
        images(text)
    assert images(text, contexts=["x", "y"]) == Bases((), ("x", "y"), "")  # ... which a context may


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "no FROM"),
        ("# FROM a\n", "no FROM"),
        ("ARG a=1\n", "no FROM"),
        ("\nRUN x\nFROM a\n", "line 2"),
        ("\n\nFROM\n", "line 3"),
        ("FROM a b\n", "line 1"),
        ("FROM a AS\n", "line 1"),
        ("FROM a AS b c\n", "line 1"),
        ("FROM a AS 1\n", "line 1"),
        ("FROM a\nFROM $NO\n", "line 2"),
        ("FROM a\nFROM A\n", "line 2"),
        ("FROM a AS x\nFROM X\n", "line 2"),
        ("# syntax=docker/dockerfile:1\nFROM $NO\n", "line 2"),
        ("FROM a\nFROM a/\n", "line 2"),
        ("FROM a:\n", "line 1"),
        ("FROM " + "0" * 64 + "\n", "line 1"),
        ("FROM --platform=$NO a\n", "line 1"),
        ("ARG A='x\nFROM a\n", "line 1"),
        ("FROM a\nRUN <<E\n", "line 2"),
        ("FROM a\n\nRUN <<'E\nE'\nE\n\nFROM $NO\n", "line 7"),
        ("FROM a\nCOPY --from=1 / /\n", "line 2"),
        ("FROM a\nCOPY --from=-1 / /\n", "line 2"),
        ("FROM a\nCOPY --from=$X / /\n", "line 2.*variables"),
        ("FROM a\nRUN --mount=from=${X},target=/x x\nFROM b\n", "line 2.*variables"),
        ('FROM a\nRUN --mount=\\"from=x,target=/x x\n', "line 2"),
        ("# escape=x\nFROM a\n", "line 1"),
        ("# check=x\n# check=y\nFROM a\n", "line 2"),
        ("FROM a AS x\nONBUILD COPY --from=$Y / /\nFROM x\n", "line 2"),
        ("FROM " + "${X:-" * 20000 + "}" * 20000, "deep"),
    ],
)
def test_refused(text: str, where: str) -> None:
    with pytest.raises(InputError, match=where):
        images(text)


def test_unknown_target_lists_the_stages() -> None:
    with pytest.raises(InputError, match="no stage is named z") as caught:
        images("FROM a AS x\nFROM b AS y\n", target="z")
    assert "x, y" in caught.value.hint


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("$A$A", "xyzxyz"),
        ("${A}1", "xyz1"),
        ("$A-1", "xyz-1"),
        ("$A_1", ""),
        ("$1a", "a"),
        ("a$-b$@", "ab"),
        ("$", "$"),
        ("$/", "$/"),
        ("a\\$A", "a$A"),
        ("a\\\\", "a\\"),
        ("a\\'b", "a'b"),
        ("'$A'", "$A"),
        ("'a\\'", "a\\"),
        ('"$A"', "xyz"),
        ('"\\$A\\x"', "$A\\x"),
        ("'a\"'\"'\"", "a\"'"),
        ("${E-w}", ""),
        ("${E:-w}", "w"),
        ("${N-w}", "w"),
        ("${A-w}", "xyz"),
        ("${E+w}", "w"),
        ("${E:+w}", ""),
        ("${N+w}", ""),
        ("${A:+$B}", "b"),
        ("${A?m}", "xyz"),
        ("${A:?}", "xyz"),
        ("${E?m}", ""),
        ("${N:-a'}'b}", "a}b"),
        ("${N:-\\}}", "}"),
        ('"${N:-"q"}"', "q"),
        ("${A#}", "xyz"),
        ("${A#x}", "yz"),
        ("${A%z}", "xy"),
        ("${A%x}", "xyz"),
        ("${N%x}", ""),
        ("${P#*/}", "b/c"),
        ("${P##*/}", "c"),
        ("${P%/*}", "a/b"),
        ("${P%%/*}", "a"),
        ("${P#?/?}", "/c"),
        ("${P%/$C}", "a/b"),
        ("${P//\\//-}", "a-b-c"),
        ("${P/\\//-}", "a-b/c"),
        ("${P/b/$B$B}", "a/bb/c"),
        ("${S#\\*}", "+."),
        ("${S%.}", "*+"),
        ("${S/+/p}", "*p."),
        ("${A//*/q}", "q"),
        ("${A//?/q}", "qqq"),
        ("${A/y/}", "xz"),
    ],
)
def test_substitution(word: str, expected: str) -> None:
    # Seen as a platform, which may be any text.
    text = f"ARG A=xyz B=b C=c E= P=a/b/c S='*+.'\nARG R={word}\nFROM --platform=${{R:-none}} a\n"
    assert images(text).images[0].platform == (expected or "none")


@pytest.mark.parametrize(
    "word",
    [
        "${",
        "${A",
        "${}",
        "${:-x}",
        "${{A}}",
        "${A:}",
        "${A^}",
        "${A:#x}",
        "${A:0:1}",
        "${A/x}",
        "${A/x/y",
        "${A#\\x}",
        '"',
        "'",
        "${N?}",
        "${N:?why}",
        "${E:?}",
        "${A-'}",
    ],
)
def test_substitution_refused(word: str) -> None:
    with pytest.raises(InputError, match="line 2"):
        images(f"ARG A=xyz E=\nARG R={word}\nFROM a\n")


def test_substitution_knows_the_escape_character() -> None:
    assert names("# escape=`\nARG A=1\nFROM a:`\n$A\n") == ["a:1"]
    text = "# escape=`\nARG A=`$x`'\nFROM --platform=$A a\n"
    assert images(text).images[0].platform == "$x'"
    assert images("# escape=`\nARG A=\\x\nFROM --platform=$A a\n").images[0].platform == "\\x"


# Properties.


@given(
    st.text(alphabet="abx*?", min_size=1, max_size=8),
    st.text(alphabet="abx*?", max_size=4),
    st.sampled_from(["#", "##", "%", "%%", "/", "//", ":-", "-", ":+", "+"]),
)
@settings(max_examples=150, deadline=None)
@example("abab", "*b", "%%")
@example("abab", "b*", "%")
def test_substitution_is_that_of_a_shell(value: str, word: str, operator: str) -> None:
    value = value.replace("*", "y").replace("?", "z")
    if operator in ("/", "//"):
        word = (word or "a") + "/-"
    done = subprocess.run(
        ["bash", "-c", f'X={value}; printf %s "${{X{operator}{word}}}"'],
        check=True,
        capture_output=True,
    )
    text = f'ARG X={value}\nARG R="${{X{operator}{word}}}"\nFROM --platform=${{R:-none}} a\n'
    assert images(text).images[0].platform == (done.stdout.decode() or "none")


TOKENS = [
    "FROM ",
    "from ",
    "ARG ",
    "RUN ",
    "COPY ",
    "ONBUILD ",
    "AS ",
    "--from=",
    "--mount=",
    "--platform=",
    "from=",
    ",",
    "a",
    "x/y:1",
    "0",
    "1",
    "<<",
    "<<-",
    "E",
    "\nE\n",
    "\n",
    "\r\n",
    " ",
    "\t",
    "\\",
    "`",
    "\\\n",
    "'",
    '"',
    "$",
    "${",
    "}",
    ":-",
    "#",
    "%",
    "/",
    "//",
    "*",
    "?",
    "=",
    "[",
    "]",
    "# escape=`\n",
    "# syntax=s\n",
    "\ufeff",
    "\0",
    "é",
    "\udcff",
]


@given(
    st.lists(st.sampled_from(TOKENS), max_size=40).map("".join) | st.text(max_size=40),
    st.sampled_from(["", "a"]),
)
@settings(max_examples=500, deadline=None)
def test_any_text_is_read_or_refused(text: str, target: str) -> None:
    for whole in (text, "FROM a\n" + text, "FROM a AS a\nRUN " + text + "\nFROM a\n"):
        try:
            found = images(whole, target=target, contexts=["x/y:1"])
        except InputError:
            pass  # any other exception fails the test
        else:
            assert all(1 <= base.line <= whole.count("\n") + 1 for base in found.images)
            assert all(base.reference for base in found.images)


@st.composite
def projects(draw: st.DrawFn) -> tuple[list[tuple[object, list[object]]], int]:
    """Stages as (base, sources) and a target; a number is a stage, a string an image."""
    stages: list[tuple[object, list[object]]] = []
    image = st.sampled_from(["a", "b:1", "r.io/c/d", "127.0.0.1:5000/e", "scratch", "1f"])
    for index in range(draw(st.integers(1, 6))):
        source = image | st.integers(0, index - 1) if index else image
        stages.append((draw(source), draw(st.lists(source, max_size=3))))
    return stages, draw(st.integers(0, len(stages) - 1))


def needed(stages: list[tuple[object, list[object]]], target: int) -> set[object]:
    base, sources = stages[target]
    found: set[object] = set()
    for item in (base, *sources):
        found |= needed(stages, item) if isinstance(item, int) else {item}
    return found - {"scratch"}


def written(stages: list[tuple[object, list[object]]], rng: random.Random) -> str:
    """One of the many ways to write the same stages."""

    def any_case(word: str) -> str:
        return "".join(rng.choice((char.lower(), char.upper())) for char in word)

    def gap() -> str:
        return rng.choice([" ", "  ", "\t", " \\\n ", " \\\n# FROM no\n\n\t", "\t\\ \n  # x\n "])

    noise = [
        "",
        "\n",
        "# FROM no AS x\n",
        "  # RUN \\\n",
        'LABEL a="FROM no"\n',
        "RUN <<E cat \\\n >x\nFROM no\nCOPY --from=no / /\nE\n",
        "RUN cat <<-'E F' <<G && x\n\tFROM no\n\tE F\nCOPY --from=no / /\nG\n",
        'COPY <<"E" /e\nFROM no\n E\nE\n',
        'RUN ["sh", "<<E"]\n',
        "RUN a<<b <<<c\n",
        "RUN --mount=type=cache,target=/c --mount=type=secret,id=s \\\n x --mount=from=no\n",
        "ENV x=1 \\\n  y=2\n",
        "COPY --chown=1 no/ /\n",
        "ONBUILD RUN <<E\nFROM no\nE\n",
        'SHELL ["/bin/sh"]\n',
    ]
    end = rng.choice(["\n", "\r\n"])
    out = []
    arguments = []
    for index, (base, sources) in enumerate(stages):
        name = f"s{index}"
        line = any_case("from") + gap()
        reference = f"s{base}" if isinstance(base, int) else str(base)
        if rng.random() < 0.3:
            arguments.append(f"{any_case('arg')}{gap()}V{index}={reference}\n")
            reference = rng.choice(
                [f"$V{index}", f"${{V{index}}}", f"${{NO:-$V{index}}}", f'"${{V{index}}}"']
            )
        shown = name if rng.random() < 0.7 else name.upper()
        out.append(line + reference + gap() + any_case("as") + gap() + shown + "\n")
        for source in sources:
            out.append(rng.choice(noise))
            label = str(source) if isinstance(source, str) else any_case(f"s{source}")
            number = str(source) if rng.random() < 0.5 else label
            out.append(
                rng.choice(
                    [
                        f"COPY{gap()}--from={number}{gap()}/a /b\n",
                        f'{any_case("copy")} --link --from=\'{number}\' --chown=1:1 ["/a", "/b"]\n',
                        f"RUN --mount=from={label},target=/m{gap()}true\n",
                        f"{any_case('run')} --network=none --mount=type=cache,target=/c{gap()}"
                        f'--mount=type=bind,target=/m,FROM={label},ro ["true"]\n',
                    ]
                )
            )
        out.append(rng.choice(noise))
    head = rng.choice(["", "\ufeff", "# check=skip=all\n", "# syntax=docker/dockerfile:1\n"])
    return (head + "".join(arguments) + "".join(out)).replace("\n", end)


@given(projects(), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_only_what_the_target_reaches(
    project: tuple[list[tuple[object, list[object]]], int], rng: random.Random
) -> None:
    stages, target = project
    text = written(stages, rng)
    assert set(names(text, target=f"s{target}")) == needed(stages, target)
    assert set(names(text)) == needed(stages, len(stages) - 1)


@given(projects(), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_order_and_lines(
    project: tuple[list[tuple[object, list[object]]], int], rng: random.Random
) -> None:
    found = images(written(project[0], rng)).images
    assert [base.line for base in found] == sorted(base.line for base in found)
    assert len({base.reference for base in found}) == len(found)
