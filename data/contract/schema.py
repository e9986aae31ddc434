"""Tables, actions and features: the names that every part shares.

Codes start at 1 everywhere (action, surface): 0 is padding or unknown.

Example rows:
    events: {"event_id": 17, "user_id": 5, "item_id": 9, "action": "save", "surface": "home",
        "timestamp": 1767225600000, "received_at": 1767225601200, "duration_s": 12.5,
        "board_id": 3, "request_id": 88}
    impressions: {"request_id": 88, "user_id": 5, "item_id": 9, "timestamp": 1767225590000,
        "surface": "related", "context_item_id": 4, "position": 2, "propensity": 0.013,
        "source": "embedding",
        "experiment": "", "arm": "", "versions": "",
        "labels": {"save": True, "click": False}, "labels_closed_at": 1767312000000}
    items: {"item_id": 9, "created_at": 1767000000000, "creator_id": 4, "image_signature": 123,
        "format": "video", "language": "en", "interests": ["food"], "content": [0.1, ...],
        "title": "Rye bread"}
    users: {"user_id": 5, "created_at": 1767000000000, "country": "DE"}
    boards: {"board_id": 3, "item_id": 9, "timestamp": 1767225600000, "weight": 1.0}
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from data.contract.settings import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DAY_MS = 86_400_000
DEFAULT_SURFACE = "home"

EVENT_COLUMNS = (
    "event_id",
    "user_id",
    "item_id",
    "action",
    "surface",
    "timestamp",
    "received_at",
    "duration_s",
    "board_id",
    "request_id",
)
IMPRESSION_COLUMNS = (
    "request_id",
    "user_id",
    "item_id",
    "timestamp",
    "surface",
    "context_item_id",
    "position",
    "propensity",
    "source",
    "experiment",
    "arm",
    "versions",
    "labels",
    "labels_closed_at",
)

# Encoded tables: external ids replaced by rows, strings by codes, one row of TIMELINE a user.
TIMELINE = pa.schema(
    [
        ("user", pa.int64()),
        ("item", pa.list_(pa.int32())),
        ("action", pa.list_(pa.int16())),
        ("surface", pa.list_(pa.int16())),
        ("timestamp", pa.list_(pa.int64())),
        ("duration_s", pa.list_(pa.float32())),
        ("part", pa.list_(pa.int8())),
    ]
)
ENCODED_EVENT = pa.schema(
    [
        ("event_id", pa.int64()),
        ("user", pa.int64()),
        ("item", pa.int32()),
        ("action", pa.int16()),
        ("surface", pa.int16()),
        ("timestamp", pa.int64()),
        ("received_at", pa.int64()),
        ("duration_s", pa.float32()),
        ("part", pa.int8()),
    ]
)

Polarity = Literal["positive", "negative", "neutral"]
Order = Literal["clock", "position", "none"]
Objective = Literal["next_engagement", "co_board", "user_item"]
FeatureKind = Literal["numeric", "categorical", "multi", "vector"]
ValueType = Literal["int64", "string", ""]
# Days before a moment whose positive events say what is popular at it; the last span is all time.
TREND_DAYS = (1, 3, 7, 14, 28, 36_500)
# Column under which models read the item embeddings of the graph encoder.
GRAPH_COLUMN = "graph_embedding"
# Column under which they read the long-term embeddings of users, as of the midnight before.
USER_COLUMN = "user_embedding"
# What the graph encoder is trained on; an objective's code is its place.
OBJECTIVES: tuple[Objective, ...] = ("next_engagement", "co_board", "user_item")
# What the states of a user's timeline predict: see data/targets.py.
UserObjective = Literal["next_action", "sasrec", "all_action", "dense_all_action"]
# What an action counts unless a setting names it.
POLARITY_WEIGHTS: dict[Polarity, float] = {"positive": 1.0, "negative": -1.0, "neutral": 0.0}
NEGATIVE_ACTIONS = frozenset({"hide", "dislike", "report", "block", "unfollow", "skip", "downvote"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One declared column of the item or user table, with the statistics that models store.

    Attributes:
        name: column name.
        kind: numeric (float32), categorical (hash), multi (list of hashes), vector (float16 list).
        dim: width of a vector.
        cardinality: distinct values seen of a categorical or multi column.
        values: type of these values, as which later ones are read; empty in a root that was
            prepared before it was kept: each value is then of the type that it comes in.
        mean: mean of a numeric column after its logarithm if `log`.
        std: standard deviation, likewise.
        low: 0.1 percentile of the raw column; values are clipped to it.
        high: 99.9 percentile, likewise.
        log: whether ln(1 + x - low) is taken first (range over 100).
    """

    name: str
    kind: FeatureKind
    dim: int = 0
    cardinality: int = 0
    values: ValueType = ""
    mean: float = 0.0
    std: float = 1.0
    low: float = 0.0
    high: float = 0.0
    log: bool = False


def refuse_unknown(named: Mapping[str, object], actions: tuple[str, ...], setting: str) -> None:
    """Raises UserError when `setting` names an action that there is not."""
    if unknown := sorted(named.keys() - set(actions)):
        known = ", ".join(actions)
        raise UserError(f"{setting}.{unknown[0]} names no action; known are {known}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Actions, surfaces and features of a data set: `details["vocabulary"]` of its manifest.

    Attributes:
        order: what orders a user's events: a clock, a position, or nothing (pairs).
        actions: action names; the code of `actions[i]` is i + 1.
        polarity: polarity of each action, aligned with `actions`.
        surfaces: surface names; code i + 1.
        item_features: declared item columns.
        user_features: declared user columns.
    """

    order: Order
    actions: tuple[str, ...]
    polarity: tuple[Polarity, ...]
    surfaces: tuple[str, ...] = (DEFAULT_SURFACE,)
    item_features: tuple[Feature, ...] = ()
    user_features: tuple[Feature, ...] = ()

    def codes(self, polarity: Polarity) -> list[int]:
        """Codes of the actions of one polarity."""
        return [i + 1 for i, p in enumerate(self.polarity) if p == polarity]

    @property
    def surface_codes(self) -> dict[str, int]:
        """Code of each surface by name."""
        return {name: code for code, name in enumerate(self.surfaces, start=1)}

    def codes_of(self, names: Sequence[str], setting: str) -> tuple[int, ...]:
        """Codes of positive actions.

        Raises:
            UserError: the log has no positive action of a name; `setting` is where it stands.
        """
        known = {self.actions[code - 1]: code for code in self.codes("positive")}
        if unknown := [name for name in names if name not in known]:
            raise UserError(f"{setting}: {unknown} are no positive actions; there are {[*known]}")
        return tuple(known[name] for name in names)

    def weights(self, named: Mapping[str, float], setting: str) -> tuple[float, ...]:
        """What each action counts: as named, else 1 when positive, -1 when negative, or nothing.

        Raises:
            UserError: there is no action of a name; `setting` is where it stands.
        """
        refuse_unknown(named, self.actions, setting)
        pairs = zip(self.actions, self.polarity, strict=True)
        return tuple(named.get(action, POLARITY_WEIGHTS[polarity]) for action, polarity in pairs)

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> Vocabulary:
        """Reads what `dataclasses.asdict` wrote into a manifest."""
        features = {
            name: tuple(Feature(**f) for f in tree[name])
            for name in ("item_features", "user_features")
        }
        plain = {name: tuple(tree[name]) for name in ("actions", "polarity", "surfaces")}
        return cls(order=tree["order"], **plain, **features)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """The days of a log: day 1 is `first_day_ms`; days are UTC days since then.

    Attributes:
        first_day_ms: start of day 1, ms since 1970.
        num_days: days in the log now.
        base_days: days in the log when the root was first prepared; windows scale with it.
    """

    first_day_ms: int
    num_days: int
    base_days: int = field(default=0)

    def start_ms(self, day: int) -> int:
        """First millisecond of a 1-based day."""
        return self.first_day_ms + (day - 1) * DAY_MS
