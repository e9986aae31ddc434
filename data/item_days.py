"""How often each action was done to each item on each day: what trends and popularity are told by.

A log has up to days x items x actions counts, not much fewer than events, so they are read a part
at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data.contract.encode import Ints

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path


Bools = npt.NDArray[np.bool_]

FILE = "item_days.parquet"
COUNTED = pa.schema(
    [("day", pa.int32()), ("item", pa.int32()), ("action", pa.int16()), ("count", pa.int64())]
)
KEYS = ["day", "item", "action"]
AT_ONCE = 1 << 20  # counts


@dataclass(frozen=True, slots=True)
class ItemDays:
    """Some of the counts, C of them.

    Attributes:
        day: 1-based, 0 without a clock, [C].
        item: rows, [C].
        action: codes, [C].
        count: events, [C].
    """

    day: Ints
    item: Ints
    action: Ints
    count: Ints

    def chosen(self, there: Bools) -> ItemDays:
        """Some of them, [C]."""
        return ItemDays(self.day[there], self.item[there], self.action[there], self.count[there])


def item_days(folder: Path, codes: Sequence[int]) -> Iterator[ItemDays]:
    """The counts of some actions, by day, item and action, a million or so at a time.

    Args:
        folder: of a data set.
        codes: of the actions.
    """
    with pq.ParquetFile(folder / FILE) as file:
        for part in file.iter_batches(AT_ONCE):
            counted = ItemDays(*(part[name].to_numpy() for name in COUNTED.names))
            yield counted.chosen(np.isin(counted.action, codes))


def write(path: Path, parts: Iterable[pa.Table]) -> None:
    """Writes counts as they come."""
    with pq.ParquetWriter(path, COUNTED, compression="zstd") as writer:
        for part in parts:
            writer.write_table(part)


def count_items(events: pa.Table, day: npt.NDArray[np.int64]) -> pa.Table:
    """Events by day, item and action (`COUNTED`), sorted."""
    keys = pa.table(
        {"day": day.astype(np.int32), "item": events["item"], "action": events["action"]}
    )
    return _sorted(keys.group_by(KEYS).aggregate([([], "count_all")]))


def summed(parts: Sequence[pa.Table]) -> pa.Table:
    """Sums counts of the same day, item and action."""
    return _sorted(pa.concat_tables(parts).group_by(KEYS).aggregate([("count", "sum")]))


def with_days(folder: Path, days: pa.Table) -> Iterator[pa.Table]:
    """The counts of a data set, those of some days replaced, a part at a time.

    Args:
        folder: of the data set.
        days: sorted counts of whole days, in place of what there was of them.
    """
    again, left = np.unique(days["day"].to_numpy()), days
    with pq.ParquetFile(folder / FILE) as file:
        for batch in file.iter_batches(AT_ONCE):
            kept = batch.filter(pa.array(~np.isin(batch["day"].to_numpy(), again)))
            last = batch["day"][-1].as_py()
            earlier = int(np.searchsorted(left["day"].to_numpy(), last))
            found = pa.Table.from_batches([kept], COUNTED)
            together = pa.concat_tables([found, left.slice(0, earlier)])
            yield together.sort_by("day") if earlier else found
            left = left.slice(earlier)
    yield left


def _sorted(counts: pa.Table) -> pa.Table:
    renamed = counts.rename_columns([*KEYS, "count"]).cast(COUNTED)
    return renamed.sort_by([(name, "ascending") for name in KEYS])
