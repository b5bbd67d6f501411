"""The table of broken updates, on the machine's engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .broken import PROGRAM, TABLE, Bench, bench_on, check
from .engines import machine_engine

pytestmark = pytest.mark.versions


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Two projects that are up and good."""
    with bench_on(machine_engine(), tmp_path_factory.mktemp("table")) as made:
        yield made


@pytest.mark.parametrize("name", TABLE)
def test_what_answered_answers_after_a_broken_update(bench: Bench, name: str) -> None:
    check(bench, TABLE[name])


def test_a_port_of_another_program_is_found_before_anything_is_touched(bench: Bench) -> None:
    check(bench, PROGRAM)
