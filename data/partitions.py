"""Third pass over a log: timelines by shard of users, and partitions by day."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data import timelines
from data.contract.schema import ENCODED_EVENT, TIMELINE
from data.dataset import NO_DATE, date_name
from data.exchange import gather, write_table
from data.item_days import count_items
from data.routing import ROUTED, Routing
from data.splits import PARTS_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

WRITE_ROWS = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What the third pass needs to know.

    Attributes:
        routing: how the second pass divided the rows.
        blocks: names of the spilled blocks, in order of arrival.
        folder: the data set being written.
        parts: parts that the log names, if the split reads them.
        timelines: earlier timeline file of each shard.
        partitions: earlier folder of each day, by date.
        first_part: number of the first new file of a partition without a date.
    """

    routing: Routing
    blocks: tuple[str, ...]
    folder: Path
    parts: tuple[str, ...]
    timelines: dict[int, Path]
    partitions: dict[str, Path]
    first_part: int

    def rows(self, kind: str, number: int) -> pa.Table:
        """The spilled rows of a shard ("shards") or group of days ("days")."""
        paths = [self.routing.folder / f"{kind}-{name}.arrow" for name in self.blocks]
        return gather(paths, number, ROUTED)


def timeline_name(shard: int) -> str:
    """File name of a shard's timelines."""
    return f"part-{shard:05d}.parquet"


def write_shard(placement: Placement, shard: int) -> None:
    """Writes the timelines of one shard, earlier ones extended, whose file is read in stretches."""
    events = placement.rows("shards", shard).drop_columns(["event_id", "received_at"])
    known = placement.timelines.get(shard)
    earlier = timelines.in_stretches(known) if known else ()
    names = {PARTS_KEY: ",".join(placement.parts).encode()}
    schema = TIMELINE.with_metadata(names) if placement.parts else TIMELINE
    path = placement.folder / "timelines" / timeline_name(shard)
    timelines.write(timelines.extended(earlier, events), path, schema)


def write_days(placement: Placement, group: int) -> dict[str, int]:
    """Writes the day partitions of one group and counts its items. Returns rows by date."""
    routing = placement.routing
    events = placement.rows("days", group)
    if routing.calendar is None:
        written = _write_undated(placement, events, group)
    else:
        events = pa.concat_tables([*_earlier(placement, events), events])
        order = np.lexsort((events["sequence"].to_numpy(), events["timestamp"].to_numpy()))
        written = dict(_write_dated(placement, events, order))
    day = routing.day_of(events["timestamp"].to_numpy())
    write_table(count_items(events, day), routing.folder / f"item_days-{group:05d}.arrow")
    return written


def _earlier(placement: Placement, events: pa.Table) -> Iterator[pa.Table]:
    """Rows already in the partitions that `events` reopen."""
    calendar = placement.routing.calendar
    assert calendar is not None
    days = np.unique(placement.routing.day_of(events["timestamp"].to_numpy())).tolist()
    for date in (date_name(calendar.start_ms(day)) for day in days):
        if date in placement.partitions:
            files = sorted(placement.partitions[date].glob("part-*.parquet"))
            rows = pa.concat_tables(pq.ParquetFile(file).read() for file in files)
            yield timelines.before_all(rows).cast(ROUTED)


def _write_dated(
    placement: Placement, events: pa.Table, order: npt.NDArray[np.int64]
) -> Iterator[tuple[str, int]]:
    routing = placement.routing
    assert routing.calendar is not None
    days, starts = np.unique(
        routing.day_of(events["timestamp"].to_numpy()[order]), return_index=True
    )
    ends = np.append(starts[1:], len(order))
    for day, start, end in zip(days.tolist(), starts.tolist(), ends.tolist(), strict=True):
        date = date_name(routing.calendar.start_ms(day))
        path = placement.folder / "events" / f"date={date}" / "part-00000.parquet"
        write_rows(events, order[start:end], path)
        yield date, end - start


def _write_undated(placement: Placement, events: pa.Table, group: int) -> dict[str, int]:
    number = placement.first_part + group
    path = placement.folder / "events" / f"date={NO_DATE}" / f"part-{number:05d}.parquet"
    write_rows(events, np.arange(events.num_rows), path)
    return {NO_DATE: events.num_rows}


def write_rows(events: pa.Table, rows: npt.NDArray[np.int64], path: Path) -> None:
    """Writes chosen rows of encoded events, a million at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = events.select(ENCODED_EVENT.names)
    with pq.ParquetWriter(path, ENCODED_EVENT, **timelines.PARQUET_OPTIONS) as writer:
        for start in range(0, len(rows), WRITE_ROWS):
            writer.write_table(columns.take(pa.array(rows[start : start + WRITE_ROWS])))
