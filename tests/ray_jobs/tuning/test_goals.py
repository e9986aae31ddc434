import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract.settings import UserError
from ray_jobs.tuning.goals import Goal, chosen, front, goals_of
from ray_jobs.tuning.trial import Trial

RECALL, LATENCY = Goal("recall@10"), Goal("latency_ms")


def trial(recall, latency=1.0, **fields):
    validation, costs = {"recall@10": recall}, {"latency_ms": latency}
    return Trial(choice={"a": recall}, seed=0, validation=validation, costs=costs, **fields)


def test_the_usual_goal_is_what_steps_are_chosen_on():
    assert goals_of((), "two_tower", "ndcg@50") == (Goal("ndcg@50"),)
    assert goals_of((), "ranker", "ndcg@50") == (Goal("log_loss"),)


@pytest.mark.parametrize(
    ("names", "model", "text"),
    [
        (("recall",), "two_tower", "recall is not measured"),
        (("recall@7",), "user", "not measured"),
        (("recall@10",), "ranker", "log_loss, auc"),
        (("recall@10", "latency_ms"), "graph", "answers no request"),
    ],
)
def test_what_is_not_measured_is_refused(names, model, text):
    with pytest.raises(UserError, match=text):
        goals_of(names, model, "ndcg@50")


def test_losses_and_costs_are_to_be_small():
    assert [Goal(n).direction for n in ("log_loss", "latency_ms", "megabytes")] == ["minimize"] * 3
    assert Goal("auc").direction == "maximize"


def test_the_best_of_one_goal_is_the_largest():
    trials = [trial(0.1), trial(0.3), trial(0.9, state="pruned"), trial(0.2)]
    assert chosen(trials, (RECALL,)) is trials[1]
    assert chosen(trials[2:3], (RECALL,)) is None


def test_the_front_leaves_out_what_another_betters():
    trials = [trial(0.1, 1.0), trial(0.3, 3.0), trial(0.2, 4.0), trial(0.25, 1.5)]
    assert front(trials, (RECALL, LATENCY)) == [trials[1], trials[3], trials[0]]
    assert chosen(trials, (RECALL, LATENCY)) is trials[3]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 9)), min_size=1, max_size=15))
def test_whatever_is_tried_is_reached_by_the_front(points):
    trials = [trial(*point) for point in points]
    found = front(trials, (RECALL, LATENCY))
    for one in trials:
        assert any(
            best.validation["recall@10"] >= one.validation["recall@10"]
            and best.costs["latency_ms"] <= one.costs["latency_ms"]
            for best in found
        )
    assert chosen(trials, (RECALL, LATENCY)) in found
