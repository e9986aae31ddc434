"""Made-up batches of encoders, as tensors: histories with their targets, nodes with neighbours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from data.contract.schema import DAY_MS, TREND_DAYS
from models.batch import Batch
from tests.benchmarks.ranker_columns import WORLD, Columns
from tests.benchmarks.ranker_store import Inputs, made_up, named

if TYPE_CHECKING:
    from torch import Generator

YEAR_MS = 365 * DAY_MS
POPULAR = 3.0  # the larger, the more events are of few items
CONTENT = replace(
    WORLD,
    item_features=tuple(f for f in WORLD.item_features if f.name != "graph_embedding"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Of batches and models; each is a word.

    Attributes:
        items: of the catalogue.
        windows: histories of a batch.
        length: most events of a history; half of them have as many.
        pool: items that each target is told apart from.
        days: on which targets lie.
        examples: pairs of a batch of the graph; each brings two random items.
        neighbors: of a node.
        dim: width of embeddings and states.
        hidden: of hidden layers.
        layers: of the sequence encoders.
        heads: of their attention.
    """

    items: int
    windows: int
    length: int
    pool: int
    examples: int
    neighbors: int
    dim: int
    hidden: int
    layers: int
    heads: int
    days: int = 14


class Made(NamedTuple):
    """A batch, and rows in place of those that tables would have given.

    Attributes:
        rows: float32 of each table.
        batch: all else.
        tokens: events of the histories, or nodes and their neighbours.
    """

    rows: Inputs
    batch: Batch
    tokens: int

    def to(self, device: torch.device) -> Made:
        """The same elsewhere."""
        rows = {name: found.to(device) for name, found in self.rows.items()}
        return Made(rows, self.batch.to(device), self.tokens)


def features(side: str, columns: Columns, rows: int, draw: Generator) -> Inputs:
    """The declared columns of so many items or users."""
    found: Inputs = {}
    declared = columns.item_features if side == "item" else columns.user_features
    for one in declared:
        found |= named(f"{side}.{one.name}", made_up(one, rows, draw), one.kind == "multi")
    return found


def popular(sizes: Sizes, count: int, draw: Generator) -> Tensor:
    """Items of so many events, some far more often than others."""
    return (sizes.items * torch.rand(count, generator=draw) ** POPULAR).long()


def histories(sizes: Sizes, columns: Columns, draw: Generator) -> Made:
    """Windows of timelines; each event is foretold from the state before it."""
    lengths = torch.randint(1, 2 * sizes.length, (sizes.windows,), generator=draw)
    lengths = lengths.clamp(max=sizes.length)
    owner = torch.repeat_interleave(torch.arange(sizes.windows), lengths)
    first = torch.cumsum(lengths, 0) - lengths
    read = torch.arange(len(owner)) - first[owner]
    past = popular(sizes, len(owner), draw)
    drawn = torch.randint(0, sizes.items, (sizes.pool - sizes.pool // 4,), generator=draw)
    pool = torch.cat([past[: sizes.pool // 4], drawn]).unique()
    items, place = torch.unique(torch.cat([past, pool]), return_inverse=True)
    history, candidates = place.split([len(past), len(pool)])
    inputs = {
        "history.item": history,
        "history.lengths": lengths,
        "target.sequence": owner,
        "target.length": read,
        "target.item": history,
        "pool.item": candidates,
    }
    inputs |= known(len(items), inputs) | events(len(past), columns, draw)
    inputs |= trends(sizes, len(past), len(pool), draw) | corrections(len(past), len(pool), draw)
    inputs |= features("item", columns, len(items), draw)
    inputs |= features("user", columns, sizes.windows, draw)
    rows = {"item_id": len(items), "user_id": sizes.windows}
    return made(rows, sizes, inputs, len(past), draw)


def made(
    counts: dict[str, int], sizes: Sizes, inputs: Inputs, tokens: int, draw: Generator
) -> Made:
    """A batch with as many rows of each table; each history, or example, has weight 1."""
    weight = torch.ones(len(inputs.get("history.lengths", inputs.get("query", ()))))
    rows = {name: torch.randn(n, sizes.dim, generator=draw) for name, n in counts.items()}
    scaled = {name: found * sizes.dim**-0.5 for name, found in rows.items()}
    return Made(scaled, Batch(ids={}, inputs=inputs, weight=weight), tokens)


def events(count: int, columns: Columns, draw: Generator) -> Inputs:
    """What is known of events beside their items."""
    actions, surfaces = len(columns.actions), len(columns.surfaces)
    return {
        "history.action": torch.randint(1, actions + 1, (count,), generator=draw),
        "history.surface": torch.randint(1, surfaces + 1, (count,), generator=draw),
        "history.gap_ms": torch.randint(0, DAY_MS, (count,), generator=draw),
        "history.time_ms": torch.randint(0, 50 * YEAR_MS, (count,), generator=draw),
        "history.duration_s": 99 * torch.rand(count, generator=draw),
    }


def known(items: int, inputs: Inputs) -> Inputs:
    """Where targets stand in the pool, and which of its items a window has read or will."""
    history, owner = inputs["history.item"], inputs["target.sequence"]
    size = len(inputs["pool.item"])
    place = torch.full((items,), -1)
    place[inputs["pool.item"]] = torch.arange(size)
    at = place[history]
    pairs = torch.unique((owner * size + at)[at >= 0])
    return {
        "target.pool": at,
        "known.sequence": pairs // size,
        "known.pool": pairs % size,
        "known.after": torch.zeros_like(pairs),
    }


def trends(sizes: Sizes, targets: int, pool: int, draw: Generator) -> Inputs:
    """How targets and the pool had done by the days of the targets."""
    shapes = {"target": (targets,), "pool": (sizes.days, pool)}
    found = {"target.moment": torch.randint(0, sizes.days, (targets,), generator=draw)}
    for name, shape in shapes.items():
        counts = torch.randint(0, 99, (*shape, len(TREND_DAYS)), generator=draw)
        found[f"{name}.trend.counts"] = counts
        found[f"{name}.trend.age_ms"] = torch.randint(0, 180 * DAY_MS, shape, generator=draw)
    return found | {"pool.absent": torch.rand(shapes["pool"], generator=draw) < 0.01}


def corrections(targets: int, pool: int, draw: Generator) -> Inputs:
    """What a softmax over a sampled pool is corrected by."""
    return {
        "positive.log_q": torch.rand(targets, generator=draw),
        "pool.log_q": torch.rand(pool, generator=draw),
        "pool.log_count": torch.zeros(pool),
    }


def nodes(sizes: Sizes, columns: Columns, draw: Generator) -> Made:
    """Pairs of items with their neighbourhoods, and random items to tell the positives from."""
    count = sizes.examples
    pairs = popular(sizes, 2 * count, draw)
    drawn = torch.randint(0, sizes.items, (2 * count,), generator=draw)
    rows, node = torch.unique(torch.cat([pairs, drawn]), return_inverse=True)
    pool = node[count:].unique()
    around = popular(sizes, len(rows) * sizes.neighbors, draw)
    items, place = torch.unique(torch.cat([rows, around]), return_inverse=True)
    weights = torch.rand(len(rows), sizes.neighbors, generator=draw)
    each = torch.arange(count)
    inputs = {
        "node.item": place[: len(rows)],
        "node.neighbors": place[len(rows) :].view(-1, sizes.neighbors),
        "node.weights": weights / weights.sum(1, keepdim=True),
        "query": node[:count],
        "positive": node[count : 2 * count],
        "pool.node": pool,
        "hard.node": torch.zeros(count, 0, dtype=torch.int64),
        "known.query": each,
        "known.pool": torch.searchsorted(pool, node[count : 2 * count]),
        "objective": torch.zeros(count, dtype=torch.int64),
    }
    inputs |= corrections(count, len(pool), draw) | features("item", columns, len(items), draw)
    tokens = len(rows) * (1 + sizes.neighbors)
    return made({}, sizes, inputs, tokens, draw)
