"""The progress bar of a training run: it follows the curve that rank 0 writes."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ray_jobs.engine.job import console

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POLL_S = 0.5


@contextmanager
def following(curve: Path, title: str) -> Iterator[None]:
    """Shows steps, loss, samples/s and the share of time spent waiting for data."""
    columns = (
        TextColumn(title),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[line]}"),
        TimeElapsedColumn(),
    )
    done = threading.Event()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=1, line="starting")
        thread = threading.Thread(target=_follow, args=(curve, bar, task, done), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _follow(curve: Path, bar: Progress, task: TaskID, done: threading.Event) -> None:
    while True:
        finished = done.wait(POLL_S)
        _show(curve, bar, task)
        if finished:
            return


def _show(curve: Path, bar: Progress, task: TaskID) -> None:
    lines = curve.read_text().splitlines() if curve.is_file() else []
    if not lines:
        return
    last = json.loads(lines[-1])
    text = (
        f"loss {last['loss']:.4f}  {last['samples_per_s']:.0f} samples/s  "
        f"data wait {100 * last['data_wait']:.1f}%"
    )
    bar.update(task, completed=last["step"], total=last["max_steps"], line=text)
