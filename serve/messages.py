"""Bodies of the HTTP interface: what is accepted, within which bounds, and what is answered.

Of a list the first element that is wrong is named, of unknown keys the first few: each reason takes
time and memory, and a body may have room for hundreds of thousands.
"""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    Tag,
    model_validator,
)

MAX_BATCH = 10_000
MAX_LIST = 10_000
MAX_SECONDS = 10**9
MOST_REASONS = 20  # that a refusal gives
MAX_COORDINATE = 65_504  # the largest number of 16 bits, which vectors are kept in

Int64 = Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)]
Text = Annotated[StrictStr, Field(max_length=64)]
Id = Int64 | Annotated[StrictStr, Field(min_length=1, max_length=256)]
Milliseconds = Annotated[StrictInt, Field(ge=631_152_000_000, lt=4_102_444_800_000)]
Seconds = (
    Annotated[StrictFloat, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]
    | Annotated[StrictInt, Field(ge=0, le=MAX_SECONDS)]
)
Coordinate = (
    Annotated[StrictFloat, Field(ge=-MAX_COORDINATE, le=MAX_COORDINATE, allow_inf_nan=False)]
    | Annotated[StrictInt, Field(ge=-MAX_COORDINATE, le=MAX_COORDINATE)]
)


class Body(BaseModel):
    """A request body: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _with_few_unknown_keys(cls, body: Any) -> Any:
        if not isinstance(body, dict) or len(body) <= len(cls.model_fields) + MOST_REASONS:
            return body
        known = {key: body[key] for key in cls.model_fields if key in body}
        unknown = islice((key for key in body if key not in cls.model_fields), MOST_REASONS)
        return known | {key: body[key] for key in unknown}


class Context(Body):
    """What the user looks at or asks for."""

    item_id: Id | None = Field(default=None, description="retrieve what is related to this item")
    interests: list[Id] | None = Field(
        default=None,
        max_length=100,
        fail_fast=True,
        description="retrieve items of these interests",
    )
    query_vector: list[Coordinate] | None = Field(
        default=None,
        max_length=4096,
        fail_fast=True,
        description="retrieve what is near this vector of the item space",
    )


class RecommendRequest(Body):
    """Asks for a feed."""

    user_id: Id
    num_items: Annotated[StrictInt, Field(ge=1, le=500)] = 10
    surface: Text = Field(
        default="home",
        description="`related` retrieves what is near context.item_id or context.query_vector, "
        "popular items beside it",
    )
    context: Context = Context()
    exclude: list[Id] = Field(
        default=[], max_length=MAX_LIST, fail_fast=True, description="items not to be shown"
    )
    debug: StrictBool = Field(default=False, description="also answer what each stage did")


class RecommendedItem(BaseModel):
    """One place of a feed."""

    item_id: int | str
    score: float = Field(
        description="utility; the retrieval score where nothing is ranked; minus the place in the "
        "list that it is from where there is neither"
    )
    predictions: dict[str, float] = Field(description="probability of each action")
    source: str = Field(description="candidate source that found it first")


class RecommendResponse(BaseModel):
    """A feed."""

    request_id: int
    items: list[RecommendedItem]
    versions: dict[str, str]
    fallback: bool | str = Field(
        description="false, or what was missing: partial (a source or the store), unranked, "
        "cached (what was read or shown before), popular"
    )
    timings_ms: dict[str, float]
    debug: dict[str, Any] | None = None


class Event(Body):
    """Something a user did. Posting the same `event_id` again changes nothing."""

    event_id: Id | None = Field(default=None, description="made by the server when absent")
    user_id: Id
    item_id: Id
    action: Text
    surface: Text = "home"
    timestamp: Milliseconds | None = Field(
        default=None, description="ms since 1970; now when absent"
    )
    duration_s: Seconds | None = None
    board_id: Id | None = None
    request_id: Id | None = Field(
        default=None, description="of the feed in which the item was shown"
    )


class Action(BaseModel):
    """Something a user has done."""

    item_id: int | str | None = Field(
        default=None, description="absent where neither the bundle nor a post has the item"
    )
    action: str
    surface: str
    timestamp: int


class Actions(BaseModel):
    """What is known of a user, newest first."""

    user_id: int | str
    known: bool = Field(description="whether the user is in the bundle")
    actions: list[Action]


class EventBatch(Body):
    """Several events."""

    events: list[Event] = Field(max_length=MAX_BATCH, fail_fast=True)


class EventsAccepted(BaseModel):
    """Events that are on disk now."""

    accepted: int
    duplicates: int = Field(description="events whose event_id was there already")
    sequence: int = Field(description="sequence number of the newest event in the store")


class Item(BaseModel):
    """An item with its declared columns (those of the item table)."""

    model_config = ConfigDict(extra="allow", frozen=True)

    item_id: Id
    created_at: Milliseconds | None = Field(
        default=None, description="ms since 1970; now when absent"
    )


class ItemBatch(Body):
    """Several items."""

    items: list[Item] = Field(max_length=MAX_BATCH, fail_fast=True)


class ItemsAccepted(BaseModel):
    """Items that are on disk now."""

    accepted: int
    recommendable: int = Field(
        description="items that can be recommended from now on; the others are in the bundle "
        "already, and the next one takes the new columns, or they are blocked, or show an image "
        "that is served already"
    )


class SimilarItem(BaseModel):
    """A neighbour in the item space."""

    item_id: int | str
    score: float = Field(description="inner product of unit vectors")


class SimilarItems(BaseModel):
    """Nearest items."""

    item_id: int | str
    items: list[SimilarItem]
    versions: dict[str, str]


def form_of(body: Any) -> str:
    """Whether a body is a list, a batch that names its list, or one event or item."""
    if isinstance(body, list):
        return "list"
    return "batch" if isinstance(body, dict) and body.keys() & {"events", "items"} else "one"


Events = Annotated[
    Annotated[Event, Tag("one")]
    | Annotated[list[Event], Field(max_length=MAX_BATCH, fail_fast=True), Tag("list")]
    | Annotated[EventBatch, Tag("batch")],
    Discriminator(form_of),
]
Items = Annotated[
    Annotated[Item, Tag("one")]
    | Annotated[list[Item], Field(max_length=MAX_BATCH, fail_fast=True), Tag("list")]
    | Annotated[ItemBatch, Tag("batch")],
    Discriminator(form_of),
]


def each_event(body: Event | list[Event] | EventBatch) -> list[Event]:
    """The events of a body of any form."""
    if isinstance(body, EventBatch):
        return body.events
    return body if isinstance(body, list) else [body]


def each_item(body: Item | list[Item] | ItemBatch) -> list[Item]:
    """The items of a body of any form."""
    if isinstance(body, ItemBatch):
        return body.items
    return body if isinstance(body, list) else [body]
