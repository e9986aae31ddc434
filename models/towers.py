"""The two towers: items and users in one space of unit vectors.

Shapes: B users with H events, U items, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.contract.schema import USER_COLUMN
from models.attention import token_of
from models.dual_encoder import DualSettings, HistoryTower, Tower
from models.events import EventEncoder
from models.export import NUM_EVENTS, NUM_ITEMS, NUM_USERS, Program
from models.features import FeatureEncoder, is_missing, keep_likeness
from models.focus import Focus
from models.interaction import crossing
from models.sequence_encoder import SequenceEncoder
from models.taste import LongTerm, Taste, keeping

if TYPE_CHECKING:
    from collections.abc import Mapping

    from data.contract.schema import Vocabulary
    from models.interaction import CrossingSettings
    from models.two_tower import TwoTowerSettings


class TowerSettings(DualSettings, Protocol):
    """What the settings say of the towers that read features."""

    @property
    def hidden(self) -> int:
        """Width of the towers' hidden layers."""

    @property
    def crossing(self) -> CrossingSettings:
        """How the fields of the towers are crossed."""


class ItemTower(Tower):
    """ID row and features of items -> unit vectors."""

    def __init__(self, settings: TowerSettings, vocabulary: Vocabulary) -> None:
        """Builds the tower for the declared item columns."""
        super().__init__()
        self.settings = settings
        self.features = FeatureEncoder(vocabulary.item_features, "item")
        self.id = nn.Linear(settings.id_dim + 1, settings.dim)
        self.direct = (
            nn.Linear(self.features.width, settings.dim, bias=False)
            if self.features.width
            else None
        )
        widths = [settings.id_dim + 1, *self.features.widths]
        self.mix = crossing(widths, settings.hidden, settings.dim, settings.crossing)
        nn.init.eye_(self.id.weight)
        nn.init.zeros_(self.id.bias)
        if self.direct is not None:
            keep_likeness(self.direct.weight, self.features)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """`item_id.rows` float32[U, id_dim] and `item.<feature>` -> float32[U, D]."""
        rows = inputs["item_id.rows"]
        known = torch.cat([rows, is_missing(rows)], 1)
        parts = self.features(inputs)
        vectors = self.id(known) + self.mix([known, *parts])
        if self.direct is not None:
            vectors = vectors + self.direct(torch.cat(parts, 1))
        return F.normalize(vectors, dim=-1)

    def program(self) -> Program:
        """What is exported; sizes: items, and the values of each list column."""
        rows = torch.zeros(NUM_ITEMS, self.settings.id_dim)
        return Program(
            module=self,
            inputs={"item_id.rows": rows} | self.features.example(NUM_ITEMS),
            dynamic={"item_id.rows": "items"} | self.features.dynamic("items"),
            outputs=("embedding",),
        )


class UserTower(HistoryTower):
    """ID row, features and history of users -> unit vectors."""

    def __init__(self, settings: TwoTowerSettings, vocabulary: Vocabulary) -> None:
        """Builds the tower for the declared user columns, actions and surfaces."""
        super().__init__()
        dim = settings.dim
        self.settings = settings
        plain = [f for f in vocabulary.user_features if f.name != USER_COLUMN]
        self.features = FeatureEncoder(plain, "user")
        self.crosses = bool(settings.crossing.layers)
        widths = [settings.id_dim + 1, *self.features.widths]
        self.start = crossing(widths, settings.hidden, dim, settings.crossing)
        self.events = EventEncoder(dim, vocabulary)
        self.sequence = SequenceEncoder(dim, settings.sequence, vocabulary.order != "none")
        fields = [dim] * (3 if self.crosses else 1)
        self.long_term = LongTerm.of(vocabulary, dim)
        if self.long_term is not None:
            fields.append(dim)
        self.focus = Focus.of(settings, vocabulary)
        if self.focus is not None:
            fields.append(dim)
        self.head = crossing(fields, settings.hidden, dim, settings.crossing)
        self.taste = Taste(vocabulary)
        # Rows that were learnt together already say who likes what.
        learnt_before = settings.id_rows != "learnt"
        self.liking = keeping(settings.id_dim, dim) if learnt_before else None
        self.state_scale = nn.Parameter(torch.tensor(dim**-0.5))

    def states(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """States after every prefix of the histories.

        Args:
            inputs: `user_id.rows` float32[B, id_dim], `user.<feature>`, `history.lengths`
                int64[B] and, for H events, `history.embedding.rows` float32[H, D] (item vectors,
                zeros if unknown), `history.action`, `history.surface`, `history.gap_ms` int64[H].

        Returns:
            float32[B + H, D] as `SequenceEncoder` lays them out, not yet projected: the sum of
            what the sequence says and the mean of the items read. Where fields are crossed, both
            and who the user is side by side, float32[B + H, 3 D].
        """
        rows = inputs["user_id.rows"]
        known = torch.cat([rows, is_missing(rows)], 1)
        start = self.start([known, *self.features(inputs)])
        items, lengths = inputs["history.embedding.rows"], inputs["history.lengths"]
        places = self.sequence.layout(lengths, items.shape[0])
        states = self.sequence(self.events(items, inputs), start, places)
        taste: Tensor = self.taste(items, inputs["history.action"], places)
        scaled: Tensor = self.state_scale * states
        owner = places.flat // places.rectangle.shape[1]
        if self.liking is not None:
            taste = taste + self.liking(rows).index_select(0, owner)
        if not self.crosses:
            return scaled + taste
        return torch.cat([scaled, taste, start.index_select(0, owner)], 1)

    def toward(self, states: Tensor, inputs: Mapping[str, Tensor], positives: Tensor) -> Tensor:
        """Vectors of the targets' users, some as asked under a condition or of one interest."""
        long_term = inputs.get(f"target.{USER_COLUMN}")
        if self.focus is None:
            return self.project(states, long_term)
        conditions, interests, some = self.focus.drawn(inputs, self.training)
        focus = conditions
        if interests is not None:
            kept = None if long_term is None else long_term[some]
            best = self._best(states[some], interests, positives[some], kept)
            focus = focus.index_add(0, some, best.to(focus.dtype))
        return self.project(states, long_term, focus)

    @property
    def has_interests(self) -> bool:
        """Whether users have several vectors."""
        return self.focus is not None and self.focus.interests is not None

    @property
    def has_conditions(self) -> bool:
        """Whether users have vectors under conditions."""
        return self.focus is not None and self.focus.conditions is not None

    def _best(
        self,
        states: Tensor,
        interests: tuple[Tensor, Tensor],
        positives: Tensor,
        long_term: Tensor | None,
    ) -> Tensor:
        """Of each user's interests the one whose vector is nearest to the positive, [N, D]."""
        centroids, shares = interests
        with torch.no_grad():
            vectors = self.focused(states, centroids, long_term)
            scores = (vectors @ positives.unsqueeze(2)).squeeze(2)
            at = scores.masked_fill(shares == 0, -2.0).argmax(1)
        return centroids[torch.arange(len(at), device=at.device), at]

    def focused(self, states: Tensor, focus: Tensor, long_term: Tensor | None = None) -> Tensor:
        """Vectors of N users under K things to look for each: [N, ...], [N, K, D] -> [N, K, D]."""
        num = focus.shape[1]
        repeated = (
            None if one is None else one.repeat_interleave(num, 0) for one in (states, long_term)
        )
        flat, kept = repeated
        assert flat is not None
        vectors = self.project(flat, kept, focus.flatten(0, 1))
        return vectors.view(-1, num, vectors.shape[1])

    def program(self) -> Program:
        """What is exported; sizes: users, events, and the values of each list column."""
        users = {"user_id.rows": torch.zeros(NUM_USERS, self.settings.id_dim)}
        users |= self.features.example(NUM_USERS)
        long_term = {}
        if self.long_term is not None:
            long_term = {f"user.{USER_COLUMN}": torch.zeros(NUM_USERS, self.long_term.width)}
        events = {"history.embedding.rows": torch.zeros(NUM_EVENTS, self.settings.dim)}
        events |= self.events.example(NUM_EVENTS)
        asked = {} if self.focus is None else self.focus.example()
        return Program(
            module=self if self.focus is None else Answers(self),
            inputs=users
            | long_term
            | events
            | {"history.lengths": torch.tensor([2, 0, NUM_EVENTS - 2])}
            | asked,
            dynamic={"user_id.rows": "users", "history.lengths": "users"}
            | self.features.dynamic("users")
            | dict.fromkeys(long_term, "users")
            | dict.fromkeys(events, "events")
            | dict.fromkeys(asked, "conditions"),
            outputs=("embedding", *(() if self.focus is None else self.focus.outputs)),
        )

    def project(
        self, states: Tensor, long_term: Tensor | None = None, focus: Tensor | None = None
    ) -> Tensor:
        """States of N prefixes, as `states` gives them -> unit vectors float32[N, D].

        Args:
            states: of the prefixes.
            long_term: embedding of the user as of the midnight before, float32[N, E], where users
                have them; zeros where nothing was known.
            focus: what to look for, float32[N, D], in a tower that knows any; by default nothing
                in particular.
        """
        fields = [*states.split(self.settings.dim, 1)]
        plain = fields[0] + fields[1] if self.crosses else states
        if self.long_term is not None:
            assert long_term is not None
            about: Tensor = self.long_term(long_term)
            plain = plain + about
            fields.append(about)
        if self.focus is not None:
            focus = torch.zeros_like(fields[0]) if focus is None else focus
            plain = plain + focus
            fields.append(focus)
        return F.normalize(plain + self.head(fields), dim=-1)


class Answers(nn.Module):
    """All that serving may ask of a user tower, from one pass over the histories."""

    def __init__(self, tower: UserTower) -> None:
        """Wraps a tower that knows things to look for."""
        super().__init__()
        self.tower = tower

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Vectors of B users: of all they did, of each interest, under the conditions asked for.

        Args:
            inputs: of `UserTower.states`, and where the tower knows conditions
                `condition.interest` int64[C] hashes, `condition.user` int64[C] (into B).

        Returns:
            float32[B, D]; where it knows interests [B, K, D] and their shares [B, K]; where it
            knows conditions [C, D].
        """
        tower, lengths = self.tower, inputs["history.lengths"]
        assert tower.focus is not None
        users = torch.arange(lengths.shape[0], device=lengths.device)
        states = tower.states(inputs).index_select(0, token_of(users, lengths, lengths))
        long_term = inputs.get(f"user.{USER_COLUMN}")
        found = [tower.project(states, long_term)]
        if tower.focus.interests is not None:
            centroids, shares = tower.focus.interests(inputs, users, lengths)
            found += [tower.focused(states, centroids, long_term), shares]
        if tower.focus.conditions is not None:
            of = inputs["condition.user"]
            kept = None if long_term is None else long_term.index_select(0, of)
            focus = tower.focus.conditions(inputs["condition.interest"])
            found.append(tower.project(states.index_select(0, of), kept, focus))
        return tuple(found)
