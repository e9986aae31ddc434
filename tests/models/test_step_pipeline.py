"""Steps that overlap learn, to the last bit, what steps one after the other learn."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from models import step_pipeline
from models.batch import Batch
from models.embeddings import ShardedModel, Sharding, shard
from models.step_pipeline import StepPipeline
from models.table_shards import full_tables
from tests.models.test_embeddings import SHARDINGS, TABLES, Rating, batch, equal

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.(script|interface). is deprecated"),
    pytest.mark.filterwarnings("ignore:Please use DTensor instead:FutureWarning"),
]
CPU = torch.device("cpu")
STEPS = 7


@dataclass
class Sgd:
    """A step by plain gradient descent, which tells what it is asked for."""

    model: ShardedModel
    done: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dense = torch.optim.SGD(self.model.core.parameters(), lr=0.1)

    def zero_grad(self) -> None:
        self.dense.zero_grad()

    def forward(self, rows: Batch) -> tuple[Tensor, float]:
        loss, _ = self.model.module(rows)
        self.done.append("forward")
        return loss, float(loss.detach())

    def step(self) -> None:
        self.dense.step()
        self.done.append("step")


def batches(model: ShardedModel, steps: range, ranks: range, done: list[str]) -> Iterator[Batch]:
    for step in steps:
        done.append("take")
        yield model.ready(batch(step, ranks))


def overlapping(model: ShardedModel, ranks: range, halts: tuple[int, ...]) -> list[float]:
    """Losses of steps that overlap up to each halt."""
    step, losses, first = Sgd(model), [], 0
    pipeline = StepPipeline(model, step, CPU)
    for halt in halts:
        losses += list(pipeline.over(batches(model, range(first, halt), ranks, step.done)))
        first = halt
    return losses


def in_turns(model: ShardedModel, ranks: range) -> list[float]:
    step, losses = Sgd(model), []
    for rows in batches(model, range(STEPS), ranks, step.done):
        step.zero_grad()
        loss, said = step.forward(rows)
        loss.backward()
        step.step()
        losses.append(said)
    return losses


def made(sharding: Sharding) -> ShardedModel:
    return shard(Rating(), TABLES, learning_rate=0.5, seed=7, sharding=sharding)


def both(ranks: range, sharding: Sharding) -> list[tuple[list[float], dict[str, Tensor]]]:
    """Losses and weights of steps in turns, that overlap, and that overlap up to halts."""
    found = []
    for halts in ((), (STEPS,), (1, 3, 3, STEPS)):
        model = made(sharding)
        losses = overlapping(model, ranks, halts) if halts else in_turns(model, ranks)
        found.append((losses, full_tables(model.module) | dict(model.core.state_dict())))
    return found


def train_rank(rank: int, folder: Path) -> None:
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    found = {sharding: both(range(rank, rank + 1), sharding) for sharding in SHARDINGS}
    torch.save(found, folder / f"rank-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # as in tests/models/test_embeddings.py


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(train_rank, args=(folder,), nprocs=2)
    return folder


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("sharding", SHARDINGS)
def test_two_ranks_learn_the_same(two_ranks: Path, rank: int, sharding: Sharding) -> None:
    (losses, weights), *others = torch.load(two_ranks / f"rank-{rank}.pt")[sharding]
    assert len(losses) == STEPS
    for found, learnt in others:
        assert found == losses
        assert equal(learnt, weights)


@pytest.mark.usefixtures("one_rank")
def test_one_rank_learns_the_same() -> None:
    (losses, weights), *others = both(range(1), "table_wise")
    for found, learnt in others:
        assert found == losses
        assert equal(learnt, weights)


@pytest.mark.usefixtures("one_rank")
def test_batches_are_taken_two_steps_ahead_and_ids_sent_one() -> None:
    model = made("table_wise")
    step, collection = Sgd(model), model.module.module.tables.collection
    sent = collection.input_dist

    def sending(*words: object, **named: object) -> object:
        step.done.append("send")
        return sent(*words, **named)

    collection.input_dist = sending
    list(StepPipeline(model, step, CPU).over(batches(model, range(4), range(1), step.done)))
    before = ("take send take send take", "send take", "send", "")
    assert step.done == " ".join(f"{words} forward step" for words in before).split()


@pytest.mark.usefixtures("one_rank")
def test_without_torchrec_steps_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = both(range(1), "table_wise")[0]
    monkeypatch.setattr(step_pipeline, "TrainPipelineSparseDist", None)
    model = made("table_wise")
    step = Sgd(model)
    pipeline = StepPipeline(model, step, CPU)
    losses = list(pipeline.over(batches(model, range(STEPS), range(1), step.done)))
    assert losses == expected
    assert step.done == ["take", "forward", "step"] * STEPS


@pytest.mark.usefixtures("one_rank")
def test_a_model_without_tables_has_nothing_to_send() -> None:
    class Line(Rating):
        def forward(
            self, rows: dict[str, Tensor], batch: Batch
        ) -> tuple[Tensor, dict[str, Tensor]]:
            numbers = batch.labels["rating"].unsqueeze(1).expand(-1, 8)
            return super().forward(dict.fromkeys(("item_id", "user_id"), numbers), batch)

    model = shard(Line(), [], learning_rate=0.5, seed=7)
    step = Sgd(model)
    list(StepPipeline(model, step, CPU).over(batches(model, range(2), range(1), step.done)))
    assert step.done == ["take", "forward", "step"] * 2
