"""What has vanished: tags from a registry, kept images from the engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .conftest import Project, run
from .registries import Front, front
from .test_moved import put_image
from .tools import ids, image_id, inside


@pytest.fixture
def behind(registry: str) -> Iterator[Front]:
    """A front of the registry, which can lose tags."""
    with front(registry) as found:
        yield found


@pytest.fixture
def site(project: Project, behind: Front) -> Project:
    """A project with a base and an image that come through the front, and with one of its own."""
    put_image(project, "base", "one")
    put_image(project, "side", "one")
    own = f"{behind.address}/{project.name}"
    project.write(
        "compose.yml",
        f"""\
services:
  web: {{build: ., init: true}}
  side: {{image: "{own}/side:1", init: true}}
  still: {{build: {{dockerfile_inline: "FROM $BASE\\nRUN date >/d\\nCMD sleep 99\\n"}}, init: true}}
x-rbuild: {{settle-period: 1}}
""",
    )
    project.write("Dockerfile", f"FROM {own}/base:1\nRUN date >/d\n")
    ran = project.rbuild()
    assert (ran.code, ran.err) == (0, "")
    return project


def test_a_tag_that_is_gone_keeps_nobody_from_an_update(site: Project, behind: Front) -> None:
    own = f"{behind.address}/{site.name}"
    before = ids(site)
    behind.gone.add("1")
    ran = site.rbuild("--force-rebuild")
    assert ran.code == 0, ran.err
    text = "its tag is gone from the registry; the image that is here is used"
    assert ran.err.splitlines() == [
        f"{site.name}: warning: {own}/base:1: {text}",
        f"{site.name}: warning: {own}/side:1: {text}",
    ]
    after = ids(site)
    changed = {name for name, one in before.items() if after[name] != one}
    assert changed == {f"{site.name}-{name}-1" for name in ("web", "still")}
    assert image_id(f"{own}/side:1")
    # It is told once, and known.
    ran = site.rbuild("--force-rebuild", "-v")
    assert (ran.code, "warning" in ran.err) == (0, False)
    assert f"{site.name}: note: {own}/base:1: {text}\n" in ran.out
    # Once it was there again, it is told again.
    behind.gone.clear()
    assert site.rbuild("--force-rebuild").err == ""
    behind.gone.add("1")
    assert text in site.rbuild("--force-rebuild").err


def test_a_tag_that_is_gone_and_not_here_either(site: Project, behind: Front) -> None:
    """Nor is an image taken for one because of a registry that does not answer."""
    before = ids(site)
    missing = f"{behind.address}/{site.name}/side:2"
    site.edit("compose.yml", "side:1", "side:2")
    behind.gone.add("2")
    ran = site.rbuild()
    assert (ran.code, ran.out) == (1, "")
    assert f"{site.name}: {missing}: cannot be pulled (image of a service)\n" in ran.err
    assert ids(site) == before
    site.edit("compose.yml", "side:2", "side:1")
    behind.refuses = {}
    ran = site.rbuild("--force-rebuild")
    assert (ran.code, ran.out) == (1, "")
    assert ": cannot be pulled (base of web)\n" in ran.err
    assert ids(site) == before


def test_kept_generations_whose_images_are_gone_are_not_offered(project: Project) -> None:
    project.write("Dockerfile", "FROM $BASE\nRUN echo 0 >/v\nCMD sleep 99\n")
    project.write(
        "compose.yml",
        "services:\n  web: {build: ., init: true}\nx-rbuild: {settle-period: 1, keep-images: 3}\n",
    )
    stamps: list[str] = []
    for number in range(4):
        project.edit("Dockerfile", f"echo {max(0, number - 1)} ", f"echo {number} ")
        ran = project.rbuild("--force-rebuild", "--json")
        assert ran.code == 0, ran.err
        stamps.insert(0, ran.document["projects"][0]["generation"])
    first, second, third, none = stamps
    assert none is None

    def offered() -> list[str]:
        (one,) = project.rbuild("status", "--json").document["projects"]
        return list(one["generations"])

    assert offered() == [first, second, third]
    run(["docker", "image", "rm", "-f", f"rbuild/{project.name}/web:{first}"])
    assert offered() == [second, third]
    status = project.rbuild("status").out
    assert f"  kept      {second}, {third}\n" in status
    assert f"  gone      {first}: the kept image of web\n" in status
    # What is named is taken, or nothing.
    before = ids(project)
    ran = project.rbuild("rollback", "--to", first)
    assert (ran.code, ran.out) == (1, "")
    gone = f"generation {first}: the kept image of web is gone"
    assert ran.err.startswith(f"{project.name}: {gone}\n")
    assert ids(project) == before
    ran = project.rbuild("rollback")
    assert ran.code == 0, ran.err
    assert ran.out.startswith(f"{project.name}: rolled back to {second} in ")
    assert ran.err == f"{project.name}: warning: passed over: {gone}\n"
    assert inside(f"{project.name}-web-1", "cat", "/v") == "1"
    # Of the rest, and of what was left just now, nothing is there any more.
    for tag in run(
        ["docker", "images", "--format", "{{.Repository}}:{{.Tag}}", f"rbuild/{project.name}/web"]
    ).split():
        run(["docker", "image", "rm", "-f", tag])
    assert offered() == []
    before = ids(project)
    ran = project.rbuild("rollback")
    assert (ran.code, ran.out, ids(project)) == (1, "", before)
    assert "is gone\n" in ran.err
