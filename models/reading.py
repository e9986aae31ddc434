"""What a ranker reads of a user, once a request, and how near candidates are to it.

Shapes: R requests, H events, C candidates, L longest history plus one, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import layout, token_of
from models.events import EventEncoder
from models.features import FeatureEncoder, is_missing, segments
from models.history_readers import READERS
from models.sequence_encoder import SequenceEncoder, SequenceSettings
from models.track_record import read_tallies, tally_width

if TYPE_CHECKING:
    from collections.abc import Mapping

    from data.contract.schema import Vocabulary

History = Literal["attention", "fusion", "appended", "average", "none"]
MASKED = -1e9
LIKENESSES, LIKENESS_SCALE, SHARPNESS, RECENCY = 5, 4.0, 12.0, 0.8


class ReaderSettings(Protocol):
    """The settings of a ranker that its user side needs."""

    @property
    def dim(self) -> int:
        """Width of items, events and user states."""

    @property
    def id_dim(self) -> int:
        """Width of ID rows."""

    @property
    def sequence(self) -> SequenceSettings:
        """The encoder of histories."""

    @property
    def history(self) -> History:
        """What is read of a history."""

    @property
    def tallies(self) -> bool:
        """Whether users come with how often they did what."""


class Items(NamedTuple):
    """Items as the ranker sees them, in any shape.

    Attributes:
        vectors: float32[..., D].
        codes: hashes of their K categorical columns, 0 missing, int64[..., K].
    """

    vectors: Tensor
    codes: Tensor

    def take(self, at: Tensor) -> Items:
        """Those of N at int64[M]."""
        return Items(self.vectors.index_select(0, at), self.codes.index_select(0, at))

    def where(self, there: Tensor) -> Items:
        """N of which some, bool[N], are replaced by zeros."""
        there = there.unsqueeze(-1)
        return Items(self.vectors * there, self.codes * there)


class Reading(NamedTuple):
    """What has been read of R users, each with L - 1 events at most, the start first.

    Attributes:
        user: newest state, float32[R, D]; that before the first event, where order is not read.
        keys: all states, float32[R, L, D].
        mask: 0 or a large negative number where there is no state, float32[R, L].
        items: unit vectors of the events' items, zeros where there is none, float32[R, L, D].
        liked: weight of each event among the liked ones, float32[R, L].
        recent: the same, later ones weighing more.
        ahead: unit vectors of what is expected next, float32[R, D].
        later: unit vectors of what is expected at any time to come, float32[R, D].
        codes: hashes of the events' categorical item columns, 0 where there is none,
            int64[R, L, K].
        hidden: weight of each event among the negative ones, float32[R, L].
        about: unit vector of the item that the request is about, zeros where none, float32[R, D].
        about_codes: hashes of its categorical columns, int64[R, K].
    """

    user: Tensor
    keys: Tensor
    mask: Tensor
    items: Tensor
    liked: Tensor
    recent: Tensor
    ahead: Tensor
    later: Tensor
    codes: Tensor
    hidden: Tensor
    about: Tensor
    about_codes: Tensor


class UserState(nn.Module):
    """The user side: features and encoded history, once a request."""

    positive: Tensor
    negative: Tensor

    def __init__(self, settings: ReaderSettings, vocabulary: Vocabulary) -> None:
        """Builds the encoder for the declared user columns, actions and surfaces."""
        super().__init__()
        dim = settings.dim
        self.settings = settings
        self.features = FeatureEncoder(vocabulary.user_features, "user")
        self.start = nn.Linear(settings.id_dim + 1 + self.features.width, dim)
        self.events = EventEncoder(dim, vocabulary, time="history.age_ms")
        self.ahead = Ahead(dim)
        self.later = Ahead(dim)
        reads_tallies = settings.tallies and vocabulary.order == "clock"
        self.kinds = len(vocabulary.actions) + 1
        self.tally = nn.Linear(tally_width(2, self.kinds), dim) if reads_tallies else None
        self.surface = nn.Embedding(len(vocabulary.surfaces) + 1, dim)
        nn.init.zeros_(self.surface.weight)
        self.about = nn.Linear(dim, dim, bias=False)
        nn.init.zeros_(self.about.weight)
        self.sequence = SequenceEncoder(dim, settings.sequence, vocabulary.order != "none")
        positive = torch.zeros(len(vocabulary.actions) + 1)
        positive[vocabulary.codes("positive")] = 1.0
        self.register_buffer("positive", positive)
        negative = torch.zeros_like(positive)
        negative[vocabulary.codes("negative")] = 1.0
        self.register_buffer("negative", negative)
        self.reads_history = settings.history != "none"
        self.reads_order = settings.history in READERS

    def forward(
        self, inputs: Mapping[str, Tensor], past: Items, about: Items, width: int
    ) -> Reading:
        """Encodes R histories.

        Args:
            inputs: `user_id.rows` [R, id_dim], `user.<feature>`, `history.action|surface|age_ms`
                int64[H], `history.lengths` int64[R], `user_tally.counts` [R, 2, W] where read,
                `request.surface` int64[R] (0: unknown).
            past: the history's H items.
            about: R items that the requests are about, zeros where they are about none.
            width: events that there is room for, L - 1.
        """
        rows, lengths = inputs["user_id.rows"], inputs["history.lengths"]
        start = self.start(torch.cat([rows, is_missing(rows), *self.features(inputs)], 1))
        events = self.events(past.vectors, inputs)
        places = layout(lengths, events.shape[0], width)
        tokens = self.sequence(events, start, places)
        columns = torch.arange(places.rectangle.shape[1], device=lengths.device)
        behind = lengths.unsqueeze(1) - columns
        users = torch.arange(lengths.shape[0], device=lengths.device)
        newest = token_of(users, lengths, lengths) if self.reads_order else users
        known = torch.cat([torch.zeros_like(start), F.normalize(past.vectors, dim=-1)])
        action = torch.cat([torch.zeros_like(lengths), inputs["history.action"]])
        there = (behind >= 0) * self.reads_history
        liked = self.positive[action][places.rectangle] * there
        coded = torch.cat([torch.zeros_like(about.codes), past.codes])
        seed = F.normalize(about.vectors, dim=-1)
        return Reading(
            user=tokens[newest] + self._circumstances(inputs) + self.about(seed),
            keys=tokens[places.rectangle],
            mask=(behind < 0).float() * MASKED,
            items=known[places.rectangle],
            liked=normalised(liked),
            recent=normalised(liked * RECENCY ** behind.clamp(min=0)),
            ahead=self.ahead(tokens[newest]),
            later=self.later(tokens[newest]),
            codes=coded[places.rectangle],
            hidden=normalised(self.negative[action][places.rectangle] * there),
            about=seed,
            about_codes=about.codes,
        )

    def _circumstances(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Where the request is made, and how often users do what, [R, D]."""
        found: Tensor = self.surface(inputs["request.surface"])
        if self.tally is not None:
            found = found + self.tally(read_tallies(inputs["user_tally.counts"]))
        return found

    def foretold(self, read: Reading, inputs: Mapping[str, Tensor]) -> Foretold:
        """What was expected before each positive event, and at a random time before.

        Args:
            read: of R users.
            inputs: that it was read from.
        """
        lengths, history = inputs["history.lengths"], inputs["history.item"]
        users = segments(lengths, len(history))
        events = torch.arange(len(history), device=lengths.device)
        column = events - (torch.cumsum(lengths, 0) - lengths)[users]
        earlier = (torch.rand(len(history), device=lengths.device) * (column + 1)).long()
        liked = self.positive[inputs["history.action"]] > 0
        users, column, earlier = users[liked], column[liked], earlier[liked]
        ahead = self.ahead(read.keys[users, column])
        later = self.later(read.keys[users, earlier])
        return Foretold(ahead, later, history[liked], users)


class Foretold(NamedTuple):
    """What T positive events were expected to be.

    Attributes:
        ahead: by the state right before, unit vectors float32[T, D].
        later: by a state at a random time before, the same.
        item: what they were, int64[T].
        user: whose, int64[T].
    """

    ahead: Tensor
    later: Tensor
    item: Tensor
    user: Tensor


class Ahead(nn.Module):
    """A state -> the unit vector of items that it expects."""

    def __init__(self, dim: int) -> None:
        """Builds a linear map."""
        super().__init__()
        self.map = nn.Linear(dim, dim)

    def forward(self, states: Tensor) -> Tensor:
        """float32[..., D] -> the same."""
        return F.normalize(self.map(states), dim=-1)


def matches(codes: Tensor, read: Reading) -> Tensor:
    """Share of what was liked, and of what was hidden, that has a candidate's category.

    Args:
        codes: int64[R, C, K] hashes of the candidates' categorical columns, 0 missing.
        read: of R users.

    Returns:
        float32[R, C, 2 K].
    """
    weights = torch.stack([read.liked, read.hidden], -1)
    shares = []
    for column in range(codes.shape[-1]):
        own = codes[..., column].unsqueeze(2)
        same = (own == read.codes[..., column].unsqueeze(1)) & (own != 0)
        shares.append(same.float() @ weights)
    return torch.cat(shares, -1) if shares else read.liked.new_zeros(*codes.shape[:2], 0)


def related(asked: Items, read: Reading) -> Tensor:
    """How near candidates are to the item that the request is about; zeros where none.

    Args:
        asked: C candidates of each of R users.
        read: of R users.

    Returns:
        float32[R, C, 1 + K]: the cosine, and which categorical columns are equal.
    """
    near = F.normalize(asked.vectors, dim=-1) @ read.about.unsqueeze(-1)
    codes = read.about_codes.unsqueeze(1)
    same = (asked.codes == codes) & (codes != 0)
    return torch.cat([LIKENESS_SCALE * near, same.float()], -1)


def normalised(weights: Tensor) -> Tensor:
    """Weights [R, L] that add up to 1, or to 0 where there are none."""
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-6)


def likeness(items: Tensor, read: Reading) -> Tensor:
    """How near candidates are to what was liked, and to what is expected.

    Liked on average, at the nearest, lately; expected next, later.

    Args:
        items: float32[R, C, D].
        read: of R users.

    Returns:
        float32[R, C, LIKENESSES], in that order; the nearest as a soft maximum of the cosines.
    """
    unit = F.normalize(items, dim=-1)
    near = unit @ read.items.transpose(1, 2)
    liked, recent = read.liked.unsqueeze(1), read.recent.unsqueeze(1)
    nearest = torch.log((torch.exp(SHARPNESS * near) * liked).sum(-1).clamp(min=1.0)) / SHARPNESS
    average, lately = (near * liked).sum(-1), (near * recent).sum(-1)
    expected = unit @ torch.stack([read.ahead, read.later], -1)
    past = torch.stack([average, nearest, lately], -1)
    return LIKENESS_SCALE * torch.cat([past, expected], -1)
