"""What a setting of a sweep may be: one of several values, or a number between two bounds.

Written in a setting's own terms:

    space.two_tower.id_dropout=[0,0.7]                             between two bounds
    space.two_tower.learning_rate=log(1e-4,1e-2)                   the same by order of magnitude
    space.two_tower.hidden=step(128,512,128)                       in steps
    space.two_tower.sequence.max_length=choice(8,32,64,128)        one of these
    space.ranker.sharing="choice(gates,own) if ranker.experts=2|4" only where another is so
"""

from __future__ import annotations

import json
import re
import types
import typing
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from data.contract.plain_yaml import loaded
from data.contract.settings import UserError, unknown
from ray_jobs.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from optuna import Trial

FORMS = "[low,high], log(low,high), step(low,high,step) or choice(a,b,...)"
WRITTEN = re.compile(
    r"\s*(?:(?P<form>[a-z]+)\s*\((?P<inside>.*?)\)|(?P<bounds>\[.*?\]))"
    r"(?:\s+if\s+(?P<key>[\w.]+)\s*=\s*(?P<values>\S.*?))?\s*"
)


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`, both included.

    Attributes:
        low: least.
        high: most.
        whole: whether they are whole numbers.
        log: whether they are drawn by order of magnitude.
        step: distance between neighbours, if any are left out.
    """

    low: float
    high: float
    whole: bool
    log: bool = False
    step: float | None = None

    @property
    def distribution(self) -> BaseDistribution:
        """The same in Optuna's terms."""
        if self.whole:
            step = int(self.step or 1)
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=step)
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def suggested(self, trial: Trial, key: str) -> float:
        """What a trial of Optuna's takes."""
        if self.whole:
            step = int(self.step or 1)
            return trial.suggest_int(key, int(self.low), int(self.high), log=self.log, step=step)
        return trial.suggest_float(key, self.low, self.high, log=self.log, step=self.step)

    @property
    def ends(self) -> tuple[float, ...]:
        """Values that a check of the settings has to see."""
        return tuple(map(int, (self.low, self.high))) if self.whole else (self.low, self.high)

    def encoded(self, value: Any) -> Any:
        """A value as Optuna keeps it."""
        return value

    def __contains__(self, value: object) -> bool:
        """Whether a value lies within."""
        kinds = int if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            return False
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Choices:
    """One of several values; lists and maps among them travel through Optuna as JSON."""

    values: tuple[Any, ...]

    @property
    def distribution(self) -> BaseDistribution:
        """The same in Optuna's terms."""
        return CategoricalDistribution([self.encoded(value) for value in self.values])

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that a check of the settings has to see."""
        return self.values

    def encoded(self, value: Any) -> Any:
        """A value as Optuna keeps it."""
        return json.dumps(value) if isinstance(value, (list, dict)) else value

    def suggested(self, trial: Trial, key: str) -> Any:
        """What a trial of Optuna's takes."""
        texts = [self.encoded(value) for value in self.values]
        return self.values[texts.index(trial.suggest_categorical(key, texts))]

    def __contains__(self, value: object) -> bool:
        """Whether a value is one of these."""
        return value in self.values


Domain = Range | Choices


@dataclass(frozen=True, slots=True)
class Condition:
    """A setting is searched only where another one has one of some values."""

    key: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A setting that is searched.

    Attributes:
        key: its dotted name.
        domain: what it may be.
        condition: where it is searched; everywhere if none.
    """

    key: str
    domain: Domain
    condition: Condition | None = None

    def active(self, choice: dict[str, Any]) -> bool:
        """Whether it is searched beside what has been chosen."""
        condition = self.condition
        return condition is None or choice.get(condition.key) in condition.values


def parameter(key: str, written: Any) -> Parameter:
    """Reads one line of a space.

    Raises:
        UserError: the setting does not exist, the form is none that is known, or it does not fit
            the setting's type.
    """
    kinds = kinds_of(key)
    form, values, condition = _parts(key, written)
    if form == "choice":
        return Parameter(key, Choices(tuple(_distinct(key, values))), condition)
    return Parameter(key, _range(key, form, values, kinds), condition)


def _parts(key: str, written: Any) -> tuple[str, list[Any], Condition | None]:
    if isinstance(written, list):
        return "range", written, None
    found = WRITTEN.fullmatch(str(written))
    if not found or found["form"] not in (None, "log", "step", "choice"):
        raise UserError(f"space.{key}={written} is none of the forms {FORMS}")
    form, text = found["form"] or "range", found["bounds"] or f"[{found['inside']}]"
    condition = None
    if found["key"]:
        values = [loaded(value) for value in found["values"].split("|")]
        condition = Condition(found["key"], tuple(values))
    return form, loaded(text), condition


def _distinct(key: str, values: list[Any]) -> list[Any]:
    if not values or len({json.dumps(value) for value in values}) < len(values):
        raise UserError(f"space.{key}: choice() needs values, each once; got {values}")
    return values


def _range(key: str, form: str, values: list[Any], kinds: set[Any]) -> Range:
    if not kinds & {int, float}:
        raise UserError(f"space.{key} is no number, so it has no range; write choice(a,b,...)")
    count = 3 if form == "step" else 2
    numbers = [_number(key, value) for value in values]
    if len(numbers) != count or numbers[0] >= numbers[1]:
        raise UserError(f"space.{key}: {form} takes {count} numbers, low < high; got {values}")
    whole = float not in kinds
    if whole and any(number != int(number) for number in numbers):
        raise UserError(f"space.{key} is a whole number; got {values}")
    step = numbers[2] if form == "step" else None
    if (step is not None and step <= 0) or (form == "log" and numbers[0] <= 0):
        raise UserError(f"space.{key}: {form} needs numbers above 0; got {values}")
    return Range(numbers[0], numbers[1], whole, form == "log", step)


def _number(key: str, value: Any) -> float:
    """YAML takes 1e-4 for text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"space.{key}: {value!r} is no number; {FORMS}") from None


def kinds_of(key: str) -> set[Any]:
    """The plain types that a setting takes.

    Raises:
        UserError: it does not exist, or is a group of settings.
    """
    hint: Any = Settings
    names = key.split(".")
    for place, name in enumerate(names):
        hint = _below(hint, name, "".join(f"{one}." for one in names[:place]))
    kinds = set(_plain(hint))
    if any(hasattr(kind, "__dataclass_fields__") for kind in kinds):
        raise UserError(f"space.{key} is a group of settings; name one of them, space.{key}.<name>")
    return kinds


def _below(hint: Any, name: str, above: str) -> Any:
    """The hint of a field of a group, or of an entry of a map. Raises UserError."""
    for kind in _alternatives(hint):
        if hasattr(kind, "__dataclass_fields__"):
            known = [above + field.name for field in fields(kind)]
            if above + name not in known:
                raise UserError(unknown(above + name, known))
            return typing.get_type_hints(kind, include_extras=True)[name]
        if typing.get_origin(kind) is dict:
            return typing.get_args(kind)[1]
    raise UserError(f"unknown setting {above}{name}; {above[:-1]} has no settings below it")


def _plain(hint: Any) -> Iterator[Any]:
    """The types of a hint, without what they hold."""
    return (typing.get_origin(kind) or kind for kind in _alternatives(hint))


def _alternatives(hint: Any) -> Iterator[Any]:
    """The hints behind bounds, alternatives and None."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        yield from _alternatives(typing.get_args(hint)[0])
    elif origin in (typing.Union, types.UnionType):
        for one in typing.get_args(hint):
            yield from _alternatives(one)
    elif hint is not type(None):
        yield hint
