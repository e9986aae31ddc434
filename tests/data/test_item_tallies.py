from types import SimpleNamespace

import numpy as np
import pytest

from data.contract.schema import DAY_MS
from data.item_tallies import FOLDS, PRIOR_STRENGTH, Tallies, tally_features
from data.splits import TEST, TRAIN, VALID
from tests.data.rows import HIDE, NUM_ITEMS, SAVE, START

EVERY = (TRAIN, VALID, TEST)


@pytest.fixture
def tallies_of(log_of):
    def tallies_of(rows, half_life=7.0, **kind):
        log = log_of(rows, **kind)
        log.dataset.counts = {"impressions": 0}
        return Tallies.of(log, EVERY, half_life)

    return tallies_of


def state_of(tallies, day):
    ((_, state),) = tallies.states(np.array([day]))
    return state


def test_an_event_counts_half_when_it_is_a_half_life_old(tallies_of):
    tallies = tallies_of([(1, 4, SAVE, 10, 0), (2, 4, SAVE, 17, 0), (2, 5, HIDE, 10, 0)])
    assert state_of(tallies, 24)[4].tolist() == [0.75, 0, 0]
    assert state_of(tallies, 17)[5].tolist() == [0, 0.5, 0]


def test_the_day_itself_is_not_counted(tallies_of):
    tallies = tallies_of([(1, 4, SAVE, 10, 0)])
    assert not state_of(tallies, 10).any()
    assert state_of(tallies, 11)[4, 0] > 0


def test_states_do_not_depend_on_the_days_asked_for_together(tallies_of):
    rows = [(1 + n % 9, 1 + n % 12, SAVE if n % 3 else HIDE, 1 + 7 * n, 0) for n in range(20)]
    tallies = tallies_of(rows)
    together = dict(tallies.states(np.array([140, 20, 60, 60])))
    assert sorted(together) == [20, 60, 140]
    for day, state in together.items():
        np.testing.assert_allclose(state, state_of(tallies, day), rtol=1e-5)


def test_what_was_shown_is_one_more_count_and_what_rates_are_of(log_of, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    log = log_of([(1, 4, SAVE, 10, 0)])
    shown = pa.table(
        {"user": [1] * 8, "item": [4] * 4 + [5] * 4, "timestamp": [START + DAY_MS] * 8}
    )
    pq.write_table(shown, tmp_path / "shown.parquet")
    log.dataset.counts = {"impressions": 8}
    log.dataset.impression_files = lambda first, last: [tmp_path / "shown.parquet"]
    tallies = Tallies.of(log, EVERY, 1e9)
    assert np.allclose(state_of(tallies, 100)[4], [1, 0, 4])
    days = np.array([100, 100])
    rates = tally_features(tallies, days, np.array([4, 5]), {})["item.rates"]
    prior = PRIOR_STRENGTH / 8
    expected = [(1 + prior) / (4 + PRIOR_STRENGTH), prior / (4 + PRIOR_STRENGTH)]
    np.testing.assert_allclose(rates[:, 0], expected, rtol=1e-4)


def test_a_group_counts_its_members(tallies_of):
    tallies = tallies_of([(1, 4, SAVE, 10, 0), (1, 5, SAVE, 10, 0), (1, 6, SAVE, 10, 0)], 1e9)
    creators = np.zeros(NUM_ITEMS + 1, np.int64)
    creators[[4, 5, 7]] = 1
    found = tally_features(tallies, np.array([50]), np.array([7]), {"creator": creators})
    assert found["creator.counts"][0, 0] == pytest.approx(np.log1p(2), rel=1e-4)
    assert found["item.counts"][0, 0] == 0


def test_without_a_clock_a_user_reads_what_the_other_folds_did(tallies_of):
    rows = [(1, 4, SAVE, 1, 0), (2, 4, SAVE, 1, 0), (3, 4, HIDE, 1, 0)]
    tallies = tallies_of(rows, kind="column", order="position")
    moments = tallies.moments(np.array([1, 2, 9]), np.zeros(3, np.int64))
    states = dict(tallies.states(moments))
    scale = FOLDS / (FOLDS - 1)
    assert np.allclose(states[1][4, :2], [scale, scale])
    assert np.allclose(states[9][4, :2], [2 * scale, scale])


def test_only_named_parts_are_counted(log_of):
    log = log_of([(1, 4, SAVE, 1, 0), (1, 5, SAVE, 1, 2)], kind="column")
    log.dataset.counts = {"impressions": 0}
    assert isinstance(log.dataset, SimpleNamespace)
    assert Tallies.of(log, (TRAIN,), 7.0).touches.item.tolist() == [4]
