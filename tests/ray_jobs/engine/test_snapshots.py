import pytest
import torch
from torch import nn

from data.contract.settings import UserError
from ray_jobs.engine.snapshots import take_over


def test_weights_are_taken_over_and_tables_given_back() -> None:
    core, rows = nn.Linear(2, 3), torch.ones(4, 2)
    snapshot = {f"core.{name}": torch.full_like(w, 7) for name, w in core.state_dict().items()}
    assert take_over(core, snapshot | {"tables.item_id": rows}) == {"item_id": rows}
    assert (core.weight == 7).all()


@pytest.mark.parametrize(
    ("snapshot", "said"),
    [
        ({"core.weight": torch.ones(3, 5), "core.bias": torch.ones(3)}, "size mismatch for weight"),
        ({"core.weight": torch.ones(3, 2)}, "Missing key"),
    ],
)
def test_those_of_another_model_are_refused_in_words(snapshot, said: str) -> None:
    with pytest.raises(
        UserError, match=f"this Linear are of other settings.*train it again.*{said}"
    ):
        take_over(nn.Linear(2, 3), snapshot)
