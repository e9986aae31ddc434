"""What calibrators may learn from."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.contract.artifact import publish, read
from data.contract.settings import UserError
from data.splits import TEST, TRAIN, VALID, unseen
from ray_jobs.calibrate import Lessons
from ray_jobs.sample import Cutoff
from tests.data.rows import log_of


def ranker(window: list[int], parents: tuple[Any, ...] = ()) -> Any:
    manifest = SimpleNamespace(name="ranker/v1", window=window, parents=parents)
    return SimpleNamespace(manifest=manifest)


@pytest.fixture
def log() -> Any:
    """Of 180 days; impressions are named by the days that they were asked for."""
    found = log_of([], eval_users=0.5)
    found.dataset.impression_files = lambda *days: [days]
    return found


def test_items_are_as_of_the_day_before_the_first_label(tmp_path, log):
    lessons = Lessons.of(tmp_path, ranker([119, 148]), log)
    assert lessons.files == [(149, 152)]
    assert lessons.cutoff == Cutoff((TRAIN, VALID, TEST), 148)


def test_candidates_of_the_validation_part_know_what_came_before_it(tmp_path, log):
    with publish(tmp_path, "candidates", "v1") as draft:
        folder = draft.path / "impressions" / "part=valid"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"user": [*range(9)]}), folder / "part-00000.parquet")
    made = read(tmp_path / "candidates" / "v1").reference()
    lessons = Lessons.of(tmp_path, ranker([119, 148], (made,)), log)
    assert lessons.cutoff == Cutoff((TRAIN,), 152)
    assert lessons.days == (153, 166)


def test_days_that_the_ranker_has_learnt_from_are_refused(tmp_path, log):
    with pytest.raises(UserError, match="has learnt from days up to 149"):
        Lessons.of(tmp_path, ranker([119, 149]), log)


def test_users_who_are_kept_apart_teach_nothing(tmp_path, log):
    file, users = tmp_path / "part-00000.parquet", np.arange(9)
    pq.write_table(pa.table({"request_id": users, "user": users}), file)
    drawn = Lessons([file], (149, 152), (TRAIN,)).drawn(log, 0)
    assert drawn["user"].to_pylist() == np.flatnonzero(~unseen(users, 0.5)).tolist()
    assert 0 < drawn.num_rows < 9
