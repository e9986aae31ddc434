"""What a stored action takes, as `plan` has it."""

import uuid
from pathlib import Path

import pytest

from ray_jobs.planning.hosts import STORE_BYTES
from serve.lmdb_store import LmdbStore


def event(number: int) -> dict[str, object]:
    time_ms = 1_750_000_000_000 + number
    return {
        **{"event_id": uuid.uuid4().hex, "timestamp": time_ms, "received_at": time_ms},
        **{"user_id": number % 2000, "item_id": 10**6 + number, "action": "save"},
        "surface": "home",
    }


def test_a_stored_action_takes_as_much_as_the_plan_says(tmp_path: Path) -> None:
    with LmdbStore(tmp_path, max_actions=100) as store:
        for start in range(0, 60_000, 6000):
            store.append([event(number) for number in range(start, start + 6000)])
    taken = sum(file.stat().st_blocks * 512 for file in tmp_path.iterdir())
    assert taken / 60_000 == pytest.approx(STORE_BYTES, rel=0.25)
