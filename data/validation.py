"""Raw event rows -> checked rows and rejects.

A row with a value that cannot be used is rejected once, with its file, row, column, reason and
value; a column that cannot be used at all stops the job with a `UserError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data import parsing
from data.chunks import FILE, ROW, RawBlock
from data.contract.idspace import hash_ids
from data.contract.schema import DEFAULT_SURFACE, Order
from data.contract.settings import UserError
from data.expressions import columns_of, evaluate, numeric_columns, parse
from data.parsing import Parsed, whole
from data.raw_tables import FileSet
from data.rejects import Inspection
from data.splits import PARTS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DEFAULT_ACTION = "interact"
MOST, FEW = 0.5, 0.05
PADDED = r"^\s*[+-]?0\d+\s*$"
DECIMAL = r"^\s*[+-]?\d+\.\d*\s*$"


@dataclass(frozen=True, slots=True)
class LogForm:
    """What the rows of a log must have.

    Attributes:
        order: what orders a user's events.
        user_type: int64 or string.
        item_type: int64 or string.
        part_column: the log's own column of parts, if the split reads one.
        actions: the known actions, once a log has some; others are rejected then.
    """

    order: Order
    user_type: pa.DataType
    item_type: pa.DataType
    part_column: str | None = None
    actions: tuple[str, ...] | None = None


def id_type(column: pa.Array, name: str) -> pa.DataType:
    """int64 or string, whichever the values of a first block are.

    Numbers that int64 does not hold as they are written, too large or with leading zeros, are text.

    Raises:
        UserError: numbers and other text mixed, or decimal numbers: ids written in two ways.
    """
    if not parsing.is_text(column.type):
        return pa.string() if parsing.beyond_int64(column).any() else pa.int64()
    (refused, _), *_ = parsing.integers(column, name).faults
    decimal = np.asarray(pc.fill_null(pc.match_substring_regex(column, DECIMAL), False))
    size = max(len(column) - column.null_count, 1)
    share = refused.sum() / size
    if decimal.sum() > MOST * size:
        first = _first(column, decimal)
        raise UserError(f"{name} holds decimal numbers, such as {first}; write whole ones")
    if FEW < share < 1 - FEW:
        first = _first(column, refused)
        raise UserError(
            f"{name} holds whole numbers and {share:.0%} other text, such as {first}; "
            "mend the ids, or set source.text_ids=true to read all as text"
        )
    padded = pc.any(pc.match_substring_regex(column, PADDED)).as_py()
    return pa.int64() if share <= FEW and not padded else pa.string()


def _first(column: pa.Array, mask: parsing.Mask) -> str:
    row = int(np.flatnonzero(mask)[0])
    return f"{column[row].as_py()!r} in row {row}"


def wanted_columns(files: FileSet, part_column: str | None) -> list[str]:
    """Their names of all event columns that are read."""
    ours = ["event_id", "user_id", "item_id", "action", "surface", "timestamp", "received_at"]
    names = [files.theirs(name) for name in [*ours, "duration_s", "position"]]
    conditions = {name for text in files.actions.values() for name in columns_of(parse(text))}
    part = [part_column] if part_column else []
    return list(dict.fromkeys([*names, *sorted(conditions), *part]))


def check_events(
    block: RawBlock, files: FileSet, form: LogForm, paths: Sequence[Path]
) -> tuple[pa.Table, pa.Table]:
    """Checks a block of events.

    Returns:
        Checked events (event_id, user_id, item_id, action, surface, timestamp, received_at,
        duration_s, part, sequence, file, row) in order of arrival, and rejects.
    """
    inspection = Inspection.of(block, paths)
    columns = _Columns(inspection, files)
    checked = {
        "event_id": columns.event_ids(),
        "user_id": columns.ids("user_id", form.user_type),
        "item_id": columns.ids("item_id", form.item_type),
        "surface": columns.surfaces(),
        **columns.clock(form.order),
        "duration_s": columns.durations(),
        "part": columns.parts(form.part_column),
        "file": block.rows[FILE],
        "row": block.rows[ROW],
    }
    action, rows = columns.actions(form.actions)
    taken = pa.table(checked).take(pa.array(rows)).append_column("action", action)
    good = taken.filter(pa.array(~inspection.bad[rows]))
    return _unique_ids(good, files, block.rows.column_names), inspection.all_rejects()


def _unique_ids(events: pa.Table, files: FileSet, present: Sequence[str]) -> pa.Table:
    """Ids of events without one, from file and row; of derived actions, from id and action."""
    given = files.theirs("event_id") in present
    if given and not files.actions:
        return events
    names = sorted(files.actions)
    code = np.asarray(
        pc.index_in(events["action"], pa.array(names or [""], pa.string())).fill_null(0)
    )
    if given:
        salt = code.astype(np.int64) * np.int64(0x2545F4914F6CDD1D)
        mixed = hash_ids(pa.array(events["event_id"].to_numpy() ^ salt))
        ids = (mixed >> np.uint64(1)).astype(np.int64)
    else:
        place = (events["file"].to_numpy().astype(np.int64) << 36) + events["row"].to_numpy()
        ids = place * max(len(names), 1) + code
    return events.set_column(events.schema.get_field_index("event_id"), "event_id", pa.array(ids))


@dataclass(slots=True)
class _Columns:
    """The columns of one block by our names, each checked as it is asked for."""

    inspection: Inspection
    files: FileSet

    def _raw(self, ours: str) -> pa.Array | None:
        theirs = self.files.theirs(ours)
        rows = self.inspection.rows
        return whole(rows[theirs]) if theirs in rows.column_names else None

    def _accept(self, ours: str, parsed: Parsed) -> pa.Array:
        return self.inspection.accept(self.files.theirs(ours), parsed)

    def _name(self, ours: str) -> str:
        return f"{self.files.theirs(ours)} of {self.inspection.first_file}"

    @property
    def _num_rows(self) -> int:
        return int(self.inspection.rows.num_rows)

    def event_ids(self) -> pa.Array:
        column = self._raw("event_id")
        if column is None:
            return pa.array(np.zeros(self._num_rows, np.int64))
        return self._accept("event_id", parsing.event_ids(column, self._name("event_id")))

    def ids(self, ours: str, kind: pa.DataType) -> pa.Array:
        column = self._raw(ours)
        assert column is not None
        return self._accept(ours, parsing.ids(column, kind, self._name(ours)))

    def surfaces(self) -> pa.Array:
        column = self._raw("surface")
        if column is None:
            return pa.array(np.full(self._num_rows, DEFAULT_SURFACE))
        return self._accept("surface", parsing.texts(column, self._name("surface")))

    def clock(self, order: Order) -> dict[str, pa.Array]:
        """timestamp, received_at and sequence; zeros for what the log does not have."""
        nothing = pa.array(np.zeros(self._num_rows, np.int64))
        found = {"timestamp": nothing, "received_at": nothing, "sequence": nothing}
        position = self._raw("position")
        if order != "none" and position is not None:
            parsed = parsing.integers(position, self._name("position"))
            found["sequence"] = self._accept("position", parsing.required(parsed, position))
        if order == "clock":
            found["timestamp"] = self._times("timestamp", required=True)
            received = self._times("received_at", required=False)
            found["received_at"] = pc.coalesce(received, found["timestamp"])
        return found

    def _times(self, ours: str, required: bool) -> pa.Array:
        column = self._raw(ours)
        if column is None:
            return pa.nulls(self._num_rows, pa.int64())
        parsed = parsing.times(column, self.files.timestamp_unit, self._name(ours))
        if required:
            parsed = parsing.required(parsed, column)
        return self._accept(ours, parsed)

    def durations(self) -> pa.Array:
        column = self._raw("duration_s")
        if column is None:
            return pa.array(np.zeros(self._num_rows, np.float32))
        parsed = parsing.numbers(column, self._name("duration_s"))
        negative = np.asarray(pc.fill_null(pc.less(parsed.values, 0.0), False))
        values = self._accept("duration_s", parsed.refuse(negative, "negative"))
        return pc.fill_null(values, 0.0).cast(pa.float32(), safe=False)

    def parts(self, column: str | None) -> pa.Array:
        """Codes of `splits.PARTS`."""
        if column is None:
            return pa.array(np.zeros(self._num_rows, np.int8))
        raw = whole(self.inspection.rows[column])
        names = pc.utf8_lower(parsing.texts(raw, column).values)
        at = pc.index_in(names, pa.array(list(PARTS)))
        unknown = np.asarray(at.is_null()) & np.asarray(raw.is_valid())
        parsed = Parsed(at).refuse(unknown, f"not one of {', '.join(PARTS)}")
        place = np.asarray(
            self.inspection.accept(column, parsing.required(parsed, raw)).fill_null(0)
        )
        return pa.array(np.array(list(PARTS.values()), np.int8)[place])

    def actions(self, known: tuple[str, ...] | None) -> tuple[pa.Array, npt.NDArray[np.int64]]:
        """Action names and the rows that they belong to; a row may give none or several."""
        rows = np.arange(self._num_rows)
        if self.files.actions:
            return self._derived_actions()
        column = self._raw("action")
        if column is None:
            return pa.array(np.full(self._num_rows, DEFAULT_ACTION)), rows
        parsed = parsing.texts(column, self._name("action"))
        parsed.refuse(np.asarray(pc.fill_null(pc.equal(parsed.values, ""), False)), "empty")
        if known is not None:
            strange = np.asarray(pc.invert(pc.is_in(parsed.values, pa.array(known))))
            parsed.refuse(strange, f"unknown action; this root has {', '.join(known)}")
        return self._accept("action", parsing.required(parsed, column)), rows

    def _derived_actions(self) -> tuple[pa.Array, npt.NDArray[np.int64]]:
        names = sorted(self.files.actions)
        fulfilled = np.stack([self._fulfilled(name) for name in names], axis=1)
        rows, code = np.nonzero(fulfilled)
        return pa.array(np.array(names)[code], pa.string()), rows

    def _fulfilled(self, name: str) -> npt.NDArray[np.bool_]:
        """Rows of an action; text that is compared with a number and is none is rejected."""
        condition = parse(self.files.actions[name])
        for column in numeric_columns(condition):
            raw = whole(self.inspection.rows[column])
            if parsing.is_text(raw.type):
                self.inspection.accept(column, parsing.numbers(raw, column))
        try:
            return evaluate(condition, self.inspection.rows)
        except UserError as error:
            raise UserError(f"source.actions.{name}={self.files.actions[name]}: {error}") from None


def refuse_unusable(block: RawBlock, files: FileSet, rejects: pa.Table) -> None:
    """Stops when most rows of a first block are rejected for one reason.

    Raises:
        UserError: the column, the reason, a value, and what mends it.
    """
    groups = rejects.group_by(["column", "reason"], use_threads=False).aggregate(
        [(name, "first") for name in ("file", "row", "value")] + [([], "count_all")]
    )
    for row in groups.to_pylist():
        share = row["count_all"] / block.rows.num_rows
        if share >= MOST:
            column, reason, value = row["column"], row["reason"], row["value_first"]
            wrong = rejects.filter((pc.field("column") == column) & (pc.field("reason") == reason))
            raise UserError(
                f"most values of column {column} of {row['file_first']} are unusable: {reason} "
                f"(such as {value!r} in row {row['row_first']}); "
                f"{_remedy(files, wrong, mixed=share < 1 - FEW)}"
            )


def _remedy(files: FileSet, wrong: pa.Table, mixed: bool) -> str:
    """What mends rejects of one column and reason; `mixed` when other rows are good."""
    column, reason = wrong["column"][0].as_py(), wrong["reason"][0].as_py()
    if column != files.theirs("timestamp"):
        conditions = any(column in columns_of(parse(text)) for text in files.actions.values())
        return f"mend it, or {'compare' if conditions else 'name'} another column"
    if reason == "null":
        return "for a log with an order but no clock set source.columns.position=<column>"
    unit = parsing.unit_that_fits(whole(wrong["value"]), files.timestamp_unit)
    if unit is None:
        return "check the column and source.timestamp_unit (ms, s, us or iso)"
    names = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "iso": "ISO 8601 text"}
    if mixed:
        return f"they look like {names[unit]}, other rows do not; write all times in one unit"
    return f"timestamps look like {names[unit]}; set source.timestamp_unit={unit}"
