"""Takes the steps of an update to their good end: record, hook, prune; `undo` has the bad ones."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from rbuild.compose import content, contexts
from rbuild.compose.loading import Loaded
from rbuild.decisions import moves, staleness
from rbuild.docker.reference import qualified
from rbuild.errors import EngineError, Interrupted, ProjectError, RbuildError, StateError
from rbuild.registries.credentials import Login, docker_config
from rbuild.rollbacks import undo
from rbuild.state import checks, failure, generation, record
from rbuild.state.record import Record
from rbuild.updates import (
    company,
    keeping,
    previous,
    resources,
    resting,
    space,
    steps,
    stopped,
    underway,
)
from rbuild.updates.plan import Plan
from rbuild.updates.scene import Scene
from rbuild.updates.step import Build, Gate, Keep, Pull, Up
from rbuild.updates.underway import Underway, tracked


def take(scene: Scene, loaded: Loaded, made: Plan, kept: str, *, resumed: bool = False) -> None:
    """Take the steps of an update to their end, or undo them and raise what came of it.

    `kept` names the generation of what runs. `resumed`: the steps are the last ones of an update
    that was cut off. Raises RolledBack, NeedsPerson, Deferred, Interrupted, or for a failure
    that touched nothing what failed.
    """
    work = _work(scene, loaded, made, kept)
    scene.begun = True
    if resumed:
        assert scene.known
        note = underway.go_on(scene.folder, scene.known, resumed=True)
        work.touched = True
        # As it was when the run was cut off: names may have moved since.
        work.rests = dict(note.note.get("rests") or {})
        work.makes = dict(note.note.get("makes") or {})
        scene.outcome.generation = kept if generation.read(scene.folder, kept) else ""
    else:
        note = underway.begin(
            loaded, scene.known, made, kept, scene.run.started, scene.inputs, scene.commit
        )
    try:
        with _signed_in(scene):
            _forward(scene, loaded, made, work, note, kept)
    except BaseException as error:
        scene.log.line(f"failed: {error}")
        if isinstance(error, RbuildError) and error.detail:
            # Whoever reads the log later finds the evidence in it, too.
            scene.log.line(error.detail)
        scene.outcome.touched = work.touched
        scene.outcome.warnings += tuple(work.warnings)
        _tell_vanished(scene, work)
        _find_data(scene, loaded, work)
        undo.undo(scene, made, work, note, error)
    _succeed(scene, _find_data(scene, loaded, work), made, work, note)


@contextmanager
def _signed_in(scene: Scene) -> Iterator[None]:
    """Docker has the project's own credentials for registries, as long as this lasts."""
    logins = {name: Login(*one) for name, one in scene.settings.logins.items()}
    if not logins:
        yield
        return
    with docker_config(logins, scene.run.environ, scene.docker_config) as config:
        scene.engine.sign_in(config)
        try:
            yield
        finally:
            scene.engine.sign_in("")


def _work(scene: Scene, loaded: Loaded, made: Plan, kept: str) -> steps.Work:
    assert scene.info
    return steps.Work(
        engine=scene.engine,
        target=loaded.target,
        configuration=loaded.configuration,
        settings=scene.settings,
        overlay=underway.write_labels(loaded, scene.run.started),
        clock_ahead=scene.clock_ahead,
        stop=scene.means.stop,
        tell=scene.tell,
        log=scene.log,
        hold=scene.held,
        environ=scene.hook_variables("before-update", generation=kept),
        engine_here=scene.info.here,
        made=list(made.made),
    )


def _find_data(scene: Scene, loaded: Loaded, work: steps.Work) -> Loaded:
    """The same, with what containers have written while they were brought up as data.

    What else has changed since the look at it (a file that they only read, a Dockerfile, one that
    was put in another's place), a person has changed, and the next run updates.
    """
    written = content.written(work.files, loaded.writable() if work.files else {})
    if written:
        before, loaded = loaded, loaded.with_data(written)
        scene.loaded = loaded
        scene.outcome.notes += loaded.news[len(before.news) :]
    return loaded


def _forward(
    scene: Scene, loaded: Loaded, made: Plan, work: steps.Work, note: Underway, kept: str
) -> None:
    if moves.WATCH not in work.rests:
        old = scene.known.rests if scene.known else {}
        work.rests[moves.WATCH] = resting.watched(scene, old.get(moves.WATCH, {}))
    if scene.info and scene.info.here:
        work.content = previous.copies(loaded)
    takes_room = any(isinstance(one, Build | Pull) for one in made.steps)
    free_before = _check_space(scene) if takes_room else None
    for step in made.steps:
        if isinstance(step, Up):
            assert scene.info
            if free_before is not None:
                work.taken = space.taken(free_before, space.free(scene.info))
            work.files = loaded.writable()
            # Now, while it can still be said that nothing is touched.
            _note_images(scene, loaded, made, work, note)
        elif isinstance(step, Build):
            # What a base means may move while others work.
            _note_rests(scene, made, work, moves.BASE)
        # If this is the last that is heard of us, the image may be nameless when we are gone.
        losing = [step.replaces] if isinstance(step, Pull) and step.replaces else []
        note.enter(step, certain=not work.touched, tracked=[*tracked(work), *losing])
        scene.tell(str(step))
        if isinstance(step, Keep):
            _forget_half_kept(scene, kept)
            assert scene.info
            found, missing = keeping.keep(
                loaded,
                scene.known,
                work.engine.containers(scene.name),
                kept,
                engine=work.engine,
                info=scene.info,
                names={name: image for name, image in step.names if image},
                left=made.left,
                failing=[
                    one.service
                    for gate in made.steps
                    if isinstance(gate, Gate)
                    for one in gate.expectations
                    if one.was_failing
                ],
            )
            scene.outcome.generation = kept if found.services else ""
            _require_rollback(scene, missing)
        steps.run(step, work)
    if not any(isinstance(one, Up) for one in made.steps):
        _note_images(scene, loaded, made, work, note)


def _require_rollback(scene: Scene, missing: Mapping[str, str]) -> None:
    """Raise ProjectError if what runs could not be brought back; --force-rebuild goes ahead."""
    if not missing:
        return
    by_reason: dict[str, list[str]] = {}
    for name, why in missing.items():
        by_reason.setdefault(why, []).append(name)
    lines = [f"{', '.join(names)}: {why}" for why, names in by_reason.items()]
    if scene.run.forced:
        scene.outcome.warnings += tuple(f"no rollback of {line}" for line in lines)
        return
    raise ProjectError(
        f"if the update failed, {', '.join(missing)} could not be rolled back",
        detail="\n".join(lines),
        hint="`rbuild --force-rebuild` updates all the same, without a rollback; or bring it up "
        "from these files first: `docker compose up -d`",
    )


def _note_images(
    scene: Scene, loaded: Loaded, made: Plan, work: steps.Work, note: Underway
) -> None:
    """Keep in mind what was made, and on what."""
    if note.note.get("resumed"):
        return
    services = loaded.configuration.services.values()
    built = loaded.configuration.built_images
    here = work.engine.images(list(dict.fromkeys([*(one.image for one in services), *built])))
    work.makes = {qualified(name): here[name].id for name in sorted(built) if name in here}
    _note_rests(scene, made, work)
    note.has_built({one.image: here[one.image].id for one in services if one.image in here}, work)


def _note_rests(scene: Scene, made: Plan, work: steps.Work, *kinds: str) -> None:
    """Keep in mind what the update is made on, as far as it is not yet."""
    missing = {
        kind: one
        for kind, one in made.rests.items()
        if kind not in work.rests and (not kinds or kind in kinds)
    }
    if missing:
        # First: what records say by then is here, at the latest, when the engine is asked.
        makers = resting.makers(scene)
        before = moves.in_registries(scene.known.rests if scene.known else {})
        known = {**before, **work.answers}
        work.rests.update(resting.found(missing, work.engine, known, makers))


def _forget_half_kept(scene: Scene, kept: str) -> None:
    """A run that was killed before it touched anything has kept what still runs: not one more."""
    before = (scene.known.underway if scene.known else None) or {}
    if not before.get("touched") and before.get("generation", kept) != kept:
        generation.forget(scene.folder, before["generation"])


def _check_space(scene: Scene) -> int | None:
    """Free bytes before images are fetched and built; raises SpaceError if they are too few."""
    assert scene.info
    free = space.free(scene.info)
    if scene.known and not scene.run.forced:
        space.check(free, scene.known.taken, space.place(scene.info))
    return free


def _succeed(scene: Scene, loaded: Loaded, made: Plan, work: steps.Work, note: Underway) -> None:
    outcome = scene.outcome
    started = failure.moment(note.note["since"])
    after = underway.updated(loaded, scene.known, made, work, started)
    if not note.note.get("resumed"):
        resting.accept(after.rests, scene.known.rests if scene.known else {}, scene.moves)
    scene.remember_data(after)
    after.commit = scene.commit
    after.held = scene.still_held()
    outcome.touched = work.touched
    if work.touched:
        # Before it counts as done: the next run comes here again if this one is killed.
        before = generation.read(scene.folder, note.note["generation"])
        company.reconnect(scene, before, work.containers, note.touched_at(scene.clock_ahead))
    try:
        if scene.contexts:
            contexts.remember(scene.folder, after, scene.contexts)
        running = os.path.join(scene.folder, generation.RUNNING)
        unapplied = _unapplied(running, loaded, work)
        generation.write_configuration(running, loaded.rendered)
        record.write(scene.folder, after)
    except StateError:
        outcome.standing = (
            "the services are updated and healthy, but that could not be written down: "
            "the next run updates them again"
        )
        raise
    outcome.outcome, outcome.standing = "updated", ""
    outcome.bases = tuple(after.bases)
    outcome.notes += tuple(work.notes)
    outcome.due = staleness.due_at(after.built_at, scene.settings.build_period)
    _tell_changes(scene, made, work, after, note)
    _tell_stopped(scene, made, after)
    outcome.warnings += (*work.warnings, *_differing(work), *unapplied)
    _tell_vanished(scene, work)
    try:
        scene.run_hook("after-update", generation=_kept(scene, note), stop=scene.means.stop)
        scene.tell("prune")
        keeping.tidy(scene, after)
        outcome.generation = _kept(scene, note)
    except Interrupted:
        outcome.standing = "the update is done; only cleaning up was cut short"
        raise
    except RbuildError as error:
        outcome.warnings += (f"updated, but not all is cleaned up: {error.message}",)


def _tell_vanished(scene: Scene, work: steps.Work) -> None:
    """Warn, once, of tags that are gone from their registries."""
    text = "its tag is gone from the registry; the image that is here is used"
    new = checks.vanish(scene.folder, work.vanished)
    scene.outcome.warnings += tuple(f"{name}: {text}" for name in new)
    told = [name for name, is_gone in work.vanished.items() if is_gone and name not in new]
    scene.outcome.notes += tuple(f"{name}: {text}" for name in told)


def _tell_stopped(scene: Scene, made: Plan, after: Record) -> None:
    """Tell, once, of services that a person has stopped and that are on something old since."""
    before = scene.known.services if scene.known else {}
    for name, service in after.services.items():
        if service["behind"] and name in made.left:
            text = f"{name} is {made.left[name]}: {stopped.keeps(service['behind'])}"
            scene.outcome.notes += (text,)
            if not before.get(name, {}).get("behind"):
                scene.outcome.news += (text,)


def _kept(scene: Scene, note: Underway) -> str:
    """The generation that a hook may offer to a person; empty where nothing ran before."""
    kept: str = note.note["generation"]
    return kept if generation.read(scene.folder, kept) else ""


def _tell_changes(
    scene: Scene, made: Plan, work: steps.Work, after: Record, note: Underway
) -> None:
    """What is other than before the update, and what is not."""
    kept = generation.read(scene.folder, note.note["generation"])
    kept_services = kept.services if kept else {}
    before = {name: {*service.up, *service.rest} for name, service in kept_services.items()}
    built = [name for step in made.steps if isinstance(step, Build) for name in step.services]
    comes_up = any(isinstance(step, Up) for step in made.steps)
    started_anew = _started_anew(work)
    services: list[dict[str, object]] = []
    for name, service in after.services.items():
        now = {*service["containers"]}
        is_other = comes_up and (now != before.get(name, set()) or name in started_anew)
        changed = is_other or (name in built and not now)
        services.append(
            {"name": name, "state": made.left.get(name, service["state"]),
             "image": service["reference"], "image_id": service["image"], "changed": changed}
        )  # fmt: skip
    changed_names = {service["name"] for service in services if service["changed"]}
    here = {container.service for container in work.containers}
    scene.outcome.services = services
    scene.outcome.built = tuple(name for name in built if name not in changed_names)
    scene.outcome.gone = tuple(
        name for name in before if comes_up and name not in after.services and name not in here
    )


def _started_anew(work: steps.Work) -> set[str]:
    """Services whose containers are the same, and were stopped and started by Compose."""
    before = {container.id: container for container in work.before}
    return {
        container.service
        for container in work.containers
        if container.state == "running"
        and container.id in before
        and container.started != before[container.id].started
        # The engine counts those that are its own doing.
        and container.restarts <= before[container.id].restarts
    }


def _differing(work: steps.Work) -> list[str]:
    """Warnings of containers that run something else than was wanted."""
    names = dict.fromkeys(
        container.service
        for container in work.containers
        if not container.oneoff and container.image != work.wanted(container)
    )
    return [
        f"{name}: Compose has left it on another image than its name means now; "
        f"`docker compose up -d --force-recreate {name}` puts that right"
        for name in names
    ]


def _unapplied(running: str, loaded: Loaded, work: steps.Work) -> list[str]:
    """Warnings of what the files say of networks and volumes and Compose doesn't apply.

    `running` is where the configuration of the last good update lies.
    """
    if not work.required:
        # Nothing was brought up.
        return []
    before, _ = generation.read_configuration(running)
    with suppress(EngineError):
        return resources.unapplied(before or {}, loaded.rendered, work.engine)
    return []
