"""A container that is made from what another one shows is like that one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rbuild.compose.project import Target
from rbuild.docker.described import UNSEEN, Around, describe
from rbuild.docker.whales import Whales
from rbuild.process import Stop
from rbuild.state import generation

from .conftest import Project
from .keeping import next_compose

# What a service can be given and an engine in a container can do, a few keys a service.
SERVICES = {
    "process": "command: ['sh', '-c', 'echo $$0; exec sleep 1000']\n    user: '1000:1000'\n"
    "    working_dir: /tmp\n    environment: {A: 'b$$c', EMPTY: ''}\n    tty: true\n"
    "    stdin_open: true\n    stop_signal: SIGUSR1\n    stop_grace_period: 1m30s",
    "entry": "entrypoint: ['sh', '-c']\n    command: ['exec sleep 1000']\n    init: true",
    "names": "hostname: h\n    domainname: example.org\n    container_name: $NAME-fixed\n"
    "    labels: {'a$$b': 'c$$d', e: ''}\n    annotations: {x.y: z}",
    "health": "healthcheck: {test: [CMD, 'true'], interval: 1m30s, timeout: 10s, retries: 4,"
    " start_period: 7s}",
    "unhealthy": "healthcheck: {disable: true}",
    "rights": "cap_add: [NET_ADMIN]\n    cap_drop: [MKNOD]\n    group_add: [mail, '1000']\n"
    "    security_opt: ['no-new-privileges:true']\n    read_only: true",
    "privileged": "privileged: true",
    "limits": "mem_limit: 64m\n    mem_reservation: 32m\n    memswap_limit: -1\n    cpus: 0.5\n"
    "    cpu_shares: 73\n    pids_limit: 50\n    shm_size: 32m\n    oom_score_adj: 100\n"
    "    ulimits: {nofile: {soft: 1000, hard: 2000}, memlock: -1}",
    "deploy": "deploy: {replicas: 1, resources: {limits: {memory: 50M, pids: 20}},"
    " restart_policy: {condition: on-failure, max_attempts: 3}}",
    "kernel": "sysctls: {net.ipv4.ip_default_ttl: 63}\n    devices: ['/dev/null:/dev/xnull:rw']\n"
    "    device_cgroup_rules: ['c 1:3 mr']",
    "resolver": "dns: [10.9.8.7]\n    dns_opt: [use-vc]\n    dns_search: [example.org]\n"
    "    extra_hosts: ['h:10.0.0.1', 'v6:::1']",
    "mounts": "volumes: ['data:/data', './folder:/folder:ro', '/anonymous', 'data:/w:nocopy',\n"
    "      {type: tmpfs, target: /t, tmpfs: {size: 1000000, mode: 0755}},\n"
    "      {type: bind, source: ./folder, target: /b, bind: {propagation: rshared}}]\n"
    "    tmpfs: ['/run:size=1m,mode=755']",
    "files": "configs: [{source: c, target: /c}, {source: inline, target: /i}]\n"
    "    secrets: [s]\n    restart: unless-stopped",
    "logs": "logging: {driver: json-file, options: {max-size: 10m, max-file: '3'}}\n"
    "    restart: on-failure:3",
    "ports": "ports: ['127.0.0.1::80', '127.0.0.1::53/udp']\n    expose: ['3000']",
    "networks": "networks: {front: {aliases: [x, y], ipv4_address: 10.123.77.9}, default: }",
    "owner": "ipc: shareable\n    volumes: ['data:/shared']",
    "shares": "network_mode: service:owner\n    pid: service:owner\n    ipc: service:owner",
    "takes": "volumes_from: ['owner:ro']",
    "alone": "network_mode: none",
    "host": "network_mode: host\n    pid: host\n    ipc: host\n    uts: host\n    cgroup: host",
}
TOP = """
networks:
  front: {ipam: {config: [{subnet: 10.123.77.0/24}]}}
volumes: {data: }
configs:
  c: {file: ./c.txt}
  inline: {content: hello}
secrets: {s: {file: ./s.txt}}
"""
# Said of one container alone, and what an engine works out by itself.
OWN = {
    "Config": {"Hostname", "Labels", "Image"},
    "HostConfig": {"Mounts", "Binds", "NetworkMode", "PidMode", "IpcMode", "VolumesFrom"},
}
UNORDERED = {"Env", "ExtraHosts", "Ulimits"}


@pytest.fixture(params=["present", "next"])
def compose(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    return {} if request.param == "present" else next_compose(tmp_path / "docker")


def test_what_is_made_from_a_description_is_the_same(
    project: Project, compose: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project.env.update(compose)
    for name, value in compose.items():
        monkeypatch.setenv(name, value)
    services = "".join(
        f"  {name}:\n    image: $BASE\n    {text}\n"
        + ("" if "command:" in text else "    command: sleep 1000\n")
        for name, text in SERVICES.items()
    )
    text = f"services:\n{services}{TOP}".replace("$NAME", project.name)
    project.write("compose.yml", text)
    project.write("c.txt", "c")
    project.write("s.txt", "s")
    (project.folder / "folder").mkdir()
    project.compose("create")
    before = shown(project)
    engine = Whales(Stop())
    rendered, _ = engine.render(Target(str(project.folder)))
    kept = describe_all(project, rendered, engine)
    path = str(project.folder / "kept.json")
    generation.write_configuration(path, kept)
    project.compose("-f", path, "-p", project.name, "--project-directory", ".", "create",
                    "--force-recreate")  # fmt: skip
    now = shown(project)
    assert now.keys() == before.keys() == SERVICES.keys()
    differences = [
        (name, part, before[name][part], now[name][part])
        for name in SERVICES
        for part in before[name]
        if before[name][part] != now[name][part]
    ]
    assert differences == []


def describe_all(project: Project, rendered: Any, engine: Whales) -> dict[str, Any]:
    """The configuration of all services, from their containers alone."""
    containers = {one.id: one.service for one in engine.containers(project.name)}
    around = Around(
        project.name,
        containers,
        {one["name"]: key for key, one in rendered["networks"].items()},
        {one["name"]: key for key, one in rendered["volumes"].items()},
    )
    found = {}
    for id, data in engine.details([*containers]).items():
        template = {
            key: one for key, one in rendered["services"][containers[id]].items() if key in UNSEEN
        }
        template.pop("secrets", None)
        if "configs" in template:
            template["configs"] = [one for one in template["configs"] if one["source"] == "inline"]
        described = describe(data, template, around)
        assert (described.unknown, described.networks, described.volumes) == ([], {}, {})
        found[containers[id]] = described.service
    return {**rendered, "services": found}


def shown(project: Project) -> dict[str, dict[str, Any]]:
    """What `docker inspect` shows of each service, without what one container alone has."""
    services = {}
    containers = project.containers()
    names = {one["Id"]: one["Config"]["Labels"]["com.docker.compose.service"]
             for one in containers.values()}  # fmt: skip
    for one in containers.values():
        labels = one["Config"]["Labels"]
        found = {
            f"{part}.{key}": sorted(value, key=str) if key in UNORDERED else value
            for part, own in OWN.items()
            for key, value in one[part].items()
            if key not in own and value not in (None, [], {})
        }
        found["labels"] = {k: v for k, v in labels.items() if not k.startswith("com.docker")}
        found["mounts"] = sorted(
            (m["Type"], m["Destination"], m["RW"], m.get("Propagation", ""),
             m["Source"] if m["Type"] == "bind" else m.get("Name", ""))
            for m in one["Mounts"]
        )  # fmt: skip
        found["networks"] = {
            name: (
                sorted(set(end.get("Aliases") or ()) - {one["Id"][:12]}),
                (end.get("IPAMConfig") or {}).get("IPv4Address"),
            )
            for name, end in one["NetworkSettings"]["Networks"].items()
        }
        host = one["HostConfig"]
        found["namespaces"] = {
            key: names.get(str(host.get(key)).removeprefix("container:"), host.get(key))
            for key in ("PidMode", "IpcMode")
        }
        services[labels["com.docker.compose.service"]] = found
    return services
