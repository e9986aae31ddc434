"""What stands beside every number: baselines, fitted on what the model may know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.baselines import ItemNeighbors
from data.factorization import MatrixFactorization
from data.graph_filter import GraphFilter
from data.pinnersage import PinnerSage, PinnerSageSettings
from data.splits import TEST
from ray_jobs.engine.job import console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data.ranking import Scorer
    from ray_jobs.engine.evaluation import Baseline, EvaluationSet

USUAL: tuple[Baseline, ...] = ("popularity", "item_knn")
BESIDE_GRAPH: tuple[Baseline, ...] = (*USUAL, "bpr", "gf_cf")
BESIDE_USER: tuple[Baseline, ...] = (*USUAL, "pinnersage_5", "pinnersage_20")
ROWS_OF_FILTER = 200_000
EVENTS_OF_BPR = 10_000_000  # 200 epochs of so many take a core some 20 minutes
CLUSTERS = {"pinnersage_5": 5, "pinnersage_20": 20}


def baselines(held_out: EvaluationSet, names: Sequence[Baseline] = USUAL) -> dict[str, Scorer]:
    """Those that the settings name, else those wanted that the log allows.

    Unless named, GF-CF needs at most `ROWS_OF_FILTER` item rows and BPR at most `EVENTS_OF_BPR`
    events; PinnerSage needs a column of item vectors. Prints which are not there.

    Args:
        held_out: what is evaluated.
        names: those wanted unless the settings name others.
    """
    chosen = held_out.settings.baselines
    wanted = chosen or [name for name in names if _is_affordable(held_out, name)]
    fitted = {name: _fitted(held_out, name) for name in wanted}
    found: dict[str, Scorer] = {name: one for name, one in fitted.items() if one is not None}
    if absent := [name for name in chosen or names if name not in found]:
        console.print(
            f"not beside it: {', '.join(absent)}, for which the log is too large (eval.baselines "
            "asks for them all the same) or has no item vectors"
        )
    return found


def _is_affordable(held_out: EvaluationSet, name: Baseline) -> bool:
    """Whether a baseline that nobody has asked for takes minutes, not hours."""
    if name == "gf_cf":
        return held_out.catalogue.rows <= ROWS_OF_FILTER
    return name != "bpr" or held_out.log.dataset.counts["events"] <= EVENTS_OF_BPR


def _fitted(held_out: EvaluationSet, name: Baseline) -> Scorer | None:
    log, settings = held_out.log, held_out.settings
    if name == "item_knn":
        return ItemNeighbors.fit(log, TEST, settings.neighbors).scores
    if name == "bpr":
        return MatrixFactorization.fit(log, TEST).scores
    if name == "gf_cf":
        return GraphFilter.fit(log, TEST).scores
    if name in CLUSTERS:
        rules = PinnerSageSettings(clusters=CLUSTERS[name])
        clustered = PinnerSage.fit(log.dataset, rules)
        return clustered.scores if clustered else None
    return held_out.popularity.scores
