import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract.encode import encode_columns
from data.contract.schema import Feature
from data.contract.settings import UserError
from data.statistics import converted, detect, features, scaled, vector_column

NAMES = [f"title {i}" for i in range(300)]


@pytest.mark.parametrize(
    ("name", "column", "kind"),
    [
        ("year", pa.array([1990, 2000], pa.int16()), "numeric"),
        ("bid", pa.array([0.5, None]), "numeric"),
        ("creator_id", pa.array([1, 2]), "categorical"),
        ("image_signature", pa.array([1, 2]), "categorical"),
        ("paid", pa.array([True, False]), "categorical"),
        ("format", pa.array(["video", "image"]), "categorical"),
        ("country", pa.array(["a", "b", "c"] * 100), "categorical"),
        ("title", pa.array(NAMES), "text"),
        ("interests", pa.array([["a"], []]), "multi"),
        ("tags", pa.array([[1, 2], None]), "multi"),
        ("content", pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)), "vector"),
        ("content", pa.array([[1.0, 2.0], [3.0, 4.0]]), "vector"),
        ("scores", pa.array([[1.0, 2.0], [3.0]]), "ignore"),
        ("nothing", pa.array([None, None], pa.string()), "ignore"),
        ("nested", pa.array([{"a": 1}]), "ignore"),
    ],
)
def test_the_kind_of_a_column_follows_from_its_values(
    name: str, column: pa.Array, kind: str
) -> None:
    assert detect(column, name) == kind


def test_ids_and_times_are_no_features() -> None:
    columns = {"item_id": [1], "created_at": [2], "timestamp": [3], "year": [1990]}
    found, table = features(pa.table(columns), {})
    assert [f.name for f in found] == ["year"]
    assert table.column_names == ["year"]


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=200))
def test_numeric_statistics_are_those_of_the_clipped_and_scaled_column(values: list[float]) -> None:
    (found,), _ = features(pa.table({"x": pa.array([*values, None])}), {})
    low, high = np.percentile(values, [0.1, 99.9])
    assert (found.low, found.high) == (low, high)
    assert found.log == (high - low > 100)
    shown = scaled(np.array(values), found.low, found.high, found.log)
    assert found.mean == pytest.approx(shown.mean(), abs=1e-9)
    assert found.std == pytest.approx(shown.std() if shown.std() > 1e-6 else 1.0)


def test_cardinality_counts_distinct_values_inside_lists_too() -> None:
    table = pa.table({"a": ["x", "y", "x"], "b": [["p", "q"], ["q"], None]})
    found, _ = features(table, {})
    assert [f.cardinality for f in found] == [2, 2]


def test_overrides_change_the_kind() -> None:
    table = pa.table(
        {"year": [1990, 1991], "genres": ["a|b", "b"], "age": ["30", "41"], "z": [1, 2]}
    )
    overrides = {"year": "categorical", "genres": "multi", "age": "numeric", "z": "ignore"}
    found, columns = features(table, overrides)
    assert {f.name: f.kind for f in found} == {
        "age": "numeric", "genres": "multi", "year": "categorical"}  # fmt: skip
    assert columns["genres"].to_pylist() == [["a", "b"], ["b"]]


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (["a"], "numeric"),
        ([[1]], "categorical"),
        ([b"\xff"], "categorical"),
        ([1.0], "multi"),
        ([[{"a": 1}]], "multi"),
    ],
)
def test_a_column_that_cannot_be_of_the_kind_asked_for_is_a_user_error(column, kind) -> None:
    with pytest.raises(UserError, match="column x"):
        features(pa.table({"x": column}), {"x": kind})


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.list_(pa.float32(), 2)])
def test_vectors_that_are_not_finite_are_unknown(kind: pa.DataType) -> None:
    bad = [[None, 1.0], [float("nan"), 1.0], [1e6, 1.0], [-1e6, 1e6], None]
    table = pa.table({"v": pa.array([[1.0, 2.0], *bad, [3.0, 4.0]], kind)})
    (found,), columns = features(table, {})
    expected = [[1, 2], None, None, None, None, None, [3, 4]]
    assert columns["v"].to_pylist() == expected
    assert converted(table, (found,))["v"].to_pylist() == expected
    assert features(table.slice(1), {})[1]["v"].to_pylist() == expected[1:]


@pytest.mark.parametrize(
    ("column", "values"),
    [(pa.array([4, 5], pa.int32()), "int64"), (["a", "b"], "string"), ([True, None], "string")],
)
def test_a_category_keeps_the_type_of_its_values(column, values) -> None:
    (found,), _ = features(pa.table({"maker_id": column}), {"maker_id": "categorical"})
    assert found.values == values


def test_one_value_of_a_later_row_that_does_not_fit_leaves_the_others() -> None:
    known = (
        Feature(name="age", kind="numeric"),
        Feature(name="content", kind="vector", dim=2),
        Feature(name="maker", kind="categorical", values="int64"),
        Feature(name="tags", kind="multi", values="int64"),
    )
    table = pa.table(
        {
            "age": ["1999", "old", None],
            "content": [[1, 2], [3], None],
            "maker": ["4", "x", None],
            "tags": [["1", "a"], [], None],
        }
    )
    found = converted(table, known)
    assert found["age"].to_pylist() == [1999, None, None]
    assert found["content"].to_pylist() == [[1, 2], None, None]
    own = pa.table({"maker": [4, None, None], "tags": [[1, None], [], None]})
    expected = encode_columns(own, known[2:])
    encoded = encode_columns(found, known[2:])
    assert {n: c.to_pylist() for n, c in encoded.items()} == {
        n: c.to_pylist() for n, c in expected.items()
    }


def test_later_rows_are_converted_to_the_known_features_and_misfits_left_out() -> None:
    known = (
        Feature(name="age", kind="numeric"),
        Feature(name="content", kind="vector", dim=2),
        Feature(name="format", kind="categorical"),
    )
    table = pa.table({"age": [[1]], "content": ["x"], "format": ["video"], "new": [1]})
    assert converted(table, known).to_pydict() == {"format": ["video"]}


def test_the_one_vector_column_of_a_table_is_found() -> None:
    assert vector_column(pa.table({"a": [1], "e": [[0.1, 0.2]]}), "f") == "e"
    with pytest.raises(UserError, match="found none"):
        vector_column(pa.table({"a": [1]}), "f")
