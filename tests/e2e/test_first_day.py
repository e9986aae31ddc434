"""`make run`: what it prints, what it leaves, and that running it again does nothing again."""

from __future__ import annotations

import json
import shutil
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from ray_jobs.planning.measured import Measured, in_use
from tests.e2e.processes import finish, run, start, words_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

STAGES = {
    "start",
    "world",
    "prepare",
    "train graph",
    "train two_tower",
    "train ranker",
    "calibrate",
    "evaluate",
    "export",
    "index",
    "deploy",
}


def test_the_last_line_has_what_is_relied_on(first_day: tuple[Path, dict[str, Any]]) -> None:
    root, summary = first_day
    assert summary["job"] == "pipeline"
    retrieval = summary["metrics"]["retrieval"]
    for metric in ("recall", "ndcg", "hit_rate", "mrr", "coverage", "p90_coverage"):
        for k in (10, 20, 50, 100, 200):
            assert 0 <= retrieval[f"{metric}@{k}"] <= 1
    for baseline in ("popularity", "item_knn", "oracle_log"):
        assert 0 <= retrieval[baseline]["recall@10"] <= 1
    for action in ("save", "click", "closeup", "hide"):
        assert set(summary["metrics"]["ranking"][action]) >= {"auc", "log_loss", "calibration"}
    assert summary["counts"]["rejected"] == 0
    assert summary["counts"]["users"] == 300
    assert summary["served"]["status"] == 200
    assert summary["served"]["num_items"] == 10
    assert summary["served"]["fallback"] is False
    assert set(summary["seconds"]) == STAGES == set(summary["peak_mib"])
    assert json.loads((root / "summary.json").read_text()) == summary
    assert (root / "bundles" / "CURRENT").read_text().strip() == summary["bundle"]


def test_the_plan_knows_what_memory_and_time_each_artefact_took(
    first_day: tuple[Path, dict[str, Any]],
) -> None:
    root, summary = first_day
    taken = Measured.of(root, 2)
    kinds = {"dataset", "adjacency", "two_tower", "ranker", "evaluation", "export", "bundles"}
    assert set(taken.phases_mib) == set(taken.seconds) >= kinds
    assert min(taken.peak_mib.values()) > 100
    assert {"reading", "validation"} <= taken.phases_mib["ranker"].keys()
    assert 0 < sum(taken.seconds.values()) <= sum(summary["seconds"].values())
    assert {one.manifest.name for one in in_use(root)} <= set(summary["made"])
    assert {"graph", "neighbourhoods", "item embeddings"} <= set(taken.bytes)


def test_nothing_is_cleaned_away_that_running_again_would_make_anew(
    first_day: tuple[Path, dict[str, Any]],
) -> None:
    root, summary = first_day
    assert run("clean", f"root={root}", "keep=1", "hours=0")["removed"] == []
    manifests = {p: p.stat().st_mtime_ns for p in root.glob("*/*/manifest.json")}
    again = run("pipeline", *words_of(root))
    assert again["bundle"] == summary["bundle"]
    assert again["metrics"] == summary["metrics"]
    assert {p: p.stat().st_mtime_ns for p in root.glob("*/*/manifest.json")} == manifests


def test_every_stage_runs_alone_from_what_the_one_before_left(
    first_day: tuple[Path, dict[str, Any]],
) -> None:
    root, summary = first_day
    assert run("evaluate", *words_of(root))["metrics"] == summary["metrics"]
    assert run("index", *words_of(root))["bundle"] == summary["bundle"]


def test_a_run_killed_while_it_trains_is_finished_by_running_it_again(
    tmp_path: Path, first_day: tuple[Path, dict[str, Any]]
) -> None:
    root = tmp_path / "root"
    later = ("two_tower", "ranker", "evaluation", "export", "bundles", "store", "summary.json")
    shutil.copytree(first_day[0], root, ignore=lambda _, names: set(names) & set(later))
    process = start("pipeline", *words_of(root))
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("train two_tower"):
            break
    time.sleep(1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (root / "two_tower" / "CURRENT").is_file()
    summary = finish(start("pipeline", *words_of(root)))
    assert summary["metrics"]["retrieval"]["item_knn"] == pytest.approx(
        first_day[1]["metrics"]["retrieval"]["item_knn"]
    )
    assert summary["served"]["num_items"] == 10
