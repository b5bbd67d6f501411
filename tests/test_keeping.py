"""What is kept of what runs: images, containers, and the configuration that each was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rbuild.compose.configuration import parse
from rbuild.compose.project import Target
from rbuild.docker.engine import Container, EngineInfo, Image
from rbuild.errors import EngineError, InputError
from rbuild.state import generation
from rbuild.state.generation import RUNNING, Generation
from rbuild.state.record import Record
from rbuild.updates import keeping

STAMP = "20261101T030000Z"


def rendered(**services: Any) -> dict[str, Any]:
    found = {name: {"command": command, "image": name} for name, command in services.items()}
    return {"name": "site", "services": found}


class Engine:
    """Knows Compose's hash of what a file says, its command; and what containers show."""

    def __init__(self) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self.fails = False
        self.now: Mapping[str, Any] = {}
        """What the project's own files say."""
        self.boxes: Sequence[Container] = ()
        self.shown: dict[str, Any] = {}
        """What HostConfig has beside the usual, by service."""
        self.gone: set[str] = set()
        self.refuses = ""

    def _read(self, target: Target) -> Mapping[str, Any]:
        assert target.folder == "/srv/site"
        if not target.files:
            return self.now
        assert target.name == "site"
        source, _ = generation.read_configuration(target.files[0])
        assert source
        return source

    def hashes(self, target: Target) -> dict[str, str]:
        source = self._read(target)
        if self.fails:
            raise EngineError("no answer")
        self.asked.append(source)
        return {
            name: " ".join([one["command"], *(one[k] for k in ("network_mode",) if k in one)])
            for name, one in source["services"].items()
        }

    def render(self, target: Target, **more: Any) -> tuple[Mapping[str, Any], str]:
        if self.refuses:
            raise InputError("refused", detail=self.refuses)
        return self._read(target), ""

    def details(self, containers: Sequence[str]) -> dict[str, Any]:
        return {
            one.id: {
                "Id": one.id, "Name": f"/site-{one.service}-1",
                "Config": {"Image": one.reference, "Cmd": f"shown by {one.id}",
                           "Labels": {"com.docker.compose.service": one.service}},
                "HostConfig": {"NetworkMode": "none", **self.shown.get(one.service, {})},
            }
            for one in self.boxes
            if one.id in containers
        }  # fmt: skip

    def images(self, references: Sequence[str]) -> dict[str, Image]:
        return {name: Image(name) for name in references if name not in self.gone}


class Stage:
    """A project whose files say something now, and containers that were made from something."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.engine = Engine()
        self.known: Record | None = None
        self.missing: dict[str, str] = {}
        """Services that could not be brought back, of what was kept last."""
        self.info = EngineInfo("1", 0.0, False, "linux/amd64", compose="2.26.1")

    def started_from(self, source: Mapping[str, Any], **containers: list[str]) -> None:
        """The last good update started these containers from that."""
        digest = generation.write_configuration(f"{self.folder}/{RUNNING}", source)
        services = {
            name: {"containers": sorted(ids), "scale": 1, "shape": name}
            for name, ids in containers.items()
        }
        self.known = Record("site", "/srv/site", built="2026-10-01T00:00:00.000Z",
                            digests={"configuration": "aa"}, services=services,
                            configuration=digest)  # fmt: skip

    def keep(self, now: Mapping[str, Any], boxes: Sequence[Container], **more: Any) -> Generation:
        loaded: Any = SimpleNamespace(
            folder=self.folder,
            rendered=now,
            configuration=parse(now, "/srv/site"),
            target=Target("/srv/site", ()),
            project=SimpleNamespace(home="/srv/site"),
            digests={},
            data={},
        )
        self.engine.now, self.engine.boxes = now, boxes
        given: dict[str, Any] = {"names": {}, "left": {}, "failing": [], "stamp": STAMP} | more
        engine: Any = self.engine
        kept, self.missing = keeping.keep(
            loaded, self.known, boxes, engine=engine, info=self.info, **given
        )
        return kept

    def configured(self) -> dict[str, Any]:
        """By service: the command that is kept for it."""
        path = generation.configuration_path(self.folder, STAMP)
        source, _ = generation.read_configuration(path)
        assert source
        return {name: one["command"] for name, one in source["services"].items()}


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def box(service: str, id: str, state: str = "running", hash: str = "", **more: Any) -> Container:
    return Container(id, f"site-{id}", service, f"sha256:{service}", service, state,
                     config_hash=hash, **more)  # fmt: skip


# Images and containers


def test_what_is_kept(stage: Stage) -> None:
    stage.started_from(rendered(web="a", db="b", migrate="c"))
    boxes = [
        box("web", "w2", started=9),
        replace(box("web", "w1", started=5), image="sha256:older", reference="web:older"),
        box("web", "w3", "exited"),
        box("web", "half", "created", replaces="w1"),
        box("web", "once", oneoff=True),
        box("db", "d1", "paused"),
        box("migrate", "m1", "exited"),
        box("orphan", "o1"),
    ]
    one = stage.keep(
        rendered(web="a", db="b", migrate="c", new="d"), boxes,
        names={"web": "sha256:web"}, left={"db": "paused"}, failing=["orphan"],
    )  # fmt: skip
    assert one == generation.read(stage.folder, STAMP)
    # Of several containers, the one that has run longest.
    web = one.services["web"]
    assert (web.image, web.reference) == ("sha256:older", "web:older")
    assert web.tag == f"rbuild/site/web:{STAMP}"
    assert (web.up, web.rest) == (("w2", "w1"), ("w3",))
    assert (one.services["db"].up, one.services["db"].left) == (("d1",), "paused")
    assert (one.services["migrate"].up, one.services["migrate"].rest) == ((), ("m1",))
    assert [name for name, kept in one.services.items() if kept.failing] == ["orphan"]
    assert set(one.services) == {"web", "db", "migrate", "orphan"}
    assert one.names == {"web": "sha256:web"}
    assert one.past["digests"] == {"configuration": "aa"}
    assert one.past["built"] == "2026-10-01T00:00:00.000Z"


def test_nothing_is_kept_where_nothing_is(stage: Stage) -> None:
    one = stage.keep(rendered(web="a"), [box("web", "once", oneoff=True)])
    assert one.services == {}
    assert generation.stamps(stage.folder) == []


def test_what_an_earlier_try_kept_stays(stage: Stage) -> None:
    first = stage.keep(rendered(web="a"), [box("web", "w1", hash="a")])
    assert stage.keep(rendered(web="b"), [box("web", "w2", hash="b")]) == first
    assert stage.configured() == {"web": "a"}


# From what they were started


def test_what_the_last_update_started_is_known_by_its_containers(stage: Stage) -> None:
    stage.started_from(rendered(web="old", db="old"), web=["w1", "w2"], db=["d1"])
    boxes = [box("web", "w2", hash="?"), box("web", "w1", hash="?"), box("db", "d1", hash="?")]
    one = stage.keep(rendered(web="new", db="new"), boxes)
    assert stage.configured() == {"web": "old", "db": "old"}
    assert set(one.configured) == {"web", "db"}
    assert stage.engine.asked == []


def test_what_a_person_started_since_is_known_by_its_hash(stage: Stage) -> None:
    """`docker compose up` by hand, with the files as they are now; or a mere `--scale`."""
    old = rendered(web="old", db="old", cache="old")
    stage.started_from(old, web=["w1"], db=["d1"], cache=["c1"])
    boxes = [
        box("web", "w2", hash="new"),
        box("db", "d1", hash="?"),
        box("cache", "c1", hash="old"),
        box("cache", "c2", hash="old"),
    ]
    one = stage.keep(rendered(web="new", db="new", cache="new"), boxes)
    assert stage.configured() == {"web": "new", "db": "old", "cache": "old"}
    assert set(one.configured) == {"web", "db", "cache"}


def test_what_is_known_by_nothing_is_as_its_container_shows(stage: Stage) -> None:
    stage.started_from(rendered(web="old"), web=["w1"])
    boxes = [box("web", "w2", hash="something else"), box("db", "d1", hash="now")]
    one = stage.keep(rendered(web="now", db="now"), boxes)
    assert stage.configured() == {"web": "shown by w2", "db": "now"}
    assert set(one.configured) == {"web", "db"}
    assert stage.missing == {}


def test_what_a_container_has_that_no_file_can_say_is_told(stage: Stage) -> None:
    stage.engine.shown = {"web": {"IOMaximumIOps": 5}, "gone": {"Links": ["a:b"]}}
    boxes = [box("web", "w1", hash="?"), box("gone", "g1", "exited", hash="?")]
    one = stage.keep(rendered(web="now"), boxes)
    assert set(one.configured) == {"web", "gone"}
    # What had ended is not brought back.
    assert set(stage.missing) == {"web"}
    assert "HostConfig.IOMaximumIOps" in stage.missing["web"]


def test_a_shared_namespace_is_hashed_with_the_container_that_has_it(stage: Stage) -> None:
    now: Any = rendered(web="now", vpn="now")
    now["services"]["web"]["network_mode"] = "service:vpn"
    stage.engine.shown = {"web": {"NetworkMode": "container:v1"}}
    boxes = [box("web", "w1", hash="now container:v1"), box("vpn", "v1", hash="now")]
    stage.keep(now, boxes)
    assert stage.configured() == {"web": "now", "vpn": "now"}


def test_what_compose_cannot_read_again_or_whose_image_is_gone_is_told(stage: Stage) -> None:
    stage.engine.refuses = "no such key"
    stage.engine.gone = {"sha256:web"}
    stage.keep(rendered(web="now", db="now"), [box("web", "w1", hash="now")])
    assert "no such key" in stage.missing["web"]
    stage.engine.refuses = ""
    stage.keep(rendered(web="now"), [box("web", "w1", hash="now")], stamp="20261102T030000Z")
    assert stage.missing == {"web": "its image is gone"}
    # Once Compose has read it, it isn't asked again.
    stage.engine.refuses = "no such key"
    stage.keep(rendered(web="now"), [box("web", "w1", hash="now")], stamp="20261103T030000Z")
    assert stage.missing == {"web": "its image is gone"}


def test_two_containers_from_two_configurations_are_as_the_older_one_shows(stage: Stage) -> None:
    stage.started_from(rendered(web="old"))
    boxes = [box("web", "w1", hash="old", started=5), box("web", "w2", hash="new", started=9)]
    assert stage.keep(rendered(web="new"), boxes).configured == ("web",)
    assert stage.configured() == {"web": "shown by w1"}


def test_a_service_that_is_no_longer_in_the_files_is_kept_from_what_it_ran(stage: Stage) -> None:
    stage.started_from(rendered(web="old", gone="old"), web=["w1"], gone=["g1"])
    one = stage.keep(rendered(web="new"), [box("web", "w1"), box("gone", "g1")])
    assert stage.configured() == {"web": "old", "gone": "old"}
    assert set(one.services) == {"web", "gone"}


def test_without_a_record_it_is_known_by_its_hash(stage: Stage) -> None:
    one = stage.keep(rendered(web="now"), [box("web", "w1", hash="now"), box("x", "x1")])
    assert stage.configured() == {"web": "now", "x": "shown by x1"}
    assert set(one.configured) == {"web", "x"}
    assert one.past == {}


@pytest.mark.parametrize("damage", ["half", "other", "gone"])
def test_a_running_configuration_that_is_not_the_record_s(stage: Stage, damage: str) -> None:
    """A half-written one, or one that a run left which was killed before its record."""
    stage.started_from(rendered(web="old"), web=["w1"])
    path = Path(stage.folder, RUNNING)
    match damage:
        case "half":
            path.write_text(path.read_text()[:20])
        case "other":
            path.write_text(json.dumps(rendered(web="old")))
        case "gone":
            path.unlink()
    one = stage.keep(rendered(web="new"), [box("web", "w1", hash="old")])
    assert one.configured == ("web",)
    assert stage.configured() == {"web": "old" if damage == "other" else "shown by w1"}


def test_what_it_asks_of_compose_leaves_nothing_behind(stage: Stage) -> None:
    stage.keep(rendered(web="now"), [box("web", "w1", hash="now")])
    stage.engine.fails = True
    stage.known = None
    for path in Path(stage.folder, "generations").iterdir():
        path.unlink()
    stage.keep(rendered(web="now"), [box("web", "w1", hash="now")])
    # Compose did not tell: the container does.
    assert stage.configured() == {"web": "shown by w1"}
    assert [one.name for one in Path(stage.folder).iterdir()] == ["generations"]


# Trouble, before an update


def test_who_is_in_trouble() -> None:
    boxes = [
        box("web", "w1", started=1),
        box("sick", "s1", health="unhealthy"),
        box("down", "d1", "exited", exit_code=3),
        box("once", "o1", "dead", oneoff=True),
    ]
    assert keeping.in_trouble(boxes, 1000.0) == ["sick", "down"]
