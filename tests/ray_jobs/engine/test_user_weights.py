import pyarrow as pa
import pytest

from data.contract.encode import FeatureTable, encode_columns
from data.contract.schema import Feature
from data.contract.settings import UserError
from ray_jobs.engine.user_weights import user_weights

AGE = Feature(name="age", kind="categorical", cardinality=3)
COUNTRY = Feature(name="country", kind="categorical", cardinality=2)
STATE = Feature(name="state", kind="categorical", cardinality=2)
FEATURES = (AGE, COUNTRY, STATE)


@pytest.fixture
def users() -> FeatureTable:
    raw = pa.table(
        {"age": [18, 25, 18], "country": ["de", "us", "us"], "state": ["new", "new", "core"]}
    )
    return FeatureTable("user", FEATURES, encode_columns(raw, FEATURES))


def test_weights_of_several_columns_multiply(users: FeatureTable) -> None:
    found = user_weights(users, 3, {"country": {"us": 2.0}, "state": {"new": 3.0, "core": 0.5}})
    assert found.tolist() == [3, 6, 1]


def test_whole_numbers_are_values_too(users: FeatureTable) -> None:
    assert user_weights(users, 3, {"age": {"18": 2.0}}).tolist() == [2, 1, 2]


def test_rows_without_columns_weigh_one(users: FeatureTable) -> None:
    assert user_weights(users, 5, {"country": {"us": 2.0}}).tolist() == [1, 2, 2, 1, 1]


def test_who_is_not_named_weighs_one(users: FeatureTable) -> None:
    assert user_weights(users, 3, {}).tolist() == [1, 1, 1]
    assert user_weights(users, 3, {"country": {"de": 0.0}}).tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"city": {"x": 2.0}}, "ranker.user_weights.city: .* they have age, country, state"),
        ({"country": {"fr": 2.0}}, "ranker.user_weights.country.fr: no user has that value"),
    ],
)
def test_what_nobody_has_is_refused(users: FeatureTable, settings, said: str) -> None:
    with pytest.raises(UserError, match=said):
        user_weights(users, 3, settings)
