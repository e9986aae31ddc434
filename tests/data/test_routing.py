from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from data.contract.schema import DAY_MS, Calendar
from data.routing import Routing, codes


def routing(calendar: Calendar | None, groups: tuple[int, ...] = (1,), shards: int = 4) -> Routing:
    return Routing(
        folder=Path(),
        rejects=Path(),
        paths=(),
        ids={},
        actions=(),
        surfaces=(),
        calendar=calendar,
        first_open_day=1,
        num_shards=shards,
        group_starts=groups,
    )


def test_days_begin_at_midnight_and_do_not_exist_without_a_clock() -> None:
    calendar = Calendar(first_day_ms=10 * DAY_MS, num_days=3, base_days=3)
    times = np.array([10 * DAY_MS, 11 * DAY_MS - 1, 11 * DAY_MS, 10 * DAY_MS - 1])
    assert routing(calendar).day_of(times).tolist() == [1, 1, 2, 0]
    assert routing(None).day_of(times).tolist() == [0, 0, 0, 0]


def test_days_outside_all_groups_go_to_the_nearest() -> None:
    calendar = Calendar(first_day_ms=0, num_days=30, base_days=30)
    days = np.array([-5, 1, 9, 10, 19, 20, 700])
    assert routing(calendar, (1, 10, 20)).group_of(days).tolist() == [0, 0, 0, 1, 1, 2, 2]


@given(st.lists(st.integers(0, 2**40), max_size=50), st.integers(1, 9))
def test_a_user_has_one_shard_whatever_the_block(users: list[int], shards: int) -> None:
    found = routing(None, shards=shards).shard_of(np.array(users, np.int64))
    assert ((found >= 0) & (found < shards)).all()
    again = [routing(None, shards=shards).shard_of(np.array([u]))[0] for u in users]
    assert found.tolist() == again


def test_shards_are_filled_evenly() -> None:
    found = routing(None, shards=8).shard_of(np.arange(8000))
    assert (np.abs(np.bincount(found) - 1000) < 150).all()


@given(st.lists(st.none() | st.sampled_from(["save", "hide", "fly"]), max_size=20))
def test_codes_are_one_based_and_zero_for_what_is_unknown(names) -> None:
    expected = [{"hide": 1, "save": 2}.get(name, 0) for name in names]
    plain = pa.chunked_array([pa.array(names, pa.string())])
    coded = pa.chunked_array([pa.array(names, pa.string()).dictionary_encode()])
    for column in (plain, coded):
        assert codes(column, ("hide", "save")).to_pylist() == expected
