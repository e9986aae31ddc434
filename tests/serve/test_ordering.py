"""The places of a feed: reasons for what is not there, and chances of what is."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.candidates import Candidates
from serve.ordering import EXPLORING, LEAST_SHARES, Ordering, _draws
from serve.settings import ServeSettings
from serve.stages import Trace

N, PLACES = 30, 5
PLAIN = ServeSettings(least_share=0.0, explore=0.0, max_per_creator=N)


class Catalogue:
    """Items of creators of three each; every second one is a copy of the one before."""

    def column(self, name: str, rows: Any) -> Any:
        return 1 + rows // 3 if name == "creator_id" else None

    def embeddings(self, rows: Any) -> Any:
        return np.eye(N, dtype=np.float32)[rows // 2]


def query(user: int = 1, events: int = 0, surface: str = "home") -> Any:
    known = SimpleNamespace(row=user, events=SimpleNamespace(item=np.zeros(events)))
    return SimpleNamespace(user=known, surface=surface)


def placed(settings: ServeSettings, of: Any = None, above: Any = None) -> tuple[Any, Trace]:
    candidates = Candidates(np.arange(N), np.zeros(N, np.int64), ("a",))
    scores, trace = -np.arange(N, dtype=np.float32), Trace()
    ordering: Any = Ordering(Catalogue(), settings)  # type: ignore[arg-type]
    return ordering(of or query(), candidates, scores, above, PLACES, trace), trace


def test_without_anything_else_scores_decide() -> None:
    places, trace = placed(PLAIN)
    assert places.best.tolist() == [0, 1, 2, 3, 4]
    assert places.propensity.tolist() == [1.0] * PLACES
    assert trace.drops == {"score": N - PLACES}


def test_all_that_is_not_shown_has_one_reason() -> None:
    above = np.arange(N) % 7 == 0
    settings = replace(PLAIN, max_per_creator=1, explore=1.0)
    places, trace = placed(settings, above=above)
    dropped = np.concatenate([part for parts in trace.dropped.values() for part in parts])
    assert sorted([*dropped.tolist(), *places.best.tolist()]) == list(range(N))
    assert trace.drops["gate"] == above.sum()
    assert trace.drops["diversity"] > 0


def test_spacing_and_point_processes_are_asked_for_by_settings() -> None:
    apart, _ = placed(replace(PLAIN, spacing={"creator_id": 2}))
    assert apart.best.tolist() == [0, 3, 6, 1, 4]
    same, _ = placed(replace(PLAIN, spacing={"nothing": 2}))
    assert same.best.tolist() == [0, 1, 2, 3, 4]
    spread, _ = placed(replace(PLAIN, diversity=1.0))
    assert spread.best.tolist() == [0, 2, 4, 6, 8]


@given(
    source=st.lists(st.integers(0, 3), min_size=N, max_size=N),
    share=st.sampled_from([0.05, 0.25, 1.0]),
    user=st.integers(0, 50),
)
def test_least_shares_leave_items_of_a_creator_apart(
    source: list[int], share: float, user: int
) -> None:
    settings = replace(PLAIN, spacing={"creator_id": 1}, least_share=share)
    candidates = Candidates(np.arange(N), np.array(source), ("a", "b", "c", "d"))
    ordering: Any = Ordering(Catalogue(), settings)  # type: ignore[arg-type]
    scores = -np.arange(N, dtype=np.float32)
    best = ordering(query(user), candidates, scores, None, PLACES, Trace()).best
    creators = (1 + best // 3).tolist()
    assert all(one != other for one, other in pairwise(creators))


def test_exploring_shows_each_candidate_as_often_as_its_propensity_says() -> None:
    share, users = 0.5, 4_000
    explored, at = Counter[int](), Counter[int]()
    for user in range(users):
        places, _ = placed(replace(PLAIN, explore=share), query(user))
        assert len(set(places.best.tolist())) == PLACES
        if places.explored >= 0:
            item = int(places.best[places.explored])
            explored[item] += 1
            at[places.explored] += 1
            assert places.propensity[places.explored] == pytest.approx(
                share / PLACES / (N - PLACES)
            )
        others = np.delete(places.propensity, places.explored if places.explored >= 0 else [])
        assert others == pytest.approx(1 - share / PLACES)
    assert sum(explored.values()) / users == pytest.approx(share, abs=0.03)
    assert set(explored) == set(range(PLACES, N))
    expected = users * share / (N - PLACES)
    assert all(abs(count - expected) < 5 * expected**0.5 for count in explored.values())
    assert set(at) == set(range(PLACES))


def test_what_is_explored_does_not_hang_on_which_source_has_its_least_share() -> None:
    first = [_draws(query(user), LEAST_SHARES).random() for user in range(2_000)]
    other = [_draws(query(user), EXPLORING).random() for user in range(2_000)]
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.1


def test_a_request_is_answered_alike_until_the_user_does_something() -> None:
    settings = replace(PLAIN, explore=0.5)
    first = [placed(settings, query(user))[0].best.tolist() for user in range(40)]
    again = [placed(settings, query(user))[0].best.tolist() for user in range(40)]
    later = [placed(settings, query(user, events=1))[0].best.tolist() for user in range(40)]
    assert first == again != later


def test_where_all_candidates_are_shown_nothing_is_explored() -> None:
    candidates = Candidates(np.arange(3), np.zeros(3, np.int64), ("a",))
    ordering: Any = Ordering(Catalogue(), replace(PLAIN, explore=1.0))  # type: ignore[arg-type]
    places = ordering(query(), candidates, np.zeros(3, np.float32), None, PLACES, Trace())
    assert places.explored == -1
    assert places.propensity.tolist() == [1.0] * 3
