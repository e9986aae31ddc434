"""What goes on in the background while a bundle is being loaded."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from serve.feed import Feed
from serve.messages import Item, RecommendRequest
from serve.settings import ServeSettings


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


class Loading:
    """A feed that is loading a bundle until it is told to have loaded it."""

    def __init__(self, root: Path, settings: ServeSettings, publish: Callable[..., Path]) -> None:
        self.feed = Feed(root, replace(settings, poll_seconds=0.02, log_seconds=0.02))
        self.begun, self.done = threading.Event(), threading.Event()
        load = self.feed._switch.load

        def slow(version: str) -> Any:
            self.begun.set()
            assert self.done.wait(120)
            return load(version)

        self.feed._switch.load = slow  # type: ignore[method-assign]
        publish(root, "v2")
        assert self.begun.wait(60)


@pytest.fixture
def loading(
    root: Path, settings: ServeSettings, publish_bundle: Callable[..., Path]
) -> Iterator[Loading]:
    made = Loading(root, settings, publish_bundle)
    yield made
    made.done.set()
    made.feed.close()


def logged(root: Path) -> int:
    files = (root / "requests" / "features").rglob("part-*.parquet")
    return sum(pq.read_metadata(file).num_rows for file in files)


def test_the_log_is_written_and_the_note_touched_while_a_bundle_loads(
    root: Path, loading: Loading
) -> None:
    feed = loading.feed
    (note,) = (root / "replicas").glob("*.json")
    os.utime(note, (0, 0))
    feed.recommend(RecommendRequest(user_id=3))
    until(lambda: logged(root) == 1 and note.stat().st_mtime > 0)
    assert feed.readiness()["bundle"] == "v1"
    loading.done.set()
    until(lambda: feed.readiness()["bundle"] == "v2")


def test_items_that_other_replicas_were_posted_are_taken_in_while_a_bundle_loads(
    loading: Loading,
) -> None:
    feed = loading.feed
    feed.store.put_items([{"item_id": 5000, "content": [1.0] + [0.0] * 7, "created_at": 1}])
    until(lambda: feed.models()["posted_items"] == 1)
    loading.done.set()
    until(lambda: feed.readiness()["bundle"] == "v2")
    until(lambda: feed.models()["posted_items"] == 1)
    assert feed.post_items([Item(item_id=5001)]).recommendable == 1


def test_closing_while_a_bundle_loads_writes_the_log_before_it_waits(
    root: Path, loading: Loading
) -> None:
    loading.feed._logged_s = float("inf")  # only closing writes
    loading.feed.recommend(RecommendRequest(user_id=3))
    closing = threading.Thread(target=loading.feed.close)
    closing.start()
    until(lambda: logged(root) == 1)
    assert closing.is_alive(), "the bundle is still being loaded"
    loading.feed.recommend(RecommendRequest(user_id=4))
    loading.done.set()
    closing.join(60)
    assert not closing.is_alive()
    assert logged(root) == 2
