"""Files of raw tables: a part per day for the logs, one growing file for what accumulates."""

from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.world.population import day_start_ms


def write_part(table: pa.Table, folder: Path, day: int) -> None:
    """Writes the only part of a day's partition, `date=YYYY-MM-DD/part-0.parquet`."""
    date = datetime.fromtimestamp(day_start_ms(day) / 1000, UTC).date()
    path = folder / f"date={date.isoformat()}" / "part-0.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial)
    partial.replace(path)


class GrowingFile:
    """A Parquet file that tables are appended to; as before when something fails.

    Rows that it has already are kept if older than `since_ms`, so that a day generated
    again replaces itself; 0 starts afresh.
    """

    def __init__(self, path: Path, time_column: str, since_ms: int) -> None:
        self.path = path
        self.num_added = 0
        self._partial = path.with_suffix(".partial")
        self._writer: pq.ParquetWriter | None = None
        self._older = pc.field(time_column) < since_ms

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def append(self, table: pa.Table) -> None:
        """Appends the rows of a table."""
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._partial, table.schema)
            if self.path.exists():
                self._writer.write_table(pq.read_table(self.path, filters=self._older))
        if table.num_rows:
            self._writer.write_table(table)
        self.num_added += table.num_rows

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._writer is None:
            return
        self._writer.close()
        if kind is None:
            self._partial.replace(self.path)
        else:
            self._partial.unlink()


class Entities(ExitStack):
    """The growing files of a folder: items, users, boards."""

    def __init__(self, folder: Path, first_day: int) -> None:
        super().__init__()
        since_ms = day_start_ms(first_day) if first_day > 1 else 0
        self.items, self.users, self.boards = (
            self.enter_context(GrowingFile(folder / f"{name}.parquet", column, since_ms))
            for name, column in (
                ("items", "created_at"),
                ("users", "created_at"),
                ("boards", "timestamp"),
            )
        )
