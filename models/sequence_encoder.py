"""Causal encoder of events laid end to end.

Shapes: B sequences of H events in all, L longest sequence, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from data.contract.settings import Count, Dropout, UserError
from models.attention import Layout, PointwiseBlock, SoftmaxBlock, grouped, layout


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceSettings:
    """Size of a sequence encoder.

    Attributes:
        max_length: newest events that are read.
        block: softmax, a transformer's; pointwise, that of HSTU, without a feed-forward layer.
        num_layers: blocks.
        num_heads: attention heads; they divide the model's width.
        dropout: on the events and after attention and feed-forward layers.
    """

    max_length: Count = 200
    block: Literal["softmax", "pointwise"] = "softmax"
    num_layers: Count = 2
    num_heads: Count = 2
    dropout: Dropout = 0.2


class SequenceEncoder(nn.Module):
    """States after every prefix of every sequence.

    A sequence is read as [start, e_1, ..., e_n]: the token of e_p holds the state after p events,
    the start that of somebody who has done nothing yet.
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
                f"sequence.num_heads={settings.num_heads} must divide the model's width {dim}"
            )
        self.max_length = settings.max_length
        self.position = nn.Embedding(settings.max_length + 1, dim) if ordered else None
        if self.position is not None:
            nn.init.normal_(self.position.weight, std=0.02)
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList(
            PointwiseBlock(dim, settings, ordered)
            if settings.block == "pointwise"
            else SoftmaxBlock(dim, settings)
            for _ in range(settings.num_layers)
        )
        self.norm = nn.LayerNorm(dim)

    def layout(self, lengths: Tensor, total: int) -> Layout:
        """Lays out sequences of `lengths` int64[B], each at most `max_length`, `total` in all."""
        longest = self.max_length if torch.compiler.is_exporting() else int(lengths.max())
        return grouped(layout(lengths, total, longest), lengths)

    def forward(self, events: Tensor, start: Tensor, places: Layout) -> Tensor:
        """Encodes B sequences.

        Args:
            events: float32[H, D], oldest first.
            start: float32[B, D] what stands before the first event.
            places: of the sequences, from `layout`.

        Returns:
            float32[B + H, D] states: the B of the starts, then those of the events.
        """
        tokens = torch.cat([start, events])
        if self.position is not None:
            tokens = tokens + self.position(places.column)
        tokens = self.dropout(tokens)
        for block in self.blocks:
            tokens = block(tokens, places)
        states: Tensor = self.norm(tokens)
        return states
