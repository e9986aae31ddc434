import json
import weakref
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.contract.artifact import publish, read
from data.contract.calibration import Calibrators
from data.contract.settings import UserError
from data.dataset import Dataset
from data.queries import build_queries
from data.sources import locate
from data.splits import TEST
from ray_jobs import calibrate as calibrate_job
from ray_jobs import evaluate as evaluate_job
from ray_jobs.calibrate import calibrate
from ray_jobs.engine.job import start
from ray_jobs.engine.predictions import sampled
from ray_jobs.engine.ranking_baselines import RankingBaselines, learnt_from
from ray_jobs.engine.subject import Subject
from ray_jobs.evaluate import EvaluateArguments, evaluate, main, oracle_scores
from ray_jobs.prepare import prepare

NAMES = ("recall", "ndcg", "hit_rate", "mrr", "coverage", "p90_coverage", "interest_entropy")
KS = (10, 20, 50, 100, 200)


class NewestFirst:
    """A retriever that has learnt nothing: the highest row wins."""

    def __init__(self, rows):
        self.rows = rows

    def scores(self, queries):
        return np.tile(np.arange(self.rows, dtype=np.float32), (len(queries), 1))


class Informed:
    """A ranker that has seen the labels, and says half of them; calibrated, all of them."""

    known, read = None, None

    def __init__(self, actions):
        self.actions = actions
        self.plain = Calibrators.identity(actions)
        self.core = SimpleNamespace(settings=SimpleNamespace(negative_rate=1.0))
        self.calibrators = Calibrators.identity(actions)

    def logits(self, impressions, histories):
        Informed.read = weakref.ref(histories.events.item)
        labels = [impressions[f"label.{action}"].to_numpy() for action in self.actions]
        return np.where(np.stack(labels, axis=1), 0.0, -30.0).astype(np.float32)

    def knowing(self, log, parts, asked):
        Informed.known = np.flatnonzero(asked).tolist()
        return self

    def segments(self, impressions):
        return np.zeros((impressions.num_rows, 2), bool)

    def uncalibrated(self, logits, segments):
        return self.plain(logits, segments)


def informed(artifact, dataset, calibration=None):
    model = Informed(dataset.vocabulary.actions)
    if calibration is not None:
        model.calibrators = Calibrators.load(calibration.path)
    return model


@pytest.fixture
def job(world_words, publish_model, monkeypatch):
    """A job on the small world with a current retriever and ranker."""
    monkeypatch.setattr(
        evaluate_job,
        "Retriever",
        SimpleNamespace(open=lambda _, dataset, trends: NewestFirst(dataset.item_ids.rows)),
    )
    monkeypatch.setattr(
        evaluate_job,
        "RankingModel",
        SimpleNamespace(open=informed),
    )
    job = start(world_words, EvaluateArguments)
    publish_model(job, "two_tower")
    publish_model(job, "ranker")
    return job


def test_retrieval_stands_beside_its_baselines_and_the_oracle(job):
    metrics = evaluate(job, ("two_tower",)).manifest.metrics
    assert set(metrics) == {"retrieval"}
    wanted = {f"{name}@{k}" for name in NAMES for k in KS}
    scorers = {"popularity", "item_knn", "oracle_log"}
    assert set(metrics["retrieval"]) == wanted | scorers | {"queries"}
    assert all(set(metrics["retrieval"][scorer]) == wanted for scorer in scorers)
    recall = {s: metrics["retrieval"][s]["recall@10"] for s in scorers}
    assert recall["oracle_log"] > recall["popularity"]
    assert recall["oracle_log"] > metrics["retrieval"]["recall@10"]


def test_ranking_is_judged_on_impressions_of_the_reported_days(job):
    ranking = evaluate(job, ("ranker",)).manifest.metrics["ranking"]
    assert set(ranking) == {"save", "click", "closeup", "hide"}
    assert ranking["save"]["auc"] == 1.0
    assert ranking["save"]["calibration"] == pytest.approx(0.5)
    assert ranking["save"]["uncalibrated"]["calibration"] == pytest.approx(0.5)


def test_calibrators_are_fitted_on_days_of_their_own_and_judged_on_the_reported_ones(
    job, monkeypatch
):
    monkeypatch.setattr(calibrate_job, "RankingModel", SimpleNamespace(open=informed))
    before = evaluate(job, ("ranker",))
    made = calibrate(job)
    assert made.manifest.details["impressions"] > 0
    assert calibrate(job).version == made.version
    assert Dataset.open(job.root).artifact.reference() in made.manifest.parents
    after = evaluate(job, ("ranker",))
    assert after.version != before.version
    ranking = after.manifest.metrics["ranking"]
    assert 0.55 < ranking["save"]["calibration"] < 1  # of few rows, identity still weighs
    assert ranking["save"]["uncalibrated"]["calibration"] == pytest.approx(0.5)
    segments = json.loads((after.path / "metrics.json").read_text())["ranking"]["calibration"]
    assert {"position", "item", "user"} <= {group["name"] for group in segments["segments"]}
    html = (after.path / "report.html").read_text()
    assert "Calibration by segment" in html
    assert 0 < ranking["click"]["positive_rate"] < 0.3


def test_the_ranker_stands_beside_models_that_learn_from_its_impressions(job):
    ranking = evaluate(job, ("ranker",)).manifest.metrics["ranking"]
    assert set(ranking["save"]["popularity"]) == {"auc", "auc_of_touched"}
    for name in ("logistic", "trees"):
        assert 0.5 < ranking["closeup"][name]["auc"] < 1, name
        assert ranking["closeup"][name]["normalized_entropy"] < 1.1, name


def test_baselines_of_ranking_are_fitted_once_for_all_rankers(job, publish_model, monkeypatch):
    first = evaluate(job, ("ranker",)).manifest.metrics["ranking"]
    monkeypatch.setattr(RankingBaselines, "fit", None)
    publish_model(job, "ranker", "another")
    again = evaluate(job, ("ranker",)).manifest.metrics["ranking"]
    for action, found in first.items():
        assert {"popularity", "logistic", "trees"} <= set(found)
        for name in ("popularity", "logistic", "trees"):
            assert again[action][name] == found[name]


def users_in(impressions):
    return np.unique(impressions["user"].to_numpy()).tolist()


def test_only_what_users_of_judged_impressions_did_is_gathered(job, world_words, gathered):
    few = start([*world_words, "eval.max_impressions=150"], EvaluateArguments)
    evaluate(few, ("ranker",), move_pointer=False)
    subject = Subject.open(few, ("ranker",), {})
    judged, taught = users_in(subject.impressions()), users_in(learnt_from(subject))
    assert gathered == [judged, taught, judged], "by the ranker, and by its baselines twice"
    assert Informed.known == judged
    assert 0 < len(judged) < 60


def test_what_a_ranker_knew_is_let_go_of_before_its_baselines(job, publish_model, monkeypatch):
    publish_model(job, "ranker", "forgetful")
    held = []

    def baselines(subject, impressions):
        held.append(Informed.read())
        return {"rows": 0, "actions": {a: {} for a in subject.log.dataset.vocabulary.actions}}

    monkeypatch.setattr(evaluate_job, "ranking_baselines", baselines)
    evaluate(job, ("ranker",), move_pointer=False)
    assert held == [None]


def test_calibration_gathers_what_users_of_its_impressions_did(
    job, publish_model, gathered, monkeypatch
):
    publish_model(job, "ranker", "uncalibrated")
    monkeypatch.setattr(calibrate_job, "RankingModel", SimpleNamespace(open=informed))
    calibrate(job, move_pointer=False)
    subject = Subject.open(job, ("ranker",), {})
    files = subject.log.dataset.impression_files(*subject.log.windows.calibration)
    fitted_on = users_in(pa.concat_tables(pq.read_table(file) for file in files))
    assert gathered == [fitted_on]
    assert Informed.known == fitted_on


def test_calibrators_are_fitted_on_a_sample_where_there_is_more(job, publish_model, monkeypatch):
    publish_model(job, "ranker", "often_shown")
    monkeypatch.setattr(calibrate_job, "RankingModel", SimpleNamespace(open=informed))
    monkeypatch.setattr(calibrate_job, "ENOUGH", 100)
    found = calibrate(job, move_pointer=False)
    log = Subject.open(job, ("ranker",), {}).log
    files = log.dataset.impression_files(*log.windows.calibration)
    drawn = sampled(files, 100, job.settings.seed)
    assert found.manifest.details["impressions"] == drawn.num_rows
    assert 0 < drawn.num_rows < 0.7 * sum(pq.read_metadata(file).num_rows for file in files)


def test_what_an_action_that_nobody_took_comes_to_is_json(job, publish_model, monkeypatch):
    def without_hides(files, most, seed):
        table = sampled(files, most, seed)
        none = pa.array(np.zeros(table.num_rows, bool))
        return table.set_column(table.schema.get_field_index("label.hide"), "label.hide", none)

    publish_model(job, "ranker", "never_hidden")
    monkeypatch.setattr(calibrate_job, "RankingModel", SimpleNamespace(open=informed))
    monkeypatch.setattr(calibrate_job, "sampled", without_hides)
    details = calibrate(job, move_pointer=False).manifest.details
    assert details["actions"]["hide"]["calibration_before"] is None
    assert json.dumps(details, allow_nan=False)


def test_where_no_reported_impressions_are_the_retriever_is_judged_alone(
    job, publish_model, monkeypatch, capsys
):
    publish_model(job, "ranker", "not_shown")
    monkeypatch.setattr(Dataset, "impression_files", lambda *_: [])
    metrics = evaluate(job, ("two_tower", "ranker"), move_pointer=False).manifest.metrics
    assert metrics["retrieval"]["queries"] > 0
    assert "ranking" not in metrics
    assert "the ranker is not judged" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UserError, match="no impressions"):
        evaluate(job, ("ranker",), move_pointer=False)


@pytest.mark.parametrize("names", [("popularity",), ("popularity", "pinnersage_5")])
def test_baselines_of_item_vectors_are_judged_again_for_others(names, monkeypatch):
    made = {}
    settings = SimpleNamespace(eval=SimpleNamespace(baselines=None))

    class MadeError(Exception):
        pass

    def make(kind, parents, *_, **__):
        made[vectors] = parents
        raise MadeError

    for vectors in ("", "of_one_graph", "of_another"):
        dataset = SimpleNamespace(artifact="dataset", vectors=vectors or None)
        subject = SimpleNamespace(
            log=SimpleNamespace(dataset=dataset),
            settings={},
            job=SimpleNamespace(settings=settings, make=make),
        )
        with pytest.raises(MadeError):
            evaluate_job._baselines(subject, SimpleNamespace(queries=[]), names)
    read = "pinnersage_5" in names
    assert made[""] == ["dataset"]
    assert made["of_one_graph"] == ["dataset", *(["of_one_graph"] if read else [])]
    assert made["of_another"] == ["dataset", *(["of_another"] if read else [])]


def test_only_the_baselines_asked_for_stand_beside_the_ranker(job, world_words):
    other = start([*world_words, "eval.ranking_baselines=[logistic]"], EvaluateArguments)
    ranking = evaluate(other, ("ranker",), move_pointer=False).manifest.metrics["ranking"]
    assert "logistic" in ranking["save"]
    assert not {"popularity", "trees"} & set(ranking["save"])
    alone = start([*world_words, "eval.ranking_baselines=[]"], EvaluateArguments)
    ranking = evaluate(alone, ("ranker",), move_pointer=False).manifest.metrics["ranking"]
    assert "logistic" not in ranking["save"]


def test_report_and_metrics_lie_in_the_artefact(job):
    artifact = evaluate(job, ("two_tower", "ranker"))
    found = json.loads((artifact.path / "metrics.json").read_text())
    assert found["retrieval"]["queries"] == artifact.manifest.metrics["retrieval"]["queries"]
    assert {group["name"] for group in found["retrieval"]["slices"]} == {
        "user activity",
        "item popularity",
        "head, torso and tail",
        "item age",
        "item interest",
    }
    page = (artifact.path / "report.html").read_text()
    assert "oracle_log" in page
    assert "<svg" in page


def test_an_evaluation_that_is_there_is_not_repeated(job, monkeypatch, capsys):
    first = evaluate(job, ("two_tower",))
    capsys.readouterr()
    monkeypatch.setattr(evaluate_job, "judge_retrieval", None)
    assert evaluate(job, ("two_tower",)).version == first.version
    assert "oracle_log" in capsys.readouterr().err, "its table is shown again"


def test_baselines_are_judged_once_for_all_models(job, publish_model, monkeypatch):
    first = evaluate(job, ("two_tower",)).manifest.metrics["retrieval"]
    monkeypatch.setattr(evaluate_job, "oracle_log", None)
    publish_model(job, "two_tower", "another")
    second = evaluate(job, ("two_tower",)).manifest.metrics["retrieval"]
    assert first == second


def test_other_cut_offs_are_another_evaluation(job, world_words):
    other = start([*world_words, "eval.ks=[5]"], EvaluateArguments)
    artifact = evaluate(other, ("two_tower",), move_pointer=False)
    assert artifact.version != evaluate(job, ("two_tower",)).version
    assert "recall@5" in artifact.manifest.metrics["retrieval"]


def test_a_trial_does_not_become_the_current_evaluation(job, publish_model):
    current = evaluate(job, ("two_tower",))
    pointer = (job.root / "evaluation" / "CURRENT").read_text()
    fields = {
        "id_space": Dataset.open(job.root).artifact.manifest.id_space,
        "details": {"phases": {}},
    }
    with publish(job.root, "two_tower", "trial", window=None, **fields):
        pass
    trial = read(job.root / "two_tower" / "trial")
    judged = evaluate(job, ("two_tower",), {"two_tower": trial}, move_pointer=False)
    assert judged.version != current.version
    assert (job.root / "evaluation" / "CURRENT").read_text() == pointer


def test_a_model_that_has_learnt_reported_days_is_refused(job, publish_model):
    artifact = publish_model(job, "two_tower", "leak", window=[1, 59])
    with pytest.raises(UserError, match="has learnt from days up to 59"):
        evaluate(job, ("two_tower",), {"two_tower": artifact})


def test_calibrators_that_have_learnt_reported_days_are_refused(job, publish_model):
    """Who mends probabilities on the last days cannot report on them."""
    ranker = publish_model(job, "ranker", "mended")
    publish_model(job, "calibration", "late", window=[55, 58], parents=(ranker,))
    with pytest.raises(UserError, match="calibration/late has learnt from days up to 58"):
        evaluate(job, ("ranker",), {"ranker": ranker})


def test_the_oracle_gives_users_and_items_it_does_not_know_nothing(job):
    subject = Subject.open(job, ("two_tower",), {})
    queries = build_queries(subject.log, TEST, 5)
    known_since = subject.log.dataset.users_created_at.copy()
    known_since[queries.users[2]] = 0
    subject.log.dataset.users_created_at = known_since
    scores = np.concatenate(list(oracle_scores(subject, queries)))
    assert scores.shape == (5, subject.log.dataset.item_ids.rows)
    assert scores.any(axis=1).tolist() == [True, True, False, True, True]
    assert not scores[:, : subject.log.dataset.item_ids.first_row].any()


def test_the_job_evaluates_what_is_trained(job):
    summary = main(job)
    assert set(summary["metrics"]) == {"retrieval", "ranking"}
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_nothing_trained_is_an_error_that_names_the_job(tmp_path, world_words):
    job = start([f"root={tmp_path}"], EvaluateArguments)
    with pytest.raises(UserError, match="run the job train first"):
        main(job)


def test_pairs_without_clock_or_order_are_evaluated(tmp_path, publish_model, monkeypatch):
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 40, 2000), rng.integers(0, 90, 2000)
    part = np.where(rng.random(2000) < 0.2, "test", "train")
    table = pa.table({"user_id": user, "item_id": item, "split": part})
    pq.write_table(table, tmp_path / "pairs.parquet")
    words = [f"root={tmp_path / 'root'}", "source.kind=table", "split.kind=column"]
    words += [f"source.events={tmp_path / 'pairs.parquet'}", "split.column=split"]
    job = start(words, EvaluateArguments)
    prepare(job, locate(job.settings.source))
    monkeypatch.setattr(
        evaluate_job,
        "Retriever",
        SimpleNamespace(open=lambda _, dataset, trends: NewestFirst(dataset.item_ids.rows)),
    )
    publish_model(job, "two_tower")
    retrieval = evaluate(job, ("two_tower",)).manifest.metrics["retrieval"]
    assert "oracle_log" not in retrieval
    assert 0 < retrieval["popularity"]["recall@50"] <= 1
