"""The source that walks from what a user has just liked."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract.encode import Events
from data.contract.schema import DAY_MS
from data.contract.settings import UserError
from serve.arms import changed
from serve.bundle import Bundle
from serve.catalogue import Catalogue
from serve.feed import Feed
from serve.messages import Context, Event, Item, RecommendRequest
from serve.pixie import Pixie, RecentWalks
from serve.query import RELATED
from serve.settings import ServeSettings
from tests.tiny_root import BOARDS, ITEMS, ON_BOARDS, TinyLog, write_bundle

REPOSITORY = Path(__file__).resolve().parents[2]
SAVE, CLICK, HIDE = 1, 2, 3
NOW = 1_767_225_600_000 + 10 * DAY_MS
NONE = np.zeros(0, np.int64)
WALKS = RecentWalks(steps=2000)
SETTINGS = ServeSettings(
    candidates=100, budget_ms=60_000.0, deadlines_ms={"default": 30_000.0}, clock="log"
)
PASTS = st.lists(
    st.tuples(st.integers(0, ITEMS + 5), st.integers(0, 3), st.floats(0, 10_000)), max_size=30
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root whose bundle has boards: row i is on board i % 20, the last ten are on none."""
    return write_bundle(tmp_path_factory.mktemp("root"), "v1", TinyLog(), graph=True)


@pytest.fixture(scope="module")
def bundle(served: Path) -> Bundle:
    return Bundle.open(served / "bundles" / "v1")


@pytest.fixture(scope="module")
def source(bundle: Bundle) -> Pixie:
    return Pixie(bundle, Catalogue(bundle), WALKS)


@pytest.fixture(scope="module")
def other(bundle: Bundle) -> Pixie:
    """Opened apart from the first."""
    return Pixie(bundle, Catalogue(bundle), WALKS)


def query(*past: tuple[int, int, float], about: int = -1, **changes: Any) -> Any:
    """Asked by a user whose past is (row from the first item on, action, days ago)."""
    first = TinyLog().item_ids.first_row
    items, actions, days = np.array(past, float).reshape(-1, 3).T
    rows, times = first + items.astype(np.int64), (NOW - days * DAY_MS).astype(np.int64)
    zeros = np.zeros(len(rows), np.int64)
    whole = np.array([0, len(rows)])
    events = Events(whole, rows, actions.astype(np.int64), zeros, times, zeros.astype(np.float32))
    user = SimpleNamespace(row=9, events=events)
    named = first + np.array([about]) if about >= 0 else NONE
    exclude = np.union1d(np.union1d(rows, named), first + changes.pop("exclude", NONE))
    asked = SimpleNamespace(user=user, surface="home", about=named, exclude=exclude)
    return SimpleNamespace(**vars(asked) | changes)


ASKED = st.builds(
    lambda past, about, surface: query(*past, about=about, surface=surface),
    PASTS,
    st.integers(-1, ITEMS - 1),
    st.sampled_from(["home", RELATED]),
)


def items_of(source: Pixie, asked: Any, limit: int = 100) -> list[int]:
    return [row - TinyLog().item_ids.first_row for row in source(asked, limit).rows.tolist()]


def visits_by_board(source: Pixie, asked: Any) -> Any:
    found = source(asked, 1000)
    boards = (found.rows - TinyLog().item_ids.first_row) % BOARDS
    return np.bincount(boards, found.scores, minlength=BOARDS)


def test_what_shares_a_board_with_what_was_liked_is_found_and_nothing_else(source: Pixie) -> None:
    asked = query((30, SAVE, 1), (11, CLICK, 0))
    mates = {*range(10, ON_BOARDS, BOARDS), *range(11, ON_BOARDS, BOARDS)} - {30, 11}
    assert source.applies(asked)
    assert set(items_of(source, asked)) == mates
    found = source(asked, 5)
    assert found.source == "pixie"
    assert len(found.rows) == 5
    assert (np.diff(found.scores) <= 0).all()


def test_what_was_liked_lately_is_walked_from_more(source: Pixie) -> None:
    old, new = visits_by_board(source, query((31, SAVE, 30), (32, SAVE, 0)))[[11, 12]]
    assert new > 5 * old > 0
    first, second = visits_by_board(source, query((31, SAVE, 30), (32, SAVE, 30)))[[11, 12]]
    assert 0.8 < first / second < 1.25


def test_the_newest_actions_alone_are_walked_from(bundle: Bundle) -> None:
    source = Pixie(bundle, Catalogue(bundle), replace(WALKS, actions=2))
    past = [(item, SAVE, 40 - item) for item in (30, 31, 32)]
    assert visits_by_board(source, query(*past)).nonzero()[0].tolist() == [11, 12]


def test_walks_end_early_once_enough_was_visited_often_enough(bundle: Bundle) -> None:
    asked, catalogue = query((30, SAVE, 0)), Catalogue(bundle)
    whole = Pixie(bundle, catalogue, WALKS)(asked, 3)
    early = Pixie(bundle, catalogue, replace(WALKS, visits=5))(asked, 3)
    assert len(early.rows) == len(whole.rows) == 3
    assert whole.scores.sum() > 5 * early.scores.sum() > 0


def test_an_action_is_walked_from_by_its_weight(bundle: Bundle) -> None:
    weighed = {"save": 4.0, "click": 0.0}
    source = Pixie(bundle, Catalogue(bundle), replace(WALKS, weights=weighed))
    assert source.applies(query((30, SAVE, 0)))
    assert not source.applies(query((30, CLICK, 0)))
    weighed = {"save": 4.0, "hide": 1.0}
    source = Pixie(bundle, Catalogue(bundle), replace(WALKS, weights=weighed))
    saved, clicked, hidden = visits_by_board(
        source, query((30, SAVE, 0), (31, CLICK, 0), (32, HIDE, 0))
    )[10:13]
    assert saved > 3 * clicked > 0
    assert 0.8 < clicked / hidden < 1.25


def test_weights_of_actions_that_there_are_not_are_refused(bundle: Bundle) -> None:
    wrong = replace(WALKS, weights={"zap": 1.0})
    with pytest.raises(UserError, match=r"serve\.pixie\.weights\.zap names no action"):
        Pixie(bundle, Catalogue(bundle), wrong)


def test_an_item_that_was_turned_down_is_not_walked_from(source: Pixie) -> None:
    assert not source.applies(query((30, SAVE, 2), (30, HIDE, 1)))
    assert not source.applies(query((30, HIDE, 2), (30, SAVE, 1)))
    assert not source.applies(query((30, HIDE, 0)))


def test_what_was_liked_long_ago_is_still_walked_from(source: Pixie) -> None:
    assert len(items_of(source, query((30, SAVE, 20_000)))) == 8
    old = visits_by_board(source, query((31, SAVE, 20_030), (32, SAVE, 20_000)))
    new = visits_by_board(source, query((31, SAVE, 30), (32, SAVE, 0)))
    assert np.array_equal(old, new)


def test_without_a_clock_the_newest_are_alike(source: Pixie) -> None:
    asked = query((31, SAVE, 0), (32, SAVE, 0))
    asked.user.events.timestamp[:] = 0
    first, second = visits_by_board(source, asked)[[11, 12]]
    assert 0.8 < first / second < 1.25


def test_what_is_excluded_does_not_take_a_place(source: Pixie) -> None:
    past = (30, SAVE, 1), (11, CLICK, 0)
    first = items_of(source, query(*past), 6)
    others = items_of(source, query(*past, exclude=np.array(first)), 6)
    assert len(others) == 6
    assert not set(first) & set(others)


def test_what_may_not_be_served_does_not_take_a_place(bundle: Bundle) -> None:
    live = np.asarray(bundle.live_items)
    fewer = replace(bundle, live_items=live[live % 3 > 0])
    found = Pixie(fewer, Catalogue(fewer), WALKS)(query((30, SAVE, 1), (11, SAVE, 0)), 8).rows
    assert len(found) == 8
    assert (found % 3 > 0).all()


@given(asked=ASKED, limit=st.integers(1, 40))
def test_equal_queries_are_answered_alike_by_distinct_items_that_may_be_shown(
    bundle: Bundle, source: Pixie, other: Pixie, asked: Any, limit: int
) -> None:
    assert source.applies(asked) == other.applies(asked)
    if not source.applies(asked):
        return
    found, again = source(asked, limit), other(asked, limit)
    assert np.array_equal(found.rows, again.rows)
    assert np.array_equal(found.scores, again.scores)
    assert len(np.unique(found.rows)) == len(found.rows) <= limit
    assert not np.isin(found.rows, np.union1d(asked.exclude, asked.about)).any()
    assert np.isin(found.rows, bundle.live_items).all()


def test_users_who_did_something_since_are_walked_for_anew(source: Pixie) -> None:
    past = [(item, SAVE, 1.0) for item in range(30, 38)]
    found = source(query(*past), 1000)
    later = source(query((195, 0, 30), *past), 1000)
    assert set(found.rows.tolist()) == set(later.rows.tolist())
    assert not np.array_equal(found.scores, later.scores)


def test_new_users_and_items_on_no_board_are_left_to_the_others(source: Pixie) -> None:
    assert not source.applies(query())
    assert not source.applies(query((ON_BOARDS, SAVE, 0)))
    assert not source.applies(query((ITEMS + 3, SAVE, 0)))
    both = query((30, SAVE, 1), (ITEMS + 3, SAVE, 0))
    assert set(items_of(source, both)) == set(items_of(source, query((30, SAVE, 1))))


def test_without_a_graph_the_source_does_not_apply(published: Path) -> None:
    plain = Bundle.open(published / "bundles" / "v1")
    assert plain.graph is None
    source = Pixie(plain, Catalogue(plain), WALKS)
    assert not source.applies(query((30, SAVE, 1), about=31))


def test_beside_an_item_walks_begin_at_it_alone(source: Pixie) -> None:
    asked = query((30, SAVE, 0), about=33, surface=RELATED)
    assert set(items_of(source, asked)) == set(range(13, ON_BOARDS, BOARDS)) - {33}
    assert not source.applies(query((30, SAVE, 0), about=195, surface=RELATED))
    assert not source.applies(query((30, SAVE, 0), surface=RELATED))


def test_at_home_an_item_of_the_context_counts_like_what_was_liked_last(source: Pixie) -> None:
    liked, named = visits_by_board(source, query((30, SAVE, 5), about=33))[[10, 13]]
    assert 0.8 < liked / named < 1.25
    assert 33 not in items_of(source, query((30, SAVE, 5), about=33))


def test_a_feed_names_the_source_and_follows_a_posted_action(served: Path) -> None:
    feed = Feed(served, SETTINGS, background=False)
    catalogue = feed._switch.funnel.catalogue
    first = TinyLog().item_ids.first_row
    liked, *mates = catalogue.external(np.arange(first + 15, first + ON_BOARDS, BOARDS))
    try:
        feed.post_items([Item(item_id=5000, content=[0.5] * 8)])
        feed.post_events(
            [Event(user_id=777, item_id=item, action="save") for item in (liked, 5000)]
        )
        answer = feed.recommend(RecommendRequest(user_id=777, num_items=100, debug=True))
        assert answer.fallback is False
        assert answer.debug is not None
        assert answer.debug["found"]["pixie"] == len(mates)
        named = {item.item_id for item in answer.items if item.source == "pixie"}
        assert named
        assert named <= set(mates)
        assert b'source="pixie"' in feed.metrics.text()
        about = Context(item_id=liked)
        new = feed.recommend(RecommendRequest(user_id=778, debug=True))
        beside = feed.recommend(RecommendRequest(user_id=778, debug=True, context=about))
        assert new.debug is not None
        assert beside.debug is not None
        assert "pixie" not in new.debug["found"]
        assert beside.debug["found"]["pixie"] == len(mates)
    finally:
        feed.close()


ASKED_AT_ONCE = """
from pathlib import Path
from sys import argv

import numpy as np

from data.graph.visits import visit_all
from serve.bundle import Bundle
from serve.catalogue import Catalogue
from serve.pixie import Pixie, RecentWalks
from tests.serve.test_pixie import query

bundle = Bundle.open(Path(argv[1]))
source = Pixie(bundle, Catalogue(bundle), RecentWalks())
visit_all.disable_compile()
print(len(source(query((30, 1, 0)), 100).rows))
"""


def test_no_request_waits_for_the_walk_to_be_compiled(served: Path) -> None:
    """In a process of its own, where no other test has compiled it."""
    words = [sys.executable, "-c", ASKED_AT_ONCE, str(served / "bundles" / "v1")]
    done = subprocess.run(words, check=True, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "8"


def test_an_arm_may_walk_otherwise(served: Path) -> None:
    feed = Feed(served, SETTINGS, background=False)
    try:
        funnel = feed._switch.funnel
        arm = funnel.with_settings(changed(SETTINGS, {"pixie.weights.save": 0.0}))
        asked = query((30, SAVE, 0))
        ours, theirs = (next(s for s in f.sources if s.name == "pixie") for f in (funnel, arm))
        assert ours.applies(asked)
        assert not theirs.applies(asked)
        assert funnel.with_settings(changed(SETTINGS, {"diversity": 0.5})).sources is funnel.sources
    finally:
        feed.close()
