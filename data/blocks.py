"""Row groups of Parquet files: the units in which training is planned and read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(frozen=True, slots=True)
class Block:
    """One row group of a file.

    Attributes:
        path: the file.
        row_group: its number in the file.
        num_rows: rows in it.
        num_bytes: bytes that it takes in memory, about.
    """

    path: Path
    row_group: int
    num_rows: int
    num_bytes: int

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """Reads the rows; all columns unless some are named."""
        file = pq.ParquetFile(self.path, memory_map=True)
        return file.read_row_group(self.row_group, columns=columns)


def row_groups(files: Iterable[Path]) -> Iterator[Block]:
    """All blocks of some files, in order."""
    for path in files:
        metadata = pq.read_metadata(path)
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            yield Block(path, number, group.num_rows, group.total_byte_size)


def stretches(blocks: Iterable[Block], max_bytes: int) -> Iterator[list[Block]]:
    """Blocks in order, as many at a time as fit in `max_bytes`, at least one."""
    stretch: list[Block] = []
    total = 0
    for block in blocks:
        if stretch and total + block.num_bytes > max_bytes:
            yield stretch
            stretch, total = [], 0
        stretch.append(block)
        total += block.num_bytes
    if stretch:
        yield stretch
