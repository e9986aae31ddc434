"""Latency of ranking: `python -m tests.benchmarks.bench_ranker [root=...] [ranker.hidden=...]`.

One user with 100 actions and 500 candidates through the ranker as it is served: exported programs
in ONNX Runtime, the user side once, one thread. Of a root's bundle, or of fresh weights for the
default world's columns and the settings given. Arms take turns in each of the rounds. Figures named
p50 and p99 are wall time over all calls; ratios are of medians of processor time, which other
processes disturb least. The last line is one JSON object:

- `p50_ms`, `p99_ms`: both programs on arrays that are ready;
- `gathered_p50_ms`: with the look-ups of the request's rows and features, as a server does it;
- `busy_p50_ms`, `busy_p99_ms`: the same as the first beside a process that multiplies matrices;
- `int8_p50_ms`: with 8-bit products in the item side (`export.ranker=int8`), whose probabilities
  differ from the others by `int8_largest` at most and by `int8_mean` on average;
- `ratio_replicated`: the user side for each candidate, over ours (the item side counted as ours);
- `ratio_eager`: the modules by torch, one thread, over ours;
- `ratio_together`: of a request when `rank_together` of them are ranked in one run, over alone;
- `ratio_bound`: what the products of matrices would take at the rate of the largest one alone
  in the same runtime (`gemm_gflops`), over ours; `mflops` is their work;
- `processor_ms`: of each arm, also of the `user` and `items` sides alone;
- `parameters`: outside of embedding tables.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from data.contract.settings import load
from ray_jobs.engine.quantisation import to_int8
from ray_jobs.engine.quiet import quiet_libraries
from ray_jobs.settings import Settings
from serve.programs import Program
from serve.ranker import without_rows
from serve.settings import ServeSettings
from tests.benchmarks.ranker_request import CANDIDATES, HISTORY, made_up, of_root
from tests.benchmarks.ranker_size import largest_product, parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from serve.ranker import Ranker
    from tests.benchmarks.ranker_request import Request

    Call = Callable[[], Any]

ROUNDS, CALLS = 20, 25
TOGETHER = ServeSettings().rank_together
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
BUSY = "import numpy as np\na = np.ones((1024, 1024), np.float32)\nwhile True:\n    a @ a"


class Ready:
    """A ranker and the arrays of one request, gathered."""

    def __init__(self, request: Request, ranker: Ranker) -> None:
        self.user = ranker.user_inputs(request.user)
        items = request.catalogue.ranked(request.rows)
        self.items = ranker.item_inputs(request.rows[None], items)
        self._programs = ranker._user_program, ranker._items_program
        self._calibrators = request.bundle.calibrators
        self._segments = without_rows(items.known, bool(self.user["user_id.rows"].any()))
        self.state = self._programs[0](self.user)

    def __call__(self) -> Any:
        """Probabilities of the candidates."""
        state = self._programs[0](self.user)
        (logits,) = self._programs[1]({**state, **self.items}).values()
        return self.probabilities(logits[0])

    def probabilities(self, logits: Any) -> Any:
        """Calibrated, of logits [N, actions]."""
        return self._calibrators(logits, self._segments)

    def user_side(self, times: int = 1) -> Any:
        """States of the user, so many times over."""
        return self._programs[0](replicated(self.user, times))

    def item_side(self) -> Any:
        """Logits of the candidates."""
        return self._programs[1]({**self.state, **self.items})


def replicated(arrays: dict[str, Any], times: int) -> dict[str, Any]:
    """Named arrays of a user, laid end to end as those of so many users."""
    if times == 1:
        return arrays
    return {name: np.concatenate([array] * times) for name, array in arrays.items()}


class Eager:
    """The same by torch's modules."""

    def __init__(self, request: Request, ready: Ready) -> None:
        model = request.model.eval()
        self.sides = model.user_program, model.items_program
        self.fields = model.programs()["ranker_user"].outputs
        self.user, self.items = tensors(ready.user), tensors(ready.items)
        self._probabilities = ready.probabilities

    @torch.inference_mode()
    def __call__(self) -> Any:
        """Probabilities of the candidates."""
        state = dict(zip(self.fields, self.sides[0](self.user), strict=True))
        return self._probabilities(self.sides[1](state | self.items)[0].numpy())

    def flops(self) -> int:
        """Operations of the products of matrices."""
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            self()
        return int(counter.get_total_flops())


def tensors(arrays: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}


def one_product(shape: tuple[int, int], folder: Path) -> Program:
    """A program of one product of float32[candidates, K] with a constant of `shape`."""
    weight = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    sides = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", size])
        for name, size in zip(("x", "y"), shape, strict=True)
    ]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    constant = numpy_helper.from_array(weight, "w")
    graph = helper.make_graph([node], "product", sides[:1], sides[1:], [constant])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "product.onnx")
    return Program(folder / "product.onnx")


class Times(NamedTuple):
    """Milliseconds of each call of an arm: on the wall, and of its thread on a processor."""

    wall: Any
    processor: Any

    def summary(self, name: str = "") -> dict[str, float]:
        """The wall's median and 99th percentile."""
        p50, p99 = np.quantile(self.wall, [0.5, 0.99])
        return {f"{name}p50_ms": float(p50), f"{name}p99_ms": float(p99)}


def times_of(arms: dict[str, tuple[Call, int]], rounds: int = ROUNDS) -> dict[str, Times]:
    """Times of all calls by arm; each arm has its turn of so many calls in each round."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, (call, calls) in arms.items():
            call()
            for _ in range(calls):
                began = time.perf_counter(), time.thread_time()
                call()
                ended = time.perf_counter(), time.thread_time()
                found[name].append((ended[0] - began[0], ended[1] - began[1]))
    return {name: Times(*(1000 * np.array(times).T)) for name, times in found.items()}


@contextmanager
def a_busy_process() -> Iterator[None]:
    """Another process that keeps a core busy meanwhile."""
    process = subprocess.Popen([sys.executable, "-c", BUSY], env=os.environ | ONE_THREAD)
    try:
        time.sleep(1.0)
        yield
    finally:
        process.kill()
        process.wait()


class Arms:
    """All that is timed, for one request."""

    def __init__(self, request: Request, folder: Path) -> None:
        to_int8(request.programs / "ranker_items.onnx", folder / "ranker_items.onnx")
        self.whole = request.ranker()
        self.whole8 = request.ranker(ranker_items=Program(folder / "ranker_items.onnx"))
        self.ours, self.int8 = Ready(request, self.whole), Ready(request, self.whole8)
        self.eager = Eager(request, self.ours)
        self.shape = largest_product(request.model)
        self.product = one_product(self.shape, folder)
        self.asked = [(self.whole.read(request.user), request.rows)] * TOGETHER
        self.request = request

    def calls(self) -> dict[str, tuple[Call, int]]:
        """Each with how often a turn calls it."""
        user, rows = self.request.user, self.request.rows
        x = np.ones((CANDIDATES, self.shape[0]), np.float32)
        often: dict[str, Call] = {
            "ours": self.ours,
            "user": self.ours.user_side,
            "items": self.ours.item_side,
            "int8": self.int8,
            "gathered": lambda: self.whole(user, rows),
            "int8_gathered": lambda: self.whole8(user, rows),
            "ranked": lambda: self.whole._ranked(self.asked[:1]),
            "together": lambda: self.whole._ranked(self.asked),
            "product": lambda: self.product({"x": x}),
        }
        return {name: (call, CALLS) for name, call in often.items()} | {"eager": (self.eager, 5)}

    def differences(self) -> dict[str, float]:
        """Of the others' probabilities to ours."""
        ours = self.ours()
        int8 = np.abs(self.int8() - ours)
        return {
            "int8_largest": float(int8.max()),
            "int8_mean": float(int8.mean()),
            "eager_largest": float(np.abs(self.eager() - ours).max()),
        }


def measure(arms: Arms) -> dict[str, Any]:
    """The figures of the last line."""
    alone = times_of(arms.calls())
    replicas = times_of({"user": (lambda: arms.ours.user_side(CANDIDATES), 1)}, rounds=5)["user"]
    with a_busy_process():
        busy = times_of({"ours": (arms.ours, CALLS)})["ours"]
    ms = {name: float(np.median(times.processor)) for name, times in alone.items()}
    flops, rate = arms.eager.flops(), 2 * CANDIDATES * np.prod(arms.shape) / ms["product"]
    return {
        **alone["ours"].summary(),
        **busy.summary("busy_"),
        **{f"{arm}_p50_ms": alone[arm].summary()["p50_ms"] for arm in ("int8", "gathered")},
        "ratio_replicated": (float(np.median(replicas.processor)) + ms["items"]) / ms["ours"],
        "ratio_together": ms["together"] / TOGETHER / ms["ranked"],
        "ratio_eager": ms["eager"] / ms["ours"],
        "ratio_bound": float(flops / rate / ms["ours"]),
        "processor_ms": ms,
        "gemm_gflops": float(rate / 1e6),
        "mflops": flops / 1e6,
        **arms.differences(),
    }


def main() -> None:
    """Runs and prints."""
    words = sys.argv[1:]
    quiet_libraries()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    roots = [Path(word[5:]) for word in words if word.startswith("root=")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        request = (
            of_root(roots[0]) if roots else made_up(load(Settings, words).ranker, folder / "full")
        )
        found = measure(Arms(request, folder))
    settings = request.model.settings
    line = {
        "name": "ranker",
        "params": {"candidates": CANDIDATES, "history": HISTORY, "threads": 1}
        | {name: getattr(settings, name) for name in ("dim", "hidden")},
        "parameters": parameters(request.model),
        "heads": settings.num_heads,
        **found,
        "load": os.getloadavg()[0],
        "machine": platform.processor() or platform.machine(),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    if ONE_THREAD.items() <= os.environ.items():
        main()
    else:
        again = [sys.executable, "-m", "tests.benchmarks.bench_ranker", *sys.argv[1:]]
        os.execve(sys.executable, again, os.environ | ONE_THREAD)
