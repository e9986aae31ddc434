"""The progress bar of a training run: it follows what rank 0 writes."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ray_jobs.engine.job import console

if TYPE_CHECKING:
    from collections.abc import Iterator

POLL_S = 0.5


@contextmanager
def following(curve: Path, plan: Path, title: str) -> Iterator[None]:
    """Shows steps, loss, samples/s, time spent waiting for data, and once how tables are sharded.

    Args:
        curve: log lines.
        plan: the sharding plan; stays away when there is one rank.
        title: stands before the bar.
    """
    columns = (
        TextColumn(title),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[line]}"),
        TimeElapsedColumn(),
    )
    for stale in (curve, plan):
        stale.unlink(missing_ok=True)
    done = threading.Event()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=1, line="starting")
        follow = _Follower(curve, plan, bar, task)
        thread = threading.Thread(target=follow.until, args=(done,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


@dataclass
class _Follower:
    curve: Path
    plan: Path
    bar: Progress
    task: TaskID
    plan_shown: bool = False

    def until(self, done: threading.Event) -> None:
        while True:
            finished = done.wait(POLL_S)
            self._show_plan()
            self._show_curve()
            if finished:
                return

    def _show_plan(self) -> None:
        if not self.plan_shown and self.plan.is_file():
            self.plan_shown = True
            self.bar.console.print(self.plan.read_text(), markup=False, highlight=False)

    def _show_curve(self) -> None:
        lines = self.curve.read_text().splitlines() if self.curve.is_file() else []
        if not lines:
            return
        last = json.loads(lines[-1])
        text = (
            f"loss {last['loss']:.4f}  {last['samples_per_s']:.0f} samples/s  "
            f"data wait {100 * last['data_wait']:.1f}%"
        )
        self.bar.update(self.task, completed=last["step"], total=last["max_steps"], line=text)
