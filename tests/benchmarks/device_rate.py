"""How fast a device is: times by its own clock, and the operations that something takes."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from collections.abc import Callable

WARM_UP = 3


class Timed:
    """Something called over and over, in turns that take about so many seconds.

    Attributes:
        times: mean seconds of a call in each turn.
    """

    def __init__(self, call: Callable[[], object], seconds: float, device: torch.device) -> None:
        self.call, self.device = call, device
        self.times: list[float] = []
        for _ in range(WARM_UP):
            call()
        self.calls = max(1, int(seconds / seconds_each(call, 1, device)))

    def turn(self) -> None:
        """Calls for a while."""
        self.times.append(seconds_each(self.call, self.calls, self.device))


def seconds_each(call: Callable[[], object], calls: int, device: torch.device) -> float:
    """Mean time of so many calls in a row, until the device has done them."""
    if device.type != "cuda":
        began = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - began) / calls
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    first.record()
    for _ in range(calls):
        call()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1000 / calls


class OneModule(nullcontext[None]):
    """All operations belong to one: torch's own tracker stumbles over modules without gradients.

    Attributes:
        parents: that an operation counts for.
    """

    parents = frozenset({"Global"})

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""


def added_in_place(_: object, one: torch.Size, other: torch.Size, **__: object) -> int:
    """Operations of a product that is added to what is there: not among those that torch counts."""
    return 2 * one[0] * one[1] * other[1]


def operations(call: Callable[[], object]) -> int:
    """Floating-point operations of all products of matrices in a call.

    Attention is counted as plain products: torch knows no number for the CPU's kernel, and fused
    ones would count what their backward makes again.
    """
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: added_in_place})
    counter.mod_tracker = OneModule()
    with sdpa_kernel(SDPBackend.MATH), counter:
        call()
    return int(counter.get_total_flops())


class Peak:
    """The rate of one large product, the most that others are held against.

    Attributes:
        size: rows and columns of its square matrices.
    """

    def __init__(self, size: int, dtype: torch.dtype, seconds: float, device: torch.device) -> None:
        self.size = size
        one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        self.timed = Timed(lambda: one @ other, seconds, device)

    def turn(self) -> None:
        """Measures it once more."""
        self.timed.turn()

    @property
    def flops_per_s(self) -> float:
        """Of the best turn."""
        return 2 * self.size**3 / min(self.timed.times)
