"""What `docker compose config` reads for a project: every path and every environment variable.

No Compose command lists them, so the project's files are walked here as Compose walks them. The
rules are those of compose-go 2.0 (Compose 2.26) to 2.9 (Compose 2.40); where the two differ, both
answers are named: one input too many costs a look, one too few hides a change.
"""

from __future__ import annotations

import os
import re
from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rbuild.compose.envfile import Assignment, assignments
from rbuild.compose.interpolation import expand, mentions
from rbuild.compose.yamlfile import Data, Document, load
from rbuild.errors import InputError

COMPOSE_NAMES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
"""A folder's compose file, the first that exists."""

OVERRIDE_NAMES = (
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
)
"""Its override file, the first that exists, whatever the compose file is called."""

CHOOSING_VARIABLES = ("COMPOSE_FILE", "COMPOSE_PATH_SEPARATOR")
"""Variables that choose the compose files where none are given."""

AMBIENT_VARIABLES = (
    "COMPOSE_COMPATIBILITY",
    "COMPOSE_CONVERT_WINDOWS_PATHS",
    "COMPOSE_DISABLE_ENV_FILE",
    "COMPOSE_ENV_FILES",
    "COMPOSE_PROFILES",
    "COMPOSE_PROJECT_NAME",
)
"""Variables that shape every project, whether its files mention them or not."""

MAX_INCLUDES = 1000
"""How often one project may include a file (the same file in another setting counts again)."""

_GO_TRUE = ("1", "t", "T", "true", "True", "TRUE")


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable that Compose looks at for the project.

    `required`: somewhere it is used bare (`$X`, `${X}`, `${X:?}`) or passed on (`environment:
    [X]`), and neither a default nor an env file of an include stands in for it.
    `where`: "file:line" of the first such use, else of the first use; "" for those that Compose
    itself looks at (AMBIENT_VARIABLES, CHOOSING_VARIABLES).
    """

    name: str
    required: bool
    where: str


@dataclass(frozen=True, slots=True)
class Inputs:
    """What decides what `docker compose config` says, the engine and Compose itself aside."""

    main_files: tuple[str, ...]
    """Absolute paths of the files that `-f` would name, in Compose's order."""
    compose_files: tuple[str, ...]
    """The main files, then those included and extended."""
    paths: tuple[str, ...]
    """Every absolute path whose content or presence counts, existing or not."""
    variables: tuple[Variable, ...]
    """By name, each once."""
    dotenv: frozenset[str]
    """Names that the project's own `.env` files (or COMPOSE_ENV_FILES) define."""
    remote: tuple[str, ...]
    """Includes and extends from git or a registry, as written: not walked."""
    documents: tuple[Document, ...] = ()
    """What the compose files hold, as far as it could be read and is a mapping."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Path → what is wrong, of compose files that couldn't be followed; Compose may know better."""
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What variables mean: the environment, and where it is silent the project's `.env` files."""


def walk(folder: str, files: Sequence[str], environ: Mapping[str, str]) -> Inputs:
    """The inputs of the project in `folder` (absolute), as `docker compose`, run there, reads it.

    `files` are those of `-f`, absolute or relative to `folder`; () for none. `environ` is the
    environment that Compose will get; its PWD should be `folder`, as it is in a shell.
    Missing files are named and otherwise passed over: Compose has the better message. Not named:
    what is read after the configuration (Dockerfiles, bind mounts, `file:` of configs, secrets).
    Raises nothing: what can't be read or isn't YAML may be something to Compose, and is `unread`.
    """
    found = _Walk()
    main, scope = _main_files(found, folder, files, environ)
    for path in main:
        found.add_compose_file(path)
    scope = replace(scope, env={"COMPOSE_PROJECT_NAME": found.name(main, scope), **scope.env})
    for path in main:
        try:
            found.model(path, scope, ())
        except RecursionError:
            found.unread[path] = f"{path}: include or extends goes too deep"
    for name in AMBIENT_VARIABLES + (() if files else CHOOSING_VARIABLES):
        found.variables.setdefault(name, Variable(name, False, ""))
    return Inputs(
        main_files=tuple(main),
        compose_files=tuple(found.compose_files),
        paths=tuple(found.paths),
        variables=tuple(found.variables[name] for name in sorted(found.variables)),
        dotenv=frozenset(found.dotenv),
        remote=tuple(found.remote),
        documents=tuple(
            one for path in found.loaded for one in found.loaded[path] if isinstance(one.data, dict)
        ),
        unread=found.unread,
        environ=scope.env,
    )


def _main_files(
    found: _Walk, folder: str, files: Sequence[str], environ: Mapping[str, str]
) -> tuple[list[str], _Scope]:
    """The files that `docker compose` starts from, and the scope in which it reads them."""
    env: dict[str, str] = dict(environ)
    asked = _join_all(folder, environ.get("COMPOSE_ENV_FILES", "").split(","))
    disabled = environ.get("COMPOSE_DISABLE_ENV_FILE", "") in _GO_TRUE

    def read_dotenv(base: str) -> None:
        names = asked or ([] if disabled else [_join(base, ".env")])
        own = found.env_files(names, _Scope((), env))
        found.dotenv.update(own)
        env.update({name: value for name, value in own.items() if name not in env})

    if files:
        # Compose reads the .env beside the first file, wherever it was started.
        main = _join_all(folder, files)
        base = os.path.dirname(main[0]) if main else folder
        read_dotenv(base)
        return main, _Scope((base,), env)
    read_dotenv(folder)
    if "COMPOSE_FILE" in env:
        separator = env.get("COMPOSE_PATH_SEPARATOR") or os.pathsep
        main = _join_all(folder, env["COMPOSE_FILE"].split(separator))
        if main and os.path.dirname(main[0]) != folder:
            read_dotenv(os.path.dirname(main[0]))
    else:
        main = found.first_existing(folder, COMPOSE_NAMES)
        if main:
            main += found.first_existing(folder, OVERRIDE_NAMES)
    base = os.path.dirname(main[0]) if main else folder
    return main, _Scope((base,), env)


@dataclass(frozen=True, slots=True)
class _Scope:
    """How a compose file's relative paths and variables are understood."""

    bases: tuple[str, ...]
    """Where relative paths start: one folder, or two where Compose's versions disagree."""
    env: Mapping[str, str]
    included_env: tuple[str, ...] = ()
    """The env files of the includes that lead here."""
    included_names: frozenset[str] = frozenset()
    """The names those files define."""


@dataclass(slots=True)
class _Walk:
    """What has been found so far, in order (dicts serve as ordered sets)."""

    compose_files: dict[str, None] = field(default_factory=dict)
    paths: dict[str, None] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    dotenv: set[str] = field(default_factory=set)
    remote: dict[str, None] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    loaded: dict[str, list[Document]] = field(default_factory=dict)
    settings: dict[str, list[Assignment]] = field(default_factory=dict)
    done: set[object] = field(default_factory=set)
    models: int = 0

    def first_existing(self, folder: str, names: Iterable[str]) -> list[str]:
        """The first of `names` in `folder`, if any; it and those that would win over it count."""
        for name in names:
            path = os.path.join(folder, name)
            self.paths[path] = None
            if os.path.exists(path):
                return [path]
        return []

    def add_compose_file(self, path: str) -> None:
        self.compose_files[path] = None
        self.paths[path] = None

    def documents(self, path: str) -> list[Document]:
        """What a compose file holds; nothing where it isn't a file (a pipe can't be read twice)."""
        self.add_compose_file(path)
        if path not in self.loaded:
            self.loaded[path] = []
            try:
                if os.path.isfile(path):
                    self.loaded[path] = load(path)
            except InputError as error:
                self.unread[path] = error.message
        return self.loaded[path]

    def use(self, name: str, required: bool, scope: _Scope, where: str) -> None:
        # Compose always sets the project's name itself.
        required = required and name not in scope.included_names | {"COMPOSE_PROJECT_NAME"}
        known = self.variables.get(name)
        if known is None or (required and not known.required):
            self.variables[name] = Variable(name, required, where)

    # Compose files

    def name(self, main: Iterable[str], scope: _Scope) -> str:
        """The name that Compose gives the project where COMPOSE_PROJECT_NAME doesn't."""
        given = os.path.basename(scope.bases[0])
        for path in main:
            for document in self.documents(path):
                name = _mapping(document.data).get("name")
                if isinstance(name, str):
                    given = expand(name, scope.env) or given
        return re.sub("[^a-z0-9_-]", "", given.lower()).lstrip("_-")

    def model(self, path: str, scope: _Scope, chain: tuple[str, ...]) -> None:
        """A compose file that is read whole: a main file or an included one."""
        key = (path, scope.bases, scope.included_env)
        if path in chain or key in self.done:
            return
        self.done.add(key)
        self.models += 1
        if self.models > MAX_INCLUDES:
            self.unread[path] = f"{path}: more than {MAX_INCLUDES} includes in one project"
            return
        for document in self.documents(path):
            self.scan(document, (), scope, binding=True)
            data = document.data
            if not isinstance(data, dict):
                continue
            for name in _mapping(data.get("services")):
                self.service(document, name, scope)
            for kind in ("configs", "secrets", "volumes"):
                self.home(document, (kind,), scope)
            for kind in ("configs", "secrets"):
                for name, source in _mapping(data.get(kind)).items():
                    variable = _mapping(source).get("environment")
                    if isinstance(variable, str):
                        where = f"{path}:{document.line(kind, name, 'environment')}"
                        self.pass_on(variable, scope, where)
            for entry in _items(data.get("include")):
                self.include(entry, scope, (*chain, path))

    def include(self, entry: Data, scope: _Scope, chain: tuple[str, ...]) -> None:
        form = entry if isinstance(entry, dict) else {"path": entry}
        targets = [path for text in _items(form.get("path")) for path in self.resolve(text, scope)]
        if not targets:
            return
        beside = os.path.dirname(targets[0])
        homes = self.resolve(form.get("project_directory"), scope) or [beside]
        env_files = [
            path for text in _items(form.get("env_file")) for path in self.resolve(text, scope)
        ] or [os.path.join(home, ".env") for home in homes]
        own = self.env_files(env_files, scope)
        # compose-go 2.0 resolves a service's paths beside the file, 2.9 in the project directory.
        inner = _Scope(
            bases=tuple(dict.fromkeys([*homes, beside])),
            env={**own, **scope.env},
            included_env=(*scope.included_env, *env_files),
            included_names=scope.included_names | own.keys(),
        )
        for path in targets:
            self.add_compose_file(path)
            self.model(path, inner, chain)

    def service(self, document: Document, name: str, scope: _Scope) -> None:
        key = (document.path, id(document), name, scope.bases, scope.included_env)
        if key in self.done or not isinstance(document.data, dict):
            return
        self.done.add(key)
        service = _mapping(_mapping(document.data.get("services")).get(name))
        at = ("services", name)
        self.scan(document, at, scope, binding=True)
        for kind in ("build", "env_file", "extends", "label_file", "volumes"):
            self.home(document, (*at, kind), scope)
        self.service_env_files(service, scope)
        for text in _items(service.get("label_file")):
            self.paths.update(dict.fromkeys(self.resolve(text, scope)))
        self.passed_on(document, (*at, "environment"), service.get("environment"), scope)
        args = _mapping(service.get("build")).get("args")
        self.passed_on(document, (*at, "build", "args"), args, scope)
        extends = service.get("extends")
        if extends is not None:
            self.extends(document, extends, scope)

    def extends(self, document: Document, extends: Data, scope: _Scope) -> None:
        form = extends if isinstance(extends, dict) else {"service": extends}
        base = form.get("service")
        name = expand(base, scope.env) if isinstance(base, str) else None
        if form.get("file") is None:
            places = [(document.path, scope)]
        else:
            places = [
                (path, replace(scope, bases=(os.path.dirname(path),)))
                for path in self.resolve(form["file"], scope)
            ]
        for path, inner in places:
            for other in self.documents(path):
                # All of the file is interpolated, but only the service's chain comes to matter.
                self.scan(other, (), inner, binding=False)
                if name:
                    self.service(other, name, inner)

    def scan(
        self, document: Document, keys: tuple[str, ...], scope: _Scope, *, binding: bool
    ) -> None:
        """Notes the variables in the strings below `keys`; none is required unless `binding`."""
        key = (document.path, id(document), keys, scope.included_env, binding)
        if key in self.done:
            return
        self.done.add(key)
        for text, line in document.strings(*keys):
            where = f"{document.path}:{line}"
            for name, required in mentions(text):
                self.use(name, required and binding, scope, where)

    def home(self, document: Document, keys: tuple[str, ...], scope: _Scope) -> None:
        """Notes HOME where one of the paths below `keys` begins with a `~`."""
        for text, line in document.strings(*keys):
            if _TILDE.match(expand(text, scope.env) or ""):
                self.use("HOME", True, scope, f"{document.path}:{line}")

    def resolve(self, text: Data, scope: _Scope) -> list[str]:
        """The paths that `text` may stand for; none where it is remote or can't be expanded."""
        path = expand(text, scope.env) if isinstance(text, str) else None
        if not path:
            return []
        if _REMOTE.match(path):
            self.remote[path] = None
            return []
        if path.startswith("~") and "HOME" in scope.env:
            path = os.path.join(scope.env["HOME"], path[1:].lstrip("/"))
        return [_join(base, path) for base in scope.bases]

    # Variables that are handed on, and files of them

    def passed_on(
        self, document: Document, keys: tuple[str, ...], entries: Data, scope: _Scope
    ) -> None:
        """`environment:` and `build: args:`, where a name without a value takes the caller's."""
        if isinstance(entries, dict):
            for name, value in entries.items():
                if value is None:
                    where = f"{document.path}:{document.line(*keys, name)}"
                    self.use(name, True, scope, where)
        elif isinstance(entries, list):
            for index, entry in enumerate(entries):
                if isinstance(entry, str):
                    where = f"{document.path}:{document.line(*keys, index)}"
                    self.pass_on(entry, scope, where)

    def pass_on(self, text: str, scope: _Scope, where: str) -> None:
        name = expand(text, scope.env)
        if name and "=" not in name:
            self.use(name, True, scope, where)

    def service_env_files(self, service: Mapping[str, Data], scope: _Scope) -> None:
        earlier: set[str] = set()
        for entry in _items(service.get("env_file")):
            form = entry if isinstance(entry, dict) else {"path": entry}
            for path in self.resolve(form.get("path"), scope):
                for setting in self.env_file(path):
                    raw = form.get("format") == "raw"
                    self.use_setting(path, setting, scope, earlier, raw=raw)
                    earlier.add(setting.name)

    def env_files(self, paths: Iterable[str], scope: _Scope) -> dict[str, str]:
        """What the env files define; their variables come from `scope`, then from lines above."""
        own: dict[str, str] = {}
        both = ChainMap(dict(scope.env), own)
        for path in paths:
            for setting in self.env_file(path):
                self.use_setting(path, setting, scope, own)
                if setting.value is None:
                    value = scope.env.get(setting.name)
                elif setting.reads:
                    value = expand(setting.value, both)
                else:
                    value = setting.value
                if value is not None:
                    own[setting.name] = value
        return own

    def use_setting(
        self,
        path: str,
        setting: Assignment,
        scope: _Scope,
        earlier: Iterable[str],
        *,
        raw: bool = False,
    ) -> None:
        where = f"{path}:{setting.line}"
        if setting.value is None:
            self.use(setting.name, setting.name not in earlier, scope, where)
        elif setting.reads and not raw:
            for name, required in mentions(setting.value):
                self.use(name, required and name not in earlier, scope, where)

    def env_file(self, path: str) -> list[Assignment]:
        """The settings of an env file; none where it isn't a readable file."""
        self.paths[path] = None
        if path not in self.settings:
            self.settings[path] = []
            # What can't be read is Compose's to report.
            if os.path.isfile(path) and os.access(path, os.R_OK):
                with open(path, encoding="utf-8-sig", errors="replace") as file:
                    self.settings[path] = assignments(file.read())
        return self.settings[path]


_TILDE = re.compile(r"~(?:[/:]|\Z)")
"""How a path (or `source:target`) in the caller's home begins: Compose asks HOME for it."""

_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|github\.com/|[\w.-]+@[\w.-]+:")
"""What Compose's remote loaders take: `oci://`, git URLs, `git@host:path` (docs: include)."""


def _join(base: str, path: str) -> str:
    return os.path.normpath(os.path.join(base, path))


def _join_all(folder: str, names: Iterable[str]) -> list[str]:
    """`-` (standard input) is no path."""
    return [_join(folder, name) for name in names if name not in ("", "-")]


def _items(value: Data) -> list[Data]:
    """Compose's "one or a list of"."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _mapping(value: Data) -> Mapping[str, Data]:
    return value if isinstance(value, dict) else {}
