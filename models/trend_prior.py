"""What is known of an item whoever asks: what was liked lately, and what is new."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from data.contract.schema import DAY_MS, TREND_DAYS
from models.export import NUM_ITEMS, Program

if TYPE_CHECKING:
    from collections.abc import Mapping

WIDTH = 16
TRENDS = len(TREND_DAYS) + 2


class TrendPrior(nn.Module):
    """Counts of the days before and age -> what is added to a cosine, next to nothing at first.

    It is the part of a score that changes from day to day without training, so it stays out of the
    embeddings: an index keeps it in one more column, which a query reads with weight 1.
    """

    def __init__(self) -> None:
        """Builds the perceptron over the logarithms."""
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(TRENDS, WIDTH), nn.GELU())
        self.out = nn.Linear(WIDTH, 1, bias=False)  # what all items gain orders nothing
        nn.init.normal_(self.out.weight, std=0.01)
        self.register_load_state_dict_pre_hook(_without_bias)  # type: ignore[no-untyped-call]

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """`trend.counts` int64[..., S] and `trend.age_ms` int64[...] -> float32[...]."""
        prior: Tensor = self.out(self.hidden(read_trends(inputs))).squeeze(-1)
        return prior

    def program(self) -> Program:
        """What is exported; sizes: items."""
        inputs = trend_example()
        return Program(
            module=self, inputs=inputs, dynamic=dict.fromkeys(inputs, "items"), outputs=("prior",)
        )


class TrendEncoder(nn.Module):
    """Counts of the days before and age -> WIDTH numbers for a ranker."""

    def __init__(self) -> None:
        """Builds one layer over the logarithms."""
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(TRENDS, WIDTH), nn.GELU())

    def forward(self, inputs: Mapping[str, Tensor], prefix: str = "") -> Tensor:
        """`<prefix>trend.counts` int64[..., S], `<prefix>trend.age_ms` [...] -> [..., WIDTH]."""
        encoded: Tensor = self.layer(read_trends(inputs, prefix))
        return encoded


def read_trends(inputs: Mapping[str, Tensor], prefix: str = "") -> Tensor:
    """Logarithms of counts and of the age in days, and whether that is unknown.

    `<prefix>trend.counts` int64[..., S], `<prefix>trend.age_ms` int64[...] -> [..., TRENDS].
    """
    age = inputs[f"{prefix}trend.age_ms"].unsqueeze(-1)
    known = (age >= 0).float()
    days = age.clamp(min=0).float() / DAY_MS
    counts = torch.log1p(inputs[f"{prefix}trend.counts"].float())
    return torch.cat([counts, torch.log1p(days) * known, 1 - known], -1)


def trend_example() -> dict[str, Tensor]:
    """What `read_trends` reads of some items, for an export."""
    return {
        "trend.counts": torch.zeros(NUM_ITEMS, len(TREND_DAYS), dtype=torch.int64),
        "trend.age_ms": torch.zeros(NUM_ITEMS, dtype=torch.int64),
    }


def _without_bias(_: nn.Module, weights: dict[str, Tensor], prefix: str, *__: Any) -> None:
    """Weights of earlier releases have one."""
    weights.pop(f"{prefix}out.bias", None)
