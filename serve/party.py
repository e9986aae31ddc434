"""Parties besides the user whom a feed is worth something to: a merchant, a creator, an ad.

A party has weights of its own, and a condition that says which items are its own. Its score is an
expectation: what its weights count, by the probabilities, on its items; 0 on all others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from data.contract.encode import hash_values
from data.contract.schema import Feature
from data.contract.settings import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from data.contract.encode import Arrays, Mask

Weight = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Value = bool | int | float | str
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """Someone besides the user.

    Attributes:
        weights: action -> what it counts for the party; the others count nothing.
        column: item column that says which items are the party's; all are, without one.
        values: what the column must hold, any of them; without, the party's are the items that
            have anything there.
    """

    weights: dict[str, Weight] = field(default_factory=dict)
    column: str = ""
    values: tuple[Value, ...] = ()

    def __post_init__(self) -> None:
        if not self.weights:
            raise ValueError("a party needs weights: set parties.<name>.weights.<action>=...")
        if self.values and not self.column:
            raise ValueError(f"a party's values {list(self.values)} need parties.<name>.column=...")


@dataclass(frozen=True, slots=True)
class Condition:
    """Which items hold one of some values in a column.

    Attributes:
        feature: the column.
        wanted: hashes, or numbers of a numeric column; none for any value.
    """

    feature: Feature
    wanted: npt.NDArray[np.int64] | Floats

    def holds(self, items: Arrays) -> Mask:
        """For which of N items it holds, by the named arrays of their columns. [N]."""
        name = f"item.{self.feature.name}"
        if self.feature.kind != "multi":
            return self._matches(items[name])
        lengths = items[f"{name}.lengths"].astype(np.int64)
        owners = np.repeat(np.arange(len(lengths)), lengths)
        matching = owners[self._matches(items[f"{name}.values"])]
        held: Mask = np.bincount(matching, minlength=len(lengths)) > 0
        return held

    def _matches(self, values: npt.NDArray[np.generic]) -> Mask:
        if len(self.wanted):
            return np.isin(values, self.wanted)
        empty = np.isnan(values) if self.feature.kind == "numeric" else values == 0
        return ~np.asarray(empty, np.bool_)


def condition_of(
    column: str, values: Sequence[Value], features: Sequence[Feature], setting: str
) -> Condition:
    """That a column of items holds any of some values, or anything.

    Raises:
        UserError: items have no such column, or one of vectors, or the values are of another kind.
    """
    known = {f.name: f for f in features if f.kind != "vector"}
    if column not in known:
        raise UserError(
            f"{setting}.column={column} names no column of items to compare; "
            f"there are {', '.join(sorted(known)) or 'none'}"
        )
    return Condition(known[column], _encoded(values, known[column], setting))


def _encoded(
    values: Sequence[Value], feature: Feature, setting: str
) -> npt.NDArray[np.int64] | Floats:
    """As the column is encoded: a number in a column of hashes may stand there as text too."""
    if feature.kind == "numeric":
        if wrong := [v for v in values if not isinstance(v, int | float)]:
            raise UserError(f"{setting}.values: {feature.name} is numeric, {wrong[0]!r} is not")
        return np.array(values, np.float32)
    whole = [v for v in values if isinstance(v, int) and not isinstance(v, bool)]
    texts = [str(v).lower() if isinstance(v, bool) else str(v) for v in values]
    hashes = [hash_values(pa.array(whole, pa.int64())), hash_values(pa.array(texts, pa.string()))]
    return np.concatenate([one.to_numpy() for one in hashes])


@dataclass(frozen=True, slots=True)
class PartyScore:
    """What a party counts on.

    Attributes:
        weights: of each action, [A].
        condition: which items are the party's; None for all.
    """

    weights: Floats
    condition: Condition | None

    @classmethod
    def of(
        cls, party: Party, actions: Sequence[str], features: Sequence[Feature], setting: str
    ) -> PartyScore:
        """Raises UserError for an action or a column that there is not."""
        weights = by_action(party.weights, actions, f"{setting}.weights")
        if not party.column:
            return cls(weights, None)
        return cls(weights, condition_of(party.column, party.values, features, setting))

    def __call__(self, probabilities: Floats, items: Arrays) -> Floats:
        """Expected worth of N items to the party, f32[N]."""
        worth: Floats = probabilities @ self.weights
        return worth if self.condition is None else worth * self.condition.holds(items)


def by_action(
    named: Mapping[str, float], actions: Sequence[str], setting: str, default: float = 0.0
) -> Floats:
    """A number for each action, f32[A]. Raises UserError for an action that there is not."""
    if unknown := sorted(named.keys() - set(actions)):
        known = ", ".join(actions)
        raise UserError(f"{setting}.{unknown[0]} names no action; known are {known}")
    return np.array([named.get(action, default) for action in actions], np.float32)
