"""What an evaluation refuses to be about."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.contract.settings import UserError
from data.splits import SplitSettings, unseen
from ray_jobs.engine.subject import Subject, _check_split
from tests.data.rows import log_of


def learnt_under(**split: Any) -> Any:
    settings = {"split": {"kind": "time", "column": None} | split}
    return SimpleNamespace(manifest=SimpleNamespace(name="ranker/v1", settings=settings))


def test_a_model_is_asked_under_the_split_that_it_has_learnt_under():
    _check_split(learnt_under(), SplitSettings())
    _check_split(
        learnt_under(kind="column", column="part"), SplitSettings(kind="column", column="part")
    )
    _check_split(learnt_under(eval_users=0.2), SplitSettings(eval_users=0.1))


@pytest.mark.parametrize(
    "asked",
    [
        SplitSettings(kind="leave_one_out"),
        SplitSettings(kind="column", column="part"),
        SplitSettings(eval_users=0.2),
    ],
)
def test_a_model_that_has_learnt_what_another_split_reports_is_refused(asked):
    with pytest.raises(UserError, match=f"is reported under split.kind={asked.kind} "):
        _check_split(learnt_under(eval_users=0.1), asked)


def test_impressions_are_of_users_who_are_asked_about(tmp_path):
    file, users = tmp_path / "part-00000.parquet", np.arange(9)
    pq.write_table(pa.table({"request_id": users, "user": users}), file)
    log = log_of([], eval_users=0.5)
    log.dataset.impression_files = lambda *_: [file]
    settings = SimpleNamespace(eval=SimpleNamespace(max_impressions=9), seed=0)
    subject = Subject(SimpleNamespace(settings=settings), log, {}, {}, None, None)
    asked = subject.impressions()["user"].to_pylist()
    assert asked == np.flatnonzero(unseen(users, 0.5)).tolist()
    assert 0 < len(asked) < 9
