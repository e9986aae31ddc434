"""The two towers: items and users in one space of unit vectors.

Shapes: B users with H events, U items, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.contract.schema import USER_COLUMN
from models.dual_encoder import DualSettings, HistoryTower, Tower
from models.events import EventEncoder
from models.export import NUM_EVENTS, NUM_ITEMS, NUM_USERS, Program
from models.features import FeatureEncoder, is_missing, keep_likeness
from models.interaction import crossing
from models.sequence_encoder import SequenceEncoder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from data.contract.schema import Vocabulary
    from models.attention import Layout
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

    def program(self) -> Program:
        """What is exported; sizes: users, events, and the values of each list column."""
        users = {"user_id.rows": torch.zeros(NUM_USERS, self.settings.id_dim)}
        users |= self.features.example(NUM_USERS)
        long_term = {}
        if self.long_term is not None:
            long_term = {f"user.{USER_COLUMN}": torch.zeros(NUM_USERS, self.long_term.width)}
        events = {"history.embedding.rows": torch.zeros(NUM_EVENTS, self.settings.dim)}
        events |= self.events.example(NUM_EVENTS)
        return Program(
            module=self,
            inputs=users
            | long_term
            | events
            | {"history.lengths": torch.tensor([2, 0, NUM_EVENTS - 2])},
            dynamic={"user_id.rows": "users", "history.lengths": "users"}
            | self.features.dynamic("users")
            | dict.fromkeys(long_term, "users")
            | dict.fromkeys(events, "events"),
            outputs=("embedding",),
        )

    def project(self, states: Tensor, long_term: Tensor | None = None) -> Tensor:
        """States of N prefixes, as `states` gives them -> unit vectors float32[N, D].

        Args:
            states: of the prefixes.
            long_term: embedding of the user as of the midnight before, float32[N, E], where users
                have them; zeros where nothing was known.
        """
        fields = [*states.split(self.settings.dim, 1)]
        plain = fields[0] + fields[1] if self.crosses else states
        if self.long_term is not None:
            assert long_term is not None
            about: Tensor = self.long_term(long_term)
            plain = plain + about
            fields.append(about)
        return F.normalize(plain + self.head(fields), dim=-1)


def keeping(width: int, dim: int) -> nn.Linear:
    """A map that begins by handing its input on."""
    made = nn.Linear(width, dim, bias=False)
    nn.init.eye_(made.weight)
    return made


class LongTerm(nn.Module):
    """A user's long-term embedding in the space of the towers; zeros stay zeros.

    Attributes:
        width: of the embedding, E.
    """

    def __init__(self, width: int, dim: int) -> None:
        """Starts small: it stands beside what the history says."""
        super().__init__()
        self.width = width
        self.map = nn.Linear(width, dim, bias=False)
        with torch.no_grad():
            self.map.weight.mul_(0.1)

    @classmethod
    def of(cls, vocabulary: Vocabulary, dim: int) -> LongTerm | None:
        """For users who have such embeddings, else None."""
        widths = [f.dim for f in vocabulary.user_features if f.name == USER_COLUMN]
        return cls(widths[0], dim) if widths else None

    def forward(self, embedding: Tensor) -> Tensor:
        """float32[N, E] -> float32[N, D]."""
        mapped: Tensor = self.map(embedding)
        return mapped


class Taste(nn.Module):
    """Mean of the item vectors read so far, actions weighted: what the sequence adds to.

    A user's past is the best first guess at their future; with it in the output from the first
    step, the transformer has only to learn how the future differs.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Starts with weight 1 for positive actions and 0 for the others."""
        super().__init__()
        weights = torch.zeros(len(vocabulary.actions) + 1)
        weights[vocabulary.codes("positive")] = 1.0
        self.weight = nn.Parameter(weights)

    def forward(self, items: Tensor, action: Tensor, places: Layout) -> Tensor:
        """Means over every prefix.

        Args:
            items: float32[H, D].
            action: int64[H] codes.
            places: of the B sequences.

        Returns:
            float32[B + H, D]; zeros for the starts.
        """
        weight = self.weight[action].unsqueeze(1)
        both = torch.cat([items * weight, weight.abs()], 1)
        starts = both.new_zeros(places.rectangle.shape[0], both.shape[1])
        rows = torch.cat([starts, both]).index_select(0, places.rectangle.flatten())
        sums = rows.view(*places.rectangle.shape, -1).cumsum(1).flatten(0, 1)
        prefix = sums.index_select(0, places.flat)
        return prefix[:, :-1] / prefix[:, -1:].clamp(min=1.0)
