import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract.settings import UserError
from data.expressions import columns_of, evaluate, numeric_columns, parse

TABLE = pa.table(
    {
        "rating": [1, 2, 3, 4, 5, None],
        "text": ["1", " 4.5 ", "x", None, "5", "4"],
        "source": ["app", "web", "app", "import", "web", "app"],
        "paid": [True, False, None, True, False, True],
    }
)


def rows(text: str) -> list[int]:
    return np.flatnonzero(evaluate(parse(text), TABLE)).tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rating>=4", [3, 4]),
        ("4 <= rating", [3, 4]),
        ("rating = 3", [2]),
        ("rating != 3", [0, 1, 3, 4]),
        ("source == 'app' and rating < 3", [0]),
        ('source == "web" or rating == 4', [1, 3, 4]),
        ("not (source == 'app' or rating > 4)", [1, 3]),
        ("rating > 1 and rating < 5 or source == 'web'", [1, 2, 3, 4]),
        ("paid == true", [0, 3, 5]),
        ("text >= 4", [1, 4, 5]),
    ],
)
def test_an_expression_selects_the_rows_that_fulfil_it(text: str, expected: list[int]) -> None:
    assert rows(text) == expected


@given(st.integers(-6, 6), st.integers(-6, 6))
def test_and_binds_tighter_than_or_and_not_tighter_than_and(low: int, high: int) -> None:
    table = pa.table({"x": list(range(-6, 7))})
    x = np.arange(-6, 7)
    found = evaluate(parse(f"not x < {low} and x > {high} or x == 0"), table)
    assert (found == ((~(x < low) & (x > high)) | (x == 0))).all()


@pytest.mark.parametrize(
    "text",
    ["", "rating", "rating >=", "rating >= 4 and", "(rating > 1", "rating > 1)", "a ; b",
     "f(x) > 1", "4", "and > 3", "rating > 1 rating < 2", "__import__('os')"],
)  # fmt: skip
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        parse(text)


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())]
)
def test_a_number_is_compared_however_it_is_written(kind: pa.DataType) -> None:
    column = pa.array(["5e0", "4.", ".5", "+6", " 7 ", "x", None, "-9"]).cast(kind)
    found = evaluate(parse("rating >= 4"), pa.table({"rating": column}))
    assert found.tolist() == [True, True, False, True, True, False, False, False]


def test_a_comparison_of_types_that_do_not_compare_is_a_user_error() -> None:
    with pytest.raises(UserError, match="compares"):
        evaluate(parse("rating == 'four'"), TABLE)


def test_columns_that_are_compared_with_numbers_are_known() -> None:
    text = "not (a > 1 or 2 == b) and c == 'a' and d == true and e < f"
    assert numeric_columns(parse(text)) == {"a", "b"}


def test_columns_that_an_expression_reads_are_known() -> None:
    assert columns_of(parse("not (a > 1) and b.c == 'a'")) == {"a", "b.c"}
