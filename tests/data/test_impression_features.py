import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract.encode import FeatureTable, encode_columns
from data.contract.schema import DAY_MS, Feature
from data.impression_features import BUCKETS, ImpressionFeatures
from data.splits import TEST, TRAIN, VALID
from tests.data.rows import HIDE, NUM_ITEMS, NUM_USERS, SAVE, START, rows_of_a_log

EVERY = (TRAIN, VALID, TEST)
OF_ITEMS = (
    Feature(name="creator_id", kind="categorical"),
    Feature(name="interests", kind="multi"),
    Feature(name="content", kind="vector", dim=3),
    Feature(name="price", kind="numeric", high=100.0, std=10.0),
)
OF_USERS = (Feature(name="country", kind="categorical"),)
NOON = DAY_MS // 2
EVERYBODY = np.ones(NUM_USERS + 1, bool)


def table_of(side, features, raw):
    return FeatureTable.of(side, features, pa.table(encode_columns(raw, features)))


def features_of(log, parts=EVERY, asked=EVERYBODY):
    rng = np.random.default_rng(0)
    content = pa.array(rng.normal(size=(NUM_ITEMS + 1) * 3).astype(np.float16))
    items = pa.table(
        {
            "creator_id": np.arange(NUM_ITEMS + 1) % 4,
            "interests": [[f"topic{n % 3}"] * (n % 2) for n in range(NUM_ITEMS + 1)],
            "content": pa.FixedSizeListArray.from_arrays(content, 3),
            "price": pa.array([None, *map(float, range(NUM_ITEMS))]),
        }
    )
    users = pa.table({"country": np.arange(NUM_USERS + 1) % 2})
    log.dataset.items = table_of("item", OF_ITEMS, items)
    log.dataset.users = table_of("user", OF_USERS, users)
    log.dataset.counts = {"impressions": 0}
    return ImpressionFeatures.of(log, parts, 7.0, asked)


def request(user, items, time, known=None):
    count = len(items)
    columns = {
        "request_id": np.zeros(count, np.int64),
        "user": np.full(count, user),
        "item": np.array(items, np.int32),
        "timestamp": np.full(count, time),
        "surface": np.ones(count, np.int16),
        "position": np.arange(count, dtype=np.int16),
        "label.save": np.zeros(count, bool),
        "label.hide": np.zeros(count, bool),
    }
    return pa.table(columns | ({} if known is None else {"known": np.full(count, known)}))


def same(one, other):
    np.testing.assert_array_equal(one.dense, other.dense)
    np.testing.assert_array_equal(one.hot.toarray(), other.hot.toarray())


def other_events(rows, changed):
    """The same log, with other events in the places that `changed` says."""
    return [
        (1 + user % NUM_USERS, 1 + item % NUM_ITEMS, SAVE + HIDE - action, day, part)
        if changed(n)
        else (user, item, action, day, part)
        for n, (user, item, action, day, part) in enumerate(rows)
    ]


@given(
    rows_of_a_log,
    st.integers(1, NUM_USERS),
    st.lists(st.integers(1, NUM_ITEMS), min_size=1, max_size=4),
    st.integers(1, 180),
    st.integers(0, 60),
)
def test_nothing_at_or_after_a_request_changes_its_features(log_of, rows, user, items, day, ms):
    time = START + (day - 1) * DAY_MS + ms
    later = other_events(rows, lambda n: START + (rows[n][3] - 1) * DAY_MS + n >= time)
    asked = request(user, items, time)
    one, other = (features_of(log_of(r)).of_impressions(asked) for r in (rows, later))
    same(one, other)


@given(rows_of_a_log, st.integers(1, NUM_USERS), st.integers(0, 5))
def test_without_a_clock_no_later_event_of_the_user_does(log_of, rows, user, known):
    rows = [(*row[:4], TRAIN) for row in rows]
    own = sorted((n for n, row in enumerate(rows) if row[0] == user), key=lambda n: (rows[n][3], n))
    known = min(known, len(own))
    changed = [
        (u, 1 + i % NUM_ITEMS, SAVE + HIDE - a, d, p) if n in own[known:] else (u, i, a, d, p)
        for n, (u, i, a, d, p) in enumerate(rows)
    ]
    asked = request(user, [1, 2, 3], 0, known)
    one, other = (
        features_of(log_of(r, kind="column", order="position")).of_impressions(asked)
        for r in (rows, changed)
    )
    same(one, other)


@given(
    rows_of_a_log,
    st.sets(st.integers(1, NUM_USERS), min_size=1),
    st.integers(1, 180),
    st.sampled_from([("time", "clock", None), ("column", "position", 2)]),
)
def test_users_who_are_asked_for_have_the_features_that_they_have_among_all(
    log_of, rows, users, day, log
):
    kind, order, known = log
    asked = np.isin(np.arange(NUM_USERS + 1), list(users))
    made = log_of([(*row[:4], TRAIN) for row in rows], kind=kind, order=order)
    time = START + (day - 1) * DAY_MS + NOON if known is None else 0
    whole, few = (features_of(made, asked=mask) for mask in (EVERYBODY, asked))
    for user in users:
        counted = known if known is None else min(known, sum(row[0] == user for row in rows))
        shown = request(user, [1, 4, 5], time, counted)
        same(whole.of_impressions(shown), few.of_impressions(shown))
    assert not few.events.events.lengths[~asked].any(), "nothing is held of others"


def test_what_the_user_did_before_is_a_feature(log_of):
    rows = [(1, 4, SAVE, 10, 0), (1, 5, HIDE, 11, 0), (2, 6, SAVE, 12, 0)]
    asked = request(1, [4, 8, 5], START + 20 * DAY_MS + NOON)
    found = features_of(log_of(rows)).of_impressions(asked)
    column = dict(zip(found.names, found.dense.T, strict=True))
    assert column["positive.item"].tolist() == [1, 0, 0]
    assert column["negative.item"].tolist() == [0, 0, 1]
    assert column["positive.creator_id"].tolist() == [1, 1, 0], "items 4 and 8 share a creator"
    assert column["past.events"] == pytest.approx(np.log1p([2, 2, 2]))
    assert column["past.shares.0"].tolist() == [0.5, 0.5, 0.5]
    assert column["item.counts.0"][0] > 0 == column["item.counts.0"][1]
    assert column["item.price"].tolist() == pytest.approx([0.3, 0.7, 0.4])


def test_circumstances_are_categories(log_of):
    found = features_of(log_of([(1, 4, SAVE, 10, 0)])).of_impressions(
        request(1, [4, 5], START + 20 * DAY_MS + NOON)
    )
    hot = found.hot.toarray()
    assert hot.shape[1] == 3 * BUCKETS + 32 + 2 + 24
    assert hot[:, -24 + 12].tolist() == [1, 1], "noon"
    assert hot[:, 3 * BUCKETS : 3 * BUCKETS + 2].tolist() == [[1, 0], [0, 1]], "positions"
