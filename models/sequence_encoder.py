"""Causal transformer over events laid end to end.

Shapes: B sequences of H events in all, L longest sequence, D width, A attention heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.contract.settings import Count, Dropout, UserError
from models.time_encoding import GapEncoding

if TYPE_CHECKING:
    from data.contract.schema import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceSettings:
    """Size of a sequence encoder.

    Attributes:
        max_length: newest events that are read.
        num_layers: transformer blocks.
        num_heads: attention heads; they divide the model's width.
        dropout: on the events and after attention and feed-forward layers.
    """

    max_length: Count = 200
    num_layers: Count = 2
    num_heads: Count = 2
    dropout: Dropout = 0.2


class EventEncoder(nn.Module):
    """One vector an event: item, action, surface and, in a log with a clock, the gap before it."""

    def __init__(self, item_dim: int, dim: int, vocabulary: Vocabulary) -> None:
        """Reads item vectors of width `item_dim`."""
        super().__init__()
        self.item = nn.Linear(item_dim, dim)
        self.action = nn.Embedding(len(vocabulary.actions) + 1, dim)
        self.surface = nn.Embedding(len(vocabulary.surfaces) + 1, dim)
        self.gap = GapEncoding(dim) if vocabulary.order == "clock" else None
        for table in (self.action, self.surface):
            nn.init.normal_(table.weight, std=dim**-0.5)

    def forward(self, items: Tensor, action: Tensor, surface: Tensor, gap_ms: Tensor) -> Tensor:
        """Sums the parts.

        Args:
            items: float32[H, item_dim].
            action: int64[H] codes.
            surface: int64[H] codes.
            gap_ms: int64[H]; not read in a log without a clock.

        Returns:
            float32[H, D].
        """
        events: Tensor = self.item(items) + self.action(action) + self.surface(surface)
        return events if self.gap is None else events + self.gap(gap_ms)


class Block(nn.Module):
    """Pre-norm transformer block: `U = V + MHSA(LN(V)); V' = U + FFN(LN(U))`.

    Attention has no dropout of its own, so that the flash kernel runs.
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

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Mixes each position with those before it; [B, L, D] -> [B, L, D]."""
        x_BLD = x_BLD + self.dropout(self._attend(self.attention_norm(x_BLD)))
        return x_BLD + self.dropout(self.feed_forward(x_BLD))

    def _attend(self, x_BLD: Tensor) -> Tensor:
        heads = self.qkv(x_BLD).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class SequenceEncoder(nn.Module):
    """States after every prefix of every sequence.

    A sequence is read as [start, e_1, ..., e_n]: position p holds the state after p events, and
    position 0 that of somebody who has done nothing yet. Events are padded on the right, where
    causal attention never looks, so no mask is needed and empty sequences are safe.
    """

    def __init__(self, dim: int, settings: SequenceSettings, ordered: bool) -> None:
        """Builds an encoder.

        Args:
            dim: D, width of events and states.
            settings: its size.
            ordered: whether the order of events means anything; adds a position embedding.

        Raises:
            UserError: `num_heads` does not divide `dim`.
        """
        super().__init__()
        if dim % settings.num_heads:
            raise UserError(
                f"num_heads ({settings.num_heads}) must divide the model's width ({dim})"
            )
        self.max_length = settings.max_length
        self.position = nn.Embedding(settings.max_length + 1, dim) if ordered else None
        if self.position is not None:
            nn.init.normal_(self.position.weight, std=dim**-0.5)
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList(Block(dim, settings) for _ in range(settings.num_layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, events: Tensor, lengths: Tensor, start: Tensor) -> Tensor:
        """Encodes B sequences.

        Args:
            events: float32[H, D], oldest first.
            lengths: int64[B], each at most `max_length`.
            start: float32[B, D] what stands before the first event.

        Returns:
            float32[B, L + 1, D], L being the longest sequence (`max_length` when exported).
        """
        x_BLD = torch.cat([start.unsqueeze(1), pad(events, lengths, self._width(lengths))], 1)
        if self.position is not None:
            x_BLD = x_BLD + self.position.weight[: x_BLD.shape[1]]
        x_BLD = self.dropout(x_BLD)
        for block in self.blocks:
            x_BLD = block(x_BLD)
        states: Tensor = self.norm(x_BLD)
        return states

    def _width(self, lengths: Tensor) -> int:
        if torch.compiler.is_exporting():
            return self.max_length
        return int(lengths.max()) if len(lengths) else 0


def pad(values: Tensor, lengths: Tensor, width: int) -> Tensor:
    """Lists laid end to end -> a rectangle padded with zeros on the right.

    Args:
        values: float32[H, D].
        lengths: int64[B], each at most `width`.
        width: L.

    Returns:
        float32[B, L, D].
    """
    starts = (torch.cumsum(lengths, 0) - lengths).unsqueeze(1)
    columns = torch.arange(width, device=lengths.device)
    # A row of zeros at the end is where padding, and every place of an empty batch, points to.
    rows = torch.where(columns < lengths.unsqueeze(1), starts + columns, len(values))
    return F.pad(values, (0, 0, 0, 1))[rows]
