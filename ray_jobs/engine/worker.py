"""One rank of a training run: builds the model, resumes, runs the loop, leaves the best weights."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn

from data.contract.artifact import write_atomically
from models.embeddings import shard
from models.table_shards import full_tables, load_tables
from ray_jobs.engine import checkpoint
from ray_jobs.engine.assignment import Assignment
from ray_jobs.engine.inference import CORE, TABLES, split_snapshot
from ray_jobs.engine.loop import (
    Learner,
    Schedule,
    Snapshot,
    Task,
    TrainSettings,
    TrainState,
    train,
    world_size,
)
from ray_jobs.engine.quiet import quiet_libraries
from ray_jobs.engine.streams import Prefetched, portions, spare_batch, tickets

if TYPE_CHECKING:
    from collections.abc import Callable

BEST = "best.safetensors"
OUTCOME = "outcome.json"
CURVE = "curve.jsonl"


def work(assignment: Assignment, make_task: Callable[[Assignment], Task]) -> None:
    """Trains on this rank; rank 0 leaves `best.safetensors` and `outcome.json` in the folder."""
    quiet_libraries()
    settings = assignment.settings.train
    task = make_task(assignment)
    learner = build_learner(task, assignment)
    state = checkpoint.load(assignment.folder, learner) or TrainState()
    plan = task.plan()
    todo = tickets(plan, state.progress, settings.max_epochs, _rank(), world_size())
    stream = Prefetched(portions(plan, todo, task.collate), lambda: spare_batch(plan, task.collate))
    schedule = Schedule(settings.warmup_steps, steps_of(task, assignment), settings.final_rate)
    recorder = Recorder(task, assignment, schedule)
    try:
        train(learner, stream, state, settings, schedule, recorder)
    finally:
        stream.close()
    recorder.finish(learner, state)


def steps_of(task: Task, assignment: Assignment) -> int:
    """Steps to take: the phase's, else the setting's, else the model's own."""
    return assignment.max_steps or assignment.settings.train.max_steps or task.max_steps


def build_learner(task: Task, assignment: Assignment) -> Learner:
    """Seeds and builds the model over the ranks, from yesterday's weights if there are any."""
    seed = assignment.stream_seed(f"{task.name}.weights")
    torch.manual_seed(seed)
    core, tables = task.build()
    dense_rate, sparse_rate = task.rates
    model = shard(core, tables, sparse_rate, seed)
    if assignment.start_from:
        _start_from(assignment, core, model.module)
    optimizer = torch.optim.AdamW(core.parameters(), lr=dense_rate, weight_decay=0.01)
    if _rank() == 0 and world_size() > 1:
        (assignment.folder / "plan.txt").write_text(model.plan)
    return Learner(model, optimizer, dense_rate, sparse_rate)


def _start_from(assignment: Assignment, core: nn.Module, module: nn.Module) -> None:
    folder = assignment.root / assignment.model / str(assignment.start_from)
    weights, tables = split_snapshot(load_file(folder / "model.safetensors"))
    core.load_state_dict(weights)
    load_tables(module, tables)


def snapshot(learner: Learner, task: Task) -> Snapshot:
    """All weights on the CPU of rank 0, empty elsewhere; every rank calls it.

    Rows without an embedding of their own are zeros, so that a zero row means "missing" to whoever
    reads the tables.
    """
    tables = full_tables(learner.model.module)
    if _rank() != 0:
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
    return table * mask.unsqueeze(1)


@dataclass
class Recorder:
    """Logs to files, checkpoints, validates, and keeps the best weights."""

    task: Task
    assignment: Assignment
    schedule: Schedule

    @property
    def settings(self) -> TrainSettings:
        """Of the loop."""
        return self.assignment.settings.train

    def logged(self, line: dict[str, float]) -> None:
        """Appends to the curve, which the driver's progress bar follows."""
        if _rank() == 0:
            with (self.assignment.folder / CURVE).open("a") as file:
                file.write(json.dumps(line | {"max_steps": self.schedule.max_steps}) + "\n")

    def checkpoint(self, learner: Learner, state: TrainState) -> None:
        """Saves on all ranks."""
        checkpoint.save(self.assignment.folder, learner, state)

    def validated(self, learner: Learner, state: TrainState) -> bool:
        """Scores the weights; True when patience has run out. Nothing to do while refitting."""
        if self.assignment.phase == "refit":
            return False
        weights = snapshot(learner, self.task)
        stop = torch.zeros(1)
        if _rank() == 0:
            stop[0] = float(self._judge(weights, state))
        if world_size() > 1:
            dist.broadcast(stop, 0)
        return bool(stop.item())

    def _judge(self, weights: Snapshot, state: TrainState) -> bool:
        metrics = self.task.validate(weights)
        if not metrics:
            return False
        state.validations.append({"step": state.step, **metrics})
        score = self.task.score(metrics)
        if score > state.best_score:
            state.best_step, state.best_score = state.step, score
            self._keep(weights)
        behind = state.step - state.best_step
        return behind >= self.settings.patience * self.settings.validate_every

    def _keep(self, weights: Snapshot) -> None:
        file = self.assignment.folder / BEST
        save_file(weights, file.with_suffix(".part"))
        file.with_suffix(".part").replace(file)

    def finish(self, learner: Learner, state: TrainState) -> None:
        """Keeps the last weights where nothing was chosen, and writes the outcome."""
        last_is_new = not state.validations or state.validations[-1]["step"] != state.step
        if last_is_new:
            self.validated(learner, state)
        weights = snapshot(learner, self.task) if not state.best_step else {}
        if _rank() != 0:
            return
        if weights:
            state.best_step = state.step
            self._keep(weights)
        tree = {
            "steps": state.step,
            "best_step": state.best_step,
            "rows": state.rows,
            "epoch": state.progress.epoch,
            "curve": state.curve,
            "validations": state.validations,
        }
        write_atomically(self.assignment.folder / OUTCOME, json.dumps(tree))


def alone(run: Callable[[], None]) -> None:
    """Runs `run` as a process group of one, in this process."""
    owner = not dist.is_initialized()
    if owner:
        store = dist.HashStore()
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, os.cpu_count() or 1))
    try:
        run()
    finally:
        torch.set_num_threads(threads)
        if owner:
            dist.destroy_process_group()


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0
