"""A tiny root with a bundle whose programs are so simple that numpy can say what must come out."""

import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper

from data.contract import artifact
from data.contract.encode import FeatureTable, encode_columns
from data.contract.idspace import IdSpace
from data.contract.schema import (
    DAY_MS,
    GRAPH_COLUMN,
    TIMELINE,
    TREND_DAYS,
    Calendar,
    Feature,
    Vocabulary,
)
from data.graph.store import EDGE, build_graph
from serve.index import build_index
from serve.ranked import write_ranked

ITEMS, USERS, DIM, BUCKETS = 200, 50, 8, 4
FIRST_DAY_MS = 1_767_225_600_000
FIRST_ITEM, FIRST_USER = 1000, 1
CALENDAR = Calendar(first_day_ms=FIRST_DAY_MS, num_days=10, base_days=10)
NEWEST = 17
BOARDS = 20
ON_BOARDS = ITEMS - 10
ACTION_WEIGHTS = np.array([4.0, 2.0, -3.0], np.float32)

VOCABULARY = Vocabulary(
    order="clock",
    actions=("save", "click", "hide"),
    polarity=("positive", "positive", "negative"),
    surfaces=("home", "related"),
    item_features=(
        Feature(name="content", kind="vector", dim=DIM),
        Feature(name="creator_id", kind="categorical", cardinality=40),
        Feature(name="image_signature", kind="categorical", cardinality=195),
        Feature(name="interests", kind="multi", cardinality=5),
        Feature(name="quality", kind="numeric"),
    ),
    user_features=(Feature(name="country", kind="categorical", cardinality=3),),
)


def with_graph(vocabulary: Vocabulary) -> Vocabulary:
    column = Feature(name=GRAPH_COLUMN, kind="vector", dim=DIM)
    return replace(vocabulary, item_features=(*vocabulary.item_features, column))


def unit(vectors: Any) -> Any:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


class TinyLog:
    """Raw rows and timelines, seeded."""

    def __init__(self, seed: int = 0, string_ids: bool = False) -> None:
        rng = np.random.default_rng(seed)
        kind = pa.string() if string_ids else pa.int64()
        items = pa.array(range(FIRST_ITEM, FIRST_ITEM + ITEMS)).cast(kind)
        users = pa.array(range(FIRST_USER, FIRST_USER + USERS)).cast(kind)
        zeros = np.zeros(ITEMS, np.int64)
        self.item_ids = IdSpace.empty("item", kind, BUCKETS).extend(items, zeros, zeros)
        self.user_ids = IdSpace.empty("user", kind, BUCKETS).extend(
            users, zeros[:USERS], zeros[:USERS]
        )
        self.content = unit(rng.normal(size=(ITEMS, DIM))).astype(np.float16)
        signatures = np.arange(ITEMS)
        signatures[:10] = np.repeat(np.arange(5), 2)
        self.item_table = pa.table(
            {
                "item_id": items,
                "content": pa.FixedSizeListArray.from_arrays(pa.array(self.content.ravel()), DIM),
                "creator_id": np.arange(ITEMS) % 40,
                "image_signature": signatures,
                "interests": [[f"topic{i % 5}"] * (i % 3) for i in range(ITEMS)],
                "quality": pa.array([None if i % 7 == 0 else float(i) for i in range(ITEMS)]),
            }
        )
        self.user_table = pa.table({"user_id": users, "country": ["DE", "FR"] * (USERS // 2)})
        self.lengths = rng.integers(0, 20, USERS)
        count = int(self.lengths.sum())
        self.items = rng.integers(0, ITEMS, count)
        self.actions = rng.integers(1, 4, count)
        self.times = FIRST_DAY_MS + np.sort(rng.integers(0, 10 * DAY_MS, count))

    def with_item(self, item_id: int) -> "TinyLog":
        """The same log with one more item, a copy of the first."""
        later = copy.copy(self)
        row = self.item_table.slice(0, 1).set_column(0, "item_id", pa.array([item_id]))
        later.item_table = pa.concat_tables([self.item_table, row])
        later.content = np.concatenate([self.content, self.content[:1]])
        later.item_ids = self.item_ids.extend(
            pa.array([item_id]), np.zeros(1, int), np.zeros(1, int)
        )
        return later


def write_lookup(path: Path, space: IdSpace, ids: pa.Array, table: pa.Table, features: Any) -> None:
    """Row-aligned encoded columns; rows without an id are empty."""
    at = np.full(space.rows, -1)
    at[space.lookup(ids)] = np.arange(len(ids))
    taken = table.take(pa.array(np.maximum(at, 0)))
    columns = encode_columns(taken, features)
    for feature in features:
        columns[feature.name] = _blank(columns[feature.name], at < 0, feature)
    columns = {
        "id": taken.column(0).combine_chunks(),
        "created_at": np.zeros(space.rows, np.int64),
        **columns,
    }
    written = pa.table(columns)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, written.schema) as writer:
        writer.write_table(written)


def _blank(column: pa.Array, empty: Any, feature: Feature) -> pa.Array:
    values = column.to_pylist()
    nothing = {"vector": [0.0] * feature.dim, "categorical": 0, "multi": [], "numeric": None}[
        feature.kind
    ]
    values = [
        nothing if gone or (value is None and feature.kind != "numeric") else value
        for value, gone in zip(values, empty, strict=True)
    ]
    if feature.kind == "vector":
        return pa.FixedSizeListArray.from_arrays(
            pa.array(np.ravel(values).astype(np.float16)), feature.dim
        )
    return pa.array(values, column.type)


def write_histories(folder: Path, log: TinyLog) -> None:
    folder.mkdir()
    rows = log.user_ids.lookup(log.user_table["user_id"].combine_chunks())
    starts = np.cumsum(log.lengths) - log.lengths
    lengths = np.zeros(log.user_ids.rows, np.int64)
    lengths[rows] = log.lengths
    order = np.argsort(rows)
    at = np.concatenate([np.arange(starts[u], starts[u] + log.lengths[u]) for u in order])
    item_rows = log.item_ids.lookup(log.item_table["item_id"].combine_chunks())
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]))
    np.save(folder / "item.npy", item_rows[log.items][at].astype(np.int32))
    np.save(folder / "action.npy", log.actions[at].astype(np.int16))
    np.save(folder / "surface.npy", np.ones(len(at), np.int16))
    np.save(folder / "timestamp.npy", log.times[at])


def tensor(name: str, *shape: Any, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, list(shape))


def constant(name: str, value: Any) -> Any:
    return numpy_helper.from_array(np.asarray(value), name)


def save_program(
    folder: Path, name: str, nodes: Any, inputs: Any, outputs: Any, constants: Any
) -> None:
    graph = helper.make_graph(nodes, name, inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, folder / f"{name}.onnx")


def write_towers(folder: Path, scale: float) -> None:
    """item: unit(id row + scale * content); user: unit(id row + sum of history vectors)."""
    node = helper.make_node
    normalise = [
        node("ReduceL2", ["sum", "axis"], ["norm"], keepdims=1),
        node("Max", ["norm", "tiny"], ["safe"]),
        node("Div", ["sum", "safe"], ["embedding"]),
    ]
    constants = [constant("axis", np.array([1])), constant("tiny", np.float32(1e-12))]
    save_program(
        folder,
        "item_tower",
        [
            node("Mul", ["item.content", "scale"], ["scaled"]),
            node("Add", ["item_id.rows", "scaled"], ["sum"]),
            *normalise,
        ],
        [tensor("item_id.rows", "N", DIM), tensor("item.content", "N", DIM)],
        [tensor("embedding", "N", DIM)],
        [*constants, constant("scale", np.float32(scale))],
    )
    integers = [
        tensor(f"history.{n}", "H", kind=TensorProto.INT64) for n in ("action", "surface", "gap_ms")
    ]
    save_program(
        folder,
        "user_tower",
        [
            node("ReduceSum", ["history.embedding.rows", "zero"], ["read"], keepdims=1),
            node("Add", ["read", "user_id.rows"], ["sum"]),
            *normalise,
        ],
        [
            tensor("user_id.rows", "B", DIM),
            tensor("history.embedding.rows", "H", DIM),
            *integers,
            tensor("history.lengths", "B", kind=TensorProto.INT64),
        ],
        [tensor("embedding", "B", DIM)],
        [*constants, constant("zero", np.array([0]))],
    )


def write_ranker(folder: Path) -> None:
    """item: id row + content; user: id row + sum of history; logits: item . user * weights."""
    node = helper.make_node
    save_program(
        folder,
        "ranker_item",
        [
            node("Add", ["item_id.rows", "item.content"], ["vectors"]),
            node("Unsqueeze", ["item.creator_id", "one"], ["codes"]),
        ],
        [
            tensor("item_id.rows", "N", DIM),
            tensor("item.content", "N", DIM),
            tensor("item.creator_id", "N", kind=TensorProto.INT64),
        ],
        [tensor("vectors", "N", DIM), tensor("codes", "N", 1, kind=TensorProto.INT64)],
        [constant("one", np.array([1]))],
    )
    save_program(
        folder,
        "ranker_user",
        [
            node("ReduceSum", ["history.vectors", "zero"], ["read"], keepdims=1),
            node("Add", ["read", "user_id.rows"], ["user"]),
            node("Unsqueeze", ["read", "zero"], ["keys"]),
        ],
        [
            tensor("user_id.rows", "B", DIM),
            tensor("history.vectors", "H", DIM),
            tensor("history.age_ms", "H", kind=TensorProto.INT64),
            tensor("history.lengths", "B", kind=TensorProto.INT64),
        ],
        [tensor("user", "B", DIM), tensor("keys", "B", 1, DIM)],
        [constant("zero", np.array([0]))],
    )
    save_program(
        folder,
        "ranker_items",
        [
            node("Unsqueeze", ["user", "last"], ["column"]),
            node("MatMul", ["candidate.vectors", "column"], ["match"]),
            node("Mul", ["match", "weights"], ["logits"]),
        ],
        [
            tensor("user", "B", DIM),
            tensor("keys", "B", 1, DIM),
            tensor("candidate.vectors", "B", "N", DIM),
            tensor("position", "B", "N", kind=TensorProto.INT64),
        ],
        [tensor("logits", "B", "N", 3)],
        [constant("last", np.array([2])), constant("weights", ACTION_WEIGHTS[None])],
    )


def item_contents(log: TinyLog) -> Any:
    contents = np.zeros((log.item_ids.rows, DIM), np.float32)
    contents[log.item_ids.lookup(log.item_table["item_id"].combine_chunks())] = log.content
    return contents


def write_graph(folder: Path, log: TinyLog) -> None:
    """graph_item: the content turned by one place; an index over it; a column of items; boards."""
    node = helper.make_node
    save_program(
        folder / "programs",
        "graph_item",
        [node("MatMul", ["item.content", "turn"], ["embedding"])],
        [tensor("item.content", "N", DIM)],
        [tensor("embedding", "N", DIM)],
        [constant("turn", np.roll(np.eye(DIM, dtype=np.float32), 1, axis=1))],
    )
    vectors = graph_vectors(log)
    live = np.arange(log.item_ids.first_row, log.item_ids.rows)
    index, _ = build_index(live, vectors[live], np.zeros(len(live), np.float32), "flat", 0.95)
    index.save(folder / "similar.faiss")
    path = folder / "items.arrow"
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    flat = pa.array(vectors.astype(np.float16).reshape(-1))
    table = table.append_column(GRAPH_COLUMN, pa.FixedSizeListArray.from_arrays(flat, DIM))
    path.unlink()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    build_graph(lambda: iter([board_edges(log)]), log.item_ids.rows, BOARDS, folder / "graph")


def board_edges(log: TinyLog) -> pa.Table:
    """Row i of the items is on board i % 20, but for the last ten, which are on none."""
    items = np.arange(ON_BOARDS)
    columns = [items % BOARDS, log.item_ids.first_row + items, np.ones(ON_BOARDS), 0 * items]
    cast = [pa.array(c).cast(f.type) for c, f in zip(columns, EDGE, strict=True)]
    return pa.table(cast, schema=EDGE)


def graph_vectors(log: TinyLog) -> Any:
    """Graph embeddings by row: random, so that another order of likeness comes out."""
    vectors = unit(np.random.default_rng(9).normal(size=(log.item_ids.rows, DIM)))
    vectors[: log.item_ids.first_row] = 0
    return vectors.astype(np.float32)


def write_vectors(folder: Path, log: TinyLog, scale: float, rng: np.random.Generator) -> None:
    """Vectors, priors, their index, and the lists of items."""
    table = np.load(folder / "tables" / "two_tower.item_id.npy")[: log.item_ids.rows]
    vectors = unit(table + scale * item_contents(log)).astype(np.float32)
    vectors[: log.item_ids.first_row] = 0
    live = np.arange(log.item_ids.first_row, log.item_ids.rows)
    priors = (0.01 * np.arange(log.item_ids.rows) % 0.3).astype(np.float32)
    np.save(folder / "item_embeddings.npy", vectors)
    np.save(folder / "item_priors.npy", priors)
    np.save(folder / "live_items.npy", live)
    np.save(folder / "popular.npy", rng.permutation(live))
    np.save(folder / "fresh.npy", live[::-1])
    index, _ = build_index(live, vectors[live], priors[live], "flat", 0.95)
    index.save(folder / "index.faiss")


def write_bundle(
    root: Path,
    version: str,
    log: TinyLog,
    *,
    ranker: bool = True,
    scale: float = 1.0,
    graph: bool = False,
) -> Path:
    """Publishes a bundle of `log`. Another `scale` is another item space."""
    rng = np.random.default_rng(1)
    rows = {"item_id": log.item_ids.rows, "user_id": log.user_ids.rows}
    details = {
        "vocabulary": asdict(with_graph(VOCABULARY) if graph else VOCABULARY),
        "calendar": asdict(CALENDAR),
        "max_length": {"two_tower": 6, "ranker": 4},
        "versions": {"two_tower": "tt1", "ranker": "r1"},
        "store_sequence": 0,
        "trend_days": list(TREND_DAYS),
    }
    spaces = {"item": log.item_ids.reference(), "user": log.user_ids.reference()}
    fields = {"details": details, "id_space": spaces, "parents": []}
    with artifact.publish(root, "bundles", version, **fields) as draft:
        for folder in ("programs", "tables"):
            (draft.path / folder).mkdir()
        write_towers(draft.path / "programs", scale)
        if ranker:
            write_ranker(draft.path / "programs")
        for model in ("two_tower", "ranker"):
            for name, count in rows.items():
                table = rng.normal(scale=0.05, size=(int(count * 1.25), DIM)).astype(np.float32)
                table[0] = 0
                np.save(draft.path / "tables" / f"{model}.{name}.npy", table)
        log.item_ids.save(draft.path / "ids" / "item")
        log.user_ids.save(draft.path / "ids" / "user")
        ids = log.item_table["item_id"].combine_chunks()
        write_lookup(
            draft.path / "items.arrow", log.item_ids, ids, log.item_table, VOCABULARY.item_features
        )
        ids = log.user_table["user_id"].combine_chunks()
        write_lookup(
            draft.path / "users.arrow", log.user_ids, ids, log.user_table, VOCABULARY.user_features
        )
        if graph:
            write_graph(draft.path, log)
        if ranker:
            features = with_graph(VOCABULARY).item_features if graph else VOCABULARY.item_features
            items = FeatureTable.open("item", features, draft.path / "items.arrow")
            write_ranked(draft.path, draft.path, items, log.item_ids)
        write_histories(draft.path / "histories", log)
        write_vectors(draft.path, log, scale, rng)
    published = artifact.read(root / "bundles" / version)
    artifact.point(root, published)
    return root


def timelines(log: TinyLog) -> pa.Table:
    """One row a user with events, in the order of the user table."""
    rows = log.user_ids.lookup(log.user_table["user_id"].combine_chunks())
    items = log.item_ids.lookup(log.item_table["item_id"].combine_chunks())[log.items]
    ends = np.cumsum(log.lengths)
    parts: dict[str, Any] = {
        "item": items,
        "action": log.actions,
        "surface": np.ones(len(items)),
        "timestamp": log.times,
        "duration_s": np.zeros(len(items)),
        "part": np.zeros(len(items)),
    }
    columns = {name: [a.tolist() for a in np.split(v, ends[:-1])] for name, v in parts.items()}
    table = pa.table({"user": rows, **columns}).filter(pa.array(log.lengths > 0))
    return table.cast(TIMELINE)


def publish_dataset(root: Path, log: TinyLog) -> artifact.Artifact:
    spaces = {}
    for space in (log.item_ids, log.user_ids):
        with artifact.publish(root, f"{space.name}_ids", "i1") as draft:
            space.save(draft.path)
        spaces[space.name] = space.reference() | {"version": "i1"}
    details = {
        "vocabulary": asdict(VOCABULARY),
        "calendar": asdict(CALENDAR),
        "counts": {"impressions": 0},
        "store_sequence": 4,
    }
    with artifact.publish(root, "dataset", "d1", details=details, id_space=spaces) as draft:
        path = draft.path
        for side, space, table in (
            ("item", log.item_ids, log.item_table),
            ("user", log.user_ids, log.user_table),
        ):
            features = getattr(VOCABULARY, f"{side}_features")
            write_lookup(
                path / f"{side}s.arrow", space, table.column(0).combine_chunks(), table, features
            )
        set_created(path / "items.arrow", log)
        (path / "timelines").mkdir()
        whole = timelines(log)
        pq.write_table(
            whole.slice(0, 20), path / "timelines" / "part-00000.parquet", row_group_size=7
        )
        pq.write_table(whole.slice(20), path / "timelines" / "part-00001.parquet")
        pq.write_table(item_days(log), path / "item_days.parquet")
    return artifact.read(root / "dataset" / "d1")


def set_created(path: Path, log: TinyLog) -> None:
    """Items are known from day 1, but for one of day 9."""
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    created = np.full(table.num_rows, FIRST_DAY_MS)
    created[log.item_ids.first_row + NEWEST] += 8 * DAY_MS
    table = table.set_column(1, "created_at", pa.array(created))
    path.unlink()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def item_days(log: TinyLog) -> pa.Table:
    """Row 20: 10 saves on day 1; row 30: 8 clicks on day 10; row 40: 99 hides on day 10."""
    return pa.table(
        {
            "day": pa.array([1, 10, 10], pa.int32()),
            "item": pa.array([20, 30, 40], pa.int32()),
            "action": pa.array([1, 2, 3], pa.int16()),
            "count": pa.array([10, 8, 99], pa.int64()),
        }
    )
