"""Optimiser steps in a row: ids of the next batch travel while this one is computed.

With torchrec (`TrainPipelineSparseDist`, on a CPU too): a batch is copied to the device two steps
before its own, its ids are sent to the ranks that hold their rows one step before, and forward,
backward and update find the rows' numbers there. Ids do not depend on weights, so what is learnt is
what steps one after the other learn, to the last bit. Models without tables have nothing to send:
their steps follow each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from models.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch
    from torch import Tensor

    from models.embeddings import ShardedModel

try:
    from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
    from torchrec.streamable import Pipelineable

    Pipelineable.register(Batch)
except ImportError:  # torch alone
    TrainPipelineSparseDist = None

Out = TypeVar("Out", covariant=True)


class Step(Protocol[Out]):
    """One optimiser step, in the calls that are made of it."""

    def zero_grad(self) -> None:
        """Before it."""

    def forward(self, batch: Batch) -> tuple[Tensor, Out]:
        """The loss, of which gradients are taken, and what else is said of the batch."""

    def step(self) -> None:
        """Updates the weights by the gradients."""


class StepPipeline:
    """Takes a step for each of some batches.

    Example:
        pipeline = StepPipeline(sharded, step, device)
        for said in pipeline.over(sharded.ready(batch) for batch in batches):
            ...  # the weights are those after the step, nothing else is under way at the last one
    """

    def __init__(self, model: ShardedModel, step: Step[Any], device: torch.device) -> None:
        """Takes a model, whose module `step` calls with the batches."""
        self._step, self._device = step, device
        self._torchrec: Any = None
        if TrainPipelineSparseDist is not None and model.names:
            optimizer: Any = step
            self._torchrec = TrainPipelineSparseDist(
                model.module, optimizer, device, custom_model_fwd=step.forward
            )

    def over(self, batches: Iterable[Batch]) -> Iterator[Any]:
        """What is said of each batch, after its step; up to two batches more are taken by then."""
        ahead = iter(batches)
        take = self._one_by_one if self._torchrec is None else self._torchrec.progress
        while True:
            try:
                said = take(ahead)
            except StopIteration:
                return
            yield said

    def _one_by_one(self, batches: Iterator[Batch]) -> Any:
        batch = next(batches).to(self._device, non_blocking=True)
        self._step.zero_grad()
        loss, said = self._step.forward(batch)
        loss.backward()
        self._step.step()
        return said
