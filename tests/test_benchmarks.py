"""Benchmarks run by hand alone: what they import of the project is there still."""

import importlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data.contract import artifact
from serve.bundle import KIND
from serve.feed import Feed
from serve.messages import RecommendRequest
from serve.settings import ServeSettings
from tests.benchmarks import verify
from tests.benchmarks.bundle_copies import (
    OTHER_TOWERS,
    TWIN,
    broken,
    linked_root,
    point,
    stranger,
    twin,
)
from tests.benchmarks.device_rate import operations
from tests.benchmarks.encoders import DTYPES, KINDS
from tests.benchmarks.fault_phases import FEEDS, by_phase, share
from tests.benchmarks.load import Load, Outcomes
from tests.benchmarks.memory_cap import memory_cap
from tests.benchmarks.serve_faulty import RANKER, SLOW, FaultyFeed
from tests.tiny_root import TinyLog, write_bundle

FOLDER = Path(__file__).parent / "benchmarks"
PEERS = {"rectools_peer"}  # runs in an environment of its own
# Runs a benchmark where nothing of these is installed.
WITHOUT = """
import sys
from importlib.machinery import PathFinder

class There(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.split(".")[0] in sys.argv[1].split(",")
        return None if absent else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = There
from tests.benchmarks.bench_torch_alone import main
main(sys.argv[2:])
"""
NOT_THERE = (
    *("ray", "pyarrow", "torchrec", "fbgemm_gpu", "faiss", "pydantic", "yaml", "pandas", "scipy"),
    *("numba", "onnx", "onnxruntime", "safetensors", "psutil", "rich", "fsspec", "optuna"),
)
TINY = (
    *("items=500", "windows=4", "length=16", "pool=64", "examples=8", "neighbors=4", "dim=16"),
    *("hidden=16", "seconds=0.01", "matmul=64", "arms=cpu,mixed", "batches=1", "ranker.hidden=32"),
)


@pytest.mark.parametrize(
    "name", sorted(p.stem for p in FOLDER.glob("*.py") if p.stem not in PEERS | {"__init__"})
)
def test_it_can_be_imported(name: str) -> None:
    importlib.import_module(f"tests.benchmarks.{name}")


def test_the_table_of_results_says_what_the_results_do() -> None:
    written = (verify.RESULTS / "README.md").read_text(encoding="utf-8")
    assert written == verify.overview()


def test_a_row_names_what_did_not_hold() -> None:
    held = {"twice as fast": False, "as good": True}
    document = {"claim": "speed", "date": "2026-11-30", "commit": "abc", "held": held}
    row = verify.line(document | {"wall_seconds": 90.0})
    assert row == "| `speed` | 2026-11-30 | abc | 2 | 1 of 2 | twice as fast |"


def test_who_takes_more_memory_than_the_cap_is_killed() -> None:
    with memory_cap(0.25) as cap:
        if cap is None:
            pytest.skip("no control group can be made here")
        greedy = [sys.executable, "-c", "held = bytes(2**28) + bytes([1] * 2**28)"]
        modest = [sys.executable, "-c", "held = bytes([1] * 2**20)"]
        codes = [
            subprocess.run(words, preexec_fn=cap.enter, check=False).returncode
            for words in (modest, greedy)
        ]
    assert codes == [0, -9]
    assert not cap.folder.exists()


def outcomes_of(*answers: tuple[float, str, float]) -> Outcomes:
    found = Outcomes()
    for due_s, kind, took_s in answers:
        found.note(kind, took_s, due_s)
    return found


def test_answers_belong_to_the_phase_in_which_they_were_due() -> None:
    outcomes = outcomes_of(
        (0.5, "full", 0.01), (1.5, "full", 5.0), (2.0, "503", 0.01), (2.9, "TimeoutError", 30.0)
    )
    found = by_phase(outcomes, ("before", "during"), (0.0, 2.0, 3.0))
    assert found["before"]["outcomes"] == {"full": 2}
    assert found["before"]["slowest_ms"] == 5000
    assert found["during"]["outcomes"] == {"503": 1, "errors": 1}
    assert share(found.values(), FEEDS) == 0.5
    assert share([found["before"]], ("full",)) == 1


def test_a_load_ends_when_it_is_told_to() -> None:
    ended = threading.Event()
    ended.set()
    assert Load("127.0.0.1", 1, [b"{}"]).open(1000.0, 600.0, ended=ended).answers == []


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (broken, ("item_embeddings.npy", "does not match its checksum")),
        (stranger, (f"two_tower/{OTHER_TOWERS}", "two_tower/tt1")),
    ],
)
def test_a_spoilt_copy_is_refused_and_leaves_what_it_was_made_of(
    tmp_path: Path, make: Callable[[Path, str], str], words: tuple[str, ...]
) -> None:
    given = write_bundle(tmp_path / "given", "v1", TinyLog())
    root = linked_root(given, tmp_path / "copy")
    feed = Feed(root, ServeSettings(), background=False)
    point(root, make(root, "v1"))
    feed.tick()
    reason = feed.models()["refused"]["reason"]
    assert all(word in reason for word in words)
    assert feed.models()["bundle"] == "v1"
    point(root, twin(root, "v1"))
    feed.tick()
    assert feed.models()["bundle"] == TWIN
    feed.close()
    artifact.current(given, KIND).verify()
    assert sorted(path.name for path in given.iterdir()) == [KIND]


def test_flags_make_the_ranker_fail_and_the_first_source_slow(tmp_path: Path) -> None:
    root = write_bundle(tmp_path / "root", "v1", TinyLog())
    deadlines = {"default": 30_000.0, "two_tower": 500.0}
    feed = FaultyFeed(root, ServeSettings(budget_ms=60_000.0, deadlines_ms=deadlines), tmp_path)
    request = RecommendRequest(user_id=3, debug=True)
    (tmp_path / RANKER).touch()
    assert feed.recommend(request).fallback == "unranked"
    (tmp_path / RANKER).unlink()
    (tmp_path / SLOW).touch()
    answer = feed.recommend(request)
    assert answer.debug is not None
    assert answer.debug["failures"]["two_tower"] == "late"
    feed.close()


def test_torch_and_numpy_alone_suffice_for_encoders_and_placements() -> None:
    command = [sys.executable, "-c", WITHOUT, ",".join(NOT_THERE), *TINY]
    ran = subprocess.run(command, check=True, capture_output=True, cwd=FOLDER.parent.parent)
    line = json.loads(ran.stdout.splitlines()[-1])
    figures = [
        line["encoders"][name][arithmetic][part]
        for name in KINDS
        for arithmetic in DTYPES
        for part in ("train", "infer")
    ]
    figures += line["placement"]["batches"]["1"].values()
    assert len(figures) == 22
    assert all(found["share_of_peak"] > 0 for found in figures)
    assert all(found["tokens_per_s"] > 0 for found in figures if "tokens_per_s" in found)
    assert figures[-1]["difference"] < 1e-5


def test_operations_of_products_are_counted_forward_backward_and_in_place() -> None:
    one, other = torch.randn(3, 5, requires_grad=True), torch.randn(5, 7, requires_grad=True)
    assert operations(lambda: one @ other) == 2 * 3 * 5 * 7
    assert operations(lambda: (one @ other).sum().backward()) == 3 * 2 * 3 * 5 * 7
    total = torch.zeros(3, 7)
    assert operations(lambda: total.addmm_(one.detach(), other.detach())) == 2 * 3 * 5 * 7
    heads = torch.randn(1, 2, 6, 4)
    attend = torch.nn.functional.scaled_dot_product_attention
    assert operations(lambda: attend(heads, heads, heads)) == 2 * 2 * 2 * 6 * 6 * 4
