"""The space of a sweep: which settings are searched, checked before anything starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data.contract.settings import UserError, build, merge, nest, to_tree
from ray_jobs.engine.model_kinds import BUILT_ON, MODELS, Model
from ray_jobs.settings import Settings
from ray_jobs.tuning.domain import Choices, Parameter, Range, parameter

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution

Choice = dict[str, Any]

# What trials share is prepared once: these may not differ between them.
SHARED = ("root", "seed", "source", "world", "prepare", "id", "export", "index", "serve", "tune")
# Trials are compared by validation: what it is made of may not differ either.
COMPARED = ("split", "windows", "eval", "corpus", "train.choose_on", "train.validation_users")
POOLS = ("negatives.in_batch", "negatives.random")


@dataclass(frozen=True, slots=True)
class Space:
    """Settings that are searched, those that others depend on first.

    Attributes:
        parameters: the settings.
        base: the job's own settings, for all that is not searched.
    """

    parameters: tuple[Parameter, ...]
    base: Settings

    @classmethod
    def of(cls, tree: Mapping[str, Any], base: Settings, model: Model) -> Space:
        """Reads and checks `space.*`.

        Args:
            tree: nested mapping of settings whose leaves are domains as people write them.
            base: settings of the job.
            model: what is tuned.

        Raises:
            UserError: a setting does not exist, has a value out of bounds, has no effect on the
                model, or would make trials that cannot be compared.
        """
        read = [parameter(key, written) for key, written in leaves(tree)]
        for one in read:
            refuse(one.key, model)
        space = cls(_in_order(read), base)
        space._check()
        return space

    @property
    def keys(self) -> tuple[str, ...]:
        """Dotted names of the settings."""
        return tuple(one.key for one in self.parameters)

    def suggested(self, trial: Trial) -> Choice:
        """What a trial of Optuna's takes: the settings that are active, parents first."""
        choice: Choice = {}
        for one in self.parameters:
            if one.active(choice):
                choice[one.key] = one.domain.suggested(trial, one.key)
        return choice

    def encoded(self, choice: Choice) -> dict[str, Any]:
        """A choice as Optuna keeps it."""
        found = {one.key: one for one in self.parameters}
        return {key: found[key].domain.encoded(value) for key, value in choice.items()}

    def distributions(self, choice: Choice) -> dict[str, BaseDistribution]:
        """Of the settings of a choice, in Optuna's terms."""
        return {o.key: o.domain.distribution for o in self.parameters if o.key in choice}

    def completed(self, given: Mapping[str, Any]) -> Choice:
        """A point of which some settings are given; the others are as in the job.

        Raises:
            UserError: a name or a value is not of this space.
        """
        for key in given:
            if key not in self.keys:
                raise UserError(f"{key} is not in the space; it has {', '.join(self.keys)}")
        choice: Choice = {}
        for one in self.parameters:
            if one.active(choice):
                own = setting(self.base, one.key)
                choice[one.key] = given.get(one.key, own)
                _refuse_outside(one, choice[one.key])
        return choice

    def own_point(self) -> Choice | None:
        """The job's own settings as a point, if they lie in the space."""
        try:
            return self.completed({})
        except UserError:
            return None

    def holds(self, choice: Choice) -> bool:
        """Whether a choice could have been suggested here."""
        active = [one for one in self.parameters if one.active(choice)]
        return {one.key for one in active} == set(choice) and all(
            choice[one.key] in one.domain for one in active
        )

    def _check(self) -> None:
        """Builds the settings with each end of each domain. Raises UserError."""
        for one in self.parameters:
            for value in one.domain.ends:
                with_choice(self.base, {one.key: value})


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of a nested mapping's leaves, and what stands there."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def with_choice(base: Settings, choice: Mapping[str, Any], seed: int | None = None) -> Settings:
    """The settings with some of them replaced. Raises UserError when they do not fit."""
    tree = to_tree(base)
    if seed is not None:
        tree = merge(tree, {"seed": seed})
    for key, value in choice.items():
        tree = merge(tree, nest(key, value))
    return build(Settings, tree)


def setting(settings: Settings, key: str) -> Any:
    """The value of a setting, by its dotted name."""
    found: Any = to_tree(settings)
    for name in key.split("."):
        found = found[name] if isinstance(found, Mapping) and name in found else None
    return found


def refuse(key: str, model: Model) -> None:
    """Raises UserError for what cannot differ between the trials of one study."""
    refuse_shared(key, model, "space")
    if any(key == name or key.startswith(f"{name}.") for name in COMPARED):
        raise UserError(
            f"space.{key}: trials are compared by validation, which this changes; set it for all"
        )
    if key.endswith(POOLS):
        raise UserError(
            f"space.{key}: another pool of negatives is another task, so losses do not compare; "
            f"use grid.{key}=[...], which shows what each finds"
        )
    if key == "train.num_workers":
        raise UserError(
            "space.train.num_workers: more workers take larger steps; set train.num_workers for all"
        )


def refuse_shared(key: str, model: Model, word: str) -> None:
    """Raises UserError for what trials share, and for what the model does not read."""
    root = key.split(".")[0]
    own = BUILT_ON[model]
    if (key in SHARED or root in SHARED) and root not in (model, *own):
        instead = "set seeds=<count>" if key == "seed" else f"run another root for another {key}"
        raise UserError(f"{word}.{key}: trials share one prepared root; {instead}")
    if root in MODELS and root != model and root not in own:
        raise UserError(f"{word}.{key} has no effect on model={model}")


def _in_order(read: Sequence[Parameter]) -> tuple[Parameter, ...]:
    """Settings after those that their conditions name. Raises UserError for what cannot be."""
    by_key = {one.key: one for one in read}
    for one in read:
        _check_condition(one, by_key)
    found: list[Parameter] = []
    while len(found) < len(read):
        known = {one.key for one in found}
        ready = [one for one in read if one.key not in known and _free(one, known)]
        if not ready:
            keys = ", ".join(one.key for one in read if one.key not in known)
            raise UserError(f"space: the conditions of {keys} depend on each other")
        found += ready
    return tuple(found)


def _free(one: Parameter, known: set[str]) -> bool:
    return one.condition is None or one.condition.key in known


def _check_condition(one: Parameter, by_key: Mapping[str, Parameter]) -> None:
    if one.condition is None:
        return
    parent = by_key.get(one.condition.key)
    if parent is None or not isinstance(parent.domain, Choices):
        raise UserError(
            f"space.{one.key}: its condition needs space.{one.condition.key}=choice(...)"
        )
    strangers = [value for value in one.condition.values if value not in parent.domain]
    if strangers:
        raise UserError(
            f"space.{one.key}: {one.condition.key} is never {strangers[0]!r}; it is one of "
            f"{list(parent.domain.values)}"
        )


def _refuse_outside(one: Parameter, value: Any) -> None:
    if value in one.domain:
        return
    domain = one.domain
    inside = (
        f"between {domain.low} and {domain.high}"
        if isinstance(domain, Range)
        else f"one of {list(domain.values)}"
    )
    raise UserError(f"{one.key}={value} lies outside its space: it must be {inside}")


def usual(model: Model) -> tuple[str, str]:
    """Dropout of ID rows and length of histories: the settings that decide most.

    Raises:
        UserError: the model has none of these.
    """
    keys = f"{model}.id_dropout", f"{model}.sequence.max_length"
    if model not in ("user", "two_tower", "ranker"):
        raise UserError(f"model={model} has no usual space; name one, space.{model}.<setting>=...")
    return keys
