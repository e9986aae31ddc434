import sys

import pytest

from data.contract.settings import UserError
from ray_jobs.tuning.mirror import Mirror, metrics_of, named
from ray_jobs.tuning.trial import Plan, Trial

TRIAL = Trial(
    choice={"two_tower.id_dropout": 0.3},
    seed=0,
    metrics={"recall@10": 0.2, "popularity.recall@10": 0.1},
    costs={"latency_ms": 4.0},
    history=[{"step": 50, "ndcg@50": 0.1}, {"step": 100, "ndcg@50": 0.2}],
    seconds=9.0,
)


def test_names_are_those_that_mlflow_allows():
    assert named({"recall@10": 0.2, "step": 3, "auc": None}, "validation.") == {
        "validation.recall_at_10": 0.2
    }
    assert metrics_of(TRIAL) == {"recall_at_10": 0.2, "latency_ms": 4.0, "seconds": 9.0}


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setattr("ray_jobs.tuning.mirror.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"homefeed\[mlflow\]"):
        Mirror("sqlite:///nowhere.db", "homefeed")


def test_trials_are_mirrored_once(tmp_path):
    pytest.importorskip("mlflow")
    mirror = Mirror(f"sqlite:///{tmp_path / 'mlflow.db'}", "homefeed")
    for _ in range(2):
        mirror.seen("study", Plan(choice=TRIAL.choice, seed=0, number=3), TRIAL)
    (run,) = mirror.client.search_runs([mirror.experiment])
    assert run.data.params == {"two_tower.id_dropout": "0.3", "seed": "0"}
    assert run.data.metrics["recall_at_10"] == 0.2
    steps = mirror.client.get_metric_history(run.info.run_id, "validation.ndcg_at_50")
    assert [(line.step, line.value) for line in steps] == [(50, 0.1), (100, 0.2)]
