"""What a bundle holds and how its index is built: settings of the jobs export and index."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from data.contract.settings import Count, Positive, Share
from data.pinnersage import PinnerSageSettings
from serve.index import IndexKind


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSettings:
    """What a bundle holds.

    Attributes:
        table_dtype: number format of ID tables; float32 serves scores equal to training's.
        ranker: arithmetic of the ranker over its candidates; full gives training's scores, int8
            multiplies integers of 8 bits where that saves time, which rounds them.
    """

    table_dtype: Literal["float32", "float16"] = "float32"
    ranker: Literal["full", "int8"] = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSettings:
    """How the index of a bundle is built.

    Attributes:
        kind: `flat` is exact, `ivf` has inverted lists; `auto` takes flat below 50,000 items.
        recall: share of the exact 100 nearest items that an inverted file must find.
        half_life_days: time in which a positive action's weight in the popular list halves (in
            the corpus it is `corpus.half_life_days`).
        head: items kept in the lists of popular and of new items.
        pinnersage: how users' pasts are clustered for the source of that name.
    """

    kind: IndexKind = "auto"
    recall: Share = 0.95
    half_life_days: Positive = 7.0
    head: Count = 5000
    pinnersage: PinnerSageSettings = field(default_factory=PinnerSageSettings)
