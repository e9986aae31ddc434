"""Every kind of job on two nodes that share no loopback: data, training, a sweep, serving."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from data.contract.artifact import current
from tests.e2e.processes import REPOSITORY, environment
from tests.e2e.two_machines import APART

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
# Ranks of trainings, replicas, trials of a sweep; passes over the log, readers of batches.
ACTORS = ("RayTrainWorker", "ServeReplica:homefeed:homefeed", "ImplicitFunc")
TASKS = ("MapBatches(_call)", "ReadParts")


@pytest.fixture(scope="module")
def _namespaces() -> None:
    try:
        subprocess.run([*APART, "true"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs network namespaces (unshare, ip): {error}")


@pytest.mark.usefixtures("_namespaces")
def test_jobs_of_every_kind_run_on_both_nodes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.two_machines", str(tmp_path / "root")],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert {kind: found["actors"].get(kind) for kind in ACTORS} == dict.fromkeys(ACTORS, 2)
    assert {kind: found["tasks"].get(kind) for kind in TASKS} == dict.fromkeys(TASKS, 2)
    summary = json.loads((tmp_path / "root" / "summary.json").read_text())
    assert (summary["trials"], summary["failed"]) == (3, 0)
    plan = json.dumps(current(tmp_path / "root", "two_tower").manifest.details)
    assert "rank:0" in plan
    assert "rank:1" in plan
