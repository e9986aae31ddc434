import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract.encode import (
    Events,
    FeatureTable,
    encode_columns,
    encode_history,
    gaps_ms,
    hash_values,
    ragged_positions,
)
from data.contract.schema import Feature

TIMES = st.lists(st.lists(st.integers(0, 50), max_size=8), min_size=1, max_size=6)
FEATURES = (
    Feature(name="size", kind="numeric"),
    Feature(name="format", kind="categorical"),
    Feature(name="tags", kind="multi"),
    Feature(name="content", kind="vector", dim=2),
)


def events_of(times: list[list[int]]) -> Events:
    lists = [sorted(of_user) for of_user in times]
    flat = np.array([t for of_user in lists for t in of_user], np.int64)
    offsets = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    numbers = np.arange(len(flat))
    return Events(
        offsets, numbers, numbers % 3 + 1, numbers % 2 + 1, flat, numbers.astype(np.float32)
    )


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=20))
def test_ragged_positions_lay_slices_end_to_end(slices) -> None:
    starts, lengths = np.array(slices, np.int64).reshape(-1, 2).T
    expected = [p for start, length in slices for p in range(start, start + length)]
    assert ragged_positions(starts, lengths).tolist() == expected


@given(TIMES, st.integers(0, 9))
def test_the_newest_events_are_the_last_of_each_user(times, size: int) -> None:
    events = events_of(times)
    expected = [
        item
        for start, end in zip(events.offsets[:-1], events.offsets[1:], strict=True)
        for item in range(max(start, end - size), end)
    ]
    newest = events.newest(size)
    assert newest.item.tolist() == expected
    assert newest.lengths.tolist() == [min(len(of_user), size) for of_user in times]


@given(TIMES, st.integers(-1, 60), st.integers(1, 9))
def test_a_request_knows_only_what_happened_before_it(times, moment: int, size: int) -> None:
    events = events_of(times)
    users = np.arange(len(times))
    known = events.before(users, np.full(len(times), moment), size)
    for user, of_user in enumerate(times):
        expected = [t for t in sorted(of_user) if t < moment][-size:]
        found = known.timestamp[known.offsets[user] : known.offsets[user + 1]]
        assert found.tolist() == expected


@given(TIMES)
def test_gaps_and_ages_are_exact_integers(times) -> None:
    events = events_of(times)
    now = np.full(len(times), 100, np.int64)
    arrays = encode_history(events, now)
    gaps, ages = [], []
    for of_user in map(sorted, times):
        gaps += [0, *np.diff(of_user).tolist()] if of_user else []
        ages += [100 - t for t in of_user]
    assert arrays["history.gap_ms"].tolist() == gaps == gaps_ms(events).tolist()
    assert arrays["history.age_ms"].tolist() == ages
    assert arrays.pop("history.duration_s").dtype == np.float32
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.int64)}


def raw(rows: list[dict[str, object]]) -> pa.Table:
    schema = pa.schema(
        [
            ("size", pa.float64()),
            ("format", pa.string()),
            ("tags", pa.list_(pa.string())),
            ("content", pa.list_(pa.float32(), 2)),
        ]
    )
    return pa.Table.from_pylist(rows, schema)


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "size": st.none() | st.floats(-1e4, 1e4, width=32),
            "format": st.none() | st.sampled_from(["video", "image"]),
            "tags": st.none() | st.lists(st.sampled_from("abc"), max_size=3),
            "content": st.just([0.5, -2.0]),
        }
    ),
    min_size=1,
    max_size=12,
)


@given(ROWS)
def test_a_block_and_single_rows_are_encoded_bit_for_bit_alike(rows) -> None:
    block = pa.table(encode_columns(raw(rows), FEATURES))
    single = [pa.table(encode_columns(raw([row]), FEATURES)) for row in rows]
    assert block.equals(pa.concat_tables(single).combine_chunks())
    stored = FeatureTable.of("item", FEATURES, block)
    gathered = stored.gather(np.arange(len(rows)))
    for number, table in enumerate(single):
        served = FeatureTable.of("item", FEATURES, table).gather(np.zeros(1, np.int64))
        offsets = np.concatenate([[0], np.cumsum(gathered["item.tags.lengths"])])
        here = slice(offsets[number], offsets[number + 1])
        np.testing.assert_array_equal(
            served["item.tags.values"], gathered["item.tags.values"][here]
        )
        for name in ("item.size", "item.format", "item.content", "item.tags.lengths"):
            np.testing.assert_array_equal(served[name][0], gathered[name][number])


def test_columns_that_are_not_there_are_encoded_as_missing() -> None:
    found = encode_columns(pa.table({"other": [1, 2]}), FEATURES)
    assert found["size"].null_count == 2
    assert found["format"].to_pylist() == [0, 0]
    assert found["tags"].null_count == found["content"].null_count == 2
    assert found["content"].type == pa.list_(pa.float16(), 2)


def test_rows_past_the_end_of_a_table_are_unknown() -> None:
    table = pa.table(encode_columns(raw([{}, {"size": 2.0}]), FEATURES[:3]))
    arrays = FeatureTable.of("item", FEATURES[:3], table).gather(np.array([1, 99]))
    assert arrays["item.size"][0] == 2.0
    assert np.isnan(arrays["item.size"][1])


@given(st.lists(st.none() | st.text(max_size=4), max_size=20))
def test_hashed_values_are_positive_and_zero_only_for_null(values) -> None:
    hashes = hash_values(pa.array(values, pa.string())).to_pylist()
    for value, hashed in zip(values, hashes, strict=True):
        assert (hashed == 0) == (value is None)
        assert hashed >= 0


@pytest.mark.parametrize("kind", [pa.int16(), pa.int64()])
def test_integers_hash_by_value_whatever_their_width(kind: pa.DataType) -> None:
    assert hash_values(pa.array([3, 500], kind)).equals(hash_values(pa.array([3, 500])))
