"""Histories foretell what is liked next: a loss beside that of the impressions.

An impression log is a sample; the events that led to a request are all there. DIEN (Zhou et al.,
AAAI'19, eq. 8) teaches the states of a history by the event after each; here by a softmax over the
items of the batch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.losses import total_weight
from models.pool_loss import Own, Pool, pool_loss

SHARPNESS = 12.0
MOST_TARGETS, POOL = 2048, 2048


class NextPositive(nn.Module):
    """Softmax cross-entropy of the item that is liked next, against items of the batch."""

    def __init__(self) -> None:
        """The sharpness of the softmax is learnt."""
        super().__init__()
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(SHARPNESS)))

    def forward(self, ahead: Tensor, items: Tensor, liked: Tensor, weight: Tensor) -> Tensor:
        """Mean loss of a sample of the states.

        Args:
            ahead: float32[T, D] unit vectors of what states expect.
            items: float32[U, D] vectors of the batch's distinct items.
            liked: int64[T] which of them comes next.
            weight: float32[T] of the states.
        """
        chosen = torch.randperm(len(liked), device=liked.device)[:MOST_TARGETS]
        ahead, liked, weight = ahead[chosen], liked[chosen], weight[chosen]
        pool = torch.randperm(len(items), device=liked.device)[:POOL]
        unit = F.normalize(items, dim=-1)
        scale = self.log_sharpness.exp()
        positive = scale * (ahead * unit[liked]).sum(-1)
        others = Pool(scale, unit.new_zeros(len(pool)), Own(_places(pool, len(items))[liked]))
        total, _ = pool_loss(ahead, unit[pool], positive, weight, others)
        return total / total_weight(weight)


def _places(pool: Tensor, items: int) -> Tensor:
    """Where in the pool each item is, int64[items]; -1 where it is not."""
    places = torch.full((items,), -1, device=pool.device)
    places[pool] = torch.arange(len(pool), device=pool.device)
    return places
