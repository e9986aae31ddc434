from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.contract.schema import DAY_MS
from data.splits import TEST, TRAIN, VALID
from data.touches import LAST_DAY, Touches
from tests.data.rows import HIDE, SAVE, START

EVERY = (TRAIN, VALID, TEST)
SHOWN = 2


@pytest.fixture
def shown_log(log_of, tmp_path):
    """One save on the tenth day; on the second day two items are shown."""
    log = log_of([(1, 4, SAVE, 10, 0)])
    shown = pa.table({"user": [2, 3], "item": [4, 5], "timestamp": [START + DAY_MS] * 2})
    pq.write_table(shown, tmp_path / "shown.parquet")
    log.dataset.counts = {"impressions": 2}
    log.dataset.impression_files = lambda first, last: [tmp_path / "shown.parquet"]
    return log


def touches_of(log, parts=EVERY) -> Touches:
    blocks = [*Touches.blocks(log, parts)]
    names = ("user", "item", "kind", "day")
    return Touches(*(np.concatenate([getattr(block, name) for block in blocks]) for name in names))


def test_what_was_shown_is_one_more_kind(shown_log):
    found = touches_of(shown_log)
    assert found.user.tolist() == [1, 2, 3]
    assert found.item.tolist() == [4, 4, 5]
    assert found.kind.tolist() == [SAVE - 1, SHOWN, SHOWN]
    assert found.day.tolist() == [10, 2, 2]


def test_what_was_shown_comes_a_few_at_a_time(shown_log):
    with mock.patch("data.touches.AT_ONCE", 1):
        blocks = [*Touches.blocks(shown_log, EVERY)]
    assert [block.item.tolist() for block in blocks] == [[4], [4], [5]]


def test_days_of_times_that_no_log_has_are_the_nearest_ones_that_there_are(log_of):
    log = log_of([(1, 4, SAVE, -3, 0), (1, 4, SAVE, 90_000, 0)], kind="column")
    assert touches_of(log).day.tolist() == [0, LAST_DAY]


def test_only_named_parts_are_read(log_of):
    log = log_of([(1, 4, SAVE, 1, 0), (1, 5, HIDE, 1, 2)], kind="column")
    assert touches_of(log, (TRAIN,)).item.tolist() == [4]
    assert touches_of(log).kind.tolist() == [SAVE - 1, HIDE - 1]


def test_without_a_clock_there_is_no_day(log_of):
    log = log_of([(1, 4, SAVE, 7, 0)], kind="column", order="position")
    assert touches_of(log).day.tolist() == [0]
