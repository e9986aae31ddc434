"""The table of user embeddings: everybody once, then those who did something since."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from data.contract.artifact import Artifact
from data.dataset import Dataset
from data.timelines import events_from
from ray_jobs import user_table
from ray_jobs.engine import user_blocks
from ray_jobs.engine.inference import Retriever
from ray_jobs.engine.job import Job, start
from ray_jobs.evaluate import evaluate
from ray_jobs.train import train
from ray_jobs.user_table import UserTable, embed_users

SMALL = (
    "user.dim=16",
    "user.id_dim=16",
    "user.hidden=32",
    "user.sequence.max_length=20",
    "user.batch_size=32",
    "train.max_steps=6",
    "train.validate_every=3",
)


@pytest.fixture(scope="module")
def trained(ray_cluster: None, shared_root: Callable[..., list[str]]) -> tuple[Job, Artifact]:
    """A job on a root of its own that shares the prepared world, and a user model."""
    job = start(shared_root("users", *SMALL))
    return job, train(job, "user", alone=True)


def day_ms(job: Job, day: int) -> int:
    calendar = Dataset.open(job.root).calendar
    assert calendar is not None
    return calendar.start_ms(day)


def expected(
    job: Job, model: Artifact, until_ms: int | None, device: str = "cpu"
) -> tuple[Any, Any]:
    """Users with an event before then, and their vectors, all at once."""
    dataset = Dataset.open(job.root)
    found = []
    for block in dataset.blocks:
        table = block.read()
        events = events_from(table)
        if until_ms is not None:
            events = events.chosen(events.timestamp < until_ms)
        some = np.flatnonzero(events.lengths)
        users = table["user"].to_numpy()[some]
        mine = events.cut(events.offsets[some], events.lengths[some])
        retriever = Retriever.open(model, dataset, None, device)
        found.append((users, retriever.user_vectors(mine, users)))
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))


def test_the_user_model_is_evaluated_beside_pinnersage(trained: tuple[Job, Artifact]) -> None:
    job, model = trained
    evaluation = evaluate(job, ("user",), {"user": model})
    metrics = evaluation.manifest.metrics["retrieval"]
    assert {"popularity", "item_knn", "pinnersage_5", "pinnersage_20", "oracle_log"} <= set(metrics)
    assert 0 < metrics["recall@200"] <= 1
    by_age = evaluation.manifest.metrics["user"]
    assert set(by_age["by_cadence"]) == {"once", "daily", "realtime"}
    assert set(by_age["by_action"]) == {"save", "click", "closeup"}
    assert all(0 <= share <= 1 for share in by_age["by_cadence"].values())
    assert by_age["users"] > 0
    assert "Age of the vector" in (evaluation.path / "report.html").read_text()


@pytest.mark.gpu
def test_a_gpu_gives_nearly_the_same_vectors(trained: tuple[Job, Artifact]) -> None:
    (users, here), (same, there) = (expected(*trained, None, d) for d in ("cpu", "cuda"))
    assert (users == same).all()
    np.testing.assert_allclose(there, here, atol=1e-3)


def test_everybody_with_an_event_has_a_vector(trained: tuple[Job, Artifact]) -> None:
    job, model = trained
    made = embed_users(job, Dataset.open(job.root), model, None)
    table = UserTable.open(made)
    users, vectors = expected(job, model, None)
    assert table.vectors[users] == pytest.approx(vectors, abs=1e-3)
    others = np.setdiff1d(np.arange(len(table.vectors)), users)
    assert not table.vectors[others].any()
    assert (table.as_of[users] > 0).all()
    assert made.manifest.details["embedded"] == len(users)
    assert embed_users(job, Dataset.open(job.root), model, None).version == made.version


def as_of(
    trained: tuple[Job, Artifact], patch: pytest.MonkeyPatch, kind: str, days: tuple[int, int]
) -> list[Artifact]:
    """Tables of a kind of their own, as of one day and then of another."""
    job, model = trained
    patch.setattr(user_table, "KIND", kind)
    dataset = Dataset.open(job.root)
    return [embed_users(job, dataset, model, day_ms(job, day)) for day in days]


def test_a_user_who_did_nothing_keeps_the_vector_and_its_date(
    trained: tuple[Job, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, model = trained
    first, second = as_of(trained, monkeypatch, "other_embeddings", (15, 16))
    before, after = UserTable.open(first), UserTable.open(second)
    active = np.flatnonzero(after.events != before.events)
    idle = np.setdiff1d(np.flatnonzero(before.events), active)
    assert second.manifest.details == {
        "embedded": len(active),
        "kept": len(idle),
        "model": model.version,
    }
    assert len(active) > 0 < len(idle)
    assert (after.as_of[active] >= day_ms(job, 15)).all()
    assert np.array_equal(after.as_of[idle], before.as_of[idle])
    assert np.array_equal(after.vectors[idle], before.vectors[idle])
    users, vectors = expected(job, model, day_ms(job, 16))
    assert after.vectors[users] == pytest.approx(vectors, abs=1e-3)


def test_as_of_an_earlier_day_who_had_done_nothing_yet_has_no_vector(
    trained: tuple[Job, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, model = trained
    before, made = as_of(trained, monkeypatch, "earlier_embeddings", (16, 2))
    later, table = UserTable.open(before), UserTable.open(made)
    users, vectors = expected(job, model, day_ms(job, 2))
    others = np.setdiff1d(np.arange(len(table.events)), users)
    assert later.vectors[others].any()
    assert not any(c[others].any() for c in (table.vectors, table.events, table.as_of))
    assert table.vectors[users] == pytest.approx(vectors, abs=1e-3)
    counted = made.manifest.details
    assert counted["embedded"] + counted["kept"] == len(users)
    assert counted["kept"] >= 0


def test_an_interrupted_table_goes_on_and_tasks_make_the_same(
    trained: tuple[Job, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, model = trained
    dataset, until = Dataset.open(job.root), day_ms(job, 10)
    real = user_table._embed_block

    def dies(blocks: Any, number: int) -> int:
        real(blocks, number)
        raise KeyboardInterrupt

    monkeypatch.setattr(user_table, "_embed_block", dies)
    with pytest.raises(KeyboardInterrupt):
        embed_users(job, dataset, model, until)
    (work,) = (job.root / "checkpoints").glob("user_embeddings-*")
    kept = {path: path.stat().st_mtime_ns for path in work.glob("block-*")}
    monkeypatch.setattr(user_table, "_embed_block", real)
    monkeypatch.setattr(user_blocks, "SMALL_LOG_USERS", 0)
    seen = {}

    def assembled(*arguments: Any) -> int:
        seen.update({path: path.stat().st_mtime_ns for path in kept})
        return joined(*arguments)

    joined = user_table._assemble
    monkeypatch.setattr(user_table, "_assemble", assembled)
    table = UserTable.open(embed_users(job, dataset, model, until))
    assert seen == kept != {}
    users, vectors = expected(job, model, until)
    assert table.vectors[users] == pytest.approx(vectors, abs=1e-3)


def test_who_lays_the_blocks_together_needs_no_gpu(
    trained: tuple[Job, Artifact], gpus_elsewhere: None
) -> None:
    job, model = trained
    dataset, until = Dataset.open(job.root), day_ms(job, 12)
    table = UserTable.open(embed_users(job, dataset, model, until))
    users, vectors = expected(job, model, until)
    assert table.vectors[users] == pytest.approx(vectors, abs=1e-3)
