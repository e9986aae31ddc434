"""The table of user embeddings: a vector for everybody, new for those who did something since.

A block of timelines is a task, of Ray Data for a large log; an interrupted run goes on with the
blocks that are missing. Time grows with the users who were active, memory is a block and one
memory-mapped table of item vectors. A user who did nothing keeps the vector of the table before,
and its date.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from data.contract import storage
from data.contract.array_file import create_array
from data.contract.artifact import Artifact, current, has_current, read
from data.contract.encode import Events, Floats, Ints
from data.contract.id_lineage import descends
from data.timelines import events_from
from ray_jobs.engine.user_blocks import UserBlocks, opened

if TYPE_CHECKING:
    from pathlib import Path

    from data.contract.artifact import Draft
    from data.dataset import Dataset
    from ray_jobs.engine.job import Job

KIND = "user_embeddings"
VECTORS, EVENTS, AS_OF = "vectors.npy", "events.npy", "as_of.npy"


@dataclass(frozen=True, slots=True)
class UserTable:
    """Embeddings of all users; memory-mapped.

    Attributes:
        vectors: float16[user rows, D] unit vectors; zeros for users without an event.
        events: int64[user rows] events that were read.
        as_of: int64[user rows] ms of the newest of them; 0 in a log without a clock.
    """

    vectors: Floats
    events: Ints
    as_of: Ints

    @classmethod
    def open(cls, artifact: Artifact) -> UserTable:
        """The table of an artefact."""
        files = (artifact.path / name for name in (VECTORS, EVENTS, AS_OF))
        return cls(*(np.load(path, mmap_mode="r") for path in files))


@dataclass(frozen=True, slots=True)
class _Blocks(UserBlocks):
    """With the table to start from, and the first moment that is not known any more."""

    before: str | None
    until_ms: int | None

    def table_before(self) -> UserTable | None:
        root = storage.here(self.root)
        return UserTable.open(read(root / KIND / self.before)) if self.before else None


def embed_users(job: Job, dataset: Dataset, model: Artifact, until_ms: int | None) -> Artifact:
    """Embeds the users who were active since the current table, or finds them embedded already.

    Args:
        job: settings and root.
        dataset: whose users, with the columns of items that the model reads.
        model: a trained user model; with another one everybody is embedded anew.
        until_ms: first moment that is not known any more; None knows all.

    Returns:
        The artefact: see `UserTable`; `details` counts who was embedded and who was kept.
    """
    settings = {"until_ms": until_ms}
    before = _before(job.root, dataset, model, settings)

    def write(draft: Draft) -> None:
        own = before.version if before else None, until_ms
        blocks = _Blocks.begin(job, f"{KIND}-{draft.path.name}", dataset, model, *own)
        for _ in blocks.run(_embed_block):
            pass
        embedded, users = _assemble(blocks, draft, dataset.user_ids.rows)
        blocks.end(draft)
        draft.fields |= {
            "id_space": dataset.artifact.manifest.id_space,
            "window": model.manifest.window,
            "details": {"embedded": embedded, "kept": users - embedded, "model": model.version},
        }

    parents = [dataset.artifact, model, *(found for found in (dataset.vectors, before) if found)]
    return job.make(KIND, parents, settings, write)


def _before(
    root: Path, dataset: Dataset, model: Artifact, settings: dict[str, int | None]
) -> Artifact | None:
    """The table to start from: the newest of the same model and ids, not of these very events."""
    version = dataset.artifact.version
    found = current(root, KIND) if has_current(root, KIND) else None
    while found is not None and found.manifest.details["model"] == model.version:
        parents = {parent["kind"]: parent["version"] for parent in found.manifest.parents}
        other = (parents["dataset"], found.manifest.settings) != (version, settings)
        if other and descends(root, dataset.artifact, found):
            return found
        found = read(root / KIND / parents[KIND]) if KIND in parents else None
    return None


def _embed_block(blocks: _Blocks, number: int) -> None:
    """Embeds the active users of a block unless they are there."""
    blocks.make(number, lambda: _embedded(blocks, number))


def _embedded(blocks: _Blocks, number: int) -> dict[str, Any]:
    dataset, model = opened(blocks)
    table = dataset.blocks[number].read()
    users, events = table["user"].to_numpy(), events_from(table)
    if blocks.until_ms is not None:
        events = events.chosen(events.timestamp < blocks.until_ms)
    active = np.flatnonzero(events.lengths != _read_before(blocks.table_before(), users))
    mine = events.cut(events.offsets[active], events.lengths[active])
    vectors = model.user_vectors(mine, users[active])
    # As of an earlier day than the table before, some have done nothing yet.
    vectors[mine.lengths == 0] = 0
    return {
        "user": users[active],
        "vectors": vectors.astype(np.float16),
        "events": mine.lengths,
        "as_of": _newest(mine),
    }


def _read_before(before: UserTable | None, users: Ints) -> Ints:
    """Events of each user that the table before has read; users may be newer than it."""
    if before is None:
        return np.zeros(len(users), np.int64)
    known = users < len(before.events)
    return np.where(known, before.events[np.where(known, users, 0)], 0)


def _newest(events: Events) -> Ints:
    """Time of the newest event of each user, int64[B]; 0 without any."""
    last = np.maximum(events.offsets[1:] - 1, 0)
    times = events.timestamp[last] if len(events.timestamp) else np.zeros(len(last), np.int64)
    return np.where(events.lengths > 0, times, 0)


def _assemble(blocks: _Blocks, draft: Draft, rows: int) -> tuple[int, int]:
    """Lays the blocks over the table before; how many users they embed, and how many have any."""
    before = blocks.table_before()
    shapes = {VECTORS: (rows, blocks.dim), EVENTS: (rows,), AS_OF: (rows,)}
    columns: dict[str, Any] = {
        name: create_array(draft.path / name, np.float16 if name == VECTORS else np.int64, shape)
        for name, shape in shapes.items()
    }
    if before is not None:
        kept = min(rows, len(before.events))
        olds: tuple[Any, ...] = (before.vectors, before.events, before.as_of)
        for name, old in zip(columns, olds, strict=True):
            columns[name][:kept] = old[:kept]
    embedded = 0
    for part in blocks.parts():
        embedded += int((part["events"] > 0).sum())
        for name, column in columns.items():
            column[part["user"]] = part[name.removesuffix(".npy")]
    described = {"dtype": "float16", "normalised": True, "metric": "inner_product"}
    draft.fields |= {"dim": blocks.dim, **described}
    return embedded, int((columns[EVENTS] > 0).sum())
