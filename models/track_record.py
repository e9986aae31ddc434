"""How candidates and users had done, as numbers that an over-arch reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.export import NUM_ITEMS
from models.trend_prior import WIDTH, TrendEncoder, trend_example

if TYPE_CHECKING:
    from collections.abc import Mapping

    from data.contract.schema import Vocabulary

PRIOR_STRENGTH = 20.0
LEAST_RATE = 1e-4
LEAST_COUNT = 1e-6


class RecordEncoder(nn.Module):
    """Trends and tallies of candidates -> `width` numbers each."""

    def __init__(self, vocabulary: Vocabulary, trends: bool, tallies: bool) -> None:
        """Builds what the log and its item columns allow."""
        super().__init__()
        self.trend = TrendEncoder() if trends and vocabulary.order == "clock" else None
        columns = sum(feature.kind == "categorical" for feature in vocabulary.item_features)
        self.shape = (2 + columns, len(vocabulary.actions) + 1)
        self.reads_tallies = tallies
        of_tallies = tally_width(*self.shape) if tallies else 0
        self.width = WIDTH * (self.trend is not None) + of_tallies

    def forward(self, inputs: Mapping[str, Tensor], prefix: str = "") -> Tensor:
        """`<prefix>trend.*` and `<prefix>tally.counts` [..., G, W], where read -> [..., width]."""
        found = [] if self.trend is None else [self.trend(inputs, prefix)]
        if self.reads_tallies:
            found.append(read_tallies(inputs[f"{prefix}tally.counts"]))
        return torch.cat(found, -1)

    def example(self) -> dict[str, Tensor]:
        """What it reads of some items, for an export."""
        found = {} if self.trend is None else trend_example()
        if self.reads_tallies:
            found["tally.counts"] = torch.ones(NUM_ITEMS, *self.shape)
        return found


def tally_width(groups: int, kinds: int) -> int:
    """Numbers that `read_tallies` gives of so many groups, the first of which is all."""
    return (groups - 1) * (2 * kinds - 1)


def read_tallies(counts: Tensor) -> Tensor:
    """Logarithms of counts and of rates of actions, over those of an item (or user) on average.

    Rates are of what was shown, or of all touches where nothing says what was; those of few are
    drawn to that of everything by `PRIOR_STRENGTH` touches.

    Args:
        counts: float32[..., G, W]: first on average, then of groups; each action, then shown.

    Returns:
        float32[..., tally_width(G, W)].
    """
    counts = counts.clamp(min=0.0)
    everything, own = counts[..., :1, :], counts[..., 1:, :]
    shown = everything[..., -1:] > 0
    of_all, of_own = (
        torch.where(shown, part[..., -1:], part[..., :-1].sum(-1, keepdim=True))
        for part in (everything, own)
    )
    prior = everything[..., :-1] / of_all.clamp(min=LEAST_COUNT)
    rates = (own[..., :-1] + PRIOR_STRENGTH * prior) / (of_own + PRIOR_STRENGTH)
    lift = torch.log(rates.clamp(min=LEAST_RATE)) - torch.log(prior.clamp(min=LEAST_RATE))
    size = torch.log1p(own) - torch.log1p(everything)
    return torch.cat([size, lift], -1).flatten(-2)
