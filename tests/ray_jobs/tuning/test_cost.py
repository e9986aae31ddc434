from types import SimpleNamespace

import numpy as np
import pytest

from ray_jobs.engine.job import start
from ray_jobs.tuning import cost

MEASURED = 7


class Mute:
    """A ranker that answers nothing."""

    def __init__(self):
        self.users, self.known = [], None

    def knowing(self, log, parts, asked):
        self.known = np.flatnonzero(asked).tolist()
        return self

    def of_requests(self, requests, events):
        self.users.append(int(requests.user[0]))


@pytest.fixture
def ranker(monkeypatch):
    model = Mute()
    monkeypatch.setattr(cost, "RankingModel", SimpleNamespace(open=lambda *_: model))
    monkeypatch.setattr(cost, "MEASURED", MEASURED)
    return model


def test_a_ranker_is_timed_by_few_requests_and_knows_of_their_users_alone(
    shared_root, publish_model, ranker, gathered
):
    job = start(shared_root("cost"))
    assert cost.latency_ms(job, publish_model(job, "ranker", window=[1, 40])) > 0
    assert len(ranker.users) == MEASURED
    assert gathered == [sorted(set(ranker.users))] == [ranker.known]
