"""What may not be shown to a user, whatever its score: each filter has the name of its reason.

Conditions on items are bitmaps over all rows, made once for a bundle, so a request costs a look-up
for each candidate. Posted items are looked at when they come up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from data.contract.settings import UserError
from serve.party import Condition, Value, condition_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from data.contract.encode import Arrays, Ints, Mask
    from serve.bundle import Bundle
    from serve.catalogue import Catalogue
    from serve.query import Query
    from serve.settings import ServeSettings

CHUNK = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Items that are not shown, everywhere or on some surfaces.

    Attributes:
        column: item column that says which.
        values: what it must hold, any of them; without, whatever holds anything there.
        surfaces: where the rule counts; without, on all.
    """

    column: str = ""
    values: tuple[Value, ...] = ()
    surfaces: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.column:
            raise ValueError("a rule needs serve.rules.<name>.column=...")


class Filter(Protocol):
    """Tells what may be shown."""

    name: str

    def __call__(self, query: Query, rows: Ints) -> Mask:
        """Which of the rows [N] may be shown, [N]."""


class Ruled:
    """Drops the items of a rule."""

    def __init__(self, name: str, rule: Rule, bundle: Bundle, catalogue: Catalogue) -> None:
        """Looks at all items once. Raises UserError for a column or values that there are not."""
        setting = f"serve.rules.{name}"
        features = bundle.vocabulary.item_features
        self.name = name
        self._surfaces = frozenset(rule.surfaces)
        self._condition = condition_of(rule.column, rule.values, features, setting)
        self._catalogue = catalogue
        self._held = np.concatenate([*_holding(self._condition, bundle)])

    def __call__(self, query: Query, rows: Ints) -> Mask:
        """Which rows may be shown where the query is of."""
        return self.allows(query.surface, rows)

    def allows(self, surface: str, rows: Ints) -> Mask:
        """All rows [N] on other surfaces; else those that the condition does not hold for."""
        if self._surfaces and surface not in self._surfaces:
            return np.ones(len(rows), bool)
        posted = rows >= len(self._held)
        held = self._held[np.where(posted, 0, rows)]
        if posted.any():
            held[posted] = self._condition.holds(self._features(rows[posted]))
        return ~held

    def _features(self, rows: Ints) -> Arrays:
        return self._catalogue.features(rows, (self._condition.feature.name,))


def _holding(condition: Condition, bundle: Bundle) -> Iterator[Mask]:
    """For which item rows a condition holds, some rows at a time."""
    column = bundle.items.only((condition.feature.name,))
    for first in range(0, bundle.item_ids.rows, CHUNK):
        rows = np.arange(first, min(first + CHUNK, bundle.item_ids.rows))
        yield condition.holds(column.gather(rows))


class HiddenCreators:
    """Drops the items of creators of whom the user has hidden several."""

    name = "hidden_creator"

    def __init__(self, bundle: Bundle, catalogue: Catalogue, after: int) -> None:
        self._negative = bundle.vocabulary.codes("negative")
        self._catalogue = catalogue
        self._after = after

    def __call__(self, query: Query, rows: Ints) -> Mask:
        """Creators of whom nothing, or less than that, was hidden."""
        events = query.user.events
        hidden = np.unique(events.item[np.isin(events.action, self._negative)])
        creators = self._catalogue.column("creator_id", rows)
        if creators is None or len(hidden) < self._after:
            return np.ones(len(rows), bool)
        known = self._catalogue.column("creator_id", hidden)
        assert known is not None
        values, counts = np.unique(known[known != 0], return_counts=True)
        kept: Mask = ~np.isin(creators, values[counts >= self._after])
        return kept


class OtherValue:
    """Drops items whose column holds another value than the user's, where both are known."""

    def __init__(self, column: str, of_user: str, bundle: Bundle, catalogue: Catalogue) -> None:
        """Raises UserError for a column that there is not, or that is not categorical."""
        self.name = f"other_{column}"
        self._column, self._of_user = column, of_user
        self._users, self._catalogue = bundle.users, catalogue
        for table, name in ((bundle.items, column), (bundle.users, of_user)):
            if table.hashes(name) is None:
                there = ", ".join(f.name for f in table.features if f.kind == "categorical")
                raise UserError(
                    f"serve.match_user.{column}={of_user}: {table.side}s have no categorical "
                    f"column {name}; they have {there or 'none'}"
                )

    def __call__(self, query: Query, rows: Ints) -> Mask:
        """Equal values, and unknown ones."""
        values = self._catalogue.column(self._column, rows)
        own = self._users.only((self._of_user,)).gather(np.array([query.user.row]))
        wanted = int(own[f"user.{self._of_user}"][0])
        assert values is not None
        kept: Mask = (values == wanted) | (values == 0) | (wanted == 0)
        return kept


def open_rules(bundle: Bundle, catalogue: Catalogue, settings: ServeSettings) -> tuple[Ruled, ...]:
    """The filters that are the same for all users. Raises UserError for what items do not have."""
    return tuple(Ruled(name, rule, bundle, catalogue) for name, rule in settings.rules.items())


def open_filters(
    rules: tuple[Ruled, ...], bundle: Bundle, catalogue: Catalogue, settings: ServeSettings
) -> tuple[Filter, ...]:
    """All filters of a bundle, rules first, in the order in which they say why.

    Raises:
        UserError: a column is named that there is not.
    """
    found: list[Filter] = [*rules]
    found += [OtherValue(*pair, bundle, catalogue) for pair in settings.match_user.items()]
    if settings.hidden_creator_after:
        found.append(HiddenCreators(bundle, catalogue, settings.hidden_creator_after))
    return tuple(found)
