"""The one training loop, for every task and any number of ranks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

import torch
from pydantic import Field
from torch import nn

from data.contract.settings import Count, NonNegative, Positive, Share
from models.embeddings import ShardedModel, Table
from models.step_pipeline import StepPipeline
from ray_jobs.engine import ranks
from ray_jobs.engine.devices import CPU
from ray_jobs.engine.feed import Feed
from ray_jobs.engine.memory import give_back_free
from ray_jobs.engine.meter import Meter
from ray_jobs.engine.schedule import Schedule
from ray_jobs.engine.streams import BlockPlan, Prefetched, Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import pyarrow as pa

    from data.batching import Admission
    from models.batch import Batch

Snapshot = dict[str, torch.Tensor]
Logs = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How models are trained, whichever they are.

    Attributes:
        num_workers: Ray Train workers; 0 trains in the driver as a group of one.
        min_workers: workers with which a training goes on when a node is lost and none comes in its
            place; batches are smaller by those that are missing. 0 waits for all.
        device: auto computes on GPUs where each worker, or the driver, can have one now; gpu asks
            for them, also of a cluster that starts such nodes when they are asked for; cpu never.
        precision: of the products of the dense part, float32 or bfloat16; auto takes the latter on
            a GPU that has it.
        max_steps: most optimiser steps; 0 takes the model's own default.
        max_epochs: most passes over the training rows.
        warmup_steps: steps until the learning rate is full.
        final_rate: share of the learning rate left at the last step (cosine between).
        validate_every: least steps between validations, of which retrieval models have at most
            twenty.
        patience: validations without a better result after which training stops.
        choose_on: validation metric that picks the retriever's number of steps (the ranker's is
            picked by log loss).
        validation_users: most users in a validation.
        refresh_steps: steps of a next day, which starts from yesterday's weights.
        checkpoint_every: steps between checkpoints.
        max_failures: worker failures survived before the run is given up.
        gradient_clip: largest norm of the dense gradient.
        log_every: steps between log lines.
    """

    num_workers: NonNegative = 0
    min_workers: NonNegative = 0
    device: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    max_steps: NonNegative = 0
    max_epochs: Count = 30
    warmup_steps: NonNegative = 50
    final_rate: Share = 0.1
    validate_every: Count = 100
    patience: Count = 4
    choose_on: Literal["ndcg@10", "ndcg@50", "recall@10", "recall@50", "recall@200"] = "ndcg@50"
    validation_users: Count = 1000
    refresh_steps: Count = 100
    checkpoint_every: Count = 200
    max_failures: NonNegative = 3
    gradient_clip: Positive = 1.0
    log_every: Annotated[int, Field(ge=1)] = 10

    def __post_init__(self) -> None:
        if self.min_workers > self.num_workers:
            raise ValueError(
                f"train.min_workers={self.min_workers} is more than "
                f"train.num_workers={self.num_workers}"
            )


class Task(Protocol):
    """What differs from one trained model to the next."""

    name: str

    @property
    def admission(self) -> Admission:
        """Rows that have an embedding of their own."""

    @property
    def rates(self) -> tuple[float, float]:
        """Full learning rates of the dense part and of the tables."""

    @property
    def max_steps(self) -> int:
        """Steps to take when `train.max_steps` is 0."""

    @property
    def validate_every(self) -> int:
        """Steps between validations."""

    def plan(self) -> BlockPlan:
        """Which blocks an epoch reads."""

    def collate(self, table: pa.Table, rng: np.random.Generator) -> Iterator[Batch]:
        """Cuts one block into batches."""

    def build(self) -> tuple[nn.Module, list[Table]]:
        """The dense part, and the tables whose rows it reads."""

    def validate(self, snapshot: Snapshot) -> dict[str, float]:
        """Metrics on the validation part; empty when there is nothing to choose on."""

    def score(self, metrics: dict[str, float]) -> float:
        """What choices are made on, larger being better."""

    def why_no_rows(self) -> str:
        """What has left out all rows, and the way out; asked where none was learnt from."""


@dataclass(slots=True)
class Learner:
    """A model in training: sharded tables, replicated core, and the core's optimiser.

    Attributes:
        model: tables and core over the ranks.
        optimizer: of the dense part; the tables are updated in backward.
        dense_rate: full learning rate of the dense part.
        sparse_rate: full learning rate of the tables.
        device: that batches go to.
        bfloat16: whether products are computed in it (autocast).
    """

    model: ShardedModel
    optimizer: torch.optim.Optimizer
    dense_rate: float
    sparse_rate: float
    device: torch.device = CPU
    bfloat16: bool = False

    def set_rate(self, share: float) -> None:
        """Sets both learning rates to a share of the full ones."""
        for group in self.optimizer.param_groups:
            group["lr"] = share * self.dense_rate
        self.model.set_tables_learning_rate(share * self.sparse_rate)


@dataclass(slots=True)
class TrainState:
    """Everything that a checkpoint holds beside the weights.

    Attributes:
        step: optimiser steps done.
        progress: rows consumed in the current epoch.
        rows: training rows (windows or requests) consumed by all ranks since the start.
        best_step: step of the best validation.
        best_score: its score.
        curve: log lines over all ranks: step, loss, rate, rows/s, steps/s, share of time waiting
            for data.
        validations: step and metrics of each validation.
    """

    step: int = 0
    progress: Progress = field(default_factory=Progress)
    rows: int = 0
    best_step: int = 0
    best_score: float = float("-inf")
    curve: list[dict[str, float]] = field(default_factory=list)
    validations: list[dict[str, float]] = field(default_factory=list)

    @property
    def is_validated(self) -> bool:
        """Whether the weights of this step have been."""
        return bool(self.validations) and self.validations[-1]["step"] == self.step


class Observer(Protocol):
    """What happens beside the steps; called on every rank."""

    def logged(self, line: dict[str, float]) -> None:
        """A log line is ready."""

    def checkpoint(self, learner: Learner, state: TrainState) -> None:
        """A checkpoint is due."""

    def validated(self, learner: Learner, state: TrainState) -> bool:
        """Validates; True when training shall stop."""


def train(
    learner: Learner,
    stream: Prefetched,
    state: TrainState,
    settings: TrainSettings,
    schedule: Schedule,
    observer: Observer,
) -> TrainState:
    """Runs optimiser steps until the schedule, the stream or the observer ends it.

    Steps overlap (`models.step_pipeline`) up to the next validation or checkpoint. A checkpoint
    goes before a validation of its step, which may take hours and is made up for on resuming.

    Args:
        learner: the model; changed in place.
        stream: this rank's batches.
        state: where to start; changed in place.
        settings: of the loop.
        schedule: learning rate by step, and the last step.
        observer: logs, checkpoints and validation.

    Returns:
        `state`.
    """
    meter = Meter()
    epochs = range(state.progress.epoch, settings.max_epochs)
    feed = Feed(stream, epochs, learner.model.ready, meter)
    step = Step(learner, state, settings, schedule)
    pipeline = StepPipeline(learner.model, step, learner.device)
    while not _ends(learner, state, settings, observer) and state.step < schedule.max_steps:
        started = state.step
        for loss, logs in pipeline.over(feed.next(_steps_to_halt(started, settings, schedule))):
            taken = feed.taken.popleft()
            taken.count(state.progress)
            state.rows += taken.rows
            meter.add(loss, logs, taken.rows)
            if state.step % settings.log_every == 0 or state.step == schedule.max_steps:
                state.curve.append(meter.line(state, schedule))
                observer.logged(state.curve[-1])
                give_back_free()
        if state.step == started:
            break
        if state.step % settings.checkpoint_every == 0:
            observer.checkpoint(learner, state)
    return state


def _ends(learner: Learner, state: TrainState, settings: TrainSettings, observer: Observer) -> bool:
    """Validates where that is due and has not been done; whether training shall stop."""
    due = state.step and state.step % settings.validate_every == 0
    return bool(due) and not state.is_validated and observer.validated(learner, state)


def _steps_to_halt(step: int, settings: TrainSettings, schedule: Schedule) -> int:
    """Steps until the next validation, checkpoint or end."""
    halts = (settings.validate_every, settings.checkpoint_every)
    return min(schedule.max_steps - step, *(every - step % every for every in halts))


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a learner, at the rate of the schedule (`models.step_pipeline.Step`)."""

    learner: Learner
    state: TrainState
    settings: TrainSettings
    schedule: Schedule

    def zero_grad(self) -> None:
        """Forgets the last step's gradients, and sets the rate of this one."""
        self.learner.set_rate(self.schedule.rate(self.state.step))
        self.learner.optimizer.zero_grad(set_to_none=True)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, tuple[torch.Tensor, Logs]]:
        """The loss, and loss and logs to tell."""
        # Dropout is reseeded at each step, so that a resumed run draws what the whole one drew.
        torch.manual_seed((self.state.step << 8) + ranks.rank())
        learner = self.learner
        with torch.autocast(learner.device.type, torch.bfloat16, enabled=learner.bfloat16):
            loss, logs = learner.model.module(batch)
        return loss, (loss.detach(), logs)

    def step(self) -> None:
        """Updates the dense part; the tables were in backward."""
        nn.utils.clip_grad_norm_(self.learner.model.core.parameters(), self.settings.gradient_clip)
        self.learner.optimizer.step()
        self.state.step += 1
