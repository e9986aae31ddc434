"""From an export and a data set to a bundle that serves."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data.contract import artifact
from ray_jobs.index import index
from serve.bundle import Bundle
from serve.feed import Feed
from serve.messages import Context, Item, RecommendRequest
from serve.query import hash_interests
from serve.settings import ServeSettings
from serve.sources import Interests
from serve.stages import Trace
from tests.tiny_export import job_of, publish_export
from tests.tiny_root import BOARDS, NEWEST, TinyLog, board_edges, publish_dataset, timelines

NONE = np.zeros(0, np.int64)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    root, log = tmp_path_factory.mktemp("root"), TinyLog()
    dataset = publish_dataset(root, log)
    export = publish_export(root, log, dataset)
    job = job_of(root)
    return SimpleNamespace(root=root, log=log, job=job, export=export, bundle=index(job, export))


def test_the_bundle_serves(made: SimpleNamespace) -> None:
    settings = ServeSettings(candidates=100, budget_ms=60_000.0, deadlines_ms={"default": 30_000.0})
    feed = Feed(made.root, settings, background=False)
    answer = feed.recommend(RecommendRequest(user_id=3))
    feed.close()
    assert answer.fallback is False
    assert len(answer.items) == 10
    models = {"two_tower": "t1", "ranker": "r1", "utility": settings.utility.version}
    assert answer.versions == {"bundle": made.bundle.version, **models}


def test_histories_are_the_timelines_in_row_order(made: SimpleNamespace) -> None:
    bundle = Bundle.open(made.bundle.path)
    expected = {row["user"]: row for row in timelines(made.log).to_pylist()}
    assert bundle.histories.lengths.sum() == made.log.lengths.sum()
    for row in range(bundle.user_ids.rows):
        start, end = bundle.histories.offsets[row : row + 2]
        if row not in expected:
            assert start == end
            continue
        for name in ("item", "action", "surface", "timestamp"):
            assert getattr(bundle.histories, name)[start:end].tolist() == expected[row][name]


def test_every_item_has_the_vector_of_the_tower_and_no_other_row_has_one(
    made: SimpleNamespace,
) -> None:
    bundle = Bundle.open(made.bundle.path)
    first = bundle.item_ids.first_row
    norms = np.linalg.norm(bundle.item_embeddings, axis=1)
    assert not norms[:first].any()
    np.testing.assert_allclose(norms[first:], 1.0, atol=1e-5)
    assert set(bundle.live_items.tolist()) <= set(range(first, bundle.item_ids.rows))
    assert bundle.index.size == len(bundle.live_items)


def test_popularity_fades_and_counts_positive_actions_alone(made: SimpleNamespace) -> None:
    popular = Bundle.open(made.bundle.path).popular.tolist()
    assert popular[:2] == [30, 20]
    assert popular.index(40) > 2


def test_the_newest_item_comes_first(made: SimpleNamespace) -> None:
    bundle = Bundle.open(made.bundle.path)
    assert bundle.fresh[0] == bundle.item_ids.first_row + NEWEST


def test_medoids_are_items_that_the_user_liked(made: SimpleNamespace) -> None:
    bundle = Bundle.open(made.bundle.path)
    assert bundle.medoids is not None
    liked = np.isin(bundle.histories.action, bundle.vocabulary.codes("positive"))
    for row in range(bundle.user_ids.rows):
        start, end = bundle.histories.offsets[row : row + 2]
        past = set(bundle.histories.item[start:end][liked[start:end]].tolist())
        medoids, importance = bundle.medoids.of(row)
        assert len(medoids) == min(len(past), 5) == len(set(medoids.tolist()))
        assert set(medoids.tolist()) <= past
        assert (np.diff(importance) <= 0).all()


def test_items_like_the_medoids_are_a_source(made: SimpleNamespace) -> None:
    settings = ServeSettings(candidates=100, budget_ms=60_000.0, deadlines_ms={"default": 30_000.0})
    feed = Feed(made.root, settings, background=False)
    answer = feed.recommend(RecommendRequest(user_id=3, num_items=100, debug=True))
    feed.close()
    assert answer.debug is not None
    assert answer.debug["kept"]["pinnersage"] >= 5


def test_under_an_interest_the_nearest_items_that_carry_it_are_found(made: SimpleNamespace) -> None:
    settings = ServeSettings(candidates=100, budget_ms=60_000.0, deadlines_ms={"default": 30_000.0})
    feed = Feed(made.root, settings, background=False)
    feed.post_items(
        [
            Item(item_id=5000, content=[0.5] * 8, interests=["topic3"]),
            Item(item_id=5001, content=[0.5] * 8, interests=["topic4"]),
        ]
    )
    funnel = feed._switch.funnel
    catalogue, bundle = funnel.catalogue, funnel.bundle
    query = funnel.query(RecommendRequest(user_id=3), Trace())
    interests = hash_interests(["topic3"])
    rows, scores = catalogue.under(interests, query.user_vector, 500, query.exclude, 1.0)
    carry = [
        i for i, held in enumerate(made.log.item_table["interests"].to_pylist()) if "topic3" in held
    ]
    wanted = catalogue.rows_of([*made.log.item_table["item_id"].take(carry).to_pylist(), 5000])
    wanted = wanted[catalogue.may_serve(wanted)]
    assert sorted(rows.tolist()) == np.setdiff1d(wanted, query.exclude).tolist()
    expected = catalogue.embeddings(rows) @ query.user_vector + catalogue.priors(rows)
    assert scores == pytest.approx(expected, abs=1e-5)
    both = catalogue.under(hash_interests(["topic3", "topic4"]), query.user_vector, 9, NONE, 1.0)
    assert len(both[0]) == 0
    context = Context(interests=["topic3", "topic1"])
    asked = funnel.query(RecommendRequest(user_id=3, context=context), Trace())
    found = Interests(bundle, catalogue)(asked, 20).rows
    feed.close()
    assert set(found[:2].tolist()) >= {int(rows[0])}
    assert len(set(found.tolist())) == 20


def test_the_graph_of_an_export_is_that_of_its_bundle(tmp_path: Path) -> None:
    log = TinyLog()
    export = publish_export(tmp_path, log, publish_dataset(tmp_path, log), graph=True)
    made = index(job_of(tmp_path), export)
    graph, edges = Bundle.open(made.path).graph, board_edges(log)
    assert graph is not None
    assert np.repeat(np.arange(BOARDS), graph.boards.degrees).tolist() == sorted(
        edges["board"].to_pylist()
    )
    assert sorted(graph.boards.indices.tolist()) == edges["item"].to_pylist()
    name = "graph/items.indices.npy"
    assert (made.path / name).samefile(export.path / name)
    assert name in made.manifest.checksums


def test_programs_are_linked_and_those_of_torch_left_out(made: SimpleNamespace) -> None:
    programs = made.bundle.path / "programs"
    source = made.export.path / "programs" / "user_tower.onnx"
    assert (programs / "user_tower.onnx").samefile(source)
    assert not (programs / "item_tower.pt2").exists()


def test_an_unchanged_bundle_is_found_again(made: SimpleNamespace) -> None:
    before = (made.bundle.path / "manifest.json").stat().st_mtime_ns
    assert index(made.job, made.export).version == made.bundle.version
    assert (made.bundle.path / "manifest.json").stat().st_mtime_ns == before


def test_other_settings_make_another_bundle_and_the_pointer_may_stay(made: SimpleNamespace) -> None:
    job = job_of(made.root, kind="ivf", head=50)
    other = index(job, made.export, move_pointer=False)
    assert other.version != made.bundle.version
    assert artifact.current(made.root, "bundles").version == made.bundle.version
    bundle = Bundle.open(other.path)
    assert len(bundle.popular) == 50
    assert other.manifest.metrics["recall@100"] >= 0.95
