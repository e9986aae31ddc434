"""Raw rows and past events -> named arrays, word for word the same in training and in serving.

Only exact, integer host work happens here: look-ups, windows, hashing, gaps in milliseconds. All
float arithmetic and everything with statistics lies inside the models.

Names of arrays:
    history.lengths [B], history.item [H] rows, history.action [H], history.surface [H],
    history.gap_ms [H] (to the event before; 0 for the first), history.age_ms [H] (to the request)
    history.duration_s float32 [H] (0 where unknown), history.time_ms [H] (since 1970)
    trend.counts int64 [N, S] (positive events in the S spans of days before), trend.age_ms [N]
    <side>.<numeric> float32 [N], <side>.<categorical> int64 [N],
    <side>.<multi>.values int64 [M] with .lengths [N], <side>.<vector> float32 [N, D]
where B requests have H events in all and N rows are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data.contract.idspace import hash_ids
from data.contract.schema import Feature

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from data.contract.schema import ValueType

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Arrays = dict[str, npt.NDArray[np.generic]]


# Of a history, and the narrowest type that holds them.
HISTORY_COLUMNS: dict[str, type[np.generic]] = {
    "item": np.int32,
    "action": np.int16,
    "surface": np.int16,
    "timestamp": np.int64,
    "duration_s": np.float32,
}


def ragged_positions(starts: Ints, lengths: Ints) -> Ints:
    """Positions of many slices laid end to end.

    Args:
        starts: [B] first position of each slice.
        lengths: [B] its length.

    Returns:
        int64[sum(lengths)].
    """
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    positions: Ints = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
    return positions


@dataclass(frozen=True, slots=True)
class Events:
    """Past events of B users, oldest first, laid end to end.

    Attributes:
        offsets: int64[B + 1].
        item: rows of the item id space, [H].
        action: codes, [H].
        surface: codes, [H].
        timestamp: ms since 1970, [H]; all 0 in a log without a clock.
        duration_s: seconds spent, float32[H]; 0 where unknown.
    """

    offsets: Ints
    item: Ints
    action: Ints
    surface: Ints
    timestamp: Ints
    duration_s: Floats

    @property
    def lengths(self) -> Ints:
        """Events of each user, [B]."""
        return np.diff(self.offsets)

    @classmethod
    def join(cls, groups: Sequence[Events]) -> Events:
        """The users of all groups, one group after the other."""
        lengths = np.concatenate([np.zeros(0, np.int64), *(group.lengths for group in groups)])
        columns = (
            np.concatenate([getattr(group, name) for group in groups] or [np.zeros(0, kind)])
            for name, kind in HISTORY_COLUMNS.items()
        )
        return cls(_offsets(lengths), *columns)

    @classmethod
    def empty(cls, lengths: Ints) -> Events:
        """Room for so many events of each user [B], to be filled."""
        offsets = _offsets(lengths)
        columns = (np.zeros(offsets[-1], kind) for kind in HISTORY_COLUMNS.values())
        return cls(offsets, *columns)

    def fill(self, users: Ints, events: Events) -> None:
        """Writes all events of some users [U] in their places."""
        at = ragged_positions(self.offsets[users], events.lengths)
        for name in HISTORY_COLUMNS:
            getattr(self, name)[at] = getattr(events, name)

    def at(self, positions: Ints | Mask | slice, offsets: Ints) -> Events:
        """Some of the events, laid end to end anew: those of user b begin at `offsets[b]`."""
        return Events(offsets, *(getattr(self, name)[positions] for name in HISTORY_COLUMNS))

    def chosen(self, mask: Mask) -> Events:
        """The events where `mask` [H] holds; users stay, some without events."""
        return self.at(mask, np.concatenate([[0], np.cumsum(mask)])[self.offsets])

    def cut(self, starts: Ints, lengths: Ints) -> Events:
        """Slices by absolute position: `starts[b] : starts[b] + lengths[b]`, [W] of either."""
        return self.at(ragged_positions(starts, lengths), _offsets(lengths))

    def newest(self, max_length: int) -> Events:
        """The newest `max_length` events of each user."""
        lengths = np.minimum(self.lengths, max_length)
        return self.cut(self.offsets[1:] - lengths, lengths)

    def before(self, users: Ints, times: Ints, max_length: int) -> Events:
        """The newest events of `users[q]` strictly before `times[q]`: what a request could know.

        Args:
            users: [Q] indices into the users held here.
            times: [Q] ms since 1970.
            max_length: events kept for each request.
        """
        ends = self.positions_before(users, times)
        lengths = np.minimum(ends - self.offsets[users], max_length)
        return self.cut(ends - lengths, lengths)

    def positions_before(self, users: Ints, times: Ints) -> Ints:
        """Position one past the last event of `users[q]` before `times[q]`, by bisection. [Q]."""
        low, high = self.offsets[users].copy(), self.offsets[users + 1].copy()
        while (searching := low < high).any():
            middle = (low + high) // 2
            earlier = searching & (
                self.timestamp[np.minimum(middle, len(self.timestamp) - 1)] < times
            )
            low = np.where(earlier, middle + 1, low)
            high = np.where(searching & ~earlier, middle, high)
        return low


def _offsets(lengths: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def encode_history(events: Events, now_ms: Ints | None = None) -> Arrays:
    """Named arrays of B histories.

    Args:
        events: what each request knows, already cut to the model's length.
        now_ms: [B] time of each request; without it there is no `history.age_ms`.
    """
    arrays: Arrays = {
        "history.lengths": events.lengths,
        "history.item": events.item.astype(np.int64),
        "history.action": events.action.astype(np.int64),
        "history.surface": events.surface.astype(np.int64),
        "history.gap_ms": gaps_ms(events),
        "history.time_ms": events.timestamp.astype(np.int64),
        "history.duration_s": events.duration_s,
    }
    if now_ms is not None:
        arrays["history.age_ms"] = np.repeat(now_ms, events.lengths) - events.timestamp
    return arrays


def gaps_ms(events: Events) -> Ints:
    """Milliseconds to the event before of the same user; 0 for the first. [H]."""
    gaps = np.diff(events.timestamp, prepend=np.int64(0)).astype(np.int64)
    firsts = events.offsets[:-1][events.lengths > 0]
    gaps[firsts] = 0
    return gaps


def encode_trends(counts: npt.NDArray[np.integer], created_at: Ints, now_ms: Ints | int) -> Arrays:
    """Named arrays of how items do at a moment.

    Args:
        counts: positive events in the days before, a column for each of TREND_DAYS, [..., S].
        created_at: [...] ms since 1970, 0 where unknown.
        now_ms: the moment, [...] or one.

    Returns:
        `trend.counts` int64[..., S] and `trend.age_ms` int64[...], -1 where unknown.
    """
    age = np.maximum(now_ms - created_at, 0)
    return {
        "trend.counts": counts.astype(np.int64),
        "trend.age_ms": np.where(created_at > 0, age, -1).astype(np.int64),
    }


def encode_columns(table: pa.Table, features: Sequence[Feature]) -> dict[str, pa.Array]:
    """Encodes the declared columns of raw item or user rows; a column not there is all null.

    Args:
        table: raw rows.
        features: the declared columns.

    Returns:
        name -> numeric float32 (null stays null), categorical int64 hash (null is 0), multi
        list<int64>, vector fixed_size_list<float16>.
    """
    return {f.name: _encode_column(table, f) for f in features}


def _encode_column(table: pa.Table, feature: Feature) -> pa.Array:
    if feature.name not in table.column_names:
        return _absent(feature, table.num_rows)
    column = table[feature.name].combine_chunks()
    if feature.kind == "numeric":
        return column.cast(pa.float32(), safe=False)
    if feature.kind == "categorical":
        return hash_values(_as_type(column, feature.values))
    if feature.kind == "multi":
        return _hash_lists(column, feature.values)
    return column.cast(pa.list_(pa.float16(), feature.dim))


def _absent(feature: Feature, rows: int) -> pa.Array:
    if feature.kind == "categorical":
        return pa.array(np.zeros(rows, np.int64))
    kinds = {
        "numeric": pa.float32(),
        "multi": pa.list_(pa.int64()),
        "vector": pa.list_(pa.float16(), feature.dim),
    }
    return pa.nulls(rows, kinds[feature.kind])


def hash_values(values: pa.Array) -> pa.Array:
    """Positive 63-bit hashes of integers or strings; null is 0."""
    whole = pa.types.is_integer(values.type)
    plain = values if whole else values.cast(pa.large_string())
    hashes = (hash_ids(plain) >> np.uint64(1)).astype(np.int64)
    hashes[np.asarray(values.is_null())] = 0
    return pa.array(hashes)


INTEGER = r"^[+-]?\d{1,19}$"
LARGEST = "9223372036854775807"


def whole_numbers(texts: pa.Array) -> pa.Array:
    """Text such as 12, +3 or -4 as int64; null where it is none, or beyond 64 bits."""
    texts = pc.utf8_trim_whitespace(texts)
    digits = pc.utf8_ltrim(texts, "+-")
    longest = pc.equal(pc.utf8_length(digits), len(LARGEST))
    fits = pc.or_(pc.invert(longest), pc.less_equal(digits, LARGEST))
    good = pc.and_(pc.match_substring_regex(texts, INTEGER), fits)
    return pc.if_else(good, pc.utf8_ltrim(texts, "+"), None).cast(pa.int64())


def _as_type(values: pa.Array, kind: ValueType) -> pa.Array:
    """Values as the column's own type: whole numbers that are written as text, and the reverse."""
    if kind == "int64" and not pa.types.is_integer(values.type):
        return whole_numbers(values.cast(pa.string()))
    written = kind != "string" or not pa.types.is_primitive(values.type)
    return values if written else values.cast(pa.string())


def _hash_lists(column: pa.Array, kind: ValueType) -> pa.Array:
    lists = column.cast(pa.large_list(column.type.value_type))
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    offsets = np.concatenate([[0], np.cumsum(np.asarray(lengths))]).astype(np.int32)
    values = hash_values(_as_type(lists.flatten(), kind))
    return pa.ListArray.from_arrays(pa.array(offsets), values)


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """Encoded columns by row, memory-mapped, with vectorised gathers.

    Attributes:
        side: prefix of the array names, "item" or "user".
        features: the declared columns.
        columns: their encoded columns, one entry a row of the id space.
    """

    side: str
    features: tuple[Feature, ...]
    columns: dict[str, pa.Array]

    @classmethod
    def open(cls, side: str, features: Sequence[Feature], path: Path) -> FeatureTable:
        """Memory-maps an Arrow file with a column for each feature."""
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        return cls.of(side, features, table)

    @classmethod
    def of(cls, side: str, features: Sequence[Feature], table: pa.Table) -> FeatureTable:
        """Takes the columns of an encoded table."""
        columns = {f.name: table[f.name].combine_chunks() for f in features}
        return cls(side, tuple(features), columns)

    def only(self, names: Sequence[str]) -> FeatureTable:
        """Some of the columns."""
        chosen = tuple(f for f in self.features if f.name in names)
        return FeatureTable(self.side, chosen, {f.name: self.columns[f.name] for f in chosen})

    def hashes(self, name: str) -> Ints | None:
        """A categorical column [rows], 0 where unknown; None where there is no such column."""
        if not any(f.name == name and f.kind == "categorical" for f in self.features):
            return None
        values: Ints = self.columns[name].to_numpy()
        return values

    def gather(self, rows: Ints) -> Arrays:
        """Named arrays of `rows` [N]; a row past the end is an unknown one (row 0)."""
        arrays: Arrays = {}
        for feature in self.features:
            column = self.columns[feature.name]
            known = np.where(rows < len(column), rows, 0)
            arrays |= _gather(f"{self.side}.{feature.name}", feature, column, known)
        return arrays


def _gather(name: str, feature: Feature, column: pa.Array, rows: Ints) -> Arrays:
    if feature.kind == "multi":
        return _gather_lists(name, column, rows)
    if feature.kind == "vector":
        return {name: _vectors(column, feature.dim)[rows].astype(np.float32)}
    if column.null_count:  # numbers, some unknown: as an array all rows would be copied
        return {name: column.take(pa.array(rows)).to_numpy(zero_copy_only=False)}
    return {name: column.to_numpy()[rows]}


def _gather_lists(name: str, column: pa.Array, rows: Ints) -> Arrays:
    offsets = np.asarray(column.offsets).astype(np.int64)
    lengths = offsets[rows + 1] - offsets[rows]
    values = np.asarray(column.values)[ragged_positions(offsets[rows], lengths)]
    return {f"{name}.values": values, f"{name}.lengths": lengths}


def _vectors(column: pa.Array, dim: int) -> npt.NDArray[np.float16]:
    """[rows, dim] view of a fixed-size list column without nulls."""
    flat: npt.NDArray[np.float16] = np.asarray(column.values).reshape(-1, dim)
    return flat[column.offset : column.offset + len(column)]
