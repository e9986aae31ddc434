import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.contract import storage
from data.contract.mirrors import PLACE
from data.contract.schema import IMPRESSION_COLUMNS
from data.contract.storage import StorageError
from serve import request_log
from serve.feed import Feed
from serve.messages import Context, Event, RecommendRequest
from serve.settings import ServeSettings


def files(root: Path, kind: str) -> list[Path]:
    return sorted((root / "requests" / kind).rglob("part-*.parquet"))


def test_shown_items_are_logged_with_the_contracts_columns(
    root: Path, settings: ServeSettings
) -> None:
    feed = Feed(root, settings, background=False)
    answers = [feed.recommend(RecommendRequest(user_id=user, num_items=4)) for user in (3, 999, 7)]
    feed.close()
    (path,) = files(root, "impressions")
    assert path.parent.name == "hour=2026-01-11T00"
    table = pq.read_table(path)
    assert set(IMPRESSION_COLUMNS) <= set(table.column_names)
    assert table["request_id"].to_pylist() == [a.request_id for a in answers for _ in range(4)]
    assert table["user_id"].to_pylist() == [3] * 4 + [999] * 4 + [7] * 4
    assert table["position"].to_pylist() == [0, 1, 2, 3] * 3
    shown = [item for answer in answers for item in answer.items]
    assert table["item_id"].to_pylist() == [item.item_id for item in shown]
    assert table["source"].to_pylist() == [item.source for item in shown]
    saves = [item.predictions["save"] for item in shown]
    np.testing.assert_allclose(table["prediction.save"].to_numpy(), saves, rtol=1e-6)
    assert table["labels"].null_count == 12


def test_what_a_request_was_about_is_logged(feed: Feed, root: Path) -> None:
    known = feed.recommend(RecommendRequest(user_id=3)).items[0].item_id
    about = Context(item_id=known)
    feed.recommend(RecommendRequest(user_id=3, surface="related", context=about, num_items=2))
    feed._log.write()
    (path,) = files(root, "impressions")
    table = pq.read_table(path)
    assert table["context_item_id"].to_pylist() == [None] * 10 + [known] * 2
    assert table.schema.field("context_item_id").type == table.schema.field("item_id").type


def test_the_history_used_is_logged(feed: Feed, root: Path) -> None:
    feed.post_events([Event(user_id=3, item_id=1001, action="click", duration_s=12.5)])
    answer = feed.recommend(RecommendRequest(user_id=3))
    user = feed._switch.funnel.users.read(3, feed.store, 0)
    feed._log.write()
    row = pq.read_table(files(root, "features")[0]).to_pylist()[0]
    assert row["request_id"] == answer.request_id
    assert row["user"] == user.row
    funnel = feed._switch.funnel
    newest = user.events.newest(funnel.bundle.longest_history)
    assert row["history.item_id"] == funnel.catalogue.external(newest.item)
    assert row["history.action"] == newest.action.tolist()
    assert row["history.timestamp"] == newest.timestamp.tolist()
    assert row["history.duration_s"] == newest.duration_s.tolist()
    assert row["history.duration_s"][-1] == 12.5


def test_what_does_not_fit_is_lost_and_counted(root: Path, settings: ServeSettings) -> None:
    bounded = ServeSettings(
        log_rows=15, budget_ms=60_000.0, deadlines_ms=settings.deadlines_ms, clock="log"
    )
    feed = Feed(root, bounded, background=False)
    for _ in range(3):
        feed.recommend(RecommendRequest(user_id=3))
    assert b"homefeed_log_lost_items_total 20.0" in feed.metrics.text()
    feed.close()
    assert sum(pq.read_metadata(f).num_rows for f in files(root, "impressions")) == 10


def test_items_that_requests_exclude_take_room_too(root: Path, settings: ServeSettings) -> None:
    feed = Feed(root, replace(settings, log_rows=15), background=False)
    for _ in range(2):
        feed.recommend(RecommendRequest(user_id=3, num_items=1, exclude=[*range(1000, 1100)]))
    assert b"homefeed_log_lost_items_total 1.0" in feed.metrics.text()
    feed._log.write()
    feed.recommend(RecommendRequest(user_id=3, num_items=1, exclude=[*range(1000, 1100)]))
    assert b"homefeed_log_lost_items_total 1.0" in feed.metrics.text(), "there is room again"
    feed.close()


def test_what_the_disk_refuses_is_lost_and_counted(feed: Feed, root: Path) -> None:
    feed.recommend(RecommendRequest(user_id=3))
    (root / "requests").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="requests"):
        feed._log.write()
    assert b"homefeed_log_lost_items_total 10.0" in feed.metrics.text()
    assert feed._log.write() == 0


def test_what_cannot_be_a_table_is_lost_and_counted(
    feed: Feed, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlike(*_: Any) -> Any:
        return pa.array([1, "one"])

    feed.recommend(RecommendRequest(user_id=3))
    monkeypatch.setattr(request_log, "features", unlike)
    with pytest.raises(pa.ArrowInvalid):
        feed._log.write()
    assert b"homefeed_log_lost_items_total 10.0" in feed.metrics.text()
    monkeypatch.undo()
    assert feed._log.write() == 0


def test_the_log_is_written_by_a_clock_that_never_goes_back(
    feed: Feed, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = time.monotonic()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "monotonic", lambda: now_s + feed.settings.log_seconds)
    feed.recommend(RecommendRequest(user_id=3))
    feed._write_log()
    assert len(files(root, "features")) == 1


def test_what_the_storage_refuses_is_put_with_the_next_that_it_takes(
    feed: Feed, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put: list[Path] = []

    def refuse(path: Path) -> None:
        raise StorageError(f"{path} cannot be written")

    monkeypatch.setattr(storage, "put", refuse)
    feed.recommend(RecommendRequest(user_id=3))
    with pytest.raises(StorageError, match="cannot be written"):
        feed._log.write()
    monkeypatch.setattr(storage, "put", put.append)
    feed._log.write()
    assert sorted(put) == [*files(root, "features"), *files(root, "impressions")]
    feed._log.write()
    assert len(put) == 2


def test_what_is_in_the_storage_is_not_kept_here(
    root: Path, settings: ServeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PLACE, str(tmp_path / "here"))
    mirror = storage.mirror(f"file://{root}")
    feed = Feed(mirror, settings, background=False)
    feed.recommend(RecommendRequest(user_id=3))
    with monkeypatch.context() as patch:
        patch.setattr(storage, "TRIES", ())
        patch.setattr(storage, "_copied_there", lambda *_: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(StorageError, match="full"):
            feed._log.write()
    assert len(files(mirror, "impressions")) == 1
    feed.recommend(RecommendRequest(user_id=3))
    feed.close()
    assert len(files(root, "impressions")) == len(files(root, "features")) == 2
    assert not files(mirror, "impressions")
    assert not files(mirror, "features")


def test_a_file_that_cannot_be_written_whole_is_gone(
    feed: Feed, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(table: Any, file: Path, **_: Any) -> None:
        file.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(pq, "write_table", fail)
    feed.recommend(RecommendRequest(user_id=3))
    with pytest.raises(OSError, match="no space left"):
        feed._log.write()
    assert [f for f in (root / "requests").rglob("*") if f.is_file()] == []


def test_an_unranked_feed_is_logged_without_predictions(feed: Feed, root: Path) -> None:
    feed._switch.funnel.ranking.ranker = None
    feed.recommend(RecommendRequest(user_id=3))
    feed._log.write()
    table = pq.read_table(files(root, "impressions")[0])
    assert np.isnan(table["prediction.save"].to_numpy()).all()


def test_logging_can_be_switched_off(root: Path) -> None:
    feed = Feed(root, ServeSettings(log_requests=False), background=False)
    feed.recommend(RecommendRequest(user_id=3))
    feed.close()
    assert not (root / "requests").exists()
