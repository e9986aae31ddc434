from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from data.contract import artifact
from data.contract.settings import UserError
from data.dataset import Dataset
from data.requests import Requests, UserEvents
from data.splits import TRAIN
from data.training_log import TrainingLog
from models.ranker import Ranker
from models.ranker_settings import RankerSettings
from ray_jobs.engine.teacher import Teacher, check_days, teacher_of
from ray_jobs.sample import log_of
from tests.ray_jobs.test_serving_parity import job_of, publish_model
from tests.tiny_root import TinyLog, publish_dataset

SETTINGS = RankerSettings(dim=16, id_dim=8)


@pytest.fixture
def made(tmp_path):
    """A root with a ranker of random weights, and the assignment of one that learns from it."""
    artifact.point(tmp_path, publish_dataset(tmp_path, TinyLog()))
    dataset = Dataset.open(tmp_path)
    publish_model(tmp_path, "ranker", Ranker(SETTINGS, dataset.vocabulary), SETTINGS, dataset)
    student = replace(SETTINGS, dim=8, teacher="m1")
    return SimpleNamespace(
        root=tmp_path,
        settings=SimpleNamespace(ranker=student),
        dataset=dataset,
        log=log_of(job_of(tmp_path), dataset),
        parts=(TRAIN,),
    )


def test_a_teacher_says_what_it_would_be_asked_for(made):
    rows = 5 + np.arange(6)
    labels = {f"label.{action}": np.zeros(6, bool) for action in made.dataset.vocabulary.actions}
    asked = {
        "request_id": np.repeat([1, 2], 3),
        "user": np.repeat([4, 9], 3),
        "item": rows,
        "timestamp": np.full(6, made.dataset.calendar.start_ms(9)),
        "position": np.tile(np.arange(3), 2),
    }
    table = pa.table(asked | labels)
    users = np.isin(np.arange(made.dataset.user_ids.rows), [4, 9])
    teacher = Teacher.of(made, made.parts, users)
    events = UserEvents.of(TrainingLog(made.log, made.parts), users)
    found = teacher.labels(Requests.of(table, made.dataset.vocabulary.actions), events)
    expected = 1 / (1 + np.exp(-teacher.model.logits(table, events)))
    for at, action in enumerate(made.dataset.vocabulary.actions):
        np.testing.assert_allclose(found[f"teacher.{action}"], expected[:, at], rtol=1e-5)
    assert len(np.unique(expected.round(5))) > 6


def test_without_a_name_there_is_none(made):
    assert teacher_of(made.root, SETTINGS) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"teacher": "m2"}, "ranker.teacher=m2 is no ranker of this root; it has m1"),
        ({"teacher": "m1", "negative_rate": 0.5}, "was trained with ranker.negative_rate=1.0"),
    ],
)
def test_another_is_refused(made, change, said):
    with pytest.raises(UserError, match=said):
        teacher_of(made.root, replace(SETTINGS, **change))


def test_a_teacher_that_knows_days_that_are_chosen_on_is_refused():
    windows = SimpleNamespace(valid=(153, 166))
    teacher = SimpleNamespace(version="m1", manifest=SimpleNamespace(window=[119, 152]))
    check_days(teacher, windows)
    teacher.manifest.window = [119, 153]
    check_days(teacher, None)
    with pytest.raises(UserError, match=r"ranker\.teacher=m1 has learnt from days up to 153"):
        check_days(teacher, windows)
