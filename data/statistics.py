"""Which columns of an item or user table are features, and the statistics that models store."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data.contract.schema import Feature
from data.contract.settings import UserError
from data.parsing import is_text, numbers, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from data.contract.schema import ValueType
    from data.raw_tables import FeatureOverride

RESERVED = frozenset({"id", "item_id", "user_id", "created_at", "timestamp"})
CATEGORICAL_NAMES = ("_id", "image_signature")
LOW_CARDINALITY = 100
LOG_RANGE = 100.0
PERCENTILES = (0.1, 99.9)
LIST_SEPARATOR = "|"


def features(
    table: pa.Table, overrides: Mapping[str, FeatureOverride]
) -> tuple[tuple[Feature, ...], pa.Table]:
    """Detects the features of a table.

    Numbers are numeric, identifiers, booleans and strings with few values categorical, lists of
    strings or integers multi, lists of floats of one length vectors, null where they are not
    finite; strings with more values than half the rows and than 100 are text, which is no feature.

    Args:
        table: raw rows, our column names.
        overrides: column -> kind, where the detected one is not wanted.

    Returns:
        The features with their statistics, by name, and the table with their columns alone.

    Raises:
        UserError: a column cannot be of the kind asked for.
    """
    found = [_describe(table, name, overrides.get(name)) for name in sorted(table.column_names)]
    kept = [pair for pair in found if pair is not None]
    columns = {feature.name: column for feature, column in kept}
    return tuple(feature for feature, _ in kept), pa.table(columns)


def converted(table: pa.Table, known: tuple[Feature, ...]) -> pa.Table:
    """The columns of known features in later rows; what does not fit is null, or left out whole."""
    columns = {f.name: whole(table[f.name]) for f in known if f.name in table.column_names}
    fitting = {f.name: _fit(columns[f.name], f) for f in known if f.name in columns}
    return pa.table({name: column for name, column in fitting.items() if column is not None})


def _fit(column: pa.Array, feature: Feature) -> pa.Array | None:
    if feature.kind == "vector":
        return _vectors_of(column, feature.dim)
    if feature.kind == "numeric" and is_text(column.type):
        return numbers(column, feature.name).values
    try:
        return _CONVERT[feature.kind](column, feature.name)
    except UserError:
        return None


def _vectors_of(column: pa.Array, dim: int) -> pa.Array | None:
    """Vectors of a width, null where lists are of another; None of what holds no numbers."""
    if not _is_list(column.type) or not _is_number(column.type.value_type):
        return None
    right = np.asarray(pc.fill_null(pc.equal(pc.list_value_length(column), dim), False))
    rows = pa.array(np.arange(len(column)), mask=~right)
    return _finite(column.take(rows).cast(pa.list_(pa.float16(), dim)))


def _finite(vectors: pa.Array) -> pa.Array:
    """Vectors without those that hold a null, NaN or what float16 does not: one spoils all sums."""
    dim, first = vectors.type.list_size, vectors.offset
    flat = vectors.values.slice(first * dim, len(vectors) * dim).to_numpy(zero_copy_only=False)
    # The sum of a line is finite where all of it is, and takes four bytes a vector.
    with np.errstate(invalid="ignore"):
        good = np.isfinite(flat.reshape(-1, dim).sum(axis=1, dtype=np.float32))
    return vectors if good.all() else vectors.take(pa.array(np.arange(len(good)), mask=~good))


def _describe(
    table: pa.Table, name: str, override: FeatureOverride | None
) -> tuple[Feature, pa.Array] | None:
    if name in RESERVED and override is None:
        return None
    column = whole(table[name])
    kind = override or detect(column, name)
    if kind in ("text", "ignore"):
        return None
    values = _CONVERT[kind](column, name)
    return _STATISTICS[kind](Feature(name=name, kind=kind), values), values  # type: ignore[arg-type]


def detect(column: pa.Array, name: str) -> str:
    """Kind of feature that a column looks like: one of FeatureKind, "text" or "ignore"."""
    kind = column.type
    if column.null_count == len(column):
        return "ignore"
    if name.endswith(CATEGORICAL_NAMES) and (pa.types.is_integer(kind) or is_text(kind)):
        return "categorical"
    if pa.types.is_boolean(kind):
        return "categorical"
    if is_text(kind):
        distinct = pc.count_distinct(column).as_py()
        high = distinct > LOW_CARDINALITY and distinct > len(column) / 2
        return "text" if high else "categorical"
    if _is_list(kind):
        return _detect_list(column)
    return "numeric" if _is_number(kind) else "ignore"


def _is_number(kind: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return any(test(kind) for test in tests)


def _is_list(kind: pa.DataType) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def _detect_list(column: pa.Array) -> str:
    inner = column.type.value_type
    if is_text(inner) or pa.types.is_integer(inner):
        return "multi"
    if pa.types.is_floating(inner) and _list_size(column):
        return "vector"
    return "ignore"


def _list_size(column: pa.Array) -> int:
    """The one length of all lists, or 0 when they differ."""
    if pa.types.is_fixed_size_list(column.type):
        return int(column.type.list_size)
    sizes = pc.unique(pc.list_value_length(column).drop_null())
    return int(sizes[0].as_py()) if len(sizes) == 1 else 0


def _as_numeric(column: pa.Array, name: str) -> pa.Array:
    try:
        return column.cast(pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise UserError(
            f"column {name} is {column.type} and not all numbers; "
            f"set source.features.{name}=categorical or ignore"
        ) from None


def _as_categorical(column: pa.Array, name: str) -> pa.Array:
    if pa.types.is_nested(column.type):
        raise UserError(f"column {name} holds lists; set source.features.{name}=multi or ignore")
    return column if pa.types.is_integer(column.type) else _cast(column, pa.string(), name)


def _as_multi(column: pa.Array, name: str) -> pa.Array:
    """Lists of strings or integers; text is cut at |."""
    if is_text(column.type):
        return pc.split_pattern(column.cast(pa.string()), LIST_SEPARATOR)
    if not _is_list(column.type):
        raise UserError(
            f"column {name} is {column.type}, not lists or text cut by {LIST_SEPARATOR}"
        )
    inner = column.type.value_type
    return _cast(column, pa.list_(pa.int64() if pa.types.is_integer(inner) else pa.string()), name)


def _cast(column: pa.Array, kind: pa.DataType, name: str) -> pa.Array:
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise UserError(
            f"column {name} is {column.type} and holds no text or numbers; "
            f"set source.features.{name}=ignore"
        ) from None


def _as_vector(column: pa.Array, name: str) -> pa.Array:
    size = _list_size(column) if _is_list(column.type) else 0
    if not size:
        raise UserError(f"column {name} is {column.type}, not vectors of one length")
    return _finite(column.cast(pa.list_(pa.float16(), size)))


def _numeric_statistics(feature: Feature, column: pa.Array) -> Feature:
    values = column.drop_null().to_numpy(zero_copy_only=False)
    values = values[np.isfinite(values)]
    if not len(values):
        return feature
    low, high = np.percentile(values, PERCENTILES)
    log = bool(high - low > LOG_RANGE)
    shown = scaled(values, float(low), float(high), log)
    std = float(shown.std())
    return replace(
        feature,
        low=float(low),
        high=float(high),
        log=log,
        mean=float(shown.mean()),
        std=std if std > 1e-6 else 1.0,
    )


def scaled(
    values: npt.NDArray[np.float64], low: float, high: float, log: bool
) -> npt.NDArray[np.float64]:
    """Values clipped to [low, high], then ln(1 + x - low) if `log`: what mean and std are of."""
    clipped = np.clip(values, low, high)
    return np.log1p(clipped - low) if log else clipped


def _cardinality(feature: Feature, column: pa.Array) -> Feature:
    values = column.flatten() if pa.types.is_nested(column.type) else column
    kind: ValueType = "int64" if pa.types.is_integer(values.type) else "string"
    return replace(feature, cardinality=int(pc.count_distinct(values).as_py()), values=kind)


def _width(feature: Feature, column: pa.Array) -> Feature:
    return replace(feature, dim=int(column.type.list_size))


_CONVERT: dict[str, Callable[[pa.Array, str], pa.Array]] = {
    "numeric": _as_numeric,
    "categorical": _as_categorical,
    "multi": _as_multi,
    "vector": _as_vector,
}
_STATISTICS: dict[str, Callable[[Feature, pa.Array], Feature]] = {
    "numeric": _numeric_statistics,
    "categorical": _cardinality,
    "multi": _cardinality,
    "vector": _width,
}


def vector_column(table: pa.Table, file: str) -> str:
    """Name of the one column of vectors. Raises UserError when there is none, or several."""
    names = list(_vector_names(table))
    if len(names) != 1:
        found = ", ".join(names) or "none"
        raise UserError(f"{file} must have item_id and one column of vectors; found {found}")
    return names[0]


def _vector_names(table: pa.Table) -> Iterator[str]:
    for name in table.column_names:
        column = whole(table[name])
        if _is_list(column.type) and _detect_list(column) == "vector":
            yield str(name)
