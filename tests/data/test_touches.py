from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.contract.schema import DAY_MS
from data.splits import TEST, TRAIN, VALID
from data.touches import Touches
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


def test_what_was_shown_is_one_more_kind(shown_log):
    found = Touches.of(shown_log, EVERY)
    assert found.user.tolist() == [1, 2, 3]
    assert found.item.tolist() == [4, 4, 5]
    assert found.kind.tolist() == [SAVE - 1, SHOWN, SHOWN]
    assert found.day.tolist() == [10, 2, 2]


def test_blocks_are_all_touches_in_their_order(shown_log):
    with mock.patch("data.touches.AT_ONCE", 1):
        blocks = [*Touches.blocks(shown_log, EVERY)]
    assert [len(block.item) for block in blocks] == [1, 1, 1]
    whole = Touches.of(shown_log, EVERY)
    for name in ("user", "item", "kind", "day"):
        found = np.concatenate([getattr(block, name) for block in blocks])
        assert found.tolist() == getattr(whole, name).tolist()


def test_only_named_parts_are_read(log_of):
    log = log_of([(1, 4, SAVE, 1, 0), (1, 5, HIDE, 1, 2)], kind="column")
    assert Touches.of(log, (TRAIN,)).item.tolist() == [4]
    assert Touches.of(log, EVERY).kind.tolist() == [SAVE - 1, HIDE - 1]


def test_without_a_clock_there_is_no_day(log_of):
    log = log_of([(1, 4, SAVE, 7, 0)], kind="column", order="position")
    assert Touches.of(log, EVERY).day.tolist() == [0]
