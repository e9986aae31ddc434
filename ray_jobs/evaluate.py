"""Evaluates the current models: `python -m ray_jobs.evaluate root=runs/default [model=two_tower]`.

Retrieval over the full catalogue beside popularity, item-kNN and, in the built-in world, the oracle
of its logged future; predictions of the ranker on impressions of the reported part. This is the
only job that opens the world's hidden state. Leaves `report.html` and `metrics.json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from data.contract.artifact import Artifact, Draft, has_current
from data.contract.settings import UserError
from data.contract.storage import uri_of
from data.requests import UserEvents
from data.splits import TRAIN, VALID
from data.training_log import TrainingLog
from data.trends import Trends
from data.world.oracles import oracle_log
from ray_jobs.embed import open_graph_model
from ray_jobs.engine.baselines import BESIDE_GRAPH, BESIDE_USER, CLUSTERS, USUAL, baselines
from ray_jobs.engine.calibration import Predicted, judge_calibration
from ray_jobs.engine.evaluation import (
    MODEL,
    EvaluationSet,
    StreamedScores,
    Tree,
    beside,
    judge_retrieval,
)
from ray_jobs.engine.graph_evaluation import ITEM_TO_ITEM, LastItem, spread
from ray_jobs.engine.inference import Retriever
from ray_jobs.engine.job import Job, console, run
from ray_jobs.engine.model_kinds import MODELS, Model
from ray_jobs.engine.plain_json import without_nan
from ray_jobs.engine.predictions import judge_ranking
from ray_jobs.engine.ranking_baselines import known_parts, ranking_baselines
from ray_jobs.engine.ranking_model import RankingModel, users_of
from ray_jobs.engine.report import (
    Section,
    calibration_section,
    graph_section,
    ranking_section,
    retrieval_sections,
    show,
    training_section,
    user_section,
    write_report,
)
from ray_jobs.engine.subject import Subject
from ray_jobs.engine.user_evaluation import refresh_and_actions
from ray_jobs.sample import Cutoff
from ray_jobs.simulate import latents_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

    from data.contract.encode import Mask
    from data.queries import Queries
    from data.ranking import Scores
    from ray_jobs.engine.evaluation import Baseline

RETRIEVERS = ("two_tower", "user", "id")  # the first that is there is judged
METRICS, REPORT = "metrics.json", "report.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateArguments:
    """Words of the job.

    Attributes:
        model: which model to evaluate; every current one if not given.
    """

    model: Model | None = None


def evaluate(
    job: Job,
    models: Sequence[Model],
    trained: Mapping[str, Artifact] | None = None,
    move_pointer: bool = True,
) -> Artifact:
    """Judges models on the reported part of the current data set.

    Args:
        job: settings and root.
        models: kinds to evaluate.
        trained: artefacts to take instead of the current ones.
        move_pointer: whether the result becomes the current evaluation.

    Returns:
        The artefact; `manifest.metrics` is {retrieval: {...}, ranking: {...}}, without ranking
        where there are other models and no impressions in the reported part.

    Raises:
        UserError: a model has learnt from reported days, or there is nothing to evaluate.
    """
    subject = Subject.open(job, models, trained or {})

    def write(draft: Draft) -> None:
        found = without_nan(_judge(subject))
        (draft.path / METRICS).write_text(json.dumps(found, indent=1))
        write_report(draft.path / REPORT, "Evaluation", subject.facts, _sections(found, subject))
        draft.fields["metrics"] = _summary(found)

    artifact = job.make("evaluation", subject.parents, subject.settings, write, move_pointer)
    show(_sections(json.loads((artifact.path / METRICS).read_text()), subject))
    return artifact


def _judge(subject: Subject) -> Tree:
    """The content of `metrics.json`."""
    found: Tree = {"ks": list(subject.job.settings.eval.ks)}
    found |= dict.fromkeys(("retrieval", "ranking", "graph", "user"))
    if set(RETRIEVERS) & set(subject.models):
        found |= _retrieval(subject)
    elif "graph" in subject.models:
        found |= _graph(subject)
    if "ranker" in subject.models and _can_rank(subject):
        found["ranking"] = _ranking(subject)
    return found


def _can_rank(subject: Subject) -> bool:
    """Whether there is anything to judge a ranker on; without, other models are judged alone."""
    if len(subject.models) == 1 or subject.has_impressions():
        return True
    console.print("the reported part has no impressions: the ranker is not judged")
    return False


def _retrieval(subject: Subject) -> Tree:
    """What retrieves beside its baselines; of the user model alone, what fresh vectors find too."""
    held_out = EvaluationSet.of(subject.log, subject.job.settings.eval, len(subject.models) == 1)
    trends = Trends.of(subject.log, (TRAIN, VALID))
    kind = next(kind for kind in RETRIEVERS if kind in subject.models)
    names = USUAL if kind == "two_tower" else BESIDE_USER
    retriever = Retriever.open(subject.models[kind], subject.datasets[kind], trends)
    found: Tree = {
        "retrieval": beside(
            judge_retrieval(held_out, {MODEL: retriever.scores}),
            _baselines(subject, held_out, names),
        )
    }
    if set(subject.models) == {"user"} and subject.log.windows:
        k = subject.job.settings.eval.slice_k
        found["user"] = refresh_and_actions(subject.log, retriever.scores, k)
    return found


def _graph(subject: Subject) -> Tree:
    """Users to items beside the baselines, items to items, and the spread of the space."""
    held_out = EvaluationSet.of(subject.log, subject.job.settings.eval, alone=True)
    cutoff = Cutoff.before_test(subject.log.windows)
    artifact = subject.models["graph"]
    embedder = open_graph_model(subject.job, subject.log.dataset, artifact, cutoff)
    scorers = {MODEL: embedder.scores, ITEM_TO_ITEM: LastItem(embedder).scores}
    retrieval = beside(
        judge_retrieval(held_out, scorers), _baselines(subject, held_out, BESIDE_GRAPH)
    )
    return {"retrieval": retrieval, "graph": spread(embedder, subject.log.seed)}


def _baselines(subject: Subject, held_out: EvaluationSet, names: Sequence[Baseline]) -> Tree:
    """What no model changes is judged once for all models of a data set, and its item vectors."""
    settings = subject.settings | {"names": list(names), "queries": len(held_out.queries)}

    def write(draft: Draft) -> None:
        scorers = baselines(held_out, names)
        if subject.job.settings.source.kind == "world" and subject.log.windows:
            scorers["oracle_log"] = StreamedScores(oracle_scores(subject, held_out.queries))
        (draft.path / METRICS).write_text(json.dumps(judge_retrieval(held_out, scorers)))

    dataset, chosen = subject.log.dataset, subject.job.settings.eval.baselines or names
    vectors = dataset.vectors if CLUSTERS.keys() & {*chosen} else None
    parents = [dataset.artifact, *([vectors] if vectors else [])]
    artifact = subject.job.make("baselines", parents, settings, write, move_pointer=False)
    found: Tree = json.loads((artifact.path / METRICS).read_text())
    return found


def oracle_scores(subject: Subject, queries: Queries) -> Iterator[Scores]:
    """Scores by the world's own probabilities: the ceiling of recall on its log.

    Users and items that the world does not know (posted over HTTP) score 0.

    Args:
        subject: whose world and windows.
        queries: Q evaluated users.

    Yields:
        float32[b, rows], Q lines in all.
    """
    dataset, windows = subject.log.dataset, subject.log.windows
    assert windows is not None
    first, last = windows.test
    item_ids = dataset.item_ids.external(
        np.arange(dataset.item_ids.first_row, dataset.item_ids.rows)
    )
    known = dataset.users_created_at[queries.users] > 0
    lines = (
        line
        for chunk in oracle_log(
            latents_folder(subject.job),
            np.asarray(dataset.user_ids.external(queries.users[known])),
            np.asarray(item_ids),
            first - 1,
            horizon_days=last - first + 1,
        )
        for line in chunk
    )
    for has_line in known.tolist():
        scores = np.zeros((1, dataset.item_ids.rows), np.float32)
        if has_line:
            scores[0, dataset.item_ids.first_row :] = next(lines)
        yield scores


def _ranking(subject: Subject) -> Tree:
    """Predictions on impressions of the reported part, beside those of the baselines."""
    impressions, names = subject.impressions(), subject.datasets["ranker"].vocabulary.actions
    predicted, segments = _predicted(subject, impressions)
    bins = subject.job.settings.eval.calibration_bins
    actions = judge_ranking(impressions, names, predicted.after, bins)
    others = ranking_baselines(subject, impressions)
    return {
        "impressions": impressions.num_rows,
        "baselines_rows": others["rows"],
        "actions": {action: found | others["actions"][action] for action, found in actions.items()},
        "calibration": judge_calibration(impressions, names, predicted, segments),
    }


def _predicted(subject: Subject, impressions: pa.Table) -> tuple[Predicted, Mask]:
    """What the ranker foretells, and the segments (`RankingModel.segments`).

    What it knew of their users is let go of before the baselines gather theirs.
    """
    dataset, parts = subject.datasets["ranker"], known_parts(subject)
    asked = users_of(impressions, dataset)
    model = RankingModel.open(subject.models["ranker"], dataset, subject.calibration)
    model.knowing(subject.log, parts, asked)
    logits = model.logits(impressions, UserEvents.of(TrainingLog(subject.log, parts), asked))
    segments = model.segments(impressions)
    after = model.calibrators(logits, segments)
    return Predicted(model.uncalibrated(logits, segments), after), segments


def _summary(found: Tree) -> Tree:
    """What the summaries of jobs carry of an evaluation."""
    summary: Tree = {}
    if found["retrieval"]:
        metrics = dict(found["retrieval"]["metrics"])
        summary["retrieval"] = (
            {"queries": found["retrieval"]["queries"]} | metrics.pop(MODEL) | metrics
        )
    for name in ("graph", "user"):
        if found[name]:
            summary[name] = found[name]
    if found["ranking"]:
        summary["ranking"] = {
            action: {name: v for name, v in values.items() if name != "reliability"}
            | {"uncalibrated": found["ranking"]["calibration"]["actions"][action]["before"]}
            for action, values in found["ranking"]["actions"].items()
        }
    return summary


def _sections(found: Tree, subject: Subject) -> list[Section]:
    sections: list[Section] = []
    if found["retrieval"]:
        sections += retrieval_sections(found["retrieval"], found["ks"])
    if found["graph"]:
        sections.append(graph_section(found["graph"]))
    if found.get("user"):  # not in what earlier releases left
        sections.append(user_section(found["user"]))
    if found["ranking"]:
        source = "the retriever's candidates" if subject.candidates else "the log"
        sections.append(ranking_section(found["ranking"], source))
        sections.append(calibration_section(found["ranking"]["calibration"]))
    for kind, artifact in subject.models.items():
        sections.append(training_section(kind, artifact.manifest.details["phases"]))
    return sections


def main(job: Job) -> dict[str, Any]:
    """Evaluates the current models, or one of them, on the reported part."""
    chosen = [job.arguments.model] if job.arguments.model else _current_models(job.root)
    with job.stage("evaluate"):
        artifact = evaluate(job, chosen)
    report = uri_of(artifact.path / REPORT)
    return {"version": artifact.version, "metrics": artifact.manifest.metrics, "report": report}


def _current_models(root: Path) -> list[Model]:
    """Raises UserError when nothing is trained."""
    found = [model for model in MODELS if has_current(root, model)]
    if not found:
        raise UserError(f"{uri_of(root)} has no trained model yet; run the job train first")
    return found


if __name__ == "__main__":
    run("evaluate", main, EvaluateArguments)
