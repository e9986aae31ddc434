from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from data.contract.encode import FeatureTable
from data.contract.schema import Feature
from serve.posted_tallies import PostedTallies

CREATOR = Feature(name="creator", kind="categorical", cardinality=3)
STORED = np.array([0, 11, 13, 11])


def table(values: list[int]) -> FeatureTable:
    column = pa.array(values, pa.int64())
    return FeatureTable.of("item", (CREATOR,), pa.table({"creator": column}))


@pytest.fixture
def posted() -> PostedTallies:
    """Four items of two creators and none; each group's counts are told apart by hundreds."""
    tallies = np.zeros((4, 3, 2), np.float32)
    tallies[:, 0] = 7
    tallies[:, 1] = 100 + np.arange(4)[:, None]
    tallies[:, 2] = 200 + STORED[:, None]
    bundle = SimpleNamespace(tallies=tallies, items=table(STORED.tolist()))
    return PostedTallies(bundle)


def test_a_posted_item_has_what_its_creator_has_and_nothing_of_its_own(
    posted: PostedTallies,
) -> None:
    found = posted(table([13, 11]))
    assert found is not None
    assert found[:, 0].tolist() == [[7, 7]] * 2
    assert not found[:, 1].any()
    assert found[:, 2, 0].tolist() == [213, 211]


def test_who_has_posted_nothing_before_has_no_counts(posted: PostedTallies) -> None:
    found = posted(table([12, 99]))
    assert found is not None
    assert not found[:, 2].any()


def test_without_a_ranker_that_reads_them_there_are_none() -> None:
    bundle = SimpleNamespace(tallies=None, items=table([11]))
    assert PostedTallies(bundle)(table([11])) is None
