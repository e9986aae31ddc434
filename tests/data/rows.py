"""Small logs of rows (user, item, action, day, part)."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from data.contract.schema import DAY_MS, TIMELINE, Calendar, Vocabulary
from data.queries import SplitLog
from data.splits import SplitSettings
from data.windows import WindowSettings, resolve

SAVE, HIDE = 1, 2
NUM_ITEMS, NUM_USERS = 12, 9
START = 1_700_000_000_000 // DAY_MS * DAY_MS

rows_of_a_log = st.lists(
    st.tuples(
        st.integers(1, NUM_USERS),
        st.integers(1, NUM_ITEMS),
        st.sampled_from([SAVE, HIDE]),
        st.integers(1, 180),
        st.integers(0, 2),
    ),
    min_size=1,
    max_size=60,
)


def log_of(rows, kind="time", order="clock", blocks=1, seed=0, eval_users=0.0):
    """A log of 180 days, 9 users and 12 items.

    Action 1 is save (positive), 2 is hide (negative).
    """
    calendar = Calendar(first_day_ms=START, num_days=180, base_days=180)
    timed = [(*row, START + (row[3] - 1) * DAY_MS + n) for n, row in enumerate(rows)]
    tables = [_timelines([row for row in timed if row[0] % blocks == b]) for b in range(blocks)]
    dataset = SimpleNamespace(
        vocabulary=Vocabulary(
            order=order, actions=("save", "hide"), polarity=("positive", "negative")
        ),
        calendar=calendar if order == "clock" else None,
        item_ids=SimpleNamespace(rows=NUM_ITEMS + 1, first_row=1),
        user_ids=SimpleNamespace(rows=NUM_USERS + 1),
        items_created_at=np.zeros(NUM_ITEMS + 1, np.int64),
        users_created_at=np.zeros(NUM_USERS + 1, np.int64),
        timelines=lambda: iter(tables),
    )
    column = "part" if kind == "column" else None
    windows = resolve(WindowSettings(), calendar) if kind == "time" else None
    split = SplitSettings(kind=kind, column=column, eval_users=eval_users)
    return SplitLog(dataset, split, windows, seed)


def _timelines(rows):
    """One line a user, its events by time."""
    users = sorted({row[0] for row in rows})
    events = [sorted((r for r in rows if r[0] == user), key=lambda r: r[5]) for user in users]

    def column(value):
        return [[value(row) for row in line] for line in events]

    columns = {
        "user": users,
        "item": column(lambda row: row[1]),
        "action": column(lambda row: row[2]),
        "surface": column(lambda row: 1),
        "timestamp": column(lambda row: row[5]),
        "duration_s": column(lambda row: 0.0),
        "part": column(lambda row: row[4]),
    }
    return pa.table(columns, schema=TIMELINE)
