"""Requests for feeds over HTTP: so many at a time, or so many a second whatever comes back.

In an open loop requests arrive by chance at a rate, and their time counts from when they were due,
not from when the client got round to them. Connections are kept, answers are read as bytes: the
client shares the machine with the server and should take little of it.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FALLBACK = re.compile(rb'"fallback":\s*(?:"(\w+)"|false)')
LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
TIMEOUT_S = 30.0


@dataclass
class Outcomes:
    """What came back.

    Attributes:
        times_ms: of each answer.
        kinds: full, a fallback, a status, or the error -> answers.
        by_second: second of the run -> kinds.
        answers: of each, when it was due, its kind and its time.
        seconds: that the run took.
    """

    times_ms: list[float] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    by_second: dict[int, Counter[str]] = field(default_factory=dict)
    answers: list[tuple[float, str, float]] = field(default_factory=list)
    seconds: float = 0.0

    def note(self, kind: str, took_s: float, due_s: float) -> None:
        """Counts an answer."""
        second = int(due_s)
        self.answers.append((due_s, kind, took_s * 1000))
        self.times_ms.append(took_s * 1000)
        self.kinds[kind] += 1
        self.by_second.setdefault(second, Counter())[kind] += 1

    @property
    def errors(self) -> int:
        """Answers that were no feed."""
        feeds = ("full", "partial", "unranked", "cached", "popular")
        return sum(count for kind, count in self.kinds.items() if kind not in feeds)

    def told(self) -> dict[str, Any]:
        """As JSON."""
        times = np.array(self.times_ms or [np.nan])
        p50, p95, p99 = (float(np.percentile(times, q)) for q in (50, 95, 99))
        return {
            "p50_ms": round(p50, 3),
            "p95_ms": round(p95, 3),
            "p99_ms": round(p99, 3),
            "requests_per_s": round(len(self.times_ms) / max(self.seconds, 1e-9), 2),
            "errors": self.errors,
            "outcomes": dict(self.kinds),
        }


class Connection:
    """One kept connection to the server."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> str:
        """Sends a request and reads its answer; a kind of `Outcomes`.

        A kept connection may have been closed while it was idle: then a new one asks once more.
        """
        kept = self._streams is not None
        try:
            return await asyncio.wait_for(self._ask(request), TIMEOUT_S)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self.close()
            unheard = isinstance(error, asyncio.IncompleteReadError) and not error.partial
            if kept and unheard:
                return await self.ask(request)
            return type(error).__name__

    async def _ask(self, request: bytes) -> str:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = LENGTH.search(head)
        body = await reader.readexactly(int(length[1])) if length else b""
        status = head[9:12].decode()
        if status != "200":
            return status
        found = FALLBACK.search(body)
        return (found[1] or b"full").decode() if found else "unreadable"

    def close(self) -> None:
        """Lets go of the connection; the next request opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@dataclass(frozen=True)
class Load:
    """Requests to a server.

    Attributes:
        host: of the server.
        port: of the server.
        bodies: JSON of the requests, in the order in which they are sent, again and again.
        token: that the server asks for, if any.
        sessions: `x-session-id` of each request, if they have one.
    """

    host: str
    port: int
    bodies: Sequence[bytes]
    token: str = ""
    sessions: Sequence[str] = ()

    def request(self, number: int) -> bytes:
        """The bytes of the n-th request."""
        body = self.bodies[number % len(self.bodies)]
        secret = f"authorization: Bearer {self.token}\r\n" if self.token else ""
        session = self.sessions and self.sessions[number % len(self.sessions)]
        secret += f"x-session-id: {session}\r\n" if session else ""
        head = (
            f"POST /v1/recommend HTTP/1.1\r\nhost: {self.host}:{self.port}\r\n{secret}"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def closed(
        self, concurrency: int, seconds: float, ended: threading.Event | None = None
    ) -> Outcomes:
        """So many requests at a time, each after the answer before, until `ended` at most."""
        return asyncio.run(self._closed(concurrency, seconds, ended or threading.Event()))

    def all(self, concurrency: int) -> Outcomes:
        """Each request once, so many at a time."""
        never = threading.Event()
        return asyncio.run(self._closed(concurrency, np.inf, never, len(self.bodies)))

    async def _closed(
        self, concurrency: int, seconds: float, ended: threading.Event, most: int = 10**12
    ) -> Outcomes:
        found, started, sent = Outcomes(), time.perf_counter(), iter(range(most))

        async def ask() -> None:
            connection = Connection(self.host, self.port)
            for number in sent:
                now = time.perf_counter()
                if now >= started + seconds or ended.is_set():
                    break
                kind = await connection.ask(self.request(number))
                found.note(kind, time.perf_counter() - now, now - started)
            connection.close()

        await asyncio.gather(*(ask() for _ in range(concurrency)))
        found.seconds = time.perf_counter() - started
        return found

    def open(
        self, rate: float, seconds: float, seed: int = 0, ended: threading.Event | None = None
    ) -> Outcomes:
        """Requests that arrive by chance, `rate` a second in the mean, until `ended` at most."""
        gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds) + 1)
        return asyncio.run(self._open(np.cumsum(gaps), ended or threading.Event()))

    async def _open(self, due: Any, ended: threading.Event) -> Outcomes:
        found, idle, asked = Outcomes(), [], []
        started = time.perf_counter()

        async def ask(number: int, at: float) -> None:
            connection = idle.pop() if idle else Connection(self.host, self.port)
            kind = await connection.ask(self.request(number))
            found.note(kind, time.perf_counter() - started - at, at)
            idle.append(connection)

        async for number, at in _arrivals(due, started):
            if ended.is_set():
                break
            asked.append(asyncio.create_task(ask(number, at)))
        await asyncio.gather(*asked)
        for connection in idle:
            connection.close()
        found.seconds = time.perf_counter() - started
        return found


async def _arrivals(due: Any, started: float) -> AsyncIterator[tuple[int, float]]:
    """Numbers and times of arrivals, each when it is due."""
    for number, at in enumerate(due.tolist()):
        wait = started + at - time.perf_counter()
        await asyncio.sleep(max(wait, 0))
        yield number, at


def zipf_users(known: Sequence[int | str], ids: int, count: int, seed: int = 0) -> list[int | str]:
    """Users of requests: the more known come first, by Zipf's law over so many ids.

    Those beyond the known ones are users whom the server has never heard of.
    """
    rng = np.random.default_rng(seed)
    chances = 1 / np.arange(1, ids + 1)
    ranks = rng.choice(ids, count, p=chances / chances.sum())
    order = rng.permutation(len(known))
    unknown = 10**15
    return [known[order[r]] if r < len(known) else unknown + int(r) for r in ranks]
