"""The table of broken updates, with the containerd image store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from .broken import PROGRAM, TABLE, Bench, bench_on, check
from .engines import private_engine


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Two projects that are up and good."""
    with (
        private_engine(containerd=True) as engine,
        bench_on(engine, tmp_path_factory.mktemp("table")) as made,
    ):
        yield made


@pytest.mark.parametrize("name", TABLE)
def test_what_answered_answers_after_a_broken_update(bench: Bench, name: str) -> None:
    # What a failure is remembered by has nothing to do with the store.
    check(bench, TABLE[name], again=False)


def test_a_port_that_only_the_engine_sees_taken_is_rolled_back(bench: Bench) -> None:
    check(
        bench,
        replace(PROGRAM, code=3, says="(?s:web.*)(already in use|already allocated)"),
        again=False,
    )
