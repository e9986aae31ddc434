"""What a finished root has taken: time of its stages, memory to make its artefacts, and bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from data.contract.artifact import MANIFEST, current, has_current, read
from data.contract.settings import UserError, build
from ray_jobs.engine.memory import REST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from data.contract.artifact import Artifact

Driver = Literal["users", "items", "rows", "events"]
FILES = f"*/{MANIFEST}"  # of a kind


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
        seconds: stage -> wall time; nothing where the last run found some artefact up to date.
        peak_mib: stage -> highest memory of the process tree, likewise.
        bytes: part (`PARTS`) -> size on disk of what is in use (`in_use`); a file that has a name
            in two parts counts in both.
        made_seconds: kind of artefact -> time to make all of it that is in use; nothing where an
            artefact does not tell.
        made_mib: kind of artefact -> phase of making it (`engine.memory`) -> highest memory
            meanwhile, likewise. A stage that makes several grows with one here, another there.
        commit: of the code that ran, where it is told.
    """

    sizes: Sizes
    cores: int
    seconds: dict[str, float]
    peak_mib: dict[str, float]
    bytes: dict[str, int]
    made_seconds: dict[str, float] = field(default_factory=dict)
    made_mib: dict[str, dict[str, float]] = field(default_factory=dict)
    commit: str = ""

    @classmethod
    def of(cls, root: Path, cores: int) -> Measured:
        """Reads a root that `pipeline` has finished.

        Raises:
            UserError: it has not, or nothing tells what its artefacts took.
        """
        if not has_current(root, "dataset"):
            raise UserError(f"{root} has no data set; run ray_jobs.pipeline root={root} first")
        file = root / "summary.json"  # of the last job, which need not be the pipeline
        summary = json.loads(file.read_text()) if file.is_file() else {}
        return cls._read(root, cores, summary)._that_tells(root)

    @classmethod
    def _read(cls, root: Path, cores: int, summary: Mapping[str, Any]) -> Measured:
        found = in_use(root)
        counts = current(root, "dataset").manifest.details["counts"]
        sizes = Sizes(users=counts["users"], items=counts["items"], events=counts["events"])
        whole = {one.manifest.name for one in found} <= set(summary.get("made", ()))
        return cls(
            sizes=sizes,
            cores=cores,
            seconds=summary["seconds"] if whole else {},
            peak_mib=summary["peak_mib"] if whole else {},
            bytes=bytes_of(found),
            made_seconds=made_seconds(found),
            made_mib=made_mib(found),
        )

    def _that_tells(self, root: Path) -> Measured:
        if (self.seconds or self.made_seconds) and (self.peak_mib or self.made_mib):
            return self
        raise UserError(
            f"{root} does not tell what its artefacts took: its last run found some up to date, "
            "and an earlier release has made them, whose manifests do not say; make a root of this "
            "size anew"
        )

    @property
    def kinds_mib(self) -> dict[str, float]:
        """Highest memory of all phases, by kind of artefact."""
        return {kind: max(phases.values()) for kind, phases in self.made_mib.items()}

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
PHASES: dict[str, Driver] = {"reading": "events", "histories": "events"}  # others as their kind


def in_use(root: Path) -> list[Artifact]:
    """What is current, and what was made from that and has no pointer: graphs as of a day, say."""
    found = [current(root, kind) for kind in MADE if has_current(root, kind)]
    pointed, known = {one.kind for one in found}, {one.manifest.name for one in found}
    files = [file for kind in MADE if kind not in pointed for file in (root / kind).glob(FILES)]
    others = [read(file.parent) for file in files]
    while more := [one for one in others if _parents(one) <= known]:
        others = [one for one in others if one not in more]
        known |= {one.manifest.name for one in more}
        found += more
    return found


def _parents(artifact: Artifact) -> set[str]:
    return {f"{parent['kind']}/{parent['version']}" for parent in artifact.manifest.parents}


def made_seconds(found: Sequence[Artifact]) -> dict[str, float]:
    """What time each kind of artefact took in all; nothing where one of them does not tell."""
    seconds = [(one.kind, one.manifest.seconds) for one in found]
    taken = dict.fromkeys((kind for kind, _ in seconds), 0.0)
    for kind, value in seconds:
        if value is None:
            return {}
        taken[kind] += value
    return taken


def made_mib(found: Sequence[Artifact]) -> dict[str, dict[str, float]]:
    """What memory the phases of each kind took; nothing where an artefact does not tell."""
    highest: dict[str, dict[str, float]] = {}
    for one in found:
        if one.manifest.peak_mib is None:
            return {}
        of_kind = highest.setdefault(one.kind, {})
        for phase, mib in (one.manifest.phases_mib or {REST: one.manifest.peak_mib}).items():
            of_kind[phase] = max(mib, of_kind.get(phase, 0.0))
    return highest


def bytes_of(found: Sequence[Artifact]) -> dict[str, int]:
    """Bytes of the parts that are there, of all versions in use."""
    kinds = {one.kind for one in found}
    there = {name: part for name, part in PARTS.items() if part.kind in kinds}
    return {
        name: sum(_bytes(one.path, part) for one in found if one.kind == part.kind)
        for name, part in there.items()
    }


def _bytes(folder: Path, part: Part) -> int:
    named = [n for other in PARTS.values() if other.kind == part.kind for n in other.names]
    return sum(
        file.stat().st_size
        for file in folder.rglob("*")
        if file.is_file() and _is_in(file.relative_to(folder).as_posix(), part.names, named)
    )


def _is_in(name: str, names: tuple[str, ...], named: list[str]) -> bool:
    return name.startswith(names) if names else not name.startswith(tuple(named))
