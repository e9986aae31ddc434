"""Vectors of users by day, for the models that read them (`data.user_days`).

Made of blocks of timelines like the table of user embeddings: time grows with events, memory is a
block and the keys. Whoever learns from days after those that the user model has learnt from may
read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from data.contract.array_file import create_array
from data.targets import ends_of_days, windows_of
from data.timelines import events_from
from data.user_days import KEYS, VECTORS, keys_of
from ray_jobs.engine.user_blocks import UserBlocks, opened

if TYPE_CHECKING:
    from data.contract.artifact import Artifact, Draft
    from data.dataset import Dataset
    from ray_jobs.engine.job import Job

KIND = "user_days"
# A state has read three quarters of what the model can, or all there is.
SHARED = 0.25


@dataclass(frozen=True, slots=True)
class _Blocks(UserBlocks):
    """With the first day that has vectors of its own."""

    first_day: int


def embed_days(job: Job, dataset: Dataset, model: Artifact, first_day: int) -> Artifact:
    """Embeds all users as of each of their days, or finds them embedded already.

    Args:
        job: settings and root.
        dataset: whose users, with the columns of items that the model reads.
        model: a trained user model.
        first_day: what was done before it counts as of the day before.

    Returns:
        The artefact: see `data.user_days.UserDays`.
    """

    def write(draft: Draft) -> None:
        name = f"{KIND}-{draft.path.name}"
        blocks = _Blocks.begin(job, name, dataset, model, first_day)
        for _ in blocks.run(_embed_block):
            pass
        _assemble(blocks, draft)
        blocks.end(draft)
        draft.fields |= {
            "id_space": dataset.artifact.manifest.id_space,
            "window": model.manifest.window,
            "details": {"model": model.version},
        }

    parents = [dataset.artifact, model, *([dataset.vectors] if dataset.vectors else [])]
    return job.make(KIND, parents, {"first_day": first_day}, write, move_pointer=False)


def _embed_block(blocks: _Blocks, number: int) -> None:
    """Embeds the days of a block's users unless they are there."""
    blocks.make(number, lambda: _embedded(blocks, number))


def _embedded(blocks: _Blocks, number: int) -> dict[str, Any]:
    dataset, model = opened(blocks)
    assert dataset.calendar is not None
    table = dataset.blocks[number].read()
    users, events = table["user"].to_numpy(), events_from(table)
    states, days = ends_of_days(events, dataset.calendar, blocks.first_day)
    rng = np.random.default_rng(number)
    windows = windows_of(events, states, model.max_length, rng, SHARED)
    return {
        "keys": keys_of(users[states.user], days),
        "vectors": model.state_vectors(windows, users[windows.user]).astype(np.float16),
    }


def _assemble(blocks: _Blocks, draft: Draft) -> None:
    """One file of all vectors in the order of their keys."""
    found = [part["keys"] for part in blocks.parts()]
    keys = np.concatenate(found)
    order = np.argsort(keys)
    np.save(draft.path / KEYS, keys[order])
    vectors = create_array(draft.path / VECTORS, np.float16, (len(keys), blocks.dim))
    place = np.empty(len(keys), np.int64)
    place[order] = np.arange(len(keys))
    ends = np.cumsum([len(part) for part in found])
    for part, at in zip(blocks.parts(), np.split(place, ends[:-1]), strict=True):
        vectors[at] = part["vectors"]
    described = {"dtype": "float16", "normalised": True, "metric": "inner_product"}
    draft.fields |= {"dim": blocks.dim, **described}
