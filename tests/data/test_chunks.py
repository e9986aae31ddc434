from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import chunks
from data.chunks import FILE, ROW, RawBlock, plan, read
from data.contract.settings import UserError
from data.raw_tables import FileSet

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=5)


def blocks_of(files: FileSet, block_rows: int, columns=("a", "b")) -> list[RawBlock]:
    chunks = plan([files], block_rows)
    return [block for chunk in chunks for block in read(chunk, columns, block_rows)]


def log(folder: Path, sizes: list[int], suffix: str) -> tuple[FileSet, list[tuple[int, int, int]]]:
    """Files of the given sizes; the rows expected as (file, row, a)."""
    paths, expected = [], []
    for number, size in enumerate(sizes):
        path = folder / f"{number}{suffix}"
        values = np.arange(size) + 1000 * number
        table = pa.table({"a": values, "b": values.astype(str)})
        if suffix == ".csv":
            pa_csv.write_csv(table, path)
        else:
            pq.write_table(table, path, row_group_size=7)
        paths.append(path)
        expected += [(number, row, int(value)) for row, value in enumerate(values)]
    return FileSet(files=tuple(paths)), expected


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@given(sizes=SIZES, block_rows=st.integers(1, 50))
def test_every_row_is_read_once_with_its_place(tmp_path_factory, suffix, sizes, block_rows) -> None:
    files, expected = log(tmp_path_factory.mktemp("log"), sizes, suffix)
    blocks = blocks_of(files, block_rows)
    found = [
        (row[FILE], row[ROW], int(row["a"])) for b in blocks for row in b.rows.to_pylist()
    ]  # fmt: skip
    assert found == expected
    assert all(b.rows.num_rows <= max(block_rows, 1) for b in blocks)
    assert sum(chunk.num_rows for chunk in plan([files], block_rows)) == len(expected)


def test_a_row_group_larger_than_a_block_is_read_in_several(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": np.arange(100)}), tmp_path / "a.parquet", row_group_size=100)
    blocks = blocks_of(FileSet(files=(tmp_path / "a.parquet",)), 30)
    assert [b.rows.num_rows for b in blocks] == [30, 30, 30, 10]
    assert np.concatenate([b.rows[ROW].to_numpy() for b in blocks]).tolist() == list(range(100))


def test_a_line_of_another_shape_is_rejected_and_the_rest_keeps_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,x\n2\n3,y,z\n4,w\n")
    (block,) = blocks_of(FileSet(files=(path,)), 100)
    assert block.rows["a"].to_pylist() == ["1", "4"]
    assert block.rows[ROW].to_pylist() == [0, 3]
    assert [(r["row"], r["value"]) for r in block.rejects.to_pylist()] == [(1, "2"), (2, "3,y,z")]


def test_a_last_line_without_an_end_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,x\n2,y")
    blocks = blocks_of(FileSet(files=(path,)), 1)
    assert [b.rows["a"].to_pylist() for b in blocks] == [["1"], ["2"]]


def test_each_csv_file_has_its_own_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,x\n")
    (tmp_path / "b.csv").write_text("b,c,a\ny,0,2\n")
    files = FileSet(files=(tmp_path / "a.csv", tmp_path / "b.csv"))
    (block,) = blocks_of(files, 10)
    assert block.rows.select(["a", "b"]).to_pylist() == [{"a": "1", "b": "x"}, {"a": "2", "b": "y"}]


VALUES = st.text('a",\n', max_size=4)


@given(
    rows=st.lists(st.tuples(VALUES, st.sampled_from(['5" x', "b", ""]), VALUES), max_size=20),
    block_rows=st.integers(1, 7),
    step=st.sampled_from([1, 5, 1 << 20]),
)
def test_a_value_in_quotes_is_read_whole_wherever_a_file_is_cut(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str, str]],
    block_rows: int,
    step: int,
) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace('"', '""') + '"'

    path = tmp_path_factory.mktemp("quotes") / "a.csv"
    lines = [f"{n},{quoted(a)},{b},{quoted(c)}" for n, (a, b, c) in enumerate(rows)]
    path.write_text("\n".join(["n,a,b,c", *lines]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "TEXT_STEP_BYTES", step)
        files = FileSet(files=(path,))
        blocks = [
            b for c in plan([files], block_rows) for b in read(c, ["a", "b", "c"], block_rows)
        ]
    assert not sum(block.rejects.num_rows for block in blocks)
    found = [row for block in blocks for row in block.rows.to_pylist()]
    assert [row[ROW] for row in found] == list(range(len(rows)))
    assert [tuple(row[name] or "" for name in "abc") for row in found] == rows


@pytest.mark.parametrize("rest", ["", "\n4,d\n", "\n4,d,e\n"])
def test_a_quote_that_is_never_closed_is_told(tmp_path: Path, rest: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text('n,a\n1,"b"\n2,5" c\n3,"oh' + rest)
    with pytest.raises(UserError, match=r'a.csv holds a quote that is never closed, at "oh;'):
        [*read(plan([FileSet(files=(path,))], 100)[0], ["n", "a"], 100)]


def test_columns_that_are_not_there_are_left_out(tmp_path: Path) -> None:
    files, _ = log(tmp_path, [3], ".parquet")
    (block,) = blocks_of(files, 10, ("a", "c"))
    assert block.rows.column_names == ["a", FILE, ROW]


def test_files_that_disagree_about_a_type_are_a_user_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"a": [[1]]}), tmp_path / "b.parquet")
    files = FileSet(files=(tmp_path / "a.parquet", tmp_path / "b.parquet"))
    with pytest.raises(UserError, match="disagree"):
        blocks_of(files, 10)


def test_integers_of_several_widths_are_one_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([1], pa.int32())}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"a": pa.array([2], pa.int64())}), tmp_path / "b.parquet")
    files = FileSet(files=(tmp_path / "a.parquet", tmp_path / "b.parquet"))
    (block,) = blocks_of(files, 10)
    assert block.rows["a"].to_pylist() == [1, 2]


def test_what_is_no_parquet_and_what_is_no_text_are_user_errors(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"hello")
    (tmp_path / "a.csv").write_bytes(b"a,b\n\xff\xfe,1\n")
    with pytest.raises(UserError, match="not a readable Parquet"):
        plan([FileSet(files=(tmp_path / "a.parquet",))], 10)
    with pytest.raises(UserError, match="utf8"):
        blocks_of(FileSet(files=(tmp_path / "a.csv",)), 10)
