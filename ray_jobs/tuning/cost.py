"""What a trained model costs: objectives that quality is weighed against."""

from __future__ import annotations

import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from data.queries import build_queries
from data.requests import Requests, UserEvents
from data.splits import TRAIN, VALID
from data.training_log import TrainingLog
from data.trends import Trends
from ray_jobs.engine.inference import Retriever
from ray_jobs.engine.ranking_model import RankingModel, users_of
from ray_jobs.engine.subject import Subject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from data.contract.artifact import Artifact
    from ray_jobs.engine.job import Job

MEASURED = 100
WARMING = 5


def megabytes(job: Job, artifact: Artifact) -> float:  # noqa: ARG001
    """Weights and ID tables on disk, in MB."""
    return (artifact.path / "model.safetensors").stat().st_size / 1e6


def latency_ms(job: Job, artifact: Artifact) -> float:
    """Median milliseconds, on one thread, for one user or one request of the validation part.

    A retriever encodes the user's history; a ranker scores the request's candidates. It is the
    training code that runs: serving's exported programs are faster, in the same order.
    """
    subject = Subject.open(job, (artifact.kind,), {artifact.kind: artifact})
    answers = _rankings if artifact.kind == "ranker" else _encodings
    with _one_thread():
        seconds = [_timed(answer) for answer in answers(subject, artifact)]
    return 1000 * float(np.median(seconds[WARMING:] or seconds))


def _timed(answer: Callable[[], object]) -> float:
    started = time.perf_counter()
    answer()
    return time.perf_counter() - started


def _encodings(subject: Subject, artifact: Artifact) -> Iterator[Callable[[], object]]:
    trends = Trends.of(subject.log, (TRAIN,))
    retriever = Retriever.open(artifact, subject.datasets[artifact.kind], trends)
    queries = build_queries(subject.log, VALID, MEASURED)
    _ = retriever.item_vectors
    for place in range(len(queries)):
        one = queries.take(np.array([place]))
        yield partial(retriever.user_vectors, one.history, one.users, one.now_ms)


def _rankings(subject: Subject, artifact: Artifact) -> Iterator[Callable[[], object]]:
    dataset = subject.datasets["ranker"]
    shown, actions = subject.impressions("valid"), dataset.vocabulary.actions
    measured = shown.slice(0, int(Requests.of(shown, actions).offsets[: MEASURED + 1][-1]))
    requests, asked = Requests.of(measured, actions), users_of(measured, dataset)
    model = RankingModel.open(artifact, dataset).knowing(subject.log, (TRAIN,), asked)
    histories = UserEvents.of(TrainingLog(subject.log, (TRAIN,)), asked)
    for place in range(len(requests)):
        yield partial(model.of_requests, requests.take(np.array([place])), histories)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


COSTS: dict[str, Callable[[Job, Artifact], float]] = {
    "latency_ms": latency_ms,
    "megabytes": megabytes,
}
