"""What a corpus keeps of the days after it: `python -m tests.benchmarks.corpus_in_world`.

On the world of root= (made if absent) a corpus is chosen at the start of the reported days: of
several sizes, by scores of several half-lives, with several shares for the newest. Told is the
share of the later positive events, on items that were there, whose image it serves. And where items
have copies: how the positives of the last week foretell the later ones, counted by item and by
image. The last line is one JSON object.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.contract.artifact import has_current
from data.contract.signatures import Copies
from data.corpus import CorpusSettings, Standing, choose
from data.dataset import Dataset
from data.sources import world_tables
from ray_jobs.engine.job import start
from ray_jobs.prepare import prepare
from ray_jobs.sample import log_of
from ray_jobs.simulate import simulate

SIZES = (0.1, 0.25, 0.5)
HALF_LIVES = (1.0, 3.0, 7.0, 14.0, 30.0, 90.0, 1e9)
FRESH_SHARES = (0.0, 0.1, 0.2)
WEEK = 7
NONE = np.zeros(0, np.int64)


def positives(dataset: Dataset, first_day: int, last_day: int) -> Any:
    """Positive events of days on each item, [rows]."""
    counts = pq.read_table(dataset.artifact.path / "item_days.parquet")
    day, item, action, count = (counts[n].to_numpy() for n in ("day", "item", "action", "count"))
    chosen = np.isin(action, dataset.vocabulary.codes("positive"))
    chosen &= (day >= first_day) & (day <= last_day)
    return np.bincount(item[chosen], count[chosen], minlength=dataset.item_ids.rows)


def as_of(dataset: Dataset, day: int, folder: Path) -> Any:
    """The data set as the choice of a corpus reads it, with the days before `day` alone."""
    counts = pq.read_table(dataset.artifact.path / "item_days.parquet")
    pq.write_table(counts.filter(pc.less(counts["day"], day)), folder / "item_days.parquet")
    names = ("vocabulary", "item_ids", "items_created_at", "image_keys")
    parts = {name: getattr(dataset, name) for name in names}
    return SimpleNamespace(artifact=SimpleNamespace(path=folder), **parts)


def kept(dataset: Dataset, day: int) -> dict[str, dict[str, float]]:
    """Share of later positives, by size, then by half-life and share of the newest."""
    assert dataset.calendar is not None
    later = positives(dataset, day, dataset.calendar.num_days)
    by_image = Copies.of(dataset.image_keys).summed(later)
    found: dict[str, dict[str, float]] = {f"{size:.0%}": {} for size in SIZES}
    with TemporaryDirectory() as folder:
        before = as_of(dataset, day, Path(folder))
        for half_life in HALF_LIVES:
            standing = Standing.of(before, CorpusSettings(half_life_days=half_life))
            there = standing.take(standing.since_ms < dataset.calendar.start_ms(day))
            for size in SIZES:
                for share in FRESH_SHARES:
                    count = int(size * len(there.rows))
                    corpus = choose(there, NONE, CorpusSettings(size=count, fresh_share=share))
                    served = by_image[corpus.rows].sum() / later[there.rows].sum()
                    found[f"{size:.0%}"][f"{half_life:g} d, {share:.0%} new"] = float(served)
    return found


def foretold(dataset: Dataset, day: int) -> dict[str, float]:
    """Correlation of log(1 + positives) of the week before and of the days from `day` on."""
    assert dataset.calendar is not None
    copies = Copies.of(dataset.image_keys)
    week = positives(dataset, day - WEEK, day - 1)
    later = positives(dataset, day, dataset.calendar.num_days)
    there = np.flatnonzero(dataset.items_created_at < dataset.calendar.start_ms(day))
    there = there[there >= dataset.item_ids.first_row]
    some = np.intersect1d(there, copies.rows)

    def correlation(known: Any, asked: Any, rows: Any) -> float:
        return float(np.corrcoef(np.log1p(known[rows]), np.log1p(asked[rows]))[0, 1])

    images, images_later = copies.summed(week), copies.summed(later)
    return {
        "items": len(there),
        "copies": len(some),
        "copies, own count to own": correlation(week, later, some),
        "copies, image's count to own": correlation(images, later, some),
        "all items, own count to own": correlation(week, later, there),
        "all items, image's count to own": correlation(images, later, there),
        "copies, own count to image's": correlation(week, images_later, some),
        "copies, image's count to image's": correlation(images, images_later, some),
    }


def main() -> None:
    """Runs and prints."""
    job = start(sys.argv[1:])
    if not has_current(job.root, "dataset"):
        prepare(job, world_tables(simulate(job).path))
    dataset = Dataset.open(job.root)
    windows = log_of(job, dataset).windows
    assert windows is not None
    day = windows.test[0]
    line = {"name": "corpus_in_world", "day": day, "kept": kept(dataset, day)}
    print(json.dumps(line | {"foretold": foretold(dataset, day)}))


if __name__ == "__main__":
    main()
