"""Hosts and cost of a day for what a log takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data.contract.settings import Count, Positive

if TYPE_CHECKING:
    from ray_jobs.planning.growth import Needs

MIB, GIB = 1 << 20, 1 << 30
USABLE = 0.8  # of a host's memory: the rest is the system's, and headroom
STORE_BYTES = 370  # of a stored action in the embedded store
SERVED = "bundle: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A machine that one can rent.

    Attributes:
        gib: memory.
        cores: CPUs.
        price: of an hour, in any currency.
    """

    gib: Positive = 128.0
    cores: Count = 32
    price: Positive = 1.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What is asked of the servers.

    Attributes:
        requests_per_user: feeds that a user asks for in a day, averaged over all.
        peak: the busiest hour over the average.
        feeds_per_core: whole feeds a second that a core serves, most within 100 ms (`serve_load`:
            35.6 on two cores, the client's work among it).
        stored_actions: newest actions of a user that the store keeps.
    """

    requests_per_user: Positive = 2.0
    peak: Positive = 2.5
    feeds_per_core: Positive = 17.0
    stored_actions: Count = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """Hosts of a log.

    Attributes:
        train_hosts: while the daily loop runs: its largest stage has to fit in their memory, and
            all of it into the hours.
        loop_hours: of the daily loop on them.
        serve_hosts: for the traffic; each holds a whole bundle.
        store_hosts: for the actions of all users.
        bundle_fits: whether a bundle fits in a host's memory.
        cost: of a day.
    """

    train_hosts: int
    loop_hours: float
    serve_hosts: int
    store_hosts: int
    bundle_fits: bool
    cost: float


def planned(needs: Needs, cores: int, host: Host, traffic: Traffic, hours: float) -> Plan:
    """Hosts for what a log takes.

    Args:
        needs: of the log.
        cores: of the machine on which they are told.
        host: what is rented.
        traffic: feeds.
        hours: that the daily loop may take. Its stages are taken to share their work among cores
            and hosts without loss: what there is no measurement of.
    """
    core_hours = sum(needs.seconds.values()) / 3600 * cores
    most = max(needs.peak_mib.values()) * MIB / GIB
    train = max(_hosts(most, host.gib * USABLE), _hosts(core_hours, hours * host.cores))
    feeds = needs.sizes.users * traffic.requests_per_user / 86_400 * traffic.peak
    bundle = sum(n for name, n in needs.bytes.items() if name.startswith(SERVED)) / GIB
    serve = _hosts(feeds, traffic.feeds_per_core * host.cores)
    store = _hosts(stored_gib(needs, traffic), host.gib * USABLE)
    loop_hours = core_hours / (train * host.cores)
    cost = host.price * (train * loop_hours + 24 * (serve + store))
    return Plan(train, loop_hours, serve, store, bundle < host.gib * USABLE, cost)


def stored_gib(needs: Needs, traffic: Traffic) -> float:
    """Size of the store."""
    actions = min(traffic.stored_actions * needs.sizes.users, needs.sizes.events)
    return actions * STORE_BYTES / GIB


def _hosts(wanted: float, each: float) -> int:
    return max(1, math.ceil(wanted / each))
