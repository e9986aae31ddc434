"""Blocks of timelines that a user model reads, one task each; an interrupted run goes on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from data.contract import storage
from data.contract.artifact import read
from data.dataset import Dataset
from ray_jobs.engine.embedding_tasks import embedding_tasks
from ray_jobs.engine.inference import Retriever
from ray_jobs.preparation.block_tasks import BlockTasks
from ray_jobs.preparation.pieces import Pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from data.contract.artifact import Artifact, Draft
    from data.contract.encode import Floats
    from ray_jobs.engine.job import Job

SMALL_LOG_USERS = 100_000
ITEMS = "items.npy"
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class UserBlocks:
    """What embeds the blocks, and where vectors go; travels between processes.

    Attributes:
        root: folder of all artefacts.
        pieces: the files of the blocks.
        count: of the blocks.
        dim: width of a vector.
        dataset: version.
        vectors: version of the item embeddings among its columns, if any.
        model: version.
        tasks: that embed the blocks.
        device: where each computes.
    """

    root: Path
    pieces: Pieces
    count: int
    dim: int
    dataset: str
    vectors: str | None
    model: str
    tasks: BlockTasks
    device: str

    @classmethod
    def begin(cls, job: Job, name: str, dataset: Dataset, model: Artifact, *own: Any) -> Self:
        """Makes the vectors of all items once for all tasks."""
        pieces = Pieces.begin(job.root, name)
        few = min(SMALL_LOG_USERS, job.settings.prepare.in_process_rows)
        tasks = embedding_tasks(job.settings, dataset.user_ids.rows <= few)
        retriever = Retriever.open(model, dataset, None)
        pieces.make(ITEMS, lambda path: save(path, retriever.item_vectors))
        vectors = dataset.vectors.version if dataset.vectors else None
        count, dim = len(dataset.blocks), retriever.core.settings.dim
        versions = dataset.artifact.version, vectors, model.version
        return cls(job.root.absolute(), pieces, count, dim, *versions, *tasks, *own)

    def make(self, number: int, arrays: Callable[[], dict[str, Any]]) -> None:
        """The file of a block, with arrays that are made unless it is there."""
        self.pieces.make(_name(number), lambda path: save(path, **arrays()))

    def parts(self) -> Iterator[Any]:
        """What the files of all blocks hold, in order; a file is open for its turn alone."""
        folder = self.pieces.gathered()
        for number in range(self.count):
            with np.load(folder / _name(number)) as arrays:
                yield arrays

    def run(self, function: Callable[[Self, int], R]) -> Iterator[R]:
        """Gives what the function does for each block: in this process for a small log."""
        return self.tasks.run(function, self, self.count, "embed users")

    def end(self, draft: Draft) -> None:
        """Nothing is needed of them any more, once the artefact is published."""
        opened.cache_clear()  # or this process would keep its tables
        draft.scratch.append(self.pieces.folder)


def _name(number: int) -> str:
    return f"block-{number:05d}.npz"


@lru_cache(maxsize=1)
def opened(blocks: UserBlocks) -> tuple[Dataset, Retriever]:
    """Data set and model, opened once in a process: one that embeds, for it has the device."""
    root = storage.here(blocks.root)
    vectors = read(root / "item_embeddings" / blocks.vectors) if blocks.vectors else None
    dataset = Dataset(read(root / "dataset" / blocks.dataset), root, vectors)
    model = Retriever.open(read(root / "user" / blocks.model), dataset, None, blocks.device)
    model.known_items = np.load(blocks.pieces.found(ITEMS), mmap_mode="r")
    return dataset, model


def save(path: Path, whole: Floats | None = None, **arrays: Any) -> None:
    """Writes an array, or several by name."""
    with path.open("wb") as file:
        if whole is not None:
            np.save(file, whole)
        else:
            np.savez(file, **arrays)
