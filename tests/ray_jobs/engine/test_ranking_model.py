from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract import artifact
from data.dataset import Dataset
from data.requests import UserEvents
from data.splits import TRAIN, VALID
from data.training_log import TrainingLog
from models.ranker import Ranker
from models.ranker_settings import RankerSettings
from ray_jobs.engine.ranking_model import RankingModel, users_of
from ray_jobs.sample import log_of
from tests.ray_jobs.test_serving_parity import job_of, publish_model
from tests.tiny_root import USERS, TinyLog, publish_dataset

PARTS = (TRAIN, VALID)
SHOWN = 3


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """`known(asked)`: a ranker of random weights, and events, of so many users of a log."""
    root = tmp_path_factory.mktemp("root")
    artifact.point(root, publish_dataset(root, TinyLog()))
    dataset, settings = Dataset.open(root), RankerSettings(dim=16, id_dim=8)
    settings = replace(settings, sequence=replace(settings.sequence, max_length=7))
    publish_model(root, "ranker", Ranker(settings, dataset.vocabulary), settings, dataset)
    log = log_of(job_of(root), dataset)

    def known(asked):
        model = RankingModel.open(artifact.current(root, "ranker"), dataset)
        return model.knowing(log, PARTS, asked), UserEvents.of(TrainingLog(log, PARTS), asked)

    return known


@pytest.fixture(scope="module")
def everybody(known):
    """What is known where all users are asked for, and the data set."""
    rows = TinyLog().user_ids.rows
    return known(np.ones(rows, bool))


def impressions_of(users, dataset, day):
    count = SHOWN * len(users)
    labels = {f"label.{action}": np.zeros(count, bool) for action in dataset.vocabulary.actions}
    columns = {
        "request_id": np.repeat(np.arange(len(users)), SHOWN),
        "user": np.repeat(users, SHOWN),
        "item": dataset.item_ids.first_row + np.arange(count) % 50,
        "timestamp": np.full(count, dataset.calendar.start_ms(day) + 1),
        "position": np.tile(np.arange(SHOWN), len(users)),
    }
    return pa.table(columns | labels)


@given(st.lists(st.integers(0, USERS - 1), min_size=1, max_size=8), st.integers(2, 10))
def test_of_users_who_are_asked_for_it_foretells_what_it_does_where_all_are(
    known, everybody, users, day
):
    model, events = everybody
    dataset = model.dataset
    impressions = impressions_of(dataset.user_ids.first_row + np.array(users), dataset, day)
    asked = users_of(impressions, dataset)
    few, their_events = known(asked)
    found, expected = few.logits(impressions, their_events), model.logits(impressions, events)
    np.testing.assert_array_equal(found, expected)
    assert their_events.events.lengths.sum() == events.events.lengths[asked].sum()
    counted = few.record.standings.of_user.before(np.full(len(asked), 11), np.arange(len(asked)))
    assert not counted[~asked].any(), "nothing is held of others"


def test_users_of_impressions_are_asked_for(everybody):
    dataset = everybody[0].dataset
    asked = users_of(impressions_of(np.array([7, 9, 7]), dataset, 3), dataset)
    assert len(asked) == dataset.user_ids.rows
    assert np.flatnonzero(asked).tolist() == [7, 9]
