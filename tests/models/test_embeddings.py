"""ID tables train the same in one process and in two, however they are cut."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torchrec.distributed.types import EnumerableShardingSpec, ShardingPlan

from data.contract.settings import UserError
from models import embeddings
from models.batch import Batch, Jagged
from models.embeddings import (
    EmbeddingTables,
    Model,
    ShardedModel,
    Sharder,
    Sharding,
    Table,
    bagged,
    shard,
)
from models.losses import weighted_mean
from models.table_shards import full_tables, load_tables

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.(script|interface). is deprecated"),
    pytest.mark.filterwarnings("ignore:Please use DTensor instead:FutureWarning"),
]

TABLES = [Table("item_id", 101, 8), Table("user_id", 37, 8)]
SHARDINGS: tuple[Sharding, ...] = ("table_wise", "column_wise", "row_wise")
ROWS = 12
STEPS = 3


class Rating(nn.Module):
    """Predicts a number for a user and an item."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.item = nn.Linear(8, 1)
        self.user = nn.Linear(8, 1)

    def forward(self, rows: dict[str, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        rating = self.item(rows["item_id"]) + self.user(rows["user_id"])
        error = (rating.squeeze(1) - batch.labels["rating"]).square()
        return weighted_mean(error, batch.weight), {}


def batch(step: int, ranks: range) -> Batch:
    """Rows of some ranks at a step: rank r has ROWS + r of them, and other weights."""
    parts = [rank_rows(step, rank) for rank in ranks]
    items, users, ratings, weights = (torch.cat(column) for column in zip(*parts, strict=True))
    once = torch.ones_like(items)
    return Batch(
        ids={"item_id": Jagged(items, once), "user_id": Jagged(users, once)},
        inputs={},
        labels={"rating": ratings},
        weight=weights,
    )


def rank_rows(step: int, rank: int) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(100 * step + rank)
    size = ROWS + rank
    items = torch.randint(0, 101, (size,), generator=draw)
    users = torch.randint(0, 37, (size,), generator=draw)
    weights = torch.rand(size, generator=draw) * (rank + 1)
    return items, users, torch.randn(size, generator=draw), weights


def train(model: ShardedModel, steps: range, ranks: range) -> list[float]:
    dense = torch.optim.SGD(model.dense_parameters().values(), lr=0.1)
    losses = []
    for step in steps:
        loss, _ = model.module(model.ready(batch(step, ranks)))
        dense.zero_grad()
        loss.backward()
        dense.step()
        losses.append(float(loss.detach()))
    return losses


def train_rank(rank: int, folder: Path) -> None:
    """Trains as one of two ranks with each sharding; leaves tables and checkpoints in `folder`."""
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    for sharding in SHARDINGS:
        train_sharded(rank, folder, sharding)
    dist.destroy_process_group()
    # TorchRec keeps the group's threads alive, and one that drops a finished collective while the
    # interpreter is taken down aborts the process (seen once in ten): so it is not taken down.
    os._exit(0)


def train_sharded(rank: int, folder: Path, sharding: Sharding) -> None:
    model = shard(Rating(), TABLES, learning_rate=0.5, seed=7, sharding=sharding)
    first = full_tables(model.module)
    losses = train(model, range(STEPS), range(rank, rank + 1))
    dcp.save(model.state(), checkpoint_id=folder / sharding)
    saved = full_tables(model.module)
    train(model, range(STEPS, STEPS + 1), range(rank, rank + 1))
    continued = full_tables(model.module)
    if rank == 0:
        found = {"first": first, "saved": saved, "continued": continued}
        found |= {"losses": losses, "dense": dict(model.core.state_dict()), "plan": model.plan}
        torch.save(found, folder / f"{sharding}.pt")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(train_rank, args=(folder,), nprocs=2)
    return folder


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.allclose(a[name], b[name], atol=1e-5) for name in a) and a.keys() == b.keys()


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a) and a.keys() == b.keys()


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("sharding", SHARDINGS)
def test_two_ranks_learn_what_one_learns_from_the_rows_of_both(
    two_ranks: Path, sharding: Sharding
) -> None:
    found = torch.load(two_ranks / f"{sharding}.pt")
    model = shard(Rating(), TABLES, learning_rate=0.5, seed=7)
    assert equal(full_tables(model.module), found["first"])
    train(model, range(STEPS), range(2))
    assert same(full_tables(model.module), found["saved"])
    train(model, range(STEPS, STEPS + 1), range(2))
    assert same(dict(model.core.state_dict()), found["dense"])


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_the_plan_says_how_tables_are_cut(two_ranks: Path, sharding: Sharding) -> None:
    plan = torch.load(two_ranks / f"{sharding}.pt")["plan"]
    assert sharding in plan
    assert "item_id" in plan
    assert "rank:1" in plan


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("sharding", SHARDINGS)
def test_a_checkpoint_of_two_ranks_goes_on_in_one(two_ranks: Path, sharding: Sharding) -> None:
    found = torch.load(two_ranks / f"{sharding}.pt")
    model = shard(Rating(), TABLES, learning_rate=0.5, seed=8)
    state = model.state()
    dcp.load(state, checkpoint_id=two_ranks / sharding)
    model.load(state)
    assert equal(full_tables(model.module), found["saved"])
    train(model, range(STEPS, STEPS + 1), range(2))
    assert same(full_tables(model.module), found["continued"])


@pytest.mark.usefixtures("one_rank")
def test_id_zero_is_a_zero_row_and_never_learns() -> None:
    model = shard(Rating(), TABLES, learning_rate=0.5, seed=7)
    train(model, range(20), range(2))
    tables = full_tables(model.module)
    assert not tables["item_id"][0].any()
    assert not tables["user_id"][0].any()
    asked = model.ready(batch(0, range(1)))
    rows = model.module.module.tables(asked.ids, asked.bags)
    zeros = asked.ids["user_id"].values == 0
    assert not rows["user_id"][zeros].any()


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize(("dim", "nearest"), [(6, 8), (7, 8), (10, 12)])
def test_rows_of_a_width_that_fbgemm_does_not_read_are_refused(dim: int, nearest: int) -> None:
    with pytest.raises(UserError, match=f"item_id are {dim} numbers wide .* such as {nearest}"):
        shard(Rating(), [Table("item_id", 101, dim)], learning_rate=0.5, seed=7)


@pytest.mark.usefixtures("one_rank")
def test_a_muted_batch_changes_nothing() -> None:
    model = shard(Rating(), TABLES, learning_rate=0.5, seed=7)
    before = full_tables(model.module)
    loss, _ = model.module(model.ready(batch(0, range(1)).muted()))
    loss.backward()
    assert float(loss.detach()) == 0
    assert equal(full_tables(model.module), before)


@pytest.mark.usefixtures("one_rank")
def test_the_learning_rate_of_tables_can_change() -> None:
    model = shard(Rating(), TABLES, learning_rate=0.5, seed=7)
    before = full_tables(model.module)
    model.set_tables_learning_rate(0.0)
    train(model, range(2), range(1))
    assert equal(full_tables(model.module), before)


@pytest.mark.usefixtures("one_rank")
def test_a_checkpoint_of_fewer_rows_loads_into_a_larger_table() -> None:
    small = shard(Rating(), TABLES, learning_rate=0.5, seed=7)
    train(small, range(2), range(1))
    larger = [Table("item_id", 140, 8), Table("user_id", 37, 8)]
    model = shard(Rating(), larger, learning_rate=0.5, seed=9)
    before, loaded = full_tables(model.module), full_tables(small.module)
    load_tables(model.module, loaded)
    after = full_tables(model.module)
    assert torch.equal(after["item_id"][:101], loaded["item_id"])
    assert torch.equal(after["item_id"][101:], before["item_id"][101:])
    assert torch.equal(after["user_id"], loaded["user_id"])


def test_rows_of_a_collection_in_plain_use_follow_the_order_of_ids() -> None:
    tables = EmbeddingTables(TABLES, torch.device("cpu"))
    ids = {
        "item_id": Jagged(torch.tensor([7, 3, 9]), torch.tensor([3, 0])),
        "user_id": Jagged(torch.tensor([4, 0]), torch.tensor([1, 1])),
    }
    rows = tables(ids, bagged(ids, ("item_id", "user_id")))
    weight = dict(tables.named_parameters())["collection.embedding_bags.item_id.weight"]
    assert torch.equal(rows["item_id"], weight[[7, 3, 9]])
    assert not rows["user_id"][1].any()


def test_a_model_is_its_tables_and_its_core() -> None:
    model = Model(EmbeddingTables(TABLES, torch.device("cpu")), Rating())
    rows = batch(0, range(1))
    loss, _ = model(replace(rows, bags=bagged(rows.ids, ("item_id", "user_id"))))
    assert loss.ndim == 0
    assert loss > 0


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("sharding", ["auto", *SHARDINGS])
def test_tables_larger_than_memory_are_refused_before_they_are_made(
    sharding: Sharding,
) -> None:
    large = [Table("item_id", 10_000_000, 64)]
    with pytest.raises(UserError, match=r"2\.4 GiB do not fit into the memory of 1 workers"):
        shard(Rating(), large, learning_rate=0.5, seed=7, sharding=sharding, rank_memory=1 << 30)


@pytest.mark.usefixtures("one_rank")
def test_a_planner_knows_how_ranks_lie_on_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "get_world_size", lambda: 16)
    for local, expected in ((8, 8), (3, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
        found = embeddings._topology(torch.device("cpu"), 64 << 30)
        assert found.local_world_size == expected
        assert {device.storage.ddr for device in found.devices} == {64 << 30}


def placements(plan: ShardingPlan) -> list[str]:
    """Of the parts of the first table, rank by rank."""
    (tables,) = plan.plan.values()
    spec = tables["item_id"].sharding_spec
    assert isinstance(spec, EnumerableShardingSpec)
    return [str(part.placement) for part in spec.shards]


def test_parts_of_tables_lie_on_the_gpus_that_the_ranks_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of three ranks two share a host: the planner takes each to be alone on one."""
    gpus = [torch.device("cuda", index) for index in (0, 1, 0)]
    monkeypatch.setattr(dist, "get_world_size", lambda: len(gpus))
    monkeypatch.setattr(
        dist, "all_gather_object", lambda found, own: found.__setitem__(slice(None), gpus)
    )
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 << 30)
    )
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    planner = embeddings._planner(TABLES, "row_wise", gpus[0], 64 << 30)
    plan = planner.plan(Model(EmbeddingTables(TABLES), Rating()), [Sharder()])
    assert placements(plan) == ["rank:0/cuda:0", "rank:1/cuda:0", "rank:2/cuda:0"]
    placed = embeddings._placed(plan, gpus[0])
    assert placements(placed) == ["rank:0/cuda:0", "rank:1/cuda:1", "rank:2/cuda:0"]


@pytest.mark.usefixtures("one_rank")
def test_parts_that_lie_elsewhere_than_planned_are_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Why the plan has to name the devices that there are."""
    monkeypatch.setattr(
        dist, "all_gather_object", lambda found, own: found.__setitem__(0, torch.device("cpu", 1))
    )
    with pytest.raises(ValueError, match="does not match with local Shard's placement"):
        shard(Rating(), TABLES, learning_rate=0.5, seed=7)
