"""Lines through what runs of several sizes have taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from data.contract.settings import UserError
from ray_jobs.engine.memory import REST
from ray_jobs.planning.measured import DRIVERS, MADE, PHASES, STEPS, Driver, Measured, Sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence, Set

BETWEEN = ": "  # kind and phase
WHOLE = frozenset({REST})


@dataclass(frozen=True, slots=True)
class Line:
    """base + slope · size, neither below 0."""

    base: float
    slope: float

    def at(self, size: float) -> float:
        """Its value."""
        return self.base + self.slope * size

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> Line:
        """By least squares over [(size, value)]; what shrinks as it grows is taken for constant."""
        sizes, values = np.array(points, float).T
        slope, base = np.polyfit(sizes, values, 1) if len(set(sizes)) > 1 else (0.0, values.max())
        if slope <= 0:
            return cls(float(values.max()), 0.0)
        if base < 0:
            return cls(0.0, float((sizes @ values) / (sizes @ sizes)))
        return cls(float(base), float(slope))


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines of what all runs have measured.

    Attributes:
        drivers: of all that a run may measure.
        through: name -> line of what all have.
    """

    drivers: Mapping[str, Driver]
    through: dict[str, Line]

    @classmethod
    def of(
        cls,
        runs: Sequence[Measured],
        drivers: Mapping[str, Driver],
        values: Callable[[Measured], Mapping[str, float]],
    ) -> Lines:
        """By least squares."""
        names = [name for name in drivers if all(name in values(run) for run in runs)]
        points = {
            name: [(run.sizes.of(drivers[name]), values(run)[name]) for run in runs]
            for name in names
        }
        return cls(drivers, {name: Line.through(found) for name, found in points.items()})

    @property
    def missing(self) -> list[str]:
        """What a run may measure and not all have."""
        return [name for name in self.drivers if name not in self.through]

    def at(self, sizes: Sizes) -> dict[str, float]:
        """Values at a size."""
        return {n: line.at(sizes.of(self.drivers[n])) for n, line in self.through.items()}


@dataclass(frozen=True, slots=True)
class Needs:
    """What a log of some size takes.

    Attributes:
        sizes: of the log.
        seconds: kind of artefact -> on the machine that was measured.
        peak_mib: kind of artefact -> in one process tree.
        bytes: part -> on disk.
    """

    sizes: Sizes
    seconds: dict[str, float]
    peak_mib: dict[str, float]
    bytes: dict[str, float]


@dataclass(frozen=True, slots=True)
class Growth:
    """How each artefact grows with the log.

    Attributes:
        cores: of the machine that was measured.
        batch_items: see `Sizes`; None unless all runs had as many.
        seconds: by kind of artefact.
        peak_mib: by kind and phase.
        bytes: by part.
    """

    cores: int
    batch_items: int | None
    seconds: Lines
    peak_mib: Lines
    bytes: Lines

    @classmethod
    def of(cls, runs: Sequence[Measured]) -> Growth:
        """From at least two runs of different sizes. Raises UserError."""
        if len({run.sizes.events for run in runs}) < 2:
            raise UserError("measured= needs finished runs of at least two sizes of a log")
        named = {run.sizes.batch_items for run in runs}
        batch_items = named.pop() if len(named) == 1 else None
        alike = [replace(run, sizes=replace(run.sizes, batch_items=batch_items)) for run in runs]
        growth = cls(
            cores=runs[0].cores,
            batch_items=batch_items,
            seconds=Lines.of(alike, MADE, lambda run: run.seconds),
            peak_mib=_by_phase(alike),
            bytes=Lines.of(alike, DRIVERS, lambda run: run.bytes),
        )
        if not growth.seconds.through or not growth.peak_mib.through:
            raise UserError("the runs tell of no kind of artefact that all of them have made")
        return growth

    @property
    def not_measured(self) -> dict[str, list[str]]:
        """What is left out of hours, memory and disk."""
        lines = {"hours": self.seconds, "peak_gib": self.peak_mib, "gib": self.bytes}
        return {part: sorted({kind_of(name) for name in of.missing}) for part, of in lines.items()}

    def at(self, sizes: Sizes) -> Needs:
        """What a log of that size takes."""
        alike = replace(sizes, batch_items=self.batch_items)
        peak_mib: dict[str, float] = {}
        for name, mib in self.peak_mib.at(alike).items():
            peak_mib[kind_of(name)] = max(mib, peak_mib.get(kind_of(name), 0.0))
        return Needs(sizes, self.seconds.at(alike), peak_mib, self.bytes.at(alike))


def kind_of(name: str) -> str:
    """The kind of artefact that a line of memory is about."""
    return name.partition(BETWEEN)[0]


def _by_phase(runs: Sequence[Measured]) -> Lines:
    """Lines of the phases of each kind, or of its highest where not all runs tell the same.

    What a phase takes grows as a line; the highest of several does not: one that is below another
    on a small log may be above it on a large one.
    """
    told = {kind: {frozenset(run.phases_mib.get(kind, {})) for run in runs} for kind in MADE}
    apart = {kind for kind, phases in told.items() if len(phases) == 1 and phases != {WHOLE}}

    def values(run: Measured) -> dict[str, float]:
        whole = {kind: mib for kind, mib in run.peak_mib.items() if kind not in apart}
        phases = {
            _name(kind, phase): mib
            for kind in apart & run.phases_mib.keys()
            for phase, mib in run.phases_mib[kind].items()
        }
        return whole | phases

    drivers = {name: _driver(name, apart) for run in runs for name in values(run)}
    untold = MADE.keys() - {kind_of(name) for name in drivers}
    return Lines.of(runs, drivers | {kind: MADE[kind] for kind in untold}, values)


def _name(kind: str, phase: str) -> str:
    return f"{kind}{BETWEEN}{phase}" if phase != REST else kind


def _driver(name: str, apart: Set[str]) -> Driver:
    kind, _, phase = name.partition(BETWEEN)
    if phase == REST and kind in apart:
        return STEPS.get(kind, MADE[kind])
    return PHASES.get(phase, MADE[kind])
