"""What an item is worth in a feed, declared: a score over calibrated probabilities of actions.

    sum      user(i) = Σ_a w_a P_a(i)^γ_a
    product  user(i) = Π_a max(0, 1 + w_a P_a(i)^γ_a)^β_a
             score(i) = user(i) + Σ_p weight_p party_p(i)

Vectorised over candidates: the cost grows as candidates x (actions + parties).
Shapes: N candidates, A actions, P parties.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from data.contract.artifact import version_of
from data.contract.settings import Share, UserError, to_tree
from serve.party import Floats, Party, PartyScore, Weight, by_action

if TYPE_CHECKING:
    from data.contract.encode import Arrays, Mask
    from data.contract.schema import Vocabulary

SETTING = "serve.utility"
SHORT = 8

HIGHEST = 1e30  # of a product, far inside float32

Power = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Exponent = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class UtilitySettings:
    """How probabilities of actions become the score that orders a feed.

    `<root>/utility.json` holds the same names, and overrides these while a server runs.

    Attributes:
        weights: action -> weight w of its probability; the others count +1 when positive, -1 when
            negative, nothing when neutral.
        powers: action -> γ: its probability counts as P^γ; 1 for the others.
        form: sum adds w P^γ over the actions; product multiplies max(0, 1 + w P^γ)^β.
        exponents: action -> β in form=product; 1 for the others.
        gates: action -> highest probability that may be shown: items above it are dropped, unless
            the feed would run short.
        parties: name -> someone besides the user whom items are worth something to.
        party_weights: name of a party -> what its score counts beside the user's; 0 for the others.
    """

    weights: dict[str, Weight] = field(default_factory=dict)
    powers: dict[str, Power] = field(default_factory=dict)
    form: Literal["sum", "product"] = "sum"
    exponents: dict[str, Exponent] = field(default_factory=dict)
    gates: dict[str, Share] = field(default_factory=dict)
    parties: dict[str, Party] = field(default_factory=dict)
    party_weights: dict[str, Weight] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := sorted(self.party_weights.keys() - self.parties.keys()):
            there = ", ".join(self.parties) or "none"
            raise ValueError(f"party_weights.{unknown[0]} names no party; there are {there}")
        if self.exponents and self.form != "product":
            raise ValueError("exponents count in form=product alone")

    @property
    def version(self) -> str:
        """A short hash that answers carry."""
        return version_of([], to_tree(self))[:SHORT]


@dataclass(frozen=True)
class Utility:
    """The score of settings over the actions and item columns that there are.

    Attributes:
        settings: what is declared.
        weights: w by action, [A].
        powers: γ by action, [A]; None where all are 1.
        exponents: β by action, [A].
        gates: highest probability by action, [A].
        parties: what each party counts on, by name.
    """

    settings: UtilitySettings
    weights: Floats
    powers: Floats | None
    exponents: Floats
    gates: Floats
    parties: dict[str, PartyScore]

    @classmethod
    def of(cls, settings: UtilitySettings, vocabulary: Vocabulary) -> Utility:
        """Binds settings to what a bundle or a data set has.

        Raises:
            UserError: an action or an item column that there is not (the text names those there
                are), or a product beyond all bounds.
        """
        actions, features = vocabulary.actions, vocabulary.item_features
        powers = by_action(settings.powers, actions, f"{SETTING}.powers", 1.0)
        parties = {
            name: PartyScore.of(party, actions, features, f"{SETTING}.parties.{name}")
            for name, party in settings.parties.items()
        }
        bound = cls(
            settings,
            np.array(vocabulary.weights(settings.weights, f"{SETTING}.weights"), np.float32),
            None if (powers == 1).all() else powers,
            by_action(settings.exponents, actions, f"{SETTING}.exponents", 1.0),
            by_action(settings.gates, actions, f"{SETTING}.gates", np.inf),
            parties,
        )
        bound.check_bounded()
        return bound

    def check_bounded(self) -> None:
        """Raises UserError where scores of probabilities between 0 and 1 may be no numbers."""
        with np.errstate(over="ignore"):
            ends = self._factors(np.repeat([[0.0], [1.0]], len(self.weights), axis=1))
            highest = float(ends.max(axis=0).prod())
        if self.settings.form == "product" and not highest < HIGHEST:
            raise UserError(f"{SETTING}: the product reaches {highest:.0e}; lower exponents")

    @cached_property
    def version(self) -> str:
        """A short hash of the settings."""
        return self.settings.version

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Item columns that the parties' conditions read."""
        conditions = (party.condition for party in self.parties.values())
        return tuple(dict.fromkeys(c.feature.name for c in conditions if c is not None))

    @cached_property
    def party_weights(self) -> Floats:
        """What the score of each party counts, [P]."""
        weights = self.settings.party_weights
        return np.array([weights.get(name, 0.0) for name in self.parties], np.float32)

    def __call__(self, probabilities: Floats, items: Arrays) -> Floats:
        """Scores of candidates.

        Args:
            probabilities: of each action, f32[N, A].
            items: named arrays of their `columns`.

        Returns:
            f32[N].
        """
        user = self.user(probabilities)
        if not self.party_weights.any():
            return user
        total: Floats = user + self.of_parties(probabilities, items) @ self.party_weights
        return total

    def user(self, probabilities: Floats) -> Floats:
        """The user's own score, f32[N]."""
        powered: Floats = probabilities
        if self.powers is not None:
            powered = np.power(probabilities, self.powers)
        if self.settings.form == "sum":
            added: Floats = powered @ self.weights
            return added
        product: Floats = self._factors(powered).prod(axis=1, dtype=np.float32)
        return product

    def _factors(self, powered: Floats) -> Floats:
        """max(0, 1 + w P^γ)^β of each action, [N, A]."""
        factors: Floats = np.power(np.maximum(1 + powered * self.weights, 0), self.exponents)
        return factors

    def of_parties(self, probabilities: Floats, items: Arrays) -> Floats:
        """Expected worth of the candidates to each party, f32[N, P]."""
        scores = [party(probabilities, items) for party in self.parties.values()]
        return np.array(scores, np.float32).reshape(len(scores), len(probabilities)).T

    def above_gates(self, probabilities: Floats) -> Mask:
        """Which candidates have a probability above its gate, [N]."""
        above: Mask = np.any(probabilities > self.gates, axis=1)
        return above
