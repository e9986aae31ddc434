import numpy as np
import pytest
import scipy.sparse as sp

from data.impression_features import Described
from models.metrics import auc, calibration
from ray_jobs.engine.click_models import LEAVES, TREES, Logistic, Trees, _leaves

ROWS = 6000


def described(rng, rows=ROWS):
    dense = rng.normal(size=(rows, 3)).astype(np.float32)
    category = rng.integers(0, 4, rows)
    hot = sp.csr_array(np.eye(4, dtype=np.float32)[category])
    return Described(("a", "b", "c"), dense, hot), category


def drawn(rng, logit):
    return rng.random(len(logit)) < 1 / (1 + np.exp(-logit))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_logistic_regression_learns_numbers_and_categories(rng):
    rows, category = described(rng)
    logit = 1.5 * rows.dense[:, 0] + 2.0 * (category == 2) - 2
    model = Logistic.fit(rows, drawn(rng, logit))
    fresh, category = described(rng)
    logit = 1.5 * fresh.dense[:, 0] + 2.0 * (category == 2) - 2
    predicted, labels = model.probabilities(fresh), drawn(rng, logit)
    assert auc(labels, predicted) == pytest.approx(auc(labels, logit), abs=0.005)
    assert calibration(labels, predicted) == pytest.approx(1, abs=0.06)


def test_trees_find_the_cross_that_a_line_cannot(rng):
    rows, _ = described(rng)
    labels = drawn(rng, 3 * np.sign(rows.dense[:, 0] * rows.dense[:, 1]))
    own = rng.random(ROWS) < 0.5
    fresh, _ = described(rng)
    truth = drawn(rng, 3 * np.sign(fresh.dense[:, 0] * fresh.dense[:, 1]))
    trees = Trees.fit(rows, labels, own, seed=0)
    assert auc(truth, trees.probabilities(fresh)) > 0.9
    assert auc(truth, Logistic.fit(rows, labels).probabilities(fresh)) < 0.55
    assert calibration(truth, trees.probabilities(fresh)) == pytest.approx(1, abs=0.06)


def test_an_impression_falls_into_one_leaf_of_each_tree(rng):
    rows, _ = described(rng, 800)
    trees = Trees.fit(rows, rows.dense[:, 0] > 0, rng.random(800) < 0.5, seed=0)
    leaves = _leaves(trees.booster, sp.csr_matrix(sp.hstack([rows.dense, rows.hot])))
    assert leaves.shape == (800, TREES * LEAVES)
    per_tree = leaves.toarray().reshape(800, TREES, LEAVES).sum(axis=2)
    grown = trees.booster.num_trees()
    assert (per_tree[:, :grown] == 1).all()


def test_the_same_seed_gives_the_same_trees(rng):
    rows, _ = described(rng, 1000)
    labels, own = rows.dense[:, 1] + rng.normal(size=1000) > 0, rng.random(1000) < 0.5
    one, other = (Trees.fit(rows, labels, own, seed=3).probabilities(rows) for _ in range(2))
    np.testing.assert_array_equal(one, other)
