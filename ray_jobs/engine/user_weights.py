"""How much the requests of each user weigh in training (TransAct, KDD'23, eq. 6, `w_u`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.contract.encode import hash_values
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
        if users.hashes(name) is None:
            known = ", ".join(f.name for f in users.features if f.kind == "categorical")
            raise UserError(
                f"{SETTING}.{name}: users have no such categorical column; they have "
                f"{known or 'none'}"
            )
        held = users.only([name]).gather(np.arange(rows))[f"{users.side}.{name}"]
        for value, weight in by_value.items():
            have = np.isin(held, _hashes(value))
            if not have.any():
                raise UserError(f"{SETTING}.{name}.{value}: no user has that value")
            weights[have] *= weight
    return weights


def _hashes(value: str) -> list[int]:
    """Of a value as text and, where it is one, as a whole number: columns may hold either."""
    found = [hash_values(pa.array([value]))]
    if value.removeprefix("-").isdecimal():
        found.append(hash_values(pa.array([int(value)])))
    return [int(hashes[0].as_py()) for hashes in found]
