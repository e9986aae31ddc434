"""States of a history foretell what is liked next."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from models import next_positive
from models.next_positive import NextPositive
from tests.models import cases
from tests.models.cases import Visit, rows_of, tables


def test_the_loss_is_a_softmax_over_the_items_of_the_batch() -> None:
    torch.manual_seed(0)
    foretell = NextPositive()
    items, ahead = torch.randn(9, 4), F.normalize(torch.randn(3, 4), dim=-1)
    liked, weight = torch.tensor([2, 0, 8]), torch.tensor([1.0, 0.0, 3.0])
    leaves = [ahead.requires_grad_(), items.requires_grad_(), foretell.log_sharpness]
    scores = foretell.log_sharpness.exp() * (ahead @ F.normalize(items, dim=-1).T)
    each = F.cross_entropy(scores, liked, reduction="none")
    expected = (each * weight).sum() / weight.sum()
    loss = foretell(ahead, items, liked, weight)
    assert torch.allclose(loss, expected, atol=1e-5)
    wanted = torch.autograd.grad(expected, leaves)
    for one, other in zip(torch.autograd.grad(loss, leaves), wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_of_a_large_batch_a_sample_is_learnt_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(next_positive, "POOL", 5)
    monkeypatch.setattr(next_positive, "MOST_TARGETS", 4)
    torch.manual_seed(0)
    foretell, items = NextPositive(), torch.randn(9, 4)
    ahead, liked = F.normalize(torch.randn(6, 4), dim=-1), torch.arange(6)
    unit, scale = F.normalize(items, dim=-1), foretell.log_sharpness.exp()
    torch.manual_seed(1)
    found = foretell(ahead, items, liked, torch.ones(6))
    torch.manual_seed(1)
    some, pool = torch.randperm(6)[:4].tolist(), torch.randperm(9)[:5].tolist()
    each = []
    for t in some:
        places = [int(liked[t]), *(p for p in pool if p != liked[t])]
        scores = scale * (unit[places] @ ahead[t])
        each.append(F.cross_entropy(scores.unsqueeze(0), torch.tensor([0])))
    assert torch.allclose(found, torch.stack(each).mean(), atol=1e-5)


def test_states_before_positive_events_foretell_them_and_no_others() -> None:
    core = cases.ranker()
    visits = [Visit(1, (3, 6, 9), (1,)), Visit(2, (), (2,)), Visit(3, (12, 15), (1,))]
    batch = cases.ranker_batch(visits)
    batch.inputs["history.action"] = torch.tensor([1, 3, 2, 3, 1])  # save, hide, click, hide, save
    rows = rows_of(batch, tables())
    items = core.item.described({**batch.inputs, "item_id.rows": rows["item_id"]})
    past, about = (items.take(at) for at in (batch.inputs["history.item"], torch.arange(3)))
    read = core.user({**batch.inputs, "user_id.rows": rows["user_id"]}, past, about, 3)
    found = core.user.foretold(read, batch.inputs)
    assert found.user.tolist() == [0, 0, 2]
    assert batch.ids["item_id"].values[found.item].tolist() == [3, 9, 15]
    before = torch.stack([read.keys[0, 0], read.keys[0, 2], read.keys[2, 1]])
    assert torch.allclose(found.ahead, core.user.ahead(before), atol=1e-6)
    earlier = core.user.later(read.keys)
    at_first = torch.allclose(found.later[0], earlier[0, 0], atol=1e-6)
    distances = (found.later[1] - earlier[0, :3]).abs().amax(-1)
    assert at_first
    assert distances.min() < 1e-6


def test_filler_requests_teach_nothing() -> None:
    settings = dataclasses.replace(cases.RANKER, next_weight=1.0)
    made = [Visit(1, (3, 6, 9), (1, 4)), Visit(2, (12, 15), (2, 5), weight=0.0)]
    changed = [made[0], dataclasses.replace(made[1], history=(15, 12))]
    losses = []
    for visits in (made, changed):
        core, batch = cases.ranker(settings=settings), cases.ranker_batch(visits)
        losses.append(core(rows_of(batch, tables()), batch)[0])
    assert torch.allclose(*losses, atol=1e-5)
