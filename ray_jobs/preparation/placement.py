"""Third pass over a log: what is written where, and what a next day takes over unchanged."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.boards import BoardIntake, write_boards
from data.contract.settings import UserError
from data.enrolment import group_starts
from data.impressions import (
    ImpressionIntake,
    ImpressionTally,
    route_impressions,
    write_impressions,
)
from data.partitions import Placement, timeline_name, write_days, write_shard
from data.splits import PARTS
from ray_jobs.engine.links import link
from ray_jobs.preparation.passes import Preparation, events_by_day, paths_of

if TYPE_CHECKING:
    from pathlib import Path

    from data.dataset import Dataset
    from data.intake import Tally
    from data.routing import Routed, Routing


def place(
    preparation: Preparation, routing: Routing, routed: Routed, tally: Tally
) -> dict[str, int]:
    """Third pass: writes timelines and day partitions. Returns rows by date."""
    parent = preparation.parent
    placement = Placement(
        routing=routing,
        blocks=tuple(tally.blocks),
        folder=preparation.folder,
        parts=tuple(parts_of(preparation, tally)),
        timelines=_timelines(parent, routing.num_shards) if parent else {},
        partitions=parent.partition_folders("events") if parent else {},
        first_part=len(parent.undated_files()) if parent and parent.calendar is None else 0,
    )
    shards = tuple(s for s in range(routing.num_shards) if routed.shards[s] or parent is None)
    if parent is not None:
        untouched = set(range(routing.num_shards)) - set(shards)
        _keep(parent, preparation.folder, untouched)
    work = _Places(placement, shards, _groups(routing, routed))
    rows: dict[str, int] = {}
    for written in preparation.tasks.run(_place, work, work.count, "write"):
        rows |= written
    return rows


def _groups(routing: Routing, routed: Routed) -> tuple[int, ...]:
    if routing.calendar is None:
        return tuple(range(routing.num_shards))
    days = np.array(sorted(routed.days), np.int64)
    return tuple(np.unique(routing.group_of(days)).tolist())


def _timelines(parent: Dataset, num_shards: int) -> dict[int, Path]:
    folder = parent.artifact.path / "timelines"
    return {shard: folder / timeline_name(shard) for shard in range(num_shards)}


@dataclass(frozen=True, slots=True)
class _Places:
    """Shards, then groups of days, by one number."""

    placement: Placement
    shards: tuple[int, ...]
    groups: tuple[int, ...]

    @property
    def count(self) -> int:
        return len(self.shards) + len(self.groups)


def _place(work: _Places, number: int) -> dict[str, int]:
    if number < len(work.shards):
        write_shard(work.placement, work.shards[number])
        return {}
    return write_days(work.placement, work.groups[number - len(work.shards)])


def _keep(parent: Dataset, folder: Path, shards: set[int]) -> None:
    """Links the files that the new rows do not change."""
    timelines = _timelines(parent, max(shards, default=-1) + 1)
    for file in [timelines[shard] for shard in sorted(shards)] + parent.undated_files():
        link(file, folder / file.relative_to(parent.artifact.path))


def parts_of(preparation: Preparation, tally: Tally) -> list[str]:
    """Parts that the log names. Raises UserError when nothing is left to report on."""
    if preparation.part_column is None:
        return []
    codes = {code: name for name, code in reversed(PARTS.items())}
    found = {codes[code] for code in tally.names.get("part", set())}
    if preparation.parent is not None:
        found |= set(preparation.parent.details["parts"])
    if "train" not in found or len(found) < 2:
        raise UserError(
            f"split.column={preparation.part_column} names only {', '.join(sorted(found))}; "
            "it must have train and valid or test rows"
        )
    return sorted(found)


@dataclass(frozen=True, slots=True)
class PlacedImpressions:
    """What was written.

    Attributes:
        rows: by date.
        first_position: what the log calls the top of a slate, 0 or 1.
    """

    rows: dict[str, int]
    first_position: int


def place_impressions(
    preparation: Preparation, routing: Routing, tally: Tally
) -> PlacedImpressions:
    """Both passes over the impressions. Raises UserError on many rejects."""
    parent = preparation.parent
    if not preparation.impressions:
        return PlacedImpressions({}, parent.first_position if parent else 0)
    if routing.calendar is None:
        raise UserError("an impression log needs a log with a clock; leave source.impressions out")
    routing = _finer(preparation, routing, tally)
    intake = ImpressionIntake(
        chunks=preparation.impressions,
        paths=paths_of(preparation.raw.impressions),
        routing=routing,
        folder=preparation.folder,
        partitions=parent.partition_folders("impressions") if parent else {},
        block_rows=preparation.settings.block_rows,
    )
    found = ImpressionTally()
    tasks = preparation.tasks
    for part in tasks.run(route_impressions, intake, len(intake.chunks), "route impressions"):
        found.add(part)
    tally.reasons.update(found.reasons)
    preparation.refuse_too_many(found.reasons, found.rows)
    first = parent.first_position if parent else int(found.first_position == 1)
    work = _ImpressionFiles(intake, tuple(found.files), first)
    rows: dict[str, int] = {}
    for written in tasks.run(
        _place_impressions, work, len(routing.group_starts), "write impressions"
    ):
        rows |= written
    return PlacedImpressions(rows, first)


def _finer(preparation: Preparation, routing: Routing, tally: Tally) -> Routing:
    """Groups of fewer days, as much as there are more impressions than events."""
    num_impressions = sum(chunk.num_rows for chunk in preparation.impressions)
    share = min(tally.num_events / num_impressions, 1.0)
    size = int(2 * preparation.settings.shard_events * share)
    days = events_by_day(tally, routing.calendar)
    return dataclasses.replace(routing, group_starts=group_starts(days, size))


@dataclass(frozen=True, slots=True)
class _ImpressionFiles:
    """Spilled impressions."""

    intake: ImpressionIntake
    files: tuple[str, ...]
    first_position: int


def _place_impressions(work: _ImpressionFiles, group: int) -> dict[str, int]:
    return write_impressions(work.intake, work.files, work.first_position, group)


def place_boards(preparation: Preparation, routing: Routing, tally: Tally) -> None:
    """Encodes the edges of boards beside the parent's. Raises UserError on too many rejects."""
    parent, folder = preparation.parent, preparation.folder / "boards"
    earlier = sorted((parent.artifact.path / "boards").glob("part-*.parquet")) if parent else []
    for file in earlier:
        link(file, folder / file.name)
    if not preparation.boards:
        return
    folder.mkdir(exist_ok=True)
    intake = BoardIntake(
        chunks=preparation.boards,
        paths=paths_of(preparation.raw.boards),
        item_ids=routing.ids["item"],
        folder=folder,
        first_part=len(earlier),
        rejects=preparation.rejects,
        block_rows=preparation.settings.block_rows,
        dated=routing.calendar is not None,
    )
    num_rows, rejected = 0, Counter[str]()
    for rows, reasons in preparation.tasks.run(write_boards, intake, len(intake.chunks), "boards"):
        num_rows += rows
        rejected.update(reasons)
    tally.reasons.update(rejected)
    preparation.refuse_too_many(rejected, num_rows)
