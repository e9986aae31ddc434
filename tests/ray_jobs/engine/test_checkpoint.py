"""What N ranks have saved, M ranks load, and what those save one process loads: bit for bit."""

import errno
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from models.batch import Batch, Jagged
from models.embeddings import COLUMNS, ShardedModel, Sharding, Table, shard
from models.table_shards import full_tables
from ray_jobs.engine import checkpoint
from ray_jobs.engine.loop import Learner, TrainState

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.(script|interface). is deprecated"),
    pytest.mark.filterwarnings("ignore:Please use DTensor instead:FutureWarning"),
]

RANKS, STEP = 3, 7
SHARDINGS: tuple[Sharding, ...] = ("table_wise", "column_wise", "row_wise")
PATHS = ((3, 2), (2, 3), (1, 3), (3, 1))
# Of two tables cut whole, one of three ranks has none; of two rows, one has none either.
SIZES = ((101, 37, 2 * COLUMNS), (5, 2, 16))


@dataclass(frozen=True)
class Journey:
    """Tables of some size, cut in a way, trained on `first` ranks and moved to `second`."""

    sharding: Sharding
    first: int
    second: int
    sizes: tuple[int, int, int]

    def __str__(self) -> str:
        return f"{self.sharding}-{self.first}-{self.second}-{self.sizes[0]}"

    @property
    def tables(self) -> list[Table]:
        items, users, dim = self.sizes
        return [Table("item_id", items, dim), Table("user_id", users, dim)]


JOURNEYS = [Journey(s, *path, sizes) for s in SHARDINGS for path in PATHS for sizes in SIZES]


class Rating(nn.Module):
    """Predicts a number for a user and an item."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.item = nn.Linear(dim, 1)

    def forward(self, rows: dict[str, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        rating = self.item(rows["item_id"] + rows["user_id"]).squeeze(1)
        return (rating - batch.labels["rating"]).square().mean(), {}


def learner_of(model: ShardedModel) -> Learner:
    return Learner(model, torch.optim.AdamW(model.core.parameters(), lr=0.1), 0.1, 0.5)


def train(learner: Learner, journey: Journey, rank: int) -> None:
    draw = torch.Generator().manual_seed(rank)
    for _ in range(3):
        ids = [torch.randint(0, size, (20,), generator=draw) for size in journey.sizes[:2]]
        once = torch.ones(20, dtype=torch.long)
        both = {"item_id": Jagged(ids[0], once), "user_id": Jagged(ids[1], once)}
        labels = {"rating": torch.randn(20, generator=draw)}
        batch = Batch(ids=both, inputs={}, labels=labels, weight=torch.ones(20))
        loss, _ = learner.model.module(learner.model.ready(batch))
        loss.backward()
        learner.optimizer.step()


@contextmanager
def group(store: Path, rank: int, size: int) -> Iterator[None]:
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(store), size), rank=rank, world_size=size
    )
    yield
    dist.barrier()
    dist.destroy_process_group()


def travel(rank: int, folder: Path) -> None:
    """Takes every journey as one of three processes, of which some sit out."""
    for journey in JOURNEYS:
        here = folder / str(journey)
        if rank == 0:
            here.mkdir()
        wait_for(here)
        for leg, size in enumerate((journey.first, journey.second, 1)):
            if rank < size:
                with group(here / f"store-{leg}", rank, size):
                    take(journey, leg, rank, here)
            if rank == 0:
                (here / f"done-{leg}").touch()
            wait_for(here / f"done-{leg}")
    os._exit(0)  # as in tests/models/test_embeddings.py


def wait_for(path: Path) -> None:
    ends = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < ends, f"{path} never came"
        time.sleep(0.01)


def take(journey: Journey, leg: int, rank: int, folder: Path) -> None:
    """One leg: trained or loaded, then saved; other tables than those loaded come before."""
    torch.manual_seed(leg)
    model = shard(Rating(journey.sizes[2]), journey.tables, 0.5, leg, journey.sharding)
    learner, state = learner_of(model), TrainState(step=STEP)
    if leg == 0:
        train(learner, journey, rank)
    else:
        loaded = checkpoint.load(folder / f"saved-{leg - 1}", learner)
        assert loaded is not None
        state = loaded
    assert state.step == STEP
    checkpoint.save(folder / f"saved-{leg}", learner, state)
    tables = full_tables(model.module)
    if rank == 0:
        torch.save({"tables": tables, "plan": model.plan}, folder / f"found-{leg}.pt")


@pytest.fixture(scope="module")
def travelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("journeys")
    torch.multiprocessing.spawn(travel, args=(folder,), nprocs=RANKS)
    return folder


def tensors(saved: Path) -> dict[str, Tensor]:
    """Everything a checkpoint holds, the optimisers' state too, by path."""
    dcp_to_torch_save(saved / f"step-{STEP:06d}", saved.with_suffix(".pt"))
    found: dict[str, Tensor] = {}
    left = [("", torch.load(saved.with_suffix(".pt"), weights_only=False))]
    while left:
        path, value = left.pop()
        if isinstance(value, dict):
            left += [(f"{path}/{key}", one) for key, one in value.items()]
        elif isinstance(value, Tensor):
            found[path] = value
    return found


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("journey", JOURNEYS, ids=str)
def test_tables_and_their_optimiser_arrive_as_they_left(travelled: Path, journey: Journey) -> None:
    folder = travelled / str(journey)
    found = [torch.load(folder / f"found-{leg}.pt")["tables"] for leg in range(3)]
    saved = [tensors(folder / f"saved-{leg}") for leg in range(3)]
    for state in ("momentum", "exp_avg_sq"):
        assert any(state in name and value.any() for name, value in saved[0].items())
    for leg in (1, 2):
        assert equal(found[leg], found[0])
        assert equal(saved[leg], saved[0])


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_tables_were_cut_as_asked(travelled: Path, sharding: Sharding) -> None:
    folder = travelled / str(Journey(sharding, 3, 2, SIZES[0]))
    plan = torch.load(folder / "found-0.pt")["plan"]
    assert plan.count(sharding) == 2
    parts = {"table_wise": 2, "column_wise": 4, "row_wise": 6}[sharding]
    assert sum("rank:" in line for line in plan.splitlines()) == parts


def test_a_checkpoint_that_cannot_be_written_is_an_error_like_others() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    failure = CheckpointException("write", {0: (full, traceback.StackSummary())})
    assert not isinstance(failure, Exception)
    with pytest.raises(RuntimeError, match="No space left"), checkpoint._failing_as_an_error():
        raise failure
