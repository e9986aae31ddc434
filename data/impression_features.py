"""Hand-made features of impressions, for the baselines that stand beside a ranker.

Only what was known before a request is read: counts of the days before (`data.track_record`),
events of the user before the moment (`data.requests`), declared columns. Learnt embeddings are left
out: as of the reported days they know the labels of the training days, and no model shall change a
baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from data.contract.schema import DAY_MS, Feature, Polarity
from data.dataset import Dataset
from data.likeness import ItemColumns, likeness
from data.requests import Requests, UserEvents
from data.track_record import Standings
from data.training_log import TrainingLog

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pyarrow as pa

    from data.contract.encode import Arrays, Events, FeatureTable, Ints, Mask
    from data.queries import SplitLog

Floats = npt.NDArray[np.float32]

MAX_HISTORY = 100
BUCKETS = 256
POSITIONS = 32
HOUR_MS = DAY_MS // 24
PRIOR_STRENGTH = 20.0
LEAST_COUNT = 1e-6
POLARITIES: tuple[Polarity, ...] = ("positive", "negative")


@dataclass(frozen=True, slots=True)
class Described:
    """Features of N impressions.

    Attributes:
        names: of the columns of `dense`, F of them.
        dense: float32[N, F], finite.
        hot: 0/1 float32 [N, V], categories by bucket of their hash.
    """

    names: tuple[str, ...]
    dense: Floats
    hot: sp.csr_array


@dataclass(frozen=True, slots=True)
class ImpressionFeatures:
    """What is known of a log before any of its impressions.

    Attributes:
        dataset: vocabulary and declared columns.
        events: readable events of the users asked for.
        standings: of items.
        columns: of items.
    """

    dataset: Dataset
    events: UserEvents
    standings: Standings
    columns: ItemColumns

    @classmethod
    def of(
        cls, log: SplitLog, parts: Sequence[int], half_life_days: float, asked: Mask
    ) -> ImpressionFeatures:
        """Reads the log.

        Args:
            log: of a data set without learnt embeddings.
            parts: whose events may be known; those at or after a request never are.
            half_life_days: age at which an event counts half.
            asked: users whose impressions will be described, [rows].
        """
        data = log.dataset
        events = UserEvents.of(TrainingLog(log, tuple(parts)), asked)
        nobody = np.zeros_like(asked)  # counts of users are no feature
        standings = Standings.of(log, parts, half_life_days, nobody)
        return cls(data, events, standings, ItemColumns.of(data.items, data.item_ids.rows))

    def of_impressions(self, impressions: pa.Table) -> Described:
        """Describes encoded impressions whose rows are contiguous by request, N in all."""
        requests = Requests.of(impressions, self.dataset.vocabulary.actions)
        counts = np.diff(requests.offsets)
        owner = np.repeat(np.arange(len(requests)), counts)
        past = self.events.histories(requests, MAX_HISTORY)
        of_items = self.dataset.items.gather(requests.item)
        of_users = self.dataset.users.gather(requests.user)
        found = self._tallied(requests, owner)
        found |= {f"past.{n}": v[owner] for n, v in self._of_past(requests, past).items()}
        for polarity in POLARITIES:
            chosen = past.chosen(np.isin(past.action, self.dataset.vocabulary.codes(polarity)))
            alike = likeness(chosen, counts, requests.item, self.columns)
            found |= {f"{polarity}.{name}": values for name, values in alike.items()}
        found |= _numbers(self.dataset.items, of_items)
        found |= {name: v[owner] for name, v in _numbers(self.dataset.users, of_users).items()}
        found |= {"age": self._ages(requests, owner), "place": np.log1p(requests.position)}
        hot = [
            *_categories(self.dataset.items, of_items),
            *(matrix[owner] for matrix in _categories(self.dataset.users, of_users)),
            *self._circumstances(impressions),
        ]
        names, dense = _stacked(found)
        return Described(names, dense, sp.hstack(hot, format="csr", dtype=np.float32))

    def _tallied(self, requests: Requests, owner: Ints) -> dict[str, Floats]:
        """Logarithms of counts of items and of those that share a value, and rates of actions."""
        moments = self.standings.moments(requests.user, requests.timestamp)
        counts = self.standings.of_items(moments[owner], requests.item)
        names, rates = [*self.standings.keys][1:], _rates(counts)
        found = {f"{name}.counts": np.log1p(counts[:, at]) for at, name in enumerate(names, 1)}
        return found | {f"{name}.rates": rates[:, at] for at, name in enumerate(names)}

    def _of_past(self, requests: Requests, past: Events) -> dict[str, Floats]:
        """How much each request's user did, how long ago, and what. [R] and [R, actions]."""
        actions = len(self.dataset.vocabulary.actions)
        owners = np.repeat(np.arange(len(requests)), past.lengths)
        cells = owners * actions + past.action - 1
        counts = np.bincount(cells, minlength=len(requests) * actions)
        shares = counts.reshape(-1, actions) / np.maximum(past.lengths, 1)[:, None]
        newest = past.newest(1)
        idle = np.full(len(requests), -1.0)
        idle[newest.lengths > 0] = (
            requests.timestamp[newest.lengths > 0] - newest.timestamp
        ) / HOUR_MS
        if self.dataset.calendar is None:
            idle[:] = -1.0
        found = {
            "events": np.log1p(past.lengths),
            "shares": shares,
            "idle": _log_or_minus_one(idle),
        }
        return {name: values.astype(np.float32) for name, values in found.items()}

    def _ages(self, requests: Requests, owner: Ints) -> Floats:
        """ln(1 + days) since each item came; -1 where unknown. [N]."""
        created, now = self.dataset.items_created_at[requests.item], requests.timestamp[owner]
        days = np.where((created > 0) & (now > 0), np.maximum(now - created, 0) / DAY_MS, -1.0)
        return _log_or_minus_one(days)

    def _circumstances(self, impressions: pa.Table) -> Iterable[sp.csr_array]:
        """Position, surface and hour."""
        position = impressions["position"].to_numpy().astype(np.int64)
        yield _hot(np.clip(position, 0, POSITIONS - 1), POSITIONS)
        if "surface" in impressions.column_names:
            surfaces = len(self.dataset.vocabulary.surfaces) + 1
            yield _hot(impressions["surface"].to_numpy().astype(np.int64), surfaces)
        if self.dataset.calendar is not None:
            yield _hot(impressions["timestamp"].to_numpy() // HOUR_MS % 24, 24)


def _rates(counts: Floats) -> Floats:
    """Share of each action among what was shown, or among all touches where nothing says what was.

    Towards that of all items by PRIOR_STRENGTH touches.

    Args:
        counts: [N, G, W] of an item on average first; each action, then shown.

    Returns:
        float32[N, G - 1, W - 1].
    """
    everything, own = counts[:, :1], counts[:, 1:]
    shown = everything[..., -1:] > 0
    of_all, of_own = (
        np.where(shown, part[..., -1:], part[..., :-1].sum(axis=-1, keepdims=True))
        for part in (everything, own)
    )
    prior = everything[..., :-1] / np.maximum(of_all, LEAST_COUNT)
    rates = (own[..., :-1] + PRIOR_STRENGTH * prior) / (of_own + PRIOR_STRENGTH)
    return rates.astype(np.float32)


def _log_or_minus_one(values: npt.NDArray[np.float64]) -> Floats:
    return np.where(values < 0, -1, np.log1p(np.maximum(values, 0))).astype(np.float32)


def _numbers(table: FeatureTable, arrays: Arrays) -> dict[str, Floats]:
    """Numeric columns as models read them: clipped, logarithm, standardised; 0 where missing."""
    return {
        f"{table.side}.{f.name}": _standardised(f, arrays[f"{table.side}.{f.name}"])
        for f in table.features
        if f.kind == "numeric"
    }


def _standardised(feature: Feature, values: npt.NDArray[np.generic]) -> Floats:
    clipped = np.clip(values.astype(np.float64), feature.low, feature.high)
    shaped = np.log1p(clipped - feature.low) if feature.log else clipped
    return np.nan_to_num((shaped - feature.mean) / max(feature.std, 1e-6)).astype(np.float32)


def _categories(table: FeatureTable, arrays: Arrays) -> Iterable[sp.csr_array]:
    for feature in table.features:
        name = f"{table.side}.{feature.name}"
        if feature.kind == "categorical":
            yield _hot(np.asarray(arrays[name], np.int64) % BUCKETS, BUCKETS)
        elif feature.kind == "multi":
            lengths = np.asarray(arrays[f"{name}.lengths"], np.int64)
            yield _hot(np.asarray(arrays[f"{name}.values"], np.int64) % BUCKETS, BUCKETS, lengths)


def _hot(codes: Ints, width: int, lengths: Ints | None = None) -> sp.csr_array:
    """Codes -> indicators [N, width]; row n has the next `lengths[n]` codes, one by default."""
    lengths = np.ones(len(codes), np.int64) if lengths is None else lengths
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ones = np.ones(len(codes), np.float32)
    return sp.csr_array((ones, codes, offsets), (len(lengths), width))


def _stacked(columns: dict[str, Floats]) -> tuple[tuple[str, ...], Floats]:
    """Columns [N] or [N, K] side by side, with a name each."""
    wide = {name: c if c.ndim == 2 else c[:, None] for name, c in columns.items()}
    names = [
        name if c.shape[1] == 1 else f"{name}.{k}"
        for name, c in wide.items()
        for k in range(c.shape[1])
    ]
    return tuple(names), np.concatenate(list(wide.values()), axis=1).astype(np.float32)
