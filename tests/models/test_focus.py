import dataclasses

import torch
from torch import Tensor

from models.focus import Focus, sampled_interest
from tests.models import cases


def focus(**changes: object) -> Focus:
    torch.manual_seed(0)
    settings = dataclasses.replace(cases.FOCUSED, **changes)
    made = Focus.of(settings, cases.vocabulary(interests=True))
    assert made is not None
    return made


def batch(events: int = 3) -> dict[str, Tensor]:
    made = cases.focused_batch(cases.visits(8)).inputs
    rows = torch.randn(len(made["history.item"]), cases.FOCUSED.dim)
    return {**made, "history.embedding.rows": rows}


def test_an_interest_is_one_of_those_that_the_item_carries() -> None:
    declared = {
        "item.interests.values": torch.tensor([5, 6, 7, 8]),
        "item.interests.lengths": torch.tensor([2, 0, 1, 1]),
    }
    asked = torch.tensor([0, 1, 2, 3]).repeat(50)
    found = sampled_interest(declared, asked).view(50, 4)
    assert found[:, 0].unique().tolist() == [5, 6]
    assert [found[:, i].unique().tolist() for i in (1, 2, 3)] == [[0], [7], [8]]


def test_each_target_is_foretold_in_one_way() -> None:
    made, inputs = focus(), batch()
    conditions, interests, some = made.drawn(inputs, training=True)
    under = conditions.any(1)
    assert under.any()
    assert len(some)
    assert not under[some].any()
    assert interests is not None
    assert len(interests[0]) == len(some)


def test_nothing_is_drawn_outside_training() -> None:
    conditions, _, some = focus().drawn(batch(), training=False)
    assert not conditions.any()
    assert len(some) == 0


def test_without_interests_of_items_there_are_no_conditions() -> None:
    assert Focus.of(cases.TWO_TOWER, cases.vocabulary(interests=True)) is None
    made = Focus.of(cases.FOCUSED, cases.vocabulary())
    assert made is not None
    assert made.conditions is None
    assert made.outputs == ("interests", "interest_shares")


def test_no_interest_is_nothing_to_look_for() -> None:
    conditions = focus().conditions
    assert conditions is not None
    found = conditions(torch.tensor([0, 104_729]))
    assert not found[0].any()
    assert found[1].any()
