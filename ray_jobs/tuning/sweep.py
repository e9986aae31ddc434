"""Runs the trials of several searches one after another on Ray Tune.

Ray Tune places trials and restarts those whose process has died; what is run is decided here, from
the records of what has been run, so nothing of Ray Tune's own state has to survive.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

import torch
from ray import tune
from ray.tune.search import Searcher

from data.contract import storage
from data.contract.settings import UserError
from data.contract.storage import StorageError
from ray_jobs.engine.cluster import keep_files_here, keep_to_cores, num_cores
from ray_jobs.engine.devices import keep_to_gpu
from ray_jobs.engine.job import Job
from ray_jobs.engine.quiet import quiet_libraries
from ray_jobs.engine.worker import CURVE
from ray_jobs.train import TrainArguments
from ray_jobs.tuning.trial import Plan, Trial, recorded, run_trial

if TYPE_CHECKING:
    from ray_jobs.tuning.capacity import Need

LOOK_S = 20.0
SILENT = ("RAY_AIR_NEW_OUTPUT", "0")  # its tables go to stdout, where one JSON line is due


class Search(Protocol):
    """Where plans come from."""

    name: str

    @property
    def exhausted(self) -> bool:
        """Whether no plan will be handed out any more."""

    @property
    def finished(self) -> bool:
        """Whether all results are there."""

    def next(self) -> Plan | None:
        """A plan to run now, if there is one."""

    def tell(self, plan: Plan, trial: Trial) -> None:
        """Takes a result."""


Seen = Callable[[str, Plan, Trial], None]


@dataclass(frozen=True, slots=True)
class Stage:
    """A search to come.

    Attributes:
        make: makes it; None when there is nothing to search.
        waits: whether it needs the results of all before it.
    """

    make: Callable[[], Search | None]
    waits: bool = False


@dataclass
class Sweep:
    """Searches in turn.

    Attributes:
        job: settings and root.
        stages: the searches.
        seen: told of each result: name of the search, plan, trial.
        running: searches that have begun.
        begun: how many stages have.
    """

    job: Job
    stages: Sequence[Stage]
    seen: Sequence[Seen]
    running: list[Search] = field(default_factory=list)
    begun: int = 0

    def next(self) -> tuple[Search, Plan] | None:
        """A plan that has to be run; those that are recorded are told of on the way.

        Returns:
            None when everything has been handed out, or results are missing to go on.
        """
        while True:
            handed = self._handed_out()
            if handed is not None:
                found = recorded(self.job, handed[1])
                if found is None:
                    return handed
                self.tell(*handed, found)
            elif not self._begin():
                return None

    def _handed_out(self) -> tuple[Search, Plan] | None:
        for search in self.running:
            plan = search.next()
            if plan is not None:
                return search, plan
        return None

    def _begin(self) -> bool:
        """Begins the next stage if its time has come."""
        if self.begun == len(self.stages):
            return False
        stage = self.stages[self.begun]
        ready = (search.finished if stage.waits else search.exhausted for search in self.running)
        if not all(ready):
            return False
        self.begun += 1
        search = stage.make()
        if search is not None:
            self.running.append(search)
        return True

    def tell(self, search: Search, plan: Plan, trial: Trial) -> None:
        """Takes a result."""
        search.tell(plan, trial)
        for show in self.seen:
            show(search.name, plan, trial)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.begun == len(self.stages) and all(search.finished for search in self.running)


def run_here(sweep: Sweep) -> None:
    """Runs all trials in this process, one after another."""
    while todo := sweep.next():
        search, plan = todo
        sweep.tell(search, plan, run_trial(sweep.job, plan))


def run_on_ray(sweep: Sweep, need: Need, concurrency: int) -> None:
    """Runs the trials on Ray, as many at once as there is room for.

    Raises:
        UserError: nothing has moved for `tune.stalled_minutes`.
    """
    os.environ.setdefault(*SILENT)
    job, folder = sweep.job, sweep.job.root / ".work" / f"tune-{uuid.uuid4().hex[:8]}"
    feeder = Feeder(sweep, concurrency)
    filesystem, place = storage.place_of(folder.absolute())
    watch = Watch(feeder, job.settings.tune.stalled_minutes * 60)
    tuner = tune.Tuner(
        tune.with_resources(_trainable(job, need), {"CPU": need.driver, "GPU": need.own_gpus}),
        tune_config=tune.TuneConfig(
            search_alg=feeder,
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=str,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="ray",
            storage_path=place,
            storage_filesystem=filesystem,
            stop=watch,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=job.settings.tune.max_failures),
        ),
    )
    try:
        tuner.fit()
    finally:
        with suppress(StorageError):
            storage.remove(folder)
    if watch.stalled:
        raise UserError(
            f"no trial has moved for {job.settings.tune.stalled_minutes} minutes: "
            f"{concurrency} at once take {need} each; look at the cluster's free CPUs and GPUs and "
            "at the trials' logs, then run the same command again"
        )
    if not sweep.finished:  # Ray Tune takes Ctrl-C for a wish to end well
        raise KeyboardInterrupt


def _trainable(job: Job, need: Need) -> Callable[[dict[str, Any]], dict[str, Any]]:
    settings, root = job.settings, job.root.absolute()
    arguments = TrainArguments(model=job.arguments.model)  # the job's own class lies in __main__

    def trial(config: dict[str, Any]) -> dict[str, Any]:
        quiet_libraries()
        keep_to_gpu(need.own_gpus)
        keep_to_cores(settings.tune.cores)
        torch.set_num_threads(num_cores())
        here = storage.here(root)
        keep_files_here(storage.is_mirrored(here))
        own = Job(settings, arguments, here)
        found = run_trial(own, Plan.from_json(config["plan"]))
        return {"state": found.state, "error": found.error}

    return trial


class Unkept:
    """What Ray Tune need not keep for a restart: it is copied as nothing."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Itself: it works in this process alone."""
        return self


class Feeder(Unkept, Searcher):
    """Hands trials to Ray Tune and takes their results."""

    def __init__(self, sweep: Sweep, concurrency: int) -> None:
        """Takes the trials and how many may run at once."""
        super().__init__()
        self.sweep, self.concurrency = sweep, concurrency
        self.flying: dict[str, tuple[Search, Plan]] = {}
        self.moved = time.monotonic()

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial; None while there is no room, or results are missing to propose one."""
        if len(self.flying) >= self.concurrency:
            return None
        todo = self.sweep.next()
        if todo is None:
            # Ray Tune compares the answer with this word.
            return cast("Any", Searcher.FINISHED) if self.sweep.finished else None
        self.flying[trial_id] = todo
        return {"plan": todo[1].to_json()}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Reads what the trial has left, and tells the search that proposed it."""
        self.moved = time.monotonic()
        search, plan = self.flying.pop(trial_id)
        self.sweep.tell(search, plan, self._outcome(plan, result or {}, error))

    def _outcome(self, plan: Plan, result: dict[str, Any], error: bool) -> Trial:
        if found := recorded(self.sweep.job, plan):
            return found
        died = "its process died too often (tune.max_failures)" if error else "it left no record"
        text = str(result.get("error") or died)
        return Trial(choice=plan.choice, seed=plan.seed, state="failed", error=text)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the records of the trials are all there is to keep."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class Watch(Unkept, tune.Stopper):
    """Gives a sweep up when no trial has taken a step, or finished, for too long."""

    def __init__(self, feeder: Feeder, limit_s: float) -> None:
        """Takes whose trials to watch."""
        self.feeder, self.limit_s = feeder, limit_s
        self.seen: frozenset[tuple[str, int]] = frozenset()
        self.looked, self.stalled = time.monotonic(), False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
        """Stops no trial by its results."""
        return False

    def stop_all(self) -> bool:
        """Whether the time is up; looks at the trials' files now and then."""
        now = time.monotonic()
        if now - self.looked >= LOOK_S:
            self.looked = now
            with suppress(StorageError):  # said by what needs it
                steps = storage.changes(self.feeder.sweep.job.root / "checkpoints", CURVE)
                if steps - self.seen:
                    self.feeder.moved = now
                self.seen = steps
            self.stalled = now - self.feeder.moved > self.limit_s
        return self.stalled
