"""`kill -9` of rbuild and of the engine, wherever they are: the next run puts all right.

Each boundary of an update and of a way back, and some moments; kill.py, beside this, strikes as
often as one likes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from .kill import Harness, summary

MOMENTS, ENGINE = 10, 2


@pytest.mark.timeout(600)
def test_a_kill_at_any_moment_is_survived(tmp_path: Path) -> None:
    results = Harness(evidence=tmp_path).run(["update", "back"], MOMENTS, ENGINE, seed=1)

    failed = [str(one) for one in results if one.wrong]
    assert not failed, "\n".join([summary(results), *failed])
    struck = [one.strike for one in results]
    for scene, least in (("update", 12), ("back", 6)):
        boundaries = {one.when for one in struck if one.scene == scene and one.part is None}
        assert len(boundaries) >= least
    assert {"revert", "spoil"} <= {one.scene for one in struck if one.part is None}
    assert len([one for one in struck if one.part is not None and not one.engine]) >= MOMENTS
    assert len([one for one in struck if one.engine]) == ENGINE
