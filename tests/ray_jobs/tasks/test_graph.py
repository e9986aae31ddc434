"""How long the graph encoder is trained, and where it is validated."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ray_jobs.tasks import graph
from ray_jobs.tasks.graph import GraphTask

LABELS, BATCH, EPOCHS = 10_000, 32, 3


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_all_ranks_together_pass_over_the_labels_as_often_as_is_set(workers: int) -> None:
    task: Any = GraphTask.__new__(GraphTask)
    task.settings = SimpleNamespace(epochs=EPOCHS, batch_size=BATCH, max_steps=0)
    task.objectives = ("next_engagement", "co_board")
    task.counts = SimpleNamespace(item_labels=np.full(100, LABELS // 100))
    train = SimpleNamespace(num_workers=workers)
    task.assignment = SimpleNamespace(settings=SimpleNamespace(train=train))
    read = task.max_steps * BATCH * max(1, workers)
    assert read == pytest.approx(EPOCHS * LABELS * len(task.objectives), rel=0.01)


def test_a_validation_computes_where_its_rank_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []

    def of(*arguments: object) -> SimpleNamespace:
        given.extend(arguments)
        return SimpleNamespace(scores="scores")

    monkeypatch.setattr(graph, "GraphEmbedder", SimpleNamespace(of=of))
    monkeypatch.setattr(graph, "users_of", lambda *_: "nodes")
    assignment = SimpleNamespace(
        dataset=None, settings=None, sampler=SimpleNamespace(open=lambda: None), device="cuda:3"
    )
    task = SimpleNamespace(assignment=assignment, settings=None)
    assert GraphTask.scorer(task, {}) == "scores"  # type: ignore[arg-type]
    assert given[-1] == "cuda:3"
