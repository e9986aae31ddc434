"""What the benchmarks of sweeps share: a small prepared world, and `ray_jobs.tune` as a command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.contract.artifact import has_current

if TYPE_CHECKING:
    from collections.abc import Sequence

WORLD = ("world.num_users=1500", "world.num_items=2000", "two_tower.graph_vectors=false")
STEPS = ("train.max_steps=60", "train.validate_every=20")
PREPARED = ("world", "latents", "dataset", "item_ids", "user_ids", "settings.yaml")


def prepared(root: Path) -> Path:
    """A root that holds a small world and nothing trained."""
    if not has_current(root, "dataset"):
        for job in ("simulate", "prepare"):
            command(job, root, WORLD)
    return root


def copy_of(root: Path, name: str) -> Path:
    """A new root beside another, with its data."""
    copy = root.with_name(f"{root.name}-{name}")
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True)
    for kind in PREPARED:
        (copy / kind).symlink_to((root / kind).absolute())
    return copy


def words_of(job: str, root: Path, words: Sequence[str]) -> list[str]:
    """The command line of a job."""
    return [sys.executable, "-m", f"ray_jobs.{job}", f"root={root}", *words]


def command(job: str, root: Path, words: Sequence[str], *before: str) -> dict[str, Any]:
    """Runs a job and gives its summary."""
    line = [*before, *words_of(job, root, words)]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def trials_of(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The trials of a finished sweep."""
    file = Path(summary["report"]).with_name("trials.json")
    found: list[dict[str, Any]] = json.loads(file.read_text())
    return found
