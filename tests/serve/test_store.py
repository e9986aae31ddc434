"""What every store does, the local one and Redis."""

import itertools
import multiprocessing
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.contract.settings import UserError
from serve.lmdb_store import LmdbStore
from serve.redis_store import PASSWORD, RedisStore
from serve.settings import ServeSettings
from serve.store import Store
from tests.e2e.processes import free_port, wait_until_it_answers
from tests.redis_server import is_installed, running_redis

Open = Callable[..., Store]


@pytest.fixture(params=["local", "redis"])
def opening(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens one store, empty at first, as often as one likes."""
    if request.param == "local":
        return partial(LmdbStore, tmp_path / "store", clock=from_one)
    url: str = request.getfixturevalue("redis_url")
    redis.Redis.from_url(url).flushdb()
    return partial(RedisStore, url, clock=from_one)


def from_one() -> int:
    """A clock that leaves numbers as small as they can be."""
    return 0


@pytest.fixture
def store(opening: Open) -> Iterator[Store]:
    with opening(max_actions=5) as opened:
        yield opened


def event(
    event_id: Any, user_id: Any = 1, item_id: Any = 9, timestamp: int = 10**12
) -> dict[str, Any]:
    return {
        "event_id": event_id,
        "user_id": user_id,
        "item_id": item_id,
        "action": "save",
        "surface": "home",
        "timestamp": timestamp,
        "received_at": timestamp + 5,
    }


def test_appending_twice_changes_nothing(store: Store) -> None:
    first = store.append([event("a"), event("b"), event("a")])
    assert (first.accepted, first.duplicates, first.sequence) == (2, 1, 2)
    again = store.append([event("b", item_id=10)])
    assert (again.accepted, again.duplicates, again.sequence) == (0, 1, 2)
    assert [e["item_id"] for e in store.actions(1, 0, 10)] == [9, 9]


def test_an_integer_event_id_is_the_same_as_its_text(store: Store) -> None:
    assert store.append([event(17), event("17")]).duplicates == 1


def test_integer_and_string_users_are_apart(store: Store) -> None:
    store.append([event("a", user_id=1), event("b", user_id="1")])
    assert len(store.actions(1, 0, 10)) == 1
    assert len(store.actions("1", 0, 10)) == 1


def test_only_the_newest_actions_of_a_user_are_at_hand(store: Store) -> None:
    store.append([event(n, item_id=n) for n in range(8)])
    assert [e["item_id"] for e in store.actions(1, 0, 100)] == [3, 4, 5, 6, 7]
    assert [e["item_id"] for e in store.actions(1, 0, 2)] == [6, 7]
    assert len(list(store.documents("events", 0))) == 8


def test_absorbed_actions_are_left_out(store: Store) -> None:
    store.append([event(n, item_id=n) for n in range(4)])
    assert [e["item_id"] for e in store.actions(1, 2, 10)] == [2, 3]
    assert store.actions(2, 0, 10) == []


def test_what_was_acknowledged_is_there_after_reopening(opening: Open) -> None:
    with opening() as store:
        store.append([event("a")])
        store.put_items([{"item_id": 5}])
    with opening() as store:
        assert store.last_sequence == 2
        assert store.append([event("a")]).duplicates == 1
        assert len(store.actions(1, 0, 10)) == 1


def test_a_posted_item_replaces_the_one_before(store: Store) -> None:
    store.put_items([{"item_id": 5, "quality": 1.0}, {"item_id": 6, "interests": ["a"]}])
    assert store.put_items([{"item_id": 5, "quality": 2.0}]) == 3
    six = (2, {"item_id": 6, "interests": ["a"]})
    five = (3, {"item_id": 5, "quality": 2.0})
    assert list(store.documents("items", 0)) == [six, five]
    assert list(store.documents("items", 2)) == [five]


def test_events_and_items_share_one_sequence(store: Store) -> None:
    assert store.append([event("a")]).sequence == 1
    assert store.put_items([{"item_id": 5}]) == 2
    assert store.append([event("b")]).sequence == 3


def test_a_store_begun_anew_goes_on_where_the_bundle_ended(opening: Open) -> None:
    with opening() as store:
        store.skip_to(40)
        assert store.append([event("a")]).sequence == 41
        store.skip_to(7)
        assert store.append([event("b")]).sequence == 42
    with opening() as store:
        assert store.put_items([{"item_id": 5}]) == 43


def empty(opening: Open, folders: pytest.TempPathFactory) -> Store:
    """A store to begin with, whatever an example before has left."""
    if opening.func is LmdbStore:  # type: ignore[attr-defined]
        return LmdbStore(folders.mktemp("store"), clock=from_one)
    store = opening()
    assert isinstance(store, RedisStore)
    store._redis.flushdb()
    return store


@given(st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=6), max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_batches_leave_each_event_once_in_order_of_arrival(
    opening: Open,
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[list[tuple[int, int]]],
) -> None:
    expected: dict[int, int] = {}
    with empty(opening, tmp_path_factory) as store:
        for batch in batches:
            store.append([event(key, user_id=user) for key, user in batch])
            for key, user in batch:
                expected.setdefault(key, user)
        stored = [(int(e["event_id"]), e["user_id"]) for _, e in store.documents("events", 0)]
        assert stored == list(expected.items())
        for user in range(4):
            keys = [e["event_id"] for e in store.actions(user, 0, 100)]
            assert keys == [key for key, owner in expected.items() if owner == user]


def _append(opening: Open, writer: int) -> None:
    with opening() as store:
        for n in range(20):
            store.append([event(f"{writer}-{n}", user_id=n % 3), event(f"shared-{n}")])


def check_all_there(store: Store) -> None:
    numbers, events = zip(*store.documents("events", 0), strict=True)
    assert numbers == tuple(range(1, 81))
    assert len({e["event_id"] for e in events}) == 80


def test_several_processes_append_without_loss_or_doubles(opening: Open) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append, args=(opening, n)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    with opening() as store:
        check_all_there(store)


def test_several_threads_append_without_loss_or_doubles(opening: Open) -> None:
    with opening() as store:

        def append(writer: int) -> None:
            for n in range(20):
                store.append([event(f"{writer}-{n}", user_id=n % 3), event(f"shared-{n}")])

        threads = [threading.Thread(target=append, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        check_all_there(store)


def test_more_documents_than_a_page_come_in_order(store: Store) -> None:
    store.append([event(n) for n in range(2_500)])
    store.put_items([{"item_id": n} for n in range(1_500)])
    assert [n for n, _ in store.documents("events", 3, 2_400)] == list(range(4, 2_401))
    assert [n for n, _ in store.documents("items", 2_600)] == list(range(2_601, 4_001))


def test_a_store_that_was_lost_gives_no_number_again(opening: Open, tmp_path: Path) -> None:
    times = iter([10**15, 10**15 + 5, 10**15 + 6, 10**15 + 2])
    with opening(clock=times.__next__) as store:
        assert store.append([event("a"), event("b")]).sequence == 10**15 + 1
        assert store.put_items([{"item_id": 5}]) == 10**15 + 5
        numbers = [n for n, _ in store.documents("events", 0)]
        assert numbers == [10**15, 10**15 + 1]
        again = store.append([event("a")])
        assert (again.duplicates, again.sequence) == (1, 10**15 + 5)
        assert store.append([event("c")]).sequence == 10**15 + 6  # the clock went back
        assert [e["event_id"] for e in store.actions(1, 10**15, 9)] == ["b", "c"]
    with opening() as store:
        assert store.append([event("d")]).sequence == 10**15 + 7


def fill(store: Store) -> None:
    """Posts until the store refuses."""
    for start in itertools.count(0, 2000):
        store.append([event(start + n, user_id=n % 97) for n in range(2000)])


def test_a_full_local_store_lets_go_of_what_was_taken_and_takes_more(tmp_path: Path) -> None:
    with LmdbStore(tmp_path, max_gib=1 / 64) as store:
        with pytest.raises(lmdb.MapFullError, match=r"serve\.store_gib"):
            fill(store)
        while oldest := list(itertools.islice(store.documents("events", 0), 1000)):
            store.drop(oldest)
        assert store.append([event("one more")]).accepted == 1


def test_what_was_dropped_is_gone_and_its_number_not_given_again(opening: Open) -> None:
    with opening() as store:
        store.append([event(n, user_id=n % 2, item_id=n) for n in range(6)])
        store.drop(list(store.documents("events", 0, 6)))
        assert list(store.documents("events", 0)) == []
        assert [store.actions(user, 0, 9) for user in (0, 1)] == [[], []]
        assert store.last_sequence == 6
    with opening() as store:
        again = store.append([event(3)])  # taken for a new one
        assert (again.accepted, again.sequence) == (1, 7)
        store.drop([])
        assert [number for number, _ in store.documents("events", 0)] == [7]


def test_what_is_not_dropped_stays_also_before_what_is(store: Store) -> None:
    store.append([event(n, user_id=n % 2, item_id=n) for n in range(5)])
    kept, (dropped, *_) = [1, 2, 4, 5], list(store.documents("events", 2, 3))
    store.drop([dropped])
    assert [number for number, _ in store.documents("events", 0)] == kept
    assert [e["item_id"] for e in store.actions(1, 0, 9)] == [1, 3]
    assert store.actions(0, 0, 9)[0]["item_id"] == 0
    again = store.append([event(n) for n in range(5)])
    assert (again.duplicates, again.sequence) == (4, 6)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=30),
    st.integers(0, 30),
    st.integers(1, 7),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_after_a_drop_later_events_are_as_they_were(
    opening: Open,
    tmp_path_factory: pytest.TempPathFactory,
    posted: list[tuple[int, int]],
    until: int,
    page: int,
) -> None:
    with empty(opening, tmp_path_factory) as store:
        store.append([event(key, user_id=user, item_id=key) for key, user in posted])
        last = store.last_sequence
        kept = list(store.documents("events", until))
        actions = [store.actions(user, until, 100) for user in range(4)]
        while oldest := list(itertools.islice(store.documents("events", 0, until), page)):
            store.drop(oldest)
            store.drop(oldest)  # as another process that has read them too
        assert list(store.documents("events", 0)) == kept
        assert [store.actions(user, 0, 100) for user in range(4)] == actions
        known = [e["event_id"] for _, e in kept]
        assert store.append([event(key) for key in known]).duplicates == len(known)
        assert store.append([event("new")]).sequence == last + 1


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("needs redis-server (make servers)")
    words = ["--bind", "127.0.0.1", "--port", str(free_port()), "--save", ""]
    with subprocess.Popen([program, *words], cwd=tmp_path, stdout=subprocess.DEVNULL) as server:
        wait_for_one(server)
        yield server
        server.kill()


def wait_for_one(server: subprocess.Popen[bytes]) -> None:
    with redis.Redis.from_url(url_of(server)) as client:
        wait_until_it_answers(client.ping, redis.RedisError)


def url_of(server: subprocess.Popen[bytes]) -> str:
    words = list(map(str, server.args))  # type: ignore[arg-type]
    return f"redis://127.0.0.1:{words[words.index('--port') + 1]}/0"


def test_a_redis_that_hangs_is_asked_once(
    own_redis: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RedisStore(url_of(own_redis), timeout_s=0.2, read_s=0.2, clock=from_one)
    store.actions(1, 0, 10)
    sent: list[bytes] = []
    send = redis.connection.Connection.send_packed_command

    def noting(connection: Any, command: Any, *words: Any, **more: Any) -> None:
        sent.append(b"".join(command))
        send(connection, command, *words, **more)

    monkeypatch.setattr(redis.connection.Connection, "send_packed_command", noting)
    own_redis.send_signal(signal.SIGSTOP)
    with pytest.raises(redis.TimeoutError):
        store.actions(1, 0, 10)
    assert len([text for text in sent if b"LRANGE" in text]) == 1
    with pytest.raises(redis.TimeoutError):
        store.append([event("a")])
    assert len([text for text in sent if b"EVALSHA" in text]) == 1
    own_redis.send_signal(signal.SIGCONT)
    wait_until_it_answers(store._redis.ping, redis.RedisError)
    assert store.append([event("a")]).sequence == 1
    store.close()


def test_a_redis_that_was_restarted_is_found_again_at_once(
    own_redis: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    store = RedisStore(url_of(own_redis), clock=from_one)
    store.append([event(n) for n in range(3)])
    own_redis.kill()
    own_redis.wait()
    with pytest.raises(redis.ConnectionError):
        store.actions(1, 0, 10)
    with subprocess.Popen(own_redis.args, cwd=tmp_path, stdout=subprocess.DEVNULL) as again:
        wait_for_one(own_redis)
        assert store.actions(1, 0, 10) == []  # this one kept nothing
        assert store.append([event("a")]).sequence == 4
        assert store.put_items([{"item_id": 5}]) == 5
        again.kill()
    store.close()


def test_the_password_of_a_redis_is_shown_nowhere(
    own_redis: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    address = url_of(own_redis).removeprefix("redis://")
    with redis.Redis.from_url(url_of(own_redis)) as client:
        client.config_set("requirepass", "hunter2")
    RedisStore(f"redis://:hunter2@{address}").close()
    assert f"redis://{address} does not write before it answers" in caplog.text
    with pytest.raises(UserError, match=rf"redis://{address}: .*; is a Redis") as wrong:
        RedisStore(f"redis://:hunter3@{address}")
    own_redis.kill()
    own_redis.wait()
    with pytest.raises(UserError, match=rf"redis://{address}: .*; is a Redis") as gone:
        RedisStore(f"redis://:hunter2@{address}")
    with pytest.raises(ValueError, match=r"neither local nor an address") as other:
        ServeSettings(store=f"amqp://:hunter2@{address}")
    assert "hunter" not in f"{caplog.text} {wrong.value} {gone.value} {other.value}"


def test_a_password_comes_from_the_environment_or_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_installed():
        pytest.skip("needs redis-server (make servers)")
    with running_redis(tmp_path, "hunter2") as url:
        monkeypatch.delenv(PASSWORD, raising=False)
        with pytest.raises(UserError, match=f"authenticat.*{PASSWORD}"):
            RedisStore(url)
        for given, address in (
            ("hunter2", url),
            ("wrong", url.replace("//", "//:hunter2@")),
            ("hunter2", url.replace("//", "//default@")),
        ):
            monkeypatch.setenv(PASSWORD, given)
            with RedisStore(address) as store:
                assert store.append([event(given)]).sequence == store.last_sequence
        monkeypatch.setenv(PASSWORD, "wrong-one")
        with pytest.raises(UserError) as refused:
            RedisStore(url)
        assert "wrong-one" not in str(refused.value)
