import json
import re
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Event

import optuna
import pyarrow.parquet as pq
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from data.contract.artifact import current, publish, read
from data.contract.mirrors import PLACE
from data.contract.settings import UserError
from ray_jobs import tune as tune_job
from ray_jobs.engine.job import start
from ray_jobs.engine.training import PrunedError
from ray_jobs.tune import TuneArguments, main
from ray_jobs.tuning import trial as trial_module
from ray_jobs.tuning.capacity import Need

LENGTH, DROPOUT = "two_tower.sequence.max_length", "two_tower.id_dropout"
GRID = ["seeds=2", f"grid.{DROPOUT}=[0,0.5]", f"grid.{LENGTH}=[8,16]"]
STUDY = ["search=tpe", "trials=6", f"space.{DROPOUT}=[0,0.7]", f"space.{LENGTH}=choice(8,16,100)"]


class Stages:
    """Stands in for training and evaluation; recall grows with the sequence, falls with dropout."""

    def __init__(self):
        self.trained, self.fail = [], None

    def train(self, job, model, move_pointer, alone, bars):
        assert not move_pointer
        assert not alone
        settings = job.settings.two_tower
        key = (settings.id_dropout, settings.sequence.max_length, job.settings.seed)
        self.trained.append(key)
        if self.fail == key:
            raise RuntimeError("out of luck")
        dropout, length, seed = key
        score = dropout + length
        lines = [{"step": step, "ndcg@50": score * step / 3} for step in (1, 2, 3)]
        for place, (line, bar) in enumerate(zip(lines, bars, strict=False), start=1):
            if bar is not None and line["ndcg@50"] < bar:
                raise PrunedError(lines[:place])
        metrics = {"validation": lines[-1]}
        details = {"phases": {"choose": {"validations": lines}}}
        return _published(job, model, f"{dropout}-{length}-{seed}", metrics, details)

    def evaluate(self, job, models, trained, move_pointer):
        assert not move_pointer
        (artifact,) = trained.values()
        dropout, length, seed = (float(x) for x in artifact.version.split("-"))
        recall = length / 100 - dropout / 10 + seed / 1000
        retrieval = {"recall@10": recall, "ndcg@10": None, "popularity": {"recall@10": 0.01}}
        intervals = {"model": {"recall@10": [recall - 0.01, recall + 0.01]}}
        found = {"retrieval": {"intervals": intervals}}
        metrics = {"retrieval": retrieval}
        return _published(job, "evaluation", artifact.version, metrics, {}, found)


def _published(job, kind, version, metrics, details, found=None):
    with publish(job.root, kind, version, metrics=metrics, details=details) as draft:
        (draft.path / "model.safetensors").write_bytes(b"0" * 1000)
        (draft.path / "metrics.json").write_text(json.dumps(found))
    return read(job.root / kind / version)


@pytest.fixture
def stages(monkeypatch):
    stages = Stages()
    monkeypatch.setattr(trial_module, "train", stages.train)
    monkeypatch.setattr(trial_module, "evaluate", stages.evaluate)
    monkeypatch.setattr(tune_job, "sources_of", lambda *_, alone: None)
    return stages


@pytest.fixture
def words(shared_root):
    """Words of a root of its own: records of trials would be found by the next test."""
    return shared_root("tuned", "concurrency=0")


@pytest.fixture
def remote(words, tmp_path, monkeypatch):
    """The same, the root being one that each machine has a mirror of."""
    monkeypatch.setenv(PLACE, str(tmp_path))
    return [words[0].replace("=", "=file://"), *words[1:]]


def test_every_combination_runs_under_every_seed(words, stages):
    summary = main(start([*words, *GRID], TuneArguments))
    assert (summary["trials"], summary["failed"]) == (8, 0)
    assert sorted(stages.trained) == [(d, n, s) for d in (0, 0.5) for n in (8, 16) for s in (0, 1)]
    assert {key[2] for key in stages.trained[:4]} == {0}, "each setting once before any twice"


def test_the_table_gives_means_and_intervals_over_seeds(words, stages):
    rows = main(start([*words, *GRID], TuneArguments))["table"]
    assert rows[1]["settings"] == {"two_tower.id_dropout": 0, "two_tower.sequence.max_length": 16}
    assert rows[1]["metrics"]["recall@10"]["mean"] == pytest.approx(0.1605)
    assert rows[1]["metrics"]["recall@10"]["half_width"] == pytest.approx(
        12.7062 * 0.0005, rel=1e-4
    )
    assert rows[1]["difference"]["recall@10"]["mean"] == pytest.approx(0.08)
    assert set(rows[1]["metrics"]) == {"recall@10"}, "baselines and what is undefined stay out"


def test_the_best_is_by_validation(words, stages):
    summary = main(start([*words, *GRID], TuneArguments))
    assert summary["best"]["settings"] == {DROPOUT: 0.5, LENGTH: 16}


def test_a_failed_trial_is_recorded_and_the_others_go_on(words, stages):
    stages.fail = (0.5, 8, 1)
    summary = main(start([*words, *GRID], TuneArguments))
    assert (summary["trials"], summary["failed"]) == (8, 1)
    assert [row["failed"] for row in summary["table"]] == [0, 0, 1, 0]


def test_a_failed_trial_is_tried_again_next_time(words, stages):
    stages.fail = (0.5, 8, 1)
    main(start([*words, *GRID], TuneArguments))
    stages.fail = None
    assert main(start([*words, *GRID], TuneArguments))["failed"] == 0


def test_nothing_but_failures_is_an_error(words, stages):
    stages.fail = (0.3, 8, 0)
    one = [f"grid.{DROPOUT}=[0.3]", f"grid.{LENGTH}=[8]"]
    with pytest.raises(UserError, match="out of luck"):
        main(start([*words, *one], TuneArguments))


def test_results_are_files_that_others_read(words, stages):
    stages.fail = (0.0, 16, 0)
    job = start([*words, *GRID], TuneArguments)
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
def test_a_wrong_grid_is_refused_before_anything_starts(words, stages, word, text):
    with pytest.raises(UserError, match=text):
        main(start([*words, *GRID, word], TuneArguments))
    assert stages.trained == []


def test_trials_carry_all_other_settings(words, stages, monkeypatch):
    seen = []
    train = stages.train
    monkeypatch.setattr(
        trial_module,
        "train",
        lambda job, *args, **more: seen.append(job) or train(job, *args, **more),
    )
    main(start([*words, *GRID, "seed=5", "train.max_steps=7", "eval.ks=[3]"], TuneArguments))
    assert {job.settings.train.max_steps for job in seen} == {7}
    assert {job.settings.eval.ks for job in seen} == {(3,)}
    assert {job.settings.seed for job in seen} == {5, 6}


def test_of_one_seed_the_table_gives_the_interval_over_users(words, stages):
    row = main(start([*words, *GRID, "seeds=1"], TuneArguments))["table"][0]
    assert row["metrics"]["recall@10"]["half_width"] is None
    assert row["intervals"]["recall@10"] == [pytest.approx(0.07), pytest.approx(0.09)]


def test_what_has_been_run_is_not_run_again(words, stages):
    first = main(start([*words, *GRID], TuneArguments))
    stages.trained.clear()
    again = main(start([*words, *GRID], TuneArguments))
    assert stages.trained == []
    assert again["table"] == first["table"]


def test_without_words_dropout_and_length_are_searched(words, stages):
    summary = main(start(words, TuneArguments))
    assert summary["trials"] == 12
    assert {key[:2] for key in stages.trained} == {
        (d, n) for d in (0.0, 0.2, 0.5, 0.7) for n in (8, 32, 100)
    }


def test_a_study_begins_with_the_jobs_own_settings(words, stages):
    summary = main(start([*words, *STUDY], TuneArguments))
    assert stages.trained[0] == (0.2, 100, 0)
    assert summary["start"]["settings"] == {DROPOUT: 0.2, LENGTH: 100}
    assert summary["default"]["validation"] == summary["start"]["validation"]
    assert summary["trials"] == len(set(stages.trained)) == 6
    assert summary["best"]["validation"]["ndcg@50"] == max(d + n for d, n, _ in stages.trained)


def test_points_name_settings_with_or_without_their_model(words, stages):
    points = "points=[{id_dropout: 0, sequence.max_length: 8}, {two_tower.id_dropout: 0.3}]"
    main(start([*words, *STUDY, points], TuneArguments))
    assert stages.trained[:2] == [(0.0, 8, 0), (0.3, 100, 0)]


def test_a_grid_and_a_study_make_one_report(words, stages):
    both = ["search=[grid,tpe]", "trials=4", *GRID[1:], *STUDY[2:]]
    points = "points=[{id_dropout: 0, sequence.max_length: 8}]"
    job = start([*words, *both, points, "confirm=2"], TuneArguments)
    summary = main(job)
    assert summary["trials"] == 4 + 4 + 3 * 2
    assert summary["recovered"] > 0
    assert summary["default"]["settings"] == {}
    assert summary["default"]["validation"] == {}, "no trial had the default's settings"
    assert summary["start"]["difference"]["recall@10"]["mean"] < 0
    assert {key[2] for key in stages.trained} == {0, 1, 2}, "fresh seeds at the end"
    html = (current(job.root, "tune").path / "report.html").read_text()
    assert all(title in html for title in ("Grid", "Study", "Best beside the default"))
    assert html.count("<svg") >= 5


def test_the_best_settings_are_a_file_that_train_takes(words, stages):
    summary = main(start([*words, *STUDY], TuneArguments))
    again = start([*words[:-1], summary["best_settings"]])
    best = summary["best"]["settings"]
    assert again.settings.two_tower.id_dropout == best[DROPOUT]
    assert again.settings.two_tower.sequence.max_length == best[LENGTH]


def test_the_study_lies_beside_the_report_in_optunas_own_form(words, stages):
    job = start([*words, *STUDY], TuneArguments)
    main(job)
    file = current(job.root, "tune").path / "study.journal"
    study = optuna.load_study(
        study_name="study", storage=JournalStorage(JournalFileBackend(str(file)))
    )
    assert len(study.trials) == 6


def test_a_study_that_was_interrupted_goes_on(words, stages, monkeypatch):
    whole = main(start([*words, *STUDY], TuneArguments))
    tried = list(stages.trained)
    stages.trained.clear()
    other = [*words, "train.patience=9", *STUDY]
    train = stages.train

    def interrupted(job, *args, **more):
        if len(stages.trained) == 3:
            raise KeyboardInterrupt
        return train(job, *args, **more)

    monkeypatch.setattr(trial_module, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(start(other, TuneArguments))
    monkeypatch.setattr(trial_module, "train", train)
    again = main(start(other, TuneArguments))
    assert stages.trained == tried, "each once, and the same as without the interruption"
    assert again["best"] == whole["best"]


def test_of_two_equal_studies_the_second_waits_and_finds_the_trials(words, stages):
    job, training, go_on = start([*words, *STUDY], TuneArguments), Event(), Event()
    train = stages.train

    def held_up(*args, **more):
        training.set()
        assert go_on.wait(60)
        return train(*args, **more)

    stages.train = held_up
    with ThreadPoolExecutor(2) as pool, pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial_module, "train", lambda *args, **more: stages.train(*args, **more))
        first = pool.submit(main, job)
        assert training.wait(60)
        second = pool.submit(main, start([*words, *STUDY], TuneArguments))
        assert wait([second], timeout=1).not_done
        go_on.set()
        assert first.result()["best"] == second.result()["best"]
    assert len(stages.trained) == 6


def test_trials_that_fall_behind_are_cut_short(words, stages):
    pruned = [*STUDY, "trials=12", "tune.pruning=asha", "tune.reduction=2"]
    summary = main(start([*words, *pruned], TuneArguments))
    assert 0 < summary["pruned"] < 12
    assert summary["best"]["validation"]["ndcg@50"] == max(d + n for d, n, _ in stages.trained)


def test_quality_is_weighed_against_size(words, stages):
    two = [*STUDY, "search=nsga2", "objectives=[ndcg@50,megabytes]"]
    job = start([*words, *two], TuneArguments)
    main(start([*words, *STUDY], TuneArguments))
    assert "front" not in (current(job.root, "tune").path / "report.html").read_text()
    summary = main(job)
    assert summary["best"]["validation"]["megabytes"] == pytest.approx(0.001)
    assert "front" in (current(job.root, "tune").path / "report.html").read_text()


def test_a_study_knows_what_earlier_ones_found(words, stages):
    job = start([*words, *STUDY], TuneArguments)
    main(job)
    version = current(job.root, "tune").version
    more = ["trials=3", f"warm_start={version}"]
    later = start([*words, *STUDY, *more], TuneArguments)
    main(later)
    journal = current(job.root, "tune").path / "study.journal"
    study = optuna.load_study(
        study_name="study", storage=JournalStorage(JournalFileBackend(str(journal)))
    )
    assert len(study.trials) == 6 + 3


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["space.two_tower.id_dropuot=[0,0.5]"], "did you mean two_tower.id_dropout"),
        (["space.two_tower.id_dropout=[0,1.5]"], "less than 1"),
        (["search=[tpe,nsga2]"], "one grid and one study"),
        (["search=grid"], "space is read by a study"),
        (["grid.two_tower.id_dropout=[0,0.5]"], "grid.* is read by search=grid"),
        (["points=[{id_dropout: 0.9}]"], "between 0.0 and 0.7"),
        (["points=[{dropout: 0.9}]"], "dropout is not in the space"),
        (["objectives=[speed]"], "speed is not measured"),
        (["warm_start=nowhere"], "names no finished sweep"),
        (["tune.pruning=asha", "objectives=[recall@10]"], "takes that one objective"),
        (["trials=0"], "greater"),
    ],
)
def test_a_wrong_study_is_refused_before_anything_starts(words, stages, more, text):
    with pytest.raises(UserError, match=re.escape(text)):
        main(start([*words, *STUDY, *more], TuneArguments))
    assert stages.trained == []


def test_a_database_that_its_root_would_not_keep_is_refused(stages, remote):
    job = start([*remote, *GRID, "tune.mlflow_uri=local"], TuneArguments)
    with pytest.raises(UserError, match=r"mlflow_uri=http://.*sqlite:") as told:
        main(job)
    assert f"{job.settings.root} does not lie there" in str(told.value)
    assert stages.trained == []


@pytest.mark.parametrize(
    ("more", "gpus", "need", "at_once"),
    [
        ([], 0, Need(1.0, 0), 63),
        ([], 2, Need(1.0, 0, 1.0), 2),
        (["tune.gpu_share=0.25"], 2, Need(1.0, 0, 0.25), 8),
        (["train.device=cpu"], 2, Need(1.0, 0), 63),
        (["train.num_workers=2"], 5, Need(0.1, 2, 1.0), 2),
        (["train.num_workers=2"], 1, Need(0.1, 2), 30),
        (["concurrency=0"], 2, Need(1.0, 0), 0),
    ],
)
def test_trials_are_placed_by_the_cpus_and_gpus_of_the_cluster(
    world_words, monkeypatch, more, gpus, need, at_once
):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(tune_job, "connect", lambda: None)
    monkeypatch.setattr(tune_job, "usable_gpus", lambda: gpus)
    monkeypatch.setattr(tune_job.ray, "cluster_resources", lambda: {"CPU": 64.0, "GPU": gpus})
    job, found, most = tune_job._placed(start([*world_words, *more], TuneArguments))
    assert (found, most) == (need, at_once)
    on_cores = not need.gpus and gpus and at_once
    assert (job.settings.train.device == "cpu") == bool(on_cores)


def test_a_root_without_data_is_an_error(tmp_path, stages):
    with pytest.raises(UserError, match="run the job prepare first"):
        main(start([f"root={tmp_path}", "concurrency=0"], TuneArguments))
