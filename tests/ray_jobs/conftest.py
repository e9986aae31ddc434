import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.contract.artifact import current, has_current, point, publish, read
from data.requests import UserEvents
from data.sources import world_tables
from ray_jobs.engine import user_blocks
from ray_jobs.engine.job import start
from ray_jobs.prepare import prepare
from ray_jobs.simulate import simulate

WORLD = ("world.preset=tiny", "world.num_users=120", "world.num_items=300")
PHASE = {"steps": 2, "best_step": 2, "rows": 4, "curve": [], "validations": []}


@pytest.fixture(scope="session")
def world_words(tmp_path_factory):
    """Words of a root that holds a small prepared world, and nothing trained."""
    words = [f"root={tmp_path_factory.mktemp('roots') / 'world'}", *WORLD]
    job = start(words)
    prepare(job, world_tables(simulate(job).path))
    return words


@pytest.fixture(scope="session")
def shared_root(world_words, tmp_path_factory):
    """Words of a new root that shares the prepared world: `shared_root("graphs", *more)`."""

    def shared_root(name, *more):
        root = tmp_path_factory.mktemp(name)
        source = Path(world_words[0].removeprefix("root="))
        for kind in ("world", "latents", "dataset", "item_ids", "user_ids"):
            (root / kind).symlink_to(source / kind)
        return [f"root={root}", *world_words[1:], *more]

    return shared_root


@pytest.fixture(scope="session")
def publish_model():
    """Publishes a model of the current data set without weights; what learns nothing needs none."""

    def publish_model(job, kind, version="v1", window=None, parents=(), settings=None):
        there = has_current(job.root, "dataset")
        fields = {
            "window": window,
            "id_space": current(job.root, "dataset").manifest.id_space if there else {},
            "parents": [parent.reference() for parent in parents],
            "settings": json.loads(json.dumps(settings or {})),
            "metrics": {"validation": {}},
            "details": {"phases": {"choose": PHASE}},
        }
        with publish(job.root, kind, version, **fields):
            pass
        artifact = read(job.root / kind / version)
        point(job.root, artifact)
        return artifact

    return publish_model


@pytest.fixture
def gathered(monkeypatch):
    """Rows of the users whose events were gathered, call by call; None where those of all were."""
    calls, of = [], UserEvents.of

    def gather(log, asked=None):
        calls.append(None if asked is None else np.flatnonzero(asked).tolist())
        return of(log, asked)

    monkeypatch.setattr(UserEvents, "of", gather)
    return calls


@pytest.fixture
def gpus_elsewhere(monkeypatch):
    """Users are embedded by tasks on GPUs of other machines; this one has none."""

    class Elsewhere:
        def run(self, function, blocks, count, label):
            return (function(replace(blocks, device="cpu"), number) for number in range(count))

    monkeypatch.setattr(user_blocks, "embedding_tasks", lambda *_: (Elsewhere(), "cuda"))
