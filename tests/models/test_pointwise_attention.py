"""Attention in tiles is attention over the whole matrix, and so are its gradients."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import pointwise_attention as tiles
from models.pointwise_attention import Heads, pointwise_attention

WIDE, NORM = 11, 4.0
SHAPES = st.lists(st.tuples(st.integers(1, 3), st.integers(1, WIDE)), min_size=1, max_size=3)


def made(shapes: list[tuple[int, int]], seed: int) -> list[Tensor]:
    """Queries, keys, values and biases of distance."""
    draw, places = torch.Generator().manual_seed(seed), sum(rows * wide for rows, wide in shapes)
    sizes = [(places, 2, 3)] * 3 + [(WIDE,)]
    return [torch.randn(size, generator=draw).requires_grad_() for size in sizes]


def in_full(leaves: list[Tensor], shapes: list[tuple[int, int]]) -> Tensor:
    """One sequence after the other, every pair of its events."""
    parts, start = [], 0
    for rows, wide in shapes:
        place = torch.arange(wide)
        apart = place.unsqueeze(1) - place
        for _ in range(rows):
            query, key, value = (leaf[start : start + wide].transpose(0, 1) for leaf in leaves[:3])
            scores = query @ key.transpose(1, 2) + leaves[3][apart.clamp(min=0)]
            mixed = (F.silu(scores) * (apart >= 0) / NORM) @ value
            parts.append(mixed.transpose(0, 1))
            start += wide
    return torch.cat(parts)


@given(SHAPES, st.integers(1, WIDE), st.integers(0, 99))
@settings(max_examples=50)
def test_tiles_and_their_gradients_are_those_of_the_whole(
    shapes: list[tuple[int, int]], tile: int, seed: int
) -> None:
    results = []
    for tiled in (True, False):
        leaves = made(shapes, seed)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tiles, "TILE", tile)
            mixed = (
                pointwise_attention(Heads(*leaves[:3]), leaves[3], NORM, shapes)
                if tiled
                else in_full(leaves, shapes)
            )
            mixed.square().sum().backward()
        results.append((mixed.detach(), [leaf.grad for leaf in leaves]))
    (found, gradients), (wanted, expected) = results
    assert torch.allclose(found, wanted, atol=1e-4)
    for one, other in zip(gradients, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-3)
