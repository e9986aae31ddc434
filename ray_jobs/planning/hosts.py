"""Hosts and cost of a day for what a log takes, and what no number of hosts is enough for.

Hosts share work, not memory. Ranks and tasks of Ray Data take their part of the time (`SHARED`),
but one process tree holds what all users, items or edges have to stand in: prepare numbers ids in
one process, graph, candidates, evaluation, export and index are made in one, and the first rank of
a training gathers whole tables when it validates. Walks alone need no more than their shard
(`SPREAD`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from data.contract.settings import Count, Finite
from ray_jobs.planning.measured import MADE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray_jobs.planning.growth import Needs

MIB, GIB = 1 << 20, 1 << 30
USABLE = 0.8  # of a host's memory: the rest is the system's, and headroom
STORE_BYTES = 370  # of a posted event in the embedded store, on disk
# In a Redis server (7.0, jemalloc; what its used memory grew by with 200,000 to 400,000 events of
# 167 bytes, of 2,000 to 200,000 users): of any event, its places in `events` (210) and `event_keys`
# (75 to 85, by how full that table is); of one at hand, its copy in the user's list; of a user, the
# list itself.
REDIS_BYTES, REDIS_COPY_BYTES, REDIS_USER_BYTES = 280, 182, 200
SERVED = "bundle: "
OF_EVENTS = f"{SERVED}events"
SHARED = {
    *("dataset", "neighborhoods", "item_embeddings", "user_days", "user_embeddings"),
    *("graph", "id", "user", "two_tower", "ranker"),
}
SPREAD = {"neighborhoods"}
# What takes less memory without a larger host.
LESS = {
    **dict.fromkeys(
        (kind for kind, driver in MADE.items() if driver == "events"),
        ", or fewer events_per_user",
    ),
    "bundles": "; a smaller corpus.size takes less",
}
StoreKind = Literal["local", "redis"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A machine that one can rent.

    Attributes:
        gib: memory.
        cores: CPUs.
        price: of an hour, in any currency.
    """

    gib: Finite = 128.0
    cores: Count = 32
    price: Finite = 1.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What is asked of the servers.

    Attributes:
        requests_per_user: feeds that a user asks for in a day, averaged over all.
        peak: the busiest hour over the average.
        feeds_per_core: whole feeds a second that a core serves, most within 100 ms (`serve_load`:
            35.6 on two cores, the client's work among it).
        stored_actions: newest actions of a user that a Redis server keeps at hand
            (`serve.max_actions`), beside all events that the store holds.
        log_days: that the log's events are of.
        stored_days: of posted events that the store has room for. It holds those of three and of
            the hours of a daily loop; one whose loop fails or is missed holds a day more.
    """

    requests_per_user: Finite = 2.0
    peak: Finite = 2.5
    feeds_per_core: Finite = 17.0
    stored_actions: Count = 1000
    log_days: Count = 365
    stored_days: Count = 5


@dataclass(frozen=True, slots=True)
class Plan:
    """Hosts of a log.

    Attributes:
        fits: whether such hosts can do it, however many there are.
        why: what they cannot, with the numbers and the way out.
        train_hosts: while the daily loop runs, so that it ends in its hours.
        loop_hours: of the daily loop on them.
        serve_hosts: for the traffic; each holds a whole bundle.
        store: where posted events are kept: with the one server, or in a Redis server for several.
        store_hosts: for that server; a local store lies on the disk of the host that serves.
        cost: of a day; None where it does not fit.
    """

    fits: bool
    why: tuple[str, ...]
    train_hosts: int
    loop_hours: float
    serve_hosts: int
    store: StoreKind
    store_hosts: int
    cost: float | None


@dataclass(frozen=True, slots=True)
class Loop:
    """The daily loop on hosts of a kind.

    Attributes:
        alone: hours of what one host makes.
        shared: hours of what hosts share, on one.
    """

    alone: float
    shared: float

    @classmethod
    def of(cls, needs: Needs, speed: float) -> Loop:
        """On a host so many times as fast as the machine on which needs are told."""
        hours = {name: seconds / 3600 / speed for name, seconds in needs.seconds.items()}
        shared = sum(taken for name, taken in hours.items() if name in SHARED)
        return cls(sum(hours.values()) - shared, shared)

    def hosts(self, hours: float) -> int:
        """That end it in some hours, or the shared part of it if one host takes longer."""
        left = hours - self.alone
        return _hosts(self.shared, left if left > 0 else hours)

    def taken(self, hosts: int) -> float:
        """Hours on so many."""
        return self.alone + self.shared / hosts


def planned(needs: Needs, cores: int, host: Host, traffic: Traffic, hours: float) -> Plan:
    """Hosts for what a log takes.

    Args:
        needs: of the log.
        cores: of the machine on which they are told.
        host: what is rented.
        traffic: feeds.
        hours: that the daily loop may take. Its work is taken to be shared among cores without
            loss, and among hosts where they share it: what there is no measurement of.
    """
    loop = Loop.of(needs, host.cores / cores)
    spread = max((needs.peak_mib[name] / 1024 for name in SPREAD & set(needs.peak_mib)), default=0)
    train = max(_hosts(spread, host.gib * USABLE), loop.hosts(hours))
    feeds = needs.sizes.users * traffic.requests_per_user / 86_400 * traffic.peak
    serve = _hosts(feeds, traffic.feeds_per_core * host.cores)
    store: StoreKind = "redis" if serve > 1 else "local"
    why = (*_too_large(needs, host), *_too_slow(loop, host, hours), *_unserved(needs, host))
    if store == "redis":
        why += (*_unstored(stored_gib(needs, traffic, store), host),)
    taken, kept = loop.taken(train), int(store == "redis")
    cost = None if why else host.price * (train * taken + 24 * (serve + kept))
    return Plan(not why, why, train, taken, serve, store, kept, cost)


def on_one_host(needs: Needs) -> dict[str, bool]:
    """Whether the memory of each kind of artefact has to be that of one host."""
    return {name: name not in SPREAD for name in needs.peak_mib}


def stored_gib(needs: Needs, traffic: Traffic, store: StoreKind) -> float:
    """Size of the store: of the events of its days, on disk or in a Redis server."""
    days = min(1.0, traffic.stored_days / traffic.log_days)
    events = needs.sizes.events * days
    users = min(needs.sizes.users, events)
    if store == "local":
        return events * STORE_BYTES / GIB
    at_hand = min(traffic.stored_actions * users, events)
    kept = events * REDIS_BYTES + at_hand * REDIS_COPY_BYTES + users * REDIS_USER_BYTES
    return kept / GIB


def _too_large(needs: Needs, host: Host) -> Iterator[str]:
    """What one process tree makes and no host holds."""
    for name, mib in needs.peak_mib.items():
        if name not in SPREAD and _exceeds(mib / 1024, host):
            yield _unfit(f"making {name}", mib / 1024, host) + LESS.get(name, "")


def _too_slow(loop: Loop, host: Host, hours: float) -> Iterator[str]:
    if loop.alone >= hours:
        yield (
            f"what hosts do not share takes {loop.alone:,.2f} h on one of {host.cores} cores, and "
            f"hours={hours:g}: more of either (host.cores, hours)"
        )


def _unserved(needs: Needs, host: Host) -> Iterator[str]:
    """A bundle, which each server reads from its memory."""
    parts = {name: size / GIB for name, size in needs.bytes.items() if name.startswith(SERVED)}
    gib = sum(parts.values())
    if _exceeds(gib, host):
        events = parts.get(OF_EVENTS, 0)
        yield (
            f"{_unfit('a bundle', gib, host)}; export.table_dtype=float16 and a smaller "
            f"corpus.size make it smaller, and so do fewer events_per_user ({events:,.0f} GiB)"
        )


def _unstored(gib: float, host: Host) -> Iterator[str]:
    """Events in a Redis server, which cannot be a cluster: its scripts touch keys at will."""
    if _exceeds(gib, host):
        yield (
            f"{_unfit('the one Redis server', gib, host)}, or fewer events_per_user: it holds "
            "those of traffic.stored_days"
        )


def _exceeds(gib: float, host: Host) -> bool:
    return gib > host.gib * USABLE


def _unfit(what: str, gib: float, host: Host) -> str:
    return (
        f"{what} does not fit one host of {host.gib:g} GiB: it takes {gib:,.0f}, and "
        f"{host.gib * USABLE:,.0f} can be used; host.gib={math.ceil(gib / USABLE)} would do"
    )


def _hosts(wanted: float, each: float) -> int:
    return max(1, math.ceil(wanted / each))
