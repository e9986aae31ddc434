"""Board edges as they are read: what becomes an edge, and what is rejected with row and reason."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.boards import BOARD, LEAST, MOST, UNKNOWN_ITEM, BoardIntake, check_optional, write_boards
from data.chunks import plan
from data.contract.encode import hash_values
from data.contract.idspace import IdSpace
from data.contract.settings import UserError
from data.raw_tables import FileSet
from data.rejects import NO_REJECTS

BUCKETS = 2
TIME = 1_767_225_600_000
NAN, INFINITE = float("nan"), float("inf")
Columns = dict[str, Any]
WEIGHTS = st.floats(width=32) | st.floats() | st.sampled_from([0.0, -0.0, LEAST, MOST, 5e-324])


def written(folder: Path, *tables: Columns, ids: Any = (10, 20, 30), **settings: Any) -> Any:
    """Encoded edges, (row, column, reason, value) of rejects and their count, rows read.

    Every table is a file; the id space holds `ids`, beside rows that others share.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kind = pa.array(ids).type
    space = IdSpace.empty("item", kind, BUCKETS)
    nothing = np.zeros(len(ids), np.int64)
    space.extend(pa.array(ids), nothing, nothing).save(folder / "ids")
    paths = []
    for number, columns in enumerate(tables):
        paths.append(folder / f"{number}.parquet")
        pq.write_table(pa.table(columns), paths[-1])
    files = FileSet(files=tuple(paths), **settings.pop("files", {}))
    intake = BoardIntake(
        chunks=tuple(plan([files], 1000)),
        paths=tuple(paths),
        item_ids=folder / "ids",
        folder=folder,
        first_part=0,
        rejects=folder,
        **{"block_rows": 1000, "dated": False} | settings,
    )
    rows, reasons = write_boards(intake, 0)
    found = [pq.read_table(path) for path in sorted(folder.glob("part-boards-*.parquet"))]
    rejects = pa.concat_tables([NO_REJECTS, *found]).to_pylist()
    assert reasons == Counter(f"{reject['column']} {reject['reason']}" for reject in rejects)
    lines = [tuple(reject[n] for n in ("row", "column", "reason", "value")) for reject in rejects]
    return pq.read_table(folder / "part-00000.parquet"), lines, rows


def external(folder: Path, edges: pa.Table) -> list[Any]:
    return IdSpace.open(folder / "ids").external(edges["item"].to_numpy()).to_pylist()


def test_edges_without_time_and_weight_have_time_0_and_weight_1(tmp_path: Path) -> None:
    edges, rejects, rows = written(tmp_path, {"board_id": [7, -8, 7], "item_id": [10, 30, 10]})
    assert edges.schema == BOARD
    assert edges["board"].to_pylist() == [7, -8, 7]
    assert external(tmp_path, edges) == [10, 30, 10]
    assert edges["weight"].to_pylist() == [1.0] * 3
    assert edges["timestamp"].to_pylist() == [0] * 3
    assert (rejects, rows) == ([], 3)


def test_text_boards_are_hashed_and_names_and_units_are_as_mapped(tmp_path: Path) -> None:
    columns = {"list": ["a", "12", "b"], "film": ["x", "y", "x"], "at": [TIME // 1000] * 3}
    mapping = {"board_id": "list", "item_id": "film", "timestamp": "at", "weight": "w"}
    edges, rejects, _ = written(
        tmp_path,
        columns | {"w": [0.5, 1.0, 2.0]},
        ids=("x", "y"),
        files={"columns": mapping, "timestamp_unit": "s"},
        dated=True,
    )
    a, b = hash_values(pa.array(["a", "b"])).to_pylist()
    assert edges["board"].to_pylist() == [a, 12, b]
    assert external(tmp_path, edges) == ["x", "y", "x"]
    assert edges["weight"].to_pylist() == [0.5, 1.0, 2.0]
    assert edges["timestamp"].to_pylist() == [TIME] * 3
    assert rejects == []


@pytest.mark.parametrize(
    ("change", "column", "reason", "value"),
    [
        ({"board_id": [1, None, 1]}, "board_id", "null", None),
        ({"board_id": ["a", "", "a"]}, "board_id", "empty", ""),
        ({"item_id": [10, None, 10]}, "item_id", "null", None),
        ({"item_id": [10, 11, 10]}, "item_id", UNKNOWN_ITEM, "11"),
        ({"item_id": ["10", "ten", "10"]}, "item_id", "not a whole number", "ten"),
        ({"item_id": ["10", "[10]", "10"]}, "item_id", "not a whole number", "[10]"),
        ({"timestamp": [TIME, 12, TIME]}, "timestamp", "not between 1990 and 2100", "12"),
        ({"timestamp": [str(TIME), "noon", str(TIME)]}, "timestamp", "not a number", "noon"),
        ({"weight": [1.0, None, 1.0]}, "weight", "null", None),
        ({"weight": [1.0, NAN, 1.0]}, "weight", "not finite", "nan"),
        ({"weight": [1.0, INFINITE, 1.0]}, "weight", "not finite", "inf"),
        ({"weight": [1.0, -INFINITE, 1.0]}, "weight", "not finite", "-inf"),
        ({"weight": [1.0, -0.5, 1.0]}, "weight", "negative", "-0.5"),
        ({"weight": [1, 0, 1]}, "weight", "0: no edge", "0"),
        ({"weight": [1.0, 1e39, 1.0]}, "weight", "not between 1.2e-38 and 3.4e+38", "1e+39"),
        ({"weight": [1.0, 1e-46, 1.0]}, "weight", "not between 1.2e-38 and 3.4e+38", "1e-46"),
        ({"weight": ["1", "heavy", "1"]}, "weight", "not a number", "heavy"),
        ({"weight": ["1", "nan", "1"]}, "weight", "not a number", "nan"),
    ],
)  # fmt: skip
def test_an_edge_that_cannot_be_used_is_rejected_with_its_row_and_reason(
    tmp_path: Path, change: Columns, column: str, reason: str, value: str | None
) -> None:
    columns = {"board_id": [1, 1, 1], "item_id": [10, 20, 30]} | change
    edges, rejects, rows = written(tmp_path, columns)
    assert rejects == [(1, column, reason, value)]
    assert rows == 3
    assert edges.num_rows == 2
    assert 20 not in external(tmp_path, edges)


def test_a_row_is_rejected_once_for_its_first_fault(tmp_path: Path) -> None:
    columns = {"board_id": [None, 1], "item_id": [99, 99], "weight": [-1.0, -1.0]}
    edges, rejects, _ = written(tmp_path, columns)
    assert edges.num_rows == 0
    assert rejects == [(0, "board_id", "null", None), (1, "item_id", UNKNOWN_ITEM, "99")]


def test_a_time_may_be_left_out_only_where_the_log_has_no_clock(tmp_path: Path) -> None:
    columns = {"board_id": [1, 2], "item_id": [10, 20], "timestamp": [TIME, None]}
    edges, rejects, _ = written(tmp_path / "undated", columns)
    assert edges["timestamp"].to_pylist() == [TIME, 0]
    assert rejects == []
    edges, rejects, _ = written(tmp_path / "dated", columns, dated=True)
    assert edges["timestamp"].to_pylist() == [TIME]
    assert rejects == [(1, "timestamp", "null", None)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"board_id": [1.5]}, r"board_id of .*0\.parquet is double"),
        ({"item_id": [[10]]}, r"item_id of .*0\.parquet is list.*ids are whole numbers"),
        ({"item_id": [10.0]}, r"item_id of .*0\.parquet is double"),
        ({"timestamp": [[TIME]]}, r"timestamp of .*0\.parquet is list.*not numbers"),
        ({"weight": [[1.0]]}, r"weight of .*0\.parquet is list.*not numbers; cast it"),
        ({"weight": [True]}, r"weight of .*0\.parquet is bool, not numbers; cast it"),
    ],
)
def test_columns_of_no_use_are_explained(tmp_path: Path, change: Columns, message: str) -> None:
    with pytest.raises(UserError, match=message):
        written(tmp_path, {"board_id": [1], "item_id": [10]} | change)


def test_rejects_name_the_file_and_row_across_files_and_blocks(tmp_path: Path) -> None:
    tables = [{"board_id": [1] * 5, "item_id": [10, 99, 10, 10, 10]},
              {"board_id": [2] * 5, "item_id": [10, 10, 10, 10, 99]}]  # fmt: skip
    edges, rejects, rows = written(tmp_path, *tables, block_rows=2)
    assert edges["board"].to_pylist() == [1] * 4 + [2] * 4
    assert [row for row, *_ in rejects] == [1, 4]
    assert rows == 10


@pytest.mark.parametrize("column", ["weight", "timestamp"])
def test_a_column_that_only_some_files_have_is_refused(tmp_path: Path, column: str) -> None:
    edge: Columns = {"board_id": [1], "item_id": [10]}
    paths = tmp_path / "a.parquet", tmp_path / "b.parquet"
    pq.write_table(pa.table(edge | {column: [TIME]}), paths[0])
    pq.write_table(pa.table(edge), paths[1])
    with pytest.raises(UserError, match=rf"b\.parquet has no column {column}, but .*a\.parquet"):
        check_optional(FileSet(files=paths))
    check_optional(FileSet(files=paths[:1]))


@given(st.lists(WEIGHTS, min_size=1, max_size=20))
def test_weights_that_are_written_are_above_0_and_finite(
    tmp_path_factory: pytest.TempPathFactory, weights: list[float]
) -> None:
    columns = {"board_id": range(len(weights)), "item_id": [10] * len(weights), "weight": weights}
    edges, rejects, _ = written(tmp_path_factory.mktemp("boards"), columns)
    good = [n for n, weight in enumerate(weights) if LEAST <= weight <= MOST]
    assert edges["board"].to_pylist() == good
    assert edges["weight"].to_pylist() == [float(np.float32(weights[n])) for n in good]
    assert sorted([*good, *(row for row, *_ in rejects)]) == list(range(len(weights)))
