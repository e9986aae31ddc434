"""The passes over a log, and what each hands to the next; `ray_jobs.prepare` puts them in order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from data.chunks import Chunk, plan
from data.contract.schema import DAY_MS, Calendar, Vocabulary
from data.contract.settings import UserError
from data.dataset import Dataset
from data.enrolment import group_starts
from data.intake import (
    Intake,
    PrepareSettings,
    Tally,
    check_chunk,
    find_duplicates,
    log_form,
    refuse_too_many,
)
from data.raw_tables import FileSet, RawTables, column_names
from data.routing import Routed, Routing, route_block
from data.validation import LogForm
from ray_jobs.preparation.block_tasks import BlockTasks

if TYPE_CHECKING:
    from collections import Counter


@dataclass(frozen=True)
class Preparation:
    """What all passes know.

    Attributes:
        settings: of prepare.
        raw: the tables to read.
        part_column: the log's own column of parts, if the split reads one.
        parent: the data set that is extended, if any.
        folder: the data set being written.
        work: for spilled files.
        rejects: for rejected rows.
        num_cpus: logical CPUs that the whole job needs, if this starts Ray.
    """

    settings: PrepareSettings
    raw: RawTables
    part_column: str | None
    parent: Dataset | None
    folder: Path
    work: Path
    rejects: Path
    num_cpus: int = 0

    @cached_property
    def events(self) -> tuple[Chunk, ...]:
        """The event log, cut into chunks."""
        first = self.parent.details["num_files"] if self.parent else 0
        return tuple(plan(self.raw.events, self.settings.block_rows, first))

    @cached_property
    def impressions(self) -> tuple[Chunk, ...]:
        """The impression log, likewise."""
        return tuple(plan(self.raw.impressions, self.settings.block_rows))

    @cached_property
    def boards(self) -> tuple[Chunk, ...]:
        """The board table, likewise."""
        return tuple(plan(self.raw.boards, self.settings.block_rows))

    @cached_property
    def tasks(self) -> BlockTasks:
        """Where the passes run: a small log is done before Ray's workers have started."""
        rows = sum(chunk.num_rows for chunk in self.events + self.impressions + self.boards)
        small = rows <= self.settings.in_process_rows
        return BlockTasks(0 if small else self.settings.workers, self.num_cpus)

    def refuse_too_many(self, reasons: Counter[str], rows: int) -> None:
        """Raises UserError when more rows of a table were rejected than the settings bear."""
        refuse_too_many(reasons, rows, self.settings.max_reject_share, self.rejects)

    @property
    def event_paths(self) -> tuple[Path, ...]:
        """Event files by number; an extension counts on from the files before."""
        first = self.parent.details["num_files"] if self.parent else 0
        return (Path(),) * first + paths_of(self.raw.events)

    @property
    def known_form(self) -> LogForm | None:
        """What rows must be like to extend the parent."""
        if self.parent is None:
            return None
        ids = self.parent.user_ids.ids.type, self.parent.item_ids.ids.type
        return LogForm(self.parent.order, *ids, self.part_column, self.parent.vocabulary.actions)


def paths_of(sets: tuple[FileSet, ...]) -> tuple[Path, ...]:
    """All files of several sets, in order."""
    return tuple(path for files in sets for path in files.files)


def take_in(preparation: Preparation) -> tuple[LogForm, Tally]:
    """First pass: checks, spills and counts the events.

    Raises:
        UserError: an empty log, an unusable column, too many rejects.
    """
    form = log_form(preparation.raw, preparation.part_column, preparation.known_form)
    if not preparation.events and preparation.parent is None:
        raise UserError(f"the event log {preparation.raw.events[0].name()} is empty")
    intake = Intake(
        chunks=preparation.events,
        paths=preparation.event_paths,
        form=form,
        folder=preparation.work,
        rejects=preparation.rejects,
        block_rows=preparation.settings.block_rows,
    )
    tally = Tally()
    for found in preparation.tasks.run(check_chunk, intake, len(intake.chunks), "check"):
        tally.add(found)
    preparation.refuse_too_many(tally.reasons, tally.rows)
    if not tally.num_events and preparation.parent is None:
        raise UserError(_no_events(preparation.raw.events[0], tally.rows))
    return form, tally


def _no_events(files: FileSet, rows: int) -> str:
    conditions = ", ".join(f"source.actions.{k}={v}" for k, v in files.actions.items())
    why = f"no row fulfils {conditions}" if conditions else "all were rejected"
    return f"none of the {rows} rows of {files.name()} gives an event: {why}"


def mark_duplicates(preparation: Preparation, tally: Tally, first_open_day: int) -> None:
    """Finds events that are there twice, in this log or in the parent's open days."""
    parent, sets = preparation.parent, preparation.raw.events
    if parent is not None or any(s.theirs("event_id") in column_names(s) for s in sets):
        known = _known_files(parent, first_open_day) if parent else []
        find_duplicates(preparation.work, tally.blocks, tally.num_events, known)


def _known_files(parent: Dataset, first_open_day: int) -> list[Path]:
    """Files of the events that new ones may repeat; those of days before come too late anyhow."""
    if parent.calendar is None:
        return parent.undated_files()
    return parent.event_files_since(first_open_day)


def routing_of(
    preparation: Preparation,
    tally: Tally,
    names: Vocabulary,
    calendar: Calendar | None,
    ids: dict[str, Path],
) -> Routing:
    """How the events of a log are divided over timeline files and days."""
    size = preparation.settings.shard_events
    parent = preparation.parent
    late_days = preparation.settings.late_days
    open_day = 1
    if parent is not None and parent.calendar is not None:
        open_day = parent.calendar.num_days - late_days + 1
    return Routing(
        folder=preparation.work,
        rejects=preparation.rejects,
        paths=preparation.event_paths,
        ids=ids,
        actions=names.actions,
        surfaces=names.surfaces,
        calendar=calendar,
        first_open_day=open_day,
        num_shards=parent.details["num_shards"] if parent else -(-tally.num_events // size),
        group_starts=group_starts(_rows_by_day(tally, calendar, parent, open_day), 2 * size),
    )


def _rows_by_day(
    tally: Tally, calendar: Calendar | None, parent: Dataset | None, first_open_day: int
) -> dict[int, int]:
    """Events by day that has new ones, with those of a partition that they reopen."""
    found = events_by_day(tally, calendar)
    if parent is None or parent.calendar is None:
        return found
    open_days = [day for day in found if day >= first_open_day]
    return found | {day: found[day] + parent.events_on(day) for day in open_days}


def events_by_day(tally: Tally, calendar: Calendar | None) -> dict[int, int]:
    """Events by 1-based day."""
    before_first = calendar.first_day_ms // DAY_MS - 1 if calendar else 0
    return {day - before_first: count for day, count in tally.days.items()}


def route(preparation: Preparation, routing: Routing, tally: Tally) -> Routed:
    """Second pass: external ids become rows. Raises UserError on too many rejects."""
    mark_duplicates(preparation, tally, routing.first_open_day)
    routed = Routed()
    blocks = _Blocks(routing, tuple(tally.blocks))
    for found in preparation.tasks.run(_route_numbered, blocks, len(tally.blocks), "route"):
        routed.add(found)
    tally.reasons.update(routed.reasons)
    # Clients post again what was not answered: a next day is not stopped by what it knows already.
    if preparation.parent is None:
        preparation.refuse_too_many(tally.reasons, tally.rows)
    return routed


@dataclass(frozen=True, slots=True)
class _Blocks:
    """The spilled blocks by number."""

    routing: Routing
    names: tuple[str, ...]


def _route_numbered(blocks: _Blocks, number: int) -> Routed:
    return route_block(blocks.routing, blocks.names[number])
