"""What of its impressions a ranker learns from."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.contract.artifact import publish
from data.queries import build_queries
from data.requests import Requests
from data.splits import TEST, TRAIN, VALID, unseen
from data.training_log import TrainingLog
from models.ranker_settings import RankerSettings
from ray_jobs.tasks import ranker
from ray_jobs.tasks.ranker import UNKNOWN_SURFACES, RankerTask, partly_known, thinned
from tests.data.rows import SAVE, log_of

COUNT = 4000


def table() -> pa.Table:
    """Impressions in requests of two; every tenth is saved."""
    rows = np.arange(COUNT)
    zeros = np.zeros(COUNT, np.int64)
    names = ("user", "timestamp", "position")
    return pa.table(
        {
            "request_id": rows // 2,
            "item": rows,
            "surface": 1 + rows // 2 % 3,
            "label.save": rows % 10 == 0,
            **dict.fromkeys(names, zeros),
        }
    )


def test_the_surface_of_some_requests_is_hidden_and_no_other_changed() -> None:
    requests = Requests.of(table(), ("save",))
    found = partly_known(requests, np.random.default_rng(0)).surface
    hidden = found == 0
    assert abs(hidden.mean() - UNKNOWN_SURFACES) < 0.03
    assert (found[~hidden] == requests.surface[~hidden]).all()
    assert (requests.surface > 0).all()


def test_impressions_without_any_action_are_thinned_and_the_others_kept() -> None:
    kept = thinned(table(), ("save",), 0.25, np.random.default_rng(0))
    saved = np.asarray(kept["label.save"])
    assert saved.sum() == COUNT / 10
    assert abs((~saved).sum() / (COUNT * 0.9) - 0.25) < 0.03


def task_of(**assignment: Any) -> Any:
    """A task of a log of nine users that has opened nothing yet."""
    task: Any = RankerTask.__new__(RankerTask)
    dataset = SimpleNamespace(
        user_ids=SimpleNamespace(rows=9), impression_files=assignment.pop("impression_files", None)
    )
    given = {"log": log_of([]), "phase": "choose"} | assignment
    task.assignment = SimpleNamespace(dataset=dataset, **given)
    task.settings, task.log = None, None
    return task


def shown_to(path: Path, users: list[int]) -> None:
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"user": users}), path)


@pytest.fixture
def gathered(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, ...], list[int]]]:
    """Parts and users of all histories and records that were made, in that order."""
    calls = []

    def gather(parts: tuple[int, ...], asked: Any) -> object:
        calls.append((parts, np.flatnonzero(asked).tolist()))
        return object()

    events = SimpleNamespace(of=lambda log, asked: gather(log.parts, asked))
    monkeypatch.setattr(ranker, "UserEvents", events)
    monkeypatch.setattr(ranker, "record_of", lambda _, __, parts, asked: gather(parts, asked))
    return calls


def test_users_of_candidates_are_asked_for_once_to_learn_from_and_to_validate_on(
    tmp_path: Path, gathered: list[Any]
) -> None:
    with publish(tmp_path, "candidates", "v1") as draft:
        for part, users in (("train", [1, 4, 4]), ("valid", [7]), ("test", [2])):
            shown_to(draft.path / "impressions" / f"part={part}" / "part-00000.parquet", users)
    task = task_of(root=tmp_path, candidates_version="v1", windows=None, parts=(TRAIN,))
    assert task.validation_histories is task.histories
    assert task.validation_record is task.record
    assert [users for _, users in gathered] == [[1, 4, 7], [1, 4, 7]]


def test_users_of_a_log_that_are_validated_on_are_asked_for_apart_and_once(
    tmp_path: Path, gathered: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {}
    for days, users in (((1, 4), [1, 4, 4]), ((5, 6), [7, 4, 8])):
        files[days] = tmp_path / str(days) / "part-00000.parquet"
        shown_to(files[days], users)
    monkeypatch.setattr(ranker, "VALIDATION_ROWS", 2)
    task = task_of(
        candidates_version=None,
        windows=SimpleNamespace(ranker=(1, 4), valid=(5, 6)),
        parts=(TRAIN,),
        impression_files=lambda *days: [files[days]],
    )
    for _ in range(2):
        _ = task.histories, task.record, task.validation_histories, task.validation_record
    learnt, known = (TRAIN,), (TRAIN, VALID)
    assert gathered == [(learnt, [1, 4]), (learnt, [1, 4]), (known, [4, 7]), (known, [4, 7])]


@pytest.mark.parametrize("phase", ["choose", "refit"])
def test_the_history_of_a_candidate_does_not_hold_it(tmp_path: Path, phase: str) -> None:
    parts = [TRAIN, VALID, TRAIN, TRAIN, TEST]
    log = log_of([(1, 1 + at, SAVE, 1 + at, part) for at, part in enumerate(parts)], kind="column")
    queries = build_queries(log, VALID, 1)
    assert queries.positives.tolist() == [2]
    with publish(tmp_path, "candidates", "v1") as draft:
        for part in ("train", "valid"):
            shown_to(draft.path / "impressions" / f"part={part}" / "part-00000.parquet", [1])
    learnt = (TRAIN,) if phase == "choose" else (TRAIN, VALID)
    task = task_of(
        root=tmp_path, candidates_version="v1", windows=None, log=log, phase=phase, parts=learnt
    )
    task.log = TrainingLog(log, learnt)
    columns = {"request_id": [0], "known": queries.history.lengths, "item": queries.positives}
    others = {"user": [1], "timestamp": [0], "position": [0], "label.save": [True]}
    requests = Requests.of(pa.table(columns | others), ("save",))
    assert task.histories.histories(requests, 9).item.tolist() == [1, 3, 4]


@pytest.mark.parametrize("saves", [0, 400])
def test_where_nobody_did_anything_there_is_no_auc(saves: int, monkeypatch: Any) -> None:
    shown = table()
    saved = pa.array(np.arange(COUNT) < saves)
    shown = shown.set_column(shown.schema.get_field_index("label.save"), "label.save", saved)
    model = SimpleNamespace(probabilities=lambda *_: np.full((COUNT, 1), 0.1, np.float32))
    monkeypatch.setattr(ranker, "RankingModel", SimpleNamespace(of=lambda *_: model))
    task = task_of()
    task.settings = RankerSettings()
    task.assignment.dataset.vocabulary = SimpleNamespace(actions=("save",))
    task._validation_impressions = shown
    task.validation_record = task.validation_histories = None
    found = task.validate({})
    assert found["log_loss"] > 0
    assert found.get("auc") == (0.5 if saves else None)


def test_users_who_are_kept_apart_are_alone_validated_on(tmp_path: Path) -> None:
    file = tmp_path / "valid" / "part-00000.parquet"
    shown_to(file, [*range(9)])
    task = task_of(
        candidates_version=None,
        windows=SimpleNamespace(valid=(5, 6)),
        log=log_of([], eval_users=0.5),
        impression_files=lambda *_: [file],
    )
    apart = np.flatnonzero(unseen(np.arange(9), 0.5)).tolist()
    assert np.flatnonzero(task.validated).tolist() == apart
    assert 0 < len(apart) < 9


@pytest.mark.parametrize(("hide", "log_loss"), [(1.0, np.log(20) / 2), (0.0, np.log(2))])
def test_a_head_that_is_not_learnt_is_not_chosen_on(
    monkeypatch: pytest.MonkeyPatch, hide: float, log_loss: float
) -> None:
    """It says .9 of all hides, which nobody did; the head of saves says a half."""
    shown = pa.table(
        {name: [1, 1] for name in ("request_id", "user", "item", "timestamp", "position")}
        | {"label.save": [True, False], "label.hide": [False, False]}
    )
    model = SimpleNamespace(probabilities=lambda *_: np.array([[0.5, 0.9], [0.5, 0.9]]))
    monkeypatch.setattr(ranker, "RankingModel", SimpleNamespace(of=lambda *_: model))
    task = task_of()
    task.settings = RankerSettings(action_weights={"hide": hide})
    task.assignment.dataset.vocabulary = SimpleNamespace(actions=("save", "hide"))
    known = ("validation_record", "validation_histories")
    task.__dict__ |= {"_validation_impressions": shown} | dict.fromkeys(known)
    found = task.validate({})
    assert found["log_loss"] == pytest.approx(log_loss)
    assert found["auc"] == 0.5
