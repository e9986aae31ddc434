"""Item and user tables: raw rows in, encoded columns aligned with the rows of an id space out.

These tables are read whole: they grow with the catalogue, not with the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from data import parsing
from data.chunks import FILE, ROW, RawBlock, located_lines, parse_text
from data.contract.encode import encode_columns
from data.contract.schema import Feature
from data.contract.settings import UserError
from data.headers import Header, alike, check_columns, check_ids, check_types, headers
from data.parsing import whole
from data.raw_tables import FileSet, TextLayout, damaged, file_columns, is_parquet
from data.rejects import NO_REJECTS, Inspection
from data.statistics import vector_column

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from data.contract.idspace import IdSpace

CONTENT = "content"
BLANK: Mapping[str, Any] = {"numeric": None, "categorical": 0, "multi": []}


@dataclass(frozen=True, slots=True)
class Attributes:
    """Checked rows of an item or user table.

    Attributes:
        ids: [N] distinct external ids.
        created_at: [N] ms since 1970, 0 where unknown.
        columns: [N] all other columns, by our names.
        rejects: rows that were refused.
    """

    ids: pa.Array
    created_at: npt.NDArray[np.int64]
    columns: pa.Table
    rejects: pa.Table


def read_attributes(
    sets: Sequence[FileSet], id_column: str, kind: pa.DataType, content: Sequence[FileSet] = ()
) -> Attributes:
    """Reads a table; where two sets have an id, the later set's row counts.

    Args:
        sets: files of the table.
        id_column: "item_id" or "user_id".
        kind: type of the external ids.
        content: tables of one vector per id, joined as the column "content".

    Raises:
        UserError: no id column, an id twice in one set, or ids of the wrong type.
    """
    read = [_read_set(files, id_column, kind) for files in sets]
    if not read:
        read = [Attributes(pa.array([], kind), np.zeros(0, np.int64), pa.table({}), NO_REJECTS)]
    joined = _latest(read)
    return _with_content(joined, content, id_column) if content else joined


def _latest(parts: Sequence[Attributes]) -> Attributes:
    ids = pa.concat_arrays([part.ids for part in parts])
    created_at = np.concatenate([part.created_at for part in parts])
    tables = [part.columns.append_column(ROW, pa.nulls(len(part.ids))) for part in parts]
    columns = _concatenated(tables).drop_columns(ROW)
    _, newest = np.unique(_codes(ids)[::-1], return_index=True)
    keep = pa.array(np.sort(len(ids) - 1 - newest))
    rejects = pa.concat_tables(part.rejects for part in parts)
    rows = columns.take(keep) if columns.num_columns else columns
    return Attributes(ids.take(keep), created_at[np.asarray(keep)], rows, rejects)


def _concatenated(tables: Sequence[pa.Table]) -> pa.Table:
    """All rows; columns of different types as text, of which the known features make their own."""
    kinds = alike([table.schema for table in tables])
    cast = [
        pa.table({n: table[n].cast(kinds.field(n).type, safe=False) for n in table.column_names})
        for table in tables
    ]
    return pa.concat_tables(cast, promote_options="default")


def _codes(ids: pa.Array) -> npt.NDArray[np.int64]:
    """A number for each distinct id."""
    codes: npt.NDArray[np.int64] = np.asarray(ids.dictionary_encode().indices).astype(np.int64)
    return codes


def _read_set(files: FileSet, id_column: str, kind: pa.DataType) -> Attributes:
    table_id = _id_column(files, id_column)
    block = _read_files(files, table_id, kind)
    rows = block.rows
    inspection = Inspection.of(block, files.files)
    name = f"{table_id} of {files.name()}"
    ids = inspection.accept(table_id, parsing.ids(whole(rows[table_id]), kind, name))
    _refuse_other_ids(inspection, kind)
    created_at = _created_at(rows, files, inspection)
    good = pa.array(~inspection.bad)
    _refuse_duplicates(ids.filter(good), rows.filter(good), files)
    columns = _renamed(rows, files).drop_columns([FILE, ROW])
    own = (table_id, id_column, "created_at", files.theirs("created_at"))
    kept = [name for name in columns.column_names if name not in own]
    return Attributes(
        ids.filter(good),
        created_at[~inspection.bad],
        columns.select(kept).filter(good),
        inspection.all_rejects(),
    )


def _id_column(files: FileSet, ours: str) -> str:
    """Their name of the ids; `source.columns.item_id` may name the event log's column only."""
    names = [set(header.names) for header in headers(files)]
    theirs = files.theirs(ours)
    if ours in set.intersection(*names) and theirs not in set.union(*names):
        return ours
    check_columns(files, [ours])
    return theirs


def _refuse_other_ids(inspection: Inspection, kind: pa.DataType) -> None:
    """Stops when most ids are not of the log's kind."""
    if inspection.bad.sum() > len(inspection.bad) / 2:
        row = inspection.all_rejects().filter(pc.field("column") != "").slice(0, 1).to_pylist()[0]
        raise UserError(
            f"most rows of {row['file']} have no id of the log: {row['column']} in row "
            f"{row['row']} is {row['value']!r} ({row['reason']}), and the log's ids are {kind}"
        )


def _renamed(rows: pa.Table, files: FileSet) -> pa.Table:
    taken = set(rows.column_names)
    ours = {theirs: name for name, theirs in files.columns.items() if name not in taken}
    return rows.rename_columns([ours.get(name, name) for name in rows.column_names])


def _created_at(rows: pa.Table, files: FileSet, inspection: Inspection) -> npt.NDArray[np.int64]:
    name = files.theirs("created_at")
    if name not in rows.column_names:
        return np.zeros(rows.num_rows, np.int64)
    where = f"{name} of {files.name()}"
    parsed = parsing.times(whole(rows[name]), files.timestamp_unit, where)
    times: npt.NDArray[np.int64] = np.asarray(inspection.accept(name, parsed).fill_null(0))
    return times


def _refuse_duplicates(ids: pa.Array, rows: pa.Table, files: FileSet) -> None:
    codes = _codes(ids)
    order = np.argsort(codes, kind="stable")
    again = np.flatnonzero(np.diff(codes[order]) == 0)
    if not len(again):
        return
    first, second = order[again[0]], order[again[0] + 1]
    places = [
        f"{files.name(rows[FILE][int(at)].as_py())} row {rows[ROW][int(at)].as_py()}"
        for at in (first, second)
    ]
    raise UserError(
        f"id {ids[int(first)].as_py()} is there twice: {places[0]} and {places[1]} "
        f"({len(again)} rows too many in all); keep one row for each id"
    )


def _read_files(files: FileSet, table_id: str, kind: pa.DataType) -> RawBlock:
    texts = [table_id] if pa.types.is_string(kind) else []
    blocks = [_read_file(path, i, files, texts) for i, path in enumerate(files.files)]
    pairs = list(zip(files.files, [block.rows for block in blocks], strict=True))
    filled = [(path, rows) for path, rows in pairs if rows.num_rows] or pairs[:1]
    found = [Header(path, rows.drop_columns([FILE, ROW]).schema) for path, rows in filled]
    check_ids(found, [table_id])
    check_types(found)
    rows = pa.concat_tables((rows for _, rows in filled), promote_options="permissive")
    return RawBlock(rows.combine_chunks(), pa.concat_tables(b.rejects for b in blocks))


def _read_file(path: Path, number: int, files: FileSet, texts: Sequence[str]) -> RawBlock:
    """All rows of a file; of text, types are found out but for some columns, which stay text."""
    if is_parquet(path):
        return located_lines(_read_parquet(path), [], path, (number, 0), 0)
    names = file_columns(path, files.text)
    with path.open("rb") as stream:
        if not files.text.names:
            stream.readline()
        data = stream.read()
    types = dict.fromkeys(texts, pa.string())
    options = pa_csv.ConvertOptions(column_types=types, strings_can_be_null=True)
    table, broken = parse_text(path, data, files.text, options, names)
    return located_lines(_with_lists(table, files.text), broken, path, (number, 0), len(names))


def _read_parquet(path: Path) -> pa.Table:
    try:
        return pq.ParquetFile(path).read()
    except (OSError, pa.ArrowInvalid) as error:
        raise damaged(path, error) from None


def _with_lists(table: pa.Table, text: TextLayout) -> pa.Table:
    for name, separator in text.lists.items():
        lists = pc.split_pattern(table[name].cast(pa.string()), separator)
        table = table.set_column(table.schema.get_field_index(name), name, lists)
    for name, flags in text.flags.items():
        table = table.append_column(name, _flagged(table, flags)).drop_columns(list(flags))
    return table


def _flagged(table: pa.Table, flags: Sequence[str]) -> pa.Array:
    """Lists of the names of the columns that hold 1."""
    marked = np.stack([table[name].to_numpy() == 1 for name in flags], axis=1)
    offsets = np.append(0, np.cumsum(marked.sum(1))).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(np.array(flags)[np.nonzero(marked)[1]]))


def _with_content(items: Attributes, content: Sequence[FileSet], id_column: str) -> Attributes:
    """Joins the vectors; items that only the content table knows are added."""
    read = [_read_set(files, id_column, items.ids.type) for files in content]
    vectors = [
        a.columns[vector_column(a.columns, f.name())] for a, f in zip(read, content, strict=True)
    ]
    column = pa.concat_arrays([whole(v) for v in vectors])
    content_ids = pa.concat_arrays([a.ids for a in read])
    new = np.asarray(pc.invert(pc.is_in(content_ids, items.ids)))
    ids = pa.concat_arrays([items.ids, content_ids.filter(pa.array(new))])
    rows = pa.array(np.append(np.arange(len(items.ids)), np.full(new.sum(), -1)))
    rows = pc.if_else(pc.less(rows, 0), None, rows)
    columns = {name: items.columns[name].take(rows) for name in items.columns.column_names}
    columns[CONTENT] = column.take(pc.index_in(ids, content_ids))
    created_at = np.append(items.created_at, np.zeros(new.sum(), np.int64))
    rejects = pa.concat_tables([items.rejects, *(a.rejects for a in read)])
    return Attributes(ids, created_at, pa.table(columns), rejects)


def aligned(
    space: IdSpace,
    attributes: Attributes,
    features: Sequence[Feature],
    previous: pa.Table | None = None,
) -> pa.Table:
    """Encoded attributes by row of an id space: `id`, `created_at` and a column per feature.

    Args:
        space: whose rows index the result; all of `attributes.ids` are in it.
        attributes: columns as `statistics.features` or `statistics.converted` gives them.
        features: the declared features.
        previous: the result for an earlier state of the space; rows not in `attributes` keep it.
    """
    rows = space.lookup(attributes.ids)
    raw = {"": attributes.ids} | {n: attributes.columns[n] for n in attributes.columns.column_names}
    encoded = encode_columns(pa.table(raw), features) if len(rows) else {}
    old = previous.num_rows if previous is not None else 0
    source = np.zeros(space.rows, np.int64)
    source[:old] = np.arange(1, old + 1)
    source[rows] = np.arange(len(rows)) + old + 1
    columns = {"id": space.external(np.arange(space.rows))}
    times = pa.array(attributes.created_at)
    columns["created_at"] = _chosen(
        Feature(name="created_at", kind="categorical"), previous, times, source
    )
    for feature in features:
        columns[feature.name] = _chosen(feature, previous, encoded.get(feature.name), source)
    return pa.table(columns)


def _chosen(
    feature: Feature, previous: pa.Table | None, new: pa.Array | None, source: npt.NDArray[np.int64]
) -> pa.Array:
    """Rows of [a blank row, the previous rows, the new rows]; null lists become the blank one."""
    parts = [whole(previous[feature.name])] if previous is not None else []
    parts += [new] if new is not None else []
    kind = (
        parts[-1].type
        if parts
        else encode_columns(pa.table({"": pa.nulls(1)}), [feature])[feature.name].type
    )
    blank = [0.0] * feature.dim if feature.kind == "vector" else BLANK[feature.kind]
    stacked = pa.concat_arrays([pa.array([blank], kind), *parts])
    if feature.kind in ("vector", "multi"):
        source = np.where(np.asarray(stacked.is_null())[source], 0, source)
    return stacked.take(pa.array(source))


def write_aligned(table: pa.Table, path: Path) -> None:
    """Writes one record batch, so that readers map its columns without a copy."""
    single = table.combine_chunks()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, single.schema) as writer:
        writer.write_table(single)


def read_aligned(path: Path) -> pa.Table:
    """Memory-maps what `write_aligned` wrote."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
