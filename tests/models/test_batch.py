"""Batches move and are muted whole."""

import torch

from models.batch import Batch, Jagged

BATCH = Batch(
    ids={"item_id": Jagged(torch.tensor([3, 4]), torch.tensor([2, 0]))},
    inputs={"history.lengths": torch.tensor([1, 0])},
    labels={"label.save": torch.tensor([1.0, 0.0])},
    weight=torch.tensor([1.0, 2.0]),
)


def test_a_muted_batch_has_the_same_rows_and_no_weight() -> None:
    muted = BATCH.muted()
    assert muted.weight.tolist() == [0, 0]
    assert muted.ids is BATCH.ids
    assert BATCH.weight.tolist() == [1, 2]


def test_moving_a_batch_moves_every_tensor() -> None:
    moved = BATCH.to(torch.device("meta"))
    tensors = [*moved.inputs.values(), *moved.labels.values(), moved.weight]
    tensors += [part for rows in moved.ids.values() for part in (rows.values, rows.lengths)]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
