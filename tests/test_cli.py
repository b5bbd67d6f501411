"""The command line, as a person, a crontab and a shell's completion use it; without Docker."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rbuild import __version__, byhand, crew, refresh, removal
from rbuild.cli import _Report, main
from rbuild.decisions.glance import Run
from rbuild.decisions.staleness import Reason
from rbuild.errors import Deferred, RolledBack
from rbuild.report import Outcome
from rbuild.settings import OPTIONS


class Crew:
    """Stands in for the crew: takes what it is given, and says that all is updated."""

    def __init__(self) -> None:
        self.projects: list[str] = []
        self.options: dict[str, Any] = {}
        self.run: Run | None = None

    def work(self, projects: Sequence[Any], run: Run, listener: Any, **options: Any) -> None:
        self.projects = [one.path for one in projects]
        self.run, self.options = run, options
        for one in projects:
            listener.tell("site", "a step", True)
            listener.add(
                Outcome("site", one.path, "updated", started=run.started, notes=("a note",),
                        reasons=(Reason("new", "no record"),))
            )  # fmt: skip

    @property
    def settings(self) -> Any:
        assert self.run
        return self.run.settings({})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Crew:
    """What the crew was asked for; the current folder is empty."""
    taken = Crew()
    monkeypatch.setattr(crew, "work", taken.work)
    monkeypatch.chdir(tmp_path)
    return taken


def rbuild(*arguments: str, **env: str) -> Result:
    result = CliRunner().invoke(main, arguments, prog_name="rbuild", env=env)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def project(folder: Path, name: str = "compose.yml") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("services: {}\n")
    return str(folder / name)


# Help

FLAGS = [
    "--build-period", "--up-timeout-period", "--settle-period", "--monitor-period",
    "--build-timeout", "--hook-timeout", "--keep-images", "--prune-image-cache", "--check",
    "--check-period", "--min-age", "--update", "--force-rebuild",
    "--remove-images", "--all", "--jobs", "--lock-wait", "--dry-run", "--quiet", "--json",
    "--verbose", "--config", "--state-dir",
]  # fmt: skip


def test_help_states_every_option_with_its_default() -> None:
    text = rbuild("-h").output
    assert rbuild("--help").output == text
    options = text.partition("Options:")[2].partition("Commands:")[0]
    entries = re.split(r"\n  (?=-)", options)[1:]
    found = {}
    for entry in entries:
        (flag,) = re.findall(r"--[a-z-]+", entry.partition("  ")[0].split("/")[0])[-1:]
        found[flag] = " ".join(entry.split())
    assert sorted(found) == sorted([*FLAGS, "--version", "--help"])
    for flag in FLAGS:
        assert "[default: " in found[flag], flag
    assert "86400" in found["--build-period"]
    assert max(map(len, text.splitlines())) <= 100
    assert "rbuild [OPTIONS] [PROJECT]..." in text
    commands = text.partition("Commands:")[2].partition("\n\n")[0]
    assert re.findall(r"^  (\w+)", commands, re.M) == ["rollback", "status"]


def test_help_of_status() -> None:
    text = rbuild("status", "-h").output
    assert "Usage: rbuild status [OPTIONS] [PROJECT]..." in text
    assert "--json" in text
    assert "--force-rebuild" not in text


def test_help_of_rollback() -> None:
    text = rbuild("rollback", "-h").output
    assert "Usage: rbuild rollback [OPTIONS] [PROJECT]..." in text
    options = set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", text, re.M))
    assert options == {
        "--to", "--force", "--lock-wait", "--json", "--verbose", "--config", "--state-dir", "--help"
    }  # fmt: skip
    assert "back to what ran before its last update" in text


def test_version() -> None:
    assert rbuild("--version").output == f"rbuild, version {__version__}\n"
    argv = [sys.executable, "-m", "rbuild", "--version"]
    assert __version__ in subprocess.run(argv, capture_output=True, text=True, check=True).stdout


# Options


def test_the_original_command_lines(asked: Crew, tmp_path: Path) -> None:
    files = [project(tmp_path, "f1"), project(tmp_path / "2", "f2")]
    result = rbuild(
        "--build-period", "5", "--up-timeout-period", "6", "--force-rebuild", "f1", "2/f2"
    )
    assert result.exit_code == 0
    assert asked.projects == files
    assert (asked.settings.build_period, asked.settings.up_timeout_period) == (5, 6)
    assert asked.run
    assert asked.run.forced
    rbuild("f1", "--remove-images")
    options = {name: asked.options[name] for name in ("jobs", "task", "lock_wait")}
    assert options == {"jobs": 1, "task": removal.remove, "lock_wait": 0.0}


@pytest.mark.parametrize(
    ("flag", "text", "name", "value"),
    [
        ("--build-period", "7d", "build_period", 604800),
        ("--up-timeout-period", "90s", "up_timeout_period", 90),
        ("--settle-period", "0", "settle_period", 0),
        ("--build-timeout", "2h", "build_timeout", 7200),
        ("--check", "all", "check", ("base", "image", "git", "context")),
        ("--check-period", "15m", "check_period", 900),
        ("--min-age", "3d", "min_age", 259200),
        ("--update", "moved", "update", "moved"),
        ("--monitor-period", "3m", "monitor_period", 180),
        ("--hook-timeout", "3m", "hook_timeout", 180),
        ("--keep-images", "3", "keep_images", 3),
        ("--prune-image-cache", None, "prune_image_cache", True),
        ("--no-prune-image-cache", None, "prune_image_cache", False),
    ],
)
def test_settings(
    asked: Crew, tmp_path: Path, flag: str, text: str | None, name: str, value: Any
) -> None:
    given = [flag] if text is None else [flag, text]
    # A flag wins over the environment.
    other = {"check": "git", "update": "all"}.get(name) or {True: "0", False: "1"}.get(value, "9")
    env = {"RBUILD_" + name.upper(): other}
    rbuild(*given, project(tmp_path), **env)
    assert getattr(asked.settings, name) == value
    option = name.replace("_", "-")
    assert asked.settings.origins[option] == f"flag --{option}"


def test_every_setting_has_a_flag_and_a_variable() -> None:
    for option in OPTIONS:
        assert f"--{option.name}" in FLAGS
        assert option.environment[0] == "RBUILD_" + option.field.upper()


# Of every option: its variable, a value, and what tells that it was heard.
VARIABLES: list[tuple[str, str, Any]] = [
    ("RBUILD_BUILD_PERIOD", "5", lambda c, r: c.settings.build_period == 5),
    ("BUILD_PERIOD", "5", lambda c, r: c.settings.build_period == 5),
    ("BUILD_TTL", "5", lambda c, r: c.settings.build_period == 5),
    ("RBUILD_UP_TIMEOUT_PERIOD", "5", lambda c, r: c.settings.up_timeout_period == 5),
    ("UP_TIMEOUT_PERIOD", "5", lambda c, r: c.settings.up_timeout_period == 5),
    ("RBUILD_SETTLE_PERIOD", "6", lambda c, r: c.settings.settle_period == 6),
    ("RBUILD_BUILD_TIMEOUT", "6", lambda c, r: c.settings.build_timeout == 6),
    ("RBUILD_KEEP_IMAGES", "6", lambda c, r: c.settings.keep_images == 6),
    ("RBUILD_PRUNE_IMAGE_CACHE", "1", lambda c, r: c.settings.prune_image_cache),
    ("RBUILD_FORCE_REBUILD", "1", lambda c, r: c.run.forced),
    ("RBUILD_REMOVE_IMAGES", "1", lambda c, r: c.options["task"] is removal.remove),
    ("RBUILD_MONITOR_PERIOD", "6", lambda c, r: c.settings.monitor_period == 6),
    ("RBUILD_HOOK_TIMEOUT", "6", lambda c, r: c.settings.hook_timeout == 6),
    ("RBUILD_CHECK", "image,base", lambda c, r: c.settings.check == ("base", "image")),
    ("RBUILD_CHECK_PERIOD", "6", lambda c, r: c.settings.check_period == 6),
    ("RBUILD_MIN_AGE", "3d", lambda c, r: c.settings.min_age == 3 * 86400),
    ("RBUILD_UPDATE", "moved", lambda c, r: c.settings.update == "moved"),
    ("RBUILD_LOCK_WAIT", "2m", lambda c, r: c.options["lock_wait"] == 120.0),
    ("RBUILD_JOBS", "4", lambda c, r: c.options["jobs"] == 4),
    ("RBUILD_DRY_RUN", "1", lambda c, r: c.run.dry_run),
    ("RBUILD_QUIET", "1", lambda c, r: r.output == ""),
    ("RBUILD_JSON", "1", lambda c, r: json.loads(r.stdout)["version"] == 1),
    ("RBUILD_VERBOSE", "1", lambda c, r: "note: a note" in r.stdout and "a step" in r.stderr),
    ("RBUILD_STATE_DIR", "{}/state", lambda c, r: c.run.store.root == os.getcwd() + "/state"),
    ("RBUILD_CONFIG", "{}/my.yml", lambda c, r: c.settings.build_period == 7),
]


@pytest.mark.parametrize(("variable", "value", "heard"), VARIABLES)
def test_every_option_has_a_variable(
    asked: Crew, tmp_path: Path, variable: str, value: str, heard: Any
) -> None:
    (tmp_path / "my.yml").write_text("defaults: {build-period: 7}\n")
    path = project(tmp_path / "p")
    assert not_heard(rbuild(path), heard, asked)
    # An empty variable is none.
    assert not_heard(rbuild(path, **{variable: ""}), heard, asked)
    result = rbuild(path, **{variable: value.format(tmp_path)})
    assert result.exit_code == 0
    assert heard(asked, result)


def not_heard(result: Result, heard: Any, asked: Crew) -> bool:
    try:
        return not heard(asked, result)
    except ValueError:
        return True


def test_the_table_above_is_whole() -> None:
    named = {one.removeprefix("RBUILD_").replace("_", "-").lower() for one, _, _ in VARIABLES}
    assert {flag.removeprefix("--") for flag in FLAGS} - named == {"all"}


@pytest.mark.parametrize("flag", ["--force-rebuild", "--remove-images"])
def test_all_projects_of_the_configuration_need_a_word_more(
    asked: Crew, tmp_path: Path, flag: str
) -> None:
    path = project(tmp_path / "p")
    (tmp_path / "my.yml").write_text(f"projects: [{path}]\n")
    result = rbuild(flag, "--config", "my.yml")
    assert result.exit_code == 2
    assert f"{flag} on all projects of {tmp_path}/my.yml needs --all" in result.stderr
    for given in ([flag, "--all"], []):
        assert rbuild(*given, "--config", "my.yml").exit_code == 0
        assert asked.projects == [path]
    assert rbuild(flag, "--config", "my.yml", RBUILD_ALL="1").exit_code == 0
    asked.projects = []
    # With a project in the current folder, it is that one's.
    project(tmp_path)
    assert rbuild(flag, "--config", "my.yml").exit_code == 0
    assert asked.projects == [str(tmp_path)]


# Rollback


def test_a_rollback(asked: Crew, tmp_path: Path) -> None:
    path = project(tmp_path / "p")
    result = rbuild("rollback", "--to", "20261101T030000Z", "--lock-wait", "2m", "p")
    assert result.exit_code == 0
    assert asked.projects == [str(tmp_path / "p")]
    task = asked.options.pop("task")
    assert (task.func, task.args, task.keywords) == (
        byhand.roll_back, (), {"to": "20261101T030000Z", "force": False}
    )  # fmt: skip
    assert asked.options == {"jobs": 1, "lock_wait": 120.0, "in_order": False}
    assert asked.run
    assert not asked.run.dry_run
    # By default to the newest one, and in the current folder.
    os.chdir(tmp_path / "p")
    assert rbuild("rollback").exit_code == 0
    assert asked.projects == [str(tmp_path / "p")]
    assert asked.options["task"].keywords == {"to": "", "force": False}
    assert asked.options["lock_wait"] == 0.0
    assert rbuild("rollback", path, RBUILD_LOCK_WAIT="7").exit_code == 0
    assert asked.options["lock_wait"] == 7.0


@pytest.mark.parametrize("given", ["arguments", "file"])
def test_a_rollback_is_for_one_project_at_a_time(asked: Crew, tmp_path: Path, given: str) -> None:
    paths = [project(tmp_path / "1"), project(tmp_path / "2")]
    (tmp_path / "my.yml").write_text(f"projects: {json.dumps(paths)}\n")
    result = rbuild("rollback", *(paths if given == "arguments" else ("--config", "my.yml")))
    assert result.exit_code == 2
    assert "one project at a time" in result.stderr
    assert result.stdout == ""
    assert asked.projects == []


def test_a_rollback_of_what_is_no_project(asked: Crew, tmp_path: Path) -> None:
    result = rbuild("rollback", "nope")
    assert result.exit_code == 1
    assert "nope: no such file or folder" in result.stderr
    assert result.stdout == ""
    result = rbuild("rollback", "nope", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert [one["outcome"] for one in found["projects"]] == ["failed"]
    assert asked.projects == []


def test_a_project_that_is_called_rollback(asked: Crew, tmp_path: Path) -> None:
    project(tmp_path / "rollback")
    rbuild("./rollback")
    assert asked.projects == [str(tmp_path / "rollback")]
    assert asked.options["task"] is refresh.refresh


# Which projects


def test_a_project_named_twice_is_worked_once(asked: Crew, tmp_path: Path) -> None:
    path = project(tmp_path / "p")
    rbuild(path, "p/compose.yml", f"{tmp_path}/./p/compose.yml")
    assert asked.projects == [path]


def test_a_bad_project_does_not_stop_the_others(asked: Crew, tmp_path: Path) -> None:
    path = project(tmp_path / "p")
    result = rbuild("nope", path, "also/nope")
    assert asked.projects == [path]
    assert result.exit_code == 1
    assert "nope: no such file or folder\n  check the path" in result.stderr
    assert "also/nope: no such file" in result.stderr
    assert result.stdout.startswith("site: checked, nothing new")


def test_a_project_that_is_called_like_a_command(asked: Crew, tmp_path: Path) -> None:
    path = project(tmp_path / "status")
    assert rbuild("./status").exit_code == 0
    assert asked.projects == [str(tmp_path / "status")]
    rbuild("--force-rebuild", "status")
    assert asked.projects == [str(tmp_path / "status")]
    rbuild("-v", "status/compose.yml")
    assert asked.projects == [path]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-n", "rollback", "p"), "No such option"),
        (("--", "rollback", "p"), "did you mean rbuild rollback?"),
        (("rolback", "p"), "rolback: no such file, folder or command\n  did you mean rbuild roll"),
        (("stauts",), "did you mean rbuild status?"),
    ],
)
def test_a_command_that_is_mistyped_updates_nothing(
    asked: Crew, tmp_path: Path, arguments: Sequence[str], message: str
) -> None:
    project(tmp_path / "p")
    result = rbuild(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert asked.projects == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("-v", "rollback", "p"),
        ("--state-dir", "rollback", "rollback", "p", "--json"),
        ("--state-dir=s", "-v", "rollback", "--to", "x", "p"),
    ],
)
def test_a_command_behind_options(asked: Crew, tmp_path: Path, arguments: Sequence[str]) -> None:
    project(tmp_path / "p")
    assert rbuild(*arguments).exit_code == 0
    assert asked.projects == [str(tmp_path / "p")]
    assert asked.options["task"].func is byhand.roll_back


@pytest.mark.parametrize("word", ["states", "status.yml", "a/status"])
def test_a_project_that_is_missing_is_no_command(asked: Crew, tmp_path: Path, word: str) -> None:
    project(tmp_path / "p")
    (tmp_path / "states").mkdir()
    rbuild(word, "p")
    assert str(tmp_path / "p") in asked.projects


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("RBUILD_JOBS", "x", "RBUILD_JOBS in the environment: 'x' is not a valid"),
        ("RBUILD_LOCK_WAIT", "x", "RBUILD_LOCK_WAIT in the environment: 'x' is no duration"),
        ("RBUILD_VERBOSE", "x", "RBUILD_VERBOSE in the environment: 'x' is neither"),
    ],
)
def test_a_wrong_variable_is_named(asked: Crew, variable: str, value: str, message: str) -> None:
    for command in ((), ("rollback",)):
        result = rbuild(*command, ".", **{variable: value})
        assert result.exit_code == 2
        assert message in result.stderr
    assert "Invalid value for '--jobs'" in rbuild("--jobs", "x", RBUILD_JOBS="2").stderr


@pytest.mark.parametrize(
    ("value", "verbose"), [("1", True), ("yes", True), ("0", False), ("off", False), ("", False)]
)
def test_a_variable_says_more(asked: Crew, tmp_path: Path, value: str, verbose: bool) -> None:
    path = project(tmp_path / "p")
    assert ("note: a note" in rbuild(path, RBUILD_VERBOSE=value).stdout) is verbose
    assert rbuild("-v", path, RBUILD_VERBOSE=value).stdout.count("note: a note") == 1
    assert rbuild("-v", "-q", path, RBUILD_VERBOSE=value).stdout == ""


def test_a_project_that_is_called_like_an_option(asked: Crew, tmp_path: Path) -> None:
    path = project(tmp_path, "-n")
    rbuild("--", "-n")
    assert asked.projects == [path]
    assert asked.run
    assert not asked.run.dry_run


def test_no_project_says_where_it_looked(asked: Crew, tmp_path: Path) -> None:
    result = rbuild()
    assert result.exit_code == 2
    assert f"no compose file in {tmp_path}" in result.stderr
    assert os.environ["XDG_CONFIG_HOME"] + "/rbuild/rbuild.yml" in result.stderr
    assert "/etc/rbuild/rbuild.yml" in result.stderr
    assert asked.projects == []


# Usage errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--build-period", "soon", "p"], "'soon' is no duration"),
        (["--build-period", "-5", "p"], "'-5' is no duration"),
        (["--keep-images", "few", "p"], "'few' is no whole number"),
        (["--jobs", "0", "p"], "0 is not in the range"),
        (["--lock-wait", "soon", "p"], "'soon' is no duration"),
        (["--no-such-option", "p"], "No such option"),
        (["--force-rebuild", "--remove-images", "p"], "exclude each other"),
        (["--config", "nope.yml", "p"], "nope.yml: no such configuration file"),
        (["--config", ".", "p"], "is a directory"),
        (["--state-dir", "a-file", "p"], "is a file"),
        (["status", "--force-rebuild"], "No such option"),
        (["status", "--lock-wait", "5"], "No such option"),
        (["rollback", "--force-rebuild"], "No such option"),
        (["rollback", "--dry-run", "p"], "No such option"),
        (["rollback", "--to"], "requires an argument"),
        (["rollback", "--lock-wait", "soon", "p"], "'soon' is no duration"),
        (["--to", "20261101T030000Z", "p"], "No such option"),
        (["--build-period"], "requires an argument"),
    ],
)
def test_usage_errors(asked: Crew, tmp_path: Path, arguments: list[str], message: str) -> None:
    project(tmp_path / "p")
    (tmp_path / "a-file").touch()
    result = rbuild(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert asked.projects == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [("BUILD_TTL", "soon"), ("RBUILD_KEEP_IMAGES", "-1"), ("RBUILD_PRUNE_IMAGE_CACHE", "maybe"),
     ("RBUILD_LOCK_WAIT", "a while"), ("RBUILD_JOBS", "many"),
     ("RBUILD_FORCE_REBUILD", "perhaps"), ("RBUILD_CONFIG", "/nope.yml")],
)  # fmt: skip
def test_usage_errors_in_the_environment(
    asked: Crew, tmp_path: Path, variable: str, value: str
) -> None:
    project(tmp_path)
    result = rbuild(**{variable: value})
    assert result.exit_code == 2
    assert value in result.stderr
    assert asked.projects == []


# Output


def test_an_update_goes_to_stdout_and_progress_nowhere(asked: Crew, tmp_path: Path) -> None:
    result = rbuild(project(tmp_path))
    assert result.stdout == "site: checked, nothing new in 0 s (new: no record)\n"
    assert result.stderr == ""


def test_json_is_one_document_whatever_fails(asked: Crew, tmp_path: Path) -> None:
    result = rbuild("--json", "-v", "nope", project(tmp_path))
    found = json.loads(result.stdout)
    assert (found["exit_code"], result.exit_code) == (1, 1)
    assert [one["outcome"] for one in found["projects"]] == ["failed", "updated"]


def test_the_journal_gets_priorities(asked: Crew, tmp_path: Path) -> None:
    """JOURNAL_STREAM counts only where it names the very stream that we write to."""
    script = "import os, sys; s = os.fstat(2); os.environ['JOURNAL_STREAM'] = sys.argv.pop(1) or "
    script += "f'{s.st_dev}:{s.st_ino}'; from rbuild.cli import main; main(prog_name='rbuild')"
    for stream, line in (("", "<3>nope: no such"), ("1:1", "nope: no such")):
        argv = [sys.executable, "-c", script, stream, "nope"]
        done = subprocess.run(argv, capture_output=True, text=True)
        assert done.stderr.startswith(line)
        assert done.returncode == 1


# Odd worlds, in processes of their own


def real(*arguments: Any, **more: Any) -> subprocess.CompletedProcess[bytes]:
    argv = [sys.executable, "-m", "rbuild", *arguments]
    done = subprocess.run(argv, capture_output=True, **more)
    assert b"Traceback" not in done.stderr, done.stderr
    return done


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    script = f'cd gone; rmdir ../gone; exec {sys.executable} -P -m rbuild "$@"'
    for arguments in ([], ["x"], ["status"], ["rollback"]):
        (tmp_path / "gone").mkdir()
        argv = ["/bin/sh", "-c", script, "sh", *arguments]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert "the current folder is gone" in done.stderr


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
@pytest.mark.parametrize("command", [(), ("-v",), ("--json",), ("status",), ("status", "--json")])
def test_a_name_that_is_no_text(tmp_path: Path, command: Any, locale: str) -> None:
    env = {**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0", "PATH": "/nowhere"}
    done = real(*command, os.fsencode(tmp_path) + b"/\xff", env=env)
    assert done.returncode == 1


def test_a_reader_that_has_gone(tmp_path: Path) -> None:
    script = f"{sys.executable} -m rbuild --json nope | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def report_on_a_terminal(monkeypatch: pytest.MonkeyPatch, **given: Any) -> tuple[_Report, int]:
    """A report whose stderr is a terminal, and that terminal's other end."""
    master, slave = os.openpty()
    stream = os.fdopen(slave, "w", buffering=1)
    monkeypatch.setattr(sys, "stderr", stream)
    return _Report({"as_json": False, "verbose": 0, "quiet": False, **given}), master


@pytest.mark.parametrize("verbose", [0, 1])
@pytest.mark.parametrize(("outcome", "code"), [("updated", 1), ("deferred", 75), ("failed", 3)])
def test_a_terminal_that_has_gone(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    outcome: str,
    code: int,
    verbose: int,
) -> None:
    report, master = report_on_a_terminal(monkeypatch, verbose=verbose)
    report.tell("site", "build web", True)
    os.close(master)
    report.tell("site", "bring up web", True)
    report.tell("site", "a line", False)
    errors = {"deferred": Deferred("later"), "failed": RolledBack("it failed")}
    reasons = (Reason("new", "no record"),)
    report.add(Outcome("site", "/srv/site", outcome, reasons, error=errors.get(outcome)))
    assert report.close() == code
    monkeypatch.undo()
    # What still listens has heard it.
    assert ("site: checked" in capsys.readouterr().out) is (outcome == "updated")


def test_an_outcome_that_nobody_hears_of_is_no_success(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        report = _Report({"as_json": True, "verbose": 0, "quiet": False})
        report.add(Outcome("site", "/srv/site", "updated"))
        assert report.close() == 1


def test_a_full_disk_under_the_output_is_said(tmp_path: Path) -> None:
    script = f"{sys.executable} -m rbuild --json nope >/dev/full"
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "cannot say what came of it: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["status", "status --json"])
def test_a_full_disk_under_the_status_is_said(tmp_path: Path, command: str) -> None:
    path = project(tmp_path)
    script = f"{sys.executable} -m rbuild {command} {path} >/dev/full"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "cannot say what came of it: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_nobody_to_warn_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "rbuild.yml").write_text("projects: [nothing*, p]\n")
    project(tmp_path / "p")
    script = f"{sys.executable} -m rbuild --json --config rbuild.yml 2>/dev/full"
    env = {**os.environ, "PATH": "/nowhere"}
    done = subprocess.run(
        ["/bin/sh", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    (one,) = json.loads(done.stdout)["projects"]
    assert one["path"] == str(tmp_path / "p")


def test_a_locale_without_arrows(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONIOENCODING": "iso8859-1"}
    done = real(os.fsencode(tmp_path / "\u2192"), env=env)
    assert (done.returncode, b"Traceback" in done.stderr) == (1, False)
    assert b"\\u2192: no such file" in done.stderr


def test_a_state_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    done = real(project(tmp_path), env={**os.environ, "RBUILD_STATE_DIR": f"{tmp_path}/state/x"})
    assert done.returncode == 1
    assert b"cannot keep state here" in done.stderr


# Completion


def completed(words: str, count: int) -> list[str]:
    env = {**os.environ, "COMP_WORDS": words, "COMP_CWORD": str(count),
           "_RBUILD_COMPLETE": "bash_complete"}  # fmt: skip
    lines = real(env=env).stdout.decode().splitlines()
    return [line.partition(",")[2] for line in lines]


def test_completion() -> None:
    assert completed("rbuild --bu", 1) == ["--build-period", "--build-timeout"]
    assert completed("rbuild --force", 1) == ["--force-rebuild"]
    assert "status" in completed("rbuild st", 1)
    assert completed("rbuild status --js", 2) == ["--json"]
    assert "--force-rebuild" not in completed("rbuild status --", 2)
    assert "rollback" in completed("rbuild ro", 1)
    assert completed("rbuild rollback --t", 2) == ["--to"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_s_script(shell: str) -> None:
    done = real(env={**os.environ, "_RBUILD_COMPLETE": f"{shell}_source"})
    assert b"_RBUILD_COMPLETE" in done.stdout
