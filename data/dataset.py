"""The dataset artefact, opened for reading."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.blocks import Block, num_rows, row_groups
from data.contract import artifact
from data.contract.encode import FeatureTable
from data.contract.idspace import IdSpace
from data.contract.schema import (
    GRAPH_COLUMN,
    USER_COLUMN,
    Calendar,
    Feature,
    Order,
    Vocabulary,
)
from data.contract.settings import UserError
from data.contract.signatures import SIGNATURE_COLUMN, image_keys
from data.timelines import in_stretches
from data.user_days import UserDays
from data.windows import day_bounds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from data.contract.artifact import Artifact

NO_DATE = "none"
VECTORS_FILE = "vectors.npy"
PARTITIONS = {"events": "partitions", "impressions": "impression_partitions"}


class Dataset:
    """Timelines, partitions, features and id spaces of a prepared log."""

    def __init__(
        self,
        source: Artifact,
        root: Path,
        vectors: Artifact | None = None,
        user_vectors: Artifact | None = None,
    ) -> None:
        self.artifact = source
        self.root = root
        self.vectors = vectors
        self.user_vectors = user_vectors
        details: dict[str, Any] = source.manifest.details
        self.details = details
        self.vocabulary = Vocabulary.from_tree(details["vocabulary"])
        if vectors is not None:
            self.vocabulary = _with_column(self.vocabulary, "item_features", GRAPH_COLUMN, vectors)
        if user_vectors is not None:
            columns = "user_features", USER_COLUMN, user_vectors
            self.vocabulary = _with_column(self.vocabulary, *columns)
        calendar = details["calendar"]
        self.calendar = Calendar(**calendar) if calendar else None
        self.counts: dict[str, int] = details["counts"]

    @classmethod
    def open(cls, root: Path) -> Dataset:
        """Opens the current dataset of a root. Raises UserError when there is none."""
        return cls(artifact.current(root, "dataset"), root)

    def with_vectors(self, items: Artifact | None, users: Artifact | None = None) -> Dataset:
        """The same data set with embeddings as one more column of the items, and of the users.

        Args:
            items: `item_embeddings`.
            users: `user_days`: those of users differ by day, and are not in `users` but in
                `user_days`.

        Raises:
            UserError: a column of that name is there, or the embeddings are for other ids.
        """
        for side, vectors in (("item", items), ("user", users)):
            if vectors is not None:
                self._check_ids(side, vectors)
        return Dataset(self.artifact, self.root, items, users)

    def _check_ids(self, side: str, vectors: Artifact) -> None:
        ours = self.artifact.manifest.id_space[side]
        theirs = vectors.manifest.id_space.get(side)
        if ours != theirs:
            raise UserError(
                f"{vectors.manifest.name} is for {side} ids {theirs}, but "
                f"{self.artifact.manifest.name} has {ours}; embed again"
            )

    @property
    def order(self) -> Order:
        """What orders a user's events."""
        return self.vocabulary.order

    @cached_property
    def item_ids(self) -> IdSpace:
        """Id space of the items, memory-mapped."""
        return IdSpace.open(self.ids_folder("item"))

    @cached_property
    def user_ids(self) -> IdSpace:
        """Id space of the users, memory-mapped."""
        return IdSpace.open(self.ids_folder("user"))

    def ids_folder(self, name: str) -> Path:
        """Folder of the id space of "item" or "user"."""
        version: str = self.artifact.manifest.id_space[name]["version"]
        return artifact.folder(self.root / f"{name}_ids" / version)

    @cached_property
    def items(self) -> FeatureTable:
        """Encoded item features by row."""
        path = self.artifact.path / "items.arrow"
        declared = [f for f in self.vocabulary.item_features if f.name != GRAPH_COLUMN]
        table = FeatureTable.open("item", declared, path)
        if self.vectors is None:
            return table
        column = open_vectors(self.vectors)
        columns = table.columns | {GRAPH_COLUMN: column}
        return FeatureTable("item", self.vocabulary.item_features, columns)

    @cached_property
    def image_keys(self) -> npt.NDArray[np.int64]:
        """What counts items as one, a key for each item row. [rows]."""
        return image_keys(self.items.hashes(SIGNATURE_COLUMN), np.arange(self.item_ids.rows))

    @cached_property
    def users(self) -> FeatureTable:
        """Encoded user features by row, without their embeddings."""
        path = self.artifact.path / "users.arrow"
        declared = [f for f in self.vocabulary.user_features if f.name != USER_COLUMN]
        return FeatureTable.open("user", declared, path)

    @cached_property
    def user_days(self) -> UserDays | None:
        """Embeddings of users by day, where the data set is read with them."""
        if self.user_vectors is None:
            return None
        assert self.calendar is not None
        return UserDays.open(self.user_vectors.path, self.calendar)

    @cached_property
    def items_created_at(self) -> npt.NDArray[np.int64]:
        """Creation time of each item row, ms since 1970, 0 where unknown. [rows]."""
        return self._created_at("items.arrow")

    @cached_property
    def users_created_at(self) -> npt.NDArray[np.int64]:
        """Creation time of each user row, likewise. [rows]."""
        return self._created_at("users.arrow")

    def _created_at(self, name: str) -> npt.NDArray[np.int64]:
        mapped = pa.memory_map(str(self.artifact.path / name))
        times: npt.NDArray[np.int64] = pa.ipc.open_file(mapped).read_all()["created_at"].to_numpy()
        return times

    @cached_property
    def timeline_files(self) -> list[Path]:
        """The timeline files, in order."""
        return _parts(self.artifact.path / "timelines")

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """All blocks of timelines, in file order; told by the metadata of every file."""
        return tuple(row_groups(self.timeline_files))

    def timelines(self) -> Iterator[pa.Table]:
        """All timelines, a file at a time, or so many row groups of one that has grown by days."""
        for path in self.timeline_files:
            yield from in_stretches(path)

    def event_files(self, first_day: int, last_day: int) -> list[Path]:
        """Files of encoded events of the days from `first_day` to `last_day`."""
        return self._files("events", (first_day, last_day))

    @property
    def has_impression_log(self) -> bool:
        """Whether impressions are logged elsewhere, not only by what is served from this root."""
        return bool(self.details.get("impression_log", self.counts["impressions"]))

    @property
    def first_position(self) -> int:
        """What the impression log calls the top of a slate; it is 0 in the data set."""
        return int(self.details.get("first_position", 0))

    def impression_files(self, first_day: int, last_day: int) -> list[Path]:
        """Files of impressions of the days from `first_day` to `last_day`."""
        return self._files("impressions", (first_day, last_day))

    def events_on(self, day: int) -> int:
        """How many events the partition of a day holds, also of one after the calendar."""
        assert self.calendar is not None
        folder = self.partition_folders("events").get(date_name(self.calendar.start_ms(day)))
        return num_rows(_parts(folder)) if folder else 0

    def event_files_since(self, day: int) -> list[Path]:
        """Files of encoded events of a day and all later ones, also those after the calendar."""
        assert self.calendar is not None
        first = date_name(self.calendar.start_ms(day))
        folders = sorted(self.partition_folders("events").items())
        return [f for date, folder in folders if date >= first for f in _parts(folder)]

    def undated_files(self) -> list[Path]:
        """Files of the encoded events of a log without a clock."""
        if self.calendar is not None:
            return []
        return _parts(self.artifact.path / "events" / f"date={NO_DATE}")

    def partition_folders(self, table: str) -> dict[str, Path]:
        """Folder of each day of `events` or `impressions`, by date."""
        versions: dict[str, str] = self.details[PARTITIONS[table]]
        base = self.artifact.path.parent
        made = {v: artifact.folder(base / v) for v in set(versions.values())}
        return {d: made[v] / table / f"date={d}" for d, v in versions.items()}

    def _files(self, table: str, days: tuple[int, int]) -> list[Path]:
        if self.calendar is None:
            raise UserError("this log has no clock, hence no days to choose from")
        low, high = (date_name(ms) for ms in day_bounds(self.calendar, days))
        folders = sorted(self.partition_folders(table).items())
        chosen = [folder for date, folder in folders if low <= date < high]
        return [file for folder in chosen for file in _parts(folder)]


def _with_column(vocabulary: Vocabulary, columns: str, name: str, vectors: Artifact) -> Vocabulary:
    declared: tuple[Feature, ...] = getattr(vocabulary, columns)
    if any(f.name == name for f in declared):
        side = columns.removesuffix("_features")
        raise UserError(f"{side}s have a column {name} already; give it another name")
    dim = vectors.manifest.dim
    assert dim is not None
    changes: dict[str, Any] = {columns: (*declared, Feature(name=name, kind="vector", dim=dim))}
    return dataclasses.replace(vocabulary, **changes)


def open_vectors(vectors: Artifact) -> pa.Array:
    """Embeddings of all rows as a list column, memory-mapped."""
    return as_column(np.load(vectors.path / VECTORS_FILE, mmap_mode="r"))


def as_column(vectors: npt.NDArray[np.float16]) -> pa.Array:
    """Vectors [rows, D] as a list column, without a copy."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def date_name(milliseconds: int) -> str:
    """The UTC date of a time, as partitions are named."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).date().isoformat()
