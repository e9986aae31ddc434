"""How much the requests of each user weigh in training (TransAct, KDD'23, eq. 6, `w_u`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.contract.encode import encode_columns
from data.contract.settings import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from data.contract.encode import FeatureTable

SETTING = "ranker.user_weights"


def user_weights(
    users: FeatureTable, rows: int, settings: Mapping[str, Mapping[str, float]]
) -> npt.NDArray[np.float32]:
    """Weights of all users, 1 where nothing is named: float32[rows].

    Args:
        users: their declared columns.
        rows: how many there are.
        settings: categorical column -> value -> weight; weights of several columns multiply.

    Raises:
        UserError: users have no such column, or no user has such a value.
    """
    weights = np.ones(rows, np.float32)
    for name, by_value in settings.items():
        held = users.hashes(name)
        if held is None:
            known = ", ".join(f.name for f in users.features if f.kind == "categorical")
            raise UserError(
                f"{SETTING}.{name}: users have no such categorical column; they have "
                f"{known or 'none'}"
            )
        feature = next(f for f in users.features if f.name == name)
        table = pa.table({name: pa.array([*by_value], pa.string())})
        wanted = encode_columns(table, [feature])[name].to_numpy()
        for value, code, weight in zip(by_value, wanted, by_value.values(), strict=True):
            have = held == code
            if not have.any():
                raise UserError(f"{SETTING}.{name}.{value}: no user has that value")
            weights[have] *= weight
    return weights
