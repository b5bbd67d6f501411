"""What `docker inspect`, events and failed pulls say, as the values of `engine`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from signal import SIGINT, SIGKILL, SIGQUIT, SIGTERM, Signals
from typing import Any

from rbuild.docker.engine import STOP_GRACE, Container, Healthcheck, Image, Port

LABEL = "com.docker.compose."
"""What Compose's labels begin with."""
_LEFTOVER = re.compile(r"([0-9a-f]{12})_")
# The exit code of a pull is one for all: its text tells a registry's no from silence.
_ANSWERS = {
    "absent": r'manifest unknown|name unknown|resolve reference "[^"]+": \S+: not found',
    "denied": r"(?<!permission )denied|unauthorized|authorization failed|no basic auth"
    r"|40[13] (?:Unauthorized|Forbidden)",
    "silent": r"dial (?:tcp|udp)|no such host|TLS handshake timeout|Client\.Timeout exceeded",
}


def container(data: dict[str, Any]) -> Container:
    """A container."""
    state = data["State"]
    labels = data["Config"].get("Labels") or {}
    health = state.get("Health") or {}
    checks = health.get("Log") or []
    name = data["Name"].lstrip("/")
    leftover = _LEFTOVER.match(name)
    if leftover and leftover[1] == labels.get(f"{LABEL}project"):
        leftover = None  # COMPOSE_COMPATIBILITY: PROJECT_SERVICE_NUMBER
    files = labels.get(f"{LABEL}project.config_files", "")
    grace = data["Config"].get("StopTimeout")
    return Container(
        id=data["Id"],
        name=name,
        service=labels.get(f"{LABEL}service", ""),
        image=data["Image"],
        reference=data["Config"]["Image"],
        state=state["Status"],
        health="" if health.get("Status") == "none" else health.get("Status", ""),
        exit_code=state.get("ExitCode", 0),
        restarts=data.get("RestartCount", 0),
        started=epoch(state.get("StartedAt", "")),
        error=state.get("Error", ""),
        restart_policy=(data["HostConfig"].get("RestartPolicy") or {}).get("Name") or "no",
        config_files=tuple(filter(None, files.split(","))),
        config_hash=labels.get(f"{LABEL}config-hash", ""),
        environment=tuple(data["Config"].get("Env") or ()),
        oneoff=labels.get(f"{LABEL}oneoff", "False") == "True",
        # Compose makes the new container under this name, and renames it when the old one is gone.
        replaces=leftover[1] if leftover and f"{LABEL}replace" in labels else "",
        ports=tuple(
            Port(int(one["HostPort"]), one.get("HostIp") or "", kind.partition("/")[2])
            for kind, bindings in (data["HostConfig"].get("PortBindings") or {}).items()
            for one in bindings or ()
            if str(one.get("HostPort", "")).isdecimal()
        ),
        volumes=tuple(
            dict.fromkeys(
                one.get("Name") or one.get("Source", "")
                for one in data.get("Mounts") or ()
                if one.get("RW") and one.get("Type") in ("volume", "bind")
            )
        ),
        stop_grace=STOP_GRACE if grace is None else float(grace),
        namespaces=tuple(
            (kind, mode.removeprefix("container:"))
            for kind in ("network", "pid", "ipc")
            if (mode := data["HostConfig"].get(f"{kind.capitalize()}Mode") or "").startswith(
                "container:"
            )
        ),
        finished=epoch(state.get("FinishedAt", "")),
        project=labels.get(f"{LABEL}project", ""),
        folder=labels.get(f"{LABEL}project.working_dir", ""),
        healthcheck_output=(checks[-1].get("Output") or "").strip() if checks else "",
    )


def image(data: dict[str, Any], *, containerd_store: bool) -> Image:
    """An image. With the `containerd_store` every name has a digest: that tells nothing there."""
    config = data.get("Config") or {}
    # Since API 1.53. What was built here may have been pushed, of which it doesn't tell.
    pulls = (data.get("Identity") or {}).get("Pull") or ()
    return Image(
        id=data["Id"],
        tags=tuple(data.get("RepoTags") or ()),
        digests=tuple(data.get("RepoDigests") or ()),
        labels=config.get("Labels") or {},
        healthcheck=_healthcheck(config.get("Healthcheck")),
        forgets=containerd_store,
        pulls=tuple(one["Repository"] for one in pulls if one.get("Repository")),
    )


def resource(data: Mapping[str, Any]) -> dict[str, Any]:
    """A network or volume, in the words of compose files."""
    ipam = data.get("IPAM") or {}
    return {
        "driver": data.get("Driver"),
        "driver_opts": data.get("Options") or {},
        "labels": data.get("Labels") or {},
        "internal": data.get("Internal"),
        "attachable": data.get("Attachable"),
        "enable_ipv6": data.get("EnableIPv6"),
        "ipam": {
            "driver": ipam.get("Driver"),
            "options": ipam.get("Options") or {},
            "config": [
                {
                    "subnet": pool.get("Subnet"),
                    "gateway": pool.get("Gateway"),
                    "ip_range": pool.get("IPRange"),
                    "aux_addresses": pool.get("AuxiliaryAddresses") or {},
                }
                for pool in ipam.get("Config") or ()
            ],
        },
    }


def _healthcheck(data: dict[str, Any] | None) -> Healthcheck | None:
    if not data or (data.get("Test") or ["NONE"])[0] == "NONE":
        return None
    seconds = {
        field: (data.get(name) or 0) / 1e9
        for field, name in (
            ("start_period", "StartPeriod"),
            ("interval", "Interval"),
            ("timeout", "Timeout"),
        )
    }
    return Healthcheck(**seconds, retries=data.get("Retries") or 0)


def answer(text: str) -> str:
    """What a pull that failed with this text says of the image, as `PullError.answer` has it."""
    if "Pulling from" in text:
        # There is one, whatever else went wrong.
        return ""
    return next((one for one, words in _ANSWERS.items() if re.search(words, text)), "")


def epoch(text: str) -> float:
    """Epoch seconds of the engine's timestamps; its zero time (year 1) is 0."""
    if not text or text.startswith("0001-"):
        return 0.0
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def signals(events: Iterable[Mapping[str, Any]], project: str) -> dict[str, set[int]]:
    """The signals that a project's containers were sent since they last started, by ID.

    `events` are as `docker events --format '{{json .}}'` gives them.
    """
    found: dict[str, set[int]] = {}
    for event in events:
        actor = event.get("Actor") or {}
        about = actor.get("Attributes") or {}
        if event.get("Type") != "container" or about.get(f"{LABEL}project") != project:
            continue
        if about.get(f"{LABEL}oneoff") == "True":
            continue
        if event["Action"] == "kill":
            found.setdefault(actor["ID"], set()).add(_number(about.get("signal", "")))
        elif event["Action"] in ("die", "start"):
            found.pop(actor["ID"], None)
    return found


def ends(data: Mapping[str, Any], sent: Collection[int]) -> bool:
    """Whether one of the signals that were `sent` to a container means its end.

    Another one means what the service makes of it: HUP, to read its files again.
    """
    own = _number((data.get("Config") or {}).get("StopSignal") or "")
    return not {own, SIGINT, SIGQUIT, SIGTERM, SIGKILL}.isdisjoint(sent)


def _number(name: str) -> int:
    """A signal's number, from a number or a name as images have it (SIGWINCH, RTMIN+3)."""
    text = name.upper().removeprefix("SIG")
    if text.isdecimal():
        return int(text)
    base, _, more = text.partition("+")
    known = Signals.__members__.get(f"SIG{base}", SIGTERM)
    return int(known) + (int(more) if more.isdecimal() else 0)
