"""A request to rank: a user of 100 actions and 500 candidates, real ones of a root or made up.

The made-up user and items have the default world's columns, with random values.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.torch import load_file

from data.contract.artifact import current, read
from data.contract.calibration import Calibrators
from data.contract.encode import Events, FeatureTable, encode_trends
from data.contract.schema import DAY_MS, TREND_DAYS, Feature, Vocabulary
from data.contract.settings import build
from models.export import write_programs
from models.ranker import Ranker as RankerModel
from models.ranker import build_ranker
from models.ranker_settings import RankerSettings
from serve.bundle import Bundle
from serve.catalogue import Catalogue
from serve.programs import gather_rows, open_programs
from serve.ranked import PROGRAM, Ranked
from serve.ranker import Ranker
from serve.users import User
from tests.benchmarks.ranker_columns import WORLD

CANDIDATES, HISTORY = 500, 100
ITEMS, USERS = 20_000, 1_000
NOW_MS = 1_780_000_000_000


@dataclass(frozen=True)
class Request:
    """Who asks, what is to be ranked, and the ranker that is served and trained.

    Attributes:
        bundle: programs and look-ups.
        catalogue: the items.
        model: the same ranker, by the training code.
        user: with a history of 100 actions.
        rows: 500 candidates.
        programs: folder of the exported programs.
    """

    bundle: Any
    catalogue: Any
    model: RankerModel
    user: User
    rows: Any
    programs: Path

    def ranker(self, **programs: Any) -> Ranker:
        """The ranker as served, some of its programs replaced."""
        if not programs:
            return Ranker(self.bundle, self.catalogue)
        return Ranker(with_programs(self.bundle, programs), self.catalogue)


def with_programs(bundle: Any, programs: dict[str, Any]) -> Any:
    """A bundle with other programs in place of some of its own."""
    fields = {"programs": bundle.programs | programs}
    if isinstance(bundle, Bundle):
        return dataclasses.replace(bundle, **fields)
    return SimpleNamespace(**(vars(bundle) | fields))


def of_root(root: Path) -> Request:
    """Of the bundle that a root serves: the user with the longest history, items at random."""
    bundle = Bundle.open(current(root, "bundles").path)
    offsets = np.asarray(bundle.histories.offsets)
    row = int(np.argmax(np.diff(offsets)))
    end = int(offsets[row + 1])
    start = max(int(offsets[row]), end - HISTORY)
    events = bundle.histories.at(slice(start, end), np.array([0, end - start]))
    clocked = bundle.vocabulary.order == "clock"
    user = User(row, row, True, events, int(events.timestamp.max()) + 3_600_000, clocked)
    rows = np.random.default_rng(0).permutation(np.asarray(bundle.live_items))[:CANDIDATES]
    model = trained(root / "ranker" / bundle.versions["ranker"], bundle.vocabulary)
    return Request(bundle, Catalogue(bundle), model, user, rows, bundle.artifact.path / "programs")


def trained(path: Path, vocabulary: Vocabulary) -> RankerModel:
    """The ranker of an artefact, by the training code."""
    settings = build(RankerSettings, read(path).manifest.settings["ranker"])
    model = build_ranker(settings, vocabulary)
    weights = load_file(path / "model.safetensors")
    core = {n.removeprefix("core."): w for n, w in weights.items() if n.startswith("core.")}
    model.load_state_dict(core)
    return model


def made_up(settings: RankerSettings, folder: Path) -> Request:
    """Of a ranker with fresh weights, exported to a folder."""
    rng = np.random.default_rng(0)
    vocabulary = Vocabulary.from_tree(dataclasses.asdict(WORLD))
    model = build_ranker(settings, vocabulary)
    write_programs(model.programs(), folder)
    tables = {
        side: rng.normal(scale=0.1, size=(count, settings.id_dim)).astype(np.float32)
        for side, count in (("item", ITEMS), ("user", USERS))
    }
    items = made_up_table("item", vocabulary.item_features, ITEMS, rng)
    bundle = SimpleNamespace(
        programs=open_programs(folder),
        users=made_up_table("user", vocabulary.user_features, USERS, rng),
        id_rows=lambda _, side, rows: gather_rows(tables[side], rows),
        max_length=lambda _: settings.sequence.max_length,
        calibrators=Calibrators.identity(vocabulary.actions),
        vocabulary=vocabulary,
        user_record=lambda rows: {"user_tally.counts": of_users[rows]},
    )
    columns = sum(feature.kind == "categorical" for feature in vocabulary.item_features)
    kinds = len(vocabulary.actions) + 1
    of_users, of_items = (
        rng.geometric(0.1, shape).astype(np.float32)
        for shape in ((USERS, 2, kinds), (ITEMS, 2 + columns, kinds))
    )
    record = made_up_trends(rng) | {"tally.counts": of_items}
    ranked = Ranked.of(bundle.programs[PROGRAM], tables["item"], items.gather(np.arange(ITEMS)))
    catalogue = SimpleNamespace(
        ranked=ranked.take,
        record=lambda rows: {name: array[rows] for name, array in record.items()},
    )
    user = User(17, 17, True, made_up_events(vocabulary, rng), NOW_MS, True)
    rows = rng.choice(ITEMS, CANDIDATES, replace=False)
    return Request(bundle, catalogue, model, user, rows, folder)


def made_up_trends(rng: np.random.Generator) -> dict[str, Any]:
    """How items do: few have been liked much."""
    counts = rng.geometric(0.1, (ITEMS, len(TREND_DAYS))).cumsum(1)
    return encode_trends(counts, NOW_MS - rng.integers(0, 180 * DAY_MS, ITEMS), NOW_MS)


def made_up_events(vocabulary: Vocabulary, rng: np.random.Generator) -> Events:
    """The 100 newest actions of one user, over a month."""
    return Events(
        np.array([0, HISTORY]),
        rng.integers(0, ITEMS, HISTORY),
        rng.integers(1, len(vocabulary.actions) + 1, HISTORY),
        rng.integers(1, len(vocabulary.surfaces) + 1, HISTORY),
        NOW_MS - np.sort(rng.integers(0, 30 * DAY_MS, HISTORY))[::-1],
        np.zeros(HISTORY, np.float32),
    )


def made_up_table(
    side: str, features: tuple[Feature, ...], rows: int, rng: np.random.Generator
) -> FeatureTable:
    """Encoded columns with random values."""
    columns = {feature.name: _column(feature, rows, rng) for feature in features}
    return FeatureTable.of(side, features, pa.table(columns))


def _column(feature: Feature, rows: int, rng: np.random.Generator) -> pa.Array:
    if feature.kind == "numeric":
        values = rng.uniform(feature.low, feature.high, rows).astype(np.float32)
        return pa.array(values, mask=rng.random(rows) < 0.5)
    if feature.kind == "vector":
        flat = rng.normal(size=rows * feature.dim).astype(np.float16)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), feature.dim)
    hashes = 1 + rng.integers(0, feature.cardinality, 2 * rows)
    if feature.kind == "categorical":
        return pa.array(hashes[:rows])
    return pa.ListArray.from_arrays(np.arange(0, 2 * rows + 1, 2, dtype=np.int32), hashes)
