"""Blocks come out of Ray Data whole and in the order asked for, however they were read."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.blocks import Block
from ray_jobs.engine import block_reader
from ray_jobs.engine.block_reader import cut, read_tables


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.randoms())
def test_rows_are_cut_anew(sizes: list[int], random: object) -> None:
    numbers = pa.table({"row": np.arange(sum(sizes))})
    ends = [*np.cumsum(random.sample(sizes, len(sizes)))]  # type: ignore[attr-defined]
    pieces = [
        numbers.slice(start, end - start) for start, end in zip([0, *ends], ends, strict=False)
    ]
    tables = list(cut(pieces, sizes))
    assert [table.num_rows for table in tables] == sizes
    assert pa.concat_tables(tables)["row"].to_pylist() == list(range(sum(sizes)))


@pytest.mark.ray
@pytest.mark.parametrize(("stretch", "task"), [(1, 1), (128, 100), (1 << 20, 1 << 20)])
def test_blocks_are_read_in_the_planned_order(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stretch: int, task: int
) -> None:
    monkeypatch.setattr(block_reader, "STRETCH_BYTES", stretch)
    monkeypatch.setattr(block_reader, "TASK_BYTES", task)
    file, empty = tmp_path / "a.parquet", tmp_path / "empty.parquet"
    pq.write_table(pa.table({"row": np.arange(36)}), file, row_group_size=8)
    pq.write_table(pa.table({"row": np.arange(0)}), empty)
    blocks = [Block(file, number, 8 if number < 4 else 4, 64) for number in (3, 0, 4, 0)]
    blocks.insert(2, Block(empty, 0, 0, 0))
    rows = [table["row"].to_pylist() for table in read_tables(blocks)]
    first = [*range(8)]
    assert rows == [[*range(24, 32)], first, [], [*range(32, 36)], first]
