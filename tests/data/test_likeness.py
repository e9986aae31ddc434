import numpy as np
import pyarrow as pa
import pytest

from data.contract.encode import Events, FeatureTable, encode_columns
from data.contract.schema import Feature
from data.likeness import CHUNK_REQUESTS, ItemColumns, likeness

FEATURES = (
    Feature(name="creator_id", kind="categorical"),
    Feature(name="interests", kind="multi"),
    Feature(name="content", kind="vector", dim=2),
)
ITEMS = 5
RAW = pa.table(
    {
        "creator_id": [None, 7, 7, 8, 8],
        "interests": [[], ["food"], ["food", "art"], ["art"], []],
        "content": pa.array([[0, 0], [1, 0], [0, 1], [3, 0], [0, -2]], pa.list_(pa.float16(), 2)),
    }
)


@pytest.fixture
def columns():
    table = FeatureTable.of("item", FEATURES, pa.table(encode_columns(RAW, FEATURES)))
    return ItemColumns.of(table, ITEMS)


def past_of(*histories):
    lengths = [len(items) for items in histories]
    item = np.array([i for items in histories for i in items], np.int32)
    zeros = np.zeros(len(item), np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Events(offsets, item, zeros, zeros, zeros, zeros.astype(np.float32))


def test_shares_are_of_the_events_whose_item_has_the_same_value(columns):
    found = likeness(past_of([1, 2, 3, 3]), np.array([3]), np.array([1, 4, 0]), columns)
    assert found["creator_id"].tolist() == [0.5, 0.5, 0]
    assert found["item"].tolist() == [0.25, 0, 0]
    assert found["interests"].tolist() == [0.5, 0, 0]


def test_shares_add_up_over_the_values_of_an_item(columns):
    found = likeness(past_of([1, 3]), np.array([1]), np.array([2]), columns)
    assert found["interests"].tolist() == [1.0]


def test_cosines_are_with_the_mean_and_with_the_newest(columns):
    found = likeness(past_of([2, 1]), np.array([2]), np.array([3, 4]), columns)["content"]
    np.testing.assert_allclose(found[:, 0], [2**-0.5, -(2**-0.5)], atol=1e-3)
    np.testing.assert_allclose(found[:, 1], [1, 0], atol=1e-3)


def test_who_did_nothing_is_like_nothing(columns):
    found = likeness(past_of([], [1]), np.array([1, 1]), np.array([1, 1]), columns)
    assert [found["creator_id"][0], *found["content"][0]] == [0, 0, 0, 0]
    assert found["creator_id"][1] == 1


def test_chunks_of_requests_change_nothing(columns):
    rng = np.random.default_rng(0)
    requests = CHUNK_REQUESTS + 3
    histories = [rng.integers(1, ITEMS, rng.integers(0, 4)) for _ in range(requests)]
    counts = rng.integers(0, 3, requests)
    items = rng.integers(0, ITEMS, int(counts.sum()))
    whole = likeness(past_of(*histories), counts, items, columns)
    ends = np.cumsum(counts)
    last = likeness(past_of(*histories[-3:]), counts[-3:], items[ends[-4] :], columns)
    for name, values in last.items():
        np.testing.assert_array_equal(whole[name][ends[-4] :], values)
