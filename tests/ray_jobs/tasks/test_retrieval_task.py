"""What the tasks share that are chosen by retrieval."""

from types import SimpleNamespace
from typing import Any

import pytest

from ray_jobs.tasks import retrieval_task
from ray_jobs.tasks.retrieval_task import RetrievalTask


def test_the_log_is_searched_for_queries_once_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = []

    def build_queries(log: Any, part: int, most: int) -> list[Any]:
        searched.append((log, part, most))
        return []

    monkeypatch.setattr(retrieval_task, "build_queries", build_queries)
    task: Any = RetrievalTask.__new__(RetrievalTask)
    settings = SimpleNamespace(train=SimpleNamespace(validation_users=7))
    task.assignment = SimpleNamespace(log="log", settings=settings)
    assert [task.validate({}), task.validate({})] == [{}, {}]
    assert searched == [("log", retrieval_task.VALID, 7)]
