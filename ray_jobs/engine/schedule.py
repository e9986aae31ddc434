"""The learning rate of each step of a training, and its last step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Schedule:
    """Linear warm-up, then a cosine down to a share of the rate."""

    warmup_steps: int
    max_steps: int
    final_rate: float

    def rate(self, step: int) -> float:
        """Share of the full learning rate at a 0-based step."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        span = max(1, self.max_steps - self.warmup_steps)
        done = min(1.0, (step - self.warmup_steps) / span)
        cosine = 0.5 * (1.0 + float(np.cos(np.pi * done)))
        return self.final_rate + (1.0 - self.final_rate) * cosine
