"""What the user gives up for what other parties get: weights tried, the best of them, the front.

Optuna's NSGA-II proposes weights; a trial is one ranking of all slates. The first trial is the
user's own best. Trials that keep every floor are preferred, so that the search ends near them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import optuna
from rich.console import Console
from rich.progress import track

from data.contract.settings import UserError
from ray_jobs.engine.slates import Floats, Slates, ratio_interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from data.contract.encode import Mask

MOST = 0.95  # of the score may be a party's
POPULATION = 20
ROUNDS, HALVINGS = 4, 14
SLACK = 3e-4  # of a floor, so that moving one weight does not break the floor of another


@dataclass(frozen=True, slots=True)
class Point:
    """Weights and what they come to.

    Attributes:
        weights: of each party, [P].
        worth: mean over requests and shown items, to the user and to each party, [1 + P].
    """

    weights: Floats
    worth: Floats


@dataclass(frozen=True)
class Tradeoff:
    """The slates of some requests, and the least that some parties must get of them.

    Attributes:
        slates: scored candidates.
        names: of the parties, P.
        fixed: weights of the parties in force, [P]; those with a floor are searched.
        floors: least share of what a party gets at its own best, by name.
    """

    slates: Slates
    names: tuple[str, ...]
    fixed: Floats
    floors: dict[str, float]

    def __post_init__(self) -> None:
        for name in self.floors:
            if self.own_best[name] <= 0:
                raise UserError(
                    f"{name} gains nothing even at its own best, so there is no share to keep; "
                    f"check serve.utility.parties.{name}"
                )

    def point(self, weights: Floats) -> Point:
        """What weights come to."""
        return Point(weights, self.slates.ranked_by(weights).mean(axis=0))

    @cached_property
    def own_best(self) -> dict[str, float]:
        """What each party with a floor gets where it alone decides."""
        places = {name: self.names.index(name) for name in self.floors}
        return {n: float(self.slates.at_own_best(i)[:, 1 + i].mean()) for n, i in places.items()}

    def share(self, point: Point, name: str) -> float:
        """What a party gets, as a share of its own best."""
        return float(point.worth[1 + self.names.index(name)]) / self.own_best[name]

    def search(self, trials: int, seed: int) -> list[Point]:
        """Tries weights; the first are those of the user's own best."""
        sampler = optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
        directions = [optuna.study.StudyDirection.MAXIMIZE] * (1 + len(self.floors))
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(directions=directions, sampler=sampler)
        study.enqueue_trial(dict.fromkeys(self.floors, 0.0))
        space = {n: optuna.distributions.FloatDistribution(0, MOST) for n in self.floors}
        rates, points = self._rates(), []
        for _ in track(range(trials), "balancing", console=Console(stderr=True)):
            trial = study.ask(space)  # type: ignore[arg-type]
            found = self.point(self._weights(trial.params, rates))
            shares = {name: self.share(found, name) for name in self.floors}
            for name, floor in self.floors.items():
                trial.set_constraint(name, floor - shares[name])
            study.tell(trial, [float(found.worth[0]), *shares.values()])
            points.append(found)
        return points

    def _rates(self) -> dict[str, float]:
        """Weight of each party at the mean rate of exchange from the user's best to its own."""
        start = self.point(self._weights(dict.fromkeys(self.floors, 0.0), self.own_best)).worth
        rates = {}
        for name in self.floors:
            place = self.names.index(name)
            end = self.slates.at_own_best(place).mean(axis=0)
            lost, gained = start[0] - end[0], end[1 + place] - start[1 + place]
            rates[name] = float(lost / gained) if min(lost, gained) > 0 else 1.0
        return rates

    def _weights(self, shares: dict[str, float], rates: dict[str, float]) -> Floats:
        """Weights by which parties have shares of the score, at some rates of exchange."""
        weights = self.fixed.copy()
        for name, share in shares.items():
            weights[self.names.index(name)] = rates[name] * share / (1 - share)
        return weights

    def best(self, points: Sequence[Point]) -> Point:
        """Of the points that keep every floor the one that is worth most to the user, refined.

        Raises:
            UserError: none keeps all of them; the nearest is named.
        """
        kept = [self._kept(point) for point in points]
        if max(kept) < 1:
            nearest = points[int(np.argmax(kept))]
            got = {name: self.share(nearest, name) for name in self.floors}
            raise UserError(
                f"none of {len(points)} trials keeps the floors {rounded(self.floors)}, margins "
                f"included; the nearest gives {rounded(got)} of what each would get at its own "
                "best: lower a floor or raise trials"
            )
        feasible = [point for point, share in zip(points, kept, strict=True) if share >= 1]
        return self._refined(max(feasible, key=lambda point: float(point.worth[0])))

    def best_with_margin(self, points: Sequence[Point], seed: int) -> Point:
        """The best point where each floor is raised by what its 95% interval leaves open below.

        A floor met exactly on these requests would be missed on every second set of others.

        Raises:
            UserError: as `best`, for the raised floors.
        """
        told = self.shares_on(self.slates, self.best(points), seed)
        raised = {n: floor + told[n][0] - told[n][1] for n, floor in self.floors.items()}
        return replace(self, floors=raised).best(points)

    def shares_on(
        self, slates: Slates, point: Point, seed: int
    ) -> dict[str, tuple[float, float, float]]:
        """What parties get of their own best on any slates: share, low, high (95%, by user)."""
        worth, found = slates.ranked_by(point.weights), {}
        for name in self.floors:
            place = self.names.index(name)
            own_best = slates.at_own_best(place)[:, 1 + place]
            found[name] = ratio_interval(slates.users, worth[:, 1 + place], own_best, seed)
        return found

    def _refined(self, point: Point) -> Point:
        """A point near by that is worth more to the user and keeps every floor too.

        Ranking by user + Σ weight x party maximises the Lagrangian of the floors, so the best
        weights are the multipliers: none for a floor that is kept anyway, else the lowest that
        keeps it. That is a convex problem, solved a weight at a time.
        """
        tried = point
        for _ in range(ROUNDS):
            for name in self.floors:
                tried = self._lowest(tried, name)
                if self._kept(tried) >= 1 and tried.worth[0] >= point.worth[0]:
                    point = tried
        return point

    def _lowest(self, point: Point, name: str) -> Point:
        """The point with the lowest weight of one party that keeps its floor, others as they are.

        What a party gets never falls as its weight rises, hence bisection.
        """
        place, aim = self.names.index(name), self.floors[name] * (1 + SLACK)
        without = self.point(replaced(point.weights, place, 0.0))
        if self.share(without, name) >= aim:
            return without
        low, high = 0.0, 2 * float(point.weights[place])
        for _ in range(HALVINGS):
            middle = self.point(replaced(point.weights, place, (low + high) / 2))
            if self.share(middle, name) >= aim:
                high, point = float(middle.weights[place]), middle
            else:
                low = float(middle.weights[place])
        return point

    def _kept(self, point: Point) -> float:
        """Part of its floor that the worst served party gets."""
        return min(
            self.share(point, name) / floor if floor else np.inf
            for name, floor in self.floors.items()
        )

    def front(self, points: Sequence[Point]) -> list[Point]:
        """Points that no other betters for all at once, the user's best first."""
        places = [0, *(1 + self.names.index(name) for name in self.floors)]
        worth, firsts = np.unique([p.worth[places] for p in points], axis=0, return_index=True)
        found = [points[i] for i in firsts[efficient(worth)]]
        return sorted(found, key=lambda point: -float(point.worth[0]))


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Four digits of each."""
    return {name: round(value, 4) for name, value in values.items()}


def replaced(weights: Floats, place: int, weight: float) -> Floats:
    """The weights with another one at a place."""
    others = weights.copy()
    others[place] = weight
    return others


def efficient(worth: Floats) -> Mask:
    """Which of distinct rows no other row reaches in every column, [N]."""
    reached = np.all(worth[:, None] <= worth[None], axis=2)
    return np.asarray(reached.sum(axis=1) == 1)  # by itself alone
