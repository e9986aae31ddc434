"""Counts by day, item and action: read in parts, and days of them replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import item_days
from data.item_days import COUNTED, FILE, count_items, summed, with_days, write

if TYPE_CHECKING:
    from pathlib import Path

Event = tuple[int, int, int]
events = st.lists(st.tuples(st.integers(-1, 9), st.integers(1, 4), st.integers(1, 3)), max_size=40)


def counted(log: list[Event]) -> pa.Table:
    """The counts of events of (day, item, action)."""
    day, item, action = np.array(log, np.int64).reshape(-1, 3).T
    return count_items(pa.table({"item": item.astype(np.int32), "action": action}), day)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dataset")


@given(log=events, at_once=st.integers(1, 9), codes=st.sets(st.integers(1, 3)))
def test_the_counts_of_some_actions_are_read_in_parts(
    folder: Path, log: list[Event], at_once: int, codes: set[int]
) -> None:
    write(folder / FILE, [counted(log)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_days, "AT_ONCE", at_once)
        parts = list(item_days.item_days(folder, sorted(codes)))
    rows = [
        row
        for part in parts
        for row in zip(part.day, part.item, part.action, part.count, strict=True)
    ]
    expected = counted([event for event in log if event[2] in codes])
    assert rows == [tuple(row.values()) for row in expected.to_pylist()]
    assert all(len(part.day) <= at_once for part in parts)


@given(log=events, late=events, at_once=st.integers(1, 9))
def test_days_counted_again_take_the_place_of_what_there_was(
    folder: Path, log: list[Event], late: list[Event], at_once: int
) -> None:
    days = {day for day, _, _ in late}
    again = [event for event in log if event[0] in days] + late
    write(folder / FILE, [counted(log)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_days, "AT_ONCE", at_once)
        write(folder / "after.parquet", with_days(folder, counted(again)))
    assert pq.read_table(folder / "after.parquet") == counted(log + late)


@given(events, events)
def test_counts_of_one_day_item_and_action_add_up(log: list[Event], others: list[Event]) -> None:
    whole = summed([counted(log), counted(others)])
    assert whole.equals(counted(log + others))
    assert whole.schema == COUNTED
    assert sum(whole["count"].to_pylist()) == len(log) + len(others)
