"""Removes artefacts that are needed no more: `python -m ray_jobs.clean root=runs/default`.

    python -m ray_jobs.clean root=... dry_run=true      what would go, and how much disk that frees
    python -m ray_jobs.clean root=... keep=7            a week of bundles can be served again

Each day leaves models, embeddings, an export and a bundle. Needed are those that a pointer names,
the newest bundles, those that `serve.experiment` or a living replica serves, those that an
interrupted day starts from, what is younger than `hours`, and all that any of them was made from;
and of the current data set also graphs and embeddings that jobs make on their way.
Data sets, ids, worlds, evaluations, records of sweeps, and what was posted or served are not
touched; of a sweep's trials the models go. A job that makes something in the root is waited for by
no one: then nothing is removed (exit code 2). A root in object storage is cleaned there and in this
machine's mirror, and only one machine may have work in it.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rich.table import Table

from data.contract import storage
from data.contract.artifact import MANIFEST
from data.contract.settings import Count, NonNegative, UserError
from ray_jobs.engine.job import Job, console, run
from ray_jobs.engine.lineage import Lineage
from ray_jobs.engine.locks import held, turn
from ray_jobs.engine.model_kinds import MODELS
from ray_jobs.preparation.posted import NEXT_DAY_FILE, bundles_in_use
from serve.bundle import KIND as BUNDLES

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

READ_AGAIN = ("adjacency", "neighborhoods", "item_embeddings", "user_days", "candidates")
REMOVED = (*MODELS, *READ_AGAIN, "user_embeddings", "calibration", "export", BUNDLES)
KEPT = ("dataset", "item_ids", "user_ids", "world", "baselines", "evaluation", "balance", "tune")
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanArguments:
    """Words of the job.

    Attributes:
        keep: newest bundles, each with all that it was made from.
        hours: what is younger stays.
        dry_run: whether to tell, and remove nothing.
    """

    keep: Count = 3
    hours: NonNegative = 24
    dry_run: bool = False


def main(job: Job) -> dict[str, Any]:
    """Removes models, embeddings, exports and bundles that nothing needs, and tells which."""
    refuse_work(job.root)
    lineage = Lineage.of(job.root, (*REMOVED, *KEPT))
    if not lineage.origins:
        raise UserError(f"{storage.uri_of(job.root)} has no artefacts: name the root of some")
    needed = lineage.with_all_before(started_from(job, lineage))
    for dataset in (name for name in lineage.pointed if name.startswith("dataset/")):
        needed |= lineage.made_from(dataset, needed, READ_AGAIN)
    leaving = [one for one in lineage.origins.values() if one.kind in REMOVED]
    leaving = [one for one in leaving if one.name not in needed]
    freed = freed_bytes(job.root / one.name for one in leaving)
    if not job.arguments.dry_run:
        for one in leaving:
            remove(job.root, one.kind, one.version)
    removed = Counter(one.kind for one in leaving)
    tell(removed, Counter(one.kind for one in lineage.origins.values()), freed)
    names = sorted(one.name for one in leaving)
    return {"removed": names, "freed_mib": freed // MIB, "dry_run": job.arguments.dry_run}


def refuse_work(root: Path) -> None:
    """Raises UserError where a job makes something in the root."""
    if names := held(root):
        raise UserError(
            f"a job makes {', '.join(names)} in {storage.uri_of(root)}, and may read what would "
            "go; run this when it has ended"
        )


def started_from(job: Job, lineage: Lineage) -> set[str]:
    """Names of what is needed by itself."""
    day = storage.text(job.root / NEXT_DAY_FILE)
    versions = json.loads(day)["versions"] if day else {}
    return {
        *lineage.pointed,
        *lineage.newest(BUNDLES, job.arguments.keep),
        *lineage.younger(datetime.now(UTC) - timedelta(hours=job.arguments.hours)),
        *(f"{BUNDLES}/{version}" for version in bundles_in_use(job)),
        *(f"{kind}/{version}" for kind, version in versions.items()),
    }


def remove(root: Path, kind: str, version: str) -> None:
    """Takes an artefact away, first what says that it is whole."""
    with turn(root, f"{kind}-{version}"):
        storage.remove(root / kind / version / MANIFEST)
        storage.remove(root / kind / version)


def freed_bytes(folders: Iterable[Path]) -> int:
    """What this machine's disk gets back: files that have no name elsewhere."""
    files = [file.stat() for folder in folders for file in folder.rglob("*") if file.is_file()]
    names = Counter(file.st_ino for file in files)
    whole = {file.st_ino: file for file in files if names[file.st_ino] == file.st_nlink}
    return sum(file.st_blocks * 512 for file in whole.values())


def tell(removed: Counter[str], all_of: Counter[str], freed: int) -> None:
    """A table for people."""
    table = Table("kind", "needed", "not needed", title=f"{freed / MIB:,.0f} MiB of disk to free")
    for kind in REMOVED:
        if all_of[kind]:
            table.add_row(kind, str(all_of[kind] - removed[kind]), str(removed[kind]))
    console.print(table)


if __name__ == "__main__":
    run("clean", main, CleanArguments)
