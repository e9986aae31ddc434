"""LightGCN: nodes are ID rows alone, spread over all edges of the graph at every step.

Notable here:
- nothing is sampled: a step costs layers x edges x width, so it is for graphs of some million edges
  (`models.graph_encoder` reads sampled neighbourhoods and takes any number);
- a node's own row is left out of its vector (layer 0 of the paper): nobody can be learnt by heart,
  which one cannot fail to do with a softmax over ID rows;
- what is popular is a prior beside the cosine, as in `models.two_tower`.

Shapes: N users, I items, B examples, P pool, E edges, D width.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.features import RowDropout
from models.losses import max_margin, pooled_softmax, weighted_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from models.batch import Batch
    from models.embeddings import Table
    from models.export import Program
    from models.graph_encoder import GraphModelSettings


class Edges(NamedTuple):
    """A bipartite graph both ways, each side in compressed rows.

    Attributes:
        of_users: int64[N + 1] where the edges of each user begin.
        items: int32[E] the item of each of these edges.
        of_items: int64[I + 1] where the edges of each item begin.
        users: int32[E] the user of each of these edges.
    """

    of_users: npt.NDArray[Any]
    items: npt.NDArray[Any]
    of_items: npt.NDArray[Any]
    users: npt.NDArray[Any]


class Bipartite(nn.Module):
    """Spreads rows over the edges: `x_u = Σ_i y_i / sqrt(d_u d_i)`, and the other way round."""

    users_from: Tensor
    users_at: Tensor
    items_from: Tensor
    items_at: Tensor
    of_edge: Tensor
    to_edge: Tensor

    def __init__(self, edges: Edges) -> None:
        """Weighs the edges by the degrees of their ends."""
        super().__init__()
        arrays = {
            "users_from": edges.of_users,
            "users_at": edges.items,
            "items_from": edges.of_items,
            "items_at": edges.users,
        }
        for name, array in arrays.items():
            # Row starts of the type of the columns: mixed ones are converted at each product.
            self.register_buffer(name, torch.tensor(array, dtype=torch.int32), persistent=False)
        user_degree, item_degree = self.users_from.diff(), self.items_from.diff()
        self.register_buffer(
            "of_edge", _weights(user_degree, item_degree, self.users_at), persistent=False
        )
        self.register_buffer(
            "to_edge", _weights(item_degree, user_degree, self.items_at), persistent=False
        )

    @property
    def users(self) -> int:
        """N."""
        return len(self.users_from) - 1

    @property
    def items(self) -> int:
        """I."""
        return len(self.items_from) - 1

    @property
    def item_degree(self) -> Tensor:
        """Edges of each item, int32[I]."""
        return self.items_from.diff()

    def forward(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """float32[N, D] and [I, D] -> what each side's neighbours are, likewise."""
        there = _matrix(self.users_from, self.users_at, self.of_edge, self.items)
        back = _matrix(self.items_from, self.items_at, self.to_edge, self.users)
        product: Any = _Product.apply
        # Sparse products have single precision alone.
        with torch.autocast(users.device.type, enabled=False):
            return product(there, back, items.float()), product(back, there, users.float())


def _weights(degree: Tensor, other: Tensor, at: Tensor) -> Tensor:
    """1 / sqrt(d d') of the edges of each row in turn, float32[E]."""
    own = torch.repeat_interleave(degree, degree)
    return (own.float() * other[at].float()).rsqrt()


def _matrix(rows: Tensor, at: Tensor, weights: Tensor, width: int) -> Tensor:
    shape = (len(rows) - 1, width)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that its compressed rows are in beta
        return torch.sparse_csr_tensor(rows, at, weights, shape, check_invariants=False)


class _Product(torch.autograd.Function):
    """A sparse matrix times rows; its transpose is at hand, so backward makes none."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, transposed: Tensor, rows: Tensor) -> Tensor:
        ctx.transposed = transposed
        return matrix @ rows

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor]:
        return None, None, ctx.transposed @ gradients[0].contiguous()


class LightGCN(nn.Module):
    """Embeds users and items (He et al., SIGIR'20), trained by a sampled softmax over cosines.

    The vectors are those of `Σ_k Ã^k e` over layers k = 1..K, where Ã is the adjacency normalised
    on both sides. ID rows are dense parameters: every step reads and changes all of them.
    """

    log_degree: Tensor

    def __init__(
        self, settings: GraphModelSettings, edges: Edges, num_users: int, num_items: int
    ) -> None:
        """Builds it for a graph, with so many ID rows; the graph may have fewer nodes, or more."""
        super().__init__()
        self.settings = settings
        self.graph = Bipartite(edges)
        self.register_buffer("log_degree", self.graph.item_degree.log1p(), persistent=False)
        self.drop = RowDropout(settings.id_dropout)
        self.popularity = nn.Parameter(torch.zeros(()))
        self.users = nn.Parameter(torch.randn(num_users, settings.dim) * settings.dim**-0.5)
        self.items = nn.Parameter(torch.randn(num_items, settings.dim) * settings.dim**-0.5)

    def tables(self, num_items: int, num_users: int) -> list[Table]:  # noqa: ARG002
        """None that are looked up by id."""
        return []

    def programs(self) -> dict[str, Program]:
        """None: an item that nobody has touched is not embedded."""
        return {}

    def nodes(self) -> tuple[Tensor, Tensor]:
        """Unit vectors of all nodes of the graph; zeros where there is no edge.

        Returns:
            Of users, float32[N, D], and of items, [I, D].
        """
        users = self.drop(_fitted(self.users, self.graph.users))
        items = self.drop(_fitted(self.items, self.graph.items))
        of_users, of_items = users.new_zeros(()), items.new_zeros(())
        for _ in range(self.settings.num_layers):
            users, items = self.graph(users, items)
            of_users, of_items = of_users + users, of_items + items
        return F.normalize(of_users, dim=-1), F.normalize(of_items, dim=-1)

    def prior(self) -> Tensor:
        """What is added to the cosines of each item, float32[I]."""
        return self.popularity * self.settings.temperature * self.log_degree

    def forward(
        self,
        rows: Mapping[str, Tensor],  # noqa: ARG002
        batch: Batch,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Sampled softmax of every example over the batch's pool.

        Args:
            rows: none are looked up.
            batch: `query`, `positive` int64[B] and `pool.item` int64[P], rows; `pool.log_count`,
                `pool.log_q` float32[P], `positive.log_q` float32[B]; `known.query`, `known.pool`
                int64[K] (pairs that are no negatives).

        Returns:
            Loss and what to log.
        """
        inputs = batch.inputs
        of_users, of_items = self.nodes()
        query, prior = of_users.index_select(0, inputs["query"]), self.prior()
        positive = (query * of_items.index_select(0, inputs["positive"])).sum(-1)
        pool = query @ of_items.index_select(0, inputs["pool.item"]).T
        positive = positive + prior[inputs["positive"]]
        pool = pool + prior[inputs["pool.item"]]
        known = torch.zeros_like(pool, dtype=torch.bool)
        known[inputs["known.query"], inputs["known.pool"]] = True
        loss = weighted_mean(self._losses(positive, pool, known, inputs), batch.weight)
        return loss, {"loss": loss.detach(), "popularity": self.popularity.detach()}

    def _losses(
        self, positive: Tensor, pool: Tensor, known: Tensor, inputs: Mapping[str, Tensor]
    ) -> Tensor:
        """Loss of each example, float32[B]."""
        if self.settings.loss == "max_margin":
            return max_margin(positive, pool, known, self.settings.margin)
        scale, log_q = 1 / self.settings.temperature, self.settings.negatives.log_q
        return pooled_softmax(positive * scale, pool * scale, known, inputs, log_q)


def _fitted(rows: Tensor, size: int) -> Tensor:
    """The first `size` rows, zeros for those that came after training."""
    return F.pad(rows[:size], (0, 0, 0, max(0, size - len(rows))))
