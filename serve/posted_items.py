"""Columns of posted items: refused with a reason, or encoded as the item table is."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from data.contract.encode import encode_columns, whole_numbers
from data.contract.schema import GRAPH_COLUMN
from data.contract.settings import UserError
from serve.messages import MAX_COORDINATE

if TYPE_CHECKING:
    from data.contract.schema import Feature, FeatureKind

Document = Mapping[str, Any]

MAX_TEXT = 10_000
MAX_WHOLE = 2**53  # whole numbers beyond are no floats
OWN_COLUMNS = frozenset({"item_id", "created_at", "title", "text"})


def check_columns(features: Sequence[Feature], item: Document) -> None:
    """Refuses columns that the root does not declare or of another type. Raises UserError."""
    declared = {f.name: f for f in features if f.name != GRAPH_COLUMN}
    for name, value in item.items():
        if name in OWN_COLUMNS:
            _check_text(name, value)
        elif name not in declared:
            known = ", ".join([*sorted(declared), "title", "text"])
            raise UserError(f"items have no column {name!r} here; known are {known}")
        elif value is not None and not _fits(declared[name], value):
            raise UserError(f"column {name!r} must be {_expected(declared[name])}")


def fits(features: Sequence[Feature], item: Document) -> bool:
    """Whether an item's declared columns are of their types; others of its columns do not count."""
    return all(item.get(f.name) is None or _fits(f, item[f.name]) for f in features)


def _check_text(name: str, value: Any) -> None:
    if name in ("title", "text") and not (value is None or _is_text(value)):
        raise UserError(f"column {name!r} must be text of at most {MAX_TEXT} characters")


_EXPECTED: dict[FeatureKind, str] = {
    "numeric": "a finite number, below 2^53 if whole",
    "categorical": "a string, an integer or true/false",
    "multi": "a list of strings or a list of integers",
    "vector": (
        f"a list of as many numbers as the item table's vectors have, none beyond {MAX_COORDINATE}"
    ),
}


def _expected(feature: Feature) -> str:
    own = "; the table's are whole numbers" if feature.values == "int64" else ""
    return _EXPECTED[feature.kind] + own


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT and _is_unicode(value)


def _is_unicode(value: str) -> bool:
    """Whether the text can be written as UTF-8 (JSON can smuggle in half a surrogate pair)."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _is_number(value: Any) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) <= MAX_WHOLE
    return isinstance(value, float) and abs(value) < 1e30 and math.isfinite(value)


def _is_coordinate(value: Any) -> bool:
    return _is_number(value) and abs(value) <= MAX_COORDINATE


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _fits(feature: Feature, value: Any) -> bool:
    if feature.kind == "numeric":
        return _is_number(value)
    if feature.kind == "categorical":
        return _is_value(feature, value) or (isinstance(value, bool) and feature.values != "int64")
    if not isinstance(value, list) or len(value) > MAX_TEXT:
        return False
    if feature.kind == "vector":
        return len(value) == feature.dim and all(map(_is_coordinate, value))
    kinds = {isinstance(one, int) for one in value}
    return len(kinds) <= 1 and all(_is_value(feature, one) for one in value)


def _is_value(feature: Feature, value: Any) -> bool:
    """Whether it can be one of the values of a categorical or multi column."""
    if feature.values == "int64" and isinstance(value, str):
        return _is_text(value) and whole_numbers(pa.array([value])).null_count == 0
    return _is_text(value) or _is_integer(value)


def encode_items(features: Sequence[Feature], items: Sequence[Document]) -> dict[str, pa.Array]:
    """Encodes the declared columns of checked items as `encode_columns` does an item table.

    Items are encoded in groups of equal types, so that the hash of a value does not depend on
    what else was posted with it.
    """
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for at, item in enumerate(items):
        groups[tuple(_type_of(item.get(f.name)) for f in features)].append(at)
    parts = [encode_columns(_raw(features, items, at), features) for at in groups.values()]
    order = pa.array(np.argsort(np.concatenate(list(groups.values()))))
    return {
        f.name: pa.concat_arrays([part[f.name] for part in parts]).take(order) for f in features
    }


def _type_of(value: Any) -> str:
    kind = type(value).__name__
    return f"{kind} of {_type_of(value[0])}" if isinstance(value, list) and value else kind


def _raw(features: Sequence[Feature], items: Sequence[Document], at: list[int]) -> pa.Table:
    return pa.table({f.name: _column(f, [items[i].get(f.name) for i in at]) for f in features})


def _column(feature: Feature, values: list[Any]) -> pa.Array:
    """One column of values of equal type; absent vectors are zero, as in the item table."""
    if feature.kind == "vector":
        rows = [value or [0.0] * feature.dim for value in values]
        return pa.FixedSizeListArray.from_arrays(
            pa.array(np.ravel(rows), pa.float16()), feature.dim
        )
    if feature.kind == "multi":
        some = values[0]
        return pa.array(values, pa.list_(pa.array(some).type if some else pa.string()))
    return pa.array(values, pa.string() if values[0] is None else None)
