"""Which images a Dockerfile rests on, told from its text alone, as BuildKit would resolve them.

The rules are those of the Dockerfile reference and of BuildKit's own frontend (0.13 and 0.29 were
compared; tests/engine asks the one that is there). Where they differ the newer one is followed.
Only what decides about images is read: the rest is left for the build to judge. Not seen from
here: the ONBUILD triggers that an image from outside carries in its configuration.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from rbuild.compose.words import SPACE, Word, WordError
from rbuild.docker.reference import familiar, problem, qualified
from rbuild.errors import InputError

SCRATCH = "scratch"  # the empty image: there is nothing to pull

_NO_ARGS: Mapping[str, str] = MappingProxyType({})
_DIRECTIVE = re.compile(r"\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*\Z")
_DIRECTIVES = frozenset({"syntax", "escape", "check"})
_CONTINUED = {
    mark: re.compile(rf"(\A|[^{re.escape(mark)}]){re.escape(mark)}[ \t]*\Z") for mark in "\\`"
}
_HEREDOC = re.compile(r"\d*<<(-?)(\s*)([^<]*)\Z")
_STAGE_NAME = re.compile(r"[a-z][a-z0-9\-_.]*\Z")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}\Z")
_IMAGE_ID = re.compile(r"[0-9a-f]{64}\Z")
# What platform names are turned into before TARGETARCH and its kin are set.
_ARCHITECTURES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "amd64/v1": "amd64",
    "i386": "386",
    "aarch64": "arm64",
    "arm64/v8": "arm64",
    "aarch64/v8": "arm64",
    "arm": "arm/v7",
    "armhf": "arm/v7",
    "armel": "arm/v6",
}


@dataclass(frozen=True, slots=True)
class Base:
    """One image from outside that a build needs."""

    reference: str  # as it stands after expansion: "debian:12", "127.0.0.1:5000/x@sha256:..."
    platform: str  # "" = the build's own target; else what FROM --platform expands to
    line: int  # where it is first named, 1-based


@dataclass(frozen=True, slots=True)
class Bases:
    """All that a build needs from outside its own context."""

    images: tuple[Base, ...]  # in order of first use, each (reference, platform) once
    contexts: tuple[str, ...]  # additional contexts in use, in order of first use
    frontend: str  # the image that reads the file (`# syntax=`); "" = BuildKit's built-in one


@dataclass(frozen=True, slots=True)
class _Instruction:
    name: str  # upper case
    flags: tuple[str, ...]  # with their dashes, without quotes
    rest: str  # what follows the flags
    line: int


@dataclass(slots=True)
class _Stage:
    """A stage, or (`implicit`) an image that a COPY or a mount names: BuildKit counts both."""

    reference: str
    platform: str
    line: int
    implicit: bool = False
    base: int | None = None  # the stage it is built on; None: an image, a context or scratch
    context: str = ""  # the additional context that stands in for the whole stage
    sources: list[int] = field(default_factory=list)
    body: list[_Instruction] = field(default_factory=list)
    triggers: list[_Instruction] = field(default_factory=list)


def images(
    text: str | bytes,
    *,
    target: str = "",
    args: Mapping[str, str] = _NO_ARGS,
    contexts: Collection[str] = (),
    platform: str = "linux/amd64",
    build_platform: str = "",
) -> Bases:
    """Tell the images and contexts that a build of `text` up to `target` asks for.

    `text`: the Dockerfile, as it is on disk (Compose's JSON doubles `$`: undo that first).
    `target`: a stage's name in any case; "" = the last stage.
    `args`: build arguments that have a value.
    `contexts`: names of additional contexts, as Compose hands them to BuildKit.
    `platform`: what is built for; `build_platform`: what it is built on ("" = the same). For a
    build for several platforms ask once for each.

    Raises InputError, with the line, where BuildKit would refuse the file before building.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    text = text.removeprefix("\ufeff")
    frontend = _frontend(text, args)
    try:
        instructions, escape = _read(text)
        env = _platform_args("TARGET", platform)
        env |= _platform_args("BUILD", build_platform or platform)
        env["TARGETSTAGE"] = target or _last_name(instructions) or "default"
        env |= {name: args[name] for name in env if name in args}
        stages, names = _stages(instructions, escape, env, args, contexts)
        return _reached(stages, names, target, contexts, frontend)
    except RecursionError as error:
        raise InputError("Dockerfile: substitutions are nested too deeply") from error
    except InputError:
        # A frontend of somebody else's may read another language altogether.
        if frontend and "dockerfile" not in frontend:
            return Bases((), (), frontend)
        raise


def _refuse(line: int, what: str) -> InputError:
    return InputError(f"Dockerfile line {line}: {what}")


# The file: directives, lines, here-documents.


def _directives(lines: list[str], comment: str = "#") -> Iterator[tuple[int, str, str]]:
    """Yield (line, name, value) of the parser directives at the head of the file."""
    for number, line in enumerate(lines, 1):
        match = _DIRECTIVE.match(line.removeprefix(comment)) if line.startswith(comment) else None
        if match is None or match[1].lower() not in _DIRECTIVES:
            return
        yield number, match[1].lower(), match[2]


def _frontend(text: str, args: Mapping[str, str]) -> str:
    """Name the frontend image: a build argument's, a directive's, or that of a JSON document."""
    found = args.get("BUILDKIT_SYNTAX", "").strip(SPACE)
    if not found:
        lines = text.split("\n")
        if lines[0].startswith("#!"):
            del lines[0]
        for comment in ("#", "//"):
            values = (value for _, key, value in _directives(lines, comment) if key == "syntax")
            found = found or next(values, "")
    if not found and text.lstrip(SPACE).startswith("{"):
        try:
            value = json.loads(text).get("syntax")
        except (ValueError, RecursionError):
            value = None
        found = value if isinstance(value, str) else ""
    name = found.split(" ")[0]
    return "" if name == "dockerfile.v0" else name  # the built-in one's own name


def _read(text: str) -> tuple[list[_Instruction], str]:
    """Split the file into instructions; also give its escape character."""
    lines = [line.rstrip("\r") for line in text.split("\n")]
    escape = "\\"
    seen: set[str] = set()
    for number, name, value in _directives([line.lstrip(SPACE) for line in lines]):
        if name in seen:
            raise _refuse(number, f"the directive {name} is there twice")
        seen.add(name)
        if name == "escape":
            if value not in _CONTINUED:
                raise _refuse(number, f"escape must be \\ or `, not {value}")
            escape = value

    found: list[_Instruction] = []
    at = 0
    while at < len(lines):
        start = at + 1
        piece = lines[at].lstrip(SPACE)
        at += 1
        if not piece or piece.startswith("#"):
            continue
        whole, more = _CONTINUED[escape].subn(r"\1", piece)
        while more and at < len(lines):
            piece = lines[at]
            at += 1
            # Comments and blank lines inside an instruction don't end it.
            if piece.lstrip(SPACE)[:1] not in ("", "#"):
                piece, more = _CONTINUED[escape].subn(r"\1", piece)
                whole += piece
        if not whole.strip(SPACE):
            continue
        instruction = _instruction(whole, start, escape)
        found.append(instruction)
        at = _after_heredocs(instruction, whole, lines, at, escape)
    return found, escape


def _instruction(whole: str, line: int, escape: str) -> _Instruction:
    name, *rest = re.split(r"[\t\v\f\r ]+", whole.strip(SPACE), maxsplit=1)
    text = rest[0] if rest else ""
    flags: list[str] = []
    while text.startswith("--"):
        flag, at = _word(text, 0, escape, keep=False)
        text = text[at:].lstrip(SPACE)
        if flag == "--":
            break
        flags.append(flag)
    return _Instruction(name.upper(), tuple(flags), text, line)


def _word(text: str, at: int, escape: str, *, keep: bool) -> tuple[str, int]:
    """Read up to the next space outside quotes; `keep` leaves quotes and escapes in."""
    out: list[str] = []
    quote = ""
    while at < len(text) and (quote or text[at] not in SPACE):
        char = text[at]
        at += 1
        if char == escape and not (keep and quote == "'"):
            if at < len(text):
                out.append(char + text[at] if keep else text[at])
            at += 1
        elif char in ("'", '"') and quote in ("", char):
            quote = "" if quote else char
            out.append(char if keep else "")
        else:
            out.append(char)
    return "".join(out), at


def _after_heredocs(
    instruction: _Instruction, whole: str, lines: list[str], at: int, escape: str
) -> int:
    """Give the index of the first line after the here-documents that `whole` opens."""
    inner = instruction
    if inner.name == "ONBUILD":
        inner = _instruction(inner.rest, inner.line, escape)
    if inner.name not in ("RUN", "COPY", "ADD") or "<<" not in whole:
        return at
    try:
        words = Word(whole, None, "\\", quotes=True).read("", raw=True)[1]
    except WordError:
        return at  # BuildKit finds no here-document in a line that it can't split
    for match in filter(None, map(_HEREDOC.match, words)):
        try:
            ends = Word(match[3], None, "\\").read("", raw=False)[1]
        except WordError as error:
            raise _refuse(instruction.line, str(error)) from None
        if len(ends) != 1:
            continue
        end = at
        while end < len(lines) and (lines[end].lstrip("\t") if match[1] else lines[end]) != ends[0]:
            end += 1
        if end < len(lines):
            at = end + 1
        elif not match[2]:  # `1 << 2` is arithmetic to BuildKit before 0.22
            raise _refuse(instruction.line, f"the here-document {ends[0]} has no end")
    return at


def _expand(text: str, env: Mapping[str, str], escape: str, line: int) -> str:
    try:
        return Word(text, env, escape).read("", raw=False)[0]
    except WordError as error:
        raise _refuse(line, f"{text}: {error}") from None


# Names.


def _familiar(reference: str) -> str:
    """Shorten an image reference to the form contexts are looked up by; "" if it is none.

    docker.io, library/ and :latest go, so that `docker.io/library/alpine:latest` is `alpine`.
    """
    if problem(reference) or _IMAGE_ID.match(reference):
        return ""
    return familiar(qualified(reference)).removesuffix(":latest")


def _platform_args(prefix: str, platform: str) -> dict[str, str]:
    """Give the arguments that BuildKit predefines for the target's or the builder's platform."""
    os, slash, arch = platform.lower().partition("/")
    if not slash:
        os, arch = "linux", os
    arch, _, variant = _ARCHITECTURES.get(arch, arch).partition("/")
    return {
        f"{prefix}PLATFORM": "/".join(filter(None, (os, arch, variant))),
        f"{prefix}OS": os,
        f"{prefix}OSVERSION": "",
        f"{prefix}ARCH": arch,
        f"{prefix}VARIANT": variant,
    }


# Stages and what they need.


def _stages(
    instructions: list[_Instruction],
    escape: str,
    env: dict[str, str],
    args: Mapping[str, str],
    contexts: Collection[str],
) -> tuple[list[_Stage], dict[str, int]]:
    """Build all stages and link them; also give which stage bears which name at the end."""
    stages: list[_Stage] = []
    names: dict[str, int] = {}
    for item in instructions:
        if item.name == "FROM":
            image, name = _from(item)
            reference = _expand(image, env, escape, item.line)
            if not reference:
                raise _refuse(item.line, f"FROM {image}: the name is empty")
            chosen = _flag(item, "platform")
            stage = _Stage(reference, _expand(chosen, env, escape, item.line), item.line)
            if chosen and not stage.platform:
                raise _refuse(item.line, f"--platform={chosen}: the platform is empty")
            if name in contexts and name not in (SCRATCH, "context"):
                stage.context = name
            else:
                stage.base = names.get(reference)  # names are in lower case: Build is not build
            stages.append(stage)
            if name:
                names[name] = len(stages) - 1
        elif stages:
            stages[-1].body.append(item)
        elif item.name == "ARG":
            _set_args(item, env, args, escape)
        else:
            raise _refuse(item.line, f"{item.name} comes before the first FROM")

    if not stages:
        # Must not reach the engine: shown ARG and no FROM, dockerd 26.1 ends in a panic.
        raise InputError("Dockerfile: no FROM in it, there is nothing to build")

    for index in range(len(stages)):
        for item in stages[index].body:
            if item.name == "ONBUILD":
                # BuildKit reads a trigger anew, and without the file's directives.
                stages[index].triggers.append(_instruction(item.rest, item.line, "\\"))
            else:
                _link(stages, names, index, item)
    return stages, names


def _last_name(instructions: list[_Instruction]) -> str:
    froms = [item for item in instructions if item.name == "FROM"]
    return _from(froms[-1])[1] if froms else ""


def _from(item: _Instruction) -> tuple[str, str]:
    """Give the image and the stage's name ("" without one) that a FROM states."""
    words = item.rest.split()
    if len(words) == 1:
        return words[0], ""
    if len(words) != 3 or words[1].lower() != "as":
        raise _refuse(item.line, "FROM takes an image, and AS with a name after it")
    name = words[2].lower()
    if not _STAGE_NAME.match(name):
        raise _refuse(item.line, f"{words[2]} can't be a stage's name")
    return words[0], name


def _set_args(
    item: _Instruction, env: dict[str, str], args: Mapping[str, str], escape: str
) -> None:
    """Apply an ARG that stands before the first FROM."""
    at = 0
    while at < len(item.rest):
        if item.rest[at] in SPACE:
            at += 1
            continue
        word, at = _word(item.rest, at, escape, keep=True)
        name, given, default = word.partition("=")
        if name in args:
            env[name] = args[name]
        elif given:
            env[name] = _expand(default, env, escape, item.line)


def _flag(item: _Instruction, name: str) -> str:
    return next((f.partition("=")[2] for f in item.flags if f.startswith(f"--{name}=")), "")


def _mount_source(mount: str, line: int) -> str:
    """Give the `from` of a RUN's mount; without one BuildKit looks for a stage named scratch."""
    try:
        fields = next(csv.reader([mount], strict=True))
    except (csv.Error, StopIteration):
        raise _refuse(line, f"--mount={mount}: quotes don't match") from None
    source = ""
    for entry in fields:
        key, _, value = entry.partition("=")
        if key.lower() == "from":
            source = value
    return source or SCRATCH


def _link(stages: list[_Stage], names: dict[str, int], index: int, item: _Instruction) -> None:
    """Note on stage `index` the stages and images that one instruction takes files from."""
    sources: list[str] = []
    if item.name == "COPY":
        source = _flag(item, "from")
        if _INTEGER.match(source):
            if not 0 <= int(source) < len(stages):
                raise _refuse(item.line, f"COPY --from={source}: there is no such stage")
            stages[index].sources.append(int(source))
        elif source:
            sources = [source]
    elif item.name == "RUN":
        mounts = [flag.partition("=")[2] for flag in item.flags if flag.startswith("--mount=")]
        sources = [_mount_source(mount, item.line) for mount in mounts]
    for source in sources:
        found = names.get(source.lower())
        if found is None:
            found = len(stages)
            stages.append(_Stage(source, "", item.line, implicit=True))
        stages[index].sources.append(found)


def _reached(
    stages: list[_Stage],
    names: dict[str, int],
    target: str,
    contexts: Collection[str],
    frontend: str,
) -> Bases:
    """Follow the links from the target."""
    last = max(index for index, stage in enumerate(stages) if not stage.implicit)
    first = names.get(target.lower()) if target else last
    if first is None:
        raise InputError(
            f"Dockerfile: no stage is named {target}",
            hint="stages: " + (", ".join(names) or "none has a name"),
        )
    todo = [first]
    seen: set[int] = set()
    while todo:
        index = todo.pop()
        if index in seen:
            continue
        seen.add(index)
        stage = stages[index]
        if stage.base is not None:
            todo.append(stage.base)
            for trigger in stages[stage.base].triggers:
                _link(stages, names, index, trigger)
        for source in stage.sources:
            other = stages[source]
            if source >= index and not other.implicit and not other.context:
                raise _refuse(stage.line, "the stage takes files from one that comes after it")
        todo.extend(stage.sources)
    for stage in stages:  # BuildKit looks at the names of unreached ones too
        if stage.base is None and not stage.context and not _familiar(stage.reference):
            what = problem(stage.reference) or "an image's ID"
            why = f"is neither a stage nor an image's name ({what})"
            if stage.implicit and "$" in stage.reference:
                why = "stands where variables can't be used: name a stage after the image"
            raise _refuse(stage.line, f"{stage.reference} {why}")

    found: dict[tuple[str, str], Base] = {}
    used: dict[str, None] = {}
    for stage in sorted((stages[index] for index in seen), key=lambda stage: stage.line):
        if stage.context:
            used[stage.context] = None
        elif stage.base is None and stage.reference != SCRATCH:
            name = _familiar(stage.reference)
            if name in contexts:
                used[name] = None
            else:
                base = Base(stage.reference, stage.platform, stage.line)
                found.setdefault((base.reference, base.platform), base)
    return Bases(tuple(found.values()), tuple(used), frontend)
