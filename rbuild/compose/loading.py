"""Reads one project in full: Compose's rendering of it, our record, its settings, its changes.

This is the slow look, taken when a project may be stale; it needs Docker's CLI, no engine.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rbuild.compose import configuration, content, fingerprint, inputs, yamlfile
from rbuild.compose.configuration import Configuration
from rbuild.compose.content import without
from rbuild.compose.data import WRITTEN, Look, told
from rbuild.compose.inputs import Inputs
from rbuild.compose.project import Project, Target, require_compose_file
from rbuild.docker.engine import Engine
from rbuild.docker.reference import qualified
from rbuild.errors import InputError, ProjectError
from rbuild.settings import FILE_KEYS, MAPPINGS, Given, as_json
from rbuild.settingsfile import from_mapping, key_lines
from rbuild.state import record
from rbuild.state.record import Record, Store

_UNSET = re.compile(r'The \\?"(\w+)\\?" variable is not set')
_COMPATIBILITY = "COMPOSE_COMPATIBILITY"
# Spellings of one project whose signatures a record keeps.
MOST_VIEWS = 8


@dataclass(frozen=True, slots=True)
class Loaded:
    """A project as it stands now."""

    project: Project
    target: Target
    configuration: Configuration
    inputs: Inputs
    folder: str
    """Its state folder."""
    record: Record | None
    damaged: str
    """Why the record that was there can't be used; empty if it can, or there is none."""
    key: str
    digests: Mapping[str, str]
    shapes: Mapping[str, str]
    """Digest of each service's rendered configuration."""
    contents: Mapping[str, Mapping[str, str]]
    """What a service's containers are made from beside that (see `fingerprint.contents`)."""
    data: Mapping[str, list[str]]
    """Mounted files that are no inputs, as a record has them."""
    suspects: Mapping[str, Mapping[str, Any]]
    """Changed files that may be data, as a record has them."""
    only_suspects: bool
    """Whether nothing else has changed."""
    view: Mapping[str, Any]
    """What a record keeps of this spelling: signature and `x-rbuild` settings."""
    changed: tuple[str, ...]
    provided: tuple[str, ...]
    own_settings: Mapping[str, Given]
    notes: tuple[str, ...]
    rendered: Mapping[str, Any]
    """The whole configuration, as Compose renders it."""
    inputs_digest: str
    """Of all that an update is made from, settings included: what to try again, or not."""
    news: tuple[str, ...] = ()
    """What is to be told once: files that count as data from now on."""

    def name_of(self, path: str) -> str:
        """A path as records spell it."""
        name = fingerprint.respelled(path, self.target.folder, self.project.home)
        assert isinstance(name, str)
        return name

    def writable(self) -> dict[str, Look]:
        """The single files among its inputs that containers may write, as they are now."""
        return content.writable(self.rendered, self.view["paths"], self.key)

    def with_data(self, paths: Collection[str]) -> Loaded:
        """The same, these files having turned out to be written by containers."""
        names = {self.name_of(path): path for path in paths}
        mounts = fingerprint.mounts(self.rendered, self.key)
        digests = without(self.digests, names)
        return replace(
            self,
            digests=digests,
            contents={service: without(own, names) for service, own in self.contents.items()},
            data={
                **self.data,
                **{name: [WRITTEN, mounts[path]] for name, path in names.items()},
            },
            suspects=without(self.suspects, names),
            news=(*self.news, *(told(name, WRITTEN) for name in names)),
            view={**self.view, "paths": without(self.view["paths"], paths)},
            inputs_digest=_inputs_digest(digests, self.own_settings, self.rendered, self.key),
        )


def load(project: Project, engine: Engine, store: Store, environ: Mapping[str, str]) -> Loaded:
    """Look at a project in full. Changes nothing.

    Raises ProjectError or InputError for what is wrong with its files, StateError.
    """
    require_compose_file(project, environ)
    target = project.target
    environ = {**environ, "PWD": target.folder}
    found = inputs.walk(target.folder, target.files, environ)
    # Signatures come before what they stand for is read: a change in between shows next time.
    names = [one.name for one in found.variables]
    key = os.urandom(16).hex()
    early = fingerprint.signature(found.paths, names, environ, key)
    if not target.files:
        target = target._replace(chosen=found.main_files)
    lines = _service_lines(found.documents)
    hidden = bool(found.remote or found.unread)
    try:
        rendered, complaints = engine.render(target, service_extensions=bool(lines) or hidden)
    except InputError as error:
        raise _placed(error, found) from None
    separator = _separator(rendered, found, environ, engine, target)
    parsed = configuration.parse(rendered, project.path, lines, separator)
    # Of files that are included or extended, Compose takes no `x-rbuild`.
    main = [one for one in found.documents if one.path in found.main_files]
    own_settings = _own_settings(rendered.get("x-rbuild"), main)
    _refuse_lost_settings(rendered.get("x-rbuild"), main)

    folder = store.path(parsed.name, *project.paths)
    known, damaged = _read(folder)
    if known and known.key:
        key = known.key
        early["variables"] = fingerprint.signature((), names, environ, key)["variables"]
    _refuse_other_files(known, found, project)
    _require_variables(known, found, environ)

    parsed = _without_missing(parsed, known)
    lacking = [service.missing for service in parsed.services.values() if service.missing]
    before = known.views.get(project.spelling) if known else None
    seen = content.look(rendered, project, known, key, found.environ, before)
    late = {**seen.signature, **fingerprint.signature(lacking, (), environ, key)["paths"]}
    spelled = fingerprint.respelled(lacking, target.folder, project.home)
    digests = {**seen.digests, **dict.fromkeys(spelled, fingerprint.MISSING)}
    if "up" in own_settings and not own_settings["up"].value:
        # Compose knows nothing of it, and it decides what an update is.
        digests["x-rbuild: {up: false}"] = record.keyed_digest(key, b"false")
    if separator != "-":
        # Nor does the rendered configuration have the names of what is built.
        digests[f"${_COMPATIBILITY}"] = record.keyed_digest(key, separator.encode())
    # What is read with Compose's help alone is read anew each time.
    paths = {**late, **early["paths"], **dict.fromkeys(found.unread, "not followed")}
    view = {
        "paths": paths,
        "variables": early["variables"],
        "settings": as_json(own_settings),
    }
    suspects = fingerprint.differences(before, environ, key) if before else []
    suspects = [name for name in suspects if name not in late]
    # Where a variable of a config is new, so is the configuration.
    unnoticed = {*seen.data, *(known.data if known else ()), *seen.variables}
    changed = fingerprint.changes(known.digests, digests, suspects, unnoticed) if known else []
    return Loaded(
        project=project,
        target=target,
        configuration=parsed,
        inputs=found,
        folder=folder,
        record=known,
        damaged=damaged,
        key=key,
        digests=digests,
        shapes=fingerprint.shapes(rendered, key),
        contents=seen.contents,
        data=seen.data,
        suspects=seen.suspects,
        only_suspects=len(changed) == len(seen.suspects),
        view=view,
        changed=tuple(changed),
        provided=tuple(sorted(_provided(found, environ))),
        own_settings=own_settings,
        notes=(*_notes(complaints, found), *_notes_of_missing(parsed), *seen.news),
        rendered=rendered,
        inputs_digest=_inputs_digest(digests, own_settings, rendered, key),
        news=seen.news,
    )


def _placed(error: InputError, found: Inputs) -> InputError:
    """Compose's refusal; where rbuild can't read a file either, what is wrong, with the place."""
    for what in found.unread.values():
        return InputError(what, detail=error.detail, hint=error.hint)
    return error


def _separator(
    rendered: Mapping[str, Any],
    found: Inputs,
    environ: Mapping[str, str],
    engine: Engine,
    target: Target,
) -> str:
    """What stands in the names of built images. Compose is asked only where it may be unusual."""
    if _COMPATIBILITY not in environ and _COMPATIBILITY not in found.dotenv:
        return "-"
    if all(one.get("image") for one in (rendered.get("services") or {}).values()):
        return "-"
    return configuration.separator(rendered, engine.image_names(target))


def _inputs_digest(
    digests: Mapping[str, str],
    own_settings: Mapping[str, Given],
    rendered: Mapping[str, Any],
    key: str,
) -> str:
    services = (rendered.get("services") or {}).items()
    own = {name: one["x-rbuild"] for name, one in services if "x-rbuild" in one}
    values = {name: given.value for name, given in own_settings.items()}
    whole = json.dumps([dict(digests), values, own], sort_keys=True)
    return record.keyed_digest(key, whole.encode())


def remember_view(known: Record, loaded: Loaded) -> None:
    """Let a record know the signature that this spelling has now."""
    views = {name: one for name, one in known.views.items() if name != loaded.project.spelling}
    latest = list(views.items())[-(MOST_VIEWS - 1) :]
    known.views = {**dict(latest), loaded.project.spelling: dict(loaded.view)}


def _read(folder: str) -> tuple[Record | None, str]:
    try:
        return record.read(folder), ""
    except record.Damaged as error:
        return None, error.message


def _service_lines(documents: Sequence[yamlfile.Document]) -> dict[tuple[str, str], str]:
    """Where each service's `x-rbuild` stands, by service and key; the key "" is all of it."""
    lines = {}
    for document in documents:
        data = document.data
        services = data.get("services") if isinstance(data, dict) else None
        for name, service in services.items() if isinstance(services, dict) else ():
            if not isinstance(service, dict) or "x-rbuild" not in service:
                continue
            at = ("services", name, "x-rbuild")
            own = service["x-rbuild"]
            lines[name, ""] = f"{document.path}:{document.line(*at)}"
            for key in own if isinstance(own, dict) else ():
                lines[name, key] = f"{document.path}:{document.line(*at, key)}"
    return lines


def _own_settings(data: Any, documents: Sequence[yamlfile.Document]) -> dict[str, Given]:
    """`x-rbuild` at the top, each value with the file and line that it stands on."""
    # The rendered configuration has the values, merged and interpolated; the files, the lines.
    result: dict[str, Given] = {}
    for document in documents:
        here = document.data.get("x-rbuild") if isinstance(document.data, dict) else None
        if here is not None and not isinstance(here, dict):
            place = f"{document.path}:{document.line('x-rbuild')}: x-rbuild"
            from_mapping(here, place, {}, ProjectError)
        elif here and isinstance(data, dict):
            lines = key_lines(here, partial(document.line, "x-rbuild"))
            result.update(from_mapping(_part(data, here), document.path, lines, ProjectError))
    if not isinstance(data, dict):
        return from_mapping(data, "x-rbuild", {}, ProjectError)
    # What no file shows (an include from afar).
    return {**from_mapping(data, "x-rbuild", {}, ProjectError), **result}


def _part(data: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    """The rendered settings that one file has a say in; hooks one by one."""
    part = {name: data[name] for name in here if name in data}
    rendered, hooks = part.get("hooks"), here.get("hooks")
    if isinstance(rendered, dict):
        part["hooks"] = {name: rendered[name] for name in hooks or () if name in rendered}
    return part


def _lost(own: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The keys that lead to settings of one file which the rendered ones lack; not hooks."""
    for name, value in own.items():
        if name == "hooks" or name not in FILE_KEYS:
            continue
        if name not in data:
            yield (name,)
        elif name in MAPPINGS and isinstance(value, dict):
            inside = data[name] or ()
            yield from ((name, one) for one in value if one not in inside)


def _refuse_lost_settings(data: Any, documents: Sequence[yamlfile.Document]) -> None:
    """Raise ProjectError for a setting that Compose drops, or a hook that it joins with another's.

    Of several files' `x-rbuild`, Compose 2.26 takes the last one whole and 2.40 strings lists
    together; a dump that is quietly not made is found out when it is needed.
    """
    data = data if isinstance(data, dict) else {}
    for document in documents:
        own = document.data.get("x-rbuild") if isinstance(document.data, dict) else None
        for lost in _lost(own, data) if isinstance(own, dict) else ():
            place = f"{document.path}:{document.line('x-rbuild', *lost)}"
            raise ProjectError(
                f"{place}: {'.'.join(lost)}: another file's x-rbuild replaces it",
                hint="let one of the project's files have the whole x-rbuild",
            )
    rendered = data.get("hooks")
    places: dict[str, str] = {}
    for document in documents:
        own = document.data.get("x-rbuild") if isinstance(document.data, dict) else None
        hooks = own.get("hooks") if isinstance(own, dict) else None
        for name in hooks if isinstance(hooks, dict) else ():
            place = f"{document.path}:{document.line('x-rbuild', 'hooks', name)}"
            command = rendered.get(name) if isinstance(rendered, dict) else None
            before = places.get(name)
            if command is None or (before and isinstance(command, list)):
                why = f"{before} has it too" if before else "another file's x-rbuild replaces it"
                raise ProjectError(
                    f"{place}: hooks.{name}: {why}, and Compose does not keep them apart",
                    hint="let one of the project's files have the whole x-rbuild",
                )
            places[name] = place


def _provided(found: Inputs, environ: Mapping[str, str]) -> set[str]:
    """Variables without a default that have a value now."""
    return {
        one.name
        for one in found.variables
        if one.required and (one.name in environ or one.name in found.dotenv)
    }


def _require_variables(known: Record | None, found: Inputs, environ: Mapping[str, str]) -> None:
    """Raise ProjectError for a variable that the last good update had and this run lacks."""
    now = _provided(found, environ)
    places = {one.name: one.where for one in found.variables if one.required}
    lost = [
        name for name in (known.provided if known else ()) if name in places and name not in now
    ]
    if lost:
        uses = ", ".join(f"{name} ({places[name]})" for name in lost)
        raise ProjectError(
            f"not set now, though the last update had it: {uses}",
            hint="cron's environment is not the shell's: set it in the crontab, the unit or .env, "
            "or give it a default (${NAME:-})",
        )


def _without_missing(parsed: Configuration, known: Record | None) -> Configuration:
    """The configuration without builds that lack their sources, where Compose pulls the image.

    `up` pulls an image that has a name before it thinks of building it. What the last good update
    has built is another matter: it must not become somebody else's because a file is lost.
    """
    built = known.builds if known else ()
    services = {
        name: replace(service, build=None, tags=(), missing=missing)
        for name, service in parsed.services.items()
        if service.build and service.is_named and service.pull_policy != "build"
        and qualified(service.image) not in built
        and (missing := fingerprint.missing(service.build))
    }  # fmt: skip
    return replace(parsed, services={**parsed.services, **services})


def _notes_of_missing(parsed: Configuration) -> tuple[str, ...]:
    return tuple(
        f"{one.name}: {one.missing} is missing: not built, its image is taken as it is "
        "(`pull_policy: build` makes that an error)"
        for one in parsed.services.values()
        if one.missing
    )


def _refuse_other_files(known: Record | None, found: Inputs, project: Project) -> None:
    """Raise ProjectError where two sets of files in one folder make one Compose project.

    Not where a path that was worked before leads to other files by now (releases behind a link).
    """
    own = {os.path.realpath(path) for path in found.compose_files}
    if known is None or not known.files or own & set(known.files):
        return
    if project.spelling in known.views:
        return
    if any(os.path.exists(path) for path in known.files):
        raise ProjectError(
            f"{project.argument}: {', '.join(known.files)} make up the Compose project "
            f"{known.name!r} already",
            hint="join the files with ':' if they are one project, or give each a `name:`",
        )


def _notes(complaints: str, found: Inputs) -> tuple[str, ...]:
    places = {one.name: one.where for one in found.variables}
    notes = dict.fromkeys(
        f"variable {name} is not set and has no default"
        + (f" ({places[name]})" if places.get(name) else "")
        for name in _UNSET.findall(complaints)
    )
    return (
        *notes,
        *(f"{one}: not read by rbuild, changes go unseen" for one in found.remote),
        *(f"{one}; Compose reads it: asked anew at each run" for one in found.unread.values()),
    )
