"""Names of images and services: judged as Docker judges them, and no options of its commands."""

from __future__ import annotations

import subprocess
from pathlib import Path
from random import Random

import pytest

from rbuild.docker.reference import problem

from .conftest import Project, run
from .keeping import next_compose


@pytest.fixture(params=["present", "next"])
def plugin(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment for the Compose that is there, and for a newer one."""
    return {} if request.param == "present" else next_compose(tmp_path / "docker")


def test_names_are_judged_as_docker_does() -> None:
    random = Random(9)
    parts = ("a", "b1", "MyOrg", "x_", "a__b", "a___b", "a--b", "a..b", "localhost", "r.io", "-a",
             "h_a.b", "127.0.0.1:5000", "[::1]:5000", "x:", "é", " ", "", "Host", "h:", ".",
             "a" * 256, "[::1]", "a:80:1")  # fmt: skip
    tags = ("", ":1", ":", ":-a", ":a.b-c_D", f":{'t' * 128}", f":{'t' * 129}", ":é", ":1:2")
    digests = ("", "@", f"@sha256:{'0' * 64}", f"@sha256:{'A' * 64}", f"@md5:{'0' * 32}")
    names = {
        "/".join(random.choices(parts, k=random.choice((1, 1, 2, 3))))
        + random.choice(tags)
        + random.choice((*digests, *[""] * 9))
        for _ in range(250)
    }
    for name in sorted(names):
        argv = ["docker", "tag", "--", "no/such:image", name]
        said = subprocess.run(argv, capture_output=True, text=True).stderr
        fits = "No such image" in said or "refusing to create a tag with a digest" in said
        assert (problem(name) == "") == fits, (name, said)


def test_what_is_not_used_may_have_any_name(site: Project) -> None:
    """As plain Compose has it: an inactive profile, a context that no Dockerfile names."""
    identity = run(["docker", "image", "inspect", "--format", "{{.Id}}", site.base]).strip()
    unused = "{unused: 'docker-image://Debian:12'}"
    site.edit("compose.yml", "build: .", f"build: {{context: ., additional_contexts: {unused}}}")
    site.edit(
        "compose.yml",
        "x-rbuild:",
        "  old: {image: A B, profiles: [never]}\n"
        # An ID is no name in a registry, and Compose takes it for what is here.
        f"  db: {{image: {identity.removeprefix('sha256:')}, command: sleep 99, init: true}}\n"
        "x-rbuild:",
    )
    ran = site.rbuild()
    assert (ran.code, ran.err) == (0, "")
    assert site.container("db")["Image"] == identity
    site.edit("compose.yml", "x-rbuild:", "  run: {image: Run}\nx-rbuild:\n  up: false")
    ran = site.rbuild()
    assert (ran.code, ran.err) == (0, ""), "only what is built is used"


def test_a_service_whose_name_looks_like_an_option(site: Project, plugin: dict[str, str]) -> None:
    """Compose takes it; so it must get through where services are named one by one."""
    site.edit("compose.yml", "x-rbuild:", "  -app: {build: ., init: true}\nx-rbuild:")
    ran = site.rbuild(**plugin)
    assert (ran.code, ran.err) == (0, "")
    # One that is left alone is why the others are named.
    site.edit("compose.yml", "    init: true", "    init: true\n    x-rbuild: {update: manual}")
    site.edit("compose.yml", "interval: 1s", "interval: 2s")
    web, app = site.container("web")["Id"], site.container("-app")["Id"]
    ran = site.rbuild("--force-rebuild", **plugin)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"{site.name}: updated -app in ")
    assert (site.container("web")["Id"], site.container("-app")["Id"] != app) == (web, True)
