from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

from data.contract.schema import Calendar
from data.impression_features import Described
from data.splits import TEST, TRAIN, VALID
from ray_jobs.engine.click_models import Always, Logistic, Trees
from ray_jobs.engine.ranking_baselines import _fitted, known_parts, learnt_from

CALENDAR = Calendar(first_day_ms=0, num_days=180, base_days=180)
LATE_USER = 7


def subject_of(tmp_path, table, candidates=None, **settings):
    path = tmp_path / "part-0.parquet"
    pq.write_table(table, path)
    days = []
    log = SimpleNamespace(
        dataset=SimpleNamespace(
            calendar=CALENDAR, impression_files=lambda *asked: days.append(asked) or [path]
        ),
        windows=SimpleNamespace(ranker=(119, 148), ranker_closed=150),
        unseen=lambda users: users == LATE_USER,
    )
    evaluation = SimpleNamespace(ranking_rows=settings.get("rows", 1000))
    job = SimpleNamespace(settings=SimpleNamespace(eval=evaluation, seed=0), root=tmp_path)
    return SimpleNamespace(log=log, job=job, candidates=candidates), days


def table_of(users, closed):
    return pa.table(
        {
            "request_id": np.arange(len(users)),
            "user": np.array(users),
            "labels_closed_at": np.array(closed),
        }
    )


def test_they_learn_from_the_days_of_the_ranker_and_from_closed_labels(tmp_path):
    limit = CALENDAR.start_ms(151)
    subject, days = subject_of(tmp_path, table_of([1, 2, 3], [0, limit, limit + 1]))
    assert learnt_from(subject)["user"].to_pylist() == [1, 2]
    assert days == [(119, 148)]


def test_users_who_are_kept_apart_teach_nothing(tmp_path):
    subject, _ = subject_of(tmp_path, table_of([1, LATE_USER, 3], [0, 0, 0]))
    assert learnt_from(subject)["user"].to_pylist() == [1, 3]


def test_a_sample_is_learnt_from_where_there_is_more(tmp_path):
    subject, _ = subject_of(tmp_path, table_of(np.arange(5000) % 5, np.zeros(5000, int)), rows=500)
    assert 400 < learnt_from(subject).num_rows < 600


def test_candidates_are_asked_with_what_their_parts_know():
    assert known_parts(SimpleNamespace(candidates="c1")) == (TRAIN, VALID)
    assert known_parts(SimpleNamespace(candidates=None)) == (TRAIN, VALID, TEST)


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (np.zeros(400, bool), Always),
        (np.ones(400, bool), Always),
        (np.arange(400) < 200, Always),
        (np.arange(400) % 2 == 0, Logistic),
    ],
)
def test_an_action_that_half_of_the_rows_cannot_teach_gets_its_share(labels, kind):
    dense = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
    described = Described(("a", "b"), dense, sp.csr_array((400, 1), dtype=np.float32))
    own = np.arange(400) < 200
    model = _fitted("logistic", described, labels, own)
    assert type(model) is kind
    assert model.probabilities(described).mean() == pytest.approx(labels.mean(), abs=0.02)
    if kind is Logistic:
        assert type(_fitted("trees", described, labels, own)) is Trees
