"""The README's cluster command: a head with token authentication, and a job submitted to it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.e2e.ray_nodes import Head, running_head

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with running_head() as started:
        yield started


def test_without_the_token_nothing_is_submitted(head: Head) -> None:
    refused = head.submit("python", "-c", "print('ran')", token=False)
    assert refused.returncode != 0
    assert "Unauthorized" in refused.stderr
    assert "ran" not in refused.stdout.splitlines()


def test_a_submitted_pipeline_trains_publishes_and_serves_on_the_cluster(
    head: Head, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    words = [f"root={root}", "world.preset=tiny", "train.max_steps=10", "train.validate_every=5"]
    done = head.submit("python", "-m", "ray_jobs.pipeline", *words)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "succeeded" in done.stdout
    assert (root / "bundles" / "CURRENT").is_file()
    summary = json.loads((root / "summary.json").read_text())
    assert summary["served"]["status"] == 200
    assert summary["served"]["fallback"] is False
