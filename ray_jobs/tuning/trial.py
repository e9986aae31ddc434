"""One trial: some settings trained under a seed, judged, and recorded so that it is run once."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from rich.markup import escape

from data.contract.artifact import find, publish, version_of
from data.contract.settings import UserError, to_tree
from data.dataset import Dataset
from ray_jobs.engine.evaluation import MODEL
from ray_jobs.engine.job import Job, console
from ray_jobs.engine.locks import turn
from ray_jobs.engine.model_kinds import MODELS, UPSTREAM, Model
from ray_jobs.engine.training import PrunedError
from ray_jobs.evaluate import METRICS, evaluate
from ray_jobs.train import train
from ray_jobs.tuning.cost import COSTS
from ray_jobs.tuning.space import Choice, leaves, with_choice

if TYPE_CHECKING:
    from data.contract.artifact import Artifact
    from ray_jobs.settings import Settings

KIND = "trials"
DECISIVE = ("split", "windows", *MODELS, "corpus", "train", "eval")

State = Literal["complete", "pruned", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One trial to be run.

    Attributes:
        choice: the settings it differs in, dotted name -> value.
        seed: of sampling and initial weights.
        number: place among the proposals of its search.
        bars: least score at each validation, None where there is none: below it, it is cut short.
        judged: whether it is also evaluated on the reported part.
        costs: what is measured beside quality, see `cost.COSTS`.
    """

    choice: Choice
    seed: int
    number: int = 0
    bars: tuple[float | None, ...] = ()
    judged: bool = True
    costs: tuple[str, ...] = ()

    def to_json(self) -> str:
        """As text, to travel."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Back from text."""
        tree = json.loads(text)
        return cls(**tree | {name: tuple(tree[name]) for name in ("bars", "costs")})

    @property
    def title(self) -> str:
        """How people are told of it."""
        return f"{label(self.choice)} seed {self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What came of a plan.

    Attributes:
        choice: dotted key -> value.
        seed: of sampling and initial weights.
        metrics: on the reported part, by name; empty when it was not judged there.
        intervals: of some of these, 95% over users.
        validation: on the part that choices are made on, at the step that was kept.
        history: the validations on the way, step and metrics of each.
        costs: what was measured beside quality.
        artifacts: kind -> version of what the trial made.
        seconds: that training and judging took, since the last start of its process.
        state: complete, pruned (cut short) or failed.
        error: why it failed, else empty.
    """

    choice: Choice
    seed: int
    metrics: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, Sequence[float]] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    history: Sequence[Mapping[str, float]] = ()
    costs: dict[str, float] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    state: State = "complete"
    error: str = ""


def label(choice: Mapping[str, Any]) -> str:
    """Settings in one line."""
    return " ".join(f"{key}={_short(value)}" for key, value in choice.items()) or "defaults"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def recorded(job: Job, plan: Plan) -> Trial | None:
    """The trial if it has been run to its end before; None too if its settings do not fit."""
    try:
        version = _version(job, with_choice(job.settings, plan.choice, plan.seed), plan)
    except UserError:
        return None
    return _found(job, version)


def _found(job: Job, version: str) -> Trial | None:
    artifact = find(job.root, KIND, version)
    return Trial(**artifact.manifest.details) if artifact else None


def _version(job: Job, settings: Settings, plan: Plan) -> str:
    tree = to_tree(settings)
    decisive = {name: tree[name] for name in DECISIVE} | {
        "model": job.arguments.model,
        "seed": plan.seed,
        "choice": plan.choice,
        "bars": plan.bars,
        "judged": plan.judged,
        "costs": plan.costs,
    }
    return version_of([Dataset.open(job.root).artifact.reference()], decisive)


def run_trial(job: Job, plan: Plan) -> Trial:
    """Trains and judges; what ends well, or is cut short, is recorded.

    An error is the trial's result: it is not recorded, so that the same command tries it again.
    """
    console.rule(escape(plan.title), align="left")
    try:
        settings = with_choice(job.settings, plan.choice, plan.seed)
        version = _version(job, settings, plan)
        with turn(job.root, f"{KIND}-{version}") as confirm:
            found = _found(job, version)
            if found is None:
                found = _run_timed(Job(settings, job.arguments, job.root), plan)
                with publish(job.root, KIND, version, details=asdict(found)) as draft:
                    draft.confirm = confirm
            return found
    except Exception as error:
        console.print_exception(max_frames=5)
        text = f"{type(error).__name__}: {error}"
        return Trial(choice=plan.choice, seed=plan.seed, state="failed", error=text)


def _run_timed(own: Job, plan: Plan) -> Trial:
    started = time.perf_counter()
    trial = _run(own, plan)
    return replace(trial, seconds=round(time.perf_counter() - started, 2))


def _run(own: Job, plan: Plan) -> Trial:
    model: Model = own.arguments.model
    common: dict[str, Any] = {"choice": plan.choice, "seed": plan.seed}
    try:
        trained = train(own, model, move_pointer=False, alone=model in UPSTREAM, bars=plan.bars)
    except PrunedError as cut:
        history = cut.validations
        return Trial(**common, validation=dict(history[-1]), history=history, state="pruned")
    phases = trained.manifest.details["phases"]
    found = Trial(
        **common,
        validation=trained.manifest.metrics["validation"],
        history=phases["choose"]["validations"],
        costs={name: COSTS[name](own, trained) for name in plan.costs},
        artifacts={model: trained.version},
    )
    return _judged(own, found, trained) if plan.judged else found


def _judged(own: Job, trial: Trial, trained: Artifact) -> Trial:
    model: Model = own.arguments.model
    judged = evaluate(own, (model,), {model: trained}, move_pointer=False)
    found = json.loads((judged.path / METRICS).read_text())["retrieval"]
    return replace(
        trial,
        metrics=flatten(judged.manifest.metrics),
        intervals=found["intervals"][MODEL] if found else {},
        artifacts=trial.artifacts | {"evaluation": judged.version},
    )


def flatten(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of an evaluation by dotted name; those of the model itself carry no prefix."""
    return dict(leaves(metrics.get("retrieval", {}))) | dict(leaves(metrics.get("ranking", {})))
