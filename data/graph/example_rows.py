"""Examples as rows of a table, as they travel from Ray Data's tasks to the training loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.contract.encode import Ints
from data.graph.neighborhoods import fixed_lists
from data.graph.pairs import USER_ITEM

if TYPE_CHECKING:
    from data.graph.pairs import Pairs
    from data.graph.walks import Neighborhoods


def example_table(
    pairs: Pairs, of_queries: Neighborhoods, items: Ints, of_items: Neighborhoods
) -> pa.Table:
    """Examples as rows: `objective`, `query` with its neighbourhood, `items` with theirs.

    Args:
        pairs: B of them.
        of_queries: [B, T].
        items: the positive, random and hard negatives of each, [B, I]; 0 is none.
        of_items: [B * I, T].
    """
    width, count = of_queries.neighbors.shape[1], items.shape[1]
    return pa.table(
        {
            "objective": pairs.objective.astype(np.int8),
            "query": pairs.query,
            "query.neighbors": _fixed(of_queries.neighbors, width),
            "query.weights": _fixed(of_queries.weights, width),
            "items": _fixed(items.astype(np.int32), count),
            "items.neighbors": _fixed(of_items.neighbors, count * width),
            "items.weights": _fixed(of_items.weights, count * width),
        }
    )


def _fixed(values: npt.NDArray[Any], width: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(values)), width)


@dataclass(frozen=True, slots=True)
class Examples:
    """Examples opened again, B of them with I items each.

    Attributes:
        objective: codes, [B].
        query: rows of items or users, [B].
        items: positive, R random and H hard negatives, [B, I].
        neighbors: int32[B, 1 + I, T] of the query and the items.
        weights: float32, likewise.
        num_random: R.
    """

    objective: Ints
    query: Ints
    items: Ints
    neighbors: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    num_random: int

    @classmethod
    def of(cls, table: pa.Table, num_random: int) -> Examples:
        """Reads what `example_table` wrote."""
        items = fixed_lists(table["items"]).astype(np.int64)
        return cls(
            table["objective"].to_numpy().astype(np.int64),
            table["query"].to_numpy().astype(np.int64),
            items,
            _with_query(table, "neighbors", items.shape),
            _with_query(table, "weights", items.shape),
            num_random,
        )

    def __len__(self) -> int:
        """B."""
        return len(self.query)

    @property
    def of_users(self) -> npt.NDArray[np.bool_]:
        """Which queries are users, [B]."""
        of_users: npt.NDArray[np.bool_] = self.objective == USER_ITEM
        return of_users

    @property
    def drawn(self) -> Ints:
        """All random negatives, [B * R]."""
        return self.items[:, 1 : 1 + self.num_random].ravel()

    def take(self, at: Ints) -> Examples:
        """Some of them, in the order asked for."""
        return Examples(
            self.objective[at],
            self.query[at],
            self.items[at],
            self.neighbors[at],
            self.weights[at],
            self.num_random,
        )


def _with_query(table: pa.Table, name: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    of_query = fixed_lists(table[f"query.{name}"])
    of_items = fixed_lists(table[f"items.{name}"]).reshape(*shape, of_query.shape[1])
    return np.concatenate([of_query[:, None], of_items], axis=1)
