"""Two nodes with a disk each, and a bucket between them: one is lost while it trains."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from data.contract import storage
from data.contract.artifact import current
from tests.e2e.processes import run
from tests.e2e.ray_nodes import end, running_head
from tests.object_store import BUCKET, running_s3

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from tests.e2e.ray_nodes import Head

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ROOT = f"s3://{BUCKET}/two-nodes"
OTHER = "127.0.0.3"
WORDS = (
    *("world.preset=tiny", "model=two_tower", "two_tower.graph_vectors=false"),
    *("two_tower.max_steps=100000", "train.max_epochs=60", "train.patience=100000"),
    *("train.checkpoint_every=10", "train.validate_every=100"),
)
WAIT_SECONDS = 240


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Head]:
    """A head with two of the four CPUs that a training on two workers takes, and a bucket."""
    with running_s3() as variables:
        for name, value in (variables | {"HOMEFEED_MIRROR": str(tmp_path / "tests")}).items():
            monkeypatch.setenv(name, value)
        own = {"HOMEFEED_MIRROR": str(tmp_path / "first"), "GLOO_SOCKET_IFNAME": "lo"}
        with running_head(**variables, **own) as started:
            yield started


def wait_for_checkpoint(job: Future[Any]) -> None:
    """Until the bucket holds a checkpoint that can be gone on from."""
    folder, ends = storage.mirror(ROOT) / "checkpoints", time.monotonic() + WAIT_SECONDS
    while time.monotonic() < ends:
        storage.update(folder)
        assert not job.done(), job.result().stdout[-6000:]
        if list(folder.glob("two_tower-*/choose/CURRENT")):
            return
        time.sleep(0.5)
    raise AssertionError("no checkpoint came")


def rows_of(root: Path) -> int:
    """Rows that the retriever has learnt from."""
    phases = current(root, "two_tower").manifest.details["phases"]
    return int(phases["choose"]["rows"])


def test_a_node_that_is_lost_in_training_costs_no_row(head: Head, tmp_path: Path) -> None:
    disks = {"HOMEFEED_MIRROR": str(tmp_path / "second")}
    node = head.join(OTHER, **disks)
    words = [f"root={ROOT}", *WORDS, "train.num_workers=2"]
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(head.submit, "python", "-m", "ray_jobs.pipeline", *words)
        wait_for_checkpoint(job)
        assert (tmp_path / "second").exists(), "the second node took no part"
        end(node, gently=False)
        node = head.join(OTHER, **disks)
        done = job.result()
    end(node)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    alone = run("pipeline", f"root={tmp_path / 'alone'}", *WORDS)
    root = storage.mirror(ROOT)
    assert rows_of(root) == rows_of(tmp_path / "alone")
    storage.fetch(root / "summary.json")
    metrics: dict[str, Any] = json.loads((root / "summary.json").read_text())["metrics"]
    found, expected = (one["retrieval"]["recall@50"] for one in (metrics, alone["metrics"]))
    assert found == pytest.approx(expected, abs=0.15)
