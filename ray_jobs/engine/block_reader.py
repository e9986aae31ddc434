"""Reading blocks with Ray Data, in a given order; imports no torch, for its tasks import it."""

from __future__ import annotations

import itertools
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import ray

from data.blocks import Block, stretches

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

STRETCH_BYTES = 128 << 20
TASK_BYTES = 4 << 20


def read_tables(blocks: Sequence[Block]) -> Iterator[pa.Table]:
    """Reads blocks in the given order with Ray Data, one stretch of them ahead of the consumer.

    Each stretch is read to its end: Ray Data's executor lives in this process and spins while it
    waits for a slow consumer, which made training three times slower on two cores. Memory is
    bounded by two stretches. Small blocks share a task: a task costs 20 ms, and a stretch may hold
    every epoch of a small data set.
    """
    filled = [block for block in blocks if block.num_rows]
    tables = cut(_read_ahead(filled), [block.num_rows for block in filled])
    for block in blocks:
        yield next(tables) if block.num_rows else block.read()


def _read_ahead(blocks: Sequence[Block]) -> Iterator[pa.Table]:
    with ThreadPoolExecutor(max_workers=1) as reader:
        ahead: Future[list[Any]] | None = None
        for stretch in itertools.chain(stretches(blocks, STRETCH_BYTES), [None]):
            ready = ahead.result() if ahead else []
            ahead = reader.submit(_read_stretch, stretch) if stretch else None
            while ready:
                yield ray.get(ready.pop(0))


def _read_stretch(blocks: list[Block]) -> list[Any]:
    """References to tables that hold the rows of some blocks, in their order."""
    context = ray.data.DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    parts = list(stretches(blocks, TASK_BYTES))
    with ray.data.DataContext.current(context):
        numbers = ray.data.range(len(parts), override_num_blocks=len(parts))
        tables = numbers.map_batches(
            cast("Any", _read_numbered), batch_size=None, batch_format="pyarrow", fn_args=(parts,)
        )
        return list(tables.to_arrow_refs())


def _read_numbered(numbers: pa.Table, parts: list[list[Block]]) -> pa.Table:
    wanted = itertools.chain.from_iterable(parts[number] for number in numbers["id"].to_pylist())
    return pa.concat_tables([block.read() for block in wanted])


def cut(tables: Iterable[pa.Table], sizes: Sequence[int]) -> Iterator[pa.Table]:
    """Cuts rows that come in tables of any length into tables of the given numbers of rows.

    Example:
        tables of 3 and 2 rows, sizes 1, 4  ->  tables of 1 and 4 rows
    """
    source = iter(tables)
    held: list[pa.Table] = []
    for size in sizes:
        while sum(table.num_rows for table in held) < size:
            held.append(next(source))
        joined = pa.concat_tables(held) if len(held) > 1 else held[0]
        yield joined.slice(0, size)
        held = [joined.slice(size)]
