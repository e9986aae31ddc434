"""What followed on what was shown: labels of served items, from the events posted since."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.impressions import LABEL
from data.parsing import event_ids, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data.contract.encode import Ints


class Attribution:
    """Which shown item each event belongs to, found block by block in the order of time.

    An event belongs to the item of the request that it names. Where it names none that was seen, it
    belongs to the last time that its user was shown its item.

    Args:
        events: columns request_id, user_id, item_id, timestamp (ms) and action, in any order, [E].
        within_ms: an event that comes later after an item was shown does not belong to it.
    """

    def __init__(self, events: pa.Table, within_ms: int) -> None:
        self._events = events
        self.within_ms = within_ms
        self._times = events["timestamp"].to_numpy()
        self._block = np.full(events.num_rows, -1)
        self._place = np.full(events.num_rows, -1)
        self._named = np.zeros(events.num_rows, bool)

    def see(self, block: int, shown: pa.Table) -> None:
        """Takes shown items into account; those of earlier blocks were shown earlier.

        Args:
            block: its number.
            shown: columns request_id, user_id, item_id, timestamp, [N].
        """
        times = shown["timestamp"].to_numpy()
        within = (self._times >= times.min()) & (self._times <= times.max() + self.within_ms)
        near = np.flatnonzero(within & ~self._named)
        events = self._events.take(pa.array(near))
        users, items = (_codes(shown[name], events[name]) for name in ("user_id", "item_id"))
        requests = _codes(*(_requests(table) for table in (shown, events)))
        given = np.asarray(whole(events["request_id"]).is_valid())
        for owners, asked in ((users, np.ones(len(near), bool)), (requests, given)):
            keys, of = ((owner << 32) | item for owner, item in zip(owners, items, strict=True))
            place = preceding(keys, times, of, self._times[near], self.within_ms)
            found = asked & (place >= 0)
            self._block[near[found]], self._place[near[found]] = block, place[found]
        self._named[near[found]] = True

    def labelled(self, block: int, shown: pa.Table, actions: Sequence[str]) -> pa.Table:
        """A block with what followed; all blocks up to `within_ms` after it must have been seen.

        Args:
            block: its number.
            shown: as it was seen, with any other columns, [N].
            actions: A names; events of others say nothing.

        Returns:
            `shown` with `label.<action>` bool and `labels_closed_at`, [N].
        """
        own = np.flatnonzero(self._block == block)
        done = np.asarray(self._events["action"].take(pa.array(own)).to_pylist(), object)
        columns: dict[str, Any] = {}
        for action in actions:
            columns[LABEL + action] = label = np.zeros(shown.num_rows, bool)
            label[self._place[own[done == action]]] = True
        columns["labels_closed_at"] = shown["timestamp"].to_numpy() + self.within_ms
        kept = [name for name in shown.column_names if name not in columns]
        return pa.table({name: shown[name] for name in kept} | columns)


def preceding(keys: Ints, times: Ints, of: Ints, at: Ints, within_ms: int) -> Ints:
    """The newest row with the same key that is not after a moment, nor too long before it.

    Args:
        keys: of N rows.
        times: of them, ms.
        of: keys of E moments.
        at: the moments, ms.
        within_ms: what lies further back is not found.

    Returns:
        Rows, -1 where there is none, [E]. Sorts both together: O((N + E) log (N + E)).
    """
    count = len(keys)
    key, time = np.concatenate([keys, of]), np.concatenate([times, at])
    order = np.lexsort((np.arange(len(key)), time, key))  # at equal times rows before moments
    newest = np.maximum.accumulate(np.where(order < count, np.arange(len(order)), -1))
    rows = np.empty(len(order), np.int64)
    rows[order] = np.where(newest >= 0, order[newest], -1)
    found = rows[count:]
    there = found >= 0
    there[there] = (keys[found[there]] == of[there]) & (
        at[there] - times[found[there]] <= within_ms
    )
    return np.where(there, found, -1)


def _requests(table: pa.Table) -> pa.Array:
    """Request ids as they are prepared: numbers also where they are written as text."""
    return event_ids(whole(table["request_id"]), "request_id").values


def _codes(ours: Any, theirs: Any) -> tuple[Ints, Ints]:
    """Numbers that are equal where the values of two columns are, whatever their types."""
    texts = [whole(column).cast(pa.string()) for column in (ours, theirs)]
    codes = pa.concat_arrays(texts).dictionary_encode().indices
    found: npt.NDArray[np.int64] = codes.cast(pa.int64()).fill_null(-1).to_numpy() + 1
    return found[: len(texts[0])], found[len(texts[0]) :]
