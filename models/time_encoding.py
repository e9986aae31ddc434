"""Encodings of elapsed time: fixed periods, learned phases (METHODS of PinnerFormer, Time2Vec)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

SECOND_MS = 1_000
FOUR_WEEKS_MS = 28 * 86_400_000


class GapEncoding(nn.Module):
    """Milliseconds -> sines and cosines of log-spaced periods, and the logarithm, projected.

    `r(t) = [cos(2πt/p_i + φ_i), sin(2πt/p_i + φ'_i)]_i ⊕ ln t` with periods from one second to
    four weeks (PinnerFormer, KDD'22, §4.2). The remainder by each period is taken in int64: float32
    milliseconds would lose minutes after a year.
    """

    periods_ms: Tensor

    def __init__(self, dim: int, num_periods: int = 32) -> None:
        """Builds an encoder of width `dim`."""
        super().__init__()
        ends = math.log(SECOND_MS), math.log(FOUR_WEEKS_MS)
        exponents = torch.linspace(*ends, num_periods, dtype=torch.float64)
        self.register_buffer("periods_ms", exponents.exp().round().long())
        self.phase = nn.Parameter(torch.zeros(2, num_periods))
        self.project = nn.Linear(2 * num_periods + 1, dim)

    @torch.no_grad()
    def shrink(self, factor: float) -> None:
        """Makes the first outputs smaller, so that they do not drown what they are added to."""
        for parameter in self.project.parameters():
            parameter.mul_(factor)

    def forward(self, gap_ms: Tensor) -> Tensor:
        """Encodes elapsed times.

        Args:
            gap_ms: int64[H]; less than a second counts as one second.

        Returns:
            float32[H, dim].
        """
        gap_ms = gap_ms.clamp(min=SECOND_MS).unsqueeze(-1)
        turns = torch.remainder(gap_ms, self.periods_ms).float() / self.periods_ms.float()
        angles = 2 * math.pi * turns
        log_gap = torch.log(gap_ms.float() / SECOND_MS) / math.log(FOUR_WEEKS_MS / SECOND_MS)
        cosines, sines = torch.cos(angles + self.phase[0]), torch.sin(angles + self.phase[1])
        encoded: Tensor = self.project(torch.cat([cosines, sines, log_gap], -1))
        return encoded
