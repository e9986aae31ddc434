import pytest

from data.contract.settings import UserError
from ray_jobs.tuning.domain import Choices, Condition, Parameter, Range, parameter


@pytest.mark.parametrize(
    ("key", "written", "domain"),
    [
        ("two_tower.id_dropout", [0, 0.7], Range(0.0, 0.7, whole=False)),
        ("two_tower.hidden", [64, 512], Range(64, 512, whole=True)),
        ("two_tower.learning_rate", "log(1e-4, 1e-2)", Range(1e-4, 1e-2, whole=False, log=True)),
        ("two_tower.hidden", "step(128,512,128)", Range(128, 512, whole=True, step=128)),
        ("two_tower.sequence.max_length", "choice(8,32)", Choices((8, 32))),
        ("ranker.sharing", "choice(gates, own)", Choices(("gates", "own"))),
        ("two_tower.horizon_days", [1, 9], Range(1, 9, whole=True)),
        ("ranker.action_weights.save", [0.5, 2], Range(0.5, 2.0, whole=False)),
        ("user.positives", "choice([save],[save,click])", Choices((["save"], ["save", "click"]))),
    ],
)
def test_a_domain_is_read_as_people_write_it(key, written, domain):
    assert parameter(key, written) == Parameter(key, domain)


def test_a_condition_stands_behind_the_domain():
    found = parameter("ranker.sharing", "choice(gates,own) if ranker.experts=2|4")
    assert found.condition == Condition("ranker.experts", (2, 4))
    assert found.active({"ranker.experts": 4})
    assert not found.active({"ranker.experts": 0})
    assert not found.active({})


def test_a_range_may_have_a_condition_too():
    found = parameter("two_tower.interests.share", "[0, 0.5] if two_tower.interests.num=4")
    assert found.domain == Range(0.0, 0.5, whole=False)


@pytest.mark.parametrize(
    ("key", "written", "text"),
    [
        ("two_tower.id_dropuot", [0, 1], "did you mean two_tower.id_dropout"),
        ("two_towr.id_dropout", [0, 1], "did you mean two_tower"),
        ("two_tower.sequence", [0, 1], "group of settings"),
        ("ranker.sharing", [0, 1], "write choice"),
        ("two_tower.id_dropout", 0.3, "none of the forms"),
        ("two_tower.id_dropout", "uniform(0,1)", "none of the forms"),
        ("two_tower.id_dropout", [0.7, 0.1], "low < high"),
        ("two_tower.id_dropout", [0.1], "takes 2 numbers"),
        ("two_tower.id_dropout", ["low", "high"], "no number"),
        ("two_tower.learning_rate", "log(0,1)", "above 0"),
        ("two_tower.hidden", "step(8,64)", "takes 3 numbers"),
        ("two_tower.hidden", [8, 9.5], "whole number"),
        ("two_tower.hidden", "choice()", "needs values"),
        ("two_tower.hidden", "choice(8,8)", "each once"),
    ],
)
def test_what_is_no_domain_of_the_setting_is_refused(key, written, text):
    with pytest.raises(UserError, match=text):
        parameter(key, written)


def test_lists_travel_through_optuna_as_text():
    domain = Choices((["save"], ["save", "click"]))
    assert [domain.encoded(value) for value in domain.values] == ['["save"]', '["save", "click"]']


def test_numbers_of_another_kind_lie_outside():
    assert 8 in Range(1, 9, whole=True)
    assert 8.5 not in Range(1, 9, whole=True)
    assert True not in Range(0, 9, whole=True)
    assert 0.7 in Range(0, 0.7, whole=False)
