"""What came to a root since its last day: posted events and items, and what was served."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.contract import storage
from data.contract.artifact import (
    POINTER,
    Artifact,
    current,
    has_current,
    peek,
    read,
    write_atomically,
)
from data.contract.settings import UserError
from data.dataset import Dataset
from data.feedback import Attribution
from data.headers import alike
from data.raw_tables import FileSet, RawTables
from ray_jobs.engine.lineage import Lineage
from ray_jobs.preparation.posted_log import PostedLog
from ray_jobs.preparation.served import HOUR_MS, Taken, closed_until, write_served
from serve.bundle import KIND
from serve.replicas import served_bundles

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ray_jobs.engine.job import Job

NEXT_DAY_FILE = "next_day.json"
FOLLOWING = ("request_id", "user_id", "item_id", "timestamp", "action")
SERVED_AGAIN = 3  # newest bundles that may be, with all that their users have done


@dataclass(frozen=True, slots=True)
class Yesterday:
    """What a next day starts from; kept in a file until the day is done, so that it can resume.

    Attributes:
        versions: kind -> version of the artefacts that were current.
        before: what yesterday's data set has taken of what was posted and served.
        after: what the next one takes.
    """

    versions: dict[str, str]
    before: Taken
    after: Taken

    @classmethod
    def begin(cls, job: Job, kinds: Sequence[str]) -> Yesterday:
        """Continues the day that was interrupted, or begins a new one.

        Raises:
            UserError: the root has no data set yet.
        """
        root, path = job.root, job.root / NEXT_DAY_FILE
        if storage.fetch(path, fresh=True):
            tree = json.loads(path.read_text())
            return cls(tree["versions"], Taken(**tree["before"]), Taken(**tree["after"]))
        versions = {kind: current(root, kind).version for kind in kinds if has_current(root, kind)}
        if "dataset" not in versions:
            uri = storage.uri_of(root)
            raise UserError(f"{uri} has no first day yet; run the pipeline without day=next")
        before = Taken.of(Dataset.open(root).details)
        day = cls(versions, before, _taken_now(job, before))
        write_atomically(path, json.dumps(asdict(day)))
        return day

    def artifact(self, root: Path, kind: str) -> Artifact | None:
        """Yesterday's artefact of a kind."""
        return read(root / kind / self.versions[kind]) if kind in self.versions else None


def _label_ms(job: Job) -> int:
    return round(job.settings.prepare.label_hours * HOUR_MS)


def _taken_now(job: Job, before: Taken) -> Taken:
    with PostedLog.opened(job.root, job.settings.serve) as posted:
        now_ms = posted.newest_ms(before.store_sequence)
        until = max(closed_until(job.root, _label_ms(job), now_ms), before.served_until_ms)
        passed = posted.last_before(until, before.open_sequence)
        return Taken(max(posted.last_sequence, before.store_sequence), until, passed)


def archive_taken(job: Job, day: Yesterday) -> int:
    """Moves what no day to come and no feed needs from the store to the archive; how many events.

    Today's data set and yesterday's have taken them; yesterday's, from which this day could start
    again, reads those after its open sequence once more. Of bundles that are in use, and of the
    newest, which may be served again, the users' histories have them.
    """
    newest = Lineage.of(job.root, (KIND,)).newest(KIND, SERVED_AGAIN)
    served = {f"{KIND}/{version}" for version in bundles_in_use(job)}
    known = (_sequence_of(job.root, name) for name in {*newest, *served})
    until = min([day.before.open_sequence, *known])
    with PostedLog.opened(job.root, job.settings.serve) as posted:
        return posted.archive(until)


def bundles_in_use(job: Job) -> set[str]:
    """Versions that the pointer names, arms of the settings, or replicas."""
    arms = {arm.bundle for arm in job.settings.serve.experiment.arms.values() if arm.bundle}
    pointer = storage.text(job.root / KIND / POINTER)
    pointed = {pointer.strip()} if pointer else set()
    return arms | pointed | served_bundles(job.root)


def _sequence_of(root: Path, name: str) -> int:
    """Posted events up to this number are in a bundle's histories; all, of one that is gone."""
    bundle = peek(root / name)
    return sys.maxsize if bundle is None else int(bundle.details.get("store_sequence", 0))


def new_tables(job: Job, day: Yesterday, dataset: Dataset) -> RawTables:
    """What came since the last day, as raw tables of contract names.

    Args:
        job: its root has the store and the request log.
        day: that begins.
        dataset: yesterday's.
    """
    first, last = day.before.store_sequence, day.after.store_sequence
    span = (day.before.served_until_ms, day.after.served_until_ms)
    folder = job.root / "posted" / f"{first}-{last}-{span[1]}"
    with PostedLog.opened(job.root, job.settings.serve) as posted:
        tables = {"events": posted.events(first, last), "items": posted.items(first, last)}
        paths = {name: folder / f"{name}.parquet" for name in tables}
        # An interrupted day finds them as they were, on another machine too.
        found = {n: f for n, f in paths.items() if storage.fetch(f) or tables[n].write(f)}
    if dataset.calendar is not None and span[1] > span[0]:
        path, events = folder / "impressions.parquet", found.get("events")
        if storage.fetch(path) or write_served(
            job.root, span, _following(job, day, events), dataset, path
        ):
            found["impressions"] = path
    sets: dict[str, Any] = {role: (FileSet(files=(path,)),) for role, path in found.items()}
    return RawTables.of(dataset.order, sets)


def _following(job: Job, day: Yesterday, new: Path | None) -> Attribution:
    """Of the events that may label what has waited: those taken before, and the day's own file."""
    with PostedLog.opened(job.root, job.settings.serve) as posted:
        waiting = posted.events(day.before.open_sequence, day.before.store_sequence)
        tables = [waiting.read(FOLLOWING)]
    if new is not None:
        tables.append(pq.read_table(new, columns=[*FOLLOWING]))
    schema = alike([table.schema for table in tables])
    events = pa.concat_tables(table.cast(schema) for table in tables)
    return Attribution(events, _label_ms(job))
