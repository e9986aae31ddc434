"""Log of what was shown, with the features as used: asynchronous, hourly Parquet, bounded.

`<root>/requests/impressions/hour=YYYY-MM-DDTHH/part-*.parquet` has the contract's impression
columns, positions from 0, plus score and predictions; the next day joins the labels.
`<root>/requests/features/hour=...` has one row a request with the encoded history and the user row
that were used. All other features are those of the bundle that `versions` names, which never
changes. Of a root in object storage both lie there alone.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from data.contract import storage
from data.contract.encode import Events
from serve.funnel import Slate
from serve.query import Query
from serve.store import ExternalId

if TYPE_CHECKING:
    from pathlib import Path

    from serve.users import User

log = logging.getLogger(__name__)

FOLDER = "requests"
EXCLUDED = 10  # ids that take the memory of a shown item
# Columns of a history as it was used.
HISTORY = {
    **dict.fromkeys(("item", "action", "surface", "timestamp"), pa.int64()),
    "duration_s": pa.float32(),
}


@dataclass(frozen=True, slots=True)
class Served:
    """One answered request.

    Attributes:
        request_id: as answered.
        query: what was asked, with the user as read for it.
        about_id: external id of the context's item, if it has one.
        item_ids: those of the feed, best first.
        history: the newest events, as many as a model reads.
        history_ids: external ids of their items.
        excluded_ids: those of the items that could not be shown, beside what was seen.
        slate: rows, scores, predictions and sources, aligned.
        versions: of bundle and models.
        arm: the experiment and the arm that the user was in, empty outside of it.
    """

    request_id: int
    query: Query
    about_id: ExternalId | None
    item_ids: Sequence[ExternalId]
    history: Events
    history_ids: Sequence[ExternalId | None]
    excluded_ids: Sequence[ExternalId]
    slate: Slate
    versions: Mapping[str, str]
    arm: tuple[str, str] = ("", "")

    @property
    def user(self) -> User:
        """The user as read for the request."""
        return self.query.user

    @property
    def size(self) -> int:
        """Memory that it takes, in shown items."""
        return len(self.item_ids) + len(self.excluded_ids) // EXCLUDED


class RequestLog:
    """Takes served requests from any thread; another one writes them.

    Args:
        root: the root.
        max_rows: shown items that may wait, `EXCLUDED` excluded ones counting as one; beyond them
            requests are lost and counted.
        count_lost: called with the number of items lost.
    """

    def __init__(self, root: Path, max_rows: int, count_lost: Callable[[int], None]) -> None:
        self._folder = root / FOLDER
        self._max_rows = max_rows
        self._count_lost = count_lost
        self._waiting: list[tuple[Served, tuple[str, ...]]] = []
        self._size = 0
        self._written: list[Path] = []
        self._lock = threading.Lock()

    def add(self, served: Served, actions: tuple[str, ...]) -> None:
        """Queues a request; `actions` name the columns of its predictions."""
        with self._lock:
            if self._size + served.size <= self._max_rows:
                self._waiting.append((served, actions))
                self._size += served.size
                return
        self._count_lost(len(served.item_ids))

    def write(self) -> int:
        """Writes what waits, one file an hour and kind. Gives the number of requests written.

        Raises:
            OSError: the disk refuses; what waited is lost and counted, as it is whatever fails.
            StorageError: the root's storage refuses; the files stay here and are put next time.
        """
        with self._lock:
            waiting, self._waiting, self._size = self._waiting, [], 0
        try:
            self._write_groups(waiting)
        except Exception:
            self._count_lost(sum(len(served.item_ids) for served, _ in waiting))
            raise
        self._put()
        return len(waiting)

    def _put(self) -> None:
        """Takes what was written to where the root lies; no server reads it again."""
        while self._written:
            storage.put(self._written[0])
            if storage.is_mirrored(self._written[0]):
                self._written[0].unlink(missing_ok=True)
            del self._written[0]

    def _write_groups(self, waiting: list[tuple[Served, tuple[str, ...]]]) -> None:
        groups: dict[tuple[str, tuple[str, ...]], list[Served]] = {}
        for served, actions in waiting:
            groups.setdefault((hour_of(served.user.now_ms), actions), []).append(served)
        for (hour, actions), group in groups.items():
            self._write("impressions", hour, impressions(group, actions))
            self._write("features", hour, features(group))

    def _write(self, kind: str, hour: str, table: pa.Table) -> None:
        folder = self._folder / kind / f"hour={hour}"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"part-{uuid.uuid4().hex}.parquet"
        temporary = folder / f".{name}"
        try:
            pq.write_table(table, temporary, compression="zstd")
            temporary.rename(folder / name)
        finally:
            temporary.unlink(missing_ok=True)
        self._written.append(folder / name)


def hour_of(timestamp_ms: int) -> str:
    """The UTC hour of a time, as folders are named."""
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC).strftime("%Y-%m-%dT%H")


def impressions(group: list[Served], actions: tuple[str, ...]) -> pa.Table:
    """One row a shown item, those of a request together, best first."""
    lengths = [len(served.item_ids) for served in group]
    total = sum(lengths)

    def repeated(values: list[Any], kind: pa.DataType | None = None) -> pa.Array:
        return pa.array(values, kind).take(pa.array(np.repeat(np.arange(len(group)), lengths)))

    items = pa.array([item for s in group for item in s.item_ids])
    columns = {
        "request_id": repeated([s.request_id for s in group], pa.int64()),
        "user_id": repeated([s.user.user_id for s in group]),
        "item_id": items,
        "timestamp": repeated([s.user.now_ms for s in group], pa.int64()),
        "surface": repeated([s.query.surface for s in group], pa.string()),
        "context_item_id": repeated([s.about_id for s in group], items.type),
        "position": pa.array([p for n in lengths for p in range(n)], pa.int16()),
        "propensity": _joined([s.slate.propensity for s in group]),
        "source": pa.array([name for s in group for name in s.slate.sources], pa.string()),
        "experiment": repeated([s.arm[0] for s in group], pa.string()),
        "arm": repeated([s.arm[1] for s in group], pa.string()),
        "versions": repeated([orjson.dumps(dict(s.versions)).decode() for s in group]),
        "labels": pa.nulls(total, pa.struct([(action, pa.bool_()) for action in actions])),
        "labels_closed_at": pa.nulls(total, pa.int64()),
        "score": _joined([s.slate.scores for s in group]),
        **{f"prediction.{a}": _predictions(group, at) for at, a in enumerate(actions)},
    }
    return pa.table(columns)


def _joined(arrays: Sequence[npt.NDArray[np.floating[Any]]]) -> pa.Array:
    return pa.array(np.concatenate(arrays).astype(np.float32))


def _predictions(group: list[Served], action: int) -> pa.Array:
    """Probabilities of one action; NaN where the ranker did not run."""
    ranked = [s.slate.predictions.shape[1] > 0 for s in group]
    missing = [np.full(len(s.slate.rows), np.nan, np.float32) for s in group]
    pairs = zip(group, ranked, missing, strict=True)
    return _joined([s.slate.predictions[:, action] if has else none for s, has, none in pairs])


def features(group: list[Served]) -> pa.Table:
    """One row a request: what was asked, the user row and the history as used, oldest first."""
    users = [served.user for served in group]
    items = pa.array([item for served in group for item in served.item_ids]).type
    return pa.table(
        {
            "request_id": pa.array([s.request_id for s in group], pa.int64()),
            "user_id": pa.array([user.user_id for user in users]),
            "user": pa.array([user.row for user in users], pa.int64()),
            "now_ms": pa.array([user.now_ms for user in users], pa.int64()),
            "reference_ms": pa.array([user.reference_ms for user in users], pa.int64()),
            "surface": pa.array([s.query.surface for s in group], pa.string()),
            "context": pa.array([s.query.context.model_dump_json() for s in group], pa.string()),
            "excluded_item_id": pa.array([s.excluded_ids for s in group], pa.list_(items)),
            "versions": pa.array([orjson.dumps(dict(s.versions)).decode() for s in group]),
            "history.item_id": pa.array([s.history_ids for s in group], pa.list_(items)),
            **{
                f"history.{name}": pa.array(
                    [getattr(s.history, name) for s in group], pa.list_(kind)
                )
                for name, kind in HISTORY.items()
            },
        }
    )
