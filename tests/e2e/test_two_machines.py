"""The README's cluster command on two nodes: data, training, serving, and a sweep after it."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from data.contract.artifact import current
from tests.e2e.processes import REPOSITORY, environment
from tests.e2e.two_machines import APART

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]  # four minutes by itself
# Ranks of trainings, replicas, trials of a sweep; passes over the log, readers of batches.
ACTORS = ("RayTrainWorker", "ServeReplica:homefeed:homefeed", "ImplicitFunc")
TASKS = ("MapBatches(_call)", "ReadParts")


def apart() -> tuple[str, ...]:
    """What leads into namespaces, nothing where a user may make none."""
    try:
        subprocess.run([*APART, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return ()
    return APART


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("machines") / "root"
    done = subprocess.run(
        [*apart(), sys.executable, "-m", "tests.e2e.two_machines", str(root)],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return SimpleNamespace(root=root, **json.loads(done.stdout.splitlines()[-1]))


def test_without_the_token_nothing_is_submitted(found: Any) -> None:
    code, out, err = vars(found)["without token"]
    assert code != 0
    assert "Unauthorized" in err
    assert "ran" not in out.splitlines()


def test_a_submitted_pipeline_trains_publishes_and_serves_on_the_cluster(found: Any) -> None:
    assert (found.root / "bundles" / "CURRENT").is_file()
    assert (found.served["status"], found.served["fallback"]) == (200, False)


def test_jobs_of_every_kind_run_on_both_nodes(found: Any) -> None:
    assert {kind: found.actors.get(kind) for kind in ACTORS} == dict.fromkeys(ACTORS, 2)
    assert {kind: found.tasks.get(kind) for kind in TASKS} == dict.fromkeys(TASKS, 2)
    summary = json.loads((found.root / "summary.json").read_text())
    assert (summary["trials"], summary["failed"]) == (3, 0)


def test_tables_lie_on_both(found: Any) -> None:
    plan = json.dumps(current(found.root, "two_tower").manifest.details)
    assert "rank:0" in plan
    assert "rank:1" in plan
