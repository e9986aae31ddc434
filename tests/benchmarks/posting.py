"""Writers that post events until each is acknowledged, whatever becomes of the server."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.plain_server import PlainServer

SIZES, SHARES = (1, 10, 100, 1000), (0.5, 0.3, 0.15, 0.05)
FIRST_USER, USERS = 10**12, 1000  # whom no bundle knows: all that is read of them was posted
FIRST_ITEM, ITEMS = 10**12, 5000
FIRST_MS = 1_767_225_600_000
ANSWER_S, AGAIN_S = 60.0, 0.05


@dataclass(frozen=True)
class Plan:
    """What is posted.

    Attributes:
        events: in all.
        writers: at the same time, each a batch at a time on a connection of its own.
        kills: of the server, at equal parts of the way.
        actions: that the bundle knows.
        run: told apart from other runs on the same root.
    """

    events: int
    writers: int
    kills: int
    actions: Sequence[str]
    run: int = field(default_factory=lambda: time.time_ns() // 10**6)

    def event(self, number: int) -> dict[str, Any]:
        """The n-th event: each has a time of its own."""
        return {
            "event_id": f"{self.run}-{number}",
            "user_id": FIRST_USER + self.run * USERS + number % USERS,
            "item_id": FIRST_ITEM + number % ITEMS,
            "action": self.actions[number % len(self.actions)],
            "timestamp": FIRST_MS + number,
        }

    def batches(self, writer: int) -> Iterator[list[dict[str, Any]]]:
        """A writer's share in batches of many sizes."""
        rng = np.random.default_rng(writer)
        at, end = (self.events * (writer + one) // self.writers for one in (0, 1))
        while at < end:
            until = min(at + int(rng.choice(SIZES, p=SHARES)), end)
            yield [self.event(number) for number in range(at, until)]
            at = until


@dataclass
class Posted:
    """What came of it.

    Attributes:
        acknowledged: events.
        in_doubt: requests that were sent and not answered.
        known: events that the server had when they were sent again.
        took_ms: size of a batch -> times to its acknowledgement.
        down_s: time that the server was not there.
        seconds: in all.
    """

    acknowledged: int = 0
    in_doubt: int = 0
    known: int = 0
    took_ms: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    down_s: float = 0.0
    seconds: float = 0.0

    def note(self, size: int, known: int, took_s: float) -> None:
        """Counts a batch that was acknowledged."""
        self.acknowledged += size
        self.known += known
        self.took_ms[size].append(took_s * 1000)

    def told(self) -> dict[str, Any]:
        """As JSON; times of batches that are not cut short by a writer's end."""
        return {
            "acknowledged": self.acknowledged,
            "in_doubt": self.in_doubt,
            "known_when_sent_again": self.known,
            "seconds": round(self.seconds, 2),
            "down_s": round(self.down_s, 2),
            "events_per_s": round(self.acknowledged / (self.seconds - self.down_s), 1),
            "ack_ms": {
                str(size): {
                    "batches": len(self.took_ms[size]),
                    "p50": round(float(np.percentile(self.took_ms[size], 50)), 2),
                    "p99": round(float(np.percentile(self.took_ms[size], 99)), 2),
                }
                for size in SIZES
                if self.took_ms[size]
            },
        }


def post(server: PlainServer, plan: Plan) -> Posted:
    """Posts all events of a plan, while the server is killed and started again."""
    return asyncio.run(_post(server, plan))


async def _post(server: PlainServer, plan: Plan) -> Posted:
    posted, started = Posted(), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        group.create_task(_kill(server, plan, posted))
        for writer in range(plan.writers):
            group.create_task(_write(server.url, plan.batches(writer), posted))
    posted.seconds = time.perf_counter() - started
    return posted


async def _kill(server: PlainServer, plan: Plan, posted: Posted) -> None:
    for kill in range(1, plan.kills + 1):
        while posted.acknowledged < plan.events * kill / (plan.kills + 1):
            await asyncio.sleep(0.001)
        started = time.perf_counter()
        await asyncio.to_thread(_restart, server)
        posted.down_s += time.perf_counter() - started


def _restart(server: PlainServer) -> None:
    server.kill()
    server.start()


async def _write(url: str, batches: Iterator[list[dict[str, Any]]], posted: Posted) -> None:
    headers = {"content-type": "application/json"}
    async with httpx.AsyncClient(base_url=url, timeout=ANSWER_S, headers=headers) as client:
        for batch in batches:
            body = json.dumps(batch[0] if len(batch) == 1 else batch).encode()
            while not await _acknowledged(client, body, len(batch), posted):
                await asyncio.sleep(AGAIN_S)


async def _acknowledged(client: httpx.AsyncClient, body: bytes, size: int, posted: Posted) -> bool:
    started = time.perf_counter()
    try:
        answer = await client.post("/v1/events", content=body)
    except httpx.TransportError as error:
        posted.in_doubt += not isinstance(error, httpx.ConnectError)
        return False
    if answer.status_code == 503:
        return False
    told = answer.raise_for_status().json()
    assert told["accepted"] + told["duplicates"] == size
    posted.note(size, told["duplicates"], time.perf_counter() - started)
    return True
