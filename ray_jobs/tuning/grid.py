"""Every combination of given values under several seeds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from data.contract.settings import UserError
from ray_jobs.tuning.space import Choice, refuse_shared, with_choice
from ray_jobs.tuning.trial import Plan, Trial

if TYPE_CHECKING:
    from ray_jobs.engine.model_kinds import Model
    from ray_jobs.settings import Settings


def choices(grid: Mapping[str, Any], model: Model) -> list[Choice]:
    """Every combination of the grid's values, the last key varying fastest.

    Args:
        grid: nested mapping of settings whose leaves are lists of values.
        model: what is tuned.

    Raises:
        UserError: a leaf is not a list of distinct values, or a key must be the same in all trials.
    """
    axes = dict(_axes(grid, "", model))
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _axes(grid: Mapping[str, Any], prefix: str, model: Model) -> Iterator[tuple[str, list[Any]]]:
    for name, value in grid.items():
        key = prefix + str(name)
        if isinstance(value, Mapping):
            yield from _axes(value, key + ".", model)
        else:
            refuse_shared(key, model, "grid")
            yield key, _values(key, value)


def _values(key: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise UserError(f"grid.{key} needs a list of values, such as grid.{key}=[{value},...]")
    if len({str(item) for item in value}) < len(value):
        raise UserError(f"grid.{key} names a value twice: {value}")
    return value


@dataclass
class Grid:
    """Plans that do not depend on each other's results.

    Attributes:
        plans: in the order in which they are handed out.
        trials: what came of them.
    """

    name: str
    plans: Sequence[Plan]
    trials: list[tuple[Plan, Trial]] = field(default_factory=list)
    handed_out: int = 0

    @classmethod
    def of(cls, name: str, base: Settings, choices: Sequence[Choice], seeds: Sequence[int]) -> Grid:
        """Every choice under the first seed before any under the second.

        Raises:
            UserError: a value does not fit its setting.
        """
        for choice in choices:
            with_choice(base, choice)
        pairs = [(seed, choice) for seed in seeds for choice in choices]
        plans = [
            Plan(choice=choice, seed=seed, number=number)
            for number, (seed, choice) in enumerate(pairs)
        ]
        return cls(name, plans)

    @property
    def size(self) -> int:
        """Trials in all."""
        return len(self.plans)

    def next(self) -> Plan | None:
        """A plan to run now, None when all have been handed out."""
        if self.handed_out == len(self.plans):
            return None
        self.handed_out += 1
        return self.plans[self.handed_out - 1]

    def tell(self, plan: Plan, trial: Trial) -> None:
        """Takes a result."""
        self.trials.append((plan, trial))

    @property
    def exhausted(self) -> bool:
        """Whether no plan will be handed out any more."""
        return self.handed_out == len(self.plans)

    @property
    def finished(self) -> bool:
        """Whether all results are there."""
        return len(self.trials) == len(self.plans)

    @property
    def results(self) -> list[Trial]:
        """Trials in the order of their plans."""
        return [trial for _, trial in sorted(self.trials, key=lambda pair: pair[0].number)]
