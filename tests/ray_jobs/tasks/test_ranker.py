"""What of its impressions a ranker learns from."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.contract.artifact import publish
from data.requests import Requests
from ray_jobs.tasks.ranker import UNKNOWN_SURFACES, RankerTask, partly_known, thinned

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


def test_users_are_asked_for_who_have_impressions_to_learn_from_or_to_validate_on(
    tmp_path: Path,
) -> None:
    with publish(tmp_path, "candidates", "v1") as draft:
        for part, users in (("train", [1, 4, 4]), ("valid", [7]), ("test", [2])):
            folder = draft.path / "impressions" / f"part={part}"
            folder.mkdir(parents=True)
            pq.write_table(pa.table({"user": users}), folder / "part-00000.parquet")
    task: Any = RankerTask.__new__(RankerTask)
    dataset = SimpleNamespace(user_ids=SimpleNamespace(rows=9))
    task.assignment = SimpleNamespace(
        root=tmp_path, candidates_version="v1", phase="choose", windows=None, dataset=dataset
    )
    assert np.flatnonzero(task.asked).tolist() == [1, 4, 7]
