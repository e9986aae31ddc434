"""What is measured between two log lines of a training, over all its ranks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from ray_jobs.engine import ranks

if TYPE_CHECKING:
    from ray_jobs.engine.loop import TrainState
    from ray_jobs.engine.schedule import Schedule
    from ray_jobs.engine.streams import Portion


class Meter:
    """Averages between log lines; only these read from the device and from the other ranks."""

    def __init__(self) -> None:
        """Starts empty."""
        self._reset()

    def _reset(self) -> None:
        self._started = time.perf_counter()
        self._waited = 0.0
        self._rows = 0
        self._steps = 0
        self._sums: dict[str, torch.Tensor] = {}

    def waiting(self, take: Any) -> Portion | None:
        """Calls `take` and counts its time as waiting for data."""
        started = time.perf_counter()
        portion: Portion | None = take()
        self._waited += time.perf_counter() - started
        return portion

    def add(self, loss: torch.Tensor, logs: dict[str, torch.Tensor], rows: int) -> None:
        """Adds one step, in which all ranks together trained on so many rows."""
        for name, value in {"loss": loss, **logs}.items():
            self._sums[name] = self._sums.get(name, torch.zeros(())) + value.detach()
        self._rows += rows
        self._steps += 1

    def line(self, state: TrainState, schedule: Schedule) -> dict[str, float]:
        """The averages since the last line, over all ranks; every rank calls it.

        A rank's loss is scaled so that the mean over ranks is the loss over all rows
        (`models.losses.weighted_mean`). All ranks wait for the one that waits longest for data.
        """
        seconds = time.perf_counter() - self._started
        waited = ranks.largest(torch.tensor(self._waited)).item()
        line = self._means() | {
            "step": state.step,
            "epoch": state.progress.epoch,
            "rate": schedule.rate(state.step - 1),
            "samples_per_s": self._rows / seconds,
            "steps_per_s": self._steps / seconds,
            "data_wait": waited / seconds,
        }
        self._reset()
        return line

    def _means(self) -> dict[str, float]:
        totals = ranks.summed(torch.stack(list(self._sums.values())))
        means = totals / (self._steps * ranks.world_size())
        return dict(zip(self._sums, means.tolist(), strict=True))
