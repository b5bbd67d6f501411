"""The command line: the one importer of click."""

from __future__ import annotations

import gc

# Collecting garbage while click is imported costs a tenth of a run with nothing to do; the
# part that works on projects turns it on again.
gc.disable()

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.core import ParameterSource

from rbuild import __version__, configfile
from rbuild.compose.project import Project, has_compose_file, locate
from rbuild.decisions.glance import Fresh, Run, glance
from rbuild.errors import RbuildError, UsageError
from rbuild.report import Outcome, document, error_lines, exit_code, problems, results
from rbuild.settings import (
    OPTIONS,
    BadValue,
    Given,
    Option,
    defaults_from_environment,
    duration,
    from_environment,
    switch,
)
from rbuild.state.record import CHECKS, Store, default_root
from rbuild.text import visible

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


_METAVARS = {"count": "N", "duration": "DURATION", "checks": "KINDS", "extent": "all|moved"}


class Setting(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """A click type that takes what a setting takes."""

    def __init__(self, option: Option) -> None:
        self.option = option
        self.name = option.parse.__name__

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Given:
        """The given value, with its origin."""
        if isinstance(value, Given):
            return value
        try:
            return Given(self.option.parse(str(value)), f"flag --{self.option.name}")
        except BadValue as error:
            self.fail(str(error), param, ctx)


class Period(click.ParamType):  # type: ignore[type-arg]
    """A click type for a number of seconds that is no setting of a project."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds."""
        try:
            return float(duration(str(value)))
        except BadValue as error:
            self.fail(str(error), param, ctx)


class Level(click.ParamType):  # type: ignore[type-arg]
    """A click type for how much is said: a number, or a yes or no from the environment."""

    name = "level"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number; 1 for a yes."""
        text = str(value).strip()
        try:
            return int(text) if text.isdecimal() else int(switch(text))
        except BadValue as error:
            self.fail(str(error), param, ctx)


class Command(click.Command):
    """A plain command; its usage errors name the environment variable that is to blame."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments. Raises click.UsageError."""
        return _parse(self, ctx, args)


class Main(click.Group):
    """`rbuild [PROJECT]...`, with a few commands beside it.

    A first word that is a command's name is that command; a project of that name is ./NAME, or
    stands behind an option.
    """

    # As with a plain command, options may stand behind projects.
    allow_interspersed_args = True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as a plain command: a group would take every word for a command."""
        at = self._command_at(args)
        if at is None:
            return _parse(self, ctx, args)
        # The options before it are the command's as well, or it says that they aren't.
        given = [args[at], *args[:at], *args[at + 1 :]]
        _parse(self, ctx, [])
        # Where completion looks for a command.
        ctx.args = given
        return given

    def _command_at(self, args: Sequence[str]) -> int | None:
        """Where the first word is, if that is a command."""
        take_values = {
            name
            for one in self.params
            if isinstance(one, click.Option) and not (one.is_flag or one.count)
            for name in one.opts
        }
        at = 0
        while at < len(args) and args[at].startswith("-") and args[at] != "--":
            at += 2 if args[at] in take_values else 1
        if at >= len(args) or args[at] not in self.commands:
            return None
        # Behind options, a folder of that name is a project.
        return at if at == 0 or not os.path.lexists(args[at]) else None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that the first word names, or update projects."""
        if ctx.args:
            name, *rest = ctx.args
            command = self.commands[name]
            # Without a parent, whose arguments would stand in the usage line.
            with command.make_context(f"{ctx.info_name} {name}", rest) as inner:
                return command.invoke(inner)
        return click.Command.invoke(self, ctx)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The usage of both forms."""
        formatter.write_usage(ctx.command_path, "[OPTIONS] [PROJECT]...")
        formatter.write_usage(ctx.command_path, "COMMAND [OPTIONS] [PROJECT]...")


def _parse(command: click.Command, ctx: click.Context, args: list[str]) -> list[str]:
    try:
        return click.Command.parse_args(command, ctx, args)
    except click.BadParameter as error:
        source = ctx.get_parameter_source(error.param.name or "") if error.param else None
        if error.param and source is ParameterSource.ENVIRONMENT:
            error.param_hint = f"{error.param.envvar} in the environment"
        raise


def _complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What a PROJECT may be completed to: a path, or a command in its place."""
    from click.shell_completion import CompletionItem

    commands = ctx.command.commands if isinstance(ctx.command, Main) else {}
    names = [
        name for name in commands if name.startswith(incomplete) and not ctx.params["projects"]
    ]
    return [*map(CompletionItem, names), CompletionItem(incomplete, type="file")]


def _shared(more: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Options that every command takes; `more` is what it says with --verbose."""
    decorators = (
        click.option("--json", "as_json", is_flag=True, envvar="RBUILD_JSON",
                     help="Print one JSON document.  [default: off]"),
        click.option("-v", "--verbose", count=True, type=Level(), envvar="RBUILD_VERBOSE",
                     help=f"Say more: {more}.  [default: off]"),
        click.option("--config", envvar="RBUILD_CONFIG", metavar="FILE",
                     type=click.Path(dir_okay=False),
                     help="Configuration file.  [default: ~/.config/rbuild/rbuild.yml, "
                     "else /etc/rbuild/rbuild.yml]"),
        click.option("--state-dir", envvar="RBUILD_STATE_DIR", metavar="FOLDER",
                     type=click.Path(file_okay=False),
                     help="Where records and logs are kept.  [default: /var/lib/rbuild for "
                     "root, else ~/.local/state/rbuild]"),
        # Whether one can be read is told of each by itself.
        click.argument("projects", nargs=-1, metavar="[PROJECT]...",
                       type=click.Path(readable=False), shell_complete=_complete),
    )  # fmt: skip

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for each in reversed(decorators):
            command = each(command)
        return command

    return decorate


def _settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """One option for each setting of a project."""
    for option in reversed(OPTIONS):
        if option.default is False:
            # Its environment variable is read with those of the others, in settings.
            decorate = click.option(
                f"--{option.name}/--no-{option.name}", option.field, default=None,
                help=f"{option.help}  [default: {option.shown_default}]",
            )  # fmt: skip
        else:
            decorate = click.option(
                f"--{option.name}", option.field, type=Setting(option),
                metavar=_METAVARS[option.parse.__name__],
                help=f"{option.help}  [default: {option.shown_default}]",
            )  # fmt: skip
        command = decorate(command)
    return command


def _lock_wait(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option of what works on a project, and may find another run at work there."""
    return click.option(
        "--lock-wait", type=Period(), default="0", envvar="RBUILD_LOCK_WAIT", metavar="DURATION",
        help="Wait this long for another run on the project to end.  [default: 0 s]",
    )(command)  # fmt: skip


@click.group(
    cls=Main,
    invoke_without_command=True,
    context_settings=_CONTEXT,
    epilog="A DURATION is a number of seconds, or 90s, 30m, 12h, 7d, 1w; KINDS are joined by "
    "commas, or all, or none. Every option has an environment variable, RBUILD_ and its name; "
    "BUILD_PERIOD, BUILD_TTL and UP_TIMEOUT_PERIOD work too.",
)
@_settings
@click.option(
    "--force-rebuild",
    is_flag=True,
    envvar="RBUILD_FORCE_REBUILD",
    help="Update even if nothing is due.  [default: off]",
)
@click.option(
    "--remove-images",
    is_flag=True,
    envvar="RBUILD_REMOVE_IMAGES",
    help="Update nothing; remove the images that rbuild built for these projects and "
    "no container uses.  [default: off]",
)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    envvar="RBUILD_ALL",
    help="Let the two above work on all projects of the configuration file.  [default: off]",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    default=1,
    envvar="RBUILD_JOBS",
    metavar="N",
    help="Projects to work on at a time.  [default: 1]",
)
@_lock_wait
@click.option(
    "-n",
    "--dry-run",
    is_flag=True,
    envvar="RBUILD_DRY_RUN",
    help="Print reasons and steps, change nothing.  [default: off]",
)
@click.option(
    "-q",
    "--quiet",
    is_flag=True,
    envvar="RBUILD_QUIET",
    help="Say nothing but failures and warnings.  [default: off]",
)
@_shared("why, until when, each step")
@click.version_option(__version__, "--version", prog_name="rbuild")
@click.pass_context
def main(_: click.Context, /, **given: Any) -> None:
    """Keep Docker Compose projects fresh.

    Each PROJECT is a compose file, a folder that holds one, or files joined by ':'. One that
    is stale (older than its build period, or changed) is built without cache on fresh bases,
    brought up, judged healthy, and cleaned up after. With nothing due, rbuild is silent.

    Without a PROJECT: the one in the current folder, else those of the configuration file.
    """  # fmt: skip
    with _Errors():
        _refuse_mistyped(given["projects"])
        sys.exit(_update(given))


@main.command(cls=Command, context_settings=_CONTEXT)
@_shared("each setting, and where it came from")
def status(**given: Any) -> None:
    """Tell what runs, how old it is, and what is due when."""
    with _Errors():
        run, arguments = _prepare(given, {})
        from rbuild import status as view

        found = view.gather(arguments, run, _cwd())
        try:
            if given["as_json"]:
                click.echo(json.dumps(view.document(found), indent=2))
            else:
                for line in view.lines(found, given["verbose"], time.time()):
                    click.echo(line)
        except OSError as error:
            _unsaid(error)
            sys.exit(1)
        sys.exit(1 if any(one.failure or one.problem for one in found) else 0)


@main.command(cls=Command, context_settings=_CONTEXT)
@click.option(
    "--to",
    metavar="GENERATION",
    default="",
    help="The kept generation to go back to.  [default: the newest]",
)
@click.option(
    "--force",
    is_flag=True,
    help="Go back also where that stops services that run now.",
)
@_lock_wait
@_shared("each step")
def rollback(**given: Any) -> None:
    """Bring a PROJECT back to what ran before its last update.

    It passes the same health gate as an update does. What is left is not tried again by
    itself until one of its files changes.
    """
    with _Errors():
        run, arguments = _prepare({**given, "dry_run": False}, {})
        if len(arguments) > 1:
            raise UsageError(
                "rollback takes one project at a time", hint=f"there are {len(arguments)} of them"
            )
        from functools import partial

        from rbuild import byhand, crew

        gc.enable()
        report = _Report({**given, "quiet": False})
        try:
            project = locate(arguments[0], _cwd())
        except RbuildError as error:
            report.add(
                Outcome(arguments[0], arguments[0], "failed", started=run.started, error=error)
            )
        else:
            task = partial(byhand.roll_back, to=given["to"], force=given["force"])
            crew.work(
                [project], run, report, jobs=1, task=task, lock_wait=given["lock_wait"],
                in_order=False,
            )  # fmt: skip
        sys.exit(report.close())


def _refuse_mistyped(projects: Sequence[str]) -> None:
    """Raise UsageError for a command that was mistyped.

    Else the projects behind it would be updated by who wants them rolled back.
    """
    word = projects[0] if projects else ""
    if not word.isalpha() or os.path.lexists(word):
        return
    import difflib

    near = difflib.get_close_matches(word, main.commands, n=1, cutoff=0.7)
    if near:
        raise UsageError(
            f"{word}: no such file, folder or command", hint=f"did you mean rbuild {near[0]}?"
        )


class _Errors:
    """The one place that turns an error of a whole run into a message and an exit code."""

    def __enter__(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            # An arrow is no reason to fail in a locale that has none.
            if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
                stream.reconfigure(errors="backslashreplace")

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, RbuildError):
            _fail(error)


def _unsaid(error: OSError) -> None:
    """What was to be said could not be; Python must not complain of that at exit as well."""
    with suppress(OSError):
        click.echo(f"rbuild: cannot say what came of it: {error.strerror}", err=True)
    for stream in (sys.stdout, sys.stderr):
        # Not those of a test.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _fail(error: RbuildError) -> NoReturn:
    for line in error_lines(error):
        click.echo(line, err=True)
    sys.exit(error.exit_code)


def _cwd() -> str:
    try:
        return os.getcwd()
    except OSError as error:
        raise UsageError(f"the current folder is gone: {error.strerror}") from None


def _prepare(given: Mapping[str, Any], flags: Mapping[str, Given]) -> tuple[Run, list[str]]:
    """What holds for the run, and the arguments that name its projects."""
    environ = dict(os.environ)
    root = os.path.normpath(os.path.join(_cwd(), given["state_dir"] or default_root(environ)))
    # `status` and a dry run change nothing, not even a cache.
    updates = "dry_run" in given and not given["dry_run"]
    config = configfile.read(given["config"] or "", environ, root, remember=updates)
    run = Run(
        started=time.time(),
        environ=environ,
        flags=flags,
        environment=from_environment(environ),
        defaults=defaults_from_environment(environ) | dict(config.defaults),
        store=Store(root),
        forced=given.get("force_rebuild", False),
        dry_run=given.get("dry_run", False),
    )
    return run, _arguments(given, config, run, once=updates)


def _arguments(
    given: Mapping[str, Any], config: configfile.ConfigFile, run: Run, *, once: bool
) -> list[str]:
    """The projects to work on. A glob that matches nothing is told `once`, or whenever asked."""
    environ = run.environ
    if given["projects"]:
        return list(given["projects"])
    if has_compose_file(_cwd(), environ):
        return [os.curdir]
    if config.projects:
        for flag in ("force_rebuild", "remove_images"):
            if given.get(flag) and not given["everything"]:
                raise UsageError(
                    f"--{flag.replace('_', '-')} on all projects of {config.path} needs --all",
                    hint="or name the project",
                )
        found, empty = configfile.expand(config)
        for pattern in empty:
            from rbuild.told import is_news

            # A disk that isn't mounted looks just like this.
            text = f"{config.path}: {pattern} matches nothing"
            if not once or is_news(pattern, run, text):
                with suppress(OSError):
                    click.echo(visible(f"rbuild: warning: {text}"), err=True)
        return found
    looked = config.path or ", ".join(configfile.places(environ))
    raise UsageError(
        f"no project: no compose file in {_cwd()}, no `projects:` in {looked}",
        hint="name a compose file or a folder, or see rbuild --help",
    )


def _update(given: dict[str, Any]) -> int:
    if given["remove_images"] and given["force_rebuild"]:
        raise UsageError("--remove-images and --force-rebuild exclude each other")
    flags = {}
    for option in OPTIONS:
        value = given[option.field]
        if value is not None:
            flags[option.name] = (
                value if isinstance(value, Given) else Given(value, f"flag --{option.name}")
            )
    run, arguments = _prepare(given, flags)
    report = _Report(given)
    unsure: list[Project] = []
    rests: list[Fresh] = []
    seen: set[str] = set()
    told: set[tuple[str, str]] = set()
    cwd = _cwd()
    for argument in arguments:
        try:
            project = locate(argument, cwd)
        except RbuildError as error:
            if given["projects"]:
                # Who types is answered each time.
                failed = Outcome(argument, argument, "failed", started=run.started, error=error)
            else:
                from rbuild.told import missing

                failed = missing(argument, run, error)
            report.add(failed)
            continue
        if project.spelling in seen:
            continue
        seen.add(project.spelling)
        found = None if given["remove_images"] else glance(project, run)
        if found is None:
            unsure.append(project)
        elif found.settings.check:
            rests.append(found)
        # Two spellings of one project are one project.
        elif (project.home, found.known.name) not in told:
            told.add((project.home, found.known.name))
            report.add(found.outcome)
            if os.path.exists(os.path.join(found.folder, CHECKS)) and not run.dry_run:
                from rbuild.state import checks

                checks.clear(found.folder)
    if unsure or rests:
        _look_closer(unsure, rests, run, report, given)
    return report.close()


def _look_closer(
    unsure: list[Project], rests: list[Fresh], run: Run, report: _Report, given: Mapping[str, Any]
) -> None:
    """Work on the projects that may be stale, and on those of `rests` under which all moves."""
    from rbuild.decisions.lookout import Lookout
    from rbuild.process import Stop

    def insecure() -> frozenset[str]:
        from rbuild import crew

        return crew.connect(stop, None, ()).insecure_registries()

    stop = Stop()
    stop.install()
    lookout = Lookout(run, stop, insecure)
    fresh, unsure = lookout.sort(rests, unsure)
    for one in fresh:
        report.add(one)
    if unsure:
        from rbuild import crew, refresh, removal

        gc.enable()
        task = removal.remove if given["remove_images"] else refresh.refresh
        crew.work(
            unsure, run, report, jobs=given["jobs"], task=task,
            lock_wait=given["lock_wait"], in_order=not given["remove_images"],
            stop=stop, lookout=lookout,
        )  # fmt: skip


class _Report:
    """Tells outcomes as they come, on stdout and stderr.

    Where nobody can be told (the terminal has gone, the disk is full), the work goes on, and the
    exit code says so if it would say nothing else.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._outcomes: list[Outcome] = []
        self._json: bool = given["as_json"]
        self._quiet: bool = given["quiet"]
        self._verbose: int = 0 if self._quiet else given["verbose"]
        self._terminal = sys.stderr.isatty()
        self._color = None if self._terminal and not os.environ.get("NO_COLOR") else False
        self._live = self._terminal and not self._quiet
        self._journal = _is_journal()
        self._steps: dict[str, str] = {}
        self._unsaid: OSError | None = None

    def add(self, one: Outcome) -> None:
        """A project has come to its end."""
        self._outcomes.append(one)
        # Either may be gone without the other.
        with self._said():
            self._clear()
            for priority, line in problems(one, self._terminal):
                prefix = f"<{priority}>" if self._journal else ""
                color = {3: "red", 4: "yellow"}.get(priority) if not line.startswith(" ") else None
                click.secho(prefix + line, err=True, fg=color, color=self._color)
        if not self._json:
            with self._said():
                for line in results([one], self._verbose, self._quiet):
                    click.echo(line)

    def tell(self, name: str, text: str, step: bool) -> None:
        """A project makes progress: a step begins, or its command has written a line."""
        with self._said():
            self._tell(name, text, step)

    def _tell(self, name: str, text: str, step: bool) -> None:
        if step and self._verbose:
            self._clear()
            prefix = "<6>" if self._journal else ""
            click.echo(prefix + visible(f"{name}: {text}"), err=True)
        if self._live:
            if step:
                self._steps[name] = text
            else:
                text = f"{self._steps.get(name, '')} | {text}"
            width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
            # Builds write escape sequences of their own.
            line = visible(f"{name}: {text}".expandtabs(1))
            click.echo(f"\r\033[K{line[: width - 1]}", nl=False, err=True)

    def close(self) -> int:
        """All projects have come to their end; the exit code."""
        code = exit_code(self._outcomes)
        with self._said():
            self._clear()
        with self._said():
            if self._json:
                click.echo(json.dumps(document(self._outcomes, code), indent=2))
        if self._unsaid is None:
            return code
        _unsaid(self._unsaid)
        return code or 1

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._unsaid = self._unsaid or error

    def _clear(self) -> None:
        if self._live:
            click.echo("\r\033[K", nl=False, err=True)


def _is_journal() -> bool:
    """Whether stderr goes to the journal (systemd.exec(5), JOURNAL_STREAM)."""
    stream = os.environ.get("JOURNAL_STREAM", "")
    try:
        info = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return stream == f"{info.st_dev}:{info.st_ino}"
