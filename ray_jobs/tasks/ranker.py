"""Training the ranker: impressions by request, one label an action."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from data.batching import even_chunks, ranker_batch
from data.blocks import num_rows, row_groups
from data.contract.artifact import read
from data.contract.settings import UserError
from data.requests import Requests, UserEvents
from data.splits import TRAIN, VALID
from data.training_log import TrainingLog
from models.metrics import ranking_metrics
from models.ranker import action_weights, build_ranker
from ray_jobs.engine.ranking_model import RankingModel, record_of, users_of
from ray_jobs.engine.streams import BlockPlan
from ray_jobs.engine.teacher import Teacher
from ray_jobs.engine.user_weights import user_weights
from ray_jobs.tasks.log_task import LogTask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import nn

    from data.contract.encode import Ints, Mask
    from data.track_record import TrackRecord
    from models.batch import Batch
    from models.embeddings import Table
    from ray_jobs.engine.assignment import Assignment
    from ray_jobs.engine.loop import Snapshot

VALIDATION_ROWS = 40_000
UNKNOWN_SURFACES = 0.1
HOUR_MS = 3_600_000
# Of candidates of the validation part too, whose own events are labels where they are learnt from.
KNOWN = (TRAIN,)


class RankerTask(LogTask):
    """Multi-task training on impressions (TransAct, KDD'23)."""

    name = "ranker"

    def __init__(self, assignment: Assignment) -> None:
        """Finds the impressions; opens none. Raises UserError where there are none."""
        self.settings = assignment.settings.ranker
        windows = assignment.windows
        super().__init__(assignment, self.settings, windows.ranker if windows else None)
        if not num_rows(self.files):
            raise UserError(f"ranker has nothing to learn from: {self._why_no_impressions()}")

    @cached_property
    def histories(self) -> UserEvents:
        """What was known of the users."""
        return UserEvents.of(TrainingLog(self.assignment.log, KNOWN), self.asked)

    @cached_property
    def record(self) -> TrackRecord:
        """How items and users had done by when."""
        return record_of(self.settings, self.assignment.log, KNOWN, self.asked)

    @cached_property
    def teacher(self) -> Teacher | None:
        """A ranker that this one learns from."""
        return Teacher.of(self.assignment, KNOWN, self.asked)

    @cached_property
    def user_weights(self) -> npt.NDArray[np.float32]:
        """Of every user, [rows]."""
        data = self.assignment.dataset
        return user_weights(data.users, data.user_ids.rows, self.settings.user_weights)

    @cached_property
    def validation_record(self) -> TrackRecord:
        """How they had done, as validation requests may know it."""
        if self._knows_the_same:
            return self.record
        settings, log = self.settings, self.assignment.log
        return record_of(settings, log, self._known_parts, self.validated)

    @cached_property
    def asked(self) -> Mask:
        """Users of any impression that is learnt from, or validated on knowing the same, [rows]."""
        dataset = self.assignment.dataset
        asked = np.zeros(dataset.user_ids.rows, bool)
        for file in self.files:
            asked |= users_of(pq.ParquetFile(file).read(["user"]), dataset)
        return asked | self.validated if self._knows_the_same else asked

    @cached_property
    def validated(self) -> Mask:
        """Users of the impressions that are validated on, [rows]."""
        return users_of(self._validation_impressions, self.assignment.dataset)

    @property
    def files(self) -> list[Path]:
        """Impressions to learn from."""
        parts = ("train",) if self.assignment.phase == "choose" else ("train", "valid")
        windows = self.assignment.windows
        return self._files(parts, windows.ranker if windows else None)

    def _files(self, parts: tuple[str, ...], days: tuple[int, int] | None) -> list[Path]:
        """Impressions of some parts made from candidates, or of some days of the log."""
        assignment = self.assignment
        if assignment.candidates_version is not None:
            return candidate_files(assignment.root, assignment.candidates_version, parts)
        return assignment.dataset.impression_files(*days) if days else []

    def plan(self) -> BlockPlan:
        """All row groups of the impressions."""
        blocks = tuple(row_groups(self.files))
        return BlockPlan(blocks, self.assignment.stream_seed("ranker.plan"))

    def collate(self, table: pa.Table, rng: np.random.Generator) -> Iterator[Batch]:
        """Batches the requests of one block in random order."""
        actions = self.assignment.dataset.vocabulary.actions
        rate, length = self.settings.negative_rate, self.settings.sequence.max_length
        shown = thinned(self._of_seen_users(self._closed(table)), actions, rate, rng)
        requests = Requests.of(shown, actions)
        for chunk in even_chunks(len(requests), self.settings.batch_size, rng):
            part = partly_known(requests.take(chunk), rng)
            histories = self.histories.histories(part, length, self._hidden_ms(len(part), rng))
            batch = ranker_batch(part, histories, self.encoder, actions, self.record)
            yield self._taught(batch, part)

    def _taught(self, batch: Batch, requests: Requests) -> Batch:
        """With weights of users, and what a teacher says."""
        labels = self.teacher.labels(requests, self.histories) if self.teacher else {}
        weight = torch.from_numpy(self.user_weights[requests.user])
        return replace(batch, labels={**batch.labels, **labels}, weight=weight)

    def _hidden_ms(self, requests: int, rng: np.random.Generator) -> Ints:
        """Time before each request whose events are hidden, ms, [R] (TransAct, KDD'23, §3.3)."""
        most_ms = self.settings.time_mask_hours * HOUR_MS
        return (rng.random(requests) * most_ms).astype(np.int64)

    def _why_no_impressions(self) -> str:
        windows = self.assignment.windows
        if self.assignment.candidates_version is not None or windows is None:
            return (
                "no item that was touched is among the retriever's candidates; train two_tower for "
                "longer, or check source.polarity and split.*"
            )
        first, last = windows.ranker
        return (
            f"days {first}-{last}, windows.ranker, hold no impressions, though other days "
            "do; move windows.ranker to where they are, have what is served logged "
            "(serve.log_requests), or prepare without source.impressions: it then learns from the "
            "retriever's candidates"
        )

    def why_no_rows(self) -> str:
        """How many of its impressions each filter leaves out, and the way out."""
        total = late = apart = 0
        for file in self.files:
            table = pq.ParquetFile(file).read(["user", "labels_closed_at"])
            closed = self._closed(table)
            total += table.num_rows
            late += table.num_rows - closed.num_rows
            apart += closed.num_rows - self._of_seen_users(closed).num_rows
        windows = self.assignment.windows
        day = f"day {windows.ranker_closed} of the log" if windows else "the log's end"
        return (
            f"of {total} impressions to learn from, {late} have labels that close after {day} "
            f"(labels_closed_at), {apart} others are of users kept apart (split.eval_users), and "
            f"ranker.negative_rate={self.settings.negative_rate} leaves out the rest; move "
            "windows.ranker_closed or windows.ranker, or mend the log"
        )

    def _closed(self, table: pa.Table) -> pa.Table:
        """Leaves out impressions whose labels were still open when the window closed."""
        windows, calendar = self.assignment.windows, self.assignment.dataset.calendar
        if windows is None or calendar is None:
            return table
        limit = calendar.start_ms(windows.ranker_closed + 1)
        return table.filter(pc.less_equal(table["labels_closed_at"], limit))

    def _of_seen_users(self, table: pa.Table) -> pa.Table:
        """Leaves out users who are kept apart for evaluation."""
        apart = self.assignment.log.unseen(table["user"].to_numpy().astype(np.int64))
        return table.filter(pa.array(~apart)) if apart.any() else table

    def build(self) -> tuple[nn.Module, list[Table]]:
        """The ranker, and tables with room for the ids of days to come."""
        core = build_ranker(self.settings, self.assignment.dataset.vocabulary)
        return core, self.roomy_tables(core)

    def validate(self, snapshot: Snapshot) -> dict[str, float]:
        """Mean metrics over the actions that are learnt, on the part that choices are made on.

        Without AUC where every action has one class alone.
        """
        table = self._validation_impressions
        if not table.num_rows:
            return {}
        data = self.assignment.dataset
        model = RankingModel.of(data, self.settings, snapshot)
        model.record = self.validation_record
        probabilities = model.probabilities(table, self.validation_histories)
        labels = Requests.of(table, data.vocabulary.actions).labels
        learnt = np.flatnonzero(action_weights(self.settings, data.vocabulary.actions).numpy())
        metrics = [ranking_metrics(labels[:, i] > 0, probabilities[:, i]) for i in learnt]
        found = {"log_loss": float(np.mean([m["log_loss"] for m in metrics]))}
        aucs = [m["auc"] for m in metrics]
        return found if np.isnan(aucs).all() else found | {"auc": float(np.nanmean(aucs))}

    @cached_property
    def _validation_impressions(self) -> pa.Table:
        """Impressions of the validation days, or made from the validation part; a sample.

        Of users who are asked about.
        """
        windows, log = self.assignment.windows, self.assignment.log
        files = self._files(("valid",), windows.valid if windows else None)
        if not files:
            return pa.table({"user": pa.array([], pa.int64())})
        share = -(-VALIDATION_ROWS // len(files))
        shown = pa.concat_tables(first_rows(file, share) for file in files)
        return shown.filter(pa.array(log.asked(shown["user"].to_numpy().astype(np.int64))))

    @cached_property
    def validation_histories(self) -> UserEvents:
        """What validation requests may know: all before them in time, or the training part."""
        if self._knows_the_same:
            return self.histories
        log = TrainingLog(self.assignment.log, self._known_parts)
        return UserEvents.of(log, self.validated)

    @property
    def _knows_the_same(self) -> bool:
        """Whether validation requests may know what those do that are learnt from."""
        return self._known_parts == KNOWN

    @property
    def _known_parts(self) -> tuple[int, ...]:
        logged = self.assignment.candidates_version is None
        return (TRAIN, VALID) if logged else KNOWN

    def score(self, metrics: dict[str, float]) -> float:
        """Smaller log loss is better."""
        return -metrics["log_loss"]


def thinned(
    table: pa.Table, actions: tuple[str, ...], rate: float, rng: np.random.Generator
) -> pa.Table:
    """Leaves out impressions without any action but for a share of them."""
    if rate >= 1 or not table.num_rows:
        return table
    acted = np.any([table[f"label.{a}"].to_numpy() for a in actions], axis=0)
    return table.filter(pa.array(acted | (rng.random(table.num_rows) < rate)))


def partly_known(requests: Requests, rng: np.random.Generator) -> Requests:
    """Requests of which some hide their surface, so that an unknown one is learnt too."""
    hidden = rng.random(len(requests)) < UNKNOWN_SURFACES
    return replace(requests, surface=np.where(hidden, 0, requests.surface))


def first_rows(path: Path, count: int) -> pa.Table:
    """The first rows of a Parquet file; no more row groups are read than hold them."""
    file = pq.ParquetFile(path)
    batches = itertools.islice(file.iter_batches(count), 1)
    return pa.Table.from_batches(batches, schema=file.schema_arrow)


def candidate_files(root: Path, version: str, parts: tuple[str, ...]) -> list[Path]:
    """Files of impressions made from candidates."""
    folder = read(root / "candidates" / version).path / "impressions"
    return [file for part in parts for file in sorted((folder / f"part={part}").glob("*.parquet"))]
