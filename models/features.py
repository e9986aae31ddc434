"""Declared columns of items or users -> one dense vector, statistics inside.

Shapes: N rows, M values of a list column, F numeric columns, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from data.contract.schema import Feature

CATEGORY_DIM = 16
VECTOR_DIM = 64
MAX_BUCKETS = 20_000


class FeatureEncoder(nn.Module):
    """Concatenates what each declared column gives.

    numeric: clipped, logarithm if declared, z-scored, beside a missing flag; categorical: hash into
    a small table; multi: mean over a small table; vector: LayerNorm and a linear map, beside a
    missing flag. What is missing contributes zeros.

    Attributes:
        widths: of the parts that `forward` gives; all numbers are one.
        width: D, their sum; 0 without declared columns.
    """

    def __init__(self, features: Sequence[Feature], side: str) -> None:
        """Builds an encoder of `<side>.<feature>` arrays."""
        super().__init__()
        self.side = side
        kinds: dict[str, list[Feature]] = {"numeric": [], "categorical": [], "multi": []}
        kinds["vector"] = []
        for feature in features:
            kinds[feature.kind].append(feature)
        self.numeric = [f.name for f in kinds["numeric"]]
        self.normalise = _Normalise(kinds["numeric"])
        self.categories = nn.ModuleDict({f.name: Hashed(f) for f in kinds["categorical"]})
        self.multis = nn.ModuleDict({f.name: Hashed(f) for f in kinds["multi"]})
        self.vector_dims = {f.name: f.dim for f in kinds["vector"]}
        self.vectors = nn.ModuleDict({f.name: _Vector(f.dim) for f in kinds["vector"]})
        hashed = len(self.categories) + len(self.multis)
        numbers = [2 * len(self.numeric)] if self.numeric else []
        self.widths = numbers + [CATEGORY_DIM] * hashed + [VECTOR_DIM + 1] * len(self.vectors)
        self.width = sum(self.widths)

    def forward(self, inputs: Mapping[str, Tensor], prefix: str = "") -> list[Tensor]:
        """Encodes the columns.

        Args:
            inputs: `<prefix><side>.<numeric>` float32[N], `.<categorical>` int64[N],
                `.<multi>.values` int64[M] with `.<multi>.lengths` int64[N], `.<vector>`
                float32[N, dim]; NaN, hash 0, an empty list and a zero vector are missing.
            prefix: of the names, such as `history.`.

        Returns:
            Parts float32[N, ...] whose widths add up to D; none without columns.
        """
        at = f"{prefix}{self.side}."
        parts: list[Tensor] = []
        if self.numeric:
            parts.append(self.normalise(torch.stack([inputs[at + n] for n in self.numeric], 1)))
        parts += [table(inputs[at + name]) for name, table in self.categories.items()]
        for name, table in self.multis.items():
            values, lengths = inputs[f"{at}{name}.values"], inputs[f"{at}{name}.lengths"]
            parts.append(mean_pool(table(values), lengths))
        parts += [encode(inputs[at + name]) for name, encode in self.vectors.items()]
        return parts

    def codes(self, inputs: Mapping[str, Tensor], rows: Tensor, prefix: str = "") -> Tensor:
        """Hashes of the K categorical columns side by side, int64[N, K]; `rows` has N lines."""
        columns = [inputs[f"{prefix}{self.side}.{name}"] for name in self.categories]
        none = torch.zeros(rows.shape[0], 0, dtype=torch.int64, device=rows.device)
        return torch.stack(columns, 1) if columns else none

    def vector_columns(self) -> list[int]:
        """Where the VECTOR_DIM columns of each vector begin among the D."""
        first = self.width - (VECTOR_DIM + 1) * len(self.vectors)
        return [first + (VECTOR_DIM + 1) * i for i in range(len(self.vectors))]

    def example(self, rows: int, prefix: str = "") -> dict[str, Tensor]:
        """What `forward` reads, for an export: list columns have sizes of their own.

        Args:
            rows: N.
            prefix: of the names.
        """
        columns = {name: torch.zeros(rows) for name in self.numeric}
        columns |= {name: torch.zeros(rows, dtype=torch.int64) for name in self.categories}
        columns |= {name: torch.zeros(rows, dim) for name, dim in self.vector_dims.items()}
        for index, name in enumerate(self.multis):
            lengths = torch.zeros(rows, dtype=torch.int64)
            lengths[-1] = 100 * rows + index
            columns[f"{name}.values"] = torch.zeros(int(lengths[-1]), dtype=torch.int64)
            columns[f"{name}.lengths"] = lengths
        return {f"{prefix}{self.side}.{name}": column for name, column in columns.items()}

    def dynamic(self, rows: str, prefix: str = "") -> dict[str, str]:
        """Name of the size of each array in `example`: `rows`, or the list column's own name."""
        at = f"{prefix}{self.side}."
        plain = [*self.numeric, *self.categories, *self.vectors]
        names = dict.fromkeys([*plain, *(f"{name}.lengths" for name in self.multis)], rows)
        sizes = names | {f"{name}.values": f"{at}{name}" for name in self.multis}
        return {f"{at}{name}": size for name, size in sizes.items()}


class _Normalise(nn.Module):
    """float32[N, F] with NaN -> float32[N, 2F]: z-scores and missing flags."""

    low: Tensor
    high: Tensor
    log: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, features: Sequence[Feature]) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor([f.low for f in features]))
        self.register_buffer("high", torch.tensor([f.high for f in features]))
        self.register_buffer("log", torch.tensor([f.log for f in features], dtype=torch.bool))
        self.register_buffer("mean", torch.tensor([f.mean for f in features]))
        self.register_buffer("scale", torch.tensor([1 / f.std if f.std else 0.0 for f in features]))

    def forward(self, x: Tensor) -> Tensor:
        missing = torch.isnan(x)
        x = torch.where(missing, self.low, x)
        x = torch.minimum(torch.maximum(x, self.low), self.high)
        x = torch.where(self.log, torch.log1p(x - self.low), x)
        x = torch.where(missing, torch.zeros_like(x), (x - self.mean) * self.scale)
        return torch.cat([x, missing.float()], 1)


class Hashed(nn.Module):
    """int64 hashes -> float32[..., CATEGORY_DIM]; hash 0 is missing and gives zeros."""

    def __init__(self, feature: Feature) -> None:
        super().__init__()
        self.buckets = min(max(4 * feature.cardinality, 8), MAX_BUCKETS)
        self.table = nn.Embedding(self.buckets + 1, CATEGORY_DIM, padding_idx=0)
        nn.init.normal_(self.table.weight, std=0.5)
        nn.init.zeros_(self.table.weight[0])

    def forward(self, hashes: Tensor) -> Tensor:
        """int64[...] -> float32[..., CATEGORY_DIM]."""
        codes = torch.where(hashes == 0, 0, torch.remainder(hashes, self.buckets) + 1)
        rows: Tensor = self.table(codes)
        return rows


class _Vector(nn.Module):
    """float32[N, dim] -> float32[N, VECTOR_DIM + 1]; a zero vector gives zeros and a flag."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.project = nn.Linear(dim, VECTOR_DIM)

    def forward(self, x: Tensor) -> Tensor:
        missing = is_missing(x)
        return torch.cat([self.project(self.norm(x)) * (1 - missing), missing], 1)


@torch.no_grad()
def keep_likeness(weight: Tensor, features: FeatureEncoder, first: int = 0) -> None:
    """First values of a map that lets content vectors through: what looks alike is near.

    Args:
        weight: float32[D, columns], filled here.
        features: whose columns are mapped.
        first: where they begin.
    """
    nn.init.normal_(weight, std=weight.shape[0] ** -0.5)
    for column in features.vector_columns():
        width = min(VECTOR_DIM, weight.shape[0])
        weight[:width, first + column : first + column + width] += torch.eye(width)


class RowDropout(nn.Module):
    """Zeroes whole rows in training, so that what is built on them also works without."""

    def __init__(self, share: float) -> None:
        """Zeroes this share of the rows."""
        super().__init__()
        self.share = share

    def forward(self, rows: Tensor) -> Tensor:
        """float32[N, D] -> the same; unchanged in evaluation."""
        if not self.training or not self.share:
            return rows
        return rows * (torch.rand(len(rows), 1, device=rows.device) >= self.share)


def is_missing(rows: Tensor) -> Tensor:
    """1 where a row of float32[N, D] is all zeros, else 0; float32[N, 1]."""
    return (rows == 0).all(-1, keepdim=True).float()


def segments(lengths: Tensor, total: int) -> Tensor:
    """Which list each of `total` values belongs to, int64[total], for lists of `lengths` [N].

    Counts how many lists have ended before each position: integers only, so it exports and is the
    same for a list in any batch.
    """
    ends = torch.cumsum(lengths, 0)
    marks = torch.zeros(total + 1, dtype=torch.int64, device=lengths.device)
    return torch.cumsum(marks.index_add(0, ends, torch.ones_like(ends)), 0)[:total]


def mean_pool(values: Tensor, lengths: Tensor) -> Tensor:
    """Means of lists: float32[M, D] with lengths int64[N] -> float32[N, D], zeros where empty."""
    sums = values.new_zeros(lengths.shape[0], values.shape[1])
    sums = sums.index_add(0, segments(lengths, values.shape[0]), values)
    return sums / lengths.clamp(min=1).unsqueeze(1)
