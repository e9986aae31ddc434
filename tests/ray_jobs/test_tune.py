import json

import pyarrow.parquet as pq
import pytest

from data.contract.artifact import publish, read
from data.contract.settings import UserError
from ray_jobs import tune as tune_job
from ray_jobs.engine.job import start
from ray_jobs.tune import TuneArguments, main, plans

GRID = ["seeds=2", "grid.two_tower.id_dropout=[0,0.5]", "grid.two_tower.sequence.max_length=[8,16]"]


class Stages:
    """Stands in for training and evaluation; recall grows with the sequence, falls with dropout."""

    def __init__(self):
        self.trained, self.fail = [], None

    def train(self, job, model, move_pointer, alone):
        assert not move_pointer
        assert not alone
        settings = job.settings.two_tower
        key = (settings.id_dropout, settings.sequence.max_length, job.settings.seed)
        self.trained.append(key)
        if self.fail == key:
            raise RuntimeError("out of luck")
        dropout, length, seed = key
        metrics = {"validation": {"step": 1, "ndcg@50": dropout + length}}
        return _published(job, model, f"{dropout}-{length}-{seed}", metrics)

    def evaluate(self, job, models, trained, move_pointer):
        assert not move_pointer
        (artifact,) = trained.values()
        dropout, length, seed = (float(x) for x in artifact.version.split("-"))
        recall = length / 100 - dropout / 10 + seed / 1000
        retrieval = {"recall@10": recall, "ndcg@10": None, "popularity": {"recall@10": 0.01}}
        return _published(job, "evaluation", artifact.version, {"retrieval": retrieval})


def _published(job, kind, version, metrics):
    with publish(job.root, kind, version, metrics=metrics):
        pass
    return read(job.root / kind / version)


@pytest.fixture
def stages(monkeypatch):
    stages = Stages()
    monkeypatch.setattr(tune_job, "train", stages.train)
    monkeypatch.setattr(tune_job, "evaluate", stages.evaluate)
    return stages


def test_every_combination_runs_under_every_seed(world_words, stages):
    summary = main(start([*world_words, *GRID], TuneArguments))
    assert (summary["trials"], summary["failed"]) == (8, 0)
    assert sorted(stages.trained) == [(d, n, s) for d in (0, 0.5) for n in (8, 16) for s in (0, 1)]
    assert {key[2] for key in stages.trained[:4]} == {0}, "each setting once before any twice"


def test_the_table_gives_means_and_intervals_over_seeds(world_words, stages):
    rows = main(start([*world_words, *GRID], TuneArguments))["table"]
    assert rows[1]["settings"] == {"two_tower.id_dropout": 0, "two_tower.sequence.max_length": 16}
    assert rows[1]["metrics"]["recall@10"]["mean"] == pytest.approx(0.1605)
    assert rows[1]["metrics"]["recall@10"]["half_width"] == pytest.approx(
        12.7062 * 0.0005, rel=1e-4
    )
    assert rows[1]["difference"]["recall@10"]["mean"] == pytest.approx(0.08)
    assert set(rows[1]["metrics"]) == {"recall@10"}, "baselines and what is undefined stay out"


def test_the_best_is_by_validation(world_words, stages):
    summary = main(start([*world_words, *GRID], TuneArguments))
    assert summary["best"] == {"two_tower.id_dropout": 0.5, "two_tower.sequence.max_length": 16}


def test_a_failed_trial_is_recorded_and_the_others_go_on(world_words, stages):
    stages.fail = (0.5, 8, 1)
    summary = main(start([*world_words, *GRID], TuneArguments))
    assert (summary["trials"], summary["failed"]) == (8, 1)
    assert [row["failed"] for row in summary["table"]] == [0, 0, 1, 0]


def test_a_failed_trial_is_tried_again_next_time(world_words, stages):
    stages.fail = (0.5, 8, 1)
    main(start([*world_words, *GRID], TuneArguments))
    stages.fail = None
    assert main(start([*world_words, *GRID], TuneArguments))["failed"] == 0


def test_nothing_but_failures_is_an_error(world_words, stages):
    stages.fail = (0.3, 8, 0)
    words = ["grid.two_tower.id_dropout=[0.3]", "grid.two_tower.sequence.max_length=[8]"]
    with pytest.raises(UserError, match="out of luck"):
        main(start([*world_words, *words], TuneArguments))


def test_results_are_files_that_others_read(world_words, stages):
    stages.fail = (0.0, 16, 0)
    job = start([*world_words, *GRID], TuneArguments)
    main(job)
    artifact = read(job.root / "tune" / (job.root / "tune" / "CURRENT").read_text().strip())
    trials = pq.read_table(artifact.path / "trials.parquet").to_pylist()
    assert [t["error"] for t in trials if t["error"]] == ["RuntimeError: out of luck"]
    assert {t["two_tower.sequence.max_length"] for t in trials} == {"8", "16"}
    assert sum(t["recall@10"] is not None for t in trials) == 7
    assert (artifact.path / "trials.csv").read_text().count("\n") == 9
    found = json.loads((artifact.path / "table.json").read_text())
    assert [row["failed"] for row in found["table"]] == [0, 1, 0, 0]
    assert "two_tower.id_dropout" in (artifact.path / "report.html").read_text()


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("grid.two_tower.id_dropuot=[0,0.5]", "did you mean two_tower.id_dropout"),
        ("grid.two_tower.id_dropout=[0,1.5]", "less than 1"),
        ("grid.two_tower.id_dropout=[0,high]", "number"),
        ("grid.two_tower.id_dropout=0.5", "needs a list"),
        ("search=random", "grid"),
        ("seeds=0", "greater"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_starts(world_words, stages, word, text):
    with pytest.raises(UserError, match=text):
        main(start([*world_words, *GRID, word], TuneArguments))
    assert stages.trained == []


def test_trials_carry_all_other_settings(world_words):
    words = [*world_words, *GRID, "seed=5", "train.max_steps=7", "eval.ks=[3]"]
    todo = plans(start(words, TuneArguments))
    assert {plan.settings.train.max_steps for plan in todo} == {7}
    assert {plan.settings.eval.ks for plan in todo} == {(3,)}
    assert {plan.settings.seed for plan in todo} == {5, 6}


def test_a_root_without_data_is_an_error(tmp_path, stages):
    with pytest.raises(UserError, match="run the job prepare first"):
        main(start([f"root={tmp_path}"], TuneArguments))
