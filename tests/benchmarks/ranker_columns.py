"""What the default world's data set says of itself, written down: nothing here needs arrays.

A ranker built for it has the columns and sizes of the default run, without the run. The classes
have the fields of `data.contract.schema`, which needs pyarrow; benchmarks for GPUs run without.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """As `data.contract.schema.Feature`."""

    name: str
    kind: str
    dim: int = 0
    cardinality: int = 0
    mean: float = 0.0
    std: float = 1.0
    low: float = 0.0
    high: float = 0.0
    log: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """As `data.contract.schema.Vocabulary`."""

    order: str
    actions: tuple[str, ...]
    polarity: tuple[str, ...]
    surfaces: tuple[str, ...]
    item_features: tuple[Column, ...]
    user_features: tuple[Column, ...]

    def codes(self, polarity: str) -> list[int]:
        """Codes of the actions of one polarity."""
        return [code for code, known in enumerate(self.polarity, start=1) if known == polarity]


def _codes(**cardinality: int) -> tuple[Column, ...]:
    return tuple(
        Column(name=name, kind="categorical", cardinality=count)
        for name, count in cardinality.items()
    )


WORLD = Columns(
    order="clock",
    actions=("click", "closeup", "hide", "save"),
    polarity=("positive", "positive", "negative", "positive"),
    surfaces=("home", "search"),
    item_features=(
        Column(name="bid", kind="numeric", mean=0.68, std=0.37, low=0.13, high=2.39),
        Column(name="budget", kind="numeric", mean=3.9, std=1.1, low=3.0, high=934.0, log=True),
        *_codes(campaign_id=393, creator_id=1000, format=4, image_signature=18799),
        *_codes(language=4, title=978),
        Column(name="interests", kind="multi", cardinality=200),
        Column(name="content", kind="vector", dim=64),
        Column(name="graph_embedding", kind="vector", dim=64),
    ),
    user_features=_codes(age_band=5, country=9, device=3, language=4),
)
