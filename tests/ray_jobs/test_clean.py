import json
import os
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract import storage
from data.contract.artifact import Artifact, current, find, point, publish
from data.contract.mirrors import PLACE
from data.contract.settings import UserError
from ray_jobs.clean import KEPT, REMOVED, CleanArguments, freed_bytes, main
from ray_jobs.engine.job import start
from ray_jobs.engine.lineage import Lineage, Origin
from ray_jobs.engine.locks import held, turn
from ray_jobs.planning.measured import MADE
from ray_jobs.preparation.posted import NEXT_DAY_FILE
from serve.replicas import Replicas

NOW = datetime.now(UTC)


def made(root: Path, kind: str, version: str, *parents: Artifact, hours: float = 48) -> Artifact:
    """An artefact that was published some hours ago."""
    references = [parent.reference() for parent in parents]
    with publish(root, kind, version, parents=references) as draft:
        (draft.path / "rows").write_text(version * 10_000)
        draft.fields["created"] = (NOW - timedelta(hours=hours)).isoformat()
    found = find(root, kind, version)
    assert found is not None
    return found


def days(root: Path, count: int) -> list[Artifact]:
    """A graph that stays, and of each day a data set, a retriever and a bundle; the last counts."""
    dataset = made(root, "dataset", "d0")
    graph, before = made(root, "graph", "g", dataset), dataset
    bundles = []
    for day in range(count):
        hours = 24.0 * (count - day)
        before = made(root, "dataset", f"d{day + 1}", before, hours=hours)
        tower = made(root, "two_tower", f"t{day}", before, graph, hours=hours)
        judged = made(root, "evaluation", f"e{day}", tower, hours=hours)
        bundles.append(made(root, "bundles", f"b{day}", tower, hours=hours))
    for artifact in (before, graph, tower, judged, bundles[-1]):
        point(root, artifact)
    return bundles


def cleaned(root: Path | str, *words: str, **arguments: Any) -> list[str]:
    job = start([f"root={root}", *words])
    job.arguments = CleanArguments(**arguments)
    found: list[str] = main(job)["removed"]
    return found


def names(root: Path, kind: str) -> list[str]:
    return sorted(p.parent.name for p in (root / kind).glob("*/manifest.json"))


def test_the_newest_bundles_and_what_they_were_made_from_stay(tmp_path: Path) -> None:
    days(tmp_path, 5)
    removed = cleaned(tmp_path, keep=2)
    assert removed == sorted(
        f"{kind}/{n}"
        for kind, at in (("bundles", "b"), ("two_tower", "t"))
        for n in (f"{at}0", f"{at}1", f"{at}2")
    )
    assert names(tmp_path, "bundles") == ["b3", "b4"]
    assert names(tmp_path, "two_tower") == ["t3", "t4"]
    assert names(tmp_path, "graph") == ["g"]
    assert len(names(tmp_path, "dataset")) == 6
    assert len(names(tmp_path, "evaluation")) == 5
    assert not (tmp_path / "two_tower" / "t0").exists()
    current(tmp_path, "bundles").verify()
    assert cleaned(tmp_path, keep=2) == []


def test_a_dry_run_tells_the_same_and_removes_nothing(tmp_path: Path) -> None:
    days(tmp_path, 5)
    told = cleaned(tmp_path, keep=1, dry_run=True)
    assert names(tmp_path, "bundles") == [f"b{day}" for day in range(5)]
    assert cleaned(tmp_path, keep=1) == told != []


def test_graphs_and_embeddings_of_the_current_data_set_stay(tmp_path: Path) -> None:
    days(tmp_path, 2)
    graph = current(tmp_path, "graph")
    for version in ("d1", "d2"):
        dataset = find(tmp_path, "dataset", version)
        assert dataset is not None
        edges = made(tmp_path, "adjacency", f"a-{version}", dataset)
        walks = made(tmp_path, "neighborhoods", f"n-{version}", edges)
        made(tmp_path, "item_embeddings", f"v-{version}", dataset, graph, walks)
        other = made(tmp_path, "graph", f"g-{version}", dataset)
        made(tmp_path, "item_embeddings", f"of-another-{version}", dataset, other, walks)
    removed = cleaned(tmp_path)
    assert {name for name in removed if "d2" in name} == {
        "graph/g-d2",
        "item_embeddings/of-another-d2",
    }
    assert len([name for name in removed if "d1" in name]) == 5


def test_what_is_young_stays(tmp_path: Path) -> None:
    dataset = made(tmp_path, "dataset", "d")
    point(tmp_path, made(tmp_path, "dataset", "later", dataset))
    for version, hours in (("a", 30), ("b", 20)):
        made(tmp_path, "neighborhoods", version, dataset, hours=hours)
    assert cleaned(tmp_path) == ["neighborhoods/a"]
    assert cleaned(tmp_path, hours=19) == ["neighborhoods/b"]


def test_what_is_served_or_being_tried_stays(tmp_path: Path) -> None:
    days(tmp_path, 5)
    Replicas(tmp_path).note({"versions": {"bundle": "b0"}, "arms": ["b1"]})
    arm = "serve.experiment.arms.canary={share: 0.1, bundle: b2}"
    removed = cleaned(tmp_path, "serve.experiment.name=new", arm, keep=1)
    assert names(tmp_path, "bundles") == ["b0", "b1", "b2", "b4"]
    assert names(tmp_path, "two_tower") == ["t0", "t1", "t2", "t4"]
    assert len(removed) == 2


def test_what_an_interrupted_day_starts_from_stays(tmp_path: Path) -> None:
    days(tmp_path, 4)
    versions = {"dataset": "d1", "two_tower": "t0"}
    (tmp_path / NEXT_DAY_FILE).write_text(json.dumps({"versions": versions}))
    cleaned(tmp_path, keep=1)
    assert names(tmp_path, "two_tower") == ["t0", "t3"]


def test_nothing_is_removed_while_a_job_makes_something(tmp_path: Path) -> None:
    days(tmp_path, 3)
    with turn(tmp_path, "ranker-abc"):
        assert held(tmp_path) == ["ranker-abc"]
        with pytest.raises(UserError, match="makes ranker-abc in"):
            cleaned(tmp_path, keep=1)
    (tmp_path / ".work" / "two_tower-left.lock").touch()  # by one that was killed
    assert held(tmp_path) == []
    assert cleaned(tmp_path, keep=1)


def test_a_root_without_artefacts_is_a_mistake(tmp_path: Path) -> None:
    """A mistyped root was made, and called clean, while the disk of the right one filled up."""
    with pytest.raises(UserError, match="typo has no artefacts"):
        cleaned(tmp_path / "typo")
    assert not (tmp_path / "typo").exists()


def test_a_bundle_that_is_served_again_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles = days(tmp_path, 4)
    remove = storage.remove

    def rolled_back(path: Path) -> None:
        remove(path)
        if path == tmp_path / "bundles" / "b0":
            point(tmp_path, bundles[1])

    monkeypatch.setattr(storage, "remove", rolled_back)
    with pytest.raises(UserError, match="meanwhile bundles/b1 was put to use"):
        cleaned(tmp_path, keep=1)
    assert current(tmp_path, "bundles").version == "b1"
    assert names(tmp_path, "two_tower") == ["t0", "t1", "t2", "t3"]
    assert cleaned(tmp_path, keep=1) == ["bundles/b2", "two_tower/t0", "two_tower/t2"]


def test_no_more_is_removed_once_a_job_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    days(tmp_path, 4)
    remove = storage.remove
    with ExitStack() as job:

        def begun(path: Path) -> None:
            remove(path)
            if path == tmp_path / "bundles" / "b0":
                job.enter_context(turn(tmp_path, "ranker-abc"))

        monkeypatch.setattr(storage, "remove", begun)
        with pytest.raises(UserError, match="makes ranker-abc in"):
            cleaned(tmp_path, keep=1)
    assert names(tmp_path, "bundles") == ["b1", "b2", "b3"]


def test_what_was_killed_in_the_midst_is_removed_and_nothing_of_anyone_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = "0123456789ab"
    made(tmp_path, "bundles", version, days(tmp_path, 2)[-1], hours=999)
    (tmp_path / "bundles" / "notes").write_text("mine")
    remove = storage.remove

    def killed(path: Path) -> None:
        if path.name == version:
            raise KeyboardInterrupt
        remove(path)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            cleaned(tmp_path, keep=2)
    assert cleaned(tmp_path, keep=2, dry_run=True) == [f"bundles/{version}"]
    assert (tmp_path / "bundles" / version / "rows").exists()
    assert cleaned(tmp_path, keep=2) == [f"bundles/{version}"]
    assert not (tmp_path / "bundles" / version).exists()
    assert (tmp_path / "bundles" / "notes").exists()


def test_in_object_storage_it_goes_there_and_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PLACE, str(tmp_path / "here"))
    remote = tmp_path / "remote"
    remote.mkdir()
    uri = f"file://{remote}"
    days(storage.mirror(uri), 3)
    monkeypatch.setenv(PLACE, str(tmp_path / "other"))
    removed = cleaned(uri, keep=1)
    assert names(remote, "bundles") == ["b2"]
    assert "bundles/b0" in removed
    root = storage.mirror(uri)
    assert not (root / "bundles" / "b0").exists()
    for kind in ("two_tower", "bundles"):
        assert not list(root.glob(f"{kind}/*/rows"))  # manifests alone were read
    monkeypatch.setenv(PLACE, str(tmp_path / "here"))
    assert find(storage.mirror(uri), "bundles", "b0") is None


def test_only_what_has_no_other_name_frees_disk(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "one").write_bytes(b"x" * 40_000)
    os.link(tmp_path / "a" / "one", tmp_path / "b" / "same")
    assert freed_bytes([tmp_path / "a"]) == 0
    assert freed_bytes([tmp_path / "a", tmp_path / "b"]) >= 40_000


def test_every_kind_is_either_kept_or_removed() -> None:
    assert set(MADE) <= {*REMOVED, *KEPT}
    assert not {*REMOVED} & {*KEPT}


@given(st.lists(st.sets(st.integers(0, 20), max_size=3), max_size=20), st.sets(st.integers(0, 19)))
def test_what_is_needed_was_made_from_nothing_that_is_not(
    parents: list[set[int]], chosen: set[int]
) -> None:
    origins = {
        f"k/{n}": Origin("k", str(n), NOW, tuple(f"k/{p}" for p in made_from if p < n))
        for n, made_from in enumerate(parents)
    }
    wanted = {f"k/{n}" for n in chosen}
    needed = Lineage(origins).with_all_before(wanted)
    assert wanted <= needed
    assert {p for name in needed if name in origins for p in origins[name].parents} <= needed
    for name in needed - wanted:
        assert any(name in origins[other].parents for other in needed if other in origins)
