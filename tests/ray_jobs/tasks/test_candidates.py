import numpy as np
import pytest

from data.contract.encode import Events
from data.training_log import Lesson, first_touches
from ray_jobs.tasks.candidates import _drawn, labels_of, pairs_of

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
