"""Judging retrieval: the full catalogue ranked by a model, its baselines and an oracle.

The result is a plain tree (JSON values), part of `metrics.json`, from which the report is drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from rich.console import Console
from rich.progress import track

from data.baselines import Popularity
from data.contract.settings import Count, Positive, UserError
from data.graph.pruning import first_interests
from data.queries import Queries, SplitLog, build_queries
from data.ranking import Catalogue, Ranking, Scorer, Scores, rank
from data.slices import (
    Slice,
    SliceRecall,
    by_activity,
    by_age,
    by_interest,
    by_popularity,
    by_share,
    slice_recall,
)
from data.splits import TEST
from models.metrics import bootstrap_interval, per_query, retrieval_metrics

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

Tree = dict[str, Any]

MODEL = "model"

Baseline = Literal["popularity", "item_knn", "bpr", "gf_cf", "pinnersage_5", "pinnersage_20"]
RankingBaseline = Literal["popularity", "logistic", "trees"]
USERS_OF_FEED, USERS_ALONE = 2000, 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalSettings:
    """How models are evaluated.

    Attributes:
        ks: cut-offs of the ranking metrics.
        max_users: evaluated users, drawn by `seed` among those with a positive; by default 2,000
            where a whole feed is built, and up to 100,000 where one model is judged alone.
        baselines: what stands beside the model; by default popularity and item-kNN, beside the
            graph model also BPR, up to 10 million events, and GF-CF, up to 200,000 item rows,
            beside the user model PinnerSage by 5 and 20 clusters, where items have vectors.
        slice_k: cut-off of the recall in slices.
        neighbors: neighbours an item keeps in the item-kNN baseline.
        popularity_half_life_days: age at which an event counts half in the popularity baseline
            (where the split has a clock).
        max_impressions: most impressions that a ranker is judged on, drawn by whole requests.
        ranking_baselines: what stands beside the ranker: popularity, logistic regression, boosted
            trees below one; [] for nothing.
        ranking_rows: about how many impressions these learn from, whole requests drawn by `seed`
            among those that the ranker learns from.
        calibration_bins: bins of equal mass in the calibration plot and error.
    """

    ks: tuple[Count, ...] = (10, 20, 50, 100, 200)
    max_users: Count | None = None
    baselines: tuple[Baseline, ...] | None = None
    slice_k: Count = 10
    neighbors: Count = 100
    popularity_half_life_days: Positive = 7.0
    max_impressions: Count = 200_000
    ranking_baselines: tuple[RankingBaseline, ...] = ("popularity", "logistic", "trees")
    ranking_rows: Count = 60_000
    calibration_bins: Annotated[int, Field(ge=2)] = 10

    def __post_init__(self) -> None:
        if not self.ks:
            raise ValueError("eval.ks needs at least one cut-off")
        if self.baselines == ():
            raise ValueError("eval.baselines needs at least one name, or null for the usual ones")


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """The queries of the reported part and what all scorers are judged against.

    Attributes:
        log: data set and split.
        queries: evaluated users.
        catalogue: what can be ranked.
        popularity: counts before the part, decayed.
        past: the same counts, each event as one.
        settings: cut-offs and sizes.
        classes: interest of each item row, int64[rows]; None where none is known.
    """

    log: SplitLog
    queries: Queries
    catalogue: Catalogue
    popularity: Popularity
    past: Popularity
    settings: EvalSettings
    classes: npt.NDArray[np.int64] | None = None

    @classmethod
    def of(cls, log: SplitLog, settings: EvalSettings, alone: bool = False) -> EvaluationSet:
        """Draws the queries; more where one model is judged `alone`.

        Raises:
            UserError: there is nothing to predict.
        """
        limit = settings.max_users or (USERS_ALONE if alone else USERS_OF_FEED)
        queries = build_queries(log, TEST, limit)
        if len(queries) == 0:
            raise UserError(
                "nothing to evaluate: no user has a positive action on a new item in the reported "
                "part; check split.* , windows.test and source.polarity"
            )
        popularity = Popularity.fit(log, TEST, settings.popularity_half_life_days)
        decays = log.start_ms(TEST) is not None
        past = Popularity.fit(log, TEST, math.inf) if decays else popularity
        catalogue, classes = Catalogue.of(log.dataset), first_interests(log.dataset)
        known = classes if classes.any() else None
        return cls(log, queries, catalogue, popularity, past, settings, known)

    def slices(self) -> list[Slice]:
        """The groupings that this data set allows."""
        interests = _interests(self.log)
        found = [
            by_activity(self.queries),
            by_popularity(self.popularity.counts, self.catalogue),
            by_share(self.past.counts, self.catalogue),
            by_age(self.queries, self.catalogue),
            by_interest(interests, self.queries) if interests is not None else None,
        ]
        return [group for group in found if group is not None]


def _interests(log: SplitLog) -> pa.Array | None:
    """The item column of interests, or else the first list of values that items have."""
    lists = [f.name for f in log.dataset.vocabulary.item_features if f.kind == "multi"]
    if not lists:
        return None
    return log.dataset.items.columns["interests" if "interests" in lists else lists[0]]


def judge_retrieval(held_out: EvaluationSet, scorers: Mapping[str, Scorer]) -> Tree:
    """Ranks the catalogue by each scorer.

    Args:
        held_out: the queries.
        scorers: name -> scorer, the model first under the name `model`.

    Returns:
        queries, positives, reachable (share of positives that could be ranked), items;
        metrics: scorer -> metric -> value; intervals: scorer -> metric -> 95% over users;
        slices: list of {name, k, labels, positives, recall: scorer -> values}.
    """
    slices = held_out.slices()
    judged = {
        name: _judged(scorer, held_out, slices)
        for name, scorer in track(
            scorers.items(), "ranking the catalogue", console=Console(stderr=True)
        )
    }
    recalls = {name: found.recalls for name, found in judged.items()}
    return {
        "queries": len(held_out.queries),
        "positives": len(held_out.queries.positives),
        "reachable": _reachable(held_out),
        "items": held_out.catalogue.num_items,
        "metrics": {name: found.metrics for name, found in judged.items()},
        "intervals": {name: found.intervals for name, found in judged.items()},
        "slices": [
            _slice(group, {name: of[number] for name, of in recalls.items()}, held_out)
            for number, group in enumerate(slices)
        ],
    }


@dataclass(frozen=True, slots=True)
class _Judged:
    """What is kept of a scorer's ranking, which takes some MB for each thousand queries."""

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    recalls: list[SliceRecall]


def _judged(scorer: Scorer, held_out: EvaluationSet, slices: Sequence[Slice]) -> _Judged:
    settings, queries = held_out.settings, held_out.queries
    depth = max(*settings.ks, settings.slice_k)
    ranking = rank(scorer, queries, held_out.catalogue, depth)
    recalls = [slice_recall(group, ranking, queries, settings.slice_k) for group in slices]
    return _Judged(_metrics(ranking, held_out), _intervals(ranking, held_out), recalls)


def _metrics(ranking: Ranking, held_out: EvaluationSet) -> dict[str, float]:
    return retrieval_metrics(
        ranking.items,
        ranking.hits,
        ranking.num_positives,
        held_out.catalogue.num_items,
        held_out.settings.ks,
        held_out.classes,
    )


def _intervals(ranking: Ranking, held_out: EvaluationSet) -> dict[str, tuple[float, float]]:
    values = per_query(ranking.hits, ranking.num_positives, held_out.settings.ks[0])
    return {name: bootstrap_interval(value, held_out.log.seed) for name, value in values.items()}


def _reachable(held_out: EvaluationSet) -> float:
    """Share of the positives that were in the catalogue at the moment of their query."""
    queries, catalogue = held_out.queries, held_out.catalogue
    there = catalogue.live[queries.positives]
    if queries.now_ms is not None:
        moments = queries.now_ms[queries.positive_owners]
        there &= catalogue.created_at[queries.positives] <= moments
    return float(there.mean())


def _slice(group: Slice, found: Mapping[str, SliceRecall], held_out: EvaluationSet) -> Tree:
    return {
        "name": group.name,
        "k": held_out.settings.slice_k,
        "labels": list(group.labels),
        "positives": next(iter(found.values())).positives.tolist(),
        "recall": {name: value.recall for name, value in found.items()},
    }


def beside(found: Tree, others: Tree) -> Tree:
    """Joins two results of `judge_retrieval` on the same queries; the scorers of `found` lead."""
    joined = {name: found[name] | others[name] for name in ("metrics", "intervals")}
    slices = [
        group | {"recall": group["recall"] | other["recall"]}
        for group, other in zip(found["slices"], others["slices"], strict=True)
    ]
    return found | joined | {"slices": slices}


class StreamedScores:
    """Lets an iterator of score chunks, in the order of the queries, serve as a scorer."""

    def __init__(self, chunks: Iterator[Scores]) -> None:
        """Takes the chunks; their sizes need not be those asked for."""
        self._lines = (line for chunk in chunks for line in chunk)

    def __call__(self, queries: Queries) -> Scores:
        """The next `len(queries)` lines."""
        return np.stack([next(self._lines) for _ in range(len(queries))])
