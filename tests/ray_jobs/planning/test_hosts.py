import dataclasses
import re

import pytest

from data.contract.settings import help_lines
from ray_jobs.plan import PlanSettings
from ray_jobs.planning.growth import Needs
from ray_jobs.planning.hosts import (
    REDIS_BYTES,
    REDIS_COPY_BYTES,
    REDIS_USER_BYTES,
    SHARED,
    SPREAD,
    STORE_BYTES,
    Host,
    Traffic,
    on_one_host,
    planned,
    stored_gib,
)
from ray_jobs.planning.measured import MADE, Sizes
from ray_jobs.settings import Settings
from serve.settings import ServeSettings

GIB = 1 << 30
NEEDS = Needs(
    Sizes(users=1_000_000, items=500_000, events=200_000_000),
    {"two_tower": 3600.0, "dataset": 3600.0},
    {"two_tower": 20 * 1024.0},
    {"bundle: items": 50.0 * GIB, "data set": 900.0 * GIB},
)
HOST, TRAFFIC = Host(gib=100, cores=10, price=2.0), Traffic()
BUSY = Traffic(requests_per_user=100, peak=1.0, feeds_per_core=10)


def test_a_small_log_fits() -> None:
    plan = planned(NEEDS, 2, HOST, TRAFFIC, 8)
    assert plan.fits
    assert plan.why == ()
    assert (plan.train_hosts, plan.serve_hosts, plan.store) == (1, 1, "local")


@pytest.mark.parametrize("name", ["two_tower", "candidates", "bundles"])
def test_what_one_process_tree_holds_needs_one_host_and_no_number_of_them_helps(name: str) -> None:
    large = dataclasses.replace(NEEDS, peak_mib={name: 200 * 1024.0})
    plan = planned(large, 2, HOST, TRAFFIC, 8)
    assert on_one_host(large) == {name: True}
    assert not plan.fits
    assert plan.train_hosts == 1
    assert plan.cost is None
    assert f"{name} does not fit one host of 100 GiB: it takes 200" in plan.why[0]
    assert "host.gib=250" in plan.why[0]
    assert planned(large, 2, Host(gib=250), TRAFFIC, 8).fits


def test_walks_are_spread_over_hosts() -> None:
    walks = dataclasses.replace(NEEDS, peak_mib={"neighborhoods": 200 * 1024.0})
    plan = planned(walks, 2, HOST, TRAFFIC, 8)
    assert on_one_host(walks) == {"neighborhoods": False}
    assert plan.fits
    assert plan.train_hosts == 3


def test_fewer_events_are_the_way_out_only_of_what_grows_with_them() -> None:
    for name, helps in (("dataset", True), ("adjacency", True), ("ranker", False)):
        large = dataclasses.replace(NEEDS, peak_mib={name: 200 * 1024.0})
        why = planned(large, 2, HOST, TRAFFIC, 8).why
        assert ("events_per_user" in why[0]) == helps


def test_the_loop_has_to_end_in_time() -> None:
    hurried = planned(NEEDS, 2, HOST, TRAFFIC, 0.1)
    assert hurried.train_hosts == 4
    assert hurried.loop_hours == pytest.approx(0.1)
    assert hurried.fits


def test_hosts_do_not_share_what_one_process_makes() -> None:
    alone = dataclasses.replace(NEEDS, seconds=NEEDS.seconds | {"evaluation": 900.0})
    plan = planned(alone, 2, HOST, TRAFFIC, 0.1)
    assert plan.train_hosts == 8  # .05 h are left for .4 h
    assert plan.loop_hours == pytest.approx(0.1)
    late = planned(alone, 2, HOST, TRAFFIC, 0.04)
    assert not late.fits
    assert "0.05 h on one of 10 cores" in late.why[0]
    assert late.loop_hours > 0.04


def test_servers_follow_the_traffic_and_hold_a_bundle_each() -> None:
    plan = planned(NEEDS, 2, HOST, BUSY, 8)
    assert plan.serve_hosts == 12
    large = dataclasses.replace(NEEDS, bytes={"bundle: items": 90.0 * GIB})
    assert any("a bundle does not fit" in reason for reason in planned(large, 2, HOST, BUSY, 8).why)


def test_several_servers_need_one_redis_server_which_no_hosts_share() -> None:
    few = dataclasses.replace(NEEDS, sizes=dataclasses.replace(NEEDS.sizes, events=20_000_000))
    plan = planned(few, 2, HOST, BUSY, 8)
    assert (plan.store, plan.store_hosts, plan.fits) == ("redis", 1, True)
    full = planned(NEEDS, 2, HOST, dataclasses.replace(BUSY, log_days=3), 8)
    assert (full.store_hosts, full.fits) == (1, False)
    assert "the one Redis server does not fit one host of 100 GiB: it takes 86" in full.why[0]
    assert planned(NEEDS, 2, HOST, TRAFFIC, 8).store == "local"


def test_the_store_holds_days_of_events_and_redis_the_newest_twice() -> None:
    users, events = 1_000_000, 6_000_000
    traffic = Traffic(log_days=100, stored_days=3)
    assert stored_gib(NEEDS, traffic, "local") == events * STORE_BYTES / GIB
    every = events * REDIS_BYTES + users * REDIS_USER_BYTES
    assert stored_gib(NEEDS, traffic, "redis") == (every + events * REDIS_COPY_BYTES) / GIB
    two = Traffic(log_days=100, stored_days=3, stored_actions=2)
    assert stored_gib(NEEDS, two, "redis") == (every + 2 * users * REDIS_COPY_BYTES) / GIB
    assert stored_gib(NEEDS, Traffic(log_days=1), "local") == 200_000_000 * STORE_BYTES / GIB


def test_a_day_costs_what_its_hosts_do() -> None:
    for plan, stores in (
        (planned(NEEDS, 2, HOST, TRAFFIC, 8), 0),
        (planned(NEEDS, 2, Host(gib=200, cores=10, price=2.0), BUSY, 8), 1),
    ):
        hours = plan.train_hosts * plan.loop_hours + 24 * (plan.serve_hosts + stores)
        assert plan.cost == pytest.approx(2.0 * hours)


def test_the_way_out_names_settings_that_there_are() -> None:
    all_too_large = Needs(
        NEEDS.sizes,
        dict.fromkeys(MADE, 1e6),
        dict.fromkeys(MADE, 1e9),
        dict.fromkeys(("bundle: items", "bundle: events"), 1e15),
    )
    told = " ".join(planned(all_too_large, 2, HOST, BUSY, 8).why)
    known = {key for of in (Settings, PlanSettings) for key, *_ in help_lines(of)}
    named = set(re.findall(r"\b[a-z]+\.[a-z_]+\b|\bevents_per_user\b|\bhours(?==)", told))
    assert named == {
        *("host.gib", "host.cores", "hours", "events_per_user"),
        *("corpus.size", "export.table_dtype"),
    }
    assert named <= known


def test_what_hosts_share_is_known_by_name() -> None:
    assert SPREAD < SHARED < MADE.keys()
    assert Traffic().stored_actions == ServeSettings().max_actions
