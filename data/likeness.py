"""How like candidates are to what their users did: shares of equal values, cosines of vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from data.contract.encode import Events, Ints, ragged_positions

if TYPE_CHECKING:
    from data.contract.encode import FeatureTable

Floats = npt.NDArray[np.float32]

LATELY = (1, 5)
CHUNK_REQUESTS = 2048


@dataclass(frozen=True, slots=True)
class ItemColumns:
    """What is compared of items.

    Attributes:
        values: name -> 0/1 [rows, distinct values]; "item" itself has one value a row.
        vectors: name -> float32[rows, D] of unit length.
    """

    values: dict[str, sp.csr_array]
    vectors: dict[str, Floats]

    @classmethod
    def of(cls, items: FeatureTable, rows: int) -> ItemColumns:
        """Of the declared columns, in memory."""
        arrays = items.gather(np.arange(rows))
        values = {"item": sp.eye_array(rows, dtype=np.float32, format="csr")}
        vectors = {}
        for feature in items.features:
            name = f"item.{feature.name}"
            if feature.kind == "categorical":
                values[feature.name] = _one_hot(arrays[name], np.ones(rows, np.int64))
            elif feature.kind == "multi":
                lengths = arrays[f"{name}.lengths"].astype(np.int64)
                values[feature.name] = _one_hot(arrays[f"{name}.values"], lengths)
            elif feature.kind == "vector":
                vectors[feature.name] = _unit(arrays[name].astype(np.float32))
        return cls(values, vectors)


def _one_hot(values: npt.NDArray[np.generic], lengths: Ints) -> sp.csr_array:
    """Lists of hashes -> 0/1 [rows, distinct hashes]; 0 is no value."""
    distinct, column = np.unique(values, return_inverse=True)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    there = (values != 0).astype(np.float32)
    matrix = sp.csr_array((there, (owners, column)), (len(lengths), max(len(distinct), 1)))
    matrix.eliminate_zeros()
    return matrix


def likeness(past: Events, counts: Ints, items: Ints, columns: ItemColumns) -> dict[str, Floats]:
    """Compares the candidates of R requests with events of their users.

    Args:
        past: of each request's user, [R].
        counts: candidates of each request, [R].
        items: item rows of the candidates, end to end, [N].
        columns: of items.

    Returns:
        name of a column -> [N] share of the events whose item has the candidate's value (summed
        over values where an item has several); name of a vector -> [N, 1 + len(LATELY)] cosine with
        the mean of the events' items, and of the newest few of them.
    """
    ends = np.cumsum(counts)
    found: list[dict[str, Floats]] = []
    for first in range(0, len(counts), CHUNK_REQUESTS):
        at = np.arange(first, min(first + CHUNK_REQUESTS, len(counts)))
        chosen = items[ragged_positions(ends[at] - counts[at], counts[at])]
        part = past.cut(past.offsets[at], past.lengths[at])
        found.append(_likeness(part, np.repeat(np.arange(len(at)), counts[at]), chosen, columns))
    return {name: np.concatenate([chunk[name] for chunk in found]) for name in found[0]}


def _likeness(past: Events, owner: Ints, items: Ints, columns: ItemColumns) -> dict[str, Floats]:
    read = _mean_of(past, columns.values["item"].shape[0])
    shares = {
        name: (read @ values)[owner].multiply(values[items]).sum(axis=1).astype(np.float32)
        for name, values in columns.values.items()
    }
    lately = [read, *(_mean_of(past.newest(count), read.shape[1]) for count in LATELY)]
    cosines = {
        name: np.stack([_cosine(r @ vectors, owner, vectors[items]) for r in lately], axis=1)
        for name, vectors in columns.vectors.items()
    }
    return shares | cosines


def _mean_of(past: Events, rows: int) -> sp.csr_array:
    """Weights that average over the events of each user, [R, rows]."""
    lengths = past.lengths
    weights = np.repeat(1 / np.maximum(lengths, 1), lengths).astype(np.float32)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    return sp.csr_array((weights, (owners, past.item)), (len(lengths), rows))


def _cosine(means: Floats, owner: Ints, vectors: Floats) -> Floats:
    cosines: Floats = np.einsum("nd,nd->n", _unit(means)[owner], vectors)
    return cosines


def _unit(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Floats = vectors / np.maximum(lengths, np.float32(1e-6))
    return scaled
