"""Of a request log in object storage a next day reads what it needs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.contract import storage
from data.contract.mirrors import PLACE
from data.feedback import Attribution
from ray_jobs.preparation.served import HOUR_MS, closed_until, write_served
from serve.request_log import FOLDER, hour_of

NOW_MS = 490_000 * HOUR_MS
DATASET: Any = SimpleNamespace(vocabulary=SimpleNamespace(actions=("save",)), first_position=0)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty mirror of a storage with a request in each of eight hours."""
    for hour in range(8):
        for kind in ("impressions", "features"):
            log(tmp_path / "remote" / FOLDER / kind, hour)
    monkeypatch.setenv(PLACE, str(tmp_path / "here"))
    return storage.mirror(f"file://{tmp_path}/remote")


def log(kind: Path, hour: int) -> None:
    folder = kind / f"hour={hour_of(NOW_MS + hour * HOUR_MS)}"
    folder.mkdir(parents=True)
    columns = {
        "request_id": [hour],
        "user_id": [1],
        "item_id": [9],
        "timestamp": [NOW_MS + hour * HOUR_MS],
        "surface": ["home"],
        "context_item_id": pa.nulls(1, pa.int64()),
        "position": pa.array([0], pa.int16()),
        "propensity": pa.array([1.0], pa.float32()),
        "source": ["two_tower"],
    }
    pq.write_table(pa.table(columns), folder / "part-a.parquet")


def fetched(root: Path) -> list[tuple[str, int]]:
    """Kind and hour of what lies in the mirror."""
    known = {f"hour={hour_of(NOW_MS + hour * HOUR_MS)}": hour for hour in range(8)}
    files = (root / FOLDER).rglob("part-*.parquet")
    return sorted((file.parts[-3], known[file.parts[-2]]) for file in files)


def events() -> pa.Table:
    names = ("request_id", "user_id", "item_id", "timestamp")
    columns = {name: pa.array(np.zeros(0, np.int64)) for name in names}
    return pa.table({**columns, "action": pa.array([], pa.string())})


def test_a_day_fetches_the_impressions_of_its_hours(root: Path, tmp_path: Path) -> None:
    span = (NOW_MS + 2 * HOUR_MS, NOW_MS + 4 * HOUR_MS)
    path = tmp_path / "impressions.parquet"
    assert write_served(root, span, Attribution(events(), HOUR_MS), DATASET, path)
    assert pq.read_table(path)["request_id"].to_pylist() == [3, 4]
    assert fetched(root) == [("impressions", hour) for hour in (2, 3, 4, 5)]


def test_the_newest_request_is_found_in_the_last_hour_that_has_one(
    root: Path, tmp_path: Path
) -> None:
    later = tmp_path / "remote" / FOLDER / "impressions" / f"hour={hour_of(NOW_MS + 9 * HOUR_MS)}"
    later.mkdir()
    assert closed_until(root, HOUR_MS, 0) == NOW_MS + 6 * HOUR_MS
    assert fetched(root) == [("impressions", 7)]


def test_what_was_posted_later_closes_labels_too(root: Path) -> None:
    assert closed_until(root, HOUR_MS, NOW_MS + 20 * HOUR_MS) == NOW_MS + 19 * HOUR_MS


def test_where_nothing_is_logged_only_what_was_posted_closes(tmp_path: Path, root: Path) -> None:
    for log in (storage.mirror(f"file://{tmp_path}/empty"), tmp_path / "here too"):
        assert closed_until(log, HOUR_MS, 0) == 0
        assert closed_until(log, HOUR_MS, NOW_MS) == NOW_MS - HOUR_MS
