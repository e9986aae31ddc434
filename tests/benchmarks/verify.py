"""What the README claims, measured again: `make verify`, or some claims by name.

    python -m tests.benchmarks.verify                 all that have no result yet
    python -m tests.benchmarks.verify ml1m default    these, again

Each claim is a command of the project and what its summary must show. The result, held or not,
goes to `tests/benchmarks/results/<claim>.json`, and a line of it to the README there; a claim that
has one is skipped, so an interrupted run goes on where it stopped. Public data is looked for in
$HOMEFEED_DATA or ../shared/data.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.claim import DATA, ROOTS, Claim, Summary, commit
from tests.benchmarks.claims import CLAIMS

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = Path(__file__).parent / "results"
OVERVIEW = (
    "# Results of `make verify`",
    "",
    "A file each, with its command, machine and figures; `verify` writes this table of them.",
    "",
    "| claim | date | commit | minutes | checks that hold | missed |",
    "|---|---|---|---|---|---|",
)


def main(names: Sequence[str]) -> int:
    """Runs the named claims, or all without a result; 1 when one does not hold."""
    RESULTS.mkdir(exist_ok=True)
    todo = [c for c in CLAIMS if c.name in names] if names else [c for c in CLAIMS if not done(c)]
    held = [verify(claim) for claim in todo]
    return int(not all(held))


def done(claim: Claim) -> bool:
    """Whether a claim has a result."""
    return (RESULTS / f"{claim.name}.json").is_file()


def verify(claim: Claim) -> bool:
    """Runs one claim and writes its result; True when all its checks hold."""
    missing = [str(path) for path in claim.needs if not path.exists()]
    if missing:
        print(f"{claim.name}: skipped, {missing[0]} is not there", file=sys.stderr)
        return True
    started = time.perf_counter()
    command = [sys.executable, "-m", *claim.words]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - started
    if run.returncode:
        print(f"{claim.name}: exit code {run.returncode}", file=sys.stderr)
        return False
    summary = json.loads(run.stdout.splitlines()[-1])
    held = {text: check(summary) for text, check in claim.checks}
    write(claim, summary, held, seconds)
    for text, holds in held.items():
        print(f"{claim.name}: {text}: {'holds' if holds else 'DOES NOT HOLD'}", file=sys.stderr)
    return all(held.values())


def write(claim: Claim, summary: Summary, held: dict[str, bool], seconds: float) -> None:
    """Writes the result with what is needed to read it later."""
    words = [word.replace(str(DATA), "$HOMEFEED_DATA") for word in claim.words]
    words = [word.replace(ROOTS, "runs/verify") for word in words]
    document = {
        "claim": claim.name,
        "command": " ".join(["python", "-m", *words]),
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "wall_seconds": round(seconds, 1),
        "held": held,
        "summary": summary,
    }
    (RESULTS / f"{claim.name}.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "README.md").write_text(overview())


def overview() -> str:
    """A table of all results: what was run, when, on which commit, and what did not hold."""
    documents = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))]
    return "\n".join([*OVERVIEW, *(line(document) for document in documents), ""])


def line(document: dict[str, Any]) -> str:
    """A result's row."""
    missed = [text for text, holds in document["held"].items() if not holds]
    held = f"{len(document['held']) - len(missed)} of {len(document['held'])}"
    minutes = f"{document['wall_seconds'] / 60:.0f}"
    cells = [f"`{document['claim']}`", document["date"], document["commit"], minutes, held]
    return f"| {' | '.join([*cells, '; '.join(missed)])} |"


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
