"""What a training step is fed: ids to look up, named arrays, labels and row weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Jagged:
    """Lists of B lengths laid end to end.

    Attributes:
        values: [sum(lengths)].
        lengths: int64[B].
    """

    values: Tensor
    lengths: Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> Jagged:
        """The same lists on another device."""
        return Jagged(
            self.values.to(device, non_blocking=non_blocking),
            self.lengths.to(device, non_blocking=non_blocking),
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's input for a pair of tables and core.

    Attributes:
        ids: rows to look up, by table; every entry has B lengths, so the stride is B.
        inputs: named arrays as `data.contract.encode` makes them, and indices between them.
        labels: named targets, float32.
        weight: float32[B] of the batch's rows (windows, requests); 0 is a filler row.
        objective: which of several objectives the batch is for.
        bags: the ids once more, as torchrec's tables take them (`models.embeddings`).
    """

    ids: Mapping[str, Jagged]
    inputs: Mapping[str, Tensor]
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    weight: Tensor = field(default_factory=lambda: torch.ones(0))
    objective: str = ""
    bags: Any = None

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""

        def move(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {n: t.to(device, non_blocking=non_blocking) for n, t in tensors.items()}

        return dataclasses.replace(
            self,
            ids={name: rows.to(device, non_blocking) for name, rows in self.ids.items()},
            inputs=move(self.inputs),
            labels=move(self.labels),
            weight=self.weight.to(device, non_blocking=non_blocking),
            bags=None if self.bags is None else self.bags.to(device, non_blocking=non_blocking),
        )

    def record_stream(self, stream: torch.Stream) -> None:
        """Keeps the memory of what was made on one stream of a device until another has read it."""
        for tensor in self._tensors():
            tensor.record_stream(stream)

    def _tensors(self) -> Iterator[Any]:
        for rows in self.ids.values():
            yield from (rows.values, rows.lengths)
        yield from (*self.inputs.values(), *self.labels.values(), self.weight)
        if self.bags is not None:
            yield self.bags

    def muted(self) -> Batch:
        """This batch with every weight 0: keeps a rank that has run out in step with the others."""
        return dataclasses.replace(self, weight=torch.zeros_like(self.weight))
