"""PinnerSage's source: items like those that stand for a user's past, each in its share."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from serve.bundle import Bundle
from serve.catalogue import Catalogue
from serve.medoids import Medoids
from serve.query import RELATED
from serve.sources import PinnerSage

NONE = np.zeros(0, np.int64)
USER = 9


@pytest.fixture
def bundle(root: Path) -> Bundle:
    """One user has two clusters, the first three times as important; nobody else has any."""
    plain = Bundle.open(root / "bundles" / "v1")
    items = np.zeros((plain.user_ids.rows, 3), np.int32)
    importance = np.zeros(items.shape, np.float32)
    items[USER, :2] = plain.item_ids.first_row + np.array([20, 70])
    importance[USER, :2] = 3, 1
    return replace(plain, medoids=Medoids(items, importance))


def query(row: int = USER, surface: str = "home", exclude: Any = NONE) -> Any:
    user = SimpleNamespace(row=row, admitted=True)
    return SimpleNamespace(user=user, surface=surface, exclude=exclude)


def test_each_cluster_has_its_share_of_the_list(bundle: Bundle) -> None:
    catalogue = Catalogue(bundle)
    rows = PinnerSage(bundle, catalogue)(query(), 40).rows
    medoids = bundle.item_ids.first_row + np.array([20, 70])
    near = [catalogue.similar(medoid, 40, NONE)[0].tolist() for medoid in medoids[:, None]]
    first, second = near
    assert len(set(rows.tolist())) == len(rows) == 40
    assert rows[:2].tolist() == [first[0], second[0]]
    assert sum(row in first[:30] for row in rows) >= 30
    assert set(rows.tolist()) - set(first[:30]) <= set(second)


def test_what_is_excluded_does_not_take_a_place(bundle: Bundle) -> None:
    catalogue = Catalogue(bundle)
    source = PinnerSage(bundle, catalogue)
    exclude = np.sort(source(query(), 30).rows)
    rows = source(query(exclude=exclude), 30).rows
    assert len(rows) == 30
    assert not set(rows.tolist()) & set(exclude.tolist())


def test_users_without_clusters_are_left_to_the_others(bundle: Bundle) -> None:
    source = PinnerSage(bundle, Catalogue(bundle))
    assert source.applies(query())
    assert not source.applies(query(row=USER + 1))
    assert not source.applies(query(row=len(bundle.medoids.items) + 5))  # type: ignore[union-attr]
    assert not source.applies(query(surface=RELATED))
    without = replace(bundle, medoids=None)
    assert not PinnerSage(without, Catalogue(without)).applies(query())
