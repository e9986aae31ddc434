from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.admission import count_ids, merge_counts, no_counts
from data.attributes import Attributes, read_attributes
from data.contract.idspace_settings import IdSettings
from data.contract.schema import DAY_MS, Calendar
from data.contract.settings import UserError
from data.enrolment import MAX_GAP_DAYS, Enrolled, calendar, group_starts, vocabulary
from data.rejects import NO_REJECTS

IDS = st.lists(st.integers(0, 9), max_size=40)
NOBODY = read_attributes([], "user_id", pa.int64())


def counts(ids: list[int], start: int = 0) -> pa.Table:
    times = pa.array(np.arange(len(ids)) + start, pa.int64())
    return count_ids(pa.array(ids, pa.int64()), times)


@given(st.lists(IDS, max_size=5))
def test_counts_of_blocks_add_up(blocks: list[list[int]]) -> None:
    merged = merge_counts([counts(ids, 100 * n) for n, ids in enumerate(blocks)], pa.int64())
    whole = [(i, 100 * n + row) for n, ids in enumerate(blocks) for row, i in enumerate(ids)]
    found = {r["id"]: (r["count"], r["first"], r["last"]) for r in merged.to_pylist()}
    assert found == {
        i: (len(t), min(t), max(t))
        for i in {i for i, _ in whole}
        if (t := [time for j, time in whole if j == i])
    }


def test_ids_are_admitted_from_their_min_count_th_event_on() -> None:
    before = Enrolled.empty("user", pa.int64(), IdSettings(min_count=2, buckets=4))
    first = before.after(counts([1, 1, 2]), NOBODY, 2)
    assert first.space.ids.to_pylist() == [1]
    assert first.pending["id"].to_pylist() == [2]
    second = first.after(counts([2, 3], start=50), NOBODY, 2)
    assert second.space.ids.to_pylist() == [1, 2]
    assert second.space.first_seen.tolist() == [0, 2]
    assert second.space.last_seen.tolist() == [1, 50]
    assert second.pending["id"].to_pylist() == [3]


def test_ids_of_the_table_are_always_admitted_and_seen_since_they_were_created() -> None:
    table = Attributes(pa.array([5, 6]), np.array([70, 80]), pa.table({}), NO_REJECTS)
    before = Enrolled.empty("item", pa.int64(), IdSettings(min_count=9, buckets=4))
    after = before.after(counts([6], start=90), table, 9)
    seen = dict(zip(after.space.ids.to_pylist(), after.space.first_seen.tolist(), strict=True))
    assert seen == {5: 70, 6: 90}


def test_what_is_saved_opens_again(tmp_path: Path) -> None:
    before = Enrolled.empty("user", pa.string(), IdSettings(min_count=2))
    ids = count_ids(pa.array(["a", "a", "b"]), pa.array([1, 2, 3]))
    before.after(ids, read_attributes([], "user_id", pa.string()), 2).save(tmp_path)
    opened = Enrolled.open(tmp_path)
    assert opened.space.ids.to_pylist() == ["a"]
    assert opened.pending["id"].to_pylist() == ["b"]
    assert no_counts(pa.string()).schema.equals(opened.pending.schema)


def test_codes_do_not_depend_on_the_order_in_which_names_were_seen() -> None:
    found = vocabulary("clock", ["save", "hide", "click"], ["web", None, "app"], {})
    assert found.actions == ("click", "hide", "save")
    assert found.polarity == ("positive", "negative", "positive")
    assert found.surfaces == ("app", "web")
    assert vocabulary("clock", ["save"], [None], {}).surfaces == ("home",)


def test_polarities_can_be_declared_for_actions_that_are_there() -> None:
    found = vocabulary("clock", ["save", "see"], [], {"see": "neutral"})
    assert found.polarity == ("positive", "neutral")
    with pytest.raises(UserError, match=r"source\.polarity\.sea.*see"):
        vocabulary("clock", ["see"], [], {"sea": "neutral"})


def test_a_log_without_a_positive_action_has_nothing_to_learn() -> None:
    with pytest.raises(UserError, match=r"no action .* positive \(hide, see\).*source\.polarity"):
        vocabulary("clock", ["see", "hide"], [], {"see": "neutral"})


def test_a_column_of_hundreds_of_names_is_no_action_column() -> None:
    with pytest.raises(UserError, match=r"source\.columns\.action"):
        vocabulary("clock", [str(n) for n in range(2000)], [], {})


def test_a_calendar_spans_the_first_log_and_grows_with_later_days() -> None:
    first = calendar({20_000: 1, 20_003: 1}, None)
    assert first == Calendar(first_day_ms=20_000 * DAY_MS, num_days=4, base_days=4)
    assert calendar({20_004: 1}, first).num_days == 5
    assert calendar({20_001: 1}, first).num_days == 4
    assert calendar({}, first) == first


def test_a_calendar_does_not_jump_to_a_far_wall_clock() -> None:
    first = calendar({20_000: 1, 20_003: 1}, None)
    far = 20_003 + MAX_GAP_DAYS + 1
    assert calendar({far: 1}, first) == first
    assert calendar({20_004: 1, far - 20: 1, far: 1}, first).num_days == far - 20_000 + 1


@pytest.mark.parametrize("strays", [{7_500: 1}, {47_000: 2}, {7_500: 1, 7_600: 1, 47_000: 1}])
def test_a_few_wrong_clocks_make_no_days(strays: dict[int, int]) -> None:
    log = {20_000: 999, 20_090: 1, 20_180: 1, 20_181: 1000}
    expected = Calendar(first_day_ms=20_000 * DAY_MS, num_days=182, base_days=182)
    assert calendar(log | strays, None) == expected


def test_days_beyond_a_gap_count_where_they_are_not_few() -> None:
    assert calendar({7_500: 3, 20_000: 2000}, None).num_days == 12_501
    assert calendar({20_000: 2000, 20_300: 3}, None).num_days == 301
    assert calendar({20_000: 2000, 20_090: 1}, None).num_days == 91
    assert calendar({7_500: 1, 20_000: 1}, None).num_days == 12_501


@given(st.dictionaries(st.integers(1, 60), st.integers(1, 50), min_size=1), st.integers(1, 100))
def test_groups_of_days_are_consecutive_and_not_overfull(days: dict[int, int], size: int) -> None:
    starts = group_starts(days, size)
    assert starts[0] == min(days)
    group = np.searchsorted(starts, sorted(days), side="right")
    totals = np.bincount(group, [days[day] for day in sorted(days)])[1:]
    assert (totals < size + 50).all()
    assert (totals[:-1] >= size).all()
