"""Second pass over a log: external ids become rows; each event goes to its user and to its day."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data.chunks import REJECTS
from data.contract.idspace import IdSpace, hash_ids
from data.contract.schema import DAY_MS, ENCODED_EVENT, Calendar
from data.contract.storage import uri_of
from data.exchange import read_table, spill
from data.intake import reasons_of, write_rejects
from data.parsing import whole

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUTED = ENCODED_EVENT.append(pa.field("sequence", pa.int64()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """What the second pass needs to know.

    Attributes:
        folder: where the first pass spilled, and this one does.
        rejects: where rejected rows are written.
        paths: file name by number.
        ids: folders of the id spaces, by "item" and "user".
        actions: names by code - 1.
        surfaces: likewise.
        calendar: the log's days, None without a clock.
        first_open_day: events of earlier days came too late.
        num_shards: files of timelines.
        group_starts: first day of each group of days that is written by one task.
    """

    folder: Path
    rejects: Path
    paths: tuple[Path, ...]
    ids: dict[str, Path]
    actions: tuple[str, ...]
    surfaces: tuple[str, ...]
    calendar: Calendar | None
    first_open_day: int
    num_shards: int
    group_starts: tuple[int, ...]

    def day_of(self, timestamps: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """1-based days, 0 without a clock."""
        if self.calendar is None:
            return np.zeros(len(timestamps), np.int64)
        return (timestamps - self.calendar.first_day_ms) // DAY_MS + 1

    def group_of(self, days: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Group of each day; days before the first and after the last belong to these."""
        groups = np.searchsorted(np.array(self.group_starts), days, side="right") - 1
        return np.maximum(groups, 0)

    def shard_of(self, users: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Timeline file of each user row."""
        return (hash_ids(pa.array(users)) % np.uint64(self.num_shards)).astype(np.int64)


@dataclass(slots=True)
class Routed:
    """What the second pass did. Merges by `add`.

    Attributes:
        shards: events by timeline file.
        days: events by day.
        reasons: rejected rows by column and reason.
    """

    shards: Counter[int] = field(default_factory=Counter)
    days: Counter[int] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, other: Routed) -> None:
        """Joins the counts of another block."""
        self.shards.update(other.shards)
        self.days.update(other.days)
        self.reasons.update(other.reasons)


@lru_cache(maxsize=4)
def open_ids(folder: Path) -> IdSpace:
    """An id space, opened once in each process."""
    return IdSpace.open(folder)


def route_block(routing: Routing, name: str) -> Routed:
    """Maps one spilled block and spills it again, by user and by day."""
    events = read_table(routing.folder / f"events-{name}.arrow")
    good, rejects = _admissible(routing, events, name)
    write_rejects(rejects, routing.rejects, f"late-{name}")
    encoded = _encoded(routing, events.filter(pa.array(good)) if not good.all() else events)
    user = encoded["user"].to_numpy()
    day = routing.day_of(encoded["timestamp"].to_numpy())
    shard = routing.shard_of(user)
    group = routing.group_of(day) if routing.calendar else shard
    num_groups = len(routing.group_starts) if routing.calendar else routing.num_shards
    spill(encoded, group, num_groups, routing.folder / f"days-{name}.arrow")
    own = user >= open_ids(routing.ids["user"]).first_row
    mine = encoded.filter(pa.array(own)) if not own.all() else encoded
    spill(mine, shard[own], routing.num_shards, routing.folder / f"shards-{name}.arrow")
    return Routed(_counter(shard[own]), _counter(day), reasons_of(rejects))


def _counter(values: npt.NDArray[np.int64]) -> Counter[int]:
    found, count = np.unique(values, return_counts=True)
    return Counter(dict(zip(found.tolist(), count.tolist(), strict=True)))


def _admissible(
    routing: Routing, events: pa.Table, name: str
) -> tuple[npt.NDArray[np.bool_], pa.Table]:
    """Which events are neither duplicates nor too late, and the rejects."""
    good = np.ones(events.num_rows, bool)
    drops = routing.folder / f"drop-{name}.npy"
    repeated = np.load(drops) if drops.is_file() else np.zeros(0, np.int64)
    good[repeated] = False
    day = routing.day_of(events["timestamp"].to_numpy())
    dated = good & (routing.calendar is not None)
    before = np.flatnonzero(dated & (day < 1))
    late = np.flatnonzero(dated & (day >= 1) & (day < routing.first_open_day))
    good[before] = good[late] = False
    rejects = [
        _rejected(routing, events, repeated, ("event_id", "duplicate")),
        _rejected(routing, events, before, ("timestamp", "before the log begins")),
        _rejected(routing, events, late, ("timestamp", "later than prepare.late_days")),
    ]
    return good, pa.concat_tables(rejects)


def _rejected(
    routing: Routing, events: pa.Table, at: npt.NDArray[np.int64], why: tuple[str, str]
) -> pa.Table:
    rows = events.take(pa.array(at))
    line = {
        "file": [uri_of(routing.paths[f]) for f in rows["file"].to_pylist()],
        "row": rows["row"],
        "column": [why[0]] * len(at),
        "reason": [why[1]] * len(at),
        "value": rows[why[0]].cast(pa.string()),
    }
    return pa.table(line, schema=REJECTS)


def _encoded(routing: Routing, events: pa.Table) -> pa.Table:
    """External ids as rows, names as codes: the columns of ROUTED."""
    columns = {
        "event_id": events["event_id"],
        "user": open_ids(routing.ids["user"]).lookup(whole(events["user_id"])),
        "item": open_ids(routing.ids["item"]).lookup(whole(events["item_id"])).astype(np.int32),
        "action": codes(events["action"], routing.actions),
        "surface": codes(events["surface"], routing.surfaces),
        **{name: events[name] for name in ("timestamp", "received_at", "duration_s", "part")},
        "sequence": events["sequence"],
    }
    return pa.table(columns, schema=ROUTED)


def codes(column: pa.ChunkedArray, names: Sequence[str]) -> pa.Array:
    """Codes of names, 1-based; 0 for those not in `names` and for null."""
    names_array = pa.array(list(names), pa.string())
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not pa.types.is_dictionary(array.type):
        return _one_based(pc.index_in(array, names_array))
    table = _one_based(pc.index_in(array.dictionary, names_array))
    return pc.fill_null(table.take(array.indices), 0)


def _one_based(at: pa.Array) -> pa.Array:
    return pc.add(pc.fill_null(at, -1), 1).cast(pa.int16())
