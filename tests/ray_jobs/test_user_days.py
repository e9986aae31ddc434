"""Embeddings of users by day: made of one pass, the same as each by itself, read by the models."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from data.batching import Encoder
from data.contract.artifact import Artifact, current
from data.contract.settings import UserError
from data.dataset import Dataset
from data.user_days import DAY_BITS, KEYS, VECTORS, UserDays
from ray_jobs import user_days as making
from ray_jobs.embed import as_read_by, user_days
from ray_jobs.engine.inference import Retriever
from ray_jobs.engine.job import Job, start
from ray_jobs.preparation.block_tasks import BlockTasks
from ray_jobs.preparation.pieces import Pieces
from ray_jobs.sample import Cutoff, log_of
from ray_jobs.train import train, upstream
from tests.data.user_events import events_of

SMALL = (
    "user.dim=12",
    "user.id_dim=8",
    "user.sequence.max_length=400",
    "two_tower.user_vectors=true",
    "ranker.user_vectors=true",
    "two_tower.graph_vectors=false",
    "two_tower.dim=16",
    "two_tower.id_dim=16",
    "train.max_steps=6",
    "train.validate_every=3",
)


@pytest.fixture(scope="module")
def words(shared_root: Callable[..., list[str]]) -> list[str]:
    """Words of a root of its own that shares the prepared world."""
    return shared_root("days", *SMALL)


@pytest.fixture(scope="module")
def made(ray_cluster: None, words: list[str]) -> tuple[Job, Artifact]:
    """A job, and a user model trained for others."""
    job = start(words)
    return job, upstream(job, Dataset.open(job.root), "user")


def opened(job: Job, model: Artifact) -> tuple[Dataset, UserDays]:
    dataset = Dataset.open(job.root)
    read_with = dataset.with_vectors(None, user_days(job, dataset, model))
    assert read_with.user_days is not None
    return dataset, read_with.user_days


def test_a_vector_is_that_of_what_was_done_before_the_midnight(made: tuple[Job, Artifact]) -> None:
    job, model = made
    dataset, days = opened(job, model)
    retriever = Retriever.open(model, dataset, None)
    windows, calendar = log_of(job, dataset).windows, dataset.calendar
    assert windows is not None
    assert calendar is not None
    users = np.arange(dataset.user_ids.first_row, dataset.user_ids.rows)
    events = events_of(dataset, users)
    for day in (windows.user[1] + 1, windows.valid[0], calendar.num_days + 1):
        midnight = calendar.start_ms(day)
        known = events.chosen(events.timestamp < midnight)
        some = np.flatnonzero(known.lengths)
        mine = known.cut(known.offsets[some], known.lengths[some])
        expected = retriever.user_vectors(mine, users[some])
        found = days.before(users[some], np.full(len(some), midnight + 7_000))
        assert found == pytest.approx(expected, abs=2e-3)
    nobody = np.setdiff1d(users, users[some])
    assert not days.before(nobody, np.full(len(nobody), midnight)).any()


def test_an_interrupted_pass_goes_on(
    made: tuple[Job, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, model = made
    dataset, days = opened(job, model)
    real, done = making._embed_block, []

    def dies(blocks: Any, number: int) -> None:
        real(blocks, number)
        (path,) = blocks.pieces.folder.glob("block-*.npz")
        done.append(path.stat().st_mtime_ns)
        raise KeyboardInterrupt

    monkeypatch.setattr(making, "_embed_block", dies)
    with pytest.raises(KeyboardInterrupt):
        making.embed_days(job, dataset, model, 3)
    monkeypatch.setattr(making, "_embed_block", real)
    (work,) = (job.root / "checkpoints").glob("user_days-*")
    assert [p.stat().st_mtime_ns for p in work.glob("block-*.npz")] == done
    again = making.embed_days(job, dataset, model, 3)
    assert not work.exists()
    calendar = dataset.calendar
    assert calendar is not None
    from_day_3 = UserDays.open(again.path, calendar)
    assert len(from_day_3.keys) > len(days.keys)
    rows = dataset.user_ids.rows
    assert from_day_3.newest(rows) == pytest.approx(days.newest(rows), abs=2e-3)


def test_no_target_knows_more_than_its_midnight(made: tuple[Job, Artifact]) -> None:
    job, model = made
    dataset, days = opened(job, model)
    encoder = Encoder(dataset.items, dataset.users, None, days)  # type: ignore[arg-type]
    users = np.arange(dataset.user_ids.first_row, dataset.user_ids.rows)
    events = events_of(dataset, users)
    owner = np.repeat(users, events.lengths)
    (vectors,) = encoder.long_term("target", owner, events.timestamp).values()
    first = events.offsets[:-1][events.lengths > 0]
    assert not vectors[first].any()
    assert len(np.unique(vectors.round(3), axis=0)) > len(users)


def test_retriever_and_ranker_read_them(made: tuple[Job, Artifact]) -> None:
    job, model = made
    windows = log_of(job, Dataset.open(job.root)).windows
    assert windows is not None
    assert model.manifest.window == list(windows.user)
    for kind in ("two_tower", "ranker"):
        trained = train(job, kind)  # type: ignore[arg-type]
        assert "user_days" in {parent["kind"] for parent in trained.manifest.parents}
        dataset = Dataset.open(job.root)
        read_with = as_read_by(job, dataset, trained, Cutoff.before_test(windows))
        assert read_with.user_vectors is not None
        assert read_with.user_vectors.manifest.details == {"model": model.version}
    again = upstream(job, Dataset.open(job.root), "user")
    assert current(job.root, "user").version == again.version == model.version


def test_where_windows_overlap_days_begin_where_their_readers_do(
    made: tuple[Job, Artifact], words: list[str]
) -> None:
    _, model = made
    job = start([*words, "windows.two_tower=[60, 152]", "windows.overlap=true"])
    dataset, days = opened(job, model)
    windows = log_of(job, dataset).windows
    assert windows is not None
    assert windows.two_tower[0] <= windows.user[1]
    first = int((days.keys & ((1 << DAY_BITS) - 1)).min())
    assert first == windows.two_tower[0] - 1


def test_who_lays_days_together_needs_no_gpu(
    made: tuple[Job, Artifact], gpus_elsewhere: None
) -> None:
    job, model = made
    dataset = Dataset.open(job.root)
    assert dataset.calendar is not None
    days = UserDays.open(making.embed_days(job, dataset, model, 5).path, dataset.calendar)
    assert len(days.keys) == len(days.vectors) > 0
    assert days.vectors.shape[1] == 12


def test_days_of_many_blocks_are_laid_together_with_one_file_open_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, rng = 40, np.random.default_rng(0)
    pieces, where = Pieces(tmp_path), (None, "m", BlockTasks(0), "cpu")
    blocks = making._Blocks(tmp_path, pieces, count, 1, "d", *where, first_day=1)
    keys = rng.permutation(500)
    for number, mine in enumerate(np.array_split(keys, count)):
        arrays = {"keys": mine, "vectors": mine[:, None].astype(np.float16)}
        blocks.make(number, lambda own=arrays: own)  # type: ignore[misc]
    real, seen = np.load, []

    def load(path: Path) -> Any:
        loaded = real(path)
        seen.append(sum(Path(f.path).suffix == ".npz" for f in psutil.Process().open_files()))
        return loaded

    monkeypatch.setattr(np, "load", load)
    draft = SimpleNamespace(path=tmp_path, fields={})
    making._assemble(blocks, draft)  # type: ignore[arg-type]
    monkeypatch.undo()
    assert set(seen) == {1}
    assert np.load(tmp_path / KEYS).tolist() == sorted(keys)
    assert np.load(tmp_path / VECTORS)[:, 0].tolist() == sorted(keys)


def test_overlapping_windows_and_splits_without_days_are_refused(words: list[str]) -> None:
    with pytest.raises(UserError, match=r"user embeddings .* end windows\.user before"):
        train(start([*words, "windows.user=[1, 140]"]), "two_tower")
    with pytest.raises(UserError, match=r"user_vectors need days"):
        train(start([*words, "split.kind=leave_one_out"]), "two_tower")
