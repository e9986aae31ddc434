"""Blocks that mix the events of a sequence, and how sequences of any length lie in a rectangle.

Shapes: B sequences of H events in all, L longest sequence, D width, A attention heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.features import segments
from models.pointwise_attention import Heads, pointwise_attention

if TYPE_CHECKING:
    from models.sequence_encoder import SequenceSettings


ALIKE = 8


class Layout(NamedTuple):
    """Where the tokens of B sequences lie, [starts of all sequences, events of all sequences].

    Attention works on rectangles of sequences of similar length, laid end to end in P places: it
    grows with the square of the width, and much of one rectangle around all would be padding.

    Attributes:
        rectangle: int64[B, L + 1] token at each place; past a sequence's end any token.
        flat: int64[B + H] place of each token in the flattened rectangle.
        column: int64[B + H] place of each token in its sequence, the start being 0.
        padded: int64[P] token at each place of the rectangles of attention.
        place: int64[B + H] place of each token in them.
        shapes: sequences and width of each of them.
    """

    rectangle: Tensor
    flat: Tensor
    column: Tensor
    padded: Tensor
    place: Tensor
    shapes: tuple[tuple[int, int], ...]


def layout(lengths: Tensor, total: int, width: int) -> Layout:
    """Lays out sequences of `lengths` [B], `total` events in all, none longer than `width`.

    Attention has one rectangle around all; see `grouped`.
    """
    batch = lengths.shape[0]
    first = torch.cumsum(lengths, 0) - lengths
    columns = torch.arange(width + 1, device=lengths.device)
    within = columns.unsqueeze(0) <= lengths.unsqueeze(1)
    sequence = torch.arange(batch, device=lengths.device).unsqueeze(1)
    events = batch + first.unsqueeze(1) + columns - 1
    # Padding points to the sequence's own start: causal attention never looks right, so what
    # stands there does not matter.
    rectangle = torch.where(within & (columns > 0), events, sequence)
    owner = segments(lengths, total)
    column = torch.arange(total, device=lengths.device) - first[owner] + 1
    column = torch.cat([torch.zeros_like(lengths), column])
    owner = torch.cat([sequence.squeeze(1), owner])
    flat = owner * (width + 1) + column
    whole = ((batch, width + 1),)
    return Layout(rectangle, flat, column, rectangle.flatten(), flat, whole)


def grouped(places: Layout, lengths: Tensor) -> Layout:
    """The same for attention on a CPU: rectangles of `ALIKE` sequences of similar length."""
    if torch.compiler.is_exporting() or lengths.is_cuda:
        return places
    order = torch.argsort(lengths, descending=True)
    shapes = _shapes(lengths[order].tolist())
    padded = [
        places.rectangle[rows, :wide].flatten()
        for rows, (_, wide) in zip(order.split(ALIKE), shapes, strict=True)
    ]
    widths = torch.repeat_interleave(*torch.tensor(shapes).flip(1).unbind(1))
    start = torch.empty_like(lengths)
    start[order] = torch.cumsum(widths, 0) - widths
    owner = places.flat // places.rectangle.shape[1]
    return places._replace(
        padded=torch.cat(padded), place=start[owner] + places.column, shapes=shapes
    )


def _shapes(lengths: list[int]) -> tuple[tuple[int, int], ...]:
    """Rectangles of sequences whose lengths descend."""
    groups = (lengths[at : at + ALIKE] for at in range(0, len(lengths), ALIKE))
    return tuple((len(group), group[0] + 1) for group in groups)


def token_of(sequence: Tensor, length: Tensor, lengths: Tensor) -> Tensor:
    """Token that holds the state of `sequence` after `length` events, int64 like either."""
    first = torch.cumsum(lengths, 0) - lengths
    event = lengths.shape[0] + first[sequence] + length - 1
    return torch.where(length > 0, event, sequence)


class SoftmaxBlock(nn.Module):
    """Pre-norm transformer block: `U = V + MHSA(LN(V)); V' = U + FFN(LN(U))`.

    Only attention sees the padded rectangle; all else works on the tokens alone. Attention has no
    dropout of its own, so that the flash kernel runs.
    """

    def __init__(self, dim: int, settings: SequenceSettings) -> None:
        """Builds a block of width `dim`."""
        super().__init__()
        self.num_heads = settings.num_heads
        self.attention_norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
        )
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, tokens: Tensor, places: Layout) -> Tensor:
        """Mixes each token with those before it; float32[B + H, D] -> the same."""
        tokens = tokens + self.dropout(self._attend(self.attention_norm(tokens), places))
        mixed: Tensor = tokens + self.dropout(self.feed_forward(tokens))
        return mixed

    def _attend(self, tokens: Tensor, places: Layout) -> Tensor:
        padded = self.qkv(tokens).index_select(0, places.padded)
        sizes = [rows * wide for rows, wide in places.shapes]
        parts = padded.split(sizes) if len(sizes) > 1 else (padded,)
        mixed = [self._mix(*part) for part in zip(parts, places.shapes, strict=True)]
        out: Tensor = self.out(torch.cat(mixed).index_select(0, places.place))
        return out

    def _mix(self, qkv: Tensor, shape: tuple[int, int]) -> Tensor:
        """float32[B * W, 3 D] of B sequences -> [B * W, D]."""
        heads = qkv.view(*shape, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        return mixed.transpose(1, 2).flatten(2).flatten(0, 1)


class PointwiseBlock(nn.Module):
    """Block of a hierarchical sequential transduction unit (HSTU; Zhai et al., ICML'24, eqs. 1-3).

    `U, V, Q, K = SiLU(W LN(x)); Y = x + W' (LN(SiLU(Q Kᵀ + b) V / n) ⊙ U)` with a learnt bias b of
    the distance of two events. Attention is not normalised over the events, so that how many of
    them agree counts; there is no feed-forward layer.
    """

    def __init__(self, dim: int, settings: SequenceSettings, ordered: bool) -> None:
        """Builds a block of width `dim`; without order there is no distance."""
        super().__init__()
        self.num_heads, self.most = settings.num_heads, settings.max_length + 1
        self.norm = nn.LayerNorm(dim)
        self.mix = nn.Linear(dim, 4 * dim)
        distance = torch.zeros(self.most)
        if ordered:
            self.distance = nn.Parameter(distance)
        else:
            self.register_buffer("distance", distance, persistent=False)
        self.mixed_norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, tokens: Tensor, places: Layout) -> Tensor:
        """Mixes each token with those before it; float32[B + H, D] -> the same."""
        gate, *rest = F.silu(self.mix(self.norm(tokens))).chunk(4, -1)
        value, query, key = (
            each.index_select(0, places.padded).unflatten(1, (self.num_heads, -1)) for each in rest
        )
        heads = Heads(query, key, value)
        mixed = pointwise_attention(heads, self.distance, self.most, places.shapes).flatten(1)
        rows = self.mixed_norm(mixed.index_select(0, places.place)) * gate
        out: Tensor = tokens + self.out(self.dropout(rows))
        return out
