"""Made-up items, users and requests for a ranker, as tensors: torch is all it needs."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from data.contract.schema import DAY_MS, TREND_DAYS
from tests.benchmarks.ranker_columns import WORLD, Column

HISTORY, CANDIDATES = 100, 500
ITEMS, USERS, LIST = 200_000, 10_000, 2

Inputs = dict[str, Tensor]


class Store:
    """Columns and ID rows of all items and users, and how items do, by row, on one device."""

    def __init__(self, id_dim: int) -> None:
        draw = torch.Generator().manual_seed(0)
        sides = (("item", WORLD.item_features, ITEMS), ("user", WORLD.user_features, USERS))
        self.columns = {
            side: {f.name: made_up(f, rows, draw) for f in features}
            | {"rows": 0.1 * torch.randn(rows, id_dim, generator=draw)}
            for side, features, rows in sides
        }
        self.columns["trend"] = {
            "counts": torch.randint(0, 99, (ITEMS, len(TREND_DAYS)), generator=draw),
            "age_ms": torch.randint(0, 180 * DAY_MS, (ITEMS,), generator=draw),
        }
        kinds = len(WORLD.actions) + 1
        columns = sum(column.kind == "categorical" for column in WORLD.item_features)
        for name, shape in {
            "tally": (ITEMS, 2 + columns, kinds),
            "user_tally": (USERS, 2, kinds),
        }.items():
            self.columns[name] = {"counts": 99 * torch.rand(shape, generator=draw)}
        self.lists = {f.name for f in WORLD.item_features if f.kind == "multi"}

    def to(self, device: str) -> Store:
        """The same elsewhere."""
        moved = copy.copy(self)
        moved.columns = {
            side: {name: column.to(device) for name, column in columns.items()}
            for side, columns in self.columns.items()
        }
        return moved

    def look_up(self, request: Inputs) -> Inputs:
        """Named arrays of a batch of requests, on the store's device."""
        inputs = {name: array for name, array in request.items() if "." in name}
        for side, columns in self.columns.items():
            for name, column in columns.items():
                found = column.index_select(0, request[side])
                if name == "rows":
                    inputs[f"{side}_id.rows"] = found
                else:
                    inputs |= named(f"{side}.{name}", found, name in self.lists)
        return inputs


def named(name: str, found: Tensor, is_list: bool) -> Inputs:
    """One column by the names that models read, lists laid end to end."""
    if not is_list:
        return {name: found}
    lengths = found.new_full((len(found),), LIST)
    return {f"{name}.values": found.flatten(), f"{name}.lengths": lengths}


def made_up(column: Column, rows: int, draw: torch.Generator) -> Tensor:
    """Random values of one column."""
    if column.kind == "numeric":
        values = column.low + (column.high - column.low) * torch.rand(rows, generator=draw)
        return values.masked_fill(torch.rand(rows, generator=draw) < 0.5, torch.nan)
    if column.kind == "vector":
        return torch.randn(rows, column.dim, generator=draw)
    shape = (rows, LIST) if column.kind == "multi" else (rows,)
    return torch.randint(1, column.cardinality + 1, shape, generator=draw)


def requests(count: int, seed: int) -> Inputs:
    """Row numbers and actions of a batch; items of all histories first, then all candidates.

    The candidates' rows stand for themselves again where it is asked how they do.
    """
    draw = torch.Generator().manual_seed(seed)
    events = count * HISTORY

    def codes(size: int, high: int) -> Tensor:
        return torch.randint(1, high, (size,), generator=draw)

    items, users = codes(events + count * CANDIDATES, ITEMS), codes(count, USERS)
    return {
        "item": items,
        "trend": items[events:],
        "tally": items[events:],
        "user": users,
        "user_tally": users,
        "history.action": codes(events, len(WORLD.actions) + 1),
        "history.surface": codes(events, len(WORLD.surfaces) + 1),
        "request.surface": codes(count, len(WORLD.surfaces) + 1),
        "history.age_ms": codes(events, 30 * DAY_MS),
        "history.lengths": torch.full((count,), HISTORY),
        "candidate.position": torch.zeros(count * CANDIDATES, dtype=torch.int64),
    }
