"""Experts and gates equal their definitions; what a ranker reads of a history is as set."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from data.contract.settings import UserError
from models.interaction import CrossingSettings
from models.over_arch import Experts
from models.ranker_settings import RankerSettings
from tests.models import cases
from tests.models.cases import rows_of, tables, visits


@pytest.mark.parametrize("sharing", ["gates", "own"])
def test_a_mixture_of_experts_equals_its_definition(sharing) -> None:
    torch.manual_seed(0)
    mixture = Experts(6, 5, experts=3, num_actions=4, sharing=sharing)
    rows = torch.randn(2, 7, 6)
    each = F.gelu(mixture.experts(rows)).unflatten(-1, (mixture.count, 5))
    gates = mixture.gates(rows).unflatten(-1, (4, mixture.count))
    for head in range(4):
        seen = [k for k in range(mixture.count) if k < 3 or k == 3 + head]
        assert len(seen) == (3 if sharing == "gates" else 4)
        share = gates[..., head, seen].softmax(-1)
        mixed = (share.unsqueeze(-1) * each[..., seen, :]).sum(-2)
        expected = mixed @ mixture.out[head] + mixture.bias[head]
        assert torch.allclose(mixture(rows)[..., head], expected, atol=1e-5)


def logits_of(settings: RankerSettings, change: str | None = None) -> torch.Tensor:
    core, batch = cases.ranker(settings=settings), cases.ranker_batch(visits(5))
    if change:
        batch.inputs[change] = torch.ones_like(batch.inputs[change])
    return core.logits(rows_of(batch, tables()), batch)


@pytest.mark.parametrize(
    ("history", "action", "order"),
    [
        ("attention", True, True),
        ("fusion", True, True),
        ("appended", True, True),
        ("average", True, False),
        ("none", False, False),
    ],
)
def test_a_history_is_read_as_set(history, action, order) -> None:
    settings = dataclasses.replace(cases.RANKER, history=history)
    plain = logits_of(settings)
    assert torch.equal(plain, logits_of(settings, "history.action")) != action
    assert torch.equal(plain, logits_of(settings, "history.surface")) != order


@pytest.mark.parametrize("layers", [("cross",), ("mlp+masks", "fields")])
def test_fields_are_crossed_as_set(layers) -> None:
    crossing = CrossingSettings(layers=layers, width=8, hidden=8, dropout=0.0)
    settings = dataclasses.replace(cases.RANKER, crossing=crossing)
    assert cases.ranker(settings=settings).over.crossing is not None
    assert not torch.allclose(logits_of(settings), logits_of(cases.RANKER))


def test_hidden_rows_weigh_more_at_the_heads_named() -> None:
    batch = cases.ranker_batch(visits(6))
    rows = rows_of(batch, tables())
    plain = cases.ranker()(rows, batch)[0]
    weights = {"save": {"hide": 10.0}}
    settings = dataclasses.replace(cases.RANKER, label_weights=weights)
    core = cases.ranker(settings=settings)
    logits = core.logits(rows, batch)
    hidden = batch.labels["label.hide"] > 0
    assert hidden.any()
    at = core.actions.index("save")
    each = F.binary_cross_entropy_with_logits(
        logits[:, at], batch.labels["label.save"], reduction="none"
    )
    expected = plain + 9 * (each * hidden).sum() / len(logits)
    assert torch.allclose(core(rows, batch)[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        ({"action_weights": {"sav": 2.0}}, r"ranker\.action_weights\.sav names no action"),
        ({"label_weights": {"sav": {}}}, r"ranker\.label_weights\.sav names no action"),
        ({"label_weights": {"save": {"hid": 2.0}}}, r"ranker\.label_weights\.save\.hid names"),
    ],
)
def test_weights_of_an_action_that_there_is_not_are_refused(weights, named) -> None:
    with pytest.raises(UserError, match=named):
        cases.ranker(settings=dataclasses.replace(cases.RANKER, **weights))
