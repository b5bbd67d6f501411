"""Nothing is due, and images are checked: what that costs beside asking alone, in this run.

One project that rests on a hundred images of a real registry: the whole command with `--check`,
less the same without it, beside a bare parallel loop of the same HEADs; and fifty projects that
share ten bases. How many requests there are is no matter of measure.
"""

from __future__ import annotations

import http.client
import os
import shutil
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from fresh import make_fresh, wall

from rbuild.state import record
from rbuild.state.record import Store

# By its file's name this one hides the module that it needs.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))
from registries import OCI_MANIFEST, Registry, registry

ROUNDS = 21
IMAGES = 100
PROJECTS, BASES = 50, 10
AT_ONCE = 16


def main() -> None:
    """Print the ratio and the numbers of requests."""
    rbuild = shutil.which("rbuild") or sys.exit("rbuild is not installed: use tests/bench/run")
    with tempfile.TemporaryDirectory() as scratch, registry(Path(scratch, "registry")) as place:
        root = Path(scratch)
        images = {f"{place.address}/image{n}:1": put(place, f"image{n}") for n in range(IMAGES)}
        environ = {**os.environ, "DOCKER_CONFIG": str(root / "none")}

        one = Store(str(root / "one"))
        folder = rest(root / "site", one, images)
        environ["RBUILD_STATE_DIR"] = one.root
        walls: dict[str, list[float]] = {"checked": [], "start": [], "bare": []}
        for _ in range(ROUNDS):
            before = len(place.asked())
            walls["checked"].append(wall([rbuild, "--check", "base,image", folder], environ))
            requests = place.asked()[before:]
            walls["start"].append(wall([rbuild, folder], environ))
            walls["bare"].append(bare(place.address))
        checked, start, alone = (median(walls[name]) for name in ("checked", "start", "bare"))
        print(
            f"{IMAGES} images checked, less the start / a bare loop, wall: "
            f"{(checked - start) / alone:.2f}  ({checked:.3f} - {start:.3f} / {alone:.3f}; "
            "goal: at most 3)",
            flush=True,
        )
        tell(f"{IMAGES} images of one project", requests, IMAGES)

        many = Store(str(root / "many"))
        shared = dict([*images.items()][:BASES])
        folders = [rest(root / "projects" / f"p{n}", many, shared) for n in range(PROJECTS)]
        environ["RBUILD_STATE_DIR"] = many.root
        before = len(place.asked())
        wall([rbuild, "--check", "base,image", *folders], environ)
        tell(f"{BASES} bases of {PROJECTS} projects", place.asked()[before:], BASES)


def put(place: Registry, name: str) -> str:
    """An image in the registry; its digest."""
    return place.put_image(name, "1", text=name)


def rest(folder: Path, store: Store, images: dict[str, str]) -> str:
    """A fresh project that rests on these images, as they are now."""
    made = make_fresh(folder, store)
    (state,) = store.folders(made)
    known = record.read(state)
    assert known
    known.rests = {
        "base": {name: [f"sha256:{'0' * 64}", digest] for name, digest in images.items()},
        "image": {},
    }
    record.write(state, known)
    return made


def bare(address: str) -> float:
    """Wall seconds of what one would write for just this."""
    local = threading.local()

    def head(number: int) -> str | None:
        if not hasattr(local, "connection"):
            local.connection = http.client.HTTPConnection(address)
        path = f"/v2/image{number}/manifests/1"
        local.connection.request("HEAD", path, headers={"Accept": OCI_MANIFEST})
        answer = local.connection.getresponse()
        answer.read()
        return answer.headers["Docker-Content-Digest"]  # type: ignore[no-any-return]

    begun = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert all(pool.map(head, range(IMAGES)))
    return time.perf_counter() - begun


def tell(what: str, requests: list[tuple[str, str, int]], goal: int) -> None:
    """Print how many requests there were; each has to be a HEAD of a manifest of its own."""
    assert len({path for _, path, _ in requests}) == len(requests)
    assert {(method, status) for method, _, status in requests} == {("HEAD", 200)}
    print(f"{what}, requests: {len(requests)}  (goal: exactly {goal})", flush=True)


if __name__ == "__main__":
    main()
