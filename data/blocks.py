"""Row groups of Parquet files: the units in which training is planned and read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
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


class Stage(Protocol):
    """What is made of a block where it is read; pickled, so it holds names and no open files."""

    @property
    def growth(self) -> float:
        """Bytes that come out for a byte of the block, about."""

    def __call__(self, table: pa.Table, epoch: int, rng: np.random.Generator) -> pa.Table:
        """New rows from a block's, drawn by `rng`."""


@dataclass(frozen=True, slots=True)
class StagedBlock:
    """A block as a stage makes it in one epoch.

    Attributes:
        block: what is read.
        stage: what is made of it.
        epoch: 0-based.
        entropy: seeds the stage's random stream, whoever runs it.
    """

    block: Block
    stage: Stage
    epoch: int
    entropy: tuple[int, ...]

    @property
    def num_rows(self) -> int:
        """Rows on disk."""
        return self.block.num_rows

    @property
    def num_bytes(self) -> int:
        """Bytes of what comes out, about."""
        return int(self.block.num_bytes * self.stage.growth)

    def read(self) -> pa.Table:
        """Reads the block and runs the stage."""
        rng = np.random.default_rng(np.random.SeedSequence(self.entropy))
        return self.stage(self.block.read(), self.epoch, rng)


class Sized(Protocol):
    """Something that takes memory."""

    @property
    def num_bytes(self) -> int:
        """Bytes, about."""


B = TypeVar("B", bound=Sized)


def num_rows(files: Iterable[Path]) -> int:
    """Rows of Parquet files, by their metadata."""
    return sum(pq.read_metadata(file).num_rows for file in files)


def row_groups(files: Iterable[Path]) -> Iterator[Block]:
    """All blocks of some files, in order."""
    for path in files:
        metadata = pq.read_metadata(path)
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            yield Block(path, number, group.num_rows, group.total_byte_size)


def stretches(blocks: Iterable[B], max_bytes: int) -> Iterator[list[B]]:
    """Blocks in order, as many at a time as fit in `max_bytes`, at least one."""
    stretch: list[B] = []
    total = 0
    for block in blocks:
        if stretch and total + block.num_bytes > max_bytes:
            yield stretch
            stretch, total = [], 0
        stretch.append(block)
        total += block.num_bytes
    if stretch:
        yield stretch
