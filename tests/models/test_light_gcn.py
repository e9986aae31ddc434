from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from models.light_gcn import Bipartite, LightGCN, _fitted
from tests.models import cases
from tests.models.cases import NUM_ITEMS, NUM_USERS


def dense() -> Tensor:
    """The normalised adjacency of the cases' graph, by the formula, float64[users, items]."""
    edges = cases.edges()
    there = np.zeros((NUM_USERS, NUM_ITEMS))
    for user in range(NUM_USERS):
        there[user, edges.items[edges.of_users[user] : edges.of_users[user + 1]]] = 1
    degree = np.maximum(there.sum(1, keepdims=True) * there.sum(0, keepdims=True), 1)
    return torch.from_numpy(there / np.sqrt(degree))


def test_both_directions_hold_the_same_edges() -> None:
    graph, adjacency = Bipartite(cases.edges()), dense().float()
    of_users, _ = graph(torch.zeros(NUM_USERS, NUM_ITEMS), torch.eye(NUM_ITEMS))
    _, of_items = graph(torch.eye(NUM_USERS), torch.zeros(NUM_ITEMS, NUM_USERS))
    assert torch.allclose(of_users, adjacency, atol=1e-6)
    assert torch.allclose(of_items, adjacency.T, atol=1e-6)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_nodes_are_the_layers_of_the_paper_but_for_the_first(layers: int) -> None:
    core, adjacency = cases.light_gcn(), dense()
    core.settings = replace(core.settings, num_layers=layers)
    users, items = core.users.detach().double(), core.items.detach().double()
    sums = [torch.zeros_like(users), torch.zeros_like(items)]
    for _ in range(layers):
        users, items = adjacency @ items, adjacency.T @ users
        sums = [sums[0] + users, sums[1] + items]
    for found, wanted in zip(core.nodes(), sums, strict=True):
        normalised = torch.nn.functional.normalize(wanted, dim=1).float()
        assert torch.allclose(found, normalised, atol=1e-5)


def test_gradients_are_those_of_the_dense_product() -> None:
    core, adjacency = cases.light_gcn(), dense().float()
    weight = torch.randn(NUM_USERS, core.settings.dim)
    users, _ = core.graph(core.users, core.items)
    (found,) = torch.autograd.grad((users * weight).sum(), core.items)
    assert torch.allclose(found, adjacency.T @ weight, atol=1e-5)


def test_a_node_without_edges_is_zeros_and_moves_nothing() -> None:
    core = cases.light_gcn()
    users, items = core.nodes()
    assert not users[0].any()
    assert not items[0].any()
    assert users[1:].norm(dim=1).detach().numpy() == pytest.approx(1.0, abs=1e-5)


def test_what_is_popular_scores_higher_as_far_as_is_learnt() -> None:
    core = cases.light_gcn()
    assert not core.prior().any()
    with torch.no_grad():
        core.popularity.fill_(1.0)
    degree = core.graph.item_degree
    assert core.prior().argsort().tolist() == degree.argsort().tolist()
    assert core.prior()[0] == 0
    expected = core.settings.temperature * torch.log1p(degree.float())
    assert torch.allclose(core.prior(), expected)


def test_rows_for_days_to_come_wait_and_rows_of_later_days_are_zeros() -> None:
    core = cases.light_gcn()
    roomy = LightGCN(core.settings, cases.edges(), NUM_USERS + 7, NUM_ITEMS + 9).eval()
    roomy.load_state_dict(
        {
            "popularity": core.popularity,
            "users": _fitted(core.users, NUM_USERS + 7),
            "items": _fitted(core.items, NUM_ITEMS + 9),
        }
    )
    for found, wanted in zip(roomy.nodes(), core.nodes(), strict=True):
        assert torch.equal(found, wanted)
    few = LightGCN(core.settings, cases.edges(), NUM_USERS, 5)
    assert few.nodes()[1].shape == (NUM_ITEMS, core.settings.dim)


def test_both_losses_ask_positives_to_beat_the_pool() -> None:
    batch = cases.interaction_batch(cases.visits())
    for loss in ("softmax", "max_margin"):
        core = cases.light_gcn()
        core.settings = replace(core.settings, loss=loss, temperature=0.2)
        before, _ = core({}, batch)
        optimizer = torch.optim.Adam(core.parameters(), lr=0.05)
        for _ in range(30):
            optimizer.zero_grad()
            core({}, batch)[0].backward()
            optimizer.step()
        assert core({}, batch)[0] < 0.9 * before
