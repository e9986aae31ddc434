"""Examples of a batch -> what the graph encoder reads: which are nodes, and who neighbours whom.

Shapes: B examples of I items, N item nodes and Q user nodes of T neighbours, U distinct items, P
pool, H hard negatives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from data.numbering import numbered

if TYPE_CHECKING:
    import numpy.typing as npt

    from data.contract.encode import Arrays, Ints
    from data.graph.example_rows import Examples

N = TypeVar("N", bound=np.generic)


class GraphArrays(NamedTuple):
    """What a batch looks up and reads.

    Attributes:
        items: rows of the distinct items, [U].
        users: rows of the user nodes, [Q]; one unknown user where there are none.
        arrays: `node.item` int64[N] (into U), `node.neighbors` int64[N + Q, T] (into U),
            `node.weights` float32[N + Q, T]; `query`, `positive` int64[B], `pool.node` int64[P],
            `hard.node` int64[B, H] (into the N + Q nodes; -1: none); `known.query`, `known.pool`
            int64[K]; `objective` int64[B].
    """

    items: Ints
    users: Ints
    arrays: Arrays


class _Nodes(NamedTuple):
    """Item nodes of a batch.

    Attributes:
        rows: distinct item rows, ascending, [N].
        first: place of one of each among the queries that are items and then all items.
        of_queries: node of each query that is an item.
        of_items: node of each item, [B, I].
    """

    rows: Ints
    first: Ints
    of_queries: Ints
    of_items: Ints

    @classmethod
    def of(cls, examples: Examples) -> _Nodes:
        queries = examples.query[~examples.of_users]
        wanted = np.concatenate([queries, examples.items.ravel()])
        rows, first, node = np.unique(wanted, return_index=True, return_inverse=True)
        of_items = node[len(queries) :].reshape(examples.items.shape)
        return cls(rows, first, node[: len(queries)], of_items)


def graph_arrays(examples: Examples, pool: Ints) -> GraphArrays:
    """Numbers the nodes and items of a batch.

    Args:
        examples: B of them; all items of the pool are among theirs.
        pool: distinct item rows, ascending, [P].
    """
    nodes = _Nodes.of(examples)
    neighbors = _of_nodes(examples.neighbors, examples, nodes)
    items, place = numbered(np.concatenate([nodes.rows, neighbors.ravel()]))
    hard = nodes.of_items[:, 1 + examples.num_random :]
    arrays: Arrays = {
        "node.item": place[: len(nodes.rows)],
        "node.neighbors": place[len(nodes.rows) :].reshape(neighbors.shape),
        "node.weights": _of_nodes(examples.weights, examples, nodes),
        "query": _queries(examples, nodes),
        "positive": nodes.of_items[:, 0],
        "pool.node": np.searchsorted(nodes.rows, pool),
        "hard.node": np.where(nodes.rows[hard] > 0, hard, -1),
        "objective": examples.objective,
    }
    users = examples.query[examples.of_users]
    arrays |= _known_pairs(examples, pool)
    return GraphArrays(items, users if len(users) else np.zeros(1, np.int64), arrays)


def _of_nodes(values: npt.NDArray[N], examples: Examples, nodes: _Nodes) -> npt.NDArray[N]:
    """What belongs to each item node and then to each user node, [N + Q, T]."""
    of_users = examples.of_users
    of_items = np.concatenate([values[~of_users, 0], values[:, 1:].reshape(-1, values.shape[2])])
    return np.concatenate([of_items[nodes.first], values[of_users, 0]])


def _queries(examples: Examples, nodes: _Nodes) -> Ints:
    of_users = examples.of_users
    query = np.empty(len(examples), np.int64)
    query[~of_users] = nodes.of_queries
    query[of_users] = len(nodes.rows) + np.arange(of_users.sum())
    return query


def _known_pairs(examples: Examples, pool: Ints) -> Arrays:
    """(example, place in the pool) of items that are no negatives.

    These are the positive, and the query itself or, of a user, the other items that were sampled.
    """
    of_users = examples.of_users
    items = np.where(of_users, examples.items[:, 0], examples.query)
    users, others = np.flatnonzero(of_users), examples.neighbors[of_users, 0]
    each = np.arange(len(examples))
    owner = np.concatenate([each, each, np.repeat(users, others.shape[1])])
    item = np.concatenate([examples.items[:, 0], items, others.ravel()])
    place = np.minimum(np.searchsorted(pool, item), len(pool) - 1)
    there = pool[place] == item
    return {"known.query": owner[there], "known.pool": place[there]}
