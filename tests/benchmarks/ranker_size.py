"""How large a ranker is outside of its embedding tables."""

from __future__ import annotations

from torch import nn


def parameters(model: nn.Module) -> int:
    """Numbers that are learnt outside of embedding tables."""
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    return sum(p.numel() for p in model.parameters()) - sum(t.weight.numel() for t in tables)


def largest_product(model: nn.Module) -> tuple[int, int]:
    """Rows and columns of the widest linear map."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    widest = max(layers, key=lambda layer: layer.weight.numel())
    return widest.in_features, widest.out_features
