"""The store of several machines: a Redis server that all replicas of a root share.

Each call is one script or one round trip. A database belongs to one root. What is acknowledged is
as safe as the server keeps it: with `appendonly yes` and `appendfsync always` it is on disk. A call
that times out is not tried again: who waits for it has waited long enough.

Keys: `sequence`; `event_keys`, a hash, key of an event -> number; `events`, a stream of entries
`<number>-0`; `actions:<key of a user>`, a list of number and event, newest last; `items`, a hash,
key of an item -> item; `item_numbers`, a sorted set, key of an item by number. Memory grows with
the events that are not dropped yet, and with all items.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import orjson
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from data.contract.passwords import concealed
from data.contract.settings import UserError
from serve.store import (
    Appended,
    Document,
    ExternalId,
    Kind,
    Store,
    clock_us,
    digest,
    event_key,
    unpacked,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

log = logging.getLogger(__name__)

PASSWORD = "HOMEFEED_STORE_PASSWORD"
PREFIX = b"homefeed:"
PAGE = 1000
APPEND = """
local p, most, least = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local sequence = tonumber(redis.call('GET', p .. 'sequence') or '0')
local duplicates = 0
for i = 3, #ARGV, 3 do
  local number = math.max(sequence + 1, least)
  local text = string.format('%.0f', number)
  if redis.call('HSETNX', p .. 'event_keys', ARGV[i], text) == 1 then
    sequence = number
    redis.call('XADD', p .. 'events', text .. '-0', 'd', ARGV[i + 2])
    local own = p .. 'actions:' .. ARGV[i + 1]
    redis.call('RPUSH', own, struct.pack('>I8', sequence) .. ARGV[i + 2])
    redis.call('LTRIM', own, -most, -1)
  else
    duplicates = duplicates + 1
  end
end
redis.call('SET', p .. 'sequence', string.format('%.0f', sequence))
return {sequence, duplicates}
"""
PUT_ITEMS = """
local p, least = KEYS[1], tonumber(ARGV[1])
local sequence = tonumber(redis.call('GET', p .. 'sequence') or '0')
for i = 2, #ARGV, 2 do
  sequence = math.max(sequence + 1, least)
  redis.call('HSET', p .. 'items', ARGV[i], ARGV[i + 1])
  redis.call('ZADD', p .. 'item_numbers', string.format('%.0f', sequence), ARGV[i])
end
redis.call('SET', p .. 'sequence', string.format('%.0f', sequence))
return sequence
"""
DROP = """
local p, gone = KEYS[1], {}
for i = 1, #ARGV, 3 do
  gone[tonumber(ARGV[i])] = true
  redis.call('XDEL', p .. 'events', ARGV[i] .. '-0')
  if redis.call('HGET', p .. 'event_keys', ARGV[i + 1]) == ARGV[i] then
    redis.call('HDEL', p .. 'event_keys', ARGV[i + 1])
  end
end
for i = 3, #ARGV, 3 do
  local own = p .. 'actions:' .. ARGV[i]
  local oldest = redis.call('LINDEX', own, 0)
  while oldest and gone[struct.unpack('>I8', oldest)] do
    redis.call('LPOP', own)
    oldest = redis.call('LINDEX', own, 0)
  end
end
"""
SKIP = """
if tonumber(redis.call('GET', KEYS[1] .. 'sequence') or '0') < tonumber(ARGV[1]) then
  redis.call('SET', KEYS[1] .. 'sequence', ARGV[1])
end
"""


def _client(url: str, timeout_s: float) -> Any:
    """A client that opens a lost connection again, once, and waits for nothing twice."""
    return redis.Redis.from_url(
        url,
        password=os.environ.get(PASSWORD) or None,  # one in the URL goes before it
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 1, (redis.ConnectionError,)),
    )


class RedisStore(Store):
    """Posted events and items in a Redis server.

    Args:
        url: `redis://host:port/database`, or `redis://user@host:port/database`; the password is in
            the environment, `HOMEFEED_STORE_PASSWORD`, unless the URL has one.
        max_actions: newest actions kept at hand for a user.
        timeout_s: after which a call fails.
        read_s: after which reading a user's actions fails, for which a feed waits.
        clock: least number to give out next, as of now.

    Raises:
        UserError: no server answers there.
    """

    def __init__(
        self,
        url: str,
        max_actions: int = 1000,
        timeout_s: float = 1.0,
        read_s: float = 0.3,
        clock: Callable[[], int] = clock_us,
    ) -> None:
        self._max_actions, self._clock = max_actions, clock
        self._highest = 0
        try:
            self._redis = _client(url, timeout_s)
            self._reader = _client(url, read_s)
            self._redis.ping()
        except (redis.RedisError, ValueError) as error:
            said = f"serve.store={concealed(url)}: {concealed(str(error))}"
            raise UserError(f"{said}; is a Redis server there, and {PASSWORD} its?") from None
        self._append_script = self._redis.register_script(APPEND)
        self._put_script = self._redis.register_script(PUT_ITEMS)
        self._drop_script = self._redis.register_script(DROP)
        self._skip_script = self._redis.register_script(SKIP)
        self._tell_durability(url)

    def _tell_durability(self, url: str) -> None:
        try:
            kept = self._redis.config_get("append*")
        except redis.RedisError:
            return  # a hosted server may refuse to tell
        if kept.get("appendonly") != "yes" or kept.get("appendfsync") != "always":
            log.warning(
                "%s does not write before it answers (appendonly %s, appendfsync %s): what was "
                "posted last may be lost if it is killed",
                concealed(url),
                kept.get("appendonly"),
                kept.get("appendfsync"),
            )

    def close(self) -> None:
        """Ends the connections."""
        self._redis.close()
        self._reader.close()

    @property
    def last_sequence(self) -> int:
        """Number of what was posted last; 0 when nothing was."""
        return self._seen(int(self._redis.get(PREFIX + b"sequence") or 0))

    def _seen(self, number: int) -> int:
        """Remembers that a number was given out."""
        self._highest = max(self._highest, number)
        return number

    def _least(self) -> int:
        """Number to give out next, if the server knows of no higher one."""
        return max(self._highest + 1, self._clock())

    def skip_to(self, sequence: int) -> None:
        """Gives out only higher numbers from now on."""
        self._skip_script(keys=[PREFIX], args=[self._seen(sequence)])

    def append(self, events: Iterable[Document]) -> Appended:
        """Appends events in one script."""
        known = list(events)
        parts = [(event_key(e), digest(e["user_id"]), orjson.dumps(e)) for e in known]
        flat = [value for part in parts for value in part]
        words = [self._max_actions, self._least(), *flat]
        sequence, duplicates = self._append_script(keys=[PREFIX], args=words)
        return Appended(len(known) - duplicates, duplicates, self._seen(sequence))

    def actions(self, user_id: ExternalId, after: int, limit: int) -> list[Document]:
        """The newest events of a user, oldest first."""
        own = PREFIX + b"actions:" + digest(user_id)
        found = map(unpacked, self._reader.lrange(own, -limit, -1))
        return [document for number, document in found if number > after]

    def put_items(self, items: Iterable[Document]) -> int:
        """Keeps items in one script, replacing those posted before. Gives the last number."""
        flat = [part for item in items for part in (digest(item["item_id"]), orjson.dumps(item))]
        return self._seen(int(self._put_script(keys=[PREFIX], args=[self._least(), *flat])))

    def documents(
        self, kind: Kind, after: int, until: int | None = None
    ) -> Iterator[tuple[int, Document]]:
        """Numbers and documents in (after, until], in order, a page at a time."""
        page = self._events if kind == "events" else self._items
        last = "+" if until is None else until
        while found := page(after, last):
            yield from found
            after = self._seen(found[-1][0])

    def _events(self, after: int, last: int | str) -> list[tuple[int, Document]]:
        if last != "+" and int(last) <= after:
            return []
        entries = self._redis.xrange(PREFIX + b"events", f"{after + 1}-0", last, PAGE)
        return [(int(n.partition(b"-")[0]), orjson.loads(fields[b"d"])) for n, fields in entries]

    def _items(self, after: int, last: int | str) -> list[tuple[int, Document]]:
        numbers = self._redis.zrangebyscore(
            PREFIX + b"item_numbers",
            f"({after}",
            "+inf" if last == "+" else last,
            start=0,
            num=PAGE,
            withscores=True,
        )
        if not numbers:
            return []
        texts = self._redis.hmget(PREFIX + b"items", [key for key, _ in numbers])
        return [(int(n), orjson.loads(text)) for (_, n), text in zip(numbers, texts, strict=True)]

    def drop(self, events: Sequence[tuple[int, Document]]) -> None:
        """Lets go of events in one script."""
        if events:
            parts = [(number, event_key(e), digest(e["user_id"])) for number, e in events]
            words = [value for part in parts for value in part]
            self._drop_script(keys=[PREFIX], args=words)
