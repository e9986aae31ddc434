"""External ids as they come over HTTP -> ids of the type that the root has."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.contract.settings import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data.contract.encode import Ints
    from data.contract.idspace import IdSpace
    from serve.store import ExternalId

Mask = npt.NDArray[np.bool_]

INT64 = range(-(2**63), 2**63)
INTEGER = re.compile(r"-?[0-9]{1,19}")


def canonical(space: IdSpace, ids: Sequence[ExternalId]) -> list[ExternalId]:
    """Ids in the type of the space; a number may come as a string.

    Raises:
        UserError: an id that cannot be of that type.
    """
    if not pa.types.is_integer(space.ids.type):
        return [str(value) for value in ids]
    return [_integer(space.name, value) for value in ids]


def _integer(name: str, value: ExternalId) -> int:
    whole = isinstance(value, int) or INTEGER.fullmatch(value)
    if not whole or int(value) not in INT64:
        raise UserError(f"{name} ids are 64-bit integers here; got {str(value)[:40]!r}")
    return int(value)


def lookup(space: IdSpace, ids: Sequence[ExternalId]) -> Ints:
    """Rows [n] of canonical ids; an id that was never admitted gives its hash bucket."""
    if not ids:
        return np.zeros(0, np.int64)
    return space.lookup(pa.array(ids, space.ids.type))


def is_admitted(space: IdSpace, rows: Ints) -> Mask:
    """Whether rows stand for one id each, not for unknown ones."""
    return rows >= space.first_row
