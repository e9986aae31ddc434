from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models import graph_encoder, losses
from models.batch import Batch, Jagged
from tests.models import cases


def without_users(batch: Batch) -> Batch:
    """The same batch asked by its positives in place of its users."""
    items, inputs = len(batch.inputs["node.item"]), dict(batch.inputs)
    inputs |= {name: inputs[name][:items] for name in ("node.neighbors", "node.weights")}
    inputs["query"] = inputs["positive"]
    nobody = Jagged(torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64))
    return replace(batch, inputs=inputs, ids=batch.ids | {"user_id": nobody})


def test_a_batch_in_which_no_user_asks_is_learnt_from_too() -> None:
    core, batch = cases.graph(), without_users(cases.graph_batch(cases.visits()))
    rows = cases.rows_of(batch, cases.tables())
    vectors = core.nodes(rows, batch.inputs)
    assert len(vectors) == len(batch.inputs["node.item"])
    loss, _ = core(rows, batch)
    assert loss.isfinite()


class Ranks:
    """Two ranks, of which the other one's weights are known."""

    def __init__(self, others: Tensor) -> None:
        self.others = others

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def get_world_size(self) -> int:
        return 2

    def all_reduce(self, total: Tensor) -> None:
        total += self.others


def test_a_rank_that_has_run_out_does_not_halve_the_losses_of_objectives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    each, objective, weight = torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 2]), torch.ones(3)
    alone = graph_encoder._by_objective(each, objective, weight)
    assert [float(value) for value in alone.values()] == [2.0, 0.0, 5.0]
    found = []
    for own, others in ((weight, [0.0, 0.0, 0.0]), (0 * weight, [2.0, 0.0, 1.0])):
        monkeypatch.setattr(losses, "dist", Ranks(torch.tensor(others)))
        found.append(graph_encoder._by_objective(each, objective, own))
    for name, value in alone.items():
        assert float(found[0][name] + found[1][name]) / 2 == float(value)
