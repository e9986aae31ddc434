from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from data.exchange import gather, read_table, spill, write_table


@given(st.lists(st.lists(st.integers(0, 4), max_size=30), min_size=1, max_size=4))
def test_every_row_arrives_in_its_partition_in_the_order_of_files_and_rows(
    tmp_path_factory, blocks: list[list[int]]
) -> None:
    folder = tmp_path_factory.mktemp("spill")
    paths = []
    for number, partition in enumerate(blocks):
        table = pa.table(
            {"block": np.full(len(partition), number), "row": np.arange(len(partition))}
        )
        paths.append(folder / f"{number}.arrow")
        spill(table, np.array(partition, np.int64), 5, paths[-1])
    for wanted in range(5):
        found = gather(paths, wanted, table.schema)
        assert list(zip(found["block"].to_pylist(), found["row"].to_pylist(), strict=True)) == [
            (number, row)
            for number, partition in enumerate(blocks)
            for row, at in enumerate(partition)
            if at == wanted
        ]


def test_a_table_survives_its_file_also_when_empty(tmp_path: Path) -> None:
    for table in (pa.table({"a": ["x", None]}), pa.table({"a": pa.array([], pa.string())})):
        write_table(table, tmp_path / "t.arrow")
        assert read_table(tmp_path / "t.arrow").equals(table)
