"""What a stored action takes, as `plan` has it."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from ray_jobs.planning.growth import Needs
from ray_jobs.planning.hosts import GIB, STORE_BYTES, Traffic, stored_gib
from ray_jobs.planning.measured import Sizes
from serve.lmdb_store import LmdbStore
from serve.redis_store import RedisStore
from tests.redis_server import is_installed, running_redis


def event(number: int, users: int = 2000) -> dict[str, object]:
    time_ms = 1_750_000_000_000 + number
    return {
        **{"event_id": uuid.uuid4().hex, "timestamp": time_ms, "received_at": time_ms},
        **{"user_id": number % users, "item_id": 10**6 + number, "action": "save"},
        "surface": "home",
    }


def test_a_stored_action_takes_as_much_as_the_plan_says(tmp_path: Path) -> None:
    with LmdbStore(tmp_path, max_actions=100) as store:
        for start in range(0, 60_000, 6000):
            store.append([event(number) for number in range(start, start + 6000)])
    taken = sum(file.stat().st_blocks * 512 for file in tmp_path.iterdir())
    assert taken / 60_000 == pytest.approx(STORE_BYTES, rel=0.25)


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    if not is_installed():
        pytest.skip("needs redis-server (make servers)")
    with running_redis(tmp_path) as url:
        yield url


@pytest.mark.parametrize(("users", "most"), [(600, 1000), (600, 50), (6000, 1000)])
def test_a_redis_server_takes_as_much_as_the_plan_says(
    redis_url: str, users: int, most: int
) -> None:
    events = 60_000
    with redis.Redis.from_url(redis_url) as client:
        before = client.info("memory")["used_memory"]
        with RedisStore(redis_url, max_actions=most, timeout_s=30) as store:
            for start in range(0, events, 6000):
                store.append([event(number, users) for number in range(start, start + 6000)])
        taken = client.info("memory")["used_memory"] - before
    needs = Needs(Sizes(users=users, items=1, events=events), {}, {}, {})
    said = stored_gib(needs, Traffic(stored_actions=most, log_days=1), "redis") * GIB
    assert taken == pytest.approx(said, rel=0.15)
