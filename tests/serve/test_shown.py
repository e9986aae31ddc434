from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from serve import shown
from serve.shown import HOUR_MS, Shown

FEEDS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, HOUR_MS), st.lists(st.integers(0, 99), max_size=5)),
    max_size=40,
)


@given(FEEDS, st.sampled_from([0.0, 0.5, 2.0]))
def test_a_user_was_shown_what_is_in_the_feeds_of_the_span(
    feeds: list[tuple[int, int, list[int]]], hours: float
) -> None:
    """As of a plain list of all feeds."""
    memory, plain, now_ms = Shown(hours), defaultdict[int, list[tuple[int, list[int]]]](list), 0
    for user, pause_ms, items in feeds:
        now_ms += pause_ms
        memory.add(user, now_ms, items)
        plain[user].append((now_ms, items))
        for one in range(4):
            expected = [i for at, its in plain[one] if at > now_ms - hours * HOUR_MS for i in its]
            assert memory.items(one, now_ms) == expected
    held = sum(len(items) for user in memory._feeds.values() for _, items in user)
    assert memory._items == held


def test_a_feed_whose_time_is_over_takes_no_memory() -> None:
    memory = Shown(1.0)
    for user in range(100):
        memory.add(user, 0, [1, 2, 3])
    memory.add(7, HOUR_MS, [4])
    assert [*memory._feeds] == [7]
    assert memory._items == 1


def test_a_user_who_is_served_again_and_again_keeps_the_newest_feeds() -> None:
    memory = Shown(1.0)
    for at in range(shown.MAX_FEEDS + 3):
        memory.add(1, 10 + at, [at])
    assert memory.items(1, 100) == [*range(3, shown.MAX_FEEDS + 3)]


def test_of_more_items_than_there_may_be_those_of_the_users_served_longest_ago_go() -> None:
    memory = Shown(1.0, most_items=25)
    for user in (1, 2, 3, 1, 4):
        memory.add(user, user, [*range(6)])
    assert [*memory._feeds] == [3, 1, 4]
    memory.add(5, 5, [*range(100)])
    assert memory.items(5, 5) == [*range(100)], "what was shown last is known whatever it takes"
