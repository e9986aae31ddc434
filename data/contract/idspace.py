"""Append-only id spaces: external id -> table row, the same for ever in all that extends one.

Row 0 is unknown, rows 1..H are hash buckets for ids not admitted, then one row per id in order of
admission. A run extends its parent; it never renumbers. Without a parent ids are numbered afresh:
whether two spaces share their rows, `id_lineage` tells.

On disk: `ids.arrow` in row order (id, first_seen, last_seen) and `keys.arrow` sorted by a 64-bit
hash of the id, cut into record batches by the hash's top bits. Both are memory-mapped; a look-up
of n ids costs O(n log rows) and touches only the partitions asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data.contract.settings import UserError

if TYPE_CHECKING:
    from pathlib import Path

Rows = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

PARTITION_ROWS = 1 << 22


@dataclass(frozen=True, slots=True)
class IdSpace:
    """External ids of one type and their rows.

    Attributes:
        name: "item" or "user".
        ids: external ids in row order (int64 or string); `ids[i]` has row `1 + buckets + i`.
        first_seen: ms since 1970 (0 without a clock), aligned with `ids`.
        last_seen: likewise.
        keys: sorted 64-bit hashes of the ids.
        positions: index into `ids` of each key.
        buckets: number H of hash buckets.
        major: how rows are numbered; spaces of another number are refused.
    """

    name: str
    ids: pa.Array
    first_seen: npt.NDArray[np.int64]
    last_seen: npt.NDArray[np.int64]
    keys: Keys
    positions: npt.NDArray[np.int64]
    buckets: int
    major: int = 1

    @classmethod
    def empty(cls, name: str, kind: pa.DataType, buckets: int, major: int = 1) -> IdSpace:
        """An id space without ids. `kind` is int64 or string."""
        none, no_keys = np.zeros(0, np.int64), np.zeros(0, np.uint64)
        return cls(name, pa.array([], kind), none, none, no_keys, none, buckets, major)

    @property
    def first_row(self) -> int:
        """Row of the first admitted id."""
        return 1 + self.buckets

    @property
    def rows(self) -> int:
        """Rows in use: unknown, buckets and ids."""
        return self.first_row + len(self.ids)

    def reference(self) -> dict[str, int]:
        """How manifests name the space."""
        return {"major": self.major, "rows": self.rows}

    def lookup(self, ids: pa.Array) -> Rows:
        """Rows of external ids; null gives 0, an id not admitted its hash bucket.

        Args:
            ids: [n] int64 or string, as the space holds.

        Returns:
            int64[n].
        """
        ids = self._cast(ids)
        hashes = hash_ids(ids)
        rows = self._buckets_of(hashes)
        found = self._find(ids, hashes)
        rows[found >= 0] = found[found >= 0] + self.first_row
        rows[np.asarray(ids.is_null())] = 0
        return rows

    def external(self, rows: Rows) -> pa.Array:
        """External ids of rows; null for row 0 and buckets."""
        positions = np.asarray(rows, np.int64) - self.first_row
        valid = (positions >= 0) & (positions < len(self.ids))
        return self.ids.take(pa.array(positions, mask=~valid))

    def extend(
        self, ids: pa.Array, first_seen: npt.NDArray[np.int64], last_seen: npt.NDArray[np.int64]
    ) -> IdSpace:
        """Adds the ids that are new and widens the seen span of the others.

        New ids are ordered by their hash, so the order of the input does not matter.

        Args:
            ids: [n] distinct external ids.
            first_seen: [n] ms since 1970.
            last_seen: [n] likewise.
        """
        ids = self._cast(ids)
        hashes = hash_ids(ids)
        found = self._find(ids, hashes)
        first, last = self.first_seen.copy(), self.last_seen.copy()
        old = found >= 0
        first[found[old]] = np.minimum(first[found[old]], first_seen[old])
        last[found[old]] = np.maximum(last[found[old]], last_seen[old])
        new = np.flatnonzero(~old)
        new = new[np.argsort(hashes[new], kind="stable")]
        return self._append(
            ids.take(pa.array(new)), hashes[new], first, last, (first_seen[new], last_seen[new])
        )

    def _append(
        self,
        ids: pa.Array,
        hashes: Keys,
        first: npt.NDArray[np.int64],
        last: npt.NDArray[np.int64],
        seen: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    ) -> IdSpace:
        keys = np.concatenate([self.keys, hashes])
        added = np.arange(len(self.ids), len(self.ids) + len(ids), dtype=np.int64)
        positions = np.concatenate([self.positions, added])
        order = np.argsort(keys, kind="stable")
        return IdSpace(
            self.name,
            pa.concat_arrays([self.ids, ids]),
            np.concatenate([first, seen[0]]),
            np.concatenate([last, seen[1]]),
            keys[order],
            positions[order],
            self.buckets,
            self.major,
        )

    def _cast(self, ids: pa.Array) -> pa.Array:
        if isinstance(ids, pa.ChunkedArray):
            ids = ids.combine_chunks()
        if ids.type == self.ids.type:
            return ids
        try:
            return ids.cast(self.ids.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            kinds = f"{self.name} ids are {self.ids.type} in this root, not {ids.type}"
            raise UserError(f"{kinds}; send ids of that type") from None

    def _buckets_of(self, hashes: Keys) -> Rows:
        if self.buckets == 0:
            return np.zeros(len(hashes), np.int64)
        return 1 + (hashes % np.uint64(self.buckets)).astype(np.int64)

    def _find(self, ids: pa.Array, hashes: Keys) -> Rows:
        """Index into `self.ids`, or -1. Runs of equal hashes are walked until none is left."""
        found = np.full(len(hashes), -1, np.int64)
        at = np.searchsorted(self.keys, hashes)
        open_ = np.flatnonzero(~np.asarray(ids.is_null()))
        while len(open_):
            open_ = open_[at[open_] < len(self.keys)]
            open_ = open_[self.keys[at[open_]] == hashes[open_]]
            candidates = self.positions[at[open_]]
            same = _equal(self.ids.take(pa.array(candidates)), ids.take(pa.array(open_)))
            found[open_[same]] = candidates[same]
            open_ = open_[~same]
            at[open_] += 1
        return found

    def save(self, folder: Path) -> None:
        """Writes `ids.arrow` and `keys.arrow` into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        metadata = {"name": self.name, "buckets": str(self.buckets), "major": str(self.major)}
        seen = [pa.array(self.first_seen), pa.array(self.last_seen)]
        ids = pa.table([self.ids, *seen], names=["id", "first_seen", "last_seen"])
        _write(folder / "ids.arrow", ids.replace_schema_metadata(metadata), len(ids) or 1)
        keys = pa.table([pa.array(self.keys), pa.array(self.positions)], names=["key", "position"])
        _write(folder / "keys.arrow", keys, PARTITION_ROWS)

    @classmethod
    def open(cls, folder: Path) -> IdSpace:
        """Memory-maps what `save` wrote."""
        ids, keys = _read(folder / "ids.arrow"), _read(folder / "keys.arrow")
        metadata = {k.decode(): v.decode() for k, v in (ids.schema.metadata or {}).items()}
        return cls(
            metadata["name"],
            _one(ids["id"]),
            _numpy(ids["first_seen"]),
            _numpy(ids["last_seen"]),
            _numpy(keys["key"]).view(np.uint64),
            _numpy(keys["position"]),
            int(metadata["buckets"]),
            int(metadata["major"]),
        )


def hash_ids(ids: pa.Array) -> Keys:
    """Stable 64-bit hashes of int64 or string ids (nulls hash to something).

    Integers are mixed by a bijection (splitmix64), so they never collide; strings are hashed as a
    polynomial over their UTF-8 bytes modulo 2^64, then mixed. O(total bytes), no Python per row.
    """
    if pa.types.is_integer(ids.type):
        return _mix(np.asarray(pc.fill_null(ids, 0)).astype(np.int64).view(np.uint64))
    return _mix(_polynomial(pc.fill_null(ids, "").cast(pa.large_string())))


def _polynomial(texts: pa.Array) -> Keys:
    _, offset_buffer, byte_buffer = texts.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    lengths = np.diff(offsets)
    if len(texts) == 0 or byte_buffer is None or offsets[-1] == offsets[0]:
        return np.zeros(len(texts), np.uint64)
    data = np.frombuffer(byte_buffer, np.uint8)[offsets[0] : offsets[-1]].astype(np.uint64)
    place = np.arange(len(data)) - np.repeat(offsets[:-1] - offsets[0], lengths)
    terms = (data + np.uint64(1)) * _powers(int(lengths.max()))[place]
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
    starts = offsets - offsets[0]
    found: Keys = sums[starts[1:]] - sums[starts[:-1]]
    return found


def _powers(count: int) -> Keys:
    factors = np.full(count, 0x9E3779B97F4A7C15, np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)


def _mix(x: Keys) -> Keys:
    """The finaliser of splitmix64 (Steele et al. 2014), a bijection on 64 bits."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _equal(left: pa.Array, right: pa.Array) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.equal(left, right).to_numpy(zero_copy_only=False), dtype=bool)


def _write(path: Path, table: pa.Table, batch_rows: int) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch_rows)


def _read(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _numpy(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    array: npt.NDArray[np.int64] = _one(column).to_numpy(zero_copy_only=False)
    return array
