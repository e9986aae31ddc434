"""What the ranks of a training run tell each other; alone, every answer is one's own."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def rank() -> int:
    """This process's number in the group; 0 without one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Ranks in the group; 1 without one."""
    return dist.get_world_size() if dist.is_initialized() else 1


def summed(values: torch.Tensor) -> torch.Tensor:
    """The sum of `values`, of any shape, over all ranks."""
    return _reduced(values, dist.ReduceOp.SUM)


def largest(values: torch.Tensor) -> torch.Tensor:
    """The largest of each of `values`, of any shape, over all ranks."""
    return _reduced(values, dist.ReduceOp.MAX)


def _reduced(values: torch.Tensor, how: dist.ReduceOp.RedOpType) -> torch.Tensor:
    if world_size() > 1:
        values = values.clone()
        dist.all_reduce(values, how)
    return values


def from_first(value: T) -> T:
    """What rank 0 holds; the other ranks' `value` is dropped."""
    box = [value]
    if world_size() > 1:
        dist.broadcast_object_list(box, 0)
    return box[0]


def gathered(value: T) -> list[T]:
    """The value of every rank, in order."""
    if world_size() == 1:
        return [value]
    values: list[T] = [value] * world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Waits for all ranks."""
    if world_size() > 1:
        dist.barrier()
