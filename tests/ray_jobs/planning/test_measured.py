import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from data.contract.artifact import Artifact, point, publish, read
from data.contract.settings import UserError
from ray_jobs.engine.memory import REST
from ray_jobs.planning.measured import Measured, bytes_of, in_use, phases_mib

SIZE = 100_000


def made(
    root: Path, kind: str, version: str, *parents: Artifact, pointed: bool = False, **fields: Any
) -> Artifact:
    """An artefact of one file."""
    references = [parent.reference() for parent in parents]
    told: dict[str, Any] = {"parents": references, "seconds": 40.0, "peak_mib": 300.0} | fields
    with publish(root, kind, version, **told) as draft:
        (draft.path / "vectors.npy").write_bytes(bytes(SIZE))
    found = read(root / kind / version)
    if pointed:
        point(root, found)
    return found


@pytest.fixture
def dataset(tmp_path: Path) -> Artifact:
    counts = {"users": 10, "items": 20, "events": 300}
    return made(tmp_path, "dataset", "today", pointed=True, details={"counts": counts})


@pytest.fixture
def root(tmp_path: Path, dataset: Artifact) -> Path:
    """A root in which graphs as of three days were made, one of them of yesterday's data set."""
    for day in ("a", "b"):
        graph = made(tmp_path, "adjacency", day, dataset)
        made(tmp_path, "neighborhoods", day, graph)
    yesterday = made(tmp_path, "dataset", "yesterday")
    older = made(tmp_path, "adjacency", "c", yesterday, peak_mib=900.0)
    made(tmp_path, "neighborhoods", "c", older)
    return tmp_path


def test_what_no_pointer_names_is_in_use_if_it_was_made_of_what_is_current(root: Path) -> None:
    assert {one.manifest.name for one in in_use(root)} == {
        "dataset/today",
        *("adjacency/a", "adjacency/b"),
        *("neighborhoods/a", "neighborhoods/b"),
    }


def test_graphs_and_neighbourhoods_have_a_size(root: Path, dataset: Artifact) -> None:
    encoder = made(root, "graph", "e", dataset, pointed=True)
    made(root, "item_embeddings", "i", dataset, encoder)
    made(root, "item_embeddings", "of an earlier encoder", dataset, made(root, "graph", "d"))
    found = bytes_of(in_use(root))
    sizes = [found[name] for name in ("graph", "neighbourhoods", "item embeddings")]
    assert sizes == pytest.approx([2 * SIZE, 2 * SIZE, SIZE], rel=0.02)  # and manifests


def test_memory_is_that_of_what_is_in_use(root: Path, dataset: Artifact) -> None:
    made(root, "adjacency", "large", dataset, peak_mib=500.0)
    found = {"dataset": {REST: 300}, "adjacency": {REST: 500}, "neighborhoods": {REST: 300}}
    assert phases_mib(in_use(root)) == found


def test_memory_is_that_of_the_phases_that_were_told_apart(root: Path, dataset: Artifact) -> None:
    for day, reading, steps in (("d", 700.0, 40.0), ("e", 100.0, 800.0)):
        phases = {"reading": reading, "steps": steps}
        made(root, "neighborhoods", day, dataset, peak_mib=max(phases.values()), phases_mib=phases)
    found = phases_mib(in_use(root))["neighborhoods"]
    assert found == {REST: 300, "reading": 700, "steps": 800}


def test_times_are_those_of_making_all_that_is_in_use(root: Path) -> None:
    run = Measured.of(root, 2)
    assert run.seconds == {"dataset": 40, "adjacency": 80, "neighborhoods": 80}
    assert run.peak_mib == {"dataset": 300, "adjacency": 300, "neighborhoods": 300}
    assert Measured.read(json.loads(json.dumps(asdict(run)))) == run


def test_the_graph_encoder_tells_how_many_items_a_batch_names(
    root: Path, dataset: Artifact
) -> None:
    assert Measured.of(root, 2).sizes.batch_items is None
    made(root, "graph", "e", dataset, pointed=True, details={"batch_items": 700})
    assert Measured.of(root, 2).sizes.batch_items == 700


def test_a_root_that_is_not_finished_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"has no data set; run ray_jobs\.pipeline"):
        Measured.of(root / "elsewhere", 2)


@pytest.mark.parametrize("untold", ["seconds", "peak_mib"])
def test_an_artefact_that_does_not_tell_what_it_took_is_named(
    root: Path, dataset: Artifact, untold: str
) -> None:
    made(root, "adjacency", "silent", dataset, **{untold: None})
    with pytest.raises(UserError, match=r"adjacency/silent .* anew"):
        Measured.of(root, 2)
