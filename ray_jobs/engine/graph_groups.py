"""What is a board, what is trained and whom walks start from: as set, or as the log allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.contract.settings import UserError
from data.graph.edges import has_boards

if TYPE_CHECKING:
    from data.dataset import Dataset
    from data.graph.walks import Side
    from ray_jobs.graph_settings import GraphSettings
    from ray_jobs.settings import Settings


def groups_of(settings: Settings, dataset: Dataset) -> str:
    """"boards" or "users". Raises UserError when there is no board table though it is asked for.

    A board table says nothing of parts: where the split is not by day its edges could be made of
    held-out events, so users stand for boards.
    """
    kind = settings.graph.edges
    if kind == "boards" and not has_boards(dataset):
        raise UserError("graph.edges=boards needs a board table: name one with source.boards")
    if kind == "auto":
        timed = settings.split.kind == "time"
        return "boards" if timed and has_boards(dataset) else "users"
    return kind


def objectives_of(settings: GraphSettings, dataset: Dataset) -> tuple[str, ...]:
    """What is trained."""
    if settings.objectives is not None:
        return tuple(settings.objectives)
    return ("user_item",) if dataset.order == "none" else ("next_engagement", "co_board")


def walked_sides(settings: Settings, dataset: Dataset) -> tuple[Side, ...]:
    """Nodes whose neighbourhoods are needed: users only where they are nodes and are trained."""
    users = groups_of(settings, dataset) == "users"
    trained = "user_item" in objectives_of(settings.graph, dataset)
    return ("item", "board") if users and trained else ("item",)
