import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data.numbering import numbered


@given(st.lists(st.integers(0, 40) | st.just(100_000), max_size=30))
def test_values_are_numbered_as_by_a_sort(values: list[int]) -> None:
    given_values = np.array(values, np.int64)
    distinct, place = numbered(given_values)
    expected = np.unique(given_values, return_inverse=True)
    assert np.array_equal(distinct, expected[0])
    assert np.array_equal(place, expected[1])
