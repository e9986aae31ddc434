import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract.schema import Vocabulary
from data.contract.settings import UserError
from serve.blend import cap_per_creator, occurrence, utility_weights

VOCABULARY = Vocabulary(
    order="clock", actions=("save", "hide", "view"), polarity=("positive", "negative", "neutral")
)


def test_utility_counts_positive_and_negative_actions_unless_told_otherwise() -> None:
    assert utility_weights(VOCABULARY, {}).tolist() == [1.0, -1.0, 0.0]
    assert utility_weights(VOCABULARY, {"view": 0.5, "hide": -9}).tolist() == [1.0, -9.0, 0.5]
    with pytest.raises(UserError, match="names no action; known are save, hide, view"):
        utility_weights(VOCABULARY, {"like": 1.0})


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(1, 4), st.randoms())
def test_capping_is_a_permutation_that_only_moves_items_back(
    creators: list[int], cap: int, random: object
) -> None:
    order = np.random.default_rng(len(creators)).permutation(len(creators))
    creator = np.array(creators, np.int64)
    capped = cap_per_creator(order, creator, cap)
    assert sorted(capped.tolist()) == sorted(order.tolist())
    place = {at: n for n, at in enumerate(order.tolist())}
    counts: dict[int, int] = {}
    head = []
    for at in order.tolist():
        counts[creators[at]] = counts.get(creators[at], 0) + 1
        if creators[at] == 0 or counts[creators[at]] <= cap:
            head.append(at)
    assert capped[: len(head)].tolist() == head
    tail = [place[at] for at in capped[len(head) :].tolist()]
    assert tail == sorted(tail)


def test_without_creators_the_order_stands() -> None:
    order = np.array([2, 0, 1])
    assert cap_per_creator(order, None, 1) is order


@given(st.lists(st.integers(0, 5), max_size=30))
def test_occurrence_counts_what_came_before(values: list[int]) -> None:
    expected = [values[:n].count(value) for n, value in enumerate(values)]
    assert occurrence(np.array(values, np.int64)).tolist() == expected
