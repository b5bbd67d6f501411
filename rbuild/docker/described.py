"""The configuration of a service, from what `docker inspect` shows of a container of it.

Where no file is left that a container was made from, the container itself says how it was made.
What the engine is told by each key of a service: docker/compose, pkg/compose/create.go; what it
shows: the engine's API, `GET /containers/{id}/json`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rbuild.docker.inspected import LABEL

# What a container doesn't show, and what an `up` of it alone doesn't need to be right.
UNSEEN = (
    "attach", "build", "configs", "depends_on", "develop", "platform", "post_start", "pre_stop",
    "profiles", "pull_policy", "scale", "secrets",
)  # fmt: skip
_ANONYMOUS = re.compile(r"[0-9a-f]{64}")
# Of a bind: whether it is read-only, how SELinux labels it, what is copied; else its propagation.
_SELINUX = ("z", "Z")
_PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
# The engine's own choice where nothing is said.
_ENGINE_RUNTIMES = ("", "runc", "io.containerd.runc.v2")

# HostConfig → key of a service, with the same value.
_SAME = {
    "Annotations": "annotations", "CapAdd": "cap_add", "CapDrop": "cap_drop",
    "CgroupParent": "cgroup_parent", "CpuCount": "cpu_count", "CpuPercent": "cpu_percent",
    "CpuPeriod": "cpu_period", "CpuQuota": "cpu_quota", "CpuRealtimePeriod": "cpu_rt_period",
    "CpuRealtimeRuntime": "cpu_rt_runtime", "CpuShares": "cpu_shares", "CpusetCpus": "cpuset",
    "DeviceCgroupRules": "device_cgroup_rules", "Dns": "dns", "DnsOptions": "dns_opt",
    "DnsSearch": "dns_search", "ExtraHosts": "extra_hosts", "GroupAdd": "group_add",
    "Init": "init", "Memory": "mem_limit", "MemoryReservation": "mem_reservation",
    "OomKillDisable": "oom_kill_disable", "OomScoreAdj": "oom_score_adj",
    "PidsLimit": "pids_limit", "Privileged": "privileged", "ReadonlyRootfs": "read_only",
    "SecurityOpt": "security_opt", "ShmSize": "shm_size", "StorageOpt": "storage_opt",
    "Sysctls": "sysctls", "UTSMode": "uts", "UsernsMode": "userns_mode",
}  # fmt: skip
_CONFIG = {
    "Cmd": "command", "Domainname": "domainname", "Entrypoint": "entrypoint",
    "OpenStdin": "stdin_open", "StopSignal": "stop_signal", "Tty": "tty",
    "User": "user", "WorkingDir": "working_dir",
}  # fmt: skip
# HostConfig that is described below, or that no file can set.
_OTHERS = (
    "Binds", "BlkioDeviceReadBps", "BlkioDeviceReadIOps", "BlkioDeviceWriteBps",
    "BlkioDeviceWriteIOps", "BlkioWeight", "BlkioWeightDevice", "Cgroup", "CgroupnsMode",
    "ConsoleSize", "DeviceRequests", "Devices", "IpcMode", "Isolation", "LogConfig", "MaskedPaths",
    "MemorySwap", "MemorySwappiness", "Mounts", "NanoCpus", "NetworkMode", "PidMode",
    "PortBindings", "ReadonlyPaths", "RestartPolicy", "Runtime", "Tmpfs", "Ulimits", "VolumesFrom",
)  # fmt: skip


@dataclass
class Described:
    """A service as its container shows it, and the networks and volumes that it names."""

    service: dict[str, Any]
    networks: dict[str, Any] = field(default_factory=dict)
    volumes: dict[str, Any] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    """What the container has that can't be said in a compose file, in words."""


@dataclass(frozen=True, slots=True)
class Around:
    """The project that a container belongs to."""

    project: str
    services: Mapping[str, str]
    """Container ID → the service of this project that it belongs to."""
    networks: Mapping[str, str]
    """Name on the engine → key in the project's configuration."""
    volumes: Mapping[str, str]
    """The same of volumes."""


def describe(data: Mapping[str, Any], template: Mapping[str, Any], around: Around) -> Described:
    """How the container that `docker inspect` shows as `data` is made anew.

    `template` is a configuration of the same service, for what containers don't show: of its
    configs and secrets it has only those that are copied into containers; others show as mounts.
    """
    host, config = data["HostConfig"], data["Config"]
    found = Described({key: template[key] for key in UNSEEN if template.get(key) is not None})
    service = found.service
    replicas = (template.get("deploy") or {}).get("replicas")
    if replicas is not None:
        service["deploy"] = {"replicas": replicas}
    service.update({key: one for key, one in template.items() if key.startswith("x-")})
    service.update({key: config[name] for name, key in _CONFIG.items() if config.get(name)})
    service.update({key: host[name] for name, key in _SAME.items() if host.get(name)})
    _name(data, service, around)
    _config(data, service)
    _resources(host, service)
    _namespaces(data, found, around)
    _mounts(host, found, around)
    _ports(host, service)
    found.unknown += [
        f"HostConfig.{name}"
        for name, value in host.items()
        if value and name not in _SAME and name not in _OTHERS
    ]
    found.unknown += [
        "a seccomp profile"
        for option in host.get("SecurityOpt") or ()
        if option.startswith(("seccomp=", "seccomp:")) and "{" in option
    ]
    return found


def _name(data: Mapping[str, Any], service: dict[str, Any], around: Around) -> None:
    config = data["Config"]
    labels = config.get("Labels") or {}
    name = labels.get(f"{LABEL}service", "")
    container = data["Name"].lstrip("/")
    if not re.fullmatch(rf"{re.escape(around.project)}[-_]{re.escape(name)}[-_][0-9]+", container):
        service["container_name"] = container
    if not (service.get("build") and config["Image"] == f"{around.project}-{name}"):
        service["image"] = config["Image"]
    own = {key: value for key, value in labels.items() if not key.startswith(LABEL)}
    if own:
        service["labels"] = own


def _config(data: Mapping[str, Any], service: dict[str, Any]) -> None:
    config, host = data["Config"], data["HostConfig"]
    if config.get("Env"):
        # As Compose renders it.
        service["environment"] = dict(one.split("=", 1) for one in config["Env"] if "=" in one)
    shares_name = host.get("NetworkMode", "") == "host" or host.get("UTSMode") == "host"
    hostname = config.get("Hostname") or ""
    if hostname not in ("", data["Id"][:12]) and not shares_name:
        service["hostname"] = hostname
    if config.get("StopTimeout") is not None:
        service["stop_grace_period"] = f"{config['StopTimeout']}s"
    if config.get("ExposedPorts"):
        service["expose"] = sorted(config["ExposedPorts"])
    check = config.get("Healthcheck") or {}
    if check.get("Test") == ["NONE"]:
        service["healthcheck"] = {"disable": True}
    elif check:
        times = {
            "interval": "Interval",
            "timeout": "Timeout",
            "start_period": "StartPeriod",
            "start_interval": "StartInterval",
        }
        service["healthcheck"] = {
            **({"test": check["Test"]} if check.get("Test") else {}),
            **({"retries": check["Retries"]} if check.get("Retries") else {}),
            **{key: f"{check[name]}ns" for key, name in times.items() if check.get(name)},
        }
    policy = host.get("RestartPolicy") or {}
    restart = policy.get("Name") or "no"
    most = policy.get("MaximumRetryCount")
    service["restart"] = f"{restart}:{most}" if restart == "on-failure" and most else restart
    logs = host.get("LogConfig") or {}
    if logs.get("Type"):
        service["logging"] = {"driver": logs["Type"], "options": logs.get("Config") or {}}


def _resources(host: Mapping[str, Any], service: dict[str, Any]) -> None:
    if host.get("NanoCpus"):
        service["cpus"] = host["NanoCpus"] / 1e9
    swap = host.get("MemorySwap")
    # Without a word of the file, the engine allows as much again.
    if swap and swap != 2 * (host.get("Memory") or 0):
        service["memswap_limit"] = swap
    if host.get("MemorySwappiness") not in (None, -1):
        service["mem_swappiness"] = host["MemorySwappiness"]
    if host.get("Runtime") not in (None, *_ENGINE_RUNTIMES):
        service["runtime"] = host["Runtime"]
    if host.get("Isolation") not in (None, "", "default"):
        service["isolation"] = host["Isolation"]
    if host.get("Ulimits"):
        service["ulimits"] = {
            one["Name"]: {"soft": one["Soft"], "hard": one["Hard"]} for one in host["Ulimits"]
        }
    if host.get("Devices"):
        service["devices"] = [
            f"{one['PathOnHost']}:{one['PathInContainer']}:{one['CgroupPermissions']}"
            for one in host["Devices"]
        ]
    if host.get("DeviceRequests"):
        devices = [_device_request(one) for one in host["DeviceRequests"]]
        deploy = service.setdefault("deploy", {})
        deploy["resources"] = {"reservations": {"devices": devices}}
    block = _block_io(host)
    if block:
        service["blkio_config"] = block


def _device_request(request: Mapping[str, Any]) -> dict[str, Any]:
    # The engine has alternatives, of which a compose file can name one.
    (capabilities, *_) = request.get("Capabilities") or [[]]
    found: dict[str, Any] = {"capabilities": capabilities}
    if request.get("Driver"):
        found["driver"] = request["Driver"]
    if request.get("Options"):
        found["options"] = request["Options"]
    if request.get("DeviceIDs"):
        return {**found, "device_ids": request["DeviceIDs"]}
    return {**found, "count": request.get("Count") or "all"}


def _block_io(host: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if host.get("BlkioWeight"):
        found["weight"] = host["BlkioWeight"]
    for name, key in (
        ("BlkioWeightDevice", "weight_device"),
        ("BlkioDeviceReadBps", "device_read_bps"),
        ("BlkioDeviceReadIOps", "device_read_iops"),
        ("BlkioDeviceWriteBps", "device_write_bps"),
        ("BlkioDeviceWriteIOps", "device_write_iops"),
    ):
        if host.get(name):
            found[key] = [
                {part.lower(): value for part, value in one.items()} for one in host[name]
            ]
    return found


def _namespaces(data: Mapping[str, Any], found: Described, around: Around) -> None:
    host, service = data["HostConfig"], found.service

    def owner(mode: str) -> str:
        """`service:NAME`, or the container that another project has."""
        identity = mode.removeprefix("container:")
        own = around.services.get(identity)
        return f"service:{own}" if own else mode

    for name, key, default in (("PidMode", "pid", ""), ("IpcMode", "ipc", "private")):
        mode = host.get(name) or ""
        if mode not in ("", default):
            service[key] = owner(mode)
    if host.get("CgroupnsMode") == "host":
        service["cgroup"] = "host"
    if host.get("VolumesFrom"):
        service["volumes_from"] = []
        for source in host["VolumesFrom"]:
            identity, _, mode = source.partition(":")
            own = around.services.get(identity, f"container:{identity}")
            service["volumes_from"].append(f"{own}:{mode}" if mode else own)
    mode = host.get("NetworkMode") or "default"
    networks = (data.get("NetworkSettings") or {}).get("Networks") or {}
    if mode.startswith("container:"):
        service["network_mode"] = owner(mode)
    elif mode in ("host", "none") or not networks or {*networks} == {"bridge"}:
        service["network_mode"] = "bridge" if mode == "default" else mode
    else:
        service["networks"] = {
            _key(name, around.networks, found.networks): _endpoint(data, one, is_first=name == mode)
            for name, one in networks.items()
        }


def _endpoint(data: Mapping[str, Any], one: Mapping[str, Any], *, is_first: bool) -> dict[str, Any]:
    labels = data["Config"].get("Labels") or {}
    given = {labels.get(f"{LABEL}service", ""), data["Id"][:12], data["Name"].lstrip("/")}
    ipam = one.get("IPAMConfig") or {}
    found = {
        "aliases": [alias for alias in one.get("Aliases") or () if alias not in given],
        "ipv4_address": ipam.get("IPv4Address"),
        "ipv6_address": ipam.get("IPv6Address"),
        "link_local_ips": ipam.get("LinkLocalIPs"),
        "driver_opts": one.get("DriverOpts"),
        # The first one is where its ports are published.
        "priority": 1000 if is_first else None,
    }
    return {key: value for key, value in found.items() if value}


def _key(name: str, keys: Mapping[str, str], more: dict[str, Any]) -> str:
    """The key of a network or volume; what the project does not name is one of somebody else's."""
    if name in keys:
        return keys[name]
    more[name] = {"name": name, "external": True}
    return name


def _mounts(host: Mapping[str, Any], found: Described, around: Around) -> None:
    volumes: list[dict[str, Any]] = []
    for text in host.get("Binds") or ():
        source, _, rest = text.partition(":")
        target, _, options = rest.partition(":")
        if not target.startswith("/"):
            found.unknown.append(f"the mount {text}")
            continue
        volumes.append(_bind(source, target, options.split(","), found, around))
    for mount in host.get("Mounts") or ():
        make = _MOUNTS.get(mount["Type"])
        if make is None:
            found.unknown.append(f"a mount of type {mount['Type']}")
            continue
        one = {"type": mount["Type"], "target": mount["Target"], **make(mount, found, around)}
        volumes.append(one | ({"read_only": True} if mount.get("ReadOnly") else {}))
    if volumes:
        found.service["volumes"] = volumes
    if host.get("Tmpfs"):
        found.service["tmpfs"] = [
            f"{path}:{options}" if options else path for path, options in host["Tmpfs"].items()
        ]


def _bind(
    source: str, target: str, options: list[str], found: Described, around: Around
) -> dict[str, Any]:
    one: dict[str, Any] = {"target": target}
    if "ro" in options:
        one["read_only"] = True
    if not source.startswith("/"):
        one |= _volume({"Source": source}, found, around)
        if "nocopy" in options:
            one["volume"] = {"nocopy": True}
        return {"type": "volume", **one}
    more: dict[str, Any] = {"create_host_path": True}
    for option in options:
        if option in _SELINUX:
            more["selinux"] = option
        elif option in _PROPAGATIONS:
            more["propagation"] = option
    return {"type": "bind", "source": source, **one, "bind": more}


def _volume(mount: Mapping[str, Any], found: Described, around: Around) -> dict[str, Any]:
    source = mount.get("Source") or ""
    options = mount.get("VolumeOptions") or {}
    more = {
        key: options[name]
        for name, key in (("NoCopy", "nocopy"), ("Subpath", "subpath"))
        if options.get(name)
    }
    one: dict[str, Any] = {"volume": more} if more else {}
    # An anonymous one passes from container to container.
    if source and not _ANONYMOUS.fullmatch(source):
        one["source"] = _key(source, around.volumes, found.volumes)
    return one


def _bind_mount(mount: Mapping[str, Any], found: Described, around: Around) -> dict[str, Any]:
    options = mount.get("BindOptions") or {}
    more: dict[str, Any] = {"create_host_path": bool(options.get("CreateMountpoint"))}
    if options.get("Propagation"):
        more["propagation"] = options["Propagation"]
    if options.get("NonRecursive"):
        more["recursive"] = "disabled"
    return {"source": mount["Source"], "bind": more}


def _tmpfs(mount: Mapping[str, Any], found: Described, around: Around) -> dict[str, Any]:
    options = mount.get("TmpfsOptions") or {}
    more = {
        key: options[name]
        for name, key in (("SizeBytes", "size"), ("Mode", "mode"))
        if options.get(name)
    }
    return {"tmpfs": more} if more else {}


def _image(mount: Mapping[str, Any], found: Described, around: Around) -> dict[str, Any]:
    subpath = (mount.get("ImageOptions") or {}).get("Subpath")
    return {"source": mount["Source"], **({"image": {"subpath": subpath}} if subpath else {})}


_MOUNTS: Mapping[str, Callable[[Mapping[str, Any], Described, Around], dict[str, Any]]] = {
    "bind": _bind_mount,
    "volume": _volume,
    "tmpfs": _tmpfs,
    "image": _image,
}


def _ports(host: Mapping[str, Any], service: dict[str, Any]) -> None:
    ports = [
        {
            "mode": "ingress",
            "target": int(port.partition("/")[0]),
            "protocol": port.partition("/")[2] or "tcp",
            **({"published": one["HostPort"]} if one.get("HostPort") else {}),
            **({"host_ip": one["HostIp"]} if one.get("HostIp") else {}),
        }
        for port, bindings in (host.get("PortBindings") or {}).items()
        for one in bindings or [{}]
    ]
    if ports:
        service["ports"] = ports
