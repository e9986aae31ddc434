"""Which events are trained on, chosen on and reported.

Whatever the kind of split, TEST is the part that is reported and VALID the part that choices are
made on; no event is both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from data.contract.idspace import hash_ids
from data.contract.schema import DAY_MS, Calendar, Vocabulary
from data.contract.settings import UserError
from data.timelines import flat, offsets_of

if TYPE_CHECKING:
    from data.windows import Windows

TRAIN, VALID, TEST = 0, 1, 2
OUTSIDE = -1
DRAWN_SHARE = 0.1
PARTS = {"train": TRAIN, "valid": VALID, "validation": VALID, "test": TEST}
PARTS_KEY = b"parts"
EVAL_USERS = 0x5EED

Parts = npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSettings:
    """How events are divided into those trained on, chosen on and reported.

    Attributes:
        kind: time cuts by day windows, leave_one_out holds out each user's last two positives,
            column reads the part from the log.
        column: column of the event log with train, valid (or validation) and test.
        refit: for leave_one_out and column, train the chosen number of steps again on everything
            before the reported part.
        eval_users: share of the users that no model learns from and that alone are asked about, as
            PinnerFormer was judged; 0 learns from all and asks about all.
    """

    kind: Literal["time", "leave_one_out", "column"] = "time"
    column: str | None = None
    refit: bool = True
    eval_users: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def __post_init__(self) -> None:
        if (self.kind == "column") != (self.column is not None):
            raise ValueError("split.kind=column and split.column=<name> go together")


def parts(
    table: pa.Table,
    split: SplitSettings,
    vocabulary: Vocabulary,
    windows: Windows | None,
    calendar: Calendar | None,
    seed: int,
) -> Parts:
    """The part of each event of a block of timelines.

    Args:
        table: `schema.TIMELINE`, holding N events.
        split: how to divide.
        vocabulary: order and polarities of the log.
        windows: resolved windows, for a time split.
        calendar: the log's days, likewise.
        seed: for the tenth of each user's rows that is drawn when the log names no part to
            choose on.

    Returns:
        int8[N] of TRAIN, VALID, TEST, and OUTSIDE for days after the reported ones.

    Raises:
        UserError: the log has no clock or no order where the split needs one.
    """
    if split.kind == "time":
        return _by_time(table, windows, calendar)
    if split.kind == "leave_one_out":
        return _leave_one_out(table, vocabulary)
    return _by_column(table, seed)


def _by_time(table: pa.Table, windows: Windows | None, calendar: Calendar | None) -> Parts:
    if windows is None or calendar is None:
        raise UserError("split.kind=time needs a clock; set split.kind=leave_one_out or column")
    day = (flat(table, "timestamp") - np.int64(calendar.first_day_ms)) // DAY_MS + 1
    found = np.full(len(day), OUTSIDE, np.int8)
    found[day <= windows.test[1]] = TEST
    found[day < windows.test[0]] = VALID
    found[day < windows.valid[0]] = TRAIN
    return found


def _leave_one_out(table: pa.Table, vocabulary: Vocabulary) -> Parts:
    """A user's last positive and what follows is TEST, from the one before on VALID.

    One event stays in TRAIN: with two positives there is no VALID, with one nothing is held out.
    """
    if vocabulary.order == "none":
        raise UserError("split.kind=leave_one_out needs an order; map source.columns.position")
    offsets = offsets_of(table)
    positive = np.isin(flat(table, "action"), vocabulary.codes("positive"))
    seen = np.concatenate([[0], np.cumsum(positive)])
    total = np.diff(seen[offsets])
    # Positives still to come, this event included: 1 from the last positive on (0 after it).
    left = np.repeat(seen[offsets[1:]], np.diff(offsets)) - seen[:-1]
    of_user = np.repeat(total, np.diff(offsets))
    found = np.zeros(len(positive), np.int8)
    found[_from_the_kth_last(left, positive, 2) & (of_user >= 3)] = VALID
    found[_from_the_kth_last(left, positive, 1) & (of_user >= 2)] = TEST
    return found


def _from_the_kth_last(
    left: npt.NDArray[np.int64], positive: npt.NDArray[np.bool_], k: int
) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = (left < k) | ((left == k) & positive)
    return found


def _by_column(table: pa.Table, seed: int) -> Parts:
    """The stored part; the reported one is TEST, and VALID is drawn when it is the reported one."""
    stored = flat(table, "part").astype(np.int8)
    present = (table.schema.metadata or {}).get(PARTS_KEY, b"train,valid,test").split(b",")
    if b"valid" in present and b"test" in present:
        return stored
    found = np.where(stored == TRAIN, TRAIN, TEST).astype(np.int8)
    found[_drawn(table, found == TRAIN, seed)] = VALID
    return found


def _drawn(table: pa.Table, train: npt.NDArray[np.bool_], seed: int) -> npt.NDArray[np.bool_]:
    """A tenth of each user's training rows, whatever block the user is in; one row stays."""
    offsets = offsets_of(table)
    lengths = np.diff(offsets)
    users = table["user"].to_numpy()
    place = np.arange(len(train)) - np.repeat(offsets[:-1], lengths)
    keys = _uniform(_uniform_bits(users, seed).repeat(lengths) ^ place.astype(np.uint64))
    num_train = np.add.reduceat(np.append(train, 0), offsets[:-1]) * (lengths > 0)
    wanted = np.floor(num_train * DRAWN_SHARE + _uniform(_uniform_bits(users, ~seed)))
    wanted = np.minimum(wanted, num_train - 1)
    order = np.lexsort((keys, ~train, np.repeat(np.arange(len(users)), lengths)))
    rank = np.empty(len(train), np.int64)
    rank[order] = place
    return train & (rank < np.repeat(wanted, lengths))


def unseen(users: npt.NDArray[np.int64], share: float) -> npt.NDArray[np.bool_]:
    """Which user rows nothing is learnt from: the same share under every seed of a run."""
    if share == 0:
        return np.zeros(len(users), bool)
    return _uniform(_uniform_bits(users, EVAL_USERS)) < share


def _uniform_bits(values: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.uint64]:
    salt = hash_ids(pa.array([seed], pa.int64())).view(np.int64)[0]
    return hash_ids(pa.array(values ^ salt))


def _uniform(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1) from 64-bit words."""
    mixed = hash_ids(pa.array(bits.view(np.int64)))
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
