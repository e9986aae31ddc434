"""Blocks: row groups in order, stretches within their bound."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from data.blocks import Block, row_groups, stretches


def test_row_groups_hold_all_rows_in_order(tmp_path: Path) -> None:
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for first, file in zip((0, 20), files, strict=True):
        table = pa.table({"row": np.arange(first, first + 20)})
        pq.write_table(table, file, row_group_size=8)
    blocks = list(row_groups(files))
    rows = [row for block in blocks for row in block.read()["row"].to_pylist()]
    assert rows == list(range(40))
    assert [block.num_rows for block in blocks] == [8, 8, 4, 8, 8, 4]


@given(sizes=st.lists(st.integers(0, 50)), limit=st.integers(1, 60))
def test_stretches_keep_order_and_stay_within_the_bound(sizes: list[int], limit: int) -> None:
    blocks = [Block(Path("none"), number, 1, size) for number, size in enumerate(sizes)]
    found = list(stretches(blocks, limit))
    assert [block for stretch in found for block in stretch] == blocks
    assert all(len(s) == 1 or sum(b.num_bytes for b in s) <= limit for s in found)
