"""Models stay with the ids that they were trained for, whatever job opens them."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.contract.artifact import Artifact, current
from data.contract.calibration import Calibrators
from data.contract.schema import DAY_MS
from data.contract.settings import UserError
from data.dataset import Dataset
from data.raw_tables import FileSet, RawTables
from data.sources import locate
from ray_jobs import calibrate as calibrate_job
from ray_jobs import train as training
from ray_jobs.calibrate import calibrate
from ray_jobs.embed import embed
from ray_jobs.engine.job import Job, start
from ray_jobs.engine.ranking_model import calibration_of
from ray_jobs.engine.subject import Subject
from ray_jobs.evaluate import evaluate
from ray_jobs.export import export
from ray_jobs.pipeline import started_from
from ray_jobs.prepare import prepare
from ray_jobs.sample import Cutoff
from ray_jobs.tasks import candidates as candidate_job
from ray_jobs.tasks.candidates import candidates
from ray_jobs.user_table import _before

FIRST_MS, DAYS = 20_000 * DAY_MS, 30
KINDS = ("graph", "two_tower", "ranker")
Publish = Callable[..., Artifact]


def write(path: Path, ids: range, days: range) -> Path:
    """A log in which each user saves the item of the same number."""
    times = FIRST_MS + (np.arange(len(ids)) % len(days) + days.start) * DAY_MS
    columns = {"user_id": [*ids], "item_id": [*ids], "action": ["save"] * len(ids)}
    pq.write_table(pa.table({**columns, "timestamp": times}), path)
    return path


@pytest.fixture
def job(tmp_path: Path, publish_model: Publish) -> Job:
    """A root with models of a log of a thousand ids."""
    events = write(tmp_path / "events.parquet", range(1000), range(DAYS))
    words = (f"root={tmp_path / 'root'}", "source.kind=table", f"source.events={events}")
    job = start(words)
    prepare(job, locate(job.settings.source))
    for kind in KINDS:
        publish_model(job, kind)
    return job


@pytest.fixture
def with_ten_more(job: Job, tmp_path: Path) -> Job:
    """The same root after its log, now with ten ids more, was prepared anew."""
    before = Dataset.open(job.root)
    write(tmp_path / "events.parquet", range(1010), range(DAYS))
    prepare(job, locate(job.settings.source))
    after, asked = Dataset.open(job.root), pa.array(range(1000))
    same = before.item_ids.lookup(asked) == after.item_ids.lookup(asked)
    assert same.mean() < 0.5
    return job


@pytest.fixture
def next_day(job: Job, tmp_path: Path) -> Job:
    """The same root after a day with ten ids more."""
    extend(job, tmp_path)
    return job


def extend(job: Job, tmp_path: Path) -> None:
    files = FileSet(files=(write(tmp_path / "day.parquet", range(1010), range(DAYS, DAYS + 1)),))
    before = Dataset.open(job.root)
    prepare(job, RawTables.of(before.order, {"events": (files,)}), before.artifact)
    assert Dataset.open(job.root).item_ids.rows == before.item_ids.rows + 10


def embedded(job: Job) -> Artifact:
    return embed(job, Dataset.open(job.root), current(job.root, "graph"), Cutoff((0,), 3))


OPENED = {
    "evaluate": lambda job: evaluate(job, ("two_tower",)),
    "export": export,
    "candidates": lambda job: candidates(job, Dataset.open(job.root)),
    "calibrate": calibrate,
    "embed": embedded,
    "refresh": lambda job: training.train(
        job, "two_tower", start_from=current(job.root, "two_tower")
    ),
}


@pytest.mark.parametrize("opened", OPENED.values(), ids=OPENED)
def test_no_job_applies_a_model_to_rows_of_other_ids(
    with_ten_more: Job, opened: Callable[[Job], Any]
) -> None:
    now = Dataset.open(with_ten_more.root).artifact.manifest.name
    said = rf"/v1 is for item ids .*'rows': 1017.* but {now} has .*'rows': 1027"
    with pytest.raises(UserError, match=said):
        opened(with_ten_more)


def test_a_day_that_extends_the_ids_passes(next_day: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject.open(next_day, KINDS, {})
    assert {found.version for found in subject.models.values()} == {"v1"}
    monkeypatch.setattr(candidate_job, "Retriever", SimpleNamespace(open=lambda *_: None))
    monkeypatch.setattr(candidate_job, "_write_parts", lambda *_: None)
    assert candidates(next_day, Dataset.open(next_day.root)).manifest.parents


def test_a_day_trains_models_of_other_ids_anew(with_ten_more: Job) -> None:
    yesterday: Any = SimpleNamespace(artifact=current)
    dataset = Dataset.open(with_ten_more.root).artifact
    assert started_from(with_ten_more, dataset, yesterday, "two_tower") is None


def test_a_day_goes_on_from_models_of_its_ids(next_day: Job) -> None:
    yesterday: Any = SimpleNamespace(artifact=current)
    dataset = Dataset.open(next_day.root).artifact
    found = started_from(next_day, dataset, yesterday, "two_tower")
    assert found == current(next_day.root, "two_tower")


@pytest.mark.parametrize("kept", [True, False])
def test_users_keep_the_vectors_of_a_table_of_their_ids_alone(
    job: Job, publish_model: Publish, request: pytest.FixtureRequest, kept: bool
) -> None:
    model, dataset = current(job.root, "two_tower"), Dataset.open(job.root)
    table = publish_model(job, "user_embeddings", parents=(dataset.artifact, model))
    details = {"model": model.version}
    path = table.path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"details": details}))
    request.getfixturevalue("next_day" if kept else "with_ten_more")
    found = _before(job.root, Dataset.open(job.root), model, {"until_ms": None})
    assert (found.version if found else None) == (table.version if kept else None)


def test_calibrators_are_fitted_again_where_a_day_has_moved_their_window(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Calibrators.identity(("save",))
    monkeypatch.setattr(calibrate_job, "_fitted", lambda *_: (plain, {}))
    before = calibrate(job)
    assert calibrate(job).version == before.version
    extend(job, tmp_path)
    after = calibrate(job)
    assert after.version != before.version
    assert calibration_of(job.root, current(job.root, "ranker")) == after
