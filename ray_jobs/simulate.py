"""Generates the built-in world, or its next day: `python -m ray_jobs.simulate root=...`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from rich.progress import Progress

from data.contract import storage
from data.contract.artifact import Artifact, Draft, current, has_current, version_of
from data.contract.settings import to_tree
from data.world import generate, resolve
from ray_jobs.engine.job import Job, console, run

if TYPE_CHECKING:
    from pathlib import Path


def simulate(job: Job) -> Artifact:
    """The raw tables of the world's first `world.days` days."""
    days = resolve(job.settings.world).days
    return _generate(job, range(1, days + 1), [])


def simulate_next_day(job: Job, before: Artifact) -> Artifact:
    """The raw tables of the day after `before`, the same as if simulated at once."""
    day = int(before.manifest.details["last_day"]) + 1
    return _generate(job, range(day, day + 1), [before])


def latents_folder(job: Job) -> Path:
    """Where the world's hidden state lies; only evaluation reads it."""
    folder = job.root / "latents" / version_of([], to_tree(job.settings.world))
    storage.fetch(folder)
    return folder


def _generate(job: Job, days: range, parents: list[Artifact]) -> Artifact:
    def write(draft: Draft) -> None:
        with Progress(console=console) as bar:
            task = bar.add_task("world", total=len(days))
            summary = generate(
                job.settings.world,
                draft.path,
                latents_folder(job),
                days,
                lambda _: bar.advance(task),
            )
        storage.put(latents_folder(job))
        draft.fields["details"] = dataclasses.asdict(summary)

    settings = {"world": to_tree(job.settings.world), "days": [days.start, days.stop]}
    return job.make("world", parents, settings, write)


def main(job: Job) -> dict[str, Any]:
    """Simulates the world's first days, or the day after them when they are there."""
    with job.stage("world"):
        if has_current(job.root, "world"):
            artifact = simulate_next_day(job, current(job.root, "world"))
        else:
            artifact = simulate(job)
    return {"world": artifact.version, "counts": artifact.manifest.details}


if __name__ == "__main__":
    run("simulate", main)
