"""Blocks of timelines that a user model reads, one task each; an interrupted run goes on."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from data.contract.artifact import read
from data.dataset import Dataset
from ray_jobs.engine.inference import Retriever
from ray_jobs.preparation.block_tasks import BlockTasks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from data.contract.artifact import Artifact
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
        folder: for the files of the blocks.
        count: of the blocks.
        dataset: version.
        vectors: version of the item embeddings among its columns, if any.
        model: version.
    """

    root: Path
    folder: Path
    count: int
    dataset: str
    vectors: str | None
    model: str

    @classmethod
    def begin(cls, job: Job, name: str, dataset: Dataset, model: Artifact, *own: Any) -> Self:
        """Makes the folder, and the vectors of all items once for all tasks."""
        folder = job.root.absolute() / "checkpoints" / name
        folder.mkdir(parents=True, exist_ok=True)
        save(folder / ITEMS, Retriever.open(model, dataset, None).item_vectors)
        vectors = dataset.vectors.version if dataset.vectors else None
        versions = dataset.artifact.version, vectors, model.version
        return cls(job.root.absolute(), folder, len(dataset.blocks()), *versions, *own)

    def path(self, number: int) -> Path:
        """File of a block."""
        return self.folder / f"block-{number:05d}.npz"

    def run(self, job: Job, function: Callable[[Self, int], R]) -> Iterator[R]:
        """Gives what the function does for each block: in this process for a small log."""
        users = opened(self)[0].user_ids.rows
        workers = 0 if users <= SMALL_LOG_USERS else job.settings.prepare.workers
        tasks = BlockTasks(workers, job.settings.train.num_workers + 2)
        return tasks.run(function, self, self.count, "embed users")

    def end(self) -> None:
        """Takes the folder away."""
        opened.cache_clear()  # or this process would keep its tables
        shutil.rmtree(self.folder)


@lru_cache(maxsize=1)
def opened(blocks: UserBlocks) -> tuple[Dataset, Retriever]:
    """Data set and model, opened once in a process."""
    vectors = read(blocks.root / "item_embeddings" / blocks.vectors) if blocks.vectors else None
    source = read(blocks.root / "dataset" / blocks.dataset)
    dataset = Dataset(source, blocks.root, vectors)
    model = Retriever.open(read(blocks.root / "user" / blocks.model), dataset, None)
    model.known_items = np.load(blocks.folder / ITEMS, mmap_mode="r")
    return dataset, model


def save(path: Path, whole: Floats | None = None, **arrays: Any) -> None:
    """Writes an array, or several by name; a file is there whole or not at all."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        if whole is not None:
            np.save(file, whole)
        else:
            np.savez(file, **arrays)
    part.replace(path)
