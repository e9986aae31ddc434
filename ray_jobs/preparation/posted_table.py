"""Posted documents as a table that is never in memory whole: read twice, first for its types."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.contract.artifact import appearing
from data.headers import TEXTS, alike
from serve.store import Document

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PART_DOCUMENTS = 1 << 14
TYPES = {
    "timestamp": pa.int64(),
    "received_at": pa.int64(),
    "created_at": pa.int64(),
    "duration_s": pa.float64(),
    "event_id": pa.string(),
    "action": pa.string(),
    "surface": pa.string(),
}


@dataclass(frozen=True)
class PostedTable:
    """A row for each document, a column for each key.

    Where values are of mixed types they are text; where lists are, each of what they hold is. What
    a column's values are is told by its root.

    Attributes:
        documents: gives all of them, in order, each time that it is called.
        names: columns that are there whatever was posted; those of other keys follow.
    """

    documents: Callable[[], Iterable[Document]]
    names: tuple[str, ...]

    @cached_property
    def schema(self) -> pa.Schema:
        """Types that the values of all documents have, int64 where there are none."""
        parts = (_inferred(part, self.names) for part in _parts(self.documents()))
        found = reduce(lambda one, other: alike([one, other]), parts, _inferred([], self.names))
        return pa.schema([(f.name, pa.int64() if f.type == pa.null() else f.type) for f in found])

    def parts(self, names: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows in order, 16,384 at a time; all columns unless some are named."""
        chosen = self._chosen(names)
        for part in _parts(self.documents()):
            yield pa.table([_column(part, field) for field in chosen], schema=chosen)

    def read(self, names: Sequence[str] | None = None) -> pa.Table:
        """All rows at once."""
        return pa.concat_tables([self._chosen(names).empty_table(), *self.parts(names)])

    def _chosen(self, names: Sequence[str] | None) -> pa.Schema:
        return pa.schema([self.schema.field(name) for name in names or self.schema.names])

    def write(self, path: Path) -> bool:
        """Writes a Parquet file, which appears when it is whole; none without rows."""
        parts = self.parts()
        first = next(parts, None)
        if first is None:
            return False
        with appearing(path) as place, pq.ParquetWriter(place, self.schema) as writer:
            writer.write_table(first)
            for part in parts:
                writer.write_table(part)
        return True


def _parts(documents: Iterable[Document]) -> Iterator[list[Document]]:
    left = iter(documents)
    while part := list(islice(left, PART_DOCUMENTS)):
        yield part


def _inferred(documents: Sequence[Document], names: Sequence[str]) -> pa.Schema:
    """The types that some documents have by themselves."""
    every = dict.fromkeys([*names, *(key for document in documents for key in document)])
    return pa.schema([(n, _typed([d.get(n) for d in documents], n).type) for n in every])


def _column(documents: Sequence[Document], field: pa.Field) -> pa.Array:
    values = [document.get(field.name) for document in documents]
    if field.type in (pa.string(), TEXTS):
        return _text(values, field.type)
    return _typed(values, field.name).cast(field.type, safe=False)


def _typed(values: list[Any], name: str) -> pa.Array:
    try:
        return pa.array(values, TYPES.get(name))
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        lists = name not in TYPES and all(v is None or isinstance(v, list) for v in values)
        return _text(values, TEXTS if lists else pa.string())


def _text(values: list[Any], kind: pa.DataType) -> pa.Array:
    if kind == TEXTS:
        return pa.array([v if v is None else [*map(_written, v)] for v in values], kind)
    return pa.array([*map(_written, values)], kind)


def _written(value: Any) -> str | None:
    """A value as text, true and false as Arrow writes them."""
    return str(value).lower() if isinstance(value, bool) else None if value is None else str(value)
