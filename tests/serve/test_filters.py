"""What may not be shown, and why."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.contract.settings import UserError
from serve.feed import Feed
from serve.filters import OtherValue, Rule, Ruled
from serve.messages import Event, Item, RecommendRequest, RecommendResponse
from serve.settings import ServeSettings
from serve.stages import Trace
from tests.tiny_root import FIRST_ITEM, ITEMS

Serving = Callable[..., Feed]


@pytest.fixture
def serving(root: Path, settings: ServeSettings) -> Any:
    """A feed under changed settings: `serving(rules=...)`."""
    feeds: list[Feed] = []

    def serve(**changes: Any) -> Feed:
        while feeds:
            feeds.pop().close()
        feeds.append(Feed(root, replace(settings, **changes), background=False))
        return feeds[-1]

    yield serve
    for feed in feeds:
        feed.close()


def ask(feed: Feed, user_id: int = 3, **fields: Any) -> RecommendResponse:
    return feed.recommend(RecommendRequest(user_id=user_id, debug=True, **fields))


def broken(*_: Any) -> Any:
    raise RuntimeError("broken by the test")


def topics(item_id: int) -> list[str]:
    number = item_id - FIRST_ITEM
    return [f"topic{number % 5}"] * (number % 3)


def creator(item_id: int) -> int:
    return (item_id - FIRST_ITEM) % 40


def shown(answer: RecommendResponse) -> list[int]:
    return [int(item.item_id) for item in answer.items]


def test_items_of_a_rule_are_not_shown_and_the_reason_is_told(serving: Serving) -> None:
    plain = ask(serving(), num_items=50)
    assert any("topic1" in topics(item) for item in shown(plain))
    answer = ask(
        serving(rules={"no_topic1": Rule(column="interests", values=("topic1",))}), num_items=50
    )
    assert not any("topic1" in topics(item) for item in shown(answer))
    assert answer.debug is not None
    dropped = [d["item_id"] for d in answer.debug["dropped_items"] if d["reason"] == "no_topic1"]
    assert len(dropped) == answer.debug["dropped"]["no_topic1"] > 0
    assert all("topic1" in topics(item) for item in dropped)


def test_a_rule_of_some_surfaces_counts_there_alone(serving: Serving) -> None:
    rule = Rule(column="interests", values=("topic1",), surfaces=("search",))
    feed = serving(rules={"quiet": rule})
    assert "quiet" not in ask(feed).debug["dropped"]
    assert ask(feed, surface="search").debug["dropped"]["quiet"] > 0


def test_a_rule_without_values_takes_whatever_holds_anything(serving: Serving) -> None:
    answer = ask(serving(rules={"bare": Rule(column="interests")}), num_items=40)
    assert not any(topics(item) for item in shown(answer))


@pytest.mark.parametrize("failing", ["slate", "query"])
@pytest.mark.parametrize("cached", [True, False])
def test_what_a_rule_takes_out_is_in_no_feed_that_stands_in(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, cached: bool, failing: str
) -> None:
    """The feed that is cached was made for a surface on which the rule does not count."""
    feed = serving(rules={"bare": Rule(column="interests", surfaces=("search",))})
    if cached:
        assert any(topics(item) for item in shown(ask(feed, num_items=50)))
    monkeypatch.setattr(feed._switch.funnel, failing, broken)
    answer = ask(feed, surface="search", num_items=50)
    assert answer.fallback == ("cached" if cached else "popular")
    assert shown(answer)
    assert not any(topics(item) for item in shown(answer))


def test_what_cannot_be_told_to_be_showable_is_not_shown(
    serving: Serving, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = serving(rules={"bare": Rule(column="interests")})
    monkeypatch.setattr(Ruled, "__call__", broken)
    assert shown(ask(feed)) == []
    feed.close()
    assert not (root / "requests").exists(), "nothing was shown"


def test_what_a_rule_takes_out_is_similar_to_nothing(serving: Serving) -> None:
    def similar(number: int, **changes: Any) -> list[int]:
        found = serving(**changes).similar(FIRST_ITEM, number)
        assert found is not None
        return [int(item.item_id) for item in found.items]

    every = similar(100)
    assert any(topics(item) for item in every[:10])
    wanted = [item for item in every if not topics(item)][:10]
    assert similar(10, rules={"bare": Rule(column="interests")}) == wanted
    elsewhere = {"bare": Rule(column="interests", surfaces=("search",))}
    assert similar(10, rules=elsewhere) == every[:10]


def test_posted_items_are_under_the_rules_too(serving: Serving) -> None:
    feed = serving(rules={"no_topic1": Rule(column="interests", values=("topic1",))})
    content = [1.0] + [0.0] * 7
    made = [
        Item(item_id=FIRST_ITEM + ITEMS + n, content=content, interests=[name])
        for n, name in enumerate(("topic1", "topic2"))
    ]
    feed.post_items(made)
    rows = feed._switch.funnel.catalogue.rows_of([one.item_id for one in made])
    query = feed._switch.funnel.query(RecommendRequest(user_id=3), Trace())
    (rule, *_) = feed._switch.funnel.filters
    assert rule(query, rows).tolist() == [False, True]


def test_a_creator_of_whom_several_items_were_hidden_is_not_shown(serving: Serving) -> None:
    feed = serving(hidden_creator_after=2, seen_hours=0.0)
    newcomer = 999
    first = ask(feed, newcomer, num_items=100)
    liked = creator(shown(first)[0])
    of_creator = [FIRST_ITEM + n for n in range(ITEMS) if n % 40 == liked]
    for number, item in enumerate(of_creator[:2]):
        assert liked in {creator(i) for i in shown(ask(feed, newcomer, num_items=100))} or number
        feed.post_events([Event(user_id=newcomer, item_id=item, action="hide")])
    after = ask(feed, newcomer, num_items=100)
    assert liked not in {creator(item) for item in shown(after)}
    assert after.debug is not None
    assert after.debug["dropped"]["hidden_creator"] > 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rules": {"a": Rule(column="nothing")}}, r"serve\.rules\.a\.column=nothing"),
        ({"rules": {"a": Rule(column="quality", values=("x",))}}, "is numeric"),
        ({"match_user": {"language": "country"}}, "no categorical column language"),
        ({"match_user": {"creator_id": "age"}}, "no categorical column age"),
    ],
)
def test_a_filter_of_what_is_not_there_is_refused(
    serving: Serving, changes: Any, reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        serving(**changes)
    assert len(shown(ask(serving()))) == 10  # what was refused holds no file open


def test_a_rule_needs_a_column() -> None:
    with pytest.raises(ValueError, match="column"):
        Rule()


class Table:
    """One categorical column."""

    def __init__(self, side: str, name: str, values: list[int]) -> None:
        self.side, self.features = side, ()
        self._name, self._values = name, np.array(values)

    def hashes(self, name: str) -> Any:
        return self._values if name == self._name else None

    def only(self, names: Any) -> Any:
        return self

    def gather(self, rows: Any) -> Any:
        return {f"{self.side}.{self._name}": self._values[rows]}


class Known:
    """What stands for a bundle, its catalogue and a query."""

    def __init__(self, row: int) -> None:
        self.items, self.users = (
            Table("item", "language", [0, 7, 8, 7]),
            Table("user", "tongue", [0, 7]),
        )
        self.user = self
        self.row = row

    def column(self, name: str, rows: Any) -> Any:
        return self.items.hashes(name)[rows]


@pytest.mark.parametrize(("row", "kept"), [(1, [True, True, False, True]), (0, [True] * 4)])
def test_items_of_another_value_than_the_users_are_left_out_where_both_are_known(
    row: int, kept: list[bool]
) -> None:
    known: Any = Known(row)
    filtered = OtherValue("language", "tongue", known, known)
    assert filtered.name == "other_language"
    assert filtered(known, np.arange(4)).tolist() == kept
