"""Where candidates meet a user: attention, products, crossing, experts, one head an action.

The first layer is split: its user part is computed once a request. Shapes: R requests, C most
candidates of a request, L longest history plus one, D width, A actions, K experts.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.history_readers import READERS
from models.interaction import Crossing, CrossingSettings
from models.reading import LIKENESSES, History, Items, Reading, likeness, matches, related

MAX_POSITION = 64
Sharing = Literal["gates", "own"]


class OverSettings(Protocol):
    """The settings of a ranker that its over-arch needs; see `models.ranker_settings`."""

    @property
    def dim(self) -> int:
        """D."""

    @property
    def hidden(self) -> int:
        """Width of the first layer; the second has half of it."""

    @property
    def num_heads(self) -> int:
        """Of the attention over the history."""

    @property
    def dropout(self) -> float:
        """After the first layer."""

    @property
    def history(self) -> History:
        """How candidates read the history."""

    @property
    def history_layers(self) -> int:
        """Of a transformer that reads history and candidate at once."""

    @property
    def crossing(self) -> CrossingSettings:
        """Of the fields."""

    @property
    def experts(self) -> int:
        """K; 0 is a bottom that all heads share."""

    @property
    def sharing(self) -> Sharing:
        """What heads share of the experts."""


class OverArch(nn.Module):
    """Candidates against a user's state -> logits of the actions."""

    def __init__(
        self, settings: OverSettings, num_actions: int, categories: int, record: int
    ) -> None:
        """Builds what reads the history, interactions and heads.

        Args:
            settings: of the ranker.
            num_actions: A.
            categories: categorical columns of items.
            record: numbers that say how a candidate had done; 0: nothing does.
        """
        super().__init__()
        dim, hidden = settings.dim, settings.hidden
        build = READERS.get(settings.history)
        self.reader = build(dim, settings.num_heads, settings.history_layers) if build else None
        self.user_part = nn.Linear(dim, hidden)
        widths = [dim] * 4 + [LIKENESSES + 2 * categories] + [record] * (record > 0)
        self.item_part = nn.Linear(sum(widths), hidden)
        # Without contexts in the log it stays 0, so that served ones change nothing.
        self.related = nn.Linear(1 + categories, hidden, bias=False)
        nn.init.zeros_(self.related.weight)
        layers = settings.crossing.layers
        self.crossing = Crossing([dim, *widths], hidden, settings.crossing) if layers else None
        self.dropout = nn.Dropout(settings.dropout)
        self.heads = _heads(settings, num_actions)
        # A rate of the past is nearly the answer: it need not be learnt through the layers.
        self.wide = nn.Linear(record, num_actions, bias=False) if record else None
        if self.wide is not None:
            nn.init.zeros_(self.wide.weight)
        self.position = nn.Embedding(MAX_POSITION, num_actions)
        nn.init.zeros_(self.position.weight)

    def forward(
        self, read: Reading, asked: Items, position: Tensor, record: Tensor | None
    ) -> Tensor:
        """Logits of candidates in rectangles.

        Args:
            read: of R users.
            asked: C candidates of each.
            position: int64[R, C].
            record: how the candidates had done, float32[R, C, `record`], where it is read.

        Returns:
            float32[R, C, A].
        """
        items = asked.vectors
        found = self._found(read, items)
        wide = read.user.unsqueeze(1)
        near = torch.cat([likeness(items, read), matches(asked.codes, read)], -1)
        fields = [items, found, items * found, items * wide, near]
        fields += [] if record is None else [record]
        first = self.user_part(read.user).unsqueeze(1) + self.item_part(torch.cat(fields, -1))
        first = first + self.related(related(asked, read))
        if self.crossing is not None:
            rows = [x.flatten(0, 1) for x in (wide.expand_as(items), *fields)]
            first = first + self.crossing(rows).view_as(first)
        logits: Tensor = self.heads(self.dropout(F.gelu(first)))
        if self.wide is not None and record is not None:
            logits = logits + self.wide(record)
        bias: Tensor = self.position(position.clamp(max=MAX_POSITION - 1))
        return logits + bias - self.position.weight[0]

    def _found(self, read: Reading, items: Tensor) -> Tensor:
        """What each candidate finds in the history, float32[R, C, D]."""
        if self.reader is not None:
            return self.reader(items, read.keys, read.mask)
        average = read.recent.unsqueeze(1) @ read.items
        return average.expand_as(items)


def _heads(settings: OverSettings, num_actions: int) -> nn.Module:
    """From the first layer to logits: a bottom shared by all heads, or experts."""
    hidden, half = settings.hidden, settings.hidden // 2
    if settings.experts:
        return Experts(hidden, half, settings.experts, num_actions, settings.sharing)
    return nn.Sequential(nn.Linear(hidden, half), nn.GELU(), nn.Linear(half, num_actions))


class Experts(nn.Module):
    """A mixture of experts for each head (MMoE; Ma et al., KDD'18, eqs. 6-7).

    `f_a = Σ_k softmax(W_a x)_k E_k(x)`. Where heads have experts of their `own` (PLE's customised
    gate; Tang et al., RecSys'20), K are shared and one more is seen by its head alone.
    """

    unseen: Tensor

    def __init__(
        self, width: int, out: int, experts: int, num_actions: int, sharing: Sharing
    ) -> None:
        """Builds `experts` of `out` numbers that read `width`, and a gate a head."""
        super().__init__()
        own = num_actions if sharing == "own" else 0
        self.count = experts + own
        self.experts = nn.Linear(width, self.count * out)
        self.gates = nn.Linear(width, num_actions * self.count)
        self.out = nn.Parameter(torch.empty(num_actions, out))
        self.bias = nn.Parameter(torch.zeros(num_actions))
        nn.init.normal_(self.out, std=out**-0.5)
        unseen = torch.zeros(num_actions, self.count, dtype=torch.bool)
        if own:
            unseen[:, experts:] = ~torch.eye(num_actions, dtype=torch.bool)
        self.register_buffer("unseen", unseen, persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """float32[..., width] -> logits float32[..., A]."""
        mixed = F.gelu(self.experts(rows)).unflatten(-1, (self.count, -1))
        gates = self.gates(rows).unflatten(-1, (-1, self.count))
        gates = gates.masked_fill(self.unseen, float("-inf")).softmax(-1)
        # Heads are linear in the mixture: each expert's answer to each head first, then the gate.
        answers = mixed @ self.out.T
        logits: Tensor = (gates * answers.transpose(-1, -2)).sum(-1) + self.bias
        return logits
