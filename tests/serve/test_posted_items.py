import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract.encode import FeatureTable, encode_columns
from data.contract.schema import Feature
from data.contract.settings import UserError
from serve.posted_items import check_columns, encode_items, fits

FEATURES = (
    Feature(name="content", kind="vector", dim=3),
    Feature(name="creator_id", kind="categorical"),
    Feature(name="interests", kind="multi"),
    Feature(name="quality", kind="numeric"),
)


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("zap", 1, "no column 'zap' here; known are content, creator_id, interests, quality"),
        ("quality", "high", "'quality' must be a finite number"),
        ("quality", float("inf"), "'quality' must be a finite number"),
        ("quality", True, "'quality' must be a finite number"),
        ("creator_id", 1.5, "'creator_id' must be a string, an integer"),
        ("creator_id", 2**64, "'creator_id' must be a string, an integer"),
        ("creator_id", "\ud800", "'creator_id' must be a string, an integer"),
        ("interests", "food", "'interests' must be a list"),
        ("interests", ["food", 3], "'interests' must be a list"),
        ("interests", [1, True], "'interests' must be a list"),
        ("interests", [True, False], "'interests' must be a list"),
        ("content", [1.0, 2.0], "'content' must be a list of as many numbers"),
        ("content", [1.0, 2.0, "x"], "'content' must be a list of as many numbers"),
        ("content", [1.0, 2.0, 65_520.0], "none beyond 65504"),
        ("content", [2**63] * 3, "none beyond 65504"),
        ("quality", 2**53 + 1, "below 2^53 if whole"),
        ("quality", 10**30, "below 2^53 if whole"),
        ("title", 3, "'title' must be text"),
    ],
)
def test_a_column_that_does_not_fit_is_refused(column: str, value: Any, reason: str) -> None:
    with pytest.raises(UserError, match=re.escape(reason)):
        check_columns(FEATURES, {"item_id": 1, column: value})


@pytest.mark.parametrize("value", ["x", "1.5", "", True, str(2**63)])
def test_a_value_that_is_no_number_is_refused_where_the_tables_are(value: Any) -> None:
    own = [
        Feature(name=n, kind=k, values="int64") for n, k in (("a", "categorical"), ("b", "multi"))
    ]
    for column in ({"a": value}, {"b": [value]}):
        with pytest.raises(UserError, match="the table's are whole numbers"):
            check_columns(own, {"item_id": 1} | column)
    check_columns(own, {"item_id": 1, "a": "-4", "b": ["1", "2"]})


def test_a_value_is_the_tables_however_it_is_written() -> None:
    whole = Feature(name="maker", kind="categorical", values="int64")
    text = Feature(name="maker", kind="categorical", values="string")
    for feature in (whole, text):
        encoded = encode_items([feature], [{"maker": 4}, {"maker": "4"}])["maker"].to_pylist()
        assert encoded[0] == encoded[1]


def test_declared_columns_and_texts_are_taken() -> None:
    item = {"item_id": 1, "created_at": 5, "title": "Rye", "quality": None, "creator_id": True}
    check_columns(FEATURES, item | {"content": [1, 2.5, 0], "interests": []})


def test_posted_items_are_encoded_as_the_item_table_is() -> None:
    import pyarrow as pa

    table = pa.table(
        {
            "content": pa.array([[1.0, 0, 0], [0, 0.5, 0]], pa.list_(pa.float16(), 3)),
            "creator_id": [4, 5],
            "interests": [["food"], ["art", "food"]],
            "quality": [1.5, None],
        }
    )
    expected = encode_columns(table, FEATURES)
    posted = encode_items(FEATURES, table.to_pylist())
    assert {n: c.to_pylist() for n, c in posted.items()} == {
        n: c.to_pylist() for n, c in expected.items()
    }


values = st.fixed_dictionaries(
    {},
    optional={
        "content": st.lists(st.integers(-3, 3).map(float), min_size=3, max_size=3),
        "creator_id": st.none() | st.integers(-5, 5) | st.sampled_from(["4", "x"]) | st.booleans(),
        "interests": st.lists(st.sampled_from(["a", "b"])) | st.lists(st.integers(0, 3)),
        "quality": st.none() | st.integers(0, 9) | st.floats(0, 9, width=32),
    },
)


plain = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(0, 9, width=32) | st.text("aé")


@given(
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys((f.name for f in FEATURES), plain | st.lists(plain, max_size=3))
    )
)
def test_what_is_not_refused_can_be_encoded(item: dict[str, Any]) -> None:
    try:
        check_columns(FEATURES, item)
    except UserError:
        assert not fits(FEATURES, item)
    else:
        assert fits(FEATURES, item)
        encode_items(FEATURES, [item])


@given(st.lists(values, min_size=1, max_size=8))
def test_an_item_is_encoded_the_same_whatever_is_posted_with_it(
    items: list[dict[str, Any]],
) -> None:
    together = FeatureTable("item", FEATURES, encode_items(FEATURES, items))
    for at, item in enumerate(items):
        alone = FeatureTable("item", FEATURES, encode_items(FEATURES, [item]))
        expected = alone.gather(np.array([0]))
        for name, array in together.gather(np.array([at])).items():
            np.testing.assert_array_equal(array, expected[name])
