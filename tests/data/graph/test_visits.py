import numpy as np
import pytest

from data.graph.visits import visit_all

NEVER = 2**31 - 1
NO_CLASSES = np.zeros(0, np.int16)


def chain(length: int) -> tuple[np.ndarray, ...]:
    """Item i shares board i with item i + 1; the ends are on one board."""
    of_items = [[max(i - 1, 0), min(i, length - 2)] for i in range(length)]
    of_boards = [[i, i + 1] for i in range(length - 1)]
    sides = []
    for lists in (of_items, of_boards):
        sides += [np.arange(len(lists) + 1) * 2, np.array(lists, np.int32).ravel()]
    return (*sides, NO_CLASSES)


def visits_of(
    budgets: dict[int, int], rules: tuple[float, int, int, float, int], seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, their visits, and the steps of walks on a chain of 40."""
    queries, sizes = np.array(list(budgets)), np.array(list(budgets.values()))
    words, steps = visit_all(queries, sizes, chain(40), rules, np.uint64(seed))
    return (words >> 32) - 1, words & NEVER, steps


def test_visits_are_those_of_each_query_one_after_another() -> None:
    rows, visits, steps = visits_of({2: 1000, 30: 500}, (1.0, 4, NEVER, 0.0, -1))
    assert sorted(rows.tolist()) == [1, 3, 29, 31]
    assert set(rows[:2].tolist()) == {1, 3}
    assert steps.tolist() == [1000, 500]
    assert visits[:2] == pytest.approx(250, abs=60)  # half of the steps come back


def test_visits_of_all_queries_are_forgotten() -> None:
    rows, _, _ = visits_of({2: 1000, 3: 1000}, (0.2, 4, NEVER, 0.0, -1))
    assert not set(rows.tolist()) & {2, 3}
    assert len(np.unique(rows)) < len(rows)  # both walk the same stretch


def test_a_query_without_a_budget_visits_nothing() -> None:
    rows, _, steps = visits_of({2: 0, 5: 100}, (1.0, 4, NEVER, 0.0, -1))
    assert set(rows.tolist()) == {4, 6}
    assert steps.tolist() == [0, 100]


def test_walks_end_at_the_visit_that_is_one_too_many() -> None:
    for seed in range(20):
        rows, visits, steps = visits_of({20: 100_000}, (0.1, 5, 6, 0.0, -1), seed)
        assert (visits >= 5).sum() == 7
        assert (visits == 5).any()
        assert steps[0] < 1000
        assert len(rows) < 39


@pytest.mark.parametrize(
    ("budget", "enough"), [(100, NEVER), (1000, NEVER), (100_000, NEVER), (100_000, 8)]
)
def test_walks_stray_as_far_however_few_the_steps(budget: int, enough: int) -> None:
    # Steps that end at the neighbours: from the query with 1/2, and on later ones of a walk.
    hop = np.zeros((40, 40))
    of_items = chain(40)[1].reshape(40, 2)
    for item, boards in enumerate(of_items):
        for board in boards:
            hop[item, [board, board + 1]] += 0.25
    here, expected = np.eye(40)[20], np.zeros(40)
    for number in range(80):
        here = here @ hop
        expected += 0.3 * 0.7**number * here
    expected[20] = 0
    measured, taken = np.zeros(40), 0
    for seed in range(400 if budget < 2000 or enough < NEVER else 4):
        rows, visits, steps = visits_of({20: budget}, (0.3, 20, enough, 0.0, -1), seed)
        measured[rows] += visits
        taken += int(steps[0])
    assert measured / taken == pytest.approx(expected, abs=0.01)
