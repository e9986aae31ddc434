"""What torch alone suffices for: `python -m tests.benchmarks.bench_torch_alone [word=value ...]`.

For a machine with a GPU on which nothing else is installed: it needs torch and numpy. Without a GPU
it runs too, on smaller sizes, in about a minute. parts=encoders,placement are:

- the encoders (`encoders`): tokens a second, a training step and inference, in float32 and bfloat16
  (dtypes=, models=, and the sizes of `encoder_batches.Sizes`, windows=256 dim=64);
- where a ranker runs (`ranker_placements`): arms=cpu,gpu,mixed batches=1,8,32 ranker.hidden=1024.

Each is held against the peak that was measured beside it, one large product of matrices in the same
arithmetic (matmul=8192): `share_of_peak` is of the operations of all products, those of padding
too, by the clock. Of an encoder in bfloat16 some products stay in single precision: the loss over a
pool, HSTU's attention. precision=high lets products of float32 use TF32, the peak's too; seconds=
says how long each is measured in a turn, threads= by how many threads.

An encoder's figures are printed when they are known; the last line is one JSON object of all.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

# As in jobs, and before torch is there.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch

import tests.benchmarks.torch_alone  # noqa: F401
from tests.benchmarks.device_rate import Peak
from tests.benchmarks.encoders import DTYPES, MATMUL, SECONDS, encoders, sizes_of
from tests.benchmarks.ranker_placements import placements

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PARTS = "encoders,placement"
GPU = torch.cuda.is_available()


class Peaks:
    """Rates of large products, made when they are asked for.

    Attributes:
        words: of the command.
    """

    def __init__(self, words: Mapping[str, str]) -> None:
        self.words = words
        self.known: dict[tuple[str, str], Peak] = {}

    def of(self, arithmetic: str, kind: str) -> Peak:
        """In an arithmetic, on a kind of device."""
        if (arithmetic, kind) not in self.known:
            size = int(self.words.get("matmul", MATMUL[kind]))
            seconds = float(self.words.get("seconds", SECONDS[kind]))
            peak = Peak(size, DTYPES[arithmetic], seconds, torch.device(kind))
            peak.turn()
            self.known[arithmetic, kind] = peak
        return self.known[arithmetic, kind]

    def told(self) -> dict[str, float]:
        """In billions a second."""
        return {
            f"{kind}_{arithmetic}": round(peak.flops_per_s / 1e9, 1)
            for (arithmetic, kind), peak in self.known.items()
        }


def of_encoders(words: Mapping[str, str], peaks: Peaks) -> dict[str, Any]:
    """Figures of the encoders."""
    device = torch.device("cuda" if GPU else "cpu")
    arithmetics = words.get("dtypes", ",".join(DTYPES)).split(",")
    return encoders(words, {name: peaks.of(name, device.type) for name in arithmetics}, device)


def of_placements(words: Mapping[str, str], peaks: Peaks) -> dict[str, Any]:
    """Figures of where a ranker runs, all in single precision."""
    found = placements(words)
    for arms in found["batches"].values():
        for arm, line in arms.items():
            peak = peaks.of("float32", "cuda" if GPU and arm != "cpu" else "cpu")
            line["share_of_peak"] = round(line.pop("flops_per_s") / peak.flops_per_s, 4)
    return found


def main(given: Sequence[str]) -> None:
    """Runs and prints."""
    words = dict(word.split("=", 1) for word in given)
    torch.manual_seed(0)
    torch.set_num_threads(int(words.get("threads", torch.get_num_threads())))
    torch.set_float32_matmul_precision(words.get("precision", "highest"))
    device, peaks = torch.device("cuda" if GPU else "cpu"), Peaks(words)
    parts = {"encoders": of_encoders, "placement": of_placements}
    asked = words.get("parts", PARTS).split(",")
    line: dict[str, Any] = {
        "name": "torch_alone",
        "params": {**words, **asdict(sizes_of(words, device))},
        **{name: parts[name](words, peaks) for name in asked},
        "peak_gflop_per_s": peaks.told(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if GPU else "cpu",
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main(sys.argv[1:])
