"""Benchmarks run by hand alone: what they import of the project is there still."""

import importlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

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
from tests.benchmarks.fault_phases import FEEDS, by_phase, share
from tests.benchmarks.load import Load, Outcomes
from tests.benchmarks.serve_faulty import RANKER, SLOW, FaultyFeed
from tests.tiny_root import TinyLog, write_bundle

FOLDER = Path(__file__).parent / "benchmarks"
PEERS = {"rectools_peer"}  # runs in an environment of its own


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
