import tracemalloc
from types import SimpleNamespace
from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data.incidence import Incidence
from data.splits import TEST
from tests.data.rows import NUM_ITEMS, SAVE, rows_of_a_log


def sets_of(found):
    """Items of each user, in the order of the users."""
    lists = np.split(found.items, found.offsets[1:-1]) if len(found.users) else []
    return {u: items.tolist() for u, items in zip(found.users.tolist(), lists, strict=True)}


def expected(rows):
    sets = {}
    for user, item, action, _, part in rows:
        if action == SAVE and part < TEST:
            sets.setdefault(user, set()).add(item)
    return {user: sorted(items) for user, items in sets.items()}


@given(rows_of_a_log, st.integers(1, 3))
def test_sets_are_those_of_positive_events_before_the_part(log_of, rows, blocks):
    log = log_of(rows, kind="column", order="none", blocks=blocks)
    found, sets = Incidence.before(log, TEST), expected(rows)
    order = sorted(sets, key=lambda user: (user % blocks, user))
    assert list(sets_of(found).items()) == [(user, sets[user]) for user in order]
    assert list(sets_of(found.by_user()).items()) == sorted(sets.items())
    assert found.items.dtype == found.by_user().items.dtype == np.int32


@given(rows_of_a_log, st.integers(1, 3))
def test_users_of_each_item_are_the_same_pairs_by_item(log_of, rows, blocks):
    found = Incidence.before(log_of(rows, kind="column", order="none", blocks=blocks), TEST)
    offsets, places = found.by_item(NUM_ITEMS + 1)
    users = found.users[places]
    for item in range(NUM_ITEMS + 1):
        here = slice(offsets[item], offsets[item + 1])
        assert set(users[here]) == {u for u, items in expected(rows).items() if item in items}
        assert (np.diff(places[here]) > 0).all()
    assert places.dtype == np.int32


def test_a_pair_takes_a_dozen_bytes_beside_its_block():
    """Of many blocks, of which one at a time is sorted."""
    rng, users = np.random.default_rng(0), 10_000
    blocks = []
    for n in range(50):
        user = np.repeat(np.arange(n, users, 50), 40)
        blocks.append(SimpleNamespace(user=user, item=rng.integers(1, 9_000, len(user))))

    def interactions_before(*_):
        return iter(blocks)

    with mock.patch("data.incidence.interactions_before", interactions_before):
        Incidence.before(None, TEST).by_item(9_000)  # compiles
        tracemalloc.start()
        found = Incidence.before(None, TEST)
        lists = found.by_item(9_000)
        kept, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert len(found.items) == len(lists[1]) > 390_000
    assert kept < 10 * len(found.items)
    assert peak < 20 * len(found.items)
