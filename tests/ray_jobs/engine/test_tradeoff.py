import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.contract.settings import UserError
from ray_jobs.balance import held_out, verdict
from ray_jobs.engine.tradeoff import Tradeoff, efficient
from tests.ray_jobs.engine.test_slates import slates_of

NAMES = ("merchant", "creator")


def drawn(seed, requests=300, size=12):
    """Slates where a tenth of the items are a merchant's, and creators like what users do not."""
    rng = np.random.default_rng(seed)
    user = rng.gamma(1, 0.1, requests * size)
    merchant = rng.gamma(1, 0.05, len(user)) * (rng.random(len(user)) < 0.1)
    creator = rng.gamma(1, 0.05, len(user)) / (1 + 10 * user)
    worth = np.stack([user, merchant, creator], axis=1)
    return slates_of([size] * requests, worth, top=4)


def tradeoff(seed=0, fixed=(0.0, 0.0), **floors):
    return Tradeoff(drawn(seed), NAMES, np.array(fixed), floors)


def test_the_first_point_is_the_users_own_best():
    points = tradeoff(merchant=0.8).search(5, 0)
    assert points[0].weights.tolist() == [0, 0]
    assert points[0].worth[0] == max(point.worth[0] for point in points)


def test_the_same_seed_tries_the_same_weights():
    made = [tradeoff(merchant=0.8, creator=0.7).search(30, seed) for seed in (1, 1, 2)]
    tried = [np.array([point.weights for point in points]) for points in made]
    np.testing.assert_array_equal(tried[0], tried[1])
    assert (tried[0] != tried[2]).any()


@settings(max_examples=8)
@given(st.integers(0, 2**31), st.floats(0.6, 0.95), st.floats(0.5, 0.85))
def test_every_floor_is_kept_and_a_weight_that_nothing_asks_for_is_none(seed, merchant, creator):
    problem = tradeoff(seed, merchant=merchant, creator=creator)
    points = problem.search(60, 0)
    best = problem.best(points)
    shares = {name: problem.share(best, name) for name in problem.floors}
    assert all(share >= problem.floors[name] for name, share in shares.items())
    users_best = points[0]
    if all(problem.share(users_best, n) >= floor for n, floor in problem.floors.items()):
        assert best.weights.tolist() == [0, 0]


def test_one_floor_is_met_as_cheaply_as_by_a_fine_grid():
    problem = tradeoff(merchant=0.85)
    best = problem.best(problem.search(60, 0))
    grid = [problem.point(np.array([weight, 0.0])) for weight in np.linspace(0, 10, 501)]
    cheapest = max(p.worth[0] for p in grid if problem.share(p, "merchant") >= 0.85)
    assert problem.share(best, "merchant") == pytest.approx(0.85, abs=0.005)
    assert best.worth[0] >= cheapest * 0.9995


def test_two_floors_are_met_nearly_as_cheaply_as_by_a_grid():
    problem = tradeoff(merchant=0.85, creator=0.75)
    best = problem.best(problem.search(150, 0))
    weights = [np.array([a, b]) for a in np.linspace(0, 8, 25) for b in np.linspace(0, 8, 25)]
    grid = [problem.point(pair) for pair in weights]
    kept = [p for p in grid if all(problem.share(p, n) >= f for n, f in problem.floors.items())]
    assert best.worth[0] >= 0.999 * max(p.worth[0] for p in kept)


def test_a_margin_lifts_each_share_by_its_interval():
    problem = tradeoff(merchant=0.85)
    points = problem.search(60, 0)
    exact, aimed = problem.best(points), problem.best_with_margin(points, 0)
    share, low, _ = problem.shares_on(problem.slates, exact, 0)["merchant"]
    assert low < 0.85 <= share
    assert problem.share(aimed, "merchant") == pytest.approx(0.85 + share - low, abs=0.005)
    assert problem.shares_on(problem.slates, aimed, 0)["merchant"][1] >= 0.845


def test_parties_without_a_floor_keep_their_weights():
    problem = tradeoff(fixed=(0.0, 2.0), merchant=0.8)
    points = problem.search(20, 0)
    assert {point.weights[1] for point in points} == {2.0}
    assert problem.best(points).weights[1] == 2.0


def test_floors_that_cannot_all_be_kept_are_refused_with_the_nearest():
    rng = np.random.default_rng(0)
    user = rng.random(400)
    worth = np.stack([user, user, 1 - user], axis=1)
    problem = Tradeoff(
        slates_of([8] * 50, worth), NAMES, np.zeros(2), {"merchant": 0.9} | {"creator": 0.9}
    )
    with pytest.raises(UserError, match=r"none of 20 trials keeps the floors .*: lower a floor"):
        problem.best(problem.search(20, 0))


def test_a_party_that_never_gains_is_refused():
    with pytest.raises(UserError, match=r"creator gains nothing .* check serve\.utility\.parties"):
        Tradeoff(
            slates_of([4], np.array([[1.0, 1.0, 0.0]] * 4)), NAMES, np.zeros(2), {"creator": 0.5}
        )


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, unique=True))
def test_efficient_rows_are_reached_by_no_other(rows):
    expected = [
        not any(o != row and all(b >= a for a, b in zip(row, o, strict=True)) for o in rows)
        for row in rows
    ]
    assert efficient(np.array(rows, float)).tolist() == expected


def test_the_front_falls_for_the_user_and_rises_for_the_party():
    problem = tradeoff(merchant=0.85)
    front = problem.front(problem.search(60, 0))
    worth = np.array([point.worth for point in front])
    assert len(front) > 5
    assert (np.diff(worth[:, 0]) < 0).all()
    assert (np.diff(worth[:, 1]) > 0).all()


def test_floors_that_bind_hold_on_other_requests_within_their_intervals():
    verdicts = []
    for seed in range(6):
        problem = tradeoff(seed, merchant=0.85, creator=0.75)
        chosen = problem.best_with_margin(problem.search(40, 0), 0)
        found = held_out(drawn(100 + seed), problem, chosen, 0)
        verdicts += [told["verdict"] for told in found["floors"].values()]
        assert found["user"]["high"] < 0, "what binds costs the user something"
        for name, told in found["floors"].items():
            assert told["share"] == pytest.approx(problem.floors[name], abs=0.08)
    assert verdicts.count("broken") <= 1, "of twelve 95% intervals"
    assert verdicts.count("holds") >= 4


def test_a_verdict_asks_the_whole_interval():
    assert verdict(0.8, (0.85, 0.8, 0.9)) == "holds"
    assert verdict(0.8, (0.75, 0.7, 0.9)) == "holds within noise"
    assert verdict(0.8, (0.75, 0.7, 0.79)) == "broken"
    assert verdict(0.8, (np.nan, np.nan, np.nan)) == "cannot be told"
