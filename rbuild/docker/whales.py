"""Docker and Compose through python-on-whales: the one importer of it.

The library finds the CLI and builds its argument lists. Quick actions are its own calls,
under `timeout(1)`, for it sets no limits itself. Builds, pulls, `up` and everything whose
output is parsed run under `process.run`: with a deadline, in a group that ends as a whole,
and judged by exit code alone, for the kind of a DockerException is guessed from English text.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import time
from collections.abc import Callable, Collection, Sequence
from operator import itemgetter
from typing import Any, NoReturn, TypeVar

from python_on_whales import DockerClient
from python_on_whales.client_config import ClientNotFoundError
from python_on_whales.exceptions import DockerException

from rbuild import process
from rbuild.compose import externals, rendering
from rbuild.compose.project import Target
from rbuild.docker import inspected
from rbuild.docker.engine import Container, EngineInfo, Image, Member, Port, Stopping
from rbuild.docker.inspected import LABEL, epoch
from rbuild.docker.reference import problem
from rbuild.errors import (
    BuildError,
    EngineError,
    InputError,
    PullError,
    PushError,
    UpError,
)
from rbuild.process import Log, Stop

# `--pull never` and `--no-build` of `up`, `include`, JSON of `config`: all there since 2.20.
LEAST_COMPOSE = (2, 20, 0)
QUERY_TIMEOUT = 60.0
# The engine remembers its last 256 events (moby, daemon/events), and shows one less.
_REMEMBERED = 250
_EXPLAINED = re.compile(r"Run 'docker.* --help'")
# How the CLI says that there is no way to the engine, and that no engine has answered.
_NO_WAY = re.compile(
    r"(?i)cannot connect|during connect|connection (?:refused|reset)|timeout|no such host"
)
_NO_ENGINE = re.compile(r"(?i)invalid character|unmarshal|\bEOF\b|end of json|page not found")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm/v7", "armv6l": "arm/v6"}


T = TypeVar("T")


class Whales:
    """The engine that the environment points at (DOCKER_HOST, DOCKER_CONTEXT …).

    `log` takes the output of builds, pulls and ups; `hold` are descriptors that every long
    command inherits.
    """

    def __init__(self, stop: Stop, log: Log | None = None, hold: Sequence[int] = ()) -> None:
        self._stop = stop
        self._log = log or Log()
        self._hold = hold
        self._info: EngineInfo | None = None
        self._config_folder = ""
        self._client = DockerClient()
        timeout = shutil.which("timeout")
        limits = [timeout, "-k", "5", f"{QUERY_TIMEOUT:.0f}"] if timeout else []
        self._quick = DockerClient(client_call=[*limits, "docker"])

    def check(self) -> EngineInfo:
        """See `engine.Engine.check`."""
        version = self._check_compose()
        return self._check_engine(version)

    def trust(self, info: EngineInfo) -> None:
        """See `engine.Engine.trust`."""
        self._info = info

    def _check_compose(self) -> str:
        """Compose's version; EngineError if it is missing or too old."""
        version = self._query(["compose", "version", "--short"])
        if version.code:
            raise EngineError(
                "docker has no compose plugin (`docker compose version` failed)",
                hint=f"install Compose {_dotted(LEAST_COMPOSE)} or newer "
                "(Debian: docker-compose, Ubuntu: docker-compose-v2, docker.com: "
                "docker-compose-plugin)",
                # Without the plugin, docker takes it for a mistake and explains itself: 26 at
                # length, 28 in five lines.
                detail="" if _EXPLAINED.search(version.tail) else _last(version.tail, 5),
            )
        numbers = tuple(int(n) for n in re.findall(r"\d+", version.output)[:3])
        if not numbers:
            raise _strange("compose version --short", version.output)
        if numbers < LEAST_COMPOSE:
            raise EngineError(
                f"Compose {version.output.strip()} is too old",
                hint=f"rbuild needs {_dotted(LEAST_COMPOSE)} or newer",
            )
        return version.output.strip()

    def _check_engine(self, compose: str) -> EngineInfo:
        answer = self._query(["info", "--format", "{{json .}}"])
        info = _json(answer.output, dict)
        problems = (info or {}).get("ServerErrors") or []
        if answer.code or problems:
            raise _unreachable("\n".join(problems) or answer.tail)
        if not info or not info.get("ServerVersion"):
            raise _strange("info", answer.output)
        kinds = dict(one[:2] for one in info.get("DriverStatus") or () if len(one) >= 2)
        clock = epoch(info.get("SystemTime", ""))
        machine = str(info.get("Architecture", ""))
        self._info = EngineInfo(
            version=info["ServerVersion"],
            clock_ahead=clock - time.time() if clock else 0.0,
            containerd_store=kinds.get("driver-type", "").startswith("io.containerd.snapshotter"),
            platform=os.environ.get("DOCKER_DEFAULT_PLATFORM")
            or f"{info.get('OSType', 'linux')}/{_ARCHITECTURES.get(machine, machine)}",
            # One that has another name (far away, or around our container) has other ports.
            here=info.get("Name") == socket.gethostname(),
            compose=compose,
            root=str(info.get("DockerRootDir") or ""),
            swarm=(info.get("Swarm") or {}).get("LocalNodeState") == "active",
        )
        return self._info

    def render(
        self, target: Target, *, service_extensions: bool = False
    ) -> tuple[dict[str, Any], str]:
        """See `engine.Engine.render`."""
        result = told = self._config(target, "json")
        full = None
        if result.code or service_extensions:
            # The first try may have failed by chance: Compose 2.26 refuses nested extends at random
            # ("Circular reference").
            full = told = self._config(target, "yaml", tries=1 if result.code else 2)
            if full.code:
                self._refuse(target, full)
        if result.code:
            result = self._config(target, "json")
        where = f"{target.folder}: as rendered"
        rendered: dict[str, Any] | None
        if result.code and full:
            rendered = rendering.from_yaml(full.output, where)
        else:
            rendered, told = rendering.from_json(result.output), result
        if rendered is None:
            self._check_compose()
            raise EngineError(
                f"{target.folder}: `docker compose config --format json` gave no JSON",
                detail=_last(result.output, 5),
            )
        if service_extensions and full:
            for name, extensions in rendering.service_extensions(full.output, where).items():
                rendered["services"][name].update(extensions)
        if any("models" in service for service in rendered["services"].values()):
            # JSON leaves out what they refer to at the top.
            full = full or self._config(target, "yaml")
            rendered["models"] = rendering.from_yaml(full.output, where)["models"]
        rendering.settle_ssh(rendered)
        return _single_dollars(rendered), told.tail

    def _config(self, target: Target, form: str, *, tries: int = 1) -> process.Result:
        argv = [*_compose(target), "config", "--format", form]
        result = self._query(argv, target=target)
        if result.code and not result.timed_out and tries > 1:
            result = self._query(argv, target=target)
        if result.timed_out:
            raise EngineError(f"{target.folder}: `docker compose config` took too long")
        return result

    def _refuse(self, target: Target, result: process.Result) -> NoReturn:
        # A Compose that is missing or too old refuses projects as well, and so does a CLI that
        # is to use a context which isn't there.
        self._check_compose()
        context = self._query(["context", "inspect"])
        if context.code:
            raise _unreachable(context.tail)
        where = ":".join(target.files) or target.folder
        raise InputError(
            f"{where}: Compose refuses this project",
            detail=result.tail,
            hint="`docker compose config` shows the same",
        )

    def image_names(self, target: Target) -> list[str]:
        """See `engine.Engine.image_names`."""
        result = self._query([*_compose(target), "config", "--images"], target=target)
        if result.code:
            raise EngineError(f"{target.folder}: Compose can't name its images",
                              detail=result.tail)  # fmt: skip
        return result.output.split()

    def all_services(self, target: Target) -> frozenset[str]:
        """See `engine.Engine.all_services`."""
        argv = [*_compose(target), "--profile", "*", "config", "--services"]
        result = self._query(argv, target=target)
        if result.code:
            raise EngineError(f"{target.folder}: Compose can't list its services",
                              detail=result.tail)  # fmt: skip
        return frozenset(result.output.split())

    def hashes(self, target: Target) -> dict[str, str]:
        """See `engine.Engine.hashes`."""
        result = self._query([*_compose(target), "config", "--hash", "*"], target=target)
        if result.code:
            raise EngineError(f"{target.folder}: Compose can't hash its services",
                              detail=result.tail)  # fmt: skip
        pairs = (line.split() for line in result.output.splitlines())
        return {one[0]: one[1] for one in pairs if len(one) == 2}

    def containers(self, project: str) -> list[Container]:
        """See `engine.Engine.containers`."""
        wanted = f"label={LABEL}project={project}"
        ids = self._lines(["container", "ls", "-aq", "--no-trunc", "--filter", wanted])
        found = self._inspect("container", ids, inspected.container)
        return [one for one in found if not one.oneoff]

    def members(self) -> list[Member]:
        """See `engine.Engine.members`."""
        wanted = ("project", "project.config_files", "project.working_dir", "oneoff")
        parts = ["{{json .ID}}", "{{json .Names}}"]
        parts += [f'{{{{json (.Label "{LABEL}{name}")}}}}' for name in wanted]
        argv = ["container", "ls", "-a", "--no-trunc", "--filter", f"label={LABEL}project"]
        lines = self._answer([*argv, "--format", f"[{','.join(parts)}]"]).splitlines()
        return [
            Member(id, name, project, tuple(files.split(",")), folder, oneoff == "True")
            for id, name, project, files, folder, oneoff in map(json.loads, lines)
        ]

    def details(self, containers: Sequence[str]) -> dict[str, dict[str, Any]]:
        """See `engine.Engine.details`."""
        found = self._inspect("container", containers, dict)
        return {one["Id"]: one for one in found}

    def others(self, known: Collection[str]) -> list[Container]:
        """See `engine.Engine.others`."""
        ids = [one for one in self._lines(["container", "ls", "-aq", "--no-trunc"])
               if one not in known]  # fmt: skip
        return self.find(ids)

    def find(self, containers: Sequence[str]) -> list[Container]:
        """See `engine.Engine.find`."""
        return self._inspect("container", containers, inspected.container)

    def absent(self, things: Sequence[str]) -> list[str]:
        """See `engine.Engine.absent`."""
        kinds: dict[str, list[str]] = {}
        for thing in dict.fromkeys(things):
            kind, _, name = thing.rpartition(" ")
            kinds.setdefault(kind, []).append(name)
        here = {kind: self._present(kind, names) for kind, names in kinds.items()}
        return [f"{kind} {name}" for kind, names in kinds.items() for name in names
                if name not in here[kind]]  # fmt: skip

    def _present(self, kind: str, names: Sequence[str]) -> set[str]:
        """Those of the names that things of a kind have."""
        if kind == externals.NETWORK:
            if self._info and self._info.swarm:
                # A node knows only those of the swarm's networks that are used on it.
                return {*names}
            # By exact name or ID, as Compose has it; `inspect` takes a part of an ID, too.
            return {*self._lines(["network", "ls", "--no-trunc", "--format", "{{.ID}} {{.Name}}"])}
        if kind == externals.VOLUME:
            result = self._query(["volume", "inspect", "--format", "{{.Name}}", "--", *names])
            if result.timed_out:
                raise _unreachable(result.tail)
            # What a plugin doesn't tell, `up` will.
            gone = "no such volume" in result.tail.lower()
            return {*result.output.split()} if gone else {*names}
        return {
            name
            for one in self.find(names)
            if kind == externals.CONTAINER or one.state in ("running", "paused")
            for name in names
            if name == one.name or one.id.startswith(name)
        }

    def resource(self, kind: str, name: str) -> dict[str, Any] | None:
        """See `engine.Engine.resource`."""
        return next(iter(self._inspect(kind, [name], inspected.resource)), None)

    def publishers(self, port: Port) -> list[str]:
        """See `engine.Engine.publishers`."""
        wanted = f"publish={port.number}/{port.protocol}"
        ids = self._lines(["container", "ls", "-q", "--no-trunc", "--filter", wanted])
        found = self._inspect("container", ids, inspected.container)
        return [one.name for one in found if any(map(port.clashes, one.ports))]

    def used_images(self) -> frozenset[str]:
        """See `engine.Engine.used_images`."""
        ids = self._lines(["container", "ls", "-aq", "--no-trunc"])
        return frozenset(self._inspect("container", ids, itemgetter("Image")))

    def images(self, references: Sequence[str]) -> dict[str, Image]:
        """See `engine.Engine.images`."""
        # What can't be a name is no image's, and no question that an engine would understand.
        wanted = [name for name in dict.fromkeys(references) if not problem(name)]
        found = self._inspect("image", wanted, self._image)
        if len(found) == len(wanted):
            return dict(zip(wanted, found, strict=True))
        if len(wanted) == 1:
            return {}
        # The answer doesn't say whose it is; ask one by one who is absent.
        each = {name: self._inspect("image", [name], self._image) for name in wanted}
        return {name: one[0] for name, one in each.items() if one}

    def list_images(
        self, *, label: str = "", reference: str = "", dangling: bool = False
    ) -> list[Image]:
        """See `engine.Engine.list_images`."""
        argv = ["image", "ls", "-q", "--no-trunc"]
        for name, value in (("label", label), ("reference", reference)):
            if value:
                argv += ["--filter", f"{name}={value}"]
        if dangling:
            argv += ["--filter", "dangling=true"]
        ids = dict.fromkeys(self._lines(argv))
        return self._inspect("image", list(ids), self._image)

    def insecure_registries(self) -> frozenset[str]:
        """See `engine.Engine.insecure_registries`."""
        answer = self._answer(["info", "--format", "{{json .RegistryConfig}}"])
        registries = _json(answer, dict) or {}
        hosts = registries.get("IndexConfigs") or {}
        networks = registries.get("InsecureRegistryCIDRs") or []
        return frozenset([*(n for n, one in hosts.items() if not one.get("Secure")), *networks])

    def sign_in(self, config: str) -> None:
        """See `engine.Engine.sign_in`."""
        self._config_folder = config

    def push(self, reference: str, *, timeout: float) -> None:
        """See `engine.Engine.push`."""
        result = self._long(["push", "--", reference], timeout=timeout)
        if result.timed_out:
            raise PushError(f"{reference}: the push took longer than {timeout:.0f} s")
        if result.code:
            raise PushError(
                f"{reference}: cannot be pushed",
                detail=_last(result.tail, 5),
                hint="check the way to the registry, and that its credentials may write",
            )

    def pull(self, reference: str, platform: str, *, timeout: float) -> None:
        """See `engine.Engine.pull`."""
        argv = ["pull", *(["--platform", platform] if platform else []), "--", reference]
        result = self._long(argv, timeout=timeout)
        if result.timed_out:
            raise PullError(f"{reference}: the pull took longer than {timeout:.0f} s")
        if result.code:
            raise PullError(
                f"{reference}: cannot be pulled",
                detail=_last(result.tail, 5),
                hint="check its name, the way to the registry, and `docker login`",
                answer=inspected.answer(result.tail),
            )

    def build(
        self, target: Target, overlay: str, services: Sequence[str], *, pull: bool, timeout: float
    ) -> None:
        """See `engine.Engine.build`."""
        self._forget_contexts()
        argv = [*_compose(target, overlay), "build", "--no-cache"]
        argv += [*(["--pull"] if pull else []), "--", *services]
        result = self._long(argv, timeout=timeout, target=target)
        names = ", ".join(services)
        if result.timed_out:
            raise BuildError(
                f"the build of {names} took longer than {timeout:.0f} s",
                hint="raise --build-timeout if that is how long it takes",
                detail=_last(result.tail, 15),
            )
        if result.code:
            raise BuildError(f"the build of {names} failed", detail=result.tail)

    def up(self, target: Target, options: Sequence[str], *, timeout: float) -> None:
        """See `engine.Engine.up`."""
        argv = [*_compose(target), "up", "--detach", "--no-build", "--pull", "never"]
        result = self._long([*argv, *options], timeout=timeout, target=target)
        if result.timed_out:
            raise UpError(
                f"`up` did not end within {timeout:.0f} s",
                detail=_last(result.tail, 10),
                timed_out=True,
            )
        if result.code:
            raise UpError("`up` failed", detail=_last(result.tail, 10))

    def tag(self, image: str, reference: str) -> None:
        """See `engine.Engine.tag`."""
        self._stop.check()
        try:
            self._quick.image.tag(image, reference)
        except DockerException as error:
            raise EngineError(f"{image}: cannot be tagged {reference}",
                              detail=_text(error)) from None  # fmt: skip

    def remove_image(self, reference: str) -> bool:
        """See `engine.Engine.remove_image`."""
        self._stop.check()
        try:
            self._quick.image.remove(reference)
        except DockerException as error:
            self._log.line(f"{reference} stays: {_text(error)}")
            return False
        return True

    def stop_containers(self, containers: Sequence[str], *, timeout: float) -> None:
        """See `engine.Engine.stop_containers`."""
        result = self._long(["container", "stop", *containers], timeout=timeout)
        if result.timed_out or result.code:
            why = f" within {timeout:.0f} s" if result.timed_out else ""
            raise EngineError(f"containers cannot be stopped{why}", detail=_last(result.tail, 5))

    def remove_container(self, container: str) -> None:
        """See `engine.Engine.remove_container`."""
        self._stop.check()
        try:
            self._quick.container.remove(container, force=True)
        except DockerException as error:
            raise EngineError(f"container {container}: cannot be removed",
                              detail=_text(error)) from None  # fmt: skip

    def start_container(self, container: str) -> None:
        """See `engine.Engine.start_container`."""
        self._stop.check()
        try:
            self._quick.container.start(container)
        except DockerException as error:
            raise EngineError(f"container {container}: cannot be started",
                              detail=_text(error)) from None  # fmt: skip

    def rename_container(self, container: str, name: str) -> None:
        """See `engine.Engine.rename_container`."""
        self._stop.check()
        try:
            self._quick.container.rename(container, name)
        except DockerException as error:
            raise EngineError(f"container {container}: cannot be renamed {name}",
                              detail=_text(error)) from None  # fmt: skip

    def stopping(self, project: str, since: float) -> Stopping:
        """See `engine.Engine.stopping`."""
        # Of all that happens, so that it shows how far back the engine's memory goes.
        argv = ["events", "--since", f"{since:.3f}", "--until", f"{self._now():.3f}"]
        lines = self._answer([*argv, "--format", "{{json .}}"]).splitlines()
        events = [one for line in lines if (one := _json(line, dict))]
        signals = inspected.signals(events, project)

        def told(one: dict[str, Any]) -> str:
            is_ending = one["State"]["Running"] and inspected.ends(one, signals[one["Id"]])
            return str(one["Id"]) if is_ending else ""

        ending = filter(None, self._inspect("container", list(signals), told))
        return Stopping(frozenset(ending), whole=len(lines) < _REMEMBERED)

    def logs(self, container: str, lines: int) -> str:
        """See `engine.Engine.logs`."""
        # To a log that nobody keeps: both streams in their order, and no more than can be shown.
        argv = self._argv(["container", "logs", "--tail", str(lines), "--", container])
        env = _environment(None)
        return process.run(argv, stop=self._stop, timeout=QUERY_TIMEOUT, log=Log(), env=env).tail

    def _forget_contexts(self) -> None:
        """Have BuildKit read a build's contexts anew.

        `--no-cache` is about layers. BuildKit keeps what it was sent of a context as well, under
        the last part of the folder's path alone, and takes from there each file whose size and
        modification time are what they were: another project's, if its folder is named the same
        (https://github.com/moby/buildkit/issues/4950, https://github.com/docker/buildx/issues/3093).
        What another build is using at this moment stays, and may still be taken. A builder that
        can't do this builds all the same.
        """
        argv = self._argv(["builder", "prune", "--force", "--filter", "type=source.local"])
        self._log.line(f"$ {shlex.join(argv)}")
        result = process.run(argv, stop=self._stop, timeout=600, env=_environment(None))
        if result.timed_out or result.code:
            self._log.line(f"copies of build contexts stay: {_last(result.tail, 2)}")

    def prune_build_cache(self) -> None:
        """See `engine.Engine.prune_build_cache`."""
        result = self._long(["builder", "prune", "--force"], timeout=600)
        if result.code:
            raise EngineError("the build cache cannot be pruned", detail=_last(result.tail, 5))

    def _argv(self, arguments: Sequence[str]) -> list[str]:
        try:
            return [*map(str, self._client.client_config.docker_cmd), *arguments]
        except ClientNotFoundError:
            raise EngineError(
                f"no docker command on PATH ({os.environ.get('PATH', '')})",
                hint="install Docker's CLI; under cron, set PATH in the crontab",
            ) from None

    def _query(self, arguments: Sequence[str], target: Target | None = None) -> process.Result:
        return process.run(
            self._argv(arguments),
            stop=self._stop,
            timeout=QUERY_TIMEOUT,
            cwd=target.folder if target else None,
            env=_environment(target),
        )

    def _long(
        self, arguments: Sequence[str], *, timeout: float, target: Target | None = None
    ) -> process.Result:
        env = _environment(target)
        if self._config_folder:
            env["DOCKER_CONFIG"] = self._config_folder
        return process.run(
            self._argv(arguments),
            stop=self._stop,
            timeout=timeout,
            log=self._log,
            cwd=target.folder if target else None,
            env=env,
            pass_fds=self._hold,
        )

    def _now(self) -> float:
        """The engine's clock, epoch seconds."""
        return time.time() + (self._info.clock_ahead if self._info else 0.0)

    def _lines(self, arguments: Sequence[str]) -> list[str]:
        """The words that a query prints, IDs mostly."""
        return self._answer(arguments).split()

    def _answer(self, arguments: Sequence[str]) -> str:
        result = self._query(arguments)
        if result.timed_out:
            raise _too_late()
        if result.code:
            raise self._refusal(arguments, result)
        return result.output

    def _inspect(
        self, kind: str, references: Sequence[str], read: Callable[[dict[str, Any]], T]
    ) -> list[T]:
        """What `read` makes of those that exist, in their order; the CLI leaves out the rest."""
        if not references:
            return []
        command = [kind, "inspect", "--", *references]
        result = self._query(command)
        if result.timed_out:
            raise _too_late()
        if result.code and not re.search(rf"(?i)no such ({kind}|object)", result.tail):
            raise self._refusal(command, result)
        found = _json(result.output, list)
        try:
            if found is not None:
                return [read(one) for one in found]
        except (KeyError, TypeError, AttributeError, ValueError):
            pass
        raise _strange(f"{kind} inspect", result.output)

    def _refusal(self, command: Sequence[str], result: process.Result) -> EngineError:
        """Why a question got no answer: no engine was there to hear it, or it makes no sense."""
        alive = self._query(["version", "--format", "{{.Server.Version}}"])
        if alive.code or not alive.output.strip():
            return _unreachable(result.tail)
        return EngineError(
            f"`docker {shlex.join(command[:2])}` failed", detail=_last(result.tail, 5)
        )

    def _image(self, data: dict[str, Any]) -> Image:
        containerd = self._info is not None and self._info.containerd_store
        return inspected.image(data, containerd_store=containerd)


def _single_dollars(value: Any) -> Any:
    """Compose doubles every `$` in what it renders, also in keys, where it never reads one."""
    if isinstance(value, dict):
        return {name.replace("$$", "$"): _single_dollars(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_single_dollars(one) for one in value]
    return value.replace("$$", "$") if isinstance(value, str) else value


def _compose(target: Target, overlay: str = "") -> list[str]:
    """`docker compose` on a project's files.

    A folder's own choice is spelled out, lest Compose 2.26 prefer a parent folder's file to
    COMPOSE_FILE in .env. Where that choice lies in another folder, `-f` alone would read only
    that folder's .env; without `-f`, Compose reads both, the starting folder's winning.
    """
    argv = ["compose"]
    if target.name:
        argv += ["--project-directory", target.folder, "--project-name", target.name]
    if target.chosen and not _names_env_files():
        folder = os.path.dirname(target.chosen[0])
        dotenv = (os.path.join(folder, ".env"), os.path.join(target.folder, ".env"))
        if folder != target.folder:
            argv += [
                part for file in dotenv if os.path.isfile(file) for part in ("--env-file", file)
            ]
    files = (*(target.files or target.chosen), *([overlay] if overlay else ()))
    return [*argv, *(part for file in files for part in ("--file", file))]


def _names_env_files() -> bool:
    return any(os.environ.get(name) for name in ("COMPOSE_ENV_FILES", "COMPOSE_DISABLE_ENV_FILE"))


def _environment(target: Target | None) -> dict[str, str]:
    env = dict(os.environ)
    # What is removed as an orphan is our affair; .env must not say otherwise.
    env.update(COMPOSE_REMOVE_ORPHANS="false", COMPOSE_IGNORE_ORPHANS="false")
    env.update(COMPOSE_ANSI="never", COMPOSE_PROGRESS="plain", BUILDKIT_PROGRESS="plain")
    env.update(COMPOSE_MENU="false", DOCKER_CLI_HINTS="false", NO_COLOR="1")
    if target:
        # Compose names a project after $PWD where that is its folder, links and all.
        env["PWD"] = target.folder
    return env


def _unreachable(detail: str) -> EngineError:
    """The error for an engine that could not be asked, by what the CLI says of it."""
    places = "DOCKER_HOST and DOCKER_CONTEXT say where it's sought"
    if "permission denied" in detail.lower():
        message = "the Docker engine denies this user"
        hint = "run as root or as a member of the docker group"
    elif not detail or _NO_WAY.search(detail):
        message = "the Docker engine does not answer"
        hint = f"is it running (`docker info`)? {places}"
    elif _NO_ENGINE.search(detail):
        message = "something answers, but not as a Docker engine does"
        hint = places
    else:
        message = "the Docker engine can't be asked"
        hint = f"`docker info` shows the same; {places}"
    return EngineError(message, hint=hint, detail=_last(detail, 5))


def _strange(command: str, answer: str) -> EngineError:
    """The error for an answer that makes no sense."""
    return EngineError(
        f"`docker {command}` gives a strange answer",
        detail=_last(answer, 5) or "(nothing at all)",
        hint="is it a Docker engine that DOCKER_HOST or DOCKER_CONTEXT points at, and Docker's "
        "own command that is on PATH?",
    )


def _too_late() -> EngineError:
    return EngineError(f"the engine did not answer within {QUERY_TIMEOUT:.0f} s")


def _json(text: str, kind: type[T]) -> T | None:
    """What a JSON text holds; None if that is no `kind`."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, kind) else None


def _text(error: DockerException) -> str:
    return (error.stderr or str(error)).strip()


def _last(text: str, lines: int) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))
