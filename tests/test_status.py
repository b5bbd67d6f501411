"""How a project stands, by its record and a look at its containers; and its exit code."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rbuild import status
from rbuild.cli import main
from rbuild.compose.project import locate
from rbuild.decisions.moves import Sighting
from rbuild.docker.engine import Container, Image
from rbuild.errors import EngineError
from rbuild.registries import sightings
from rbuild.state import checks, failure, generation
from rbuild.state.checks import Checks
from rbuild.state.generation import Kept
from rbuild.state.record import Record, Store, stamp, write

HOUR = 3600
DAY = 86400
KEYS = ["name", "path", "built", "due", "reasons", "services", "bases", "generations",
        "failure", "waits", "unchecked", "unasked", "problem", "settings"]  # fmt: skip


class Engine:
    """Shows containers, or doesn't answer."""

    def __init__(self) -> None:
        self.boxes: list[Container] = []
        self.error: EngineError | None = None
        self.here: set[str] = set()

    def images(self, references: Sequence[str]) -> dict[str, Image]:
        return {name: Image(name) for name in references if name in self.here}

    def containers(self, project: str) -> list[Container]:
        if self.error:
            raise self.error
        return self.boxes


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    found = Engine()
    monkeypatch.setattr(status, "_engine", lambda: found)
    return found


class Site:
    """A project with the record of an update an hour ago."""

    def __init__(self, folder: Path, state_dir: Path) -> None:
        folder.mkdir()
        (folder / "compose.yml").write_text("services: {}\n")
        self.path = str(folder)
        project = locate(self.path, "/")
        self.store = Store(str(state_dir))
        self.state = self.store.path("site", project.home)
        self.record = Record("site", project.home, stamp(time.time() - HOUR), key="00")
        view = {"paths": {}, "variables": {}, "settings": {"build-period": [86400, "x.yml:3"]}}
        self.record.views = {project.spelling: view}
        self.save()

    def save(self) -> None:
        self.store.make(self.state)
        write(self.state, self.record)

    def fails(self, kind: str, now: float | None = None, log: str = "/state/log") -> None:
        self.record.failed = failure.failed(
            None, inputs="aa", bases={}, kind=kind, message="web: not healthy", log=log,
            now=time.time() if now is None else now, build_period=86400,
        )  # fmt: skip
        self.save()


@pytest.fixture
def site(tmp_path: Path, state_dir: Path, engine: Engine) -> Site:
    return Site(tmp_path / "site", state_dir)


def said(site: Site, *more: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["status", *more, site.path], prog_name="rbuild")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout


def document(site: Site) -> dict[str, Any]:
    _, text = said(site, "--json")
    found = json.loads(text)
    assert list(found) == ["version", "projects"]
    (one,) = found["projects"]
    assert list(one) == KEYS
    return dict(one)


def test_all_is_well(site: Site, engine: Engine) -> None:
    engine.boxes = [
        Container("i", "site-web-1", "web", "sha256:1", "web", "running", "healthy",
                  started=time.time() - 60),
        Container("o", "once", "web", "sha256:1", "web", "running", oneoff=True),
    ]  # fmt: skip
    code, text = said(site)
    assert code == 0
    lines = text.splitlines()
    assert lines[0] == f"site  {site.path}"
    assert lines[1].endswith("(1 h ago)")
    assert lines[2].startswith("  due ")
    assert lines[3].split() == ["web", "running,", "healthy", "since", "1", "min", "web"]
    assert len(lines) == 4
    found = document(site)
    assert (found["failure"], found["problem"]) == (None, None)
    assert found["settings"]["build-period"] == {"value": 86400, "origin": "x.yml:3"}


def test_every_setting_is_told_with_where_it_comes_from(site: Site) -> None:
    (view,) = site.record.views.values()
    view["settings"] |= {
        "watch": [["debian:12", "redis"], "x.yml:4"],
        "up": [False, "x.yml:5"],
        "git.branch": ["main", "x.yml:6"],
        "registry-auth.hub.example": [["ada", "/srv/password"], "x.yml:7"],
        "hooks.before-update": [["/bin/sh", "-c", "pg_dump site"], "x.yml:8"],
        "hooks.on-failure": [["/bin/sh", "-c", "tell\n\x1b[31m"], "x.yml:9"],
    }
    site.save()
    _, text = said(site, "-v")
    told = [line.removeprefix("  setting   ") for line in text.splitlines() if "setting" in line]
    assert {
        "build-period = 86400 (x.yml:3)",
        "check = none (built-in)",
        "prune-image-cache = false (built-in)",
        "watch = debian:12, redis (x.yml:4)",
        "up = false (x.yml:5)",
        "git.branch = main (x.yml:6)",
        "registry-auth.hub.example = ada, /srv/password (x.yml:7)",
        "hooks.before-update = /bin/sh -c 'pg_dump site' (x.yml:8)",
        r"hooks.on-failure = /bin/sh -c 'tell\n\x1b[31m' (x.yml:9)",
    } <= {*told}
    found = document(site)["settings"]
    assert found["watch"] == {"value": ["debian:12", "redis"], "origin": "x.yml:4"}


def test_a_failed_update_is_told_with_its_next_try(site: Site) -> None:
    site.fails(failure.TOUCHED)
    code, text = said(site)
    assert code == 1
    failed = site.record.failed
    assert failed
    line = time.strftime("%Y-%m-%d %H:%M", time.localtime(failure.next_try(failed)))
    assert f"  failed    {failed['when']}: web: not healthy\n" in text
    assert f"  retry     when an input changes, or {line} (in 1 d); --force-rebuild tries" in text
    assert "  log       /state/log\n" in text
    assert document(site)["failure"] == {
        "when": failed["when"], "message": "web: not healthy", "log": "/state/log",
        "next": failed["next"],
    }  # fmt: skip


def test_one_whose_time_has_come_is_tried_now(site: Site) -> None:
    site.fails(failure.UNTOUCHED, time.time() - 2 * HOUR, log="")
    code, text = said(site)
    assert code == 1
    assert "  retry     when an input changes, or now; " in text
    assert "  log " not in text
    assert document(site)["failure"]["log"] is None


def test_what_a_person_left_has_no_next_try(site: Site) -> None:
    site.fails(failure.LEFT)
    code, text = said(site)
    assert code == 1
    failed = site.record.failed
    assert failed
    assert f"  left      {failed['when']}: web: not healthy\n" in text
    assert "  retry     when an input changes; --force-rebuild tries it now\n" in text
    assert document(site)["failure"]["next"] is None


def test_an_engine_that_does_not_answer(site: Site, engine: Engine) -> None:
    engine.error = EngineError("no answer", detail="it has", hint="start it")
    code, text = said(site)
    assert code == 1
    assert "  unknown   no answer\n            it has\n            start it\n" in text
    assert document(site)["problem"] == "no answer"


def test_a_project_that_was_never_updated(site: Site, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "compose.yml").write_text("services: {}\n")
    site.path = str(tmp_path / "new")
    code, text = said(site)
    assert code == 0
    assert "  updated   never by rbuild\n" in text
    assert "due       now (new: no record of an earlier update)" in text


def test_kept_generations_are_told(site: Site) -> None:
    stamps = ["20261102T030000Z", "20261101T030000Z"]
    for one in stamps:
        generation.write(site.state, generation.Generation(one, {}, {}), None)
    idle = ", ".join(f"{stamp} (nothing ran)" for stamp in stamps)
    assert f"  kept      {idle}\n" in said(site)[1]
    assert document(site)["generations"] == stamps


def test_generations_whose_images_are_gone_are_not_offered(site: Site, engine: Engine) -> None:
    stamps = [f"2026110{day}T030000Z" for day in (5, 4, 3, 2)]
    for number, one in enumerate(stamps):
        kept = {
            "web": Kept(f"sha256:{number}", f"rbuild/site/web:{one}", "site-web", up=("c",)),
            "job": Kept("sha256:job", f"rbuild/site/job:{one}", "site-job", rest=("d",)),
        }
        generation.write(site.state, generation.Generation(one, kept, {}), None)
    engine.here = {"sha256:1", f"rbuild/site/web:{stamps[3]}"}
    text = said(site)[1]
    assert f"  kept      {stamps[1]}, {stamps[3]}\n" in text
    assert f"  gone      {stamps[0]}: the kept image of web\n" in text
    assert document(site)["generations"] == [stamps[1], stamps[3]]
    engine.error = EngineError("no answer")
    assert document(site)["generations"] == stamps, "who knows"


def test_a_tag_that_is_gone_is_told(site: Site) -> None:
    checks.vanish(site.state, {"debian:1": True})
    code, text = said(site)
    assert (code, "  gone      debian:1: its tag, from the registry; " in text) == (0, True)


def test_a_project_that_could_not_be_read_is_told(site: Site) -> None:
    when = time.time() - HOUR
    checks.write(site.state, Checks(wrong="compose.yml:3: no\nthe detail", wrong_told=when))
    code, text = said(site)
    assert code == 1
    then = time.strftime("%Y-%m-%d %H:%M", time.localtime(when))
    message = f"the run of {then} could not work on it: compose.yml:3: no"
    assert f"  unknown   {message}\n            the detail\n" in text
    assert document(site)["problem"] == f"{message}\nthe detail"


def test_a_new_project_that_could_not_be_worked_is_told(site: Site) -> None:
    Path(site.state, "record.json").unlink()
    checks.write(site.state, Checks(wrong="Dockerfile: no", wrong_told=time.time()))
    code, text = said(site)
    assert code == 1
    assert "could not work on it: Dockerfile: no\n" in text


def test_a_new_project_that_could_not_be_read_is_told(site: Site, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "compose.yml").write_text("services: [\n")
    site.path = str(tmp_path / "new")
    folder = site.store.unread(site.path)
    site.store.make(folder)
    checks.tell(folder, "compose.yml:2:1: no", "key", time.time())
    code, text = said(site)
    assert code == 1
    assert "could not work on it: compose.yml:2:1: no\n" in text
    by_folder = site.path
    site.path += "/compose.yml"
    assert said(site)[0] == 1, "it is the same project, spelled in another way"
    site.path = by_folder
    checks.forget(folder)
    assert not Path(folder).exists()
    assert said(site)[0] == 0


def test_a_run_that_was_cut_off_is_told(site: Site) -> None:
    site.record.underway = {"since": "2026-11-01T03:00:00.000Z", "step": "bring up web",
                            "touched": True}  # fmt: skip
    site.save()
    _, text = said(site)
    assert "interrupted: the run of 2026-11-01T03:00:00.000Z ended during: bring up web" in text
    assert [one["kind"] for one in document(site)["reasons"]] == ["interrupted"]


def test_looking_changes_nothing(site: Site) -> None:
    site.fails(failure.TOUCHED)
    path = Path(site.state, "record.json")
    before = path.read_bytes(), path.stat().st_mtime_ns
    said(site, "-v")
    document(site)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_what_is_remembered_of_images_is_told_and_nobody_is_asked(
    site: Site, state_dir: Path
) -> None:
    now = time.time()
    old, new = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    names = [f"docker.io/library/{one}:1" for one in ("moved", "young", "gone", "same")]
    site.record.rests = {"base": {name: ["sha256:0", old] for name in names}, "image": {}}
    site.record.rests["base"]["docker.io/library/own:1"] = ["sha256:0"]
    (view,) = site.record.views.values()
    view["settings"] |= {"check": [["base"], "x.yml:4"], "min-age": [DAY, "x.yml:5"]}
    site.save()
    seen = {
        names[0]: Sighting(new, now - 2 * DAY, now),
        names[1]: Sighting(new, now - HOUR, now),
        names[2]: Sighting("", 0, now, "404: no such image or tag"),
        names[3]: Sighting(old, now - HOUR, now),
    }
    sightings.remember(str(state_dir), seen, {})
    _, text = said(site)
    assert f"due       now (base-moved: moved:1: {old[:19]} → {new[:19]})" in text
    assert f"  waits     young:1 {new[:19]}: seen for 1 h, taken in 23 h\n" in text
    assert "  unknown   not checked: gone:1: 404: no such image or tag\n" in text
    assert "same" not in text
    found = document(site)
    assert found["unchecked"] == ["not checked: gone:1: 404: no such image or tag"]
    unasked = "own:1: not asked for: exists only on this machine"
    assert found["unasked"] == [unasked]
    assert f"  unasked   {unasked}\n" in text
    (waits,) = found["waits"]
    assert list(waits) == ["image", "digest", "since", "until"]
    assert waits["until"] == stamp(now + DAY - HOUR)
