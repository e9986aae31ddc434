"""The blocklist: a file of the external ids of items that are never served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.contract.artifact import checksum
from data.contract.idspace import hash_ids
from data.contract.settings import UserError
from data.contract.storage import brought, uri_of
from data.raw_tables import damaged, is_parquet

if TYPE_CHECKING:
    from pathlib import Path

    from data.contract.encode import Ints
    from data.contract.idspace import IdSpace, Keys

ID_COLUMN = "item_id"


@dataclass(frozen=True, slots=True)
class Blocklist:
    """Items that are never served.

    Attributes:
        ids: distinct external ids, [B].
        checksum: SHA-256 of the file; empty without one.
    """

    ids: pa.Array
    checksum: str = ""

    @classmethod
    def read(cls, path: str | None, kind: pa.DataType) -> Blocklist:
        """Reads text, one id a line, or Parquet; the file may name its column in the first line.

        Args:
            path: the file, or its URI; None blocks nothing.
            kind: type of the external ids.

        Raises:
            UserError: no such file, several columns, or what cannot be an id.
        """
        if path is None:
            return cls(pa.array([], kind))
        file = brought(path)
        if not file.is_file():
            raise UserError(
                f"corpus.blocklist: {path} is not there; name a file of item ids, or null"
            )
        raw = _column(file) if is_parquet(file) else _lines(file)
        return cls(pc.unique(_cast(raw, kind, path).drop_null()), checksum(file))

    def rows(self, space: IdSpace) -> Ints:
        """Rows of those that the id space has admitted."""
        rows = space.lookup(self.ids)
        return rows[rows >= space.first_row]

    @property
    def hashes(self) -> Keys:
        """Ascending hashes of the ids, by which servers know those that are posted later."""
        return np.sort(hash_ids(self.ids))


def _lines(file: Path) -> pa.Array:
    try:
        lines = [line.strip() for line in file.read_text("utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        name = uri_of(file)
        raise UserError(f"corpus.blocklist: {name} is no UTF-8 text; write one id a line") from None
    first = 1 if lines[:1] == [ID_COLUMN] else 0
    return pa.array([line for line in lines[first:] if line], pa.string())


def _column(file: Path) -> pa.Array:
    try:
        table = pq.ParquetFile(file).read()
    except (OSError, pa.ArrowInvalid) as error:
        raise damaged(file, error) from None
    names = table.column_names
    if ID_COLUMN not in names and len(names) != 1:
        raise UserError(
            f"corpus.blocklist: {uri_of(file)} has columns {names}; name one of them {ID_COLUMN}"
        )
    return table[ID_COLUMN if ID_COLUMN in names else names[0]].combine_chunks()


def _cast(raw: pa.Array, kind: pa.DataType, path: str) -> pa.Array:
    try:
        return raw.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(
            f"corpus.blocklist: item ids are {kind} here, but {path}: {error}"
        ) from None
