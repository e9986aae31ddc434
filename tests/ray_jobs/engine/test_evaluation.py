import json
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

from data.baselines import Popularity
from data.contract.encode import Events
from data.contract.schema import DAY_MS, Vocabulary
from data.contract.settings import UserError, build
from data.queries import Queries
from data.ranking import CHUNK_SCORES, Catalogue, rank
from ray_jobs.engine.baselines import BESIDE_GRAPH, BESIDE_USER, baselines
from ray_jobs.engine.evaluation import (
    EvalSettings,
    EvaluationSet,
    StreamedScores,
    beside,
    judge_retrieval,
)
from ray_jobs.engine.job import start
from ray_jobs.engine.plain_json import without_nan
from ray_jobs.engine.subject import Subject

NUM_QUERIES, ROWS = 40, 60
NOW = 100 * DAY_MS


@pytest.fixture
def held_out():
    """40 users with one seen item (row 1) and the positives q + 2 and 59; row 59 is yet to come."""
    ones = np.ones(NUM_QUERIES, np.int64)
    positives = np.stack([np.arange(NUM_QUERIES) + 2, np.full(NUM_QUERIES, ROWS - 1)], axis=1)
    queries = Queries(
        users=np.arange(NUM_QUERIES),
        history=Events(np.arange(NUM_QUERIES + 1), ones, ones, ones, ones, ones.astype(np.float32)),
        positives=positives.ravel(),
        num_positives=2 * ones,
        now_ms=NOW * ones,
    )
    created = np.full(ROWS, DAY_MS)
    created[ROWS - 1] = NOW + 1
    vocabulary = Vocabulary(order="clock", actions=("save",), polarity=("positive",))
    log = SimpleNamespace(dataset=SimpleNamespace(vocabulary=vocabulary), seed=0)
    popularity = Popularity(np.arange(ROWS, dtype=np.float32))
    catalogue = Catalogue(np.arange(ROWS) > 0, created)
    settings = EvalSettings(ks=(1, 5), slice_k=1)
    return EvaluationSet(log, queries, catalogue, popularity, popularity, settings)


def knowing(queries):
    """Scores the positives highest."""
    scores = np.zeros((len(queries), ROWS), np.float32)
    scores[queries.positive_owners, queries.positives] = 1
    return scores


def test_a_scorer_that_knows_the_answer_is_bounded_by_what_was_there(held_out):
    found = judge_retrieval(held_out, {"model": knowing, "popularity": held_out.popularity.scores})
    assert (found["queries"], found["positives"], found["items"]) == (40, 80, 59)
    assert found["reachable"] == 0.5
    assert found["metrics"]["model"]["recall@5"] == 0.5
    assert found["metrics"]["model"]["hit_rate@1"] == 1.0
    assert found["metrics"]["popularity"]["recall@5"] < 0.5


def test_intervals_hold_their_means(held_out):
    found = judge_retrieval(held_out, {"model": held_out.popularity.scores})
    for name, (low, high) in found["intervals"]["model"].items():
        assert low <= found["metrics"]["model"][name] <= high
    assert "recall@1" in found["intervals"]["model"]


def test_slices_come_with_every_scorer(held_out):
    found = judge_retrieval(held_out, {"model": knowing, "popularity": held_out.popularity.scores})
    by_name = {group["name"]: group for group in found["slices"]}
    assert set(by_name) == {
        "user activity",
        "item popularity",
        "head, torso and tail",
        "item age",
    }
    age = by_name["item age"]
    at = age["labels"].index("not there yet")
    assert age["positives"][at] == 40
    assert age["recall"]["model"][at] == 0.0
    assert sum(age["positives"]) == 80
    assert sum(by_name["item popularity"]["positives"]) == 80
    assert sum(by_name["head, torso and tail"]["positives"]) == 80


def test_scorers_judged_apart_are_those_judged_together(held_out):
    scorers = {"model": knowing, "popularity": held_out.popularity.scores}
    apart = [judge_retrieval(held_out, {name: scorer}) for name, scorer in scorers.items()]
    assert beside(*apart) == judge_retrieval(held_out, scorers)


def test_one_ranking_is_held_at_a_time(held_out, monkeypatch):
    made, held = [], []

    def ranked(*words):
        ranking = rank(*words)
        made.append(weakref.ref(ranking.items))
        held.append(sum(one() is not None for one in made))
        return ranking

    monkeypatch.setattr("ray_jobs.engine.evaluation.rank", ranked)
    judge_retrieval(held_out, dict.fromkeys("abc", knowing))
    assert held == [1, 1, 1]


def test_the_result_is_json(held_out):
    found = judge_retrieval(held_out, {"model": knowing})
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(without_nan(found)))


@pytest.mark.parametrize("size", [1, 7, 40])
def test_streamed_scores_are_those_of_the_queries_in_order(held_out, size, monkeypatch):
    monkeypatch.setattr("data.ranking.CHUNK_SCORES", 16 * ROWS)
    assert CHUNK_SCORES > 16 * ROWS
    chunks = (knowing(chunk) for chunk in held_out.queries.chunks(size))
    streamed = judge_retrieval(held_out, {"model": StreamedScores(chunks)})
    assert streamed == judge_retrieval(held_out, {"model": knowing})


@pytest.fixture(scope="module")
def world_log(world_words):
    """The small world's data set under its split."""
    return Subject.open(start(world_words), (), {}).log


def test_more_users_are_drawn_where_one_model_is_judged_alone(world_log, monkeypatch):
    monkeypatch.setattr("ray_jobs.engine.evaluation.USERS_OF_FEED", 5)
    monkeypatch.setattr("ray_jobs.engine.evaluation.USERS_ALONE", 9)

    def drawn(alone, **settings):
        return len(EvaluationSet.of(world_log, EvalSettings(**settings), alone).queries)

    assert [drawn(alone) for alone in (False, True)] == [5, 9]
    assert [drawn(alone, max_users=7) for alone in (False, True)] == [7, 7]


def test_every_baseline_scores_every_row(world_log):
    held_out = EvaluationSet.of(world_log, EvalSettings(max_users=4))
    found = baselines(held_out, dict.fromkeys([*BESIDE_GRAPH, *BESIDE_USER]))
    assert list(found) == [
        *("popularity", "item_knn", "bpr", "gf_cf"),
        *("pinnersage_5", "pinnersage_20"),
    ]
    for name, scorer in found.items():
        scores = scorer(held_out.queries)
        assert (scores.shape, scores.dtype) == ((4, held_out.catalogue.rows), np.float32), name
        assert np.isfinite(scores).all()
        assert (scores.max(axis=1) > scores.min(axis=1)).all(), name


def test_the_settings_name_the_baselines_else_the_job(world_log):
    usual = EvaluationSet.of(world_log, EvalSettings(max_users=4))
    assert list(baselines(usual)) == ["popularity", "item_knn"]
    named = EvaluationSet.of(world_log, EvalSettings(max_users=4, baselines=("popularity",)))
    assert list(baselines(named, BESIDE_GRAPH)) == ["popularity"]


@pytest.mark.parametrize(("bound", "name"), [("ROWS_OF_FILTER", "gf_cf"), ("EVENTS_OF_BPR", "bpr")])
def test_a_baseline_of_a_large_log_takes_part_only_where_it_is_named(
    world_log, monkeypatch, capsys, bound, name
):
    monkeypatch.setattr(f"ray_jobs.engine.baselines.{bound}", 3)
    usual = EvaluationSet.of(world_log, EvalSettings(max_users=4))
    assert list(baselines(usual, ("popularity", name))) == ["popularity"]
    assert f"not beside it: {name}," in capsys.readouterr().err
    named = EvaluationSet.of(world_log, EvalSettings(max_users=4, baselines=(name,)))
    assert list(baselines(named)) == [name]
    assert "not beside it" not in capsys.readouterr().err


def test_past_events_count_as_one_and_popular_ones_by_their_age(world_log):
    held_out = EvaluationSet.of(world_log, EvalSettings(max_users=4))
    past, popular = held_out.past.counts, held_out.popularity.counts
    assert past.sum() > 0
    assert (past == np.round(past)).all()
    assert ((popular < past) == (past > 0)).all()


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ({"ks": []}, "at least one"),
        ({"ks": [0]}, "greater"),
        ({"max_users": 0}, "max_users"),
        ({"baselines": []}, "eval.baselines needs at least one name"),
        ({"baselines": ["svd"]}, "baselines.*'popularity'"),
    ],
)
def test_settings_out_of_bounds_are_refused(tree, text):
    with pytest.raises(UserError, match=text):
        build(EvalSettings, tree)
