"""What is learnt from: fresh positives of the users and days that are not kept apart."""

import numpy as np
import pytest
from hypothesis import given

from data.contract.settings import UserError
from data.queries import build_queries
from data.splits import TEST, TRAIN, VALID, unseen
from data.training_log import TrainingLog
from tests.data.rows import HIDE, NUM_USERS, SAVE, rows_of_a_log


def learners(log):
    """Users with something to learn from."""
    return set(np.flatnonzero(TrainingLog(log, (TRAIN, VALID)).count().user_labels).tolist())


def asked(log):
    return set(build_queries(log, TEST, 100).users.tolist())


@given(rows_of_a_log)
def test_users_kept_apart_are_asked_and_never_learnt_from(log_of, rows):
    whole, split = log_of(rows), log_of(rows, eval_users=0.5)
    apart = set(np.flatnonzero(unseen(np.arange(NUM_USERS + 1), 0.5)).tolist())
    assert learners(split) == learners(whole) - apart
    assert asked(split) == asked(whole) & apart


def test_users_kept_apart_are_the_same_under_every_seed_and_about_as_many_as_asked_for(log_of):
    rows = [(user, 1, SAVE, day, 2) for user in range(1, NUM_USERS + 1) for day in (1, 170)]
    assert learners(log_of(rows, eval_users=0.5)) == learners(log_of(rows, eval_users=0.5, seed=1))
    assert 0.18 < unseen(np.arange(20_000), 0.2).mean() < 0.22


@given(rows_of_a_log)
def test_labels_of_some_actions_are_first_touches_by_them_alone(log_of, rows):
    log = log_of(rows)
    for codes, wanted in (((), {SAVE}), ((SAVE, HIDE), {SAVE, HIDE}), ((HIDE,), {HIDE})):
        for lesson in TrainingLog(log, (TRAIN, VALID, TEST), codes=codes).lessons():
            assert set(lesson.events.action[lesson.labels].tolist()) <= wanted
            pairs = np.repeat(lesson.users, lesson.events.lengths) * 100 + lesson.events.item
            first = np.unique(pairs, return_index=True)[1]
            by_wanted = first[np.isin(lesson.events.action[first], [*wanted])]
            assert np.flatnonzero(lesson.labels).tolist() == sorted(by_wanted.tolist())


def test_an_action_that_is_not_positive_is_refused_by_name(log_of):
    vocabulary = log_of([(1, 1, SAVE, 1, 0)]).dataset.vocabulary
    assert vocabulary.codes_of(("save",), "user.positives") == (SAVE,)
    with pytest.raises(UserError, match=r"user.positives: \['hide'\] are no positive actions"):
        vocabulary.codes_of(("save", "hide"), "user.positives")
