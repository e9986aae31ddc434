"""What stands beside a ranker: popularity, logistic regression, boosted trees.

They learn from impressions that the ranker learns from, a sample of whole requests, and are judged
on the same impressions of the reported part, once for all rankers of a data set.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data.baselines import Popularity
from data.dataset import Dataset
from data.impression_features import ImpressionFeatures
from data.queries import SplitLog
from data.splits import TEST, TRAIN, VALID
from ray_jobs.engine.predictions import draws, judge, read_impressions
from ray_jobs.engine.ranking_model import users_of
from ray_jobs.tasks.ranker import candidate_files

if TYPE_CHECKING:
    from data.contract.artifact import Draft
    from data.contract.encode import Mask
    from data.impression_features import Described
    from ray_jobs.engine.evaluation import RankingBaseline
    from ray_jobs.engine.subject import Subject

Tree = dict[str, Any]
Floats = npt.NDArray[np.float32]

METRICS = "metrics.json"
ONLY_ORDERS = ("auc", "auc_of_touched")
TREES_SEED = 0x7EE5


class ClickModel(Protocol):
    """Probability of one action."""

    def probabilities(self, described: Described) -> Floats:
        """Of each impression, [N]."""
        ...


@dataclass(frozen=True, slots=True)
class RankingBaselines:
    """Fitted baselines.

    Attributes:
        log: whose actions are foretold, read without learnt embeddings.
        features: known before the reported part's impressions.
        popularity: counts before the reported part.
        models: name -> a model for each action.
        rows: impressions that they have learnt from.
    """

    log: SplitLog
    features: ImpressionFeatures
    popularity: Popularity
    models: Mapping[str, Sequence[ClickModel]]
    rows: int

    @classmethod
    def fit(
        cls, subject: Subject, names: Sequence[RankingBaseline], asked: Mask
    ) -> RankingBaselines:
        """Learns from a sample of the impressions that the ranker is trained on.

        `asked` are the users whose impressions will be judged, [rows].
        """
        settings = subject.job.settings.eval
        plain = Dataset(subject.log.dataset.artifact, subject.job.root)
        log, half_life = replace(subject.log, dataset=plain), settings.popularity_half_life_days
        lessons = learnt_from(subject)
        taught = users_of(lessons, plain)
        described = ImpressionFeatures.of(log, (TRAIN,), half_life, taught).of_impressions(lessons)
        own = draws(lessons, TREES_SEED) < np.uint64(1) << np.uint64(63)
        labels = [np.asarray(lessons[f"label.{a}"]).astype(bool) for a in plain.vocabulary.actions]
        models: dict[str, list[ClickModel]] = {
            name: [_fitted(name, described, of_action, own) for of_action in labels]
            for name in names
            if name != "popularity"
        }
        features = ImpressionFeatures.of(log, known_parts(subject), half_life, asked)
        return cls(log, features, Popularity.fit(log, TEST, half_life), models, lessons.num_rows)

    def probabilities(self, impressions: pa.Table) -> dict[str, Floats]:
        """Of each action at each impression, by name of the baseline. float32[N, actions]."""
        described = self.features.of_impressions(impressions)
        return {
            name: np.stack([model.probabilities(described) for model in models], axis=1)
            for name, models in self.models.items()
        }

    def counts(self, impressions: pa.Table) -> Floats:
        """How popular each item shown is, for each action alike. float32[N, actions]."""
        counts = self.popularity.counts[impressions["item"].to_numpy()]
        return np.repeat(counts[:, None], len(self.log.dataset.vocabulary.actions), axis=1)


def ranking_baselines(subject: Subject, impressions: pa.Table) -> Tree:
    """What no ranker changes is fitted and judged once for all rankers of a data set.

    Args:
        subject: data set, and which impressions rankers learn from.
        impressions: those that are judged.

    Returns:
        rows (that they have learnt from), actions: action -> baseline -> metric -> value.
    """
    names = subject.job.settings.eval.ranking_baselines
    if not names:
        return {"rows": 0, "actions": {a: {} for a in subject.log.dataset.vocabulary.actions}}
    settings = subject.settings | {"ranking": list(names)}

    def write(draft: Draft) -> None:
        asked = users_of(impressions, subject.log.dataset)
        fitted = RankingBaselines.fit(subject, names, asked)
        found = judge_baselines(fitted, impressions, "popularity" in names)
        (draft.path / METRICS).write_text(json.dumps({"rows": fitted.rows, "actions": found}))

    made = [subject.candidates] if subject.candidates else []
    parents = [subject.log.dataset.artifact, *made]
    artifact = subject.job.make("baselines", parents, settings, write, move_pointer=False)
    tree: Tree = json.loads((artifact.path / METRICS).read_text())
    return tree


def judge_baselines(fitted: RankingBaselines, impressions: pa.Table, popularity: bool) -> Tree:
    """Metrics by action and baseline; popularity foretells nothing, so that it only orders."""
    actions = fitted.log.dataset.vocabulary.actions
    judged = {
        name: judge(impressions, actions, predicted)
        for name, predicted in fitted.probabilities(impressions).items()
    }
    if popularity:
        by_action = judge(impressions, actions, fitted.counts(impressions))
        ordered = {a: {name: m[name] for name in ONLY_ORDERS} for a, m in by_action.items()}
        judged = {"popularity": ordered} | judged
    return {action: {name: found[action] for name, found in judged.items()} for action in actions}


def known_parts(subject: Subject) -> tuple[int, ...]:
    """Parts whose events requests of the reported part may know.

    Candidates count the events they know, which are those of the earlier parts.
    """
    return (TRAIN, VALID) if subject.candidates else (TRAIN, VALID, TEST)


def learnt_from(subject: Subject) -> pa.Table:
    """About `eval.ranking_rows` of the impressions that the ranker learns from."""
    log, settings = subject.log, subject.job.settings
    if subject.candidates:
        files = candidate_files(subject.job.root, subject.candidates.version, ("train",))
    else:
        assert log.windows is not None
        files = log.dataset.impression_files(*log.windows.ranker)
    table = read_impressions(files, settings.eval.ranking_rows, settings.seed)
    if log.windows and log.dataset.calendar:
        limit = log.dataset.calendar.start_ms(log.windows.ranker_closed + 1)
        table = table.filter(pc.less_equal(table["labels_closed_at"], limit))
    return table.filter(pa.array(~log.unseen(table["user"].to_numpy().astype(np.int64))))


def _fitted(
    name: str, described: Described, labels: npt.NDArray[np.bool_], own: npt.NDArray[np.bool_]
) -> ClickModel:
    """One head; of an action that is nowhere, or everywhere, in either half its share."""
    # Not above: their libraries take a second and a half to import, of every job.
    from ray_jobs.engine.click_models import Always, Logistic, Trees

    if min(labels[own].sum(), labels[~own].sum()) == 0 or labels[own].all() or labels[~own].all():
        return Always(float(labels.mean()) if len(labels) else 0.0)
    if name == "logistic":
        return Logistic.fit(described, labels)
    return Trees.fit(described, labels, own, TREES_SEED)
