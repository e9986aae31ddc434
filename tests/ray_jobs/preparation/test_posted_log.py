"""What was posted, whether a store still holds it or the archive has it."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from data.contract import storage
from data.contract.mirrors import PLACE
from data.contract.settings import UserError
from ray_jobs.preparation import posted_log
from ray_jobs.preparation.posted_log import PostedLog
from serve.lmdb_store import LmdbStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray_jobs.preparation.posted_table import PostedTable
    from serve.store import Store

T = 10**12


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with LmdbStore(tmp_path / "store", clock=from_one) as opened:
        yield opened


def from_one() -> int:
    """A clock that leaves numbers as small as they can be."""
    return 0


@pytest.fixture
def posted(tmp_path: Path, store: Store) -> PostedLog:
    return PostedLog(tmp_path, store)


def event(event_id: Any, timestamp: int = T, **more: Any) -> dict[str, Any]:
    return {
        **{"event_id": event_id, "user_id": 1, "item_id": 9, "action": "save", "surface": "home"},
        **{"timestamp": timestamp, "received_at": timestamp + 5},
        **more,
    }


def ids(table: PostedTable) -> list[str]:
    found: list[str] = table.read(["event_id"])["event_id"].to_pylist()
    return found


def test_events_come_as_a_table_with_contract_columns(posted: PostedLog, store: Store) -> None:
    store.append([event(1), event("b", T + 1, duration_s=2.5, board_id=4)])
    table = posted.events(0).read()
    assert table.schema.field("event_id").type == pa.string()
    assert table.schema.field("user_id").type == pa.int64()
    assert table["event_id"].to_pylist() == ["1", "b"]
    assert table["duration_s"].to_pylist() == [None, 2.5]
    assert table["timestamp"].to_pylist() == [T, T + 1]
    assert ids(posted.events(1)) == ["b"]
    assert ids(posted.events(0, until=1)) == ["1"]


def test_no_events_are_an_empty_table_with_the_same_columns(posted: PostedLog) -> None:
    table = posted.events(0).read()
    assert table.num_rows == 0
    assert {"event_id", "user_id", "item_id", "action", "timestamp"} <= set(table.column_names)
    assert posted.items(0).read().num_rows == 0


def test_items_come_with_a_column_for_each_key(posted: PostedLog, store: Store) -> None:
    store.put_items([{"item_id": 5, "creator_id": 1}, {"item_id": 6, "interests": ["a"]}])
    store.put_items([{"item_id": 7, "creator_id": "x"}])
    table = posted.items(0).read()
    assert table["item_id"].to_pylist() == [5, 6, 7]
    assert table["interests"].to_pylist() == [None, ["a"], None]
    assert table["creator_id"].to_pylist() == ["1", None, "x"]  # mixed values become text
    assert posted.items(2).read()["item_id"].to_pylist() == [7]


def test_the_last_event_before_a_moment_is_found(posted: PostedLog, store: Store) -> None:
    store.append([event(n, T + n) for n in range(5)])
    for _ in range(2):
        assert posted.last_before(T + 2, 0) == 3
        assert posted.last_before(T + 9, 2) == 5
        assert posted.last_before(T - 1, 0) == 0
        posted.archive(2)


def test_an_event_of_the_future_was_no_later_than_it_was_received(
    posted: PostedLog, store: Store
) -> None:
    store.append([event(1), event(2, T + 10**12, received_at=T + 1), event(3, T + 2)])
    assert posted.last_before(T + 5, 0) == 3
    assert posted.newest_ms(0) == T + 7
    assert posted.newest_ms(3) == 0


def test_no_event_is_later_than_it_came_whatever_the_clock_of_its_server(tmp_path: Path) -> None:
    with LmdbStore(tmp_path / "store", clock=lambda: 1000 * (T + 50)) as store:
        store.append([event(1), event(2, T + 10**12, received_at=T + 70)])
        store.append([event(3, T + 10**12, received_at=T + 7), event(4, T + 8, received_at=1)])
        times = PostedLog(tmp_path, store).events(0).read()["timestamp"].to_pylist()
    assert times == [T, T + 70, T + 50, T + 8]


@given(
    count=st.integers(0, 25),
    archived=st.lists(st.integers(0, 30), max_size=4),
    file_events=st.integers(1, 9),
    at_once=st.integers(1, 9),
    span=st.tuples(st.integers(0, 30), st.none() | st.integers(0, 30)),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_archived_the_log_is_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    count: int,
    archived: list[int],
    file_events: int,
    at_once: int,
    span: tuple[int, int | None],
) -> None:
    folder = tmp_path_factory.mktemp("root")
    with (
        pytest.MonkeyPatch.context() as patch,
        LmdbStore(folder / "store", clock=from_one) as store,
    ):
        patch.setattr(posted_log, "FILE_EVENTS", file_events)
        patch.setattr(posted_log, "DROPPED_AT_ONCE", at_once)
        posted = PostedLog(folder, store)
        store.append([event(n, T + n, user_id=n if n % 2 else "x") for n in range(count)])
        before = posted.events(*span).read()
        moved = [posted.archive(until) for until in archived]
        assert sum(moved) == min(count, max(archived, default=0))
        assert len(list(store.documents("events", 0))) == count - sum(moved)
        assert posted.events(*span).read().equals(before)
        own = [e["event_id"] for e in posted.actions("x", span[0])]
        assert own == list(range(span[0] + span[0] % 2, count, 2))


class Killed(BaseException):
    pass


STEPS = ((PostedLog, "_write"), (posted_log, "write_atomically"), (LmdbStore, "drop"))


@pytest.mark.parametrize("where", [(PostedLog, "_write"), (LmdbStore, "drop")])
def test_what_is_interrupted_is_finished_and_nothing_given_twice(
    posted: PostedLog, store: Store, monkeypatch: pytest.MonkeyPatch, where: tuple[type, str]
) -> None:
    monkeypatch.setattr(posted_log, "FILE_EVENTS", 2)
    monkeypatch.setattr(posted_log, "DROPPED_AT_ONCE", 1)
    store.append([event(n) for n in range(6)])
    monkeypatch.setattr(*where, after(1, getattr(*where)))
    with pytest.raises(Killed):
        posted.archive(5)
    assert ids(posted.events(0)) == list("012345")
    monkeypatch.undo()
    posted.archive(5)
    assert ids(posted.events(0)) == list("012345")
    assert [number for number, _ in store.documents("events", 0)] == [6]


def test_the_store_lets_go_of_what_is_on_the_disk_of_the_archive(
    tmp_path: Path, posted: PostedLog, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk, real_sync, real_drop = set[int](), os.fsync, store.drop

    def sync(opened: int) -> None:
        real_sync(opened)
        on_disk.add(os.fstat(opened).st_ino)

    def drop(events: Any) -> None:
        folder = tmp_path / "posted" / "archive"
        assert {file.stat().st_ino for file in (folder, *folder.iterdir())} <= on_disk
        real_drop(events)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(store, "drop", drop)
    store.append([event(1), event(2)])
    assert posted.archive(2) == 2


class PostsAndKills(RuleBasedStateMachine):
    """Posts, an archive that is killed anywhere, and a store that is brought back from a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.root = Path(self.folder.name)
        self.now_us, self.least_us, self.next_id, self.copied_until = 100, 0, 0, 0
        self.known: dict[int, int] = {}
        self.open()
        self.copy()

    def open(self) -> None:
        self.store = LmdbStore(self.root / "store", clock=lambda: self.now_us)
        self.posted = PostedLog(self.root, self.store)

    @rule(count=st.integers(1, 7), passed_us=st.integers(-30, 50))
    def post(self, count: int, passed_us: int) -> None:
        self.now_us = max(self.now_us + passed_us, self.least_us)
        ids = range(self.next_id, self.next_id + count)
        self.next_id += count
        last = self.store.append([event(n, user_id=n % 2) for n in ids]).sequence
        self.known |= zip(range(last - count + 1, last + 1), ids, strict=True)

    @rule(share=st.floats(0, 1), where=st.sampled_from(STEPS), calls=st.integers(0, 4))
    def archive(self, share: float, where: tuple[Any, str], calls: int) -> None:
        until = [0, *sorted(self.known)][round(share * len(self.known))]
        with pytest.MonkeyPatch.context() as patch, suppress(Killed):
            patch.setattr(posted_log, "FILE_EVENTS", 3)
            patch.setattr(posted_log, "DROPPED_AT_ONCE", 2)
            patch.setattr(*where, after(calls, getattr(*where)))
            self.posted.archive(until)

    @rule()
    def copy(self) -> None:
        self.store.close()
        shutil.copytree(self.root / "store", self.root / "copy", dirs_exist_ok=True)
        self.copied_until = max(self.known, default=0)
        self.open()

    @rule()
    def bring_back(self) -> None:
        last = self.archived_until
        self.store.close()
        shutil.copytree(self.root / "copy", self.root / "store", dirs_exist_ok=True)
        # It takes longer than a clock goes back.
        self.least_us = self.now_us = max(self.now_us, 1 + max(self.known, default=0))
        self.known = {n: e for n, e in self.known.items() if n <= max(last, self.copied_until)}
        self.open()

    @property
    def archived_until(self) -> int:
        return max((last for _, last in self.posted._files()), default=0)

    @invariant()
    def all_is_there_once_and_in_order(self) -> None:
        assert ids(self.posted.events(0)) == [str(self.known[n]) for n in sorted(self.known)]
        for user in (0, 1):
            newest = [e["event_id"] for e in self.store.actions(user, self.archived_until, 999)]
            own = [n for n in sorted(self.known) if self.known[n] % 2 == user]
            assert newest == [self.known[n] for n in own if n > self.archived_until]

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()


TestPostsAndKills = PostsAndKills.TestCase


def test_what_has_a_number_of_the_archive_and_is_another_event_is_not_dropped(
    posted: PostedLog, store: Store, tmp_path: Path
) -> None:
    store.append([event(n) for n in range(4)])
    posted.archive(4)
    with LmdbStore(tmp_path / "anew", clock=from_one) as anew:  # as stores were numbered before
        anew.append([event("new"), event(1)])
        assert PostedLog(tmp_path, anew).archive(4) == 1
        assert [e["event_id"] for _, e in anew.documents("events", 0)] == ["new"]


def test_what_is_left_over_is_looked_at_by_file_and_only_where_there_is_something(
    tmp_path: Path, posted: PostedLog, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posted_log, "FILE_EVENTS", 2)
    store.append([event(n) for n in range(8)])
    posted.archive(6)
    read, dropped = list[str](), list[int]()
    real_read, real_drop = PostedLog._read, LmdbStore.drop
    monkeypatch.setattr(
        PostedLog, "_read", lambda log, path: (read.append(path.stem), real_read(log, path))[1]
    )
    monkeypatch.setattr(
        LmdbStore, "drop", lambda s, events: (dropped.append(len(events)), real_drop(s, events))[1]
    )
    assert posted.archive(6) == 0
    assert (read, dropped) == ([], [])
    with LmdbStore(tmp_path / "copy", clock=from_one) as copy:
        copy.skip_to(2)
        copy.append([event(n) for n in range(2, 8)])
        assert PostedLog(tmp_path, copy).archive(6) == 4
        assert [number for number, _ in copy.documents("events", 0)] == [7, 8]
    assert (read, dropped) == (["3-4", "5-6"], [2, 2])


def after(calls: int, real: Any) -> Any:
    """What is killed after some calls."""

    def killed(*words: Any) -> Any:
        nonlocal calls
        calls -= 1
        if calls < 0:
            raise Killed
        return real(*words)

    return killed


def test_another_machine_reads_the_archive_and_a_storage_that_fails_loses_nothing(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PLACE, str(tmp_path / "here"))
    monkeypatch.setattr(storage, "TRIES", ())
    (tmp_path / "remote").mkdir()
    root = storage.mirror(f"file://{tmp_path}/remote")
    store.append([event(n) for n in range(4)])
    with monkeypatch.context() as patch:
        patch.setattr(storage, "_copied_there", lambda *_: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(UserError, match="full"):
            PostedLog(root, store).archive(3)
    assert len(list(store.documents("events", 0))) == 4
    assert PostedLog(root, store).archive(3) == 3
    monkeypatch.setenv(PLACE, str(tmp_path / "other"))
    assert ids(PostedLog(storage.here(root), store).events(0)) == list("0123")
