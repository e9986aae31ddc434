"""Sampled softmax over a shared pool without the matrix of all scores.

A batch of T targets and P pool items has T x P scores, which a chain of operations would write and
read a dozen times. Here scores, softmax and gradients are made a block of targets at a time, while
the block is in cache: time is that of three products of matrices, memory one block. The gradient is
known as soon as the loss is, so backward only scales it.

Shapes: T targets of B windows on M days, P pool items, D width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.losses import MASKED

CACHE_BYTES, DEVICE_BYTES = 2 << 20, 1 << 30
NEVER = 1 << 30


class Days(NamedTuple):
    """What the day of a target adds to the scores.

    Attributes:
        bias: float32[M, P] of each day and item.
        moment: int64[T] day of each target.
    """

    bias: Tensor
    moment: Tensor


class Known(NamedTuple):
    """Pool items that a target's window knows by then.

    Attributes:
        after: int32[B, P] events that a window must have read to know an item; `NEVER`.
        window: int64[T] window of each target.
        read: int32[T] events that it has read.
    """

    after: Tensor
    window: Tensor
    read: Tensor

    def part(self, at: slice) -> Known:
        """The same of some of the targets."""
        return Known(self.after, self.window[at], self.read[at])


class Own(NamedTuple):
    """Pool items that are no negatives of a target.

    Attributes:
        place: int64[T] its own item's place in the pool, -1 if it is not there.
        known: others; None: there are none.
    """

    place: Tensor
    known: Known | None = None

    def part(self, at: slice) -> Own:
        """The same of some of the targets."""
        return Own(self.place[at], self.known and self.known.part(at))

    def mask(self, scores: Tensor) -> None:
        """Puts their scores out of reach, in float32[T, P]."""
        if self.known is not None:
            after, window, read = self.known
            scores.masked_fill_(after.index_select(0, window) <= read.unsqueeze(1), MASKED)
        there = (self.place >= 0).nonzero().squeeze(1)
        scores[there, self.place[there]] = MASKED


class Pool(NamedTuple):
    """What the scores of a pool are made of: `scale (u_t · v_j + bias_{m(t), j}) + correction_j`.

    Attributes:
        scale: of the scores, a number.
        correction: float32[P] `ln c_j − ln Q_j`; `ln c_j` where the loss is binary.
        own: which pool items are no negatives.
        days: what a day adds; None: nothing.
        binary: binary cross-entropy of the positive and, on average, of the pool's items
            (SASRec, ICDM'18, eq. 6), not a softmax over all.
    """

    scale: Tensor
    correction: Tensor
    own: Own
    days: Days | None = None
    binary: bool = False

    def part(self, scale: Tensor, bias: Tensor | None, at: slice) -> Pool:
        """The same of some of the targets; `scale` and `bias` without their history."""
        days = None
        if bias is not None and self.days is not None:
            days = Days(bias, self.days.moment[at])
        return Pool(scale, self.correction, self.own.part(at), days, self.binary)


def pool_loss(
    users: Tensor, items: Tensor, positive: Tensor, weight: Tensor, pool: Pool
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the losses of all targets, by default those of `losses.sampled_softmax`.

    Args:
        users: [T, D]; the loss is computed in single precision whatever these are.
        items: [P, D] of the pool.
        positive: float32[T] `scale s_p − ln Q_p`.
        weight: float32[T] of each target; not differentiated.
        pool: the rest of the scores.

    Returns:
        `Σ_t w_t L_t`, and the highest score in the pool of each target, uncorrected, float32[T].
    """
    apply: Any = _PoolLoss.apply
    bias = pool.days.bias.float() if pool.days else None
    inputs = (each.float() for each in (users, items, positive))
    with torch.autocast(users.device.type, enabled=False):
        found: tuple[Tensor, Tensor] = apply(*inputs, pool.scale, bias, weight, pool)
    return found


class _PoolLoss(torch.autograd.Function):
    """Loss and gradients in one pass."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        users, items, positive, scale, bias, weight, pool = inputs
        days = torch.zeros_like(bias) if bias is not None else None
        of_users, of_items, of_positive = map(torch.zeros_like, (users, items, positive))
        found = Gradients(of_users, of_items, of_positive, days)
        total, best = positive.new_zeros(()), torch.empty_like(positive)
        rows = _rows(items)
        for start in range(0, len(users), rows):
            at = slice(start, start + rows)
            targets = Targets(users[at], positive[at], weight[at], best[at])
            total += _block(targets, items, pool.part(scale, bias, at), found.part(at))
        # Σ over scores of gradient x score, which the other gradients already hold.
        of_scale = (found.users * users).sum() / scale
        if bias is not None:
            of_scale = of_scale + (days * bias).sum() / scale
        ctx.save_for_backward(*found[:3], of_scale, *([days] if days is not None else []))
        ctx.mark_non_differentiable(best)
        return total, best

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [gradients[0] * gradient for gradient in ctx.saved_tensors]
        return (*scaled, *[None] * (7 - len(scaled)))


class Targets(NamedTuple):
    """A block of targets: vectors, scores of the positives, weights; `best` is filled."""

    users: Tensor
    positive: Tensor
    weight: Tensor
    best: Tensor


class Gradients(NamedTuple):
    """Of the inputs by the same names, filled block by block."""

    users: Tensor
    items: Tensor
    positive: Tensor
    days: Tensor | None

    def part(self, at: slice) -> Gradients:
        """Those of a block of targets, and what all share."""
        return Gradients(self.users[at], self.items, self.positive[at], self.days)


def _rows(items: Tensor) -> int:
    """Targets of a block, whose scores fit into a cache or a share of a device's memory."""
    budget = DEVICE_BYTES if items.is_cuda else CACHE_BYTES
    return max(1, budget // (4 * max(len(items), 1)))


def _block(targets: Targets, items: Tensor, pool: Pool, found: Gradients) -> Tensor:
    """Loss of a block of targets; adds its gradients to `found`."""
    scores = targets.users @ items.T
    if pool.days is not None:
        scores += pool.days.bias.index_select(0, pool.days.moment)
    scores.mul_(pool.scale)
    pool.own.mask(scores)
    torch.amax(scores, 1, out=targets.best)
    losses, gradients, share = (_binary if pool.binary else _softmax)(targets, scores, pool)
    torch.mm(gradients, items, out=found.users)
    found.items.addmm_(gradients.T, targets.users)
    found.positive.copy_(-share)
    if pool.days is not None and found.days is not None:
        found.days.index_add_(0, pool.days.moment, gradients)
    return (targets.weight * losses).sum()


def _softmax(targets: Targets, scores: Tensor, pool: Pool) -> tuple[Tensor, Tensor, Tensor]:
    """Losses [T], gradients of the scores before `scale`, in their place, and of the positives."""
    scores += pool.correction
    most = scores.amax(1)
    softmax = scores.sub_(most.unsqueeze(1)).exp_()
    sums = softmax.sum(1)
    behind = most + sums.log() - targets.positive
    share = targets.weight * torch.sigmoid(behind)
    softmax.mul_((share / sums * pool.scale).unsqueeze(1))
    return F.softplus(behind), softmax, share


def _binary(targets: Targets, scores: Tensor, pool: Pool) -> tuple[Tensor, Tensor, Tensor]:
    """The same of binary cross-entropy."""
    each = pool.correction.softmax(0)
    losses = F.softplus(-targets.positive) + F.softplus(scores) @ each
    share = targets.weight * torch.sigmoid(-targets.positive)
    gradients = scores.sigmoid_().mul_(each).mul_((targets.weight * pool.scale).unsqueeze(1))
    return losses, gradients, share
