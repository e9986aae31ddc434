"""How near candidates are to what was liked: by hand."""

import math

import torch

from models.reading import (
    LIKENESS_SCALE,
    SHARPNESS,
    Items,
    Reading,
    likeness,
    matches,
    normalised,
    related,
)
from tests.models import cases
from tests.models.cases import Visit, rows_of, tables


def reading(liked: list[float], recent: list[float]) -> Reading:
    """One user with three events whose items point along the axes, behind an empty start."""
    items = torch.cat([torch.zeros(1, 3), torch.eye(3)]).unsqueeze(0)
    weights = (normalised(torch.tensor([w])) for w in (liked, recent))
    ahead = torch.tensor([[0.0, 0, 1]])
    states = torch.zeros(1, 3), torch.zeros(1, 4, 3), torch.zeros(1, 4)
    codes = torch.tensor([[[0, 0], [5, 7], [5, 0], [6, 7]]])
    hidden = normalised(torch.tensor([[0.0, 1, 0, 1]]))
    about, about_codes = torch.tensor([[0.0, 1, 0]]), torch.tensor([[6, 0]])
    expected = (ahead, -ahead, codes, hidden)
    return Reading(*states, items, *weights, *expected, about, about_codes)


def test_likeness_is_the_average_the_nearest_the_latest_and_what_is_expected() -> None:
    read = reading([0, 1, 1, 0], [0, 0.25, 0.75, 0])
    candidates = torch.tensor([[[2.0, 0, 0], [0, 0, 5.0]]])
    near, far = likeness(candidates, read)[0] / LIKENESS_SCALE
    nearest = math.log((math.exp(SHARPNESS) + 1) / 2) / SHARPNESS
    assert torch.allclose(near, torch.tensor([0.5, nearest, 0.25, 0, 0]), atol=1e-5)
    assert torch.allclose(far, torch.tensor([0, 0, 0, 1.0, -1.0]), atol=1e-5)


def test_matches_are_shares_of_what_was_liked_and_hidden_with_a_category() -> None:
    read = reading([0, 1, 1, 2], [0] * 4)
    found = matches(torch.tensor([[[5, 7], [6, 0], [9, 9]]]), read)
    assert torch.allclose(found[0, 0], torch.tensor([0.5, 0.5, 0.75, 1.0]))
    assert torch.allclose(found[0, 1], torch.tensor([0.5, 0.5, 0, 0]))
    assert not found[0, 2].any()


def test_related_are_the_cosine_with_the_context_and_equal_categories() -> None:
    asked = Items(torch.tensor([[[0.0, 3, 0], [4, 0, 0]]]), torch.tensor([[[5, 0], [6, 7]]]))
    found = related(asked, reading([0] * 4, [0] * 4))
    assert found.tolist() == [[[LIKENESS_SCALE, 0, 0], [0, 1, 0]]]


def test_who_has_liked_nothing_is_near_to_nothing() -> None:
    assert not likeness(torch.ones(1, 2, 3), reading([0] * 4, [0] * 4))[..., :3].any()


def test_liked_are_the_positive_events_and_recent_ones_weigh_more() -> None:
    core = cases.ranker()
    batch, _ = cases.shared([Visit(1, (3, 6, 9, 12), ())])
    batch.inputs["history.action"] = torch.tensor([1, 3, 2, 1])  # save, hide, click, save
    rows = rows_of(batch, tables())
    items = core.item.described({**batch.inputs, "item_id.rows": rows["item_id"]})
    past = items.take(batch.inputs["history.item"])
    inputs = {**batch.inputs, "user_id.rows": rows["user_id"]}
    read = core.user(inputs, past, items.take(torch.tensor([0])), 6)
    assert torch.allclose(read.liked, torch.tensor([[0, 1, 0, 1, 1, 0, 0]]) / 3)
    assert read.recent[0, 4] > read.recent[0, 3] > read.recent[0, 1] > 0
    assert not read.recent[0, [0, 2, 5, 6]].any()
    assert read.hidden[0].tolist() == [0, 0, 1, 0, 0, 0, 0]
    assert read.codes[0, :, 0].tolist() == [0, *past.codes[:, 0].tolist(), 0, 0]
    assert torch.allclose(read.items[0, 1:5].norm(dim=-1), torch.ones(4), atol=1e-5)
