"""The parameters of a world: what a caller may set, and what a preset fills in."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field

ACTIONS = ("save", "click", "closeup", "hide")
POSITIVE_ACTIONS = ("save", "click", "closeup")

Preset = Literal["tiny", "default", "drift0", "drift1", "drift2"]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionModel:
    """How the probability of one action depends on what the user sees.

    Attributes:
        bias: Logit of an average item outside all interests of the user.
        intent: Weight of the cosine between the item and the session's intent.
        interests: Weight of the cosine between the item and all interests, weighted.
        quality: Weight of the item's quality (standard normal).
        clickbait: Weight of the item's clickbait (standard normal).
        foreign: Added when the item is not in the user's language.
        median_s: Median duration in seconds at affinity 0; 0 for actions without one.
        utility: Worth of one action in `oracle_truth`.
    """

    bias: float
    intent: float
    interests: float
    quality: float
    clickbait: float
    foreign: float
    median_s: Annotated[float, Field(ge=0)]
    utility: float


SAVE = ActionModel(
    bias=-6.0, intent=4.6, interests=3.5, quality=0.7, clickbait=-0.2, foreign=-1.5,
    median_s=0.0, utility=1.0,
)  # fmt: skip
CLICK = ActionModel(
    bias=-5.0, intent=4.4, interests=0.5, quality=0.2, clickbait=0.7, foreign=-2.0,
    median_s=12.0, utility=0.5,
)  # fmt: skip
CLOSEUP = ActionModel(
    bias=-5.7, intent=5.4, interests=1.5, quality=0.4, clickbait=0.2, foreign=-1.0,
    median_s=5.0, utility=0.3,
)  # fmt: skip
HIDE = ActionModel(
    bias=-4.8, intent=-2.5, interests=-1.5, quality=-0.5, clickbait=0.7, foreign=1.0,
    median_s=0.0, utility=-1.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldSettings:
    """Parameters of the built-in world; everything is deterministic from them.

    Attributes:
        version: Version of the world's behaviour; another one is refused.
        preset: Named set of values for the fields that are `None` here.
        seed: Seed of every random stream.
        days: Length of the period in days; later days continue at the same pace.
        num_users: Users by the end of the period.
        num_items: Items by the end of the period.
        num_topics: Topics; items have one, users have several as interests.
        drift_rate: Probability per day that one interest of a user is replaced.
        sessions_per_day: Mean sessions of a user per day.
        pool_size: Items of the stale embedding source per user.
        topic_skew: Exponent of the Zipf distribution of topics over items and interests.
        latent_dim: Width of the latent space.
        content_dim: Width of the items' content vectors.
        content_noise: Norm of the noise in a content vector; the signal's is 1.
        item_noise: Spread of items around their topic, as a share of the topic's norm.
        user_noise: Spread of a user's interest around its topic, likewise.
        activity_sigma: Standard deviation of log activity.
        established_users: Share of users that exist before the first day.
        established_items: Share of items that exist before the first day.
        duplicate_share: Share of items that copy an earlier item's image.
        ads_share: Share of items that belong to a campaign.
        items_per_creator: Items per creator in the mean.
        slate_size: Slots of a request.
        max_requests: Requests of a session at most.
        search_share: Share of requests on the search surface.
        uniform_share: Share of slots drawn uniformly from the live items.
        popular_share: Share of slots drawn by recent popularity.
        popularity_half_life_days: Half-life of an action in the popularity.
        popularity_prior: Actions that a brand-new item is credited with.
        freshness_days: Decay constant of an item's freshness.
        freshness_weight: Weight of freshness in the embedding source.
        popularity_weight: Weight of log popularity in the embedding source.
        refresh_days: Days between two refreshes of a user's pool.
        estimate_noise: Norm of the noise in the policy's estimate of an interest.
        pool_sharpness: Weight of the cosine in the softmax over the pool.
        impression_share: Share of requests that the impression log keeps.
        position_decay: Strength of the position bias; 0 for none.
        repeat_factor: Positive actions on an item acted on before, relative to a new one.
        save: Model of the action save.
        click: Model of the action click.
        closeup: Model of the action closeup.
        hide: Model of the action hide.
    """

    version: Literal[1] = 1
    preset: Preset = "default"
    seed: Annotated[int, Field(ge=0)] = 0
    days: Annotated[int, Field(ge=5, le=3650)] | None = None
    num_users: Annotated[int, Field(ge=10)] | None = None
    num_items: Annotated[int, Field(ge=100)] | None = None
    num_topics: Annotated[int, Field(ge=5)] | None = None
    drift_rate: Share | None = None
    sessions_per_day: Positive | None = None
    pool_size: Annotated[int, Field(ge=10)] | None = None
    topic_skew: Annotated[float, Field(ge=0)] = 0.7
    latent_dim: Annotated[int, Field(ge=2, le=64)] = 32
    content_dim: Annotated[int, Field(ge=2)] = 64
    content_noise: Annotated[float, Field(ge=0)] = 0.4
    item_noise: Annotated[float, Field(ge=0)] = 0.7
    user_noise: Annotated[float, Field(ge=0)] = 0.3
    activity_sigma: Annotated[float, Field(ge=0)] = 1.0
    established_users: Share = 0.85
    established_items: Share = 0.5
    duplicate_share: Share = 0.06
    ads_share: Share = 0.04
    items_per_creator: Positive = 20.0
    slate_size: Annotated[int, Field(ge=1, le=1000)] = 20
    max_requests: Annotated[int, Field(ge=1)] = 4
    search_share: Share = 0.15
    uniform_share: Share = 0.02
    popular_share: Share = 0.28
    popularity_half_life_days: Positive = 7.0
    popularity_prior: Annotated[float, Field(ge=0)] = 2.0
    freshness_days: Positive = 20.0
    freshness_weight: Annotated[float, Field(ge=0)] = 1.5
    popularity_weight: Annotated[float, Field(ge=0)] = 0.9
    refresh_days: Annotated[int, Field(ge=1)] = 30
    estimate_noise: Annotated[float, Field(ge=0)] = 0.3
    pool_sharpness: Positive = 6.0
    impression_share: Share = 0.15
    position_decay: Annotated[float, Field(ge=0)] = 0.05
    repeat_factor: Share = 0.1
    save: ActionModel = field(default=SAVE)
    click: ActionModel = field(default=CLICK)
    closeup: ActionModel = field(default=CLOSEUP)
    hide: ActionModel = field(default=HIDE)


@dataclass(frozen=True, slots=True, kw_only=True)
class World(WorldSettings):
    """World settings in which the preset has filled every field."""

    days: int = 180
    num_users: int = 10_000
    num_items: int = 20_000
    num_topics: int = 200
    drift_rate: float = 0.004
    sessions_per_day: float = 0.43
    pool_size: int = 300

    @property
    def embedding_share(self) -> float:
        """Share of slots left for the embedding source (the topic source on search)."""
        return 1.0 - self.uniform_share - self.popular_share

    @property
    def actions(self) -> tuple[ActionModel, ...]:
        """Action models in the order of `ACTIONS`."""
        return (self.save, self.click, self.closeup, self.hide)


PRESETS: Mapping[Preset, Mapping[str, Any]] = MappingProxyType(
    {
        "tiny": {
            "days": 60,
            "num_users": 300,
            "num_items": 800,
            "num_topics": 20,
            "sessions_per_day": 0.8,
            "pool_size": 60,
        },
        "default": {},
        "drift0": {"drift_rate": 0.0},
        "drift1": {"drift_rate": 0.012},
        "drift2": {"drift_rate": 0.04},
    }
)


def resolve(settings: WorldSettings) -> World:
    """Fills what is `None` in the settings from their preset; idempotent."""
    given = {f.name: getattr(settings, f.name) for f in fields(WorldSettings)}
    explicit = {name: value for name, value in given.items() if value is not None}
    return World(**{**PRESETS[settings.preset], **explicit})
