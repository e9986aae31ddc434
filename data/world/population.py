"""Items and users of a world with their latent vectors: births and drift of interests.

Nothing here depends on what users do, so that the population of any day is found again
by replaying the births and drifts up to it. Shapes: I items, U users, M interests of a
user at most, K topics, D latent dimensions.
"""

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from data.contract.schema import DAY_MS
from data.world.settings import World

START_MS = 1_735_689_600_000  # 2025-01-01T00:00:00Z, the first moment of day 1
MAX_INTERESTS = 6
MIN_INTERESTS = 3
LANGUAGES = ("en", "es", "de", "ja")
LANGUAGE_SHARES = (0.6, 0.2, 0.1, 0.1)
FORMATS = ("image", "video", "carousel", "article")
FORMAT_SHARES = (0.6, 0.2, 0.12, 0.08)
TOPICS_PER_CREATOR = 3

Floats = npt.NDArray[np.floating[Any]]
Rows = npt.NDArray[np.integer[Any]]
Flags = npt.NDArray[np.bool_]


class IdKind(IntEnum):
    """Kinds of external ids."""

    USER = 1
    ITEM = 2
    CREATOR = 3
    BOARD = 4
    REQUEST = 5
    EVENT = 6
    CAMPAIGN = 7
    SIGNATURE = 8


class Stage(IntEnum):
    """First word after the seed of every random stream of the world."""

    TOPICS = 1
    ITEMS = 2
    USERS = 3
    DRIFT = 4
    POOLS = 5
    SESSIONS = 6
    TABLES = 7
    RESPONSES = 8
    ORACLE = 9


def random_stream(world: World, stage: Stage, day: int, block: int = 0) -> np.random.Generator:
    """Random generator of one stage of one day."""
    return np.random.default_rng(np.random.SeedSequence([world.seed, stage, day, block]))


def day_start_ms(day: int) -> int:
    """First millisecond of a day; days count from 1."""
    return START_MS + (day - 1) * DAY_MS


def external_ids(rows: Rows, world: World, kind: IdKind) -> Rows:
    """Scrambles row numbers into distinct ids below 2^52 (exact in JSON numbers).

    Args:
        rows: Numbers below 2^48, any shape.
        world: The world; its seed changes the ids.
        kind: What the ids are of.
    """
    mask = np.uint64((1 << 52) - 1)
    offset = np.random.SeedSequence([world.seed, kind]).generate_state(1, np.uint64)[0]
    ids = (rows.astype(np.uint64) + offset) & mask
    for factor in (0x9E3779B97F4A7, 0xBF58476D1CE4F):  # odd, hence one-to-one modulo 2^52
        ids = (ids * np.uint64(factor)) & mask
        ids ^= ids >> np.uint64(26)
    return np.asarray(ids.astype(np.int64))


class IdIndex:
    """Finds rows by external ids, for the first `count` rows of a kind."""

    def __init__(self, count: int, world: World, kind: IdKind) -> None:
        ids = external_ids(np.arange(count), world, kind)
        self._rows = np.argsort(ids)
        self._ids = ids[self._rows]

    def rows(self, ids: Rows) -> Rows:
        """Rows of ids, any shape; -1 for those unknown."""
        nearest = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        return np.asarray(np.where(self._ids[nearest] == ids, self._rows[nearest], -1))


def unit(vectors: Floats) -> Floats:
    """Vectors of length 1 along the last axis, float32."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Floats = vectors / np.maximum(lengths, 1e-12)
    return scaled.astype(np.float32)


def scatter(centres: Floats, noise: float, rng: np.random.Generator) -> Floats:
    """Unit vectors around unit centres; `noise` is the expected norm of the deviation."""
    deviation = rng.standard_normal(centres.shape, dtype=np.float32)
    return unit(centres + noise / np.sqrt(centres.shape[-1]) * deviation)


@dataclass(slots=True)
class Rowwise:
    """Arrays with one row per entity; `append` adds the rows of another instance."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def take(self, rows: Rows) -> Self:
        """Some rows, as an instance of its own."""
        return type(self)(*(getattr(self, f.name)[rows] for f in fields(self)))

    def append(self, other: Self) -> None:
        """Adds the rows of `other` behind the own ones."""
        for f in fields(self):
            setattr(self, f.name, np.concatenate([getattr(self, f.name), getattr(other, f.name)]))


@dataclass(slots=True)
class Items(Rowwise):
    """Latent state of items, one row each.

    Attributes:
        vector: Unit latent vectors, [I, D].
        topic: Topic, [I].
        creator: Creator, [I].
        language: Index into `LANGUAGES`, [I].
        format: Index into `FORMATS`, [I].
        original: Row of the item whose image this one has (its own row if new), [I].
        quality: Draws saves, standard normal, [I].
        clickbait: Draws clicks and hides, standard normal, [I].
        created_at: Milliseconds, [I]; an item is live from the next day on.
    """

    vector: Floats
    topic: Rows
    creator: Rows
    language: Rows
    format: Rows
    original: Rows
    quality: Floats
    clickbait: Floats
    created_at: Rows


@dataclass(slots=True)
class Users(Rowwise):
    """Latent state of users, one row each.

    Attributes:
        interests: Unit vectors of the interests, [U, M, D].
        topics: Topic of each interest, [U, M].
        weights: Weight of each interest, 0 where a user has fewer, [U, M]; sums to 1.
        activity: Sessions per day, [U].
        language: Index into `LANGUAGES`, [U].
        born: Day of creation, [U]; a user is active from the next day on.
        created_at: Milliseconds, [U].
    """

    interests: Floats
    topics: Rows
    weights: Floats
    activity: Floats
    language: Rows
    born: Rows
    created_at: Rows

    def long_term(self) -> Floats:
        """Mean of each user's interests by weight, [U, D]."""
        means: Floats = np.einsum("um,umd->ud", self.weights, self.interests)
        return means


def zipf_shares(size: int, exponent: float, rng: np.random.Generator) -> Floats:
    """Shares proportional to rank^-exponent in random order."""
    weights: Floats = rng.permutation(np.arange(1, size + 1) ** -exponent)
    shares: Floats = weights / weights.sum()
    return shares


class Population:
    """Topics, creators, items and users of a world as of one day.

    Attributes:
        centres: Unit topic vectors, [K, D].
        neighbours: Each topic and its nearest ones by cosine, [K, 3].
        items: Items created so far.
        users: Users created so far.
    """

    def __init__(self, world: World) -> None:
        """Draws topics, creators, and whatever exists before day 1."""
        self.world = world
        rng = random_stream(world, Stage.TOPICS, 0)
        num_creators = max(2, round(world.num_items / world.items_per_creator))
        shape = (world.num_topics, world.latent_dim)
        self.centres = unit(rng.standard_normal(shape))
        self.neighbours = np.argsort(-self.centres @ self.centres.T, axis=1)[:, :3].astype(np.int32)
        self._topic_shares = zipf_shares(world.num_topics, world.topic_skew, rng)
        self._creator_shares = zipf_shares(num_creators, 0.8, rng)
        self._creator_topics = rng.choice(
            world.num_topics, (num_creators, TOPICS_PER_CREATOR), p=self._topic_shares
        )
        self._creator_quality = 0.6 * rng.standard_normal(num_creators)
        self.items = self._new_items(0)
        self.users = self._new_users(0)

    def drift(self, day: int) -> None:
        """Replaces interests of users at random, at the start of a day."""
        rng = random_stream(self.world, Stage.DRIFT, day)
        users = self.users
        changed = np.nonzero(rng.random(users.topics.shape) < self.world.drift_rate)
        topics = rng.choice(self.world.num_topics, len(changed[0]), p=self._topic_shares)
        users.topics[changed] = topics
        users.interests[changed] = scatter(self.centres[topics], self.world.user_noise, rng)

    def grow(self, day: int) -> None:
        """Adds the items and users created in the course of a day."""
        self.items.append(self._new_items(day))
        self.users.append(self._new_users(day))

    def first_item(self, day: int) -> int:
        """Row of the first item created on or after a day."""
        return born_before(self.world.num_items, self.world.established_items, self.world.days, day)

    def first_user(self, day: int) -> int:
        """Row of the first user created on or after a day."""
        return born_before(self.world.num_users, self.world.established_users, self.world.days, day)

    def _new_items(self, day: int) -> Items:
        world, rng = self.world, random_stream(self.world, Stage.ITEMS, day)
        first, end = self.first_item(day), self.first_item(day + 1)
        size = end - first
        creator = rng.choice(len(self._creator_shares), size, p=self._creator_shares)
        topic = self._creator_topics[creator, rng.integers(TOPICS_PER_CREATOR, size=size)]
        vector = scatter(self.centres[topic], world.item_noise, rng)
        items = Items(
            vector=vector,
            topic=topic.astype(np.int32),
            creator=creator.astype(np.int32),
            language=rng.choice(len(LANGUAGES), size, p=LANGUAGE_SHARES).astype(np.int32),
            format=rng.choice(len(FORMATS), size, p=FORMAT_SHARES).astype(np.int32),
            original=np.arange(first, end, dtype=np.int32),
            quality=(self._creator_quality[creator] + 0.8 * rng.standard_normal(size)).astype("f4"),
            clickbait=rng.standard_normal(size, dtype=np.float32),
            created_at=creation_times(day, size, rng),
        )
        self._copy_images(items, rng)
        return items

    def _copy_images(self, items: Items, rng: np.random.Generator) -> None:
        """Turns some of the new items into near duplicates of others among them."""
        copies = np.nonzero(rng.random(len(items)) < self.world.duplicate_share)[0]
        sources = np.setdiff1d(np.arange(len(items)), copies)
        if len(copies) == 0 or len(sources) == 0:
            return
        source = rng.choice(sources, len(copies))
        items.vector[copies] = scatter(items.vector[source], 0.1, rng)
        for column in (items.topic, items.original, items.language, items.format):
            column[copies] = column[source]

    def _new_users(self, day: int) -> Users:
        world, rng = self.world, random_stream(self.world, Stage.USERS, day)
        size = self.first_user(day + 1) - self.first_user(day)
        topics = rng.choice(world.num_topics, (size, MAX_INTERESTS), p=self._topic_shares)
        activity = rng.lognormal(0.0, world.activity_sigma, size)
        mean = np.exp(world.activity_sigma**2 / 2)
        return Users(
            interests=scatter(self.centres[topics], world.user_noise, rng),
            topics=topics.astype(np.int32),
            weights=interest_weights(size, rng),
            activity=(world.sessions_per_day / mean * activity).astype(np.float32),
            language=rng.choice(len(LANGUAGES), size, p=LANGUAGE_SHARES).astype(np.int32),
            born=np.full(size, day, np.int32),
            created_at=creation_times(day, size, rng),
        )


def born_before(total: int, established: float, days: int, day: int) -> int:
    """Entities created before a day: `established` of them on day 0, the rest evenly.

    By the end of `days` there are `total`; later days go on at the same pace.
    """
    at_start = round(established * total)
    return 0 if day == 0 else at_start + round((total - at_start) * (day - 1) / days)


def creation_times(day: int, size: int, rng: np.random.Generator) -> Rows:
    """Sorted creation times within a day; for day 0 with a tail of 90 days' scale back."""
    back = rng.exponential(90.0, size) if day == 0 else rng.random(size)
    return np.sort(day_start_ms(day + 1) - 1 - (back * DAY_MS).astype(np.int64))


def interest_weights(size: int, rng: np.random.Generator) -> Floats:
    """Dirichlet weights over 3 to 6 interests per user, [size, M]."""
    counts = rng.integers(MIN_INTERESTS, MAX_INTERESTS + 1, size)
    weights = rng.gamma(1.5, size=(size, MAX_INTERESTS)) + 1e-3
    weights *= np.arange(MAX_INTERESTS) < counts[:, None]
    normalised: Floats = weights / weights.sum(1, keepdims=True)
    return normalised.astype(np.float32)
