"""Settings in compose files: Compose's values, with the places that the files show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from rbuild.compose.loading import Loaded, load
from rbuild.compose.project import Target, locate
from rbuild.docker.engine import Engine
from rbuild.errors import ProjectError
from rbuild.settings import Given
from rbuild.state.record import Store


class Rendering:
    """An engine that renders a project as a test says."""

    def __init__(self, own: Any) -> None:
        self.own = own

    def render(self, target: Target, *, service_extensions: bool) -> tuple[dict[str, Any], str]:
        return {"name": "p", "services": {}, "x-rbuild": self.own}, ""


def loaded(folder: Path, own: Any, files: Mapping[str, str]) -> Loaded:
    """The project of these files, whose `x-rbuild` Compose renders as `own`."""
    for name, text in files.items():
        (folder / name).write_text(text)
    store = Store(str(folder / "state"))
    return load(locate(str(folder), "/"), cast(Engine, Rendering(own)), store, {})


def test_each_value_has_the_place_of_the_last_file_that_sets_it(tmp_path: Path) -> None:
    hooks = {"before-update": "new", "after-update": ["a", "$x"], "on-failure": "f"}
    own = {"keep-images": 2, "settle-period": 1, "hooks": hooks}
    found = loaded(tmp_path, own, {
        "compose.yml": "x-rbuild:\n  keep-images: 1\n  settle-period: 1\n  hooks:\n"
                       "    before-update: old\n    after-update: [a, $$x]\n",
        "compose.override.yml": "x-rbuild:\n  keep-images: 2\n  hooks:\n"
                                "    before-update: new\n    on-failure: ${F:-f}\n",
    }).own_settings  # fmt: skip
    first, second = f"{tmp_path}/compose.yml", f"{tmp_path}/compose.override.yml"
    assert found == {
        "keep-images": Given(2, f"{second}:2"),
        "settle-period": Given(1, f"{first}:3"),
        "hooks.before-update": Given(("/bin/sh", "-c", "new"), f"{second}:4"),
        "hooks.after-update": Given(("a", "$x"), f"{first}:6"),
        "hooks.on-failure": Given(("/bin/sh", "-c", "f"), f"{second}:5"),
    }


HOOKED = "x-rbuild:\n  hooks:\n    before-update: [dump]\n"


@pytest.mark.parametrize(
    ("own", "override", "message"),
    [
        # Compose 2.26: the last x-rbuild is all there is.
        ({"keep-images": 2}, "x-rbuild: {keep-images: 2}\n",
         "compose.yml:3: hooks.before-update: another file's x-rbuild replaces it"),
        (None, "x-rbuild:\n",
         "compose.yml:3: hooks.before-update: another file's x-rbuild replaces it"),
        # 2.40: one list after the other.
        ({"hooks": {"before-update": ["dump", "other"]}},
         "x-rbuild:\n  hooks: {before-update: [other]}\n",
         "compose.override.yml:2: hooks.before-update: "),
    ],
)  # fmt: skip
def test_a_hook_that_compose_drops_or_mangles_is_refused(
    tmp_path: Path, own: Any, override: str, message: str
) -> None:
    files = {"compose.yml": HOOKED, "compose.override.yml": override}
    with pytest.raises(ProjectError) as caught:
        loaded(tmp_path, own, files)
    assert caught.value.message.startswith(f"{tmp_path}/{message}")
    assert "one of the project's files" in caught.value.hint


@pytest.mark.parametrize(
    ("first", "override", "own", "lost"),
    [
        ("build-period: 7d", "keep-images: 2", {"keep-images": 2}, "2: build-period"),
        ("check: [base]", "keep-images: 2", {"keep-images": 2}, "2: check"),
        ("up: no", "", None, "2: up"),
        ("git: {\n    remote: up}", "git: {branch: b}", {"git": {"branch": "b"}}, "3: git.remote"),
        ("git: {remote: up}", "git:", {"git": None}, "2: git.remote"),
    ],
)
def test_a_setting_that_compose_drops_is_refused(
    tmp_path: Path, first: str, override: str, own: Any, lost: str
) -> None:
    files = {
        "compose.yml": f"x-rbuild:\n  {first}\n",
        "compose.override.yml": f"x-rbuild:\n  {override}\n",
    }
    message = f"compose.yml:{lost}: another file's x-rbuild replaces it"
    with pytest.raises(ProjectError) as caught:
        loaded(tmp_path, own, files)
    assert caught.value.message.startswith(f"{tmp_path}/{message}")
    assert "one of the project's files" in caught.value.hint


def test_what_an_included_file_says_is_its_own(tmp_path: Path) -> None:
    own = {"hooks": {"before-update": "x"}}
    found = loaded(tmp_path, own, {
        "compose.yml": "include: [other.yml]\nx-rbuild: {hooks: {before-update: x}}\n",
        "other.yml": HOOKED.replace("before", "after") + "    before-update: [y]\n",
    }).own_settings  # fmt: skip
    assert found == {
        "hooks.before-update": Given(("/bin/sh", "-c", "x"), f"{tmp_path}/compose.yml:2")
    }
