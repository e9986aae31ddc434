"""Where the log comes from: the built-in world, any tables, or the original MovieLens files."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from data import movielens
from data.contract.schema import EVENT_COLUMNS, Order, Polarity
from data.contract.settings import UserError
from data.expressions import parse
from data.raw_tables import (
    ROLES,
    FeatureOverride,
    FileSet,
    RawTables,
    TextLayout,
    TimestampUnit,
    column_names,
    expand,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

IMPRESSION_COLUMNS = ("context_item_id", "propensity", "source", "labels", "labels_closed_at")
OURS = (*EVENT_COLUMNS, "position", "created_at", "weight", *IMPRESSION_COLUMNS)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """Where the log comes from.

    Attributes:
        kind: the built-in world, tables of your own, or original MovieLens files.
        events: event log of kind=table: a Parquet or CSV file, a folder, a glob, or its URI.
        impressions: impression log, likewise; may be left out.
        items: item table, likewise.
        users: user table, likewise.
        boards: edges between boards and items, likewise: board_id, item_id and, where known,
            timestamp and weight (above 0).
        content: table with item_id and one vector column, joined as the feature "content".
        path: folder, or its URI, of an original MovieLens set (ml-100k, ml-1m, ml-20m and later).
        columns: our column name -> the name in your files; position names what orders a log
            without a clock.
        timestamp_unit: unit of all times in your files.
        actions: action name -> condition on the columns of a row, such as rating>=4; a row gives
            one event for each condition that it fulfils.
        polarity: action -> positive, negative or neutral (hide, dislike, report and the like are
            negative, all others positive).
        features: item or user column -> kind, where the detected one is not wanted.
        text_ids: ids of users and items are text, also where they look like numbers.
    """

    kind: Literal["world", "table", "movielens"] = "world"
    events: str | None = None
    impressions: str | None = None
    items: str | None = None
    users: str | None = None
    boards: str | None = None
    content: str | None = None
    path: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    timestamp_unit: TimestampUnit = "ms"
    actions: dict[str, str] = field(default_factory=dict)
    polarity: dict[str, Polarity] = field(default_factory=dict)
    features: dict[str, FeatureOverride] = field(default_factory=dict)
    text_ids: bool = False

    def __post_init__(self) -> None:
        if self.kind == "table" and self.events is None:
            raise ValueError("source.kind=table needs source.events=<file, folder or glob>")
        if self.kind == "movielens" and self.path is None:
            raise ValueError("source.kind=movielens needs source.path=<folder of the set>")


def locate(settings: SourceSettings) -> RawTables:
    """Finds the raw tables of kind=table and movielens (the world's: `world_tables`).

    Raises:
        UserError: a file is missing, a mapping has no effect, or an action's condition is not
            understood.
    """
    for action, condition in settings.actions.items():
        _refuse_condition(action, condition)
    if settings.kind == "movielens":
        sets = movielens.file_sets(settings.path or "", settings.actions)
        order: Order = "clock"
    else:
        sets = {role: _file_sets(settings, role) for role in ROLES}
        if not column_names(sets["events"][0]):
            raise UserError(
                f"source.events={settings.events}: {sets['events'][0].name()} is empty; "
                "its first line must name the columns"
            )
        _refuse_mapping(settings.columns, sets)
        order = _order(settings, sets["events"][0])
    located = RawTables.of(order, sets)
    return replace(
        located,
        polarity=settings.polarity,
        features=settings.features,
        text_ids=settings.text_ids,
    )


def _refuse_condition(action: str, condition: str) -> None:
    try:
        parse(condition)
    except UserError as error:
        raise UserError(f"source.actions.{action}: {error}") from None


def _refuse_mapping(columns: Mapping[str, str], sets: Mapping[str, tuple[FileSet, ...]]) -> None:
    """Refuses a mapping without effect, which would pass for a column that is not there."""
    present = {role: column_names(files[0]) for role, files in sets.items() if files}
    everywhere = sorted(set().union(*present.values()))
    attributes = {*present.get("items", ()), *present.get("users", ())}
    for ours, theirs in columns.items():
        if theirs not in everywhere:
            near = difflib.get_close_matches(theirs, everywhere, 1, 0.6)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise UserError(
                f"source.columns.{ours}={theirs}: no table has the column {theirs}{hint}; "
                f"{sets['events'][0].name()} has {', '.join(present['events'])}"
            )
        if ours not in OURS and (theirs in OURS or theirs not in attributes):
            raise UserError(
                f"source.columns.{ours}={theirs} has no effect: {ours} is no column of ours; "
                f"they are {', '.join(OURS)}{_nearest(ours)}"
            )


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, OURS, 1, 0.6)
    return f"; did you mean source.columns.{near[0]}?" if near else ""


def _file_sets(settings: SourceSettings, role: str) -> tuple[FileSet, ...]:
    pattern = getattr(settings, role)
    if pattern is None:
        return ()
    files = expand(pattern, f"source.{role}")
    actions = settings.actions if role == "events" else {}
    delimiter = "\t" if files[0].suffix.lower() == ".tsv" else ","
    return (
        FileSet(
            files=files,
            columns=settings.columns,
            timestamp_unit=settings.timestamp_unit,
            actions=actions,
            text=TextLayout(delimiter=delimiter),
        ),
    )


def _order(settings: SourceSettings, events: FileSet) -> Order:
    named = "timestamp" in settings.columns
    if "position" in settings.columns:
        return "clock" if named else "position"
    return "clock" if named or "timestamp" in column_names(events) else "none"


def world_tables(folder: Path) -> RawTables:
    """The tables of a world artefact. Raises UserError when they are not there."""

    def files(name: str) -> tuple[FileSet, ...]:
        found = sorted((folder / name).rglob("*.parquet")) + sorted(folder.glob(f"{name}*.parquet"))
        return (FileSet(files=tuple(found)),) if found else ()

    sets = {role: files(role) for role in ROLES}
    if not sets["events"]:
        raise UserError(f"{folder} holds no events of the world; generate it again")
    return RawTables.of("clock", sets)
