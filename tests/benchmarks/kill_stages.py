"""Kills a run in the middle of every stage and finishes it by running it again.

    python -m tests.benchmarks.kill_stages [key=value ...]

On the tiny world: once without interruption, then once for each stage, killed (SIGKILL) half-way
through it. The second run must give what the uninterrupted one gave. Last line: a JSON object with
the stages whose result `differs`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.e2e.processes import finish, run, start, words_of

if TYPE_CHECKING:
    from collections.abc import Sequence

TOLERANCE = 1e-6


def main(words: Sequence[str]) -> None:
    """Prints one line a stage to stderr, and the outcome as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        whole = run("pipeline", *words_of(Path(folder) / "whole", *words))
        stages = list(whole["seconds"])
        found = {
            stage: killed_in(stage, whole, Path(folder) / stage.replace(" ", "-"), words)
            for stage in stages
        }
    differs = [stage for stage, again in found.items() if not same(again, whole)]
    print(json.dumps({"name": "kill_stages", "stages": stages, "differs": differs}))


def killed_in(
    stage: str, whole: dict[str, Any], root: Path, words: Sequence[str]
) -> dict[str, Any]:
    """Kills a run half-way through a stage; the summary of the run that finishes it."""
    process = start("pipeline", *words_of(root, *words))
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(f"{stage} ─"):
            break
    time.sleep(whole["seconds"][stage] / 2)
    process.kill()
    process.communicate()
    again = finish(start("pipeline", *words_of(root, *words)))
    print(f"killed in {stage}: finished by running it again", file=sys.stderr)
    return again


def same(one: Any, other: Any) -> bool:
    """Whether two summaries tell the same metrics and counts."""
    names = ("metrics", "counts")
    pairs = [(flat(one[name]), flat(other[name])) for name in names]
    return all(
        a.keys() == b.keys() and all(abs(a[k] - b[k]) <= TOLERANCE for k in a) for a, b in pairs
    )


def flat(tree: Any, prefix: str = "") -> dict[str, float]:
    """Numbers of nested dictionaries by their path."""
    if isinstance(tree, dict):
        parts = [flat(value, f"{prefix}/{name}") for name, value in tree.items()]
        return {name: value for part in parts for name, value in part.items()}
    return {prefix: float(tree)} if tree is not None else {}


if __name__ == "__main__":
    main(sys.argv[1:])
