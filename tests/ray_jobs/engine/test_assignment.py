import weakref

import torch
from safetensors.torch import save_file

from data.contract.artifact import publish
from ray_jobs.engine.assignment import Assignment
from ray_jobs.engine.snapshots import TABLES
from ray_jobs.settings import Settings


def test_tables_to_begin_with_are_unit_rows_that_an_assignment_does_not_keep(tmp_path):
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    with publish(tmp_path, "id", "v1", id_space={}) as draft:
        save_file({TABLES + "item_id": rows}, draft.path / "model.safetensors")
    words = tmp_path, "two_tower", Settings(), "v1", tmp_path, "choose"
    assert Assignment(*words).id_tables() == {}
    assignment = Assignment(*words, ids_version="v1")
    (table,) = assignment.id_tables().values()
    assert torch.equal(table, torch.tensor([[0.0, 0.0], [0.6, 0.8]]))
    held = weakref.ref(table)
    del table
    assert held() is None
