import numpy as np
import pytest

from data.contract.encode import Events
from data.splits import TEST, TRAIN, VALID
from data.training_log import Lesson, first_touches
from ray_jobs.tasks.candidates import _drawn, _held_out_moments, labels_of, pairs_of
from tests.data.rows import HIDE, SAVE, log_of

LIKE, LOVE, DISLIKE = 1, 2, 3
EVERY = (LIKE, LOVE, DISLIKE)


@pytest.fixture
def lesson():
    """User 5 likes and loves item 7, dislikes 8, later likes it; user 6 likes 8 alone."""
    item = np.array([7, 7, 8, 8, 8], np.int32)
    action = np.array([LIKE, LOVE, DISLIKE, LIKE, LIKE], np.int16)
    times, surface = np.arange(5), np.ones(5, np.int16)
    offsets = np.array([0, 4, 5])
    events = Events(offsets, item, action, surface, times, np.zeros(5, np.float32))
    return Lesson(np.array([5, 6]), events, first_touches(events))


def test_a_touched_item_has_all_that_was_done_to_it(lesson):
    moments = _drawn(lesson, np.ones(5, bool), EVERY)
    assert moments.queries.users.tolist() == [5, 5, 6]
    assert moments.queries.positives.tolist() == [7, 8, 8]
    assert moments.labels.tolist() == [
        [True, True, False],
        [True, False, True],
        [True, False, False],
    ]


def test_a_moment_knows_what_came_before_its_item(lesson):
    moments = _drawn(lesson, np.ones(5, bool), EVERY)
    assert moments.queries.history.lengths.tolist() == [0, 2, 0]
    assert moments.queries.history.item.tolist() == [7, 7]


def test_what_is_touched_at_moments_not_drawn_is_known_too(lesson):
    moments = _drawn(lesson, np.array([False, False, True, False, False]), EVERY)
    assert moments.queries.positives.tolist() == [8]
    wanted = pairs_of(np.array([5, 5]), np.array([7, 8]))  # of user 6 nothing is asked
    assert np.sort(moments.touched).tolist() == wanted.tolist()


def test_labels_are_of_the_user_who_acted():
    did = pairs_of(np.array([1, 2]), np.array([9, 9]))
    found = labels_of(did, did, np.array([LIKE, DISLIKE]), EVERY)
    assert found.tolist() == [[True, False, False], [False, False, True]]


@pytest.mark.parametrize(("part", "saved"), [(VALID, False), (TEST, True)])
def test_a_held_out_item_has_what_was_done_to_it_by_the_end_of_its_part(part, saved):
    """User 1 hides an item in the validation part and saves it later; 2 does both later."""
    rows = [(1, 9, SAVE, 5, TRAIN), (1, 3, HIDE, 160, VALID), (1, 3, SAVE, 170, TEST)]
    rows += [(2, 9, SAVE, 6, TRAIN), (2, 4, HIDE, 171, TEST), (2, 4, SAVE, 172, TEST)]
    moments = _held_out_moments(log_of(rows), part, np.random.default_rng(0))
    user, item = (1, 3) if part == VALID else (2, 4)
    assert moments.queries.users.tolist() == [user]
    assert moments.queries.positives.tolist() == [item]
    assert moments.labels.tolist() == [[saved, True]]
