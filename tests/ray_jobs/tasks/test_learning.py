"""Through prepare, stream and loop, a log's planted pattern is learnt, whatever orders the log."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from data.contract.schema import DAY_MS, Vocabulary
from data.dataset import Dataset
from data.sources import locate
from models.towers import UserTower
from models.two_tower import TwoTower, TwoTowerSettings
from ray_jobs.embed import embed, open_graph_model
from ray_jobs.engine.job import start
from ray_jobs.prepare import prepare
from ray_jobs.sample import Cutoff
from ray_jobs.train import Model, train

USERS, ITEMS, EVENTS = 240, 48, 12


class Stranger(UserTower):
    """Knows a user by their history alone."""

    def states(self, inputs: Mapping[str, Tensor]) -> Tensor:
        rows = torch.zeros_like(inputs["user_id.rows"])
        return super().states({**inputs, "user_id.rows": rows})


class Strangers(TwoTower):
    """Two towers without rows of users: only what was read can tell what comes next."""

    def __init__(self, settings: TwoTowerSettings, vocabulary: Vocabulary) -> None:
        super().__init__(settings, vocabulary)
        self.user_tower = Stranger(settings, vocabulary)


WORDS = (
    "source.kind=table",
    "split.refit=false",
    "two_tower.kind=tests.ray_jobs.tasks.test_learning:Strangers",
    "two_tower.dim=32",
    "two_tower.id_dim=32",
    "two_tower.id_dropout=0",
    "two_tower.sequence.dropout=0",
    "user.dim=32",
    "user.id_dim=32",
    "user.sequence.dropout=0",
    "train.max_steps=150",
    "train.validate_every=50",
)


def walks() -> tuple[np.ndarray, np.ndarray]:
    """Users who walk a cycle of items from anywhere: whoever has seen one knows the next."""
    starts = np.random.default_rng(0).integers(0, ITEMS, USERS)
    places = (starts[:, None] + np.arange(EVENTS)) % ITEMS
    cycle = np.random.default_rng(1).permutation(ITEMS)
    return np.repeat(np.arange(USERS), EVENTS), cycle[places].ravel()


def tastes() -> tuple[np.ndarray, np.ndarray]:
    """Users who like a third of the items, in no order."""
    rng = np.random.default_rng(0)
    group = ITEMS // 3
    items = [rng.permutation(group)[:EVENTS] + group * (user % 3) for user in range(USERS)]
    return np.repeat(np.arange(USERS), EVENTS), np.concatenate(items)


def tasted() -> dict[str, np.ndarray]:
    """The same with a column that says which are held out."""
    user, item = tastes()
    part = np.where(np.arange(len(user)) % EVENTS < EVENTS - 3, "train", "valid")
    part[np.arange(len(user)) % EVENTS == EVENTS - 1] = "test"
    return {"user_id": user, "item_id": item, "part": part}


def validation(
    folder: Path, columns: dict[str, np.ndarray] | pa.Table, *words: str, model: Model = "two_tower"
) -> dict[str, float]:
    """Metrics of the best step of a model that has learnt a log."""
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    pq.write_table(table, folder / "events.parquet")
    source = f"source.events={folder / 'events.parquet'}"
    job = start([f"root={folder / 'root'}", source, *WORDS, *words])
    prepare(job, locate(job.settings.source))
    metrics: dict[str, float] = train(job, model, alone=True).manifest.metrics["validation"]
    return metrics


@pytest.mark.parametrize("model", ["two_tower", "user", "hstu"])
@pytest.mark.parametrize("clock", ["position", "timestamp"])
def test_the_next_item_of_a_walk_is_foretold(
    ray_cluster: None, tmp_path: Path, clock: str, model: str
) -> None:
    user, item = walks()
    place = np.tile(np.arange(EVENTS), USERS)
    # Three events a second: their order is that of the file.
    times = 1_700_000_000_000 + user * 86_400_000 // 4 + place // 3 * 1000
    order = {"timestamp": times} if clock == "timestamp" else {"position": place}
    words = ["split.kind=leave_one_out"]
    words += ["source.columns.position=position"] if clock == "position" else []
    words += ["user.sequence.block=pointwise"] if model == "hstu" else []
    chosen: Model = "two_tower" if model == "two_tower" else "user"
    columns = {"user_id": user, "item_id": item, **order}
    found = validation(tmp_path, columns, *words, model=chosen)
    assert found["hit_rate@10"] > 0.9
    assert found["mrr@10"] > 0.8


@pytest.mark.parametrize("model", ["id", "two_tower", "user"])
def test_the_items_of_ones_taste_are_found_without_any_order(
    ray_cluster: None, tmp_path: Path, model: Model
) -> None:
    found = validation(tmp_path, tasted(), "split.kind=column", "split.column=part", model=model)
    assert found["recall@10"] > 0.9


@pytest.mark.parametrize("encoder", ["light_gcn", "propagation"])
def test_the_graph_of_pairs_tells_tastes_apart(
    ray_cluster: None, tmp_path: Path, encoder: str
) -> None:
    pq.write_table(pa.table(tasted()), tmp_path / "events.parquet")
    words = ["split.kind=column", "split.column=part", "graph.dim=16", "graph.batch_size=256"]
    source = f"source.events={tmp_path / 'events.parquet'}"
    own = [] if encoder == "light_gcn" else [f"graph.encoder={encoder}"]  # the one is the default
    job = start([f"root={tmp_path / 'root'}", source, *WORDS, *words, *own])
    prepare(job, locate(job.settings.source))
    graph = train(job, "graph", alone=True)
    assert graph.manifest.settings["encoder"] == encoder
    assert graph.manifest.metrics["validation"]["recall@10"] > 0.9
    dataset = Dataset.open(job.root)
    whole = Cutoff.whole(dataset, None)
    vectors = np.load(embed(job, dataset, graph, whole).path / "vectors.npy").astype(np.float32)
    first = dataset.item_ids.first_row
    assert np.linalg.norm(vectors[first:], axis=1) == pytest.approx(1.0, abs=2e-3)
    expected = open_graph_model(job, dataset, graph, whole).item_vectors[first:]
    assert vectors[first:] == pytest.approx(expected, abs=1e-3)


def shown_beside() -> pa.Table:
    """Pages about an item, of which what has its colour is clicked; users differ in nothing."""
    rng, count, places = np.random.default_rng(0), 4_000, 6
    about, shown = rng.integers(0, ITEMS, count), rng.integers(0, ITEMS, (count, places))
    times = 1_700_000_000_000 + np.arange(count) * 40 * DAY_MS // count
    clicked = shown % 3 == about[:, None] % 3
    return pa.table(
        {
            "request_id": np.repeat(np.arange(count), places),
            "user_id": np.repeat(np.arange(count) % USERS, places),
            "item_id": shown.ravel(),
            "context_item_id": np.repeat(about, places),
            "timestamp": np.repeat(times, places),
            "position": np.tile(np.arange(places), count),
            "label.click": clicked.ravel(),
        }
    )


def test_what_goes_with_the_item_that_a_page_is_about_is_ranked_first(
    ray_cluster: None, tmp_path: Path
) -> None:
    shown = shown_beside()
    clicks = shown.filter(shown["label.click"]).select(["user_id", "item_id", "timestamp"])
    colours = np.array(["red", "green", "blue"])[np.arange(ITEMS) % 3]
    items = pa.table({"item_id": np.arange(ITEMS), "colour": colours})
    found = {}
    for name, table in (("told", shown), ("untold", shown.drop_columns("context_item_id"))):
        folder = tmp_path / name
        folder.mkdir()
        pq.write_table(table, folder / "impressions.parquet")
        pq.write_table(items, folder / "items.parquet")
        files = [f"source.{role}={folder}/{role}.parquet" for role in ("impressions", "items")]
        small = ["split.kind=time", "ranker.dim=16", "ranker.hidden=32"]
        found[name] = validation(folder, clicks, *files, *small, model="ranker")["auc"]
    assert found["untold"] < 0.6
    assert found["told"] > 0.9
