"""What a finished root has taken: time of its stages, memory to make its artefacts, and bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from data.contract.artifact import current, has_current, read
from data.contract.settings import UserError, build

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Driver = Literal["users", "items", "rows", "events"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large a log is.

    Attributes:
        users: distinct.
        items: distinct.
        events: of all time that is kept.
    """

    users: int
    items: int
    events: int

    def of(self, driver: Driver) -> int:
        """What a stage or an artefact grows with; rows are users and items together."""
        return self.users + self.items if driver == "rows" else int(getattr(self, driver))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One finished run.

    Attributes:
        sizes: of its log.
        cores: that it ran on.
        seconds: stage -> wall time.
        peak_mib: stage -> highest memory of the process tree.
        bytes: part (`PARTS`) -> size on disk of what is current.
        made_mib: kind of artefact -> the same while it was made; nothing where an artefact of the
            root does not tell. A stage that makes several grows with one here, another there.
        commit: of the code that ran, where it is told.
    """

    sizes: Sizes
    cores: int
    seconds: dict[str, float]
    peak_mib: dict[str, float]
    bytes: dict[str, int]
    made_mib: dict[str, float] = field(default_factory=dict)
    commit: str = ""

    @classmethod
    def of(cls, root: Path, cores: int) -> Measured:
        """Reads a root that `pipeline` has finished. Raises UserError where it has not."""
        file = root / "summary.json"
        summary = json.loads(file.read_text()) if file.is_file() else {}
        if not summary.get("peak_mib"):
            raise UserError(f"{file} tells no stages; run ray_jobs.pipeline root={root} first")
        counts = current(root, "dataset").manifest.details["counts"]
        sizes = Sizes(users=counts["users"], items=counts["items"], events=counts["events"])
        return cls(
            sizes=sizes,
            cores=cores,
            seconds=summary["seconds"],
            peak_mib=summary["peak_mib"],
            bytes=bytes_of(root),
            made_mib=made_mib(root),
        )

    @classmethod
    def read(cls, tree: Mapping[str, Any]) -> Measured:
        """From JSON. Raises UserError."""
        return build(cls, dict(tree))


@dataclass(frozen=True, slots=True)
class Part:
    """Files that grow with one thing.

    Attributes:
        driver: that thing.
        kind: of artefact.
        names: starts of the files' names in it; the rest of the kind where there are none.
    """

    driver: Driver
    kind: str
    names: tuple[str, ...] = ()


PARTS: dict[str, Part] = {
    "data set": Part("events", "dataset"),
    "item ids": Part("items", "item_ids"),
    "user ids": Part("users", "user_ids"),
    "graph": Part("events", "adjacency"),
    "neighbourhoods": Part("items", "neighborhoods"),
    "item embeddings": Part("items", "item_embeddings"),
    "retriever": Part("rows", "two_tower"),
    "ranker": Part("rows", "ranker"),
    "bundle: events": Part("events", "bundles", ("histories", "graph")),
    "bundle: users": Part("users", "bundles", ("users", "user_", "medoids", "importance")),
    "bundle: items": Part("items", "bundles"),
}
DRIVERS: dict[str, Driver] = {name: part.driver for name, part in PARTS.items()}
STAGES: dict[str, Driver] = {
    **{"prepare": "events", "sample": "events", "train graph": "events", "calibrate": "rows"},
    **{"train id": "rows", "train user": "rows", "train two_tower": "rows"},
    **{"train ranker": "rows", "embed": "items", "evaluate": "rows", "export": "rows"},
    **{"index": "items", "deploy": "rows"},
}
MADE: dict[str, Driver] = {
    "dataset": "events",
    "adjacency": "events",
    **dict.fromkeys(("item_ids", "neighborhoods", "item_embeddings", "graph"), "items"),
    **dict.fromkeys(("user_ids", "user_days", "user_embeddings"), "users"),
    **dict.fromkeys(("id", "user", "two_tower", "candidates", "ranker", "calibration"), "rows"),
    **dict.fromkeys(("baselines", "evaluation", "export", "bundles"), "rows"),
}


def made_mib(root: Path) -> dict[str, float]:
    """What memory each kind of artefact took; nothing where one of them does not tell."""
    made = [read(file.parent).manifest for file in root.glob("*/*/manifest.json")]
    told = [(one.kind, one.peak_mib) for one in made if one.kind in MADE]
    found: dict[str, float] = {}
    for kind, mib in told:
        if mib is None:
            return {}
        found[kind] = max(found.get(kind, 0.0), mib)
    return found


def bytes_of(root: Path) -> dict[str, int]:
    """Bytes of the parts that are there."""
    there = {name: part for name, part in PARTS.items() if has_current(root, part.kind)}
    return {name: _bytes(root, part) for name, part in there.items()}


def _bytes(root: Path, part: Part) -> int:
    folder = current(root, part.kind).path
    named = [n for other in PARTS.values() if other.kind == part.kind for n in other.names]
    return sum(
        file.stat().st_size
        for file in folder.rglob("*")
        if file.is_file() and _is_in(file.relative_to(folder).as_posix(), part.names, named)
    )


def _is_in(name: str, names: tuple[str, ...], named: list[str]) -> bool:
    return name.startswith(names) if names else not name.startswith(tuple(named))
