"""Arrow tables of a world, shaped like a company's raw logs; latents stay behind.

Shapes: N impressions, E events, I items, C width of content vectors.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import pyarrow as pa

from data.contract.schema import DAY_MS
from data.world.policy import SOURCES, Request
from data.world.population import (
    FORMATS,
    LANGUAGES,
    Floats,
    IdKind,
    Population,
    Rows,
    Stage,
    day_start_ms,
    external_ids,
    random_stream,
    unit,
)
from data.world.response import durations
from data.world.settings import ACTIONS, World
from data.world.state import DayLog, WorldState

SURFACES = ("home", "search")
COUNTRIES = np.array(
    [["US", "GB", "CA"], ["MX", "ES", "US"], ["DE", "AT", "CH"], ["JP", "JP", "US"]]
)
AGE_BANDS = ("18-24", "25-34", "35-44", "45-54", "55+")
DEVICES = ("ios", "android", "web")
MANNERS = ("wooden", "vintage", "minimal", "rustic", "modern", "bright", "cosy", "handmade",
           "small", "urban", "coastal", "nordic", "painted", "retro", "easy", "autumn", "summer",
           "festive", "quick", "classic")  # fmt: skip
THINGS = ("kitchens", "gardens", "dresses", "cakes", "tattoos", "bedrooms", "bicycles", "posters",
          "weddings", "dinners")  # fmt: skip
TITLE_FORMS = ("{}", "ideas for {}", "{} we love", "how to make {}", "{}, step by step")
ACTION_DELAY_MS = np.array([2_000, 1_000, 500, 1_500])
LABEL_WINDOW_MS = DAY_MS
LATE_SHARE, VERY_LATE_SHARE = 0.01, 0.001
WRONG_INTEREST_SHARE, SECOND_INTEREST_SHARE = 0.1, 0.3


@dataclass(slots=True)
class DayTables:
    """What happened on one day: events by time, sampled impressions, new board edges."""

    events: pa.Table
    impressions: pa.Table
    boards: pa.Table


def day_tables(state: WorldState, log: DayLog) -> DayTables:
    """Tables of the day that the state has just run."""
    world, day = state.world, state.day
    rng = random_stream(world, Stage.TABLES, day)
    num_requests = int(log.request.max(initial=-1)) + 1
    sampled = rng.random(num_requests) < world.impression_share
    request_ids = day_ids(np.arange(num_requests), day, world, IdKind.REQUEST)
    events = _events(state, log, rng)
    row = events["row"].to_numpy()
    request = pa.array(request_ids[log.request[row]], mask=~sampled[log.request[row]])
    events = events.drop_columns("row").append_column("request_id", request)
    saves = events.filter(pa.compute.is_valid(events["board_id"]))
    impressions = _impressions(state, log, np.nonzero(sampled[log.request])[0])
    return DayTables(
        events=events,
        impressions=impressions.add_column(
            0, "request_id", pa.array(request_ids[log.request[sampled[log.request]]])
        ),
        boards=saves.select(["board_id", "item_id", "timestamp"]),
    )


def _events(state: WorldState, log: DayLog, rng: np.random.Generator) -> pa.Table:
    """Events of a log in the order of time, with the `row` of their impression."""
    world, items = state.world, state.population.items
    row, action = np.nonzero(log.labels)
    timestamp = log.timestamp[row] + ACTION_DELAY_MS[action]
    timestamp = np.minimum(timestamp, day_start_ms(state.day + 1) - 1)
    order = np.argsort(timestamp, kind="stable")
    row, action, timestamp = row[order], action[order], timestamp[order]
    formats = items.format[log.items[row]]
    boards = log.users[row].astype(np.int64) * world.num_topics + log.topics[row]
    return pa.table(
        {
            "event_id": day_ids(np.arange(len(row)), state.day, world, IdKind.EVENT),
            "user_id": external_ids(log.users[row], world, IdKind.USER),
            "item_id": external_ids(log.items[row], world, IdKind.ITEM),
            "action": named(action, ACTIONS),
            "surface": named(log.search[row].astype(int), SURFACES),
            "timestamp": timestamp,
            "received_at": timestamp + delays(len(row), rng),
            "duration_s": durations(world, action, log.affinity[row], formats, rng),
            "board_id": pa.array(
                external_ids(boards, world, IdKind.BOARD), mask=action != ACTIONS.index("save")
            ),
            "row": row,
        }
    )


def _impressions(state: WorldState, log: DayLog, row: Rows) -> pa.Table:
    """Impressions of chosen rows of a log, without their request ids."""
    world, users = state.world, log.users[row]
    request = Request(users, log.topics[row], log.search[row])
    propensity = state.policy.propensities(request, log.items[row])
    labels = [pa.array(log.labels[row, a]) for a in range(len(ACTIONS))]
    return pa.table(
        {
            "user_id": external_ids(users, world, IdKind.USER),
            "item_id": external_ids(log.items[row], world, IdKind.ITEM),
            "timestamp": log.timestamp[row],
            "surface": named(log.search[row].astype(int), SURFACES),
            "context_item_id": pa.nulls(len(row), pa.int64()),
            "position": log.positions[row].astype(np.int16),
            "propensity": propensity,
            "source": named(log.sources[row], SOURCES),
            "experiment": named(np.zeros_like(row), ("a_a",)),
            "arm": named(users % 2, ("control", "treatment")),
            "versions": named(np.zeros_like(row), (f"policy-{world.version}",)),
            "labels": pa.StructArray.from_arrays(labels, list(ACTIONS)),
            "labels_closed_at": log.timestamp[row] + LABEL_WINDOW_MS,
        }
    )


def item_table(world: World, population: Population, day: int) -> pa.Table:
    """Items created on a day, as the company knows them (day 0: all before day 1)."""
    rng = random_stream(world, Stage.TABLES, day, 1)
    items, names = population.items, topic_names(world.num_topics)
    rows = np.arange(population.first_item(day), population.first_item(day + 1))
    topic, creator = items.topic[rows], items.creator[rows]
    forms = rng.integers(len(TITLE_FORMS), size=len(rows))
    organic = rng.random(len(rows)) >= world.ads_share
    return pa.table(
        {
            "item_id": external_ids(rows, world, IdKind.ITEM),
            "created_at": items.created_at[rows],
            "creator_id": external_ids(creator, world, IdKind.CREATOR),
            "image_signature": external_ids(items.original[rows], world, IdKind.SIGNATURE),
            "format": named(items.format[rows], FORMATS),
            "language": named(items.language[rows], LANGUAGES),
            "interests": declared_interests(population, topic, rng),
            "content": content(world, items.vector[rows], rng),
            "title": pa.array(
                [TITLE_FORMS[f].format(names[t]) for f, t in zip(forms, topic, strict=True)],
                pa.string(),
            ),
            "campaign_id": pa.array(external_ids(creator, world, IdKind.CAMPAIGN), mask=organic),
            "bid": pa.array(rng.lognormal(-0.5, 0.5, len(rows)), pa.float32(), mask=organic),
            "budget": pa.array(rng.lognormal(4.0, 1.0, len(rows)), pa.float32(), mask=organic),
        }
    )


def user_table(world: World, population: Population, day: int) -> pa.Table:
    """Users created on a day, with the columns they declare (day 0: all before day 1)."""
    rng = random_stream(world, Stage.TABLES, day, 2)
    rows = np.arange(population.first_user(day), population.first_user(day + 1))
    language = population.users.language[rows]
    return pa.table(
        {
            "user_id": external_ids(rows, world, IdKind.USER),
            "created_at": population.users.created_at[rows],
            "country": COUNTRIES[language, rng.integers(COUNTRIES.shape[1], size=len(rows))],
            "language": named(language, LANGUAGES),
            "age_band": named(rng.integers(len(AGE_BANDS), size=len(rows)), AGE_BANDS),
            "device": named(rng.integers(len(DEVICES), size=len(rows)), DEVICES),
        }
    )


def content(world: World, vectors: Floats, rng: np.random.Generator) -> pa.Array:
    """Unit content vectors: the latent under a fixed rotation, plus noise, [I, C] float16."""
    directions = random_stream(world, Stage.TOPICS, 0, 1).standard_normal(
        (world.content_dim, world.latent_dim)
    )
    rotation = np.linalg.qr(directions)[0][:, : world.latent_dim]
    noise = rng.standard_normal((len(vectors), world.content_dim)) / np.sqrt(world.content_dim)
    seen = unit(vectors @ rotation.T + world.content_noise * noise)
    flat = pa.array(seen.astype(np.float16).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, world.content_dim)


def declared_interests(population: Population, topic: Rows, rng: np.random.Generator) -> pa.Array:
    """Names of one or two topics per item, some of them wrong."""
    names = topic_names(len(population.centres))
    wrong = rng.random(len(topic)) < WRONG_INTEREST_SHARE
    first = np.where(wrong, rng.integers(len(names), size=len(topic)), topic)
    second = population.neighbours[topic, 1]
    has_second = rng.random(len(topic)) < SECOND_INTEREST_SHARE
    codes = np.stack([first, second], axis=1)[
        np.stack([np.ones_like(has_second), has_second], axis=1)
    ]
    offsets = np.append(0, np.cumsum(1 + has_second)).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, named(codes, names))


def topic_names(num_topics: int) -> tuple[str, ...]:
    """Distinct names of topics."""
    names = [f"{manner} {thing}" for thing, manner in product(THINGS, MANNERS)]
    return tuple(
        names[t % len(names)] + (f" {t // len(names) + 1}" if t >= len(names) else "")
        for t in range(num_topics)
    )


def named(codes: Rows, names: tuple[str, ...]) -> pa.Array:
    """Strings by their codes."""
    column = pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(names))
    return column.cast(pa.string())


def day_ids(numbers: Rows, day: int, world: World, kind: IdKind) -> Rows:
    """External ids of things numbered within a day."""
    return external_ids((np.int64(day) << 32) | numbers, world, kind)


def delays(size: int, rng: np.random.Generator) -> Rows:
    """Milliseconds until events arrive: seconds mostly, hours for some, days for a few."""
    delay = rng.exponential(2_000.0, size)
    kind = rng.random(size)
    late = rng.uniform(DAY_MS / 24, DAY_MS / 2, size)
    very_late = rng.uniform(DAY_MS, 4 * DAY_MS, size)
    delay = np.where(kind < LATE_SHARE, late, delay)
    return np.where(kind < VERY_LATE_SHARE, very_late, delay).astype(np.int64)
