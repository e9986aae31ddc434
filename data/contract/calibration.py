"""Calibrators: what turns a ranker's logits into probabilities, one logistic model a head.

A ranker learns from rows that were drawn and weighted; what it gives is an order, not a rate. On
days of their own, calibrators learn `p = σ(a z + b + Σ_s c_s f_s)` for every action: z is the
logit, corrected for the share of negatives that was kept, and f says where the ranker had less to
go by. They are refitted without the ranker (Platt, 1999).

Shapes: N impressions, A actions, S segments.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pathlib import Path

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

FILE = "calibrators.json"
SEGMENTS = ("unknown_item", "unknown_user")  # rows without an ID embedding
PRIOR_ROWS = 25.0  # identity weighs as much as so many impressions at p = 1/2
STEPS = 50


@dataclass(frozen=True, slots=True)
class Calibrators:
    """One logistic model an action.

    Attributes:
        actions: names, in the order of the logits.
        weights: float64[A, 2 + S]: slope, intercept, and what each segment adds.
    """

    actions: tuple[str, ...]
    weights: Doubles

    @classmethod
    def identity(cls, actions: tuple[str, ...], negative_rate: float = 1.0) -> Calibrators:
        """Logits as they are, corrected for the share of negatives that was kept."""
        weights = np.zeros((len(actions), 2 + len(SEGMENTS)))
        weights[:, 0] = 1.0
        weights[:, 1] = np.log(negative_rate)
        return cls(actions, weights)

    @classmethod
    def fit(
        cls,
        actions: tuple[str, ...],
        logits: Floats,
        segments: Mask,
        labels: Mask,
        negative_rate: float = 1.0,
    ) -> Calibrators:
        """Learns all heads from impressions that the ranker has not learnt from.

        Newton's method on the penalised likelihood: without evidence an action's logits stay as
        they are. Cost grows with N.

        Args:
            actions: names.
            logits: float32[N, A].
            segments: bool[N, S], as `SEGMENTS`.
            labels: bool[N, A].
            negative_rate: share of the negatives that the ranker was trained on.
        """
        start = cls.identity(actions, negative_rate)
        weights = [
            _fit(_inputs(logits[:, a], segments), labels[:, a], start.weights[a])
            for a in range(len(actions))
        ]
        return cls(actions, np.array(weights).reshape(len(actions), -1))

    def __call__(self, logits: Floats, segments: Mask) -> Floats:
        """Probabilities.

        Args:
            logits: float32[N, A].
            segments: bool[N, S].

        Returns:
            float32[N, A].
        """
        slope, intercept, of_segments = np.split(self.weights.astype(np.float32), [1, 2], axis=1)
        shift = intercept.T + segments.astype(np.float32) @ of_segments.T
        return sigmoid(logits * slope.T + shift)

    def save(self, folder: Path) -> None:
        """Writes `calibrators.json` into a folder."""
        (folder / FILE).write_text(json.dumps(self.tree(), indent=1))

    @classmethod
    def load(cls, folder: Path) -> Calibrators:
        """Reads what `save` wrote."""
        return cls.from_tree(json.loads((folder / FILE).read_text()))

    def tree(self) -> dict[str, Any]:
        """As JSON."""
        named = zip(self.actions, self.weights.tolist(), strict=True)
        return {
            action: dict(zip(("slope", "intercept", *SEGMENTS), row, strict=True))
            for action, row in named
        }

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> Calibrators:
        """What `tree` gave."""
        rows = [[row[n] for n in ("slope", "intercept", *SEGMENTS)] for row in tree.values()]
        return cls(tuple(tree), np.array(rows, np.float64).reshape(len(rows), 2 + len(SEGMENTS)))


def sigmoid(logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """1 / (1 + e^-x) without overflow."""
    probabilities: npt.NDArray[Any] = 0.5 * (1 + np.tanh(0.5 * logits))
    return probabilities


def _inputs(logits: Floats, segments: Mask) -> Doubles:
    """[z, 1, f] of N impressions, float64[N, 2 + S]."""
    columns = [logits, np.ones(len(logits)), *segments.T]
    return np.stack(columns, axis=1).astype(np.float64)


def _fit(inputs: Doubles, labels: Mask, prior: Doubles) -> Doubles:
    """Weights of one head, pulled towards `prior`, float64[2 + S]."""
    weights, pull = prior.copy(), PRIOR_ROWS / 4
    for _ in range(STEPS):
        p = sigmoid(inputs @ weights)
        gradient = inputs.T @ (p - labels) + pull * (weights - prior)
        curvature = (inputs * (p * (1 - p))[:, None]).T @ inputs + pull * np.eye(len(weights))
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-8:
            break
    return weights
