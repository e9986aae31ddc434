"""From an export and a data set to a bundle that serves."""

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.contract import artifact
from data.contract.schema import DAY_MS, TIMELINE, Calendar
from ray_jobs.engine.job import Job
from ray_jobs.index import IndexSettings, index
from serve.bundle import Bundle
from serve.feed import Feed
from serve.messages import RecommendRequest
from serve.settings import ServeSettings
from tests.tiny_root import (
    DIM,
    FIRST_DAY_MS,
    VOCABULARY,
    TinyLog,
    write_lookup,
    write_ranker,
    write_towers,
)

CALENDAR = Calendar(first_day_ms=FIRST_DAY_MS, num_days=10, base_days=10)
NEWEST = 17


def timelines(log: TinyLog) -> pa.Table:
    """One row a user with events, in the order of the user table."""
    rows = log.user_ids.lookup(log.user_table["user_id"].combine_chunks())
    items = log.item_ids.lookup(log.item_table["item_id"].combine_chunks())[log.items]
    ends = np.cumsum(log.lengths)
    parts: dict[str, Any] = {
        "item": items,
        "action": log.actions,
        "surface": np.ones(len(items)),
        "timestamp": log.times,
        "duration_s": np.zeros(len(items)),
        "part": np.zeros(len(items)),
    }
    columns = {name: [a.tolist() for a in np.split(v, ends[:-1])] for name, v in parts.items()}
    table = pa.table({"user": rows, **columns}).filter(pa.array(log.lengths > 0))
    return table.cast(TIMELINE)


def publish_dataset(root: Path, log: TinyLog) -> artifact.Artifact:
    spaces = {}
    for space in (log.item_ids, log.user_ids):
        with artifact.publish(root, f"{space.name}_ids", "i1") as draft:
            space.save(draft.path)
        spaces[space.name] = space.reference() | {"version": "i1"}
    details = {
        "vocabulary": asdict(VOCABULARY),
        "calendar": asdict(CALENDAR),
        "counts": {},
        "store_sequence": 4,
    }
    with artifact.publish(root, "dataset", "d1", details=details, id_space=spaces) as draft:
        path = draft.path
        for side, space, table in (
            ("item", log.item_ids, log.item_table),
            ("user", log.user_ids, log.user_table),
        ):
            features = getattr(VOCABULARY, f"{side}_features")
            write_lookup(
                path / f"{side}s.arrow", space, table.column(0).combine_chunks(), table, features
            )
        set_created(path / "items.arrow", log)
        (path / "timelines").mkdir()
        whole = timelines(log)
        pq.write_table(
            whole.slice(0, 20), path / "timelines" / "part-00000.parquet", row_group_size=7
        )
        pq.write_table(whole.slice(20), path / "timelines" / "part-00001.parquet")
        pq.write_table(item_days(log), path / "item_days.parquet")
    return artifact.read(root / "dataset" / "d1")


def set_created(path: Path, log: TinyLog) -> None:
    """Items are known from day 1, but for one of day 9."""
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    created = np.full(table.num_rows, FIRST_DAY_MS)
    created[log.item_ids.first_row + NEWEST] += 8 * DAY_MS
    table = table.set_column(1, "created_at", pa.array(created))
    path.unlink()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def item_days(log: TinyLog) -> pa.Table:
    """Row 20: 10 saves on day 1; row 30: 8 clicks on day 10; row 40: 99 hides on day 10."""
    return pa.table(
        {
            "day": pa.array([1, 10, 10], pa.int32()),
            "item": pa.array([20, 30, 40], pa.int32()),
            "action": pa.array([1, 2, 3], pa.int16()),
            "count": pa.array([10, 8, 99], pa.int64()),
        }
    )


def publish_export(root: Path, log: TinyLog, dataset: artifact.Artifact) -> artifact.Artifact:
    details = {
        key: dataset.manifest.details[key] for key in ("vocabulary", "calendar", "store_sequence")
    }
    details |= {
        "max_length": {"two_tower": 6, "ranker": 4},
        "versions": {"two_tower": "t1", "ranker": "r1"},
    }
    fields = {"parents": [dataset.reference()], "id_space": dataset.manifest.id_space}
    with artifact.publish(root, "export", "e1", details=details, **fields) as draft:
        (draft.path / "programs").mkdir()
        (draft.path / "tables").mkdir()
        write_towers(draft.path / "programs", 1.0)
        write_ranker(draft.path / "programs")
        (draft.path / "programs" / "item_tower.pt2").write_text("for torch")
        rng = np.random.default_rng(0)
        for model in ("two_tower", "ranker"):
            for name, space in (("item_id", log.item_ids), ("user_id", log.user_ids)):
                table = rng.normal(scale=0.1, size=(space.rows + 60, DIM)).astype(np.float32)
                np.save(draft.path / "tables" / f"{model}.{name}.npy", table)
        for name in ("items.arrow", "users.arrow"):
            (draft.path / name).hardlink_to(dataset.path / name)
        log.item_ids.save(draft.path / "ids" / "item")
        log.user_ids.save(draft.path / "ids" / "user")
    return artifact.read(root / "export" / "e1")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    root, log = tmp_path_factory.mktemp("root"), TinyLog()
    dataset = publish_dataset(root, log)
    export = publish_export(root, log, dataset)
    job = Job(SimpleNamespace(index=IndexSettings()), None, root)  # type: ignore[arg-type]
    return SimpleNamespace(root=root, log=log, job=job, export=export, bundle=index(job, export))


def test_the_bundle_serves(made: SimpleNamespace) -> None:
    settings = ServeSettings(candidates=100, deadlines_ms={"default": 30_000.0})
    feed = Feed(made.root, settings, background=False)
    answer = feed.recommend(RecommendRequest(user_id=3))
    feed.close()
    assert answer.fallback is False
    assert len(answer.items) == 10
    assert answer.versions == {"bundle": made.bundle.version, "two_tower": "t1", "ranker": "r1"}


def test_histories_are_the_timelines_in_row_order(made: SimpleNamespace) -> None:
    bundle = Bundle.open(made.bundle.path)
    expected = {row["user"]: row for row in timelines(made.log).to_pylist()}
    assert bundle.histories.lengths.sum() == made.log.lengths.sum()
    for row in range(bundle.user_ids.rows):
        start, end = bundle.histories.offsets[row : row + 2]
        if row not in expected:
            assert start == end
            continue
        for name in ("item", "action", "surface", "timestamp"):
            assert getattr(bundle.histories, name)[start:end].tolist() == expected[row][name]


def test_every_item_has_the_vector_of_the_tower_and_no_other_row_has_one(
    made: SimpleNamespace,
) -> None:
    bundle = Bundle.open(made.bundle.path)
    first = bundle.item_ids.first_row
    norms = np.linalg.norm(bundle.item_embeddings, axis=1)
    assert not norms[:first].any()
    np.testing.assert_allclose(norms[first:], 1.0, atol=1e-5)
    assert bundle.live_items.tolist() == list(range(first, bundle.item_ids.rows))
    assert bundle.index.size == len(bundle.live_items)


def test_popularity_fades_and_counts_positive_actions_alone(made: SimpleNamespace) -> None:
    popular = Bundle.open(made.bundle.path).popular.tolist()
    assert popular[:2] == [30, 20]
    assert popular.index(40) > 2


def test_the_newest_item_comes_first(made: SimpleNamespace) -> None:
    bundle = Bundle.open(made.bundle.path)
    assert bundle.fresh[0] == bundle.item_ids.first_row + NEWEST


def test_programs_are_linked_and_those_of_torch_left_out(made: SimpleNamespace) -> None:
    programs = made.bundle.path / "programs"
    source = made.export.path / "programs" / "user_tower.onnx"
    assert (programs / "user_tower.onnx").samefile(source)
    assert not (programs / "item_tower.pt2").exists()


def test_an_unchanged_bundle_is_found_again(made: SimpleNamespace) -> None:
    before = (made.bundle.path / "manifest.json").stat().st_mtime_ns
    assert index(made.job, made.export).version == made.bundle.version
    assert (made.bundle.path / "manifest.json").stat().st_mtime_ns == before


def test_other_settings_make_another_bundle_and_the_pointer_may_stay(made: SimpleNamespace) -> None:
    settings = SimpleNamespace(index=replace(IndexSettings(), kind="ivf", head=50))
    job = Job(settings, None, made.root)  # type: ignore[arg-type]
    other = index(job, made.export, move_pointer=False)
    assert other.version != made.bundle.version
    assert artifact.current(made.root, "bundles").version == made.bundle.version
    bundle = Bundle.open(other.path)
    assert len(bundle.popular) == 50
    assert other.manifest.metrics["recall@100"] >= 0.95
