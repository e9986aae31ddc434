"""Losses. Shapes: T targets, P pool items, H own negatives, N candidates, A actions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

MASKED = -1e9


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of `values` [T] by `weight` [T] over the rows of all ranks.

    See `total_weight`.
    """
    return (values * weight).sum() / total_weight(weight)


def total_weight(weight: Tensor) -> Tensor:
    """Sum over rows of `weight` [T, ...], in the mean over all ranks.

    Data-parallel training averages the gradients of the ranks as if each held as many rows;
    dividing by the mean weight of a rank instead of the own one makes that average exact.
    """
    total = weight.sum(0)
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        total = total.clone()
        dist.all_reduce(total)
        total = total / dist.get_world_size()
    return total.clamp(min=1e-6)


def sampled_softmax(
    positive: Tensor, negatives: Tensor, correction: Tensor, known: Tensor
) -> Tensor:
    """Softmax cross-entropy over a shared pool with logQ correction.

    `L = −ln( e^{s_p − ln Q_p} / (e^{s_p − ln Q_p} + Σ_j c_j e^{s_j − ln Q_j}) )`
    (Yi et al., RecSys'19, eq. 5; PinnerFormer §4.3): the correction is on both sides.

    Args:
        positive: float32[T] `s_p − ln Q_p`.
        negatives: float32[T, P] scores `s_j`.
        correction: float32[P] `ln c_j − ln Q_j`: multiplicity in the pool, expected count.
        known: bool[T, P] pool items that are no negatives of the target.

    Returns:
        float32[T].
    """
    logits = (negatives + correction).masked_fill(known, MASKED)
    return F.softplus(torch.logsumexp(logits, 1) - positive)


def pooled_softmax(
    positive: Tensor,
    negatives: Tensor,
    known: Tensor,
    inputs: Mapping[str, Tensor],
    log_q: bool,
) -> Tensor:
    """`sampled_softmax` over the pool of a batch, and negatives of each example's own after it.

    Args:
        positive: float32[T] scores of the positives.
        negatives: float32[T, P + H] scores of the pool, then of the own negatives.
        known: bool[T, P + H] which of them are no negatives.
        inputs: `pool.log_count`, `pool.log_q` float32[P] and `positive.log_q` float32[T].
        log_q: whether to correct for how often an item is in the pool.

    Returns:
        float32[T].
    """
    correction = inputs["pool.log_count"]
    if log_q:
        correction = correction - inputs["pool.log_q"]
        positive = positive - inputs["positive.log_q"]
    correction = F.pad(correction, (0, negatives.shape[1] - len(correction)))
    return sampled_softmax(positive, negatives, correction, known)


def max_margin(positive: Tensor, negatives: Tensor, known: Tensor, margin: float) -> Tensor:
    """Mean over negatives of `max(0, s_n − s_p + Δ)` (PinSage, KDD'18, eq. 1).

    Args:
        positive: float32[T] scores of the positives.
        negatives: float32[T, P] scores of the negatives.
        known: bool[T, P] which of them are no negatives of the target.
        margin: Δ.

    Returns:
        float32[T].
    """
    each = F.relu(negatives - positive.unsqueeze(1) + margin).masked_fill(known, 0.0)
    return each.sum(1) / (~known).sum(1).clamp(min=1)


def multi_task_bce(
    logits: Tensor, labels: Tensor, task_weight: Tensor, label_weight: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy summed over heads: `Σ_h w_h [−y_h ln f_h − (1 − y_h) ln(1 − f_h)]`.

    `w_h = w'_h Π_a M[h, a]^{y_a}`: a row with an action weighs more or less at the heads, such as a
    hidden one at the head of saves. (TransAct, KDD'23, eq. 6 has sums, and rows without any action
    weigh nothing.)

    Args:
        logits: float32[N, A].
        labels: float32[N, A] in 0..1.
        task_weight: float32[A] `w'_h`.
        label_weight: float32[A, A] M; all 1 if not given.

    Returns:
        float32[N].
    """
    each = F.binary_cross_entropy_with_logits(logits, labels, reduction="none") * task_weight
    if label_weight is not None:
        each = each * torch.where(labels.unsqueeze(-2) > 0, label_weight, 1.0).prod(-1)
    return each.sum(-1)
