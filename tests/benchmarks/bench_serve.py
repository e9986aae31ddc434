"""A bundle under load: `python -m tests.benchmarks.bench_serve [root=runs/default seconds=10]`.

One request after the other in process, then over HTTP: 1, 8 and 32 at a time, the highest rate of
chance arrivals whose p99 stays under `bound_ms` (100) while 99% are whole feeds, and of the profile
`soaked` also `soak` seconds at 70% of it, with the memory and the open files of the serving
processes meanwhile. Users are drawn by Zipf's law from 100,000 ids, of which the root knows some.
profiles= names how Ray Serve is run: `default`, `throughput` (RAY_SERVE_THROUGHPUT_OPTIMIZED=1),
`haproxy` (`serve.proxy=haproxy`), and `plain`, the same application by uvicorn alone. HAProxy
listens on all interfaces: it is tried in a network namespace of its own. The last line is one JSON
object.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from serve.access import TOKEN
from serve.feed import Feed
from serve.messages import RecommendRequest
from serve.settings import ServeSettings
from tests.benchmarks.load import Load, zipf_users
from tests.e2e.processes import free_port, wait_until_ready

if TYPE_CHECKING:
    from collections.abc import Iterator

IDS, REQUESTS, ITEMS = 100_000, 20_000, 10
CONCURRENCIES = (1, 8, 32)
SECRET = "of-this-benchmark"
PROFILES: dict[str, dict[str, str]] = {
    "default": {},
    "throughput": {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
    "haproxy": {TOKEN: SECRET},
    "plain": {},
}
APART = "HOMEFEED_NETWORK_APART"
NETWORK = 'ip link set lo up && exec "$@"'
WARM_S, SEARCH_S = 3.0, 6.0
SAMPLES = 40
STEPS = 5


def main(words: list[str]) -> None:
    """Measures and prints."""
    given = dict(word.split("=", 1) for word in words)
    root, seconds = Path(given.get("root", "runs/default")), float(given.get("seconds", "10"))
    bound_ms, soak = float(given.get("bound_ms", "100")), float(given.get("soak", "60"))
    users, chosen = users_of(root), given.get("soaked", "haproxy")
    line: dict[str, Any] = {"name": "serve", "ids": IDS, "soaked": chosen}
    line["in_process"] = in_process(root, users)
    for profile in given.get("profiles", "plain,default,throughput,haproxy").split(","):
        if profile == "haproxy" and APART not in os.environ:
            line[profile] = apart(
                [*(w for w in words if not w.startswith("profiles=")), "profiles=haproxy"]
            )
            continue
        with serving(root, profile) as (port, pid):
            token = PROFILES[profile].get(TOKEN, "")
            load = Load("127.0.0.1", port, [body(user) for user in users], token)
            load.closed(4, WARM_S)
            line[profile] = measured(
                load, pid, seconds, bound_ms, soak if profile == chosen else 0.0
            )
        print(json.dumps({profile: line[profile]}), file=sys.stderr)
    print(json.dumps(line))


def apart(words: list[str]) -> dict[str, Any]:
    """The figures of HAProxy, in a network that nobody else reaches."""
    program = [sys.executable, "-m", "tests.benchmarks.bench_serve", *words]
    command = ["unshare", "--map-root-user", "--net", "sh", "-c", NETWORK, "sh", *program]
    environment = os.environ | {APART: "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["haproxy"]
    return found


def users_of(root: Path) -> list[int | str]:
    """Users of the requests, drawn by Zipf's law."""
    settings = ServeSettings(log_requests=False)
    feed = Feed(root, settings, background=False)
    bundle = feed._switch.funnel.bundle
    lengths = np.diff(bundle.histories.offsets)[: bundle.user_ids.rows].copy()
    lengths[: bundle.user_ids.first_row] = 0
    known = bundle.user_ids.external(np.flatnonzero(lengths)).to_pylist()
    feed.close()
    return zipf_users(known, IDS, REQUESTS)


def body(user_id: int | str) -> bytes:
    """A request for a feed."""
    return json.dumps({"user_id": user_id, "num_items": ITEMS}).encode()


def in_process(root: Path, users: list[int | str], count: int = 300) -> dict[str, float]:
    """Milliseconds of a request without HTTP, one after the other."""
    feed = Feed(root, ServeSettings(), background=False)
    times = []
    for user in users[:count]:
        started = time.perf_counter()
        feed.recommend(RecommendRequest(user_id=user, num_items=ITEMS))
        times.append((time.perf_counter() - started) * 1000)
    feed.close()
    warm = times[20:]
    return {f"p{q}_ms": round(float(np.percentile(warm, q)), 3) for q in (50, 95, 99)}


@contextmanager
def serving(root: Path, profile: str) -> Iterator[tuple[int, int]]:
    """A server of a root: its port, and the process whose children serve."""
    port = free_port()
    command = [sys.executable, "-m", "ray_jobs.deploy", f"root={root}", f"serve.port={port}"]
    if profile == "plain":
        command = [sys.executable, "-m", "tests.benchmarks.serve_plain", str(root), str(port)]
    if profile == "haproxy":
        command.append("serve.proxy=haproxy")
    environment = os.environ | PROFILES[profile]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, text=True
    ) as process:
        try:
            wait_until_ready(f"http://127.0.0.1:{port}", process, PROFILES[profile].get(TOKEN, ""))
            yield port, process.pid
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(90)


def measured(load: Load, pid: int, seconds: float, bound_ms: float, soak: float) -> dict[str, Any]:
    """Latency by concurrency, the highest rate within the bound, and a soak below it, if any."""
    found: dict[str, Any] = {
        str(concurrency): load.closed(concurrency, seconds).told() for concurrency in CONCURRENCIES
    }
    rate = highest_rate(load, bound_ms, max(c["requests_per_s"] for c in found.values()))
    found["max_rate"] = rate
    return found | ({"soak": soaked(load, pid, 0.7 * rate, soak)} if rate and soak else {})


def highest_rate(load: Load, bound_ms: float, top: float) -> float:
    """The highest rate of arrivals, by bisection, with p99 within a bound and 99% whole feeds."""
    low, high = 0.0, top
    for step in range(STEPS):
        rate = (low + high) / 2 if step else 0.8 * high
        found = load.open(rate, SEARCH_S, seed=step)
        whole = found.kinds["full"] >= 0.99 * sum(found.kinds.values())
        holds = whole and found.told()["p99_ms"] <= bound_ms
        low, high = (rate, high) if holds else (low, rate)
    return round(low, 2)


def soaked(load: Load, pid: int, rate: float, seconds: float) -> dict[str, Any]:
    """Many requests at a rate, and what the serving processes hold meanwhile."""
    samples: list[dict[str, int]] = []
    done = threading.Event()

    def sample() -> None:
        while not done.wait(seconds / SAMPLES):
            samples.append(footprint(pid))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        found = load.open(rate, seconds, seed=1).told()
    finally:
        done.set()
        sampler.join()
    return found | {"rate": round(rate, 2), "seconds": seconds, "footprints": samples}


def footprint(pid: int) -> dict[str, int]:
    """MiB and open files of a process and all below it."""
    parent = psutil.Process(pid)
    processes = [parent, *parent.children(recursive=True)]
    mib = files = 0
    for process in processes:
        try:
            mib += process.memory_info().rss >> 20
            files += process.num_fds()
        except psutil.Error:
            continue
    return {"processes": len(processes), "rss_mib": mib, "open_files": files}


if __name__ == "__main__":
    main(sys.argv[1:])
