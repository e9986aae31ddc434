"""A disk that fills up, at several moments of a pipeline, and is made larger each time."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from data.contract.artifact import read
from tests.e2e.processes import REPOSITORY, environment

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

WORDS = (
    *("world.preset=tiny", "model=two_tower", "two_tower.graph_vectors=false"),
    *("train.max_steps=20", "train.validate_every=10", "train.checkpoint_every=5"),
)
# The world does not fit; the checkpoints do not; all does.
SIZES = ("2m", "12m", "256m")
FILL_UP = """
mount -t tmpfs -o size=1m tmpfs "$0" || exit 1
cd "$1"; shift
for size in {sizes}; do
    mount -o remount,size=$size "$0"
    "$@" > "$LOGS/$size.out" 2> "$LOGS/$size.err"; echo $? > "$LOGS/$size.code"
    cp -r "$0" "$LOGS/$size"
done
"""


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the runs have left: output, exit codes, and the disk after each."""
    disk, logs = tmp_path_factory.mktemp("disk"), tmp_path_factory.mktemp("logs")
    job = [sys.executable, "-m", "ray_jobs.pipeline", f"root={disk}/root", *WORDS]
    script = FILL_UP.format(sizes=" ".join(SIZES))
    apart = ["unshare", "--map-root-user", "--mount", "bash", "-c", script, str(disk)]
    told = environment() | {"LOGS": str(logs)}
    subprocess.run([*apart, str(REPOSITORY), *job], env=told, check=True, cwd=REPOSITORY)
    return logs


def said(logs: Path, size: str) -> str:
    return (logs / f"{size}.err").read_text()


@pytest.mark.parametrize("size", SIZES[:-1])
def test_a_full_disk_is_one_error_that_says_how_to_mend_it(logs: Path, size: str) -> None:
    assert (logs / f"{size}.code").read_text() == "2\n", said(logs, size)[-4000:]
    assert "Traceback" not in said(logs, size)
    last = " ".join(said(logs, size).split())
    assert "make room below root=, then run the same command again" in last


@pytest.mark.parametrize("size", SIZES)
def test_what_is_visible_is_whole(logs: Path, size: str) -> None:
    for file in (logs / size).rglob("manifest.json"):
        read(file.parent).verify()


def test_run_again_with_room_it_finishes_and_makes_nothing_twice(logs: Path) -> None:
    assert (logs / f"{SIZES[-1]}.code").read_text() == "0\n", said(logs, SIZES[-1])[-4000:]
    summary = json.loads((logs / f"{SIZES[-1]}.out").read_text().splitlines()[-1])
    assert summary["metrics"]["retrieval"]["recall@50"] > 0
    assert (logs / SIZES[-2] / "root" / "dataset" / "CURRENT").is_file(), "it filled up too early"
    for kind in ("world", "dataset"):
        version = (logs / SIZES[-2] / "root" / kind / "CURRENT").read_text().strip()
        assert f"{kind}/{version} is up to date" in said(logs, SIZES[-1])
