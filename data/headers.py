"""What the headers of a table's files tell before a row is read: missing and differing columns."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from data.contract.settings import UserError
from data.contract.storage import uri_of
from data.parsing import is_text
from data.raw_tables import FileSet, file_columns, is_parquet, read_schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

ALIASES = {"user_id": "user", "item_id": "item movie product pin", "timestamp": "time ts date"}
TEXTS = pa.list_(pa.string())
NUMBER = re.compile(r"[\d.+-]*\d")


@dataclass(frozen=True, slots=True)
class Header:
    """Columns of one file.

    Attributes:
        path: the file.
        schema: names and types; all of a text file is text.
    """

    path: Path
    schema: pa.Schema

    @property
    def file(self) -> str:
        """How messages name the file."""
        return uri_of(self.path)

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return list(self.schema.names)

    def missing(self, ours: str, theirs: str) -> UserError:
        """What to say when a column is not there."""
        return UserError(
            f"{self.file} has no column {theirs}{_hint(self.guess(ours, theirs))}; "
            f"it has {', '.join(self.names)}; {self._remedy(ours, theirs)}"
        )

    def guess(self, ours: str, theirs: str) -> str | None:
        """The column that is probably meant."""
        words = [theirs, *ALIASES.get(ours, "").split()]
        near = [difflib.get_close_matches(word, self.names, 1, 0.6) for word in words]
        return next((names[0] for names in near if names), None)

    def _remedy(self, ours: str, theirs: str) -> str:
        if len(self.names) == 1 and re.search(r"[;\t|]", self.names[0]):
            return "columns are parted by commas in .csv files and by tabs in .tsv files"
        if any(NUMBER.fullmatch(name) for name in self.names):
            return "its first line must name the columns"
        return f"map it with source.columns.{ours}={self.guess(ours, theirs) or '<column>'}"


def _hint(guess: str | None) -> str:
    return f" (did you mean {guess}?)" if guess else ""


def headers(files: FileSet) -> list[Header]:
    """Headers of all files. Raises UserError for a file without columns, or two of one name."""
    found = [Header(path, _schema(path, files)) for path in files.files]
    for header in found:
        for name, count in Counter(header.names).items():
            if count > 1:
                raise UserError(f"{header.file} has {count} columns {name}; name each once")
    return found


def _schema(path: Path, files: FileSet) -> pa.Schema:
    if is_parquet(path):
        return read_schema(path)
    names = file_columns(path, files.text)
    if not names:
        raise UserError(f"{uri_of(path)} is empty; its first line must name the columns")
    return pa.schema([(name, pa.string()) for name in names])


def check_columns(files: FileSet, needed: Sequence[str]) -> None:
    """Refuses a table of which a file lacks a needed column. Raises UserError.

    Args:
        files: the table.
        needed: our names of the columns.
    """
    for header in headers(files):
        for ours in needed:
            if files.theirs(ours) not in header.names:
                raise header.missing(ours, files.theirs(ours))


def check_named(found: Sequence[Header], named: Mapping[str, str]) -> None:
    """Refuses files without a column that a setting names. Raises UserError.

    Args:
        found: headers of a table.
        named: column -> the setting and its value.
    """
    for header in found:
        for column, setting in named.items():
            if column not in header.names:
                hint = _hint(header.guess(column, column))
                raise UserError(
                    f"{setting} names the column {column}, which {header.file} does not have"
                    f"{hint}; it has {', '.join(header.names)}"
                )


def check_alike(found: Sequence[Header], columns: Iterable[str]) -> None:
    """Refuses columns that some files of a table have and others do not. Raises UserError."""
    for column in columns:
        having = [header for header in found if column in header.names]
        lacking = [header for header in found if column not in header.names]
        if having and lacking:
            raise UserError(
                f"{lacking[0].file} has no column {column}, but {having[0].file} has one; "
                "all files of a table need it, or none"
            )


def check_ids(found: Sequence[Header], columns: Sequence[str]) -> None:
    """Refuses id columns of a type that holds no ids. Raises UserError."""
    for header in found:
        for column in columns:
            kind = header.schema.field(column).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            if not (pa.types.is_integer(kind) or is_text(kind)):
                what = "nothing but nulls" if pa.types.is_null(kind) else kind
                raise UserError(
                    f"column {column} of {header.file} is {what}; ids are whole numbers or "
                    "strings: cast it, or name another column"
                )


def check_types(found: Iterable[Header], columns: Sequence[str] | None = None) -> None:
    """Refuses a column whose types in two files do not go together. Raises UserError.

    Args:
        found: headers of a table.
        columns: names to look at; all by default.
    """
    first: dict[str, tuple[str, pa.Field]] = {}
    for header in found:
        for field in header.schema:
            if columns is None or field.name in columns:
                file, known = first.setdefault(field.name, (header.file, field))
                _refuse_types(file, known, header.file, field)


def _refuse_types(file: str, known: pa.Field, other: str, field: pa.Field) -> None:
    if known.type == field.type:
        return
    try:
        pa.unify_schemas([pa.schema([known]), pa.schema([field])], promote_options="permissive")
    except pa.ArrowTypeError:
        raise UserError(
            f"files of one table disagree about the column {field.name}: it is {known.type} in "
            f"{file} and {field.type} in {other}; write both with one type"
        ) from None


def alike(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """Columns of several tables, in order of appearance: text where no type holds all values."""
    names = dict.fromkeys(name for schema in schemas for name in schema.names)
    types = {n: [s.field(n).type for s in schemas if n in s.names] for n in names}
    return pa.schema([(name, _common(found)) for name, found in types.items()])


def _common(types: Sequence[pa.DataType]) -> pa.DataType:
    try:
        fields = [pa.schema([("", kind)]) for kind in types]
        return pa.unify_schemas(fields, promote_options="permissive").field(0).type
    except pa.ArrowTypeError:
        lists = all(pa.types.is_list(kind) or pa.types.is_null(kind) for kind in types)
        return TEXTS if lists else pa.string()
