"""Blocks come out of Ray Data whole and in the order asked for, however they were read."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.blocks import Block, StagedBlock
from data.contract.storage import StorageError
from ray_jobs.engine import block_reader
from ray_jobs.engine.block_reader import PLACE, read_tables, split


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.data())
def test_rows_are_cut_by_their_places(sizes: list[int], data: st.DataObject) -> None:
    places = np.repeat(np.arange(len(sizes)), sizes)
    numbers = pa.table({"row": np.arange(len(places)), PLACE: places.astype(np.int32)})
    cuts = sorted(data.draw(st.sets(st.integers(0, len(places)), max_size=4)))
    ends = [0, *cuts, len(places)]
    pieces = [numbers.slice(start, end - start) for start, end in itertools.pairwise(ends)]
    tables = list(split(pieces, len(sizes)))
    assert [table.num_rows for table in tables] == sizes
    assert pa.concat_tables(tables)["row"].to_pylist() == list(range(len(places)))


class Repeated:
    """Repeats a block's rows as often as the epoch says; of an odd first row it leaves nothing."""

    growth = 2.0

    def __call__(self, table: pa.Table, epoch: int, rng: np.random.Generator) -> pa.Table:
        times = 0 if table["row"][0].as_py() % 16 else epoch
        drawn = np.full(table.num_rows * times, rng.integers(1 << 30))
        return pa.concat_tables([table] * times or [table.slice(0, 0)]).append_column(
            "drawn", pa.array(drawn)
        )


@pytest.mark.ray
def test_a_stage_runs_where_blocks_are_read(ray_cluster: None, tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"row": np.arange(32)}), file, row_group_size=8)
    asked = [(0, 1), (1, 2), (2, 2), (0, 2)]
    blocks = [
        StagedBlock(Block(file, number, 8, 64), Repeated(), epoch, (number, epoch))
        for number, epoch in asked
    ]
    tables = list(read_tables(blocks))
    assert [table.num_rows for table in tables] == [8, 0, 16, 16]
    assert tables[2]["row"].to_pylist() == [*range(16, 24)] * 2
    assert tables[3].equals(blocks[3].read())


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


@pytest.mark.ray
def test_blocks_without_end_are_read_as_far_as_they_are_asked_for(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_reader, "STRETCH_BYTES", 200)
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"row": np.arange(32)}), file, row_group_size=8)
    blocks = itertools.cycle(Block(file, number, 8, 64) for number in range(4))
    tables = read_tables(blocks)
    rows = [table["row"][0].as_py() for table in itertools.islice(tables, 6)]
    tables.close()
    assert rows == [0, 8, 16, 24, 0, 8]


class Unanswered:
    """A stage whose storage does not answer."""

    growth = 1.0

    def __call__(self, table: pa.Table, epoch: int, rng: np.random.Generator) -> pa.Table:
        raise StorageError("s3://company/root cannot be read: connection reset")


@pytest.mark.ray
def test_what_the_user_can_mend_is_raised_as_in_the_task(ray_cluster: None, tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"row": np.arange(8)}), file)
    block = StagedBlock(Block(file, 0, 8, 64), Unanswered(), 0, (0,))
    with pytest.raises(
        StorageError, match=r"^s3://company/root cannot be read: connection reset$"
    ) as caught:
        list(read_tables([block]))
    assert type(caught.value) is StorageError
