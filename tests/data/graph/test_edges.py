"""Edges of boards and of users: which there are, to the millisecond, and what they hold."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.boards import BOARD
from data.contract.schema import DAY_MS
from data.graph import edges
from data.graph.edges import (
    BOARD_IDS,
    are_dated,
    board_edges,
    board_files,
    has_boards,
    no_edges,
    user_edges,
)
from data.graph.store import EDGE
from data.splits import TEST, TRAIN, VALID
from tests.data.rows import HIDE, SAVE, START, rows_of_a_log

PARTS = (TRAIN, VALID, TEST)
Row = tuple[int, int, float, int]  # board, item, weight, timestamp

board_rows = st.lists(
    st.tuples(
        st.sampled_from([-(2**62), -5, 0, 7, 2**62]),
        st.integers(0, 6),
        st.sampled_from([1.0, 2.5]),
        st.integers(0, 5),
    ),
    max_size=30,
)


def dataset_of(folder: Path, *files: list[Row], names: Any = BOARD.names) -> Any:
    """A data set with one file of board edges for each list; items 1 and 2 are shared rows."""
    (folder / "boards").mkdir(parents=True)
    for number, rows in enumerate(files):
        columns = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
        table = pa.table(dict(zip(BOARD.names, columns, strict=True)), schema=BOARD)
        pq.write_table(table.select(names), folder / "boards" / f"part-{number:05d}.parquet")
    return SimpleNamespace(
        artifact=SimpleNamespace(path=folder), item_ids=SimpleNamespace(first_row=3)
    )


def rows_of(blocks: Any) -> list[Row]:
    """All rows of blocks, which must have the schema of edges."""
    tables = list(blocks())
    assert all(table.schema == EDGE for table in tables)
    return [tuple(row.values()) for table in tables for row in table.to_pylist()]


def test_boards_are_numbered_by_ascending_id_across_files(tmp_path: Path) -> None:
    first = [(900, 3, 1.0, 10), (-4, 5, 0.5, 11), (900, 4, 2.0, 12)]
    dataset = dataset_of(tmp_path, first, [(31, 3, 1.0, 13), (-4, 3, 1.0, 14)])
    blocks, num_boards = board_edges(dataset, None, tmp_path / "graph")
    assert num_boards == 3
    assert np.load(tmp_path / "graph" / BOARD_IDS).tolist() == [-4, 31, 900]
    expected = [(2, 3, 1.0, 10), (0, 5, 0.5, 11), (2, 4, 2.0, 12), (1, 3, 1.0, 13), (0, 3, 1.0, 14)]
    assert rows_of(blocks) == expected
    assert rows_of(blocks) == expected


def test_an_edge_of_the_last_millisecond_is_known_and_one_of_the_cutoff_is_not(
    tmp_path: Path,
) -> None:
    dataset = dataset_of(tmp_path, [(1, 3, 1.0, 999), (2, 3, 1.0, 1000), (3, 3, 1.0, 1001)])
    blocks, num_boards = board_edges(dataset, 1000, tmp_path / "graph")
    assert rows_of(blocks) == [(0, 3, 1.0, 999)]
    assert num_boards == 1
    assert np.load(tmp_path / "graph" / BOARD_IDS).tolist() == [1]


def test_edges_to_rows_that_items_share_are_left_out(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, [(1, row, 1.0, 0) for row in range(5)] + [(0, 2, 1.0, 0)])
    blocks, num_boards = board_edges(dataset, None, tmp_path / "graph")
    assert rows_of(blocks) == [(0, 3, 1.0, 0), (0, 4, 1.0, 0)]
    assert num_boards == 1


def test_edges_of_a_data_set_from_before_weights_weigh_one(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, [(8, 3, 9.0, 5)], names=["board", "item", "timestamp"])
    later = pa.table([[8], [4], [0.25], [6]], schema=BOARD)
    pq.write_table(later, tmp_path / "boards" / "part-00001.parquet")
    blocks, _ = board_edges(dataset, None, tmp_path / "graph")
    assert rows_of(blocks) == [(0, 3, 1.0, 5), (0, 4, 0.25, 6)]


@given(st.lists(board_rows, max_size=3), st.one_of(st.none(), st.integers(0, 6)), st.integers(1, 9))
def test_edges_are_those_of_the_table_before_the_cutoff(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[list[Row]],
    last_ms: int | None,
    block_rows: int,
) -> None:
    folder = tmp_path_factory.mktemp("boards")
    dataset = dataset_of(folder, *files)
    end = 6 if last_ms is None else last_ms
    known = [row for rows in files for row in rows if row[1] >= 3 and row[3] < end]
    ids = sorted({row[0] for row in known})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edges, "BLOCK_ROWS", block_rows)
        blocks, num_boards = board_edges(dataset, last_ms, folder / "graph")
        assert rows_of(blocks) == [(ids.index(board), *rest) for board, *rest in known]
    assert num_boards == len(ids)


def test_a_data_set_without_files_of_edges_has_no_boards(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path)
    assert not has_boards(dataset)
    (tmp_path / "boards" / "part-00000.parquet").touch()
    assert has_boards(dataset)
    assert [file.name for file in board_files(dataset)] == ["part-00000.parquet"]
    assert list(no_edges()) == []


def test_users_are_boards_of_what_they_engaged_with_first(log_of) -> None:
    rows = [
        (2, 7, SAVE, 3, 0),
        (2, 5, HIDE, 4, 0),
        (1, 7, SAVE, 5, 0),
        (2, 7, SAVE, 6, 0),
        (2, 5, SAVE, 7, 0),
    ]
    at = [START + (row[3] - 1) * DAY_MS + n for n, row in enumerate(rows)]
    blocks = user_edges(log_of(rows), PARTS, None)
    assert rows_of(blocks) == [(1, 7, 1.0, at[2]), (2, 7, 1.0, at[0]), (2, 5, 1.0, at[4])]
    assert rows_of(user_edges(log_of(rows), PARTS, at[4])) == [
        (1, 7, 1.0, at[2]), (2, 7, 1.0, at[0])
    ]  # fmt: skip
    assert rows_of(user_edges(log_of(rows), PARTS, at[0])) == []


def test_the_first_time_is_that_of_the_parts_that_may_be_read(log_of) -> None:
    rows = [(1, 4, SAVE, 2, VALID), (1, 4, SAVE, 3, TRAIN), (1, 6, SAVE, 4, TEST)]
    blocks = user_edges(log_of(rows, kind="column"), (TRAIN,), None)
    assert rows_of(blocks) == [(1, 4, 1.0, START + 2 * DAY_MS + 1)]


def test_held_out_events_of_leave_one_out_are_no_edges(log_of) -> None:
    rows = [(1, item, SAVE, 1, 0) for item in (3, 4, 5, 6)]
    log = log_of(rows, kind="leave_one_out")
    assert [row[1] for row in rows_of(user_edges(log, (TRAIN,), None))] == [3, 4]
    assert [row[1] for row in rows_of(user_edges(log, (TRAIN, VALID), None))] == [3, 4, 5]


def test_items_without_a_row_of_their_own_are_nobodys_edges(log_of) -> None:
    log = log_of([(1, 2, SAVE, 1, 0), (1, 3, SAVE, 1, 0)])
    log.dataset.item_ids.first_row = 3
    assert [row[1] for row in rows_of(user_edges(log, PARTS, None))] == [3]


@given(
    rows_of_a_log,
    st.sets(st.sampled_from(PARTS), min_size=1),
    st.one_of(st.none(), st.integers(0, 180 * 3).map(lambda third: START + third * DAY_MS // 3)),
    st.integers(1, 3),
)
def test_no_edge_is_of_another_part_of_another_polarity_or_too_late(
    log_of, rows, parts: set[int], last_ms: int | None, num_blocks: int
) -> None:
    timed = [(START + (row[3] - 1) * DAY_MS + n, *row) for n, row in enumerate(rows)]
    expected: dict[tuple[int, int], int] = {}
    for time, user, item, action, _, part in sorted(timed):
        if action == SAVE and part in parts and (last_ms is None or time < last_ms):
            expected.setdefault((user, item), time)
    blocks = user_edges(log_of(rows, kind="column", blocks=num_blocks), sorted(parts), last_ms)
    found = rows_of(blocks)
    assert {(user, item): time for user, item, _, time in found} == expected
    assert len(found) == len(expected)
    assert {weight for *_, weight, _ in found} <= {1.0}


@pytest.mark.parametrize(
    ("files", "dated"),
    [
        ([], False),
        ([[(1, 3, 1.0, 0)]], False),
        ([[], [(1, 3, 1.0, 0)]], False),
        ([[(1, 3, 1.0, 0)], [(2, 3, 1.0, 0), (2, 4, 1.0, 9)]], True),
    ],
)
def test_boards_are_dated_when_some_edge_has_a_time(
    tmp_path: Path, files: list[list[Row]], dated: bool
) -> None:
    assert are_dated(dataset_of(tmp_path, *files)) == dated
