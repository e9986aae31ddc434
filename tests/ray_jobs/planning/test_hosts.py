import dataclasses

import pytest

from ray_jobs.planning.growth import Needs
from ray_jobs.planning.hosts import STORE_BYTES, Host, Traffic, planned, stored_gib
from ray_jobs.planning.measured import Sizes

NEEDS = Needs(
    Sizes(users=1_000_000, items=500_000, events=200_000_000),
    {"train two_tower": 3600.0, "prepare": 3600.0},
    {"train two_tower": 200 * 1024.0},
    {"bundle: items": 50.0 * (1 << 30), "data set": 900.0 * (1 << 30)},
)
HOST, TRAFFIC = Host(gib=100, cores=10, price=2.0), Traffic()


def test_the_largest_stage_has_to_fit_in_memory() -> None:
    assert planned(NEEDS, 2, HOST, TRAFFIC, 8).train_hosts == 3
    small = dataclasses.replace(NEEDS, peak_mib={"train two_tower": 1024.0})
    assert planned(small, 2, HOST, TRAFFIC, 8).train_hosts == 1


def test_the_loop_has_to_end_in_time() -> None:
    small = dataclasses.replace(NEEDS, peak_mib={"train two_tower": 1024.0})
    hurried = planned(small, 2, HOST, TRAFFIC, 0.1)
    assert hurried.train_hosts == 4
    assert hurried.loop_hours == pytest.approx(0.1)


def test_servers_follow_the_traffic_and_hold_a_bundle_each() -> None:
    busy = Traffic(requests_per_user=100, peak=1.0, feeds_per_core=10)
    plan = planned(NEEDS, 2, HOST, busy, 8)
    assert plan.serve_hosts == 12
    assert plan.bundle_fits
    large = dataclasses.replace(NEEDS, bytes={"bundle: items": 90.0 * (1 << 30)})
    assert not planned(large, 2, HOST, busy, 8).bundle_fits


def test_the_store_keeps_no_more_than_there_is() -> None:
    assert stored_gib(NEEDS, TRAFFIC) == 100 * 1_000_000 * STORE_BYTES / (1 << 30)
    few = dataclasses.replace(NEEDS, sizes=Sizes(users=1_000_000, items=1, events=1_000_000))
    assert stored_gib(few, TRAFFIC) == 1_000_000 * STORE_BYTES / (1 << 30)


def test_a_day_costs_what_its_hosts_do() -> None:
    plan = planned(NEEDS, 2, HOST, TRAFFIC, 8)
    hours = plan.train_hosts * plan.loop_hours + 24 * (plan.serve_hosts + plan.store_hosts)
    assert plan.cost == pytest.approx(2.0 * hours)
