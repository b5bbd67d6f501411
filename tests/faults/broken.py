"""The table of broken updates: what is changed, how it ends, and what must hold afterwards.

Two projects are used for all of it, on one engine: after each row the good files are put back.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .engines import Engine, PrivateEngine, in_namespace
from .projects import Site, free_port

# No init, which would find out by itself that a program is missing; it stops at once even so.
COMPOSE = """\
x-rbuild: {settle-period: 1}
x-own: &own
  stop_signal: SIGKILL
services:
  still:
    image: $BASE
    pull_policy: never
    <<: *own
    command: sh -c "echo still one >/tmp/index.html; exec httpd -f -p 80 -h /tmp"
    ports: ["127.0.0.1:$PORT_STILL:80"]
"""
WEB = """\
  web:
    build: web
    <<: *own
    ports: ["127.0.0.1:$PORT_WEB:80"]
"""
CHAIN = """\
  migrate:
    image: $BASE
    <<: *own
    command: "true"
  first:
    build: first
    <<: *own
    ports: ["127.0.0.1:$PORT_FIRST:80"]
  second:
    build: second
    <<: *own
    ports: ["127.0.0.1:$PORT_SECOND:80"]
    depends_on: [first]
  third:
    build: third
    <<: *own
    ports: ["127.0.0.1:$PORT_THIRD:80"]
    depends_on:
      second: {condition: service_started}
      migrate: {condition: service_completed_successfully}
"""
GOOD = 'FROM $FROM\nCOPY page /www/index.html\nCMD ["httpd", "-f", "-p", "80", "-h", "/www"]\n'
HTTPD = "httpd -f -p 80 -h /www"


@dataclass(frozen=True)
class Row:
    """One broken update."""

    says: str
    """A pattern that the report must match."""
    code: int = 3
    dockerfile: str = ""
    """Replaces the CMD of `service`."""
    service: str = "web"
    compose: Mapping[str, str] = field(default_factory=dict)
    """Texts to replace in compose.yml."""
    options: tuple[str, ...] = ()
    """For the runs of rbuild."""
    trouble: str = ""
    """What happens outside of the project, a name of `troubled`."""


def command(*words: str) -> str:
    """A CMD without a shell."""
    return "CMD [" + ", ".join(f'"{one}"' for one in words) + "]\n"


TABLE = {
    "the build fails": Row(
        code=1, dockerfile="RUN echo so it goes; exit 9\n", says=r"so it goes(?s:.*)exit code: 9"
    ),
    "the base vanishes": Row(
        code=1,
        dockerfile="LABEL new=1\n",
        trouble="base",
        says=r"\S+/base:1: cannot be pulled \(base of web\)",
    ),
    "the image is without its command": Row(
        dockerfile=command("no-such-program"), says=r"web(?s:.*)no-such-program"
    ),
    "it exits at once": Row(
        dockerfile=command("sh", "-c", "echo last words; exit 4"),
        says=r"web: exited with code 4\n +\S+ \| last words",
    ),
    "it exits two seconds after its start": Row(
        dockerfile=command("sh", "-c", f"{HTTPD} & sleep 2; echo last words; exit 5"),
        options=("--settle-period", "3"),
        says=r"web: exited with code 5\n +\S+ \| last words",
    ),
    "a crash loop": Row(
        dockerfile=command("sh", "-c", "echo last words; exit 6"),
        compose={"build: web\n": "build: web\n    restart: always\n"},
        says=r"web: restarted \d times(?:, last exit code 6)?\n(?: +\S+ \| last words\n)+",
    ),
    "never healthy": Row(
        dockerfile=f"HEALTHCHECK --interval=1s --retries=1 CMD echo so ill; false\nCMD {HTTPD}\n",
        says=r"web: is unhealthy\n +healthcheck said: so ill",
    ),
    "healthy, then unhealthy within the monitor period": Row(
        dockerfile="HEALTHCHECK --interval=1s --retries=1 CMD test ! -e /ill\n"
        f"CMD (sleep 4; touch /ill) & exec {HTTPD}\n",
        options=("--monitor-period", "60"),
        says=r"web: is unhealthy",
    ),
    "a port of another container": Row(
        code=1,
        trouble="container",
        compose={"$PORT_WEB": "$PORT_OTHER"},
        says=r"service web: port 127\.0\.0\.1:\d+ is taken already",
    ),
    "a port that the engine refuses": Row(
        compose={"127.0.0.1:$PORT_WEB": "192.0.2.1:$PORT_WEB"},
        says=r"web(?s:.*)cannot assign requested address",
    ),
    "a volume whose source cannot be made": Row(
        compose={"build: web\n": 'build: web\n    volumes: ["/proc/no/such:/there"]\n'},
        says=r"/proc/no",
    ),
    "a volume with a bad option": Row(
        compose={
            "build: web\n": 'build: web\n    volumes: ["bad:/there"]\n',
            "services:\n": "volumes: {bad: {driver_opts: {type: no-such-type, device: /no}}}\n"
            "services:\n",
        },
        says=r"no-such-type|failed to mount local volume",
    ),
    "a configuration that breaks with a good image": Row(
        compose={"build: web\n": "build: web\n    command: [no-such-program]\n"},
        says=r"web(?s:.*)no-such-program",
    ),
    "the last of three services fails": Row(
        service="third",
        dockerfile=command("sh", "-c", "echo last words; exit 7"),
        says=r"third: exited with code 7\n +\S+ \| last words",
    ),
    "a one-shot that others depend on fails": Row(
        service="migrate",
        compose={'command: "true"': 'command: sh -c "echo last words; exit 8"'},
        says=r"migrate(?s:.*)last words",
    ),
}


# Where the engine is in another network namespace than rbuild, it is found only by `up`.
PROGRAM = Row(
    code=1,
    trouble="program",
    compose={"$PORT_WEB": "$PORT_OTHER"},
    says=r"service web: port 127\.0\.0\.1:\d+ is taken already",
)


@dataclass
class Bench:
    """The two projects of one engine, up and good."""

    engine: Engine
    web: Site
    chain: Site

    def site(self, row: Row) -> Site:
        """The project that a row breaks."""
        return self.web if row.service == "web" else self.chain

    def mend(self) -> None:
        """Write the good files of both projects."""
        write_good(self.web, WEB, ("web",))
        write_good(self.chain, CHAIN, ("first", "second", "third"))


@contextmanager
def bench_on(engine: Engine, folder: Path) -> Iterator[Bench]:
    """Both projects on an engine, up and good; gone at the end."""
    sites = []
    for name in ("web", "chain"):
        site = Site(folder / name, folder / f"{name}-state", f"t{os.urandom(5).hex()}", engine)
        site.folder.mkdir(parents=True)
        sites.append(site)
    bench = Bench(engine, *sites)
    try:
        # With the containerd store, an image that was loaded is another than the registry's: the
        # first pull would give its name away.
        engine.run("docker", "pull", "-q", os.environ["RBUILD_BASE"])
        publish(bench.web)
        bench.mend()
        for site in sites:
            ran = site.rbuild()
            assert ran.code == 0, ran.err
        yield bench
    finally:
        for site in sites:
            site.remove()
        engine.run("docker", "rmi", base_of(bench.web), check=False)


def write_good(site: Site, services: str, built: tuple[str, ...]) -> None:
    """Write the files of a project that works; what it serves says `one`."""
    site.write("compose.yml", f"name: {site.name}\n{COMPOSE}{services}")
    for name in built:
        base = base_of(site) if name == "web" else "$BASE"
        site.write(f"{name}/Dockerfile", GOOD.replace("$FROM", base))
        site.write(f"{name}/page", f"{name} one\n")


def check(bench: Bench, row: Row, *, again: bool = True) -> None:
    """Update to what is broken; all that answered answers as before, and it mends.

    With `again`, it is seen too that the next run leaves it alone.
    """
    site = bench.site(row)
    try:
        _check(bench, site, row, again)
    except BaseException:
        # The next row starts from what is good, too.
        bench.mend()
        site.rbuild("--force-rebuild")
        raise


def _check(bench: Bench, site: Site, row: Row, again: bool) -> None:
    served = {name: f"{name} one" for name in site.ports}
    assert site.answers_soon(served) == served
    before = starts(site.containers())

    with troubled(row.trouble, site):
        break_it(site, row)
        ran = site.rbuild(*row.options)

        assert ran.code == row.code, ran.err
        assert re.search(row.says, ran.err), ran.err
        assert not ran.out
        assert site.answers_soon(served) == served
        containers = site.containers()
        after = starts(containers)
        # Nothing is left of the update, neither beside them nor half made.
        assert after.keys() == before.keys()
        assert "created" not in {status for _, _, status in after.values()}
        assert after["still"] == before["still"]
        if row.code == 1:
            assert after == before
        assert not (found := strangers(site, containers)), found
        if again:
            ran = site.rbuild(*row.options)
            assert (ran.code, ran.silent) == (75, True), ran.out + ran.err

    bench.mend()
    ran = site.rbuild()
    assert ran.code == 0, ran.err
    assert starts(site.containers()) == after
    assert site.answers() == served


def starts(containers: list[dict[str, Any]]) -> dict[str, tuple[str, str, str]]:
    """Service → what shows that nothing happened to its only container."""
    found = {}
    for one in containers:
        service = one["Config"]["Labels"]["com.docker.compose.service"]
        assert one["Name"].endswith(f"-{service}-1"), one["Name"]
        assert service not in found
        found[service] = (one["Id"], one["State"]["StartedAt"], one["State"]["Status"])
    return found


def break_it(site: Site, row: Row) -> None:
    """Let everything built serve `two`, and one thing be broken."""
    for page in site.folder.glob("*/page"):
        page.write_text(f"{page.parent.name} two\n")
    if row.dockerfile:
        text = (site.folder / row.service / "Dockerfile").read_text()
        end = row.dockerfile if "CMD" in row.dockerfile else row.dockerfile + "CMD " + HTTPD
        site.write(f"{row.service}/Dockerfile", re.sub(r"CMD.*\n", lambda _: end, text))
    for old, new in row.compose.items():
        site.edit("compose.yml", old, new)
    # It is for what another program holds, and serves nothing.
    site.ports.pop("other", None)


def strangers(site: Site, containers: list[dict[str, Any]]) -> list[str]:
    """Names of images that mean another by now than the container runs that was made of them."""
    running = {
        one["Config"]["Image"]: one["Image"]
        for one in containers
        if one["State"]["Status"] == "running"
    }
    images = site.engine.inspect(*running)
    return [
        name
        for (name, image), found in zip(running.items(), images, strict=True)
        if found["Id"] != image
    ]


@contextmanager
def troubled(what: str, site: Site) -> Iterator[None]:
    """Let something be wrong outside of the project: its base gone, or its new port taken."""
    if what == "base":
        withdraw(site)
        try:
            yield
        finally:
            publish(site)
    elif what == "container":
        port = site.ports["other"] = free_port()
        name = f"{site.name}-other"
        published = ["-p", f"127.0.0.1:{port}:80", os.environ["RBUILD_BASE"]]
        site.engine.run("docker", "run", "-d", "--name", name, *published, "sleep", "1000")
        try:
            yield
        finally:
            site.engine.run("docker", "rm", "-f", name)
    elif what == "program":
        site.ports["other"] = free_port()
        with listen(site.engine, site.ports["other"]):
            yield
    else:
        yield


def listen(engine: Engine, port: int) -> socket.socket:
    """A program of this machine that holds a port where the engine would publish it."""

    def make() -> socket.socket:
        return socket.create_server(("127.0.0.1", port))

    return in_namespace(engine.home.name, make) if isinstance(engine, PrivateEngine) else make()


def base_of(site: Site) -> str:
    """The base image of a project's own, in the registry."""
    return f"{os.environ['RBUILD_REGISTRY']}/{site.name}/base:1"


def publish(site: Site) -> None:
    """Put the project's base into the registry, and leave it on the engine."""
    site.engine.run("docker", "tag", os.environ["RBUILD_BASE"], base_of(site))
    site.engine.run("docker", "push", "-q", base_of(site))


def withdraw(site: Site) -> None:
    """Take the project's base from the registry and from the engine."""
    site.engine.run("docker", "rmi", base_of(site))
    host, _, rest = base_of(site).partition("/")
    path = f"/v2/{rest.rpartition(':')[0]}/manifests/"
    kinds = (
        "application/vnd.docker.distribution.manifest.v2+json",
        *(f"application/vnd.oci.image.{kind}.v1+json" for kind in ("manifest", "index")),
    )
    connection = http.client.HTTPConnection(host, timeout=10)
    connection.request("HEAD", path + "1", headers={"Accept": ", ".join(kinds)})
    found = connection.getresponse()
    found.read()
    connection.request("DELETE", path + found.headers["Docker-Content-Digest"])
    answer = connection.getresponse()
    assert answer.status == 202, answer.read()
