"""All settings of the graph: which edges, how they are walked, and the encoder over them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from data.contract.schema import Objective
from data.contract.settings import Count, Positive
from data.graph.pruning import PruningSettings
from data.graph.walks import WalkSettings
from models.graph_encoder import GraphModelSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSettings(GraphModelSettings):
    """Graph embeddings of items.

    Attributes:
        edges: boards of the board table, or users with what they engaged with in place of boards;
            auto takes boards whose edges are dated, in a split by time; none leaves items to
            what they are themselves.
        sampling: materialised reads neighbourhoods that the job sample has written; on_the_fly
            walks inside the training stream. Both give the same.
        walk: how neighbourhoods are sampled.
        hard_walks: walks from a query whose visits rank its hard negatives.
        prune: edges that are left out.
        objectives: what the encoder is trained on; by default next_engagement and co_board where
            the log has an order, else user_item.
        pair_hours: longest time between two engagements that are a pair, in a log with a clock.
    """

    edges: Literal["auto", "boards", "users", "none"] = "auto"
    sampling: Literal["materialised", "on_the_fly"] = "materialised"
    walk: WalkSettings = field(default_factory=WalkSettings)
    hard_walks: Count = 1000
    prune: PruningSettings = field(default_factory=PruningSettings)
    objectives: tuple[Objective, ...] | None = None
    pair_hours: Positive = 24.0

    def __post_init__(self) -> None:
        """Refuses a graph without anything to learn."""
        if self.objectives == ():
            raise ValueError("objectives must name at least one of the three")
