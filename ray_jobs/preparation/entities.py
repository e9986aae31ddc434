"""Items and users of a log: their attribute tables, id spaces and features."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from data import statistics
from data.attributes import Attributes, aligned, read_aligned, read_attributes, write_aligned
from data.contract.schema import Feature
from data.contract.settings import UserError
from data.enrolment import Enrolled
from data.intake import Tally, merged_ids, reasons_of, write_rejects

if TYPE_CHECKING:
    import pyarrow as pa

    from data.contract.idspace import IdSpace
    from data.contract.idspace_settings import IdSettings
    from data.validation import LogForm
    from ray_jobs.preparation.passes import Preparation

LEAST = 2


@dataclass(frozen=True, slots=True)
class Side:
    """The items or the users of a log.

    Attributes:
        name: "item" or "user".
        attributes: their table, with features as columns.
        features: declared columns.
    """

    name: str
    attributes: Attributes
    features: tuple[Feature, ...]


def read_sides(preparation: Preparation, form: LogForm, tally: Tally) -> list[Side]:
    """Reads the item and the user table and finds their features.

    Raises:
        UserError: an id twice, an unusable column, or an override of a column that is not there.
    """
    raw = preparation.raw
    tables = {
        "item": read_attributes(raw.items, "item_id", form.item_type, raw.content),
        "user": read_attributes(raw.users, "user_id", form.user_type),
    }
    columns = {name for table in tables.values() for name in table.columns.column_names}
    for name in set(raw.features) - columns if preparation.parent is None else ():
        raise UserError(f"source.features.{name}: no item or user table has the column {name}")
    for name, table in tables.items():
        write_rejects(table.rejects, preparation.rejects, f"{name}s")
        reasons = reasons_of(table.rejects)
        rows = len(table.ids) + reasons.total()
        preparation.refuse_too_many(reasons, rows)
        tally.reasons.update(reasons)
        tally.rows += rows
    return [_side(preparation, name, table) for name, table in tables.items()]


def _side(preparation: Preparation, name: str, table: Attributes) -> Side:
    """With the parent's features, or those found in the table."""
    if preparation.parent is None:
        features, columns = statistics.features(table.columns, preparation.raw.features)
    else:
        features = getattr(preparation.parent.vocabulary, f"{name}_features")
        columns = statistics.converted(table.columns, features)
    return Side(name, replace(table, columns=columns), features)


def enrol(
    preparation: Preparation, settings: IdSettings, form: LogForm, tally: Tally, side: Side
) -> Enrolled:
    """Extends the id space of a side by the log and by its table.

    Raises:
        UserError: a log of one user or one item, or a table about others.
    """
    kind = form.item_type if side.name == "item" else form.user_type
    counts = merged_ids(preparation.work, tally.blocks, side.name, kind)
    parent = preparation.parent
    before = Enrolled.empty(side.name, kind, settings)
    if parent is None:
        _refuse_strangers(side, counts)
    else:
        before = Enrolled.open(parent.ids_folder(side.name))
    after = before.after(counts, side.attributes, settings.min_count)
    found = len(after.space.ids) if parent else min(counts.num_rows, len(after.space.ids))
    if found < LEAST:
        raise UserError(
            f"the log has {found} {side.name}(s), at least {LEAST} are needed: "
            f"check source.columns.{side.name}_id (and id.min_count, if set)"
        )
    return after


def _refuse_strangers(side: Side, counts: pa.Table) -> None:
    """Refuses a table of which no id is in the log: ids of another kind."""
    known = side.attributes.ids
    if len(known) and not pc.any(pc.is_in(known, counts["id"].combine_chunks())).as_py():
        raise UserError(
            f"none of the {len(known)} {side.name}s of source.{side.name}s is in the log: the "
            f"table has {side.name}_id={known[0]}, the log {counts['id'][0]}; are these ids of "
            "one kind?"
        )


def write_side(side: Side, space: IdSpace, preparation: Preparation) -> None:
    """Writes the encoded attributes, aligned with the rows of the id space."""
    parent = preparation.parent
    name = f"{side.name}s.arrow"
    previous = read_aligned(parent.artifact.path / name) if parent else None
    table = aligned(space, side.attributes, side.features, previous)
    write_aligned(table, preparation.folder / name)
