"""ID rows learnt before the retriever: from their own days, frozen or fine-tuned in it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from data.contract.artifact import Artifact, current
from data.contract.settings import UserError
from data.dataset import Dataset
from ray_jobs.engine.job import Job, start
from ray_jobs.engine.snapshots import split_snapshot
from ray_jobs.evaluate import evaluate
from ray_jobs.sample import log_of
from ray_jobs.train import train, upstream

SMALL = (
    "id.dim=16",
    "id.batch_size=32",
    "two_tower.id_rows=frozen",
    "two_tower.graph_vectors=false",
    "two_tower.dim=16",
    "two_tower.id_dim=16",
    "train.max_steps=6",
    "train.validate_every=3",
)


@pytest.fixture(scope="module")
def words(shared_root: Callable[..., list[str]]) -> list[str]:
    """Words of a root of its own that shares the prepared world."""
    return shared_root("ids", *SMALL)


@pytest.fixture(scope="module")
def rows(ray_cluster: None, words: list[str]) -> Artifact:
    """Rows trained for others."""
    job = start(words)
    return upstream(job, Dataset.open(job.root), "id")


def tables_of(model: Artifact) -> dict[str, Tensor]:
    return split_snapshot(load_file(model.path / "model.safetensors"))[1]


def retriever(words: list[str], *others: str) -> tuple[Job, Artifact]:
    job = start([*words, *others])
    return job, train(job, "two_tower", move_pointer=False)


def test_rows_are_learnt_from_their_own_days(rows: Artifact, words: list[str]) -> None:
    job = start(words)
    dataset = Dataset.open(job.root)
    windows = log_of(job, dataset).windows
    assert windows is not None
    assert rows.manifest.window == list(windows.id)
    table, created = tables_of(rows)["item_id"], dataset.items_created_at
    assert dataset.calendar is not None
    late = created >= dataset.calendar.start_ms(windows.two_tower[0])
    assert late.any()
    known = table[: len(late)].any(1).numpy()
    assert not known[late].any()
    assert known.mean() > 0.3


def test_frozen_rows_stay_as_they_were_at_unit_length(rows: Artifact, words: list[str]) -> None:
    _, model = retriever(words)
    assert rows.version in {parent["version"] for parent in model.manifest.parents}
    for name, table in tables_of(model).items():
        assert np.allclose(table, F.normalize(tables_of(rows)[name], dim=1), atol=1e-6), name


def test_fine_tuned_rows_move_and_others_are_learnt(rows: Artifact, words: list[str]) -> None:
    _, model = retriever(words, "two_tower.id_rows=fine_tuned")
    before, after = tables_of(rows)["item_id"], tables_of(model)["item_id"]
    known = before.any(1)
    assert not np.allclose(after[known], F.normalize(before[known], dim=1), atol=1e-3)
    assert after[~known].any()


def test_rows_learnt_with_the_towers_read_no_others(rows: Artifact, words: list[str]) -> None:
    _, model = retriever(words, "two_tower.id_rows=learnt")
    assert rows.version not in {parent["version"] for parent in model.manifest.parents}


def test_rows_alone_are_judged_beside_baselines(ray_cluster: None, words: list[str]) -> None:
    job = start(words)
    alone = train(job, "id", move_pointer=False, alone=True)
    windows = log_of(job, Dataset.open(job.root)).windows
    assert windows is not None
    assert alone.manifest.window == list(windows.train)
    judged = evaluate(job, ("id",), {"id": alone}, move_pointer=False)
    found = judged.manifest.metrics["retrieval"]
    assert 0 < found["recall@10"] <= 1
    assert "item_knn" in found


def test_rows_stay_when_only_other_settings_change(rows: Artifact, words: list[str]) -> None:
    job = start([*words, "two_tower.batch_size=16"])
    again = upstream(job, Dataset.open(job.root), "id")
    assert again.version == rows.version == current(job.root, "id").version


def test_overlapping_windows_are_refused_or_recorded(rows: Artifact, words: list[str]) -> None:
    late = [*words, "windows.id=[1, 140]"]
    with pytest.raises(UserError, match=r"ID embeddings .* end windows\.id before"):
        train(start(late), "two_tower")
    _, model = retriever(late, "windows.overlap=true")
    windows = model.manifest.settings["windows"]
    assert (windows["overlap"], windows["id"]) == (True, [1, 140])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("split.kind=leave_one_out", r"two_tower\.id_rows=frozen needs days"),
        ("two_tower.id_dim=8", r"two_tower\.id_dim=8 reads rows of id\.dim=16"),
    ],
)
def test_what_cannot_be_read_is_refused(words: list[str], word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(start([*words, word]), "two_tower")
