"""Pools of candidates that the positives of a batch are told apart from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data.contract.encode import Ints


@dataclass(frozen=True, slots=True)
class Pool:
    """Candidates of a sampled softmax: distinct items and what their logits need.

    Attributes:
        item: item rows, distinct, [P].
        log_count: ln of how often each stands in the pool, [P].
        log_q: ln of how often it was expected to, [P].
        positive_log_q: the same of each positive of the batch, [T].
    """

    item: Ints
    log_count: npt.NDArray[np.float32]
    log_q: npt.NDArray[np.float32]
    positive_log_q: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PoolSampler:
    """Mixed negatives: some positives of the batch and some items at random.

    Attributes:
        live: item rows that can be recommended, [C].
        label_share: share of the training labels that each item row has, [rows].
        in_batch: positives taken from the batch.
        random: uniform draws from `live`, and one more for each positive that a batch lacks: pools
            are of one size; if as many as these are, the pool is all of them, once.
        spare_future: whether what a user does later is no negative; else only what they did before.
    """

    live: Ints
    label_share: npt.NDArray[np.float64]
    in_batch: int
    random: int
    spare_future: bool = True

    def sample(self, positives: Ints, rng: np.random.Generator) -> Pool:
        """Draws the pool of one batch with `positives` [T]."""
        if self.random >= len(self.live):
            none = np.zeros(len(self.live), np.float32)
            return Pool(self.live, none, none, np.zeros(len(positives), np.float32))
        lacking = max(0, self.in_batch - len(positives)) if self.random else 0
        drawn = self.live[rng.integers(0, len(self.live), self.random + lacking)]
        return self.pool(positives, drawn, rng)

    def pool(self, positives: Ints, drawn: Ints, rng: np.random.Generator) -> Pool:
        """The pool of some of the `positives` and of what was drawn uniformly before."""
        taken = positives
        if len(positives) > self.in_batch:
            taken = rng.choice(positives, self.in_batch, replace=False)
        item, count = np.unique(np.concatenate([taken, drawn]), return_counts=True)
        log_q, of_positives = (
            self.log_expected(items, len(taken), len(drawn)) for items in (item, positives)
        )
        return Pool(item, np.log(count).astype(np.float32), log_q, of_positives)

    def log_expected(
        self, item: Ints, num_in_batch: int, num_random: int
    ) -> npt.NDArray[np.float32]:
        """ln(n_in p + n_rand / C): expected copies of each item in a pool."""
        share = np.maximum(self.label_share[item], 1e-9)
        expected = num_in_batch * share + num_random / len(self.live)
        return np.log(expected).astype(np.float32)
