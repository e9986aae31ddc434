"""The next day: posted events and items are learnt from while the server goes on answering."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from data.dataset import Dataset
from tests.data.user_events import events_of
from tests.e2e.processes import run, serving, words_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

NEW_USER, NEW_ITEM = 7_000_000_001, 7_000_000_002
DAY_MS = 86_400_000


class Asking(threading.Thread):
    """Asks for feeds until told to stop, and keeps what came back."""

    def __init__(self, url: str, users: list[int]) -> None:
        super().__init__(daemon=True)
        self.url, self.users = url, users
        self.answers: list[tuple[int, str]] = []
        self.stopped = threading.Event()

    def run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as client:
            for turn in range(10**9):
                if self.stopped.wait(0.05):
                    return
                user = self.users[turn % len(self.users)]
                answer = client.post("/v1/recommend", json={"user_id": user, "num_items": 10})
                bundle = client.get("/v1/models").json()["bundle"]
                self.answers.append((answer.status_code, bundle))


def posted_events(users: list[int], items: list[int], now_ms: int) -> list[dict[str, Any]]:
    """1,000 events: of known users, 40 of a new one, 60 on a new item."""
    rng = np.random.default_rng(0)
    who = [NEW_USER if n < 40 else users[int(rng.integers(len(users)))] for n in range(1000)]
    what = [NEW_ITEM if n % 16 == 5 else items[int(rng.integers(len(items)))] for n in range(1000)]
    return [
        {
            "event_id": f"posted-{n}",
            "user_id": user,
            "item_id": item,
            "action": "save",
            "surface": "home",
            "timestamp": now_ms + 1000 * n,
        }
        for n, (user, item) in enumerate(zip(who, what, strict=True))
    ]


@dataclass(frozen=True)
class Day:
    """What was seen of the next day."""

    root: Path
    before: Dataset
    first: dict[str, Any]
    second: dict[str, Any]
    answers: list[tuple[int, str]]
    feed: dict[str, Any]
    similar: dict[str, Any]
    posted: int

    @property
    def after(self) -> Dataset:
        """The data set of the next day."""
        return Dataset.open(self.root)


@pytest.fixture(scope="module")
def day(first_day: tuple[Path, dict[str, Any]]) -> Day:
    root, summary = first_day
    before = Dataset.open(root)
    users = before.user_ids.ids.to_pylist()[:20]
    items = before.item_ids.ids.to_pylist()[:50]
    assert before.calendar is not None
    noon = before.calendar.start_ms(before.calendar.num_days + 1) + DAY_MS // 2
    item = {"item_id": NEW_ITEM, "title": "New", "interests": ["topic-1"], "language": "en"}
    with serving(root) as url, httpx.Client(base_url=url, timeout=60) as client:
        client.post("/v1/items", json=[item]).raise_for_status()
        accepted = client.post("/v1/events", json=posted_events(users, items, noon)).json()
        assert accepted["accepted"] == 1000
        asking = Asking(url, [*users, NEW_USER])
        asking.start()
        port = url.rsplit(":", 1)[1]
        second = run("pipeline", *words_of(root, "day=next", f"serve.port={port}"))
        time.sleep(1)
        asking.stopped.set()
        asking.join()
        feed = client.post("/v1/recommend", json={"user_id": NEW_USER, "num_items": 10}).json()
        similar = client.get(f"/v1/items/{NEW_ITEM}/similar").json()
    posted = accepted["sequence"]
    return Day(root, before, summary, second, asking.answers, feed, similar, posted)


def test_no_request_fails_while_the_served_version_changes(day: Day) -> None:
    assert {status for status, _ in day.answers} == {200}
    assert day.answers[0][1] == day.first["bundle"]
    assert day.answers[-1][1] == day.second["bundle"]
    assert day.second["bundle"] != day.first["bundle"]


def test_exactly_the_posted_events_and_the_worlds_day_are_added(day: Day) -> None:
    added = day.second["counts"]["events"] - day.first["counts"]["events"]
    assert day.second["counts"]["new_events"] == added
    assert day.after.details["store_sequence"] == day.posted
    new_user = day.after.user_ids.lookup(pa.array([NEW_USER]))
    assert events_of(day.after, new_user).lengths[0] == 40


def test_old_ids_keep_their_rows_and_new_ones_get_rows(day: Day) -> None:
    for name, new in (("item_ids", NEW_ITEM), ("user_ids", NEW_USER)):
        before, after = getattr(day.before, name), getattr(day.after, name)
        assert (after.lookup(before.ids) == before.lookup(before.ids)).all()
        assert after.lookup(pa.array([new]))[0] >= before.rows


def test_the_new_user_and_the_new_item_are_served(day: Day) -> None:
    assert len(day.feed["items"]) == 10
    assert day.feed["fallback"] is False
    assert len(day.similar["items"]) == 10


def test_yesterday_can_be_cleaned_away(day: Day) -> None:
    done = run("clean", f"root={day.root}", "keep=1", "hours=0")
    assert {name.partition("/")[0] for name in done["removed"]} >= {"two_tower", "bundles"}
    assert f"bundles/{day.first['bundle']}" in done["removed"]
    assert done["freed_mib"] > 0
    with serving(day.root) as url, httpx.Client(base_url=url, timeout=60) as client:
        feed = client.post("/v1/recommend", json={"user_id": NEW_USER, "num_items": 10}).json()
    assert len(feed["items"]) == 10
