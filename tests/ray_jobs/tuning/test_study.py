import random

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from data.contract.settings import UserError
from ray_jobs.settings import Settings
from ray_jobs.tuning.goals import Goal
from ray_jobs.tuning.space import Space
from ray_jobs.tuning.study import Study, StudySpec, check_search
from ray_jobs.tuning.trial import Trial

LENGTH, DROPOUT = "two_tower.sequence.max_length", "two_tower.id_dropout"
TREE = {DROPOUT: [0.0, 0.7], LENGTH: "choice(8,32,100)"}
SPACE = Space.of(TREE, Settings(), "two_tower")
NDCG = Goal("ndcg@50")


def study(folder, search="tpe", trials=14, lag=3, goals=(NDCG,), space=SPACE, **fields):
    spec = StudySpec(search=search, trials=trials, seed=7, lag=lag, **fields)
    return Study("study", space, goals, spec, folder / "study.journal")


def result(plan, state="complete"):
    """Better the nearer to dropout .4 and the longer."""
    value = 1 - abs(plan.choice.get(DROPOUT, 0) - 0.4) - 1 / plan.choice.get(LENGTH, 8)
    history = [{"step": step, "ndcg@50": value * step / 3} for step in (1, 2, 3)]
    costs = {"latency_ms": float(plan.choice.get(LENGTH, 8))}
    validation = {"step": 3, "ndcg@50": value}
    return Trial(
        choice=plan.choice,
        seed=plan.seed,
        validation=validation,
        history=history,
        costs=costs,
        state=state,
    )


def run(found, at_once, order, known=None, stop_after=None):
    """Runs trials as they come, of those that fly a random one finishing first."""
    known, flying = {} if known is None else known, []
    while not found.finished:
        while len(flying) < at_once and (plan := found.next()) is not None:
            if plan.number in known:
                assert known[plan.number].choice == plan.choice, "a finished trial, proposed again"
                found.tell(plan, known[plan.number])
            else:
                flying.append(plan)
        if flying:
            plan = flying.pop(order.randrange(len(flying)))
            known[plan.number] = result(plan)
            found.tell(plan, known[plan.number])
            if stop_after is not None and len(known) >= stop_after:
                return known
    return known


def choices(known):
    return [known[number].choice for number in sorted(known)]


@pytest.mark.parametrize("search", ["tpe", "nsga2", "random"])
def test_trials_do_not_depend_on_which_finishes_first(tmp_path, search):
    runs = [
        choices(run(study(tmp_path / str(seed), search), 2, random.Random(seed)))
        for seed in range(3)
    ]
    assert runs[0] == runs[1] == runs[2]
    assert len({str(choice) for choice in runs[0]}) > 8


def test_a_study_that_was_killed_goes_on_with_the_same_trials(tmp_path):
    whole = choices(run(study(tmp_path / "whole"), 2, random.Random(0)))
    known = {}
    for attempt, stop in enumerate([2, 3, 6, 11, 14]):
        again = study(tmp_path / "killed")
        run(again, 2, random.Random(attempt), known, stop_after=stop)
    assert choices(known) == whole


def test_more_trials_go_on_from_where_a_study_ended(tmp_path):
    short = choices(run(study(tmp_path, trials=6), 2, random.Random(0)))
    long = choices(run(study(tmp_path, trials=9), 2, random.Random(1)))
    assert long[:6] == short


def test_tpe_learns_where_to_look(tmp_path):
    def later(search, seed):
        spec = StudySpec(search=search, trials=24, seed=seed, lag=3)
        found = Study("s", SPACE, (NDCG,), spec, tmp_path / f"{search}{seed}" / "journal")
        run(found, 2, random.Random(0))
        return [trial.validation["ndcg@50"] for trial in found.results[12:]]

    gains = [sum(later("tpe", seed)) - sum(later("random", seed)) for seed in range(5)]
    assert all(gain > 0 for gain in gains)


def test_points_come_first(tmp_path):
    point = {DROPOUT: 0.0, LENGTH: 8}
    found = study(tmp_path, points=(point,))
    assert found.next().choice == point


def test_a_conditional_space_is_searched(tmp_path):
    tree = {LENGTH: "choice(8,32) if two_tower.dim=64", "two_tower.dim": "choice(32,64)"}
    space = Space.of(tree, Settings(), "two_tower")
    known = run(study(tmp_path, space=space), 2, random.Random(0))
    assert all(space.holds(trial.choice) for trial in known.values())


def test_several_goals_are_told_together(tmp_path):
    goals = (NDCG, Goal("latency_ms"))
    found = study(tmp_path, "nsga2", goals=goals)
    run(found, 2, random.Random(0))
    assert all(len(trial.values) == 2 for trial in found.optuna.trials)


def test_optuna_reads_the_study_from_its_file(tmp_path):
    found = study(tmp_path)
    run(found, 2, random.Random(0))
    storage = JournalStorage(JournalFileBackend(str(found.journal)))
    read = optuna.load_study(study_name="study", storage=storage)
    assert [trial.params for trial in read.trials] == [t.choice for t in found.results]
    assert {trial.state.name for trial in read.trials} == {"COMPLETE"}


def test_failures_and_cut_trials_are_told_as_such(tmp_path):
    found = study(tmp_path, trials=3, lag=1)
    for state in ("failed", "pruned", "complete"):
        plan = found.next()
        found.tell(plan, result(plan, state))
    states = [trial.state.name for trial in found.optuna.trials]
    assert states == ["FAIL", "PRUNED", "COMPLETE"]


def test_trials_are_cut_short_by_what_their_proposal_knew(tmp_path):
    found = study(tmp_path, trials=8, lag=2, reduction=2)
    plans = []
    while (plan := found.next()) is not None:
        plans.append(plan)
        found.tell(plan, result(plan))
    assert plans[0].bars == plans[1].bars == ()
    reached = [found.trials[n].history[0]["ndcg@50"] for n in range(6)]
    assert plans[-1].bars[0] == sorted(reached)[-3]


def test_earlier_studies_are_known_from_the_start(tmp_path):
    earlier = tuple(({DROPOUT: 0.4, LENGTH: 100}, (0.9,)) for _ in range(6))
    found = study(tmp_path, earlier=earlier, trials=2, lag=1)
    assert len(found.optuna.trials) == 6
    assert found.next() is not None


def test_pruning_takes_the_one_goal_that_steps_are_scored_by():
    spec = StudySpec(search="tpe", trials=1, seed=0, lag=1, reduction=3)
    check_search(spec, (NDCG,), "ndcg@50")
    for goals in ((NDCG, Goal("latency_ms")), (Goal("recall@10"),)):
        with pytest.raises(UserError, match="ndcg@50"):
            check_search(spec, goals, "ndcg@50")
