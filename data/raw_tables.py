"""Raw tables as `prepare` reads them: files, how they are laid out, how columns are named."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from data.contract import storage
from data.contract.artifact import checksum
from data.contract.schema import Order, Polarity
from data.contract.settings import UserError

TimestampUnit = Literal["ms", "s", "us", "iso"]
FeatureOverride = Literal["numeric", "categorical", "multi", "text", "ignore"]
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")
PARQUET = (".parquet", ".pq")
TEXT = (".csv", ".tsv", ".data", ".dat", ".item", ".user")
PACKED = (".gz", ".bz2", ".zst", ".xz", ".lz4", ".zip")
ROLES = ("events", "impressions", "items", "users", "boards", "content")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLayout:
    """How a delimited text file is read.

    Attributes:
        delimiter: between columns; several characters are allowed.
        names: column names, where the file has no header.
        encoding: of the characters.
        lists: column -> what separates its values, for columns that hold lists.
        flags: new list column -> the 0/1 columns whose names are its values.
    """

    delimiter: str = ","
    names: tuple[str, ...] = ()
    encoding: str = "utf8"
    lists: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSet:
    """Files of one table and one layout.

    Attributes:
        files: Parquet or delimited text, in the order in which rows arrived.
        columns: our column name -> theirs; names not here are the same.
        timestamp_unit: unit of all times.
        actions: action -> condition, where actions are derived.
        text: how text files are read.
    """

    files: tuple[Path, ...]
    columns: Mapping[str, str] = field(default_factory=dict)
    timestamp_unit: TimestampUnit = "ms"
    actions: Mapping[str, str] = field(default_factory=dict)
    text: TextLayout = field(default_factory=TextLayout)

    def theirs(self, name: str) -> str:
        """The name that these files have for one of our columns."""
        return self.columns.get(name, name)

    def name(self, number: int = 0) -> str:
        """How messages name a file: by its URI, if it has one."""
        return storage.uri_of(self.files[number])


@dataclass(frozen=True, slots=True, kw_only=True)
class RawTables:
    """All raw tables of a log, or of its new days.

    Attributes:
        order: what orders a user's events.
        events: the event log; a next day may have none.
        impressions: what was shown, if logged.
        items: item attributes.
        users: user attributes.
        boards: which board holds which item.
        content: a vector for each item.
        polarity: action -> polarity, where the default is not wanted.
        features: column -> kind of feature, where the detected one is not wanted.
        text_ids: ids are text, also where they look like numbers.
    """

    order: Order
    events: tuple[FileSet, ...] = ()
    impressions: tuple[FileSet, ...] = ()
    items: tuple[FileSet, ...] = ()
    users: tuple[FileSet, ...] = ()
    boards: tuple[FileSet, ...] = ()
    content: tuple[FileSet, ...] = ()
    polarity: Mapping[str, Polarity] = field(default_factory=dict)
    features: Mapping[str, FeatureOverride] = field(default_factory=dict)
    text_ids: bool = False

    @classmethod
    def of(cls, order: Order, sets: Mapping[str, tuple[FileSet, ...]]) -> RawTables:
        """Tables by role, without overrides."""
        given: Any = dict(sets)
        return cls(order=order, **given)

    def joined(self, later: RawTables) -> RawTables:
        """These tables and then `later` ones, such as a day's log and what was posted over HTTP."""
        sets = {role: getattr(self, role) + getattr(later, role) for role in ROLES}
        return replace(self, **sets)

    def absolute(self) -> RawTables:
        """The same with absolute paths, for readers in another working directory."""
        sets: Any = {
            role: tuple(
                replace(s, files=tuple(file.absolute() for file in s.files))
                for s in getattr(self, role)
            )
            for role in ROLES
        }
        return replace(self, **sets)

    def fingerprint(self, root: Path) -> dict[str, Any]:
        """What changes when an input file or the way it is read changes. Plain JSON values.

        Files below the root are known by their place in it, for it may be moved or copied; others
        by their path as it is given, which may be relative to a copy that a cluster works in. What
        is, or may be, a copy is told by its content: times differ from copy to copy. Reads it once.
        """
        files = {role: [_print_of(s, root) for s in getattr(self, role)] for role in ROLES}
        return files | {
            "order": self.order,
            "polarity": dict(self.polarity),
            "features": dict(self.features),
            "text_ids": self.text_ids,
        }


def _print_of(files: FileSet, root: Path) -> dict[str, Any]:
    return {
        "files": [_print_of_file(path, root) for path in files.files],
        "columns": dict(files.columns),
        "timestamp_unit": files.timestamp_unit,
        "actions": dict(files.actions),
    }


def _print_of_file(path: Path, root: Path) -> list[str | int]:
    whole, above = path.absolute(), root.absolute()
    inside = whole.is_relative_to(above)
    name = whole.relative_to(above).as_posix() if inside else storage.uri_of(path)
    stat = path.stat()
    copied = inside or not path.is_absolute()
    return [name, stat.st_size, checksum(path) if copied else stat.st_mtime_ns]


def expand(pattern: str, setting: str) -> tuple[Path, ...]:
    """Data files of a path, folder, glob, or URI, sorted; hidden ones of folders are left out.

    Raises:
        UserError: there are none, or compressed ones, which would be missing without a word.
    """
    path = storage.brought(pattern)
    places = [path] if path.exists() else [Path(f) for f in glob.glob(str(path), recursive=True)]  # noqa: PTH207
    found = {file for place in places for file in _below(place)}
    if packed := sorted(f for f in found if f.suffix in PACKED and _is_data(f.with_suffix(""))):
        raise UserError(
            f"{setting}={pattern}: {storage.uri_of(packed[0])} is compressed; unpack it (Parquet "
            "is compressed inside), or name the files to read by a glob"
        )
    files = sorted(filter(_is_data, found))
    if not files:
        what = "is no .parquet or .csv file" if path.is_file() else "does not exist"
        what = "holds no .parquet or .csv file" if any(p.is_dir() for p in places) else what
        raise UserError(f"{setting}={pattern} {what}")
    return tuple(files)


def _below(place: Path) -> list[Path]:
    """A file, or those of a folder that do not lie in hidden places, as unfinished work does."""
    if not place.is_dir():
        return [place]
    found = [file for file in place.rglob("*") if file.is_file()]
    return [f for f in found if not _is_hidden(f.relative_to(place))]


def _is_hidden(file: Path) -> bool:
    return any(part.startswith((".", "_")) for part in file.parts)


def _is_data(file: Path) -> bool:
    return file.suffix.lower() in PARQUET + TEXT


def is_parquet(file: Path) -> bool:
    """Whether a file is read as Parquet; all others are text."""
    return file.suffix.lower() in PARQUET


def column_names(files: FileSet) -> list[str]:
    """Columns of the first file."""
    return file_columns(files.files[0], files.text)


def file_columns(path: Path, text: TextLayout) -> list[str]:
    """Columns of a file: of its Parquet schema, its layout or its first line."""
    if is_parquet(path):
        return list(read_schema(path).names)
    if text.names:
        return list(text.names)
    with path.open("rb") as stream:
        line = stream.readline().decode(text.encoding, "replace")
    line = line.rstrip("\r\n").removeprefix("\ufeff")
    if CONTROL.search(line):
        raise UserError(f"{storage.uri_of(path)} holds no text; name a .csv or a .parquet file")
    return [name.strip('"') for name in line.split(text.delimiter)] if line else []


def read_schema(path: Path) -> Any:
    """Arrow schema of a Parquet file, as it is read. Raises UserError when it is none."""
    try:
        return plain(pq.read_schema(path))
    except (OSError, ValueError) as error:
        name = storage.uri_of(path)
        raise UserError(f"{name} is not a readable Parquet file: {error}") from None


def plain(schema: pa.Schema) -> pa.Schema:
    """A schema with strings in place of string views, which Arrow can neither take nor compare."""
    return pa.schema([field.with_type(_plain(field.type)) for field in schema])


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind) and pa.types.is_string_view(kind.value_type):
        return pa.list_(pa.string())
    return pa.string() if pa.types.is_string_view(kind) else kind


def damaged(path: Path, error: Exception) -> UserError:
    """What to say when a file's header can be read, but not its rows."""
    return UserError(f"{storage.uri_of(path)} is damaged: {error}; write it again")
