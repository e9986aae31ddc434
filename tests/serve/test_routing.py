"""Which replica a user's requests go to."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.routing import UserRouter, by_weight

NAMES = [f"replica{at}" for at in range(5)]
names = st.lists(st.text("abcdef0123456789", min_size=4, max_size=8), min_size=2, unique=True)


@given(names, st.text())
def test_the_order_of_a_user_does_not_depend_on_how_replicas_are_listed(
    names: list[str], user: str
) -> None:
    assert by_weight(user, names) == by_weight(user, names[::-1])


@given(names, st.text())
def test_only_users_of_a_lost_replica_move_and_to_their_second(names: list[str], user: str) -> None:
    order = by_weight(user, names)
    for lost in names:
        left = by_weight(user, [name for name in names if name != lost])
        assert left == [name for name in order if name != lost]


def test_users_are_spread_evenly() -> None:
    first = [by_weight(str(user), NAMES)[0] for user in range(5000)]
    counts = [first.count(name) for name in NAMES]
    assert min(counts) > 850
    assert max(counts) < 1150


def replicas() -> list[Any]:
    return [SimpleNamespace(replica_id=SimpleNamespace(unique_id=name)) for name in NAMES]


def chosen(session_id: str) -> list[list[str]]:
    """Ranks of replicas for a request, by name."""
    context = SimpleNamespace(should_backoff=False)
    metadata = SimpleNamespace(session_id=session_id)
    request = SimpleNamespace(metadata=metadata, routing_context=context)
    router = object.__new__(UserRouter)
    ranks = asyncio.run(router.choose_replicas(replicas(), request))  # type: ignore[arg-type]
    assert context.should_backoff == bool(session_id)
    return [[replica.replica_id.unique_id for replica in rank] for rank in ranks]


@pytest.mark.parametrize("user", ["7", "someone"])
def test_a_user_has_one_replica_and_others_when_it_is_busy(user: str) -> None:
    assert chosen(user) == [[name] for name in by_weight(user, NAMES)]


def test_without_a_user_two_replicas_are_compared() -> None:
    (pair,) = chosen("")
    assert len(set(pair)) == 2
    assert {name for _ in range(50) for name in chosen("")[0]} == set(NAMES)
