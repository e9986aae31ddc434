"""`make sweep` in a root of one's own: `python -m tests.benchmarks.sweep root=... model=two_tower`.

The last line is that of the job tune, with the seconds of the whole command beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time


def main() -> None:
    """Runs and prints."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    root, model = words["root"], words.get("model", "two_tower")
    started = time.perf_counter()
    done = subprocess.run(
        ["make", "--no-print-directory", "sweep", f"SWEEP={root}", f"ARGS=model={model}"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(found | {"whole_s": round(time.perf_counter() - started, 1)}))


if __name__ == "__main__":
    main()
