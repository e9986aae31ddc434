from types import SimpleNamespace

import pytest

from ray_jobs.tasks import graph
from ray_jobs.tasks.graph import GraphTask


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
