"""What a sweep costs beside its trials: `python -m tests.benchmarks.sweep_overhead root=...`.

The same study once as it is run, trials at once on the cores of this machine, and once trial after
trial, alone, in one process on one core. Overhead is wall time times trials at once over the sum of
the trials' own times when alone. The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.benchmarks.sweeps import command, copy_of, prepared, trials_of

STUDY = ("search=tpe", "trials=12", "train.max_steps=150", "train.validate_every=50")


def main() -> None:
    """Runs and prints."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    root = prepared(Path(words["root"]))
    at_once = len(os.sched_getaffinity(0))
    # Alone a study proposes what it would with others beside: how far knowledge lags is given.
    together = command("tune", copy_of(root, "together"), (*STUDY, f"concurrency={at_once}"))
    points = [trial["choice"] for trial in trials_of(together)]
    begun = (f"points={json.dumps(points)}", *STUDY, "concurrency=0")
    core = str(min(os.sched_getaffinity(0)))
    alone = command("tune", copy_of(root, "alone"), begun, "taskset", "-c", core)
    own = [trial["seconds"] for trial in trials_of(alone)]
    beside = [trial["seconds"] for trial in trials_of(together)]
    wall = together["seconds"]["tune"]
    line = {
        "name": "sweep_overhead",
        "trials": len(own),
        "at_once": at_once,
        "wall_s": wall,
        "alone_s": round(sum(own), 1),
        "beside_others_s": round(sum(beside), 1),
        "overhead": round(wall * at_once / sum(own), 3),
        "same_trials": [t["choice"] for t in trials_of(alone)] == points,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
