from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp

from data.contract.settings import UserError
from data.world import WorldSettings, resolve
from data.world.generation import begin, record
from data.world.oracles import (
    NEVER,
    Outlook,
    expected_actions,
    expected_utility,
    oracle_log,
    oracle_truth,
)
from data.world.population import IdKind, day_start_ms, external_ids
from data.world.simulation import Simulator
from data.world.state import WorldState

QUERY_DAY, LAST_DAY = 46, 60
K = 10


@dataclass
class Judged:
    """A simulated world with its log as matrices, and recall@10 as the protocol has it."""

    latents: Path
    state: WorldState
    users: np.ndarray
    items: np.ndarray
    days: np.ndarray
    positive: np.ndarray

    def matrix(self, chosen: np.ndarray) -> sp.csr_array:
        population = self.state.population
        shape = (len(population.users), len(population.items))
        pairs = sp.csr_array(
            (np.ones(chosen.sum()), (self.users[chosen], self.items[chosen])), shape
        )
        return (pairs > 0).astype(np.float32)

    @cached_property
    def known(self) -> sp.csr_array:
        return self.matrix(self.days <= QUERY_DAY)

    @cached_property
    def targets(self) -> np.ndarray:
        future = self.matrix((self.days > QUERY_DAY) & self.positive)
        return future[self.queries].toarray() > self.known[self.queries].toarray()

    @cached_property
    def queries(self) -> np.ndarray:
        future = self.matrix((self.days > QUERY_DAY) & self.positive)
        fresh = future - future.multiply(self.known)
        history = self.matrix((self.days <= QUERY_DAY) & self.positive)
        return np.nonzero((fresh.sum(axis=1) > 0) & (history.sum(axis=1) > 0))[0][:600]

    @property
    def user_ids(self) -> np.ndarray:
        return external_ids(self.queries, self.state.world, IdKind.USER)

    @property
    def item_ids(self) -> np.ndarray:
        rows = np.arange(len(self.state.population.items))
        return external_ids(rows, self.state.world, IdKind.ITEM)

    def recalls(self, scores: np.ndarray) -> np.ndarray:
        """Recall@10 of each query over the items that exist, less those acted on."""
        unborn = self.state.population.items.created_at >= day_start_ms(QUERY_DAY + 1)
        excluded = (self.known[self.queries].toarray() > 0) | unborn
        top = np.argsort(np.where(excluded, -np.inf, scores), axis=1)[:, -K:]
        return np.take_along_axis(self.targets, top, axis=1).sum(axis=1) / self.targets.sum(axis=1)

    @cached_property
    def logged(self) -> np.ndarray:
        return np.concatenate(
            list(oracle_log(self.latents, self.user_ids, self.item_ids, QUERY_DAY))
        )

    @cached_property
    def truth(self) -> np.ndarray:
        return np.concatenate(
            list(oracle_truth(self.latents, self.user_ids, self.item_ids, QUERY_DAY))
        )

    @cached_property
    def popularity(self) -> np.ndarray:
        past = (self.days <= QUERY_DAY) & self.positive
        weights = 0.5 ** ((QUERY_DAY - self.days[past]) / 7)
        counts = np.bincount(self.items[past], weights, len(self.item_ids))
        return np.tile(counts, (len(self.queries), 1))

    @cached_property
    def item_knn(self) -> np.ndarray:
        history = self.matrix((self.days <= QUERY_DAY) & self.positive)
        fitted = self.matrix((self.days <= QUERY_DAY - 14) & self.positive)
        norms = np.sqrt(np.maximum(fitted.sum(axis=0), 1e-9))
        unit = fitted.multiply(1 / norms).tocsr()
        return ((history[self.queries] @ unit.T) @ unit).toarray()


def judge(folder: Path, seed: int) -> Judged:
    world = resolve(
        WorldSettings(days=60, num_users=1200, num_items=3600, num_topics=70, seed=seed)
    )
    state, logs = begin(world, folder, range(1, 2)), []
    for day in range(1, LAST_DAY + 1):
        log = state.run_day()
        record(folder, day, log)
        logs.append((log.users[log.acted], log.items[log.acted], log.positive[log.acted]))
    days = np.repeat(np.arange(1, LAST_DAY + 1), [len(users) for users, _, _ in logs])
    users, items, positive = (np.concatenate(column) for column in zip(*logs, strict=True))
    return Judged(folder, state, users, items, days, positive)


@pytest.fixture(scope="module", params=[0, 1, 2])
def judged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Judged:
    return judge(tmp_path_factory.mktemp("judged"), request.param)


@pytest.fixture(scope="module")
def tiny_ids(tiny_world: Path) -> tuple[np.ndarray, np.ndarray]:
    world = WorldState.load(tiny_world / "latents", 0).world
    rows = np.arange(200)
    return external_ids(rows, world, IdKind.USER), external_ids(rows, world, IdKind.ITEM)


def test_item_popularity_is_skewed_like_real_catalogues(judged: Judged) -> None:
    counts = np.sort(np.bincount(judged.items[judged.positive], minlength=len(judged.item_ids)))
    ranks = np.arange(1, len(counts) + 1)
    gini = (2 * ranks - len(counts) - 1) @ counts / (len(counts) * counts.sum())
    assert 0.55 < gini < 0.8


def test_the_logged_oracle_is_not_beaten_beyond_noise(judged: Judged) -> None:
    best = judged.recalls(judged.logged)
    noise = np.random.default_rng(0).normal(0, 0.5, judged.logged.shape)
    rivals = {
        "truth": judged.truth,
        "popularity": judged.popularity,
        "item-kNN": judged.item_knn,
        "popular truth": judged.truth * np.log1p(judged.popularity),
        "perturbed": judged.logged * np.exp(noise),
    }
    for name, scores in rivals.items():
        advantage = judged.recalls(scores) - best
        error = advantage.std() / np.sqrt(len(advantage))
        assert advantage.mean() < 2 * error, name


def test_popularity_item_knn_and_oracle_lie_in_this_order(judged: Judged) -> None:
    popularity, item_knn, oracle = (
        judged.recalls(scores).mean()
        for scores in (judged.popularity, judged.item_knn, judged.logged)
    )
    assert 0.05 < oracle < 0.35
    assert 0.05 * oracle < popularity < 0.25 * oracle
    assert popularity < item_knn < 0.6 * oracle


def test_the_logged_oracle_expects_what_happens(judged: Judged) -> None:
    """Pairs that carry half of the expected positives carry half of those that come.

    One number is fitted: the slots that people look at per unit of activity.
    """
    activity = judged.state.population.users.activity[judged.queries]
    rate = judged.logged * activity[:, None] * (judged.known[judged.queries].toarray() == 0)
    slots = scipy.optimize.brentq(
        lambda n: -np.expm1(-n * rate).sum() - judged.targets.sum(), 1, 10_000
    )
    expected = -np.expm1(-slots * rate)
    order = np.argsort(-expected, axis=None)
    carried = np.cumsum(expected.ravel()[order]) / expected.sum()
    for share in (0.25, 0.5, 0.75):
        chosen = order[: np.searchsorted(carried, share)]
        happened = judged.targets.ravel()[chosen].sum() / judged.targets.sum()
        assert happened == pytest.approx(share, abs=0.1)


def test_nothing_pleases_people_more_than_the_slates_of_the_true_oracle(judged: Judged) -> None:
    slates = {
        name: np.argsort(-scores, axis=1)[:, :K]
        for name, scores in {
            "truth": fresh(judged, judged.truth),
            "logged": fresh(judged, judged.logged),
            "popularity": fresh(judged, judged.popularity),
        }.items()
    }
    utilities = {name: utility(judged, slate) for name, slate in slates.items()}
    for name in ("logged", "popularity"):
        assert utilities["truth"].mean() > utilities[name].mean() + 0.02, name


def test_utility_is_what_the_expected_actions_are_worth(judged: Judged) -> None:
    users = np.arange(5)
    expected = expected_actions(judged.state, users)
    worth = [action.utility for action in judged.state.world.actions]
    utility = np.tensordot(worth, expected, axes=1)
    np.testing.assert_allclose(utility, expected_utility(judged.state, users), atol=1e-5)
    assert ((expected > 0) & (expected < 1)).all()


def fresh(judged: Judged, scores: np.ndarray) -> np.ndarray:
    unborn = judged.state.population.items.created_at >= day_start_ms(QUERY_DAY + 1)
    return np.where((judged.known[judged.queries].toarray() > 0) | unborn, -np.inf, scores)


def utility(judged: Judged, slates: np.ndarray) -> np.ndarray:
    """Utility of one first slate per query."""
    simulator, world = Simulator(judged.latents, QUERY_DAY, seed=7), judged.state.world
    worth = {name: getattr(world, name).utility for name in ("save", "click", "closeup", "hide")}
    return np.array(
        [
            sum(
                worth[action.action]
                for action in simulator.respond(
                    int(user), judged.item_ids[slate].tolist(), day_start_ms(QUERY_DAY + 1)
                ).actions
            )
            for user, slate in zip(judged.user_ids, slates, strict=True)
        ]
    )


@pytest.mark.parametrize("oracle", [oracle_log, oracle_truth])
def test_scores_follow_the_order_of_the_ids_asked_for(
    oracle, tiny_world: Path, tiny_ids: tuple[np.ndarray, np.ndarray]
) -> None:
    users, items = tiny_ids
    straight = np.concatenate(list(oracle(tiny_world / "latents", users, items, 40)))
    backward = np.concatenate(list(oracle(tiny_world / "latents", users[::-1], items[::-1], 40)))
    assert straight.shape == (len(users), len(items))
    np.testing.assert_allclose(backward[::-1, ::-1].mean(), straight.mean(), rtol=0.02)
    if oracle is oracle_truth:
        np.testing.assert_allclose(backward[::-1, ::-1], straight, rtol=1e-4, atol=1e-6)


def test_items_that_will_not_exist_score_lowest(
    tiny_world: Path, tiny_ids: tuple[np.ndarray, np.ndarray]
) -> None:
    users, items = tiny_ids
    world = WorldState.load(tiny_world / "latents", 0).world
    late = external_ids(np.array([799]), world, IdKind.ITEM)
    asked = np.concatenate([items, late, [12345]])
    logged = next(oracle_log(tiny_world / "latents", users, asked, 30))
    truth = next(oracle_truth(tiny_world / "latents", users, asked, 30))
    assert (logged[:, -2:] == 0).all()
    assert (truth[:, -2:] == NEVER).all()
    assert (logged[:, :-2] > 0).all()
    assert (truth[:, :-2] > NEVER).all()


def test_an_item_to_come_within_the_horizon_has_a_chance_in_the_log(
    tiny_world: Path, tiny_ids: tuple[np.ndarray, np.ndarray]
) -> None:
    state = WorldState.load(tiny_world / "latents", 30)
    rows = np.array([len(state.population.items)])
    coming = external_ids(rows, state.world, IdKind.ITEM)
    users, _ = tiny_ids
    assert next(oracle_log(tiny_world / "latents", users, coming, 30)).min() > 0
    assert next(oracle_truth(tiny_world / "latents", users, coming, 30)).max() == NEVER


def test_the_expected_slots_are_a_distribution(tiny_world: Path) -> None:
    state = WorldState.load(tiny_world / "latents", 40)
    outlook = Outlook(state, np.arange(50), 14)
    topics = state.population.users.topics[:50, 0]
    shown = outlook.shown_by_pools(slice(0, 50)) + outlook.shown_by_topic(topics)
    np.testing.assert_allclose(shown.sum(axis=1), 1, rtol=1e-3)
    created_by_now = state.population.first_item(41)
    assert shown[:, :created_by_now].min() > 0


def test_users_of_a_later_day_are_refused_by_id(tiny_world: Path) -> None:
    world = WorldState.load(tiny_world / "latents", 0).world
    late = external_ids(np.array([299]), world, IdKind.USER)
    with pytest.raises(UserError, match=str(late[0])):
        next(oracle_truth(tiny_world / "latents", late, late, 10))
