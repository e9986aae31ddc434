from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.tuning.rungs import bars, rungs

curves = st.lists(st.lists(st.floats(-1, 1), min_size=1, max_size=12), max_size=20)


def test_rungs_are_powers():
    assert rungs(10, 3) == [1, 3, 9]
    assert rungs(0, 3) == []


def test_nothing_is_asked_until_enough_trials_are_known():
    assert bars([], 3) == ()
    assert bars([[0.5, 0.6, 0.7]], 3) == (None, None, None)


def test_the_bar_is_what_the_best_share_has_reached():
    earlier = [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.2, 0.1, 0.1], [0.3]]
    assert bars(earlier, 2) == (0.3, 0.2, None)


@given(curves, st.integers(2, 5), st.floats(-1, 1))
def test_a_trial_passes_if_it_is_among_the_best_share(earlier, reduction, score):
    found = bars(earlier, reduction)
    for rung in rungs(len(found), reduction):
        others = [max(curve[:rung]) for curve in earlier if len(curve) >= rung]
        better = sum(other > score for other in others)
        among = better < (len(others) + 1) // reduction
        bar = found[rung - 1]
        assert among == (bar is not None and score >= bar)


@given(curves, st.integers(2, 5))
def test_bars_stand_at_rungs_alone(earlier, reduction):
    found = bars(earlier, reduction)
    standing = {place + 1 for place, bar in enumerate(found) if bar is not None}
    assert standing <= set(rungs(len(found), reduction))
