"""Small batches, with every kind of column, for the models that are held to the same behaviour."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from data.contract.schema import TREND_DAYS, USER_COLUMN, Feature, Order, Vocabulary
from models.batch import Batch, Jagged
from models.graph_encoder import GraphEncoder, GraphModelSettings, resolved
from models.id_embeddings import IdEmbeddingSettings, IdEncoder
from models.light_gcn import Edges, LightGCN
from models.multi_interest import InterestSettings
from models.ranker import Ranker
from models.ranker_settings import RankerSettings
from models.sequence_encoder import SequenceSettings
from models.two_tower import TwoTower, TwoTowerSettings
from models.user_encoder import UserEncoder, UserSettings

NUM_ITEMS, NUM_USERS, NUM_MOMENTS = 42, 20, 3
SIDES = ((0, NUM_USERS), (1, NUM_ITEMS))
SEQUENCE = SequenceSettings(max_length=8, num_layers=2, num_heads=2)
TWO_TOWER = TwoTowerSettings(
    dim=16, id_dim=16, hidden=32, sequence=SEQUENCE, interests=InterestSettings(num=0)
)
ID = IdEmbeddingSettings(dim=16, dropout=0.2)
FOCUSED = replace(
    TWO_TOWER, condition_share=0.3, interests=InterestSettings(num=3, history=5, share=0.4)
)
USER = UserSettings(dim=16, id_dim=16, id_dropout=0.2, hidden=32, sequence=SEQUENCE)
RANKER = RankerSettings(
    dim=16, id_dim=16, hidden=32, num_heads=2, sequence=SEQUENCE, next_weight=0.0
)
GRAPH = GraphModelSettings(dim=16, hidden=32, num_heads=2, id_rows=True, id_dropout=0.2)
ITEM_FEATURES = (
    Feature(name="age", kind="numeric", mean=1, std=2, low=0, high=9),
    Feature(name="format", kind="categorical", cardinality=5),
    Feature(name="tags", kind="multi", cardinality=30),
    Feature(name="content", kind="vector", dim=6),
)
USER_FEATURES = (
    Feature(name="country", kind="categorical", cardinality=9),
    Feature(name="interests", kind="multi", cardinality=9),
)
ITEM_INTERESTS = Feature(name="interests", kind="multi", cardinality=9)
USER_VECTOR = Feature(name=USER_COLUMN, kind="vector", dim=5)


def vocabulary(order: Order = "clock", columns: bool = True, interests: bool = False) -> Vocabulary:
    return Vocabulary(
        order=order,
        actions=("save", "click", "hide"),
        polarity=("positive", "positive", "negative"),
        surfaces=("home", "search"),
        item_features=(ITEM_FEATURES + (ITEM_INTERESTS,) * interests) if columns else (),
        user_features=USER_FEATURES if columns else (),
    )


def with_user_vectors(order: Order = "clock") -> Vocabulary:
    """Users have long-term embeddings beside their columns."""
    plain = vocabulary(order)
    return replace(plain, user_features=(*plain.user_features, USER_VECTOR))


def tables(seed: int = 0) -> dict[str, Tensor]:
    """Rows of all ids, row 0 being zeros."""
    draw = torch.Generator().manual_seed(seed)
    made = {
        name: torch.randn(rows, 16, generator=draw) / 4
        for name, rows in (("item_id", NUM_ITEMS), ("user_id", NUM_USERS))
    }
    for table in made.values():
        table[0] = 0
    return made


def rows_of(batch: Batch, of: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: of[name][jagged.values] for name, jagged in batch.ids.items()}


def columns(features: Sequence[Feature], side: str, rows: Tensor) -> dict[str, Tensor]:
    """Columns whose values follow from the row alone, missing for row 0."""
    made: dict[str, Tensor] = {}
    for feature in features:
        name = f"{side}.{feature.name}"
        if feature.kind == "numeric":
            made[name] = torch.where(rows == 0, torch.nan, rows % 7).float()
        elif feature.kind == "categorical":
            made[name] = rows * 7919
        elif feature.kind == "multi":
            made[f"{name}.lengths"] = rows % 3
            made[f"{name}.values"] = rows.repeat_interleave(rows % 3) * 104_729
        else:
            made[name] = torch.sin(rows.unsqueeze(1) * torch.arange(1.0, feature.dim + 1))
    return made


@dataclass(frozen=True)
class Visit:
    """A user, what they did, and what is asked about them: targets of one kind or candidates.

    `context` is the item that the request is about, 0 none.
    """

    user: int
    history: tuple[int, ...]
    asked: tuple[int, ...]
    weight: float = 1.0
    context: int = 0


def visits(size: int = 6, seed: int = 0) -> list[Visit]:
    """Visits with histories of 0, 1, 2, ... events."""
    draw = torch.Generator().manual_seed(seed)

    def items(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(1, NUM_ITEMS, (count,), generator=draw).tolist())

    return [
        Visit(1 + i, items(min(i, SEQUENCE.max_length)), items(3 + i % 2), context=i % 2 * (2 + i))
        for i in range(size)
    ]


def events(made: Sequence[Visit]) -> dict[str, Tensor]:
    """Actions, surfaces and times that follow from user, item and place in the history."""
    plain = [(v.user, item, at) for v in made for at, item in enumerate(v.history)]
    user, item, at = (
        (torch.tensor(column) for column in zip(*plain, strict=True))
        if plain
        else (torch.zeros(3, 0, dtype=torch.int64))
    )
    return {
        "history.action": (item + at) % 3 + 1,
        "history.surface": (user + at) % 2 + 1,
        "history.gap_ms": (item * 777_777 + at * 3_000) % 10**9,
        "history.age_ms": (item * 999_999 + at * 5_000) % 10**10,
        "history.time_ms": 1_700_000_000_000 + at * 50_000_000 + user * 7_000_000,
        "history.duration_s": (item % 4 * 3).float(),
        "history.lengths": torch.tensor([len(v.history) for v in made]),
    }


def shared(made: Sequence[Visit], others: Sequence[int] = ()) -> tuple[Batch, dict[int, int]]:
    """What both models read, and where each item stands among the distinct ones."""
    contexts = {v.context for v in made if v.context}
    distinct = sorted({*others, *contexts, *(i for v in made for i in (*v.history, *v.asked))})
    place = {item: index for index, item in enumerate(distinct)}
    items, users = torch.tensor(distinct), torch.tensor([v.user for v in made])
    first = torch.zeros(len(made), dtype=torch.int64)
    first[0] = len(items)
    history = [place[item] for v in made for item in v.history]
    inputs = {
        **columns(ITEM_FEATURES, "item", items),
        **columns(USER_FEATURES, "user", users),
        **events(made),
        "history.item": torch.tensor(history, dtype=torch.int64),
        "user_tally.counts": tallies(users, 2),
        "request.surface": users % 3,
        "request.context": torch.tensor([place.get(v.context, -1) for v in made]),
    }
    ids = {"item_id": Jagged(items, first), "user_id": Jagged(users, torch.ones_like(users))}
    weight = torch.tensor([v.weight for v in made])
    return Batch(ids=ids, inputs=inputs, weight=weight), place


def two_tower_batch(made: Sequence[Visit], pool: Sequence[int] = tuple(range(5, 25))) -> Batch:
    """Every prefix of a history predicts the next event, and the newest state what is asked."""
    batch, place = shared(made, pool)
    targets = [
        (s, length, place[item])
        for s, v in enumerate(made)
        for length, item in [*enumerate(v.history), *((len(v.history), i) for i in v.asked)]
    ]
    sequence, length, item = (torch.tensor(column) for column in zip(*targets, strict=True))
    asked = [i for v in made for i in (*v.history, *v.asked)]
    known = [
        (s, p) for s, v in enumerate(made) for p, i in enumerate(pool) if i in v.history + v.asked
    ]
    batch.inputs.update(
        {
            "target.sequence": sequence,
            "target.length": length,
            "target.item": item,
            "positive.log_q": torch.full((len(targets),), -1.5),
            "pool.item": torch.tensor([place[i] for i in pool]),
            "pool.log_count": torch.zeros(len(pool)),
            "pool.log_q": torch.linspace(-2, -1, len(pool)),
            "known.sequence": torch.tensor([s for s, _ in known], dtype=torch.int64),
            "known.pool": torch.tensor([p for _, p in known], dtype=torch.int64),
            "known.after": torch.zeros(len(known), dtype=torch.int64),
            "target.pool": torch.tensor([pool.index(i) if i in pool else -1 for i in asked]),
            "target.moment": length % NUM_MOMENTS,
            "pool.absent": torch.zeros(NUM_MOMENTS, len(pool), dtype=torch.bool),
        }
    )
    items, days = batch.ids["item_id"].values, torch.arange(NUM_MOMENTS)
    pooled = trends(items[batch.inputs["pool.item"]], days.unsqueeze(1))
    targets = trends(items[item], length % NUM_MOMENTS)
    batch.inputs.update({f"pool.{name}": value for name, value in pooled.items()})
    batch.inputs.update({f"target.{name}": value for name, value in targets.items()})
    return batch


def long_term_batch(made: Sequence[Visit], pool: Sequence[int] = tuple(range(5, 25))) -> Batch:
    """The same where each target knows a long-term embedding of its user."""
    batch = two_tower_batch(made, pool)
    known = columns((USER_VECTOR,), "user", torch.tensor([v.user for v in made]))
    name, vectors = f"user.{USER_COLUMN}", known[f"user.{USER_COLUMN}"]
    targets = vectors[batch.inputs["target.sequence"]]
    batch.inputs.update({name: vectors, f"target.{USER_COLUMN}": targets})
    return batch


def focused_batch(made: Sequence[Visit], pool: Sequence[int] = tuple(range(5, 25))) -> Batch:
    """The same where items declare interests, and a condition is asked for of each user."""
    batch = two_tower_batch(made, pool)
    declared = columns((ITEM_INTERESTS,), "item", batch.ids["item_id"].values)
    users = batch.ids["user_id"].values
    asked = {
        "condition.interest": users % 3 * 104_729,
        "condition.user": torch.arange(len(made)),
    }
    batch.inputs.update(declared | asked)
    return batch


def user_batch(made: Sequence[Visit], pool: Sequence[int] = tuple(range(5, 25))) -> Batch:
    """The same without ids of users, of whom the user model has no rows."""
    batch = two_tower_batch(made, pool)
    return replace(batch, ids={"item_id": batch.ids["item_id"]})


def trends(items: Tensor, day: Tensor) -> dict[str, Tensor]:
    """How items do on a day, of unknown age where the row divides by five; broadcast."""
    spans = torch.tensor(TREND_DAYS)
    counts = (items + day).unsqueeze(-1) * spans % 11
    age = torch.where(items % 5 == 0, -1, (items * 7 + day) * 86_400_000)
    return {"trend.counts": counts, "trend.age_ms": age}


def tallies(rows: Tensor, groups: int, kinds: int = 4) -> Tensor:
    """How often what was done to rows, or by them, all as one first: float32[N, groups, kinds]."""
    group, kind = torch.arange(groups).unsqueeze(1), torch.arange(kinds)
    own = (rows.view(-1, 1, 1) * (2 + group) + 3 * kind) % 7
    everything = 100.0 + 50 * kind
    return torch.where(group == 0, everything, own.float())


def record(items: Tensor) -> dict[str, Tensor]:
    """How items had done by the third day."""
    columns = sum(feature.kind == "categorical" for feature in ITEM_FEATURES)
    return trends(items, torch.tensor(3)) | {"tally.counts": tallies(items, 2 + columns)}


def ranker_batch(made: Sequence[Visit]) -> Batch:
    """What is asked are candidates; labels follow from user and item."""
    batch, place = shared(made)
    plain = [(v.user, item, at) for v in made for at, item in enumerate(v.asked)]
    user, item, at = (torch.tensor(column) for column in zip(*plain, strict=True))
    batch.inputs.update(
        {
            "candidate.item": torch.tensor([place[int(i)] for i in item]),
            "candidate.lengths": torch.tensor([len(v.asked) for v in made]),
            "candidate.position": at,
        }
        | {f"candidate.{name}": array for name, array in record(item).items()}
    )
    batch.labels.update(
        {
            "label.save": ((user + item) % 2).float(),
            "label.click": (item % 3 == 0).float(),
            "label.hide": (at == 2).float(),
        }
    )
    return batch


def graph_batch(made: Sequence[Visit], pool: Sequence[int] = tuple(range(5, 25))) -> Batch:
    """Users, known by their histories, and what is asked; an item's neighbours are the next two."""
    width = SEQUENCE.max_length
    nodes = sorted({*pool, *(item for v in made for item in v.asked)})
    near = {item: tuple(1 + (item + step) % (NUM_ITEMS - 1) for step in (1, 2)) for item in nodes}
    others = [*(item for line in near.values() for item in line)]
    batch, place = shared(made, [*nodes, *others])
    lines = [near[item] if item else () for item in nodes] + [v.history for v in made]
    neighbors, weights = torch.zeros(len(lines), width, dtype=torch.int64), torch.zeros(0)
    weights = torch.zeros(len(lines), width)
    for row, line in enumerate(lines):
        neighbors[row, : len(line)] = torch.tensor([place[item] for item in line])
        weights[row, : len(line)] = 1 / max(len(line), 1)
    pairs = [(len(nodes) + u, nodes.index(i), v) for u, v in enumerate(made) for i in v.asked]
    known = [
        (row, p)
        for row, (_, positive, _) in enumerate(pairs)
        for p, item in enumerate(pool)
        if item == nodes[positive]
    ]
    batch.inputs.update(
        {
            "node.item": torch.tensor([place[item] for item in nodes]),
            "node.neighbors": neighbors,
            "node.weights": weights,
            "query": torch.tensor([query for query, _, _ in pairs]),
            "positive": torch.tensor([positive for _, positive, _ in pairs]),
            "positive.log_q": torch.full((len(pairs),), -1.5),
            "pool.node": torch.tensor([nodes.index(item) for item in pool]),
            "pool.log_count": torch.zeros(len(pool)),
            "pool.log_q": torch.linspace(-2, -1, len(pool)),
            "hard.node": torch.tensor([[positive - 1] for _, positive, _ in pairs]),
            "known.query": torch.tensor([row for row, _ in known], dtype=torch.int64),
            "known.pool": torch.tensor([p for _, p in known], dtype=torch.int64),
            "objective": torch.full((len(pairs),), 2),
        }
    )
    weight = torch.tensor([v.weight for _, _, v in pairs])
    return replace(batch, weight=weight)


def interaction_batch(made: Sequence[Visit], pool: Sequence[int] = tuple(range(5, 25))) -> Batch:
    """Users and what is asked about them; the graph is the model's own."""
    pairs = [(v.user, item, v.weight) for v in made for item in v.asked]
    users, items, weights = zip(*pairs, strict=True)
    known = [(row, pool.index(item)) for row, item in enumerate(items) if item in pool]
    inputs = {
        "visit.user": torch.tensor([v.user for v in made]),
        "query": torch.tensor(users),
        "positive": torch.tensor(items),
        "pool.item": torch.tensor(pool),
        "positive.log_q": torch.full((len(pairs),), -1.5),
        "pool.log_count": torch.zeros(len(pool)),
        "pool.log_q": torch.linspace(-2, -1, len(pool)),
        "known.query": torch.tensor([row for row, _ in known], dtype=torch.int64),
        "known.pool": torch.tensor([place for _, place in known], dtype=torch.int64),
    }
    return Batch(ids={}, inputs=inputs, weight=torch.tensor(weights))


def edges() -> Edges:
    """Each user with every third to sixth item; user 0 and item 0 with none."""
    users = [np.arange(1, NUM_ITEMS, 3 + user % 4) if user else [] for user in range(NUM_USERS)]
    there = [(u, int(i)) for u, items in enumerate(users) for i in items]
    back = sorted(there, key=lambda edge: edge[1])
    counts = [np.bincount([e[side] for e in there], minlength=size) for side, size in SIDES]
    starts = [np.concatenate([[0], np.cumsum(count)]) for count in counts]
    return Edges(starts[0], np.array(there)[:, 1], starts[1], np.array(back)[:, 0])


def id_rows(order: Order = "clock") -> IdEncoder:
    return IdEncoder(ID).eval()


def light_gcn(order: Order = "clock") -> LightGCN:
    torch.manual_seed(1)
    settings = resolved(replace(GRAPH, encoder="light_gcn"), vocabulary(columns=False))
    return LightGCN(settings, edges(), NUM_USERS, NUM_ITEMS).eval()


def graph(order: Order = "clock", settings: GraphModelSettings = GRAPH) -> GraphEncoder:
    torch.manual_seed(1)
    return GraphEncoder(settings, vocabulary(order)).eval()


def two_tower(order: Order = "clock", settings: TwoTowerSettings = TWO_TOWER) -> TwoTower:
    torch.manual_seed(1)
    return TwoTower(settings, vocabulary(order)).eval()


def long_term(order: Order = "clock", settings: TwoTowerSettings = TWO_TOWER) -> TwoTower:
    torch.manual_seed(1)
    return TwoTower(settings, with_user_vectors(order)).eval()


def focused(order: Order = "clock", settings: TwoTowerSettings = FOCUSED) -> TwoTower:
    torch.manual_seed(1)
    return TwoTower(settings, vocabulary(order, interests=True)).eval()


def user(order: Order = "clock", settings: UserSettings = USER) -> UserEncoder:
    torch.manual_seed(1)
    return UserEncoder(settings, vocabulary(order)).eval()


def ranker(order: Order = "clock", settings: RankerSettings = RANKER) -> Ranker:
    torch.manual_seed(1)
    return Ranker(settings, vocabulary(order)).eval()
