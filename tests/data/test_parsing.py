from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import parsing
from data.contract.settings import UserError
from data.parsing import Parsed

INT64 = st.integers(-(2**63) + 1, 2**63 - 1)
YEARS = st.datetimes(datetime(1990, 1, 1), datetime(2099, 12, 31))


def faulty(parsed: Parsed) -> list[int]:
    return np.flatnonzero(np.logical_or.reduce([mask for mask, _ in parsed.faults])).tolist()


def reasons(parsed: Parsed) -> set[str]:
    return {reason for mask, reason in parsed.faults if mask.any()}


@given(st.lists(INT64, min_size=1))
def test_whole_numbers_survive_being_written_as_text(values: list[int]) -> None:
    parsed = parsing.integers(pa.array([str(v) for v in values]), "x")
    assert parsed.values.to_pylist() == values
    assert faulty(parsed) == []


def test_text_that_is_no_int64_is_faulty() -> None:
    column = pa.array(["1", "x", "", "1.5", "9223372036854775808", None, " 7 ", "+3", "1e3"])
    parsed = parsing.integers(column, "x")
    assert faulty(parsed) == [1, 2, 3, 4, 8]
    assert [parsed.values[i].as_py() for i in (0, 6, 7)] == [1, 7, 3]


def test_a_number_that_int64_does_not_hold_is_no_id() -> None:
    column = pa.array([1, 2**63 - 1, 2**63, None], pa.uint64())
    parsed = parsing.ids(column, pa.int64(), "user_id")
    assert faulty(parsed) == [2, 3]
    assert parsed.values.to_pylist()[:2] == [1, 2**63 - 1]
    assert parsing.ids(column, pa.string(), "user_id").values.to_pylist()[2] == str(2**63)
    assert faulty(parsing.event_ids(column, "event_id")) == [3]


def test_an_event_id_is_not_empty() -> None:
    assert faulty(parsing.event_ids(pa.array(["a", "", None, "1"]), "event_id")) == [1, 2]


@pytest.mark.parametrize(
    "column", [pa.array([5], pa.time32("ms")), pa.array([5], pa.duration("s"))]
)
@pytest.mark.parametrize("unit", ["ms", "iso"])
def test_a_time_of_day_or_a_span_is_no_moment(column: pa.Array, unit: str) -> None:
    with pytest.raises(UserError, match=r"column x is (time|duration)"):
        parsing.times(column, unit, "x")


def test_ids_refuse_nulls_and_empty_strings() -> None:
    parsed = parsing.ids(pa.array(["a", None, ""]), pa.string(), "user_id")
    assert faulty(parsed) == [1, 2]
    assert reasons(parsed) == {"null", "empty"}
    assert faulty(parsing.ids(pa.array([3, None]), pa.int64(), "user_id")) == [1]


@pytest.mark.parametrize("column", [pa.array([1.5]), pa.array([[1]]), pa.array([True])])
def test_a_column_that_cannot_hold_ids_is_a_user_error(column: pa.Array) -> None:
    with pytest.raises(UserError, match="user_id is"):
        parsing.ids(column, pa.int64(), "user_id")


def test_ids_that_need_not_be_there_are_null_where_nothing_is_written() -> None:
    for column in (pa.array(["a", None, ""]), pa.nulls(3)):
        parsed = parsing.optional_ids(column, pa.string(), "context_item_id")
        assert not faulty(parsed)
        assert parsed.values.to_pylist() == [column[0].as_py(), None, None]
    parsed = parsing.optional_ids(pa.array(["3", "", "x"]), pa.int64(), "context_item_id")
    assert faulty(parsed) == [2]
    assert parsed.values.to_pylist() == [3, None, None]
    with pytest.raises(UserError, match="context_item_id"):
        parsing.optional_ids(pa.array([0.5]), pa.int64(), "context_item_id")


def test_integer_ids_become_strings_in_a_log_of_strings() -> None:
    assert parsing.ids(pa.array([7]), pa.string(), "item_id").values.to_pylist() == ["7"]


@given(st.lists(YEARS, min_size=1))
def test_every_unit_gives_the_same_milliseconds(moments: list[datetime]) -> None:
    expected = [int(m.replace(tzinfo=UTC, microsecond=0).timestamp()) * 1000 for m in moments]
    seconds = pa.array([v // 1000 for v in expected])
    columns = {
        "ms": pa.array(expected),
        "s": seconds,
        "us": pa.array([v * 1000 for v in expected]),
        "iso": pa.array([m.replace(microsecond=0).isoformat() for m in moments]),
    }
    for unit, column in columns.items():
        parsed = parsing.times(column, unit, "timestamp")  # type: ignore[arg-type]
        assert parsed.values.to_pylist() == expected, unit
        assert faulty(parsed) == []


@given(YEARS, st.integers(-11, 13), st.sampled_from([0, 30, 45]))
def test_iso_zones_and_fractions_are_read(moment: datetime, hours: int, minutes: int) -> None:
    zone = timezone(timedelta(hours=hours, minutes=minutes))
    moment = max(moment, datetime(1990, 1, 3)).replace(microsecond=123_000, tzinfo=zone)
    moment = min(moment, datetime(2099, 12, 29, tzinfo=zone))
    parsed = parsing.times(pa.array([moment.isoformat()]), "iso", "timestamp")
    assert parsed.values[0].as_py() == round(moment.timestamp() * 1000)


def test_iso_dates_alone_and_malformed_ones() -> None:
    column = pa.array(["2024-02-29", "2023-02-29", "2024-01-01 10:30", "yesterday", None])
    parsed = parsing.times(column, "iso", "timestamp")
    day = datetime(2024, 2, 29, tzinfo=UTC).timestamp() * 1000
    assert parsed.values[0].as_py() == day
    assert faulty(parsed) == [1, 3]
    assert parsed.values[2].as_py() == datetime(2024, 1, 1, 10, 30, tzinfo=UTC).timestamp() * 1000


def test_times_outside_1990_to_2100_are_faulty() -> None:
    edges = [parsing.FIRST_MS - 1, parsing.FIRST_MS, parsing.END_MS - 1, parsing.END_MS]
    assert faulty(parsing.times(pa.array(edges), "ms", "timestamp")) == [0, 3]
    assert faulty(parsing.times(pa.array([1e300, float("nan")]), "ms", "timestamp")) == [0, 1]


def test_arrow_timestamps_need_no_unit() -> None:
    moment = datetime(2024, 5, 1, 12, tzinfo=UTC)
    column = pa.array([moment], pa.timestamp("us", "UTC"))
    for unit in ("ms", "s", "iso"):
        parsed = parsing.times(column, unit, "timestamp")  # type: ignore[arg-type]
        assert parsed.values[0].as_py() == moment.timestamp() * 1000


def test_a_unit_that_does_not_fit_the_type_is_a_user_error() -> None:
    with pytest.raises(UserError, match="timestamp_unit=ms"):
        parsing.times(pa.array([1]), "iso", "timestamp")


@pytest.mark.parametrize(("declared", "true"), [("ms", "s"), ("s", "ms"), ("ms", "us")])
def test_the_unit_that_fits_is_found(declared: str, true: str) -> None:
    factor = {"ms": 1, "s": 0.001, "us": 1000}[true]
    column = pa.array([int(1_700_000_000_000 * factor)] * 3)
    assert parsing.unit_that_fits(column, declared) == true  # type: ignore[arg-type]


def test_event_ids_are_numbers_also_as_text_and_hashes_otherwise() -> None:
    found = parsing.event_ids(pa.array(["17", "a-1", None]), "event_id")
    assert found.values[0].as_py() == 17
    assert found.values[1].as_py() > 0
    assert faulty(found) == [2]
    assert parsing.event_ids(pa.array([17]), "event_id").values.to_pylist() == [17]


def test_numbers_refuse_what_is_not_finite() -> None:
    parsed = parsing.numbers(pa.array(["1.5", "nan", "-2e3", "", None, "1,5"]), "x")
    assert faulty(parsed) == [1, 3, 5]
    assert faulty(parsing.numbers(pa.array([1.0, float("inf"), None]), "x")) == [1]
