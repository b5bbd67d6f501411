"""The way back of an update that fails: what it brings back, leaves alone, and tells."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from .conftest import MakeSite
from .engines import machine_engine
from .projects import Ran, Site, new_site
from .watching import wait_until

FAILS = 'CMD ["sh", "-c", "echo last words; exit 4"]'
SERVES = 'CMD ["httpd", "-f", "-p", "80", "-h", "/www"]'


def change(site: Site, *services: str, to: str = "two") -> None:
    """Let services serve something else, in a way that rbuild finds due."""
    for name in services:
        site.write(f"{name}/page", f"{name} {to}\n")
        path = site.folder / name / "Dockerfile"
        path.write_text(re.sub(r"(LABEL to=\S+\n)?CMD", f"LABEL to={to}\nCMD", path.read_text()))


def breaks(site: Site, service: str) -> None:
    """Let a service exit as soon as it is started."""
    site.edit(f"{service}/Dockerfile", SERVES, FAILS)


def mends(site: Site, service: str) -> None:
    """Let a service serve again."""
    site.edit(f"{service}/Dockerfile", FAILS, SERVES)


def up(site: Site) -> Site:
    """Bring a site up; it answers."""
    ran = site.rbuild()
    assert ran.code == 0, ran.err
    good = {name: f"{name} one" for name in site.ports}
    assert site.answers_soon(good) == good
    return site


def running(site: Site, service: str) -> list[str]:
    """The IDs of the running containers of a service."""
    return sorted(
        one["Id"]
        for one in site.containers()
        if one["Config"]["Labels"]["com.docker.compose.service"] == service
        and one["State"]["Status"] == "running"
    )


# ---------------------------------------------------------------- one fall, many sides

STACK = """\
  still:
    image: $BASE
    init: true
    command: httpd -f -p 80 -h /data
    ports: ["127.0.0.1:$PORT_STILL:80"]
    volumes: ["data:/data:ro"]
  migrate:
    build: migrate
    volumes: ["data:/data"]
  worker:
    build: worker
    stop_signal: SIGKILL
  extra:
    image: $BASE
    stop_signal: SIGKILL
    command: sleep 1000
    profiles: [by-hand]
volumes: {data: }
"""
WEB = """\
volumes: ["data:/data"]
depends_on: {migrate: {condition: service_completed_successfully}}
"""


@dataclass
class Fall:
    """A site that went through a broken update, and how it was before."""

    site: Site
    ran: Ran
    before: dict[str, tuple[str, str, str]]
    workers: list[str]
    """Images that the workers ran."""


@pytest.fixture(scope="module")
def fall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fall]:
    """A stack after an update whose `web` failed, and that brought a service `new`."""
    folder = tmp_path_factory.mktemp("fall")
    site = new_site(machine_engine(), folder, {"web": WEB, "worker": None, "migrate": None})
    site.write("compose.yml", (site.folder / "compose.yml").read_text() + STACK)
    site.edit("migrate/Dockerfile", SERVES, "CMD cat /www/index.html >>/data/index.html")
    try:
        ran = site.rbuild()
        assert ran.code == 0, ran.err
        site.compose("--profile", "by-hand", "up", "-d", "extra")
        site.compose("up", "-d", "--no-deps", "--no-recreate", "--scale", "worker=2", "worker")
        good = {"web": "web one", "still": "migrate one"}
        assert site.answers_soon(good) == good
        before = site.starts()
        workers = [one["Image"] for one in site.containers() if "-worker-" in one["Name"]]

        change(site, "web", "worker", "migrate")
        breaks(site, "web")
        new = "  new:\n    image: $BASE\n    stop_signal: SIGKILL\n    command: sleep 1000\n"
        site.edit("compose.yml", "volumes: {data: }\n", new + "volumes: {data: }\n")
        yield Fall(site, site.rbuild(), before, workers)
    finally:
        site.remove()


def test_the_old_content_answers_again(fall: Fall) -> None:
    assert fall.ran.code == 3, fall.ran.err
    assert not fall.ran.out
    assert fall.site.answers_soon({"web": "web one", "still": "migrate one\nmigrate two"}) == {
        "web": "web one",
        "still": "migrate one\nmigrate two",
    }


def test_a_service_that_did_not_change_is_not_touched(fall: Fall) -> None:
    name = f"{fall.site.name}-still-1"
    assert fall.site.starts()[name] == fall.before[name]


def test_what_a_person_started_from_a_profile_is_not_touched(fall: Fall) -> None:
    name = f"{fall.site.name}-extra-1"
    assert fall.site.starts()[name] == fall.before[name]


def test_a_scale_that_a_person_set_comes_back(fall: Fall) -> None:
    workers = [one for one in fall.site.containers() if "-worker-" in one["Name"]]
    assert [one["State"]["Status"] for one in workers] == ["running", "running"]
    assert [one["Image"] for one in workers] == fall.workers


def test_a_service_that_the_update_brought_is_gone(fall: Fall) -> None:
    assert not [name for name in fall.site.starts() if "-new-" in name]
    assert fall.site.leftovers() == []


def test_a_finished_one_shot_is_named_and_not_run_again(fall: Fall) -> None:
    # What `still` serves is what each run of it wrote: see above.
    assert re.search(r"migrate: ran once with the new image", fall.ran.err)


def test_volumes_that_the_new_image_may_have_written_are_named(fall: Fall) -> None:
    name = fall.site.name
    assert re.search(rf"web: its new image may have written to \S*{name}_data", fall.ran.err)
    assert "still: its new image" not in fall.ran.err


def test_one_report_has_what_failed_and_what_runs(fall: Fall) -> None:
    name = fall.site.name
    assert fall.ran.err.count(f"{name}: web: not healthy: rolled back\n") == 1
    assert re.search(rf"web: exited with code 4\n +{name}-web-1 \| last words", fall.ran.err)
    assert re.search(r"what ran before runs again \((web, worker|worker, web)\)", fall.ran.err)
    assert fall.ran.err.count("whole output: ") == 1


def test_nothing_else_is_told(fall: Fall) -> None:
    """No word on what the update and the way back had nothing to do with."""
    warnings = re.findall(r"warning: (\w+)", fall.ran.err)
    assert sorted(warnings) == ["migrate", "web"], fall.ran.err
    assert "extra" not in fall.ran.err
    assert "still" not in fall.ran.err


def test_status_tells_the_failure_and_the_next_try(fall: Fall) -> None:
    ran = fall.site.rbuild("status")

    assert ran.code == 1
    assert "web" in ran.out
    assert re.search(r"not healthy|exited", ran.out), ran.out
    assert re.search(r"next try|tried again|try", ran.out), ran.out


def test_it_is_told_once_and_then_left_alone(fall: Fall) -> None:
    before = fall.site.starts()

    again = fall.site.rbuild()
    document = fall.site.rbuild("--json").document

    assert (again.code, again.silent) == (75, True)
    (project,) = document["projects"]
    assert project["outcome"] == "deferred"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", project["retry"])
    assert fall.site.starts() == before


def test_plain_compose_finds_nothing_to_do_after_a_way_back(fall: Fall) -> None:
    """With the files of before: its containers are those of this project, made as they say."""
    site = fall.site
    before = running(site, "web") + running(site, "still") + running(site, "worker")
    broken = (site.folder / "compose.yml").read_text()
    try:
        site.edit("compose.yml", broken[broken.index("  new:") : broken.index("volumes: {")], "")
        site.compose("up", "-d", "--no-build", "--no-deps", "web", "still", "worker",
                     "--scale", "worker=2")  # fmt: skip
    finally:
        (site.folder / "compose.yml").write_text(broken)

    assert running(site, "web") + running(site, "still") + running(site, "worker") == before


def test_the_fix_is_an_update_like_any_other(fall: Fall) -> None:
    """The last one on this stack."""
    mends(fall.site, "web")

    ran = fall.site.rbuild("--monitor-period", "2")

    assert ran.code == 0, ran.err
    assert not ran.err
    assert "updated" in ran.out
    assert "watch them for 2 s" in fall.site.log()
    wanted = {"web": "web two", "still": "migrate one\nmigrate two\nmigrate two"}
    assert fall.site.answers_soon(wanted) == wanted
    assert len(running(fall.site, "worker")) == 2
    assert len(running(fall.site, "new")) == 1
    assert fall.site.rbuild("status").code == 0


# ---------------------------------------------------------------- other falls


def test_a_renamed_service_comes_back_whenever_it_is_tried(make_site: MakeSite) -> None:
    site = up(make_site(machine_engine(), {"web": ""}))
    breaks(site, "web")
    site.edit("compose.yml", "  web:\n", "  shop:\n")

    # A period that is over by the time of the second run.
    for _ in range(2):
        ran = site.rbuild("--build-period", "1")

        assert ran.code == 3, ran.err
        assert "shop: exited with code 4" in ran.err
        assert site.answers_soon({"web": "web one"}) == {"web": "web one"}
        assert list(site.starts()) == [f"{site.name}-web-1"]
    assert site.record()["failed"]["tries"] == 2


COMPANION = """\
  side:
    image: $BASE
    init: true
    network_mode: service:web
    command: ["sh", "-c", "echo $$PRICE >/tmp/index.html; exec httpd -f -p 81 -h /tmp"]
    environment: {PRICE: "$$5 ${WORD}"}
"""


def test_what_hangs_on_a_container_comes_back_with_it(make_site: MakeSite) -> None:
    """An anonymous volume, a service in its network, and what `.env` said."""
    site = make_site(machine_engine(), {"web": ""})
    site.edit("web/Dockerfile", "COPY", "VOLUME /data\nCOPY")
    site.edit("compose.yml", "    ports: [", '    ports: ["127.0.0.1:$PORT_SIDE:81", ')
    site.write("compose.yml", (site.folder / "compose.yml").read_text() + COMPANION)
    site.write(".env", "WORD=one\n")
    assert site.rbuild().code == 0
    wanted = {"web": "web one", "side": "$5 one"}
    assert site.answers_soon(wanted) == wanted
    web = f"{site.name}-web-1"
    site.engine.run("docker", "exec", web, "sh", "-c", "echo precious >/data/file")
    breaks(site, "web")
    site.write(".env", "WORD=two\n")

    ran = site.rbuild("--keep-images", "0")

    assert ran.code == 3, ran.err
    assert site.answers_soon(wanted) == wanted
    assert site.engine.run("docker", "exec", web, "cat", "/data/file") == "precious\n"


def test_a_service_that_is_never_rolled_back_keeps_its_new_image(make_site: MakeSite) -> None:
    services = {"web": "", "db": "x-rbuild: {rollback: never}"}
    site = up(make_site(machine_engine(), services))
    change(site, "web", "db")
    breaks(site, "web")

    other_failed = site.rbuild()

    assert other_failed.code == 3, other_failed.err
    wanted: dict[str, str | None] = {"web": "web one", "db": "db two"}
    assert site.answers_soon(wanted) == wanted
    mends(site, "web")
    change(site, "web", "db", to="three")
    breaks(site, "db")

    itself_failed = site.rbuild()

    assert itself_failed.code == 4, itself_failed.err
    assert "db: exited with code 4" in itself_failed.err
    assert re.search("not running: db", itself_failed.err)
    wanted = {"web": "web one", "db": None}
    assert site.answers_soon(wanted) == wanted


def test_a_first_update_that_fails_is_left_to_a_person(make_site: MakeSite) -> None:
    site = make_site(machine_engine(), {"web": "", "api": ""})
    breaks(site, "web")

    ran, again = site.rbuild(), site.rbuild()

    assert ran.code == 4, ran.err
    assert "web: exited with code 4" in ran.err
    assert re.search(r"running now: api; not running: web \(exited\)", ran.err)
    assert site.answers_soon({"web": None, "api": "api one"})["api"] == "api one"
    assert (again.code, again.silent) == (75, True)
    mends(site, "web")
    forced = site.rbuild("--force-rebuild")
    assert forced.code == 0, forced.err


def test_where_the_kept_image_is_gone_a_person_is_told_what_to_type(make_site: MakeSite) -> None:
    site = up(make_site(machine_engine(), {"web": "", "api": ""}))
    old = {one["Id"] for one in site.containers()}
    change(site, "web", "api")
    # It is up for so long that the kept image can be taken away.
    health = "HEALTHCHECK --interval=1s --retries=4 CMD echo so ill; false\n"
    site.edit("web/Dockerfile", SERVES, health + SERVES)

    def lose() -> None:
        wait_until(lambda: running(site, "web") and not old & set(running(site, "web")), "new web")
        (kept,) = (one for one in site.tags() if one.startswith(f"rbuild/{site.name}/web:"))
        site.engine.run("docker", "rmi", kept)

    thread = threading.Thread(target=lose)
    thread.start()
    ran = site.rbuild()
    thread.join()

    assert ran.code == 4, ran.err
    assert "web: is unhealthy" in ran.err
    assert "the kept image or configuration of web is gone" in ran.err
    assert re.search(r"running now: api; not running: web \(unhealthy\)", ran.err), ran.err
    assert "rbuild --force-rebuild" in ran.err
    # Only what is left to do is told, and nothing that isn't so.
    assert "docker" not in ran.err
    assert "failing before" not in ran.err
    # The other is back, and what there is of this one runs on.
    wanted = {"web": "web two", "api": "api one"}
    assert site.answers_soon(wanted) == wanted


def test_what_ran_last_is_the_goal_also_after_a_way_back_that_failed(make_site: MakeSite) -> None:
    site = make_site(machine_engine(), {"web": 'volumes: ["./conf:/conf:ro"]'})
    site.write("conf/data", "good\n")
    needs = "CMD grep -q good /conf/data || exit 9; exec httpd -f -p 80 -h /www"
    site.edit("web/Dockerfile", SERVES, needs)
    up(site)
    site.write("web/page", "web two\n")
    # Data that neither the old image nor the new one can work with; of folders nothing is kept.
    site.write("conf/data", "bad\n")

    ran = site.rbuild("--force-rebuild")

    assert ran.code == 4, ran.err
    assert "running now: nothing; not running: web (exited)" in ran.err
    assert re.search(r"^ +docker tag rbuild/\S+ \S+-web$", ran.err, re.MULTILINE), ran.err
    typed = re.search(r"^ +(cd \S+ && docker compose .*)$", ran.err, re.MULTILINE)
    assert typed
    site.write("conf/data", "good\n")
    site.edit("web/Dockerfile", needs, FAILS)

    ran = site.rbuild()

    assert ran.code == 3, ran.err
    assert site.answers_soon({"web": "web one"}) == {"web": "web one"}


def test_as_many_generations_stay_as_are_wanted(make_site: MakeSite) -> None:
    site = make_site(machine_engine(), {}, settings="{settle-period: 0}")
    service = (
        "  web: {image: $BASE, stop_signal: KILL, command: sleep 1000, environment: [AGE=1]}\n"
    )
    site.write("compose.yml", (site.folder / "compose.yml").read_text() + service)
    assert site.rbuild().code == 0
    stamps = []
    for age in (1, 2, 3):
        site.edit("compose.yml", f"AGE={age}", f"AGE={age + 1}")
        (project,) = site.rbuild("--keep-images", "2", "--json").document["projects"]
        assert project["outcome"] == "updated", project
        stamps.append(project["generation"])

    kept = {one.name.partition(".")[0] for one in (site.records / "generations").iterdir()}

    assert len(set(stamps)) == 3
    assert kept == set(stamps[1:])
    assert site.tags() == {f"rbuild/{site.name}/web:{one}" for one in stamps[1:]}
    files = [one for one in site.records.rglob("*") if one.is_file()]
    assert {one.name for one in files} >= {"record.json", "running.compose.json"}
    assert {oct(one.stat().st_mode & 0o777) for one in files} == {"0o600"}
    folders = [site.records, *(one for one in site.records.rglob("*") if one.is_dir())]
    assert {oct(one.stat().st_mode & 0o777) for one in folders} == {"0o700"}


# ---------------------------------------------------------------- signals

STUBBORN = """CMD ["sh", "-c", "trap '' TERM; httpd -f -p 80 -h /www & while :; do wait; done"]"""


@pytest.fixture(scope="module")
def stubborn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose service has to be killed, which takes three seconds; an update is due."""
    folder = tmp_path_factory.mktemp("stubborn")
    site = new_site(machine_engine(), folder, {"web": ""})
    site.edit("compose.yml", "init: true\n    stop_grace_period: 1s", "stop_grace_period: 3s")
    site.edit("web/Dockerfile", SERVES, STUBBORN)
    try:
        up(site)
        change(site, "web")
        yield site
    finally:
        site.remove()


def is_stopping(site: Site) -> bool:
    """Whether `up` has made the new container, and waits for the old one to end."""
    return len(site.containers()) == 2


def is_judged(site: Site) -> bool:
    """Whether `up` is over and the gate at work."""
    return site.log().count("== wait until they are healthy") == 1


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGTERM, is_stopping),
        (signal.SIGINT, is_judged),
        (signal.SIGHUP, is_stopping),
    ],
    ids=["TERM", "INT", "HUP"],
)
def test_a_signal_while_containers_are_replaced_leads_back(
    stubborn: Site, number: signal.Signals, moment: Callable[[Site], bool]
) -> None:
    earlier = stubborn.log()
    process = stubborn.begin("--settle-period", "2")
    try:
        wait_until(lambda: stubborn.log() != earlier and moment(stubborn), "its moment")
        process.send_signal(number)
        # A second one changes nothing.
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()

    assert process.returncode == 128 + number, out + err
    assert "Traceback" not in err
    assert stubborn.answers_soon({"web": "web one"}) == {"web": "web one"}
    assert stubborn.leftovers() == []
    assert len(stubborn.containers()) == 1


def test_after_a_signal_the_update_is_still_due(stubborn: Site) -> None:
    """An interruption is no failure: nothing is put off."""
    ran = stubborn.rbuild()

    assert ran.code == 0, ran.err
    assert stubborn.answers_soon({"web": "web two"}) == {"web": "web two"}


def test_a_signal_leaves_no_service_down_that_is_never_rolled_back(make_site: MakeSite) -> None:
    """It was stopped, and its new image had not run: it goes on as it was."""
    site = make_site(machine_engine(), {"web": "x-rbuild: {rollback: never}"})
    site.edit("compose.yml", "init: true\n    stop_grace_period: 1s", "stop_grace_period: 3s")
    site.edit("web/Dockerfile", SERVES, STUBBORN)
    up(site)
    (before,) = site.containers()
    change(site, "web")
    process = site.begin()
    try:
        wait_until(lambda: is_stopping(site), "the old container is stopping")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()

    assert process.returncode == 128 + signal.SIGTERM, out + err
    assert site.answers_soon({"web": "web one"}) == {"web": "web one"}
    assert [one["Id"] for one in site.containers()] == [before["Id"]]
    assert site.leftovers() == []
    ran = site.rbuild()
    assert ran.code == 0, ran.err
    assert site.answers_soon({"web": "web two"}) == {"web": "web two"}
