"""Reading raw tables in bounded pieces, each row with the file and row that it came from.

A plan cuts the files into chunks of about as many rows as are held in memory at once. Text is read
as text: `data.validation` turns it into numbers, so that a malformed value is one bad row and not
the end of the job.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from data.contract.settings import UserError
from data.contract.storage import uri_of
from data.raw_tables import (
    FileSet,
    TextLayout,
    damaged,
    file_columns,
    is_parquet,
    plain,
    read_schema,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from data.contract.encode import Ints

Broken = list[tuple[int, str]]
FILE, ROW = "__file", "__row"
TEXT_STEP_BYTES = 1 << 24
REJECTS = pa.schema(
    [
        ("file", pa.string()),
        ("row", pa.int64()),
        ("column", pa.string()),
        ("reason", pa.string()),
        ("value", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive rows of one file.

    Attributes:
        file: index into the files of its set.
        start: first row group (Parquet) or byte (text).
        stop: the one after the last.
        first_row: row of the file that the piece begins with.
        num_rows: rows in it.
    """

    file: int
    start: int
    stop: int
    first_row: int
    num_rows: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Pieces read by one task.

    Attributes:
        files: the set that they belong to.
        pieces: in order of arrival.
        first_file: number of the set's first file among all files of the table.
    """

    files: FileSet
    pieces: tuple[Piece, ...]
    first_file: int

    @property
    def num_rows(self) -> int:
        """Rows in all pieces."""
        return sum(piece.num_rows for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class RawBlock:
    """Raw rows with the columns FILE and ROW, and the text lines that had no right shape."""

    rows: pa.Table
    rejects: pa.Table


def plan(sets: Sequence[FileSet], block_rows: int, first_file: int = 0) -> list[Chunk]:
    """Cuts files into chunks of about `block_rows` rows, in the order in which rows arrived."""
    chunks: list[Chunk] = []
    for files in sets:
        waiting: list[Piece] = []
        for number, path in enumerate(files.files):
            for piece in _pieces(number, path, files.text, block_rows):
                if waiting and sum(p.num_rows for p in waiting) + piece.num_rows > block_rows:
                    chunks.append(Chunk(files, tuple(waiting), first_file))
                    waiting = []
                waiting.append(piece)
        if waiting:
            chunks.append(Chunk(files, tuple(waiting), first_file))
        first_file += len(files.files)
    return chunks


def _pieces(number: int, path: Path, text: TextLayout, block_rows: int) -> Iterator[Piece]:
    if is_parquet(path):
        yield from _row_groups(number, path)
    else:
        yield from _line_ranges(number, path, text, block_rows)


def _row_groups(number: int, path: Path) -> Iterator[Piece]:
    read_schema(path)
    metadata = pq.read_metadata(path)
    row = 0
    for i in range(metadata.num_row_groups):
        size = metadata.row_group(i).num_rows
        if size:
            yield Piece(number, i, i + 1, row, size)
        row += size


def _line_ranges(number: int, path: Path, text: TextLayout, block_rows: int) -> Iterator[Piece]:
    """Byte ranges of whole lines, `block_rows` of them each. One pass over the file.

    A line goes on after a line break inside quotes.
    """
    lines, cuts, total = 0, [0], 0
    last, quotes = b"\n", _Quotes(text)
    with path.open("rb") as stream:
        if not text.names:
            cuts = [len(stream.readline())]
        total = cuts[0]
        while data := stream.read(TEXT_STEP_BYTES) + stream.readline():
            ends = quotes.outside(data, np.flatnonzero(np.frombuffer(data, np.uint8) == 10) + 1)
            wanted = np.arange(block_rows - lines % block_rows, len(ends) + 1, block_rows)
            cuts += (total + ends[wanted - 1]).tolist()
            lines, total, last = lines + len(ends), total + len(data), data[-1:]
    lines += last != b"\n"
    if cuts[-1] < total:
        cuts.append(total)
    for i, (start, stop) in enumerate(pairwise(cuts)):
        first = i * block_rows
        yield Piece(number, start, stop, first, min(block_rows, lines - first))


class _Quotes:
    """What of a text is inside quotes, whole lines at a time; a layout without a header has none.

    Args:
        text: the layout.
    """

    def __init__(self, text: TextLayout) -> None:
        delimiter = re.escape(text.delimiter.encode())
        value = rb"(?:\A|(?<=[\r\n])|(?<=" + delimiter + rb'))"[^"]*+(?:""[^"]*+)*+("?)'
        self._values = None if text.names else re.compile(value)
        self._edges = text.delimiter.encode() + b'\r\n"'
        self._open = False

    def outside(self, data: bytes, ends: Ints) -> Ints:
        """Those of the ends of lines that are not inside a quoted value."""
        if self._values is None or not (self._open or self._may_go_on(data, ends)):
            return ends
        shift, spans = int(self._open), [(0, 0)]
        self._open = False
        for match in self._values.finditer(b'"' * shift + data):
            self._open = not match[1]
            if b"\n" in match[0]:
                spans.append(match.span())
        starts, stops = np.array(spans).T - shift
        at = np.searchsorted(starts, ends - 1, side="right") - 1
        outside: Ints = ends[(at < 0) | (ends - 1 >= stops[at])]
        return outside

    def _may_go_on(self, data: bytes, ends: Ints) -> bool:
        """Whether a value may hold the end of a line: quotes are odd in one, or inside a word."""
        codes = np.frombuffer(b"\n" + data + b"\n", np.uint8)
        quotes = np.flatnonzero(codes == ord('"'))
        odd = np.append(np.searchsorted(quotes, ends + 1), len(quotes)) % 2
        edge = np.isin(np.arange(256), [*self._edges])
        return bool(odd.any() or not (edge[codes[quotes - 1]] | edge[codes[quotes + 1]]).all())


def read(chunk: Chunk, columns: Sequence[str], block_rows: int) -> Iterator[RawBlock]:
    """Reads the named columns (theirs) of a chunk; columns that no file has are left out.

    A Parquet row group larger than `block_rows` gives several blocks. Raises UserError when the
    files disagree about a column's type.
    """
    waiting: list[RawBlock] = []
    for piece in chunk.pieces:
        for block in _read_piece(chunk, piece, columns, block_rows):
            if waiting and sum(b.rows.num_rows for b in waiting) + block.rows.num_rows > block_rows:
                yield _joined(waiting)
                waiting = []
            waiting.append(block)
    if waiting:
        yield _joined(waiting)


def _joined(blocks: Sequence[RawBlock]) -> RawBlock:
    rejects = pa.concat_tables(block.rejects for block in blocks)
    try:
        rows = pa.concat_tables((b.rows for b in blocks), promote_options="permissive")
    except pa.ArrowTypeError as error:
        raise UserError(f"files of one table disagree about a column: {error}") from None
    return RawBlock(rows.combine_chunks(), rejects)


def _read_piece(
    chunk: Chunk, piece: Piece, columns: Sequence[str], block_rows: int
) -> Iterator[RawBlock]:
    path = chunk.files.files[piece.file]
    file = chunk.first_file + piece.file
    if not is_parquet(path):
        yield _read_lines(path, chunk.files, piece, (columns, file))
        return
    row = piece.first_row
    for batch in _batches(path, piece, columns, block_rows):
        rows = pa.Table.from_batches([batch])
        yield RawBlock(_located(rows, file, np.arange(row, row + len(rows))), REJECTS.empty_table())
        row += len(rows)


def _batches(
    path: Path, piece: Piece, columns: Sequence[str], block_rows: int
) -> Iterator[pa.RecordBatch]:
    try:
        reader = pq.ParquetFile(path, memory_map=True)
        present = [name for name in columns if name in reader.schema_arrow.names]
        groups = list(range(piece.start, piece.stop))
        yield from reader.iter_batches(block_rows, row_groups=groups, columns=present)
    except (OSError, pa.ArrowInvalid) as error:
        raise damaged(path, error) from None


def _located(rows: pa.Table, file: int, numbers: Any) -> pa.Table:
    files, schema = np.full(len(rows), file, np.int32), plain(rows.schema)
    rows = rows if schema.equals(rows.schema) else rows.cast(schema)
    return rows.append_column(FILE, pa.array(files)).append_column(ROW, pa.array(numbers))


def _read_lines(
    path: Path, files: FileSet, piece: Piece, wanted: tuple[Sequence[str], int]
) -> RawBlock:
    columns, file = wanted
    with path.open("rb") as stream:
        stream.seek(piece.start)
        data = stream.read(piece.stop - piece.start)
    names = file_columns(path, files.text)
    present = [name for name in columns if name in names]
    convert = pa_csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        include_columns=present,
        strings_can_be_null=True,
        null_values=[""],
    )
    rows, broken = parse_text(path, data, files.text, convert, names)
    return located_lines(rows, broken, path, (file, piece.first_row), len(names))


def located_lines(
    rows: pa.Table, broken: Broken, path: Path, place: tuple[int, int], width: int
) -> RawBlock:
    """Lines with their places, and rejects of those of another shape.

    Args:
        rows: the lines that could be read.
        broken: the others.
        path: the file.
        place: its number, and the row that the lines begin with.
        width: columns that a line should have.
    """
    file, first_row = place
    numbers = np.delete(np.arange(len(rows) + len(broken)), [n for n, _ in broken])
    rejects = [
        {"file": uri_of(path), "row": first_row + n, "column": "", "value": text,
         "reason": f"the line has not {width} columns"}
        for n, text in broken
    ]  # fmt: skip
    located = _located(rows, file, first_row + numbers)
    return RawBlock(located, pa.Table.from_pylist(rejects, REJECTS))


def parse_text(
    path: Path,
    data: bytes,
    text: TextLayout,
    convert: pa_csv.ConvertOptions,
    names: Sequence[str],
) -> tuple[pa.Table, Broken]:
    """Parses delimited lines without a header.

    Args:
        path: named in messages.
        data: the lines.
        text: their layout.
        convert: types and columns.
        names: of the columns.

    Returns:
        The lines, and those of another shape by number.

    Raises:
        UserError: the text is not in the encoding of its layout, or a quote is not closed, which
            would take all lines after it for one value.
    """
    broken: Broken = []

    def skip(line: pa_csv.InvalidRow) -> str:
        broken.append((line.number - 1, line.text))
        return "skip"

    if not data.strip():
        return pa.table(
            {name: pa.array([], pa.string()) for name in convert.include_columns or names}
        ), []
    delimiter = text.delimiter
    guard = delimiter * len(names) if b'"' in data and not text.names else ""
    if guard:  # a line too wide, which is seen where no quote is open at the end
        data += b"\n" + guard.encode()
    if len(delimiter) > 1:
        data, delimiter = data.replace(delimiter.encode(), b"\x01"), "\x01"
    read_options = pa_csv.ReadOptions(
        use_threads=False, column_names=names, encoding=text.encoding, block_size=max(len(data), 1)
    )
    parse_options = pa_csv.ParseOptions(
        delimiter=delimiter, invalid_row_handler=skip, quote_char=False if text.names else '"'
    )
    try:
        rows = pa_csv.read_csv(io.BytesIO(data), read_options, parse_options, convert)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        name = uri_of(path)
        raise UserError(f"{name} cannot be read as {text.encoding} text: {error}") from None
    if guard and (not broken or broken.pop()[1] != guard):
        raise _open_quote(path, data)
    return rows, broken


def _open_quote(path: Path, data: bytes) -> UserError:
    where = data[data.rindex(b'"') :].splitlines()[0][:40].decode("utf8", "replace")
    return UserError(
        f"{uri_of(path)} holds a quote that is never closed, at {where}; close it, or quote the "
        "value and write each quote inside it twice"
    )
