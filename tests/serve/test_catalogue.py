from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from data.contract.encode import encode_trends
from data.contract.schema import DAY_MS, GRAPH_COLUMN, TREND_DAYS
from data.contract.settings import UserError
from serve.bundle import Bundle
from serve.catalogue import Catalogue
from serve.lmdb_store import LmdbStore
from serve.posted_items import check_columns
from serve.sources import Fresh
from tests.tiny_root import CALENDAR, TinyLog, graph_vectors, write_bundle

NONE = np.zeros(0, np.int64)


@pytest.fixture
def catalogue(root: Path) -> Catalogue:
    return Catalogue(Bundle.open(root / "bundles" / "v1"))


def post(catalogue: Catalogue, folder: Path, *items: dict[str, Any]) -> int:
    with LmdbStore(folder) as store:
        store.put_items(items)
        return catalogue.take_posted(store)


def test_an_item_that_was_posted_to_another_bundle_and_does_not_fit_is_left_out(
    catalogue: Catalogue, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    items = [
        {"item_id": 5000, "content": [2**63] * 8},
        {"item_id": 5001, "content": [0.5] * 3},
        {"item_id": 5002, "content": [0.5] * 8, "a column of before": 3},
    ]
    assert post(catalogue, tmp_path, *items) == 1
    assert catalogue.is_known(catalogue.rows_of([5000, 5001, 5002])).tolist() == [
        False,
        False,
        True,
    ]
    assert "2 posted items do not fit" in caplog.text


def test_an_item_that_cannot_be_encoded_keeps_no_other_out(
    catalogue: Catalogue, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = [{"item_id": 5000 + at, "content": [0.1 * at] * 8} for at in range(5)]
    assert post(catalogue, tmp_path, *good[:2], {"item_id": "no number"}, *good[2:]) == 5
    rows = catalogue.rows_of([5000, 5001, 5002, 5003, 5004])
    assert rows.tolist() == [catalogue.first_posted_row + at for at in range(5)]
    assert caplog.text.count("'no number' is left out") == 1
    assert post(catalogue, tmp_path) == 0


def test_items_are_taken_in_again_where_their_tower_failed(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> Any:
        raise RuntimeError("broken by the test")

    with monkeypatch.context() as patched:
        patched.setattr("serve.catalogue.embed_items", failing)
        with pytest.raises(RuntimeError):
            post(catalogue, tmp_path, {"item_id": 5000})
    assert post(catalogue, tmp_path) == 1


def test_features_of_mixed_rows_are_those_of_each_row_alone(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    rows = np.array([7, 205, 9, 206, 205, 3])
    items = [
        {"item_id": 5000, "content": [0.5] * 8, "interests": ["a", "b"], "quality": 2.0},
        {"item_id": 5001, "creator_id": 12},
    ]
    assert post(catalogue, tmp_path, *items) == 2
    together = catalogue.features(rows)
    for at, row in enumerate(rows):
        alone = catalogue.features(np.array([row]))
        for name in ("item.content", "item.creator_id", "item.quality", "item.interests.lengths"):
            np.testing.assert_array_equal(together[name][at : at + 1], alone[name])
    ends = np.cumsum(together["item.interests.lengths"])
    values = np.split(together["item.interests.values"], ends[:-1])
    for row, got in zip(rows, values, strict=True):
        expected = catalogue.features(np.array([row]))["item.interests.values"]
        np.testing.assert_array_equal(got, expected)
    assert together["item.interests.lengths"].tolist()[1] == 2


def test_a_posted_item_has_the_vector_that_the_tower_gives(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    content = [0.6, 0.8] + [0.0] * 6
    post(catalogue, tmp_path, {"item_id": 5000, "content": content})
    row = catalogue.rows_of([5000])
    assert row.tolist() == [catalogue.first_posted_row]
    np.testing.assert_allclose(catalogue.embeddings(row)[0], content, atol=1e-3)
    assert catalogue.external(row) == [5000]
    assert catalogue.is_known(row).all()


def test_posting_an_item_again_keeps_its_row_and_takes_its_columns(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    items = [{"item_id": 5000, "quality": 1.0}, {"item_id": 5001}]
    post(catalogue, tmp_path, *items)
    first = catalogue.rows_of([5000, 5001])
    post(catalogue, tmp_path, {"item_id": 5002}, {"item_id": 5000, "quality": 9.0})
    assert catalogue.rows_of([5000, 5001]).tolist() == first.tolist()
    assert catalogue.features(first)["item.quality"].tolist()[0] == 9.0
    assert catalogue.posted_rows.tolist() == [207, 206, 205]


def with_ages(bundle: Bundle, days: Any) -> Bundle:
    """The bundle over a log in which its items were created so many days before its end, [rows]."""
    end_ms = CALENDAR.start_ms(CALENDAR.num_days + 1)
    created_at = end_ms - (np.broadcast_to(days, bundle.item_ids.rows) * DAY_MS).astype(np.int64)
    counts = np.zeros((len(created_at), len(TREND_DAYS)), np.int64)
    return replace(bundle, trends=encode_trends(counts, created_at, end_ms))


def test_posted_items_are_as_old_as_they_say(root: Path, tmp_path: Path) -> None:
    catalogue = Catalogue(with_ages(Bundle.open(root / "bundles" / "v1"), 5))
    end_ms = CALENDAR.start_ms(CALENDAR.num_days + 1)
    times = {5000: end_ms - 30 * DAY_MS, 5001: end_ms + DAY_MS, 5002: end_ms - 2 * DAY_MS}
    items = [
        {"item_id": item, "created_at": at, "content": [0.1] * 8} for item, at in times.items()
    ]
    post(catalogue, tmp_path, *items[:2])
    post(catalogue, tmp_path, *items[2:], {"item_id": 5000, "created_at": end_ms - 7 * DAY_MS})
    rows = np.append(catalogue.rows_of([*times]), 50)
    record = catalogue.record(rows)
    assert (record["trend.age_ms"] / DAY_MS).tolist() == [7, 0, 2, 5]
    assert not record["trend.counts"].any()
    assert catalogue.external(catalogue.posted_rows) == [5001, 5002, 5000]


def test_the_newest_are_posted_items_and_those_of_the_bundle_by_their_age(
    root: Path, tmp_path: Path
) -> None:
    """A catalogue of old items that is posted does not stand before what is new."""
    plain = Bundle.open(root / "bundles" / "v1")
    days = np.zeros(plain.item_ids.rows)
    days[np.asarray(plain.fresh)] = np.arange(len(plain.fresh))
    bundle = with_ages(plain, days)
    catalogue, end_ms = Catalogue(bundle), CALENDAR.start_ms(CALENDAR.num_days + 1)
    for item, age in ((5000, 0), (5001, 3), (5002, 4000)):
        post(catalogue, tmp_path, {"item_id": item, "created_at": end_ms - age * DAY_MS})
    query: Any = SimpleNamespace(user=SimpleNamespace(is_new=True), surface="home", exclude=NONE)
    found = catalogue.external(Fresh(bundle, catalogue)(query, 1000).rows)
    known = catalogue.external(np.asarray(bundle.fresh))
    assert found == [5000, *known[:3], 5001, *known[3:], 5002]


def test_nearest_merges_posted_items_in_order(catalogue: Catalogue, tmp_path: Path) -> None:
    none = np.zeros(0, np.int64)
    query = catalogue.embeddings(np.array([50]))[0]
    before, _ = catalogue.nearest(query, 5, none)
    assert before[0] == 50
    post(catalogue, tmp_path, {"item_id": 5000, "content": query.tolist()})
    rows, scores = catalogue.nearest(query, 5, none)
    assert set(rows[:2]) == {50, 205}
    assert rows[2:].tolist() == before[1:4].tolist()
    assert (np.diff(scores) <= 0).all()
    without, _ = catalogue.nearest(query, 5, np.array([50, 205]))
    assert without.tolist()[:4] == before[1:].tolist()


def test_priors_count_for_users_and_not_for_likeness(catalogue: Catalogue, tmp_path: Path) -> None:
    post(catalogue, tmp_path, {"item_id": 5000, "content": [1.0] + [0.0] * 7})
    rows = np.arange(5, catalogue.first_posted_row + 1)
    query, none = catalogue.embeddings(np.array([50]))[0], np.zeros(0, np.int64)
    likeness = catalogue.embeddings(rows) @ query
    for weight, expected in ((0.0, likeness), (1.0, likeness + catalogue.priors(rows))):
        best, scores = catalogue.nearest(query, 20, none, weight)
        assert best.tolist() == rows[np.argsort(-expected, kind="stable")[:20]].tolist()
        np.testing.assert_allclose(scores, np.sort(expected)[::-1][:20], atol=1e-5)


def test_unknown_items_are_buckets_with_zero_vectors(catalogue: Catalogue) -> None:
    row = catalogue.rows_of([123_456])
    assert not catalogue.is_known(row).any()
    assert not catalogue.embeddings(row).any()


@pytest.fixture(scope="module")
def graph_catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """Items that have graph embeddings, posted ones too."""
    root = write_bundle(tmp_path_factory.mktemp("root"), "v1", TinyLog(), graph=True)
    catalogue = Catalogue(Bundle.open(root / "bundles" / "v1"))
    post(catalogue, root / "posted", {"item_id": 5000, "content": [1.0] + [0.0] * 7})
    return catalogue


def test_items_are_alike_by_their_graph_embeddings(graph_catalogue: Catalogue) -> None:
    row, vectors = np.array([50]), graph_vectors(TinyLog())
    rows, scores = graph_catalogue.similar(row, 6, NONE)
    likeness = vectors @ vectors[50]
    likeness[50] = -1
    old = rows[rows < graph_catalogue.first_posted_row]
    assert old.tolist() == np.argsort(-likeness, kind="stable")[: len(old)].tolist()
    assert (np.diff(scores) <= 0).all()
    assert 50 not in rows


def test_a_posted_item_is_embedded_by_its_columns_and_found(graph_catalogue: Catalogue) -> None:
    row = graph_catalogue.rows_of([5000])
    found = graph_catalogue.features(row)[f"item.{GRAPH_COLUMN}"][0]
    assert found.tolist() == [0.0, 1.0] + [0.0] * 6
    likeness = graph_vectors(TinyLog()) @ found
    rows, scores = graph_catalogue.similar(row, 5, NONE)
    assert rows.tolist() == np.argsort(-likeness, kind="stable")[:5].tolist()
    others = graph_catalogue.similar(rows[:1], 200, NONE)[0]
    assert row[0] in others
    assert scores[0] == pytest.approx(likeness.max(), abs=2e-3)


def test_without_graph_embeddings_items_are_alike_by_the_tower(catalogue: Catalogue) -> None:
    row = np.array([50])
    similar = catalogue.similar(row, 5, NONE)
    nearest = catalogue.nearest(catalogue.embeddings(row)[0], 5, row)
    assert similar[0].tolist() == nearest[0].tolist()


def test_of_an_item_that_the_graph_does_not_know_the_tower_tells_what_is_alike(
    tmp_path: Path,
) -> None:
    """As of all that are posted where no encoder embeds what has no edge (LightGCN)."""
    root = write_bundle(tmp_path / "root", "v1", TinyLog(), graph=True)
    bundle = Bundle.open(root / "bundles" / "v1")
    programs = {n: program for n, program in bundle.programs.items() if n != "graph_item"}
    catalogue = Catalogue(replace(bundle, programs=programs))
    post(catalogue, tmp_path / "posted", {"item_id": 5000, "content": [1.0] + [0.0] * 7})
    row = catalogue.rows_of([5000])
    expected, scores = catalogue.nearest(catalogue.embeddings(row)[0], 5, row)
    found = catalogue.similar_to_each(np.append(row, 50), [5, 5], NONE)
    assert found[0][0].tolist() == expected.tolist()
    assert found[0][1].tolist() == scores.tolist()
    by_graph = np.argsort(-(graph_vectors(TinyLog()) @ graph_vectors(TinyLog())[50]), kind="stable")
    assert found[1][0].tolist() == by_graph[1:6].tolist()


def test_nobody_posts_a_graph_embedding(graph_catalogue: Catalogue) -> None:
    features = graph_catalogue._bundle.items.features
    with pytest.raises(UserError, match="no column 'graph_embedding'"):
        check_columns(features, {"item_id": 1, GRAPH_COLUMN: [0.0] * 8})
