"""Encodings of time: fixed periods, learned phases (PinnerFormer, KDD'22, §4.2; Time2Vec)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

SECOND_MS = 1_000
HOUR_MS = 3_600_000
FOUR_WEEKS_MS = 28 * 86_400_000
CLOCK_HOURS = (0.25, 0.5, 0.75, 1, 2, 4, 8, 16, 24, 168, 672, 8760)


class Periods(nn.Module):
    """Milliseconds -> `[cos(2πt/p_i + φ_i), sin(2πt/p_i + φ'_i)]_i` over fixed periods p.

    The remainder by each period is taken in int64: float32 milliseconds would lose minutes after a
    year.
    """

    periods_ms: Tensor

    def __init__(self, periods_ms: Sequence[int]) -> None:
        """Learns the phases of these periods."""
        super().__init__()
        self.register_buffer("periods_ms", torch.tensor(periods_ms, dtype=torch.int64))
        self.phase = nn.Parameter(torch.zeros(2, len(periods_ms)))

    def forward(self, time_ms: Tensor) -> Tensor:
        """int64[H] -> float32[H, 2 x periods]."""
        turns = torch.remainder(time_ms.unsqueeze(-1), self.periods_ms).float()
        angles = 2 * math.pi * turns / self.periods_ms.float()
        return torch.cat([torch.cos(angles + self.phase[0]), torch.sin(angles + self.phase[1])], -1)


class GapEncoding(Periods):
    """Elapsed milliseconds over log-spaced periods from one second to four weeks, and `ln t`."""

    def __init__(self, dim: int, num_periods: int = 32) -> None:
        """Builds an encoder of width `dim`."""
        ends = math.log(SECOND_MS), math.log(FOUR_WEEKS_MS)
        exponents = torch.linspace(*ends, num_periods, dtype=torch.float64)
        super().__init__(exponents.exp().round().long().tolist())
        self.project = nn.Linear(2 * num_periods + 1, dim)

    @torch.no_grad()
    def shrink(self, factor: float) -> Self:
        """Makes the first outputs smaller, so that they do not drown what they are added to."""
        for parameter in self.project.parameters():
            parameter.mul_(factor)
        return self

    def forward(self, gap_ms: Tensor) -> Tensor:
        """Encodes elapsed times.

        Args:
            gap_ms: int64[H]; less than a second counts as one second.

        Returns:
            float32[H, dim].
        """
        gap_ms = gap_ms.clamp(min=SECOND_MS)
        log_gap = torch.log(gap_ms.float() / SECOND_MS) / math.log(FOUR_WEEKS_MS / SECOND_MS)
        encoded: Tensor = self.project(torch.cat([super().forward(gap_ms), log_gap[..., None]], -1))
        return encoded


class ClockEncoding(Periods):
    """Moments over periods from a quarter of an hour to a year: time of day, of week, of year."""

    def __init__(self, dim: int) -> None:
        """Builds an encoder of width `dim`, small at first."""
        super().__init__([round(hours * HOUR_MS) for hours in CLOCK_HOURS])
        self.project = nn.Linear(2 * len(CLOCK_HOURS), dim)
        nn.init.normal_(self.project.weight, std=0.02)

    def forward(self, time_ms: Tensor) -> Tensor:
        """Encodes int64[H], ms since 1970, as float32[H, dim]."""
        encoded: Tensor = self.project(super().forward(time_ms))
        return encoded


class DurationEncoding(nn.Module):
    """Seconds spent, by their logarithm and whether they are known."""

    def __init__(self, dim: int) -> None:
        """Builds an encoder of width `dim`, small at first."""
        super().__init__()
        self.project = nn.Linear(2, dim)
        nn.init.normal_(self.project.weight, std=0.02)

    def forward(self, seconds: Tensor) -> Tensor:
        """float32[H], 0 where unknown -> float32[H, dim]."""
        seconds = seconds.clamp(min=0)
        known = torch.stack([torch.log1p(seconds), (seconds > 0).float()], -1)
        encoded: Tensor = self.project(known)
        return encoded
