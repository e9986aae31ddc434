"""What making the artefacts of a finished root has taken: time, memory, and bytes on disk."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from data.contract.artifact import MANIFEST, current, has_current, read
from data.contract.mirrors import uri_of
from data.contract.settings import UserError, build
from ray_jobs.engine.memory import REST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from data.contract.artifact import Artifact

Driver = Literal["users", "items", "rows", "events", "batch"]
FILES = f"*/{MANIFEST}"  # of a kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large a log is.

    Attributes:
        users: distinct.
        items: distinct.
        events: of all time that is kept.
        batch_items: items that a batch of the graph encoder names, each as often as it does; None
            where a step reads, or updates, rows of all.
    """

    users: int
    items: int
    events: int
    batch_items: int | None = None

    def of(self, driver: Driver) -> float:
        """What an artefact grows with; rows are users and items together."""
        if driver == "rows":
            return self.users + self.items
        return self.in_batch if driver == "batch" else getattr(self, driver)

    @property
    def in_batch(self) -> float:
        """Distinct items that a step of the graph encoder reads, were all named alike.

        n draws from N find N (1 - e^(-n/N)) of them.
        """
        if self.batch_items is None:
            return self.items
        return -self.items * math.expm1(-self.batch_items / self.items)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One finished run.

    Attributes:
        sizes: of its log.
        cores: that it ran on.
        seconds: kind of artefact -> time to make all of it that is in use (`in_use`).
        phases_mib: kind of artefact -> phase of making it (`engine.memory`) -> highest memory of
            the process tree meanwhile.
        bytes: part (`PARTS`) -> size on disk of what is in use; a file that has a name in two parts
            counts in both.
        commit: of the code that ran, where it is told.
    """

    sizes: Sizes
    cores: int
    seconds: dict[str, float]
    phases_mib: dict[str, dict[str, float]]
    bytes: dict[str, int]
    commit: str = ""

    @classmethod
    def of(cls, root: Path, cores: int) -> Measured:
        """Reads a root that `pipeline` has finished.

        Raises:
            UserError: it has not, or an artefact does not tell what it took.
        """
        name = uri_of(root)
        if not has_current(root, "dataset"):
            raise UserError(f"{name} has no data set; run ray_jobs.pipeline root={name} first")
        found = in_use(root)
        for one in found:
            if one.manifest.seconds is None or one.manifest.peak_mib is None:
                raise UserError(
                    f"{name}: {one.manifest.name} does not tell what it took, for an earlier "
                    "release has made it; make a root of this size anew"
                )
        return cls(
            sizes=sizes_of(found),
            cores=cores,
            seconds=seconds_of(found),
            phases_mib=phases_mib(found),
            bytes=bytes_of(found),
        )

    @property
    def peak_mib(self) -> dict[str, float]:
        """Highest memory of all phases, by kind of artefact."""
        return {kind: max(phases.values()) for kind, phases in self.phases_mib.items()}

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
MADE: dict[str, Driver] = {
    "dataset": "events",
    "adjacency": "events",
    **dict.fromkeys(("item_ids", "neighborhoods", "item_embeddings", "graph"), "items"),
    **dict.fromkeys(("user_ids", "user_days", "user_embeddings"), "users"),
    **dict.fromkeys(("id", "user", "two_tower", "candidates", "ranker", "calibration"), "rows"),
    **dict.fromkeys(("baselines", "evaluation", "export", "bundles"), "rows"),
}
# What does not grow as its kind does.
PHASES: dict[str, Driver] = {"reading": "events", "histories": "events"}
STEPS: dict[str, Driver] = {"graph": "batch"}


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


def sizes_of(found: Sequence[Artifact]) -> Sizes:
    """How large the log is that artefacts were made of."""
    details = {one.kind: one.manifest.details for one in found}
    counts, graph = details["dataset"]["counts"], details.get("graph", {})
    sizes = {name: counts[name] for name in ("users", "items", "events")}
    return Sizes(**sizes, batch_items=graph.get("batch_items"))


def seconds_of(found: Sequence[Artifact]) -> dict[str, float]:
    """What time each kind of artefact took in all."""
    taken = dict.fromkeys((one.kind for one in found), 0.0)
    for one in found:
        taken[one.kind] += one.manifest.seconds or 0.0
    return taken


def phases_mib(found: Sequence[Artifact]) -> dict[str, dict[str, float]]:
    """What memory the phases of each kind took at most."""
    highest: dict[str, dict[str, float]] = {}
    for one in found:
        of_kind = highest.setdefault(one.kind, {})
        for phase, mib in (one.manifest.phases_mib or {REST: one.manifest.peak_mib or 0.0}).items():
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
