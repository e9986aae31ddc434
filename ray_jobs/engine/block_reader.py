"""Reading blocks with Ray Data, in a given order; imports no torch, for its tasks import it."""

from __future__ import annotations

import itertools
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import ray
from ray.data import Datasource, ReadTask, TaskPoolStrategy
from ray.data.block import BlockMetadata
from ray.exceptions import RayTaskError

from data.blocks import stretches
from data.contract.settings import UserError
from ray_jobs.engine.cluster import beside_files, num_cores

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STRETCH_BYTES = 128 << 20
TASK_BYTES = 4 << 20
PLACE = "__place"


class Readable(Protocol):
    """A block of rows, as it lies on disk or with what a stage makes of it."""

    @property
    def num_rows(self) -> int:
        """Rows on disk."""

    @property
    def num_bytes(self) -> int:
        """Bytes in memory of what `read` gives, about."""

    def read(self) -> pa.Table:
        """The rows."""


Part = list[tuple[int, Readable]]


def read_tables(blocks: Iterable[Readable]) -> Iterator[pa.Table]:
    """Reads blocks in the given order with Ray Data, one stretch of them ahead of the consumer.

    No more blocks are taken than are read, so that there may be any number. Each stretch is read to
    its end: Ray Data's executor lives in this process and spins while it waits for a slow consumer,
    which made training three times slower on two cores. Memory is bounded by two stretches. Small
    blocks share a task: a task costs 20 ms, and a stretch may hold every epoch of a small data set.
    """
    blocks, ahead = itertools.tee(blocks)
    tables = _read_ahead(block for block in ahead if block.num_rows)
    for block in blocks:
        yield next(tables) if block.num_rows else block.read()


def _read_ahead(blocks: Iterable[Readable]) -> Iterator[pa.Table]:
    with ThreadPoolExecutor(max_workers=1) as reader:
        ahead: Future[list[Any]] | None = None
        count = 0
        for stretch in itertools.chain(stretches(blocks, STRETCH_BYTES), [None]):
            ready, sizes = (ahead.result() if ahead else []), count
            ahead = reader.submit(_read_stretch, stretch) if stretch else None
            count = len(stretch) if stretch else 0
            yield from split(_fetched(ready), sizes)


def _fetched(references: list[Any]) -> Iterator[pa.Table]:
    while references:
        yield ray.get(references.pop(0))


def _read_stretch(blocks: list[Readable]) -> list[Any]:
    """References to tables that hold the rows of some blocks, in their order, with their places.

    Tasks ask for no CPU: they are short, and a training may have taken all that its node has.

    Raises:
        UserError: a block's `read` does.
    """
    context = ray.data.DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    numbered = itertools.count()
    parts = [[(next(numbered), block) for block in part] for part in stretches(blocks, TASK_BYTES)]
    with ray.data.DataContext.current(context):
        tables = ray.data.read_datasource(
            Parts(parts),
            override_num_blocks=len(parts),
            compute=TaskPoolStrategy(size=min(num_cores(), len(parts))),
            num_cpus=0,
            **beside_files(),
        )
        try:
            return list(tables.to_arrow_refs())
        except RayTaskError as failure:
            if isinstance(failure.cause, RefusedError):
                raise failure.cause.args[0] from None
            raise


class Parts(Datasource):
    """Blocks with their places, each part of them read by a task into one table."""

    def __init__(self, parts: list[Part]) -> None:
        """Takes the parts, in order."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._parts = parts

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all tables, about."""
        return sum(map(_num_bytes, self._parts))

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002
        per_task_row_limit: int | None = None,  # noqa: ARG002
        data_context: ray.data.DataContext | None = None,  # noqa: ARG002
    ) -> list[ReadTask]:
        """A task a part, whatever else is asked for."""
        return [ReadTask(partial(_read_part, part), _metadata(part)) for part in self._parts]


def _metadata(part: Part) -> BlockMetadata:
    return BlockMetadata(
        num_rows=None, size_bytes=_num_bytes(part), exec_stats=None, input_files=None
    )


def _num_bytes(part: Part) -> int:
    return sum(block.num_bytes for _, block in part)


class RefusedError(Exception):
    """Holds a UserError: to the text of an exception that it meets Ray Data adds its own."""


def _read_part(part: Part) -> list[pa.Table]:
    try:
        return [pa.concat_tables([_placed(block.read(), place) for place, block in part])]
    except UserError as error:
        raise RefusedError(error) from None


def _placed(table: pa.Table, place: int) -> pa.Table:
    places = pa.array(np.full(table.num_rows, place, np.int32))
    return table.append_column(PLACE, places)


def split(tables: Iterable[pa.Table], count: int) -> Iterator[pa.Table]:
    """Cuts rows that come in tables of any length into one table a place, 0 to `count` - 1.

    Example:
        tables with places [0, 0, 2] and [2, 2], count 3  ->  tables of 2, 0 and 3 rows
    """
    held: list[pa.Table] = []
    place = 0
    nothing = pa.table({})
    for table in tables:
        places = table[PLACE].to_numpy()
        rows = table.drop_columns([PLACE])
        nothing = rows.slice(0, 0)
        starts = np.flatnonzero(np.diff(places, prepend=-1)).tolist()
        for start, end in itertools.pairwise([*starts, len(places)]):
            while place < places[start]:
                yield pa.concat_tables(held or [nothing])
                held, place = [], place + 1
            held.append(rows.slice(start, end - start))
    for _ in range(place, count):
        yield pa.concat_tables(held or [nothing])
        held = []
