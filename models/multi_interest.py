"""Several interests of one user, by differentiable clustering of what they liked.

Clusters begin at items that are far from one another, and each item belongs to one cluster alone:
both keep the clusters from becoming one. Arms beside it: dynamic routing (MIND; Li et al., CIKM'19)
and attention by learnt queries.

Shapes: N histories of M items, K clusters, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.contract.settings import Count, Dropout, NonNegative
from models.interaction import perceptron

if TYPE_CHECKING:
    from collections.abc import Mapping

    from data.contract.schema import Vocabulary

FAR, NEWER = 1e4, 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class InterestSettings:
    """Several embeddings of a user.

    Attributes:
        num: most embeddings of a user beside the one of all they did; 0 for none.
        share: share of the targets that are foretold from the best of them.
        history: newest events whose items are clustered.
        kind: clusters, or its peers: routing (MIND) and heads of attention.
        start: clusters begin at items far from one another, or at the newest ones.
        routing: each item belongs to its nearest cluster alone, or in part to all.
        iterations: of routing.
    """

    num: NonNegative = 3
    share: Dropout = 0.5
    history: Count = 50
    kind: Literal["clusters", "routing", "heads"] = "clusters"
    start: Literal["far", "newest"] = "far"
    routing: Literal["single", "soft"] = "single"
    iterations: Count = 3


class MultiInterest(nn.Module):
    """What a user liked -> K centroids, how much each stands for, and which are there."""

    positive: Tensor
    first: Tensor

    def __init__(self, settings: InterestSettings, vocabulary: Vocabulary, dim: int) -> None:
        """Begins at the items' own vectors, those of positive actions."""
        super().__init__()
        self.settings = settings
        self.own = perceptron(dim, dim, dim)
        positive = torch.zeros(len(vocabulary.actions) + 1, dtype=torch.bool)
        positive[vocabulary.codes("positive")] = True
        self.register_buffer("positive", positive)
        if settings.kind == "heads":
            self.queries = nn.Parameter(torch.randn(settings.num, dim) * dim**-0.5)
        if settings.kind == "routing":
            generator = torch.Generator().manual_seed(0)
            first = torch.randn(settings.num, settings.history, generator=generator)
            self.register_buffer("first", first)

    def forward(
        self, inputs: Mapping[str, Tensor], sequence: Tensor, length: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Clusters what each history had when so many events were read.

        Args:
            inputs: `history.embedding.rows` float32[H, D], `history.action` and `history.lengths`
                of B histories.
            sequence: which of them, int64[N].
            length: events read, int64[N].

        Returns:
            Centroids float32[N, K, D], and the share of what was liked that each stands for,
            float32[N, K]: 0 where there are fewer items than clusters.
        """
        items, liked = self._liked(inputs, sequence, length)
        there = torch.arange(self.settings.num, device=items.device) < liked.sum(1, keepdim=True)
        if self.settings.kind == "heads":
            return self._attended(items, liked, there)
        return self._clustered(items, liked, there)

    def _liked(
        self, inputs: Mapping[str, Tensor], sequence: Tensor, length: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Vectors of the newest events float32[N, M, D], and which were positive, bool[N, M]."""
        lengths = inputs["history.lengths"]
        first = torch.cumsum(lengths, 0) - lengths
        back = torch.arange(self.settings.history, device=lengths.device)
        read = back < length.unsqueeze(1)
        at = first[sequence].unsqueeze(1) + length.unsqueeze(1) - 1 - back
        rows = inputs["history.embedding.rows"]
        # One more event than there are: histories may all be empty.
        items = F.pad(rows + self.own(rows), (0, 0, 1, 0))
        action = F.pad(inputs["history.action"], (1, 0))
        at = torch.where(read, at + 1, 0)
        return items[at], read & self.positive[action[at]]

    def _clustered(self, items: Tensor, liked: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """Starts, then routes: `b = softmax_j(c_j · e_i)`, `c_j = squash(Σ_i b_ij e_i)`."""
        settings = self.settings
        absent = ~there.unsqueeze(2)
        if settings.kind == "routing":
            shares = torch.softmax(self.first.masked_fill(absent, -FAR), 1) * liked.unsqueeze(1)
            centroids = squash(shares @ items)
        else:
            centroids = starts(items.detach(), liked, settings.num, settings.start == "far")
        shares = liked.unsqueeze(1).to(items.dtype).expand(-1, settings.num, -1)
        for _ in range(settings.iterations):
            scores = (centroids @ items.transpose(1, 2)).masked_fill(absent, -FAR)
            shares = torch.softmax(scores, 1) * liked.unsqueeze(1)
            if settings.kind == "clusters" and settings.routing == "single":
                shares = shares * (scores == scores.amax(1, keepdim=True))
            centroids = squash(shares @ items)
        return centroids, _importance(shares.sum(2), there)

    def _attended(self, items: Tensor, liked: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """Each query's mean of the items."""
        scores = (self.queries @ items.transpose(1, 2)).masked_fill(~liked.unsqueeze(1), -FAR)
        shares = torch.softmax(scores, 2) * liked.unsqueeze(1)
        return shares @ items, _importance(there.to(items.dtype), there)


def _importance(mass: Tensor, there: Tensor) -> Tensor:
    """Shares [N, K] of those that are there; zeros where nothing is."""
    mass = mass.detach() * there
    return mass / mass.sum(1, keepdim=True).clamp(min=1e-9)


def squash(vectors: Tensor) -> Tensor:
    """`‖v‖² / (1 + ‖v‖²) · v / ‖v‖` (Sabour et al., 2017, eq. 1)."""
    square = vectors.square().sum(-1, keepdim=True)
    return vectors * torch.sqrt(square + 1e-12) / (1 + square)


def starts(items: Tensor, liked: Tensor, num: int, far: bool) -> Tensor:
    """First centroids: the newest liked item, and then the one least like those before.

    Items that were not liked are never chosen, unless none was.

    Args:
        items: newest first, float32[N, M, D].
        liked: which may be chosen, bool[N, M].
        num: K.
        far: else the newest K are taken.

    Returns:
        float32[N, K, D]; where there are fewer items than K, the last ones are taken twice.
    """
    units, place = F.normalize(items, dim=-1), torch.arange(items.shape[1], device=items.device)
    likeness = (NEWER * place - 2).expand(liked.shape)  # below any cosine
    chosen = []
    for _ in range(num):
        at = likeness.masked_fill(~liked, FAR).argmin(1)
        here = at.view(-1, 1, 1).expand(-1, 1, items.shape[2])
        chosen.append(items.gather(1, here))
        near = (units @ units.gather(1, here).transpose(1, 2)).squeeze(2)
        taken = place == at.unsqueeze(1)
        likeness = torch.where(taken, FAR / 2, torch.maximum(likeness, near) if far else likeness)
    return torch.cat(chosen, 1)
