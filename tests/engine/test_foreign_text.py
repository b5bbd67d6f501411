"""What containers, builds and file names may say: nothing of it reaches a terminal as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Project

# A line of 3 MB; a title, a bell, a NUL, a colour, a line of another priority.
EVIL = r"\033]0;owned\007\007\000evil \033[31mred\033[0m\n<0>forged\n"
SHOUT = (
    f"head -c 3000000 /dev/zero | tr '\\0' x; echo; printf '{EVIL}'; echo the last words; exit 3\n"
)


def texts(value: Any) -> Iterator[str]:
    """Every text of a JSON document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from texts(one)


def is_harmless(text: str) -> None:
    """No character acts on a terminal, no line is long, and all fit on one screen."""
    assert text.replace("\n", "").isprintable(), repr(text)
    assert len(text.splitlines()) <= 40
    assert max(map(len, text.splitlines())) < 700
    assert "evil red" in text
    assert "the last words" in text


def test_a_log_that_acts_on_terminals(project: Project, tmp_path: Path) -> None:
    mail = tmp_path / "mail"
    project.write("shout", SHOUT)
    project.write("Dockerfile", 'FROM $BASE\nCOPY shout /\nCMD ["sh", "/shout"]\n')
    project.write(
        "compose.yml",
        f"""\
services:
  web: {{build: ., restart: "no", x-rbuild: {{one-shot: true}}}}
x-rbuild:
  settle-period: 1
  hooks:
    on-failure: 'echo "$$RBUILD_ERROR" >{mail}'
""",
    )
    ran = project.rbuild()
    assert (ran.code, ran.out) == (4, "")
    is_harmless(ran.err)
    assert f"{project.name}-web-1 | <0>forged" in ran.err
    assert mail.read_text().replace("\n", "").isprintable()
    ran = project.rbuild("--json", "--force-rebuild")
    assert len(ran.out) < 10_000
    for text in texts(ran.document):
        assert text.replace("\n", "").isprintable(), repr(text)
    status = project.rbuild("status")
    assert status.code == 1
    assert status.out.replace("\n", "").isprintable()


def test_a_build_that_acts_on_terminals(project: Project) -> None:
    project.write("shout", SHOUT)
    project.write("Dockerfile", "FROM $BASE\nCOPY shout /\nRUN sh /shout\n")
    project.write("compose.yml", "services:\n  web: {build: .}\n")
    ran = project.rbuild()
    assert (ran.code, ran.out) == (1, "")
    is_harmless(ran.err)
    (log,) = [line.split(": ", 1)[1] for line in ran.err.splitlines() if "whole output" in line]
    assert os.path.getsize(log) > 100_000, "there it is as it came"


def test_many_services_that_fail(project: Project) -> None:
    services = "".join(
        f"  s{number}: {{image: $BASE, command: [sh, -c, 'seq 9; echo no {number}; exit 3']}}\n"
        for number in range(12)
    )
    project.write("compose.yml", f"services:\n{services}x-rbuild: {{settle-period: 1}}\n")
    ran = project.rbuild()
    assert ran.code == 4
    lines = ran.err.splitlines()
    assert len(lines) <= 40
    for number in range(12):
        assert f"    s{number}: exited with code 3" in lines
        assert f"      {project.name}-s{number}-1 | no {number}" in lines


@pytest.mark.parametrize("journal", [False, True])
def test_a_folder_s_name_forges_no_line(project: Project, journal: bool) -> None:
    folder = project.folder / "a\n<0>forged\x1b[31m"
    folder.mkdir()
    (folder / "compose.yml").write_text("services: [\n")
    script = "import os, sys; s = os.fstat(2); "
    script += "os.environ['JOURNAL_STREAM'] = f'{s.st_dev}:{s.st_ino}'; " if journal else ""
    script += "from rbuild.cli import main; main(prog_name='rbuild')"
    argv = [sys.executable, "-c", script, "-v", str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 1
    start = "<3>" if journal else "/"
    assert all(line.startswith((start, "  ")) for line in done.stderr.splitlines()), done.stderr
    assert "\\n<0>forged" in done.stderr
    assert done.stderr.replace("\n", "").isprintable()
    status = project.rbuild("status", "--json", str(folder))
    assert json.loads(status.out)["projects"]
    assert status.out.replace("\n", "").isprintable()
