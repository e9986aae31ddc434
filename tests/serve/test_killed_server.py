"""A server process that is killed while events are posted to it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serve.lmdb_store import LmdbStore
from tests.benchmarks.post_events import kept, read_back
from tests.benchmarks.posting import Plan
from tests.e2e.processes import REPOSITORY


@pytest.mark.parametrize("store", ["local", "redis"])
def test_no_acknowledged_event_is_lost_or_doubled_when_the_server_is_killed(
    root: Path, store: str, request: pytest.FixtureRequest
) -> None:
    where = "local" if store == "local" else request.getfixturevalue("redis_url")
    found = kept(root, where, events=3000, writers=8, kills=1)
    assert (found["kills"], found["acknowledged"]) == (1, 3000)
    assert (found["lost"], found["doubled"], found["users_told_wrongly"]) == (0, 0, 0)


def test_what_is_missing_or_other_than_posted_is_counted_as_lost(tmp_path: Path) -> None:
    plan = Plan(4, 1, 0, ["save"])
    with LmdbStore(tmp_path / "store") as store:
        store.append([plan.event(0), plan.event(1) | {"item_id": 3}])
        assert read_back(store, 0, plan) == (3, 0)


def test_what_is_there_under_two_numbers_is_counted_as_doubled(tmp_path: Path) -> None:
    plan = Plan(2, 1, 0, ["save"])
    with LmdbStore(tmp_path / "store") as store:
        store.append([plan.event(0), plan.event(1)])
        forget(store)
        store.append([plan.event(1)])
        assert read_back(store, 0, plan) == (0, 1)


def forget(store: LmdbStore) -> None:
    """Makes a store that has lost its keys of events."""
    keys = store._tables["event_keys"]
    store._writer(lambda transaction: transaction.drop(keys, delete=False))


READER = """
import sys
from pathlib import Path
from serve.lmdb_store import LmdbStore
store = LmdbStore(Path(sys.argv[1]))
transaction = store._environment.begin()
print("reading", flush=True)
sys.stdin.read()
"""


@contextmanager
def reading(folder: Path) -> Iterator[int]:
    """The process of another reader, which is killed in the end."""
    command = [sys.executable, "-c", READER, str(folder)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"reading\n"
        yield reader.pid
        reader.kill()


def test_the_place_of_a_reader_that_was_killed_is_given_back(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with reading(folder) as alive:
        with reading(folder) as killed:
            assert killed != alive
        with LmdbStore(folder) as store:
            told = store._environment.readers()
            assert str(alive) in told
            assert str(killed) not in told
