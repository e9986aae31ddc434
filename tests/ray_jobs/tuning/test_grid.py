import pytest

from data.contract.settings import UserError
from ray_jobs.settings import Settings
from ray_jobs.tuning.grid import Grid, choices
from ray_jobs.tuning.trial import Trial


def test_choices_are_the_product_in_order():
    grid = {"two_tower": {"id_dropout": [0, 0.5], "sequence": {"max_length": [8, 64]}}}
    assert choices(grid, "two_tower") == [
        {"two_tower.id_dropout": a, "two_tower.sequence.max_length": b}
        for a in (0, 0.5)
        for b in (8, 64)
    ]


def test_an_empty_grid_is_the_settings_as_they_are():
    assert choices({}, "two_tower") == [{}]


@pytest.mark.parametrize(
    ("grid", "text"),
    [
        ({"two_tower": {"dim": 64}}, "grid.two_tower.dim needs a list of values"),
        ({"two_tower": {"dim": []}}, "needs a list"),
        ({"two_tower": {"dim": [8, 8]}}, "names a value twice"),
        ({"seed": [0, 1]}, "set seeds=<count>"),
        ({"world": {"seed": [0, 1]}}, "another root"),
    ],
)
def test_a_grid_that_cannot_run_is_refused(grid, text):
    with pytest.raises(UserError, match=text):
        choices(grid, "two_tower")


def test_every_setting_is_tried_once_before_any_under_a_second_seed():
    grid = Grid.of(
        "grid", Settings(), choices({"two_tower": {"dim": [8, 16]}}, "two_tower"), [3, 4]
    )
    plans = [grid.next() for _ in range(4)]
    assert [(plan.seed, plan.choice["two_tower.dim"]) for plan in plans] == [
        (3, 8),
        (3, 16),
        (4, 8),
        (4, 16),
    ]
    assert grid.exhausted
    assert grid.next() is None


def test_results_stand_in_the_order_of_the_plans():
    grid = Grid.of("grid", Settings(), [{"two_tower.dim": 8}, {"two_tower.dim": 16}], [0])
    plans = [grid.next(), grid.next()]
    for plan in reversed(plans):
        assert not grid.finished
        grid.tell(plan, Trial(choice=plan.choice, seed=0))
    assert grid.finished
    assert [trial.choice for trial in grid.results] == [plan.choice for plan in plans]


def test_a_value_that_does_not_fit_is_refused_before_any_trial():
    with pytest.raises(UserError, match="greater"):
        Grid.of("grid", Settings(), [{"two_tower.dim": 8}, {"two_tower.dim": 0}], [0])
