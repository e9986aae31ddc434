import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract.schema import DAY_MS, TIMELINE, Calendar, Vocabulary
from data.contract.settings import UserError, build
from data.splits import OUTSIDE, PARTS_KEY, TEST, TRAIN, VALID, SplitSettings, parts
from data.windows import WindowSettings, resolve

SAVE, HIDE = 1, 2
CALENDAR = Calendar(first_day_ms=5 * DAY_MS, num_days=180, base_days=180)
USERS = st.lists(st.lists(st.sampled_from([SAVE, HIDE]), min_size=1, max_size=12), max_size=8)


def vocabulary(order: str = "clock") -> Vocabulary:
    return Vocabulary(order=order, actions=("save", "hide"), polarity=("positive", "negative"))  # type: ignore[arg-type]


def timelines(actions: list[list[int]], **columns: list[list[int]]) -> pa.Table:
    zeros = [[0] * len(of_user) for of_user in actions]
    values = dict.fromkeys(TIMELINE.names, zeros) | {"action": actions} | columns
    values["user"] = columns.get("user", [17 + n for n in range(len(actions))])
    return pa.table(values, schema=TIMELINE)


def by_user(found: np.ndarray, table: pa.Table) -> list[list[int]]:
    ends = np.cumsum([len(items) for items in table["item"].to_pylist()])
    return [part.tolist() for part in np.split(found, ends[:-1])] if len(ends) else []


def split_of(kind: str, table: pa.Table, seed: int = 0, order: str = "clock") -> list[list[int]]:
    settings = SplitSettings(kind=kind, column="split" if kind == "column" else None)  # type: ignore[arg-type]
    windows = resolve(WindowSettings(), CALENDAR) if kind == "time" else None
    found = parts(table, settings, vocabulary(order), windows, CALENDAR, seed)
    return by_user(found, table)


def test_a_time_split_cuts_at_midnight_before_validation_and_test() -> None:
    days = [1, 152, 153, 166, 167, 180, 181]
    times = [CALENDAR.start_ms(day) for day in days]
    ends = [time + DAY_MS - 1 for time in times]
    table = timelines([[SAVE] * 7] * 2, timestamp=[times, ends])
    expected = [TRAIN, TRAIN, VALID, VALID, TEST, TEST, OUTSIDE]
    assert split_of("time", table) == [expected, expected]


@given(USERS)
def test_leave_one_out_holds_out_the_last_two_positives(actions: list[list[int]]) -> None:
    table = timelines(actions)
    for acted, found in zip(actions, split_of("leave_one_out", table), strict=True):
        positives = [n for n, action in enumerate(acted) if action == SAVE]
        assert found == sorted(found), "parts follow each other in time"
        held = [n for n in positives if found[n] != TRAIN]
        assert held == (positives[-2:] if len(positives) >= 3 else positives[1:][-1:])
        if held:
            assert found[positives[-1]] == TEST
            assert all(found[n] == TRAIN for n in range(held[0]))
            assert all(part == TEST for part in found[positives[-1] :])


def column_table(stored: list[list[int]], present: bytes) -> pa.Table:
    table = timelines([[SAVE] * len(of_user) for of_user in stored], part=stored)
    return table.replace_schema_metadata({PARTS_KEY: present})


def test_a_column_with_all_three_parts_is_taken_as_it_is() -> None:
    stored = [[TRAIN, VALID, TEST], [TEST, TRAIN, TRAIN]]
    assert split_of("column", column_table(stored, b"test,train,valid")) == stored


@pytest.mark.parametrize(("held", "present"), [(TEST, b"test,train"), (VALID, b"train,valid")])
@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_the_one_part_held_out_is_reported_and_a_tenth_of_training_chosen_on(
    held: int, present: bytes, sizes: list[int], seed: int
) -> None:
    stored = [[TRAIN] * size + [held] for size in sizes]
    for size, found in zip(
        sizes, split_of("column", column_table(stored, present), seed), strict=True
    ):
        assert found[-1] == TEST
        drawn = found[:-1].count(VALID)
        assert abs(drawn - size / 10) < 1
        assert drawn < max(size, 1)
        assert found.count(TEST) == 1


def test_drawn_rows_depend_on_the_seed_and_the_user_not_on_the_block() -> None:
    stored = [[TRAIN] * 50 + [TEST] for _ in range(20)]
    table = column_table(stored, b"test,train")
    whole = split_of("column", table)
    halves = split_of("column", table.slice(0, 7)) + split_of("column", table.slice(7))
    assert whole == halves
    assert whole != split_of("column", table, seed=1)
    places = [tuple(n for n, part in enumerate(found) if part == VALID) for found in whole]
    assert len(set(places)) > 10


def test_about_a_tenth_is_drawn_over_many_short_users() -> None:
    stored = [[TRAIN] * 4 + [TEST] for _ in range(2000)]
    found = split_of("column", column_table(stored, b"test,train"))
    share = sum(f.count(VALID) for f in found) / (4 * 2000)
    assert share == pytest.approx(0.1, abs=0.02)


def test_splits_that_need_what_the_log_does_not_have_are_user_errors() -> None:
    table = timelines([[SAVE]])
    with pytest.raises(UserError, match="clock"):
        parts(table, SplitSettings(), vocabulary("none"), None, None, 0)
    with pytest.raises(UserError, match="order"):
        split_of("leave_one_out", table, order="none")
    with pytest.raises(UserError, match=r"split\.column"):
        build(SplitSettings, {"kind": "column"})
    with pytest.raises(UserError, match=r"split\.column"):
        build(SplitSettings, {"column": "split"})
