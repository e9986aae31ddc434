"""The rows that a rank holds of sharded ID tables: filling, reading and loading whole tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BLOCK_ROWS = 65_536


class Shard(NamedTuple):
    """The part of a table that this rank holds: `weight` starts at (row, column) of the whole."""

    table: str
    weight: Tensor
    row: int
    column: int


def shards(module: nn.Module) -> Iterator[Shard]:
    """The parts of the tables that this rank holds."""
    for name, value in _weights(module):
        if _is_plain(value):
            yield Shard(name, value, 0, 0)
            continue
        for part in value.local_shards():
            yield Shard(name, part.tensor, *part.metadata.shard_offsets)


@torch.no_grad()
def fill(module: nn.Module, dims: Mapping[str, int], seed: int) -> None:
    """Draws every row from N(0, 1 / dim), row 0 being zeros, whatever the sharding.

    Args:
        module: holds the tables, sharded or not.
        dims: width of each table, by name, in an order that is part of the seed.
        seed: of all tables.
    """
    order = {name: index for index, name in enumerate(dims)}
    for part in shards(module):
        index, dim = order[part.table], dims[part.table]
        rows, columns = part.weight.shape
        for block in range(part.row // BLOCK_ROWS, (part.row + rows - 1) // BLOCK_ROWS + 1):
            values = _block([seed, index, block], dim)[:, part.column : part.column + columns]
            _overlay(part, values, block * BLOCK_ROWS, 0)
        if part.row == 0:
            part.weight[0] = 0


def _block(stream: list[int], dim: int) -> Tensor:
    """BLOCK_ROWS rows of one seeded stream."""
    seed = int(np.random.SeedSequence(stream).generate_state(1, np.uint64)[0] >> np.uint64(1))
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BLOCK_ROWS, dim, generator=generator) * float(dim**-0.5)


def _overlay(part: Shard, values: Tensor, row: int, column: int) -> None:
    """Copies into the shard what it shares with `values`, which lie at (row, column)."""
    rows = range(max(part.row, row), min(part.row + len(part.weight), row + len(values)))
    width = min(part.weight.shape[1] + part.column, column + values.shape[1])
    columns = range(max(part.column, column), width)
    if not rows or not columns:
        return
    source = values[rows.start - row : rows.stop - row]
    target = part.weight[rows.start - part.row : rows.stop - part.row]
    target[:, columns.start - part.column : columns.stop - part.column] = source[
        :, columns.start - column : columns.stop - column
    ].to(target)


def full_tables(module: nn.Module) -> dict[str, Tensor]:
    """Whole tables by name, on the CPU of rank 0; nothing on other ranks. Every rank calls it."""
    whole = {name: _gathered(value) for name, value in _weights(module)}
    return {name: table for name, table in whole.items() if table is not None}


def _gathered(weight: Any) -> Tensor | None:
    if _is_plain(weight):
        whole: Tensor = weight.detach().cpu().clone()
        return whole
    # Collected on the CPU, also from GPUs: a group of two backends gathers there, and a whole table
    # may have no room elsewhere.
    out = torch.empty(_size(weight)) if dist.get_rank() == 0 else None
    if dist.get_world_size() > 1:
        weight.gather(0, out)
    elif out is not None:
        _lay_down(weight, out)  # gathering takes two copies more
    return out


def _lay_down(weight: Any, whole: Tensor) -> None:
    """Copies the shards of this rank to their places in a whole table."""
    for part in weight.local_shards():
        row, column = part.metadata.shard_offsets
        rows, columns = part.metadata.shard_sizes
        whole[row : row + rows, column : column + columns] = part.tensor.detach()


@torch.no_grad()
def load_tables(module: nn.Module, tables: Mapping[str, Tensor]) -> None:
    """Copies whole tables, row by row, into the shards of this rank.

    A table with fewer rows leaves the rows after it as they are: a checkpoint of yesterday's ids
    loads into today's larger table.

    Raises:
        ValueError: a table is wider or narrower, or has more rows, than the one it goes into.
    """
    sizes = {name: _size(weight) for name, weight in _weights(module)}
    for name, table in tables.items():
        rows, dim = sizes[name]
        if table.shape[1] != dim or len(table) > rows:
            raise ValueError(f"table {name} of {tuple(table.shape)} does not fit {(rows, dim)}")
    for part in shards(module):
        if part.table in tables:
            _overlay(part, tables[part.table], 0, 0)


def _size(weight: Any) -> tuple[int, ...]:
    return tuple(weight.shape if _is_plain(weight) else weight.metadata().size)


def _is_plain(weight: Any) -> bool:
    return isinstance(weight, Tensor) and not hasattr(weight, "local_shards")


def _weights(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for key, value in module.state_dict().items():
        if ".embedding_bags." in key:
            yield key.split(".embedding_bags.")[1].removesuffix(".weight"), value
