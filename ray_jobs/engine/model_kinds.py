"""The models by kind: which there are, and what each reads of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from data.contract.schema import TREND_DAYS
from data.contract.settings import to_tree

if TYPE_CHECKING:
    from ray_jobs.engine.job import Job
    from ray_jobs.settings import Settings

Model = Literal["graph", "id", "user", "two_tower", "ranker"]
MODELS: tuple[Model, ...] = ("graph", "id", "user", "two_tower", "ranker")
UPSTREAM: tuple[Model, ...] = ("graph", "id", "user")  # others are built on them, unless alone
BUILT_ON: dict[Model, tuple[Model, ...]] = {  # what each may read of the others
    "graph": (),
    "id": (),
    "user": ("graph",),
    "two_tower": ("graph", "id", "user"),
    "ranker": ("graph", "user", "two_tower"),
}
BUILT: tuple[Model, ...] = ("two_tower", "ranker")  # what a bundle is made of


def reads_graph(settings: Settings, model: Model) -> bool:
    """Whether a model's items have a column of graph embeddings.

    For those of the bundle as set, else where days tell windows apart: without days, the encoder
    and they would learn from the same labels.
    """
    if model not in BUILT:
        return model == "user" and settings.user.graph_vectors
    chosen = settings.two_tower.graph_vectors
    return settings.split.kind == "time" if chosen is None else chosen


def reads_users(settings: Settings, model: Model) -> bool:
    """Whether a model reads the long-term embeddings of users."""
    if model == "two_tower":
        return settings.two_tower.user_vectors
    return model == "ranker" and settings.ranker.user_vectors


def reads_ids(settings: Settings, model: Model) -> bool:
    """Whether a model's ID tables begin with rows that were learnt before."""
    return model == "two_tower" and settings.two_tower.id_rows != "learnt"


def training_settings(job: Job, model: str) -> dict[str, Any]:
    """Everything among the settings that decides what is learnt."""
    tree = to_tree(job.settings)
    loop = {
        k: v
        for k, v in tree["train"].items()
        if k not in ("checkpoint_every", "log_every", "max_failures")
    }
    names = ("seed", "split", "windows", model)
    admission = {"id": {"min_count": tree["id"]["min_count"]}}  # all of `id` where it is the model
    shared = {"train": loop, "trend_days": [*TREND_DAYS]}
    return admission | {name: tree[name] for name in names} | shared
