"""Losses against their equations written out in loops."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.losses import multi_task_bce, sampled_softmax, weighted_mean

SIZES = st.integers(1, 6)


def by_hand(positive: float, negatives: list[float], correction: list[float]) -> float:
    """`−ln( e^p / (e^p + Σ_j e^{s_j + c_j}) )`."""
    others = sum(math.exp(s + c) for s, c in zip(negatives, correction, strict=True))
    return -math.log(math.exp(positive) / (math.exp(positive) + others))


@given(targets=SIZES, pool=SIZES, seed=st.integers(0, 99))
def test_sampled_softmax_is_the_equation(targets: int, pool: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    positive = torch.randn(targets, generator=draw)
    negatives = torch.randn(targets, pool, generator=draw)
    correction = torch.randn(pool, generator=draw)
    known = torch.rand(targets, pool, generator=draw) < 0.3
    losses = sampled_softmax(positive, negatives, correction, known)
    for t in range(targets):
        kept = (~known[t]).nonzero().flatten().tolist()
        expected = by_hand(
            float(positive[t]),
            [float(negatives[t, j]) for j in kept],
            [float(correction[j]) for j in kept],
        )
        assert float(losses[t]) == pytest.approx(expected, abs=1e-5)


def test_a_pool_of_nothing_but_known_items_costs_nothing() -> None:
    losses = sampled_softmax(
        torch.zeros(2), torch.zeros(2, 3), torch.zeros(3), torch.ones(2, 3, dtype=torch.bool)
    )
    assert torch.equal(losses, torch.zeros(2))


def test_the_correction_makes_a_sample_estimate_the_softmax_over_all() -> None:
    """With logits s_j + ln c_j − ln Q_j, the sum over the pool estimates Σ_j e^{s_j}."""
    torch.manual_seed(0)
    scores, draws = torch.randn(50), 20_000
    q = torch.rand(50).softmax(0)
    pool, count = torch.multinomial(q, draws, replacement=True).unique(return_counts=True)
    correction = count.float().log() - (draws * q[pool]).log()
    estimate = (scores[pool] + correction).logsumexp(0)
    assert float(estimate) == pytest.approx(float(scores.logsumexp(0)), abs=0.02)


@given(rows=SIZES, actions=SIZES, seed=st.integers(0, 99))
def test_multi_task_bce_is_the_equation(rows: int, actions: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, actions, generator=draw)
    labels = (torch.rand(rows, actions, generator=draw) < 0.5).float()
    weight = torch.rand(actions, generator=draw)
    losses = multi_task_bce(logits, labels, weight)
    for n in range(rows):
        expected = 0.0
        for h in range(actions):
            f = 1 / (1 + math.exp(-float(logits[n, h])))
            y = float(labels[n, h])
            expected += float(weight[h]) * -(y * math.log(f) + (1 - y) * math.log(1 - f))
        assert float(losses[n]) == pytest.approx(expected, abs=1e-5)


def test_rows_of_weight_zero_do_not_count() -> None:
    values, weight = torch.tensor([1.0, 5.0, 3.0]), torch.tensor([1.0, 0.0, 3.0])
    assert float(weighted_mean(values, weight)) == pytest.approx(2.5)


def test_a_batch_of_fillers_has_loss_and_gradient_zero() -> None:
    values = torch.ones(3, requires_grad=True)
    loss = weighted_mean(values, torch.zeros(3))
    loss.backward()
    assert float(loss.detach()) == 0
    assert values.grad is not None
    assert not values.grad.any()
