"""What people see of a sweep while it runs: a bar, and a line for each trial."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ray_jobs.engine.job import Job, console
from ray_jobs.tuning.trial import Plan, Trial, label

if TYPE_CHECKING:
    from ray_jobs.tuning.searches import Searches


class Tally:
    """Counts trials."""

    def __init__(self, job: Job, searches: Searches) -> None:
        """Takes what is to be counted."""
        named = 1 + bool(searches.spec) + bool(searches.grid or searches.spec)
        self.goal = searches.goals[0]
        columns = TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        self.bar = Progress(*columns, console=console)
        self.task = self.bar.add_task("", total=searches.size + named * job.arguments.confirm)

    def __enter__(self) -> Tally:
        """Shows the bar."""
        self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        """Leaves the bar as it stands."""
        self.bar.stop()

    def seen(self, search: str, plan: Plan, trial: Trial) -> None:
        """Prints a line for a result."""
        value = self.goal.of(trial)
        outcome = trial.error or f"{self.goal.name} {value if value is None else f'{value:.4f}'}"
        state = "" if trial.state == "complete" else f" ({trial.state})"
        line = f"{search} {plan.number}: {label(plan.choice)} seed {plan.seed}: {outcome}{state}"
        self.bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        self.bar.advance(self.task)
