"""Lists of rows end to end, laid out side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from models.features import segments

if TYPE_CHECKING:
    from torch import Tensor


def rectangle(lengths: Tensor, total: int) -> tuple[Tensor, tuple[int, int]]:
    """Where `total` rows of lists of `lengths` [R] lie in a rectangle [R, C] of their longest.

    Returns:
        Place of each row in the flattened rectangle, int64[total], and the rectangle's shape.
    """
    width = int(lengths.max())
    owner = segments(lengths, total)
    first = torch.cumsum(lengths, 0) - lengths
    column = torch.arange(total, device=lengths.device) - first[owner]
    return owner * width + column, (len(lengths), width)


def spread(rows: Tensor, place: Tensor, shape: tuple[int, int]) -> Tensor:
    """Rows [N, ...] at their places in a rectangle [R, C, ...], zeros elsewhere."""
    cells = rows.new_zeros(shape[0] * shape[1], *rows.shape[1:])
    return cells.index_copy(0, place, rows).view(*shape, *rows.shape[1:])
