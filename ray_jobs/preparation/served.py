"""What a server has shown, as a next day's impressions: taken once their labels are closed.

A request's labels are closed `prepare.label_hours` after it, as told by the newest request that is
logged and the newest event that was posted. Until then it waits for a later day, so none is learnt
from before what followed is known. One hour of requests is in memory at a time, beside the events
posted since the oldest that waits.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.contract import storage
from data.contract.artifact import appearing
from serve.request_log import FOLDER, hour_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from data.dataset import Dataset
    from data.feedback import Attribution

HOUR_MS = 3_600_000
KEYS = ("request_id", "user_id", "item_id", "timestamp")
COLUMNS = (
    *KEYS,
    "surface",
    "context_item_id",
    "position",
    "propensity",
    "source",
)


@dataclass(frozen=True, slots=True)
class Taken:
    """How far a data set has taken what was posted to its root and what was served from it.

    Attributes:
        store_sequence: posted events and items up to this number.
        served_until_ms: requests up to this moment.
        open_sequence: posted events up to this number can label no later request.
    """

    store_sequence: int = 0
    served_until_ms: int = 0
    open_sequence: int = 0

    @classmethod
    def of(cls, details: dict[str, Any]) -> Taken:
        """What the manifest of a data set says; nothing where it says nothing."""
        return cls(**{name: details.get(name, 0) for name in cls.__slots__})


def closed_until(root: Path, label_ms: int, now_ms: int) -> int:
    """The last moment whose requests have closed labels, ms.

    Args:
        root: whose request log.
        label_ms: for how long labels stay open.
        now_ms: a moment that has come, by the server's clock; the log may know of a later one.
    """
    newest = next(filter(_brought, reversed(_hours(root))), None)
    logged = pc.max(_read(newest, ["timestamp"])["timestamp"]).as_py() if newest else 0
    return max(0, max(now_ms, logged) - label_ms)


def write_served(
    root: Path, span: tuple[int, int], attribution: Attribution, dataset: Dataset, path: Path
) -> bool:
    """Writes the requests of a span of time with their labels; whether there are any.

    Args:
        root: whose request log.
        span: after the first moment, up to the second, ms.
        attribution: of the posted events that may label them; it has seen nothing yet.
        dataset: names the labels, and the top of a slate.
        path: of the Parquet file; it appears when it is whole.
    """
    tables = _labelled(root, span, attribution, dataset)
    first = next(tables, None)
    if first is None:
        return False
    with (
        appearing(path) as part,
        pq.ParquetWriter(part, first.schema, compression="zstd") as writer,
    ):
        for table in itertools.chain([first], tables):
            writer.write_table(table)
    return True


def _labelled(
    root: Path, span: tuple[int, int], attribution: Attribution, dataset: Dataset
) -> Iterator[pa.Table]:
    """The requests of the span, an hour at a time, of hours that have any."""
    hours = _within(root, span[0], span[1] + attribution.within_ms)
    for number, folder in enumerate(hours):
        attribution.see(number, _read(folder, KEYS))
    # Later hours were seen for what they take of the events; their own feeds wait.
    for number, folder in enumerate(_until(hours, span[1])):
        shown = _read(folder, COLUMNS)
        table = attribution.labelled(number, shown, dataset.vocabulary.actions)
        position = pc.add(table["position"], pa.scalar(dataset.first_position, pa.int16()))
        table = table.set_column(table.schema.get_field_index("position"), "position", position)
        times = table["timestamp"].to_numpy()
        chosen = table.filter(pa.array((times > span[0]) & (times <= span[1])))
        if chosen.num_rows:
            yield chosen


def _within(root: Path, first_ms: int, last_ms: int) -> list[Path]:
    """Folders from the hour of a moment to that of another, with what they hold."""
    hours = [folder for folder in _hours(root) if _name(first_ms) <= folder.name]
    return [folder for folder in _until(hours, last_ms) if _brought(folder)]


def _until(hours: Sequence[Path], last_ms: int) -> list[Path]:
    return [folder for folder in hours if folder.name <= _name(last_ms)]


def _name(moment_ms: int) -> str:
    return f"hour={hour_of(moment_ms)}"


def _hours(root: Path) -> list[Path]:
    """Folders of the request log's hours in order, whether they lie here or in a storage."""
    log = root / FOLDER / "impressions"
    return [log / name for name in sorted(storage.names(log)) if name.startswith("hour=")]


def _brought(folder: Path) -> bool:
    """Brings an hour here; one that a server was killed in may have no whole file."""
    storage.update(folder)
    return bool(_files(folder))


def _read(folder: Path, columns: Sequence[str]) -> pa.Table:
    return pa.concat_tables(pq.read_table(file, columns=[*columns]) for file in _files(folder))


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))
