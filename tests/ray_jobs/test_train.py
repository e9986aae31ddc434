"""A training that has learnt nothing leaves nothing."""

import pytest

from data.contract.artifact import has_current
from data.contract.settings import UserError
from data.dataset import Dataset
from ray_jobs.engine.job import start
from ray_jobs.engine.worker import OUTCOME
from ray_jobs.tasks.two_tower import TwoTowerTask
from ray_jobs.train import train

SMALL = ("train.max_epochs=2", "two_tower.graph_vectors=false", "two_tower.id_rows=learnt")


def test_a_ranker_whose_labels_all_close_too_late_is_refused_with_their_number(
    ray_cluster, shared_root
):
    job = start(shared_root("late", *SMALL, "windows.ranker_closed=40"))
    said = (
        r"^ranker has found no row to learn from: of (\d+) impressions .* \1 have labels that close"
    )
    with pytest.raises(UserError, match=said):
        train(job, "ranker")
    assert not has_current(job.root, "ranker")
    assert not list((job.root / "ranker").glob("*/manifest.json"))
    assert not list((job.root / "checkpoints").rglob(OUTCOME))


def test_a_ranker_whose_days_hold_no_impressions_is_told_so(ray_cluster, shared_root, monkeypatch):
    job = start(shared_root("unseen", *SMALL))
    monkeypatch.setattr(Dataset, "impression_files", lambda *_: [])
    said = r"^ranker has nothing to learn from: days \d+-\d+, windows\.ranker, hold no impressions"
    with pytest.raises(UserError, match=said):
        train(job, "ranker")


def test_any_model_without_a_row_is_refused(ray_cluster, shared_root, monkeypatch):
    monkeypatch.setattr(TwoTowerTask, "collate", lambda *_: iter(()))
    job = start(shared_root("none", *SMALL))
    with pytest.raises(UserError, match=r"^two_tower has found no row .*; check two_tower\.\*"):
        train(job, "two_tower")
    assert not has_current(job.root, "two_tower")
