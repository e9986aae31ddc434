"""From a blocklist and signatures to what is served, and to what the manifest says of it."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from data.contract import artifact
from data.contract.settings import UserError
from data.contract.signatures import SIGNATURE_COLUMN, Copies
from data.corpus import CorpusSettings, Standing
from data.dataset import Dataset
from data.queries import SplitLog
from data.splits import TRAIN, SplitSettings
from data.trends import Trends, days_of
from ray_jobs import index as index_job
from ray_jobs.engine.corpus import check_corpus
from ray_jobs.index import index
from serve.bundle import Bundle
from serve.catalogue import Catalogue
from serve.feed import Feed
from serve.messages import Context, Event, Item, RecommendRequest
from serve.settings import ServeSettings
from tests import tiny_root
from tests.tiny_export import job_of, publish_export
from tests.tiny_root import FIRST_ITEM, ITEMS, TinyLog, publish_dataset

BLOCKED = [1000, 1002, 1003, 1050]  # 1000 and 1001 share their image, 1002 and 1003 too
POSTED, UNKNOWN = 5000, 777_777
ALL = range(FIRST_ITEM, FIRST_ITEM + ITEMS)

OWN_SOURCE = """
import numpy as np
from serve.candidates import Found

class Everything:
    name = "everything"

    def __init__(self, bundle, catalogue):
        self.bundle, self.catalogue = bundle, catalogue

    def applies(self, query):
        return True

    def __call__(self, query, limit):
        posted = self.catalogue.rows_of([5000])
        rows = np.concatenate([posted, np.arange(self.bundle.item_ids.rows)])
        return Found(self.name, rows, -np.arange(len(rows), dtype=np.float32))
"""


def a_root(folder: Path, **export: Any) -> SimpleNamespace:
    """A root with a data set and an export of it."""
    log = TinyLog()
    dataset = publish_dataset(folder, log)
    made = publish_export(folder, log, dataset, **export)
    return SimpleNamespace(path=folder, log=log, dataset=Dataset(dataset, folder), export=made)


def blocklist(folder: Path, ids: list[int]) -> CorpusSettings:
    path = folder / "blocked.txt"
    path.write_text("".join(f"{one}\n" for one in ids))
    return CorpusSettings(blocklist=str(path))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    root = a_root(tmp_path_factory.mktemp("root"), graph=True)
    settings = blocklist(root.path, [*BLOCKED, POSTED, UNKNOWN])
    root.bundle = index(job_of(root.path, settings), root.export)
    return root


def served_by(root: Path, monkeypatch: pytest.MonkeyPatch) -> Feed:
    """A feed that asks, beside its own sources, one that names every row there is."""
    (root / "acme_everything.py").write_text(OWN_SOURCE)
    monkeypatch.syspath_prepend(str(root))
    settings = ServeSettings(
        candidates=500,
        budget_ms=60_000.0,
        deadlines_ms={"default": 30_000.0},
        sources=("acme_everything:Everything",),
        shares={"everything": 0.9},
    )
    return Feed(root, settings, background=False)


def test_the_manifest_tells_why_items_are_left_out(made: SimpleNamespace) -> None:
    told = made.bundle.manifest.details["corpus"]
    assert told == {
        "items": 200,
        "served": 193,
        "left_out": {"blocked": 4, "duplicate": 3, "below_score": 0},
        "one_of_each": "image_signature",
        "blocklist": {"ids": 6, "unknown": 2},
    }
    assert made.bundle.manifest.settings["corpus"]["half_life_days"] == 7.0
    assert made.bundle.manifest.metrics["indexed_items"] == told["served"]


def test_blocked_items_are_never_served(
    made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = served_by(made.path, monkeypatch)
    items = [Item(item_id=POSTED, content=[0.5] * 8), Item(item_id=5001, content=[0.5] * 8)]
    assert feed.post_items(items).recommendable == 1
    shown: set[Any] = set()
    for user_id in (3, 7, 999_999):
        for fields in (
            {},
            {"context": Context(interests=["topic1", "topic2"])},
            {"surface": "related", "context": Context(item_id=1000)},
        ):
            asked = RecommendRequest(user_id=user_id, num_items=200, **fields)
            shown |= {item.item_id for item in feed.recommend(asked).items}
    funnel = feed._switch.funnel
    shown |= set(funnel.catalogue.external(funnel.popular().rows))
    for item_id in (1000, 1001, POSTED, 5001):
        similar = feed.similar(item_id, 300)
        assert similar is not None
        found = {one.item_id for one in similar.items}
        assert not found & {*BLOCKED, POSTED}
        assert item_id not in found
    feed.close()
    assert not shown & {*BLOCKED, POSTED}
    assert 5001 in shown
    assert 1001 in shown


def test_one_of_each_image_is_served_and_the_other_is_still_known(made: SimpleNamespace) -> None:
    bundle = Bundle.open(made.bundle.path)
    served = set(bundle.item_ids.external(np.asarray(bundle.live_items)).to_pylist())
    for first in range(FIRST_ITEM + 4, FIRST_ITEM + 10, 2):
        assert len(served & {first, first + 1}) == 1
    assert served >= set(ALL) - set(range(FIRST_ITEM, FIRST_ITEM + 10)) - set(BLOCKED)
    assert np.linalg.norm(bundle.item_embeddings[bundle.item_ids.first_row :], axis=1).min() > 0.9
    for name in ("popular", "fresh"):
        assert set(getattr(bundle, name).tolist()) <= set(bundle.live_items.tolist())


def test_the_copy_that_is_liked_best_is_served(tmp_path: Path) -> None:
    root = a_root(tmp_path)
    first, second = root.log.item_ids.lookup(pa.array([1006, 1007]))
    for best, other in ((first, second), (second, first)):
        counts = {"day": [9, 9], "item": [best, other], "action": [1, 1], "count": [5, 3]}
        path = root.dataset.artifact.path / "item_days.parquet"
        pq.write_table(pa.table(counts), path)
        settings = CorpusSettings(half_life_days=float(best))  # another bundle
        bundle = Bundle.open(index(job_of(tmp_path, settings), root.export).path)
        assert best in bundle.live_items
        assert other not in bundle.live_items
        assert bundle.popular[0] == best


def test_who_has_seen_one_copy_is_not_shown_another(
    made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = served_by(made.path, monkeypatch)
    signatures = dict(zip(ALL, made.log.item_table[SIGNATURE_COLUMN].to_pylist(), strict=True))
    for acted_on, copies in ((1004, {1004, 1005}), (1007, {1006, 1007})):
        ask = RecommendRequest(user_id=888_000 + acted_on, num_items=200)
        before = {item.item_id for item in feed.recommend(ask).items}
        assert len(before & copies) == 1
        feed.post_events([Event(user_id=ask.user_id, item_id=acted_on, action="click")])
        assert not {item.item_id for item in feed.recommend(ask).items} & copies
    posted = Item(item_id=5002, content=[0.1] * 8, image_signature=signatures[1008])
    assert feed.post_items([posted]).recommendable == 0
    again = [Item(item_id=n, content=[0.2] * 8, image_signature=9999) for n in (5003, 5004)]
    assert feed.post_items(again).recommendable == 1
    ask = RecommendRequest(user_id=888_001, num_items=200)
    shown = {item.item_id for item in feed.recommend(ask).items}
    assert shown & {5002, 5003, 5004} == {5003}
    feed.post_events([Event(user_id=ask.user_id, item_id=5004, action="click")])
    assert 5003 not in {item.item_id for item in feed.recommend(ask).items}
    feed.close()


def test_likeness_by_graph_has_the_corpus_alone_and_the_export_keeps_its_own(
    made: SimpleNamespace,
) -> None:
    bundle = Bundle.open(made.bundle.path)
    assert bundle.similar is not None
    assert bundle.similar.size == len(bundle.live_items)
    made.export.verify()
    assert not (made.bundle.path / "similar.faiss").samefile(made.export.path / "similar.faiss")


def test_without_signatures_and_settings_every_item_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = tiny_root.VOCABULARY.item_features
    plain = tuple(f for f in features if f.name != SIGNATURE_COLUMN)
    monkeypatch.setattr(tiny_root, "VOCABULARY", replace(tiny_root.VOCABULARY, item_features=plain))
    root = a_root(tmp_path, graph=True)
    made = index(job_of(tmp_path), root.export)
    bundle = Bundle.open(made.path)
    space = bundle.item_ids
    assert bundle.live_items.tolist() == list(range(space.first_row, space.rows))
    assert (made.path / "similar.faiss").samefile(root.export.path / "similar.faiss")
    assert made.manifest.details["corpus"]["one_of_each"] == "item_id"
    assert not any(made.manifest.details["corpus"]["left_out"].values())
    assert bundle.popular[:2].tolist() == [30, 20]


def test_the_size_cuts_off_what_is_neither_liked_nor_new(tmp_path: Path) -> None:
    root = a_root(tmp_path)
    settings = CorpusSettings(size=20, fresh_share=0.05)
    made = index(job_of(tmp_path, settings), root.export)
    live = Bundle.open(made.path).live_items.tolist()
    newest = root.log.item_ids.first_row + tiny_root.NEWEST
    assert len(live) == 20
    assert {20, 30, newest} <= set(live)
    assert 40 not in live
    assert made.manifest.details["corpus"]["left_out"]["below_score"] == 175


def test_another_blocklist_is_another_bundle_and_the_same_one_is_found(tmp_path: Path) -> None:
    root = a_root(tmp_path)
    first = index(job_of(tmp_path, blocklist(tmp_path, [1050])), root.export)
    assert index(job_of(tmp_path, blocklist(tmp_path, [1050])), root.export).path == first.path
    second = index(job_of(tmp_path, blocklist(tmp_path, [1051])), root.export)
    assert second.version != first.version


def test_where_all_is_blocked_there_is_no_bundle(tmp_path: Path) -> None:
    root = a_root(tmp_path)
    with pytest.raises(UserError, match=r"no item is left .* names 200 of 200 items"):
        index(job_of(tmp_path, blocklist(tmp_path, list(ALL))), root.export)
    assert not artifact.has_current(tmp_path, "bundles")


def test_a_mistake_in_the_settings_is_told_before_any_work(tmp_path: Path) -> None:
    root = a_root(tmp_path)
    with pytest.raises(UserError, match=r"corpus\.weights\.zap names no action"):
        check_corpus(root.dataset, CorpusSettings(weights={"zap": 1.0}))
    with pytest.raises(UserError, match=r"nowhere\.txt is not there; name a file of item ids"):
        check_corpus(root.dataset, CorpusSettings(blocklist="nowhere.txt"))


def test_the_job_says_what_is_left_out_and_remembers_the_corpus(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = a_root(tmp_path)
    artifact.point(tmp_path, root.export)
    job = job_of(tmp_path, blocklist(tmp_path, [1050, UNKNOWN]))
    job.given = {"corpus": {"blocklist": "blocked.txt"}, "seed": 3}
    summary = index_job.main(job)
    assert summary["corpus"]["left_out"] == {"blocked": 1, "duplicate": 5, "below_score": 0}
    told = capsys.readouterr().err
    assert "194 of 200 items, one of each image_signature; left out: 1 blocked, 5 " in told
    assert "2 ids, 1 of them of no item here yet" in told
    remembered = yaml.safe_load((tmp_path / "settings.yaml").read_text())
    assert remembered == {"corpus": {"blocklist": "blocked.txt"}}


def write_item_days(root: SimpleNamespace) -> None:
    """Counts by day as prepare would make them from the log's events."""
    log, calendar = root.log, root.dataset.calendar
    items = log.item_ids.lookup(log.item_table["item_id"].combine_chunks())[log.items]
    events = np.stack([days_of(calendar, log.times), items, log.actions], 1)
    found, count = np.unique(events, axis=0, return_counts=True)
    columns = dict(zip(("day", "item", "action"), found.T, strict=True))
    path = root.dataset.artifact.path / "item_days.parquet"
    pq.write_table(pa.table({**columns, "count": count}), path)


@pytest.fixture
def counted(tmp_path: Path) -> SimpleNamespace:
    """A root whose counts by day are those of its events, and the rows of its items."""
    root = a_root(tmp_path)
    write_item_days(root)
    root.rows = np.arange(root.dataset.item_ids.first_row, root.dataset.item_ids.rows)
    return root


def positives(dataset: Dataset, rows: Any) -> Any:
    """Positive events of all time on each of `rows`, as models are told them."""
    trends = Trends.of_all(dataset)
    assert trends is not None
    assert dataset.calendar is not None
    tomorrow = np.array(dataset.calendar.num_days + 1)
    return trends.before(tomorrow, rows)["trend.counts"][:, -1]


def test_corpus_and_serving_know_images_by_one_key(counted: SimpleNamespace) -> None:
    dataset, rows = counted.dataset, counted.rows
    catalogue = Catalogue(Bundle.open(index(job_of(counted.path), counted.export).path))
    np.testing.assert_array_equal(catalogue.keys(rows), dataset.image_keys[rows])
    for_ever = CorpusSettings(half_life_days=1e12, weights={"hide": 0.0})
    for row, score in zip(rows, Standing.of(dataset, for_ever).scores, strict=True):
        copies = catalogue.with_copies(np.array([row]))
        assert score == pytest.approx(positives(dataset, copies).sum(), rel=1e-9)


def test_counts_are_what_training_had_and_would_drift_by_a_coarser_key(
    counted: SimpleNamespace,
) -> None:
    """Of the same items: learnt from the log's events, told by the bundle, joined otherwise."""
    dataset, rows = counted.dataset, counted.rows
    log = SplitLog(dataset, SplitSettings(kind="column", column="part"), None, 0)
    learnt = Trends.of(log, (TRAIN,))
    told = Trends.of_all(dataset)
    assert learnt is not None
    assert told is not None
    np.testing.assert_array_equal(told.totals, learnt.totals)

    counts = np.zeros(dataset.item_ids.rows)
    counts[rows] = positives(dataset, rows)
    coarser = np.where(dataset.image_keys > 0, dataset.image_keys % 50, dataset.image_keys)
    for keys, least in ((dataset.image_keys, 0.04), (coarser, 0.9)):
        joined = Copies.of(keys).summed(counts)[rows]
        assert (joined != counts[rows]).mean() >= least
        assert (joined >= counts[rows]).all()
    assert joined.mean() > 2 * counts[rows].mean()
