"""Raw tables -> the data set: `python -m ray_jobs.prepare root=runs/x source.kind=table ...`.

Three passes over the log, each a bounded piece at a time (Ray Data, or this process for a small
log): check and spill; map ids to rows and send each event to its user and its day; write timelines
and day partitions. A next day runs the same passes over its new rows alone and extends what is
there. Time and disk grow with the rows, memory with the ids and the item and user tables.
"""

from __future__ import annotations

import dataclasses
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from data import boards, enrolment, impressions, item_days
from data.blocks import num_rows
from data.contract import artifact, storage
from data.contract.idspace import IdSpace
from data.contract.settings import UserError, to_tree
from data.dataset import PARTITIONS, Dataset
from data.exchange import read_table
from data.headers import check_columns, check_types, headers
from data.impressions import label_names
from data.intake import check_headers
from data.raw_tables import RawTables
from data.sources import locate, world_tables
from data.windows import resolve
from ray_jobs.engine.job import Job, run
from ray_jobs.engine.locks import unless_held
from ray_jobs.preparation import passes, placement
from ray_jobs.preparation.entities import Side, enrol, read_sides, write_side
from ray_jobs.preparation.passes import Preparation
from ray_jobs.preparation.served import Taken

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from data.contract.artifact import Artifact, Draft
    from data.contract.schema import Calendar, Vocabulary
    from data.intake import Tally
    from data.routing import Routed
    from data.validation import LogForm

ID_SETTINGS = ("min_count", "buckets")
CONTENT_SETTINGS = ("max_reject_share", "late_days", "shard_events")
SIDES = ("item", "user")
WORK = "prepare-"


def prepare(
    job: Job, raw: RawTables, parent: Artifact | None = None, taken: Taken | None = None
) -> Artifact:
    """Makes the data set of raw tables, or extends `parent` by them.

    Args:
        job: settings and root.
        raw: all tables, or the new rows of a next day (with contract names where posted).
        parent: the data set to extend.
        taken: how far it has taken what was posted and served then.

    Raises:
        UserError: input that cannot be used; the text says how to mend it.
    """
    settings = job.settings
    _remove_spilled(job.root)
    before = Dataset(artifact.read(parent.path.absolute()), job.root.absolute()) if parent else None
    _refuse_headers(job, raw, before)
    if parent is None:
        _refuse_split(job, raw)
    inputs = {
        "raw": raw.fingerprint(job.root),
        "part_column": settings.split.column,
        "prepare": {k: v for k, v in to_tree(settings.prepare).items() if k in CONTENT_SETTINGS},
        "id": {name: to_tree(settings.id)[name] for name in ID_SETTINGS},
        **dataclasses.asdict(taken or Taken()),
    }
    # Absolute paths, for Ray's workers have a working directory of their own.
    maker = _Maker(job, raw.absolute(), before, inputs, taken or Taken())
    made = job.make("dataset", [parent] if parent else [], inputs, maker.write)
    for side in SIDES:
        version = made.manifest.id_space[side]["version"]
        artifact.point(job.root, artifact.read(job.root / f"{side}_ids" / version))
    job.remember()
    return made


def _remove_spilled(root: Path) -> None:
    """Removes what killed runs have spilled: nobody has the turns that they had."""
    for work in (root / ".work").glob(f"{WORK}*"):
        made = f"dataset-{work.name.removeprefix(WORK)}"
        unless_held(root, made, partial(shutil.rmtree, work, ignore_errors=True))


def _refuse_headers(job: Job, raw: RawTables, before: Dataset | None) -> None:
    """Refuses tables by their headers alone, in no time."""
    order = before.order if before else raw.order
    check_headers(raw, order, job.settings.split.column, extends=before is not None)
    for role, needed in (("impressions", impressions.NEEDED), ("boards", boards.NEEDED)):
        for files in getattr(raw, role):
            check_columns(files, needed)
            check_types(headers(files))
    if before is None:
        for files in raw.impressions:
            label_names(files)
    for files in raw.boards:
        boards.check_optional(files)


def _refuse_split(job: Job, raw: RawTables) -> None:
    kind, order = job.settings.split.kind, raw.order
    if kind == "time" and order != "clock":
        other = "leave_one_out" if order == "position" else "column split.column=<column>"
        guess = headers(raw.events[0])[0].guess("timestamp", "timestamp") or "<column>"
        raise UserError(
            f"split.kind=time needs a clock and this log has none; set split.kind={other}, "
            f"or name its clock with source.columns.timestamp={guess}"
        )
    if kind == "leave_one_out" and order == "none":
        raise UserError(
            "split.kind=leave_one_out needs an order; name one with source.columns.timestamp or "
            "source.columns.position=<column>, or set split.kind=column split.column=<column>"
        )


@dataclass(frozen=True, slots=True)
class _Maker:
    """Writes one data set."""

    job: Job
    raw: RawTables
    parent: Dataset | None
    inputs: dict[str, Any]
    taken: Taken

    def write(self, draft: Draft) -> None:
        """Fills the draft; what it spills is removed at the end, also after an error."""
        with self._preparation(draft) as preparation:
            form, tally = passes.take_in(preparation)
            sides = read_sides(preparation, form, tally)
            vocabulary, calendar = self._vocabulary(tally, sides), self._calendar(tally)
            ids = {side.name: self._enrolled(preparation, form, tally, side) for side in sides}
            routing = passes.routing_of(
                preparation,
                tally,
                vocabulary,
                calendar,
                {k: v.path.absolute() for k, v in ids.items()},
            )
            routed = passes.route(preparation, routing, tally)
            days = placement.place(preparation, routing, routed, tally)
            shown = placement.place_impressions(preparation, routing, tally)
            rows = {"events": days, "impressions": shown.rows}
            placement.place_boards(preparation, routing, tally)
            spaces = {name: IdSpace.open(made.path) for name, made in ids.items()}
            for side in sides:
                write_side(side, spaces[side.name], preparation)
            write_item_days(preparation)
            self._describe(draft, ids)
            draft.fields["details"] = {
                "vocabulary": dataclasses.asdict(vocabulary),
                "calendar": dataclasses.asdict(calendar) if calendar else None,
                "num_shards": routing.num_shards,
                "first_position": shown.first_position,
                **self._details(draft, preparation, tally, rows),
            }
            sizes = {f"{name}s": len(space.ids) for name, space in spaces.items()}
            draft.fields["details"]["counts"] = self._counts(draft, tally, routed) | sizes

    def _details(
        self, draft: Draft, preparation: Preparation, tally: Tally, rows: dict[str, dict[str, int]]
    ) -> dict[str, Any]:
        """What a next day goes on from, and which version holds each day, by table."""
        version = draft.path.name
        return {
            **dataclasses.asdict(self.taken),
            "impression_log": self._has_impression_log(),
            "num_files": len(preparation.event_paths),
            "parts": placement.parts_of(preparation, tally),
        } | {
            key: (self.parent.details[key] if self.parent else {})
            | dict.fromkeys(rows[table], version)
            for table, key in PARTITIONS.items()
        }

    def _has_impression_log(self) -> bool:
        """Whether impressions are logged elsewhere, not only by what is served from this root."""
        if self.parent is None:
            return bool(self.raw.impressions)
        return self.parent.has_impression_log

    @contextmanager
    def _preparation(self, draft: Draft) -> Iterator[Preparation]:
        version = draft.path.name
        root = self.job.root.absolute()
        work, rejects = root / ".work" / f"{WORK}{version}", root / "rejects" / version
        shutil.rmtree(work, ignore_errors=True)
        storage.remove(rejects)
        for folder in (work, rejects):
            folder.mkdir(parents=True)
        split_column = self.job.settings.split.column
        settings = self.job.settings.prepare
        try:
            yield Preparation(
                settings,
                self.raw,
                split_column,
                self.parent,
                draft.path.absolute(),
                work,
                rejects,
                self.job.settings.train.num_workers + 2,
            )
        finally:
            shutil.rmtree(work)
            storage.put(rejects)  # also of a log that is refused: its error names them

    def _vocabulary(self, tally: Tally, sides: list[Side]) -> Vocabulary:
        if self.parent is not None:
            return self.parent.vocabulary
        labels = [name for files in self.raw.impressions for name in label_names(files)]
        found = enrolment.vocabulary(
            self.raw.order,
            [*tally.names.get("action", ()), *labels],
            tally.names.get("surface", ()),
            self.raw.polarity,
        )
        item, user = sides
        return dataclasses.replace(found, item_features=item.features, user_features=user.features)

    def _calendar(self, tally: Tally) -> Calendar | None:
        known = self.parent.calendar if self.parent else None
        if self.raw.order != "clock" and known is None:
            return None
        calendar = enrolment.calendar(tally.days, known)
        if self.job.settings.split.kind == "time":
            resolve(self.job.settings.windows, calendar)
        return calendar

    def _enrolled(
        self, preparation: Preparation, form: LogForm, tally: Tally, side: Side
    ) -> Artifact:
        enrolled = enrol(preparation, self.job.settings.id, form, tally, side)

        def write(draft: Draft) -> None:
            enrolled.save(draft.path)
            draft.fields["id_space"] = {side.name: enrolled.space.reference()}

        before = [artifact.read(self.parent.ids_folder(side.name))] if self.parent else []
        return self.job.make(f"{side.name}_ids", before, self.inputs, write, move_pointer=False)

    def _describe(self, draft: Draft, ids: dict[str, Artifact]) -> None:
        draft.fields["parents"] += [made.reference() for made in ids.values()]
        draft.fields["id_space"] = {
            side: made.manifest.id_space[side] | {"version": made.version}
            for side, made in ids.items()
        }

    def _counts(self, draft: Draft, tally: Tally, routed: Routed) -> dict[str, int]:
        before = self.parent.counts if self.parent else {"events": 0, "rejected": 0}
        new = routed.days.total()
        held = draft.fields["details"]["impression_partitions"]
        folders = [draft.path.parent / v / "impressions" / f"date={d}" for d, v in held.items()]
        return {
            "events": before["events"] + new,
            "new_events": new,
            "impressions": num_rows(f for at in folders for f in at.glob("part-*.parquet")),
            "rejected": before["rejected"] + tally.num_rejected,
        }


def write_item_days(preparation: Preparation) -> None:
    """Writes the counts of the groups of days, and the parent's of the days that did not change."""
    files = sorted(preparation.work.glob("item_days-*.arrow"))
    new = pa.concat_tables([item_days.COUNTED.empty_table(), *map(read_table, files)])
    earlier = preparation.parent and preparation.parent.artifact.path
    if preparation.raw.order == "clock":
        parts = item_days.with_days(earlier, new) if earlier else iter([new])
    else:
        before = [pq.read_table(earlier / item_days.FILE)] if earlier else []
        parts = iter([item_days.summed([*before, new])])
    item_days.write(preparation.folder / item_days.FILE, parts)


def simulated(root: Path) -> RawTables:
    """All days of the world up to the current one: each day after the first ones is a part.

    Raises:
        UserError: there is no world.
    """
    parts = [artifact.current(root, "world")]
    while before := [p["version"] for p in parts[0].manifest.parents]:
        parts.insert(0, artifact.read(root / "world" / before[0]))
    first, *later = (world_tables(part.path) for part in parts)
    return reduce(RawTables.joined, later, first)


def main(job: Job) -> dict[str, Any]:
    """Prepares the tables that `source.*` names, or the world that was simulated before."""
    if job.settings.source.kind == "world":
        raw = simulated(job.root)
    else:
        raw = locate(job.settings.source)
    with job.stage("prepare"):
        made = prepare(job, raw)
    return {"dataset": made.version, "counts": made.manifest.details["counts"]}


if __name__ == "__main__":
    run("prepare", main, remember=True)
