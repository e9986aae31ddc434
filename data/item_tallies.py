"""What had happened to items before a moment: counts of each action, as a ranking baseline reads.

With a clock they are those of whole days before the request's, an event counting half as much when
it is a half-life older. Without one nobody can say which of two users came first: a request then
reads what the users of other folds did, so that no label is among its own counts, nor missing from
them alone (as it would be if only the user's own events were left out).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import scipy.sparse as sp

from data.contract.encode import Ints
from data.contract.schema import Calendar
from data.trends import days_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from data.queries import SplitLog

Floats = npt.NDArray[np.float32]

FOLDS = 10
PRIOR_STRENGTH = 20.0


@dataclass(frozen=True, slots=True)
class Touches:
    """What happened to items, H times; memory is 32 bytes each.

    Attributes:
        user: user rows, [H].
        item: item rows, [H].
        kind: code of the action - 1, or the number of actions where the item was shown, [H].
        day: 1-based, [H]; 0 without a clock.
    """

    user: Ints
    item: Ints
    kind: Ints
    day: Ints

    @classmethod
    def of(cls, log: SplitLog, parts: Sequence[int]) -> Touches:
        """The events of some parts and, under a time split, all that was shown."""
        calendar, found = log.dataset.calendar, []
        for block in log.blocks():
            chosen = np.isin(block.part, parts)
            events, users = block.events, block.users[block.owners[chosen]]
            times = events.timestamp[chosen]
            day = np.zeros(len(times), np.int64) if calendar is None else days_of(calendar, times)
            found.append((users, events.item[chosen], events.action[chosen] - 1, day))
        found += _shown(log) if log.split.kind == "time" else []
        columns = (np.concatenate(c).astype(np.int64) for c in zip(*found, strict=True))
        return cls(*columns)

    def at(self, chosen: Ints | npt.NDArray[np.bool_] | slice) -> Touches:
        """Some of them."""
        columns = (self.user, self.item, self.kind, self.day)
        return Touches(*(column[chosen] for column in columns))


def _shown(log: SplitLog) -> Iterator[tuple[Ints, Ints, Ints, Ints]]:
    calendar, kind = log.dataset.calendar, len(log.dataset.vocabulary.actions)
    if calendar is None or not log.dataset.counts["impressions"]:
        return
    for file in log.dataset.impression_files(1, calendar.num_days):
        table = pq.ParquetFile(file).read(["user", "item", "timestamp"])
        user, item, time = (table[name].to_numpy() for name in ("user", "item", "timestamp"))
        yield user, item, np.full(len(item), kind), days_of(calendar, time)


@dataclass(frozen=True, slots=True)
class Tallies:
    """Counts of every item as of any moment.

    Attributes:
        touches: by day.
        rows: item rows.
        actions: how many there are.
        calendar: of the log, None without a clock.
        half_life_days: age at which a touch counts half.
    """

    touches: Touches
    rows: int
    actions: int
    calendar: Calendar | None
    half_life_days: float

    @classmethod
    def of(cls, log: SplitLog, parts: Sequence[int], half_life_days: float) -> Tallies:
        """Collects the touches of some parts in one pass over the log."""
        touches, data = Touches.of(log, parts), log.dataset
        ordered = touches.at(np.argsort(touches.day, kind="stable"))
        actions = len(data.vocabulary.actions)
        return cls(ordered, data.item_ids.rows, actions, data.calendar, half_life_days)

    @property
    def width(self) -> int:
        """Kinds of touches: each action, and being shown."""
        return self.actions + 1

    def moments(self, users: Ints, times: Ints) -> Ints:
        """What tells apart the counts of requests: the day, or the user's fold. [R]."""
        return users % FOLDS if self.calendar is None else days_of(self.calendar, times)

    def states(self, moments: Ints) -> Iterator[tuple[int, Floats]]:
        """Each distinct moment with the counts as of it, float32[rows, width]; O(rows) each."""
        wanted = np.unique(moments)
        return self._by_fold(wanted) if self.calendar is None else self._by_day(wanted)

    def _by_day(self, days: Ints) -> Iterator[tuple[int, Floats]]:
        ends = np.searchsorted(self.touches.day, days)
        state, last, start = np.zeros((self.rows, self.width)), 0, 0
        for day, end in zip(days.tolist(), ends.tolist(), strict=True):
            new = self.touches.at(slice(start, end))
            state = state * self._weight(day - last) + self._counts(
                new, self._weight(day - new.day)
            )
            last, start = day, end
            yield day, state.astype(np.float32)

    def _by_fold(self, folds: Ints) -> Iterator[tuple[int, Floats]]:
        total = self._counts(self.touches, None)
        for fold in folds.tolist():
            own = self._counts(self.touches.at(self.touches.user % FOLDS == fold), None)
            yield fold, ((total - own) * (FOLDS / (FOLDS - 1))).astype(np.float32)

    def _weight(self, days: Ints | int) -> npt.NDArray[np.float64]:
        return np.asarray(0.5 ** (np.asarray(days) / self.half_life_days))

    def _counts(
        self, touches: Touches, weights: npt.NDArray[np.float64] | None
    ) -> npt.NDArray[np.float64]:
        cells = touches.item * self.width + touches.kind
        counts = np.bincount(cells, weights, minlength=self.rows * self.width)
        return counts.reshape(self.rows, self.width).astype(np.float64)


def tally_features(
    tallies: Tallies, moments: Ints, items: Ints, groups: Mapping[str, Ints]
) -> dict[str, Floats]:
    """Logarithms of the counts of items, and of groups of items, and what share each action has.

    Rates are of what was shown, or of all touches where nothing says what was; towards the mean by
    `PRIOR_STRENGTH` touches.

    Args:
        tallies: of the log.
        moments: of each impression, [N].
        items: item rows, [N].
        groups: name -> group of each item row, [rows]; items of one creator, say.

    Returns:
        `<group>.counts` [N, width] and `<group>.rates` [N, actions] of "item" and each group.
    """
    members = {"item": sp.eye_array(tallies.rows, format="csr")} | {
        name: _membership(codes) for name, codes in groups.items()
    }
    place = {"item": np.arange(tallies.rows)} | dict(groups)
    shapes = {"counts": tallies.width, "rates": tallies.actions}
    found = {
        f"{name}.{part}": np.zeros((len(items), width), np.float32)
        for name in members
        for part, width in shapes.items()
    }
    for moment, state in tallies.states(moments):
        at = np.flatnonzero(moments == moment)
        for name, matrix in members.items():
            counts = (matrix @ state)[place[name][items[at]]]
            found[f"{name}.counts"][at] = np.log1p(counts)
            found[f"{name}.rates"][at] = _rates(counts, state, tallies.actions)
    return found


def _membership(codes: Ints) -> sp.csr_array:
    """Which items are in each group, [groups, rows]."""
    shape = (int(codes.max(initial=-1)) + 1, len(codes))
    ones = np.ones(len(codes), np.float32)
    return sp.csr_array((ones, (codes, np.arange(len(codes)))), shape)


def _rates(counts: Floats, state: Floats, actions: int) -> Floats:
    """Share of each action among the touches counted, drawn to that of all items. [N, actions]."""
    totals = state.sum(axis=0)
    shown = totals[actions] > 0
    of_all = totals[actions] if shown else totals[:actions].sum()
    exposed = counts[:, actions] if shown else counts[:, :actions].sum(axis=1)
    prior = totals[:actions] / max(float(of_all), 1.0)
    rates: Floats = (counts[:, :actions] + PRIOR_STRENGTH * prior) / (
        exposed[:, None] + PRIOR_STRENGTH
    )
    return rates
