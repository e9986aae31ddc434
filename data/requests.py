"""Impressions grouped into requests, and what each request knew of its user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from data.contract.encode import Events, Ints, Mask, ragged_positions

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from data.training_log import TrainingLog

NOT_COUNTED = -1


@dataclass(frozen=True, slots=True)
class Requests:
    """Impressions of R requests: who asked when, what was shown and what came of it.

    Attributes:
        user: user row, [R].
        timestamp: when its first impression was shown, ms since 1970, 0 without a clock, [R].
        known: events of the user that may be read; NOT_COUNTED: those before `timestamp`. [R]
        offsets: slices of the impressions, [R + 1].
        item: item rows, [N].
        position: place in the slate, [N].
        labels: float32 [N, actions].
        surface: code of where they were shown, 0 unknown, [R].
        context: row of the item that the request was about, 0 none, [R].
    """

    user: Ints
    timestamp: Ints
    known: Ints
    offsets: Ints
    item: Ints
    position: Ints
    labels: npt.NDArray[np.float32]
    surface: Ints
    context: Ints

    def __len__(self) -> int:
        """Number of requests."""
        return len(self.user)

    @classmethod
    def of(cls, table: pa.Table, actions: tuple[str, ...]) -> Requests:
        """Groups impressions whose rows are contiguous by request.

        Args:
            table: encoded impressions.
            actions: the label columns `label.<action>`, in order.
        """
        request = table["request_id"].to_numpy()
        firsts = np.flatnonzero(np.diff(request, prepend=request[:1] - 1))
        known = np.full(len(firsts), NOT_COUNTED)
        if "known" in table.column_names:
            known = _ints(table, "known")[firsts]
        told = {name: np.zeros(len(firsts), np.int64) for name in ("surface", "context")}
        told |= {n: _ints(table, n)[firsts] for n in told if n in table.column_names}
        labels = [table[f"label.{a}"].to_numpy().astype(np.float32) for a in actions]
        return cls(
            _ints(table, "user")[firsts],
            np.minimum.reduceat(_ints(table, "timestamp"), firsts),
            known,
            np.append(firsts, len(request)).astype(np.int64),
            _ints(table, "item"),
            _ints(table, "position"),
            np.stack(labels, axis=1),
            **told,
        )

    def take(self, requests: Ints) -> Requests:
        """Some requests, in the order asked for."""
        lengths = np.diff(self.offsets)[requests]
        at = ragged_positions(self.offsets[requests], lengths)
        asked = (self.user[requests], self.timestamp[requests], self.known[requests])
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        shown = (self.item[at], self.position[at], self.labels[at])
        told = (self.surface[requests], self.context[requests])
        return Requests(*asked, offsets, *shown, *told)


@dataclass(frozen=True, slots=True)
class UserEvents:
    """Readable events of all users, by user row.

    Attributes:
        events: one slice for each row of the user id space.
    """

    events: Events

    @classmethod
    def of(cls, log: TrainingLog, asked: Mask | None = None) -> UserEvents:
        """Collects the events of the parts that may be read, in two passes: 20 bytes an event.

        Args:
            log: which events may be read.
            asked: users whose events will be asked for, [rows]; by default all.
        """
        lengths = np.zeros(log.log.dataset.user_ids.rows, np.int64)
        for users, events in _readable(log, asked):
            lengths[users] = events.lengths
        held = Events.empty(lengths)
        for users, events in _readable(log, asked):
            held.fill(users, events)
        return cls(held)

    def histories(
        self, requests: Requests, max_length: int, hidden_ms: Ints | None = None
    ) -> Events:
        """The newest events that each request may know.

        Args:
            requests: R requests.
            max_length: most events of each.
            hidden_ms: time before each request whose events are left out, where there is a clock.

        Returns:
            Events of [R].
        """
        events, users = self.events, requests.user
        ends = events.offsets[users] + requests.known
        moments = requests.timestamp if hidden_ms is None else requests.timestamp - hidden_ms
        timed = requests.known == NOT_COUNTED
        ends[timed] = events.positions_before(users[timed], moments[timed])
        lengths = np.minimum(ends - events.offsets[users], max_length)
        return events.cut(ends - lengths, lengths)


def _readable(log: TrainingLog, asked: Mask | None) -> Iterator[tuple[Ints, Events]]:
    """Users of each block, and their events; of those who will not be asked for none."""
    for block in log.log.blocks():
        there = np.isin(block.part, log.parts)
        if asked is not None:
            there &= asked[block.users][block.owners]
        yield block.users, block.keep(there)


def _ints(table: pa.Table, name: str) -> Ints:
    values: Ints = table[name].to_numpy().astype(np.int64)
    return values
