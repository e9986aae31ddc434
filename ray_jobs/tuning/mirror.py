"""Trials mirrored to MLflow, where people look for them; the records in the root stay the truth."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from data.contract.settings import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ray_jobs.tuning.trial import Plan, Trial

TAG = "homefeed.trial"


class Mirror:
    """One experiment of an MLflow server or folder; a trial that it has is not written again."""

    def __init__(self, uri: str, experiment: str) -> None:
        """Opens or makes the experiment.

        Args:
            uri: of a tracking server, or of a store of this machine such as sqlite:///mlflow.db.
            experiment: its name.

        Raises:
            UserError: MLflow is not installed.
        """
        if find_spec("mlflow") is None:
            raise UserError("tune.mlflow_uri needs MLflow: pip install 'homefeed[mlflow]'")
        from mlflow import MlflowClient

        self.client = MlflowClient(uri)
        found = self.client.get_experiment_by_name(experiment)
        self.experiment = (
            found.experiment_id if found else self.client.create_experiment(experiment)
        )

    def seen(self, search: str, plan: Plan, trial: Trial) -> None:
        """Writes a trial: its settings as parameters, what it came to as metrics."""
        key = f"{search}/{plan.seed}/{plan.title}"
        if self.client.search_runs([self.experiment], f"tags.`{TAG}` = '{key}'", max_results=1):
            return
        name = f"{search} {plan.number}"
        run = self.client.create_run(self.experiment, tags={TAG: key}, run_name=name).info.run_id
        for setting, value in {**trial.choice, "seed": trial.seed}.items():
            self.client.log_param(run, setting, value)
        for metric, value in metrics_of(trial).items():
            self.client.log_metric(run, metric, value)
        for place, line in enumerate(trial.history):
            for metric, value in named(line, "validation.").items():
                self.client.log_metric(run, metric, value, step=int(line.get("step", place)))
        self.client.set_terminated(run, "FAILED" if trial.state == "failed" else "FINISHED")


def metrics_of(trial: Trial) -> dict[str, float]:
    """Reported metrics of the model and costs; validations are written step by step."""
    own = {name: value for name, value in trial.metrics.items() if "." not in name}
    return named({**own, **trial.costs, "seconds": trial.seconds})


def named(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers under names that MLflow allows: recall@10 is recall_at_10."""
    return {
        prefix + name.replace("@", "_at_"): float(value)
        for name, value in values.items()
        if name != "step" and value is not None
    }
