"""Judging models: full-catalogue retrieval beside its baselines, and predictions on impressions.

Everything here returns plain trees (JSON values), the content of `metrics.json`, from which the
report is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field
from rich.progress import track

from data.baselines import ItemNeighbors, Popularity
from data.contract.idspace import hash_ids
from data.contract.settings import Count, Positive, UserError
from data.queries import Queries, SplitLog, build_queries
from data.ranking import Catalogue, Ranking, Scorer, Scores, rank
from data.slices import Slice, by_activity, by_age, by_interest, by_popularity, slice_recall
from data.splits import TEST
from models.metrics import (
    auc,
    bootstrap_interval,
    per_query,
    ranking_metrics,
    reliability,
    retrieval_metrics,
)
from ray_jobs.engine.job import console

Tree = dict[str, Any]
Probabilities = Callable[[pa.Table], npt.NDArray[np.float32]]

MODEL = "model"
INTERVAL_METRICS = ("recall", "ndcg", "hit_rate", "mrr")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalSettings:
    """How models are evaluated.

    Attributes:
        ks: cut-offs of the ranking metrics.
        max_users: evaluated users, drawn by `seed` among those with a positive.
        slice_k: cut-off of the recall in slices.
        neighbors: neighbours an item keeps in the item-kNN baseline.
        popularity_half_life_days: age at which an event counts half in the popularity baseline
            (where the split has a clock).
        max_impressions: most impressions that a ranker is judged on, drawn by whole requests.
        calibration_bins: bins of equal mass in the calibration plot and error.
    """

    ks: tuple[Count, ...] = (10, 20, 50, 100, 200)
    max_users: Count = 2000
    slice_k: Count = 10
    neighbors: Count = 100
    popularity_half_life_days: Positive = 7.0
    max_impressions: Count = 200_000
    calibration_bins: Annotated[int, Field(ge=2)] = 10

    def __post_init__(self) -> None:
        if not self.ks:
            raise ValueError("eval.ks needs at least one cut-off")


@dataclass(frozen=True, slots=True)
class Trial:
    """The queries of the reported part and what all scorers are judged against.

    Attributes:
        log: data set and split.
        queries: evaluated users.
        catalogue: what can be ranked.
        popularity: counts before the part.
        settings: cut-offs and sizes.
    """

    log: SplitLog
    queries: Queries
    catalogue: Catalogue
    popularity: Popularity
    settings: EvalSettings

    @classmethod
    def of(cls, log: SplitLog, settings: EvalSettings) -> Trial:
        """Draws the queries. Raises UserError when there is nothing to predict."""
        queries = build_queries(log, TEST, settings.max_users)
        if len(queries) == 0:
            raise UserError(
                "nothing to evaluate: no user has a positive action on a new item in the reported "
                "part; check split.* , windows.test and source.polarity"
            )
        popularity = Popularity.fit(log, TEST, settings.popularity_half_life_days)
        return cls(log, queries, Catalogue.of(log.dataset), popularity, settings)

    def baselines(self) -> dict[str, Scorer]:
        """What stands beside every number."""
        neighbors = ItemNeighbors.fit(self.log, TEST, self.settings.neighbors)
        return {"popularity": self.popularity.scores, "item_knn": neighbors.scores}

    def slices(self) -> list[Slice]:
        """The groupings that this data set allows."""
        interests = _interests(self.log)
        found = [
            by_activity(self.queries),
            by_popularity(self.popularity.counts, self.catalogue),
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


def judge_retrieval(trial: Trial, scorers: Mapping[str, Scorer]) -> Tree:
    """Ranks the catalogue by each scorer.

    Args:
        trial: the queries.
        scorers: name -> scorer, the model first under the name `model`.

    Returns:
        queries, positives, reachable (share of positives that could be ranked), items;
        metrics: scorer -> metric -> value; intervals: scorer -> metric -> 95% over users;
        slices: list of {name, k, labels, positives, recall: scorer -> values}.
    """
    depth = max(*trial.settings.ks, trial.settings.slice_k)
    rankings = {
        name: rank(scorer, trial.queries, trial.catalogue, depth)
        for name, scorer in track(scorers.items(), "ranking the catalogue", console=console)
    }
    return {
        "queries": len(trial.queries),
        "positives": len(trial.queries.positives),
        "reachable": _reachable(trial),
        "items": trial.catalogue.num_items,
        "metrics": {name: _metrics(r, trial) for name, r in rankings.items()},
        "intervals": {name: _intervals(r, trial) for name, r in rankings.items()},
        "slices": [_slice(group, rankings, trial) for group in trial.slices()],
    }


def _metrics(ranking: Ranking, trial: Trial) -> dict[str, float]:
    return retrieval_metrics(
        ranking.items,
        ranking.hits,
        ranking.num_positives,
        trial.catalogue.num_items,
        trial.settings.ks,
    )


def _intervals(ranking: Ranking, trial: Trial) -> dict[str, tuple[float, float]]:
    values = per_query(ranking.hits, ranking.num_positives, trial.settings.ks[0])
    return {name: bootstrap_interval(value, trial.log.seed) for name, value in values.items()}


def _reachable(trial: Trial) -> float:
    """Share of the positives that were in the catalogue at the moment of their query."""
    queries, catalogue = trial.queries, trial.catalogue
    there = catalogue.live[queries.positives]
    if queries.now_ms is not None:
        moments = queries.now_ms[queries.positive_owners]
        there &= catalogue.created_at[queries.positives] <= moments
    return float(there.mean())


def _slice(group: Slice, rankings: Mapping[str, Ranking], trial: Trial) -> Tree:
    k = trial.settings.slice_k
    found = {name: slice_recall(group, r, trial.queries, k) for name, r in rankings.items()}
    return {
        "name": group.name,
        "k": k,
        "labels": list(group.labels),
        "positives": next(iter(found.values())).positives.tolist(),
        "recall": {name: value.recall for name, value in found.items()},
    }


class StreamedScores:
    """Lets an iterator of score chunks, in the order of the queries, serve as a scorer."""

    def __init__(self, chunks: Iterator[Scores]) -> None:
        """Takes the chunks; their sizes need not be those asked for."""
        self._lines = (line for chunk in chunks for line in chunk)

    def __call__(self, queries: Queries) -> Scores:
        """The next `len(queries)` lines."""
        return np.stack([next(self._lines) for _ in range(len(queries))])


def draw_requests(tables: Iterator[pa.Table], total: int, most: int, seed: int) -> pa.Table:
    """Whole requests drawn by the hash of their id, about `most` impressions.

    Args:
        tables: impressions.
        total: rows in all of them.
        most: rows wanted.
        seed: of the draw.

    Returns:
        All of the impressions when there are fewer than `most`.
    """
    if total <= most:
        return pa.concat_tables(tables)
    limit = np.uint64(most / total * 2.0**64)
    return pa.concat_tables(table.filter(pa.array(_draws(table, seed) < limit)) for table in tables)


def _draws(table: pa.Table, seed: int) -> npt.NDArray[np.uint64]:
    salt = hash_ids(pa.array([seed], pa.int64())).view(np.int64)[0]
    return hash_ids(pa.array(table["request_id"].to_numpy() ^ salt))


def judge_ranking(
    impressions: pa.Table,
    actions: Sequence[str],
    probabilities: Probabilities,
    popularity: Popularity,
    bins: int,
) -> Tree:
    """Predictions on impressions, one entry an action.

    Args:
        impressions: with a column `label.<action>` each.
        actions: names, in the order of the model's outputs.
        probabilities: gives float32[N, actions].
        popularity: whose ranking of the same impressions stands beside.
        bins: of the reliability diagram.

    Returns:
        action -> auc, log_loss, calibration, ece, positive_rate (None where undefined),
        popularity: {auc}, reliability: {predicted, actual, count}.
    """
    predicted = probabilities(impressions)
    counts = popularity.counts[impressions["item"].to_numpy()]
    found: Tree = {}
    for column, action in enumerate(actions):
        labels = np.asarray(impressions[f"label.{action}"]).astype(bool)
        curve = reliability(labels, predicted[:, column], bins)
        found[action] = {
            **ranking_metrics(labels, predicted[:, column]),
            "popularity": {"auc": auc(labels, counts)},
            "reliability": {
                "predicted": curve.predicted.tolist(),
                "actual": curve.actual.tolist(),
                "count": curve.count.tolist(),
            },
        }
    return found


def without_nan(value: Any) -> Any:
    """The same tree with None for NaN, which JSON cannot say."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
