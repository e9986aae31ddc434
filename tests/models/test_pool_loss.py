"""The loss in blocks is the loss over the whole matrix, and so are its gradients."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import pool_loss as blocks
from models.losses import sampled_softmax
from models.pool_loss import NEVER, Days, Known, Own, Pool, pool_loss


def made(
    targets: int, pool: int, biased: bool, seed: int, binary: bool = False
) -> tuple[dict[str, Tensor], Pool]:
    draw = torch.Generator().manual_seed(seed)
    leaves = {
        "users": torch.randn(targets, 4, generator=draw),
        "items": torch.randn(pool, 4, generator=draw),
        "positive": torch.randn(targets, generator=draw),
        "scale": torch.rand((), generator=draw) * 5,
        "bias": torch.randn(3, pool, generator=draw),
    }
    leaves = {name: leaf.requires_grad_() for name, leaf in leaves.items()}
    return leaves, Pool(
        leaves["scale"],
        torch.randn(pool, generator=draw),
        own(targets, pool, draw),
        Days(leaves["bias"], torch.randint(0, 3, (targets,), generator=draw)) if biased else None,
        binary,
    )


def own(targets: int, pool: int, draw: torch.Generator) -> Own:
    """Some targets stand in the pool; mostly some items are known from the start or later."""
    after = torch.randint(0, 4, (2, pool), generator=draw, dtype=torch.int32)
    after[torch.rand(2, pool, generator=draw) < 0.6] = NEVER
    read = torch.randint(0, 5, (targets,), generator=draw, dtype=torch.int32)
    window = torch.randint(0, 2, (targets,), generator=draw)
    place = torch.randint(-1, pool, (targets,), generator=draw)
    none_known = bool(torch.rand((), generator=draw) < 0.3)
    return Own(place, None if none_known else Known(after, window, read))


def spared(pool: Pool) -> Tensor:
    """bool[T, P] by a loop over both."""
    place, known = pool.own
    found = torch.zeros(len(place), len(pool.correction), dtype=torch.bool)
    for t, p in itertools.product(*map(range, found.shape)):
        found[t, p] = bool(place[t] == p)
        if known is not None:
            found[t, p] |= bool(known.after[known.window[t], p] <= known.read[t])
    return found


def whole(leaves: dict[str, Tensor], weight: Tensor, pool: Pool) -> tuple[Tensor, Tensor]:
    """The same by the chain of operations over all targets."""
    scores = leaves["users"] @ leaves["items"].T
    if pool.days is not None:
        scores = scores + pool.days.bias[pool.days.moment]
    scores, known = scores * pool.scale, spared(pool)
    if pool.binary:
        each = F.softplus(scores).masked_fill(known, 0.0) * pool.correction.softmax(0)
        losses = F.softplus(-leaves["positive"]) + each.sum(1)
    else:
        losses = sampled_softmax(leaves["positive"], scores, pool.correction, known)
    return (weight * losses).sum(), scores.masked_fill(known, -1e9).amax(1)


@given(
    targets=st.integers(1, 9),
    pool=st.integers(1, 7),
    biased=st.booleans(),
    seed=st.integers(0, 99),
    binary=st.booleans(),
)
@settings(max_examples=60)
def test_loss_and_gradients_are_those_of_the_whole_matrix(
    targets: int, pool: int, biased: bool, seed: int, binary: bool
) -> None:
    weight = torch.rand(targets)
    results = []
    for compute in (pool_loss, None):
        leaves, parts = made(targets, pool, biased, seed, binary)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(blocks, "CACHE_BYTES", 4 * pool * 2)
            total, best = (
                pool_loss(leaves["users"], leaves["items"], leaves["positive"], weight, parts)
                if compute
                else whole(leaves, weight, parts)
            )
        (3 * total).backward()
        gradients = [leaf.grad for leaf in leaves.values() if leaf.grad is not None]
        results.append((total.detach(), best.detach(), gradients))
    (total, best, found), (wanted, most, expected) = results
    assert torch.allclose(total, wanted, atol=1e-4)
    assert torch.allclose(best, most, atol=1e-5)
    assert len(found) == len(expected) == (5 if biased else 4)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_a_pool_of_known_items_teaches_nothing() -> None:
    leaves, parts = made(3, 5, False, 0)
    none = torch.zeros(3, dtype=torch.int64)
    known = Known(torch.zeros(1, 5, dtype=torch.int32), none, none.int())
    parts = parts._replace(own=Own(none - 1, known))
    total, _ = pool_loss(leaves["users"], leaves["items"], leaves["positive"], torch.ones(3), parts)
    total.backward()
    assert total.item() == 0
    for name in ("users", "items", "positive"):
        assert leaves[name].grad is not None
        assert not leaves[name].grad.any()
