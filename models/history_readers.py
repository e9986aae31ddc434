"""How candidates read a history: by attention, or by a transformer that sees both at once.

Shapes: R requests, C candidates of each, L states of each history, D width. Attention costs
R C L D. The two transformers cost R C L D² and R C L² D: they are for short lists, for a GPU, or
for a teacher (`ranker.teacher`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

NEWEST = 10


class HistoryReader(Protocol):
    """Candidates and histories -> what each candidate finds."""

    def __call__(self, items: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """float32[R, C, D], [R, L, D], [R, L] (0, or very negative) -> float32[R, C, D]."""


class HistoryAttention(nn.Module):
    """Candidates ask the states of a history what they need of it."""

    def __init__(self, dim: int, num_heads: int) -> None:
        """Builds it for states and candidates of width `dim`."""
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)

    def forward(self, items: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """See `HistoryReader`."""
        query, key, value = self.query(items), self.key(states), self.value(states)
        q, k, v = (
            x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (query, key, value)
        )
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        return found.transpose(1, 2).flatten(2)


class EarlyFusion(nn.Module):
    """The candidate is in every token (TransAct; Xia et al., KDD'23, §3.2).

    `Z = encoder([e_1 ⊕ c, ..., e_L ⊕ c])`; read out are the tokens of the NEWEST events and the
    maximum over all. Tokens are states of the history, not its bare events.
    """

    def __init__(self, dim: int, num_heads: int, layers: int) -> None:
        """Builds it for states and candidates of width `dim`."""
        super().__init__()
        self.state, self.item = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False)
        self.encoder = Encoder(dim, num_heads, layers)
        self.out = nn.Linear((NEWEST + 1) * dim, dim)

    def forward(self, items: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """See `HistoryReader`."""
        tokens = self.state(states).unsqueeze(1) + self.item(items).unsqueeze(2)
        masked = mask.unsqueeze(1).expand(-1, items.shape[1], -1)
        encoded = self.encoder(tokens.flatten(0, 1), masked.flatten(0, 1)).view_as(tokens)
        most = (encoded + masked.unsqueeze(-1)).amax(2)
        found: Tensor = self.out(torch.cat([newest(encoded, mask).flatten(2), most], -1))
        return found


class Appended(nn.Module):
    """The candidate is one more event, the last (BST; Chen et al., DLP-KDD'19, §2.2).

    Read out are its own token and the mean of the others.
    """

    def __init__(self, dim: int, num_heads: int, layers: int) -> None:
        """Builds it for states and candidates of width `dim`."""
        super().__init__()
        self.last = nn.Parameter(torch.zeros(dim))
        self.encoder = Encoder(dim, num_heads, layers)
        self.out = nn.Linear(2 * dim, dim)

    def forward(self, items: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """See `HistoryReader`."""
        count = items.shape[1]
        past = states.unsqueeze(1).expand(-1, count, -1, -1)
        tokens = torch.cat([past, (items + self.last).unsqueeze(2)], 2)
        masked = F.pad(mask, (0, 1)).unsqueeze(1).expand(-1, count, -1)
        encoded = self.encoder(tokens.flatten(0, 1), masked.flatten(0, 1)).view_as(tokens)
        there = mask.exp()
        mean = torch.einsum("rcld,rl->rcd", encoded[:, :, :-1], there) / there.sum(1)[:, None, None]
        found: Tensor = self.out(torch.cat([encoded[:, :, -1], mean], -1))
        return found


READERS: dict[str, Callable[[int, int, int], HistoryReader]] = {
    "attention": lambda dim, num_heads, _: HistoryAttention(dim, num_heads),
    "fusion": EarlyFusion,
    "appended": Appended,
}


def newest(tokens: Tensor, mask: Tensor) -> Tensor:
    """Tokens [R, C, L, D] of the NEWEST events of R histories, the first one again where fewer."""
    length = (mask == 0).sum(1, keepdim=True)
    at = (length - 1 - torch.arange(NEWEST, device=mask.device)).clamp(min=0)
    wanted = at[:, None, :, None].expand(-1, tokens.shape[1], -1, tokens.shape[3])
    return tokens.gather(2, wanted)


class Encoder(nn.Module):
    """Pre-norm transformer without a direction."""

    def __init__(self, dim: int, num_heads: int, layers: int) -> None:
        """Builds `layers` blocks of width `dim`."""
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, num_heads) for _ in range(layers))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """float32[S, L, D], [S, L] (0, or very negative) -> float32[S, L, D]."""
        for block in self.blocks:
            tokens = block(tokens, mask)
        return tokens


class Block(nn.Module):
    """`U = V + MHSA(LN(V)); V' = U + FFN(LN(U))`."""

    def __init__(self, dim: int, num_heads: int) -> None:
        """Builds it for tokens of width `dim`."""
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = HistoryAttention(dim, num_heads)
        self.out = nn.Linear(dim, dim)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
        )

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """float32[S, L, D], [S, L] -> float32[S, L, D]."""
        normed = self.norm(tokens)
        tokens = tokens + self.out(self.attention(normed, normed, mask))
        mixed: Tensor = tokens + self.feed_forward(tokens)
        return mixed
