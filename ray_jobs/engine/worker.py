"""One rank of a training run: builds the model, resumes, runs the loop, leaves the best weights.

What a killed run left behind after its last checkpoint is taken back on resuming: the curve is
rewritten, and weights are kept by step, so that a checkpoint finds the best that it knows of.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from data.contract import storage
from data.contract.artifact import read, write_atomically
from data.contract.settings import UserError
from models.embeddings import shard
from models.table_shards import full_tables, load_tables
from ray_jobs.engine import checkpoint, container, ranks
from ray_jobs.engine.assignment import Assignment
from ray_jobs.engine.cluster import num_cores
from ray_jobs.engine.devices import CPU, backend, computes_in_bfloat16
from ray_jobs.engine.loop import (
    Learner,
    Snapshot,
    Task,
    TrainSettings,
    TrainState,
    train,
)
from ray_jobs.engine.memory import phase
from ray_jobs.engine.quiet import quiet_libraries
from ray_jobs.engine.schedule import Schedule
from ray_jobs.engine.snapshots import CORE, TABLES, take_over
from ray_jobs.engine.streams import Prefetched, portions, spare_batch, tickets

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OUTCOME = "outcome.json"
CURVE = "curve.jsonl"
PLAN = "plan.txt"


def work(
    assignment: Assignment, make_task: Callable[[Assignment], Task], device: torch.device = CPU
) -> None:
    """Trains on this rank; rank 0 leaves the best weights and `outcome.json` in the folder.

    Raises:
        UserError: on all ranks, where none has had a row to learn from.
    """
    quiet_libraries()
    assignment = replace(assignment, device=str(device))
    task = make_task(assignment)
    settings = replace(assignment.settings.train, validate_every=task.validate_every)
    learner = build_learner(task, assignment, device)
    state = checkpoint.load(assignment.folder, learner) or TrainState()
    plan = task.plan()
    todo = tickets(plan, state.progress, settings.max_epochs, ranks.rank(), ranks.world_size())
    stream = Prefetched(portions(plan, todo, task.collate), lambda: spare_batch(plan, task.collate))
    steps = assignment.steps_of(task.max_steps)
    schedule = Schedule(settings.warmup_steps, steps, settings.final_rate)
    recorder = Recorder(task, assignment, settings, schedule)
    recorder.start(learner, state)
    try:
        with phase("reading"):
            stream.peek()
        train(learner, stream, state, settings, schedule, recorder)
    finally:
        stream.close()
    if not state.rows:  # of all ranks
        raise UserError(f"{task.name} has found no row to learn from: {task.why_no_rows()}")
    recorder.finish(learner, state)


def build_learner(task: Task, assignment: Assignment, device: torch.device) -> Learner:
    """Seeds and builds the model over the ranks, on what was learnt before if there is any."""
    seed = assignment.stream_seed(f"{task.name}.weights")
    torch.manual_seed(seed)
    core, tables = task.build()
    core = core.to(device)
    dense_rate, sparse_rate = task.rates
    model = shard(core, tables, sparse_rate, seed, rank_memory=rank_memory())
    load_tables(model.module, assignment.id_tables())
    if assignment.start_from:
        _start_from(assignment, core, model.module)
    optimizer = torch.optim.AdamW(core.parameters(), lr=dense_rate, weight_decay=0.01, fused=True)
    bfloat16 = computes_in_bfloat16(assignment.settings.train, device)
    return Learner(model, optimizer, dense_rate, sparse_rate, device, bfloat16)


def rank_memory() -> int:
    """Bytes of this host's memory that each of its ranks may take."""
    return container.free_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", ranks.world_size()))


def _start_from(assignment: Assignment, core: nn.Module, module: nn.Module) -> None:
    before = read(assignment.root / assignment.model / str(assignment.start_from))
    try:
        tables = take_over(core, load_file(before.path / "model.safetensors"))
    except UserError as error:
        raise UserError(
            f"{before.manifest.name} cannot be trained on from: {error}. Run the pipeline once "
            "without day=next: it trains anew on all days so far, and the next day goes on from it"
        ) from error
    load_tables(module, tables)


def snapshot(learner: Learner, task: Task) -> Snapshot:
    """All weights on the CPU of rank 0, empty elsewhere; every rank calls it.

    Rows without an embedding of their own are zeros, so that a zero row means "missing" to whoever
    reads the tables.
    """
    tables = full_tables(learner.model.module)
    if ranks.rank() != 0:
        return {}
    core = checkpoint.snapshot_cpu(learner.model.core.state_dict())
    return {CORE + k: v for k, v in core.items()} | {
        TABLES + k: _admitted(task, k, v) for k, v in tables.items()
    }


def _admitted(task: Task, name: str, table: torch.Tensor) -> torch.Tensor:
    admission = task.admission
    mask = torch.zeros(len(table), dtype=torch.bool)
    rows = admission.item if name == "item_id" else admission.user
    mask[: len(rows)] = torch.from_numpy(rows)
    mask[0] = False
    return table.masked_fill_(~mask.unsqueeze(1), 0.0)


@dataclass
class Recorder:
    """Logs to files, checkpoints, validates, and keeps the best weights.

    Attributes:
        task: what is trained.
        assignment: names the folder of it all.
        settings: of the loop.
        schedule: names the last step.
        saved_at: step of the last checkpoint, 0 before there is one.
    """

    task: Task
    assignment: Assignment
    settings: TrainSettings
    schedule: Schedule
    saved_at: int = 0

    def start(self, learner: Learner, state: TrainState) -> None:
        """Leaves the sharding plan, and the curve as far as it is part of this run."""
        self.saved_at = state.step
        if ranks.rank() != 0:
            return
        if ranks.world_size() > 1:
            write_atomically(self.assignment.folder / PLAN, learner.model.plan)
        text = "".join(self._line(line) for line in state.curve)
        write_atomically(self.assignment.folder / CURVE, text)

    def logged(self, line: dict[str, float]) -> None:
        """Appends to the curve, which the driver's progress bar follows."""
        if ranks.rank() == 0:
            with (self.assignment.folder / CURVE).open("a") as file:
                file.write(self._line(line))

    def _line(self, line: dict[str, float]) -> str:
        return json.dumps(line | {"max_steps": self.schedule.max_steps}) + "\n"

    def checkpoint(self, learner: Learner, state: TrainState) -> None:
        """Saves on all ranks; weights that no checkpoint asks for any more are removed."""
        folder = self.assignment.folder
        checkpoint.save(folder, learner, state)
        self.saved_at = state.step
        if ranks.rank() == 0:
            storage.put(folder / CURVE)
            for file in folder.glob("best-*"):
                if file != best_file(folder, state.best_step):
                    storage.remove(file)

    def validated(self, learner: Learner, state: TrainState) -> bool:
        """Scores the weights; True when patience has run out. Nothing to do while refitting.

        It may take as long as all steps before it, so there is a checkpoint before the first one.
        The checkpoint of this very step learns the outcome, unless the training ends by it: taken
        up there, it has to be told again.
        """
        if self.assignment.phase == "refit":
            return False
        if not self.saved_at:
            self.checkpoint(learner, state)
        with phase("validation"):
            weights = snapshot(learner, self.task)
            metrics = self.task.validate(weights) if ranks.rank() == 0 else {}
            ends = self._judge(ranks.from_first(metrics), weights, state)
        if self.saved_at == state.step and not ends and ranks.rank() == 0:
            checkpoint.save_state(self.assignment.folder, state)
        return ends

    def _judge(self, metrics: dict[str, float], weights: Snapshot, state: TrainState) -> bool:
        if not metrics:
            return False
        state.validations.append({"step": state.step, **metrics})
        score = self.task.score(metrics)
        if score > state.best_score:
            state.best_step, state.best_score = state.step, score
            self._keep(weights, state)
        behind = state.step - state.best_step
        late = behind >= self.settings.patience * self.settings.validate_every
        return late or self._below_the_bar(state)

    def _below_the_bar(self, state: TrainState) -> bool:
        """Whether a sweep cuts the run short here."""
        bars, place = self.assignment.bars, len(state.validations) - 1
        bar = bars[place] if place < len(bars) else None
        return bar is not None and state.best_score < bar

    def _keep(self, weights: Snapshot, state: TrainState) -> None:
        if ranks.rank() == 0:
            file = best_file(self.assignment.folder, state.best_step)
            save_file(weights, file.with_suffix(".part"))
            file.with_suffix(".part").replace(file)
            storage.put(file)

    def finish(self, learner: Learner, state: TrainState) -> None:
        """Keeps the last weights where nothing was chosen, and writes the outcome.

        Raises:
            UserError: on all ranks, where the weights to keep are no numbers.
        """
        if not state.is_validated:
            self.validated(learner, state)
        if not state.best_step:
            state.best_step = state.step
            self._keep(snapshot(learner, self.task), state)
        self._refuse_diverged(state)
        if ranks.rank() == 0:
            self._conclude(learner, state)

    def _refuse_diverged(self, state: TrainState) -> None:
        """No server could take them, and the next day would go on from them."""
        best = best_file(self.assignment.folder, state.best_step)
        if not ranks.from_first(ranks.rank() != 0 or are_numbers(best)):
            name = self.task.name
            raise UserError(
                f"{name} has diverged: its weights after step {state.best_step} are no numbers; "
                f"lower {name}.learning_rate, {name}.table_learning_rate or train.gradient_clip"
            )

    def _conclude(self, learner: Learner, state: TrainState) -> None:
        tree = {
            "steps": state.step,
            "best_step": state.best_step,
            "rows": state.rows,
            "epoch": state.progress.epoch,
            "curve": state.curve,
            "validations": state.validations,
            "pruned": bool(state.validations) and self._below_the_bar(state),
            "workers": ranks.world_size() if self.settings.num_workers else 0,
            "plan": learner.model.plan if ranks.world_size() > 1 else None,
        }
        write_atomically(self.assignment.folder / OUTCOME, json.dumps(tree))


def are_numbers(file: Path) -> bool:
    """Whether all weights in a file are finite; one tensor at a time is in memory."""
    storage.fetch(file)
    with safe_open(file, "pt") as tensors:
        found = (tensors.get_tensor(name) for name in tensors.keys())  # noqa: SIM118
        weights = (one for one in found if one.is_floating_point() and one.numel())
        # Least and most of a tensor are NaN where any number is, and ask for no copy of it.
        return all(bool(end.isfinite()) for one in weights for end in torch.aminmax(one))


def best_file(folder: Path, step: int) -> Path:
    """Weights kept after a step, in a run's folder."""
    return folder / f"best-{step:06d}.safetensors"


def alone(run: Callable[[], None], gpu: bool = False) -> None:
    """Runs `run` as a process group of one, in this process."""
    owner = not dist.is_initialized()
    if owner:
        store = dist.HashStore()
        dist.init_process_group(backend(gpu), store=store, rank=0, world_size=1)
    threads = torch.get_num_threads()
    torch.set_num_threads(num_cores())
    try:
        run()
    finally:
        torch.set_num_threads(threads)
        if owner:
            dist.destroy_process_group()
