"""Candidates of several sources -> one list without doubles, each source with its share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.contract.encode import Ints
from serve.blend import occurrence
from serve.lists import left
from serve.programs import Floats

NOTHING = np.zeros(0, np.int64)
DEPTH = 2.0  # times its share of the candidates that a list among several is asked for
WHOLE = np.float32(0.5)  # share of what is found for all that a user did, beside their interests

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from serve.ids import Mask


@dataclass(frozen=True, slots=True)
class Found:
    """What a source found, best first.

    Attributes:
        source: its name.
        rows: item rows, [N].
        scores: higher is better within the source, [N].
    """

    source: str
    rows: Ints
    scores: Floats

    def where(self, mask: Mask) -> Found:
        """The items for which `mask` [N] holds."""
        return Found(self.source, self.rows[mask], self.scores[mask])


@dataclass(frozen=True, slots=True)
class Candidates:
    """Candidates of a request.

    Attributes:
        rows: distinct item rows, [N].
        source: index into `names` of the source that gave each, [N].
        names: names of the sources.
    """

    rows: Ints
    source: Ints
    names: tuple[str, ...]

    def take(self, at: Ints) -> Candidates:
        """Some of them."""
        return Candidates(self.rows[at], self.source[at], self.names)


def merge(
    found: Sequence[Found], exclude: Ints, shares: Mapping[str, float], limit: int
) -> Candidates:
    """Takes from each source its share of what none before it has, then fills up.

    Args:
        found: what each source found; earlier ones win ties.
        exclude: rows that may not be shown, sorted.
        shares: source -> share of `limit`, scaled to those that answered.
        limit: candidates wanted.
    """
    lists = [one.rows[left(one.rows, exclude)] for one in found]
    weights = np.array([shares.get(one.source, 0.1) for one in found])
    quotas = np.ceil(limit * weights / max(weights.sum(), 1e-9)).astype(np.int64)
    taken: list[Ints] = []
    before = np.zeros(0, np.int64)
    for rows, quota in zip(lists, quotas, strict=True):
        taken.append(rows[left(rows, before)][:quota])
        before = np.sort(np.concatenate([before, taken[-1]]))
    first = _by_place(taken, [np.arange(len(rows)) for rows in taken])
    places = [np.flatnonzero(left(rows, before)) for rows in lists]
    others = _by_place([rows[at] for rows, at in zip(lists, places, strict=True)], places)
    _, distinct = np.unique(others[0], return_index=True)
    filling = np.sort(distinct)[: max(limit - len(first[0]), 0)]
    rows, source = (
        np.concatenate([a, b[filling]])[:limit] for a, b in zip(first, others, strict=True)
    )
    return Candidates(rows, source, tuple(one.source for one in found))


def _by_place(lists: Sequence[Ints], places: Sequence[Ints]) -> tuple[Ints, Ints]:
    """Rows of all lists, the first places before the second ones, and the list of each."""
    rows = np.concatenate([NOTHING, *lists])
    source = np.repeat(np.arange(len(lists)), [len(one) for one in lists])
    order = np.argsort(np.concatenate([NOTHING, *places]), kind="stable")
    return rows[order], source[order]


def depths(limit: int, shares: Floats) -> Ints:
    """How long lists of some shares [N] have to be for `limit` candidates of all, int64[N].

    They overlap: each is asked for more than its share, and none for more than all.
    """
    wanted = np.ceil(DEPTH * limit * shares / max(float(shares.sum()), 1e-9))
    deep: Ints = np.minimum(wanted, limit).astype(np.int64)
    return deep


def turns(depth: int, shares: Floats) -> Floats:
    """When the places of lists have their turns: shares [N] -> [N, depth].

    A list of twice the share has them twice as often.
    """
    places = np.arange(1, depth + 1, dtype=np.float32)
    return places / shares[:, None]


def in_turns(lists: Sequence[Ints], shares: Floats) -> Ints:
    """Distinct rows of lists, best first, in the order in which the lists take turns.

    Args:
        lists: rows, best first, L of them.
        shares: of each, above 0, [L].
    """
    depth = max(map(len, lists))
    turn = np.concatenate(
        [line[: len(rows)] for line, rows in zip(turns(depth, shares), lists, strict=True)]
    )
    rows = np.concatenate(lists)[np.argsort(turn, kind="stable")]
    _, first = np.unique(rows, return_index=True)
    ordered: Ints = rows[np.sort(first)]
    return ordered


def shares_of_list(interests: Floats) -> Floats:
    """Shares [N, K] of a user's interests -> shares [N, 1 + K] of a list.

    The first is that of what is found for all that a user did.
    """
    plain = np.where(interests.any(1, keepdims=True), WHOLE, np.float32(1.0))
    return np.concatenate([plain, interests * (1 - plain)], 1)


def without_duplicates(candidates: Candidates, keys: Ints) -> Candidates:
    """Keeps the first of each key: of the items that show one image."""
    return candidates.take(np.flatnonzero(occurrence(keys) == 0))
