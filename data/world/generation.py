"""Days of a world from its settings: raw tables for everybody, latents and journal for few."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from data.contract.settings import UserError
from data.world import journal
from data.world.files import Entities, write_part
from data.world.settings import ACTIONS, World, WorldSettings, resolve
from data.world.state import DayLog, WorldState
from data.world.tables import DayTables, day_tables, item_table, user_table

HIDDEN_FOLDER = "latents"  # customary name of the folder that only evaluation opens


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldSummary:
    """What was generated.

    Attributes:
        first_day: First day.
        last_day: Last day.
        events: Rows of the events.
        shown: All impressions, logged or not.
        impressions: Rows of the sampled impression log.
        items: Items created.
        users: Users created.
        boards: Edges between boards and items.
        actions: Events by action.
    """

    first_day: int
    last_day: int
    events: int
    shown: int
    impressions: int
    items: int
    users: int
    boards: int
    actions: Mapping[str, int]


def generate(
    settings: WorldSettings,
    folder: Path,
    latents: Path,
    days: range,
    progress: Callable[[int], None] | None = None,
) -> WorldSummary:
    """Simulates days and writes their raw tables.

    Events and impressions get a part per day; items, users and boards that the days
    bring are appended to `items.parquet`, `users.parquet` and `boards.parquet`.

    Args:
        settings: The world.
        folder: Where the raw tables go.
        latents: Where the journal goes, from which later days and oracles continue.
        days: Consecutive days, from 1 or from at most one after the last recorded day.
        progress: Called with each day when it is done.

    Raises:
        UserError: The days do not follow what is recorded, or that is of another world.
    """
    state = begin(resolve(settings), latents, days)
    counts: Counter[str] = Counter()
    with Entities(folder, days.start) as entities:
        if days.start == 1:
            append_newborn(entities, state, 0)
        for day in days:
            log = state.run_day()
            tables = day_tables(state, log)
            write_part(tables.events, folder / "events", day)
            write_part(tables.impressions, folder / "impressions", day)
            entities.boards.append(tables.boards)
            append_newborn(entities, state, day)
            record(latents, day, log)
            counts.update(day_counts(log, tables))
            if progress is not None:
                progress(day)
        counts.update(
            items=entities.items.num_added,
            users=entities.users.num_added,
            boards=entities.boards.num_added,
        )
    actions = {action: counts.pop(action) for action in ACTIONS}
    return WorldSummary(first_day=days.start, last_day=days[-1], actions=actions, **counts)


def begin(world: World, latents: Path, days: range) -> WorldState:
    """A state at the end of the day before `days`. Raises UserError as `generate` does."""
    if len(days) == 0 or days.step != 1 or days.start < 1:
        raise UserError(f"days must be consecutive and start at 1 or later, not {days}")
    if days.start == 1:
        journal.create(latents, world)
        return WorldState(world)
    journal.check_world(latents, world)
    return WorldState.load(latents, days.start - 1)


def append_newborn(entities: Entities, state: WorldState, day: int) -> None:
    """Writes the items and users created on a day (day 0: all before day 1)."""
    entities.items.append(item_table(state.world, state.population, day))
    entities.users.append(user_table(state.world, state.population, day))


def record(latents: Path, day: int, log: DayLog) -> None:
    """Enters a day into the journal."""
    acted = log.acted
    journal.write_day(latents, day, log.users[acted], log.items[acted], log.positive[acted])


def day_counts(log: DayLog, tables: DayTables) -> Counter[str]:
    """Rows of a day's tables, and its actions by name."""
    counts = Counter({a: int(n) for a, n in zip(ACTIONS, log.labels.sum(axis=0), strict=True)})
    counts["events"] = tables.events.num_rows
    counts["impressions"] = tables.impressions.num_rows
    counts["shown"] = len(log.request)
    return counts
