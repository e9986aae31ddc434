"""Lines through what runs of several sizes have taken."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from data.contract.settings import UserError
from ray_jobs.planning.measured import DRIVERS, MADE, STAGES, Driver, Measured, Sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


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
class Needs:
    """What a log of some size takes.

    Attributes:
        sizes: of the log.
        seconds: stage -> on the machine that was measured.
        peak_mib: kind of artefact, or stage -> in one process tree.
        bytes: part -> on disk.
    """

    sizes: Sizes
    seconds: dict[str, float]
    peak_mib: dict[str, float]
    bytes: dict[str, float]


@dataclass(frozen=True, slots=True)
class Growth:
    """How each stage and each artefact grows with the log.

    Attributes:
        cores: of the machine that was measured.
        seconds: stage -> line.
        by_kind: whether memory is told by kind of artefact; else by stage.
        peak_mib: kind of artefact, or stage -> line.
        bytes: part -> line.
    """

    cores: int
    by_kind: bool
    seconds: dict[str, Line]
    peak_mib: dict[str, Line]
    bytes: dict[str, Line]

    @classmethod
    def of(cls, runs: Sequence[Measured]) -> Growth:
        """From at least two runs of different sizes. Raises UserError."""
        if len({run.sizes.events for run in runs}) < 2:
            raise UserError("measured= needs finished runs of at least two sizes of a log")
        by_kind = all(run.made_mib for run in runs)
        return cls(
            cores=runs[0].cores,
            by_kind=by_kind,
            seconds=_lines(runs, STAGES, lambda run: run.seconds),
            peak_mib=_lines(runs, MADE if by_kind else STAGES, partial(memory_of, by_kind=by_kind)),
            bytes=_lines(runs, DRIVERS, lambda run: run.bytes),
        )

    def at(self, sizes: Sizes) -> Needs:
        """What a log of that size takes."""
        return Needs(
            sizes,
            _values(self.seconds, STAGES, sizes),
            _values(self.peak_mib, MADE if self.by_kind else STAGES, sizes),
            _values(self.bytes, DRIVERS, sizes),
        )


def memory_of(run: Measured, by_kind: bool) -> dict[str, float]:
    """Peaks by kind of artefact, or by stage, MiB."""
    return run.made_mib if by_kind else run.peak_mib


def _lines(
    runs: Sequence[Measured],
    drivers: Mapping[str, Driver],
    values: Callable[[Measured], Mapping[str, float]],
) -> dict[str, Line]:
    """Lines of what all runs have measured."""
    names = [name for name in drivers if all(name in values(run) for run in runs)]
    return {
        name: Line.through([(run.sizes.of(drivers[name]), values(run)[name]) for run in runs])
        for name in names
    }


def _values(
    lines: Mapping[str, Line], drivers: Mapping[str, Driver], sizes: Sizes
) -> dict[str, float]:
    return {name: line.at(sizes.of(drivers[name])) for name, line in lines.items()}
