"""Which arm a user is in."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.experiments import Arm, Experiment, place_of

TWO = Experiment(name="spread", arms={"control": Arm(share=0.3), "treatment": Arm(share=0.1)})


def test_arms_have_their_share_of_the_users() -> None:
    found = Counter(TWO.arm_of(user) for user in range(20_000))
    assert found["control"] / 20_000 == pytest.approx(0.3, abs=0.012)
    assert found["treatment"] / 20_000 == pytest.approx(0.1, abs=0.009)
    assert found[""] / 20_000 == pytest.approx(0.6, abs=0.012)


@given(st.integers() | st.text(max_size=9))
def test_a_user_stays_in_their_arm_when_a_later_one_grows(user_id: int | str) -> None:
    grown = Experiment(name="spread", arms={"control": Arm(share=0.3), "treatment": Arm(share=0.7)})
    before = TWO.arm_of(user_id)
    if before:
        assert grown.arm_of(user_id) == before
    assert 0 <= place_of("spread", user_id) < 1


def test_experiments_deal_users_independently() -> None:
    other = Experiment(name="other", arms=TWO.arms)
    both = sum(TWO.arm_of(u) == other.arm_of(u) == "control" for u in range(20_000))
    assert both / 20_000 == pytest.approx(0.09, abs=0.008)


def test_without_arms_nobody_is_in_it() -> None:
    assert Experiment().arm_of(3) == ""


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"arms": {"a": Arm(share=0.1)}}, "name"),
        ({"name": "x", "arms": {"a": Arm(share=0.6), "b": Arm(share=0.6)}}, "1.2 of the users"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Experiment(**fields)
