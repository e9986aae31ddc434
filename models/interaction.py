"""Feature crossing: the fields of a row mixed with one another.

A field is an ID row, a declared column or a state, each brought to one width. Layers follow one
another; in a layer several ways to mix stand side by side (DHEN; Zhang et al., 2022):
`X' = LN(Σ_i f_i(X) + X)`.

Shapes: N rows of F fields of width D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.contract.settings import Count, Dropout, Share

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Mixer = Literal["mlp", "masks", "fields", "cross"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossingSettings:
    """How the fields of a tower are crossed.

    Attributes:
        layers: one after the other; names joined by + stand side by side: mlp, masks (parallel
            MaskNet blocks), fields (attention among fields), cross (DCN-V2). Without any, a
            perceptron reads all fields at once.
        width: of a field.
        hidden: of the perceptrons and of a mask's output.
        blocks: masks side by side.
        bottleneck: share of the row's width inside a mask.
        num_heads: of the attention among fields; they divide `width`.
        dropout: after each way to mix.
    """

    layers: tuple[str, ...] = ()
    width: Count = 32
    hidden: Count = 128
    blocks: Count = 4
    bottleneck: Share = 0.1
    num_heads: Count = 2
    dropout: Dropout = 0.005

    def __post_init__(self) -> None:
        """Refuses names that nothing is known by."""
        for layer in self.layers:
            unknown = set(layer.split("+")) - set(get_args(Mixer))
            if unknown:
                raise ValueError(
                    f"layer {layer!r}: {', '.join(sorted(unknown)) or 'nothing'} is no way to mix; "
                    f"join some of {', '.join(get_args(Mixer))} by +"
                )
        if self.width % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} must divide width={self.width}")


class Joined(nn.Module):
    """Parts of any width -> one vector, by a perceptron over all of them laid side by side."""

    def __init__(self, widths: Sequence[int], hidden: int, out: int) -> None:
        """Builds it for parts of `widths`."""
        super().__init__()
        self.perceptron = perceptron(sum(widths), hidden, out)

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """Parts float32[N, ...] -> float32[N, out]."""
        mixed: Tensor = self.perceptron(torch.cat([*parts], 1))
        return mixed


def crossing(widths: Sequence[int], hidden: int, out: int, settings: CrossingSettings) -> nn.Module:
    """As set: layers of crossed fields, else a perceptron; either reads a list of parts."""
    if settings.layers:
        return Crossing(widths, out, settings)
    return Joined(widths, hidden, out)


def perceptron(width: int, hidden: int, out: int) -> nn.Sequential:
    """Two layers with GELU between; small at first, as it stands beside a direct path."""
    last = nn.Linear(hidden, out)
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.zero_()
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), last)


class Crossing(nn.Module):
    """Parts of any width -> one vector, by layers of crossed fields."""

    def __init__(self, widths: Sequence[int], out: int, settings: CrossingSettings) -> None:
        """Builds it for parts of `widths`; the output is small at first, for a direct path."""
        super().__init__()
        self.to_fields = nn.ModuleList(nn.Linear(width, settings.width) for width in widths)
        self.norm = nn.LayerNorm(settings.width)
        self.layers = nn.ModuleList(
            CrossingLayer(layer.split("+"), len(widths), settings) for layer in settings.layers
        )
        self.out = nn.Linear(len(widths) * settings.width, out)
        with torch.no_grad():
            self.out.weight.mul_(0.1)
            self.out.bias.zero_()

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """F parts float32[N, ...] -> float32[N, out]."""
        fields = [to(part) for to, part in zip(self.to_fields, parts, strict=True)]
        crossed = self.norm(torch.stack(fields, 1))
        for layer in self.layers:
            crossed = layer(crossed)
        out: Tensor = self.out(crossed.flatten(1))
        return out


class CrossingLayer(nn.Module):
    """Ways to mix side by side, their sum beside the fields as they were."""

    def __init__(self, mixers: Sequence[str], num_fields: int, settings: CrossingSettings) -> None:
        """Builds one of each."""
        super().__init__()
        self.mixers = nn.ModuleList(MIXERS[name](num_fields, settings) for name in mixers)
        self.dropout = nn.Dropout(settings.dropout)
        self.norm = nn.LayerNorm(settings.width)

    def forward(self, fields: Tensor) -> Tensor:
        """float32[N, F, D] -> the same."""
        mixed = fields
        for mixer in self.mixers:
            mixed = mixed + self.dropout(mixer(fields))
        normed: Tensor = self.norm(mixed)
        return normed


class Perceptron(nn.Module):
    """Two layers over all fields of a row at once."""

    def __init__(self, num_fields: int, settings: CrossingSettings) -> None:
        super().__init__()
        width = num_fields * settings.width
        self.both = nn.Sequential(
            nn.Linear(width, settings.hidden), nn.GELU(), nn.Linear(settings.hidden, width)
        )

    def forward(self, fields: Tensor) -> Tensor:
        """float32[N, F, D] -> the same."""
        mixed: Tensor = self.both(fields.flatten(1))
        return mixed.view_as(fields)


class MaskBlocks(nn.Module):
    """MaskNet's blocks side by side (Wang et al., DLP-KDD'21, §3.4), with a narrow mask.

    `m = W₂ ReLU(W₁ x)`, `y = ReLU(LN(W₃ (m ⊙ x)))`: products of the bits of any two fields.
    """

    def __init__(self, num_fields: int, settings: CrossingSettings) -> None:
        super().__init__()
        width = num_fields * settings.width
        self.blocks = settings.blocks
        narrow = max(1, round(settings.bottleneck * width))
        self.narrow = nn.Linear(width, self.blocks * narrow)
        self.masks = nn.Parameter(torch.empty(self.blocks, narrow, width))
        self.reads = nn.Parameter(torch.empty(self.blocks, width, settings.hidden))
        for weights in (self.masks, self.reads):
            nn.init.normal_(weights, std=weights.shape[1] ** -0.5)
        self.norm = nn.LayerNorm(settings.hidden)
        self.out = nn.Linear(self.blocks * settings.hidden, width)

    def forward(self, fields: Tensor) -> Tensor:
        """float32[N, F, D] -> the same."""
        row = fields.flatten(1)
        narrow = F.relu(self.narrow(row)).unflatten(1, (self.blocks, -1)).transpose(0, 1)
        masked = torch.bmm(narrow, self.masks) * row
        read = F.relu(self.norm(torch.bmm(masked, self.reads)))
        mixed: Tensor = self.out(read.transpose(0, 1).flatten(1))
        return mixed.view_as(fields)


class FieldAttention(nn.Module):
    """A pre-norm transformer layer whose tokens are the fields."""

    def __init__(self, num_fields: int, settings: CrossingSettings) -> None:
        super().__init__()
        del num_fields
        width = settings.width
        self.num_heads = settings.num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, fields: Tensor) -> Tensor:
        """float32[N, F, D] -> the same."""
        heads = self.qkv(fields).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(heads[0], heads[1], heads[2])
        attended = self.out(mixed.transpose(1, 2).flatten(2))
        out: Tensor = attended + self.feed_forward(fields + attended)
        return out


class Cross(nn.Module):
    """`x ⊙ (U V x + b)`: a cross layer of low rank (DCN-V2; Wang et al., WWW'21, eq. 2)."""

    def __init__(self, num_fields: int, settings: CrossingSettings) -> None:
        super().__init__()
        width = num_fields * settings.width
        self.low = nn.Linear(width, settings.hidden, bias=False)
        self.high = nn.Linear(settings.hidden, width)

    def forward(self, fields: Tensor) -> Tensor:
        """float32[N, F, D] -> the same."""
        row = fields.flatten(1)
        mixed: Tensor = row * self.high(self.low(row))
        return mixed.view_as(fields)


MIXERS: dict[str, Callable[[int, CrossingSettings], nn.Module]] = {
    "mlp": Perceptron,
    "masks": MaskBlocks,
    "fields": FieldAttention,
    "cross": Cross,
}
