import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.negatives import PoolSampler

ITEMS = 50


def pool_of(positives, in_batch, random):
    share = np.full(ITEMS, 1 / ITEMS)
    sampler = PoolSampler(np.arange(2, ITEMS), share, in_batch, random)
    return sampler.sample(np.array(positives), np.random.default_rng(0))


@given(st.lists(st.integers(2, ITEMS - 1), min_size=1, max_size=60), st.integers(1, 40))
def test_pools_are_of_one_size_however_few_the_positives(positives, in_batch):
    pool = pool_of(positives, in_batch, random=8)
    assert np.exp(pool.log_count).sum() == pytest.approx(in_batch + 8, rel=1e-5)
    assert np.exp(pool.log_q).sum() <= in_batch + 8 + 1e-3


def test_a_pool_of_positives_alone_takes_no_random_items():
    pool = pool_of([3, 4, 4], in_batch=10, random=0)
    assert pool.item.tolist() == [3, 4]
