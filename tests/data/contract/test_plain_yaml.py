"""What is written is what is meant, in settings files and in words."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data.contract.plain_yaml import dumped, loaded

KEYS = st.text(max_size=8)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.sampled_from(["on", "no", "08", "010", "0o17", "1:30", "2026-11-30", "1e3", "~", "<<", "="]),
)
TREES = st.recursive(
    SCALARS, lambda below: st.lists(below, max_size=3) | st.dictionaries(KEYS, below, max_size=3)
)


@given(TREES)
def test_what_is_written_is_read_back_by_us_and_by_readers_of_the_version_before(tree: Any) -> None:
    text = dumped({"tree": tree})
    assert loaded(text) == yaml.safe_load(text) == {"tree": tree}


@pytest.mark.parametrize(
    "text", ["on", "off", "no", "Yes", "1:30", "2026-11-30", "2026-13-45", "0x_"]
)
def test_words_of_yaml_1_1_are_text(text: str) -> None:
    assert loaded(text) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("010", 10), ("08", 8), ("-7", -7), ("0x10", 16), ("0o17", 15)),
        *(("1e-3", 0.001), (".5", 0.5), ("1.", 1.0), ("-.inf", float("-inf"))),
        *(("true", True), ("False", False), ("null", None), ("~", None), ("'08'", "08")),
    ],
)
def test_numbers_truth_and_nothing_are_as_they_look(text: str, value: Any) -> None:
    found = loaded(text)
    assert found == value
    assert type(found) is type(value)


def test_a_key_that_stands_twice_is_refused_with_its_place() -> None:
    with pytest.raises(yaml.YAMLError, match=r"found ranker twice[\s\S]*line 3"):
        loaded("ranker: {layers: 2}\nseed: 1\nranker: {dropout: 0.2}\n")


def test_what_is_merged_may_be_overridden() -> None:
    text = "a: {b: &own {<<: &base {x: 1, y: 2}, x: 3}}\nc: {<<: *own, y: 4}\n"
    assert loaded(text) == {"a": {"b": {"x": 3, "y": 2}}, "c": {"x": 3, "y": 4}}


@pytest.mark.parametrize("text", ["!!int x", "9" * 5000, b"a: \xff", "a: ["])
def test_whatever_cannot_be_read_is_one_kind_of_error(text: str | bytes) -> None:
    with pytest.raises(yaml.YAMLError):
        loaded(text)
