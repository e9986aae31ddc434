import optuna
import pytest

from data.contract.settings import UserError
from ray_jobs.settings import Settings
from ray_jobs.tuning.space import Space, setting, usual, with_choice

LENGTH, DROPOUT = "two_tower.sequence.max_length", "two_tower.id_dropout"


def of(tree, model="two_tower"):
    return Space.of(tree, Settings(), model)


SPACE = {DROPOUT: [0.0, 0.7], LENGTH: "choice(8,32,100)"}


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ({"two_tower.id_dropout": [0, 1.5]}, "id_dropout.*less than 1"),
        ({"two_tower.hidden": "choice(64,wide)"}, "hidden.*integer"),
        ({"two_tower.hidden": "choice(64,0)"}, "hidden.*greater"),
        ({"ranker.id_dropout": [0, 0.5]}, "no effect on model=two_tower"),
        ({"seed": [0, 5]}, "seeds=<count>"),
        ({"world.num_users": [10, 20]}, "another root"),
        ({"split.kind": "choice(time,column)"}, "compared by validation"),
        ({"train.choose_on": "choice(ndcg@50,recall@50)"}, "compared by validation"),
        ({"two_tower.negatives.random": [128, 512]}, "another pool of negatives"),
        ({"train.num_workers": "choice(1,2)"}, "larger steps"),
        ({LENGTH: "choice(8,32) if two_tower.dim=64"}, r"space.two_tower.dim=choice"),
        (
            {"two_tower.dim": "choice(32,64)", LENGTH: "choice(8,32) if two_tower.dim=16"},
            "never 16",
        ),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(tree, text):
    with pytest.raises(UserError, match=text):
        of(tree)


def test_conditions_in_a_circle_are_refused():
    tree = {
        "two_tower.dim": "choice(32,64) if two_tower.hidden=64",
        "two_tower.hidden": "choice(64,128) if two_tower.dim=32",
    }
    with pytest.raises(UserError, match="depend on each other"):
        of(tree)


def test_what_a_model_is_built_on_can_be_searched_too():
    assert of({"graph.dim": "choice(32,64)"}).keys == ("graph.dim",)
    with pytest.raises(UserError, match="no effect"):
        of({"two_tower.dim": "choice(32,64)"}, "user")


def test_settings_come_after_those_they_depend_on():
    tree = {LENGTH: "choice(8,32) if two_tower.dim=64", "two_tower.dim": "choice(32,64)"}
    assert of(tree).keys == ("two_tower.dim", LENGTH)


def test_inactive_settings_are_not_suggested():
    tree = {LENGTH: "choice(8,32) if two_tower.dim=64", "two_tower.dim": "choice(32,64)"}
    found, study = of(tree), optuna.create_study()
    choices = [found.suggested(study.ask()) for _ in range(30)]
    assert {LENGTH in choice for choice in choices} == {True, False}
    assert all((LENGTH in choice) == (choice["two_tower.dim"] == 64) for choice in choices)
    assert all(found.holds(choice) for choice in choices)


def test_a_point_is_completed_with_the_jobs_own_settings():
    assert of(SPACE).completed({DROPOUT: 0.1}) == {DROPOUT: 0.1, LENGTH: 100}
    assert of(SPACE).own_point() == {DROPOUT: 0.2, LENGTH: 100}
    assert of({LENGTH: "choice(8,32)"}).own_point() is None


@pytest.mark.parametrize(
    ("point", "text"),
    [
        ({DROPOUT: 0.9}, "between 0.0 and 0.7"),
        ({LENGTH: 9}, r"one of \[8, 32, 100\]"),
        ({"two_tower.dim": 8}, "not in the space"),
    ],
)
def test_a_point_outside_is_refused(point, text):
    with pytest.raises(UserError, match=text):
        of(SPACE).completed(point)


def test_a_space_holds_what_it_could_suggest():
    assert of(SPACE).holds({DROPOUT: 0.1, LENGTH: 8})
    assert not of(SPACE).holds({DROPOUT: 0.1})
    assert not of(SPACE).holds({DROPOUT: 0.8, LENGTH: 8})
    assert not of(SPACE).holds({DROPOUT: 0.1, LENGTH: 8, "two_tower.dim": 8})


def test_a_choice_replaces_settings():
    found = with_choice(Settings(), {DROPOUT: 0.1, LENGTH: 8}, seed=3)
    assert (setting(found, DROPOUT), setting(found, LENGTH), found.seed) == (0.1, 8, 3)
    assert setting(found, "two_tower.no_such") is None


@pytest.mark.parametrize("model", ["user", "two_tower", "ranker"])
def test_the_usual_settings_exist(model):
    for key in usual(model):
        assert setting(Settings(), key) is not None


def test_a_model_without_histories_has_no_usual_space():
    with pytest.raises(UserError, match="no usual space"):
        usual("graph")
