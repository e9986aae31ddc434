"""Pieces of timelines to train on: what is read, and what is predicted when.

Every cut and draw is vectorised over a block; labels always lie after what is read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data.contract.encode import Events, Ints, ragged_positions

Mask = npt.NDArray[np.bool_]

NEXT_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Windows:
    """Pieces of timelines to train on: W windows with what they read and what they predict.

    Attributes:
        user: index of the window's user in its block, [W].
        events: what each window reads, oldest first.
        target_window: window of each target, [T].
        target_length: events of the window that are read before the target, [T].
        target_item: item row of the target, [T].
        target_moment: when it is foretold, ms since 1970, [T]; 0 in a log without a clock.
    """

    user: Ints
    events: Events
    target_window: Ints
    target_length: Ints
    target_item: Ints
    target_moment: Ints

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.user)

    def take(self, windows: Ints) -> Windows:
        """Some windows, in the order asked for."""
        lengths = self.events.lengths[windows]
        events = self.events.cut(self.events.offsets[windows], lengths)
        ends = np.searchsorted(self.target_window, np.arange(len(self) + 1))
        counts = np.diff(ends)[windows]
        at = ragged_positions(ends[windows], counts)
        renumbered = np.repeat(np.arange(len(windows)), counts)
        targets = (self.target_length[at], self.target_item[at], self.target_moment[at])
        return Windows(self.user[windows], events, renumbered, *targets)


def shuffle_within_users(events: Events, rng: np.random.Generator) -> tuple[Events, Ints]:
    """Puts the events of each user in random order (logs without order); also the permutation."""
    users = np.repeat(np.arange(len(events.lengths)), events.lengths)
    order = np.lexsort((rng.random(len(users)), users))
    return events.at(order, events.offsets), order


def draw_moments(
    events: Events, created_at: Ints, horizon_ms: int, rng: np.random.Generator
) -> Ints:
    """When each event is to be foretold: up to a horizon before it, once its item is there.

    Half of the events are foretold right before they happen, which teaches what a session is about;
    the others from days before, which teaches what the user is about (dense all-action,
    PinnerFormer, KDD'22).

    Args:
        events: timelines of a block.
        created_at: int64[item rows] ms since 1970, 0 where unknown.
        horizon_ms: longest time ahead.
        rng: draws the times.

    Returns:
        ms since 1970, [H].
    """
    ahead = (rng.random(len(events.timestamp)) * horizon_ms).astype(np.int64)
    ahead[rng.random(len(ahead)) < NEXT_SHARE] = 0
    there = np.minimum(created_at[events.item], events.timestamp)
    moments: Ints = np.maximum(events.timestamp - ahead, there)
    return moments


def cut_windows(
    events: Events, labels: Mask, moments: Ints, max_length: int, rng: np.random.Generator
) -> Windows:
    """Tiles every user's labels with windows, each label in exactly one.

    A window predicts the labels of a stretch of `max_length // 2` events and reads the events
    before each one's moment, at most `max_length`. However far ahead the moment is, a quarter of
    `max_length` is read if there is as much. Where the tiles begin is drawn anew each time.

    Args:
        events: timelines of a block.
        labels: which events are to be predicted, aligned with the events.
        moments: when each is predicted, ms since 1970, aligned with the events.
        max_length: most events that a window reads.
        rng: draws the offsets.
    """
    stride = max(1, max_length // 2)
    position = np.flatnonzero(labels).astype(np.int64)
    user = np.searchsorted(events.offsets, position, side="right") - 1
    shift = rng.integers(0, stride, len(events.lengths))
    tile = (position - events.offsets[user] + shift[user]) // stride
    key = user * (int(tile.max(initial=0)) + 1) + tile
    _, first, window = np.unique(key, return_index=True, return_inverse=True)
    last = np.append(first[1:], len(position)) - 1 if len(first) else first
    tile_start = events.offsets[user[first]] + tile[first] * stride - shift[user[first]]
    starts = np.maximum(events.offsets[user[first]], tile_start - (max_length - stride))
    read = events.cut(starts, position[last] - starts)
    least = np.maximum(starts, tile_start - stride // 2)[window]
    ahead = np.maximum(events.positions_before(user, moments[position]), least)
    # What happens at its own moment follows all that stands before it, at the same moment too.
    known = np.where(moments[position] < events.timestamp[position], ahead, position)
    length = np.minimum(known, position) - starts[window]
    return Windows(user[first], read, window, length, events.item[position], moments[position])
