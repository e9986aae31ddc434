"""Models of a company's first years: logistic regression, and boosted trees below one.

Both read hand-made features (`data.impression_features`) and learn each action alone. The trees are
those of He et al. ("Practical lessons from predicting clicks on ads at Facebook", ADKDD 2014):
which leaf of each tree an impression falls into is a category of a logistic regression. It learns
from other requests than the trees, which know their own too well.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import lightgbm as lgb
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from ray_jobs.engine.cluster import num_cores

if TYPE_CHECKING:
    from data.impression_features import Described

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

INVERSE_PENALTY = 0.1
ITERATIONS = 100
TREES, LEAVES, LEAST_ROWS = 60, 16, 50


@dataclass(frozen=True, slots=True)
class Always:
    """The same answer to all: of an action that happened always or never."""

    rate: float

    def probabilities(self, described: Described) -> Floats:
        """That rate, [N]."""
        return np.full(len(described.dense), self.rate, np.float32)


@dataclass(frozen=True, slots=True)
class Logistic:
    """Logistic regression on standardised numbers and categories.

    Attributes:
        mean: of each dense column, [F].
        std: likewise.
        model: fitted.
    """

    mean: Floats
    std: Floats
    model: LogisticRegression

    @classmethod
    def fit(cls, described: Described, labels: Bools) -> Logistic:
        """Minimises log loss with an L2 penalty; stops after `ITERATIONS`."""
        mean, std = described.dense.mean(axis=0), described.dense.std(axis=0)
        std = np.where(std > 1e-6, std, 1.0).astype(np.float32)
        inputs = _standardised(described, mean, std)
        return cls(mean, std, _regression(inputs, labels))

    def probabilities(self, described: Described) -> Floats:
        """Of each impression, [N]."""
        inputs = _standardised(described, self.mean, self.std)
        return _positive(self.model, inputs)


@dataclass(frozen=True, slots=True)
class Trees:
    """Boosted trees whose leaves are the categories of a logistic regression.

    Attributes:
        booster: the trees.
        model: over one indicator a leaf.
    """

    booster: lgb.Booster
    model: LogisticRegression

    @classmethod
    def fit(cls, described: Described, labels: Bools, own: Bools, seed: int) -> Trees:
        """Grows trees on some rows and weighs their leaves on the others.

        Args:
            described: N impressions.
            labels: whether the action followed, [N].
            own: rows that the trees are grown on, [N].
            seed: of the trees.
        """
        inputs = _joined(described)
        data = lgb.Dataset(inputs[own], labels[own], free_raw_data=True)
        booster = lgb.train(_parameters(seed), data, TREES)
        return cls(booster, _regression(_leaves(booster, inputs[~own]), labels[~own]))

    def probabilities(self, described: Described) -> Floats:
        """Of each impression, [N]."""
        return _positive(self.model, _leaves(self.booster, _joined(described)))


def _parameters(seed: int) -> dict[str, object]:
    return {
        "objective": "binary",
        "num_leaves": LEAVES,
        "learning_rate": 0.1,
        "min_data_in_leaf": LEAST_ROWS,
        "num_threads": num_cores(),
        "deterministic": True,
        "force_col_wise": True,
        "seed": seed,
        "verbosity": -1,
    }


def _joined(described: Described) -> sp.csr_matrix:
    return sp.csr_matrix(sp.hstack([described.dense, described.hot], format="csr"))


def _standardised(described: Described, mean: Floats, std: Floats) -> sp.csr_matrix:
    scaled = np.clip((described.dense - mean) / std, -10, 10).astype(np.float32)
    return sp.csr_matrix(sp.hstack([scaled, described.hot], format="csr"))


def _leaves(booster: lgb.Booster, inputs: sp.csr_matrix) -> sp.csr_matrix:
    """One indicator for each leaf of each tree, float32 [N, trees * LEAVES]."""
    leaf = np.asarray(booster.predict(inputs, pred_leaf=True)).reshape(inputs.shape[0], -1)
    rows, trees = leaf.shape
    columns = (leaf + np.arange(trees) * LEAVES).astype(np.int32).ravel()
    offsets = np.arange(0, rows * trees + 1, max(trees, 1), dtype=np.int32)
    ones = np.ones(rows * trees, np.float32)
    return sp.csr_matrix((ones, columns, offsets), (rows, TREES * LEAVES))


def _regression(inputs: sp.csr_matrix, labels: Bools) -> LogisticRegression:
    model = LogisticRegression(C=INVERSE_PENALTY, max_iter=ITERATIONS, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(inputs, labels)


def _positive(model: LogisticRegression, inputs: sp.csr_matrix) -> Floats:
    found: Floats = model.predict_proba(inputs)[:, 1].astype(np.float32)
    return found
