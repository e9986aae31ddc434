"""Whole tables out of shards; what sharding does to learning is in `test_embeddings`."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from models import table_shards
from models.embeddings import Table, shard
from models.table_shards import full_tables, load_tables


class OnGpus:
    """A sharded weight whose shards lie where this machine may have nothing."""

    def local_shards(self) -> list[object]:
        return []

    def metadata(self) -> SimpleNamespace:
        return SimpleNamespace(size=(4, 2))

    def gather(self, dst: int, out: Tensor | None) -> None:
        assert dst == 0
        assert out is not None
        assert out.device.type == "cpu"
        out.fill_(7)


@pytest.mark.usefixtures("one_rank")
def test_shards_on_gpus_are_collected_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_shards, "_weights", lambda _: [("item_id", OnGpus())])
    monkeypatch.setattr(table_shards.dist, "get_world_size", lambda: 2)
    (table,) = full_tables(nn.Module()).values()
    assert torch.equal(table, torch.full((4, 2), 7.0))


@pytest.mark.gpu
@pytest.mark.usefixtures("one_rank_with_gpu")
def test_tables_on_a_gpu_are_read_and_written_whole() -> None:
    core = nn.Linear(2, 1, device="cuda")
    model = shard(core, [Table("item_id", 101, 16)], learning_rate=0.5, seed=7)
    before = full_tables(model.module)
    assert before["item_id"].device.type == "cpu"
    load_tables(model.module, {"item_id": before["item_id"] + 1})
    after = full_tables(model.module)
    assert torch.equal(after["item_id"], before["item_id"] + 1)
