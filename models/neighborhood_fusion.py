"""Ways to fuse a node with its sampled neighbours into one vector.

Notable here:
- neighbours are transformed once an item of the batch, then gathered, not once a node;
- each way starts near "what my neighbours are, I am", so that few steps go a long way;
- a node without neighbours is its own features alone.

Shapes: N nodes with T neighbours each, U items of the batch, D width, A heads.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pooling = Literal["importance", "mean", "max", "attention"]


class Fusion(nn.Module):
    """Fuses nodes with their neighbours; the subclasses say how."""

    def forward(self, own: Tensor, items: Tensor, neighbors: Tensor, weights: Tensor) -> Tensor:
        """Fuses N nodes.

        Args:
            own: float32[N, D] what the nodes are themselves.
            items: float32[U, D] what the items of the batch are.
            neighbors: int64[N, T] places among the items; any place where the weight is 0.
            weights: float32[N, T] importance, a line adding up to 1, or to 0 without neighbours.

        Returns:
            float32[N, D], not normalised.
        """
        raise NotImplementedError


class Convolution(Fusion):
    """PinSage's convolution (KDD'18, Alg. 1) over one sampled neighbourhood.

    `n_u = pool_v ReLU(Q h_v + q)`, `z_u = G₂ ReLU(G₁ [h_u ⊕ n_u] + g)`, beside direct maps of h_u
    and of the weighted mean of h_v.
    """

    def __init__(self, dim: int, hidden: int, pooling: Pooling) -> None:
        """Builds it for vectors of width `dim`."""
        super().__init__()
        self.pooling = pooling
        self.message = nn.Linear(dim, hidden)
        self.attention = nn.Linear(dim, hidden, bias=False) if pooling == "attention" else None
        self.mix = nn.Sequential(nn.Linear(dim + hidden, hidden), nn.ReLU(), nn.Linear(hidden, dim))
        self.near = nn.Linear(dim, dim, bias=False)
        nn.init.eye_(self.near.weight)
        _shrink(self.mix[-1], 0.1)

    def forward(self, own: Tensor, items: Tensor, neighbors: Tensor, weights: Tensor) -> Tensor:
        """See `Fusion.forward`."""
        messages = F.relu(self.message(items))
        if self.attention is not None:
            weights = _attended(self.attention(own), messages, neighbors, weights)
        if self.pooling == "mean":
            weights = _evened(weights)
        pooled = (
            _largest(messages, neighbors, weights)
            if self.pooling == "max"
            else gather_sum(messages, neighbors, weights)
        )
        near = gather_sum(items, neighbors, weights)
        mixed: Tensor = self.mix(torch.cat([own, pooled], 1))
        fused: Tensor = own + self.near(near) + mixed
        return fused


class FusionTransformer(Fusion):
    """Early fusion of a node and its neighbours by attention (OmniSage, 2025).

    Tokens are the node and its neighbours, each neighbour with the logarithm of its importance
    added to the attention that it gets; one pre-norm layer; the node's token is read.
    """

    def __init__(self, dim: int, hidden: int, heads: int) -> None:
        """Builds one layer of `heads` heads, which divide `dim`."""
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)
        )
        self.near = nn.Linear(dim, dim, bias=False)
        nn.init.eye_(self.near.weight)
        _shrink(self.out, 0.1)
        _shrink(self.feed_forward[-1], 0.1)

    def forward(self, own: Tensor, items: Tensor, neighbors: Tensor, weights: Tensor) -> Tensor:
        """See `Fusion.forward`."""
        tokens = torch.cat([own.unsqueeze(1), items[neighbors]], 1)
        normed = self.norm(tokens)
        importance = torch.cat([torch.ones_like(weights[:, :1]), weights], 1).clamp(min=0)
        bias = torch.where(importance > 0, importance.clamp(min=1e-9).log(), -1e9)
        query = self._split(self.query(normed[:, :1]))
        key, value = map(self._split, self.key_value(normed).chunk(2, -1))
        read = F.scaled_dot_product_attention(query, key, value, bias[:, None, None, :])
        state = own + self.near(gather_sum(items, neighbors, weights))
        state = state + self.out(read.transpose(1, 2).flatten(2).squeeze(1))
        fused: Tensor = state + self.feed_forward(state)
        return fused

    def _split(self, tokens: Tensor) -> Tensor:
        """[N, L, D] -> [N, A, L, D / A]."""
        batch, length, dim = tokens.shape
        return tokens.view(batch, length, self.heads, dim // self.heads).transpose(1, 2)


class Propagation(Fusion):
    """Weighted sum of a node and its neighbours, nothing else (LightGCN, SIGIR'20)."""

    def __init__(self) -> None:
        """Learns how much the neighbours count."""
        super().__init__()
        self.share = nn.Parameter(torch.ones(()))

    def forward(self, own: Tensor, items: Tensor, neighbors: Tensor, weights: Tensor) -> Tensor:
        """See `Fusion.forward`."""
        return own + self.share * gather_sum(items, neighbors, weights)


def gather_sum(rows: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """`Σ_t w_nt rows[places_nt]`, float32[N, D], without laying out N x T rows."""
    return F.embedding_bag(places, rows, mode="sum", per_sample_weights=weights.to(rows))


def _largest(messages: Tensor, neighbors: Tensor, weights: Tensor) -> Tensor:
    """Element-wise largest message, which ReLU has made at least 0; 0 without neighbours."""
    there = (weights > 0).unsqueeze(-1).to(messages)
    largest: Tensor = (messages[neighbors] * there).amax(1)
    return largest


def _attended(query: Tensor, messages: Tensor, neighbors: Tensor, weights: Tensor) -> Tensor:
    """Attention of nodes on their neighbours in place of importance, lines adding up to 1 or 0."""
    scores = (messages[neighbors] * query.unsqueeze(1)).sum(-1) * query.shape[1] ** -0.5
    attention = torch.softmax(scores.masked_fill(weights <= 0, -1e9), 1)
    return attention * (weights > 0)


def _evened(weights: Tensor) -> Tensor:
    there = (weights > 0).to(weights)
    return there / there.sum(1, keepdim=True).clamp(min=1)


@torch.no_grad()
def _shrink(layer: nn.Module, share: float) -> None:
    assert isinstance(layer, nn.Linear)
    layer.weight.mul_(share)
    layer.bias.zero_()
