"""A bundle: everything that serving needs, immutable, memory-mapped, checked before it serves.

Files under `<root>/bundles/<version>/`:
    programs/<name>.onnx      item_tower, user_tower; item_prior in a log with a clock; ranker_item,
                              ranker_user and ranker_items unless there is no ranker: then the
                              retrieval score ranks; graph_item where items have graph embeddings
    calibrators.json          what turns the ranker's logits into probabilities
    tables/<model>.<id>.npy   id embeddings [rows, D]; zero where untrained
    ranked.<part>.npy         items as the ranker sees them (serve.ranked)
    item_embeddings.npy       vectors of the item tower [rows, D]; zero where there is none
    item_priors.npy           what an item gains whoever asks [rows]: popular, new
    trend.counts.npy, trend.age_ms.npy  how items do on the day after the log [rows], if it has days
    tallies.npy, user_tallies.npy  how often what was done to items [rows, G, W] and by users
                              [rows, 2, W] (data.track_record), if the ranker reads it
    index.faiss               over both, of the items that may be served
    similar.faiss             over the same items' graph embeddings, where they have any
    live_items.npy            rows that may be served: the corpus, one item of each image
    blocked_ids.npy           hashes of external ids that may not, posted or not
    index.json                which towers made the index (serve.pairing)
    popular.npy, fresh.npy    rows, best and newest first
    conditions.faiss, .npz    the same items by the interests that they carry
    medoids.npy, importance.npy  clusters of each user's past, where items have vectors
    graph/<side>.<array>.npy  boards and their items, both ways (data.graph.store), in the item rows
                              of the bundle: 8 bytes an edge, 8 a node
    items.arrow, users.arrow  encoded features by row
    ids/item, ids/user        id spaces
    histories/<column>.npy    timelines of all users in row order, with offsets.npy
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from data.contract.artifact import Artifact, read
from data.contract.calibration import FILE, Calibrators
from data.contract.encode import HISTORY_COLUMNS, Arrays, Events, FeatureTable, Ints
from data.contract.idspace import IdSpace, Keys
from data.contract.schema import TREND_DAYS, Calendar, Vocabulary
from data.contract.settings import UserError
from data.graph.store import Graph
from serve.index import ItemIndex
from serve.medoids import Medoids
from serve.pairing import check_pairing
from serve.partitions import Partitions
from serve.programs import ITEM_SIDE, Floats, Program, gather_rows, mapped, open_programs
from serve.ranked import Ranked

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

KIND = "bundles"
SIMILAR_FILE, BLOCKED_FILE = "similar.faiss", "blocked_ids.npy"
GRAPH_FOLDER = "graph"
TALLIES_FILE, USER_TALLIES_FILE = "tallies.npy", "user_tallies.npy"
EMBEDDING_TOLERANCE = 1e-3
PROBES = 8

Table = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """An open bundle. Arrays are memory-mapped; see the head of this file for their meaning."""

    artifact: Artifact
    vocabulary: Vocabulary
    calendar: Calendar | None
    item_ids: IdSpace
    user_ids: IdSpace
    items: FeatureTable
    users: FeatureTable
    histories: Events
    tables: dict[str, Table]
    item_embeddings: Floats
    item_priors: Floats
    trends: dict[str, Ints]
    tallies: Floats | None = None
    user_tallies: Floats | None = None
    live_items: Ints
    blocked_ids: Keys
    popular: Ints
    fresh: Ints
    programs: dict[str, Program]
    index: ItemIndex
    similar: ItemIndex | None = None
    medoids: Medoids | None = None
    partitions: Partitions | None = None
    ranked: Ranked | None = None
    graph: Graph | None = None
    calibrators: Calibrators

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Opens a bundle after comparing its checksums, and refuses parts that do not fit.

        Raises:
            UserError: a file is missing or altered, or two parts disagree (both are named).
        """
        artifact = read(path)
        artifact.verify()
        check_trends(artifact)
        check_pairing(artifact)
        bundle = _load(path, artifact)
        check_id_spaces(bundle)
        check_embeddings(bundle)
        check_ranked(bundle)
        check_graph(bundle)
        return bundle

    @property
    def version(self) -> str:
        """Version of the bundle."""
        return self.artifact.version

    @property
    def details(self) -> dict[str, Any]:
        """Facts that its maker wrote into the manifest."""
        return self.artifact.manifest.details

    @property
    def store_sequence(self) -> int:
        """Posted events up to this sequence number are in the histories already."""
        return int(self.details.get("store_sequence", 0))

    @property
    def dim(self) -> int:
        """Width of the vectors of items and users."""
        return int(self.item_embeddings.shape[1])

    @property
    def has_ranker(self) -> bool:
        """Whether a ranker orders the candidates."""
        return self.ranked is not None

    @property
    def versions(self) -> dict[str, str]:
        """Versions that answers carry: the bundle and its models."""
        return {"bundle": self.version, **self.details["versions"]}

    def max_length(self, model: str) -> int:
        """Events that a model reads: the settings it was trained with."""
        return int(self.details["max_length"][model])

    @property
    def longest_history(self) -> int:
        """Events that the model with the longest memory reads."""
        return max(map(int, self.details["max_length"].values()))

    def id_rows(self, model: str, side: str, rows: Ints) -> Floats:
        """Id embeddings f32[N, D] of `rows`; zero for a row that the table does not have."""
        return gather_rows(self.tables[f"{model}.{side}_id"], rows)

    def user_record(self, rows: Ints) -> Arrays:
        """How often users did what, `user_tally.counts` [N, 2, W], if a ranker reads it."""
        known = self.user_tallies
        return {} if known is None else {"user_tally.counts": known[rows]}


def _load(path: Path, artifact: Artifact) -> Bundle:
    details = artifact.manifest.details
    vocabulary = Vocabulary.from_tree(details["vocabulary"])
    calendar = details.get("calendar")
    item_ids, user_ids = IdSpace.open(path / "ids" / "item"), IdSpace.open(path / "ids" / "user")
    item_embeddings, item_priors = (
        mapped(path / "item_embeddings.npy"),
        mapped(path / "item_priors.npy"),
    )
    rows = {"item_id": item_ids.rows, "user_id": user_ids.rows}
    tables = {f.stem: mapped(f) for f in sorted((path / "tables").glob("*.npy"))}
    return Bundle(
        artifact=artifact,
        vocabulary=vocabulary,
        calendar=Calendar(**calendar) if calendar else None,
        item_ids=item_ids,
        user_ids=user_ids,
        items=FeatureTable.open("item", vocabulary.item_features, path / "items.arrow"),
        users=FeatureTable.open("user", vocabulary.user_features, path / "users.arrow"),
        histories=open_histories(path / "histories"),
        # A table has headroom for rows that the id space does not have yet.
        tables={name: table[: rows[name.split(".")[1]]] for name, table in tables.items()},
        item_embeddings=item_embeddings,
        item_priors=item_priors,
        trends={f.stem: mapped(f) for f in sorted(path.glob("trend.*.npy"))},
        tallies=_map_if_there(path / TALLIES_FILE),
        user_tallies=_map_if_there(path / USER_TALLIES_FILE),
        live_items=mapped(path / "live_items.npy"),
        blocked_ids=_open_blocked(path / BLOCKED_FILE),
        popular=mapped(path / "popular.npy"),
        fresh=mapped(path / "fresh.npy"),
        programs=open_programs(path / "programs"),
        index=ItemIndex.open(path / "index.faiss"),
        similar=ItemIndex.open(path / SIMILAR_FILE) if (path / SIMILAR_FILE).is_file() else None,
        medoids=Medoids.open(path),
        partitions=Partitions.open(path, item_embeddings, item_priors),
        ranked=Ranked.open(path),
        graph=Graph.open(path / GRAPH_FOLDER) if (path / GRAPH_FOLDER).is_dir() else None,
        calibrators=_open_calibrators(path, vocabulary.actions),
    )


def _map_if_there(path: Path) -> Any:
    return mapped(path) if path.is_file() else None


def _open_blocked(path: Path) -> Keys:
    """None in bundles of earlier releases."""
    found: Keys = mapped(path) if path.is_file() else np.zeros(0, np.uint64)
    return found


def _open_calibrators(path: Path, actions: tuple[str, ...]) -> Calibrators:
    """Those that change nothing in bundles without a ranker, or of earlier releases."""
    if (path / FILE).is_file():
        return Calibrators.load(path)
    return Calibrators.identity(actions)


def open_histories(folder: Path) -> Events:
    """Memory-maps the timelines of all users: `Events` with one entry a user row."""
    paths = {name: folder / f"{name}.npy" for name in ("offsets", *HISTORY_COLUMNS)}
    columns = {name: mapped(path) for name, path in paths.items() if path.is_file()}
    # Bundles of earlier releases have no durations.
    columns.setdefault("duration_s", np.zeros(len(columns["item"]), np.float32))
    return Events(**columns)


def check_trends(artifact: Artifact) -> None:
    """Refuses a bundle whose programs read other spans of days than this code counts."""
    made = artifact.manifest.details.get("trend_days")
    if made != list(TREND_DAYS):
        raise UserError(
            f"{artifact.manifest.name} reads trends over {made} days, but this version of homefeed "
            f"gives {list(TREND_DAYS)}; train and export again"
        )


def check_id_spaces(bundle: Bundle) -> None:
    """Refuses id spaces other than those that the manifest says its parts were made for."""
    for space in (bundle.item_ids, bundle.user_ids):
        stated = bundle.artifact.manifest.id_space.get(space.name, {})
        held = space.reference()
        if {key: stated.get(key) for key in held} != held:
            name = bundle.artifact.manifest.name
            raise UserError(
                f"{name} is for {space.name} ids {stated} but holds {held}; export again"
            )


def check_embeddings(bundle: Bundle) -> None:
    """Refuses item vectors that another item tower made: a few are embedded afresh."""
    stored, name = bundle.item_embeddings, bundle.artifact.manifest.name
    if len(stored) != bundle.item_ids.rows or bundle.dim != bundle.index.dim:
        raise UserError(
            f"{name} has item embeddings {stored.shape} but {bundle.item_ids.rows} item rows and "
            f"an index of width {bundle.index.dim}; index the export again"
        )
    rows = np.asarray(bundle.live_items[:PROBES])
    id_rows = bundle.id_rows("two_tower", "item", rows)
    fresh = embed_items(bundle.programs["item_tower"], id_rows, bundle.items.gather(rows))
    if not np.allclose(fresh, stored[rows], atol=EMBEDDING_TOLERANCE):
        raise UserError(
            f"{name}: its item embeddings and index were not made by its item tower "
            f"two_tower/{bundle.versions.get('two_tower', '?')}; index the export again"
        )


def check_ranked(bundle: Bundle) -> None:
    """Refuses a ranker of an earlier release, and encoded items of another id space."""
    name, ranked = bundle.artifact.manifest.name, bundle.ranked
    program = bundle.programs.get(ITEM_SIDE)
    if program is not None and ranked is None:
        raise UserError(f"{name} holds no items as its ranker sees them; export and index again")
    if program is not None and program.axes("candidate.vectors") < 3:  # users, items, width
        raise UserError(f"{name} ranks one user at a time; export and index again")
    if ranked is not None and len(ranked.known) != bundle.item_ids.rows:
        raise UserError(
            f"{name} has {len(ranked.known)} items as its ranker sees them but "
            f"{bundle.item_ids.rows} item rows; index the export again"
        )


def check_graph(bundle: Bundle) -> None:
    """Refuses a graph of other items, or whose two sides are not of one graph."""
    graph, rows = bundle.graph, bundle.item_ids.rows
    if graph is None:
        return
    edges = len(graph.items.indices), len(graph.boards.indices)
    if graph.num_items != rows or edges[0] != edges[1]:
        raise UserError(
            f"{bundle.artifact.manifest.name} has a graph of {graph.num_items} items with {edges} "
            f"edges from either side, but {rows} item rows; export again"
        )


def embed_items(tower: Program, id_rows: Floats, features: dict[str, Any]) -> Floats:
    """Vectors of N items by the exported item tower: f32[N, D], unit length."""
    outputs = tower({"item_id.rows": id_rows, **features})
    return np.asarray(outputs[tower.outputs[0]], np.float32)


def prior_of(programs: Mapping[str, Program], trends: Arrays) -> Floats:
    """What N items gain whoever asks, f32[N]; nothing where the log has no clock."""
    program = programs.get("item_prior")
    if program is None:
        return np.zeros(len(trends["trend.age_ms"]), np.float32)
    return np.asarray(program(trends)[program.outputs[0]], np.float32)
