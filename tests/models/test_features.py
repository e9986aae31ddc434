"""Declared columns become vectors with their statistics inside."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.contract.schema import Feature
from models.features import (
    CATEGORY_DIM,
    FeatureEncoder,
    RowDropout,
    is_missing,
    mean_pool,
    segments,
)

AGE = Feature(name="age", kind="numeric", mean=2.0, std=4.0, low=0.0, high=10.0)
PRICE = Feature(name="price", kind="numeric", mean=1.0, std=2.0, low=1.0, high=1e4, log=True)
FORMAT = Feature(name="format", kind="categorical", cardinality=5)
TAGS = Feature(name="tags", kind="multi", cardinality=30)
CONTENT = Feature(name="content", kind="vector", dim=6)
LISTS = st.lists(st.integers(0, 4), min_size=1, max_size=8)


def encode(features: list[Feature], inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    torch.manual_seed(0)
    encoder = FeatureEncoder(features, "item")
    encoded = torch.cat(encoder({f"item.{n}": column for n, column in inputs.items()}), 1)
    assert encoded.shape[1] == encoder.width
    return encoded


def test_numbers_are_clipped_logged_and_scaled() -> None:
    inputs = {
        "age": torch.tensor([4.0, 99.0, -7.0, math.nan]),
        "price": torch.tensor([1.0, math.e, 1e9, math.nan]),
    }
    age, price, no_age, no_price = encode([AGE, PRICE], inputs).T.tolist()
    assert age == pytest.approx([0.5, 2.0, -0.5, 0.0])
    top = (math.log(1e4) - 1) / 2
    assert price == pytest.approx([-0.5, (math.log(math.e) - 1) / 2, top, 0.0], abs=1e-5)
    assert no_age == no_price == [0, 0, 0, 1]


def test_a_column_without_spread_gives_zeros() -> None:
    constant = Feature(name="age", kind="numeric", mean=3.0, std=0.0, low=3.0, high=3.0)
    assert encode([constant], {"age": torch.tensor([3.0, 8.0])})[:, 0].tolist() == [0, 0]


def test_a_hash_has_one_row_and_zero_is_missing() -> None:
    rows = encode([FORMAT], {"format": torch.tensor([0, 2**62 + 1, 7, 2**62 + 1])})
    assert not rows[0].any()
    assert torch.equal(rows[1], rows[3])
    assert not torch.equal(rows[1], rows[2])


def test_lists_are_means_of_their_values() -> None:
    inputs = {
        "tags.values": torch.tensor([11, 12, 13, 11]),
        "tags.lengths": torch.tensor([2, 0, 1, 1]),
    }
    both, none, thirteen, eleven = encode([TAGS], inputs)
    assert not none.any()
    twelve = 2 * both - eleven
    inputs = {"tags.values": torch.tensor([12]), "tags.lengths": torch.tensor([1])}
    assert torch.allclose(encode([TAGS], inputs)[0], twelve, atol=1e-6)
    assert not torch.allclose(thirteen, eleven)


def test_a_zero_vector_is_missing() -> None:
    rows = encode([CONTENT], {"content": torch.stack([torch.zeros(6), torch.arange(6.0)])})
    assert rows[0, -1] == 1
    assert not rows[0, :-1].any()
    assert rows[1, -1] == 0
    assert rows[1, :-1].any()


def test_without_columns_there_are_no_parts() -> None:
    encoder = FeatureEncoder([], "user")
    assert encoder({}) == []
    assert encoder.width == 0


def test_a_prefix_reads_the_columns_of_another_list() -> None:
    encoder = FeatureEncoder([FORMAT], "item")
    column = torch.tensor([5, 6])
    plain = encoder({"item.format": column})[0]
    assert torch.equal(encoder({"history.item.format": column}, "history.")[0], plain)


@given(lengths=LISTS)
def test_segments_say_whose_each_value_is(lengths: list[int]) -> None:
    owners = [owner for owner, length in enumerate(lengths) for _ in range(length)]
    assert segments(torch.tensor(lengths), len(owners)).tolist() == owners


@given(lengths=LISTS, seed=st.integers(0, 99))
def test_mean_pool_is_the_mean_of_each_list(lengths: list[int], seed: int) -> None:
    values = torch.randn(sum(lengths), 3, generator=torch.Generator().manual_seed(seed))
    pooled = mean_pool(values, torch.tensor(lengths))
    for row, part in zip(pooled, values.split(lengths), strict=True):
        expected = part.mean(0) if len(part) else torch.zeros(3)
        assert torch.allclose(row, expected, atol=1e-6)


def test_only_a_row_of_nothing_but_zeros_is_missing() -> None:
    rows = torch.tensor([[0.0, 0.0], [0.0, 1e-9], [1.0, 0.0]])
    assert is_missing(rows).tolist() == [[1], [0], [0]]


def test_the_example_of_an_encoder_is_what_it_reads() -> None:
    features = [AGE, PRICE, FORMAT, TAGS, CONTENT]
    encoder = FeatureEncoder(features, "item")
    example = encoder.example(4, "history.")
    assert sum(part.shape[1] for part in encoder(example, "history.")) == encoder.width
    assert encoder.dynamic("events", "history.").keys() == example.keys()
    assert encoder.width > CATEGORY_DIM * 2


def test_row_dropout_zeroes_whole_rows_in_training_alone() -> None:
    drop, rows = RowDropout(0.5), torch.ones(400, 3)
    assert torch.equal(drop.eval()(rows), rows)
    dropped = drop.train()(rows)
    assert set(dropped.sum(1).tolist()) == {0, 3}
    assert 120 < int((dropped.sum(1) == 0).sum()) < 280
