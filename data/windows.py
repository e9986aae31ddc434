"""Which days each artefact learns from, so that no consumer sees labels of what it is judged by.

The settings are written for a log of 180 days. For another log they are scaled, and they move with
the log's end as days are added.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from data.contract.schema import DAY_MS, Calendar
from data.contract.settings import UserError

REFERENCE_DAYS = 180
EMBEDDED = {"graph": "item", "id": "ID", "user": "user"}
LEARNT_FROM = ("train", *EMBEDDED, "two_tower", "ranker")

Day = Annotated[int, Field(ge=1, le=REFERENCE_DAYS)]
Days = tuple[Day, Day]


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSettings:
    """First and last day of each window, in days of a log of 180 days.

    Models learn before `valid`, and `valid` ends before `test`. What baselines know, and features
    of the past, is everything before the part that they are asked about.

    Attributes:
        train: what models learn from that stand alone and have a window of their own.
        valid: days on which settings and steps are chosen.
        test: days that are reported.
        graph: edges and labels that item embeddings learn from, before what is built on them; alone
            (`model=graph`) they learn from `train`.
        id: positives that ID embeddings learn from, before the retriever that reads them; alone
            (`model=id`) those of `train`.
        user: positives that user embeddings predict, before what is built on them; alone
            (`model=user`) those of `train`.
        two_tower: positives the retriever learns from.
        ranker: impressions the ranker learns from.
        ranker_closed: day by which the labels of those impressions must be closed.
        calibration: impressions the calibrators learn from.
        overlap: let models learn from days that embeddings among their columns have learnt from:
            what these know of their labels then looks better than it will serve.
    """

    train: Days = (1, 152)
    valid: Days = (153, 166)
    test: Days = (167, 180)
    graph: Days = (1, 118)
    id: Days = (1, 118)
    user: Days = (1, 118)
    two_tower: Days = (119, 152)
    ranker: Days = (119, 148)
    ranker_closed: Day = 150
    calibration: Days = (149, 152)
    overlap: bool = False

    def __post_init__(self) -> None:
        for name, (first, last) in self.pairs().items():
            if first > last:
                raise ValueError(f"windows.{name} begins on day {first}, after its end, {last}")
        learnt = {name: getattr(self, name)[1] for name in LEARNT_FROM}
        for name, last in (learnt | {"ranker_closed": self.ranker_closed}).items():
            if last >= self.valid[0]:
                raise ValueError(
                    f"windows.{name} ends on day {last}, but windows.valid, on which choices are "
                    f"made, begins on day {self.valid[0]}: what is learnt from has to end before"
                )
        if self.valid[1] >= self.test[0]:
            raise ValueError(
                f"windows.valid ends on day {self.valid[1]}, but windows.test begins on day "
                f"{self.test[0]}: choices would be made on days that are reported"
            )

    def pairs(self) -> dict[str, tuple[int, int]]:
        """The windows by name, without the single day `ranker_closed`."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, tuple)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """The windows of one log: first and last day (1-based, both included); see WindowSettings."""

    train: tuple[int, int]
    valid: tuple[int, int]
    test: tuple[int, int]
    graph: tuple[int, int]
    id: tuple[int, int]
    user: tuple[int, int]
    two_tower: tuple[int, int]
    ranker: tuple[int, int]
    ranker_closed: int
    calibration: tuple[int, int]


def resolve(settings: WindowSettings, calendar: Calendar | None) -> Windows:
    """Scales the windows to the log's first length and moves them with its end.

    Borders that differ in the settings differ in the result. A window that starts on day 1 starts
    there in any log; all other borders move by the days added since the first preparation.

    Raises:
        UserError: the log has no clock, or fewer days than the windows have borders.
    """
    if calendar is None:
        raise UserError("time windows need a clock; set split.kind=leave_one_out or column")
    borders = _scaled_borders(settings, calendar.base_days)
    shift = calendar.num_days - calendar.base_days
    pairs = {
        name: (1 if first == 1 else borders[first - 1] + shift + 1, borders[last] + shift)
        for name, (first, last) in settings.pairs().items()
    }
    return Windows(ranker_closed=borders[settings.ranker_closed] + shift, **pairs)


def refuse_overlap(settings: WindowSettings, windows: Windows, read: str) -> None:
    """Raises UserError when a model would learn from days that what it reads has learnt from.

    Args:
        settings: whether that is allowed.
        windows: of the log.
        read: "graph", "id" or "user", whose embeddings are read; ID rows by the retriever alone.
    """
    last: int = getattr(windows, read)[1]
    for name in ("two_tower",) if read == "id" else ("two_tower", "ranker"):
        first = getattr(windows, name)[0]
        if first <= last and not settings.overlap:
            raise UserError(
                f"windows.{name} begins on day {first}, but the {EMBEDDED[read]} embeddings it "
                f"reads learn from days up to {last}; end windows.{read} before, or set "
                "windows.overlap=true"
            )


def _scaled_borders(settings: WindowSettings, days: int) -> dict[int, int]:
    """Last day before each border: of 180 days -> of `days` days."""
    ends = {last for _, last in settings.pairs().values()}
    starts = {first - 1 for first, _ in settings.pairs().values()}
    scaled: dict[int, int] = {}
    below = days + 1
    for border in sorted(ends | starts | {settings.ranker_closed}, reverse=True):
        below = min(border * days // REFERENCE_DAYS, below - 1)
        scaled[border] = below
    if below < 0:
        raise UserError(
            f"the log spans {days} days, too few for {len(scaled) - 1} time windows; "
            "set split.kind=leave_one_out, or fewer distinct windows.*"
        )
    return scaled


def day_bounds(calendar: Calendar, days: tuple[int, int]) -> tuple[int, int]:
    """First millisecond of a window and the first after it."""
    return calendar.start_ms(days[0]), calendar.start_ms(days[1]) + DAY_MS
