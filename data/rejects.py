"""Rows and tables that cannot be used: what is wrong with them, and where."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.chunks import FILE, REJECTS, ROW, RawBlock
from data.contract.settings import UserError
from data.parsing import Mask, Parsed, whole
from data.raw_tables import FileSet, column_names

NO_REJECTS = REJECTS.empty_table()
ALIASES = {"user_id": "user", "item_id": "item movie product pin", "timestamp": "time ts date"}


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
            "file": [str(self.paths[f]) for f in rows[FILE].to_pylist()],
            "row": rows[ROW],
            "column": [column] * len(at),
            "reason": [reason] * len(at),
            "value": values,
        }
        self.rejects.append(pa.table(line, schema=REJECTS))

    def all_rejects(self) -> pa.Table:
        """Every rejected row, in the order of file and row."""
        return pa.concat_tables(self.rejects)


def check_columns(files: FileSet, needed: Sequence[str], table: str) -> None:
    """Refuses a table without a needed column. Raises UserError with what is there."""
    present = column_names(files)
    if not present:
        raise UserError(f"{files.files[0]} is empty; {table} need {', '.join(needed)}")
    for ours in needed:
        theirs = files.theirs(ours)
        if theirs not in present:
            raise UserError(_missing(files.files[0], ours, theirs, present))


def _missing(path: Path, ours: str, theirs: str, present: Sequence[str]) -> str:
    words = [theirs, *ALIASES.get(ours, "").split()]
    near = [difflib.get_close_matches(word, present, 1, 0.6) for word in words]
    guess = next((names[0] for names in near if names), None)
    remedy = f"map it with source.columns.{ours}={guess or '<column>'}"
    hint = f" (did you mean {guess}?)" if guess else ""
    return f"{path} has no column {theirs}{hint}; it has {', '.join(present)}; {remedy}"
