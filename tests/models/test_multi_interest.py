import dataclasses

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from models.multi_interest import InterestSettings, MultiInterest, squash, starts
from tests.models.cases import vocabulary

SAVE, HIDE = 1, 3
DIM = 6
SETTINGS = InterestSettings(num=3, history=8)


def module(**changes: object) -> MultiInterest:
    torch.manual_seed(0)
    return MultiInterest(dataclasses.replace(SETTINGS, **changes), vocabulary(), DIM).eval()


def inputs(items: Tensor, lengths: list[int], actions: Tensor | None = None) -> dict[str, Tensor]:
    return {
        "history.embedding.rows": items,
        "history.lengths": torch.tensor(lengths),
        "history.action": torch.full((len(items),), SAVE) if actions is None else actions,
    }


def axes(*which: int) -> Tensor:
    return torch.eye(DIM)[list(which)]


def whole(found: dict[str, Tensor], made: MultiInterest) -> tuple[Tensor, Tensor]:
    lengths = found["history.lengths"]
    return made(found, torch.arange(len(lengths)), lengths)


@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**31))
def test_clusters_start_at_items_that_are_liked_and_differ_while_there_are_any(
    count: int, num: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    items = torch.from_numpy(rng.normal(size=(1, count, DIM)).astype(np.float32))
    liked = torch.from_numpy(rng.random((1, count)) < 0.6)
    if not liked.any():
        return
    found = starts(items, liked, num, far=True)[0]
    of = [int((items[0] == one).all(1).nonzero()[0, 0]) for one in found]
    assert liked[0, of].all()
    assert len(set(of)) == min(num, int(liked.sum()))


def test_far_starts_are_the_least_alike_even_where_all_are_unlike_and_one_is_no_choice() -> None:
    opposite = torch.stack([axes(0)[0], -axes(0)[0], axes(1)[0]])[None]
    found = starts(opposite, torch.tensor([[True, False, True]]), 2, far=True)
    assert torch.equal(found[0], torch.stack([axes(0)[0], axes(1)[0]]))


def test_newest_starts_are_the_newest() -> None:
    items = axes(0, 0, 1, 2)[None]
    found = starts(items, torch.tensor([[True, True, False, True]]), 3, far=False)
    assert torch.equal(found[0], axes(0, 0, 2))


def test_items_of_three_directions_are_three_clusters_with_their_shares() -> None:
    items = axes(0, 0, 0, 0, 1, 1, 2, 2)
    centroids, share = whole(inputs(items, [8]), module())
    directions = torch.nn.functional.normalize(centroids[0], dim=-1) @ torch.eye(DIM)[:3].T
    assert directions.argmax(1).unique().tolist() == [0, 1, 2]
    assert directions.amax(1).min() > 0.8
    biggest = directions.argmax(1)[share[0].argmax()]
    assert biggest == 0
    assert share.sum() == pytest.approx(1)


@pytest.mark.parametrize("kind", ["clusters", "routing", "heads"])
def test_slots_are_masked_where_fewer_items_were_liked(kind: str) -> None:
    actions = torch.tensor([SAVE, HIDE, SAVE, SAVE, SAVE])
    found = inputs(axes(0, 1, 2, 3, 4), [0, 2, 3], actions)
    centroids, share = whole(found, module(kind=kind))
    assert (share > 0).sum(1).tolist() == [0, 1, 3]
    assert share.sum(1).tolist() == pytest.approx([0, 1, 1])
    assert centroids.isfinite().all()


@pytest.mark.parametrize("kind", ["clusters", "routing", "heads"])
def test_what_is_read_later_changes_nothing(kind: str) -> None:
    found, made = inputs(axes(0, 1, 2, 3), [4]), module(kind=kind)
    early = made(found, torch.tensor([0]), torch.tensor([2]))
    alone = whole(inputs(axes(0, 1), [2]), made)
    for a, b in zip(early, alone, strict=True):
        assert torch.allclose(a, b)


@pytest.mark.parametrize("kind", ["clusters", "routing", "heads"])
def test_gradients_reach_the_items(kind: str) -> None:
    items = torch.randn(8, DIM, generator=torch.Generator().manual_seed(0)).requires_grad_()
    centroids, _ = whole(inputs(items, [8]), module(kind=kind))
    centroids.square().sum().backward()
    assert items.grad is not None
    assert (items.grad.abs().sum(1) > 0).all()


def test_soft_routing_lets_clusters_share_items() -> None:
    items = torch.nn.functional.normalize(torch.randn(8, DIM, generator=_seeded()), dim=-1)
    single = whole(inputs(items, [8]), module())[0]
    soft = whole(inputs(items, [8]), module(routing="soft"))[0]

    def spread(centroids: Tensor) -> float:
        units = torch.nn.functional.normalize(centroids[0], dim=-1)
        return float((units @ units.T).mean().detach())

    assert spread(single) < spread(soft)


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_squash_shortens_and_keeps_the_direction() -> None:
    found = squash(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    assert found[0].tolist() == pytest.approx([25 / 26 * 0.6, 25 / 26 * 0.8])
    assert found[1].tolist() == [0, 0]
