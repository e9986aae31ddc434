"""Speed of the encoders, in training and in inference; see `bench_torch_alone`.

Dense parts alone: rows that tables would have looked up are given, and get their gradients.

- `user`: the user model, by its default block (HSTU's); `user_softmax`: by a transformer's, as in
  PinnerFormer;
- `two_tower`: the retriever; in inference its user tower;
- `graph`: the graph encoder by a convolution (PinSage), `graph_transformer`: by attention.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.graph_encoder import GraphEncoder, GraphModelSettings
from models.sequence_encoder import SequenceSettings
from models.two_tower import TwoTower, TwoTowerSettings
from models.user_encoder import UserEncoder, UserSettings
from tests.benchmarks.device_rate import Peak, Timed, operations
from tests.benchmarks.encoder_batches import CONTENT, Made, Sizes, histories, nodes
from tests.benchmarks.ranker_columns import WORLD, Columns
from tests.benchmarks.ranker_size import parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

BATCHES, ROUNDS = 2, 3
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SMALL = Sizes(
    **{"items": 20_000, "windows": 16, "length": 100, "pool": 1024, "examples": 128},
    **{"neighbors": 20, "dim": 64, "hidden": 128, "layers": 2, "heads": 2},
)
LARGE = Sizes(
    **{"items": 1_000_000, "windows": 256, "length": 256, "pool": 8192, "examples": 4096},
    **{"neighbors": 50, "dim": 256, "hidden": 1024, "layers": 4, "heads": 4},
)
MATMUL = {"cpu": 1024, "cuda": 8192}
SECONDS = {"cpu": 0.2, "cuda": 1.0}
CONDITIONS = {"lr": 1e-3, "weight_decay": 0.01, "fused": True}  # of AdamW, as in training


def user(sizes: Sizes, block: Any) -> UserEncoder:
    """The user model."""
    settings = UserSettings(**widths(sizes), sequence=sequence(sizes, block))
    return UserEncoder(settings, CONTENT)


def two_tower(sizes: Sizes) -> TwoTower:
    """The retriever."""
    settings = TwoTowerSettings(**widths(sizes), sequence=sequence(sizes, "softmax"))
    return TwoTower(settings, WORLD)


def graph(sizes: Sizes, encoder: Any) -> GraphEncoder:
    """The graph encoder; items have columns and no rows of their own."""
    heads = {"num_heads": sizes.heads}
    settings = GraphModelSettings(dim=sizes.dim, hidden=sizes.hidden, encoder=encoder, **heads)
    return GraphEncoder(settings, CONTENT)


def widths(sizes: Sizes) -> dict[str, int]:
    """Of towers."""
    return {"dim": sizes.dim, "id_dim": sizes.dim, "hidden": sizes.hidden}


def sequence(sizes: Sizes, block: Any) -> SequenceSettings:
    """Of a history's encoder."""
    named = {"num_layers": sizes.layers, "num_heads": sizes.heads}
    return SequenceSettings(max_length=sizes.length, block=block, **named)


def embed_users(model: nn.Module, found: Made) -> Any:
    """Vectors of users after their whole histories, as serving asks for them."""
    inputs = found.batch.inputs
    items = F.normalize(found.rows["item_id"], dim=-1)
    inputs = {**inputs, "history.embedding.rows": items[inputs["history.item"]]}
    return model({**inputs, "user_id.rows": found.rows["user_id"]})


def embed_nodes(model: GraphEncoder, found: Made) -> Tensor:
    """Vectors of items by their neighbourhoods."""
    return model.nodes(found.rows, found.batch.inputs)


@dataclass(frozen=True, slots=True)
class Kind:
    """An encoder.

    Attributes:
        build: makes the model.
        columns: what it reads of items and users.
        make: makes a batch.
        part: what inference runs of it.
        embed: how.
        tables: whose rows it reads.
    """

    build: Callable[[Sizes], nn.Module]
    columns: Columns
    make: Callable[[Sizes, Columns, torch.Generator], Made]
    part: Callable[[Any], nn.Module]
    embed: Callable[[Any, Made], Any]
    tables: tuple[str, ...] = ()


def of_histories(
    build: Callable[[Sizes], nn.Module], columns: Columns, tables: tuple[str, ...]
) -> Kind:
    """A model with a tower of histories."""

    def tower(model: Any) -> nn.Module:
        return model.user_tower.program().module

    return Kind(build, columns, histories, tower, embed_users, tables)


def of_nodes(encoder: str) -> Kind:
    """A graph encoder."""
    return Kind(lambda sizes: graph(sizes, encoder), CONTENT, nodes, lambda m: m, embed_nodes)


KINDS = {
    "user": of_histories(lambda sizes: user(sizes, "pointwise"), CONTENT, ("item_id",)),
    "user_softmax": of_histories(lambda sizes: user(sizes, "softmax"), CONTENT, ("item_id",)),
    "two_tower": of_histories(two_tower, WORLD, ("item_id", "user_id")),
    "graph": of_nodes("convolution"),
    "graph_transformer": of_nodes("transformer"),
}


class Encoder:
    """A model with some batches on a device, in one arithmetic."""

    def __init__(self, kind: Kind, sizes: Sizes, dtype: torch.dtype, device: torch.device) -> None:
        draw = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        self.kind, self.autocast = kind, dtype == torch.bfloat16
        self.device = device
        self.model = kind.build(sizes).to(device).train()
        self.frozen = kind.part(copy.deepcopy(self.model)).eval().requires_grad_(False)
        made = [kind.make(sizes, kind.columns, draw) for _ in range(BATCHES)]
        self.batches = [one.to(device) for one in made]
        self.tokens = sum(one.tokens for one in made)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), **CONDITIONS)
        self.loss = torch.zeros(())

    def train(self) -> None:
        """A step on each batch: forward, backward, the optimiser of the dense part."""
        for found in self.batches:
            self.optimizer.zero_grad(set_to_none=True)
            rows = {name: found.rows[name].detach().requires_grad_() for name in self.kind.tables}
            with self._arithmetic():
                loss, _ = self.model(rows, found.batch)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.loss = loss.detach()

    @torch.inference_mode()
    def embed(self) -> None:
        """Inference on each batch."""
        with self._arithmetic():
            for found in self.batches:
                self.kind.embed(self.frozen, found)

    def _arithmetic(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)


def measure(encoder: Encoder, peak: Peak, seconds: float) -> dict[str, Any]:
    """Figures of training and of inference, which take turns with a large product."""
    calls = {"train": encoder.train, "infer": encoder.embed}
    work = {name: operations(call) for name, call in calls.items()}
    timed = {name: Timed(call, seconds, encoder.device) for name, call in calls.items()}
    for _ in range(ROUNDS):
        for one in (peak, *timed.values()):
            one.turn()
    found = {
        name: figures(encoder, work[name] / peak.flops_per_s, float(np.median(one.times)))
        | {"gflop_per_batch": round(work[name] / BATCHES / 1e9, 3)}
        for name, one in timed.items()
    }
    size = parameters(encoder.model)
    return {"parameters": size, "last_loss": round(float(encoder.loss), 3), **found}


def figures(encoder: Encoder, least: float, seconds: float) -> dict[str, float]:
    """What is told of a lap over the batches; at its peak the device would need `least` seconds."""
    return {
        "batch_ms": round(1000 * seconds / BATCHES, 3),
        "tokens_per_s": round(encoder.tokens / seconds),
        "share_of_peak": round(least / seconds, 4),
    }


def sizes_of(words: Mapping[str, str], device: torch.device) -> Sizes:
    """The device's usual sizes with those that are named."""
    names = {field.name for field in fields(Sizes)}
    given = {name: int(value) for name, value in words.items() if name in names}
    return replace(LARGE if device.type == "cuda" else SMALL, **given)


def encoders(words: Mapping[str, str], peaks: Mapping[str, Peak], device: torch.device) -> Any:
    """Figures of each encoder in each arithmetic, each printed too as soon as it is known."""
    sizes, seconds = sizes_of(words, device), float(words.get("seconds", SECONDS[device.type]))
    found: dict[str, Any] = {}
    for name in words.get("models", ",".join(KINDS)).split(","):
        found[name] = {}
        for arithmetic, peak in peaks.items():
            try:
                encoder = Encoder(KINDS[name], sizes, DTYPES[arithmetic], device)
                line = measure(encoder, peak, seconds)
            except torch.OutOfMemoryError:
                line = {"failed": "out of memory"}
            encoder = None  # or the next one would find its memory taken
            torch.cuda.empty_cache()
            print(json.dumps({"encoder": name, "arithmetic": arithmetic, **line}), flush=True)
            found[name][arithmetic] = line
    return found
