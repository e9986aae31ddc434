from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data.contract.encode import FeatureTable, encode_columns
from data.contract.schema import Feature, Vocabulary
from data.contract.settings import UserError, build, load, to_tree
from serve.settings import ServeSettings
from serve.utility import Utility, UtilitySettings

ACTIONS = ("save", "hide", "view")
VOCABULARY = Vocabulary(
    order="clock",
    actions=ACTIONS,
    polarity=("positive", "negative", "neutral"),
    item_features=(
        Feature(name="content", kind="vector", dim=2),
        Feature(name="format", kind="categorical"),
        Feature(name="shop", kind="categorical"),
        Feature(name="sponsored", kind="categorical"),
        Feature(name="tags", kind="multi"),
        Feature(name="bid", kind="numeric"),
    ),
)
ITEMS = pa.table(
    {
        "content": pa.array([[0.0, 1.0]] * 4, pa.list_(pa.float16(), 2)),
        "format": ["product", "video", "image", None],
        "shop": [7, None, 8, 7],
        "sponsored": [True, False, None, True],
        "tags": [["shoes", "hats"], [], None, ["hats"]],
        "bid": [0.5, None, 2.0, 0.0],
    }
)
NO_ITEMS: dict[str, Any] = {}

probabilities = arrays(np.float32, (5, 3), elements=st.floats(0, 1, width=32))
weights = st.dictionaries(st.sampled_from(ACTIONS), st.floats(-5, 5, width=32))
powers = st.dictionaries(st.sampled_from(ACTIONS), st.floats(0.25, 3, width=32))


def utility(**fields: Any) -> Utility:
    return Utility.of(build(UtilitySettings, fields), VOCABULARY)


def encoded(names: tuple[str, ...] = ()) -> dict[str, Any]:
    features = VOCABULARY.item_features
    table = FeatureTable("item", features, encode_columns(ITEMS, features))
    return table.only(names).gather(np.arange(len(ITEMS)))


def test_actions_count_by_polarity_unless_told_otherwise() -> None:
    assert utility().weights.tolist() == [1.0, -1.0, 0.0]
    assert utility(weights={"view": 0.5, "hide": -9}).weights.tolist() == [1.0, -9.0, 0.5]


@given(probabilities, weights)
def test_by_default_the_score_is_the_weighted_sum_to_the_last_bit(
    given_p: Any, named: dict[str, float]
) -> None:
    expected = given_p @ np.array(VOCABULARY.weights(named, ""), np.float32)
    assert utility(weights=named)(given_p, NO_ITEMS).tobytes() == expected.tobytes()


@given(probabilities, weights, powers, powers)
def test_the_product_is_that_of_a_loop(
    given_p: Any, named: dict[str, float], gamma: dict[str, float], beta: dict[str, float]
) -> None:
    scored = utility(weights=named, powers=gamma, exponents=beta, form="product")
    expected = []
    for row in given_p.astype(float):
        product = 1.0
        for action, w, p in zip(ACTIONS, scored.weights.tolist(), row, strict=True):
            product *= max(0.0, 1 + w * p ** gamma.get(action, 1)) ** beta.get(action, 1)
        expected.append(product)
    np.testing.assert_allclose(scored(given_p, NO_ITEMS), expected, rtol=2e-4, atol=1e-4)


@given(probabilities, weights, powers, st.sampled_from(ACTIONS), st.floats(0, 3, width=32))
@pytest.mark.parametrize("form", ["sum", "product"])
def test_a_higher_weight_never_lowers_a_score(
    form: str,
    given_p: Any,
    named: dict[str, float],
    gamma: dict[str, float],
    action: str,
    more: float,
) -> None:
    lower = utility(weights={action: 0.0} | named, powers=gamma, form=form)
    raised = dict(lower.settings.weights)
    raised[action] += more
    higher = utility(weights=raised, powers=gamma, form=form)
    change = higher(given_p, NO_ITEMS) - lower(given_p, NO_ITEMS)
    assert (change >= -1e-4).all()


@given(probabilities, st.floats(0, 9, width=32))
def test_a_party_adds_its_weight_times_its_score(given_p: Any, weight: float) -> None:
    party = {"weights": {"view": 2.0, "hide": -1.0}}
    scored = utility(parties={"creator": party}, party_weights={"creator": weight})
    worth = 2 * given_p[:, 2] - given_p[:, 1]
    alone = utility()(given_p, NO_ITEMS)
    np.testing.assert_allclose(scored(given_p, NO_ITEMS), alone + weight * worth, atol=1e-5)
    np.testing.assert_allclose(scored.of_parties(given_p, NO_ITEMS)[:, 0], worth, atol=1e-6)


def test_a_party_without_a_weight_changes_nothing() -> None:
    given_p = np.random.default_rng(0).random((5, 3), np.float32)
    scored = utility(parties={"creator": {"weights": {"view": 1.0}}})
    assert scored(given_p, NO_ITEMS).tobytes() == utility()(given_p, NO_ITEMS).tobytes()


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("format", ["product"], [1, 0, 0, 0]),
        ("format", ["product", "video"], [1, 1, 0, 0]),
        ("format", [], [1, 1, 1, 0]),
        ("shop", [7], [1, 0, 0, 1]),
        ("shop", [], [1, 0, 1, 1]),
        ("sponsored", [True], [1, 0, 0, 1]),
        ("tags", ["hats"], [1, 0, 0, 1]),
        ("tags", ["hats", "shoes"], [1, 0, 0, 1]),
        ("tags", [], [1, 0, 0, 1]),
        ("bid", [], [1, 0, 1, 1]),
        ("bid", [0.5, 0], [1, 0, 0, 1]),
        ("", [], [1, 1, 1, 1]),
    ],
)
def test_a_condition_says_which_items_are_a_partys(
    column: str, values: list[Any], expected: list[int]
) -> None:
    party = {"weights": {"save": 1.0}, "column": column, "values": values}
    scored = utility(parties={"shop": party}, party_weights={"shop": 1.0})
    assert scored.columns == ((column,) if column else ())
    found = scored.of_parties(np.ones((4, 3), np.float32), encoded(scored.columns))
    assert found[:, 0].tolist() == expected


def test_several_parties_stand_side_by_side() -> None:
    parties = {
        "merchant": {"weights": {"view": 1.0}, "column": "format", "values": ["product"]},
        "creator": {"weights": {"save": 1.0}},
        "ad": {"weights": {"view": 1.0}, "column": "sponsored", "values": [True]},
    }
    scored = utility(parties=parties, party_weights={"ad": 3.0, "merchant": 1.0})
    given_p = np.full((4, 3), 0.5, np.float32)
    items = encoded(scored.columns)
    expected = [[0.5, 0.5, 0.5], [0, 0.5, 0], [0, 0.5, 0], [0, 0.5, 0.5]]
    assert scored.of_parties(given_p, items).tolist() == expected
    assert scored.party_weights.tolist() == [1.0, 0.0, 3.0]
    assert scored(given_p, items).tolist() == [2.0, 0.0, 0.0, 1.5]


def test_gates_mark_what_is_above_any_of_them() -> None:
    scored = utility(gates={"hide": 0.25, "view": 0.75})
    given_p = np.array([[1, 0.25, 0.5], [1, 0.5, 0], [0, 0, 1]], np.float32)
    assert scored.above_gates(given_p).tolist() == [False, True, True]
    assert not utility().above_gates(given_p).any()


MERCHANT = {"weights": {"save": 1.0}}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"weights": {"like": 1}}, r"serve\.utility\.weights\.like names no action; known are sa"),
        ({"powers": {"like": 1}}, r"serve\.utility\.powers\.like names no action"),
        ({"gates": {"like": 1}}, r"serve\.utility\.gates\.like names no action"),
        (
            {"form": "product", "exponents": {"like": 1}},
            r"serve\.utility\.exponents\.like names no action",
        ),
        ({"exponents": {"save": 2}}, "exponents count in form=product alone"),
        (
            {"form": "product", "weights": {"save": 1e6}, "exponents": {"save": 9}},
            r"the product reaches 1e\+54",
        ),
        ({"gates": {"hide": 1.5}}, r"gates\.hide: Input should be less than or equal to 1"),
        ({"weights": {"save": float("nan")}}, r"weights\.save"),
        ({"party_weights": {"ad": 1}}, r"party_weights\.ad names no party; there are none"),
        (
            {"parties": {"m": MERCHANT}, "party_weights": {"ad": 1}},
            r"party_weights\.ad names no party; there are m",
        ),
        ({"parties": {"m": {}}}, "a party needs weights"),
        ({"parties": {"m": MERCHANT | {"values": [1]}}}, r"values \[1\] need parties"),
        ({"parties": {"m": MERCHANT | {"colum": "x"}}}, r"m\.colum; did you mean parties\.m\.colu"),
        ({"parties": {"m": 5}}, r"parties\.m is a group of settings"),
        (
            {"parties": {"m": {"weights": {"like": 1}}}},
            r"serve\.utility\.parties\.m\.weights\.like names no action",
        ),
        (
            {"parties": {"m": MERCHANT | {"column": "color"}}},
            r"m\.column=color names no column .* there are bid, format, shop, sponsored, tags",
        ),
        ({"parties": {"m": MERCHANT | {"column": "content"}}}, "names no column of items"),
        (
            {"parties": {"m": MERCHANT | {"column": "bid", "values": ["a"]}}},
            "bid is numeric, 'a' is not",
        ),
    ],
)
def test_what_is_not_there_is_refused_with_what_there_is(
    fields: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        utility(**fields)


def test_settings_come_from_the_command_line_as_from_a_tree() -> None:
    words = [
        "utility.weights.hide=-4",
        "utility.parties.merchant.weights.save=1",
        "utility.parties.merchant.column=format",
        "utility.parties.merchant.values=[product]",
        "utility.party_weights.merchant=.5",
    ]
    found = load(ServeSettings, words).utility
    assert build(UtilitySettings, to_tree(found)) == found
    assert found.parties["merchant"].values == ("product",)


def test_another_utility_has_another_version() -> None:
    found = [{}, {"weights": {"hide": -2}}, {"gates": {"hide": 0.5}}, {"form": "product"}]
    assert len({utility(**fields).version for fields in found}) == len(found)
    assert utility().version == utility().version
