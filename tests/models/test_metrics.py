import math
import tracemalloc
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import metrics


@st.composite
def ranked_lists(draw):
    """Lists of distinct items (some shorter than the rest), the positives of each."""
    num_items = draw(st.integers(5, 30))
    lists = draw(
        st.lists(
            st.lists(st.integers(0, num_items - 1), unique=True, min_size=1, max_size=8),
            min_size=1,
            max_size=6,
        )
    )
    positives = [
        draw(st.sets(st.integers(0, num_items - 1), min_size=1, max_size=12)) for _ in lists
    ]
    width = max(map(len, lists))
    items = np.array([line + [-1] * (width - len(line)) for line in lists])
    hits = np.array(
        [[i in p for i in line] for line, p in zip(items.tolist(), positives, strict=True)]
    )
    return num_items, items, hits, positives


@given(ranked_lists(), st.integers(1, 10))
def test_ranking_metrics_equal_their_definitions(case, k):
    num_items, items, hits, positives = case
    counts = np.array([len(p) for p in positives])
    found = metrics.retrieval_metrics(items, hits, counts, num_items, [k])
    recall, ndcg, hit, mrr = [], [], [], []
    for line, relevant in zip(items.tolist(), positives, strict=True):
        ranks = [r for r, item in enumerate(line[:k], 1) if item in relevant]
        recall.append(len(ranks) / len(relevant))
        ideal = sum(1 / math.log2(1 + r) for r in range(1, min(k, len(relevant)) + 1))
        ndcg.append(sum(1 / math.log2(1 + r) for r in ranks) / ideal)
        hit.append(float(bool(ranks)))
        mrr.append(1 / ranks[0] if ranks else 0.0)
    expected = {"recall": recall, "ndcg": ndcg, "hit_rate": hit, "mrr": mrr}
    for name, values in expected.items():
        assert found[f"{name}@{k}"] == pytest.approx(np.mean(values)), name


@given(ranked_lists(), st.integers(1, 10))
def test_coverage_equals_its_definition(case, k):
    num_items, items, _, _ = case
    slots = [item for line in items.tolist() for item in line[:k] if item >= 0]
    assert metrics.coverage_at_k(items, num_items, k) == len(set(slots)) / num_items
    counts = sorted((slots.count(item) for item in set(slots)), reverse=True)
    needed = next(n for n in range(len(counts) + 1) if 10 * sum(counts[:n]) >= 9 * len(slots))
    assert metrics.p90_coverage_at_k(items, num_items, k) == needed / num_items


def test_ideal_gain_is_cut_at_the_number_of_positives():
    hits = np.array([[True, True, False], [True, True, True]])
    assert metrics.ndcg_at_k(hits, np.array([2, 50]), 3).tolist() == pytest.approx([1.0, 1.0])


def test_no_queries_give_no_numbers():
    none = np.zeros((0, 10), np.int64)
    assert metrics.retrieval_metrics(none, none.astype(bool), none[:, 0], 5, [10]) == {}


predictions = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0])),
    min_size=1,
    max_size=40,
)


@given(predictions)
def test_auc_counts_pairs_and_half_of_the_ties(rows):
    labels, scores = (np.array(x) for x in zip(*rows, strict=True))
    pairs = [
        (p > n) + 0.5 * (p == n) for p in scores[labels].tolist() for n in scores[~labels].tolist()
    ]
    found = metrics.auc(labels, scores)
    assert (math.isnan(found) and not pairs) or found == pytest.approx(np.mean(pairs))


@given(predictions)
def test_log_loss_and_calibration_equal_their_definitions(rows):
    labels, scores = (np.array(x) for x in zip(*rows, strict=True))
    clipped = [min(max(s, 1e-7), 1 - 1e-7) for s in scores.tolist()]
    terms = [-math.log(p) if y else -math.log1p(-p) for y, p in zip(labels, clipped, strict=True)]
    assert metrics.log_loss(labels, scores) == pytest.approx(np.mean(terms))
    if labels.any():
        expected = scores.sum() / labels.sum()
        assert metrics.calibration(labels, scores) == pytest.approx(expected)
    else:
        assert math.isnan(metrics.calibration(labels, scores))


@given(predictions, st.integers(1, 12))
def test_reliability_bins_hold_every_prediction_once(rows, bins):
    labels, scores = (np.array(x) for x in zip(*rows, strict=True))
    found = metrics.reliability(labels, scores, bins)
    assert found.count.sum() == len(rows)
    assert found.count.max() - found.count.min() <= 1
    assert found.count @ found.predicted == pytest.approx(scores.sum())
    assert found.count @ found.actual == pytest.approx(labels.sum())
    assert (np.diff(found.predicted) >= -1e-12).all()


def test_normalized_entropy_is_one_for_who_knows_the_share_alone():
    labels = np.arange(100) < 30
    assert metrics.normalized_entropy(labels, np.full(100, 0.3)) == pytest.approx(1)
    assert metrics.normalized_entropy(labels, np.where(labels, 0.9, 0.1)) < 0.2
    assert metrics.normalized_entropy(labels, np.full(100, 0.9)) > 1
    assert math.isnan(metrics.normalized_entropy(np.ones(5, bool), np.ones(5)))


def test_ece_is_zero_for_rates_that_come_true_and_the_gap_otherwise():
    labels = np.array([True, False, False, False] * 5 + [True, True, True, False] * 5)
    right = np.repeat([0.25, 0.75], 20)
    assert metrics.expected_calibration_error(labels, right, bins=2) == pytest.approx(0)
    assert metrics.expected_calibration_error(labels, right - 0.1, bins=2) == pytest.approx(0.1)


@given(predictions, st.integers(1, 12), st.randoms(use_true_random=False))
def test_reliability_does_not_depend_on_the_order_of_equal_predictions(rows, bins, random):
    labels, scores = (np.array(x) for x in zip(*rows, strict=True))
    scores = scores.round(1)
    order = np.array(random.sample(range(len(rows)), len(rows)))
    one, other = (metrics.reliability(labels[o], scores[o], bins) for o in (slice(None), order))
    assert other.actual == pytest.approx(one.actual)


def test_who_always_says_the_share_of_positives_is_calibrated_whenever_they_came():
    labels = np.arange(100) < 30
    assert metrics.expected_calibration_error(labels, np.full(100, 0.3)) == pytest.approx(0)


def test_bootstrap_interval_covers_the_mean_at_its_level():
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(200):
        low, high = metrics.bootstrap_interval(rng.normal(3, 1, 60), seed, resamples=300)
        inside += low <= 3 <= high
    assert 0.88 <= inside / 200 <= 0.99


@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 500))
def test_a_bootstrap_in_parts_is_that_of_all_resamples_at_once(queries, resamples, at_once):
    values = np.random.default_rng(queries).random(queries)
    rng = np.random.default_rng(7)
    weights = rng.multinomial(queries, np.full(queries, 1 / queries), size=resamples)
    expected = np.quantile(weights @ values / queries, [0.05, 0.95])
    with mock.patch("models.metrics.CHUNK_COUNTS", at_once):
        found = metrics.bootstrap_interval(values, 7, level=0.9, resamples=resamples)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_bootstrap_of_many_queries_holds_some_resamples_at_a_time():
    values = np.random.default_rng(0).random(20_000)
    tracemalloc.start()
    metrics.bootstrap_interval(values, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * (metrics.CHUNK_COUNTS + len(values)) < 16 * 1000 * len(values)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_cosine_kurtosis_is_that_of_a_known_distribution():
    """Cosines of uniform directions in D dimensions have excess kurtosis -6 / (D + 2)."""
    for dim in (2, 4):
        vectors = unit(np.random.default_rng(dim).normal(size=(20_000, dim)))
        found = metrics.cosine_kurtosis(vectors, np.random.default_rng(0))
        assert found == pytest.approx(-6 / (dim + 2), abs=0.03)


def test_cosine_kurtosis_equals_its_definition_on_every_pair():
    vectors = unit(np.random.default_rng(3).normal(size=(6, 3)))
    cosines = np.array([vectors[a] @ vectors[b] for a in range(6) for b in range(6) if a != b])
    centred = cosines - cosines.mean()
    expected = (centred**4).mean() / (centred**2).mean() ** 2 - 3
    found = metrics.cosine_kurtosis(vectors, np.random.default_rng(0))
    assert found == pytest.approx(expected, abs=0.03)


def test_cosine_kurtosis_rises_where_few_items_crowd_together():
    rng = np.random.default_rng(0)
    spread = unit(rng.normal(size=(2000, 16)))
    crowded = spread.copy()
    crowded[:200] = unit(np.ones((200, 16)) + 0.01 * rng.normal(size=(200, 16)))
    low, high = (metrics.cosine_kurtosis(v, np.random.default_rng(0)) for v in (spread, crowded))
    assert high > low + 1


def test_cosine_kurtosis_is_seeded_and_defined_for_equal_vectors():
    vectors = unit(np.random.default_rng(0).normal(size=(50, 8)))
    first, second = (metrics.cosine_kurtosis(vectors, np.random.default_rng(5)) for _ in range(2))
    assert first == second
    alike = np.tile(unit(np.array([[1.0, 0.0]])), (5, 1))
    assert metrics.cosine_kurtosis(alike, np.random.default_rng(0)) == 0.0


def test_interest_entropy_is_that_of_the_classes_of_each_list() -> None:
    classes = np.array([0, 1, 1, 2, 3])
    items = np.array([[1, 2, 3, 4], [1, 2, 1, -1], [0, 0, -1, -1]])
    halves = 0.5 * math.log(2) + 2 * 0.25 * math.log(4)
    assert metrics.interest_entropy_at_k(items, classes, 4) == pytest.approx(halves / 2)
    assert metrics.interest_entropy_at_k(items, classes, 2) == 0
    assert math.isnan(metrics.interest_entropy_at_k(items[2:], classes, 4))
