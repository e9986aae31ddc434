from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.chunks import FILE, REJECTS, ROW, RawBlock
from data.contract.settings import UserError
from data.headers import check_columns
from data.raw_tables import FileSet
from data.validation import LogForm, check_events, id_type, refuse_unusable

NOW = 1_700_000_000_000
PATHS = (Path("a.parquet"),)
CLOCK = LogForm("clock", pa.int64(), pa.int64())


def block(**columns: list[Any] | pa.Array) -> RawBlock:
    rows = pa.table(columns)
    rows = rows.append_column(FILE, pa.array(np.zeros(len(rows), np.int32)))
    return RawBlock(rows.append_column(ROW, pa.array(np.arange(len(rows)))), REJECTS.empty_table())


def check(form: LogForm = CLOCK, files: FileSet | None = None, **columns: Any) -> Any:
    events, rejects = check_events(block(**columns), files or FileSet(files=PATHS), form, PATHS)
    return events.to_pydict(), [tuple(r.values())[1:] for r in rejects.to_pylist()]


def test_good_rows_pass_with_defaults_for_what_the_log_does_not_have() -> None:
    events, rejects = check(user_id=[1, 2], item_id=[3, 4], timestamp=[NOW, NOW + 1])
    assert rejects == []
    assert events["user_id"] == [1, 2]
    assert events["action"] == ["interact", "interact"]
    assert events["surface"] == ["home", "home"]
    assert events["received_at"] == events["timestamp"] == [NOW, NOW + 1]
    assert events["duration_s"] == [0.0, 0.0]
    assert len(set(events["event_id"])) == 2


def test_each_broken_row_is_rejected_once_with_its_place_reason_and_value() -> None:
    events, rejects = check(
        event_id=[1, None, 3, 4, 5, 6],
        user_id=[1, 2, None, 4, 5, 6],
        item_id=[1, 2, None, 4, 5, 6],
        action=["save", "save", "save", None, "save", "save"],
        timestamp=[NOW, NOW, NOW, NOW, 5, NOW],
        duration_s=[1.0, 1.0, 1.0, 1.0, 1.0, -2.0],
    )
    assert events["event_id"] == [1]
    assert sorted(rejects) == [
        (1, "event_id", "null", None),
        (2, "user_id", "null", None),
        (3, "action", "null", None),
        (4, "timestamp", "not between 1990 and 2100", "5"),
        (5, "duration_s", "negative", "-2.0"),
    ]


def test_optional_columns_may_be_null() -> None:
    events, rejects = check(
        user_id=[1],
        item_id=[2],
        timestamp=[NOW],
        received_at=pa.array([None], pa.int64()),
        surface=pa.array([None], pa.string()),
        duration_s=pa.array([None], pa.float32()),
    )
    assert rejects == []
    assert (events["received_at"], events["surface"], events["duration_s"]) == (
        [NOW],
        [None],
        [0.0],
    )


def test_a_row_gives_an_event_for_each_condition_that_it_fulfils() -> None:
    files = FileSet(files=PATHS, actions={"like": "rating>=4", "seen": "rating>=1"})
    events, rejects = check(
        files=files, user_id=[1, 2, 3], item_id=[1, 2, 3], timestamp=[NOW] * 3, rating=[5, 0, 2]
    )
    assert rejects == []
    assert list(zip(events["user_id"], events["action"], strict=True)) == [
        (1, "like"), (1, "seen"), (3, "seen")]  # fmt: skip
    assert len(set(events["event_id"])) == 3


def test_given_ids_of_derived_events_differ_by_action_and_stay_the_same() -> None:
    files = FileSet(files=PATHS, actions={"like": "rating>=4", "seen": "rating>=1"})
    columns = {"user_id": [1], "item_id": [1], "timestamp": [NOW], "rating": [5], "event_id": [9]}
    first, again = check(files=files, **columns)[0], check(files=files, **columns)[0]
    assert first["event_id"] == again["event_id"]
    assert len(set(first["event_id"])) == 2


def test_columns_are_found_by_their_own_names() -> None:
    files = FileSet(files=PATHS, columns={"user_id": "u", "item_id": "i", "timestamp": "t"})
    events, rejects = check(files=files, u=["7", "x"], i=[3, 3], t=[NOW, NOW])
    assert events["user_id"] == [7]
    assert rejects == [(1, "u", "not a whole number", "x")]


def test_string_event_ids_are_hashed_alike_everywhere() -> None:
    columns = {"user_id": [1], "item_id": [1], "timestamp": [NOW]}
    first = check(event_id=["a-1"], **columns)[0]["event_id"]
    assert first == check(event_id=pa.array(["a-1"], pa.large_string()), **columns)[0]["event_id"]
    assert first != check(event_id=["a-2"], **columns)[0]["event_id"]


def test_parts_are_read_in_any_case_and_others_are_rejected() -> None:
    form = LogForm("none", pa.int64(), pa.int64(), part_column="split")
    names = ["train", "Valid", "VALIDATION", "test", "dev", None]
    events, rejects = check(form, user_id=[1] * 6, item_id=[1] * 6, split=names)
    assert events["part"] == [0, 1, 1, 2]
    assert [(r[0], r[3]) for r in rejects] == [(4, "dev"), (5, None)]


def test_actions_that_a_root_does_not_know_are_rejected_on_a_next_day() -> None:
    form = LogForm("clock", pa.int64(), pa.int64(), actions=("save",))
    events, rejects = check(
        form, user_id=[1, 1], item_id=[1, 1], timestamp=[NOW] * 2, action=["save", "fly"]
    )
    assert events["action"] == ["save"]
    assert rejects == [(1, "action", "unknown action; this root has save", "fly")]


def test_an_order_only_log_has_no_times() -> None:
    form = LogForm("position", pa.int64(), pa.int64())
    files = FileSet(files=PATHS, columns={"position": "seq"})
    nulls = pa.array([None, None], pa.int64())
    events, rejects = check(
        form, files, user_id=[1, 1], item_id=[1, 2], seq=[5, 4], timestamp=nulls
    )
    assert rejects == []
    assert events["timestamp"] == [0, 0]
    assert events["sequence"] == [5, 4]


@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_every_row_is_either_an_event_or_a_reject(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    broken = rng.random((4, size)) < 0.2
    columns = {
        "user_id": pa.array(np.arange(size), mask=broken[0]),
        "item_id": pa.array(np.where(broken[1], "?", "5")),
        "timestamp": np.where(broken[2], 0, NOW),
        "duration_s": np.where(broken[3], np.nan, 1.0),
    }
    events, rejects = check(**columns)
    assert events["row"] == np.flatnonzero(~broken.any(0)).tolist()
    assert sorted(r[0] for r in rejects) == np.flatnonzero(broken.any(0)).tolist()


def test_a_missing_column_is_named_with_what_is_there_and_the_nearest_name(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text("user,movie_id,when\n")
    with pytest.raises(UserError) as error:
        check_columns(FileSet(files=(path,)), ["user_id", "item_id"])
    text = str(error.value)
    assert "no column user_id (did you mean user?)" in text
    assert "user, movie_id, when" in text
    assert "source.columns.user_id=user" in text


def test_ids_are_integers_but_for_a_few_or_text_but_for_a_few() -> None:
    assert id_type(pa.array([1, 2], pa.int32()), "x") == pa.int64()
    assert id_type(pa.array(["1"] * 20 + ["oops"]), "x") == pa.int64()
    assert id_type(pa.array(["a"] * 20 + ["3"]), "x") == pa.string()
    assert id_type(pa.array(["a", None, None]), "x") == pa.string()


def test_numbers_that_int64_would_change_are_text() -> None:
    assert id_type(pa.array(["7", "007"] * 9), "x") == pa.string()
    assert id_type(pa.array(["0", "10", "-3"]), "x") == pa.int64()
    assert id_type(pa.array([1, 2**63 - 1], pa.uint64()), "x") == pa.int64()
    assert id_type(pa.array([1, 2**63], pa.uint64()), "x") == pa.string()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (
            ["1", None, "oops", "4"],
            r"x holds .* 33% other text, such as 'oops' in row 2; .*text_ids",
        ),
        (["1.0", "2.0", None], r"x holds decimal numbers, such as '1.0' in row 0"),
    ],
)
def test_ids_written_in_two_ways_are_refused(ids: list[str | None], message: str) -> None:
    with pytest.raises(UserError, match=message):
        id_type(pa.array(ids), "x")


@pytest.mark.parametrize(
    ("times", "remedy"),
    [
        ([NOW // 1000] * 4, "look like seconds; set source.timestamp_unit=s"),
        ([NOW * 1000] * 4, "source.timestamp_unit=us"),
        (["2024-05-01T10:00:00Z"] * 4, "source.timestamp_unit=iso"),
        ([5] * 4, "check the column"),
        (pa.array([None] * 4, pa.int64()), "source.columns.position"),
    ],
)
def test_times_that_are_mostly_unusable_stop_the_job_with_a_remedy(times: Any, remedy: str) -> None:
    raw = block(user_id=[1] * 4, item_id=[1] * 4, timestamp=times)
    files = FileSet(files=PATHS)
    _, rejects = check_events(raw, files, CLOCK, PATHS)
    with pytest.raises(UserError, match=remedy):
        refuse_unusable(raw, files, rejects)


def test_any_column_that_is_mostly_unusable_stops_the_job() -> None:
    raw = block(user_id=["a", "b", "3"], item_id=[1] * 3, timestamp=[NOW] * 3)
    _, rejects = check_events(raw, FileSet(files=PATHS), CLOCK, PATHS)
    with pytest.raises(UserError, match=r"user_id .* not a whole number .*'a'"):
        refuse_unusable(raw, FileSet(files=PATHS), rejects)


def test_a_few_times_out_of_range_do_not_stop_the_job() -> None:
    raw = block(user_id=[1] * 4, item_id=[1] * 4, timestamp=[NOW, NOW, NOW, 5])
    _, rejects = check_events(raw, FileSet(files=PATHS), CLOCK, PATHS)
    refuse_unusable(raw, FileSet(files=PATHS), rejects)
    assert len(rejects) == 1
