"""What a policy would earn, estimated from the log of another that drew what it showed.

Shapes: N rounds, A items that could be chosen. An estimate is the mean of one contribution a round:
the weight target / propensity times the reward (Horvitz & Thompson 1952), the same divided by the
mean weight, or a predicted reward corrected by the weighted error of the prediction (Dudík,
Langford & Li, ICML 2011). All ask that the logging policy could have chosen whatever the target
policy chooses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from data.contract.settings import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

RESAMPLES = 1000
LEVEL = 0.95
CHUNK_RESAMPLES = 50


@dataclass(frozen=True, slots=True)
class Rounds:
    """What a policy chose and earned, and what another would choose.

    Attributes:
        reward: of the chosen item, [N].
        chosen: which of the A items, [N].
        propensity: probability with which the logging policy chose it, [N].
        target: probability with which the evaluated policy chooses each item, [N, A].

    Raises:
        UserError: no rounds, a propensity that is no probability above 0, or target probabilities
            that do not add up to 1.
    """

    reward: Floats
    chosen: Ints
    propensity: Floats
    target: Floats

    def __post_init__(self) -> None:
        if len(self.reward) == 0:
            raise UserError("there are no rounds to estimate from")
        likely = (self.propensity > 0) & (self.propensity <= 1)
        if not likely.all():
            row = int(np.flatnonzero(~likely)[0])
            raise UserError(
                f"propensity of row {row} is {self.propensity[row]:g} ({int((~likely).sum())} such "
                f"rows of {len(likely)}); it must be above 0 and at most 1: log the probability "
                "with which each item was shown, and leave out rows that were not drawn"
            )
        whole = (self.target >= 0).all(axis=1) & np.isclose(self.target.sum(axis=1), 1, atol=1e-3)
        if not whole.all():
            row = int(np.flatnonzero(~whole)[0])
            raise UserError(
                f"target probabilities of row {row} add up to {self.target[row].sum():g}, not to 1"
            )

    @property
    def weight(self) -> Floats:
        """How much likelier the evaluated policy was to choose the same, [N]; 1 in the mean."""
        weights: Floats = self.target[np.arange(len(self.chosen)), self.chosen] / self.propensity
        return weights

    @property
    def effective_sample_size(self) -> float:
        """Rounds of the evaluated policy itself that would tell as much (Kish 1965)."""
        weight = self.weight
        squares = float(np.sum(weight**2))
        return float(weight.sum() ** 2 / squares) if squares else 0.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """The value of a policy: mean reward of a round.

    Attributes:
        value: the estimate.
        standard_error: by the spread of the rounds' contributions.
        low: 2.5th percentile of the bootstrap over rounds.
        high: 97.5th, likewise.
    """

    value: float
    standard_error: float
    low: float
    high: float


def inverse_propensity(rounds: Rounds, seed: int = 0) -> Estimate:
    """Unbiased where propensities are right; its error grows with the largest weights."""
    return _of_means(rounds.weight * rounds.reward, np.ones(len(rounds.reward)), seed)


def self_normalised(rounds: Rounds, seed: int = 0) -> Estimate:
    """Divides by the mean weight: slightly biased, and within the range of the rewards.

    Swaminathan & Joachims, "The self-normalized estimator for counterfactual learning", NIPS 2015.
    """
    return _of_means(rounds.weight * rounds.reward, rounds.weight, seed)


def doubly_robust(rounds: Rounds, predicted: Floats, seed: int = 0) -> Estimate:
    """Unbiased where either propensities or predictions are right.

    Args:
        rounds: N of them.
        predicted: reward of each item in each round, [N, A], by a model that has not learnt from
            that round: see `cross_fitted`.
        seed: of the bootstrap.
    """
    return _of_means(doubly_robust_rewards(rounds, predicted), np.ones(len(predicted)), seed)


def doubly_robust_rewards(rounds: Rounds, predicted: Floats) -> Floats:
    """Each round's contribution: reward foretold for the target policy, and its correction. [N]."""
    foretold = (rounds.target * predicted).sum(axis=1)
    of_chosen = predicted[np.arange(len(predicted)), rounds.chosen]
    contributions: Floats = foretold + rounds.weight * (rounds.reward - of_chosen)
    return contributions


def cross_fitted(
    num_rounds: int, fit: Callable[[Ints], Floats], folds: int = 5, seed: int = 0
) -> Floats:
    """Predictions for each round by a model that has learnt from the other folds.

    Args:
        num_rounds: N.
        fit: learns from the rounds at these positions, and predicts [N, A] for all.
        folds: at least two.
        seed: of the folds.
    """
    fold = np.random.default_rng(seed).permutation(num_rounds) % folds
    found: list[Floats] = [fit(np.flatnonzero(fold != number)) for number in range(folds)]
    predicted: Floats = np.stack(found)[fold, np.arange(num_rounds)]
    return predicted


def _of_means(above: Floats, below: Floats, seed: int) -> Estimate:
    """Mean of `above` / mean of `below`, [N] each, with its error by linearisation."""
    scale = float(below.mean())
    if scale == 0:
        raise UserError("the evaluated policy chooses nothing that was ever logged: no estimate")
    value = float(above.mean()) / scale
    spread = float(np.std((above - value * below) / scale, ddof=1)) if len(above) > 1 else 0.0
    low, high = _bootstrap(above, below, seed)
    return Estimate(value, spread / np.sqrt(len(above)), low, high)


def _bootstrap(above: Floats, below: Floats, seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    shares = np.full(len(above), 1 / len(above))
    found = []
    for _ in range(0, RESAMPLES, CHUNK_RESAMPLES):
        counts = rng.multinomial(len(above), shares, size=CHUNK_RESAMPLES)
        found.append((counts @ above) / np.maximum(counts @ below, np.finfo(float).tiny))
    low, high = np.quantile(np.concatenate(found), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
