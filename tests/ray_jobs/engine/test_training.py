"""One data set for all phases of a training, and what it publishes of ranks on other machines."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.contract import storage
from data.contract.artifact import current, find, publish
from data.contract.mirrors import PLACE
from data.contract.schema import DAY_MS
from data.dataset import Dataset
from data.sources import locate
from ray_jobs.engine import training
from ray_jobs.engine.assignment import Assignment
from ray_jobs.engine.job import Job, start
from ray_jobs.engine.training import Sources, Training
from ray_jobs.engine.worker import best_file
from ray_jobs.prepare import prepare
from ray_jobs.train import train

FIRST_MS, EACH = 20_000 * DAY_MS, 6


def prepared(job: Job, folder: Path, users: int) -> Dataset:
    """A data set in which each user saves six items, one a day."""
    count = users * EACH
    columns = {
        "user_id": np.arange(count) // EACH,
        "item_id": np.arange(count) * 7 % 50,
        "action": ["save"] * count,
        "timestamp": FIRST_MS + np.arange(count) % EACH * DAY_MS,
    }
    pq.write_table(pa.table(columns), folder / "events.parquet")
    prepare(job, locate(job.settings.source))
    return Dataset.open(job.root)


def test_a_refit_walks_the_graph_of_the_data_set_that_steps_were_chosen_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"root={tmp_path / 'root'}", "source.kind=table", "split.kind=leave_one_out"]
    job = start([*words, f"source.events={tmp_path / 'events.parquet'}"])
    dataset = prepared(job, tmp_path, 30)
    walked: dict[str, Path] = {}

    def phase(assignment: Assignment) -> dict[str, Any]:
        assert assignment.sampler is not None
        walked[assignment.phase] = assignment.sampler.adjacency
        if assignment.phase == "choose":
            prepared(job, tmp_path, 40)
        best = best_file(assignment.folder, 3)
        best.parent.mkdir(parents=True, exist_ok=True)
        best.touch()
        return {"best_step": 3, "validations": []}

    monkeypatch.setattr(training, "_phase", phase)
    made = train(job, "graph")
    assert current(job.root, "dataset").version != dataset.artifact.version
    for path in walked.values():
        parents = json.loads((path / "manifest.json").read_text())["parents"]
        assert parents == [dataset.artifact.reference()]
    assert walked["choose"] != walked["refit"]
    graphs = [p["version"] for p in made.manifest.parents if p["kind"] == "adjacency"]
    assert graphs == [walked[phase].name for phase in ("choose", "refit")]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The driver's mirror of a bucket."""
    monkeypatch.setenv(PLACE, str(tmp_path / "driver"))
    (tmp_path / "remote").mkdir()
    return storage.mirror(f"file://{tmp_path}/remote")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Publishes what ranks have left after step 4: `trained(root)`."""
    monkeypatch.setattr(training, "_phase", lambda _: {"best_step": 4})
    monkeypatch.setattr(training, "_describe", lambda *_: None)
    monkeypatch.setattr(
        Training,
        "_assignment",
        lambda _, folder: SimpleNamespace(folder=folder, phase="choose"),
    )

    def trained(root: Path) -> Path:
        settings = SimpleNamespace(split=SimpleNamespace(refit=False, kind="time"))
        job: Any = SimpleNamespace(root=root, settings=settings)
        sources: Any = Sources
        with publish(root, "ranker", "v1") as draft:
            Training(job, "ranker", sources, None, alone=False).fit(draft)
        artifact = find(root, "ranker", "v1")
        assert artifact is not None
        return artifact.path

    return trained


def test_weights_of_another_machine_are_published_not_an_earlier_attempts_here(
    root: Path, tmp_path: Path, trained: Any
) -> None:
    best = best_file(root / "checkpoints" / "ranker-v1" / "choose", 4)
    best.parent.mkdir(parents=True)
    best.write_text("earlier")
    later = tmp_path / "later"
    later.write_text("later")
    storage.put_as(later, best)
    assert (trained(root) / "model.safetensors").read_text() == "later"
