"""Events posted while the server is killed: none acknowledged is lost, none is there twice.

    python -m tests.benchmarks.post_events [root=<a copy of a root>] [events=100000] [writers=8]
        [kills=1] [stores=local,redis]

Writers post batches of 1 to 1,000 events to a server of its own process. In the middle it is killed
(SIGKILL) and started again; what was not acknowledged is sent again under the same event ids. Then
some users are read over HTTP, and, when the server has ended, the whole store. For each store: how
many events are `lost` (acknowledged, and not there as they were posted) and `doubled`, users that
were told wrongly over HTTP, events a second while there was a server, and the time to an
acknowledgement by size of batch. Without a root a tiny one is made; without redis-server the local
store alone is tried. The last line is one JSON object.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from data.contract.settings import load
from serve.settings import ServeSettings
from serve.stores import open_store
from tests.benchmarks.plain_server import PlainServer
from tests.benchmarks.posting import USERS, Plan, post
from tests.redis_server import is_installed, running_redis
from tests.tiny_root import TinyLog, write_bundle

if TYPE_CHECKING:
    from serve.store import Store

ASKED_USERS, MOST_ACTIONS = 20, 500


def main(words: list[str]) -> None:
    """Posts to each store and prints."""
    given = dict(word.split("=", 1) for word in words)
    names = given.get("stores", "local,redis" if is_installed() else "local").split(",")
    numbers = [int(given.get(name, default)) for name, default in DEFAULTS.items()]
    found = {}
    for name in names:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            root = Path(given["root"]) if "root" in given else tiny_root(folder)
            setting = "local" if name == "local" else stack.enter_context(running_redis(folder))
            found[name] = kept(root, setting, *numbers)
        print(json.dumps({name: found[name]}), file=sys.stderr)
    told = {"events": numbers[0], "writers": numbers[1], "kills": numbers[2]}
    print(json.dumps({"name": "post_events", **told, "stores": found}))


DEFAULTS = {"events": "100000", "writers": "8", "kills": "1"}


def tiny_root(folder: Path) -> Path:
    """A root with a bundle of 200 items and 50 users."""
    return write_bundle(folder / "root", "v1", TinyLog())


def kept(root: Path, store: str, events: int, writers: int, kills: int) -> dict[str, Any]:
    """Posts to a server of a root with a store, and reads back what it keeps."""
    words = (f"store={store}", "log_requests=false")
    settings = load(ServeSettings, words)
    with open_store(root, settings) as opened:
        before = opened.last_sequence
    with PlainServer(root, *words) as server:
        actions = httpx.get(f"{server.url}/v1/models").json()["actions"]
        plan = Plan(events, writers, kills, actions)
        posted = post(server, plan)
        wrong = told_wrongly(server.url, plan)
        server.stop()
    with open_store(root, settings) as opened:
        lost, doubled = read_back(opened, before, plan)
    counts = {"lost": lost, "doubled": doubled, "users_told_wrongly": wrong, "kills": server.kills}
    return counts | posted.told()


def read_back(store: Store, after: int, plan: Plan) -> tuple[int, int]:
    """Events of a plan that the store does not have as they were posted, and has twice."""
    times: Counter[str] = Counter()
    right = set()
    for _, event in store.documents("events", after):
        times[event["event_id"]] += 1
        right.add(_as_posted(event))
    lost = sum(_as_posted(plan.event(number)) not in right for number in range(plan.events))
    return lost, sum(count > 1 for count in times.values())


def _as_posted(event: dict[str, Any]) -> tuple[str, ...]:
    """What the writer said of an event; a root of text ids keeps ids as text."""
    names = ("event_id", "user_id", "item_id", "action", "timestamp")
    return tuple(str(event[name]) for name in names)


def told_wrongly(url: str, plan: Plan) -> int:
    """Users of whom the server tells other actions than were posted, or not newest first."""
    wrong = 0
    for user in range(min(ASKED_USERS, plan.events)):
        own = [plan.event(number) for number in range(user, plan.events, USERS)][::-1]
        path = f"{url}/v1/users/{own[0]['user_id']}/actions"
        found = httpx.get(path, params={"limit": MOST_ACTIONS}).json()["actions"]
        wrong += [a["timestamp"] for a in found] != [e["timestamp"] for e in own[:MOST_ACTIONS]]
    return wrong


if __name__ == "__main__":
    main(sys.argv[1:])
