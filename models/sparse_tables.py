"""ID tables in plain torch, for machines without torchrec: one process, the same update rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

Shapes = Mapping[str, tuple[int, int]]


class SparseTables(nn.Module):
    """A table of rows a name; state-dict keys are those of torchrec's `EmbeddingBagCollection`."""

    def __init__(self, shapes: Shapes, device: torch.device | None = None) -> None:
        """Builds tables of `shapes[name] = (num_embeddings, dim)`."""
        super().__init__()
        self.embedding_bags = nn.ModuleDict(
            {
                name: nn.Embedding(rows, dim, sparse=True, device=device)
                for name, (rows, dim) in shapes.items()
            }
        )

    def forward(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Looks up `ids[name]` int64[n] -> float32[n, dim]."""
        return {name: table(ids[name]) for name, table in self.embedding_bags.items()}


class RowWiseAdagrad:
    """Row-wise Adagrad that updates a table as soon as its gradient is there.

    One accumulator a row, `G_r += mean(g_r²)`, `w_r −= lr · g_r / (√G_r + ε)`: what torchrec's
    fused optimiser does in backward. Rows that were not looked up are left alone.
    """

    def __init__(self, tables: SparseTables, learning_rate: float, eps: float = 1e-8) -> None:
        """Hooks itself to every table."""
        self.param_groups = [{"lr": learning_rate}]
        self.eps = eps
        self.sums: dict[str, Tensor] = {}
        for name, table in tables.embedding_bags.items():
            assert isinstance(table, nn.Embedding)
            self.sums[name] = table.weight.new_zeros(table.num_embeddings)
            table.weight.register_post_accumulate_grad_hook(self._hook(name))

    def _hook(self, name: str) -> Any:
        def update(weight: Tensor) -> None:
            assert weight.grad is not None
            gradient = weight.grad.coalesce()
            rows, values = gradient.indices()[0], gradient.values()
            sums = self.sums[name].index_add_(0, rows, values.square().mean(1))
            steps = values / (sums[rows].sqrt() + self.eps).unsqueeze(1)
            with torch.no_grad():
                weight.index_add_(0, rows, steps, alpha=-self.param_groups[0]["lr"])
            weight.grad = None

        return update

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing to do: gradients are gone after the update."""

    def state_dict(self) -> dict[str, Any]:
        """Accumulators by table."""
        return {"state": dict(self.sums)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over accumulators; a smaller one fills the first rows."""
        for name, sums in state["state"].items():
            self.sums[name][: len(sums)] = sums
