import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from data.batching import interaction_batch
from data.graph.interactions import Interactions
from data.negatives import PoolSampler


def interactions(users: list[int], items: list[list[int]]) -> Interactions:
    lists = pa.FixedSizeListArray.from_arrays(
        pa.array(np.ravel(items).astype(np.int32)), len(items[0])
    )
    return Interactions.of(pa.table({"user": users, "items": lists}))


def test_rows_travel_unchanged() -> None:
    made = interactions([3, 4], [[5, 6, 7], [8, 5, 9]])
    assert made.positive.tolist() == [5, 8]
    assert made.drawn.tolist() == [6, 7, 5, 9]
    assert made.take(np.array([1])).items.tolist() == [[8, 5, 9]]


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=8),
    st.lists(st.integers(1, 20), min_size=1, max_size=8, unique=True),
)
def test_a_positive_is_no_negative_of_its_own(positives: list[int], pool: list[int]) -> None:
    made = interactions([1] * len(positives), [[item] for item in positives])
    arrays = made.arrays(np.array(sorted(pool)))
    known = {
        (row, sorted(pool)[place])
        for row, place in zip(arrays["known.query"], arrays["known.pool"], strict=True)
    }
    assert known == {(row, item) for row, item in enumerate(positives) if item in pool}


def test_a_pool_is_no_larger_than_was_asked_for() -> None:
    made = interactions([1, 2, 3], [[5, 6], [7, 8], [9, 6]])
    pools = PoolSampler(np.arange(5, 20), np.full(20, 0.05), 0, 2)
    batch = interaction_batch(made, pools, np.random.default_rng(0))
    assert batch.inputs["pool.item"].tolist() == [6, 8]
    assert batch.inputs["query"].tolist() == [1, 2, 3]
    assert batch.inputs["positive"].tolist() == [5, 7, 9]
    assert batch.ids == {}
