"""A sweep killed at random moments: `python -m tests.benchmarks.sweep_faults root=... kills=5`.

The same study is run once without interruption and once killed (SIGTERM and SIGKILL in turn, to its
process alone) and started again. Its trials must be those of the first, with the same values, and
what had finished before a kill must not be run again. The last line is one JSON object.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.benchmarks.sweeps import STEPS, command, copy_of, prepared, trials_of, words_of

if TYPE_CHECKING:
    from collections.abc import Sequence

STUDY = ("search=tpe", "trials=16", "tune.pruning=asha", *STEPS)
MOST_S = 12.0
SIGNALS = (signal.SIGTERM, signal.SIGKILL)


def records(root: Path) -> dict[str, int]:
    """When each finished trial was recorded, ns since 1970."""
    manifests = (root / "trials").glob("*/manifest.json")
    return {file.parent.name: file.stat().st_mtime_ns for file in manifests}


def killed(root: Path, finished: int, after_s: float, number: signal.Signals) -> int | None:
    """Starts the sweep and kills it some time after so many trials have been recorded.

    Returns:
        Its exit code, None when it had ended before.
    """
    with (root / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            words_of("tune", root, STUDY), stdout=subprocess.DEVNULL, stderr=log
        )
        while len(records(root)) < finished and process.poll() is None:
            time.sleep(0.1)
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            return process.wait()
    return None


def kill_often(root: Path, kills: int, seed: int) -> list[dict[str, Any]]:
    """Kills at random moments after none, one or two more trials."""
    rng, found = np.random.default_rng(seed), []
    for place in range(kills):
        number = SIGNALS[place % len(SIGNALS)]
        before = records(root)
        after_s = float(rng.uniform(0, MOST_S))
        code = killed(root, len(before) + int(rng.integers(0, 3)), after_s, number)
        after = records(root)
        found.append(
            {
                "signal": number.name,
                "after_s": round(after_s, 1),
                "exit_code": code,
                "finished": len(after),
                "run_again": sum(after.get(name) != at for name, at in before.items()),
            }
        )
    return found


def kept(trials: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """What must be equal of two runs' trials: settings, seed, state and every validation."""
    return [[t["choice"], t["seed"], t["state"], t["validation"], t["history"]] for t in trials]


def main() -> None:
    """Runs and prints."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    kills, seed = int(words.get("kills", "5")), int(words.get("seed", "0"))
    root = prepared(Path(words["root"]))
    whole = command("tune", copy_of(root, "whole"), STUDY)
    broken = copy_of(root, "killed")
    moments = kill_often(broken, kills, seed)
    before = records(broken)
    finished = command("tune", broken, STUDY)
    after = records(broken)
    expected, got = trials_of(whole), trials_of(finished)
    line = {
        "name": "sweep_faults",
        "trials": len(got),
        "pruned": finished["pruned"],
        "failed": finished["failed"],
        "kills": moments,
        "finished_before": len(before),
        "run_again": sum(after[name] != at for name, at in before.items())
        + sum(moment["run_again"] for moment in moments),
        "equal": kept(got) == kept(expected),
        "records": len(after),
        "seconds": {"whole": whole["seconds"], "last": finished["seconds"]},
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
