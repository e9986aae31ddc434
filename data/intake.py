"""First pass over a log: check each chunk, spill what is good, count ids; then find duplicates."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.admission import count_ids, merge_counts
from data.chunks import Chunk, RawBlock, plan, read
from data.contract import storage
from data.contract.schema import DAY_MS, Order
from data.contract.settings import Count, NonNegative, Positive, Share, UserError
from data.exchange import read_table, write_table
from data.expressions import columns_of, parse
from data.headers import check_alike, check_columns, check_ids, check_named, check_types, headers
from data.parsing import whole
from data.validation import LogForm, check_events, id_type, refuse_unusable, wanted_columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from data.raw_tables import FileSet, RawTables

PROBE_ROWS = 1 << 15
DUPLICATE_IDS = 1 << 22
KNOWN_ROWS = 1 << 19


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareSettings:
    """How a log is prepared.

    Attributes:
        max_reject_share: the job stops when more of the rows than this cannot be used.
        late_days: newest days of the log that events arriving later may still join.
        workers: Ray Data tasks at a time.
        in_process_rows: logs up to this size are prepared in the job's own process, where that is
            quicker than starting Ray's workers; 0 never samples or embeds there either.
        block_rows: rows that a task holds at once.
        label_hours: time after which the labels of what was served are closed, so that a next day
            takes it as impressions.
        shard_events: events in a file of timelines, about; fixed when a root is first prepared.
    """

    max_reject_share: Share = 0.05
    late_days: NonNegative = 3
    workers: Count = 2
    in_process_rows: NonNegative = 5_000_000
    block_rows: Count = 1 << 18
    label_hours: Positive = 24.0
    shard_events: Count = 500_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """What the first pass needs to know.

    Attributes:
        chunks: all of the log.
        paths: file name by number.
        form: what rows must have.
        folder: where good rows are spilled.
        rejects: where bad ones are written.
        block_rows: rows in memory at once.
    """

    chunks: tuple[Chunk, ...]
    paths: tuple[Path, ...]
    form: LogForm
    folder: Path
    rejects: Path
    block_rows: int


@dataclass(slots=True)
class Tally:
    """What was found in a part of the log. Merges by `add`; plain values, so that it travels.

    Attributes:
        blocks: names of the spilled blocks.
        rows: rows read.
        reasons: rejected rows by column and reason.
        days: events by day since 1970.
        names: values seen of action, surface and part.
    """

    blocks: list[str] = field(default_factory=list)
    rows: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    days: Counter[int] = field(default_factory=Counter)
    names: dict[str, set[Any]] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        """Joins what another part found."""
        self.blocks += other.blocks
        self.rows += other.rows
        self.reasons.update(other.reasons)
        self.days.update(other.days)
        for name, values in other.names.items():
            self.names[name] = self.names.get(name, set()) | values

    @property
    def num_events(self) -> int:
        """Good events."""
        return self.days.total()

    @property
    def num_rejected(self) -> int:
        """Rejected rows."""
        return self.reasons.total()


def refuse_too_many(reasons: Counter[str], rows: int, max_share: float, folder: Path) -> None:
    """Raises UserError when more of the rows than `max_share` were rejected."""
    rejected = reasons.total()
    if rejected > max_share * max(rows, 1):
        worst = "; ".join(f"{reason}: {n}" for reason, n in reasons.most_common(3))
        raise UserError(
            f"{rejected} of {rows} rows were rejected, more than "
            f"prepare.max_reject_share={max_share} ({worst}){_example(folder)}; "
            f"they are listed in {storage.uri_of(folder)}"
        )


def _example(folder: Path) -> str:
    """Where the first rejected row is."""
    files = sorted(folder.glob("part-*.parquet"))
    if not files:
        return ""
    row = pq.read_table(files[0]).slice(0, 1).to_pylist()[0]
    column = f"{row['column']}={row['value']!r}" if row["column"] else row["reason"]
    return f", such as {row['file']} row {row['row']}: {column}"


def log_form(raw: RawTables, part_column: str | None, known: LogForm | None) -> LogForm:
    """Finds out what the rows of a log are like, from its columns and its first rows.

    Args:
        raw: the tables.
        part_column: column of the split, if it reads one.
        known: the form of the log that these rows extend.

    Raises:
        UserError: ids of two kinds, or most values of a column are unusable.
    """
    form = known or LogForm(raw.order, pa.int64(), pa.int64(), part_column)
    chunks = plan(raw.events[:1], PROBE_ROWS)
    if known or not chunks:
        return form
    first = raw.events[0]
    probe = next(read(chunks[0], wanted_columns(first, part_column), PROBE_ROWS))
    user, item = (_id_type(raw, probe, name) for name in ("user_id", "item_id"))
    form = LogForm(raw.order, user, item, part_column)
    _, rejects = check_events(probe, first, form, first.files)
    refuse_unusable(probe, first, rejects)
    return form


def _id_type(raw: RawTables, probe: RawBlock, ours: str) -> pa.DataType:
    files = raw.events[0]
    name = files.theirs(ours)
    if raw.text_ids:
        return pa.string()
    return id_type(whole(probe.rows[name]), f"column {name} of {files.name()}")


def check_headers(raw: RawTables, order: Order, part_column: str | None, extends: bool) -> None:
    """Refuses an event log by its headers alone.

    Args:
        raw: the tables.
        order: what orders the log.
        part_column: column of the split, if it reads one.
        extends: whether the rows extend a log; posted ones need no position.

    Raises:
        UserError: a column is missing, of no use, or of different types in two files.
    """
    for files in raw.events:
        check_columns(files, _needed(order, files, extends))
        found = headers(files)
        check_named(found, _named(files, part_column))
        check_ids(found, [files.theirs("user_id"), files.theirs("item_id")])
        check_alike(found, [files.theirs("action"), files.theirs("event_id")])
        check_types(found, wanted_columns(files, part_column))


def _needed(order: Order, files: FileSet, extends: bool) -> list[str]:
    needed = ["user_id", "item_id"]
    if order == "clock" or "timestamp" in files.columns:
        needed.append("timestamp")
    if order == "position" and not extends:
        needed.append("position")
    return needed


def _named(files: FileSet, part_column: str | None) -> dict[str, str]:
    """Columns that settings name, with the setting."""
    named = {
        column: f"source.actions.{action}={text}"
        for action, text in files.actions.items()
        for column in sorted(columns_of(parse(text)))
    }
    return named | ({part_column: f"split.column={part_column}"} if part_column else {})


def check_chunk(intake: Intake, number: int) -> Tally:
    """Checks one chunk and spills its blocks, id counts and rejects."""
    chunk = intake.chunks[number]
    columns = wanted_columns(chunk.files, intake.form.part_column)
    tally = Tally()
    for i, block in enumerate(read(chunk, columns, intake.block_rows)):
        name = f"{number:05d}-{i:03d}"
        events, rejects = check_events(block, chunk.files, intake.form, intake.paths)
        _spill(intake.folder, name, events)
        write_rejects(rejects, intake.rejects, f"events-{name}")
        tally.add(_tally(name, events, rejects, block.rows.num_rows + block.rejects.num_rows))
    return tally


def _spill(folder: Path, name: str, events: pa.Table) -> None:
    write_table(_coded(events), folder / f"events-{name}.arrow")
    for side in ("user", "item"):
        counts = count_ids(events[f"{side}_id"], events["timestamp"])
        write_table(counts, folder / f"{side}-{name}.arrow")


def _coded(events: pa.Table) -> pa.Table:
    """Strings that repeat as dictionaries."""
    for name in ("action", "surface"):
        at = events.schema.get_field_index(name)
        events = events.set_column(at, name, whole(events[name]).dictionary_encode())
    return events


def _tally(name: str, events: pa.Table, rejects: pa.Table, rows: int) -> Tally:
    day, count = np.unique(events["timestamp"].to_numpy() // DAY_MS, return_counts=True)
    seen = {key: set(pc.unique(events[key]).to_pylist()) for key in ("action", "surface", "part")}
    days = Counter(dict(zip(day.tolist(), count.tolist(), strict=True)))
    return Tally([name], rows, reasons_of(rejects), days, seen)


def reasons_of(rejects: pa.Table) -> Counter[str]:
    """Rejected rows by column and reason."""
    reasons = zip(rejects["column"].to_pylist(), rejects["reason"].to_pylist(), strict=True)
    return Counter(f"{column} {reason}".strip() for column, reason in reasons)


def write_rejects(rejects: pa.Table, folder: Path, name: str) -> None:
    """Writes rejected rows, if there are any."""
    if rejects.num_rows:
        pq.write_table(rejects, folder / f"part-{name}.parquet")


def merged_ids(folder: Path, blocks: Sequence[str], side: str, kind: pa.DataType) -> pa.Table:
    """Counts of the users or items of all blocks."""
    return merge_counts((read_table(folder / f"{side}-{name}.arrow") for name in blocks), kind)


def find_duplicates(
    folder: Path, blocks: Sequence[str], num_events: int, known: Sequence[Path]
) -> int:
    """Marks events whose id was there before, in an earlier row or in the files of `known`.

    New ids are looked at in slices by their low bits, so 4 million are in memory at once; of the
    known ones, which are read once for each slice, those that are new again. The rows to drop are
    written beside the block, as `drop-<block>.npy`.

    Args:
        folder: where the blocks were spilled.
        blocks: their names, in order of arrival.
        num_events: rows in all of them.
        known: Parquet files of encoded events.

    Returns:
        How many there are.
    """
    drops: dict[str, list[npt.NDArray[np.int64]]] = {}
    num_slices = num_events // DUPLICATE_IDS + 1
    for part in range(num_slices):
        for name, rows in _repeated(folder, blocks, (part, num_slices), known):
            drops.setdefault(name, []).append(rows)
    for name, parts in drops.items():
        np.save(folder / f"drop-{name}.npy", np.sort(np.concatenate(parts)))
    return sum(len(rows) for parts in drops.values() for rows in parts)


def _repeated(
    folder: Path, blocks: Sequence[str], part: tuple[int, int], files: Sequence[Path]
) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """Rows of each block whose id occurred before, among the ids of one slice."""
    at = [_slice_rows(folder, name, *part) for name in blocks]
    new = np.concatenate([np.zeros(0, np.int64), *(found for found, _ in at)])
    known = _known(files, np.unique(new))
    ids = np.concatenate([known, new])
    _, first = np.unique(ids, return_index=True)
    again = np.ones(len(ids), bool)
    again[first] = False
    if not again[len(known) :].any():
        return
    ends = len(known) + np.cumsum([len(found) for found, _ in at])
    for name, (found, rows), end in zip(blocks, at, ends.tolist(), strict=True):
        mask = again[end - len(found) : end]
        if mask.any():
            yield name, rows[mask]


def _slice_rows(
    folder: Path, name: str, part: int, num_slices: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    ids = read_table(folder / f"events-{name}.arrow")["event_id"].to_numpy()
    rows = np.flatnonzero(ids % num_slices == part)
    return ids[rows], rows


def _known(files: Sequence[Path], ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Those of some ids, ascending, that files of encoded events have."""
    found = [ids[:0]]
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(KNOWN_ROWS, columns=["event_id"]):
                there = batch["event_id"].to_numpy()
                found.append(there[np.isin(there, ids)])
    return np.concatenate(found)
