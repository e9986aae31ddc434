"""Causal transformer over events laid end to end.

Shapes: B sequences of H events in all, L longest sequence, D width, A attention heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.contract.settings import Count, Dropout, UserError
from models.features import segments
from models.time_encoding import ClockEncoding, DurationEncoding, GapEncoding

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from data.contract.schema import Vocabulary


EventInput = Literal["action", "surface", "time", "clock", "duration"]
EVENT_ARRAYS: dict[str, str] = {
    "action": "history.action",
    "surface": "history.surface",
    "clock": "history.time_ms",
    "duration": "history.duration_s",
}


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
    """One vector an event: the sum of its item and of what else is known of it.

    A linear map of the concatenation of all parts would be the same.
    """

    def __init__(
        self,
        dim: int,
        vocabulary: Vocabulary,
        known: Sequence[EventInput] = ("action", "surface", "time"),
        time: str = "history.gap_ms",
    ) -> None:
        """Builds the parts.

        Args:
            dim: D, width of item vectors and of events.
            vocabulary: actions and surfaces; without a clock there are no times.
            known: what is known of an event beside its item.
            time: the array of elapsed times, milliseconds.
        """
        super().__init__()
        self.item = nn.Linear(dim, dim)
        # Close to the items themselves at first: "more of the same" is then the simplest answer.
        nn.init.eye_(self.item.weight)
        makers: dict[str, Callable[[], nn.Module]] = {
            "action": lambda: _codes(len(vocabulary.actions), dim),
            "surface": lambda: _codes(len(vocabulary.surfaces), dim),
            "time": lambda: GapEncoding(dim).shrink(0.1),
            "clock": lambda: ClockEncoding(dim),
            "duration": lambda: DurationEncoding(dim),
        }
        timeless = vocabulary.order != "clock"
        self.known = [name for name in known if not (timeless and name in ("time", "clock"))]
        self.arrays = EVENT_ARRAYS | {"time": time}
        for name in self.known:
            self.add_module(name, makers[name]())

    def forward(self, items: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Sums the parts.

        Args:
            items: float32[H, D] vectors of the events' items.
            inputs: the arrays of the parts, [H] each (`data.contract.encode`).

        Returns:
            float32[H, D].
        """
        events: Tensor = self.item(items)
        for name in self.known:
            events = events + self.get_submodule(name)(inputs[self.arrays[name]])
        return events

    def example(self, events: int) -> dict[str, Tensor]:
        """What `forward` reads beside items, for an export."""
        kinds = {"duration": torch.float32}
        return {
            self.arrays[name]: torch.zeros(events, dtype=kinds.get(name, torch.int64))
            for name in self.known
        }


def _codes(count: int, dim: int) -> nn.Embedding:
    table = nn.Embedding(count + 1, dim)
    nn.init.normal_(table.weight, std=0.02)
    return table


class Layout(NamedTuple):
    """Where the tokens of B sequences lie, [starts of all sequences, events of all sequences].

    Attributes:
        rectangle: int64[B, L + 1] token at each place; past a sequence's end any token.
        flat: int64[B + H] place of each token in the flattened rectangle.
        column: int64[B + H] place of each token in its sequence, the start being 0.
    """

    rectangle: Tensor
    flat: Tensor
    column: Tensor


def layout(lengths: Tensor, total: int, width: int) -> Layout:
    """Lays out sequences of `lengths` [B], `total` events in all, none longer than `width`."""
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
    return Layout(rectangle, owner * (width + 1) + column, column)


def token_of(sequence: Tensor, length: Tensor, lengths: Tensor) -> Tensor:
    """Token that holds the state of `sequence` after `length` events, int64 like either."""
    first = torch.cumsum(lengths, 0) - lengths
    event = lengths.shape[0] + first[sequence] + length - 1
    return torch.where(length > 0, event, sequence)


class Block(nn.Module):
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
        padded = self.qkv(tokens).index_select(0, places.rectangle.flatten())
        batch, width = places.rectangle.shape
        heads = padded.view(batch, width, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        rows = mixed.transpose(1, 2).reshape(batch * width, -1).index_select(0, places.flat)
        out: Tensor = self.out(rows)
        return out


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
        self.blocks = nn.ModuleList(Block(dim, settings) for _ in range(settings.num_layers))
        self.norm = nn.LayerNorm(dim)

    def layout(self, lengths: Tensor, total: int) -> Layout:
        """Lays out sequences of `lengths` int64[B], each at most `max_length`, `total` in all."""
        longest = self.max_length if torch.compiler.is_exporting() else int(lengths.max())
        return layout(lengths, total, longest)

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
