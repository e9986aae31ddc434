from dataclasses import replace

import torch

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
