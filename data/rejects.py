"""Rows that cannot be used: what is wrong with them, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.chunks import FILE, REJECTS, ROW, RawBlock
from data.contract.storage import uri_of
from data.parsing import Mask, Parsed, whole

NO_REJECTS = REJECTS.empty_table()


@dataclass(slots=True)
class Inspection:
    """Rows under inspection: which are bad so far, and why.

    Attributes:
        rows: raw rows with FILE and ROW.
        paths: file name by number.
        bad: [N] rows rejected so far.
        rejects: their lines.
    """

    rows: pa.Table
    paths: Sequence[Path]
    bad: Mask
    rejects: list[pa.Table]

    @classmethod
    def of(cls, block: RawBlock, paths: Sequence[Path]) -> Inspection:
        """Starts with the lines that could not be read."""
        return cls(block.rows, paths, np.zeros(block.rows.num_rows, bool), [block.rejects])

    @property
    def first_file(self) -> str:
        """The file of the first row, for messages about a whole column."""
        files = self.rows[FILE]
        return uri_of(self.paths[files[0].as_py() if len(files) else 0])

    def accept(self, column: str, parsed: Parsed) -> pa.Array:
        """Rejects the rows that `parsed` found faults in; gives its values."""
        for mask, reason in parsed.faults:
            new = mask & ~self.bad
            if new.any():
                self._reject(np.flatnonzero(new), column, reason)
                self.bad |= new
        return parsed.values

    def _reject(self, at: npt.NDArray[np.int64], column: str, reason: str) -> None:
        rows = self.rows.take(pa.array(at))
        value = whole(rows[column]) if column in rows.column_names else pa.nulls(len(at))
        values = [None if v is None else str(v) for v in value.to_pylist()]
        line = {
            "file": [uri_of(self.paths[f]) for f in rows[FILE].to_pylist()],
            "row": rows[ROW],
            "column": [column] * len(at),
            "reason": [reason] * len(at),
            "value": values,
        }
        self.rejects.append(pa.table(line, schema=REJECTS))

    def all_rejects(self) -> pa.Table:
        """Every rejected row, in the order of file and row."""
        return pa.concat_tables(self.rejects).sort_by([("file", "ascending"), ("row", "ascending")])
