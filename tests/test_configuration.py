"""The rendered configuration as plain values."""

from __future__ import annotations

from typing import Any

import pytest

from rbuild.compose.configuration import Service, longest_wait, parse, seconds, separator
from rbuild.docker.engine import Healthcheck, Port
from rbuild.errors import ProjectError


def service(**data: Any) -> Service:
    return parse({"name": "p", "services": {"web": data}}, "/p").services["web"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30s", 30),
        ("1m30s", 90),
        ("1h0m0s", 3600),
        ("2m0s", 120),
        ("1.5s", 1.5),
        ("500ms", 0.5),
        ("1m0.5s", 60.5),
        ("10us", 1e-5),
        ("10µs", 1e-5),
        ("7ns", 7e-9),
        ("0s", 0),
        ("", 0),
        (None, 0),
    ],
)
def test_go_durations(text: str | None, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("data", "scale"),
    [
        ({}, 1),
        ({"scale": 3}, 3),
        ({"scale": 0}, 0),
        ({"deploy": {"replicas": 2}}, 2),
        ({"deploy": {"replicas": 0}}, 0),
        ({"deploy": {}}, 1),
        ({"deploy": None}, 1),
        ({"scale": 4, "deploy": {"replicas": 4}}, 4),
    ],
)
def test_scale(data: dict[str, Any], scale: int) -> None:
    assert service(**data).scale == scale


@pytest.mark.parametrize(
    ("data", "restart"),
    [
        ({}, "no"),
        ({"restart": "always"}, "always"),
        ({"restart": "on-failure:3"}, "on-failure:3"),
        ({"deploy": {"restart_policy": {"condition": "any"}}}, "always"),
        ({"deploy": {"restart_policy": {"condition": "none"}}}, "no"),
        ({"deploy": {"restart_policy": {"condition": "on-failure"}}}, "on-failure"),
        ({"deploy": {"restart_policy": {}}}, "no"),
    ],
)
def test_restart(data: dict[str, Any], restart: str) -> None:
    assert service(**data).restart == restart


def test_images() -> None:
    config = {
        "name": "p",
        "services": {
            "web": {"build": {"context": "/p"}},
            "named": {"build": {"context": "/p"}, "image": "app:1"},
            "pulled": {"image": "redis", "pull_policy": "missing", "platform": "linux/arm64"},
        },
    }
    found = parse(config, "/p")
    assert found.name == "p"
    assert [one.image for one in found.services.values()] == ["p-web", "app:1", "redis"]
    assert found.built_images == {"p-web", "app:1"}
    pulled = found.services["pulled"]
    assert (pulled.pull_policy, pulled.platform, pulled.build) == ("missing", "linux/arm64", None)


def test_a_project_without_services() -> None:
    assert parse({"name": "p"}, "/p").services == {}
    assert parse({"name": "p", "services": None}, "/p").services == {}


def test_dependencies_and_what_they_say_of_one_shots() -> None:
    config = {
        "name": "p",
        "services": {
            "web": {
                "depends_on": {
                    "migrate": {"condition": "service_completed_successfully", "required": True},
                    "db": {"condition": "service_healthy"},
                    "other": None,
                }
            },
            "migrate": {},
            "db": {},
            "other": {},
            "said": {"x-rbuild": {"one-shot": True}},
            "denied": {"x-rbuild": {"one-shot": False}},
        },
    }
    found = parse(config, "/p").services
    assert found["web"].depends_on == {
        "migrate": "service_completed_successfully",
        "db": "service_healthy",
        "other": "",
    }
    assert {name for name, one in found.items() if one.one_shot} == {"migrate", "said"}


@pytest.mark.parametrize(
    ("check", "expected", "disabled"),
    [
        (None, None, False),
        ({"disable": True}, None, True),
        ({"test": ["NONE"]}, None, True),
        ({"test": ["CMD", "x"]}, Healthcheck(), False),
        (
            {"test": ["CMD", "x"], "interval": "1m", "timeout": "2s", "retries": 4,
             "start_period": "1m30s"},
            Healthcheck(90, 60, 2, 4),
            False,
        ),
        ({"interval": "5s"}, Healthcheck(interval=5), False),
    ],
)  # fmt: skip
def test_healthchecks(check: Any, expected: Healthcheck | None, disabled: bool) -> None:
    found = service(healthcheck=check)
    assert (found.healthcheck, found.healthcheck_disabled) == (expected, disabled)


def test_ports() -> None:
    ports = [
        {"target": 80, "published": "8080", "protocol": "tcp"},
        {"target": 53, "published": "53", "protocol": "udp", "host_ip": "127.0.0.1"},
        {"target": 81, "published": 8081},
        {"target": 82},
        {"target": 83, "published": ""},
        {"target": 84, "published": "9000-9010"},
    ]
    expected = (Port(8080), Port(53, "127.0.0.1", "udp"), Port(8081))
    assert service(ports=ports).ports == expected


@pytest.mark.parametrize(
    ("one", "two", "clash"),
    [
        (Port(80), Port(80), True),
        (Port(80), Port(81), False),
        (Port(80), Port(80, protocol="udp"), False),
        (Port(80, "127.0.0.1"), Port(80), True),
        (Port(80, "127.0.0.1"), Port(80, "0.0.0.0"), True),
        (Port(80, "127.0.0.1"), Port(80, "127.0.0.2"), False),
        (Port(80, "127.0.0.1"), Port(80, "127.0.0.1"), True),
    ],
)
def test_ports_that_clash(one: Port, two: Port, clash: bool) -> None:
    assert one.clashes(two) == two.clashes(one) == clash


def test_a_manual_service() -> None:
    assert service(**{"x-rbuild": {"update": "manual"}}).manual
    assert not service(**{"x-rbuild": {"update": "auto"}}).manual
    assert not service().manual


@pytest.mark.parametrize(
    ("own", "message", "hint"),
    [
        ({"updat": "manual"}, "c.yml:7: unknown key 'updat'", "did you mean update?"),
        ({"update": "never"}, "c.yml:8: update: 'never' is neither auto nor manual", ""),
        ({"update": None}, "c.yml:8: update: nothing is neither auto nor manual", ""),
        ({"update": ["a"]}, 'c.yml:8: update: ["a"] is neither auto nor manual', ""),
        ({"rollback": False}, "/p: services.web.x-rbuild: rollback: false is neither auto", ""),
        ({"one-shot": "so"}, "/p: services.web.x-rbuild: one-shot: 'so' is neither true", ""),
        ({"one-shot": {}}, "/p: services.web.x-rbuild: one-shot: expected one value, not {}", ""),
        ({"build-period": 5}, "/p: services.web.x-rbuild: build-period is a setting of", "move it"),
        ({"hooks": {}}, "/p: services.web.x-rbuild: hooks is a setting of", "move it"),
        ({"jobs": 5}, "/p: services.web.x-rbuild: jobs belongs to a run", ""),
        (["update"], "c.yml:6: x-rbuild: expected a mapping with update, one-shot, rollback", ""),
    ],
)
def test_a_wrong_x_rbuild_of_a_service(own: Any, message: str, hint: str) -> None:
    lines = {("web", ""): "c.yml:6", ("web", "updat"): "c.yml:7", ("web", "update"): "c.yml:8"}
    with pytest.raises(ProjectError) as caught:
        parse({"name": "p", "services": {"web": {"x-rbuild": own}}}, "/p", lines)
    assert caught.value.message.startswith(message)
    assert hint in caught.value.hint


def check(start: float = 0, interval: float = 0, timeout: float = 0, retries: int = 0) -> Any:
    times = {"start_period": start, "interval": interval, "timeout": timeout}
    spelled = {name: f"{value}s" for name, value in times.items() if value}
    return {"test": ["CMD", "x"], **spelled, **({"retries": retries} if retries else {})}


def waits(
    services: dict[str, Any], images: dict[str, Healthcheck | None] | None = None
) -> tuple[float, str]:
    return longest_wait(parse({"name": "p", "services": services}, "/p"), images or {})


def after(*names: str) -> dict[str, Any]:
    return {"depends_on": {name: {"condition": "service_healthy"} for name in names}}


# Each service gets its time to stop, 10 s where nothing is said (Compose, stop_grace_period).
STOP = 10


def test_no_healthcheck_asks_for_no_wait_but_to_stop() -> None:
    assert waits({})[0] == 0
    assert waits({"web": {}, "db": after("web")})[0] == 2 * STOP
    assert waits({"web": {"stop_grace_period": "1m15s"}})[0] == 75


@pytest.mark.parametrize(
    ("data", "image", "expected"),
    [
        ({"healthcheck": check(10, 5, 1, 4)}, None, 10 + 4 * 6),
        # The engine's defaults: 30 s, 30 s, 3 times.
        ({"healthcheck": check()}, None, 180),
        ({}, Healthcheck(), 180),
        ({}, Healthcheck(5, 2, 1, 2), 5 + 2 * 3),
        # What the file leaves unset comes from the image.
        ({"healthcheck": check(interval=9)}, Healthcheck(5, 2, 1, 2), 5 + 2 * 10),
        ({"healthcheck": {"disable": True}}, Healthcheck(5, 2, 1, 2), 0),
        ({}, None, 0),
    ],
)
def test_patience_with_one_service(data: Any, image: Any, expected: float) -> None:
    assert waits({"web": data}, {"web": image}) == (STOP + expected, "web")


def test_the_longest_chain_counts() -> None:
    one = {"healthcheck": check(0, 1, 1, 1)}
    assert waits(
        {
            "db": {"healthcheck": check(100, 1, 1, 1)},
            "cache": one,
            "app": one | after("db", "cache"),
            "web": after("app"),
            "alone": {"healthcheck": check(50, 1, 1, 1)},
        }
    ) == (3 * STOP + 104, "web")


def test_a_circle_and_a_stranger_end_the_count() -> None:
    one = {"healthcheck": check(0, 1, 1, 1)}
    assert waits({"a": one | after("b"), "b": one | after("a", "gone")})[0] == 2 * STOP + 4


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (["p_web", "p_a.b", "p_web", "nginx"], "_"),
        (["p-web", "p-a.b", "p_web", "nginx"], "-"),
        (["p-web", "p_a.b", "p_web", "nginx"], "-"),
        ([], "-"),
    ],
)
def test_the_separator_is_that_of_the_names_that_nobody_gave(images: list[str], found: str) -> None:
    config = {
        "name": "p",
        "services": {
            "web": {"build": {}}, "a.b": {"build": {}},
            "named": {"image": "p_web"}, "front": {"image": "nginx"},
        },
    }  # fmt: skip
    assert separator(config, images) == found
    services = parse(config, "/p", separator=found).services
    assert [services[name].image for name in ("web", "named")] == [f"p{found}web", "p_web"]


def test_images_of_a_service() -> None:
    mounts = [
        {"type": "image", "source": "data", "target": "/a"}, {"type": "bind", "source": "/x"},
        {"type": "image", "source": "data", "target": "/b"}, {"type": "tmpfs", "target": "/t"},
    ]  # fmt: skip
    found = service(image="x", build={"context": "/", "tags": ["y"]}, volumes=mounts)
    assert (found.mounts, found.images) == (("data",), ("x", "y", "data"))
    assert service(provider={"type": "x"}).images == ()


def test_without_default_names_there_is_no_separator_to_tell() -> None:
    assert separator({"name": "p", "services": {"a": {"image": "x"}}}, ["x"]) == "-"
    assert separator({"name": "p"}, []) == "-"
