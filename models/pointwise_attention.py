"""Causal attention by SiLU instead of softmax, without the matrix of all scores.

HSTU's attention (Zhai et al., ICML'24, eq. 2), `O = (SiLU(Q Kᵀ + b) / n) V`, is a chain of
operations on a matrix of all pairs of events, which would be written and read a dozen times. Here
it is made a tile of queries at a time, while the tile is in cache and only up to its last query;
backward makes the tile again.

Shapes: rectangles of B sequences, W wide, laid end to end in P places; A heads, D width of a head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TILE = 64


class Heads(NamedTuple):
    """Queries, keys and values, float32[P, A, D] each."""

    query: Tensor
    key: Tensor
    value: Tensor


def pointwise_attention(
    heads: Heads, distance: Tensor, norm: float, shapes: Sequence[tuple[int, int]]
) -> Tensor:
    """Mixes the values that lie before each query or at it.

    Args:
        heads: what is mixed.
        distance: float32[at least W] bias b of how far back a key lies.
        norm: n.
        shapes: sequences and width of each rectangle.

    Returns:
        float32[P, A, D].
    """
    if torch.compiler.is_exporting():
        return _whole(heads, distance, norm, shapes[0])
    apply: Any = _Tiled.apply
    # Its products add up over tiles, which single precision keeps.
    with torch.autocast(heads[0].device.type, enabled=False):
        mixed: Tensor = apply(*(each.float() for each in heads), distance.float(), norm, shapes)
    return mixed


def _whole(heads: Heads, distance: Tensor, norm: float, shape: tuple[int, int]) -> Tensor:
    """One rectangle at once, in operations that export."""
    query, key, value = (each.unflatten(0, shape).transpose(1, 2) for each in heads)
    place = torch.arange(shape[1], device=query.device)
    apart = place.unsqueeze(1) - place
    scores = query @ key.transpose(-1, -2) + distance[apart.clamp(min=0)]
    mixed: Tensor = (F.silu(scores) * ((apart >= 0).float() / norm)) @ value
    return mixed.transpose(1, 2).flatten(0, 1)


class _Tiled(torch.autograd.Function):
    """A tile at a time; saves nothing but its inputs."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        query, key, value, distance, norm, shapes = inputs
        ctx.save_for_backward(query, key, value, distance)
        ctx.norm, ctx.shapes = norm, shapes
        mixed = torch.empty_like(value)
        for q, k, v, out in _rectangles((query, key, value, mixed), shapes):
            for tile in _tiles(distance, norm, q.shape[2]):
                scores = tile.scores(q, k)
                weights = F.silu(scores, inplace=True).mul_(tile.mask)
                out[:, :, tile.queries] = weights @ v[:, :, tile.keys]
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, distance = ctx.saved_tensors
        of_query, of_key, of_value, of_distance = map(
            torch.zeros_like, (query, key, value, distance)
        )
        whole = (query, key, value, gradients[0].contiguous(), of_query, of_key, of_value)
        for q, k, v, out, dq, dk, dv in _rectangles(whole, ctx.shapes):
            for tile in _tiles(distance, ctx.norm, q.shape[2]):
                scores, upper = tile.scores(q, k), out[:, :, tile.queries]
                weights = F.silu(scores).mul_(tile.mask)
                dv[:, :, tile.keys] += weights.transpose(-1, -2) @ upper
                of_weights = (upper @ v[:, :, tile.keys].transpose(-1, -2)).mul_(tile.mask)
                of_scores = torch.ops.aten.silu_backward(of_weights, scores)
                dq[:, :, tile.queries] = of_scores @ k[:, :, tile.keys]
                dk[:, :, tile.keys] += of_scores.transpose(-1, -2) @ q[:, :, tile.queries]
                of_distance.index_add_(0, tile.apart.flatten(), of_scores.sum((0, 1)).flatten())
        return of_query, of_key, of_value, of_distance, None, None


def _rectangles(
    whole: Sequence[Tensor], shapes: Sequence[tuple[int, int]]
) -> Iterator[tuple[Tensor, ...]]:
    """Views [B, A, W, D] of each rectangle of tensors [P, A, D]."""
    start = 0
    for shape in shapes:
        at = slice(start, start + shape[0] * shape[1])
        yield tuple(each[at].unflatten(0, shape).transpose(1, 2) for each in whole)
        start = at.stop


class _Tile(NamedTuple):
    """Some queries and all keys that one of them may see.

    Attributes:
        queries: T of the W places.
        keys: K of them.
        apart: int64[T, K] how far back a key lies, 0 where it lies ahead.
        mask: float32[T, K] `1 / n`, 0 where a key lies ahead.
        bias: float32[T, K].
    """

    queries: slice
    keys: slice
    apart: Tensor
    mask: Tensor
    bias: Tensor

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        """float32[B, A, T, K]."""
        found: Tensor = query[:, :, self.queries] @ key[:, :, self.keys].transpose(-1, -2)
        return found.add_(self.bias)


def _tiles(distance: Tensor, norm: float, width: int) -> Iterator[_Tile]:
    for start in range(0, width, TILE):
        end = min(start + TILE, width)
        place = torch.arange(end, device=distance.device)
        apart = place[start:].unsqueeze(1) - place
        seen = (apart >= 0).float() / norm
        apart = apart.clamp(min=0)
        yield _Tile(slice(start, end), slice(0, end), apart, seen, distance[apart])
