"""What came of a run: exit codes, lines for a person, keys for a program."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from rbuild.decisions.moves import Waits
from rbuild.decisions.staleness import Reason
from rbuild.errors import (
    Busy,
    Deferred,
    EngineError,
    GateError,
    HookError,
    InternalError,
    Interrupted,
    NeedsPerson,
    ProjectError,
    RbuildError,
    RolledBack,
    SpaceError,
    StateError,
    UpError,
    UsageError,
)
from rbuild.report import SCREEN, Outcome, document, exit_code, problems, results


def outcome(kind: str = "fresh", **more: Any) -> Outcome:
    return Outcome("site", "/srv/site", kind, **more)


def failed(error: RbuildError, kind: str = "failed", **more: Any) -> Outcome:
    return outcome(kind, error=error, **more)


REASONS = (Reason("expired", "last updated 1 d ago"), Reason("changed", "/srv/site/.env"))

# Exit codes


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RbuildError("x"), 1), (UsageError("x"), 2), (ProjectError("x"), 1), (StateError("x"), 1),
        (EngineError("x"), 1), (UpError("x"), 1), (GateError("x"), 1), (Busy("x"), 75),
        (InternalError("x"), 1), (Interrupted(2), 130), (Interrupted(15), 143),
        (Interrupted(1), 129),
        (HookError("x"), 1), (SpaceError("x"), 1), (Deferred("x"), 75), (RolledBack("x"), 3),
        (NeedsPerson("x"), 4),
    ],
)  # fmt: skip
def test_the_code_of_an_error(error: RbuildError, code: int) -> None:
    assert error.exit_code == code
    assert exit_code([failed(error)]) == code


@pytest.mark.parametrize("kind", ["fresh", "planned", "updated", "removed"])
def test_what_went_well_is_nought(kind: str) -> None:
    assert exit_code([outcome(kind)]) == 0


def test_nothing_at_all_is_nought() -> None:
    assert exit_code([]) == 0


SEVERITY = [4, 3, 1, 75, 0]
BY_CODE = {
    0: outcome(),
    75: failed(Busy("x"), "deferred"),
    1: failed(EngineError("x")),
    3: failed(RolledBack("x")),
    4: failed(NeedsPerson("x")),
}


@pytest.mark.parametrize("codes", list(itertools.permutations(SEVERITY, 2)))
def test_the_worst_of_two_counts(codes: tuple[int, int]) -> None:
    assert exit_code([BY_CODE[code] for code in codes]) == min(codes, key=SEVERITY.index)


def test_a_signal_comes_before_all() -> None:
    assert exit_code([*BY_CODE.values(), failed(Interrupted(15)), outcome()]) == 143


# Lines


def test_fresh_is_silence() -> None:
    assert results([outcome(due=0.0)], 0, False) == []
    assert problems(outcome(), True) == []


def test_fresh_says_until_when_if_asked() -> None:
    (line,) = results([outcome(due=1_700_000_000)], 1, False)
    assert line == "site: fresh until 2023-11-14T22:13Z; --force-rebuild updates it now"


def test_an_update_is_one_line() -> None:
    one = outcome("updated", services=services("+web", "+migrate", "db manual"), seconds=75,
                  reasons=REASONS, notes=("a note",))  # fmt: skip
    (line,) = results([one], 0, False)
    assert line == (
        "site: updated web, migrate in 1 min 15 s "
        "(expired: last updated 1 d ago; changed: /srv/site/.env); db unchanged"
    )
    assert results([one], 0, True) == []
    assert results([one], 1, False) == [line, "site: note: a note"]


def services(*texts: str) -> list[dict[str, Any]]:
    """`+web` for one that has changed, `db manual` for one that has not, with its state."""
    found = [text.partition(" ") for text in texts]
    return [
        {"name": name.removeprefix("+"), "state": state or "running", "changed": name[0] == "+"}
        for name, _, state in found
    ]


@pytest.mark.parametrize(
    ("found", "more", "line"),
    [
        (["web", "db"], {}, "checked, nothing new in 3 s (R)"),
        ([], {}, "checked, nothing new in 3 s (R)"),
        (["web", "migrate ended"], {}, "checked, nothing new in 3 s (R); migrate ran again"),
        (["+web", "migrate ended", "db", "idle absent"], {},
         "updated web in 3 s (R); migrate ran again; db unchanged"),
        (["+migrate ended"], {}, "updated migrate in 3 s (R)"),
        (["+web", "db paused"], {"built": ("db",)},
         "updated web in 3 s (R); built db; db unchanged"),
        (["db stopped"], {"built": ("db",)}, "built db in 3 s (R)"),
        (["web"], {"gone": ("old",)}, "removed old in 3 s (R)"),
        (["+web"], {"gone": ("old",)}, "updated web in 3 s (R); removed old"),
        (["+web", *"abcde"], {}, "updated web in 3 s (R); a, b, c, d, e unchanged"),
        (["+web", *"abcdef"], {}, "updated web in 3 s (R); 6 others unchanged"),
    ],
)  # fmt: skip
def test_an_update_says_what_changed_and_what_did_not(
    found: list[str], more: dict[str, Any], line: str
) -> None:
    one = outcome(
        "updated", services=services(*found), seconds=3, reasons=(Reason("forced", "x"),), **more
    )
    assert results([one], 0, False) == [f"site: {line.replace('(R)', '(forced: x)')}"]


def test_what_is_told_once_is_not_told_twice() -> None:
    one = outcome("fresh", notes=("a", "b"), news=("b",), due=0.0)
    assert [line for line in results([one], 1, False) if "note" in line] == ["site: note: a"]
    assert problems(one, False) == [(5, "site: b")]


def test_a_plan_of_what_would_be_removed() -> None:
    one = outcome("planned", steps=("remove a:1", "remove b:1"))
    assert results([one], 0, False) == ["site: would remove a:1", "site: would remove b:1"]
    assert results([outcome("planned")], 0, False) == ["site: nothing to remove"]
    assert results([one], 0, True) == []


def test_a_plan() -> None:
    one = outcome("planned", reasons=REASONS[:1], steps=("pull x", "build web"), notes=("n",))
    assert results([one], 0, False) == [
        "site: would be updated (expired: last updated 1 d ago)",
        "  1. pull x",
        "  2. build web",
        "site: note: n",
    ]


def test_removed_images() -> None:
    assert results([outcome("removed", removed=("a", "b"))], 0, False) == [
        "site: removed a",
        "site: removed b",
    ]
    assert results([outcome("removed", removed=("a",))], 0, True) == []


def test_a_rollback_is_one_line() -> None:
    one = outcome("rolled-back", generation="20261101T030000Z", seconds=3)
    assert results([one], 0, False) == ["site: rolled back to 20261101T030000Z in 3 s"]
    assert results([one], 0, True) == []
    assert problems(one, True) == []
    # A failed update that was undone is told on stderr alone.
    one = failed(RolledBack("it failed: rolled back"), "rolled-back", generation="20261101T030000Z")
    assert results([one], 0, False) == []
    assert problems(one, False) == [(3, "site: it failed: rolled back")]


def test_when_a_failed_update_is_tried_again_is_told() -> None:
    line = (
        "  tried again when an input changes, or after 2023-11-14T22:13Z; "
        "--force-rebuild tries it now"
    )
    one = failed(GateError("x"), retry=1_700_000_000, log="/state/log")
    assert [text for _, text in problems(one, False)] == [
        "site: x", line, "  whole output: /state/log"
    ]  # fmt: skip
    # What is deferred says so itself.
    one = failed(Deferred("not before then"), "deferred", retry=1_700_000_000)
    assert problems(one, True) == [(5, "site: not before then")]


WHOLE = failed(
    UpError("`up` failed", hint="running now: db; not running: web (exited)",
            detail="\n".join(f"line {n}" for n in range(12))),
    reasons=REASONS, log="/state/log", standing="how it stands", warnings=("careful",),
)  # fmt: skip


def test_a_failure_fits_one_screen_and_says_all() -> None:
    lines = problems(WHOLE, False)
    text = [line for _, line in lines]
    assert text[0] == "site: warning: careful"
    assert text[1] == "site: `up` failed"
    assert text[2:14] == [f"    line {n}" for n in range(12)]
    assert text[14:] == [
        "  running now: db; not running: web (exited)",
        "  how it stands",
        "  it was due: expired: last updated 1 d ago; changed: /srv/site/.env",
        "  whole output: /state/log",
    ]
    assert len(lines) <= 24
    assert [priority for priority, _ in lines] == [4] + [3] * (len(lines) - 1)
    assert results([WHOLE], 0, False) == []


def test_a_failure_with_much_to_say_fits_one_screen_too() -> None:
    error = UpError("`up` failed", hint="type:\n    docker tag a b\n    docker tag c d",
                    detail="\n".join(f"line {n}" for n in range(500)))  # fmt: skip
    one = failed(error, reasons=REASONS, log="/state/log", standing="how it stands",
                 warnings=tuple(f"careful {n}" for n in range(500)))  # fmt: skip
    text = [line for _, line in problems(one, False)]
    assert len(text) == SCREEN
    assert text[8:11] == [
        "site: warning: careful 8",
        "site: warning: … and 491 warnings more: --json has them",
        "site: `up` failed",
    ]
    assert text[11] == "    line 0"
    assert "    … 478 lines left out: the log has them" in text
    assert text[-7:] == [
        "    line 499",
        "  type:",
        "      docker tag a b",
        "      docker tag c d",
        "  how it stands",
        "  it was due: expired: last updated 1 d ago; changed: /srv/site/.env",
        "  whole output: /state/log",
    ]


def test_no_name_and_no_log_can_forge_a_line() -> None:
    evil = "\x1b]0;t\x07a\n<0>b\0"
    one = Outcome(evil, f"/srv/{evil}", "failed", error=GateError(evil, detail=evil, hint=evil),
                  reasons=(Reason("changed", evil),), warnings=(evil,), notes=(evil,), log=evil,
                  unchecked=(evil,), news=(evil,))  # fmt: skip
    lines = [line for _, line in problems(one, True)] + results([one], 1, False)
    assert not [line for line in lines if not line.isprintable() or line.startswith("<")]
    whole = json.dumps(document([one], 1), ensure_ascii=False)
    assert whole.isprintable()
    assert document([one], 1)["projects"][0]["error"]["detail"] == "a\n<0>b\\x00"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("it is bad", "site: it is bad"),
        ("/srv/site: it is bad", "/srv/site: it is bad"),
        ("/srv/site/compose.yml:3: it is bad", "/srv/site/compose.yml:3: it is bad"),
        ("/srv/site2: it is bad", "site: /srv/site2: it is bad"),
        ("site: it is bad", "site: it is bad"),
    ],
)
def test_a_message_names_its_project_once(message: str, line: str) -> None:
    assert problems(failed(RbuildError(message)), False) == [(3, line)]


def test_a_deferred_project_is_told_to_a_terminal_only() -> None:
    one = failed(Busy("another run is at work"), "deferred")
    assert problems(one, False) == []
    assert problems(one, True) == [(5, "site: another run is at work")]


# JSON

KEYS = ["name", "path", "outcome", "reasons", "services", "bases", "started", "seconds", "due",
        "log", "steps", "notes", "warnings", "removed", "touched", "standing", "generation",
        "retry", "unchecked", "waits", "error"]  # fmt: skip


def test_the_keys_of_the_document_are_a_contract() -> None:
    found = json.loads(json.dumps(document([WHOLE, outcome()], 1)))
    assert list(found) == ["version", "exit_code", "projects"]
    assert (found["version"], found["exit_code"]) == (1, 1)
    for one in found["projects"]:
        assert list(one) == KEYS
    assert list(found["projects"][0]["reasons"][0]) == ["kind", "detail"]
    assert list(found["projects"][0]["error"]) == ["message", "detail", "hint"]


def test_the_values_of_the_document() -> None:
    one = outcome(
        "updated", reasons=REASONS[:1], bases=("docker.io/library/x:1",), started=1_700_000_000,
        seconds=1.23456, due=1_700_086_400, log="/l", steps=("a",), notes=("n",), warnings=("w",),
        services=[{"name": "web"}], generation="20231114T221320Z", retry=1_700_172_800,
        unchecked=("not checked: debian:12: no answer within 10 s",),
        waits=(Waits("docker.io/library/debian:12", "sha256:2", 1_700_000_000, 1_700_086_400),),
    )  # fmt: skip
    assert document([one], 0)["projects"] == [
        {
            "name": "site",
            "path": "/srv/site",
            "outcome": "updated",
            "reasons": [{"kind": "expired", "detail": "last updated 1 d ago"}],
            "services": [{"name": "web"}],
            "bases": ["docker.io/library/x:1"],
            "started": "2023-11-14T22:13:20.000Z",
            "seconds": 1.235,
            "due": "2023-11-15T22:13:20.000Z",
            "log": "/l",
            "steps": ["a"],
            "notes": ["n"],
            "warnings": ["w"],
            "removed": [],
            "touched": False,
            "standing": None,
            "generation": "20231114T221320Z",
            "retry": "2023-11-16T22:13:20.000Z",
            "unchecked": ["not checked: debian:12: no answer within 10 s"],
            "waits": [
                {
                    "image": "docker.io/library/debian:12",
                    "digest": "sha256:2",
                    "since": "2023-11-14T22:13:20.000Z",
                    "until": "2023-11-15T22:13:20.000Z",
                }
            ],
            "error": None,
        }
    ]


def test_what_is_absent_is_null() -> None:
    (one,) = document([outcome()], 0)["projects"]
    for key in ("due", "log", "error", "standing", "generation", "retry"):
        assert one[key] is None, key


def test_digests_are_short_for_a_person_and_whole_for_a_program() -> None:
    digest = "sha256:" + "0123456789ab" + "f" * 52
    one = outcome(
        "updated",
        services=services("+web"),
        reasons=(Reason("base-moved", f"debian:12: x → {digest}"),),
    )
    (line,) = results([one], 0, False)
    assert line.endswith("(base-moved: debian:12: x → sha256:0123456789ab)")
    assert document([one], 0)["projects"][0]["reasons"][0]["detail"].endswith(digest)


def test_news_are_told_wherever_stderr_goes() -> None:
    one = outcome("fresh", news=("checked again: debian:12",))
    assert problems(one, False) == [(5, "site: checked again: debian:12")]
