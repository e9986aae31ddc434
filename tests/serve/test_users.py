from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.contract.artifact import read
from serve.bundle import Bundle
from serve.catalogue import Catalogue
from serve.lmdb_store import LmdbStore
from serve.users import Users

DAY_MS = 86_400_000
END_MS = 1_767_225_600_000 + 10 * DAY_MS


def event(
    event_id: int, item_id: int, timestamp: int, action: str = "save", received_at: int = 2**62
) -> dict[str, Any]:
    names = {"event_id": event_id, "user_id": 3, "item_id": item_id, "timestamp": timestamp}
    return names | {"action": action, "surface": "related", "received_at": received_at}


@pytest.fixture
def users(root: Path) -> Users:
    bundle = Bundle.open(root / "bundles" / "v1")
    return Users(bundle, Catalogue(bundle), 1000)


def test_posted_events_follow_the_history_of_the_bundle(users: Users, tmp_path: Path) -> None:
    before = users.read(3, None, END_MS)
    with LmdbStore(tmp_path / "store") as store:
        store.append([event(1, 1005, END_MS + 5, "hide"), event(2, 1006, END_MS + 9)])
        user = users.read(3, store, END_MS + 20)
    assert len(user.events.item) == len(before.events.item) + 2
    assert user.events.timestamp[-2:].tolist() == [END_MS + 5, END_MS + 9]
    assert user.events.action[-2:].tolist() == [3, 1]
    assert user.events.surface[-2:].tolist() == [2, 2]
    assert user.events.offsets.tolist() == [0, len(user.events.item)]


def test_events_posted_out_of_order_are_read_in_order_of_time(users: Users, tmp_path: Path) -> None:
    first = users.read(3, None, END_MS).events.timestamp[0]
    with LmdbStore(tmp_path / "store") as store:
        store.append([event(1, 1005, END_MS + 9), event(2, 1006, int(first) - 1)])
        user = users.read(3, store, END_MS + 20)
    assert user.events.timestamp[0] == first - 1
    assert (np.diff(user.events.timestamp) >= 0).all()


def test_an_event_is_no_later_than_it_was_received(users: Users, tmp_path: Path) -> None:
    year = 365 * DAY_MS
    with LmdbStore(tmp_path / "store") as store:
        store.append([event(1, 1005, END_MS + year, received_at=END_MS + 5)])
        store.append([event(2, 1006, END_MS + 9, received_at=END_MS + 9)])
        user = users.read(3, store, END_MS + 20)
    assert user.events.timestamp[-2:].tolist() == [END_MS + 5, END_MS + 9]
    assert user.reference_ms == END_MS + 20


def test_an_event_received_by_a_clock_that_is_ahead_moves_the_request_behind_it(
    users: Users, tmp_path: Path
) -> None:
    with LmdbStore(tmp_path / "store") as store:
        store.append([event(1, 1005, END_MS + 10 * DAY_MS)])
        user = users.read(3, store, END_MS)
    assert user.reference_ms == END_MS + 10 * DAY_MS
    assert user.now_ms == END_MS


def test_in_a_log_without_a_clock_posted_events_come_last_without_time(
    root: Path, tmp_path: Path, edit_manifest: Any
) -> None:
    folder = root / "bundles" / "v1"
    details = read(folder).manifest.details
    vocabulary = details["vocabulary"] | {"order": "position"}
    changed = details | {"vocabulary": vocabulary, "calendar": None}
    timestamps = folder / "histories" / "timestamp.npy"
    np.save(timestamps, np.zeros_like(np.load(timestamps)))
    edit_manifest(folder, {"details": changed, "checksums": {}})
    bundle = Bundle.open(folder)
    catalogue = Catalogue(bundle)
    with LmdbStore(tmp_path / "store") as store:
        store.append([event(1, 1005, 5), event(2, 1006, 4)])
        user = Users(bundle, catalogue, 1000).read(3, store, END_MS)
    assert user.events.timestamp[-2:].tolist() == [0, 0]
    assert user.reference_ms == 0
    assert catalogue.external(user.events.item[-2:]) == [1005, 1006]


def test_a_user_never_seen_has_no_history_though_the_bucket_has_a_row(users: Users) -> None:
    user = users.read(123_456, None, END_MS)
    assert 1 <= user.row <= 4
    assert not user.admitted
    assert user.is_new
    assert user.seen.tolist() == []
