"""`rbuild rollback`: back to a generation that was kept, because a person says so."""

from __future__ import annotations

import re

from .conftest import MakeSite
from .engines import machine_engine
from .projects import Site

SERVES = 'CMD ["httpd", "-f", "-p", "80", "-h", "/www"]'


def update(site: Site, *services: str, to: str) -> str:
    """Let services serve something else by an update; the generation that it kept."""
    for name in services:
        site.write(f"{name}/page", f"{name} {to}\n")
        path = site.folder / name / "Dockerfile"
        path.write_text(re.sub(r"(LABEL to=\S+\n)?CMD", f"LABEL to={to}\nCMD", path.read_text()))
    ran = site.rbuild("--json")
    assert ran.code == 0, ran.out
    (project,) = ran.document["projects"]
    wanted = {name: f"{name} {to}" if name in services else f"{name} one" for name in site.ports}
    assert site.answers_soon(wanted) == wanted
    return str(project["generation"])


def test_back_and_forth_between_what_was_kept(make_site: MakeSite) -> None:
    site = make_site(machine_engine(), {"web": ""})
    assert site.rbuild().code == 0
    old, new = {"web": "web one"}, {"web": "web two"}
    assert site.answers_soon(old) == old

    nothing_kept = site.rbuild("rollback")
    stamp = update(site, "web", to="two")
    before = site.starts()
    unknown = site.rbuild("rollback", "--to", "20010101T000000Z")

    assert nothing_kept.code == 1
    assert "no generation is kept" in nothing_kept.err
    assert unknown.code == 1
    assert "no generation 20010101T000000Z is kept" in unknown.err
    assert stamp in unknown.err
    assert site.starts() == before

    back = site.rbuild("rollback", str(site.folder), "--json")

    assert back.code == 0, back.err
    (project,) = back.document["projects"]
    assert (project["outcome"], project["generation"]) == ("rolled-back", stamp)
    assert site.answers_soon(old) == old
    assert site.leftovers() == []
    # No timer undoes it.
    before = site.starts()
    ran = site.rbuild("--build-period", "1")
    assert (ran.code, ran.silent) == (75, True), ran.out + ran.err
    assert site.starts() == before
    status = site.rbuild("status")
    assert status.code == 1
    assert "left by hand" in status.out

    # What was left is itself kept: one may change one's mind.
    forth = site.rbuild("rollback")

    assert forth.code == 0, forth.err
    assert not forth.err
    assert len(forth.out.splitlines()) == 1
    assert site.answers_soon(new) == new
    # It is what the files say.
    before = site.starts()
    ran = site.rbuild()
    assert (ran.code, ran.silent) == (0, True), ran.out + ran.err
    assert site.rbuild("status").code == 0
    assert site.starts() == before

    # By force it is built anew, without a change.
    assert site.rbuild("rollback").code == 0
    assert site.answers_soon(old) == old
    forced = site.rbuild("--force-rebuild")
    assert forced.code == 0, forced.err
    assert site.answers_soon(new) == new
    assert site.rbuild().code == 0


def test_the_configuration_comes_back_too_and_a_change_goes_forward_again(
    make_site: MakeSite,
) -> None:
    still = "x-rbuild: {update: manual}"
    site = make_site(machine_engine(), {"web": "environment: {AGE: one}", "still": still})
    assert site.rbuild().code == 0
    site.edit("compose.yml", "AGE: one", "AGE: two")
    stamp = update(site, "web", to="two")
    left_alone = site.starts()[f"{site.name}-still-1"]

    back = site.rbuild("rollback", "--to", stamp)

    assert back.code == 0, back.err
    wanted = {"web": "web one", "still": "still one"}
    assert site.answers_soon(wanted) == wanted
    (web,) = (one for one in site.containers() if "-web-" in one["Name"])
    assert "AGE=one" in web["Config"]["Env"]
    assert site.starts()[f"{site.name}-still-1"] == left_alone
    assert site.rbuild().code == 75

    # The containers are recognised as this project's, and nothing is said of it.
    update(site, "web", to="three")
    (web,) = (one for one in site.containers() if "-web-" in one["Name"])
    assert "AGE=two" in web["Config"]["Env"]
    assert site.starts()[f"{site.name}-still-1"] == left_alone
    assert site.rbuild("status").code == 0


def test_what_does_not_run_any_more_is_left_for_what_ran(make_site: MakeSite) -> None:
    """Data that the new image has changed, and that the old one can't read."""
    site = make_site(machine_engine(), {"web": 'volumes: ["data:/data"]'})
    with (site.folder / "compose.yml").open("a") as file:
        file.write("volumes: {data: }\n")
    httpd = "exec httpd -f -p 80 -h /www"
    reads = 'CMD test ! -e /data/%s || { echo "cannot read %s"; exit 5; }; '
    site.edit("web/Dockerfile", SERVES, reads % ("new", "new") + httpd)
    assert site.rbuild().code == 0
    dockerfile = (site.folder / "web/Dockerfile").read_text()
    writes = reads % ("newer", "newer") + f"touch /data/new; {httpd}"
    site.write("web/Dockerfile", re.sub("CMD.*", writes, dockerfile))
    update(site, "web", to="two")

    there_again = site.rbuild("rollback")

    assert there_again.code == 3, there_again.err
    assert "web: exited with code 5" in there_again.err
    assert "cannot read new" in there_again.err
    assert site.answers_soon({"web": "web two"}) == {"web": "web two"}
    # What runs is what the files say: nothing is held against it.
    ran = site.rbuild()
    assert (ran.code, ran.silent) == (0, True), ran.out + ran.err
    site.engine.run("docker", "exec", f"{site.name}-web-1", "touch", "/data/newer")

    stranded = site.rbuild("rollback")

    assert stranded.code == 4, stranded.err
    assert "cannot read new\n" in stranded.err
    assert "cannot read newer" in stranded.err
    assert re.search(r"running now: nothing; not running: web \(exited\)", stranded.err)
    assert re.search(r"^ +(docker tag|cd) \S+", stranded.err, re.MULTILINE), stranded.err
    assert site.leftovers() == []
