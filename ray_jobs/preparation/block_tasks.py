"""Running a function over numbered pieces of work, with Ray Data or in this process.

The function writes its rows to files itself; only what it returns travels. Ray's workers import
this module and the function's: neither may import torch, which would cost each of them 300 MiB.
"""

from __future__ import annotations

import logging
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, TaskPoolStrategy
from rich.console import Console
from rich.progress import Progress

from data.contract.settings import UserError
from ray_jobs.engine.cluster import beside_files, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

C = TypeVar("C")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class BlockTasks:
    """Where work runs.

    Attributes:
        workers: Ray Data tasks at a time, or actors; 0 runs the work in this process.
        num_cpus: logical CPUs of a Ray that is started for them; see `connect`.
        actor_gpus: None runs tasks. Else work runs in actors that take so many GPUs each, and end
            with the work and all that they have opened; the processes of tasks stay, and would keep
            a model while others need the memory.
        anywhere: whether the tasks find and leave their files by themselves (`Pieces`) where a root
            lies in object storage; others run beside this process.
    """

    workers: int
    num_cpus: int = 0
    actor_gpus: int | None = None
    anywhere: bool = False

    def run(
        self, function: Callable[[C, int], R], context: C, count: int, label: str
    ) -> Iterator[R]:
        """Gives `function(context, i)` for i below `count`, in order, with a progress bar.

        Raises:
            UserError: the function does, wherever it runs.
        """
        console = Console(stderr=True)
        hidden = not console.is_terminal  # it would leave an empty line
        with Progress(console=console, transient=True, disable=hidden) as bar:
            task = bar.add_task(label, total=count)
            results = self._spread if self.workers else _in_process
            for result in results(function, context, count):
                bar.advance(task)
                yield result

    def _spread(self, function: Callable[[C, int], R], context: C, count: int) -> Iterator[R]:
        connect(max(self.workers, self.num_cpus))
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        settings = ray.data.DataContext.get_current().copy()
        settings.execution_options.preserve_order = True
        settings.enable_progress_bars = False
        settings.print_on_execution_start = False
        with ray.data.DataContext.current(settings):
            # In memory, for tasks that made them would find no CPU beside actors.
            numbers = ray.data.from_arrow([pa.table({"id": [number]}) for number in range(count)])
            results = numbers.map_batches(
                batch_size=1,
                batch_format="pyarrow",
                fn_args=(function, ray.put(context)),
                **self._processes(min(self.workers, count)),
                **({} if self.anywhere else beside_files()),
            )
            tables: Iterator[Any] = iter(
                results.iter_batches(batch_size=None, batch_format="pyarrow")
            )
            for table in tables:
                for result in map(pickle.loads, table["result"].to_pylist()):
                    if isinstance(result, UserError):
                        raise result
                    yield result

    def _processes(self, most: int) -> dict[str, Any]:
        """What runs the work: tasks or actors."""
        if self.actor_gpus is None:
            return {"fn": _call, "compute": TaskPoolStrategy(size=most)}
        resources = {"num_gpus": self.actor_gpus} if self.actor_gpus else {"num_cpus": 1}
        return {"fn": _Call, "compute": ActorPoolStrategy(size=most), **resources}


def _in_process(function: Callable[[C, int], R], context: C, count: int) -> Iterator[R]:
    return (function(context, i) for i in range(count))


def _call(numbers: pa.Table, function: Callable[[Any, int], Any], context: Any) -> pa.Table:
    known = ray.get(context) if isinstance(context, ray.ObjectRef) else context
    results = [pickle.dumps(_outcome(function, known, i)) for i in numbers["id"].to_pylist()]
    return pa.table({"result": pa.array(results, pa.binary())})


class _Call:
    """`_call` in a process that stays."""

    def __call__(
        self, numbers: pa.Table, function: Callable[[Any, int], Any], context: Any
    ) -> pa.Table:
        return _call(numbers, function, context)


def _outcome(function: Callable[[C, int], R], context: C, number: int) -> R | UserError:
    """The result, or the UserError in its place: Ray Data would wrap it until it is none."""
    try:
        return function(context, number)
    except UserError as error:
        return error
