"""A machine with systemd and cron: a container that boots them, on the engine of the tests."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import select
import shutil
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CONTRIB = Path(__file__).parents[2] / "contrib"
IMAGE = "rbuild-test/systemd:1"
PACKAGES = "systemd,systemd-sysv,libpam-systemd,dbus,cron,python3"
# The container is privileged, as systemd in a container must be on older kernels: whatever would
# set up the kernel it shares with us stays off, and so does what waits for a terminal or clock.
MASKED = (
    "systemd-sysctl.service",
    "systemd-modules-load.service",
    "systemd-udevd.service",
    "systemd-udev-trigger.service",
    "systemd-remount-fs.service",
    "systemd-timesyncd.service",
    "console-getty.service",
    "getty.target",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    # It would hide the projects, which pytest keeps below /tmp.
    "tmp.mount",
)

# How a one-shot unit's run ends, and the message that tells (systemd's sd-messages.h).
ENDS = {
    "39f53479d3a045ac8e11786248231fbf": "finished",
    "9d1aaa27d60140bd96365438aad20286": "stopped",
    "d9b373ed55a64feb8242e02dbe79a49c": "failed",
}

Entry = Mapping[str, Any]


def run(argv: Sequence[str], text: str | None = None, timeout: float = 120) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


def need(*tools: str) -> None:
    """Fail, and say how to mend it, where a tool is missing."""
    for tool in tools:
        assert shutil.which(tool), f"this test needs {tool} on PATH; tests/run sets it up"


@dataclass
class Machine:
    """A booted machine, and a folder of projects that it sees at the same path as we do."""

    name: str
    projects: Path
    made: list[str] = field(default_factory=list)

    def run(self, *argv: str, user: str = "root", text: str | None = None) -> str:
        """What a command on the machine prints; it must succeed."""
        runtime = [] if user == "root" else ["-e", "XDG_RUNTIME_DIR=/run/user/1000"]
        return run(["docker", "exec", "-i", "-u", user, *runtime, self.name, *argv], text)

    def write(self, path: str, text: str, user: str = "root") -> None:
        """Write a file on the machine."""
        self.run("mkdir", "-p", os.path.dirname(path), user=user)
        self.run("sh", "-c", 'cat >"$0"', path, user=user, text=text)

    def project(self, folder: str) -> Site:
        """A project with one service that is built, and is told what HOME is."""
        site = Site(self.projects / folder, f"t{uuid.uuid4().hex[:10]}")
        site.folder.mkdir()
        self.made.append(site.name)
        base = os.environ["RBUILD_BASE"]
        site.write("Dockerfile", f"FROM {base}\nCMD exec sleep 1000\n")
        site.write(
            "compose.yml",
            f"name: {site.name}\n"
            'services: {web: {build: ., init: true, environment: ["HOME_IS=$HOME"]}}\n'
            "x-rbuild: {settle-period: 1}\n",
        )
        return site

    def list_projects(self, *sites: Site) -> None:
        """Write the system's rbuild.yml."""
        paths = [str(site.folder) for site in sites]
        self.write("/etc/rbuild/rbuild.yml", json.dumps({"projects": paths}))

    def cursor(self) -> str:
        """The present end of the journal."""
        return self.run("journalctl", "-n", "0", "--show-cursor").rpartition("cursor: ")[2].strip()

    def follow(self, cursor: str, found: Callable[[Entry], bool], seconds: float) -> list[Entry]:
        """The journal from `cursor` up to the first entry that is `found`."""
        argv = ["docker", "exec", self.name, "journalctl", "--follow", "--no-tail", "--all"]
        entries: list[Entry] = []
        deadline = time.monotonic() + seconds
        with subprocess.Popen(
            [*argv, "--output=json", f"--after-cursor={cursor}"], stdout=subprocess.PIPE
        ) as journal:
            assert journal.stdout
            rest = b""
            try:
                while select.select([journal.stdout], [], [], deadline - time.monotonic())[0]:
                    data = os.read(journal.stdout.fileno(), 1 << 16)
                    *lines, rest = (rest + data).split(b"\n")
                    for line in lines:
                        entries.append(json.loads(line))
                        if found(entries[-1]):
                            return entries
                    if not data or time.monotonic() > deadline:
                        break
            finally:
                journal.kill()
        told = "\n".join(str(one.get("MESSAGE")) for one in entries)
        raise AssertionError(f"not in the journal within {seconds} s; it has:\n{told}")

    def run_of(self, unit: str, cursor: str, end: str = "finished") -> Ended:
        """The first run of a unit after `cursor`, which must end as `end` says."""

        def ended(entry: Entry) -> bool:
            own = unit in (entry.get("UNIT"), entry.get("USER_UNIT"))
            return own and entry.get("MESSAGE_ID") in ENDS

        entries = self.follow(cursor, ended, 90)
        said = [
            (int(one["PRIORITY"]), str(one["MESSAGE"]))
            for one in entries
            if unit in (one.get("_SYSTEMD_UNIT"), one.get("_SYSTEMD_USER_UNIT"))
        ]
        told = "\n".join(str(one.get("MESSAGE")) for one in entries)
        assert ENDS[entries[-1]["MESSAGE_ID"]] == end, told
        return Ended(said, entries[-1]["__CURSOR"])


@dataclass
class Ended:
    """A run of a unit: what it said, each line with its priority, and where the journal was."""

    said: list[tuple[int, str]]
    cursor: str


@dataclass
class Site:
    """A project's folder and Compose name."""

    folder: Path
    name: str

    def write(self, path: str, text: str) -> None:
        """Write a file of the project."""
        (self.folder / path).write_text(text)

    def home(self) -> str:
        """What the container that runs was told HOME is."""
        label = f"label=com.docker.compose.project={self.name}"
        (running,) = run(["docker", "ps", "-q", "--filter", label]).split()
        variables = run(["docker", "inspect", "--format", "{{json .Config.Env}}", running])
        told: dict[str, str] = dict(one.split("=", 1) for one in json.loads(variables))
        return told["HOME_IS"]

    def remove(self) -> None:
        """Take everything of it off the engine."""
        label = f"label=com.docker.compose.project={self.name}"
        for listing, removal in (
            (["docker", "ps", "-aq", "--filter", label], ["docker", "rm", "-f"]),
            (["docker", "network", "ls", "-q", "--filter", label], ["docker", "network", "rm"]),
            (["docker", "images", "-q", "--filter", label], ["docker", "rmi", "-f"]),
        ):
            found = run(listing).split()
            if found:
                subprocess.run([*removal, *dict.fromkeys(found)], capture_output=True)


@pytest.fixture(scope="module")
def machine(systemd_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A booted machine with the shipped units, and a user `ada` who may use the engine."""
    yield from boot(systemd_image, tmp_path_factory.mktemp("machine"))


@pytest.fixture(scope="module")
def cron_machine(systemd_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Another one, for cron."""
    yield from boot(systemd_image, tmp_path_factory.mktemp("cron"))


def boot(image: str, projects: Path) -> Iterator[Machine]:
    """Boot a machine; it and all that was made on it is gone after."""
    projects.chmod(0o755)
    name = f"rbuild-test-{uuid.uuid4().hex[:10]}"
    socket = engine_socket()
    mounts = {str(path): str(path) for path in (projects, *interpreter())} | docker_command()
    argv = ["docker", "run", "-d", "--name", name, "--hostname", name, "--privileged"]
    # Docker mounts /run, or systemd would, over the socket.
    argv += ["--cgroupns=host", "--tmpfs", "/run", "--tmpfs", "/run/lock"]
    argv += ["-v", "/sys/fs/cgroup:/sys/fs/cgroup:rw", "-v", f"{socket}:/run/docker.sock"]
    # Read-only, since a machine that boots may tidy its /tmp.
    for source, target in mounts.items():
        argv += ["--mount", f"type=bind,readonly,src={source},dst={target}"]
    machine = Machine(name, projects)
    try:
        run([*argv, image])
        state = machine_state(name)
        assert state == "running", machine.run("systemctl", "list-units", "--failed")
        set_up(machine, socket)
        yield machine
    finally:
        # First the machine, on which a timer may still be at work on a project.
        subprocess.run(["docker", "rm", "-fv", name], capture_output=True)
        for made in machine.made:
            Site(projects, made).remove()


def machine_state(name: str) -> str:
    """What `systemctl is-system-running --wait` says; its bus isn't there at once."""
    argv = ["docker", "exec", name, "systemctl", "is-system-running", "--wait"]
    deadline = time.monotonic() + 60
    while True:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=90)
        if done.stdout.strip() not in ("", "offline") or time.monotonic() > deadline:
            return done.stdout.strip() or done.stderr
        time.sleep(0.1)


def set_up(machine: Machine, socket: str) -> None:
    """rbuild where pipx would put it, the shipped units, and ada with a user manager."""
    # The interpreter may live there.
    machine.run("chmod", "755", "/root")
    gid = os.stat(socket).st_gid
    machine.run("sh", "-c", f"getent group {gid} >/dev/null || groupadd -g {gid} engine")
    machine.run("useradd", "-m", "-u", "1000", "-s", "/bin/sh", "-G", str(gid), "ada")
    for user, home in (("root", "/root"), ("ada", "/home/ada")):
        path = f"{home}/.local/bin/rbuild"
        machine.write(path, f'#!/bin/sh\nexec {sys.executable} -m rbuild "$@"\n', user)
        machine.run("chmod", "755", path)
        units = "/etc/systemd/system" if user == "root" else f"{home}/.config/systemd/user"
        for unit in sorted((CONTRIB / "systemd").iterdir()):
            machine.write(f"{units}/{unit.name}", unit.read_text(), user)
    machine.run("systemctl", "daemon-reload")
    machine.run("loginctl", "enable-linger", "ada")
    machine.run("systemctl", "start", "user@1000.service")


def engine_socket() -> str:
    """The socket of the engine that the tests use."""
    host = os.environ.get("DOCKER_HOST") or run(
        ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]
    )
    path = os.path.realpath(host.strip().removeprefix("unix://"))
    assert stat.S_ISSOCK(os.stat(path).st_mode), f"the tests need an engine on a socket, not {host}"
    return path


def interpreter() -> list[Path]:
    """What the Python that runs us is made of; the image has the distribution's own /usr."""
    package = importlib.util.find_spec("rbuild")
    assert package
    assert package.origin
    found: list[Path] = []
    for path in (Path(sys.base_prefix), Path(sys.prefix), Path(package.origin).parents[1]):
        above = any(path.is_relative_to(one) for one in found)
        if path != Path("/usr") and not above:
            found.append(path)
    return found


def docker_command() -> dict[str, str]:
    """The docker command and its plugins, and where the machine looks for them."""
    command = shutil.which("docker")
    assert command
    plugins = json.loads(run(["docker", "info", "--format", "{{json .ClientInfo.Plugins}}"]))
    return {os.path.realpath(command): "/usr/bin/docker"} | {
        os.path.realpath(one["Path"]): f"/usr/libexec/docker/cli-plugins/docker-{one['Name']}"
        for one in plugins
        if one["Name"] in ("compose", "buildx")
    }


@pytest.fixture(scope="session")
def systemd_image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image of this distribution that boots; made once, then kept on the engine."""
    need("docker")
    assert os.environ.get("RBUILD_BASE"), "RBUILD_BASE is not set: run the tests with tests/run"
    if subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True).returncode:
        need("debootstrap")
        root = tmp_path_factory.mktemp("debootstrap") / "root"
        try:
            make_image(root)
        finally:
            # A debootstrap that was interrupted leaves its /proc mounted.
            subprocess.run(["rm", "-rf", "--one-file-system", str(root)], capture_output=True)
    return IMAGE


def make_image(root: Path) -> None:
    """Bootstrap the distribution into a folder, and import that."""
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)', Path("/etc/os-release").read_text(), re.M))
    suite = release["VERSION_CODENAME"]
    wanted = ["--variant=minbase", f"--include={PACKAGES}"]
    run(["debootstrap", *wanted, suite, str(root), mirror(suite)], timeout=900)
    for unit in MASKED:
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    # Debian's own empties /tmp at boot.
    (root / "etc/tmpfiles.d/tmp.conf").symlink_to("/dev/null")
    (root / "etc/machine-id").write_text("")
    spared = [f"--exclude=./{one}/*" for one in ("dev", "var/cache/apt", "var/lib/apt/lists")]
    tar = ["tar", "-C", str(root), "--numeric-owner", *spared, "-c", "."]
    change = ["-c", "ENV container=docker", "-c", 'CMD ["/sbin/init"]']
    with subprocess.Popen(tar, stdout=subprocess.PIPE) as packed:
        subprocess.run(
            ["docker", "import", *change, "-", IMAGE],
            stdin=packed.stdout,
            check=True,
            stdout=subprocess.DEVNULL,
        )
    assert packed.returncode == 0


def mirror(suite: str) -> str:
    """Where this machine's apt gets that suite from (sources.list(5))."""
    apt = Path("/etc/apt")
    for path in (apt / "sources.list", *sorted(apt.glob("sources.list.d/*"))):
        if not path.is_file():
            continue
        text = path.read_text()
        if path.suffix == ".sources":
            stanzas = [
                dict(re.findall(r"^([\w-]+):[ \t]*(.*)$", part, re.M))
                for part in text.split("\n\n")
            ]
            found = [
                one["URIs"].split()[0] for one in stanzas if suite in one.get("Suites", "").split()
            ]
        else:
            found = re.findall(rf"^deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+{suite}\s", text, re.M)
        for uri in map(str, found):
            if uri.startswith(("http://", "https://", "file:")):
                return uri
    raise AssertionError(f"no source of {suite} in /etc/apt that debootstrap could read")
