"""What stands in a user's vector beside the sequence: the past itself, what was learnt before.

Shapes: B users with H events, N states, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from data.contract.schema import USER_COLUMN

if TYPE_CHECKING:
    from data.contract.schema import Vocabulary
    from models.attention import Layout


def keeping(width: int, dim: int) -> nn.Linear:
    """A map that begins by handing its input on."""
    made = nn.Linear(width, dim, bias=False)
    nn.init.eye_(made.weight)
    return made


class LongTerm(nn.Module):
    """A user's long-term embedding in the space of the towers; zeros stay zeros.

    Attributes:
        width: of the embedding, E.
    """

    def __init__(self, width: int, dim: int) -> None:
        """Starts small: it stands beside what the history says."""
        super().__init__()
        self.width = width
        self.map = nn.Linear(width, dim, bias=False)
        with torch.no_grad():
            self.map.weight.mul_(0.1)

    @classmethod
    def of(cls, vocabulary: Vocabulary, dim: int) -> LongTerm | None:
        """For users who have such embeddings, else None."""
        widths = [f.dim for f in vocabulary.user_features if f.name == USER_COLUMN]
        return cls(widths[0], dim) if widths else None

    def forward(self, embedding: Tensor) -> Tensor:
        """float32[N, E] -> float32[N, D]."""
        mapped: Tensor = self.map(embedding)
        return mapped


class Taste(nn.Module):
    """Mean of the item vectors read so far, actions weighted: what the sequence adds to.

    A user's past is the best first guess at their future; with it in the output from the first
    step, the transformer has only to learn how the future differs.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Starts with weight 1 for positive actions and 0 for the others."""
        super().__init__()
        weights = torch.zeros(len(vocabulary.actions) + 1)
        weights[vocabulary.codes("positive")] = 1.0
        self.weight = nn.Parameter(weights)

    def forward(self, items: Tensor, action: Tensor, places: Layout) -> Tensor:
        """Means over every prefix.

        Args:
            items: float32[H, D].
            action: int64[H] codes.
            places: of the B sequences.

        Returns:
            float32[B + H, D]; zeros for the starts.
        """
        weight = self.weight[action].unsqueeze(1)
        both = torch.cat([items * weight, weight.abs()], 1)
        starts = both.new_zeros(places.rectangle.shape[0], both.shape[1])
        rows = torch.cat([starts, both]).index_select(0, places.rectangle.flatten())
        sums = rows.view(*places.rectangle.shape, -1).cumsum(1).flatten(0, 1)
        prefix = sums.index_select(0, places.flat)
        return prefix[:, :-1] / prefix[:, -1:].clamp(min=1.0)
