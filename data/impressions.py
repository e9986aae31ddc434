"""The impression log: what was shown, with a label for each action of the vocabulary."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data import parsing
from data.chunks import Chunk, RawBlock, read
from data.contract.settings import UserError
from data.dataset import date_name
from data.exchange import gather, spill
from data.headers import Header, check_alike, headers
from data.intake import reasons_of, write_rejects
from data.parsing import Parsed, whole
from data.raw_tables import FileSet
from data.rejects import Inspection
from data.routing import Routing, codes, open_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

NEEDED = ("request_id", "user_id", "item_id", "timestamp")
OPTIONAL = (
    "surface",
    "context_item_id",
    "position",
    "propensity",
    "source",
    "labels",
    "labels_closed_at",
)
LABEL = "label."
MOST = np.iinfo(np.int16).max


@dataclass(frozen=True, slots=True, kw_only=True)
class ImpressionIntake:
    """What both passes over impressions need to know.

    Attributes:
        chunks: all of the log.
        paths: file name by number.
        routing: of the events of the same log.
        folder: the data set being written.
        partitions: earlier folder of each day, by date.
        block_rows: rows in memory at once.
    """

    chunks: tuple[Chunk, ...]
    paths: tuple[Path, ...]
    routing: Routing
    folder: Path
    partitions: dict[str, Path]
    block_rows: int


@dataclass(slots=True)
class ImpressionTally:
    """Files spilled, rows read and rows rejected, the first position. Merges by `add`."""

    files: list[str] = field(default_factory=list)
    rows: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    first_position: int | None = None

    def add(self, other: ImpressionTally) -> None:
        """Joins the counts of another chunk."""
        self.files += other.files
        self.rows += other.rows
        self.reasons.update(other.reasons)
        known = [p for p in (self.first_position, other.first_position) if p is not None]
        self.first_position = min(known, default=None)


def schema(actions: Sequence[str]) -> pa.Schema:
    """Columns of encoded impressions."""
    fields = [
        ("request_id", pa.int64()),
        ("user", pa.int64()),
        ("item", pa.int32()),
        ("timestamp", pa.int64()),
        ("surface", pa.int16()),
        ("context", pa.int32()),
        ("position", pa.int16()),
        ("propensity", pa.float32()),
        ("source", pa.string()),
        ("labels_closed_at", pa.int64()),
    ]
    return pa.schema([*fields, *((LABEL + action, pa.bool_()) for action in actions)])


def label_names(files: FileSet) -> list[str]:
    """Actions that an impression log has labels for: fields of `labels`, or `label.<action>`.

    Raises:
        UserError: there are none, which would be learnt from as if nobody had liked anything.
    """
    found = headers(files)
    flat = {n: n.removeprefix(LABEL) for h in found for n in h.names if n.startswith(LABEL)}
    check_alike(found, [*flat, files.theirs("labels")])
    fields = {name for header in found for name in _fields(header, files.theirs("labels"))}
    if not flat and not fields:
        raise UserError(
            f"{files.name()} has no labels: add a column label.<action> for each action, true "
            "where it followed, or leave source.impressions out"
        )
    return sorted({*flat.values(), *fields})


def _fields(header: Header, column: str) -> list[str]:
    """Names of the labels in a column of structs. Raises UserError where it is of another type."""
    if column not in header.names:
        return []
    kind = header.schema.field(column).type
    if not pa.types.is_struct(kind):
        raise UserError(
            f"column {column} of {header.file} is {kind}; labels are a struct with true or false "
            "for each action, or a column label.<action> for each"
        )
    return [field.name for field in kind]


def route_impressions(intake: ImpressionIntake, number: int) -> ImpressionTally:
    """Checks and encodes one chunk, and spills it by group of days."""
    chunk, routing = intake.chunks[number], intake.routing
    labels = [LABEL + action for action in routing.actions]
    wanted = [*map(chunk.files.theirs, [*NEEDED, *OPTIONAL]), *labels]
    tally = ImpressionTally()
    for i, block in enumerate(read(chunk, wanted, intake.block_rows)):
        rows, rejects = _checked(intake, chunk.files, block)
        name = f"impressions-{number:05d}-{i:03d}"
        write_rejects(rejects, routing.rejects, name)
        group = routing.group_of(routing.day_of(rows["timestamp"].to_numpy()))
        spill(rows, group, len(routing.group_starts), routing.folder / f"{name}.arrow")
        read_rows = block.rows.num_rows + block.rejects.num_rows
        first = pc.min(rows["position"]).as_py()
        tally.add(ImpressionTally([name], read_rows, reasons_of(rejects), first))
    return tally


def _checked(
    intake: ImpressionIntake, files: FileSet, block: RawBlock
) -> tuple[pa.Table, pa.Table]:
    inspection = Inspection.of(block, intake.paths)
    raw = _Raw(inspection, files)
    routing, rows = intake.routing, {}
    rows["request_id"] = raw.event_ids("request_id")
    spaces = {side: open_ids(routing.ids[side]) for side in ("user", "item")}
    for side, space in spaces.items():
        rows[side] = pa.array(space.lookup(raw.ids(f"{side}_id", space.ids.type)))
    rows["timestamp"] = raw.times("timestamp")
    rows["surface"] = codes(raw.texts("surface"), routing.surfaces)
    about = raw.optional_ids("context_item_id", spaces["item"].ids.type)
    rows["context"] = pa.array(spaces["item"].lookup(about))
    rows["position"] = raw.positions()
    rows["propensity"] = pc.fill_null(raw.numbers("propensity"), 0.0)
    rows["source"] = raw.texts("source").fill_null("")
    rows["labels_closed_at"] = pc.coalesce(raw.times("labels_closed_at"), rows["timestamp"])
    rows |= {LABEL + action: raw.label(action) for action in routing.actions}
    good = pa.array(~inspection.bad)
    kept = pa.table(rows).filter(good).cast(schema(routing.actions), safe=False)
    return kept, inspection.all_rejects()


@dataclass(slots=True)
class _Raw:
    """Columns of a block of impressions by our names; null where a column is not there."""

    inspection: Inspection
    files: FileSet

    def _column(self, ours: str) -> pa.Array:
        theirs, rows = self.files.theirs(ours), self.inspection.rows
        if theirs in rows.column_names:
            return whole(rows[theirs])
        return pa.nulls(rows.num_rows, pa.string())

    def _name(self, ours: str) -> str:
        return f"{self.files.theirs(ours)} of {self.inspection.first_file}"

    def _accept(self, ours: str, parsed: Parsed) -> pa.Array:
        if ours in NEEDED:
            parsed = parsing.required(parsed, self._column(ours))
        return self.inspection.accept(self.files.theirs(ours), parsed)

    def event_ids(self, ours: str) -> pa.Array:
        return self._accept(ours, parsing.event_ids(self._column(ours), self._name(ours)))

    def ids(self, ours: str, kind: pa.DataType) -> pa.Array:
        return self._accept(ours, parsing.ids(self._column(ours), kind, self._name(ours)))

    def optional_ids(self, ours: str, kind: pa.DataType) -> pa.Array:
        parsed = parsing.optional_ids(self._column(ours), kind, self._name(ours))
        return self._accept(ours, parsed)

    def times(self, ours: str) -> pa.Array:
        column = self._column(ours)
        if ours not in NEEDED and column.null_count == len(column):
            return pa.nulls(len(column), pa.int64())
        parsed = parsing.times(column, self.files.timestamp_unit, self._name(ours))
        return self._accept(ours, parsed)

    def texts(self, ours: str) -> pa.Array:
        return self._accept(ours, parsing.texts(self._column(ours), self._name(ours)))

    def numbers(self, ours: str) -> pa.Array:
        return self._accept(ours, parsing.numbers(self._column(ours), self._name(ours)))

    def positions(self) -> pa.Array:
        """Places in a slate; null where unknown."""
        parsed = parsing.numbers(self._column("position"), self._name("position"))
        values = np.asarray(parsed.values.fill_null(0.0))
        parsed.refuse((values < 0) | (values > MOST), f"not between 0 and {MOST}")
        parsed.refuse(np.floor(values) != values, "not a whole number")
        return self._accept("position", parsed)

    def label(self, action: str) -> pa.Array:
        rows = self.inspection.rows
        labels = self.files.theirs("labels")
        if LABEL + action in rows.column_names:
            found = whole(rows[LABEL + action])
        elif labels in rows.column_names and _has_field(rows, labels, action):
            found = pc.struct_field(whole(rows[labels]), action)
        else:
            return pa.array(np.zeros(rows.num_rows, bool))
        try:
            if pa.types.is_floating(found.type):
                found = pc.if_else(pc.is_nan(found), None, found)
            return pc.fill_null(found.cast(pa.bool_()), False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise UserError(
                f"label {action} of {self.inspection.first_file}: {error}; "
                "labels are true or false, or 1 or 0"
            ) from None


def _has_field(rows: pa.Table, name: str, action: str) -> bool:
    kind = rows.schema.field(name).type
    return bool(pa.types.is_struct(kind) and kind.get_field_index(action) >= 0)


def write_impressions(
    intake: ImpressionIntake, files: Sequence[str], first_position: int, group: int
) -> dict[str, int]:
    """Writes the day partitions of one group. Returns rows by date.

    Rows of a request are contiguous, by position, requests by time.

    Args:
        intake: as they were routed.
        files: what was spilled.
        first_position: what the log calls the top of a slate; it is 0 in what is written, as is
            a place that is not known.
        group: of days.
    """
    routing = intake.routing
    assert routing.calendar is not None
    paths = [routing.folder / f"{name}.arrow" for name in files]
    rows = gather(paths, group, schema(routing.actions))
    place = rows.schema.get_field_index("position")
    top = pc.subtract(rows["position"], pa.scalar(first_position, pa.int16()))
    rows = rows.set_column(place, "position", pc.max_element_wise(top, pa.scalar(0, pa.int16())))
    starts = _request_starts(rows)
    day = routing.day_of(starts)
    written = {}
    for number in np.unique(day).tolist():
        date = date_name(routing.calendar.start_ms(number))
        of_day = pa.array(day == number)
        path = intake.folder / "impressions" / f"date={date}" / "part-00000.parquet"
        written[date] = _write_day(rows.filter(of_day), path, intake.partitions.get(date))
    return written


def _request_starts(rows: pa.Table) -> Any:
    """Time of the first row of each row's request, so that no request is cut in two. [N]."""
    _, request = np.unique(rows["request_id"].to_numpy(), return_inverse=True)
    times = rows["timestamp"].to_numpy()
    first = np.full(int(request.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, request, times)
    return first[request]


def _write_day(rows: pa.Table, path: Path, earlier: Path | None) -> int:
    if earlier is not None:
        known = [pq.ParquetFile(file).read() for file in sorted(earlier.glob("part-*.parquet"))]
        rows = pa.concat_tables([*known, rows])
    keys = (rows["position"].to_numpy(), rows["request_id"].to_numpy(), _request_starts(rows))
    order = np.lexsort(keys)
    path.parent.mkdir(parents=True, exist_ok=True)
    ordered = rows.take(pa.array(order[_new(rows, order)]))
    pq.write_table(
        ordered, path, compression="zstd", compression_level=1, use_dictionary=["source"]
    )
    return int(ordered.num_rows)


def _new(rows: pa.Table, order: Any) -> Any:
    """Positions in `order` of rows that do not repeat the row before (request, position, item)."""
    columns = [rows[name].to_numpy()[order] for name in ("request_id", "position", "item")]
    changed = [np.diff(column, prepend=column[:1] - 1) != 0 for column in columns]
    return np.flatnonzero(np.logical_or.reduce(changed))
