"""ID tables: torchrec collections, planned, sharded, with the optimiser fused into backward.

Notable here:
- row 0 is unknown: it looks up as zeros and gets no gradient;
- look-ups are bags of one id: on a CPU fbgemm's kernels for bags are several times faster than
  those for single rows;
- tables are built on the meta device, each rank fills only its shards, by a seed for each block of
  rows: the same table comes out whatever the sharding;
- one path for one rank and for many: `DistributedModelParallel` over the process group;
- ids are made ready for it (`ShardedModel.ready`) before a step, so that they may travel to the
  ranks that hold their rows while the step before is computed (`models.step_pipeline`);
- without torchrec the tables are `models.sparse_tables`, in one process.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from data.contract.settings import UserError
from models.sparse_tables import RowWiseAdagrad, SparseTables
from models.table_shards import fill

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from models.batch import Batch, Jagged

try:
    import fbgemm_gpu
    from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
    from torchrec.distributed import DistributedModelParallel
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.model_parallel import DefaultDataParallelWrapper
    from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
    from torchrec.distributed.planner.storage_reservations import (
        FixedPercentageStorageReservation,
    )
    from torchrec.distributed.planner.types import (
        ParameterConstraints,
        PlannerError,
        PlannerErrorType,
    )
    from torchrec.optim import RowWiseAdagrad as FusedRowWiseAdagrad
    from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
except ImportError:  # torch alone
    EmbeddingBagCollection, EmbeddingBagCollectionSharder = None, object

Sharding = Literal["auto", "table_wise", "column_wise", "row_wise"]
META = torch.device("meta")
COLUMNS = 32  # of a part of a table that is cut by columns, on however many ranks
EPS = 1e-8
LANES = 4  # numbers of a row that fbgemm reads at once


@dataclass(frozen=True, slots=True)
class Table:
    """An ID table.

    Attributes:
        name: of its ids in a batch and of its rows in a core.
        num_embeddings: rows, row 0 being unknown.
        dim: width of a row.
    """

    name: str
    num_embeddings: int
    dim: int


def tables_on_gpus() -> bool:
    """Whether tables may lie on GPUs: fbgemm may be the build for CPUs, whichever torch is."""
    return EmbeddingBagCollection is None or fbgemm_gpu.__variant__ != "cpu"


class EmbeddingTables(nn.Module):
    """Looks up rows by id, unpooled, all tables in one collection.

    Example:
        item_id holds the batch's distinct items, user_id one user a row (B = 2):

            ids["item_id"]  values [7, 3, 9]  lengths [3, 0]   ->  [3, dim]
            ids["user_id"]  values [4, 0]     lengths [1, 1]   ->  [2, dim], second row zeros
    """

    def __init__(self, tables: Sequence[Table], device: torch.device = META) -> None:
        """Builds the tables, all of one width or none at all, unfilled, on `device`."""
        super().__init__()
        self.tables = tuple(tables)
        self.collection: nn.Module = _collection(self.tables, device)

    def forward(self, ids: Mapping[str, Jagged], bags: Any) -> dict[str, Tensor]:
        """Rows of every table's ids, by name.

        Args:
            ids: of each table.
            bags: the same by `bagged`; None without torchrec.

        Returns:
            float32[len(values), dim], zeros for id 0.
        """
        if not self.tables:
            return {}
        if isinstance(self.collection, SparseTables):
            rows = self.collection({t.name: ids[t.name].values for t in self.tables})
        else:
            found = self.collection(bags).to_dict()
            # No len(): torchrec's pipeline traces this.
            rows = {t.name: found[t.name][: ids[t.name].values.shape[0]] for t in self.tables}
        return {name: r * (ids[name].values != 0).unsqueeze(-1) for name, r in rows.items()}


def bagged(ids: Mapping[str, Jagged], names: Sequence[str]) -> Any:
    """Every id a bag of its own; all tables and ranks need as many bags: the last are empty.

    Every rank calls it. Returns a KeyedJaggedTensor.
    """
    values = [ids[name].values for name in names]
    bags = torch.arange(most_on_any_rank(max(map(len, values))))
    lengths = torch.cat([(bags < len(of_table)).long() for of_table in values])
    return KeyedJaggedTensor(keys=list(names), values=torch.cat(values), lengths=lengths)


def most_on_any_rank(count: int) -> int:
    """The largest of the ranks' counts."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return count
    most = torch.tensor(count)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most)


def _collection(tables: Sequence[Table], device: torch.device) -> nn.Module:
    if EmbeddingBagCollection is None:
        return SparseTables({t.name: (t.num_embeddings, t.dim) for t in tables}, device)
    configs = [
        EmbeddingBagConfig(
            name=t.name,
            feature_names=[t.name],
            num_embeddings=t.num_embeddings,
            embedding_dim=t.dim,
        )
        for t in tables
    ]
    collection: nn.Module = EmbeddingBagCollection(tables=configs, device=device)
    return collection


class Model(nn.Module):
    """Tables and the core that reads their rows: what is trained together."""

    def __init__(self, tables: EmbeddingTables, core: nn.Module) -> None:
        """Pairs them."""
        super().__init__()
        self.tables = tables
        self.core = core

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The core's loss and logs for a batch."""
        loss, logs = self.core(self.tables(batch.ids, batch.bags), batch)
        return loss, logs


class ShardedModel(NamedTuple):
    """A model spread over the ranks of the process group.

    Attributes:
        module: called with a batch that is ready; gradients of its dense part are averaged over the
            ranks.
        core: the dense part, unwrapped, the same on all ranks.
        tables_optimizer: what updates the tables in backward; its `zero_grad` takes over a learning
            rate that was changed in `param_groups`.
        plan: which table lies where, for people.
        names: of torchrec's tables.
    """

    module: nn.Module
    core: nn.Module
    tables_optimizer: Any
    plan: str
    names: tuple[str, ...] = ()

    def ready(self, batch: Batch) -> Batch:
        """A batch on the CPU with its ids as the tables take them; every rank calls it."""
        if not self.names:
            return batch
        return replace(batch, bags=bagged(batch.ids, self.names))

    def dense_parameters(self) -> dict[str, nn.Parameter]:
        """What an ordinary optimiser has to step, by name."""
        return dict(self.core.named_parameters())

    def state(self) -> dict[str, Any]:
        """What a distributed checkpoint saves, and the target into which it loads.

        Every rank calls it. A rank without a shard has no optimiser state: that entry is left out,
        as the checkpoint would be asked for a key that it does not have.
        """
        state = {"model": self.module.state_dict(), "tables": self.tables_optimizer.state_dict()}
        return state if state["tables"]["state"] else {"model": state["model"]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes over what a distributed checkpoint loaded into `state()`."""
        self.module.load_state_dict(state["model"])
        if "tables" in state:
            self.tables_optimizer.load_state_dict(state["tables"])

    def set_tables_learning_rate(self, learning_rate: float) -> None:
        """Changes the rate of the optimiser in backward, from the next step on."""
        for group in self.tables_optimizer.param_groups:
            group["lr"] = learning_rate
        self.tables_optimizer.zero_grad()


def shard(
    core: nn.Module,
    tables: Sequence[Table],
    learning_rate: float,
    seed: int,
    sharding: Sharding = "auto",
    rank_memory: int | None = None,
) -> ShardedModel:
    """Plans and builds the tables beside `core`, filled by `seed`.

    Args:
        core: the dense part, on its device.
        tables: what to look up.
        learning_rate: of row-wise Adagrad on the tables.
        seed: of the first values, N(0, 1 / dim).
        sharding: how tables are cut; auto leaves it to torchrec's planner. Parts of `COLUMNS`
            columns have an Adagrad state each.
        rank_memory: bytes of the host's memory that a rank may take; by default torchrec's guess.

    Raises:
        UserError: several ranks without torchrec, rows of a width that fbgemm does not read, or
            tables that do not fit into the ranks' memory.
    """
    if EmbeddingBagCollection is None:
        sharded = _single(core, tables, learning_rate)
    else:
        _refuse_widths(tables)
        planner = _planner(tables, sharding, next(core.parameters()).device, rank_memory)
        sharded = _planned(core, tables, learning_rate, planner)
    fill(sharded.module, {t.name: t.dim for t in tables}, seed)
    return sharded


def _refuse_widths(tables: Sequence[Table]) -> None:
    for table in tables:
        if table.dim % LANES:
            raise UserError(
                f"rows of {table.name} are {table.dim} numbers wide (id_dim, of the graph its "
                f"dim), and fbgemm reads {LANES} at once: set a multiple of {LANES}, such as "
                f"{-(-table.dim // LANES) * LANES}"
            )


def _single(core: nn.Module, tables: Sequence[Table], learning_rate: float) -> ShardedModel:
    if dist.is_initialized() and dist.get_world_size() > 1:
        raise UserError(
            "training on several workers needs torchrec and fbgemm-gpu: install them, or set "
            "train.num_workers=0"
        )
    model = Model(EmbeddingTables(tables, next(core.parameters()).device), core)
    assert isinstance(model.tables.collection, SparseTables)
    optimizer = RowWiseAdagrad(model.tables.collection, learning_rate)
    return ShardedModel(model, core, optimizer, "one process, no torchrec")


def _planned(
    core: nn.Module, tables: Sequence[Table], learning_rate: float, planner: Any
) -> ShardedModel:
    device = next(core.parameters()).device
    model = Model(EmbeddingTables(tables, META), core)
    sharders = [Sharder()]
    with warnings.catch_warnings():
        # Deprecations that torchrec and fbgemm meet in torch: nothing that a user can mend.
        warnings.simplefilter("ignore")
        apply_optimizer_in_backward(
            FusedRowWiseAdagrad, model.tables.parameters(), {"lr": learning_rate, "eps": EPS}
        )
        plan = _placed(_plan(planner, model, sharders, tables), device)
        module = DistributedModelParallel(
            model,
            device=device,
            plan=plan,
            sharders=sharders,
            data_parallel_wrapper=DefaultDataParallelWrapper(static_graph=False),
        )
    names = tuple(table.name for table in tables)
    return ShardedModel(module, core, module.fused_optimizer, str(plan), names)


def _plan(planner: Any, model: nn.Module, sharders: list[Any], tables: Sequence[Table]) -> Any:
    try:
        return planner.collective_plan(model, sharders, dist.group.WORLD)
    except PlannerError as error:
        if error.error_type != PlannerErrorType.INSUFFICIENT_STORAGE:
            raise
        gib = sum(table.num_embeddings * table.dim for table in tables) * 4 / 2**30
        raise UserError(
            f"tables of {gib:.1f} GiB do not fit into the memory of {dist.get_world_size()} "
            "workers: train.num_workers= more, on hosts of more memory, or a smaller id_dim"
        ) from error


def _placed(plan: Any, device: torch.device) -> Any:
    """The plan with the device that each rank has: the planner takes all hosts to have as many."""
    devices = [device] * dist.get_world_size()
    dist.all_gather_object(devices, device)
    for module in plan.plan.values():
        for table in module.values():
            for part in table.sharding_spec.shards:
                rank = part.placement.rank()
                part.placement = dist._remote_device(f"rank:{rank}/{devices[rank]}")
    return plan


class Sharder(EmbeddingBagCollectionSharder):
    """The stock sharder, which refuses row-wise tables on a CPU though gloo runs them."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Ways to cut a table."""
        del compute_device_type
        return ["table_wise", "column_wise", "row_wise"]


def _planner(
    tables: Sequence[Table], sharding: Sharding, device: torch.device, rank_memory: int | None
) -> Any:
    """A planner that never chooses data_parallel: slow for large tables, and not fused."""
    kinds = ["table_wise", "column_wise", "row_wise"] if sharding == "auto" else [sharding]
    # torchrec's own parts, of 128 columns, leave the tables of most recommenders in one piece.
    part = COLUMNS if sharding == "column_wise" else None
    allowed = ParameterConstraints(
        sharding_types=kinds, compute_kernels=["fused"], min_partition=part
    )
    return EmbeddingShardingPlanner(
        topology=_topology(device, rank_memory),
        constraints={table.name: allowed for table in tables},
        storage_reservation=FixedPercentageStorageReservation(percentage=0.15),
        debug=False,
    )


def _topology(device: torch.device, rank_memory: int | None) -> Any:
    """How ranks lie on hosts, as Ray Train tells each; of uneven hosts each rank counts as one."""
    world = dist.get_world_size()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    on_gpu = device.type == "cuda"
    return Topology(
        world_size=world,
        compute_device=device.type,
        local_world_size=1 if world % local else local,
        hbm_cap=torch.cuda.get_device_properties(device).total_memory if on_gpu else None,
        ddr_cap=rank_memory,
    )
