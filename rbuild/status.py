"""`rbuild status`: what runs, since when, how old, what is due when, and why."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rbuild.compose import fingerprint
from rbuild.compose.data import HOW
from rbuild.compose.project import DEFAULT_FILES, Project, locate, require_compose_file
from rbuild.decisions import lookout, moves, staleness
from rbuild.decisions.glance import Run
from rbuild.decisions.moves import Moves
from rbuild.decisions.staleness import Reason, span
from rbuild.docker.engine import Container, Engine
from rbuild.docker.reference import familiar
from rbuild.errors import ProjectError, RbuildError
from rbuild.process import Stop
from rbuild.report import short_digests, waiting
from rbuild.settings import Settings, from_json
from rbuild.state import checks, generation, record
from rbuild.state.checks import Checks
from rbuild.state.failure import LEFT, next_try
from rbuild.state.record import Record, stamp
from rbuild.text import clean, visible
from rbuild.updates import stopped


@dataclass
class Standing:
    """How one project stands."""

    name: str
    path: str
    record: Record | None = None
    settings: Settings | None = None
    reasons: tuple[Reason, ...] = ()
    due: float = 0.0
    idle: tuple[str, ...] = ()
    """Of the generations, those in which nothing ran."""
    generations: tuple[str, ...] = ()
    """What is kept of what ran before and can be gone back to, newest first."""
    broken: tuple[str, ...] = ()
    """Why others that are kept can't."""
    vanished: tuple[str, ...] = ()
    """Images whose tags are gone from their registries."""
    folder: str = ""
    """Its state folder."""
    containers: list[Container] = field(default_factory=list)
    failure: dict[str, Any] | None = None
    moves: Moves = field(default_factory=Moves)
    """What is remembered of the images it rests on."""
    problem: RbuildError | None = None
    """Why not all can be told."""


def gather(arguments: Sequence[str], run: Run, cwd: str) -> list[Standing]:
    """How each project stands. What can't be told is said in its place, never raised."""
    engine = _engine()
    found: dict[str, Standing] = {}
    for argument in arguments:
        try:
            project = locate(argument, cwd)
            standing = _stand(project, run)
        except RbuildError as error:
            standing = Standing(argument, argument, problem=error)
        if standing.record:
            try:
                standing.containers = engine.containers(standing.name)
                _pass_over_broken(standing, engine)
            except RbuildError as error:
                standing.problem = standing.problem or error
        home = standing.record.home if standing.record else argument
        found.setdefault(f"{standing.name}\n{home}", standing)
    return list(found.values())


def lines(standings: Sequence[Standing], verbose: int, now: float) -> list[str]:
    """For a person to read."""
    text: list[str] = []
    for one in standings:
        text.append(f"{one.name}  {one.path}")
        if one.record and one.record.built:
            text.append(
                f"  updated   {_local(one.record.built_at)} ({span(now - one.record.built_at)} ago)"
            )
        elif not one.problem:
            text.append("  updated   never by rbuild")
        if one.reasons:
            why = "; ".join(f"{kind}: {detail}" for kind, detail in one.reasons)
            text.append(f"  due       now ({why})")
        elif one.due:
            text.append(f"  due       {_local(one.due)} (in {span(one.due - now)})")
        if one.failure:
            text += _failure_lines(one.failure, now)
        text += [f"  waits     {moves.waiting_line(each, now)}" for each in one.moves.waits]
        text += [f"  unknown   {line}" for line in moves.told(one.moves.unchecked)]
        text += [f"  unasked   {familiar(name)}: {why}" for name, why in one.moves.unasked.items()]
        if one.record:
            text += [f"  stopped   {line}" for line in stopped.told(one.record.services)]
        text += [
            f"  data      {name} {HOW[why]}: its changes cause no update"
            for name, (why, _) in (one.record.data if one.record else {}).items()
            if why in HOW
        ]
        if one.generations:
            names = (f"{n} (nothing ran)" if n in one.idle else n for n in one.generations)
            text.append(f"  kept      {', '.join(names)}")
        text += [f"  gone      {line}" for line in one.broken]
        text += [
            f"  gone      {name}: its tag, from the registry; the image that is here is used"
            for name in one.vanished
        ]
        if one.problem:
            first, *more = one.problem.message.splitlines()
            rest = (*more, *one.problem.detail.splitlines(), one.problem.hint)
            text.append(f"  unknown   {first}")
            text += [f"            {line}" for line in rest if line]
        text += _service_lines(one, now)
        if verbose and one.settings:
            text += [
                f"  setting   {name} = {_written(name, value)} ({origin})"
                for name, value, origin in _settings(one.settings)
            ]
    return [visible(short_digests(line)) for line in text]


def document(standings: Sequence[Standing]) -> dict[str, Any]:
    """For a program to read; times are RFC 3339 in UTC."""
    return {"version": 1, "projects": [clean(_project(one)) for one in standings]}


def _project(one: Standing) -> dict[str, Any]:
    known, settings = one.record, one.settings
    return {
        "name": one.name,
        "path": one.path,
        "built": (known.built or None) if known else None,
        "due": stamp(one.due) if one.due else None,
        "reasons": [reason._asdict() for reason in one.reasons],
        "services": [
            {
                "name": each.service,
                "container": each.name,
                "state": each.state,
                "health": each.health or None,
                "image": each.reference,
                "image_id": each.image,
                "started": stamp(each.started) if each.started else None,
            }
            for each in _own(one)
        ],
        "bases": known.bases if known else [],
        "generations": list(one.generations),
        "failure": {key: one.failure[key] or None for key in ("when", "message", "log", "next")}
        if one.failure
        else None,
        "waits": waiting(one.moves.waits),
        "unchecked": moves.told(one.moves.unchecked),
        "unasked": [f"{familiar(name)}: {why}" for name, why in one.moves.unasked.items()],
        "problem": one.problem.message if one.problem else None,
        "settings": {
            name: {"value": value, "origin": origin} for name, value, origin in _settings(settings)
        }
        if settings
        else {},
    }


def _settings(settings: Settings) -> Iterator[tuple[str, Any, str]]:
    """Name, value and origin of each setting; of those that stand in files alone, the given."""
    for name, origin in settings.origins.items():
        yield name, getattr(settings, name.replace("-", "_")), origin
    for name, given in settings.from_files.items():
        yield name, given.value, given.origin


def _written(name: str, value: Any) -> str:
    """A setting's value as a person would write it."""
    if name.startswith("hooks."):
        text = shlex.join(value)
        return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _stand(project: Project, run: Run) -> Standing:
    """How a project stands by its record alone."""
    standing = Standing(os.path.basename(project.target.folder), project.path)
    for folder, known in _records(project, run):
        view = known.views.get(project.spelling) or next(iter(known.views.values()), None)
        settings = run.settings(from_json(view["settings"]) if view else {})
        changed = fingerprint.differences(view, run.environ, known.key) if view else []
        found = lookout.Lookout(run, Stop()).recall(known, settings, folder)
        told = checks.read(folder)
        decision = staleness.decide(
            known,
            changed,
            found.reasons,
            build_period=settings.build_period,
            forced=False,
            now=time.time(),
        )
        return Standing(
            name=known.name,
            path=project.path,
            record=known,
            settings=settings,
            reasons=tuple(
                # At a glance: a touched file or a new comment looks the same.
                Reason(kind, f"{detail}: looks changed, the next run will check")
                if kind == "changed"
                else Reason(kind, detail)
                for kind, detail in decision.reasons
            ),
            due=decision.due,
            failure=known.failed or known.held,
            generations=tuple(generation.stamps(folder)),
            vanished=tuple(told.vanished),
            folder=folder,
            problem=_wrong(told) if told.wrong else None,
            moves=found,
        )
    for folder in (*run.store.folders(*project.paths), *_unread(project, run)):
        told = checks.read(folder)
        if told.wrong and record.read(folder) is None:
            standing.problem = _wrong(told)
    require_compose_file(project, run.environ)
    standing.settings = run.settings({})
    standing.reasons = staleness.decide(
        None, (), build_period=0, forced=False, now=time.time()
    ).reasons
    return standing


def _unread(project: Project, run: Run) -> list[str]:
    """Where is remembered what is wrong with a project that is new: by any usual spelling of it."""
    folder = project.target.folder
    spellings = [project.spelling, folder]
    spellings += [f"{folder}\n{os.path.join(folder, name)}" for name in DEFAULT_FILES]
    return [run.store.unread(one) for one in dict.fromkeys(spellings)]


def _pass_over_broken(standing: Standing, engine: Engine) -> None:
    """Tell generations whose images are gone from those that can be gone back to."""
    broken: dict[str, str] = {}
    idle: list[str] = []
    for name in standing.generations:
        one = generation.read(standing.folder, name)
        if one and not one.ran:
            idle.append(name)
        gone = generation.lacking(one, engine) if one else []
        if gone:
            broken[name] = f"{name}: the kept image of {', '.join(gone)}"
    standing.broken, standing.idle = tuple(broken.values()), tuple(idle)
    standing.generations = tuple(one for one in standing.generations if one not in broken)


def _records(project: Project, run: Run) -> list[tuple[str, Record]]:
    """The one record that knows this spelling, the newest first; else the folder's only one.

    Each with its state folder.
    """
    found = [(folder, record.read(folder)) for folder in run.store.folders(*project.paths)]
    records = [(folder, known) for folder, known in found if known]
    fitting = [one for one in records if project.spelling in one[1].views]
    fitting.sort(key=lambda one: one[1].built_at, reverse=True)
    return fitting or (records if len(records) == 1 else [])


def _failure_lines(failed: dict[str, Any], now: float) -> list[str]:
    """What failed last, and when it is tried again."""
    by_hand = failed["kind"] == LEFT
    lines = [f"  {'left' if by_hand else 'failed':<10}{failed['when']}: {failed['message']}"]
    until = next_try(failed)
    when = f"{_local(until)} (in {span(until - now)})" if until > now else "now"
    after = "an input changes" if by_hand else f"an input changes, or {when}"
    lines.append(f"  retry     when {after}; --force-rebuild tries it now")
    if failed["log"]:
        lines.append(f"  log       {failed['log']}")
    return lines


def _service_lines(one: Standing, now: float) -> list[str]:
    rows = [
        (
            each.service,
            each.state + (f", {each.health}" if each.health else ""),
            f"since {span(now - each.started)}" if each.state == "running" else "",
            each.reference,
        )
        for each in _own(one)
    ]
    if one.record and not rows and not one.problem:
        return ["  nothing of it runs"]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return ["  " + "  ".join(cells).rstrip() for cells in padded]


def _own(one: Standing) -> list[Container]:
    return sorted((each for each in one.containers if not each.oneoff), key=lambda c: c.name)


def _wrong(told: Checks) -> ProjectError:
    when = _local(told.wrong_told)
    return ProjectError(f"the run of {when} could not work on it: {told.wrong}")


def _local(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(when))


def _engine() -> Engine:
    from rbuild.docker.whales import Whales

    return Whales(Stop())
