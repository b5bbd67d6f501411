"""What an update says of itself, and what it keeps."""

from __future__ import annotations

from .conftest import Project
from .tools import inside, own_tags, starts, state_folder


def test_an_update_that_changed_nothing_leaves_the_way_back_in_place(site: Project) -> None:
    image = f"    image: {site.name}-web\n    pull_policy: never\n"
    site.edit("compose.yml", "    build: .\n", f"    build: .\n{image}")
    db = f"services:\n  db: {{image: {site.base}, command: sleep 999, init: true}}"
    site.edit("compose.yml", "services:", db)
    assert site.rbuild().code == 0
    site.write("page", "two\n")
    ran = site.rbuild("--force-rebuild")
    assert ran.out.endswith("; db unchanged\n")
    assert f"{site.name}: updated web in " in ran.out
    kept = own_tags(site)
    # From here on nothing is built.
    built = site.container("web")["Image"]
    site.edit("compose.yml", "    build: .\n", "")
    for _ in range(2):
        before = starts(site)
        ran = site.rbuild("--force-rebuild", "--json")
        assert ran.code == 0, ran.err
        (outcome,) = ran.document["projects"]
        assert outcome["outcome"] == "updated"
        assert outcome["generation"] is None
        assert [one["changed"] for one in outcome["services"]] == [False, False]
        assert starts(site) == before
        assert own_tags(site) == kept
    assert len(list((state_folder(site) / "generations").glob("*Z.json"))) == 1
    ran = site.rbuild("rollback")
    assert ran.code == 0, ran.err
    assert site.container("web")["Image"] != built
    assert inside(f"{site.name}-web-1", "wget", "-qO-", "http://127.0.0.1/") == "one"


def test_what_would_be_removed_is_told_as_that(site: Project) -> None:
    assert site.rbuild().code == 0
    ran = site.rbuild("-n", "--remove-images")
    assert (ran.code, ran.out) == (0, f"{site.name}: nothing to remove\n")
    assert site.rbuild("--force-rebuild").code == 0
    ran = site.rbuild("-n", "--remove-images")
    assert ran.out.startswith(f"{site.name}: would remove rbuild/{site.name}/web:")
