"""Removes artefacts that are needed no more: `python -m ray_jobs.clean root=runs/default`.

    python -m ray_jobs.clean root=... dry_run=true      what would go, and how much disk that frees
    python -m ray_jobs.clean root=... keep=7            a week of bundles can be served again

Each day leaves models, embeddings, an export and a bundle. Needed are those that a pointer names,
the newest bundles, those that `serve.experiment` or a living replica serves, those that an
interrupted day starts from, what is younger than `hours`, and all that any of them was made from;
and of the current data set also graphs and embeddings that jobs make on their way. Nobody needs
what was left half made by a job that was killed, or half removed.
Data sets, ids, worlds, evaluations, records of sweeps, and what was posted or served are not
touched; of a sweep's trials the models go. A job that makes something in the root is waited for by
no one: then nothing is removed (exit code 2), and no more once a job begins, or a bundle that would
go is put to use. A root in object storage is cleaned there and in this machine's mirror, and only
one machine may have work in it. Of bundles beyond the newest three that are served again, feeds do
not know what has left the store meanwhile (`ray_jobs.preparation.posted_log`).
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
from ray_jobs.engine.lineage import Lineage, pointed
from ray_jobs.engine.locks import held, turn
from ray_jobs.engine.model_kinds import MODELS
from ray_jobs.preparation.posted import NEXT_DAY_FILE, SERVED_AGAIN, bundles_in_use
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

    keep: Count = SERVED_AGAIN
    hours: NonNegative = 24
    dry_run: bool = False


def main(job: Job) -> dict[str, Any]:
    """Removes models, embeddings, exports and bundles that nothing needs, and tells which."""
    refuse_work(job.root)
    used = in_use(job)
    lineage = Lineage.of(job.root, (*REMOVED, *KEPT))
    if not lineage.origins:
        raise UserError(f"{storage.uri_of(job.root)} has no artefacts: name the root of some")
    needed = lineage.with_all_before(used | kept(job.arguments, lineage))
    for dataset in (name for name in used if name.startswith("dataset/")):
        needed |= lineage.made_from(dataset, needed, READ_AGAIN)
    found = [name for name in (*lineage.origins, *lineage.halves) if kind_of(name) in REMOVED]
    leaving = sorted({*found} - needed)
    freed = freed_bytes(job.root / name for name in leaving)
    if not job.arguments.dry_run:
        for name in leaving:
            remove(job, name, needed)
    tell(Counter(map(kind_of, leaving)), Counter(map(kind_of, found)), freed)
    return {"removed": leaving, "freed_mib": freed // MIB, "dry_run": job.arguments.dry_run}


def kind_of(name: str) -> str:
    """The kind of an artefact."""
    return name.partition("/")[0]


def refuse_work(root: Path) -> None:
    """Raises UserError where a job makes something in the root."""
    if names := held(root):
        raise UserError(
            f"a job makes {', '.join(names)} in {storage.uri_of(root)}, and may read what would "
            "go; run this when it has ended"
        )


def in_use(job: Job) -> set[str]:
    """Names of what a pointer names, a server serves, or an interrupted day starts from."""
    day = storage.text(job.root / NEXT_DAY_FILE)
    versions = json.loads(day)["versions"] if day else {}
    return {
        *pointed(job.root, (*REMOVED, *KEPT)),
        *(f"{BUNDLES}/{version}" for version in bundles_in_use(job)),
        *(f"{kind}/{version}" for kind, version in versions.items()),
    }


def kept(arguments: CleanArguments, lineage: Lineage) -> set[str]:
    """Names of what stays for its age."""
    since = datetime.now(UTC) - timedelta(hours=arguments.hours)
    return {*lineage.newest(BUNDLES, arguments.keep), *lineage.younger(since)}


def remove(job: Job, name: str, needed: set[str]) -> None:
    """Takes an artefact away, first what says that it is whole.

    Raises:
        UserError: meanwhile a job has begun, or something was put to use that was not needed.
    """
    refuse_work(job.root)
    with turn(job.root, name.replace("/", "-")):
        if used := in_use(job) - needed:
            uri = storage.uri_of(job.root)
            raise UserError(
                f"meanwhile {', '.join(sorted(used))} was put to use in {uri}; no more was "
                "removed: run this again"
            )
        storage.remove(job.root / name / MANIFEST)
        storage.remove(job.root / name)


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
