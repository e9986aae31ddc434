"""Tables without torchrec learn by the same rule as those with it."""

import pytest
import torch
import torch.distributed as dist

from data.contract.settings import UserError
from models import embeddings
from models.sparse_tables import RowWiseAdagrad, SparseTables
from models.table_shards import full_tables
from tests.models.test_embeddings import TABLES, Rating, train

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.(script|interface). is deprecated"),
    pytest.mark.filterwarnings("ignore:Please use DTensor instead:FutureWarning"),
]


def tables() -> SparseTables:
    torch.manual_seed(0)
    return SparseTables({"item_id": (5, 2)})


def test_rows_move_by_their_gradient_over_the_root_of_their_sum() -> None:
    sparse = tables()
    RowWiseAdagrad(sparse, learning_rate=0.1)
    before = sparse.embedding_bags["item_id"].weight.detach().clone()
    gradient = torch.tensor([3.0, 1.0])
    for _ in range(2):
        (sparse({"item_id": torch.tensor([2])})["item_id"] * gradient).sum().backward()
    moved = before - sparse.embedding_bags["item_id"].weight.detach()
    mean_square = 5.0
    expected = 0.1 * gradient * (mean_square**-0.5 + (2 * mean_square) ** -0.5)
    assert torch.allclose(moved[2], expected, atol=1e-6)
    assert not moved[[0, 1, 3, 4]].any()


def test_a_row_that_is_looked_up_twice_moves_once_by_the_sum() -> None:
    twice, once = tables(), tables()
    for sparse, rows, scale in ((twice, [2, 2], 1.0), (once, [2], 2.0)):
        RowWiseAdagrad(sparse, learning_rate=0.1)
        (scale * sparse({"item_id": torch.tensor(rows)})["item_id"]).sum().backward()
    weights = [sparse.embedding_bags["item_id"].weight for sparse in (twice, once)]
    assert torch.allclose(*weights)


def test_accumulators_of_fewer_rows_load() -> None:
    small, large = tables(), SparseTables({"item_id": (9, 2)})
    optimizer, other = RowWiseAdagrad(small, 0.1), RowWiseAdagrad(large, 0.1)
    small({"item_id": torch.tensor([2])})["item_id"].sum().backward()
    other.load_state_dict(optimizer.state_dict())
    assert other.sums["item_id"].tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0]


def test_the_same_training_as_with_torchrec(monkeypatch: pytest.MonkeyPatch) -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    with_torchrec = embeddings.shard(Rating(), TABLES, learning_rate=0.5, seed=7)
    losses = train(with_torchrec, range(5), range(2))
    expected = full_tables(with_torchrec.module)
    dist.destroy_process_group()
    monkeypatch.setattr(embeddings, "EmbeddingBagCollection", None)
    plain = embeddings.shard(Rating(), TABLES, learning_rate=0.5, seed=7)
    assert train(plain, range(5), range(2)) == pytest.approx(losses, abs=1e-5)
    for name, table in full_tables(plain.module).items():
        assert torch.allclose(table, expected[name], atol=1e-5)


def test_several_workers_without_torchrec_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "EmbeddingBagCollection", None)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    with pytest.raises(UserError, match=r"install them, or set train.num_workers=0"):
        embeddings.shard(Rating(), TABLES, learning_rate=0.5, seed=7)
