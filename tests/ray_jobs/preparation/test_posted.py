"""A next day takes what was posted and what was served, once its labels are closed."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.contract import storage
from data.contract.artifact import Draft, current, point
from data.contract.schema import DAY_MS
from data.contract.settings import UserError
from data.dataset import Dataset
from data.sources import locate
from ray_jobs.engine.job import Job, start
from ray_jobs.preparation import posted, posted_table
from ray_jobs.preparation.posted import (
    NEXT_DAY_FILE,
    Yesterday,
    archive_taken,
    bundles_in_use,
    new_tables,
)
from ray_jobs.preparation.served import Taken
from ray_jobs.prepare import prepare
from ray_jobs.train import learns_from_impressions
from serve.lmdb_store import FOLDER as STORE
from serve.lmdb_store import LmdbStore
from serve.replicas import Replicas
from serve.request_log import FOLDER, hour_of
from serve.stores import open_store

FIRST_MS, DAYS, HOUR_MS = 20_000 * DAY_MS, 30, 3_600_000
NOW_MS = FIRST_MS + DAYS * DAY_MS  # the first moment after the log
ACTIONS = ("hide", "save")
KINDS = ("dataset",)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return log(tmp_path)


def log(folder: Path, root: str | None = None) -> Job:
    """A root, by default in a folder, whose log is a month of two users, without impressions."""
    times = FIRST_MS + np.arange(DAYS) * DAY_MS
    columns = {
        "user_id": 1 + np.arange(DAYS) % 2,
        "item_id": np.arange(DAYS),
        "action": [ACTIONS[day % 2] for day in range(DAYS)],
        "timestamp": times,
    }
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / "events.parquet")
    words = (f"root={root or folder / 'root'}", "source.kind=table", "prepare.late_days=9")
    job = start([*words, f"source.events={folder / 'events.parquet'}"])
    prepare(job, locate(job.settings.source))
    return job


def serve(root: Path, request: int, now_ms: int, *items: int) -> None:
    """A feed as the server logs it."""
    folder = root / FOLDER / "impressions" / f"hour={hour_of(now_ms)}"
    folder.mkdir(parents=True, exist_ok=True)
    count = len(items)
    columns = {
        "request_id": np.full(count, request),
        "user_id": np.ones(count, np.int64),
        "item_id": np.array(items),
        "timestamp": np.full(count, now_ms),
        "surface": ["home"] * count,
        "context_item_id": pa.nulls(count, pa.int64()),
        "position": np.arange(count, dtype=np.int16),
        "propensity": np.ones(count, np.float32),
        "source": ["two_tower"] * count,
        "labels": pa.nulls(count, pa.struct([("save", pa.bool_())])),
        "labels_closed_at": pa.nulls(count, pa.int64()),
        "score": np.zeros(count, np.float32),
    }
    pq.write_table(pa.table(columns), folder / f"part-{request}.parquet")


def post(job: Job, *events: tuple[int, int, str], ahead_ms: int = 0) -> None:
    """Events that come when they are done, by a server's clock; a client's may be ahead of it."""
    with LmdbStore(job.root / STORE, clock=lambda: 1000 * events[0][1]) as store:
        store.append(
            {
                "event_id": f"{item} {action} {time}",
                "user_id": 1,
                "item_id": item,
                "action": action,
                "timestamp": time + ahead_ms,
                "received_at": time,
            }
            for item, time, action in events
        )


def next_day(job: Job) -> Dataset:
    """Takes what came; as the pipeline does, but for training."""
    day = Yesterday.begin(job, KINDS)
    before = day.artifact(job.root, "dataset")
    assert before is not None
    made = prepare(job, new_tables(job, day, Dataset(before, job.root)), before, day.after)
    point(job.root, made)
    (job.root / NEXT_DAY_FILE).unlink()
    return Dataset(made, job.root)


def saved(dataset: Dataset) -> dict[tuple[int, int], bool]:
    """(request, item) -> whether it was saved."""
    assert dataset.calendar is not None
    found: dict[tuple[int, int], bool] = {}
    for folder in dataset.partition_folders("impressions").values():
        for file in folder.glob("part-*.parquet"):
            table = pq.read_table(file)
            items: list[Any] = dataset.item_ids.external(table["item"].to_numpy()).to_pylist()
            keys = zip(table["request_id"].to_pylist(), items, strict=True)
            found |= dict(zip(keys, table["label.save"].to_pylist(), strict=True))
    return found


def test_feeds_join_with_what_followed_once_their_day_is_over(job: Job) -> None:
    serve(job.root, 1, NOW_MS, 3, 4)
    serve(job.root, 2, NOW_MS + 20 * HOUR_MS, 4, 5)
    post(job, (3, NOW_MS + HOUR_MS, "save"))
    assert saved(next_day(job)) == {}
    serve(job.root, 3, NOW_MS + 30 * HOUR_MS, 6)
    post(job, (4, NOW_MS + 23 * HOUR_MS, "save"), (4, NOW_MS + 25 * HOUR_MS, "hide"))
    second = next_day(job)
    assert saved(second) == {(1, 3): True, (1, 4): False}
    assert Taken.of(second.details).served_until_ms == NOW_MS + 6 * HOUR_MS
    serve(job.root, 4, NOW_MS + 50 * HOUR_MS, 6)
    post(job, (5, NOW_MS + 21 * HOUR_MS, "save"), (6, NOW_MS + 49 * HOUR_MS, "save"))
    assert saved(next_day(job)) == {
        **{(1, 3): True, (1, 4): False},
        **{(2, 4): True, (2, 5): True},  # 4 was saved after it was shown again
    }


def test_events_of_earlier_days_label_what_waited(job: Job) -> None:
    serve(job.root, 1, NOW_MS, 3)
    post(job, (3, NOW_MS + HOUR_MS, "save"))
    next_day(job)
    serve(job.root, 2, NOW_MS + 24 * HOUR_MS, 5)
    post(job, (9, NOW_MS + 24 * HOUR_MS, "hide"))
    assert saved(next_day(job)) == {(1, 3): True}


def test_an_interrupted_day_takes_what_it_began_with(job: Job) -> None:
    serve(job.root, 1, NOW_MS, 3)
    serve(job.root, 2, NOW_MS + 25 * HOUR_MS, 3)
    post(job, (3, NOW_MS + HOUR_MS, "save"))
    begun = Yesterday.begin(job, KINDS)
    serve(job.root, 3, NOW_MS + 99 * HOUR_MS, 3)
    post(job, (3, NOW_MS + 98 * HOUR_MS, "save"))
    assert Yesterday.begin(job, KINDS) == begun
    made = next_day(job)
    assert saved(made) == {(1, 3): True}
    assert made.counts["new_events"] == 1


def test_another_machine_finds_what_an_interrupted_day_has_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEFEED_MIRROR", str(tmp_path / "one"))
    job = log(tmp_path, (tmp_path / "bucket" / "root").as_uri())
    serve(job.root, 1, NOW_MS, 3)
    serve(job.root, 2, NOW_MS + 25 * HOUR_MS, 3)
    storage.put(job.root / FOLDER)
    post(job, (3, NOW_MS + HOUR_MS, "save"))
    day = Yesterday.begin(job, KINDS)
    tables = new_tables(job, day, Dataset.open(job.root))
    before = tables.fingerprint(job.root)
    assert tables.impressions

    monkeypatch.setenv("HOMEFEED_MIRROR", str(tmp_path / "two"))
    other = start([f"root={job.settings.root}"])
    shutil.copytree(job.root / STORE, other.root / STORE)  # of a server that both ask
    monkeypatch.setattr(posted_table, "appearing", None)
    monkeypatch.setattr(posted, "write_served", None)
    assert Yesterday.begin(other, KINDS) == day
    again = new_tables(other, day, Dataset.open(other.root))
    assert again.fingerprint(other.root) == before


def test_a_client_whose_clock_is_ahead_closes_no_day_of_others(job: Job) -> None:
    post(job, (3, NOW_MS, "save"), ahead_ms=40 * DAY_MS)
    first = next_day(job)
    assert first.counts["new_events"] == 1
    assert first.calendar is not None
    assert first.calendar.num_days == DAYS + 1
    post(job, (4, NOW_MS + DAY_MS, "save"))
    second = next_day(job)
    assert second.counts["new_events"] == 1
    assert second.counts["rejected"] == 0


def test_an_hour_in_which_a_server_was_killed_is_gone_over(job: Job) -> None:
    serve(job.root, 1, NOW_MS, 3)
    serve(job.root, 2, NOW_MS + 25 * HOUR_MS, 3)
    for hour in (5, 30):
        (job.root / FOLDER / "impressions" / f"hour={hour_of(NOW_MS + hour * HOUR_MS)}").mkdir()
    post(job, (3, NOW_MS + HOUR_MS, "save"))
    assert saved(next_day(job)) == {(1, 3): True}


def test_where_nothing_was_served_posted_events_are_taken_alone(job: Job) -> None:
    post(job, (3, NOW_MS, "save"))
    assert next_day(job).counts["impressions"] == 0


def test_a_root_without_a_first_day_has_no_next_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no first day"):
        Yesterday.begin(start([f"root={tmp_path}"]), KINDS)


def test_a_few_served_impressions_are_not_yet_what_the_ranker_learns_from(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not learns_from_impressions(job, Dataset.open(job.root))
    for hour in range(60):
        serve(job.root, hour, NOW_MS - 10 * DAY_MS + hour * HOUR_MS, 3, 4)
    post(job, (3, NOW_MS - 9 * DAY_MS, "save"))
    dataset = next_day(job)
    assert dataset.counts["impressions"] == 72
    assert not dataset.has_impression_log
    assert not learns_from_impressions(job, dataset)
    assert "ranker.least_served" in capsys.readouterr().err
    few = start([f"root={job.root}", "ranker.least_served=10"])
    assert learns_from_impressions(few, dataset)


def publish_bundle(job: Job, store_sequence: int) -> None:
    """As the pipeline does at the end of a day, which was when the last event came."""

    def write(draft: Draft) -> None:
        draft.fields["created"] = datetime.fromtimestamp(store_sequence / 1e6, UTC).isoformat()
        draft.fields["details"] = {"store_sequence": store_sequence}

    job.make("bundles", [], {"store_sequence": store_sequence}, write)


def days(job: Job, archived: bool) -> tuple[Dataset, list[int]]:
    """Four days of feeds and events; and how many events left the store on each."""
    moved = []
    for number in range(4):
        serve(job.root, number, NOW_MS + number * 24 * HOUR_MS, number, number + 1)
        saved_ms = NOW_MS + (number * 24 + 1) * HOUR_MS
        post(job, (number, saved_ms, "save"), (20 + number, NOW_MS, "hide"))
        day = Yesterday.begin(job, KINDS)
        made = next_day(job)
        publish_bundle(job, day.after.store_sequence)
        moved.append(archive_taken(job, day) if archived else 0)
    return made, moved


def test_days_learn_the_same_from_what_the_archive_has(tmp_path: Path) -> None:
    (whole, _), (made, moved) = (days(log(tmp_path / n), n == "b") for n in ("a", "b"))
    assert saved(made) == saved(whole)
    assert made.counts == whole.counts
    assert moved[0] == 0  # a day could start again
    assert 0 < sum(moved) < 8


def test_what_the_bundle_does_not_know_stays_in_the_store(job: Job) -> None:
    days(job, archived=False)
    day = Yesterday.begin(job, KINDS)
    numbers = numbers_in_store(job)
    publish_bundle(job, numbers[2])
    assert archive_taken(job, day) == 3
    assert numbers_in_store(job) == numbers[3:]


@pytest.mark.parametrize("by", ["replica", "arm", "canary"])
def test_what_a_bundle_in_use_does_not_know_stays_in_the_store(job: Job, by: str) -> None:
    days(job, archived=False)
    day, numbers = Yesterday.begin(job, KINDS), numbers_in_store(job)
    publish_bundle(job, numbers[0])
    used = current(job.root, "bundles").version
    publish_bundle(job, numbers[-1])
    facts = {"replica": {"versions": {"bundle": used}}, "canary": {"arms": [used]}}
    if by == "arm":
        arm = f"serve.experiment.arms.new={{share: 0.5, bundle: {used}}}"
        job = start([f"root={job.root}", "serve.experiment.name=x", arm])
    else:
        Replicas(job.root).note({"versions": {"bundle": "gone"}} | facts[by])
    assert bundles_in_use(job) >= {used, current(job.root, "bundles").version}
    assert archive_taken(job, day) == 1


def test_where_no_feed_is_logged_events_leave_the_store_too(job: Job) -> None:
    moved = []
    for number in range(4):
        post(job, (number, NOW_MS + number * 24 * HOUR_MS, "save"))
        day = Yesterday.begin(job, KINDS)
        next_day(job)
        publish_bundle(job, day.after.store_sequence)
        moved.append(archive_taken(job, day))
    assert moved == [0, 0, 1, 1]


def test_the_newest_three_bundles_can_be_served_again_with_all_that_was_done(job: Job) -> None:
    short = start([f"root={job.root}", "prepare.label_hours=1"])
    sequences, posted_numbers = list[int](), set[int]()
    for number in range(5):
        at_ms = NOW_MS + number * 24 * HOUR_MS
        post(short, (number, at_ms, "save"), (number, at_ms + 2 * HOUR_MS, "hide"))
        posted_numbers |= {*numbers_in_store(short)}
        day = Yesterday.begin(short, KINDS)
        next_day(short)
        publish_bundle(short, day.after.store_sequence)
        sequences.append(day.after.store_sequence)
        archive_taken(short, day)
        unknown = {n for n in posted_numbers if n > min(sequences[-3:])}
        assert unknown <= {*numbers_in_store(short)}
    assert len(posted_numbers) > len(numbers_in_store(short)) >= len(unknown) == 4


def test_a_store_that_is_empty_takes_nothing_back(job: Job) -> None:
    days(job, archived=False)
    before = Taken.of(Dataset.open(job.root).details)
    shutil.rmtree(job.root / "store")
    assert Yesterday.begin(job, KINDS).after.store_sequence == before.store_sequence > 0


def numbers_in_store(job: Job) -> list[int]:
    with open_store(job.root, job.settings.serve) as store:
        return [number for number, _ in store.documents("events", 0)]


def test_a_data_set_made_anew_takes_what_the_archive_has(tmp_path: Path) -> None:
    job = log(tmp_path)
    made, moved = days(job, archived=True)
    assert sum(moved) > 0
    first = prepare(job, locate(job.settings.source))
    point(job.root, first)
    anew = next_day(job)
    assert anew.counts["events"] == made.counts["events"]
    assert saved(anew) == saved(made)
