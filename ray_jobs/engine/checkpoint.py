"""Training checkpoints: distributed, visible only when whole, loadable by any number of ranks.

`<folder>/step-000400/` holds the tensors (torch.distributed.checkpoint, every rank writes its
shards) and `state.json`; `<folder>/CURRENT`, written last by rank 0, names the step to resume from.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import DefaultLoadPlanner, LoadPlan
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import create_default_local_load_plan
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from data.contract import storage
from data.contract.artifact import write_atomically
from ray_jobs.engine import ranks
from ray_jobs.engine.loop import Learner, TrainState
from ray_jobs.engine.streams import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POINTER = "CURRENT"
STATE = "state.json"


def save(folder: Path, learner: Learner, state: TrainState) -> None:
    """Writes a checkpoint; called on every rank. Older ones are removed once it is whole."""
    merge_progress(state)
    name = _name(state)
    with _failing_as_an_error():
        alone = ranks.world_size() == 1
        dcp.save(_tensors(learner), checkpoint_id=str(folder / name), no_dist=alone)
    for file in folder.glob(f"{name}/__{ranks.rank()}_*"):
        storage.put(file)
    ranks.barrier()
    if ranks.rank() == 0:
        storage.put(folder / name / ".metadata")
        save_state(folder, state)
        write_atomically(folder / POINTER, name)
    ranks.barrier()
    _remove_older(folder, name)


def save_state(folder: Path, state: TrainState) -> None:
    """Writes what the checkpoint of this step holds beside the weights; rank 0 calls it."""
    write_atomically(folder / _name(state) / STATE, json.dumps(_tree(state)))


def _name(state: TrainState) -> str:
    return f"step-{state.step:06d}"


def _remove_older(folder: Path, name: str) -> None:
    """Removes what went before a checkpoint; of a mirror, each rank what is on its own disk."""
    for old in folder.glob("step-*"):
        if old.name == name:
            continue
        if ranks.rank() == 0:
            storage.remove(old)
        elif storage.is_mirrored(folder):
            shutil.rmtree(old, ignore_errors=True)


def load(folder: Path, learner: Learner) -> TrainState | None:
    """Restores the learner from the checkpoint that the pointer names; None when there is none."""
    pointer = folder / POINTER
    if not storage.fetch(pointer, fresh=True):
        return None
    path = folder / pointer.read_text().strip()
    storage.fetch(path, fresh=True)  # an earlier attempt may have left another here
    tensors = _tensors(learner)
    alone = ranks.world_size() == 1
    with _failing_as_an_error():
        dcp.load(tensors, checkpoint_id=str(path), planner=LoadPlanner(), no_dist=alone)
    _restore(learner, tensors)
    return _state(json.loads((path / STATE).read_text()))


@contextmanager
def _failing_as_an_error() -> Iterator[None]:
    """Torch's own exception is none by its class: it would pass whatever handles errors."""
    try:
        yield
    except CheckpointException as failure:
        raise RuntimeError(f"checkpoint: {failure}") from None


class LoadPlanner(DefaultLoadPlanner):
    """The stock planner, less its guess at checkpoints of before torch 2.4.

    It takes what a rank does not hold, tables of other ranks say, for a sign of one.
    """

    def create_local_plan(self) -> LoadPlan:
        """What this rank reads; all that it holds has to be there."""
        assert self.metadata is not None
        return create_default_local_load_plan(self.state_dict, self.metadata, strict=True)


def _tensors(learner: Learner) -> dict[str, Any]:
    """What is saved, and the targets of loading."""
    optimizer = get_optimizer_state_dict(learner.model.core, learner.optimizer)
    return learner.model.state() | {"optimizer": optimizer}


def _restore(learner: Learner, tensors: dict[str, Any]) -> None:
    learner.model.load(tensors)
    set_optimizer_state_dict(learner.model.core, learner.optimizer, tensors["optimizer"])


def _tree(state: TrainState) -> dict[str, Any]:
    tree = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    return tree | {"progress": state.progress.to_tree()}


def _state(tree: dict[str, Any]) -> TrainState:
    return TrainState(**tree | {"progress": Progress.from_tree(tree["progress"])})


def merge_progress(state: TrainState) -> None:
    """Lets every rank know what all ranks have consumed of the epoch."""
    for progress in ranks.gathered(state.progress):
        state.progress.absorb(progress)


def snapshot_cpu(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies tensors to contiguous host memory."""
    return {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
