"""The loop's days: which world they go on from, and when they have come to their end."""

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pyarrow.compute as pc
import pytest

from data.contract.artifact import Artifact, Manifest, current, point, publish, read
from data.contract.settings import UserError
from data.dataset import Dataset
from data.sources import world_tables
from ray_jobs import pipeline
from ray_jobs import prepare as prepare_job
from ray_jobs.deploy import RefusedError
from ray_jobs.engine.job import Job, start
from ray_jobs.pipeline import (
    PipelineArguments,
    main,
    prepare_day,
    publish_bundle,
    world_taken,
)
from ray_jobs.preparation.posted import NEXT_DAY_FILE, Yesterday
from ray_jobs.prepare import prepare
from ray_jobs.simulate import simulate, simulate_next_day
from tests.tiny_root import VOCABULARY

WORLD = ("world.preset=tiny", "world.days=6", "world.num_users=30", "world.num_items=100")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return start([f"root={tmp_path}", *WORLD, "split.kind=leave_one_out"])


def last_day(job: Job, dataset: Dataset) -> int:
    world = world_taken(job.root, dataset.artifact)
    assert world is not None
    return int(world.manifest.details["last_day"])


def test_the_next_day_of_the_world_is_the_one_that_the_data_set_has_not_taken(job: Job) -> None:
    prepare(job, world_tables(simulate(job).path))
    begun = simulate_next_day(job, current(job.root, "world"))
    simulate_next_day(job, begun)  # by hand, or by days that were given up
    for day in (7, 8):
        made = Dataset(prepare_day(job, Yesterday.begin(job, ("dataset",))), job.root)
        (job.root / NEXT_DAY_FILE).unlink()
        assert made.calendar is not None
        assert made.calendar.num_days == last_day(job, made) == day


def test_prepared_by_hand_a_world_has_all_its_days(job: Job) -> None:
    simulate_next_day(job, simulate(job))
    prepare_job.main(job)
    made = Dataset.open(job.root)
    assert made.calendar is not None
    assert made.calendar.num_days == last_day(job, made) == 7
    created = pc.count(made.item_ids.ids).as_py()
    assert created == sum(world.details["items"] for world in manifests(job.root / "world"))


def manifests(folder: Path) -> list[Manifest]:
    return [read(file.parent).manifest for file in folder.glob("*/manifest.json")]


def test_a_data_set_that_took_what_was_posted_alone_goes_on_from_its_parents_world(
    tmp_path: Path,
) -> None:
    def dataset(version: str, file: str, *parents: str) -> None:
        fields = {
            "parents": [{"kind": "dataset", "version": name} for name in parents],
            "settings": {"raw": {"events": [{"files": [[file, 1, "sum"]]}]}},
        }
        with publish(tmp_path, "dataset", version, **fields):
            pass

    with publish(tmp_path, "world", "0123456789ab"):
        pass
    for version, where in (("first", ""), ("absolute", "/mnt/before/")):
        dataset(version, f"{where}world/0123456789ab/events/part.parquet")
        dataset(f"{version}.next", "posted/1-2-3/events.parquet", version)
        found = world_taken(tmp_path, read(tmp_path / "dataset" / f"{version}.next"))
        assert found is not None
        assert found.version == "0123456789ab"
    dataset("log", "/mnt/log/events.parquet")
    assert world_taken(tmp_path, read(tmp_path / "dataset" / "log")) is None


def test_run_again_without_a_day_it_tells_of_the_day_that_it_trains_on(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dataset(version: str, *parents: str, events: int) -> Artifact:
        fields = {
            "parents": [{"kind": "dataset", "version": name} for name in parents],
            "details": {
                "counts": {"events": events},
                "vocabulary": asdict(VOCABULARY),
                "calendar": None,
            },
        }
        with publish(job.root, "dataset", version, **fields):
            pass
        return read(job.root / "dataset" / version)

    first, second = dataset("first", events=1), dataset("second", "first", events=2)
    point(job.root, second)
    trained_on: list[str] = []
    evaluation = SimpleNamespace(manifest=SimpleNamespace(metrics={}))
    for name, instead in {
        "prepare_first": lambda _: first,
        "check_corpus": lambda dataset, _: trained_on.append(dataset.artifact.version),
        "connect": lambda _: None,
        "upstream": lambda _, dataset, __: trained_on.append(dataset.artifact.version),
        "train": lambda *_, **__: None,
        "evaluate": lambda *_: evaluation,
    }.items():
        monkeypatch.setattr(pipeline, name, instead)
    words = [f"root={job.root}", "model=two_tower", "two_tower.graph_vectors=true"]
    assert main(start(words, PipelineArguments))["counts"] == {"events": 2}
    assert trained_on == ["second", "second"]


@pytest.mark.parametrize("error", [RefusedError, UserError])
def test_a_day_ends_with_a_bundle_that_a_server_refuses_and_with_no_other_error(
    job: Job, monkeypatch: pytest.MonkeyPatch, error: type[UserError]
) -> None:
    def check_served(_: Job) -> None:
        raise error("the server says so")

    bundle = SimpleNamespace(version="b1")
    for name, found in (("export", lambda _: bundle), ("index", lambda *_: bundle)):
        monkeypatch.setattr(pipeline, name, found)
    monkeypatch.setattr(pipeline, "check_served", check_served)
    day = job.root / NEXT_DAY_FILE
    day.write_text("{}")
    with pytest.raises(error, match="says so"):
        publish_bundle(job)
    assert day.exists() is (error is UserError)
