"""Items of one image are one; an item of unknown image is one by itself."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data.contract.signatures import Copies, image_keys

SIGNATURES = st.lists(st.integers(0, 6), max_size=25)


def test_without_signatures_every_item_is_one_by_itself() -> None:
    rows = np.array([5, 9, 7])
    for signatures in (None, np.zeros(3, np.int64)):
        assert image_keys(signatures, rows).tolist() == [-5, -9, -7]
    assert image_keys(np.array([8, 0, 8]), rows).tolist() == [8, -9, 8]


@given(SIGNATURES)
def test_keys_are_equal_for_one_known_image_and_no_others(signatures: list[int]) -> None:
    keys = image_keys(np.array(signatures, np.int64), np.arange(len(signatures)))
    for i, first in enumerate(signatures):
        for j, second in enumerate(signatures):
            assert (keys[i] == keys[j]) == (i == j or first == second > 0)


@given(SIGNATURES, st.lists(st.integers(0, 6), max_size=4))
def test_copies_are_those_of_brute_force(signatures: list[int], wanted: list[int]) -> None:
    keys = image_keys(np.array(signatures, np.int64), np.arange(len(signatures)))
    copies = Copies.of(keys)
    counts = np.arange(2 * len(keys)).reshape(2, -1) ** 2
    summed = copies.summed(counts)
    for at, key in enumerate(keys):
        np.testing.assert_array_equal(summed[:, at], counts[:, keys == key].sum(1))
    alone = [at for at, key in enumerate(keys) if (keys == key).sum() == 1]
    assert sorted(copies.rows.tolist() + alone) == list(range(len(keys)))
    assert all(a <= b for a, b in pairwise(copies.keys.tolist()))
    shown = copies.showing(np.array(wanted, np.int64))
    expected = [at for key in wanted for at in np.flatnonzero(keys == key) if at not in alone]
    assert sorted(shown.tolist()) == sorted(expected)


def test_counts_of_items_without_copies_are_not_even_copied() -> None:
    counts = np.ones((3, 4), np.int32)
    assert Copies.of(-np.arange(4)).summed(counts) is counts
