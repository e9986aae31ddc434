"""What a user vector may look for: an interest that the request names, or one of the user's own.

Shapes: T targets, U distinct items, C conditions, K interests of a user, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from models.features import CATEGORY_DIM, Hashed
from models.multi_interest import MultiInterest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from data.contract.schema import Feature, Vocabulary
    from models.two_tower import TwoTowerSettings

INTERESTS = "interests"
NUM_CONDITIONS = 11  # of an example, unlike any other size


class Focus(nn.Module):
    """Conditions, and the interests that a user's past falls into.

    Attributes:
        conditions: hashes of interests -> [C, D], or None.
        interests: histories -> centroids and their shares, or None.
    """

    def __init__(
        self, settings: TwoTowerSettings, vocabulary: Vocabulary, declared: Feature | None
    ) -> None:
        """Knows the interests that items declare, if any, and those that users turn out to have."""
        super().__init__()
        self.condition_share = settings.condition_share if declared is not None else 0.0
        self.interest_share = settings.interests.share if settings.interests.num else 0.0
        self.conditions = Conditions(declared, settings.dim) if declared is not None else None
        self.interests = (
            MultiInterest(settings.interests, vocabulary, settings.dim)
            if settings.interests.num
            else None
        )

    @classmethod
    def of(cls, settings: TwoTowerSettings, vocabulary: Vocabulary) -> Self | None:
        """As set; None if there is nothing to look for."""
        lists = [f for f in vocabulary.item_features if f.name == INTERESTS and f.kind == "multi"]
        declared = lists[0] if lists and settings.condition_share else None
        if declared is None and not settings.interests.num:
            return None
        return cls(settings, vocabulary, declared)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what is exported beside the embedding of all that a user did."""
        own = ("interests", "interest_shares") if self.interests is not None else ()
        return own + (("conditioned",) if self.conditions is not None else ())

    def example(self) -> dict[str, Tensor]:
        """What an export reads of conditions."""
        if self.conditions is None:
            return {}
        nothing = torch.zeros(NUM_CONDITIONS, dtype=torch.int64)
        return {"condition.interest": nothing, "condition.user": nothing.clone()}

    def drawn(
        self, inputs: Mapping[str, Tensor], training: bool
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None, Tensor]:
        """Draws what each target is foretold from; nothing in particular for the rest.

        Args:
            inputs: of `DualEncoder.forward`, with the rows looked up.
            training: whether anything is drawn.

        Returns:
            Focus by condition float32[T, D], zeros elsewhere; centroids and shares of the targets
            that are foretold from interests, [N, K, D] and [N, K]; which these are, int64[N].
        """
        item = inputs["target.item"]
        draw = (torch.rand if training else torch.ones)(item.shape[0], device=item.device)
        width = inputs["history.embedding.rows"].shape[1]
        focus = torch.zeros(item.shape[0], width, device=item.device)
        if self.conditions is not None:
            asked = sampled_interest(inputs, item)
            focus = self.conditions(torch.where(draw < self.condition_share, asked, 0))
        shares = self.condition_share, self.condition_share + self.interest_share
        some = ((draw >= shares[0]) & (draw < shares[1])).nonzero()[:, 0]
        if self.interests is None:
            return focus, None, some
        found = self.interests(
            inputs, inputs["target.sequence"][some], inputs["target.length"][some]
        )
        return focus, found, some


class Conditions(nn.Module):
    """Hashes of interests -> what to look for; hash 0, no interest, gives zeros."""

    def __init__(self, declared: Feature, dim: int) -> None:
        """Knows as many as items declare."""
        super().__init__()
        self.table = Hashed(declared)
        self.map = nn.Linear(CATEGORY_DIM, dim, bias=False)

    def forward(self, hashes: Tensor) -> Tensor:
        """int64[C] -> float32[C, D]."""
        mapped: Tensor = self.map(self.table(hashes))
        return mapped


def sampled_interest(inputs: Mapping[str, Tensor], item: Tensor) -> Tensor:
    """One of the interests that each item carries, 0 where it carries none.

    Args:
        inputs: `item.interests.values` and `.lengths` of U distinct items.
        item: into U, int64[T].

    Returns:
        Hashes, int64[T].
    """
    values, lengths = (inputs[f"item.{INTERESTS}.{part}"] for part in ("values", "lengths"))
    first = torch.cumsum(lengths, 0) - lengths
    draw = torch.rand(item.shape[0], device=item.device)
    count = lengths[item]
    at = first[item] + (draw * count).long().clamp(max=(count - 1).clamp(min=0))
    padded = torch.cat([values, values.new_zeros(1)])
    return torch.where(count > 0, padded[at], 0)
